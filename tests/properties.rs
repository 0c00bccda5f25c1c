//! Properties: each by its name, what it takes, what it refuses, and the statistics.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use gst::prelude::*;

fn element() -> gst::Element {
    init();
    gst::ElementFactory::make("fastvsr").build().unwrap()
}

/// The text of a property's value, as `gst-launch-1.0` would take it.
fn text(element: &gst::Element, name: &str) -> String {
    element.property_value(name).serialize().unwrap().to_string()
}

#[track_caller]
fn takes(name: &str, default: &str, values: &[&str]) {
    let element = element();
    assert_eq!(text(&element, name), default, "default of {name}");
    for value in values {
        element.set_property_from_str(name, value);
        assert_eq!(text(&element, name), *value, "{name}");
    }
}

#[test]
fn the_model() {
    takes("model", "compact-s", &["another", "compact-s"]);
}

#[test]
fn execution_provider() {
    takes("execution-provider", "auto", &["cpu", "openvino", "cuda", "tensorrt", "auto"]);
}

#[test]
fn device_id() {
    takes("device-id", "0", &["3", "0"]);
}

#[test]
fn precision() {
    takes("precision", "auto", &["fp32", "bf16", "fp16", "auto"]);
}

#[test]
fn window() {
    takes("window", "0", &["1", "1024", "0"]);
}

#[test]
fn processing_latency() {
    takes("processing-latency", &u64::MAX.to_string(), &["0", "40000000", &u64::MAX.to_string()]);
}

#[test]
fn stats_interval() {
    takes("stats-interval", "0", &["1000000000", "0"]);
}

#[test]
fn runtime_library() {
    let element = element();
    assert_eq!(element.property::<Option<String>>("runtime-library"), None);
    element.set_property("runtime-library", "libonnxruntime.so");
    assert_eq!(element.property::<Option<String>>("runtime-library").as_deref(), Some("libonnxruntime.so"));
    element.set_property("runtime-library", None::<String>);
    assert_eq!(element.property::<Option<String>>("runtime-library"), None);
}

#[test]
fn passthrough() {
    takes("passthrough", "false", &["true", "false"]);
}

#[test]
fn scene_cuts() {
    takes("scene-cuts", "true", &["false", "true"]);
}

#[test]
fn max_memory() {
    takes("max-memory", "0", &["2000000000", "18446744073709551615", "0"]);
}

#[test]
fn on_overload() {
    takes("on-overload", "wait", &["resize", "wait"]);
}

#[test]
fn color_fix() {
    takes("color-fix", "none", &["mean", "wavelet", "none"]);
}

#[test]
fn no_model_is_the_default_model() {
    let element = element();
    element.set_property("model", None::<String>);
    assert_eq!(element.property::<String>("model"), "compact-s");
}

#[test]
fn the_list_is_complete() {
    let own = |pspec: &glib::ParamSpec| pspec.owner_type().name() == "GstFastVsr";
    let names: Vec<_> =
        element().list_properties().iter().filter(|pspec| own(pspec)).map(|pspec| pspec.name().to_string()).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "color-fix",
            "device-id",
            "execution-provider",
            "max-memory",
            "model",
            "on-overload",
            "passthrough",
            "precision",
            "processing-latency",
            "runtime-library",
            "scale",
            "scene-cuts",
            "stats",
            "stats-interval",
            "window"
        ]
    );
}

#[test]
fn every_property_says_what_it_does_and_when_it_may_change() {
    for pspec in element().list_properties().iter().filter(|pspec| pspec.owner_type().name() == "GstFastVsr") {
        let blurb = pspec.blurb().unwrap_or_default();
        assert!(blurb.len() > 20, "{}: {blurb}", pspec.name());
        let mutable = pspec.flags().intersects(gst::PARAM_FLAG_MUTABLE_READY | gst::PARAM_FLAG_MUTABLE_PLAYING);
        assert!(mutable || pspec.name() == "stats", "{}", pspec.name());
    }
}

#[track_caller]
fn refuses(name: &str, value: impl Into<glib::Value>) {
    let element = element();
    let before = text(&element, name);
    let value = value.into();
    let pspec = element.find_property(name).unwrap();
    let mut checked = value.clone();
    // SAFETY: the value has the type of the property.
    let changed = unsafe {
        glib::gobject_ffi::g_param_value_validate(
            glib::translate::ToGlibPtr::to_glib_none(&pspec).0,
            glib::translate::ToGlibPtrMut::to_glib_none_mut(&mut checked).0,
        )
    };
    assert_ne!(changed, 0, "{name} takes {value:?}");
    assert_eq!(text(&element, name), before);
}

#[test]
fn a_window_beyond_the_limit_is_refused() {
    refuses("window", 1025u32);
}

#[test]
fn a_negative_device_is_refused() {
    refuses("device-id", -1i32);
}

#[test]
fn statistics_before_the_start_are_empty() {
    let stats: gst::Structure = element().property("stats");
    assert_eq!(stats.name(), "fastvsr-stats");
    assert_eq!(stats.get::<u64>("frames-in"), Ok(0));
    assert_eq!(stats.get::<u64>("frames-out"), Ok(0));
    assert_eq!(stats.get::<f64>("fps"), Ok(0.0));
    assert_eq!(stats.get::<Option<String>>("provider"), Ok(None));
}

#[test]
fn statistics_count_frames_and_windows() {
    let mut rig = Rig::new("nearest", 4);
    rig.push_flat(0..6);
    let count = |rig: &Rig, name: &str| rig.stats().get::<u64>(name).unwrap();
    assert_eq!((count(&rig, "frames-in"), count(&rig, "frames-out"), count(&rig, "windows")), (6, 4, 1));
    rig.eos();
    assert_eq!((count(&rig, "frames-in"), count(&rig, "frames-out"), count(&rig, "windows")), (6, 6, 2));
}

#[test]
fn statistics_name_model_provider_and_precision() {
    let rig = Rig::new("counter", 1);
    let stats = rig.stats();
    assert_eq!(stats.get::<String>("model").as_deref(), Ok("counter"));
    assert_eq!(stats.get::<String>("provider").as_deref(), Ok("cpu"));
    assert_eq!(stats.get::<String>("precision").as_deref(), Ok("fp32"));
}

#[test]
fn statistics_say_where_the_time_goes() {
    let mut rig = Rig::with_caps(&fastvsr("compact-s", 2), &rgb(32, 32));
    rig.push_flat(0..4);
    let stats = rig.stats();
    for name in ["encoder-ms", "unet-ms", "decoder-ms", "convert-ms", "fps"] {
        assert!(stats.get::<f64>(name).unwrap() > 0.0, "{name} in {stats}");
    }
    let mut rig = Rig::with_caps(&fastvsr("slow", 1), &rgb(32, 32));
    rig.push_flat(0..2);
    let stats = rig.stats();
    let milliseconds = |name| stats.get::<f64>(name).unwrap();
    assert!(milliseconds("decoder-ms") > 10.0 * milliseconds("convert-ms"), "{stats}");
    let fps = 1e3 / (milliseconds("decoder-ms") + milliseconds("convert-ms"));
    assert!((milliseconds("fps") / fps - 1.0).abs() < 0.01, "{stats}");
}

/// The counts of frames that were told on the bus while six frames went through.
fn told_every(nanoseconds: u64) -> Vec<u64> {
    let element = fastvsr("nearest", 1);
    element.set_property("stats-interval", nanoseconds);
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat(0..6);
    let told = rig.bus.iter_filtered(&[gst::MessageType::Element]);
    let told = told.filter_map(|message| message.structure().map(ToOwned::to_owned));
    told.filter(|told| told.name() == "fastvsr-stats").map(|told| told.get("frames-out").unwrap()).collect()
}

#[test]
fn statistics_are_told_at_their_interval() {
    assert!(told_every(0).is_empty());
    assert!(told_every(u64::MAX).is_empty());
    // The first frame begins the interval.
    assert_eq!(told_every(1), [2, 3, 4, 5, 6]);
}

#[test]
fn statistics_begin_again_with_the_element() {
    let mut rig = Rig::new("nearest", 1);
    rig.push_flat(0..3);
    rig.element.set_state(gst::State::Ready).unwrap();
    rig.element.set_state(gst::State::Playing).unwrap();
    assert_eq!(rig.stats().get::<u64>("frames-in"), Ok(0));
}

#[test]
fn passthrough_hands_the_same_memory_on() {
    let element = fastvsr("nearest", 4);
    element.set_property("passthrough", true);
    let caps = rgb(9, 5);
    let mut rig = Rig::with_caps(&element, &caps);
    let buffer = flat(&caps, 0, 5);
    let memory = buffer.peek_memory(0).as_ptr();
    rig.push(buffer).unwrap();
    let frames = rig.frames();
    assert_eq!(frames[0].peek_memory(0).as_ptr(), memory);
    assert_eq!(rig.output_caps(), caps);
}

#[test]
fn passthrough_needs_no_model() {
    let element = element();
    element.set_property("model", "no-such-model");
    element.set_property("passthrough", true);
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat(0..3);
    rig.eos();
    assert_eq!(rig.levels(), [0, 1, 2]);
}

#[test]
fn passthrough_may_change_in_the_middle() {
    let mut rig = Rig::new("nearest", 4);
    rig.take();
    rig.push_flat([0, 1]);
    rig.element.set_property("passthrough", true);
    rig.push_flat([2, 3, 4]);
    assert_eq!(rig.output_caps(), rgb(8, 4));
    assert_eq!(rig.trace(), "0 1 caps-8 2 3 4");
    rig.element.set_property("passthrough", false);
    rig.push_flat([5, 6, 7]);
    rig.eos();
    assert_eq!(rig.output_caps(), rgb(32, 16));
    assert_eq!(rig.trace(), "caps-32 5 6 7 eos");
}

#[test]
fn passthrough_in_a_real_pipeline_loses_nothing() {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc num-buffers=60 ! video/x-raw,format=RGB,width=16,height=16,framerate=25/1 ! \
         fastvsr name=vsr execution-provider=cpu window=3 model={} ! fakesink name=sink",
        common::model("nearest").display()
    ));
    let seen = pipeline.count("sink");
    let vsr = pipeline.by_name("vsr").unwrap();
    let toggled = vsr.downgrade();
    let count = AtomicU32::new(0);
    vsr.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(7) {
            toggled.upgrade().unwrap().set_property("passthrough", count.is_multiple_of(14));
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.run();
    let times: Vec<_> = seen.lock().unwrap().iter().map(|frame| frame.pts().unwrap()).collect();
    assert_eq!(times, (0..60).map(|n| FRAME * n).collect::<Vec<_>>());
}
