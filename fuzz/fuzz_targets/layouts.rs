//! Buffers that lie about their frames: any length, any strides and offsets in their metas. An error, or a frame.

#![no_main]

use std::{cell::RefCell, sync::Once};

use arbitrary::Arbitrary;
use gst_video::{VideoFrameFlags, VideoInfo, VideoMeta};
use gstfastvsr::FORMATS;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    format: u8,
    width: u8,
    height: u8,
    length: u16,
    meta: Option<([i8; 4], [u16; 4])>,
}

thread_local! {
    static ELEMENT: RefCell<Option<gst_check::Harness>> = const { RefCell::new(None) };
}

fn harness() -> gst_check::Harness {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstfastvsr::plugin_register_static().unwrap();
    });
    let element = gst::ElementFactory::make("fastvsr")
        .property("model", concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/nearest"))
        .property_from_str("execution-provider", "cpu")
        .property("window", 1u32)
        .build()
        .unwrap();
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.set_drop_buffers(true);
    harness.play();
    harness
}

fuzz_target!(|input: Input| {
    ELEMENT.with_borrow_mut(|slot| {
        let harness = slot.get_or_insert_with(harness);
        let (width, height) = (u32::from(input.width % 24) + 1, u32::from(input.height % 24) + 1);
        let format = FORMATS[usize::from(input.format) % FORMATS.len()];
        let info = VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1)).build().unwrap();
        harness.set_src_caps(info.to_caps().unwrap());
        let length = usize::from(input.length % 8192);
        let mut buffer = gst::Buffer::from_mut_slice(vec![7u8; length]);
        if let Some((strides, offsets)) = input.meta {
            let planes = info.n_planes() as usize;
            // A meta keeps its own rules: GStreamer refuses one whose planes leave the buffer.
            let strides: Vec<i32> = (0..planes).map(|n| info.stride()[n] + i32::from(strides[n])).collect();
            let offsets: Vec<usize> = (0..planes).map(|n| usize::from(offsets[n] % 8192)).collect();
            let meta = VideoMeta::add_full(
                buffer.get_mut().unwrap(),
                VideoFrameFlags::empty(),
                format,
                width,
                height,
                &offsets,
                &strides,
            );
            if meta.is_err() {
                return;
            }
        }
        let _ = harness.push(buffer);
    });
});
