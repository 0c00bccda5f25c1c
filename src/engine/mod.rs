//! Owns inference: an [`Engine`] is a loaded model with its worker thread, a [`Stream`] is one video that runs through
//! it. Knows ONNX Runtime, knows nothing of GStreamer.
//!
//! ```text
//! Stream --(window)--> worker: encoder              once per window
//!        --(frame)---> worker: unet, decoder, state once per frame, written into the caller's memory
//! ```

mod error;
mod provider;
mod registry;
mod runtime;
mod sessions;
mod worker;

use std::{collections::VecDeque, ops::Range, path::PathBuf, sync::Arc};

pub use error::Error;
pub use ort::logging::LogLevel;
pub use provider::{Precision, Provider};
pub use registry::Key;
pub use runtime::{Log, Runtime, load as load_runtime};
pub use sessions::Timings;
pub use worker::Cancel;

use crate::{frames::Size, model::Manifest, window::Window};

/// A model that is loaded on a device, shared by all who use it.
#[derive(Debug)]
pub struct Engine {
    worker: worker::Worker<sessions::Sessions>,
    batches: bool,
    /// The model's manifest.
    pub manifest: Manifest,
    /// The provider that runs it, never `Auto`.
    pub provider: Provider,
    /// The precision that it runs in, never `Auto`.
    pub precision: Precision,
    /// The library that runs it.
    pub library: PathBuf,
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
            let sessions = key.precision.resolve(*provider).and_then(|precision| {
                let sessions =
                    sessions::Sessions::load(&runtime.environment, &package, *provider, precision, key.device)?;
                Ok((sessions, precision))
            });
            match sessions {
                Ok((sessions, precision)) => {
                    return Ok(Self {
                        batches: sessions.batches(),
                        worker: worker::Worker::new(sessions),
                        manifest: package.manifest,
                        provider: *provider,
                        precision,
                        library: runtime.library.clone(),
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
    memory: Option<sessions::Memory>,
    windows: VecDeque<(sessions::Window, Range<usize>)>,
}

impl Stream {
    /// A stream of frames of the size `padded` (see [`Engine::padded`]).
    pub fn new(engine: Arc<Engine>, padded: Size) -> Self {
        Self { engine, size: padded, memory: None, windows: VecDeque::new() }
    }

    /// The engine that the stream runs through.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
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
        if self.engine.batches {
            return self.submit_part(&window.frames, window.keep, cancel);
        }
        let mut timings = Timings::default();
        for frame in &window.frames[window.keep] {
            timings += self.submit_part(std::slice::from_ref(frame), 0..1, cancel)?;
        }
        Ok(timings)
    }

    fn submit_part(
        &mut self,
        frames: &[Arc<Vec<u8>>],
        keep: Range<usize>,
        cancel: &Arc<Cancel>,
    ) -> Result<Timings, Error> {
        let (count, size) = (frames.len(), self.size);
        let tensor = frames.iter().map(|frame| frame.as_slice()).collect::<Vec<_>>().concat();
        let result =
            self.engine.worker.call(cancel, move |sessions, ticket| sessions.window(tensor, count, size, ticket));
        match result {
            Ok((window, timings)) => {
                self.windows.push_back((window, keep));
                Ok(timings)
            }
            Err(err) => {
                self.reset();
                Err(err)
            }
        }
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
        let Some((window, keep)) = self.windows.pop_front() else { return Ok(None) };
        let (size, memory) = (self.size, self.memory.take());
        let index = keep.start;
        let result = self.engine.worker.call(cancel, move |sessions, ticket| {
            let mut memory = match memory {
                Some(memory) => memory,
                None => sessions.blank(size)?,
            };
            let timings = sessions.frame(&window, index, &mut memory, Some(out.as_mut()), ticket)?;
            Ok((window, memory, out, timings))
        });
        match result {
            Ok((window, memory, out, timings)) => {
                self.memory = Some(memory);
                if index + 1 < keep.end {
                    self.windows.push_front((window, index + 1..keep.end));
                }
                Ok(Some((out, timings)))
            }
            Err(err) => {
                self.reset();
                Err(err)
            }
        }
    }
}
