//! Queries, upstream events, and metas.

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;
use gst_video::{VideoMeta, video_meta};

const UPSTREAM: gst::ClockTime = gst::ClockTime::from_mseconds(7);
const PROCESSING: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// What the element answers, with a live upstream.
#[track_caller]
fn latency(window: u32, framerate: (i32, i32)) -> gst::ClockTime {
    let element = fastvsr("nearest", window);
    element.set_property("processing-latency", PROCESSING.nseconds());
    let mut caps = rgb(8, 4);
    caps.make_mut().set("framerate", gst::Fraction::new(framerate.0, framerate.1));
    let mut rig = Rig::with_caps(&element, &caps);
    rig.harness.set_upstream_latency(UPSTREAM);
    rig.harness.query_latency().unwrap()
}

#[test]
fn a_window_of_one_frame_adds_no_frame_to_the_latency() {
    assert_eq!(latency(1, (25, 1)), UPSTREAM + PROCESSING);
}

#[test]
fn a_window_adds_all_its_frames_but_one_to_the_latency() {
    assert_eq!(latency(4, (25, 1)), UPSTREAM + PROCESSING + FRAME * 3);
    assert_eq!(latency(4, (50, 1)), UPSTREAM + PROCESSING + FRAME * 3 / 2);
}

#[test]
fn without_a_framerate_a_latency_is_assumed() {
    assert_eq!(latency(1, (0, 1)), UPSTREAM + PROCESSING);
    assert_eq!(latency(4, (0, 1)), UPSTREAM + PROCESSING + FRAME * 3);
}

#[test]
fn look_ahead_adds_to_the_latency() {
    let element = fastvsr("neighbours", 1);
    element.set_property("processing-latency", 0u64);
    let rig = Rig::with_caps(&element, &rgb(8, 4));
    assert_eq!(rig.harness.query_latency().unwrap(), FRAME);
}

#[test]
fn passthrough_adds_no_latency() {
    let element = fastvsr("nearest", 4);
    element.set_property("passthrough", true);
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat([0]);
    rig.harness.set_upstream_latency(UPSTREAM);
    assert_eq!(rig.harness.query_latency().unwrap(), UPSTREAM);
}

#[test]
fn the_measured_latency_is_a_run_of_the_model() {
    let mut rig = Rig::with_caps(&fastvsr("slow", 1), &rgb(64, 8));
    rig.push_flat(0..3);
    let stats = rig.stats();
    let run = stats.get::<f64>("decoder-ms").unwrap() + stats.get::<f64>("convert-ms").unwrap();
    let answer = rig.harness.query_latency().unwrap().nseconds() as f64 / 1e6;
    assert!(answer > run * 0.5 && answer < run * 3.0, "a run takes {run} ms, the answer is {answer} ms");
}

#[test]
fn a_changed_latency_is_announced() {
    let rig = Rig::new("nearest", 4);
    while rig.bus.pop_filtered(&[gst::MessageType::Latency]).is_some() {}
    rig.element.set_property("processing-latency", 5_000_000u64);
    assert!(rig.bus.pop_filtered(&[gst::MessageType::Latency]).is_some());
}

#[test]
fn the_position_is_that_of_the_last_frame_also_after_a_drain() {
    let mut rig = Rig::new("nearest", 4);
    let caps = rgb(8, 4);
    rig.push(with_flags(flat(&caps, 0, 0), gst::BufferFlags::DISCONT)).unwrap();
    rig.event(gst::event::Gap::new(FRAME, FRAME));
    let source = rig.element.static_pad("src").unwrap();
    let position = || source.query_position::<gst::ClockTime>();
    assert_eq!(position(), Some(FRAME));
    rig.push_flat(2..10);
    assert_eq!(position(), Some(FRAME * 10));
    rig.flush();
    assert_ne!(position(), Some(FRAME * 10));
}

#[test]
fn numbers_at_the_ends_of_their_ranges_are_numbers() {
    let last = gst::ClockTime::MAX;
    let element = fastvsr("nearest", 3);
    element.set_property("qos", true);
    element.set_property("processing-latency", last.nseconds());
    let mut caps = rgb(8, 4);
    caps.make_mut().set("framerate", gst::Fraction::new(1, i32::MAX));
    let mut rig = Rig::with_caps(&element, &caps);
    rig.harness.set_upstream_latency(last);
    assert_eq!(rig.harness.query_latency(), Some(last));
    for (late, frame) in [(1000, last), (i64::MAX, last), (-i64::MAX, last), (0, gst::ClockTime::ZERO)] {
        rig.harness.push_upstream_event(gst::event::Qos::new(gst::QOSType::Underflow, 2.0, late, frame));
        let mut buffer = flat(&rgb(8, 4), 0, 7);
        buffer.make_mut().set_pts(last);
        buffer.make_mut().set_duration(last);
        rig.push(buffer).unwrap();
    }
    rig.eos();
    assert_eq!(rig.levels(), [7; 4]);
}

#[test]
fn a_pointer_is_where_it_is_in_the_input() {
    let mut rig = Rig::new("nearest", 1);
    rig.push_flat([0]);
    let event = gst_video::NavigationEvent::new_mouse_move(100.0, 40.0).build();
    rig.harness.push_upstream_event(event);
    let mut event = rig.harness.pull_upstream_event().unwrap();
    while event.type_() != gst::EventType::Navigation {
        event = rig.harness.pull_upstream_event().unwrap();
    }
    let structure = event.structure().unwrap();
    assert_eq!(structure.get::<f64>("pointer_x"), Ok(25.0));
    assert_eq!(structure.get::<f64>("pointer_y"), Ok(10.0));
}

#[test]
fn seeks_and_other_events_go_upstream_as_they_are() {
    let mut rig = Rig::new("nearest", 1);
    let event = gst::event::CustomUpstream::new(gst::Structure::builder("hello").field("pointer_x", 8.0f64).build());
    rig.harness.push_upstream_event(event);
    let mut event = rig.harness.pull_upstream_event().unwrap();
    while event.type_() != gst::EventType::CustomUpstream {
        event = rig.harness.pull_upstream_event().unwrap();
    }
    assert_eq!(event.structure().unwrap().get::<f64>("pointer_x"), Ok(8.0));
}

#[test]
fn an_allocation_query_is_answered_with_a_pool_and_video_meta() {
    let rig = Rig::new("nearest", 4);
    let mut query = gst::query::Allocation::new(Some(&rgb(8, 4)), true);
    assert!(rig.element.static_pad("sink").unwrap().query(&mut query));
    assert!(query.find_allocation_meta::<VideoMeta>().is_some());
    let (_, size, _, _) = query.allocation_pools().next().expect("a pool is proposed");
    assert!(size as usize >= info(&rgb(8, 4)).size());
}

#[test]
fn a_pool_of_two_buffers_upstream_is_enough_for_any_window() {
    let caps = rgb(8, 4);
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(&caps), info(&caps).size() as u32, 2, 2);
    pool.set_config(config).unwrap();
    pool.set_active(true).unwrap();
    let mut rig = Rig::with_caps(&fastvsr("nearest", 16), &caps);
    let wait = gst::BufferPoolAcquireParams::with_flags(gst::BufferPoolAcquireFlags::DONTWAIT);
    for n in 0..40 {
        let mut buffer = pool.acquire_buffer(Some(&wait)).unwrap_or_else(|err| panic!("frame {n}: {err}"));
        buffer.get_mut().unwrap().map_writable().unwrap().fill(0);
        buffer.get_mut().unwrap().set_pts(FRAME * n);
        rig.push(buffer).unwrap();
    }
    rig.eos();
    assert_eq!(rig.frames().len(), 40);
    drop(rig);
    pool.set_active(false).unwrap();
}

#[test]
fn a_position_query_is_answered() {
    let mut rig = Rig::new("nearest", 1);
    rig.push_flat(0..5);
    let position = rig.element.static_pad("src").unwrap().query_position::<gst::ClockTime>();
    assert!(position >= Some(FRAME * 3), "{position:?}");
}

/// The frame that comes out for a frame with metas.
#[track_caller]
fn through(attach: impl FnOnce(&mut gst::BufferRef)) -> gst::Buffer {
    let mut rig = Rig::new("nearest", 2);
    let mut buffer = flat(&rgb(8, 4), 0, 0);
    attach(buffer.make_mut());
    rig.push(buffer).unwrap();
    rig.push_flat([1]);
    rig.frames().swap_remove(0)
}

#[test]
fn a_region_of_interest_is_scaled() {
    let out = through(|buffer| {
        video_meta::VideoRegionOfInterestMeta::add(buffer, "face", (1, 2, 3, 4));
    });
    let meta = out.meta::<video_meta::VideoRegionOfInterestMeta>().unwrap();
    assert_eq!((meta.rect(), meta.roi_type()), ((4, 8, 12, 16), "face"));
}

#[test]
fn a_crop_is_scaled() {
    let out = through(|buffer| {
        video_meta::VideoCropMeta::add(buffer, (1, 0, 6, 3));
    });
    assert_eq!(out.meta::<video_meta::VideoCropMeta>().unwrap().rect(), (4, 0, 24, 12));
}

#[test]
fn a_timecode_is_copied() {
    init();
    let code = gst_video::VideoTimeCode::new(
        gst::Fraction::new(25, 1),
        None,
        gst_video::VideoTimeCodeFlags::empty(),
        1,
        2,
        3,
        4,
        0,
    );
    let code: gst_video::ValidVideoTimeCode = code.try_into().unwrap();
    let out = through(|buffer| {
        gst_video::VideoTimeCodeMeta::add(buffer, &code);
    });
    assert_eq!(out.meta::<gst_video::VideoTimeCodeMeta>().unwrap().tc(), code);
}

#[test]
fn a_caption_is_copied() {
    let out = through(|buffer| {
        video_meta::VideoCaptionMeta::add(buffer, gst_video::VideoCaptionType::Cea608Raw, &[0x94, 0x20]);
    });
    assert_eq!(out.meta::<video_meta::VideoCaptionMeta>().unwrap().data(), [0x94, 0x20]);
}

#[test]
fn a_reference_timestamp_is_copied() {
    init();
    let reference = gst::Caps::builder("timestamp/x-unix").build();
    let out = through(|buffer| {
        gst::ReferenceTimestampMeta::add(buffer, &reference, gst::ClockTime::from_seconds(5), None);
    });
    let meta = out.meta::<gst::ReferenceTimestampMeta>().unwrap();
    assert_eq!(meta.timestamp(), gst::ClockTime::from_seconds(5));
}

#[test]
fn an_overlay_is_where_it_was_in_the_picture() {
    init();
    let mut pixels = gst::Buffer::from_mut_slice([255u8; 16]);
    VideoMeta::add(pixels.get_mut().unwrap(), gst_video::VideoFrameFlags::empty(), gst_video::VideoFormat::Bgra, 2, 2)
        .unwrap();
    let rectangle =
        gst_video::VideoOverlayRectangle::new_raw(&pixels, 3, 1, 2, 2, gst_video::VideoOverlayFormatFlags::empty());
    let composition = gst_video::VideoOverlayComposition::new(Some(&rectangle)).unwrap();
    let out = through(|buffer| {
        gst_video::VideoOverlayCompositionMeta::add(buffer, &composition);
    });
    let meta = out.meta::<gst_video::VideoOverlayCompositionMeta>().unwrap();
    let rectangles: Vec<_> = meta.overlay().iter().map(|rectangle| rectangle.render_rectangle()).collect();
    assert_eq!(rectangles, [(12, 4, 8, 8)]);
}

#[test]
fn a_video_meta_describes_the_output() {
    let out = through(|buffer| {
        VideoMeta::add(buffer, gst_video::VideoFrameFlags::empty(), gst_video::VideoFormat::Rgb, 8, 4).unwrap();
    });
    if let Some(meta) = out.meta::<VideoMeta>() {
        assert_eq!((meta.width(), meta.height()), (32, 16));
    }
    assert_eq!(out.iter_meta::<VideoMeta>().count().max(1), 1);
}

#[test]
fn every_frame_of_a_window_keeps_its_own_metas() {
    let mut rig = Rig::new("nearest", 4);
    for n in 0..4 {
        let mut buffer = flat(&rgb(8, 4), n, 0);
        video_meta::VideoRegionOfInterestMeta::add(buffer.make_mut(), "n", (n as u32, 0, 1, 1));
        rig.push(buffer).unwrap();
    }
    let left = |frame: &gst::Buffer| frame.meta::<video_meta::VideoRegionOfInterestMeta>().unwrap().rect().0;
    assert_eq!(rig.frames().iter().map(left).collect::<Vec<_>>(), [0, 4, 8, 12]);
}

#[test]
fn a_downstream_pool_of_one_buffer_is_enough() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=RGB,width=16,height=16 ! \
         fastvsr name=vsr execution-provider=cpu window=4 model={} ! fakesink name=sink enable-last-sample=false",
        model("nearest").display()
    ));
    let pool = gst_video::VideoBufferPool::new();
    let caps = rgb(64, 64);
    let offered = Arc::new(Mutex::new(0));
    let pad = pipeline.by_name("vsr").unwrap().static_pad("src").unwrap();
    let asked = Arc::clone(&offered);
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH, {
        let pool = pool.clone();
        move |_, probe| {
            if let Some(gst::PadProbeData::Query(query)) = &mut probe.data
                && let gst::QueryViewMut::Allocation(query) = query.view_mut()
            {
                query.add_allocation_pool(Some(&pool), info(&caps).size() as u32, 1, 1);
                *asked.lock().unwrap() += 1;
                return gst::PadProbeReturn::Handled;
            }
            gst::PadProbeReturn::Ok
        }
    });
    let seen = pipeline.count("sink");
    pipeline.run();
    assert!(*offered.lock().unwrap() > 0, "the pool was not asked for");
    assert_eq!(seen.lock().unwrap().len(), 20);
}
