//! Owns one video on its way through an engine: its windows in flight, its recurrent state, and what is done when memory
//! runs out.

use std::{collections::VecDeque, sync::Arc};

use ort::value::DynValue;

use super::{
    Engine, budget,
    device::Device,
    error::Error,
    model::{self, Model, Timings},
    provider::Provider,
    sizes::{Build, Sizes, Wish},
    state::RecurrentState,
    tiles::Tiling,
    worker::{Cancel, Ticket},
};
use crate::{frames::Size, model::StageKind, window::Window};

/// A frame's window, as it is pushed.
type Frames = Window<Arc<Vec<u8>>>;

/// One video on its way through an engine.
///
/// Call [`Self::push`] with each window, then [`Self::next`] once for every frame that the window keeps.
#[derive(Debug)]
pub struct Stream {
    engine: Arc<Engine>,
    size: Size,
    tiling: Option<Tiling>,
    /// A model for the stream's size, where the device gains by that.
    wish: Option<Arc<Wish>>,
    state: Option<RecurrentState>,
    windows: VecDeque<InFlight>,
    /// How often the device ran out of memory and smaller parts had to do.
    steps_down: usize,
}

/// A window whose frames have not all left.
#[derive(Debug)]
struct InFlight {
    /// `keep` begins with the next frame; `first` is whether that begins a sequence.
    window: Frames,
    /// All frames of the window, from a model that upscales them together.
    upscaled: Option<DynValue>,
}

/// What a frame took, and what served it.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Time spent in each stage.
    pub timings: Timings,
    /// What the stages ran on.
    pub device: Device,
    /// Whether they were made for the stream's frame size.
    pub fixed_size: bool,
}

impl Stream {
    /// A stream of frames of the size `padded` (see [`Engine::padded`]), in windows of up to `window` frames. With a
    /// `limit`, in bytes, frames are cut into tiles as small as it demands when the caller needs `callers` of them. `notify` is
    /// told how the making of a model for the size goes.
    ///
    /// # Errors
    /// If no tile is small enough for the limit, or tiles cannot be served by the device that was asked for.
    pub fn new(
        engine: Arc<Engine>,
        padded: Size,
        window: usize,
        limit: Option<u64>,
        callers: usize,
        notify: impl Fn(Build) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let tiling = match limit {
            Some(limit) => budget::plan(engine.manifest(), padded, window, limit, callers)?,
            None => budget::unlimited(engine.manifest(), padded),
        };
        // What is made for a size takes one frame a run.
        let frame_by_frame = engine.manifest().frames_a_run(window) == 1;
        let compiles = !matches!(tiling, Some(Tiling::Limited { .. })) && frame_by_frame && engine.device().compiles();
        let wish = compiles.then(|| Arc::new(Wish { size: engine.size_of_runs(padded), notify: Arc::new(notify) }));
        let stream = Self { engine, size: padded, tiling, wish, state: None, windows: VecDeque::new(), steps_down: 0 };
        stream.check_device()?;
        Ok(stream)
    }

    /// A provider that was named must serve, and tiles that a limit of memory makes are not compiled for.
    fn check_device(&self) -> Result<(), Error> {
        let device = self.engine.device();
        if self.engine.key.provider == Some(Provider::TensorRt) && matches!(self.tiling, Some(Tiling::Limited { .. })) {
            let reason =
                "frames that are cut into tiles are not compiled for; raise `max-memory`, or take `cuda`".into();
            return Err(Error::Provider { provider: device.provider.name(), reason });
        }
        Ok(())
    }

    /// Side of the tiles that frames are cut into, in input pixels; `None` if they are not.
    pub fn tile(&self) -> Option<usize> {
        self.tiling.map(Tiling::side)
    }

    /// How often the device ran out of memory, so that frames are now cut into tiles of half the side.
    pub fn steps_down(&self) -> usize {
        self.steps_down
    }

    /// Drops windows in flight and the recurrent state: the next frame begins a new sequence.
    pub fn flush(&mut self) {
        self.state = None;
        self.windows.clear();
    }

    /// Takes in a window of padded RGB frames.
    pub fn push(&mut self, window: Window<Arc<Vec<u8>>>) {
        self.windows.push_back(InFlight { window, upscaled: None });
    }

    /// Upscales the next frame: writes RGB rows without gaps, `scale` times the padded size, into `out`, which comes
    /// back with what it took. `None` if no frame that was pushed is left. The first frame of a window takes the time of all where
    /// the model has no recurrent state.
    ///
    /// `out` is owned by the call because after a cancelled wait the worker may still write into it.
    ///
    /// # Errors
    /// After an error the stream is flushed, and `out` is lost.
    pub fn next<D>(&mut self, out: D, cancel: &Arc<Cancel>) -> Result<Option<(D, Run)>, Error>
    where
        D: AsMut<[u8]> + Send + 'static,
    {
        let Some(in_flight) = self.windows.pop_front() else { return Ok(None) };
        let result = self.upscale(in_flight, out, cancel);
        if result.is_err() {
            self.flush();
        }
        result.map(Some)
    }

    fn upscale<D>(&mut self, mut in_flight: InFlight, mut out: D, cancel: &Arc<Cancel>) -> Result<(D, Run), Error>
    where
        D: AsMut<[u8]> + Send + 'static,
    {
        let mut state = self.state.take().filter(|_| !in_flight.window.first);
        loop {
            let (engine, wish) = (Arc::clone(&self.engine), self.wish.clone());
            let (size, tiling) = (self.size, self.tiling);
            // What is tried again must come back when it fails.
            let tried = self.engine.worker.call(cancel, move |sizes, ticket| {
                let sizes = sizes.as_mut().expect("an engine is used when its model is loaded");
                let (model, fixed_size) = choose(&engine, sizes, wish.as_ref())?;
                let result = in_flight.upscale(model, size, &mut state, tiling, out.as_mut(), ticket);
                let run = result.map(|timings| Run { timings, device: model.device, fixed_size });
                match run {
                    Err(err) if !matches!(err, Error::OutOfMemory { .. }) => Err(err),
                    run => Ok((in_flight, state, out, run)),
                }
            })?;
            let run;
            (in_flight, state, out, run) = tried;
            match run {
                Ok(run) => {
                    self.state = state;
                    let window = &mut in_flight.window;
                    window.keep.start += 1;
                    window.first = false;
                    if !window.keep.is_empty() {
                        self.windows.push_front(in_flight);
                    }
                    return Ok((out, run));
                }
                Err(err) => {
                    let was_tiled = self.tiling.is_some();
                    if !self.step_down() {
                        return Err(err);
                    }
                    self.check_device()?;
                    // A frame that failed between two tiles has left its state partly advanced.
                    state = state.filter(|_| !was_tiled);
                }
            }
        }
    }

    /// Makes do with less memory; whether that is possible.
    fn step_down(&mut self) -> bool {
        let tiling = budget::step_down(self.engine.manifest(), self.size, self.tiling);
        if tiling.is_some() {
            self.tiling = tiling;
            self.wish = None;
            self.steps_down += 1;
        }
        tiling.is_some()
    }
}

/// The model that serves a stream's next frame, and whether it was made for its size; has one made where that is worth it.
fn choose<'a>(
    engine: &Arc<Engine>,
    sizes: &'a mut Sizes<Model>,
    wish: Option<&Arc<Wish>>,
) -> Result<(&'a mut Model, bool), Error> {
    let Some(wish) = wish else { return Ok((sizes.any(), false)) };
    if sizes.count(wish.size)
        && let Err(err) = engine.build(wish)
    {
        sizes.finish(wish.size, Err(Some(err.to_string())));
    }
    let device = engine.device();
    if engine.key.provider == Some(device.provider)
        && device.for_any_size() != device
        && let Some(reason) = sizes.failure(wish.size)
    {
        // What was asked for by name does not work, and nothing else takes its place.
        return Err(Error::Provider { provider: device.provider.name(), reason: reason.into() });
    }
    let fixed_size = sizes.of(wish.size).is_some();
    let model = if fixed_size { sizes.of(wish.size).expect("it was just seen") } else { sizes.any() };
    Ok((model, fixed_size))
}

impl InFlight {
    /// Writes the next frame into `out`.
    fn upscale(
        &mut self,
        model: &mut Model,
        size: Size,
        state: &mut Option<RecurrentState>,
        tiling: Option<Tiling>,
        out: &mut [u8],
        ticket: &Ticket,
    ) -> Result<Timings, Error> {
        let Window { frames, keep, .. } = &self.window;
        let failed = |err: ort::Error| Error::run(StageKind::Decoder, size, &err);
        if state.is_none() {
            *state = Some(model.blank(size)?);
        }
        let state = state.as_mut().expect("it was just made");
        if model.is_frame_by_frame() || frames.len() == 1 {
            let seen: Vec<_> = model.seen(keep.start, frames.len()).map(|index| frames[index].as_slice()).collect();
            let seen = model::tensor(&seen, size).map_err(failed)?;
            let (_, timings) = model.run(&seen, size, state, tiling, Some(out), ticket)?;
            return Ok(timings);
        }
        let mut timings = Timings::default();
        if self.upscaled.is_none() {
            let frames: Vec<_> = frames.iter().map(|frame| frame.as_slice()).collect();
            let frames = model::tensor(&frames, size).map_err(failed)?;
            (self.upscaled, timings) = model.run(&frames, size, state, tiling, None, ticket)?;
        }
        let (_, pixels) =
            self.upscaled.as_ref().expect("it was just made").try_extract_tensor::<u8>().map_err(failed)?;
        out.copy_from_slice(&pixels[keep.start * out.len()..][..out.len()]);
        Ok(timings)
    }
}
