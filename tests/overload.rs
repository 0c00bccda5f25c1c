//! Machines that are too slow: what is live stays in time, and no frame is lost. The clock is the test's own.

mod common;

use common::*;
use gst::prelude::*;

/// A live stream through a model that counts its frames, in a pipeline that allows each 100 ms.
fn live(policy: &str) -> Rig {
    let element = fastvsr("counter", 1);
    element.set_property_from_str("on-overload", policy);
    element.set_property("processing-latency", gst::ClockTime::from_mseconds(100).nseconds());
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    // The harness plays, and is live; deadlines begin with the answer to the query.
    assert_eq!(rig.harness.query_latency(), Some(gst::ClockTime::from_mseconds(100)));
    rig.harness.use_testclock();
    rig.harness.play();
    rig
}

/// Pushes black frame `n` when the clock shows `now`.
fn push_at(rig: &mut Rig, n: u64, now: gst::ClockTime) {
    rig.harness.set_time(now).unwrap();
    rig.push(flat(&rgb(8, 4), n, 0)).unwrap();
}

/// The efforts that were told since the last call.
fn efforts(rig: &Rig) -> Vec<String> {
    let messages = std::iter::from_fn(|| rig.bus.pop_filtered(&[gst::MessageType::Element]));
    messages
        .map(|message| {
            let structure = message.structure().unwrap();
            assert_eq!(structure.name(), "fastvsr-overload");
            structure.get("effort").unwrap()
        })
        .collect()
}

#[test]
fn frames_of_a_live_stream_that_would_be_late_are_resized() {
    let mut rig = live("resize");
    push_at(&mut rig, 0, gst::ClockTime::ZERO);
    push_at(&mut rig, 1, FRAME);
    assert_eq!(efforts(&rig), [""; 0]);
    // At the time when it should leave there is none left for the model.
    push_at(&mut rig, 2, FRAME * 2 + gst::ClockTime::from_mseconds(100));
    push_at(&mut rig, 3, FRAME * 3 + gst::ClockTime::from_seconds(5));
    assert_eq!(efforts(&rig), ["resize"]);
    // In time again.
    push_at(&mut rig, 200, FRAME * 200);
    push_at(&mut rig, 201, FRAME * 201);
    assert_eq!(efforts(&rig), ["model"]);
    assert_eq!(rig.levels(), [0, STEP, 0, 0, 0, STEP]);
    let stats = rig.stats();
    assert_eq!((stats.get::<u64>("resized"), stats.get::<u64>("overloads")), (Ok(2), Ok(1)));
}

#[test]
fn who_waits_is_late_and_has_the_model_for_every_frame() {
    let mut rig = live("wait");
    (0..6).for_each(|n| push_at(&mut rig, n, FRAME * n + gst::ClockTime::from_seconds(n)));
    assert_eq!(efforts(&rig), [""; 0]);
    assert_eq!(rig.levels(), [0, 1, 2, 3, 4, 5].map(|n| n * STEP));
}

/// Tells upstream that frames up to number `n` are too late.
fn late_up_to(rig: &mut Rig, n: u64) {
    let qos = gst::event::Qos::new(gst::QOSType::Underflow, 2.0, 0, FRAME * n);
    assert!(rig.harness.push_upstream_event(qos));
}

/// Black frames through a model that counts them, four after the first `late`, of which two are late.
fn counts(set: impl FnOnce(&gst::Element), window: u32, late: u64) -> (Vec<u8>, gst::Structure) {
    let element = fastvsr("counter", window);
    set(&element);
    let caps = rgb(8, 4);
    let mut rig = Rig::with_caps(&element, &caps);
    for n in 0..late + 4 {
        if n == late {
            late_up_to(&mut rig, late + 1);
        }
        rig.push(flat(&caps, n, 0)).unwrap();
    }
    rig.eos();
    (rig.levels(), rig.stats())
}

#[test]
fn frames_that_the_sink_calls_late_are_resized_and_the_state_begins_again() {
    for set in [(|element| element.set_property("qos", true)) as fn(&gst::Element), |element| {
        element.set_property_from_str("on-overload", "resize")
    }] {
        let (levels, stats) = counts(set, 1, 2);
        assert_eq!(levels, [0, STEP, 0, 0, 0, STEP]);
        assert_eq!(stats.get::<u64>("resized"), Ok(2));
        assert_eq!(stats.get::<u64>("overloads"), Ok(1));
    }
}

#[test]
fn unless_asked_for_quality_of_service_changes_nothing() {
    let (levels, stats) = counts(|_| (), 1, 2);
    assert_eq!(levels, [0, 1, 2, 3, 4, 5].map(|n| n * STEP));
    assert_eq!(stats.get::<u64>("resized"), Ok(0));
}

#[test]
fn frames_in_the_middle_of_a_window_leave_before_the_resized_ones() {
    let (levels, _) = counts(|element| element.set_property("qos", true), 4, 6);
    assert_eq!(levels, [0, 1, 2, 3, 4, 5, 0, 0, 0, 1].map(|n| n * STEP));
}

#[test]
fn resized_frames_keep_format_alpha_and_colour() {
    for (format, pixel) in [("RGBA", vec![200, 90, 40, 77]), ("GRAY8", vec![130])] {
        let element = fastvsr("nearest", 1);
        element.set_property("qos", true);
        let caps: gst::Caps = format!("video/x-raw,format={format},width=8,height=4,framerate=25/1").parse().unwrap();
        let mut rig = Rig::with_caps(&element, &caps);
        let frame = |n| {
            let mut buffer = gst::Buffer::from_mut_slice(pixel.repeat(8 * 4));
            stamp(&mut buffer, n);
            buffer
        };
        rig.push(frame(0)).unwrap();
        late_up_to(&mut rig, 5);
        rig.push(frame(1)).unwrap();
        let (frames, info) = (rig.frames(), info(&rig.output_caps()));
        assert_eq!(rig.stats().get::<u64>("resized"), Ok(1));
        assert_eq!(plane(&frames[0], &info, 0), plane(&frames[1], &info, 0), "{format}");
        assert_eq!(frames[1].pts(), Some(FRAME));
    }
}
