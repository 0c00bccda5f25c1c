//! The recurrent state: carried from frame to frame and window to window, blank after a break.

mod common;

use common::*;
use gst::prelude::*;
use proptest::prelude::*;

/// Brightens frame `n` of a black stream, counted from the last reset.
fn counted(counts: impl IntoIterator<Item = u8>) -> Vec<u8> {
    counts.into_iter().map(|n| n * STEP).collect()
}

fn black(n: u64) -> gst::Buffer {
    flat(&rgb(8, 4), n, 0)
}

fn push_black(rig: &mut Rig, count: u64) {
    for n in 0..count {
        rig.push(black(n)).unwrap();
    }
}

#[track_caller]
fn carried_over(window: u32) {
    let mut rig = Rig::new("counter", window);
    push_black(&mut rig, 20);
    rig.eos();
    assert_eq!(rig.levels(), counted(0..20));
}

/// Three frames, a break or none, two frames: what the second part sees of the first.
#[track_caller]
fn around(window: u32, what: impl FnOnce(&mut Rig), expected: [u8; 5]) {
    let mut rig = Rig::new("counter", window);
    push_black(&mut rig, 3);
    what(&mut rig);
    push_black(&mut rig, 2);
    rig.eos();
    assert_eq!(rig.levels(), counted(expected));
}

const GOES_ON: [u8; 5] = [0, 1, 2, 3, 4];
const BEGINS_AGAIN: [u8; 5] = [0, 1, 2, 0, 1];

fn segment(set: impl FnOnce(&mut gst::FormattedSegment<gst::ClockTime>)) -> gst::Event {
    let mut segment = gst::FormattedSegment::new();
    set(&mut segment);
    gst::event::Segment::new(&segment)
}

#[test]
fn the_state_is_carried_from_frame_to_frame() {
    carried_over(1);
}

#[test]
fn the_state_is_carried_from_window_to_window() {
    carried_over(4);
    carried_over(16);
}

#[test]
fn the_window_does_not_change_the_pixels() {
    let caps = rgb(48, 32);
    let upscale = |window| {
        let mut rig = Rig::with_caps(&fastvsr("compact-s", window), &caps);
        for n in 0..20 {
            let mut buffer = picture(&caps, |x, y| {
                let wave = ((x + 2 * n) as f32 * 0.4).sin() * (y as f32 * 0.3).cos();
                [(128.0 + 100.0 * wave) as u8, (x * 5) as u8, ((y * 8 + n * 3) % 256) as u8]
            });
            stamp(&mut buffer, n as u64);
            rig.push(buffer).unwrap();
        }
        rig.eos();
        let output = info(&rig.output_caps());
        rig.frames().iter().map(|frame| plane(frame, &output, 0)).collect::<Vec<_>>()
    };
    let (one, sixteen) = (upscale(1), upscale(16));
    assert_eq!((one.len(), sixteen.len()), (20, 20));
    for (n, (a, b)) in one.iter().zip(&sixteen).enumerate() {
        let worst = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 1, "frame {n} differs by {worst} levels");
    }
    assert_ne!(one[0], one[19], "the clip moves");
}

#[test]
fn a_discont_begins_again() {
    for window in [1, 4] {
        let mut rig = Rig::new("counter", window);
        push_black(&mut rig, 3);
        rig.push(with_flags(black(3), gst::BufferFlags::DISCONT)).unwrap();
        rig.push(black(4)).unwrap();
        rig.eos();
        assert_eq!(rig.levels(), counted(BEGINS_AGAIN), "window {window}");
    }
}

#[test]
fn a_discont_on_the_first_frame_breaks_nothing() {
    let mut rig = Rig::new("counter", 2);
    rig.push(with_flags(black(0), gst::BufferFlags::DISCONT)).unwrap();
    push_black(&mut rig, 3);
    rig.eos();
    assert_eq!(rig.levels(), counted(0..4));
}

#[test]
fn a_flush_begins_again() {
    around(
        1,
        |rig| {
            rig.flush();
            rig.event(segment(|_| {}));
        },
        BEGINS_AGAIN,
    );
}

#[test]
fn another_segment_begins_again() {
    around(4, |rig| assert!(rig.event(segment(|segment| segment.set_start(FRAME * 100)))), BEGINS_AGAIN);
}

#[test]
fn the_same_segment_goes_on() {
    around(4, |rig| assert!(rig.event(segment(|segment| segment.set_position(FRAME * 3)))), GOES_ON);
}

#[test]
fn another_rate_begins_again() {
    around(1, |rig| assert!(rig.event(segment(|segment| segment.set_rate(2.0)))), BEGINS_AGAIN);
}

#[test]
fn another_stream_begins_again() {
    around(
        4,
        |rig| {
            assert!(rig.event(gst::event::StreamStart::new("another")));
            assert!(rig.event(segment(|_| {})));
        },
        BEGINS_AGAIN,
    );
}

#[test]
fn a_gap_goes_on() {
    around(4, |rig| assert!(rig.event(gst::event::Gap::builder(FRAME).build())), GOES_ON);
}

#[test]
fn the_same_caps_go_on() {
    around(4, |rig| rig.harness.set_src_caps(rgb(8, 4)), GOES_ON);
}

#[test]
fn other_caps_begin_again() {
    let mut rig = Rig::new("counter", 4);
    push_black(&mut rig, 3);
    rig.harness.set_src_caps(rgb(6, 4));
    assert_eq!(rig.frames().len(), 3);
    for n in 0..2 {
        rig.push(flat(&rgb(6, 4), n, 0)).unwrap();
    }
    rig.eos();
    assert_eq!(rig.levels(), counted(0..2));
}

#[test]
fn a_restart_begins_again() {
    let mut rig = Rig::new("counter", 1);
    push_black(&mut rig, 3);
    rig.element.set_state(gst::State::Ready).unwrap();
    rig.take();
    rig.element.set_state(gst::State::Playing).unwrap();
    rig.event(gst::event::StreamStart::new("again"));
    rig.harness.set_src_caps(rgb(8, 4));
    rig.event(segment(|_| {}));
    push_black(&mut rig, 2);
    assert_eq!(rig.levels(), counted(0..2));
}

#[track_caller]
fn means_of_neighbours(window: u32, count: u64) {
    let mut rig = Rig::new("neighbours", window);
    let caps = rgb(8, 4);
    let level = |n: u64| (n * n % 80 * 3) as u8;
    for n in 0..count {
        rig.push(flat(&caps, n, level(n))).unwrap();
    }
    rig.eos();
    let mean = |n: u64| {
        let sum: u32 = [n.saturating_sub(1), n, (n + 1).min(count - 1)].into_iter().map(|n| u32::from(level(n))).sum();
        (f64::from(sum) / 3.0).round_ties_even() as u8
    };
    assert_eq!(rig.levels(), (0..count).map(mean).collect::<Vec<_>>(), "window {window}, {count} frames");
}

#[test]
fn a_model_that_looks_around_sees_the_frames_before_and_after() {
    for window in [1, 2, 3, 4, 16] {
        for count in [1, 2, 5, 16, 17] {
            means_of_neighbours(window, count);
        }
    }
}

#[test]
fn what_a_model_saw_before_a_discont_is_forgotten() {
    let mut rig = Rig::new("neighbours", 1);
    rig.push(flat(&rgb(8, 4), 0, 90)).unwrap();
    rig.push(with_flags(flat(&rgb(8, 4), 1, 0), gst::BufferFlags::DISCONT)).unwrap();
    rig.eos();
    assert_eq!(rig.levels(), [90, 0]);
}

/// What comes before a frame.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    Gap,
    SameSegment,
    Discont,
    OtherSegment,
    OtherCaps,
    OtherStream,
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![
        12 => Just(Before::Nothing),
        1 => Just(Before::Gap),
        1 => Just(Before::SameSegment),
        1 => Just(Before::Discont),
        1 => Just(Before::OtherSegment),
        1 => Just(Before::OtherCaps),
        1 => Just(Before::OtherStream),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn whatever_the_window_a_sequence_is_what_lies_between_breaks(
        window in 1u32..9, stream in prop::collection::vec(before(), 0..50),
    ) {
        let mut rig = Rig::new("counter", window);
        let (mut width, mut start, mut count) = (8, 0, 0u8);
        let mut expected = Vec::new();
        for (n, before) in stream.iter().enumerate() {
            let at = |start: u64| segment(|segment| segment.set_start(FRAME * start));
            let mut flags = gst::BufferFlags::empty();
            match before {
                Before::Nothing => {}
                Before::Gap => prop_assert!(rig.event(gst::event::Gap::builder(FRAME).build())),
                Before::SameSegment => prop_assert!(rig.event(at(start))),
                Before::Discont => flags = gst::BufferFlags::DISCONT,
                Before::OtherSegment => {
                    start += 1;
                    prop_assert!(rig.event(at(start)));
                }
                Before::OtherCaps => {
                    width = 14 - width;
                    prop_assert!(rig.event(gst::event::Caps::new(&rgb(width, 4))));
                }
                Before::OtherStream => {
                    prop_assert!(rig.event(gst::event::StreamStart::new("another")));
                    prop_assert!(rig.event(at(start)));
                }
            }
            if !matches!(before, Before::Nothing | Before::Gap | Before::SameSegment) {
                count = 0;
            }
            expected.push((width * 4, count.saturating_mul(STEP)));
            count = count.saturating_add(1);
            rig.push(with_flags(flat(&rgb(width, 4), n as u64, 0), flags)).unwrap();
        }
        rig.eos();
        let sizes = [rgb(32, 16), rgb(24, 16)];
        let got = rig.frames().iter().map(|frame| {
            let caps = sizes.iter().find(|caps| info(caps).size() == frame.size()).unwrap();
            (info(caps).width(), level(frame, caps))
        }).collect::<Vec<_>>();
        prop_assert_eq!(got, expected);
    }
}
