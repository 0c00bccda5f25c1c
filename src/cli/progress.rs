//! Owns what is told of a run while it lasts: a bar on terminals, or one JSON object a line for programs.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::time;

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A bar, where there is a terminal
    Bar,
    /// One JSON object a line on standard output: stage (load, upscale, mux, done), frame, of, fps, eta, film
    Json,
    /// Nothing
    None,
}

/// Time between two lines.
const INTERVAL: Duration = Duration::from_millis(500);

/// The progress of one film.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    form: Form,
    film: &'a Path,
    stage: &'static str,
    bar: ProgressBar,
    /// Frames there are, as far as the file says, and frames that are done.
    of: Option<u64>,
    frame: u64,
    /// When the first frame of this run was done, and how many there were then.
    first: Option<(Instant, u64)>,
    told: Option<Instant>,
}

impl<'a> Progress<'a> {
    /// Begins with `frame` frames done.
    pub(crate) fn new(form: Form, film: &'a Path, of: Option<u64>, frame: u64) -> Self {
        let (bar, template) = match of {
            _ if form != Form::Bar => (ProgressBar::hidden(), ""),
            Some(of) => (ProgressBar::new(of), "{percent:>3}% [{bar:40}] {pos}/{len} frames, {msg}"),
            None => (ProgressBar::no_length(), "{spinner} {pos} frames, {msg}, {elapsed}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid").progress_chars("=> "));
        bar.set_position(frame);
        bar.enable_steady_tick(INTERVAL);
        let mut progress = Self { form, film, stage: "load", bar, of, frame, first: None, told: None };
        progress.tell();
        progress
    }

    /// So many frames are done.
    pub(crate) fn set(&mut self, frame: u64) {
        if frame > self.frame && self.first.is_none() {
            self.first = Some((Instant::now(), frame));
            self.stage = "upscale";
            self.told = None;
        }
        self.frame = frame;
        if self.told.is_none_or(|told| told.elapsed() >= INTERVAL) {
            self.tell();
        }
    }

    /// Another kind of work begins.
    pub(crate) fn stage(&mut self, stage: &'static str) {
        self.stage = stage;
        self.tell();
    }

    fn tell(&mut self) {
        self.told = Some(Instant::now());
        let since = self.first.map(|(begin, first)| (begin.elapsed().as_secs_f64(), self.frame - first));
        let fps = since.filter(|(seconds, frames)| *frames > 0 && *seconds > 0.0).map(|(s, frames)| frames as f64 / s);
        let left = self.of.map(|of| of.saturating_sub(self.frame)).filter(|_| self.stage != "done");
        let eta = fps.zip(left).map(|(fps, left)| left as f64 / fps);
        match self.form {
            Form::Json => {
                let round = |value: Option<f64>| value.map(|value| (value * 10.0).round() / 10.0);
                let object = json!({
                    "film": self.film.to_string_lossy(), "stage": self.stage, "frame": self.frame, "of": self.of,
                    "fps": round(fps), "eta": round(eta),
                });
                println!("{object}");
            }
            Form::Bar => {
                self.bar.set_position(self.frame);
                let eta = eta.map_or("--:--".into(), |eta| time::show(gst::ClockTime::from_seconds_f64(eta)));
                match self.stage {
                    "upscale" => self.bar.set_message(format!("{:.1} fps, {eta} left", fps.unwrap_or_default())),
                    stage => self.bar.set_message(format!("0.0 fps, {eta} left ({stage})")),
                }
            }
            Form::None => {}
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
