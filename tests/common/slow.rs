//! Endless pipelines through a model that computes three seconds for a frame, and how long what is done to them takes.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use gst::prelude::*;
use gstfastvsr::{
    engine::{Engine, Key, Provider, load_runtime},
    model::Source,
};

use super::{PATIENCE, Pipeline, init, model};

/// A run of the slow model takes several times as long.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// No operation waits so long on any machine; the end of a process waits ten seconds for a run.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// So much is computed in no time, but in a run.
const WELL_INTO: Duration = Duration::from_millis(100);

/// Endless video through the slow model.
pub fn slow(window: u32) -> Pipeline {
    slow_of(window, 1280)
}

/// The same with frames of another width; the model computes as much less.
pub fn slow_of(window: u32, width: u32) -> Pipeline {
    Pipeline::new(&format!(
        "videotestsrc name=source pattern=black ! video/x-raw,format=RGB,width={width},height=8,framerate=25/1 ! \
         fastvsr name=vsr execution-provider=cpu window={window} model={} ! fakesink name=sink sync=false",
        model("slow").display()
    ))
}

/// Tells of every frame that reaches the element.
pub fn arrivals(pipeline: &Pipeline) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    let pad = pipeline.by_name("vsr").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.send(());
        gst::PadProbeReturn::Ok
    });
    receiver
}

/// Plays until a run of the model is under way.
#[track_caller]
pub fn play_into_a_run(pipeline: &Pipeline) {
    let window: u32 = pipeline.by_name("vsr").unwrap().property("window");
    let arrivals = arrivals(pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    for _ in 0..window {
        arrivals.recv_timeout(PATIENCE).expect("no frame arrives");
    }
    be_well_into_a_run();
}

/// Waits until what has begun is a run.
#[track_caller]
pub fn be_well_into_a_run() {
    let (begin, before) = (Instant::now(), computed());
    while computed() - before < WELL_INTO {
        assert!(begin.elapsed() < PATIENCE, "the model does not run");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How long an action takes, measured by what this process computes meanwhile: who waits for a run of the model waits for its
/// work, and other work on the machine does not count. The clock alone is given more, for waits in which nothing is done.
#[track_caller]
pub fn timed(what: &str, limit: Duration, action: impl FnOnce()) -> Duration {
    let (begin, before) = (Instant::now(), computed());
    action();
    let (took, work) = (begin.elapsed(), computed() - before);
    println!("{what}: {:.1} ms, of which computed {:.1}", took.as_secs_f64() * 1e3, work.as_secs_f64() * 1e3);
    assert!(work < limit && took < LONGEST_WAIT, "{what} took {took:?}, of which computed {work:?}");
    took.min(work)
}

/// The time that all processors together have spent on this process.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes into `time` alone.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub fn change(pipeline: &Pipeline, state: gst::State) {
    pipeline.set_state(state).unwrap();
}

pub fn flush_to(pipeline: &Pipeline, seconds: u64) {
    pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::from_seconds(seconds)).unwrap();
}

/// Waits until a frame has left the element.
#[track_caller]
pub fn wait_for_output(pipeline: &Pipeline) -> gst::Buffer {
    let (sender, receiver) = mpsc::channel();
    let pad = pipeline.by_name("vsr").unwrap().static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let _ = sender.send(info.buffer().unwrap().clone());
        gst::PadProbeReturn::Remove
    });
    receiver.recv_timeout(PATIENCE).expect("no frame leaves")
}

/// The engine that elements with this model share.
pub fn engine(name: &str) -> Arc<Engine> {
    init();
    let runtime = load_runtime(None, &[], |_, _| {}).unwrap();
    let key = Key {
        source: Source::find(model(name).to_str().unwrap()).unwrap(),
        provider: Some(Provider::Cpu),
        device_id: 0,
        precision: None,
    };
    Engine::open(runtime, &key).unwrap()
}
