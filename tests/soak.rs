//! Long runs, minutes each, with the embedded model: `make soak`. The other tests have them in short.

mod common;

use std::{
    fs,
    process::Command,
    sync::{Arc, Mutex},
    thread::sleep,
    time::{Duration, Instant},
};

use common::*;
use gst::prelude::*;

/// A line of the kernel's account of this process, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "takes five minutes: `make soak`"]
fn five_minutes_of_live_video_at_twice_the_load_stay_in_time() {
    const SECONDS: u64 = 300;
    let size = "width=320,height=180";
    // How fast is this machine?
    let trial = Pipeline::new(&format!(
        "videotestsrc num-buffers=40 ! video/x-raw,format=I420,{size} ! fastvsr name=vsr execution-provider=cpu ! fakesink"
    ));
    trial.run_within(gst::ClockTime::from_seconds(120));
    let fps: f64 = trial.by_name("vsr").unwrap().property::<gst::Structure>("stats").get("fps").unwrap();
    let load = (2.0 * fps).ceil() as u64;
    let pipeline = Pipeline::new(&format!(
        "videotestsrc is-live=true num-buffers={} ! video/x-raw,format=I420,{size},framerate={load}/1 ! \
         fastvsr name=vsr execution-provider=cpu on-overload=resize ! fakesink name=sink sync=true",
        load * SECONDS
    ));
    let delays = Arc::<Mutex<Vec<Duration>>>::default();
    let vsr = pipeline.by_name("vsr").unwrap();
    let (inner, element) = (Arc::clone(&delays), vsr.downgrade());
    vsr.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let element = element.upgrade().unwrap();
        let now = element.clock().unwrap().time() - element.base_time().unwrap();
        inner.lock().unwrap().push(now.saturating_sub(info.buffer().unwrap().pts().unwrap()).into());
        gst::PadProbeReturn::Ok
    });
    let begin = Instant::now();
    pipeline.set_state(gst::State::Playing).unwrap();
    loop {
        let message = pipeline.bus().unwrap().timed_pop(gst::ClockTime::from_seconds(SECONDS + 60)).unwrap();
        match message.view() {
            gst::MessageView::Latency(_) => pipeline.recalculate_latency().unwrap(),
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(_) => panic!("{}", error_text(&message)),
            _ => {}
        }
    }
    let took = begin.elapsed();
    let mut delays = delays.lock().unwrap().clone();
    assert_eq!(delays.len() as u64, load * SECONDS);
    let late = delays.last().copied().unwrap();
    delays.sort();
    let (median, worst) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!(
        "{fps:.1} fps alone, {load} fps came for {took:.1?}; delay at the source pad: median {median:.1?}, 99.9 % {:.1?}, \
         worst {worst:.1?}, last {late:.1?}; {}",
        delays[delays.len() * 999 / 1000],
        vsr.property::<gst::Structure>("stats")
    );
    assert!(took < Duration::from_secs(SECONDS + 3), "{took:?}");
}

#[test]
#[ignore = "takes ten minutes: `make soak`"]
fn ten_minutes_of_video_take_no_more_memory_than_one() {
    let pipeline = Pipeline::new(
        "videotestsrc pattern=ball ! video/x-raw,format=I420,width=640,height=360,framerate=25/1 ! \
         fastvsr name=vsr execution-provider=cpu ! fakesink sync=false",
    );
    pipeline.set_state(gst::State::Playing).unwrap();
    sleep(Duration::from_secs(60));
    let first = status("VmRSS:");
    for minute in 2..=10 {
        sleep(Duration::from_secs(60));
        let now = status("VmRSS:");
        println!("minute {minute}: {} MiB, {} MiB after the first", now >> 20, first >> 20);
        assert!(now.abs_diff(first) * 50 <= first, "{now} bytes against {first}");
    }
    println!("{}", pipeline.by_name("vsr").unwrap().property::<gst::Structure>("stats"));
}

/// The most memory that this process ever had, in bytes, after it has upscaled two frames within `LIMIT`.
fn peak(format: &str) -> u64 {
    Pipeline::new(&format!(
        "videotestsrc num-buffers=2 ! video/x-raw,format={format},width=3840,height=2160,framerate=25/1 ! \
         fastvsr max-memory={LIMIT} ! fakesink sync=false"
    ))
    .run_within(gst::ClockTime::from_seconds(900));
    status("VmHWM:")
}

const LIMIT: u64 = 2_000_000_000;

#[test]
#[ignore = "takes minutes: `make soak`"]
fn ultra_high_definition_stays_within_two_gigabytes() {
    const CHILD: &str = "FASTVSR_TEST_PEAK_OF";
    if let Ok(format) = std::env::var(CHILD) {
        println!("peak {}", peak(&format));
        return;
    }
    // Each in a process of its own: what one has taken would count for the next.
    for format in ["RGB", "I420"] {
        let name = "ultra_high_definition_stays_within_two_gigabytes";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args([name, "--exact", "--ignored", "--nocapture"]).env(CHILD, format).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let peak = text.split("peak ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect(&text);
        println!("3840x2160 {format}: at most {peak} bytes");
        assert!(peak.parse::<u64>().unwrap() < LIMIT);
    }
}
