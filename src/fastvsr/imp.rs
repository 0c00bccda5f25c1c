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
 * This file owns the element's virtual methods and properties. Frames are taken in by
 * `submit_input_buffer` and given out by `generate_output`, both in the streaming thread, which waits for the engine's
 * worker; a flush or a shutdown ends that wait from another thread.
 */

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
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
    CAT,
    accounts::{Accounts, clock_time},
    caps,
    failure::Failure,
    metas,
    opening::Opening,
    overload::{Effort, OnOverload},
    settings::{ExecutionProvider, MAX_SCALE, MAX_WINDOW, MEASURED, Precision, Settings},
    streaming::{Deadline, Next, Streaming, Work},
};
use crate::{
    color_fix::ColorFix,
    engine::{Build, Cancel, Engine, Error},
    model,
    sync::lock,
};

/// Scale for caps queries as long as nobody knows the model's: frames may leave in any size up to that.
const ANY_SCALE: usize = MAX_SCALE as usize;

/// How long the change to PAUSED waits for the model. One that takes longer is waited for by the streaming thread, which a
/// change back to NULL can interrupt, and the state change itself cannot.
const PATIENCE: Duration = Duration::from_secs(3);

/// The element.
///
/// Lock order: `state` before any other; the others are never held together, and none but `state` is held while the
/// engine runs, a buffer or event is pushed, or a message is posted.
#[derive(Debug, Default, glib::Properties)]
#[properties(wrapper_type = super::FastVsr)]
pub struct FastVsr {
    #[property(name = "model", get = Self::model, set, type = Option<String>, member = model, nick = "Model",
        blurb = "Model: a preset's name, an ONNX file, or a folder with a model.toml",
        default = Some(model::DEFAULT), mutable_ready)]
    #[property(name = "execution-provider", get, set, type = ExecutionProvider, member = execution_provider,
        nick = "Execution provider",
        blurb = "What runs the model; one that is named and does not work is an error, never a silent fall to the CPU",
        builder(ExecutionProvider::default()).mutable_ready())]
    #[property(name = "device-id", get, set, type = i32, member = device_id, nick = "Device ID",
        blurb = "Number of the GPU (cuda, tensorrt)", minimum = 0, default = 0, mutable_ready)]
    #[property(name = "precision", get, set, type = Precision, member = precision, nick = "Precision",
        blurb = "Arithmetic inside the model; 8-bit frames go in and come out in any case",
        builder(Precision::default()).mutable_ready())]
    #[property(name = "window", get, set, type = u32, member = window, nick = "Window",
        blurb = "Frames that are upscaled together, which delays the first of them by window - 1 frames (0 = the model's own)",
        maximum = MAX_WINDOW, default = 0, mutable_ready)]
    #[property(name = "scale", get, set, type = u32, member = scale, nick = "Scale",
        blurb = "Output pixels per input pixel along each axis, 1 to the model's own; less than that is upscaled by the model and then made smaller (0 = any size up to that, as downstream asks for, else the model's own)",
        maximum = MAX_SCALE, default = 0, mutable_playing)]
    #[property(name = "processing-latency", get, set, type = u64, member = processing_latency, nick = "Processing latency",
        blurb = "Time to allow for upscaling a window in the answer to LATENCY queries, in nanoseconds (default = measured while running)",
        default = MEASURED, mutable_playing)]
    #[property(name = "runtime-library", get, set, type = Option<String>, member = runtime_library, nick = "Runtime library",
        blurb = "ONNX Runtime library to load (default = ORT_DYLIB_PATH, beside the plugin, the system, the active Python environment)",
        mutable_ready)]
    #[property(name = "passthrough", get, set, type = bool, member = passthrough, nick = "Passthrough",
        blurb = "Hand frames on untouched, in their own size", default = false, mutable_playing)]
    #[property(name = "scene-cuts", get, set, type = bool, member = scene_cuts, nick = "Scene cuts",
        blurb = "Begin anew at scene cuts, so that nothing of one scene bleeds into the next", default = true, mutable_ready)]
    #[property(name = "max-memory", get, set, type = u64, member = max_memory, nick = "Maximum memory",
        blurb = "Memory that upscaling may take, in bytes: larger frames are cut into tiles, without seams (0 = no limit)",
        default = 0, mutable_ready)]
    #[property(name = "on-overload", get, set, type = OnOverload, member = on_overload, nick = "On overload",
        blurb = "What to do with frames that the model would deliver too late, by the clock of a live pipeline or by QoS events",
        builder(OnOverload::default()).mutable_ready())]
    #[property(name = "color-fix", get, set, type = ColorFix, member = color_fix, nick = "Colour fix",
        blurb = "How frames get the colours of the input back, for models that change them",
        builder(ColorFix::default()).mutable_ready())]
    #[property(name = "stats-interval", get, set, type = u64, member = stats_interval, nick = "Statistics interval",
        blurb = "Time between element messages with the statistics, in nanoseconds, told with the next frame that leaves (0 = none)",
        default = 0, mutable_playing)]
    settings: Mutex<Settings>,
    opening: Opening,
    /// Locked by the streaming thread, and by others only while it stands still (`stop`).
    state: Mutex<Option<Streaming>>,
    accounts: Mutex<Accounts>,
    cancel: Arc<Cancel>,
    /// Whether the element is on its way to READY: a flush that ends now must not let the streaming thread wait again.
    stopping: AtomicBool,
    /// Whether the base class will mark the next frame that it pushes as a discontinuity.
    marks_next: AtomicBool,
}

impl FastVsr {
    /// How much larger frames may leave, and whether they must.
    fn scaling(&self) -> (i32, bool) {
        let settings = lock(&self.settings).clone();
        // What is agreed upon must be what the model makes: one that is still being loaded, and has no manifest that says it, is
        // waited for as by a frame.
        let waits = !settings.passthrough && self.obj().sink_pad().is_active();
        let waited = || waits.then(|| self.open_engine(None).ok().flatten()).flatten();
        let chosen = settings.scale();
        let most = chosen.or_else(|| self.opening.scale(&settings)).or_else(|| waited().map(|engine| engine.scale()));
        (most.unwrap_or(ANY_SCALE) as i32, chosen.is_some())
    }

    /// What the sink pad takes, best first. The base class would begin with frames that pass in their own size, which are
    /// enlarged least.
    fn accepted(&self, filter: Option<&gst::CapsRef>) -> gst::Caps {
        use gst::{CapsIntersectMode::First, PadDirection};
        let ((most, exact), own) = (self.scaling(), caps::template());
        let wanted = filter.map(|filter| caps::transform(PadDirection::Sink, &own.intersect(filter), most, exact));
        let peer = self.obj().src_pad().peer_query_caps(wanted.as_ref()).intersect_with_mode(&own, First);
        let accepted = caps::transform(PadDirection::Src, &peer, most, exact).intersect_with_mode(&own, First);
        match filter {
            Some(filter) => filter.intersect_with_mode(&accepted, First),
            None => accepted,
        }
    }

    /// Why the scale that is set cannot be had.
    fn scale_refusal(&self) -> Option<String> {
        let settings = lock(&self.settings).clone();
        let (scale, most) = (settings.scale()?, self.opening.scale(&settings)?);
        (!(1..=most).contains(&scale))
            .then(|| format!("expected a scale from 1 to {most}, the model's own, got {scale}"))
    }

    fn model(&self) -> Option<String> {
        Some(lock(&self.settings).model())
    }

    fn stats(&self) -> gst::Structure {
        lock(&self.accounts).stats.structure()
    }

    /// The engine that the settings ask for, with its model loaded; `None` if that takes longer than until `limit`, and goes
    /// on.
    fn open_engine(&self, limit: Option<Instant>) -> Result<Option<Arc<Engine>>, Error> {
        if let Some(engine) = self.opening.engine() {
            return Ok(Some(engine));
        }
        let settings = lock(&self.settings).clone();
        let Some(engine) = self.opening.open(&settings, &self.cancel, limit)? else {
            gst::info!(CAT, imp = self, "the model is still being loaded");
            return Ok(None);
        };
        let (manifest, device) = (engine.manifest(), engine.device());
        let (provider, precision) = (device.provider, device.precision.name());
        let library = engine.library().display();
        gst::info!(
            CAT,
            imp = self,
            "model {} {} on {provider} in {precision}, with {library}",
            manifest.name,
            manifest.version
        );
        for reason in engine.refused() {
            gst::info!(CAT, imp = self, "not taken: {reason}");
        }
        if let Some(reason) = engine.idle_gpu() {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("the GPU is not used: {reason}"));
        }
        lock(&self.accounts).stats.model = Some((manifest.name.clone(), device));
        Ok(Some(engine))
    }

    /// Posts an error and says how the flow ends.
    fn fail(&self, failure: &Failure) -> gst::FlowError {
        if failure.is_cancelled() {
            return gst::FlowError::Flushing;
        }
        self.post_error_message(failure.message());
        gst::FlowError::Error
    }

    /// Takes in a frame.
    fn push_frame(&self, buffer: &gst::Buffer) -> Result<(), gst::FlowError> {
        let deadline = self.deadline(buffer);
        let (result, before, after) = match lock(&self.state).as_mut() {
            Some(state) => {
                let before = state.effort();
                (state.push(buffer, deadline), before, state.effort())
            }
            None => return Err(gst::FlowError::NotNegotiated),
        };
        let work = result.map_err(|failure| self.fail(&failure))?;
        if work.cuts > 0 {
            gst::debug!(CAT, imp = self, "a scene begins at {:?}", buffer.pts());
        }
        self.add(&work);
        let message = {
            let stats = &mut lock(&self.accounts).stats;
            stats.frames_in += 1;
            stats.overloads += u64::from(before == Effort::Model && after != before);
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
        let accounts = lock(&self.accounts);
        let interval = accounts.interval(buffer.duration(), segment.rate());
        Some(Deadline { slack: accounts.deadlines.slack(frame, now), interval })
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
            let PrepareOutputBufferSuccess::Buffer(buffer) = prepared.inspect_err(|_| self.flush())? else {
                unreachable!("the element never works in place");
            };
            let result = match lock(&self.state).as_mut() {
                Some(state) => state.finish(&frame, buffer, &self.cancel),
                None => return Err(gst::FlowError::Flushing),
            };
            let (buffer, work) = result.map_err(|failure| self.fail(&failure))?;
            self.account(frame.effort(), &work);
            let end = buffer.pts().map(|pts| pts.saturating_add(buffer.duration().unwrap_or_default()));
            let segment = self.obj().segment().downcast::<gst::ClockTime>().ok();
            if let Some(time) = segment.and_then(|segment| segment.to_stream_time(end?)) {
                lock(&self.accounts).position = Some(time);
            }
            return Ok(Some(buffer));
        }
    }

    /// Counts a step of work, and tells the application when there was too little memory for it in one piece.
    fn add(&self, work: &Work) {
        let message = {
            let stats = &mut lock(&self.accounts).stats;
            stats.add(work);
            (work.steps_down > 0).then(|| stats.memory())
        };
        message.into_iter().for_each(|message| self.post_element(message));
    }

    /// Counts a frame that leaves, and tells the pipeline when the latency has changed.
    fn account(&self, effort: Effort, work: &Work) {
        self.add(work);
        let (interval, chosen) = {
            let settings = lock(&self.settings);
            (settings.stats_interval(), settings.processing_latency())
        };
        let (changed, message) = {
            let accounts = &mut *lock(&self.accounts);
            let changed = accounts.frame_out(effort);
            let is_due = interval.is_some_and(|interval| accounts.stats.is_due(interval, Instant::now()));
            (changed, is_due.then(|| accounts.stats.structure()))
        };
        message.into_iter().for_each(|message| self.post_element(message));
        if changed && chosen.is_none() {
            self.post_latency();
        }
    }

    /// Upscales and pushes everything that waits. What follows does not belong to the same window.
    fn drain(&self) -> Result<(), gst::FlowError> {
        let work = match lock(&self.state).as_mut() {
            Some(state) => state.drain(),
            None => return Ok(()),
        };
        self.add(&work);
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
            self.flush();
            self.release_events();
        }
    }

    /// Pushes the events that are left when their frames were dropped, so that later ones do not overtake them.
    fn release_events(&self) {
        let _ = self.next_buffer();
    }

    /// Drops the frames that wait, and the recurrent state.
    fn flush(&self) {
        gst::debug!(CAT, imp = self, "frames and recurrent state are dropped");
        lock(&self.accounts).flush();
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
            Build::Dropped => message.field("state", "dropped"),
            Build::Failed(reason) => message.field("state", "failed").field("error", reason),
        };
        let provider = self.opening.engine().map(|engine| engine.device().provider.name());
        let message = message.field("provider", provider).build();
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
        let chosen = lock(&self.settings).processing_latency();
        lock(&self.accounts).latency(chosen)
    }
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
        // After the derived ones, whose numbers are their places.
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            let stats = glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("Frames in and out, resized ones, overloads, windows, scene cuts, side of the tiles, times that memory ran out, mean milliseconds a frame per stage, frames a second, provider, model")
                .read_only()
                .build();
            [FastVsr::derived_properties(), &[stats]].concat()
        });
        &PROPERTIES
    }

    fn set_property(&self, id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        gst::info!(CAT, imp = self, "{} = {value:?}", pspec.name());
        self.derived_set_property(id, value, pspec);
        match pspec.name() {
            "passthrough" | "scale" => self.obj().reconfigure_src(),
            "processing-latency" => self.post_latency(),
            _ => {}
        }
    }

    fn property(&self, id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => self.stats().to_value(),
            _ => self.derived_property(id, pspec),
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
        *lock(&self.accounts) = Accounts::default();
        if lock(&self.settings).passthrough {
            return Ok(());
        }
        self.open_engine(Some(Instant::now() + PATIENCE)).map_err(|err| Failure::from(err).message())?;
        match self.scale_refusal() {
            Some(reason) => Err(gst::error_msg!(gst::LibraryError::Settings, ("{reason}"))),
            None => Ok(()),
        }
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = None;
        self.opening.close();
        gst::info!(CAT, imp = self, "{}", self.stats());
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
            let (most, exact) = self.scaling();
            caps::transform(direction, caps, most, exact)
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&other, gst::CapsIntersectMode::First),
            None => other,
        })
    }

    fn fixate_caps(&self, direction: gst::PadDirection, caps: &gst::Caps, othercaps: gst::Caps) -> gst::Caps {
        match VideoInfo::from_caps(caps) {
            Ok(input) if direction == gst::PadDirection::Sink => caps::fixate(&input, othercaps, self.scaling().0),
            _ => self.parent_fixate_caps(direction, caps, othercaps),
        }
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
            gst::debug!(CAT, imp = self, "a discontinuity at {:?}", buffer.pts());
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
                self.flush();
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
                    self.flush();
                }
            }
            EventView::StreamStart(_) => {
                self.drain_before("STREAM_START");
                self.flush();
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
                metas::scale_navigation(event, lock(&self.accounts).scale())
            }
            gst::EventView::Latency(latency) => {
                lock(&self.accounts).deadlines.configured = Some(latency.latency());
                event
            }
            gst::EventView::Qos(qos) => {
                let (_, _, late, frame) = qos.get();
                lock(&self.accounts).deadlines.earliest =
                    frame.map(|frame| clock_time(frame.nseconds().saturating_add_signed(late)));
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
        if direction == gst::PadDirection::Sink
            && let gst::QueryViewMut::Caps(caps) = query.view_mut()
            && !lock(&self.settings).passthrough
        {
            let accepted = self.accepted(caps.filter());
            caps.set_result(&accepted);
            return true;
        }
        // The base class does not know of the frames that leave in a drain, or past it.
        if direction == gst::PadDirection::Src
            && let gst::QueryViewMut::Position(position) = query.view_mut()
            && position.format() == gst::Format::Time
            && let Some(time) = lock(&self.accounts).position
        {
            position.set(time);
            return true;
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
            let least = min.saturating_add(own);
            latency.set(live, least, max.map(|max| max.saturating_add(own)));
            lock(&self.accounts).deadlines.promised = live.then_some(least);
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

        // What was set after the caps were agreed upon is asked for again with the next frame.
        let same_size = (input.width(), input.height()) == (output.width(), output.height());
        let untouched = passthrough && same_size;
        let state = if untouched {
            None
        } else {
            let element = self.obj().downgrade();
            let notify = move |build| {
                if let Some(element) = element.upgrade() {
                    element.imp().tell(&build);
                }
            };
            let state = self.open_engine(None).map_err(Failure::from).and_then(|engine| {
                let engine = engine.expect("there is no limit");
                let settings = lock(&self.settings).clone();
                Streaming::new(&engine, input, output, &settings, notify)
            });
            let state = state.map_err(|failure| {
                let _ = self.fail(&failure);
                gst::loggable_error!(CAT, "{failure}")
            })?;
            gst::info!(CAT, imp = self, "from {} to {}", describe(input), describe(output));
            if let Some(side) = state.tile() {
                gst::info!(CAT, imp = self, "frames are cut into tiles of {side}x{side} pixels");
            }
            Some(state)
        };
        lock(&self.accounts).begin(input, output, state.as_ref());
        *lock(&self.state) = state;
        // By its trait: the property `passthrough` has a setter of the same name.
        BaseTransformExt::set_passthrough(&*self.obj(), untouched);
        self.post_latency();
        Ok(())
    }
}

fn describe(info: &VideoInfo) -> String {
    format!("{} of {}x{}", info.format(), info.width(), info.height())
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
