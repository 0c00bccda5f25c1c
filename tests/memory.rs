//! What happens when the device runs out of memory: smaller parts do, with the same pixels, and the application is told.
//! The model `hungry` asks for a petabyte when its encoder gets more than 4096 pixels at once, or its decoder more than
//! 2048.

mod common;

use common::*;

const FRAMES: u64 = 12;

/// What `hungry` makes of frame `n` of a flat stream, whose level is `n`.
fn expected(frames: std::ops::Range<u64>) -> Vec<(gst::ClockTime, u8)> {
    frames.map(|n| (FRAME * n, n as u8 * (1 + STEP))).collect()
}

fn got(rig: &Rig) -> Vec<(gst::ClockTime, u8)> {
    let caps = rig.output_caps();
    rig.frames().iter().map(|frame| (frame.pts().unwrap(), level(frame, &caps))).collect()
}

/// What the messages on the bus say: steps, and the side of the tiles.
fn told(rig: &Rig) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    while let Some(message) = rig.bus.pop_filtered(&[gst::MessageType::Element]) {
        let structure = message.structure().unwrap();
        assert_eq!(structure.name(), "fastvsr-memory");
        told.push((structure.get("steps-down").unwrap(), structure.get("tile").unwrap()));
    }
    told
}

fn counted(rig: &Rig) -> (u64, u64) {
    let stats = rig.stats();
    (stats.get("steps-down").unwrap(), stats.get("tile").unwrap())
}

/// Plays a stream that needs smaller parts.
#[track_caller]
fn goes_on(width: u32, height: u32, window: u32, messages: &[(u64, u64)]) {
    let mut rig = Rig::with_caps(&fastvsr("hungry", window), &rgb(width, height));
    rig.push_flat(0..FRAMES);
    rig.eos();
    assert_eq!(got(&rig), expected(0..FRAMES));
    assert_eq!(told(&rig), messages);
    assert_eq!(counted(&rig), messages.last().copied().unwrap_or_default());
}

#[test]
fn where_there_is_enough_nothing_is_cut() {
    goes_on(64, 32, 1, &[]);
}

#[test]
fn a_window_takes_no_more_than_its_frames_one_by_one() {
    goes_on(64, 32, 4, &[]);
}

#[test]
fn a_frame_that_is_too_much_for_a_later_stage_is_upscaled_in_tiles() {
    goes_on(64, 64, 1, &[(1, 32)]);
}

#[test]
fn a_frame_that_is_too_much_for_the_first_stage_is_upscaled_in_tiles() {
    // The encoder's half is still too much for the decoder of the same frame.
    goes_on(128, 64, 1, &[(2, 32)]);
}

#[test]
fn windows_in_flight_lose_no_frame() {
    goes_on(128, 64, 4, &[(2, 32)]);
}

#[test]
fn the_parts_stay_small_after_a_flush() {
    let mut rig = Rig::with_caps(&fastvsr("hungry", 1), &rgb(64, 64));
    rig.push_flat(0..3);
    rig.flush();
    rig.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    rig.take();
    rig.push_flat(0..3);
    assert_eq!(got(&rig), expected(0..3));
    assert_eq!(told(&rig), [(1, 32)]);
}

#[test]
fn memory_that_runs_out_at_the_end_of_the_stream_loses_nothing() {
    let mut rig = Rig::with_caps(&fastvsr("hungry", 8), &rgb(64, 64));
    rig.push_flat(0..5);
    assert_eq!((rig.frames().len(), told(&rig)), (0, Vec::new()));
    rig.eos();
    assert_eq!(got(&rig), expected(0..5));
    assert_eq!(counted(&rig), (1, 32));
}

#[test]
fn frames_that_no_part_is_small_enough_for_are_an_error_that_says_so() {
    let mut rig = Rig::with_caps(&fastvsr("starving", 1), &rgb(64, 64));
    assert_eq!(rig.push(flat(&rgb(64, 64), 0, 0)), Err(gst::FlowError::Error));
    let error = rig.error().unwrap();
    assert!(error.contains("the decoder ran out of memory on a frame of 64x64"), "{error}");
    assert!(error.contains("make the frames smaller"), "{error}");
    rig.eos();
    let out = rig.trace();
    assert!(out.ends_with("eos"), "{out}");
}
