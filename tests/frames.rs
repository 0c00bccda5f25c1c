//! Frame for frame: as many out as in, in order, each with what its input carried.

mod common;

use common::*;
use gst::prelude::*;

/// Everything but the pixels that a frame carries.
fn carried(buffer: &gst::Buffer) -> impl PartialEq + std::fmt::Debug + use<> {
    (buffer.pts(), buffer.dts(), buffer.duration(), buffer.offset(), buffer.offset_end(), buffer.flags())
}

#[track_caller]
fn as_many_out_as_in(count: u64, window: u32) {
    let mut rig = Rig::new("nearest", window);
    rig.push_flat(0..count);
    rig.eos();
    let caps = rgb(8, 4);
    let expected: Vec<_> = (0..count).map(|n| carried(&flat(&caps, n, 0))).collect();
    let frames = rig.frames();
    assert_eq!(frames.iter().map(carried).collect::<Vec<_>>(), expected);
    let levels: Vec<_> = frames.iter().map(|frame| level(frame, &rgb(32, 16))).collect();
    assert_eq!(levels, (0..count).map(|n| n as u8).collect::<Vec<_>>());
}

#[test]
fn no_frame() {
    as_many_out_as_in(0, 4);
}

#[test]
fn one_frame() {
    as_many_out_as_in(1, 4);
}

#[test]
fn two_frames() {
    as_many_out_as_in(2, 4);
}

#[test]
fn a_window_less_one() {
    as_many_out_as_in(3, 4);
}

#[test]
fn a_window() {
    as_many_out_as_in(4, 4);
}

#[test]
fn a_window_and_one() {
    as_many_out_as_in(5, 4);
}

#[test]
fn windows_of_one_frame() {
    as_many_out_as_in(10, 1);
}

#[test]
fn the_window_of_the_model() {
    as_many_out_as_in(10, 0);
}

#[test]
fn a_window_longer_than_the_stream() {
    as_many_out_as_in(10, 1000);
}

#[test]
fn a_window_of_one_frame_gives_each_frame_at_once() {
    let mut rig = Rig::new("nearest", 1);
    for n in 0..5 {
        rig.push_flat([n]);
        assert_eq!(rig.frames().len(), 1, "frame {n}");
    }
}

#[test]
fn a_frame_waits_for_its_window_and_no_longer() {
    let mut rig = Rig::new("nearest", 4);
    rig.push_flat(0..3);
    assert_eq!(rig.frames().len(), 0);
    rig.push_flat([3]);
    assert_eq!(rig.frames().len(), 4);
}

#[test]
fn every_pixel_is_where_it_belongs() {
    let caps = rgb(9, 5);
    let mut rig = Rig::with_caps(&fastvsr("nearest", 2), &caps);
    let pixel = |n: usize, x: usize, y: usize| [(x * 20 + n) as u8, (y * 40) as u8, (n * 90) as u8];
    for n in 0..2 {
        let mut buffer = picture(&caps, |x, y| pixel(n, x, y));
        stamp(&mut buffer, n as u64);
        rig.push(buffer).unwrap();
    }
    let output = info(&rig.output_caps());
    for (n, frame) in rig.frames().iter().enumerate() {
        for (at, got) in plane(frame, &output, 0).chunks(3).enumerate() {
            assert_eq!(got, pixel(n, at % 36 / 4, at / 36 / 4), "frame {n}, pixel {at}");
        }
    }
}

#[test]
fn flags_and_offsets_pass() {
    let mut rig = Rig::new("nearest", 3);
    let flags = [
        gst::BufferFlags::DISCONT,
        gst::BufferFlags::DELTA_UNIT,
        gst::BufferFlags::MARKER,
        gst::BufferFlags::GAP,
        gst::BufferFlags::DROPPABLE | gst::BufferFlags::CORRUPTED,
        gst::BufferFlags::empty(),
        gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC,
    ];
    for (n, flags) in flags.into_iter().enumerate() {
        rig.push(with_flags(flat(&rgb(8, 4), n as u64, 0), flags)).unwrap();
    }
    rig.eos();
    assert_eq!(rig.frames().iter().map(|frame| frame.flags()).collect::<Vec<_>>(), flags);
}

#[test]
fn a_frame_that_left_in_a_drain_leaves_no_discont_behind() {
    let mut rig = Rig::new("nearest", 4);
    rig.push(with_flags(flat(&rgb(8, 4), 0, 0), gst::BufferFlags::DISCONT)).unwrap();
    rig.event(gst::event::Gap::builder(FRAME).duration(FRAME).build());
    rig.push_flat(2..6);
    let flags: Vec<_> = rig.frames().iter().map(|frame| frame.flags()).collect();
    assert_eq!(flags[0], gst::BufferFlags::DISCONT);
    assert_eq!(flags[1..], [gst::BufferFlags::empty(); 4]);
}

#[test]
fn quality_of_service_is_off_unless_asked_for() {
    assert!(!fastvsr("nearest", 1).property::<bool>("qos"));
}

#[test]
fn with_quality_of_service_an_unsynchronised_pipeline_loses_nothing() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=50 ! video/x-raw,format=RGB,width=16,height=16 ! \
         fastvsr qos=true window=3 execution-provider=cpu model={} ! fakesink name=sink sync=false qos=true",
        model("nearest").display()
    ));
    let seen = pipeline.count("sink");
    pipeline.run();
    assert_eq!(seen.lock().unwrap().len(), 50);
}

#[test]
fn ten_seconds_of_video_come_out_frame_for_frame() {
    let pipeline = Pipeline::new(
        "videotestsrc num-buffers=250 pattern=ball ! video/x-raw,width=32,height=24,framerate=25/1 ! identity name=in ! \
         fastvsr execution-provider=cpu ! fakesink name=sink",
    );
    let (before, after) = (pipeline.count("in"), pipeline.count("sink"));
    pipeline.run();
    let all = |seen: &std::sync::Mutex<Vec<gst::Buffer>>| seen.lock().unwrap().iter().map(carried).collect::<Vec<_>>();
    assert_eq!(all(&before).len(), 250);
    assert_eq!(all(&after), all(&before));
}
