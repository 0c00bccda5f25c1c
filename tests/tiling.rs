//! Frames that are cut into tiles to stay within `max-memory`: the pixels are those of the whole frame.

mod common;

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
fn upscale(model: &str, max_memory: u64, window: u32) -> (Vec<Vec<u8>>, u64) {
    let element = fastvsr(model, window);
    element.set_property("max-memory", max_memory);
    let mut rig = Rig::with_caps(&element, &rgb(WIDTH, HEIGHT));
    (0..3).for_each(|n| assert!(rig.push(frame(n)).is_ok()));
    rig.eos();
    let info = info(&rig.output_caps());
    let pixels = rig.frames().iter().map(|frame| plane(frame, &info, 0)).collect();
    (pixels, rig.stats().get::<u64>("tile").unwrap())
}

#[test]
fn tiled_is_untiled() {
    let (whole, no_tile) = upscale("compact-s", 0, 1);
    assert_eq!(no_tile, 0);
    for window in [1, 3] {
        let (tiled, tile) = upscale("compact-s", TIGHT, window);
        assert!((32..HEIGHT as u64).contains(&tile), "tiles of {tile}");
        let worst = whole.iter().flatten().zip(tiled.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(whole.len() == tiled.len() && worst <= 1, "window {window}: {worst} levels");
    }
}

#[test]
fn frames_that_fit_are_not_cut() {
    assert_eq!(upscale("compact-s", 2 << 30, 1).1, 0);
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
