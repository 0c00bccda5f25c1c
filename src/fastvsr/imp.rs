/*!
 * element-fastvsr:
 *
 * Upscales video with one-step video super-resolution: W x H in, 4W x 4H out, frame for frame, in the format that
 * comes in. The model lies in the plugin; ONNX Runtime is loaded when the element starts.
 *
 * |[
 * gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoconvert ! fastvsr ! videoconvert ! autovideosink
 * ]|
 *
 * This file owns the element's virtual methods and the mapping of errors to GStreamer's. Frames are taken in by
 * `submit_input_buffer` and given out by `generate_output`, both in the streaming thread, which waits for the engine's
 * worker; a flush or a shutdown ends that wait from another thread.
 */

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use gst::{glib, prelude::*, subclass::prelude::*};
use gst_base::{
    prelude::*,
    subclass::{
        base_transform::{GenerateOutputSuccess, InputBuffer, PrepareOutputBufferSuccess},
        prelude::*,
    },
};
use gst_video::{VideoInfo, subclass::prelude::*};
use once_cell::sync::Lazy;

use super::{
    caps, metas,
    overload::{Deadlines, Effort, OnOverload},
    settings::{PROPERTIES, Settings},
    stats::Stats,
    streaming::{Deadline, Failure, Next, Spent, Streaming},
};
use crate::{
    engine::{self, Build, Cancel, Engine, Error, Key, LogLevel, lock},
    model::Source,
};

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new("fastvsr", gst::DebugColorFlags::empty(), Some("One-step video super-resolution"))
});

/// Duration of a frame whose caps do not say, as in other delaying video elements.
const UNKNOWN_FRAME_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Scale for caps queries when the model cannot be read, which is an error once the element starts.
const DEFAULT_SCALE: usize = 4;

/// The element.
///
/// Lock order: `state` before any other; the others are never held together, and none but `state` is held while the
/// engine runs, a buffer or event is pushed, or a message is posted.
#[derive(Debug, Default)]
pub struct FastVsr {
    settings: Mutex<Settings>,
    engine: Mutex<Option<Arc<Engine>>>,
    /// Locked by the streaming thread, and by others only while it stands still (`stop`).
    state: Mutex<Option<Streaming>>,
    shared: Mutex<Shared>,
    cancel: Arc<Cancel>,
    /// Whether the element is on its way to READY: a flush that ends now must not let the streaming thread wait again.
    stopping: AtomicBool,
    /// Whether the base class will mark the next frame that it pushes as a discontinuity.
    marks_next: AtomicBool,
}

/// What threads other than the streaming thread ask for.
#[derive(Debug, Default)]
struct Shared {
    stats: Stats,
    /// Delay of the window, and frames in it.
    window_delay: gst::ClockTime,
    window_frames: u32,
    /// Output pixels per input pixel; 0 before there are caps.
    scale: u32,
    /// What the last LATENCY answer allowed for the upscaling of a window.
    processing: gst::ClockTime,
    frame_duration: gst::ClockTime,
    deadlines: Deadlines,
}

impl FastVsr {
    /// Scales that caps may be related by, best first.
    fn scales(&self) -> Vec<i32> {
        let chosen = lock(&self.settings).scale;
        match chosen {
            Some(scale) => vec![scale as i32],
            None => (2..=self.model_scale() as i32).rev().collect(),
        }
    }

    /// Why the scale that is set cannot be had.
    fn scale_refusal(&self) -> Option<String> {
        let scale = lock(&self.settings).scale? as usize;
        let most = self.model_scale();
        (!(2..=most).contains(&scale))
            .then(|| format!("expected a scale from 2 to {most}, the model's own, got {scale}"))
    }

    /// The model's scale, also before the model is loaded.
    fn model_scale(&self) -> usize {
        if let Some(engine) = lock(&self.engine).as_ref() {
            return engine.scale();
        }
        let model = lock(&self.settings).model.clone();
        let manifest = Source::find(&model).and_then(|source| source.manifest());
        manifest.map_or(DEFAULT_SCALE, |manifest| manifest.geometry.scale)
    }

    /// The engine that the settings ask for, loaded if need be.
    fn open_engine(&self) -> Result<Arc<Engine>, Error> {
        if let Some(engine) = lock(&self.engine).clone() {
            return Ok(engine);
        }
        let settings = lock(&self.settings).clone();
        let source = Source::find(&settings.model).map_err(Error::Model)?;
        let runtime = engine::load_runtime(settings.runtime_library.as_deref(), &self.plugin_folders(), log_runtime)?;
        let key = Key { source, provider: settings.provider, device: settings.device, precision: settings.precision };
        let engine = Engine::open(runtime, &key)?;
        gst::info!(
            CAT,
            imp = self,
            "model {} {} on {} in {}, with {}",
            engine.manifest.name,
            engine.manifest.version,
            engine.provider,
            engine.precision.nick(),
            engine.library.display()
        );
        for reason in &engine.refused {
            gst::info!(CAT, imp = self, "not taken: {reason}");
        }
        if let Some(reason) = engine.idle_gpu() {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("the GPU is not used: {reason}"));
        }
        *lock(&self.engine) = Some(Arc::clone(&engine));
        Ok(engine)
    }

    /// Folders where the plugin's own runtime may have been installed: beside its file, and beside the folder of
    /// plugins, where GStreamer does not take it for one.
    fn plugin_folders(&self) -> Vec<PathBuf> {
        let plugin = self.obj().factory().and_then(|factory| factory.plugin());
        let folder = plugin.and_then(|plugin| plugin.filename()).and_then(|file| file.parent().map(PathBuf::from));
        folder.into_iter().flat_map(|folder| [folder.join("../fastvsr"), folder]).collect()
    }

    /// Posts an error and says how the flow ends.
    fn fail(&self, failure: Failure) -> gst::FlowError {
        match failure {
            Failure::Engine(Error::Cancelled) => gst::FlowError::Flushing,
            Failure::Engine(err) => {
                self.post_error_message(error_message(&err));
                gst::FlowError::Error
            }
            Failure::Buffer(_) => {
                gst::element_imp_error!(self, gst::StreamError::Format, ("{failure}"));
                gst::FlowError::Error
            }
        }
    }

    /// Takes in a frame.
    fn push_frame(&self, buffer: &gst::Buffer) -> Result<(), gst::FlowError> {
        let deadline = self.deadline(buffer);
        let (result, before, after) = match lock(&self.state).as_mut() {
            Some(state) => {
                let before = state.effort();
                (state.push(buffer, deadline, &self.cancel), before, state.effort())
            }
            None => return Err(gst::FlowError::NotNegotiated),
        };
        let spent = result.map_err(|failure| self.fail(failure))?;
        self.add(&spent);
        let message = {
            let stats = &mut lock(&self.shared).stats;
            stats.frames_in += 1;
            stats.overloads += u64::from(before == Effort::Whole && after != before);
            (before != after).then(|| stats.overload(after))
        };
        message.into_iter().for_each(|message| self.post_element(message));
        Ok(())
    }

    /// When a frame must leave, where that matters.
    fn deadline(&self, buffer: &gst::Buffer) -> Option<Deadline> {
        let obj = self.obj();
        let by_clock = lock(&self.settings).on_overload != OnOverload::Wait;
        if !by_clock && !obj.is_qos() {
            return None;
        }
        let segment = obj.segment().downcast::<gst::ClockTime>().ok()?;
        let frame = segment.to_running_time(buffer.pts()?)?;
        let clock = obj.clock().filter(|_| by_clock && obj.current_state() == gst::State::Playing);
        let now = clock.zip(obj.base_time()).map(|(clock, base)| clock.time().saturating_sub(base));
        let shared = lock(&self.shared);
        let interval = buffer.duration().unwrap_or(shared.frame_duration);
        let interval = std::time::Duration::from(interval).div_f64(segment.rate().abs());
        Some(Deadline { slack: shared.deadlines.slack(frame, now), interval })
    }

    /// Gives out the next frame, after the events that stood before it.
    fn next_buffer(&self) -> Result<Option<gst::Buffer>, gst::FlowError> {
        loop {
            let next = lock(&self.state).as_mut().map_or(Next::Nothing, Streaming::next);
            let frame = match next {
                Next::Nothing => return Ok(None),
                Next::Event(event) => {
                    self.obj().src_pad().push_event(event);
                    continue;
                }
                Next::Frame(frame) => frame,
            };
            let prepared = self.prepare_output_buffer(InputBuffer::Readable(&frame.metadata));
            let PrepareOutputBufferSuccess::Buffer(buffer) = prepared.inspect_err(|_| self.forget())? else {
                unreachable!("the element never works in place");
            };
            let result = match lock(&self.state).as_mut() {
                Some(state) => state.finish(&frame, buffer, &self.cancel),
                None => return Err(gst::FlowError::Flushing),
            };
            let (buffer, spent) = result.map_err(|failure| self.fail(failure))?;
            self.account(frame.effort(), &spent);
            return Ok(Some(buffer));
        }
    }

    /// Counts a step of work, and tells the application when there was too little memory for it in one piece.
    fn add(&self, spent: &Spent) {
        let message = {
            let stats = &mut lock(&self.shared).stats;
            stats.add(spent);
            (spent.steps_down > 0).then(|| stats.memory())
        };
        message.into_iter().for_each(|message| self.post_element(message));
    }

    /// Counts a frame that leaves, and tells the pipeline when the latency has changed.
    fn account(&self, effort: Effort, spent: &Spent) {
        self.add(spent);
        let changed = {
            let shared = &mut *lock(&self.shared);
            shared.stats.frame_out(effort);
            let window = shared.stats.mean_frame() * shared.window_frames;
            let measured = gst::ClockTime::from_nseconds(window.as_nanos() as u64);
            // A quarter of slack, so that not every frame changes the answer.
            let changed = measured > shared.processing || measured * 2 < shared.processing;
            if changed {
                shared.processing = measured + measured / 4;
            }
            changed
        };
        if changed && lock(&self.settings).processing_latency.is_none() {
            self.post_latency();
        }
    }

    /// Upscales and pushes everything that waits. What follows does not belong to the same window.
    fn drain(&self) -> Result<(), gst::FlowError> {
        let result = match lock(&self.state).as_mut() {
            Some(state) => state.close(&self.cancel),
            None => return Ok(()),
        };
        let spent = result.map_err(|failure| self.fail(failure))?;
        self.add(&spent);
        while let Some(buffer) = self.next_buffer()? {
            self.obj().src_pad().push(buffer)?;
        }
        Ok(())
    }

    /// Drains before an event or query that must not overtake frames. The event goes on also when this fails: an
    /// error was posted, and EOS must arrive.
    fn drain_before(&self, what: impl std::fmt::Debug) {
        if let Err(flow) = self.drain() {
            gst::warning!(CAT, imp = self, "frames before {what:?} could not be pushed: {flow}");
            self.forget();
            self.release_events();
        }
    }

    /// Pushes the events that are left when their frames were dropped, so that later ones do not overtake them.
    fn release_events(&self) {
        let _ = self.next_buffer();
    }

    /// Drops the frames that wait, and the recurrent state.
    fn forget(&self) {
        lock(&self.shared).deadlines.earliest = None;
        if let Some(state) = lock(&self.state).as_mut() {
            state.flush();
        }
    }

    /// Tells the pipeline how the making of faster sessions goes.
    fn tell(&self, build: &Build) {
        let message = gst::Structure::builder("fastvsr-build");
        let message = match build {
            Build::Started => message.field("state", "started"),
            Build::Done(took) => message.field("state", "done").field("seconds", took.as_secs_f64()),
            Build::Failed(err) => message.field("state", "failed").field("error", err.to_string()),
        };
        let message =
            message.field("provider", lock(&self.engine).as_ref().map(|engine| engine.provider.nick())).build();
        self.post_element(message);
    }

    /// Tells the application, and the log.
    fn post_element(&self, message: gst::Structure) {
        gst::info!(CAT, imp = self, "{message}");
        let _ = self.obj().post_message(gst::message::Element::builder(message).src(&*self.obj()).build());
    }

    /// Asks the pipeline to query the latency again.
    fn post_latency(&self) {
        let _ = self.obj().post_message(gst::message::Latency::builder().src(&*self.obj()).build());
    }

    fn latency(&self) -> gst::ClockTime {
        if self.obj().is_passthrough() {
            return gst::ClockTime::ZERO;
        }
        let chosen = lock(&self.settings).processing_latency;
        let shared = lock(&self.shared);
        shared.window_delay + chosen.unwrap_or(shared.processing)
    }
}

/// The error as GStreamer classifies it: what went wrong for people, and nothing that a program must parse.
fn error_message(err: &Error) -> gst::ErrorMessage {
    match err {
        Error::RuntimeMissing { .. } | Error::RuntimeUnusable { .. } | Error::RuntimeMismatch { .. } => {
            gst::error_msg!(gst::LibraryError::Init, ("{err}"))
        }
        Error::Provider { .. } => gst::error_msg!(gst::LibraryError::Settings, ("{err}")),
        Error::Model(_) | Error::Graph { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{err}")),
        Error::Memory { .. } => gst::error_msg!(gst::ResourceError::Settings, ("{err}")),
        Error::Signature { .. } => gst::error_msg!(gst::StreamError::WrongType, ("{err}")),
        _ => gst::error_msg!(gst::StreamError::Failed, ("{err}")),
    }
}

/// Bridges ONNX Runtime's log to the element's category.
fn log_runtime(level: LogLevel, text: &str) {
    let level = match level {
        LogLevel::Fatal | LogLevel::Error => gst::DebugLevel::Error,
        LogLevel::Warning => gst::DebugLevel::Warning,
        LogLevel::Info => gst::DebugLevel::Info,
        LogLevel::Verbose => gst::DebugLevel::Trace,
    };
    gst::log_with_level!(CAT, level, "ONNX Runtime: {text}");
}

#[glib::object_subclass]
impl ObjectSubclass for FastVsr {
    const NAME: &'static str = "GstFastVsr";
    type Type = super::FastVsr;
    type ParentType = gst_video::VideoFilter;
}

impl ObjectImpl for FastVsr {
    fn constructed(&self) {
        self.parent_constructed();
        // VideoFilter turns QoS on; here it is a choice between the model and being in time.
        self.obj().set_qos(false);
        // What is neutral stays neutral when it is upscaled: the flag passes.
        self.obj().set_gap_aware(true);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        lock(&self.settings).set(pspec.name(), value);
        match pspec.name() {
            "passthrough" | "scale" => self.obj().reconfigure_src(),
            "processing-latency" => self.post_latency(),
            _ => {}
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => {
                let engine = lock(&self.engine).clone();
                lock(&self.shared).stats.structure(engine.as_deref()).to_value()
            }
            name => lock(&self.settings).get(name),
        }
    }
}

impl GstObjectImpl for FastVsr {}

impl ElementImpl for FastVsr {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "Video super-resolution",
                "Filter/Effect/Video/Scaler",
                "Upscales video four times with a one-step video super-resolution model (FastVSR, arXiv 2509.24142)",
                "The fastvsr authors",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        &caps::TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        // Before the parent: it waits for the streaming thread, which waits for the engine.
        if transition == gst::StateChange::PausedToReady {
            self.stopping.store(true, Ordering::SeqCst);
            self.cancel.cancel();
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for FastVsr {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.stopping.store(false, Ordering::SeqCst);
        self.cancel.reset();
        *lock(&self.shared) = Shared::default();
        if lock(&self.settings).passthrough {
            return Ok(());
        }
        self.open_engine().map_err(|err| error_message(&err))?;
        match self.scale_refusal() {
            Some(reason) => Err(gst::error_msg!(gst::LibraryError::Settings, ("{reason}"))),
            None => Ok(()),
        }
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = None;
        let engine = lock(&self.engine).take();
        gst::info!(CAT, imp = self, "{}", lock(&self.shared).stats.structure(engine.as_deref()));
        Ok(())
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let other = if lock(&self.settings).passthrough {
            caps.clone()
        } else {
            caps::transform(direction, caps, &self.scales())
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&other, gst::CapsIntersectMode::First),
            None => other,
        })
    }

    fn submit_input_buffer(&self, is_discont: bool, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        // Not `is_discont`: it stays set until the first output buffer, which comes a window later.
        let discont = buffer.flags().contains(gst::BufferFlags::DISCONT);
        self.marks_next.store(is_discont, Ordering::Relaxed);
        self.parent_submit_input_buffer(is_discont, buffer)?;
        if self.obj().is_passthrough() {
            return Ok(gst::FlowSuccess::Ok);
        }
        let Some(buffer) = self.take_queued_buffer() else { return Ok(gst::FlowSuccess::Ok) };
        if discont {
            self.drain()?;
            if let Some(state) = lock(&self.state).as_mut() {
                state.restart();
            }
        }
        self.push_frame(&buffer)?;
        Ok(gst::FlowSuccess::Ok)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        if self.obj().is_passthrough() {
            return self.parent_generate_output();
        }
        while let Some(buffer) = self.next_buffer()? {
            // The frame with the discontinuity may have left in a drain, which the base class did not see: it would
            // mark this one instead.
            let continues = !buffer.flags().contains(gst::BufferFlags::DISCONT);
            if continues && self.marks_next.load(Ordering::Relaxed) {
                self.obj().src_pad().push(buffer)?;
                continue;
            }
            self.marks_next.store(false, Ordering::Relaxed);
            return Ok(GenerateOutputSuccess::Buffer(buffer));
        }
        Ok(GenerateOutputSuccess::NoOutput)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        use gst::EventView;
        gst::trace!(CAT, imp = self, "{event:?}");
        match event.view() {
            EventView::FlushStart(_) => self.cancel.cancel(),
            EventView::FlushStop(_) => {
                self.forget();
                self.cancel.reset();
                if self.stopping.load(Ordering::SeqCst) {
                    self.cancel.cancel();
                }
                let taken = self.parent_sink_event(event);
                self.release_events();
                return taken;
            }
            EventView::Segment(segment) => {
                self.drain_before("SEGMENT");
                let old = self.obj().segment();
                // Only the position of a segment may change without a jump in the video.
                if !same_but_position(&old, segment.segment()) {
                    self.forget();
                }
            }
            EventView::StreamStart(_) => {
                self.drain_before("STREAM_START");
                self.forget();
            }
            EventView::Eos(_) | EventView::SegmentDone(_) | EventView::Gap(_) => self.drain_before(event.type_()),
            // Drains by itself, when it turns out that something changes.
            EventView::Caps(_) => {}
            _ if event.is_serialized() => {
                let mut state = lock(&self.state);
                if let Some(state) = state.as_mut().filter(|state| state.holds_frames()) {
                    state.hold(event);
                    return true;
                }
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        let event = match event.view() {
            gst::EventView::Navigation(_) if !self.obj().is_passthrough() => {
                metas::scale_navigation(event, lock(&self.shared).scale.max(1))
            }
            gst::EventView::Latency(latency) => {
                lock(&self.shared).deadlines.configured = Some(latency.latency());
                event
            }
            gst::EventView::Qos(qos) => {
                let (_, _, late, frame) = qos.get();
                lock(&self.shared).deadlines.earliest =
                    frame.map(|frame| gst::ClockTime::from_nseconds(frame.nseconds().saturating_add_signed(late)));
                // The base class would drop frames for it: holes in the window, and fewer frames out than in.
                return self.obj().sink_pad().push_event(event);
            }
            _ => event,
        };
        self.parent_src_event(event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if direction == gst::PadDirection::Sink
            && let gst::QueryViewMut::Drain(_) = query.view_mut()
        {
            self.drain_before("DRAIN");
        }
        if !BaseTransformImplExt::parent_query(self, direction, query) {
            return false;
        }
        if direction == gst::PadDirection::Src
            && let gst::QueryViewMut::Latency(latency) = query.view_mut()
        {
            let own = self.latency();
            let (live, min, max) = latency.result();
            gst::debug!(CAT, imp = self, "latency: upstream {min} to {max:?}, own {own}");
            latency.set(live, min + own, max.opt_add(own));
            lock(&self.shared).deadlines.promised = live.then_some(min + own);
        }
        true
    }

    fn transform_meta<'a>(
        &self,
        outbuf: &mut gst::BufferRef,
        meta: gst::MetaRef<'a, gst::Meta>,
        inbuf: &'a gst::BufferRef,
    ) -> bool {
        let infos = lock(&self.state).as_ref().map(|state| (state.input.clone(), state.output.clone()));
        let Some((input, output)) = infos else {
            return self.parent_transform_meta(outbuf, meta, inbuf);
        };
        let again = gst::MetaRef::clone(&meta);
        match metas::transform(meta, outbuf, &input, &output) {
            metas::Verdict::Done => false,
            metas::Verdict::Default => self.parent_transform_meta(outbuf, again, inbuf),
        }
    }
}

impl VideoFilterImpl for FastVsr {
    fn set_info(
        &self,
        _incaps: &gst::Caps,
        input: &VideoInfo,
        _outcaps: &gst::Caps,
        output: &VideoInfo,
    ) -> Result<(), gst::LoggableError> {
        let passthrough = lock(&self.settings).passthrough;
        let refusal = caps::refusal(input).or_else(|| self.scale_refusal().filter(|_| !passthrough));
        if let Some(reason) = refusal {
            gst::element_imp_error!(self, gst::CoreError::Negotiation, ("{reason}"));
            return Err(gst::loggable_error!(CAT, "{reason}"));
        }
        // Frames under the old caps leave before the new caps do.
        self.drain_before("CAPS");

        let same_size = (input.width(), input.height()) == (output.width(), output.height());
        let state = if same_size {
            None
        } else {
            let engine = self.open_engine().map_err(|err| {
                self.post_error_message(error_message(&err));
                gst::loggable_error!(CAT, "{err}")
            })?;
            let settings = lock(&self.settings).clone();
            let state = Streaming::new(&engine, input, output, &settings).map_err(|failure| {
                let reason = failure.to_string();
                let _ = self.fail(failure);
                gst::loggable_error!(CAT, "{reason}")
            })?;
            if let Some(side) = state.tile() {
                gst::info!(CAT, imp = self, "frames are cut into tiles of {side}x{side} pixels");
            }
            let element = self.obj().downgrade();
            state.prepare(move |build| {
                if let Some(element) = element.upgrade() {
                    element.imp().tell(&build);
                }
            });
            Some(state)
        };
        {
            let mut shared = lock(&self.shared);
            let delay = state.as_ref().map_or(0, Streaming::delay) as u64;
            shared.frame_duration = frame_duration(input);
            shared.scale = output.width() / input.width();
            shared.window_delay = shared.frame_duration * delay;
            shared.window_frames = delay as u32 + 1;
            shared.stats.padded = state.as_ref().map(Streaming::padded);
            shared.stats.tile = state.as_ref().and_then(Streaming::tile).unwrap_or(0) as u64;
        }
        *lock(&self.state) = state;
        self.obj().set_passthrough(same_size);
        self.post_latency();
        Ok(())
    }
}

fn frame_duration(info: &VideoInfo) -> gst::ClockTime {
    let fps = info.fps();
    let (numer, denom) = (fps.numer() as u64, fps.denom() as u64);
    if numer == 0 {
        return UNKNOWN_FRAME_DURATION;
    }
    gst::ClockTime::SECOND.mul_div_ceil(denom, numer).unwrap_or(UNKNOWN_FRAME_DURATION)
}

/// Whether a segment goes on where the old one was: frames before and after belong to one sequence.
fn same_but_position(old: &gst::Segment, new: &gst::Segment) -> bool {
    match (old.downcast_ref::<gst::ClockTime>(), new.downcast_ref::<gst::ClockTime>()) {
        (Some(old), Some(new)) => {
            let mut old = old.clone();
            old.set_position(new.position());
            old == *new
        }
        _ => false,
    }
}
