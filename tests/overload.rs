//! Machines that are too slow: what is live stays in time, and no frame is lost.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::*;
use gst::prelude::*;

/// A live stream through the slow model, `fps` frames a second for `seconds`.
fn live(policy: &str, width: u32, height: u32, fps: u32, seconds: u32) -> Pipeline {
    Pipeline::new(&format!(
        "videotestsrc is-live=true num-buffers={} ! video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 ! \
         fastvsr name=vsr execution-provider=cpu window=1 on-overload={policy} model={} ! fakesink name=sink sync=true",
        fps * seconds,
        model("slow").display()
    ))
}

/// By how much each frame reaches the element's source pad after its running time.
fn delays(pipeline: &Pipeline) -> Arc<Mutex<Vec<Duration>>> {
    let delays = Arc::<Mutex<Vec<Duration>>>::default();
    let inner = Arc::clone(&delays);
    let vsr = pipeline.by_name("vsr").unwrap();
    let element = vsr.downgrade();
    vsr.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let element = element.upgrade().unwrap();
        let now = element.clock().unwrap().time() - element.base_time().unwrap();
        inner.lock().unwrap().push(now.saturating_sub(info.buffer().unwrap().pts().unwrap()).into());
        gst::PadProbeReturn::Ok
    });
    delays
}

/// Plays to the end, as an application that heeds messages about the latency; gives the overload messages.
#[track_caller]
fn play(pipeline: &Pipeline) -> Vec<String> {
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut efforts = Vec::new();
    loop {
        let message = bus.timed_pop(TIMEOUT).expect("the pipeline does not end");
        match message.view() {
            gst::MessageView::Latency(_) => pipeline.recalculate_latency().unwrap(),
            gst::MessageView::Element(element) => {
                let structure = element.structure().unwrap();
                assert_eq!(structure.name(), "fastvsr-overload");
                efforts.push(structure.get::<String>("effort").unwrap());
            }
            gst::MessageView::Eos(_) => return efforts,
            gst::MessageView::Error(_) => panic!("{}", error_text(&message)),
            _ => {}
        }
    }
}

#[test]
fn at_a_multiple_of_the_load_a_live_stream_stays_in_time() {
    let pipeline = live("resize", 128, 32, 25, 4);
    let (seen, delays) = (pipeline.count("sink"), delays(&pipeline));
    let begin = Instant::now();
    let efforts = play(&pipeline);
    // It would take far longer to give all of them the model.
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    let times: Vec<_> = seen.lock().unwrap().iter().map(|frame| frame.pts().unwrap()).collect();
    assert_eq!(times, (0..100).map(|n| times[0] + FRAME * n).collect::<Vec<_>>());
    let stats: gst::Structure = pipeline.by_name("vsr").unwrap().property("stats");
    assert!(stats.get::<u64>("resized").unwrap() > 50, "{stats}");
    assert_eq!(efforts[0], "resize");
    assert!(efforts.windows(2).all(|pair| pair[0] != pair[1]), "{efforts:?}");
    // A run of the model in the way, and no more than that.
    let worst = *delays.lock().unwrap().iter().skip(10).max().unwrap();
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[test]
fn who_waits_is_late_and_loses_nothing() {
    let pipeline = live("wait", 128, 32, 25, 1);
    let (seen, delays) = (pipeline.count("sink"), delays(&pipeline));
    assert_eq!(play(&pipeline), Vec::<String>::new());
    assert_eq!(seen.lock().unwrap().len(), 25);
    let worst = *delays.lock().unwrap().last().unwrap();
    assert!(worst > Duration::from_secs(1), "the load is none: {worst:?}");
}

#[test]
fn a_live_stream_shrinks_its_effort_and_loses_no_frame() {
    let pipeline = live("shrink", 128, 128, 10, 3);
    let seen = pipeline.count("sink");
    let efforts = play(&pipeline);
    assert_eq!(seen.lock().unwrap().len(), 30);
    let stats: gst::Structure = pipeline.by_name("vsr").unwrap().property("stats");
    // On a busy machine there may be no time even for the middle of a frame.
    assert!(efforts.iter().any(|effort| effort == "shrink" || effort == "resize"), "{efforts:?}");
    assert!(stats.get::<u64>("shrunk").unwrap() + stats.get::<u64>("resized").unwrap() > 0, "{stats}");
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
    for set in [
        (|element| element.set_property("qos", true)) as fn(&gst::Element),
        |element| element.set_property_from_str("on-overload", "resize"),
        |element| element.set_property_from_str("on-overload", "shrink"),
    ] {
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
