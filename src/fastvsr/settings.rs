//! Owns the element's properties: names, ranges, defaults, units, and when they may change.

use std::path::PathBuf;

use glib::prelude::*;
use gst::prelude::*;
use once_cell::sync::Lazy;

use super::overload::OnOverload;
use crate::{
    color_fix::ColorFix,
    engine::{Precision, Provider},
    model,
};

/// Largest window, in frames; the same limit as in a model's manifest.
const MAX_WINDOW: u32 = 1024;

/// Largest scale; the same limit as in a model's manifest.
const MAX_SCALE: u32 = 16;

/// What the user has set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) model: String,
    pub(super) provider: Provider,
    pub(super) device: i32,
    pub(super) precision: Precision,
    pub(super) window: u32,
    /// `None`: what downstream asks for, else the model's.
    pub(super) scale: Option<u32>,
    /// `None`: measured.
    pub(super) processing_latency: Option<gst::ClockTime>,
    pub(super) runtime_library: Option<PathBuf>,
    pub(super) passthrough: bool,
    pub(super) scene_cuts: bool,
    /// Bytes; `None`: no limit.
    pub(super) max_memory: Option<u64>,
    pub(super) on_overload: OnOverload,
    pub(super) color_fix: ColorFix,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: model::DEFAULT.into(),
            provider: Provider::default(),
            device: 0,
            precision: Precision::default(),
            window: 0,
            scale: None,
            processing_latency: None,
            runtime_library: None,
            passthrough: false,
            scene_cuts: true,
            max_memory: None,
            on_overload: OnOverload::default(),
            color_fix: ColorFix::default(),
        }
    }
}

/// All properties; `stats` is answered by the element itself.
pub(super) static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
    let default = Settings::default();
    vec![
        glib::ParamSpecString::builder("model")
            .nick("Model")
            .blurb("Model package: a preset's name, or a folder with a model.toml")
            .default_value(Some(default.model.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("execution-provider", default.provider)
            .nick("Execution provider")
            .blurb("What runs the model; one that is named and does not work is an error, never a silent fall to the CPU")
            .mutable_ready()
            .build(),
        glib::ParamSpecInt::builder("device-id")
            .nick("Device ID")
            .blurb("Number of the GPU (cuda, tensorrt)")
            .minimum(0)
            .default_value(default.device)
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("precision", default.precision)
            .nick("Precision")
            .blurb("Arithmetic inside the model; 8-bit frames go in and come out in any case")
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("window")
            .nick("Window")
            .blurb("Frames that are upscaled together, which delays the first of them by window - 1 frames (0 = the model's own)")
            .maximum(MAX_WINDOW)
            .default_value(default.window)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("scale")
            .nick("Scale")
            .blurb("Output pixels per input pixel along each axis, 2 to the model's own; less than that is upscaled by the model and then made smaller (0 = what downstream asks for, else the model's own)")
            .maximum(MAX_SCALE)
            .default_value(default.scale.unwrap_or(0))
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt64::builder("processing-latency")
            .nick("Processing latency")
            .blurb("Time to allow for upscaling a window in the answer to LATENCY queries, in nanoseconds (default = measured while running)")
            .default_value(u64::MAX)
            .mutable_playing()
            .build(),
        glib::ParamSpecString::builder("runtime-library")
            .nick("Runtime library")
            .blurb("ONNX Runtime library to load (default = ORT_DYLIB_PATH, beside the plugin, the system, the active Python environment)")
            .mutable_ready()
            .build(),
        glib::ParamSpecBoolean::builder("passthrough")
            .nick("Passthrough")
            .blurb("Hand frames on untouched, in their own size")
            .default_value(default.passthrough)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("scene-cuts")
            .nick("Scene cuts")
            .blurb("Begin anew at scene cuts, so that nothing of one scene bleeds into the next")
            .default_value(default.scene_cuts)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("max-memory")
            .nick("Maximum memory")
            .blurb("Memory that upscaling may take, in bytes: larger frames are cut into tiles, without seams (0 = no limit)")
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("on-overload", default.on_overload)
            .nick("On overload")
            .blurb("What to do with frames that the model would deliver too late, by the clock of a live pipeline or by QoS events")
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder_with_default("color-fix", default.color_fix)
            .nick("Colour fix")
            .blurb("How frames get the colours of the input back, for models that change them")
            .mutable_ready()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Frames in and out, shrunk and resized ones, overloads, windows, scene cuts, side of the tiles, times that memory ran out, mean milliseconds a frame per stage, frames a second, provider, model")
            .read_only()
            .build(),
    ]
});

impl Settings {
    /// Sets a property. GObject has checked name, type and range.
    pub(super) fn set(&mut self, name: &str, value: &glib::Value) {
        match name {
            "model" => self.model = get::<Option<String>>(value).unwrap_or_else(|| model::DEFAULT.into()),
            "execution-provider" => self.provider = get(value),
            "device-id" => self.device = get(value),
            "precision" => self.precision = get(value),
            "window" => self.window = get(value),
            "scale" => self.scale = Some(get(value)).filter(|scale| *scale > 0),
            "processing-latency" => {
                self.processing_latency =
                    Some(get(value)).filter(|ns| *ns != u64::MAX).map(gst::ClockTime::from_nseconds)
            }
            "runtime-library" => self.runtime_library = get::<Option<String>>(value).map(PathBuf::from),
            "passthrough" => self.passthrough = get(value),
            "scene-cuts" => self.scene_cuts = get(value),
            "max-memory" => self.max_memory = Some(get(value)).filter(|bytes| *bytes > 0),
            "on-overload" => self.on_overload = get(value),
            "color-fix" => self.color_fix = get(value),
            _ => unreachable!("GObject knows the properties"),
        }
    }

    /// Reads a property.
    pub(super) fn get(&self, name: &str) -> glib::Value {
        match name {
            "model" => self.model.to_value(),
            "execution-provider" => self.provider.to_value(),
            "device-id" => self.device.to_value(),
            "precision" => self.precision.to_value(),
            "window" => self.window.to_value(),
            "scale" => self.scale.unwrap_or(0).to_value(),
            "processing-latency" => self.processing_latency.map_or(u64::MAX, gst::ClockTime::nseconds).to_value(),
            "runtime-library" => self.runtime_library.as_ref().map(|path| path.display().to_string()).to_value(),
            "passthrough" => self.passthrough.to_value(),
            "scene-cuts" => self.scene_cuts.to_value(),
            "max-memory" => self.max_memory.unwrap_or(0).to_value(),
            "on-overload" => self.on_overload.to_value(),
            "color-fix" => self.color_fix.to_value(),
            _ => unreachable!("GObject knows the properties"),
        }
    }
}

fn get<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
    value.get().unwrap_or_else(|_| unreachable!("GObject checks types"))
}
