//! Frames that are cut into tiles to stay within `max-memory`: the pixels are those of the whole frame.

mod common;

use std::{fs, path::Path};

use common::*;
use gst::prelude::*;

const WIDTH: u32 = 256;
const HEIGHT: u32 = 152;

/// Bytes that are too few for the frame in one piece, and enough for tiles of it.
const TIGHT: u64 = 190 << 20;

/// Detail at all scales, in motion.
fn frame(n: u64) -> gst::Buffer {
    let pixel = move |x: usize, y: usize| {
        let (x, y) = (x as f32 + 1.5 * n as f32, y as f32);
        let rings = ((x - 90.0).hypot(y - 70.0) * 0.9).sin();
        let grid = if (x as usize / 6 + y as usize / 9).is_multiple_of(2) { 30.0 } else { 0.0 };
        [110.0 + 80.0 * rings + grid, 90.0 + 60.0 * (x / 17.0).sin() + grid, 128.0 + y / 2.0].map(|level| level as u8)
    };
    let mut frame = picture(&rgb(WIDTH, HEIGHT), pixel);
    stamp(&mut frame, n);
    frame
}

/// The upscaled pixels of some frames, and the side of the tiles.
fn upscale(
    caps: &gst::Caps,
    frames: &[gst::Buffer],
    max_memory: u64,
    window: u32,
    (name, precision): (&str, &str),
) -> (Vec<Vec<u8>>, u64) {
    let element = fastvsr(name, window);
    element.set_property_from_str("precision", precision);
    element.set_property("max-memory", max_memory);
    let mut rig = Rig::with_caps(&element, caps);
    let mut pixels = Vec::new();
    let mut take = |rig: &Rig| {
        let info = info(&rig.output_caps());
        pixels.extend(rig.frames().iter().map(|frame| plane(frame, &info, 0)));
    };
    for frame in frames {
        assert!(rig.push(frame.clone()).is_ok());
        take(&rig);
    }
    rig.eos();
    take(&rig);
    (pixels, rig.stats().get::<u64>("tile").unwrap())
}

/// The worst and the mean difference between frames, in levels.
#[track_caller]
fn difference(a: &[Vec<u8>], b: &[Vec<u8>]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let (mut worst, mut sum, mut count) = (0, 0u64, 0u64);
    for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
        worst = worst.max(a.abs_diff(*b));
        sum += u64::from(a.abs_diff(*b));
        count += 1;
    }
    (worst, sum as f64 / count as f64)
}

#[test]
fn tiled_is_untiled() {
    let (caps, frames) = (rgb(WIDTH, HEIGHT), (0..3).map(frame).collect::<Vec<_>>());
    let clean = concat!(env!("CARGO_MANIFEST_DIR"), "/models/compact-s-clean");
    // In integers the last bit of a float is a step more or less somewhere, and all that comes after it rounds otherwise: noise
    // everywhere, which makes no seam.
    for (model, most, mean) in
        [(("compact-s", "fp32"), 1, 0.001), ((clean, "fp32"), 1, 0.001), ((clean, "int8"), 12, 0.5)]
    {
        let (whole, no_tile) = upscale(&caps, &frames, 0, 1, model);
        assert_eq!(no_tile, 0);
        for window in [1, 3] {
            let (tiled, tile) = upscale(&caps, &frames, TIGHT, window, model);
            assert!((32..HEIGHT as u64).contains(&tile), "tiles of {tile}");
            let (worst, differ) = difference(&whole, &tiled);
            let about = format!("{model:?}, window {window}: {worst} levels, {differ:.5} on average");
            assert!(worst <= most && differ < mean, "{about}");
        }
    }
}

#[test]
fn frames_that_fit_are_not_cut() {
    assert_eq!(upscale(&rgb(WIDTH, HEIGHT), &[frame(0)], 2 << 30, 1, ("compact-s", "auto")).1, 0);
}

#[track_caller]
fn refused(model: &str, max_memory: u64, expected: &str) {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=1 ! video/x-raw,width={WIDTH},height={HEIGHT} ! fastvsr model={model} \
         execution-provider=cpu max-memory={max_memory} ! fakesink"
    ));
    let message = pipeline.run_to_error();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_limit_that_no_tile_meets_is_an_error_that_says_how_much_is_needed() {
    refused("compact-s", 150 << 20, "expected at most 150 MiB");
}

#[test]
fn a_model_that_does_not_say_what_it_needs_cannot_be_limited() {
    refused(model("nearest").to_str().unwrap(), TIGHT, "no `geometry.memory`");
}

/// Frames of a clip, made smaller.
fn clip(file: &Path) -> (gst::Caps, Vec<gst::Buffer>) {
    let pipeline = Pipeline::new(&format!(
        "filesrc location={} ! decodebin ! videoconvert ! videoscale ! video/x-raw,format=RGB,width=240,height=135 ! \
         appsink name=sink sync=false",
        file.display()
    ));
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(pipeline.error(), None);
    let caps = samples.first().expect("the clip has frames").caps_owned().unwrap();
    (caps, samples.iter().map(|sample| sample.buffer_owned().unwrap()).collect())
}

#[test]
#[ignore = "takes minutes: `make soak CLIPS=folder`"]
fn sixty_frames_of_real_clips_in_small_tiles_are_as_in_one_piece() {
    /// Enough for cores of a quarter of the frame's width.
    const SMALL: u64 = 215 << 20;
    init();
    let folder = std::env::var_os("FASTVSR_CLIPS").expect("FASTVSR_CLIPS names a folder with clips");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there are no clips");
    for file in files {
        let (caps, frames) = clip(&file);
        // To and fro, where the clip is shorter.
        let there_and_back = frames.iter().chain(frames.iter().rev()).cycle().take(60);
        let frames: Vec<_> = there_and_back
            .enumerate()
            .map(|(n, frame)| {
                let mut frame = frame.clone();
                stamp(&mut frame, n as u64);
                frame.make_mut().unset_flags(gst::BufferFlags::DISCONT);
                frame
            })
            .collect();
        let (whole, _) = upscale(&caps, &frames, 0, 1, ("compact-s", "fp32"));
        let (tiled, tile) = upscale(&caps, &frames, SMALL, 1, ("compact-s", "fp32"));
        let (worst, differ) = difference(&whole, &tiled);
        let name = file.file_stem().unwrap().display();
        println!("{name}: 60 frames in tiles of {tile}: at most {worst} levels, {differ:.5} on average");
        assert!(tile > 0 && worst <= 1);
    }
}
