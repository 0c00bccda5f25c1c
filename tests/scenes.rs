//! Scene cuts: the frames after a cut are those of the scene upscaled alone.

mod common;

use common::*;
use gst::prelude::*;

const WIDTH: u32 = 64;
const HEIGHT: u32 = 48;
const LENGTH: u64 = 6;

/// Frame `n` of a scene of waves that move.
fn waves(n: u64) -> gst::Buffer {
    let wave = move |x: usize, y: usize| {
        let (x, y) = (x as f32 + 2.0 * n as f32, y as f32);
        [(120.0 + 70.0 * (x / 7.0).sin() + 40.0 * (y / 5.0).cos()) as u8; 3]
    };
    picture(&rgb(WIDTH, HEIGHT), wave)
}

/// Frame `n` of a scene of a bar that moves before a slope.
fn bar(n: u64) -> gst::Buffer {
    let bar = move |x: usize, y: usize| {
        if x.abs_diff(20 + n as usize) < 5 { [240, 60, 20] } else { [(4 * y) as u8, (3 * x) as u8, 30] }
    };
    picture(&rgb(WIDTH, HEIGHT), bar)
}

/// The upscaled pixels of a sequence, and the element's count of cuts.
fn upscale(frames: &[gst::Buffer], window: u32, scene_cuts: bool) -> (Vec<Vec<u8>>, u64) {
    // Its state shows in every pixel.
    let element = fastvsr("counter", window);
    element.set_property("scene-cuts", scene_cuts);
    let mut rig = Rig::with_caps(&element, &rgb(WIDTH, HEIGHT));
    for (n, frame) in frames.iter().enumerate() {
        let mut frame = frame.copy();
        stamp(&mut frame, n as u64);
        rig.push(frame).unwrap();
    }
    rig.eos();
    let info = info(&rig.output_caps());
    let pixels = rig.frames().iter().map(|frame| plane(frame, &info, 0)).collect();
    (pixels, rig.stats().get::<u64>("scene-cuts").unwrap())
}

fn two_scenes() -> (Vec<gst::Buffer>, Vec<gst::Buffer>) {
    ((0..LENGTH).map(waves).collect(), (0..LENGTH).map(bar).collect())
}

#[test]
fn a_scene_comes_out_as_if_alone() {
    let (first, second) = two_scenes();
    let alone = [upscale(&first, 1, true).0, upscale(&second, 1, true).0].concat();
    for window in [1, 4] {
        let (together, cuts) = upscale(&[first.clone(), second.clone()].concat(), window, true);
        assert_eq!(cuts, 1, "window {window}");
        assert!(together == alone, "window {window}");
    }
}

#[test]
fn without_the_property_one_scene_bleeds_into_the_next() {
    let (first, second) = two_scenes();
    let alone = upscale(&second, 1, true).0;
    let (together, cuts) = upscale(&[first, second].concat(), 1, false);
    assert_eq!(cuts, 0);
    assert!(together[LENGTH as usize..] != alone);
}
