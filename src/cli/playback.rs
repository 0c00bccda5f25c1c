//! Owns the running of a pipeline to its end: errors in words, interruption.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use gst::prelude::*;
use gstfastvsr::sync::lock;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether there is work that ends in order when it is interrupted.
static ORDERLY: AtomicBool = AtomicBool::new(false);

/// How often progress is told and an interruption noticed.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// Longest wait for a file to say what it is, or for its first frame.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ctrl-C, or a signal that asks to terminate.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Lets Ctrl-C end the process: at once, while there is nothing to be put in order, and the second time.
pub(crate) fn catch_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) || !ORDERLY.load(Ordering::SeqCst) {
            // SAFETY: ends the process, whatever other threads compute; there are no files to close.
            unsafe { libc::_exit(130) };
        }
    })?;
    Ok(())
}

/// From now on the first Ctrl-C ends the work in order.
pub(crate) fn be_orderly() {
    ORDERLY.store(true, Ordering::SeqCst);
}

/// Fails if the user has interrupted.
pub(crate) fn check_interrupted() -> Result<(), Interrupted> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
}

/// A pipeline that ends with its scope, and what it said that GStreamer lacks here.
#[derive(Debug)]
pub(crate) struct Playback(pub(crate) gst::Pipeline, Arc<Mutex<BTreeSet<String>>>);

impl Drop for Playback {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Playback {
    /// A pipeline from a description as for `gst-launch-1.0`.
    pub(crate) fn new(description: &str) -> Result<Self> {
        let pipeline = gst::parse::launch(description).map_err(|err| missing(&err))?;
        let pipeline: gst::Pipeline = pipeline.downcast().map_err(|_| anyhow!("not a pipeline: {description}"))?;
        let lacks = Arc::<Mutex<BTreeSet<String>>>::default();
        // As it is said: who waits for errors drops all else.
        pipeline.bus().expect("every pipeline has a bus").set_sync_handler({
            let lacks = Arc::clone(&lacks);
            move |_, message| {
                let text = message.structure().filter(|text| text.name() == "missing-plugin");
                lock(&lacks).extend(text.and_then(|text| text.get::<String>("name").ok()));
                gst::BusSyncReply::Pass
            }
        });
        Ok(Self(pipeline, lacks))
    }

    /// The element called `name` in the description.
    pub(crate) fn element(&self, name: &str) -> gst::Element {
        self.0.by_name(name).unwrap_or_else(|| unreachable!("{name} is in the description"))
    }

    pub(crate) fn sink(&self, name: &str) -> gst_app::AppSink {
        self.element(name).downcast().unwrap_or_else(|_| unreachable!("{name} is an appsink"))
    }

    pub(crate) fn source(&self, name: &str) -> gst_app::AppSrc {
        self.element(name).downcast().unwrap_or_else(|_| unreachable!("{name} is an appsrc"))
    }

    /// Goes to a state; what an element says about a failure is the error.
    pub(crate) fn set_state(&self, state: gst::State) -> Result<()> {
        match self.0.set_state(state) {
            Ok(_) => Ok(()),
            Err(err) => Err(self.error().unwrap_or_else(|| err.into())),
        }
    }

    /// The error that waits on the bus.
    pub(crate) fn error(&self) -> Option<anyhow::Error> {
        let message = self.0.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        if let gst::MessageView::Error(err) = message.view() { Some(self.describe(err)) } else { None }
    }

    /// Waits until something is so. `late` says what it means if it never is.
    pub(crate) fn wait(&self, late: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let bus = self.0.bus().expect("every pipeline has a bus");
        while !ready() {
            check_interrupted()?;
            ensure!(Instant::now() < deadline, "{late}");
            let message = bus.timed_pop_filtered(gst::ClockTime::from_mseconds(2), &[gst::MessageType::Error]);
            if let Some(gst::MessageView::Error(err)) = message.as_ref().map(|message| message.view()) {
                return Err(self.describe(err));
            }
        }
        Ok(())
    }

    fn describe(&self, err: &gst::message::Error) -> anyhow::Error {
        let place = err.src().map_or_else(String::new, |src| src.path_string().into());
        let lacks = lock(&self.1).iter().cloned().collect::<Vec<_>>().join(", ");
        let text = if lacks.is_empty() {
            in_words(err)
        } else {
            format!(
                "GStreamer lacks {lacks} here; on Debian `apt install gstreamer1.0-libav gstreamer1.0-plugins-bad \
                 gstreamer1.0-plugins-ugly`"
            )
        };
        Failure { place, text }.into()
    }

    /// Plays to the end; calls `tick` some times a second.
    pub(crate) fn run(&self, mut tick: impl FnMut()) -> Result<()> {
        self.set_state(gst::State::Playing)?;
        let bus = self.0.bus().expect("every pipeline has a bus");
        loop {
            check_interrupted()?;
            let message = bus.timed_pop_filtered(TICK, &[gst::MessageType::Eos, gst::MessageType::Error]);
            tick();
            match message.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(err)) => return Err(self.describe(err)),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }
}

/// What went wrong in a pipeline, and where.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// The names of the element and all that it is in.
    pub(crate) place: String,
    text: String,
}

fn in_words(err: &gst::message::Error) -> String {
    let error = err.error();
    if error.matches(gst::ResourceError::NoSpaceLeft) {
        return format!("{error} Free some space and go on with --resume");
    }
    // "Internal data stream error" alone says nothing; the reason is in the details.
    let detail = err.debug().filter(|_| error.matches(gst::StreamError::Failed));
    let source = err.src().map_or_else(String::new, |src| format!("{}: ", src.name()));
    match detail {
        Some(detail) => format!("{source}{error} {}", detail.lines().last().unwrap_or_default()),
        None => error.to_string(),
    }
}

/// An element that GStreamer does not have.
fn missing(err: &glib::Error) -> anyhow::Error {
    anyhow!("{err}; `fastvsr doctor` says what is missing and how to install it")
}
