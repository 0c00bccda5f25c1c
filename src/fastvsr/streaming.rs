//! Owns a stream between two caps: its frames on their way from input buffer to output buffer, and the events that
//! must keep their place among them. Used by the streaming thread alone.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use gst_video::VideoInfo;

use super::{convert::Convert, settings::Settings};
use crate::{
    engine::{Build, Cancel, Engine, Error, Stream, Timings},
    frames::Size,
    scene::CutDetector,
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

/// What is kept of an input frame besides its pixels.
#[derive(Debug)]
pub(super) struct Frame {
    /// A buffer without memory: timestamps, flags and metas of the input. Upstream has its memory back already.
    pub(super) metadata: gst::Buffer,
    alpha: Option<gst::Buffer>,
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
    pub(super) stages: Timings,
    pub(super) convert: Duration,
}

/// One stream, from one CAPS to the next.
#[derive(Debug)]
pub(super) struct Streaming {
    pub(super) input: VideoInfo,
    pub(super) output: VideoInfo,
    convert: Convert,
    windower: Windower<Arc<Vec<u8>>>,
    /// Looks for scene cuts, if it shall.
    cuts: Option<CutDetector>,
    stream: Stream,
    /// Frames and events in order of arrival.
    queue: VecDeque<Item>,
    /// How many frames at the head of the queue the engine has begun.
    begun: usize,
    /// Memory for decoded frames that need a conversion, used again and again.
    scratch: Option<gst::Buffer>,
}

impl Streaming {
    /// A stream from `input` to `output`, as the settings want it.
    pub(super) fn new(
        engine: Arc<Engine>,
        input: &VideoInfo,
        output: &VideoInfo,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let padded = engine.padded(Size { width: input.width() as usize, height: input.height() as usize });
        let windower = Windower::new(engine.manifest.time, settings.window as usize);
        Ok(Self {
            input: input.clone(),
            output: output.clone(),
            convert: Convert::new(input, output, padded, engine.scale())?,
            cuts: settings.scene_cuts.then(CutDetector::default),
            stream: Stream::new(engine, padded, windower.delay() + 1, settings.max_memory)?,
            windower,
            queue: VecDeque::new(),
            begun: 0,
            scratch: None,
        })
    }

    /// Has faster sessions made for the stream's frame size, if the provider has them; see [`Stream::prepare`].
    pub(super) fn prepare(&self, notify: impl Fn(Build) + Send + 'static) {
        self.stream.prepare(notify);
    }

    /// Size of the frames that the model gets.
    pub(super) fn padded(&self) -> Size {
        self.convert.padded()
    }

    /// Side of the tiles that frames are cut into, in input pixels; `None` if they are not.
    pub(super) fn tile(&self) -> Option<usize> {
        self.stream.tile()
    }

    /// Frames by which the first frame of a window is delayed.
    pub(super) fn delay(&self) -> usize {
        self.windower.delay()
    }

    /// Takes in a frame; begins a window if that completes one, or if the frame begins a new scene.
    ///
    /// # Errors
    /// As after every error of a stream nothing waits any more: what the engine has lost must not leave a frame behind
    /// that takes the pixels of another.
    pub(super) fn push(&mut self, buffer: &gst::Buffer, cancel: &Arc<Cancel>) -> Result<Spent, Failure> {
        self.try_push(buffer, cancel).inspect_err(|_| self.flush())
    }

    fn try_push(&mut self, buffer: &gst::Buffer, cancel: &Arc<Cancel>) -> Result<Spent, Failure> {
        let start = Instant::now();
        let converted = self.convert.read(buffer)?;
        let mut metadata = gst::Buffer::new();
        let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        buffer.copy_into(metadata.make_mut(), what, ..)?;
        let cut = self.cuts.as_mut().is_some_and(|cuts| cuts.is_cut(&converted.tensor, self.convert.padded()));
        let mut spent = Spent { convert: start.elapsed(), cuts: cut.into(), ..Spent::default() };
        if cut {
            let rest = self.windower.close();
            self.begin(rest, cancel, &mut spent)?;
            self.windower.flush();
        }
        self.queue.push_back(Item::Frame(Frame { metadata, alpha: converted.alpha }));
        let window = self.windower.push(Arc::new(converted.tensor));
        self.begin(window, cancel, &mut spent)?;
        Ok(spent)
    }

    /// Begins the windows of all frames that wait: nothing more comes that belongs to them.
    pub(super) fn close(&mut self, cancel: &Arc<Cancel>) -> Result<Spent, Failure> {
        let mut spent = Spent::default();
        let windows = self.windower.close();
        self.begin(windows, cancel, &mut spent).inspect_err(|_| self.flush())?;
        Ok(spent)
    }

    fn begin(
        &mut self,
        windows: impl IntoIterator<Item = Window<Arc<Vec<u8>>>>,
        cancel: &Arc<Cancel>,
        spent: &mut Spent,
    ) -> Result<(), Failure> {
        for window in windows {
            let frames = window.keep.len();
            spent.stages += self.stream.submit(window, cancel)?;
            self.begun += frames;
            spent.windows += 1;
        }
        Ok(())
    }

    /// The next frame begins a new sequence, with blank recurrent state. Call it after [`Self::close`].
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
        self.begun = 0;
        self.restart();
        self.stream.reset();
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
        self.try_finish(frame, buffer, cancel).inspect_err(|_| self.flush())
    }

    fn try_finish(
        &mut self,
        frame: &Frame,
        buffer: gst::Buffer,
        cancel: &Arc<Cancel>,
    ) -> Result<(gst::Buffer, Spent), Failure> {
        if self.convert.is_tensor(&buffer) {
            let (buffer, stages) = self.decode(buffer, cancel)?;
            return Ok((buffer, Spent { stages, ..Spent::default() }));
        }
        let scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => gst::Buffer::with_size(self.convert.output_bytes())?,
        };
        let (tensor, stages) = self.decode(scratch, cancel)?;
        let begin = Instant::now();
        let mut buffer = buffer;
        self.convert.write(&tensor, frame.alpha.as_deref(), buffer.make_mut())?;
        self.scratch = Some(tensor);
        Ok((buffer, Spent { stages, convert: begin.elapsed(), ..Spent::default() }))
    }

    fn decode(&mut self, buffer: gst::Buffer, cancel: &Arc<Cancel>) -> Result<(gst::Buffer, Timings), Failure> {
        let mapped = buffer
            .into_mapped_buffer_writable()
            .map_err(|_| glib::bool_error!("an output buffer cannot be mapped for writing"))?;
        let (mapped, timings) = self.stream.next(mapped, cancel)?.expect("a begun frame is in the engine");
        Ok((mapped.into_buffer(), timings))
    }
}
