//! The property `scale`, and the size that downstream asks for: less than the model's own.

mod common;

use std::str::FromStr;

use common::*;
use gst::prelude::*;

/// A frame that grows brighter to the right.
fn ramp(caps: &gst::Caps) -> gst::Buffer {
    let mut buffer = picture(caps, |x, _| [x as u8 * 8; 3]);
    stamp(&mut buffer, 0);
    buffer
}

/// The first row of an RGB frame, red alone.
fn row(buffer: &gst::Buffer, width: usize) -> Vec<u8> {
    buffer.map_readable().unwrap().chunks(3).take(width).map(|pixel| pixel[0]).collect()
}

fn rig(scale: u32, caps: &gst::Caps) -> Rig {
    let element = fastvsr("nearest", 1);
    element.set_property("scale", scale);
    Rig::with_caps(&element, caps)
}

#[test]
fn frames_leave_at_the_scale_that_is_set() {
    for scale in [1, 2, 3, 4] {
        let caps = rgb(24, 6);
        let mut rig = rig(scale, &caps);
        rig.push(ramp(&caps)).unwrap();
        let got = info(&rig.output_caps());
        assert_eq!((got.width(), got.height()), (24 * scale, 6 * scale));
        let frames = rig.frames();
        let row = row(&frames[0], got.width() as usize);
        for (x, level) in row.iter().enumerate() {
            // A pixel of the output covers the steps that the model has made of pixels, or lies between two.
            let expected = (x as f32 + 0.5) / scale as f32 * 8.0 - 4.0;
            assert!((f32::from(*level) - expected).abs() <= 5.0, "x{scale}, column {x}: {level}, expected {expected}");
        }
    }
}

#[test]
fn every_format_keeps_its_colour_at_every_scale() {
    for (format, byte) in [("RGB", 90), ("BGRA", 255), ("I420", 90), ("NV12", 90), ("GRAY8", 90), ("I420_10LE", 2)] {
        for scale in [1, 2, 3] {
            // Odd sizes, so that the model gets padded frames.
            let mut caps = rgb(13, 7);
            caps.make_mut().set("format", format);
            caps.make_mut().set("colorimetry", if format.starts_with('I') { "bt709" } else { "sRGB" });
            let mut rig = rig(scale, &caps);
            let mut buffer = gst::Buffer::from_mut_slice(vec![byte; info(&caps).size()]);
            stamp(&mut buffer, 0);
            rig.push(buffer).unwrap();
            let (out, frames) = (info(&rig.output_caps()), rig.frames());
            assert_eq!((out.width(), out.height()), (13 * scale, 7 * scale));
            let pixels = plane(&frames[0], &out, 0);
            let deep = out.comp_depth(0) > 8;
            let worst = pixels.chunks(1 + usize::from(deep)).map(|sample| match *sample {
                [low, high] => u16::from_le_bytes([low, high]).abs_diff(0x0202) / 4,
                _ => u16::from(sample[0].abs_diff(byte)),
            });
            let worst = worst.max().unwrap();
            assert!(worst <= 1, "{format} x{scale}: {worst} levels off");
        }
    }
}

#[test]
fn downstream_chooses_any_size_from_the_inputs_own_on() {
    for (wanted, size, par) in [
        ("width=640,height=480", (640, 480), (1, 1)),
        ("width=960", (960, 720), (1, 1)),
        ("height=[721,4000]", (1280, 960), (1, 1)),
        ("width=[1,5000]", (1280, 960), (1, 1)),
        ("width=320,height=240", (320, 240), (1, 1)),
        ("height=[1,500]", (666, 500), (1, 1)),
        ("width=1280,height=720", (1280, 720), (3, 4)),
        ("width=1280,height=720,pixel-aspect-ratio=1/1", (1280, 720), (1, 1)),
    ] {
        let pipeline = Pipeline::new(&format!(
            "videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=320,height=240 ! fastvsr name=vsr model={} ! \
             video/x-raw,{wanted} ! fakesink name=sink",
            model("nearest").display()
        ));
        let seen = pipeline.count("sink");
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.wait_eos();
        let caps = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap().current_caps().unwrap();
        let got = info(&caps);
        assert_eq!((got.width(), got.height()), size, "{wanted}");
        assert_eq!(got.par(), gst::Fraction::new(par.0, par.1), "{wanted}");
        let stats: gst::Structure = pipeline.by_name("vsr").unwrap().property("stats");
        assert_eq!(
            (seen.lock().unwrap().len(), stats.get("frames-out"), stats.get("resized")),
            (3, Ok(3u64), Ok(0u64)),
            "{stats}"
        );
    }
}

#[test]
fn frames_of_any_size_are_the_models_resized_once() {
    for (width, height) in [(24, 6), (37, 9), (61, 24), (96, 17)] {
        let caps = rgb(24, 6);
        let mut rig = Rig::without_caps(&fastvsr("nearest", 1));
        rig.harness
            .set_sink_caps(gst::Caps::builder("video/x-raw").field("width", width).field("height", height).build());
        rig.harness.set_src_caps(caps.clone());
        rig.push(ramp(&caps)).unwrap();
        let frames = rig.frames();
        for (x, level) in row(&frames[0], width as usize).iter().enumerate() {
            let expected = (x as f32 + 0.5) * 24.0 / width as f32 * 8.0 - 4.0;
            assert!((f32::from(*level) - expected).abs() <= 5.0, "{width}, column {x}: {level}, expected {expected}");
        }
    }
}

#[test]
fn a_scale_may_change_while_frames_run() {
    let caps = rgb(8, 4);
    let mut rig = rig(4, &caps);
    rig.push_flat([10, 11]);
    rig.element.set_property("scale", 2u32);
    rig.push_flat([12]);
    assert_eq!(info(&rig.output_caps()).width(), 16);
    rig.element.set_property("scale", 0u32);
    rig.push_flat([13]);
    assert_eq!(info(&rig.output_caps()).width(), 32);
    let trace = rig.trace();
    let trace: Vec<_> =
        trace.split(' ').filter(|item| item.starts_with("caps") || item.parse::<u64>().is_ok()).collect();
    assert_eq!(trace.join(" "), "caps-32 10 11 caps-16 12 caps-32 13");
}

#[test]
fn pointers_scale_with_the_frames() {
    let caps = rgb(8, 4);
    let mut rig = rig(2, &caps);
    rig.push_flat([1]);
    let event = gst::event::Navigation::new(
        gst::Structure::from_str("application/x-gst-navigation, event=mouse-move, pointer_x=12.0, pointer_y=6.0")
            .unwrap(),
    );
    rig.harness.push_upstream_event(event);
    let seen = std::iter::from_fn(|| rig.harness.try_pull_upstream_event());
    let pointer = seen.filter_map(|event| event.structure().and_then(|s| s.get::<f64>("pointer_x").ok())).last();
    assert_eq!(pointer, Some(6.0));
}

#[test]
fn a_scale_that_the_model_has_not_is_refused() {
    init();
    for scale in [5u32, 16] {
        let element = fastvsr("nearest", 1);
        element.set_property("scale", scale);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err());
        let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error");
        let expected = format!("expected a scale from 1 to 4, the model's own, got {scale}");
        assert!(error_text(&message).contains(&expected), "{}", error_text(&message));
        element.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_scale_that_becomes_impossible_while_running_is_an_error() {
    let mut rig = rig(4, &rgb(8, 4));
    rig.push_flat([1]);
    rig.element.set_property("scale", 7u32);
    assert!(rig.push(flat(&rgb(8, 4), 2, 2)).is_err());
    assert!(rig.error().expect("an error").contains("expected a scale from 1 to 4"));
}
