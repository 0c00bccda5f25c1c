//! Owns the counters behind the `stats` property.

use std::time::Duration;

use super::{overload::Effort, streaming::Spent};
use crate::{
    engine::{Engine, Timings},
    frames::Size,
};

/// How much of the mean a new frame is, once there are more frames than that.
const SMOOTHING: u32 = 16;

/// What has passed since the element started.
#[derive(Debug, Default, Clone)]
pub(super) struct Stats {
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    /// Those of them that the model upscaled in part, and not at all.
    pub(super) shrunk: u64,
    pub(super) resized: u64,
    /// How often there was no time for the model.
    pub(super) overloads: u64,
    /// How often the device ran out of memory and smaller parts had to do.
    steps_down: u64,
    /// Side of the tiles that frames are cut into, in input pixels; 0 if they are not.
    pub(super) tile: u64,
    /// Size of the frames that the model gets, once it is known.
    pub(super) padded: Option<Size>,
    windows: u64,
    cuts: u64,
    stages: Timings,
    convert: Duration,
    /// Time since the last frame left that was spent on the next one.
    open: Duration,
    mean: Duration,
}

impl Stats {
    /// Adds a step of work.
    pub(super) fn add(&mut self, spent: &Spent) {
        self.windows += spent.windows;
        self.cuts += spent.cuts;
        if spent.steps_down > 0 {
            self.steps_down += spent.steps_down;
            self.tile = spent.tile;
        }
        self.stages += spent.stages;
        self.convert += spent.convert;
        self.open += spent.stages.total() + spent.convert;
    }

    /// Counts a frame that leaves.
    pub(super) fn frame_out(&mut self, effort: Effort) {
        self.frames_out += 1;
        let open = std::mem::take(&mut self.open);
        match effort {
            Effort::Whole => {
                let whole = self.frames_out - self.shrunk - self.resized;
                let weight = u32::try_from(whole).unwrap_or(SMOOTHING).min(SMOOTHING);
                self.mean = (self.mean * (weight - 1) + open) / weight;
            }
            Effort::Middle => self.shrunk += 1,
            Effort::Resize => self.resized += 1,
        }
    }

    /// Smoothed time that one frame takes with the model, all stages and conversions.
    pub(super) fn mean_frame(&self) -> Duration {
        self.mean
    }

    /// What is told on the bus when frames are upscaled in another way than before.
    pub(super) fn overload(&self, effort: Effort) -> gst::Structure {
        let effort = match effort {
            Effort::Whole => "model",
            Effort::Middle => "shrink",
            Effort::Resize => "resize",
        };
        gst::Structure::builder("fastvsr-overload")
            .field("effort", effort)
            .field("shrunk", self.shrunk)
            .field("resized", self.resized)
            .field("overloads", self.overloads)
            .build()
    }

    /// What is told on the bus when the device has run out of memory and smaller parts do.
    pub(super) fn memory(&self) -> gst::Structure {
        let message = gst::Structure::builder("fastvsr-memory");
        message.field("steps-down", self.steps_down).field("tile", self.tile).build()
    }

    /// The value of the `stats` property. Times are means per frame given out, in milliseconds.
    pub(super) fn structure(&self, engine: Option<&Engine>) -> gst::Structure {
        let frames = self.frames_out.max(1) as f64;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3 / frames;
        let busy = (self.stages.total() + self.convert).as_secs_f64();
        gst::Structure::builder("fastvsr-stats")
            .field("frames-in", self.frames_in)
            .field("frames-out", self.frames_out)
            .field("shrunk", self.shrunk)
            .field("resized", self.resized)
            .field("overloads", self.overloads)
            .field("windows", self.windows)
            .field("scene-cuts", self.cuts)
            .field("tile", self.tile)
            .field("steps-down", self.steps_down)
            .field("encoder-ms", milliseconds(self.stages.encoder))
            .field("unet-ms", milliseconds(self.stages.unet))
            .field("decoder-ms", milliseconds(self.stages.decoder))
            .field("convert-ms", milliseconds(self.convert))
            .field("fps", if busy > 0.0 { self.frames_out as f64 / busy } else { 0.0 })
            .field("provider", engine.map(|engine| engine.provider.nick()))
            .field("fixed-size", engine.zip(self.padded).is_some_and(|(engine, size)| engine.is_fixed(size)))
            .field("precision", engine.map(|engine| engine.precision.nick()))
            .field("model", engine.map(|engine| engine.manifest.name.as_str()))
            .build()
    }
}
