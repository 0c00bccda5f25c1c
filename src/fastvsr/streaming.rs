//! Owns a stream between two caps: its frames on their way from input buffer to output buffer, and the events that
//! must keep their place among them. Used by the streaming thread alone.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use gst_video::VideoInfo;

use super::{
    convert::{Convert, Extra},
    failure::Failure,
    overload::{Effort, Overload},
    settings::Settings,
};
use crate::{
    color_fix::ColorFix,
    engine::{Build, Cancel, Device, Engine, Run, Stream, Timings},
    frames::Size,
    scene::CutDetector,
    window::{Window, Windower},
};

/// What leaves next.
#[derive(Debug)]
pub(super) enum Next {
    /// This frame: call [`Streaming::finish`] with it and an output buffer.
    Frame(Frame),
    /// This event.
    Event(gst::Event),
    /// Nothing before more input comes.
    Nothing,
}

/// What is kept of an input frame.
#[derive(Debug)]
pub(super) struct Frame {
    /// A buffer without memory: timestamps, flags and metas of the input. Upstream has its memory back already.
    pub(super) metadata: gst::Buffer,
    source: Source,
}

impl Frame {
    /// How it is upscaled.
    pub(super) fn effort(&self) -> Effort {
        match self.source {
            Source::Model { .. } => Effort::Model,
            Source::Input(_) => Effort::Resize,
        }
    }
}

/// Where an output frame's pixels come from.
#[derive(Debug)]
enum Source {
    /// The model, `extra` beside it, and from the padded input frame its colours, if they are to be fixed.
    Model { extra: Extra, colors: Option<Arc<Vec<u8>>> },
    /// The input buffer, which leaves at once.
    Input(gst::Buffer),
}

/// When a frame must leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// Time that is left.
    pub(super) slack: Duration,
    /// Time between frames.
    pub(super) interval: Duration,
}

#[derive(Debug)]
enum Item {
    Frame(Frame),
    Event(gst::Event),
}

/// What a step of the streaming thread did, and the time that it took.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Work {
    /// Windows begun.
    pub(super) windows: u64,
    /// Scene cuts found.
    pub(super) cuts: u64,
    /// How often the device ran out of memory and smaller parts had to do, and the side of the tiles that then did.
    pub(super) steps_down: u64,
    pub(super) tile: u64,
    /// What the frame ran on, and whether that was made for its size.
    pub(super) served: Option<(Device, bool)>,
    pub(super) stages: Timings,
    pub(super) convert: Duration,
}

/// One stream, from one CAPS to the next.
#[derive(Debug)]
pub(super) struct Streaming {
    pub(super) input: VideoInfo,
    pub(super) output: VideoInfo,
    convert: Convert,
    color_fix: ColorFix,
    scale: usize,
    windower: Windower<Arc<Vec<u8>>>,
    stream: Stream,
    /// Looks for scene cuts, if it shall.
    cuts: Option<CutDetector>,
    overload: Overload,
    effort: Effort,
    start: Instant,
    /// Time spent since the engine was idle last, and frames given out.
    busy: Duration,
    done: u32,
    /// Frames and events in order of arrival.
    queue: VecDeque<Item>,
    /// How many frames at the head of the queue can leave.
    ready: usize,
    /// Memory for decoded frames that need a conversion, used again and again.
    scratch: Option<gst::Buffer>,
}

impl Streaming {
    /// A stream from `input` to `output`, as the settings want it; `notify` is told how the making of a model for its frame
    /// size goes.
    ///
    /// # Errors
    /// If the frames cannot be converted, or need too much memory.
    pub(super) fn new(
        engine: &Arc<Engine>,
        input: &VideoInfo,
        output: &VideoInfo,
        settings: &Settings,
        notify: impl Fn(Build) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let padded = engine.padded(Size { width: input.width() as usize, height: input.height() as usize });
        let convert = Convert::new(input, output, padded, engine.scale())?;
        let own = convert.bytes() + settings.color_fix.bytes(padded);
        let windower = Windower::new(engine.manifest().time, settings.window as usize);
        let window = windower.delay() + 1;
        let stream = Stream::new(Arc::clone(engine), padded, window, settings.max_memory(), own, notify)?;
        Ok(Self {
            input: input.clone(),
            output: output.clone(),
            convert,
            color_fix: settings.color_fix,
            scale: engine.scale(),
            windower,
            stream,
            cuts: settings.scene_cuts.then(CutDetector::default),
            overload: Overload::default(),
            effort: Effort::default(),
            start: Instant::now(),
            busy: Duration::ZERO,
            done: 0,
            queue: VecDeque::new(),
            ready: 0,
            scratch: None,
        })
    }

    /// Side of the tiles that frames are cut into, in input pixels; `None` if they are not.
    pub(super) fn tile(&self) -> Option<usize> {
        self.stream.tile()
    }

    /// Frames by which the first frame of a window is delayed.
    pub(super) fn delay(&self) -> usize {
        self.windower.delay()
    }

    /// How the last frame that came is upscaled.
    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    /// Takes in a frame; begins a window if that completes one, or if the frame begins a new scene.
    ///
    /// # Errors
    /// As after every error of a stream nothing waits any more: what the engine has lost must not leave a frame behind
    /// that takes the pixels of another.
    pub(super) fn push(&mut self, buffer: &gst::Buffer, deadline: Option<Deadline>) -> Result<Work, Failure> {
        let begin = Instant::now();
        let result = self.try_push(buffer, deadline).inspect_err(|_| self.flush());
        self.busy += begin.elapsed();
        result
    }

    fn try_push(&mut self, buffer: &gst::Buffer, deadline: Option<Deadline>) -> Result<Work, Failure> {
        let mut work = Work::default();
        let effort = self.choose(deadline);
        if effort != self.effort {
            // The recurrent state is of no use after a gap: it begins anew.
            work = self.drain();
            self.restart();
            self.effort = effort;
        }
        let mut metadata = gst::Buffer::new();
        let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        buffer.copy_into(metadata.make_mut(), what, ..)?;
        if effort == Effort::Resize {
            let source = Source::Input(buffer.clone());
            self.queue.push_back(Item::Frame(Frame { metadata, source }));
            self.ready += 1;
            return Ok(work);
        }

        let start = Instant::now();
        let converted = self.convert.read(buffer)?;
        let tensor = Arc::new(converted.tensor);
        let cut = self.cuts.as_mut().is_some_and(|cuts| cuts.is_cut(&tensor, self.convert.padded()));
        work.cuts += u64::from(cut);
        work.convert += start.elapsed();
        if cut {
            let rest = self.windower.close();
            self.begin(rest, &mut work);
            self.windower.flush();
        }
        let colors = (self.color_fix != ColorFix::None).then(|| Arc::clone(&tensor));
        let source = Source::Model { extra: converted.extra, colors };
        self.queue.push_back(Item::Frame(Frame { metadata, source }));
        let window = self.windower.push(tensor);
        self.begin(window, &mut work);
        Ok(work)
    }

    fn choose(&mut self, deadline: Option<Deadline>) -> Effort {
        let Some(Deadline { slack, interval }) = deadline else { return Effort::Model };
        // The first frame of a window waits for the others, and all of them take as long as one, many times.
        let delay = self.delay() as u32;
        let slack = slack.saturating_sub(interval.saturating_mul(delay)) / (delay + 1);
        self.overload.choose(slack, interval, self.start.elapsed())
    }

    /// Begins the windows of all frames that wait: nothing more comes that belongs to them.
    pub(super) fn drain(&mut self) -> Work {
        let mut work = Work::default();
        let windows = self.windower.close();
        self.begin(windows, &mut work);
        work
    }

    fn begin(&mut self, windows: impl IntoIterator<Item = Window<Arc<Vec<u8>>>>, work: &mut Work) {
        for window in windows {
            self.ready += window.keep.len();
            work.windows += 1;
            self.stream.push(window);
        }
    }

    /// The next frame begins a new sequence, with blank recurrent state. Call it after [`Self::drain`].
    pub(super) fn restart(&mut self) {
        self.windower.flush();
        self.cuts.iter_mut().for_each(CutDetector::reset);
    }

    /// Whether an event must wait for frames before it.
    pub(super) fn holds_frames(&self) -> bool {
        self.queue.iter().any(|item| matches!(item, Item::Frame(_)))
    }

    /// Keeps an event until the frames before it have left.
    pub(super) fn hold(&mut self, event: gst::Event) {
        self.queue.push_back(Item::Event(event));
    }

    /// Drops all frames, and the events that a flush drops.
    pub(super) fn flush(&mut self) {
        self.queue.retain(|item| matches!(item, Item::Event(event) if event.is_sticky()));
        self.ready = 0;
        (self.busy, self.done) = (Duration::ZERO, 0);
        self.restart();
        self.stream.flush();
    }

    /// What leaves next.
    pub(super) fn next(&mut self) -> Next {
        match self.queue.front() {
            Some(Item::Frame(_)) if self.ready == 0 => return Next::Nothing,
            Some(Item::Frame(_)) => self.ready -= 1,
            _ => {}
        }
        match self.queue.pop_front() {
            Some(Item::Frame(frame)) => Next::Frame(frame),
            Some(Item::Event(event)) => Next::Event(event),
            None => Next::Nothing,
        }
    }

    /// Upscales a frame into its output buffer.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn finish(
        &mut self,
        frame: &Frame,
        buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Work), Failure> {
        let (begin, steps) = (Instant::now(), self.stream.steps_down());
        let result = self.try_finish(frame, buffer, cancel).inspect_err(|_| self.flush());
        self.busy += begin.elapsed();
        self.done += 1;
        if self.ready == 0 {
            if result.is_ok() && frame.effort() == Effort::Model {
                self.overload.learn(self.busy / self.done);
            }
            (self.busy, self.done) = (Duration::ZERO, 0);
        }
        let (buffer, mut work) = result?;
        work.steps_down = (self.stream.steps_down() - steps) as u64;
        work.tile = self.tile().unwrap_or(0) as u64;
        Ok((buffer, work))
    }

    fn try_finish(
        &mut self,
        frame: &Frame,
        mut buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Work), Failure> {
        let begin = Instant::now();
        let (extra, colors) = match &frame.source {
            Source::Input(input) => {
                self.convert.resize(input, buffer.make_mut())?;
                return Ok((buffer, Work { convert: begin.elapsed(), ..Work::default() }));
            }
            Source::Model { extra, colors } => (extra, colors.as_deref()),
        };
        let work = |run: Run| {
            let (stages, served) = (run.timings, Some((run.device, run.fixed_size)));
            let convert = begin.elapsed().saturating_sub(stages.total());
            Work { stages, served, convert, ..Work::default() }
        };
        if self.convert.is_tensor(&buffer) {
            let (buffer, run) = self.decode(colors, buffer, cancel)?;
            // What is left of the time was the waiting for the worker.
            let convert = if colors.is_some() { work(run).convert } else { Duration::ZERO };
            return Ok((buffer, Work { convert, ..work(run) }));
        }
        let scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => gst::Buffer::with_size(self.convert.output_bytes())?,
        };
        let (tensor, run) = self.decode(colors, scratch, cancel)?;
        self.convert.write(&tensor, extra, buffer.make_mut())?;
        self.scratch = Some(tensor);
        Ok((buffer, work(run)))
    }

    /// Decodes the next frame, with the colours of the padded input frame `colors` if that is given.
    fn decode(
        &mut self,
        colors: Option<&Vec<u8>>,
        buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Run), Failure> {
        let mapped = buffer
            .into_mapped_buffer_writable()
            .map_err(|_| glib::bool_error!("an output buffer cannot be mapped for writing"))?;
        let (mut mapped, run) = self.stream.next(mapped, cancel)?.expect("a frame that is ready is in the engine");
        if let Some(input) = colors {
            let stride = self.convert.padded().rgb_stride();
            self.color_fix.apply(input, stride, &mut mapped, stride * self.scale, self.convert.size(), self.scale);
        }
        Ok((mapped.into_buffer(), run))
    }
}
