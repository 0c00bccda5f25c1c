//! Caps: what is accepted, what comes out, what is refused and how.

mod common;

use std::str::FromStr;

use common::*;
use gst::prelude::*;

fn caps(text: &str) -> gst::Caps {
    init();
    gst::Caps::from_str(text).unwrap()
}

/// Everything but the size stays.
#[track_caller]
fn passes(fields: &str) {
    let mut input = caps(
        "video/x-raw,format=I420,width=20,height=12,interlace-mode=progressive,pixel-aspect-ratio=1/1,\
         framerate=25/1,colorimetry=bt601,chroma-site=jpeg",
    );
    let overrides = gst::Structure::from_str(&format!("video/x-raw,{fields}")).unwrap();
    for (name, value) in overrides.iter() {
        input.make_mut().structure_mut(0).unwrap().set_value(name, value.clone());
    }
    let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &input);
    let size = info(&input).size();
    rig.push(gst::Buffer::with_size(size).unwrap()).unwrap();
    let mut expected = input.clone();
    expected.make_mut().set("width", 80);
    expected.make_mut().set("height", 48);
    let got = rig.output_caps();
    assert!(got.is_strictly_equal(&expected), "expected {expected}, got {got}");
}

#[test]
fn a_framerate_passes() {
    passes("framerate=(fraction)30000/1001");
}

#[test]
fn an_unknown_framerate_passes() {
    passes("framerate=(fraction)0/1");
}

#[test]
fn a_variable_framerate_passes() {
    passes("framerate=(fraction)0/1,max-framerate=(fraction)60/1");
}

#[test]
fn a_pixel_aspect_ratio_passes() {
    passes("pixel-aspect-ratio=(fraction)12/11");
}

#[test]
fn colorimetry_passes() {
    for colorimetry in ["bt601", "bt709", "bt2020", "1:3:5:1"] {
        passes(&format!("colorimetry=(string){colorimetry}"));
    }
}

#[test]
fn a_chroma_site_passes() {
    passes("chroma-site=(string)mpeg2");
}

#[test]
fn hdr_metadata_passes() {
    passes(
        "format=(string)P010_10LE,colorimetry=(string)bt2100-pq,\
         mastering-display-info=(string)\"35400:14600:8500:39850:6550:2300:15635:16450:10000000:1\",\
         content-light-level=(string)\"1000:400\"",
    );
}

#[test]
fn a_field_that_nobody_knows_passes() {
    passes("multiview-mode=(string)mono,views=(int)1,something=(string)else");
}

#[test]
fn caps_that_come_again_change_nothing() {
    let mut rig = Rig::new("nearest", 4);
    rig.take();
    rig.push_flat([0, 1]);
    assert!(rig.event(gst::event::Caps::new(&rgb(8, 4))));
    assert_eq!(rig.trace(), "");
    rig.push_flat([2, 3]);
    assert_eq!(rig.trace(), "0 1 2 3");
}

#[test]
fn a_framerate_may_change_in_the_middle() {
    let mut rig = Rig::new("nearest", 4);
    rig.push_flat([0, 1]);
    let mut other = rgb(8, 4);
    other.make_mut().set("framerate", gst::Fraction::new(50, 1));
    rig.harness.set_src_caps(other);
    rig.push_flat([2]);
    rig.eos();
    assert_eq!(rig.levels(), [0, 1, 2]);
    assert_eq!(info(&rig.output_caps()).fps(), gst::Fraction::new(50, 1));
}

#[test]
fn a_format_may_change_in_the_middle() {
    let mut rig = Rig::new("nearest", 4);
    rig.push_flat([10, 11]);
    let mut gray = rgb(8, 4);
    gray.make_mut().set("format", "GRAY8");
    gray.make_mut().structure_mut(0).unwrap().remove_field("colorimetry");
    rig.harness.set_src_caps(gray.clone());
    let frames = rig.frames();
    assert_eq!(frames.iter().map(|frame| level(frame, &rgb(32, 16))).collect::<Vec<_>>(), [10, 11]);
    rig.push(gst::Buffer::from_slice([77; 32])).unwrap();
    rig.eos();
    let output = info(&rig.output_caps());
    assert_eq!(output.format(), gst_video::VideoFormat::Gray8);
    assert!(plane(&rig.frames()[0], &output, 0).iter().all(|value| value.abs_diff(77) <= 2));
}

#[test]
fn interlaced_video_is_refused_with_a_hint() {
    let input = "video/x-raw,format=I420,width=32,height=32,framerate=25/1,interlace-mode=";
    for mode in ["interleaved", "mixed"] {
        let mut rig = Rig::without_caps(&fastvsr("nearest", 1));
        rig.event(gst::event::StreamStart::new("interlaced"));
        rig.event(gst::event::Caps::new(&caps(&format!("{input}{mode}"))));
        let error = rig.error().expect("an error is posted");
        assert!(error.contains("deinterlace") && error.contains(mode), "{error}");
    }
}

#[test]
fn an_interlaced_source_is_refused_with_a_hint() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=5 ! interlace field-pattern=2:2 ! fastvsr model={} ! fakesink",
        model("nearest").display()
    ));
    let error = pipeline.run_to_error();
    assert!(error.contains("deinterlace"), "{error}");
}

#[test]
fn a_source_that_can_do_both_sends_progressive_video() {
    let rig = Rig::without_caps(&fastvsr("nearest", 1));
    let got = rig.element.static_pad("sink").unwrap().query_caps(None);
    assert_eq!(got.structure(0).unwrap().get::<&str>("interlace-mode"), Ok("progressive"), "{got}");
}

#[test]
fn a_deinterlaced_source_is_taken() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=5 ! video/x-raw,width=32,height=32 ! interlace field-pattern=2:2 ! deinterlace ! \
         fastvsr execution-provider=cpu model={} ! fakesink name=sink",
        model("nearest").display()
    ));
    let seen = pipeline.count("sink");
    pipeline.run();
    assert!(!seen.lock().unwrap().is_empty());
}

#[test]
fn a_size_wanted_downstream_reaches_upstream() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=2 ! video/x-raw,width=100,height=50 ! videoscale ! \
         fastvsr name=vsr execution-provider=cpu model={} ! video/x-raw,width=256,height=128 ! fakesink",
        model("nearest").display()
    ));
    let widths = std::sync::Arc::new(std::sync::Mutex::new(None));
    let pad = pipeline.by_name("vsr").unwrap().static_pad("sink").unwrap();
    let seen = std::sync::Arc::clone(&widths);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        let info = info(&pad.current_caps().unwrap());
        *seen.lock().unwrap() = Some((info.width(), info.height()));
        gst::PadProbeReturn::Ok
    });
    pipeline.run();
    assert_eq!(*widths.lock().unwrap(), Some((64, 32)));
}

#[test]
fn a_size_beyond_the_models_is_not_negotiated() {
    for (wanted, taken) in [(31, false), (32, true), (77, true), (128, true), (129, false)] {
        let mut rig = Rig::without_caps(&fastvsr("nearest", 1));
        rig.harness.set_sink_caps(gst::Caps::builder("video/x-raw").field("width", wanted).build());
        let got = rig.element.static_pad("sink").unwrap().query_caps(None);
        assert_eq!(got.can_intersect(&rgb(32, 32)), taken, "{wanted}");
    }
}

#[test]
fn a_source_that_can_do_several_sizes_is_asked_for_a_fourth_at_first() {
    let mut rig = Rig::without_caps(&fastvsr("nearest", 1));
    rig.harness.set_sink_caps(caps("video/x-raw,width={100,101,104},height=[50,60]"));
    let got = rig.element.static_pad("sink").unwrap().query_caps(None);
    let first = gst::Caps::builder_full().structure(got.structure(0).unwrap().to_owned()).build();
    for (width, height, fourth, any) in [
        (25, 15, true, true),
        (24, 15, false, false),
        (25, 12, false, false),
        (26, 13, true, true),
        (70, 50, false, true),
        (105, 50, false, false),
    ] {
        let size = caps(&format!("video/x-raw,format=RGB,width={width},height={height}"));
        assert_eq!((first.can_intersect(&size), got.can_intersect(&size)), (fourth, any), "{size} in {got}");
    }
}

#[test]
fn a_filter_in_a_caps_query_is_honoured() {
    let rig = Rig::without_caps(&fastvsr("nearest", 1));
    let filter = caps("video/x-raw,format=NV12,width=[1,10]; video/x-raw,format=RGB");
    let got = rig.element.static_pad("sink").unwrap().query_caps(Some(&filter));
    assert!(got.is_subset(&filter), "{got}");
    assert_eq!(got.structure(0).unwrap().get::<&str>("format"), Ok("NV12"));
}

#[test]
fn formats_that_are_not_supported_are_refused() {
    let rig = Rig::without_caps(&fastvsr("nearest", 1));
    let pad = rig.element.static_pad("sink").unwrap();
    assert!(!pad.query_accept_caps(&caps("video/x-raw,format=UYVY,width=8,height=8,framerate=25/1")));
    assert!(!pad.query_accept_caps(&caps("video/x-raw(memory:GLMemory),format=RGBA,width=8,height=8,framerate=25/1")));
    assert!(pad.query_accept_caps(&caps("video/x-raw,format=RGBA,width=8,height=8,framerate=25/1")));
}

#[test]
fn a_frame_without_caps_is_not_negotiated() {
    let mut rig = Rig::without_caps(&fastvsr("nearest", 1));
    rig.event(gst::event::StreamStart::new("no caps"));
    rig.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    assert_eq!(rig.push(gst::Buffer::with_size(96).unwrap()), Err(gst::FlowError::NotNegotiated));
}

#[test]
fn a_model_of_another_scale_scales_by_it() {
    let mut rig = Rig::new("twice", 1);
    rig.push_flat([9]);
    assert_eq!(rig.output_caps(), rgb(16, 8));
    assert_eq!(rig.levels(), [9]);
}

#[test]
fn a_model_of_another_scale_is_known_before_the_start() {
    let element = fastvsr("twice", 1);
    let filter = caps("video/x-raw,format=RGB,width=6,height=10");
    let capsfilter = gst::ElementFactory::make("capsfilter").property("caps", &filter).build().unwrap();
    element.link(&capsfilter).unwrap();
    let got = element.static_pad("sink").unwrap().query_caps(None);
    assert!(got.can_intersect(&caps("video/x-raw,format=RGB,width=3,height=5")), "{got}");
}

#[test]
fn a_model_of_another_scale_is_used_after_a_passthrough_too() {
    let element = fastvsr("twice", 1);
    element.set_property("passthrough", true);
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat([1]);
    assert_eq!(rig.output_caps(), rgb(8, 4));
    rig.take();
    rig.element.set_property("passthrough", false);
    rig.push_flat([2]);
    assert_eq!(rig.output_caps(), rgb(16, 8));
    assert_eq!(rig.levels(), [2]);
}

#[test]
fn another_size_wanted_downstream_in_the_middle_loses_nothing() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=40 ! videoscale ! fastvsr execution-provider=cpu window=4 model={} ! \
         capsfilter name=filter caps-change-mode=delayed caps=video/x-raw,width=64,height=64 ! fakesink name=sink",
        model("nearest").display()
    ));
    let widths = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
    let filter = pipeline.by_name("filter").unwrap();
    let seen = std::sync::Arc::clone(&widths);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        let mut seen = seen.lock().unwrap();
        seen.push(info(&pad.current_caps().unwrap()).width());
        if seen.len() == 10 {
            filter.set_property("caps", caps("video/x-raw,width=96,height=96"));
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.run();
    let widths = widths.lock().unwrap();
    assert_eq!(widths.len(), 40);
    assert!(widths.is_sorted() && widths[0] == 64 && widths[39] == 96, "{widths:?}");
}
