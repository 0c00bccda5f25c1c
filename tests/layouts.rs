//! Buffers whose `VideoMeta` says where their rows lie, truly or not: what reaches past the memory is an error, and is
//! never read or written.

mod common;

use common::{samples::FORMATS, *};
use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo};

fn video_info(format: VideoFormat) -> VideoInfo {
    init();
    VideoInfo::builder(format, 16, 8).fps(gst::Fraction::new(25, 1)).build().unwrap()
}

/// What a meta says.
#[derive(Clone)]
struct Meta {
    format: VideoFormat,
    width: u32,
    height: u32,
    planes: u32,
    offsets: [usize; 4],
    strides: [i32; 4],
}

impl Meta {
    fn new(info: &VideoInfo) -> Self {
        let (mut offsets, mut strides) = ([0; 4], [0; 4]);
        offsets[..info.n_planes() as usize].copy_from_slice(info.offset());
        strides[..info.n_planes() as usize].copy_from_slice(info.stride());
        let (format, width, height) = (info.format(), info.width(), info.height());
        Self { format, width, height, planes: info.n_planes(), offsets, strides }
    }

    /// Adds the meta as elements written in C do: nothing is checked.
    fn add_to(&self, buffer: &mut gst::Buffer) {
        use glib::translate::IntoGlib;
        // SAFETY: the buffer is writable, and no format has more planes than the arrays have entries.
        unsafe {
            gst_video::ffi::gst_buffer_add_video_meta_full(
                buffer.get_mut().unwrap().as_mut_ptr(),
                0,
                self.format.into_glib(),
                self.width,
                self.height,
                self.planes,
                &self.offsets,
                &self.strides,
            );
        }
    }
}

fn buffer(info: &VideoInfo, meta: &Meta) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice(vec![100u8; info.size()]);
    meta.add_to(&mut buffer);
    buffer
}

/// Pushes one buffer; gives the error, if there is one.
fn push(info: &VideoInfo, buffer: gst::Buffer) -> Option<String> {
    let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &info.to_caps().unwrap());
    let flow = rig.push(buffer);
    let error = rig.error();
    assert_eq!(flow.is_err(), error.is_some());
    assert_eq!(rig.frames().len(), usize::from(error.is_none()));
    error
}

#[track_caller]
fn refused(info: &VideoInfo, meta: &Meta, expected: &str) {
    let error = push(info, buffer(info, meta)).unwrap_or_else(|| panic!("{} is read", info.format()));
    assert!(error.contains("does not hold the frame") && error.contains(expected), "{}: {error}", info.format());
}

/// A lie about each plane of each format.
fn each_lie(lie: impl Fn(&mut usize, &mut i32, usize)) {
    for format in FORMATS {
        let info = video_info(format);
        for plane in 0..info.n_planes() as usize {
            let mut meta = Meta::new(&info);
            lie(&mut meta.offsets[plane], &mut meta.strides[plane], info.size());
            refused(&info, &meta, &format!("in plane {plane}"));
        }
    }
}

#[test]
fn a_meta_that_tells_the_truth_is_believed() {
    for format in FORMATS {
        let info = video_info(format);
        assert_eq!(push(&info, buffer(&info, &Meta::new(&info))), None, "{format}");
    }
}

#[test]
fn rows_so_far_apart_that_the_last_ones_lie_beyond_the_buffer_are_an_error() {
    each_lie(|_, stride, size| *stride = size as i32);
    each_lie(|_, stride, _| *stride = i32::MAX);
}

#[test]
fn rows_that_overlap_are_an_error() {
    each_lie(|_, stride, _| *stride = 3);
    each_lie(|_, stride, _| *stride = 0);
}

#[test]
fn rows_from_the_bottom_up_are_an_error() {
    each_lie(|_, stride, _| *stride = -*stride);
    each_lie(|_, stride, _| *stride = i32::MIN);
}

#[test]
fn planes_that_begin_or_end_beyond_the_buffer_are_an_error() {
    each_lie(|offset, _, size| *offset = size - 1);
    each_lie(|offset, _, size| *offset = size);
    each_lie(|offset, _, _| *offset = usize::MAX);
}

#[test]
fn a_meta_of_another_frame_is_an_error() {
    for format in FORMATS {
        let info = video_info(format);
        let meta = Meta::new(&info);
        refused(&info, &Meta { width: 1600, ..meta.clone() }, "expected a VideoMeta of");
        refused(&info, &Meta { height: 7, ..meta }, "expected a VideoMeta of");
    }
    let (rgba, gray) = (video_info(VideoFormat::Rgba), video_info(VideoFormat::Gray8));
    refused(&gray, &Meta::new(&rgba), "expected a VideoMeta of");
}

/// A buffer of one memory for each plane.
fn in_memories(info: &VideoInfo, sizes: &[usize]) -> gst::Buffer {
    let mut buffer = gst::Buffer::new();
    for size in sizes {
        buffer.get_mut().unwrap().append_memory(gst::Memory::from_mut_slice(vec![100u8; *size]));
    }
    Meta::new(info).add_to(&mut buffer);
    buffer
}

#[test]
fn each_plane_must_lie_in_its_own_memory() {
    let info = video_info(VideoFormat::I420);
    let luma = info.offset()[1];
    let chroma = info.offset()[2] - luma;
    assert_eq!(push(&info, in_memories(&info, &[luma, chroma, chroma])), None);
    let error = push(&info, in_memories(&info, &[luma, chroma / 2, chroma / 2, chroma])).unwrap();
    assert!(error.contains("in plane 1"), "{error}");
}

/// What comes of one buffer.
fn pixels(info: &VideoInfo, buffer: gst::Buffer) -> Vec<u8> {
    let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &info.to_caps().unwrap());
    rig.push(buffer).unwrap();
    let output = common::info(&rig.output_caps());
    let frame = rig.frames().remove(0);
    (0..output.n_planes()).flat_map(|number| plane(&frame, &output, number)).collect()
}

/// Bytes of a frame, none like its neighbours.
fn noise(info: &VideoInfo) -> Vec<u8> {
    (0..info.size()).map(|n| (n * 2654435761) as u32).map(|n| (n >> 13) as u8).collect()
}

#[test]
fn a_frame_in_several_memories_is_a_frame() {
    for format in FORMATS {
        let info = video_info(format);
        let data = noise(&info);
        let expected = pixels(&info, gst::Buffer::from_mut_slice(data.clone()));
        for parts in [2, 7] {
            let mut buffer = gst::Buffer::new();
            for part in data.chunks(data.len().div_ceil(parts)) {
                buffer.get_mut().unwrap().append_memory(gst::Memory::from_mut_slice(part.to_vec()));
            }
            assert!(pixels(&info, buffer) == expected, "{format} in {parts}");
        }
    }
}

#[test]
fn rows_may_begin_anywhere() {
    for format in FORMATS {
        let info = video_info(format);
        let data = noise(&info);
        let expected = pixels(&info, gst::Buffer::from_mut_slice(data.clone()));
        for (shift, gap) in [(7, 10), (2, 2), (1, 0)] {
            let mut meta = Meta::new(&info);
            let mut moved = vec![0u8; shift];
            for number in 0..info.n_planes() as usize {
                let stride = info.stride()[number] as usize;
                let end = info.offset().get(number + 1).copied().unwrap_or(info.size());
                (meta.offsets[number], meta.strides[number]) = (moved.len(), (stride + gap) as i32);
                for row in data[info.offset()[number]..end].chunks(stride) {
                    moved.extend(row);
                    moved.extend(std::iter::repeat_n(0, gap));
                }
            }
            let mut buffer = gst::Buffer::from_mut_slice(moved);
            meta.add_to(&mut buffer);
            assert!(pixels(&info, buffer) == expected, "{format}, {shift} bytes in, {gap} between rows");
        }
    }
}

#[test]
fn a_meta_without_planes_is_an_error() {
    for format in FORMATS {
        let info = video_info(format);
        for planes in (0..4).filter(|planes| *planes != info.n_planes()) {
            refused(&info, &Meta { planes, ..Meta::new(&info) }, "expected a VideoMeta of");
        }
    }
}

#[test]
fn late_frames_that_are_resized_are_checked_as_well() {
    for format in FORMATS {
        let info = video_info(format);
        let element = fastvsr("nearest", 1);
        element.set_property_from_str("on-overload", "resize");
        element.set_property("qos", true);
        let mut rig = Rig::with_caps(&element, &info.to_caps().unwrap());
        let late = gst::event::Qos::new(gst::QOSType::Underflow, 2.0, 0, gst::ClockTime::SECOND);
        rig.harness.push_upstream_event(late);
        // The first frame shows what the model takes.
        for n in 0..2 {
            let mut good = buffer(&info, &Meta::new(&info));
            stamp(&mut good, n);
            rig.push(good).unwrap();
        }
        assert_eq!(rig.stats().get::<u64>("resized"), Ok(1), "{format}");
        let mut meta = Meta::new(&info);
        meta.strides[0] = info.size() as i32;
        let mut bad = buffer(&info, &meta);
        stamp(&mut bad, 2);
        assert_eq!(rig.push(bad), Err(gst::FlowError::Error), "{format}");
        assert!(rig.error().unwrap().contains("does not hold the frame"));
    }
}

#[test]
fn buffers_of_downstream_that_are_too_small_are_an_error() {
    for format in FORMATS {
        let info = video_info(format);
        let element = fastvsr("nearest", 1);
        let pool = gst::BufferPool::new();
        let mask = gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH;
        element.static_pad("src").unwrap().add_probe(mask, move |_, probe| {
            if let Some(gst::PadProbeData::Query(query)) = &mut probe.data
                && let gst::QueryViewMut::Allocation(query) = query.view_mut()
            {
                let caps = query.get_owned().0.unwrap();
                let size = common::info(&caps).size() as u32 - 1;
                let mut config = pool.config();
                config.set_params(Some(&caps), size, 0, 0);
                pool.set_config(config).unwrap();
                query.add_allocation_pool(Some(&pool), size, 0, 0);
                return gst::PadProbeReturn::Handled;
            }
            gst::PadProbeReturn::Ok
        });
        let mut rig = Rig::with_caps(&element, &info.to_caps().unwrap());
        assert_eq!(
            rig.push(gst::Buffer::from_mut_slice(vec![100u8; info.size()])),
            Err(gst::FlowError::Error),
            "{format}"
        );
        assert!(rig.error().is_some());
    }
}
