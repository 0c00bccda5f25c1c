//! Owns what threads other than the streaming thread ask for: counters, latency, deadlines, position.

use std::time::Duration;

use gst::prelude::*;
use gst_video::VideoInfo;

use super::{
    overload::{Deadlines, Effort},
    stats::Stats,
    streaming::Streaming,
};

/// Duration of a frame whose caps do not say, as in other delaying video elements.
const UNKNOWN_FRAME_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// The accounts of a run, from start to stop.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) stats: Stats,
    pub(super) deadlines: Deadlines,
    /// Stream time at which the last frame that left ends.
    pub(super) position: Option<gst::ClockTime>,
    /// Delay of the window, and frames in it.
    window_delay: gst::ClockTime,
    window_frames: u32,
    /// Output pixels per input pixel along each axis, once there are caps.
    scale: Option<(f64, f64)>,
    /// What the last LATENCY answer allowed for the upscaling of a window.
    processing: gst::ClockTime,
    frame_duration: gst::ClockTime,
}

impl Accounts {
    /// Takes note of new caps, and of how frames are upscaled from here on, if they are.
    pub(super) fn begin(&mut self, input: &VideoInfo, output: &VideoInfo, streaming: Option<&Streaming>) {
        let ratio = |output: u32, input: u32| f64::from(output) / f64::from(input);
        let delay = streaming.map_or(0, Streaming::delay) as u64;
        self.scale = Some((ratio(output.width(), input.width()), ratio(output.height(), input.height())));
        self.frame_duration = frame_duration(input);
        self.window_delay = clock_time(self.frame_duration.nseconds().saturating_mul(delay));
        self.window_frames = delay as u32 + 1;
        self.stats.tile = streaming.and_then(Streaming::tile).unwrap_or(0) as u64;
    }

    /// Forgets what belongs to frames that are dropped.
    pub(super) fn flush(&mut self) {
        self.deadlines.earliest = None;
        self.position = None;
    }

    /// Counts a frame that leaves; whether the latency has changed by it.
    pub(super) fn frame_out(&mut self, effort: Effort) -> bool {
        self.stats.frame_out(effort);
        let window = self.stats.mean_frame().saturating_mul(self.window_frames);
        let measured = clock_time(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
        // A quarter of slack, so that not every frame changes the answer.
        let changed = measured > self.processing || measured < self.processing / 2;
        if changed {
            self.processing = measured.saturating_add(measured / 4);
        }
        changed
    }

    /// The element's part of the latency: the window's delay, and the time for upscaling it, as measured or as `chosen`.
    pub(super) fn latency(&self, chosen: Option<gst::ClockTime>) -> gst::ClockTime {
        self.window_delay.saturating_add(chosen.unwrap_or(self.processing))
    }

    /// Time from a frame of such a duration to the next, played at such a rate.
    pub(super) fn interval(&self, duration: Option<gst::ClockTime>, rate: f64) -> Duration {
        let duration = Duration::from(duration.unwrap_or(self.frame_duration));
        Duration::try_from_secs_f64(duration.as_secs_f64() / rate.abs()).unwrap_or(Duration::MAX)
    }

    /// Output pixels per input pixel along each axis.
    pub(super) fn scale(&self) -> (f64, f64) {
        self.scale.unwrap_or((1.0, 1.0))
    }
}

/// A time; the highest number of nanoseconds stands for none.
pub(super) fn clock_time(nanoseconds: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(nanoseconds.min(gst::ClockTime::MAX.nseconds()))
}

fn frame_duration(info: &VideoInfo) -> gst::ClockTime {
    let fps = info.fps();
    let (numer, denom) = (fps.numer() as u64, fps.denom() as u64);
    if numer == 0 {
        return UNKNOWN_FRAME_DURATION;
    }
    gst::ClockTime::SECOND.mul_div_ceil(denom, numer).unwrap_or(UNKNOWN_FRAME_DURATION)
}
