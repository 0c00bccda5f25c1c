//! Events and queries among frames: their order, what drains, what a flush drops.

mod common;

use common::*;
use gst::prelude::*;

fn tag() -> gst::Event {
    titled("a title")
}

fn titled(title: &str) -> gst::Event {
    let mut tags = gst::TagList::new();
    tags.get_mut().unwrap().add::<gst::tags::Title>(&title, gst::TagMergeMode::Append);
    gst::event::Tag::new(tags)
}

fn custom(name: &str) -> gst::Event {
    gst::event::CustomDownstream::new(gst::Structure::new_empty(name))
}

/// A rig whose first events have left already.
fn rig(window: u32) -> Rig {
    let rig = Rig::new("nearest", window);
    rig.take();
    rig
}

#[test]
fn a_stream_begins_with_its_events() {
    let mut rig = Rig::new("nearest", 1);
    rig.push_flat([0]);
    assert_eq!(rig.trace(), "stream-start caps-32 segment 0");
}

#[test]
fn serialized_events_keep_their_place_among_frames() {
    let mut rig = rig(4);
    rig.push_flat([0]);
    assert!(rig.event(custom("first")));
    rig.push_flat([1]);
    assert!(rig.event(tag()));
    assert!(rig.event(custom("second")));
    rig.push_flat([2, 3]);
    assert!(rig.event(custom("third")));
    assert_eq!(rig.trace(), "0 first 1 tag second 2 3 third");
}

#[test]
fn an_event_without_frames_before_it_does_not_wait() {
    let mut rig = rig(4);
    assert!(rig.event(tag()));
    assert_eq!(rig.trace(), "tag");
}

#[test]
fn events_that_wait_leave_before_the_end() {
    let mut rig = rig(4);
    rig.push_flat([0, 1]);
    assert!(rig.event(tag()));
    rig.eos();
    assert_eq!(rig.trace(), "0 1 tag eos");
}

#[test]
fn out_of_band_events_do_not_wait() {
    let mut rig = rig(4);
    rig.push_flat([0]);
    assert!(rig.event(gst::event::CustomDownstreamOob::new(gst::Structure::new_empty("now"))));
    assert_eq!(rig.trace(), "custom-downstream-oob");
}

#[track_caller]
fn drains_before<E: Into<gst::Event>>(event: impl FnOnce() -> E, name: &str) {
    let mut rig = rig(4);
    rig.push_flat([0, 1, 2]);
    assert!(rig.event(event()));
    assert_eq!(rig.trace(), format!("0 1 2 {name}"));
}

#[test]
fn frames_leave_before_eos() {
    drains_before(gst::event::Eos::new, "eos");
}

#[test]
fn frames_leave_before_a_gap() {
    drains_before(|| gst::event::Gap::builder(FRAME * 3).duration(FRAME).build(), "gap");
}

#[test]
fn frames_leave_before_a_segment() {
    let segment = || {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(FRAME * 3);
        gst::event::Segment::new(&segment)
    };
    drains_before(segment, "segment");
}

#[test]
fn frames_leave_before_the_end_of_a_segment() {
    drains_before(|| gst::event::SegmentDone::new(FRAME * 3), "segment-done");
}

#[test]
fn frames_leave_before_another_stream() {
    drains_before(|| gst::event::StreamStart::new("another"), "stream-start");
}

#[test]
fn frames_leave_under_their_own_caps() {
    let mut rig = rig(4);
    rig.push_flat([0, 1]);
    rig.harness.set_src_caps(rgb(12, 4));
    rig.push_flat([2, 3, 4, 5]);
    assert_eq!(rig.trace().replace("segment ", ""), "0 1 caps-48 2 3 4 5");
}

#[test]
fn a_drain_query_drains() {
    let mut rig = rig(4);
    rig.push_flat([0, 1, 2]);
    rig.element.static_pad("sink").unwrap().query(&mut gst::query::Drain::new());
    assert_eq!(rig.trace(), "0 1 2");
}

#[test]
fn frames_do_not_wait_for_a_discont() {
    let mut rig = rig(4);
    rig.push_flat([0, 1, 2]);
    rig.push(with_flags(flat(&rgb(8, 4), 3, 0), gst::BufferFlags::DISCONT)).unwrap();
    assert_eq!(rig.trace(), "0 1 2");
    rig.push_flat([4, 5, 6]);
    assert_eq!(rig.trace(), "3 4 5 6");
}

#[track_caller]
fn eos_arrives_though_downstream_answers(flow: gst::FlowError) {
    let mut rig = rig(4);
    rig.push_flat([0, 1]);
    rig.downstream_answers(Err(flow));
    rig.eos();
    assert_eq!(rig.trace(), "eos");
}

#[test]
fn eos_arrives_though_downstream_fails() {
    eos_arrives_though_downstream_answers(gst::FlowError::Error);
}

#[test]
fn eos_arrives_though_downstream_flushes() {
    eos_arrives_though_downstream_answers(gst::FlowError::Flushing);
}

#[test]
fn eos_arrives_though_downstream_wants_no_more() {
    eos_arrives_though_downstream_answers(gst::FlowError::Eos);
}

#[test]
fn what_downstream_answers_reaches_upstream() {
    for flow in [gst::FlowError::Error, gst::FlowError::Flushing, gst::FlowError::Eos, gst::FlowError::NotLinked] {
        let mut rig = rig(2);
        rig.push_flat([0]);
        rig.downstream_answers(Err(flow));
        assert_eq!(rig.push(flat(&rgb(8, 4), 1, 0)), Err(flow));
    }
}

#[test]
fn after_a_refused_frame_the_next_ones_are_still_their_own() {
    let mut rig = rig(2);
    rig.downstream_answers(Err(gst::FlowError::NotLinked));
    rig.push_flat([10]);
    assert_eq!(rig.push(flat(&rgb(8, 4), 11, 11)), Err(gst::FlowError::NotLinked));
    rig.downstream_answers(Ok(gst::FlowSuccess::Ok));
    rig.push_flat(12..16);
    rig.eos();
    for frame in rig.frames() {
        let number = frame.pts().unwrap().nseconds() / FRAME.nseconds();
        assert_eq!(u64::from(level(&frame, &rgb(32, 16))), number);
    }
}

#[test]
fn a_flush_drops_what_waits() {
    let mut rig = rig(4);
    rig.push_flat([0, 1, 2]);
    assert!(rig.event(custom("dropped")));
    rig.flush();
    assert!(rig.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    rig.push_flat([7, 8]);
    rig.eos();
    assert_eq!(rig.trace(), "flush-start flush-stop segment 7 8 eos");
}

#[test]
fn a_flush_keeps_sticky_events() {
    let mut rig = rig(4);
    rig.push_flat([0]);
    assert!(rig.event(tag()));
    rig.flush();
    assert!(rig.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    rig.push_flat([7]);
    rig.eos();
    assert_eq!(rig.trace(), "flush-start flush-stop tag segment 7 eos");
}

#[test]
fn a_tag_from_before_a_flush_does_not_replace_one_from_after_it() {
    let mut rig = rig(4);
    rig.push_flat([0]);
    assert!(rig.event(titled("before")));
    rig.flush();
    assert!(rig.event(titled("after")));
    rig.eos();
    let title = |out: Out| match out {
        Out::Event(event) => match event.view() {
            gst::EventView::Tag(tag) => tag.tag().get::<gst::tags::Title>().map(|title| title.get().to_string()),
            _ => None,
        },
        Out::Frame(_) => None,
    };
    assert_eq!(rig.take().into_iter().filter_map(title).collect::<Vec<_>>(), ["before", "after"]);
}

#[test]
fn a_tag_behind_frames_that_downstream_refuses_still_arrives() {
    let mut rig = rig(4);
    rig.push_flat([0]);
    assert!(rig.event(tag()));
    rig.downstream_answers(Err(gst::FlowError::Eos));
    rig.eos();
    assert_eq!(rig.trace(), "tag eos");
}

#[test]
fn while_flushing_nothing_goes_in() {
    let mut rig = rig(1);
    assert!(rig.event(gst::event::FlushStart::new()));
    assert_eq!(rig.push(flat(&rgb(8, 4), 0, 0)), Err(gst::FlowError::Flushing));
    assert!(rig.event(gst::event::FlushStop::new(true)));
    assert!(rig.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    rig.push_flat([1]);
    assert_eq!(rig.trace(), "flush-start flush-stop segment 1");
}

#[test]
fn a_stream_can_begin_again_after_its_end() {
    let mut rig = rig(4);
    rig.push_flat([0]);
    rig.eos();
    assert!(rig.event(gst::event::StreamStart::new("another")));
    assert!(rig.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    rig.push_flat([1]);
    rig.eos();
    assert_eq!(rig.trace(), "0 eos stream-start segment 1 eos");
}

#[test]
fn frames_that_go_backwards_in_time_keep_their_order_of_arrival() {
    let mut rig = rig(3);
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_rate(-1.0);
    segment.set_stop(FRAME * 10);
    assert!(rig.event(gst::event::Segment::new(&segment)));
    rig.push_flat([9, 8, 7, 6, 5]);
    rig.eos();
    assert_eq!(rig.trace(), "segment 9 8 7 6 5 eos");
}

#[track_caller]
fn a_failing_run_is_an_error_and_the_stream_goes_on(model: &str) {
    let mut rig = Rig::with_caps(&fastvsr(model, 3), &rgb(12, 4));
    rig.take();
    rig.push_flat([0, 1]);
    assert_eq!(rig.push(flat(&rgb(12, 4), 2, 0)), Err(gst::FlowError::Error));
    let error = rig.error().unwrap();
    assert!(error.contains("decoder") && error.contains("12x4"), "{error}");
    assert!(rig.event(gst::event::Gap::builder(FRAME).build()));
    rig.harness.set_src_caps(rgb(16, 4));
    rig.push_flat([3, 4, 5]);
    rig.eos();
    assert_eq!(rig.trace().replace("segment ", ""), "gap caps-64 3 4 5 eos");
}

#[test]
fn a_failing_window_is_an_error_and_the_stream_goes_on() {
    a_failing_run_is_an_error_and_the_stream_goes_on("picky");
}

#[test]
fn a_failing_frame_is_an_error_and_the_stream_goes_on() {
    a_failing_run_is_an_error_and_the_stream_goes_on("picky-memory");
}

#[test]
fn after_a_failing_run_no_frame_takes_the_timestamp_of_another() {
    let mut rig = Rig::with_caps(&fastvsr("picky", 2), &rgb(16, 4));
    rig.push_flat([0]);
    // Shorter than the caps say.
    let mut short = gst::Buffer::with_size(16).unwrap();
    stamp(&mut short, 1);
    assert_eq!(rig.push(short), Err(gst::FlowError::Error));
    let error = rig.error().unwrap();
    assert!(error.contains("does not hold the frame"), "{error}");
    rig.push_flat(2..6);
    rig.eos();
    for frame in rig.frames() {
        let number = frame.pts().unwrap().nseconds() / FRAME.nseconds();
        assert_eq!(u64::from(level(&frame, &rgb(64, 16))), number);
    }
}
