//! Storms: seeks, flushes, state changes and properties at random while a slow model runs, starts and stops without end,
//! many elements on one engine. Each in short; the long forms are for `make soak`.

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{slow::*, *};
use gst::prelude::*;

/// A generator of random numbers with a seed, so that a storm can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

const OPERATIONS: [&str; 9] =
    ["flush", "segment", "reverse", "pause", "play", "ready", "null", "property of READY", "property of PLAYING"];

fn operate(pipeline: &Pipeline, name: &str, random: &mut Random) {
    let at = gst::ClockTime::from_mseconds(random.below(100_000));
    let until = at + gst::ClockTime::from_seconds(5);
    let (flush, set) = (gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, gst::SeekType::Set);
    let vsr = pipeline.by_name("vsr").unwrap();
    match name {
        // A seek fails where the pipeline has not prerolled yet.
        "flush" => drop(pipeline.seek_simple(gst::SeekFlags::FLUSH, at)),
        "segment" => drop(pipeline.seek(2.0, flush, set, at, set, until)),
        "reverse" => drop(pipeline.seek(-1.0, flush, set, at, set, until)),
        "pause" => change(pipeline, gst::State::Paused),
        "play" => change(pipeline, gst::State::Playing),
        "ready" => {
            change(pipeline, gst::State::Ready);
            change(pipeline, gst::State::Playing);
        }
        "null" => {
            change(pipeline, gst::State::Null);
            change(pipeline, gst::State::Playing);
        }
        // These count from the next start on.
        "property of READY" => match random.below(4) {
            0 => vsr.set_property("window", 1 + random.below(4) as u32),
            1 => vsr.set_property_from_str("on-overload", ["wait", "resize"][random.below(2) as usize]),
            2 => vsr.set_property("scene-cuts", random.below(2) == 0),
            _ => vsr.set_property("max-memory", 0u64),
        },
        _ => match random.below(4) {
            0 => vsr.set_property("passthrough", random.below(3) == 0),
            1 => vsr.set_property("processing-latency", random.below(1 << 30)),
            2 => vsr.set_property("qos", random.below(2) == 0),
            _ => drop(vsr.property::<gst::Structure>("stats")),
        },
    }
}

/// How long a stop may take, and in the long forms, which run alone, any operation.
const SOON: Duration = Duration::from_millis(500);
const ALONE: Duration = Duration::from_millis(100);

/// Weathers a storm in which no operation waits for a run, or takes longer than `limit`.
#[track_caller]
fn storm(seed: u64, window: u32, duration: Duration, limit: Duration) {
    let _loaded = engine("slow");
    let pipeline = slow(window);
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut random = Random(seed);
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        let name = OPERATIONS[random.below(OPERATIONS.len() as u64) as usize];
        times.push((timed(name, AT_ONCE, || operate(&pipeline, name, &mut random)), name));
        assert_eq!(pipeline.error(), None, "operation {}, {name}", times.len());
        std::thread::sleep(Duration::from_millis(random.below(60)));
    }
    times.sort();
    let (worst, name) = times[times.len() - 1];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "storm {seed:#x}: {} operations, the median {:.1} ms, 99 % within {:.1} ms, the worst a {name} of {:.1} ms",
        times.len(),
        milliseconds(times[times.len() / 2].0),
        milliseconds(times[times.len() * 99 / 100].0),
        milliseconds(worst)
    );
    assert!(worst < limit, "a {name} took {worst:?}");
    timed("shutdown after the storm", AT_ONCE, || change(&pipeline, gst::State::Null));
    pipeline.by_name("vsr").unwrap().set_property("passthrough", false);
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_for_output(&pipeline);
    assert_eq!(pipeline.error(), None);
}

#[test]
fn a_storm_is_weathered() {
    storm(0x5eed_0001, 1, Duration::from_secs(5), AT_ONCE);
}

#[test]
fn a_storm_in_the_middle_of_windows_is_weathered() {
    storm(0x5eed_0002, 3, Duration::from_secs(5), AT_ONCE);
}

#[test]
#[ignore = "takes a minute: `make soak`"]
fn a_minute_of_storm_is_weathered() {
    storm(0x5eed_0003, 1, Duration::from_secs(60), ALONE);
}

#[test]
#[ignore = "takes a minute: `make soak`"]
fn a_minute_of_storm_in_the_middle_of_windows_is_weathered() {
    storm(0x5eed_0004, 3, Duration::from_secs(60), ALONE);
}

/// Threads and open files of this process.
fn held() -> [usize; 2] {
    ["/proc/self/task", "/proc/self/fd"].map(|folder| fs::read_dir(folder).unwrap().count())
}

#[track_caller]
fn starts_and_stops(count: usize) {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc ! video/x-raw,width=16,height=16 ! fastvsr model={} execution-provider=cpu ! fakesink",
        model("counter").display()
    ));
    let mut before = None;
    let (mut starting, mut stopping) = (Duration::ZERO, Duration::ZERO);
    for n in 0..count {
        let begin = Instant::now();
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.settle();
        starting = starting.max(begin.elapsed());
        stopping = stopping.max(timed("stop", SOON, || change(&pipeline, gst::State::Null)));
        if n == 4 {
            before = Some(held());
        }
    }
    assert_eq!(pipeline.error(), None);
    // Workers end by themselves, soon after their last element.
    std::thread::sleep(Duration::from_millis(300));
    println!(
        "{count} starts and stops: the slowest start {starting:.1?}, stop {stopping:.1?}; threads and files {:?}",
        held()
    );
    for (before, after) in before.unwrap().into_iter().zip(held()) {
        assert!(after <= before + 2, "{before} threads or files became {after}");
    }
}

#[test]
fn twenty_starts_and_stops() {
    starts_and_stops(20);
}

#[test]
#[ignore = "takes a minute: `make soak`"]
fn five_hundred_starts_and_stops() {
    starts_and_stops(500);
}

/// Fifteen streams of `frames` frames, and one that is flushed all the while, on one engine.
#[track_caller]
fn sixteen(frames: u64, limit: Duration) {
    let _shared = engine("slow");
    let steady: Vec<_> = (0..15)
        .map(|n| {
            let pipeline = Pipeline::new(&format!(
                "videotestsrc num-buffers={frames} ! video/x-raw,format=RGB,width=8,height=8,framerate=25/1 ! \
                 fastvsr execution-provider=cpu window={} model={} ! fakesink name=sink sync=false",
                1 + n % 3,
                model("slow").display()
            ));
            let seen = pipeline.count("sink");
            (pipeline, seen)
        })
        .collect();
    let restless = slow(1);
    play_into_a_run(&restless);
    for (pipeline, _) in &steady {
        change(pipeline, gst::State::Playing);
    }
    let (mut worst, mut flushes) = (Duration::ZERO, 0);
    let ends = |pipeline: &Pipeline| {
        let types = [gst::MessageType::Eos, gst::MessageType::Error];
        pipeline.bus().unwrap().pop_filtered(&types)
    };
    let mut left: Vec<_> = steady.iter().map(|(pipeline, _)| pipeline).collect();
    let begin = Instant::now();
    while !left.is_empty() {
        worst = worst.max(timed("flush", limit, || flush_to(&restless, flushes)));
        flushes += 1;
        std::thread::sleep(Duration::from_millis(20));
        left.retain(|pipeline| {
            let end = ends(pipeline);
            assert!(end.as_ref().is_none_or(|end| end.type_() == gst::MessageType::Eos), "{end:?}");
            end.is_none()
        });
        assert!(begin.elapsed() < PATIENCE, "{} streams do not end", left.len());
    }
    println!("{flushes} flushes while 15 streams of {frames} frames ran, the worst {worst:.1?}");
    assert_eq!(restless.error(), None);
    for (n, (_, seen)) in steady.iter().enumerate() {
        let times: Vec<_> = seen.lock().unwrap().iter().map(|frame| frame.pts().unwrap()).collect();
        assert_eq!(times, (0..frames).map(|n| FRAME * n).collect::<Vec<_>>(), "stream {n}");
    }
    timed("shutdown", limit, || change(&restless, gst::State::Null));
}

#[test]
fn sixteen_elements_share_a_model_and_one_is_flushed() {
    sixteen(6, AT_ONCE);
}

#[test]
#[ignore = "takes a minute: `make soak`"]
fn sixteen_elements_share_a_model_for_long_and_one_is_flushed() {
    sixteen(100, ALONE);
}
