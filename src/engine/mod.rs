//! Owns inference: an [`Engine`] is a loaded model with its worker thread, shared by all who want the same; a [`Stream`] is
//! one video that runs through it. Knows ONNX Runtime, knows nothing of GStreamer.
//!
//! ```text
//! Stream --(window, frame)--> worker: encoder, unet, decoder, state; written into the caller's memory
//! ```
//!
//! Imports go one way, without circles: provider, device, stage, tiles, model, stream, each of those before it.

mod budget;
mod cache;
mod cpu;
mod device;
mod error;
mod measure;
mod model;
mod nvidia;
mod plain;
mod plugins;
mod provider;
mod runtime;
mod sizes;
mod stage;
mod state;
mod stream;
mod tiles;
mod unwinder;
mod vulkan;
mod worker;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::{Duration, Instant},
};

use once_cell::sync::Lazy;
use ort::environment::Environment;

pub use cpu::Cpu;
pub use device::Device;
pub use error::Error;
pub use measure::Known;
pub use model::Timings;
pub use nvidia::models as gpu_models;
pub use provider::{Precision, Provider};
pub use runtime::{Log, Runtime, Severity, load as load_runtime};
pub use sizes::Build;
pub use stream::{Run, Stream};
pub use vulkan::{Adapter, adapters};
pub use worker::Cancel;

use self::{
    model::Model,
    sizes::{Sizes, Wish},
    stage::AxisNames,
    worker::{Ticket, Worker},
};
use crate::{
    frames::Size,
    model::{Manifest, Package, PlainFile, Source},
    sync::lock,
};

/// What makes two engines the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where the package comes from.
    pub source: Source,
    /// Execution provider asked for; `None`: the first that works.
    pub provider: Option<Provider>,
    /// GPU number.
    pub device_id: i32,
    /// Precision asked for; `None`: the provider's fastest that keeps the picture.
    pub precision: Option<Precision>,
}

/// A model that is loaded on a device, or is being loaded, shared by all who use it.
#[derive(Debug)]
pub struct Engine {
    key: Key,
    /// Nothing before the model is loaded.
    worker: Worker<Option<Sizes<Model>>>,
    about: OnceLock<About>,
}

/// What is known of a model that is loaded.
#[derive(Debug)]
struct About {
    recipe: Arc<Recipe>,
    library: PathBuf,
    refused: Vec<Error>,
}

/// What models for one frame size are made of.
#[derive(Debug)]
struct Recipe {
    package: Package,
    environment: &'static Environment,
    device: Device,
    axis_names: Vec<AxisNames>,
    /// The libraries that what is compiled depends on.
    files: Vec<PathBuf>,
}

/// The engines in use.
static ENGINES: Lazy<Mutex<HashMap<Key, Weak<Engine>>>> = Lazy::new(Mutex::default);

impl Engine {
    /// Gives the engine of `key`, which all who ask for the same have. Nothing is loaded yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn of(key: &Key) -> Result<Arc<Self>, Error> {
        let mut engines = lock(&ENGINES);
        engines.retain(|_, engine| engine.strong_count() > 0);
        if let Some(engine) = engines.get(key).and_then(Weak::upgrade) {
            return Ok(engine);
        }
        let engine = Arc::new(Self { key: key.clone(), worker: Worker::new(None)?, about: OnceLock::new() });
        engines.insert(key.clone(), Arc::downgrade(&engine));
        Ok(engine)
    }

    /// Loads the model, if nobody has, and waits for it until `limit` at the longest; whether it is loaded. It goes on being
    /// loaded after that, until `cancel` is triggered.
    ///
    /// # Errors
    /// If the package, the provider or the graphs cannot be used; where no provider was chosen, only if none works.
    pub fn load(
        self: &Arc<Self>,
        runtime: &'static Runtime,
        cancel: &Arc<Cancel>,
        limit: Option<Instant>,
    ) -> Result<bool, Error> {
        let engine = Arc::downgrade(self);
        let loaded = self.worker.call_until(limit, cancel, move |sizes, ticket| {
            let Some(engine) = engine.upgrade().filter(|_| sizes.is_none()) else { return Ok(()) };
            let (model, about) = engine.key.load(runtime, ticket)?;
            *sizes = Some(Sizes::new(model));
            engine.about.get_or_init(|| about);
            Ok(())
        })?;
        Ok(loaded.is_some())
    }

    /// Gives the engine of `key` with its model loaded.
    ///
    /// # Errors
    /// As [`Self::of`] and [`Self::load`].
    pub fn open(runtime: &'static Runtime, key: &Key) -> Result<Arc<Self>, Error> {
        let engine = Self::of(key)?;
        engine.load(runtime, &Arc::default(), None)?;
        Ok(engine)
    }

    fn about(&self) -> &About {
        self.about.get().expect("an engine is used when its model is loaded")
    }

    /// The model's manifest.
    ///
    /// # Panics
    /// As all that follow: if the model is not loaded.
    pub fn manifest(&self) -> &Manifest {
        &self.about().recipe.package.manifest
    }

    /// What the model was loaded for. What serves a frame is told with the frame: while the device compiles it may be another.
    pub fn device(&self) -> Device {
        self.about().recipe.device
    }

    /// The library that runs it.
    pub fn library(&self) -> &std::path::Path {
        &self.about().library
    }

    /// Why the providers that were tried before do not work here.
    pub fn refused(&self) -> &[Error] {
        &self.about().refused
    }

    /// Why a GPU that the machine has stands idle; `None` if it has none, or works.
    pub fn idle_gpu(&self) -> Option<&Error> {
        let cuda = |err: &&Error| matches!(err, Error::Provider { provider, .. } if *provider == Provider::Cuda.name());
        self.refused().iter().find(cuda).filter(|_| nvidia::is_present())
    }

    /// Output pixels per input pixel along each axis.
    pub fn scale(&self) -> usize {
        self.manifest().geometry.scale
    }

    /// The size to which frames of `size` must be padded.
    pub fn padded(&self, size: Size) -> Size {
        self.manifest().padded(size)
    }

    /// The size that a model gets of frames that are padded to `padded`, where no limit of memory makes tiles of them.
    fn size_of_runs(&self, padded: Size) -> Size {
        self.manifest().fixed().unwrap_or(padded)
    }

    /// Makes a model for frames of `size` now and keeps what was compiled for the next process, if the device compiles
    /// anything. Takes minutes with TensorRT.
    ///
    /// # Errors
    /// As for the loading of the model.
    pub fn prewarm(&self, size: Size) -> Result<Duration, Error> {
        let begin = Instant::now();
        if self.device().compiles() {
            let (recipe, size) = (Arc::clone(&self.about().recipe), self.size_of_runs(self.padded(size)));
            self.worker.call(&Arc::default(), move |_, _| recipe.build(size, || true).map(drop))?;
        }
        Ok(begin.elapsed())
    }

    /// Has a model built in the background for the size of a wish, unless nobody has it any more when its turn comes.
    ///
    /// # Errors
    /// If no thread can be started.
    fn build(self: &Arc<Self>, wish: &Arc<Wish>) -> Result<(), Error> {
        let (size, notify) = (wish.size, Arc::clone(&wish.notify));
        let (engine, recipe, wish) = (Arc::downgrade(self), Arc::clone(&self.about().recipe), Arc::downgrade(wish));
        let is_wanted = move || wish.strong_count() > 0;
        sizes::build(move || {
            let begin = Instant::now();
            // Who waited may be gone already, and is then told nothing.
            let wanted = is_wanted();
            if wanted {
                notify(Build::Started);
            }
            let built = recipe.build(size, is_wanted);
            let Some(engine) = engine.upgrade() else { return };
            let (built, told) = match built {
                Ok(model) => (Ok(model), Build::Done(begin.elapsed())),
                Err(Error::Cancelled) => (Err(None), Build::Dropped),
                Err(err) => (Err(Some(err.to_string())), Build::Failed(err.to_string())),
            };
            engine.worker.post(move |sizes| {
                if let Some(sizes) = sizes {
                    sizes.finish(size, built);
                }
            });
            if wanted {
                notify(told);
            }
        })
    }
}

/// Gives the manifest that a plain ONNX file would have, as text: measured on the CPU at the first call, kept in the user's cache
/// folder.
///
/// # Errors
/// If the file is no plain network: what was expected, what it is, and what to do.
pub fn measure(runtime: &Runtime, file: &PlainFile, known: Known) -> Result<String, Error> {
    measure::manifest(&runtime.environment, file, known, &Ticket::default())
}

impl Key {
    /// Loads the package on the first of the providers in question that works.
    fn load(&self, runtime: &'static Runtime, ticket: &Ticket) -> Result<(Model, About), Error> {
        let package = match &self.source {
            Source::File(path) => {
                let file = PlainFile::read(path).map_err(Error::Model)?;
                let manifest = measure::manifest(&runtime.environment, &file, Known::default(), ticket)?;
                file.package(&manifest).map_err(Error::Model)?
            }
            source => source.load().map_err(Error::Model)?,
        };
        let providers = self.provider.as_ref().map_or(&Provider::AUTO[..], std::slice::from_ref);
        let mut refused = Vec::new();
        for provider in providers {
            let tried = Device::new(*provider, self.precision, self.device_id, package.has_int8())
                .and_then(|device| Recipe::try_on(device, self.provider.is_some(), &package, runtime, ticket));
            // A process that ends must wait for what this has begun.
            worker::wait_at_exit();
            match tried {
                Ok((model, recipe)) => {
                    let library = runtime.library.clone();
                    return Ok((model, About { recipe: Arc::new(recipe), library, refused }));
                }
                // Another provider cannot mend a graph that does not fit its manifest.
                Err(err @ (Error::Signature { .. } | Error::Cancelled)) => return Err(err),
                Err(err) => refused.push(err),
            }
        }
        Err(refused.pop().expect("there is a provider to try"))
    }
}

impl Recipe {
    /// Loads the model for any size on a device, or on what serves until the device has compiled.
    fn try_on(
        device: Device,
        is_chosen: bool,
        package: &Package,
        runtime: &'static Runtime,
        ticket: &Ticket,
    ) -> Result<(Model, Self), Error> {
        let files = device.open(runtime, is_chosen)?;
        let environment = &runtime.environment;
        let model = Model::load(environment, device.for_any_size(), package, ticket)?;
        let recipe = Self { package: package.clone(), environment, device, axis_names: model.axis_names(), files };
        if device.compiles() && !device.caches() {
            // Compiling for one size sets up more of the library than compiling for any. That must be done before the process
            // is asked to wait at its end, or the library's destructors take it from under a build.
            recipe.build(model::smallest(&package.manifest), || !ticket.is_cancelled())?;
        }
        Ok((model, recipe))
    }

    /// Makes a model for frames of the padded size `size`; `is_wanted` may end it.
    fn build(&self, size: Size, is_wanted: impl Fn() -> bool) -> Result<Model, Error> {
        let make = |folder: Option<&std::path::Path>| {
            Model::for_size(self.environment, self.device, &self.package, &self.axis_names, size, folder, &is_wanted)
        };
        if self.device.caches() {
            return cache::compiled(cache::root(self.device.provider.name()).as_deref(), &self.cache_key(size), make);
        }
        make(None)
    }

    /// Everything that a compiled engine depends on.
    fn cache_key(&self, size: Size) -> String {
        let graphs = self.package.manifest.stages().map(|(kind, stage)| {
            let int8 = stage.int8.as_ref().map_or("", |int8| &int8.sha256);
            format!("{kind} {} {int8}\n", stage.sha256)
        });
        let Device { provider, precision, id } = self.device;
        format!(
            "fastvsr {}\n{}size {}x{}\n{provider} {} on GPU {id}\n{}",
            env!("CARGO_PKG_VERSION"),
            graphs.collect::<String>(),
            size.width,
            size.height,
            precision.name(),
            nvidia::fingerprint(&self.files)
        )
    }
}
