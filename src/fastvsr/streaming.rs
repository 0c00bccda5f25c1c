//! Owns a stream between two caps: its frames on their way from input buffer to output buffer, and the events that
//! must keep their place among them. Used by the streaming thread alone.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use gst_video::VideoInfo;

use super::{
    convert::{Beside, Convert},
    overload::{Effort, OnOverload, Overload},
    settings::Settings,
};
use crate::{
    color_fix::ColorFix,
    engine::{Build, Cancel, Engine, Error, Stream, Timings},
    frames::{RGB, Size},
    scene::CutDetector,
    tiling::{self, Layout, Rect},
    window::{Window, Windower},
};

/// Why a frame could not be taken in or given out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The engine's reason.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The buffer cannot be mapped, or does not hold the frame that its caps announce.
    #[error("a buffer does not hold the frame that its caps describe: {0}")]
    Buffer(#[from] glib::BoolError),
}

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
    beside: Beside,
    source: Source,
}

impl Frame {
    /// How it is upscaled.
    pub(super) fn effort(&self) -> Effort {
        match self.source {
            Source::Engine(_) => Effort::Whole,
            Source::EngineAnd(_) => Effort::Middle,
            Source::Input(_) => Effort::Resize,
        }
    }
}

/// Where an output frame's pixels come from.
#[derive(Debug)]
enum Source {
    /// The engine, and from the padded input frame its colours, if they are to be fixed.
    Engine(Option<Arc<Vec<u8>>>),
    /// The middle from the engine, the rest from the padded input frame.
    EngineAnd(Arc<Vec<u8>>),
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

/// What a step did, and the time that it took.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Spent {
    /// Windows begun.
    pub(super) windows: u64,
    /// Scene cuts found.
    pub(super) cuts: u64,
    /// How often the device ran out of memory and smaller parts had to do, and the side of the tiles that then did.
    pub(super) steps_down: u64,
    pub(super) tile: u64,
    pub(super) stages: Timings,
    pub(super) convert: Duration,
}

/// A part of every frame on its way through the model.
#[derive(Debug)]
struct Lane {
    /// The part, in pixels of the padded frame.
    part: Rect,
    windower: Windower<Arc<Vec<u8>>>,
    stream: Stream,
}

impl Lane {
    fn new(engine: &Arc<Engine>, part: Rect, settings: &Settings, beside: usize) -> Result<Self, Error> {
        let windower = Windower::new(engine.manifest.time, settings.window as usize);
        let (engine, window) = (Arc::clone(engine), windower.delay() + 1);
        let stream = Stream::new(engine, part.size, window, settings.max_memory, beside)?;
        Ok(Self { part, windower, stream })
    }
}

/// Pixels of the output over which the middle fades into the rest, in pixels of the input.
const FEATHER: usize = 8;

/// The middle of a frame, a quarter of its area; none of a frame too small to have one.
fn middle(padded: Size, multiple: usize) -> Option<Rect> {
    let side = |length: usize| (length / 2).next_multiple_of(multiple);
    let start = |length: usize| (length - side(length)) / 2 / multiple * multiple;
    let size = Size { width: side(padded.width), height: side(padded.height) };
    let large = size.width.min(size.height) >= 4 * FEATHER.max(multiple);
    large.then(|| Rect { x: start(padded.width), y: start(padded.height), size })
}

/// One stream, from one CAPS to the next.
#[derive(Debug)]
pub(super) struct Streaming {
    pub(super) input: VideoInfo,
    pub(super) output: VideoInfo,
    convert: Convert,
    color_fix: ColorFix,
    scale: usize,
    /// By [`Effort`]: the whole frame, then its middle if that may be needed.
    lanes: Vec<Lane>,
    /// Looks for scene cuts, if it shall.
    cuts: Option<CutDetector>,
    overload: Overload,
    /// What may be done besides upscaling whole frames.
    cheaper: Vec<Effort>,
    effort: Effort,
    start: Instant,
    /// Time spent since the engine was idle last, and frames given out.
    busy: Duration,
    done: u32,
    /// Frames and events in order of arrival.
    queue: VecDeque<Item>,
    /// How many frames at the head of the queue can leave.
    begun: usize,
    /// Memory for decoded frames that need a conversion, used again and again.
    scratch: Option<gst::Buffer>,
}

impl Streaming {
    /// A stream from `input` to `output`, as the settings want it.
    pub(super) fn new(
        engine: &Arc<Engine>,
        input: &VideoInfo,
        output: &VideoInfo,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let padded = engine.padded(Size { width: input.width() as usize, height: input.height() as usize });
        let convert = Convert::new(input, output, padded, engine.scale())?;
        let beside = convert.bytes() + settings.color_fix.bytes(padded);
        let mut lanes = vec![Lane::new(engine, Rect { x: 0, y: 0, size: padded }, settings, beside)?];
        let mut cheaper = vec![Effort::Resize];
        if settings.on_overload == OnOverload::Shrink
            && let Some(middle) = middle(padded, engine.manifest.geometry.multiple)
        {
            lanes.push(Lane::new(engine, middle, settings, beside)?);
            cheaper.insert(0, Effort::Middle);
        }
        Ok(Self {
            input: input.clone(),
            output: output.clone(),
            convert,
            color_fix: settings.color_fix,
            scale: engine.scale(),
            lanes,
            cuts: settings.scene_cuts.then(CutDetector::default),
            overload: Overload::default(),
            cheaper,
            effort: Effort::Whole,
            start: Instant::now(),
            busy: Duration::ZERO,
            done: 0,
            queue: VecDeque::new(),
            begun: 0,
            scratch: None,
        })
    }

    /// Has faster sessions made for the stream's frame size, if the provider has them; see [`Stream::prepare`].
    pub(super) fn prepare(&self, notify: impl Fn(Build) + Send + 'static) {
        self.lanes[0].stream.prepare(notify);
    }

    /// Size of the frames that the model gets.
    pub(super) fn padded(&self) -> Size {
        self.convert.padded()
    }

    /// Side of the tiles that frames are cut into, in input pixels; `None` if they are not.
    pub(super) fn tile(&self) -> Option<usize> {
        self.lanes[0].stream.tile()
    }

    /// Frames by which the first frame of a window is delayed.
    pub(super) fn delay(&self) -> usize {
        self.lanes[0].windower.delay()
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
    pub(super) fn push(
        &mut self,
        buffer: &gst::Buffer,
        deadline: Option<Deadline>,
        cancel: &Arc<Cancel>,
    ) -> Result<Spent, Failure> {
        let (begin, before) = (Instant::now(), self.steps_down());
        let result = self.try_push(buffer, deadline, cancel).inspect_err(|_| self.flush());
        self.busy += begin.elapsed();
        Ok(self.stepped_down(before, result?))
    }

    fn try_push(
        &mut self,
        buffer: &gst::Buffer,
        deadline: Option<Deadline>,
        cancel: &Arc<Cancel>,
    ) -> Result<Spent, Failure> {
        let mut spent = Spent::default();
        let effort = self.choose(deadline);
        if effort != self.effort {
            // What the model remembers is of no use after a gap: it begins anew.
            spent = self.close(cancel)?;
            self.restart();
            self.effort = effort;
        }
        let mut metadata = gst::Buffer::new();
        let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        buffer.copy_into(metadata.make_mut(), what, ..)?;
        if effort == Effort::Resize {
            let source = Source::Input(buffer.clone());
            self.queue.push_back(Item::Frame(Frame { metadata, beside: Beside::Nothing, source }));
            self.begun += 1;
            return Ok(spent);
        }

        let start = Instant::now();
        let converted = self.convert.read(buffer)?;
        let tensor = Arc::new(converted.tensor);
        let cut = self.cuts.as_mut().is_some_and(|cuts| cuts.is_cut(&tensor, self.convert.padded()));
        spent.cuts += u64::from(cut);
        spent.convert += start.elapsed();
        if cut {
            let rest = self.lanes[effort as usize].windower.close();
            self.begin(rest, cancel, &mut spent)?;
            self.lanes[effort as usize].windower.flush();
        }
        let (part, source) = match effort {
            Effort::Middle => {
                let layout = Layout { outer: 1, inner: RGB, stride: 1, scale: 1 };
                let part = layout.crop(&tensor, self.convert.padded(), self.lanes[1].part);
                (Arc::new(part), Source::EngineAnd(tensor))
            }
            _ => {
                let input = (self.color_fix != ColorFix::None).then(|| Arc::clone(&tensor));
                (tensor, Source::Engine(input))
            }
        };
        self.queue.push_back(Item::Frame(Frame { metadata, beside: converted.beside, source }));
        let window = self.lanes[effort as usize].windower.push(part);
        self.begin(window, cancel, &mut spent)?;
        Ok(spent)
    }

    fn choose(&mut self, deadline: Option<Deadline>) -> Effort {
        let Some(Deadline { slack, interval }) = deadline else { return Effort::Whole };
        // The first frame of a window waits for the others, and all of them take as long as one, many times.
        let delay = self.delay() as u32;
        let slack = slack.saturating_sub(interval * delay) / (delay + 1);
        self.overload.choose(slack, interval, self.start.elapsed(), &self.cheaper)
    }

    /// Begins the windows of all frames that wait: nothing more comes that belongs to them.
    pub(super) fn close(&mut self, cancel: &Arc<Cancel>) -> Result<Spent, Failure> {
        let (mut spent, before) = (Spent::default(), self.steps_down());
        if let Some(lane) = self.lanes.get_mut(self.effort as usize) {
            let windows = lane.windower.close();
            self.begin(windows, cancel, &mut spent).inspect_err(|_| self.flush())?;
        }
        Ok(self.stepped_down(before, spent))
    }

    fn steps_down(&self) -> usize {
        self.lanes.iter().map(|lane| lane.stream.steps_down()).sum()
    }

    /// Adds the steps since there were `before`.
    fn stepped_down(&self, before: usize, spent: Spent) -> Spent {
        Spent { steps_down: (self.steps_down() - before) as u64, tile: self.tile().unwrap_or(0) as u64, ..spent }
    }

    fn begin(
        &mut self,
        windows: impl IntoIterator<Item = Window<Arc<Vec<u8>>>>,
        cancel: &Arc<Cancel>,
        spent: &mut Spent,
    ) -> Result<(), Failure> {
        for window in windows {
            let frames = window.keep.len();
            spent.stages += self.lanes[self.effort as usize].stream.submit(window, cancel)?;
            self.begun += frames;
            spent.windows += 1;
        }
        Ok(())
    }

    /// The next frame begins a new sequence, with blank recurrent state. Call it after [`Self::close`].
    pub(super) fn restart(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.windower.flush());
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
        self.begun = 0;
        (self.busy, self.done) = (Duration::ZERO, 0);
        self.restart();
        self.lanes.iter_mut().for_each(|lane| lane.stream.reset());
    }

    /// What leaves next.
    pub(super) fn next(&mut self) -> Next {
        match self.queue.front() {
            Some(Item::Frame(_)) if self.begun == 0 => return Next::Nothing,
            Some(Item::Frame(_)) => self.begun -= 1,
            _ => {}
        }
        match self.queue.pop_front() {
            Some(Item::Frame(frame)) => Next::Frame(frame),
            Some(Item::Event(event)) => Next::Event(event),
            None => Next::Nothing,
        }
    }

    /// Decodes a frame into its output buffer.
    pub(super) fn finish(
        &mut self,
        frame: &Frame,
        buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Spent), Failure> {
        let (begin, before) = (Instant::now(), self.steps_down());
        let result = self.try_finish(frame, buffer, cancel).inspect_err(|_| self.flush());
        self.busy += begin.elapsed();
        self.done += 1;
        if self.begun == 0 {
            if result.is_ok() {
                self.overload.learn(frame.effort(), self.busy / self.done);
            }
            (self.busy, self.done) = (Duration::ZERO, 0);
        }
        result.map(|(buffer, spent)| (buffer, self.stepped_down(before, spent)))
    }

    fn try_finish(
        &mut self,
        frame: &Frame,
        mut buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Spent), Failure> {
        let begin = Instant::now();
        if let Source::Engine(input) = &frame.source
            && self.convert.is_tensor(&buffer)
        {
            let (buffer, stages) = self.decode(input.as_deref(), buffer, cancel)?;
            let convert = if input.is_some() { begin.elapsed().saturating_sub(stages.total()) } else { Duration::ZERO };
            return Ok((buffer, Spent { stages, convert, ..Spent::default() }));
        }
        let (tensor, stages) = match &frame.source {
            Source::Input(input) => {
                self.convert.resize(input, buffer.make_mut())?;
                return Ok((buffer, Spent { convert: begin.elapsed(), ..Spent::default() }));
            }
            Source::EngineAnd(input) => self.decode_middle(input, cancel)?,
            Source::Engine(input) => {
                let scratch = self.take_scratch()?;
                self.decode(input.as_deref(), scratch, cancel)?
            }
        };
        self.convert.write(&tensor, &frame.beside, buffer.make_mut())?;
        self.scratch = Some(tensor);
        let convert = begin.elapsed().saturating_sub(stages.total());
        Ok((buffer, Spent { stages, convert, ..Spent::default() }))
    }

    fn take_scratch(&mut self) -> Result<gst::Buffer, glib::BoolError> {
        match self.scratch.take() {
            Some(scratch) => Ok(scratch),
            None => gst::Buffer::with_size(self.convert.output_bytes()),
        }
    }

    /// Decodes the next frame, with the colours of `input` if that is given.
    fn decode(
        &mut self,
        input: Option<&Vec<u8>>,
        buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Timings), Failure> {
        let mapped = buffer
            .into_mapped_buffer_writable()
            .map_err(|_| glib::bool_error!("an output buffer cannot be mapped for writing"))?;
        let (mut mapped, timings) = self.lanes[0].stream.next(mapped, cancel)?.expect("a begun frame is in the engine");
        if let Some(input) = input {
            let stride = self.convert.padded().rgb_stride();
            self.color_fix.apply(input, stride, &mut mapped, stride * self.scale, self.convert.size(), self.scale);
        }
        Ok((mapped.into_buffer(), timings))
    }

    fn decode_middle(&mut self, input: &[u8], cancel: &Arc<Cancel>) -> Result<(gst::Buffer, Timings), Failure> {
        let Lane { part, stream, .. } = &mut self.lanes[1];
        let large = Rect { x: part.x * self.scale, y: part.y * self.scale, size: part.size.scaled(self.scale) };
        let (part, pixels) = (*part, vec![0; large.size.rgb_bytes()]);
        let (mut pixels, timings) = stream.next(pixels, cancel)?.expect("a begun frame is in the engine");
        let stride = self.convert.padded().rgb_stride();
        let of_part = &input[part.y * stride + part.x * RGB..];
        self.color_fix.apply(of_part, stride, &mut pixels, large.size.rgb_stride(), part.size, self.scale);
        let mut scratch = self.take_scratch()?;
        self.convert.enlarge(input, scratch.make_mut())?;
        {
            let mut frame = scratch.make_mut().map_writable()?;
            let size = self.convert.padded().scaled(self.scale);
            tiling::blend(&pixels, large, &mut frame, size, FEATHER * self.scale);
        }
        Ok((scratch, timings))
    }
}
