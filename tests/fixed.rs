//! Sessions for one frame size: made in the background, taken up in mid-stream without a trace in the picture.

mod common;

use std::time::Instant;

use common::*;
use gst::prelude::*;

/// The element on OpenVINO, if the runtime has it.
fn openvino(model: &str, window: u32) -> Option<gst::Element> {
    let element = fastvsr(model, window);
    element.set_property_from_str("execution-provider", "openvino");
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    if element.set_state(gst::State::Paused).is_err() {
        let error = bus.pop_filtered(&[gst::MessageType::Error]).map(|message| error_text(&message));
        eprintln!("skipped: {}", error.unwrap_or_default());
        return None;
    }
    element.set_state(gst::State::Null).unwrap();
    Some(element)
}

fn moving(caps: &gst::Caps, n: u64) -> gst::Buffer {
    let mut frame = picture(caps, |x, y| [(x * 5 + n as usize * 3) as u8, (y * 7) as u8, (x * y) as u8]);
    stamp(&mut frame, n);
    frame
}

fn state(message: &gst::Message) -> Option<String> {
    let structure = message.structure()?;
    (structure.name() == "fastvsr-build").then(|| structure.get::<String>("state").unwrap())
}

/// Waits until sessions for the rig's frame size serve.
#[track_caller]
fn wait_for_build(rig: &Rig) {
    let begin = Instant::now();
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state == "started") {
        let message = rig.bus.timed_pop_filtered(gst::ClockTime::from_mseconds(100), &[gst::MessageType::Element]);
        states.extend(message.as_ref().and_then(state));
        assert!(begin.elapsed() < PATIENCE, "nothing but {states:?} was told");
    }
    assert_eq!(states, ["started", "done"]);
}

#[track_caller]
fn swaps_without_a_trace(model: &str, window: u32) {
    const FRAMES: u64 = 12;
    // A size that no other test has, so that the first run begins without.
    let caps = rgb(40 + 8 * window, 24);
    let Some(element) = openvino(model, window) else { return };
    let mut rig = Rig::with_caps(&element, &caps);
    // Some frames before the sessions are there, some after.
    for n in 0..FRAMES / 2 {
        rig.push(moving(&caps, n)).unwrap();
    }
    wait_for_build(&rig);
    for n in FRAMES / 2..FRAMES {
        rig.push(moving(&caps, n)).unwrap();
    }
    assert!(rig.stats().get::<bool>("fixed-size").unwrap());
    rig.eos();
    let mixed = rig.frames();
    assert_eq!(mixed.len() as u64, FRAMES);

    let mut reference = Rig::with_caps(&fastvsr(model, window), &caps);
    for n in 0..FRAMES {
        reference.push(moving(&caps, n)).unwrap();
    }
    reference.eos();
    for (n, (got, expected)) in mixed.iter().zip(reference.frames()).enumerate() {
        let (got, expected) = (got.map_readable().unwrap(), expected.map_readable().unwrap());
        let error: f64 = got.iter().zip(&*expected).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        // OpenVINO may compute in bfloat16.
        let psnr = 10.0 * (255f64.powi(2) * got.len() as f64 / error.max(1.0)).log10();
        assert!(psnr > 45.0, "frame {n}: {psnr:.1} dB");
    }
}

#[test]
fn the_recurrent_state_goes_on_when_faster_sessions_take_over() {
    swaps_without_a_trace("compact-s", 1);
    swaps_without_a_trace("counter", 1);
    swaps_without_a_trace("counter", 3);
}

#[test]
fn windows_that_are_upscaled_at_once_are_served_by_sessions_for_any_size() {
    let Some(element) = openvino("nearest", 3) else { return };
    let mut rig = Rig::new("nearest", 3);
    let mut openvino = Rig::with_caps(&element, &rgb(8, 8));
    for rig in [&mut rig, &mut openvino] {
        rig.push_flat(0..40);
        rig.eos();
    }
    let levels = openvino.levels();
    assert_eq!((levels.len(), levels), (40, rig.levels()));
    assert!(!openvino.stats().get::<bool>("fixed-size").unwrap());
}

#[test]
fn the_cpu_provider_compiles_nothing() {
    let mut rig = Rig::new("nearest", 1);
    rig.push_flat([1]);
    assert!(!rig.stats().get::<bool>("fixed-size").unwrap());
    assert!(rig.bus.pop_filtered(&[gst::MessageType::Element]).is_none());
}

#[test]
fn for_a_stream_of_many_sizes_little_is_built_and_nothing_goes_on_after_it() {
    const SIZES: u64 = 24;
    let Some(element) = openvino("compact-s", 1) else { return };
    let mut rig = Rig::with_caps(&element, &rgb(96, 16));
    for n in 0..SIZES {
        let caps = rgb(96 + 8 * n as u32, 16);
        rig.harness.set_src_caps(caps.clone());
        rig.push(moving(&caps, n)).unwrap();
    }
    rig.eos();
    assert_eq!(rig.frames().len() as u64, SIZES);
    element.set_state(gst::State::Null).unwrap();
    // What has begun ends, after the stage that it is at.
    let mut states = Vec::new();
    while let Some(message) =
        rig.bus.timed_pop_filtered(gst::ClockTime::from_mseconds(1500), &[gst::MessageType::Element])
    {
        states.extend(state(&message));
    }
    let count = |wanted: &str| states.iter().filter(|state| *state == wanted).count() as u64;
    assert_eq!(count("failed"), 0);
    assert!(count("done") < SIZES / 2, "{states:?}");
    assert!(count("started") <= count("done") + count("dropped") + 1, "{states:?}");
}
