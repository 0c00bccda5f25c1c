//! Owns inference: an [`Engine`] is a loaded model with its worker thread, a [`Stream`] is one video that runs through
//! it. Knows ONNX Runtime, knows nothing of GStreamer.
//!
//! ```text
//! Stream --(window)--> worker: encoder              once per window
//!        --(frame)---> worker: unet, decoder, state once per frame, written into the caller's memory
//! ```
//!
//! Meanwhile `fixed` may have faster sessions made for the stream's frame size.

mod cache;
mod error;
mod fixed;
mod gpu;
mod memory;
mod provider;
mod registry;
mod runtime;
mod sessions;
mod state;
mod tiles;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod unwinder;
mod worker;

use std::{collections::VecDeque, ops::Range, path::PathBuf, sync::Arc};

use ort::environment::Environment;

pub use error::Error;
pub use fixed::Build;
pub use gpu::models as gpu_models;
pub use ort::logging::LogLevel;
pub use provider::{Precision, Provider};
pub use registry::Key;
pub use runtime::{Log, Runtime, load as load_runtime};
pub use sessions::Timings;
pub use worker::Cancel;
pub(crate) use worker::lock;

use crate::{
    frames::Size,
    model::{Manifest, Package},
    window::Window,
};

/// A model that is loaded on a device, shared by all who use it.
#[derive(Debug)]
pub struct Engine {
    worker: worker::Worker<fixed::Served<sessions::Sessions>>,
    /// What sessions for a frame size are made of.
    package: Package,
    environment: &'static Environment,
    place: sessions::Place,
    axes: Vec<sessions::Axes>,
    sizes: fixed::Sizes,
    batches: bool,
    recurrent: bool,
    /// The model's manifest.
    pub manifest: Manifest,
    /// The provider that runs it, never `Auto`.
    pub provider: Provider,
    /// The precision that it runs in, never `Auto`.
    pub precision: Precision,
    /// The library that runs it.
    pub library: PathBuf,
    /// Why the providers that were tried before it do not work here.
    pub refused: Vec<Error>,
}

impl Engine {
    /// Gives the engine of `key`, loading the model if no other user has it loaded.
    ///
    /// # Errors
    /// If the package, the provider or the graphs cannot be used; with `Provider::Auto` only if no provider works.
    pub fn open(runtime: &'static Runtime, key: &Key) -> Result<Arc<Self>, Error> {
        registry::get(key, || Self::load(runtime, key))
    }

    fn load(runtime: &'static Runtime, key: &Key) -> Result<Self, Error> {
        let package = key.source.load().map_err(Error::Model)?;
        let mut refusals = Vec::new();
        for provider in key.provider.candidates() {
            let loaded = key.precision.resolve(*provider).and_then(|precision| {
                let place = sessions::Place { provider: *provider, precision, device: key.device };
                if provider.is_gpu() {
                    let register = || {
                        sessions::register(&runtime.environment, place).map_err(|err| match err {
                            // `with_libraries` says again which provider it is.
                            Error::Provider { reason, .. } => reason,
                            err => err.to_string(),
                        })
                    };
                    gpu::with_libraries(*provider, &runtime.library, register)?;
                }
                // The first frame would wait minutes for TensorRT's engine, so CUDA serves until there is one.
                let first = match provider {
                    Provider::TensorRt => {
                        sessions::Place { provider: Provider::Cuda, precision: Precision::Fp32, ..place }
                    }
                    _ => place,
                };
                let sessions = sessions::Sessions::load(&runtime.environment, &package, first)?;
                if *provider == Provider::OpenVino {
                    // Compiling for a size sets up more of the library than compiling for any. Its destructors must be
                    // known before the worker asks to be waited for, or a process that ends takes them from under a build.
                    let axes = sessions.axes();
                    let small = sessions::smallest(&package.manifest);
                    sessions::Sessions::for_size(&runtime.environment, &package, place, &axes, small, None)?;
                }
                Ok((sessions, place))
            });
            match loaded {
                Ok((sessions, place)) => {
                    return Ok(Self {
                        batches: sessions.batches(),
                        recurrent: sessions.is_recurrent(),
                        axes: sessions.axes(),
                        worker: worker::Worker::new(fixed::Served::new(sessions)),
                        manifest: package.manifest.clone(),
                        package,
                        environment: &runtime.environment,
                        place,
                        sizes: fixed::Sizes::default(),
                        provider: place.provider,
                        precision: place.precision,
                        library: runtime.library.clone(),
                        refused: refusals,
                    });
                }
                // Another provider cannot mend a graph that does not fit its manifest.
                Err(err @ Error::Signature { .. }) => return Err(err),
                Err(err) => refusals.push(err),
            }
        }
        let last = refusals.pop().expect("every choice has a candidate");
        Err(last)
    }

    /// Why a GPU that the machine has stands idle; `None` if it has none, or works.
    pub fn idle_gpu(&self) -> Option<&Error> {
        let cuda = |err: &&Error| matches!(err, Error::Provider { provider: Provider::Cuda, .. });
        self.refused.iter().find(cuda).filter(|_| gpu::is_present())
    }

    /// Output pixels per input pixel along each axis.
    pub fn scale(&self) -> usize {
        self.manifest.geometry.scale
    }

    /// The size to which frames of `size` must be padded.
    pub fn padded(&self, size: Size) -> Size {
        size.padded(self.manifest.geometry.multiple)
    }
}

/// One video on its way through an engine: its windows in flight and its recurrent state.
///
/// Call [`Self::submit`] with each window, then [`Self::next`] once for every frame that the window keeps.
#[derive(Debug)]
pub struct Stream {
    engine: Arc<Engine>,
    size: Size,
    /// Whether the frames of a window are begun one by one.
    singly: bool,
    tiling: Option<tiles::Tiling>,
    memory: Option<sessions::Memory>,
    windows: VecDeque<Begun>,
    /// How often the device ran out of memory and smaller parts had to do.
    steps_down: usize,
}

/// A window in flight.
#[derive(Debug)]
struct Begun {
    window: sessions::Window,
    /// Its frames that are still to be finished.
    keep: Range<usize>,
    /// Whether the next of them begins a sequence.
    first: bool,
}

impl Stream {
    /// A stream of frames of the size `padded` (see [`Engine::padded`]), in windows of up to `window` frames. With a
    /// `limit`, in bytes, frames are cut into tiles as small as it demands when the caller needs `beside` of them.
    ///
    /// # Errors
    /// If no tile is small enough for the limit.
    pub fn new(
        engine: Arc<Engine>,
        padded: Size,
        window: usize,
        limit: Option<u64>,
        beside: usize,
    ) -> Result<Self, Error> {
        let singly = engine.recurrent && (limit.is_some() || !engine.batches);
        let count = if singly { 1 } else { window };
        let tiling = match limit {
            Some(limit) => memory::plan(&engine.manifest, padded, count, limit, beside)?,
            None => None,
        };
        Ok(Self { engine, size: padded, singly, tiling, memory: None, windows: VecDeque::new(), steps_down: 0 })
    }

    /// Has sessions for the stream's frame size made in the background, if the provider gains by that, and tells
    /// `notify` how it goes: the first stream of its size does.
    pub fn prepare(&self, notify: impl Fn(Build) + Send + 'static) {
        if self.tiling.is_none() {
            self.engine.prepare(self.size, notify);
        }
    }

    /// Side of the tiles that frames are cut into, in input pixels; `None` if they are not.
    pub fn tile(&self) -> Option<usize> {
        self.tiling.map(|tiling| tiling.side)
    }

    /// How often the device ran out of memory, so that frames are now upscaled in smaller parts: first one by one instead
    /// of in windows, then in tiles of half the side.
    pub fn steps_down(&self) -> usize {
        self.steps_down
    }

    /// Makes do with less memory; whether that is possible.
    fn step_down(&mut self) -> bool {
        let tiling = memory::step_down(&self.engine.manifest, self.size, self.tiling);
        if tiling.is_some() {
            self.tiling = tiling;
            self.singly |= self.engine.recurrent;
            self.steps_down += 1;
        }
        tiling.is_some()
    }

    /// Forgets windows in flight and the recurrent state: the next frame begins a new sequence.
    pub fn reset(&mut self) {
        self.memory = None;
        self.windows.clear();
    }

    /// Starts a window of padded RGB frames: runs what can run for all of its frames together.
    ///
    /// # Errors
    /// After an error the stream is reset.
    pub fn submit(&mut self, window: Window<Arc<Vec<u8>>>, cancel: &Arc<Cancel>) -> Result<Timings, Error> {
        let mut timings = Timings::default();
        loop {
            let result = if self.singly {
                self.submit_singly(&window, cancel, &mut timings)
            } else {
                self.submit_part(&window.frames, window.keep.clone(), window.first, cancel, &mut timings)
            };
            match result {
                Ok(()) => return Ok(timings),
                Err(Error::OutOfMemory { .. }) if self.divide(&window) || self.step_down() => {}
                Err(err) => {
                    self.reset();
                    return Err(err);
                }
            }
        }
    }

    /// Runs single frames instead of windows from now on; whether that is less.
    fn divide(&mut self, window: &Window<Arc<Vec<u8>>>) -> bool {
        let less = self.engine.recurrent && !self.singly && window.frames.len() > 1;
        if less {
            self.singly = true;
            self.steps_down += 1;
        }
        less
    }

    fn submit_singly(
        &mut self,
        window: &Window<Arc<Vec<u8>>>,
        cancel: &Arc<Cancel>,
        timings: &mut Timings,
    ) -> Result<(), Error> {
        let begun = self.windows.len();
        for (index, frame) in window.frames[window.keep.clone()].iter().enumerate() {
            let first = window.first && index == 0;
            let result = self.submit_part(std::slice::from_ref(frame), 0..1, first, cancel, timings);
            // The whole window is tried again.
            result.inspect_err(|_| self.windows.truncate(begun))?;
        }
        Ok(())
    }

    fn submit_part(
        &mut self,
        frames: &[Arc<Vec<u8>>],
        keep: Range<usize>,
        first: bool,
        cancel: &Arc<Cancel>,
        timings: &mut Timings,
    ) -> Result<(), Error> {
        let (count, size, tiling) = (frames.len(), self.size, self.tiling);
        let fixed = (count == 1 && tiling.is_none()).then_some(size);
        let tensor = frames.iter().map(|frame| frame.as_slice()).collect::<Vec<_>>().concat();
        let (window, spent) = self
            .engine
            .worker
            .call(cancel, move |served, ticket| served.at(fixed).window(tensor, count, size, tiling, ticket))?;
        self.windows.push_back(Begun { window, keep, first });
        *timings += spent;
        Ok(())
    }

    /// Finishes the next frame: writes RGB rows without gaps, `scale` times the padded size, into `out`, which comes
    /// back with the time that each stage took. `None` if no submitted frame is left.
    ///
    /// `out` is owned by the call because after a cancelled wait the worker may still write into it.
    ///
    /// # Errors
    /// After an error the stream is reset, and `out` is lost.
    pub fn next<D>(&mut self, mut out: D, cancel: &Arc<Cancel>) -> Result<Option<(D, Timings)>, Error>
    where
        D: AsMut<[u8]> + Send + 'static,
    {
        let Some(Begun { mut window, keep, first }) = self.windows.pop_front() else { return Ok(None) };
        let mut memory = self.memory.take().filter(|_| !first);
        let index = keep.start;
        loop {
            let (size, tiling) = (self.size, self.tiling);
            // What is tried again must come back when it fails.
            let result = self.engine.worker.call(cancel, move |served, ticket| {
                let sessions = served.at(tiling.is_none().then_some(size));
                let mut kept = memory.unwrap_or_else(|| sessions.blank(size));
                let run = sessions.frame(&window, index, &mut kept, Some(out.as_mut()), tiling, ticket);
                match run {
                    Err(err) if !matches!(err, Error::OutOfMemory { .. }) => Err(err),
                    run => Ok((window, kept, out, run)),
                }
            });
            let (tried, kept, back, run) = result.inspect_err(|_| self.reset())?;
            (window, memory, out) = (tried, Some(kept), back);
            match run {
                Ok(timings) => {
                    self.memory = memory;
                    if index + 1 < keep.end {
                        self.windows.push_front(Begun { window, keep: index + 1..keep.end, first: false });
                    }
                    return Ok(Some((out, timings)));
                }
                Err(_) if self.step_down() => {
                    // A frame that failed between two tiles has left its state partly advanced.
                    memory = memory.filter(|_| tiling.is_none());
                }
                Err(err) => {
                    self.reset();
                    return Err(err);
                }
            }
        }
    }
}
