//! Real pipelines: files in and out, live sources, applications.

mod common;

use std::{path::Path, time::Duration};

use common::*;
use gst::prelude::*;

const FRAMES: u64 = 30;

/// A moving picture of 64x48, encoded.
fn clip(folder: &Path, encoder: &str, muxer: &str) -> String {
    let file = folder.join("clip").display().to_string();
    Pipeline::new(&format!(
        "videotestsrc num-buffers={FRAMES} pattern=ball ! video/x-raw,width=64,height=48,framerate=25/1 ! \
         {encoder} ! {muxer} ! filesink location={file}"
    ))
    .run();
    file
}

/// Width, height, duration and codec of a file's video, as anybody would find them.
fn discover(file: &str) -> (u32, u32, gst::ClockTime) {
    init();
    let discoverer = gst_pbutils::Discoverer::new(TIMEOUT).unwrap();
    let info = discoverer.discover_uri(&glib::filename_to_uri(file, None).unwrap()).unwrap();
    let video = info.video_streams().swap_remove(0);
    (video.width(), video.height(), info.duration().unwrap())
}

/// The frames that a file decodes to.
fn decoded(file: &str) -> Vec<gst::Buffer> {
    let pipeline =
        Pipeline::new(&format!("filesrc location={file} ! decodebin ! videoconvert ! fakesink name=sink sync=false"));
    let seen = pipeline.count("sink");
    pipeline.run();
    std::mem::take(&mut seen.lock().unwrap())
}

#[track_caller]
fn transcodes(encoder: &str, muxer: &str) {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path(), encoder, muxer);
    let result = folder.path().join("result").display().to_string();
    Pipeline::new(&format!(
        "filesrc location={clip} ! decodebin ! videoconvert ! fastvsr execution-provider=cpu ! videoconvert ! \
         {encoder} ! {muxer} ! filesink location={result}"
    ))
    .run();
    let (before, after) = (discover(&clip), discover(&result));
    assert_eq!((after.0, after.1), (256, 192));
    assert_eq!(after.2, before.2, "the duration changes");
    let (before, after) = (decoded(&clip), decoded(&result));
    assert_eq!(after.len() as u64, FRAMES);
    let times = |frames: &[gst::Buffer]| frames.iter().map(|frame| frame.pts()).collect::<Vec<_>>();
    assert_eq!(times(&after), times(&before));
}

#[test]
fn an_mp4_with_h264_becomes_a_larger_one() {
    transcodes("x264enc speed-preset=ultrafast tune=zerolatency", "mp4mux");
}

#[test]
fn an_mp4_with_b_frames_becomes_a_larger_one() {
    transcodes("x264enc speed-preset=veryfast bframes=2", "mp4mux");
}

#[test]
fn a_matroska_file_becomes_a_larger_one() {
    transcodes("x264enc speed-preset=ultrafast", "matroskamux");
}

#[test]
fn a_file_can_be_scrubbed() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path(), "x264enc speed-preset=ultrafast key-int-max=5", "mp4mux");
    let pipeline = Pipeline::new(&format!(
        "filesrc location={clip} ! decodebin ! videoconvert ! fastvsr execution-provider=cpu window=3 model={} ! \
         fakesink name=sink",
        model("counter").display()
    ));
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.settle();
    for milliseconds in [800, 0, 400, 1000, 200] {
        let at = gst::ClockTime::from_mseconds(milliseconds);
        pipeline.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, at).unwrap();
        pipeline.settle();
        let sample = pipeline.by_name("sink").unwrap().property::<gst::Sample>("last-sample");
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap().clone();
        assert_eq!(segment.to_stream_time(sample.buffer().unwrap().pts()), Some(at));
    }
    assert_eq!(pipeline.error(), None);
}

#[test]
fn a_file_plays_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path(), "x264enc speed-preset=ultrafast key-int-max=5", "mp4mux");
    let pipeline = Pipeline::new(&format!(
        "filesrc location={clip} ! decodebin ! videoconvert ! fastvsr name=vsr execution-provider=cpu window=3 \
         model={} ! fakesink name=sink sync=false",
        model("nearest").display()
    ));
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.settle();
    let end = gst::ClockTime::from_mseconds(1200);
    let zero = gst::ClockTime::ZERO;
    let (before, after) = (pipeline.count("vsr"), pipeline.count("sink"));
    pipeline.seek(-1.0, gst::SeekFlags::FLUSH, gst::SeekType::Set, zero, gst::SeekType::Set, end).unwrap();
    pipeline.settle();
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.wait_eos();
    let times = |seen: &std::sync::Mutex<Vec<gst::Buffer>>| {
        seen.lock().unwrap().iter().map(|frame| frame.pts()).collect::<Vec<_>>()
    };
    assert_eq!(times(&after), times(&before));
    assert!(times(&after).len() >= 25, "{}", times(&after).len());
}

#[test]
fn still_pictures_are_video_of_one_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (folder.path().join("small.png"), folder.path().join("large.png"));
    Pipeline::new(&format!(
        "videotestsrc num-buffers=1 ! video/x-raw,width=33,height=21 ! pngenc snapshot=false ! filesink location={}",
        small.display()
    ))
    .run();
    Pipeline::new(&format!(
        "filesrc location={} ! pngdec ! videoconvert ! fastvsr execution-provider=cpu ! videoconvert ! \
         pngenc snapshot=false ! filesink location={}",
        small.display(),
        large.display()
    ))
    .run();
    // Width and height stand at a fixed place in the header.
    let header = std::fs::read(&large).unwrap();
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), (132, 84));
}

#[test]
fn a_live_source_runs() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc is-live=true num-buffers=25 ! video/x-raw,width=16,height=16,framerate=50/1 ! \
         fastvsr name=vsr execution-provider=cpu window=1 model={} ! fakesink name=sink sync=true",
        model("counter").display()
    ));
    let seen = pipeline.count("sink");
    pipeline.run();
    let times: Vec<_> = seen.lock().unwrap().iter().map(|frame| frame.pts().unwrap()).collect();
    assert_eq!(times.len(), 25);
    assert!(times.is_sorted());
}

#[test]
fn a_live_pipeline_counts_the_window_in_its_latency() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc is-live=true ! video/x-raw,width=16,height=16,framerate=50/1 ! \
         fastvsr execution-provider=cpu window=4 processing-latency=10000000 model={} ! fakesink sync=true processing-deadline=0",
        model("nearest").display()
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.settle();
    let mut query = gst::query::Latency::new();
    assert!(pipeline.query(&mut query));
    let (live, min, _) = query.result();
    assert!(live);
    // Three frames wait for the fourth, which the source itself delays by one.
    assert_eq!(min, gst::ClockTime::from_mseconds(4 * 20 + 10));
}

#[test]
fn an_application_pushes_and_pulls() {
    let pipeline = Pipeline::new(&format!(
        "appsrc name=in format=time ! fastvsr execution-provider=cpu window=4 model={} ! appsink name=out sync=false",
        model("counter").display()
    ));
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let caps = rgb(8, 4);
    source.set_caps(Some(&caps));
    pipeline.set_state(gst::State::Playing).unwrap();
    for n in 0..10 {
        source.push_buffer(flat(&caps, n, 5)).unwrap();
    }
    source.end_of_stream().unwrap();
    for n in 0..10u8 {
        let sample = sink.try_pull_sample(TIMEOUT).unwrap_or_else(|| panic!("frame {n} does not come"));
        let buffer = sample.buffer_owned().unwrap();
        assert_eq!(buffer.pts(), Some(FRAME * u64::from(n)));
        assert_eq!(level(&buffer, &sample.caps_owned().unwrap()), 5 + n * STEP);
    }
    assert!(sink.try_pull_sample(gst::ClockTime::SECOND).is_none());
    assert!(sink.is_eos());
}

#[test]
fn several_elements_in_a_row_multiply() {
    let nearest = model("nearest").display().to_string();
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=9 ! video/x-raw,width=8,height=6 ! \
         fastvsr execution-provider=cpu window=2 model={nearest} ! fastvsr execution-provider=cpu window=3 model={nearest} ! \
         video/x-raw,width=128,height=96 ! fakesink name=sink"
    ));
    let seen = pipeline.count("sink");
    pipeline.run();
    assert_eq!(seen.lock().unwrap().len(), 9);
}

#[test]
fn several_streams_run_side_by_side() {
    let branch = |n: usize| {
        format!(
            "videotestsrc num-buffers=40 ! video/x-raw,format=RGB,width=16,height=16 ! \
             fastvsr execution-provider=cpu window={n} model={} ! fakesink name=sink{n} ",
            model("counter").display()
        )
    };
    let pipeline = Pipeline::new(&(1..=4).map(branch).collect::<String>());
    let seen: Vec<_> = (1..=4).map(|n| pipeline.count(&format!("sink{n}"))).collect();
    pipeline.run();
    assert_eq!(seen.iter().map(|seen| seen.lock().unwrap().len()).collect::<Vec<_>>(), [40; 4]);
}

#[test]
fn a_tee_with_the_original_beside_it_stays_in_step() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=RGB,width=16,height=16 ! tee name=t \
         t. ! queue ! fastvsr execution-provider=cpu window=4 model={} ! fakesink name=large \
         t. ! queue ! fakesink name=small",
        model("nearest").display()
    ));
    let (large, small) = (pipeline.count("large"), pipeline.count("small"));
    pipeline.run();
    let times = |seen: &std::sync::Mutex<Vec<gst::Buffer>>| {
        seen.lock().unwrap().iter().map(|frame| frame.pts()).collect::<Vec<_>>()
    };
    assert_eq!(times(&large), times(&small));
}

#[test]
fn an_error_downstream_ends_the_pipeline_and_not_the_process() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc ! video/x-raw,format=RGB,width=16,height=16 ! \
         fastvsr execution-provider=cpu window=4 model={} ! identity error-after=6 ! fakesink",
        model("nearest").display()
    ));
    pipeline.run_to_error();
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(
        pipeline.state(gst::ClockTime::from_mseconds(Duration::from_secs(1).as_millis() as u64)).1,
        gst::State::Null
    );
}
