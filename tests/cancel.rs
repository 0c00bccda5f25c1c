//! Flushes and shutdowns while a slow model runs, and several elements on one engine.

mod common;

use std::{
    process::Command,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use common::{slow::*, *};
use gst::prelude::*;

#[test]
fn a_shutdown_does_not_wait_for_the_model() {
    let pipeline = slow(1);
    play_into_a_run(&pipeline);
    timed("shutdown", AT_ONCE, || change(&pipeline, gst::State::Null));
    assert_eq!(pipeline.error(), None);
}

#[test]
fn after_a_shutdown_in_a_run_the_element_works_again() {
    let pipeline = slow(1);
    play_into_a_run(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_for_output(&pipeline);
    assert_eq!(pipeline.error(), None);
}

#[test]
fn a_step_to_ready_does_not_wait_for_the_model() {
    let pipeline = slow(1);
    play_into_a_run(&pipeline);
    timed("READY", AT_ONCE, || change(&pipeline, gst::State::Ready));
    assert_eq!(pipeline.error(), None);
}

#[test]
fn a_flush_does_not_wait_for_the_model() {
    let pipeline = slow(1);
    play_into_a_run(&pipeline);
    timed("flush", AT_ONCE, || flush_to(&pipeline, 100));
    assert!(wait_for_output(&pipeline).pts().unwrap() >= gst::ClockTime::from_seconds(100), "a stale frame");
    assert_eq!(pipeline.error(), None);
}

#[test]
fn ten_flushes_in_a_row_do_not_wait_for_the_model() {
    let pipeline = slow(2);
    play_into_a_run(&pipeline);
    for n in 1..=10 {
        timed("flush", AT_ONCE, || flush_to(&pipeline, 100 * n));
    }
    assert!(wait_for_output(&pipeline).pts().unwrap() >= gst::ClockTime::from_seconds(1000), "a stale frame");
    assert_eq!(pipeline.error(), None);
}

/// Two frames that wait for more, and a run of the model at the end of the stream.
#[track_caller]
fn play_into_a_drain() -> Pipeline {
    let pipeline = slow(8);
    pipeline.by_name("source").unwrap().set_property("num-buffers", 2);
    let (sender, receiver) = mpsc::channel();
    let pad = pipeline.by_name("vsr").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos) {
            let _ = sender.send(());
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    receiver.recv_timeout(PATIENCE).expect("the stream does not end");
    be_well_into_a_run();
    pipeline
}

#[test]
fn a_shutdown_does_not_wait_for_a_drain() {
    let pipeline = play_into_a_drain();
    timed("shutdown", AT_ONCE, || change(&pipeline, gst::State::Null));
    assert_eq!(pipeline.error(), None);
}

#[test]
fn a_flush_does_not_wait_for_a_drain_and_drops_its_frames() {
    let pipeline = play_into_a_drain();
    let seen = pipeline.count("sink");
    timed("flush", AT_ONCE, || flush_to(&pipeline, 0));
    // The source has no frames left: what arrived would be stale.
    pipeline.wait_eos();
    assert_eq!(seen.lock().unwrap().len(), 0);
}

#[test]
fn a_model_that_takes_for_ever_to_load_can_be_given_up() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc ! video/x-raw,format=RGB,width=16,height=16 ! fastvsr execution-provider=cpu model={} ! fakesink",
        model("endless").display()
    ));
    // The change to PAUSED waits for the model for a while, and leaves the rest to the streaming thread.
    pipeline.set_state(gst::State::Playing).unwrap();
    timed("shutdown", AT_ONCE, || change(&pipeline, gst::State::Null));
    assert_eq!(pipeline.error(), None);
}

#[test]
fn questions_are_answered_during_a_run() {
    let pipeline = slow(1);
    play_into_a_run(&pipeline);
    let vsr = pipeline.by_name("vsr").unwrap();
    let (sink, src) = (vsr.static_pad("sink").unwrap(), vsr.static_pad("src").unwrap());
    timed("stats", AT_ONCE, || drop(vsr.property::<gst::Structure>("stats")));
    timed("latency", AT_ONCE, || assert!(src.query(&mut gst::query::Latency::new())));
    timed("caps of the sink pad", AT_ONCE, || assert!(!sink.query_caps(None).is_empty()));
    timed("caps of the source pad", AT_ONCE, || assert!(!src.query_caps(None).is_empty()));
    timed("position", AT_ONCE, || assert!(src.query_position::<gst::ClockTime>().is_some()));
    timed("setting a property", AT_ONCE, || vsr.set_property("processing-latency", 1u64));
    timed("navigation", AT_ONCE, || {
        src.send_event(gst_video::NavigationEvent::new_mouse_move(1.0, 1.0).build());
    });
}

#[test]
fn seeks_from_one_thread_do_not_hold_up_a_shutdown_from_another() {
    let pipeline = slow(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            while !done.load(Ordering::Relaxed) && begin.elapsed() < Duration::from_secs(30) {
                // Fails where the pipeline has not started.
                let _ = pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::SECOND);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..20 {
            change(&pipeline, gst::State::Playing);
            std::thread::sleep(Duration::from_millis(20));
            timed("READY", AT_ONCE, || change(&pipeline, gst::State::Ready));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(pipeline.error(), None);
}

#[test]
fn an_interrupted_run_is_not_logged_as_an_error() {
    let pipeline = slow(1);
    gst::log::set_active(true);
    gst::log::set_default_threshold(gst::DebugLevel::Warning);
    gst::log::remove_default_log_function();
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let log = gst::log::add_log_function({
        let lines = Arc::clone(&lines);
        move |category, level, _, _, _, _, message| {
            if category.name() == "fastvsr" && level <= gst::DebugLevel::Warning {
                lines.lock().unwrap().push(format!("{level:?}: {:?}", message.get()));
            }
        }
    });
    play_into_a_run(&pipeline);
    flush_to(&pipeline, 10);
    // After this frame the interrupted run is over.
    wait_for_output(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    gst::log::remove_log_function(log);
    assert_eq!(*lines.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn elements_with_the_same_model_share_an_engine() {
    let engine = engine("nearest");
    assert_eq!(Arc::strong_count(&engine), 1);
    let elements = [fastvsr("nearest", 1), fastvsr("nearest", 4), fastvsr("counter", 1)];
    elements.iter().for_each(|element| assert!(element.set_state(gst::State::Paused).is_ok()));
    assert_eq!(Arc::strong_count(&engine), 3);
    elements.iter().for_each(|element| assert!(element.set_state(gst::State::Null).is_ok()));
    assert_eq!(Arc::strong_count(&engine), 1);
}

#[test]
fn one_element_is_flushed_and_another_on_the_same_engine_goes_on() {
    let _shared = engine("slow");
    let steady = Pipeline::new(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=RGB,width=16,height=8,framerate=25/1 ! \
         fastvsr execution-provider=cpu window=2 model={} ! fakesink name=sink sync=false",
        model("slow").display()
    ));
    let seen = steady.count("sink");
    let restless = slow(1);
    play_into_a_run(&restless);
    steady.set_state(gst::State::Playing).unwrap();
    for n in 1..=10 {
        timed("flush", AT_ONCE, || flush_to(&restless, n));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its runs would go between the other's.
    change(&restless, gst::State::Null);
    steady.wait_eos();
    assert_eq!(restless.error(), None);
    let times: Vec<_> = seen.lock().unwrap().iter().map(|frame| frame.pts().unwrap()).collect();
    assert_eq!(times, (0..20).map(|n| FRAME * n).collect::<Vec<_>>());
}

#[test]
fn a_shutdown_does_not_wait_for_another_element_on_the_same_engine() {
    let (first, second) = (slow(1), slow(1));
    play_into_a_run(&first);
    play_into_a_run(&second);
    timed("shutdown", AT_ONCE, || change(&second, gst::State::Null));
    wait_for_output(&first);
    assert_eq!((first.error(), second.error()), (None, None));
}

#[test]
fn a_process_that_ends_in_a_run_ends_soon_and_in_peace() {
    const CHILD: &str = "FASTVSR_TEST_ENDS_IN_A_RUN";
    static END: OnceLock<Instant> = OnceLock::new();
    /// Comes after all handlers that are registered later. Far from the ten seconds after which the wait for a run is given up.
    extern "C" fn last() {
        let took = END.get().map(Instant::elapsed);
        if took.is_none_or(|took| took > Duration::from_secs(8)) {
            eprintln!("the end took {took:?}");
            // SAFETY: it ends the process, which is ending.
            unsafe { libc::_exit(1) };
        }
    }
    if std::env::var_os(CHILD).is_some() {
        // SAFETY: the function is there until the process ends.
        unsafe { libc::atexit(last) };
        // Its run is waited for.
        let pipeline = slow_of(1, 128);
        play_into_a_run(&pipeline);
        std::mem::forget(pipeline);
        END.set(Instant::now()).unwrap();
        std::process::exit(0);
    }
    let program = std::env::current_exe().unwrap();
    let name = "a_process_that_ends_in_a_run_ends_soon_and_in_peace";
    let output = Command::new(program).args([name, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
