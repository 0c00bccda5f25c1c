//! Owns the sessions that are made for one frame size, in the background, while those for any size serve.
//!
//! OpenVINO runs a graph of known shapes in 0.7 of the time, TensorRT builds an engine for every shape, which takes
//! minutes. Neither holds up a frame: streams begin with the sessions for any size, and go on with the others as soon as
//! those are there. The recurrent state goes on too.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{
    Engine, Error, Provider, cache, gpu,
    sessions::Sessions,
    worker::{Busy, lock},
};
use crate::frames::Size;

/// How many sizes a model keeps sessions for; the oldest make room.
const SIZES: usize = 4;

/// Builds run one at a time: each takes all cores, and as much of a GPU's memory as it can use.
static TURN: Mutex<()> = Mutex::new(());

/// How the making of sessions for a frame size goes.
#[derive(Debug)]
pub enum Build {
    /// It has begun; meanwhile the sessions for any size serve.
    Started,
    /// They serve from now on; it took so long.
    Done(Duration),
    /// They cannot be made; the sessions for any size go on.
    Failed(Error),
}

/// What a worker owns: sessions for any frame size, and those made for one.
#[derive(Debug)]
pub(super) struct Served<S> {
    any: S,
    fixed: Vec<(Size, S)>,
}

impl<S> Served<S> {
    pub(super) fn new(any: S) -> Self {
        Self { any, fixed: Vec::new() }
    }

    /// The sessions for whole frames of `size`, or for any size if there are none or `size` is not given.
    pub(super) fn at(&mut self, size: Option<Size>) -> &mut S {
        let fixed = self.fixed.iter_mut().find(|(other, _)| Some(*other) == size);
        fixed.map_or(&mut self.any, |(_, sessions)| sessions)
    }

    fn add(&mut self, size: Size, sessions: S) {
        self.remove(size);
        self.fixed.push((size, sessions));
    }

    fn remove(&mut self, size: Size) {
        self.fixed.retain(|(other, _)| *other != size);
    }
}

/// The frame sizes that sessions are made for, oldest first, and whether they serve.
pub(super) type Sizes = Mutex<Vec<(Size, bool)>>;

impl Engine {
    /// Whether sessions for the padded size `size` serve.
    pub fn is_fixed(&self, size: Size) -> bool {
        lock(&self.sizes).contains(&(size, true))
    }

    /// Makes sessions for frames of `size` now and keeps what was compiled for the next process, if the provider
    /// compiles anything. Takes minutes with TensorRT.
    ///
    /// # Errors
    /// As for the loading of the model.
    pub fn prewarm(&self, size: Size) -> Result<Duration, Error> {
        let begin = Instant::now();
        if self.provider.compiles() {
            self.build(self.padded(size))?;
        }
        Ok(begin.elapsed())
    }

    /// Has sessions made for frames of the padded size `size`, in another thread, and tells `notify` how it goes. Does
    /// nothing if there are some, or if the provider gains nothing.
    pub(super) fn prepare(self: &Arc<Self>, size: Size, notify: impl Fn(Build) + Send + 'static) {
        {
            let mut sizes = lock(&self.sizes);
            if !self.provider.compiles() || sizes.iter().any(|(other, _)| *other == size) {
                return;
            }
            if sizes.len() == SIZES {
                let (oldest, _) = sizes.remove(0);
                self.worker.post(move |served| served.remove(oldest));
            }
            sizes.push((size, false));
        }
        notify(Build::Started);
        let engine = Arc::clone(self);
        let build = move || {
            let _busy = Busy::new();
            let begin = Instant::now();
            notify(match engine.build(size) {
                Ok(sessions) => {
                    engine.take_up(size, sessions);
                    Build::Done(begin.elapsed())
                }
                Err(err) => Build::Failed(err),
            });
        };
        thread::Builder::new().name("fastvsr-build".into()).spawn(build).expect("the system can start a thread");
    }

    fn take_up(&self, size: Size, sessions: Sessions) {
        let mut sizes = lock(&self.sizes);
        // Others may have taken its place meanwhile.
        if let Some((_, serves)) = sizes.iter_mut().find(|(other, _)| *other == size) {
            *serves = true;
            self.worker.post(move |served| served.add(size, sessions));
        }
    }

    fn build(&self, size: Size) -> Result<Sessions, Error> {
        let _turn = lock(&TURN);
        let make = |folder: Option<&std::path::Path>| {
            Sessions::for_size(self.environment, &self.package, self.place, &self.axes, size, folder)
        };
        match self.provider {
            Provider::TensorRt => cache::compiled(cache::root("tensorrt").as_deref(), &self.cache_key(size), make),
            _ => make(None),
        }
    }

    /// Everything that a compiled engine depends on.
    fn cache_key(&self, size: Size) -> String {
        let graphs = self.manifest.stages().map(|(kind, stage)| format!("{kind} {}\n", stage.sha256));
        let place = self.place;
        format!(
            "fastvsr {}\n{}size {}x{}\n{} {} on GPU {}\n{}",
            env!("CARGO_PKG_VERSION"),
            graphs.collect::<String>(),
            size.width,
            size.height,
            place.provider,
            place.precision.nick(),
            place.device,
            gpu::fingerprint(&self.library)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { width: 8, height: 8 };
    const LARGE: Size = Size { width: 16, height: 8 };

    #[test]
    fn any_size_is_served_until_there_is_something_better() {
        let mut served = Served::new("any");
        assert_eq!(*served.at(Some(SMALL)), "any");
        served.add(SMALL, "small");
        assert_eq!(*served.at(Some(SMALL)), "small");
        assert_eq!(*served.at(Some(LARGE)), "any");
        assert_eq!(*served.at(None), "any");
        served.add(SMALL, "again");
        assert_eq!(*served.at(Some(SMALL)), "again");
        served.remove(SMALL);
        assert_eq!(*served.at(Some(SMALL)), "any");
    }
}
