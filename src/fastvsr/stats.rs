//! Owns the counters behind the `stats` property, and when they are told on the bus.

use std::time::{Duration, Instant};

use super::{overload::Effort, streaming::Work};
use crate::engine::{Device, Timings};

/// How much of the mean a new frame is, once there are more frames than that.
const SMOOTHING: u32 = 16;

/// What has passed since the element started.
#[derive(Debug, Default, Clone)]
pub(super) struct Stats {
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    /// Those of them that were resized without the model.
    pub(super) resized: u64,
    /// How often there was no time for the model.
    pub(super) overloads: u64,
    /// How often the device ran out of memory and smaller parts had to do.
    steps_down: u64,
    /// Side of the tiles that frames are cut into, in input pixels; 0 if they are not.
    pub(super) tile: u64,
    /// The model, and what it was loaded for.
    pub(super) model: Option<(String, Device)>,
    /// What the last frame ran on, and whether that was made for its size.
    served: Option<(Device, bool)>,
    windows: u64,
    cuts: u64,
    stages: Timings,
    convert: Duration,
    /// Time since the last frame left that was spent on the next one.
    open: Duration,
    mean: Duration,
    /// When the counters were told last, at first when the first frame left.
    told: Option<Instant>,
}

impl Stats {
    /// Adds a step of work.
    pub(super) fn add(&mut self, work: &Work) {
        self.windows += work.windows;
        self.cuts += work.cuts;
        if work.steps_down > 0 {
            self.steps_down += work.steps_down;
            self.tile = work.tile;
        }
        self.served = work.served.or(self.served);
        self.stages += work.stages;
        self.convert += work.convert;
        self.open += work.stages.total() + work.convert;
    }

    /// Counts a frame that leaves.
    pub(super) fn frame_out(&mut self, effort: Effort) {
        self.frames_out += 1;
        let open = std::mem::take(&mut self.open);
        match effort {
            Effort::Model => {
                let upscaled = self.frames_out - self.resized;
                let weight = u32::try_from(upscaled).unwrap_or(SMOOTHING).min(SMOOTHING);
                self.mean = (self.mean * (weight - 1) + open) / weight;
            }
            Effort::Resize => self.resized += 1,
        }
    }

    /// Whether the counters are to be told again at `now`; they then count as told.
    pub(super) fn is_due(&mut self, interval: Duration, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(*self.told.get_or_insert(now)) >= interval;
        if is_due {
            self.told = Some(now);
        }
        is_due
    }

    /// Smoothed time that one frame takes with the model, all stages and conversions.
    pub(super) fn mean_frame(&self) -> Duration {
        self.mean
    }

    /// What is told on the bus when frames are upscaled in another way than before.
    pub(super) fn overload(&self, effort: Effort) -> gst::Structure {
        let effort = match effort {
            Effort::Model => "model",
            Effort::Resize => "resize",
        };
        gst::Structure::builder("fastvsr-overload")
            .field("effort", effort)
            .field("resized", self.resized)
            .field("overloads", self.overloads)
            .build()
    }

    /// What is told on the bus when the device has run out of memory and smaller parts do.
    pub(super) fn memory(&self) -> gst::Structure {
        let message = gst::Structure::builder("fastvsr-memory");
        message.field("steps-down", self.steps_down).field("tile", self.tile).build()
    }

    /// The value of the `stats` property, and what is told on the bus at its interval. Times are means per frame given out, in milliseconds. Provider and precision are
    /// those of the last frame, before the first those that the model was loaded for.
    pub(super) fn structure(&self) -> gst::Structure {
        let device = self.served.map(|(device, _)| device).or(self.model.as_ref().map(|(_, device)| *device));
        let frames = self.frames_out.max(1) as f64;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3 / frames;
        let busy = (self.stages.total() + self.convert).as_secs_f64();
        gst::Structure::builder("fastvsr-stats")
            .field("frames-in", self.frames_in)
            .field("frames-out", self.frames_out)
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
            .field("provider", device.map(|device| device.provider.name()))
            .field("fixed-size", self.served.is_some_and(|(_, fixed_size)| fixed_size))
            .field("precision", device.map(|device| device.precision.name()))
            .field("model", self.model.as_ref().map(|(name, _)| name.as_str()))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_told_an_interval_apart() {
        let (mut stats, start) = (Stats::default(), Instant::now());
        let second = Duration::from_secs(1);
        let at = |tenths: u32| start + second * tenths / 10;
        let told: Vec<u32> = (0..50).filter(|tenths| stats.is_due(second, at(*tenths))).collect();
        assert_eq!(told, [10, 20, 30, 40]);
        // After a pause one message is enough.
        assert!(stats.is_due(second, at(95)));
        assert!(!stats.is_due(second, at(100)));
    }
}
