//! Owns the policy for machines that are too slow for their stream: when a frame is due, and what can still be done with
//! it by then. Knows times, neither pixels nor clocks.
//!
//! Where the model cannot keep up at all, every second frame could still have it, which would flicker. So what has
//! proved too slow is only tried again after a pause, which gets longer with every attempt that fails.

use std::time::Duration;

/// What to do with frames that the model would deliver too late.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFastVsrOnOverload")]
pub enum OnOverload {
    /// Deliver them late.
    #[default]
    #[enum_value(name = "Wait: every frame has the model, however late", nick = "wait")]
    Wait,
    /// Resize them.
    #[enum_value(name = "Resize: late frames are resized without the model", nick = "resize")]
    Resize,
}

/// How a frame is upscaled.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// By the model.
    #[default]
    Model,
    /// By interpolation.
    Resize,
}

/// When frames are due, in running time.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Deadlines {
    /// The latency of a live stream up to here, as answered to the last LATENCY query.
    pub(super) promised: Option<gst::ClockTime>,
    /// What the pipeline has decided on.
    pub(super) configured: Option<gst::ClockTime>,
    /// Frames up to this time are late, says the sink's last QoS event.
    pub(super) earliest: Option<gst::ClockTime>,
}

impl Deadlines {
    /// Time that is left for a frame. `now` is the running time of a live stream that plays.
    pub(super) fn slack(&self, frame: gst::ClockTime, now: Option<gst::ClockTime>) -> Duration {
        if self.earliest.is_some_and(|earliest| frame <= earliest) {
            return Duration::ZERO;
        }
        let (Some(promised), Some(now)) = (self.promised, now) else { return Duration::MAX };
        let latency = self.configured.map_or(promised, |configured| configured.min(promised));
        frame.saturating_add(latency).saturating_sub(now).into()
    }
}

/// Shortest and longest pause before something is tried again that was too slow.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// How much of the time between two frames upscaling may take for good, in percent.
const SUSTAINED: u32 = 90;

/// Decides frame by frame.
#[derive(Debug, Default)]
pub(super) struct Overload {
    effort: Effort,
    /// What a frame takes with the model, as far as it is known.
    cost: Option<Duration>,
    /// Time of the last return to the model, and of the next one if it was too slow.
    risen: Duration,
    retry: Duration,
    pause: Duration,
}

impl Overload {
    /// What can be done with the next frame, which must leave after `slack` and comes `interval` after the one before,
    /// at `now`.
    pub(super) fn choose(&mut self, slack: Duration, interval: Duration, now: Duration) -> Effort {
        // What has never been tried must be, or its cost would never be known.
        let possible = self.cost.is_none_or(|cost| {
            let sustained = cost <= interval / 100 * SUSTAINED;
            slack >= cost && (self.effort == Effort::Model || sustained || now >= self.retry)
        });
        let effort = if possible { Effort::Model } else { Effort::Resize };
        match (self.effort, effort) {
            (Effort::Model, Effort::Resize) => {
                let in_vain = now < self.risen + PAUSE;
                self.pause = if in_vain { (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE) } else { PAUSE };
                self.retry = now + self.pause;
            }
            (Effort::Resize, Effort::Model) => {
                self.risen = now;
                // What it took long ago says little.
                self.cost = None;
            }
            (Effort::Resize, Effort::Resize) if now >= self.retry => {
                // Even for an attempt there is no time: if that was a hiccup, believe less in it.
                self.cost = self.cost.map(|cost| cost / 2);
                self.retry = now + self.pause;
            }
            _ => {}
        }
        self.effort = effort;
        effort
    }

    /// Learns what a frame took with the model.
    pub(super) fn learn(&mut self, cost: Duration) {
        self.cost = Some(self.cost.map_or(cost, |known| (known * 3 + cost) / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(40);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A live stream of `frames` frames that the model takes `cost` for, which may change; gives every frame's effort.
    /// None is late by more than what the model took longer than it ever did.
    fn play(frames: u32, latency: Duration, cost: impl Fn(u32) -> Duration) -> Vec<Effort> {
        let mut overload = Overload::default();
        let (mut free, mut debt, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let efforts = (0..frames).map(|n| {
            let arrival = INTERVAL * n;
            let now = free.max(arrival);
            let effort = overload.choose((arrival + latency).saturating_sub(now), INTERVAL, now);
            let cost = match effort {
                Effort::Model => cost(n),
                Effort::Resize => ms(2),
            };
            free = now + cost;
            if effort == Effort::Model {
                overload.learn(cost);
            }
            debt += cost.saturating_sub(longest);
            longest = longest.max(cost);
            assert!(free <= arrival + latency + debt, "frame {n}");
            effort
        });
        efforts.collect()
    }

    fn share(efforts: &[Effort], effort: Effort) -> f64 {
        efforts.iter().filter(|e| **e == effort).count() as f64 / efforts.len() as f64
    }

    #[test]
    fn a_machine_that_keeps_up_gives_every_frame_the_model() {
        let efforts = play(500, ms(45), |_| ms(35));
        assert!(efforts.iter().all(|effort| *effort == Effort::Model));
    }

    #[test]
    fn at_twice_the_load_frames_are_resized_and_the_model_is_tried_ever_more_rarely() {
        let efforts = play(7500, ms(100), |_| ms(80));
        let steps = efforts.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(share(&efforts, Effort::Resize) > 0.98 && steps < 60, "{steps} steps");
    }

    #[test]
    fn after_a_hiccup_the_model_is_back_at_once() {
        let efforts = play(200, ms(60), |n| if n == 50 { ms(400) } else { ms(30) });
        assert_eq!(efforts[50], Effort::Model);
        assert_eq!(efforts[52], Effort::Resize);
        assert!(efforts[120..].iter().all(|effort| *effort == Effort::Model));
    }

    #[test]
    fn when_the_load_goes_the_model_comes_back_for_good() {
        let efforts = play(2000, ms(100), |n| if n < 500 { ms(80) } else { ms(20) });
        assert!(efforts[400..500].iter().filter(|effort| **effort == Effort::Model).count() <= 2);
        assert!(efforts[1000..].iter().all(|effort| *effort == Effort::Model));
    }

    #[test]
    fn the_sink_may_say_that_frames_are_late() {
        let time = gst::ClockTime::from_mseconds;
        let deadlines = Deadlines { earliest: Some(time(80)), ..Deadlines::default() };
        assert_eq!(deadlines.slack(time(80), None), Duration::ZERO);
        assert_eq!(deadlines.slack(time(120), None), Duration::MAX);
    }

    #[test]
    fn the_shorter_of_two_latencies_counts() {
        let time = gst::ClockTime::from_mseconds;
        let mut deadlines = Deadlines { promised: Some(time(50)), ..Deadlines::default() };
        assert_eq!(deadlines.slack(time(100), Some(time(120))), ms(30));
        assert_eq!(deadlines.slack(time(100), Some(time(200))), ms(0));
        deadlines.configured = Some(time(40));
        assert_eq!(deadlines.slack(time(100), Some(time(120))), ms(20));
    }
}
