//! Owns the way from the settings to an engine with its model loaded, which may take longer than a state change.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

use super::{CAT, settings::Settings};
use crate::{
    engine::{self, Cancel, Engine, Error, Key, Severity},
    folders,
    model::Source,
    sync::lock,
};

/// The element's engine, from start to stop.
#[derive(Debug, Default)]
pub(super) struct Opening {
    engine: Mutex<Option<Arc<Engine>>>,
    /// The engine whose model is still being loaded: kept, so that what has begun is not begun again.
    loading: Mutex<Option<Arc<Engine>>>,
}

impl Opening {
    /// The engine, if its model is loaded.
    pub(super) fn engine(&self) -> Option<Arc<Engine>> {
        lock(&self.engine).clone()
    }

    /// The engine that the settings ask for, with its model loaded; `None` if that takes longer than until `limit`, and goes
    /// on.
    pub(super) fn open(
        &self,
        settings: &Settings,
        cancel: &Arc<Cancel>,
        limit: Option<Instant>,
    ) -> Result<Option<Arc<Engine>>, Error> {
        let source = Source::find(&settings.model()).map_err(Error::Model)?;
        let runtime = engine::load_runtime(settings.runtime_library().as_deref(), &beside(), log_runtime)?;
        let key = Key {
            source,
            provider: settings.execution_provider.provider(),
            device_id: settings.device_id,
            precision: settings.precision.precision(),
        };
        let engine = Engine::of(&key)?;
        if !engine.load(runtime, cancel, limit)? {
            *lock(&self.loading) = Some(engine);
            return Ok(None);
        }
        *lock(&self.loading) = None;
        *lock(&self.engine) = Some(Arc::clone(&engine));
        Ok(Some(engine))
    }

    /// Lets go of the engine, loaded or not.
    pub(super) fn close(&self) {
        *lock(&self.engine) = None;
        *lock(&self.loading) = None;
    }

    /// The model's scale, also before the model is loaded; `None` if it has no manifest that can be read, as a plain file before
    /// it is loaded.
    pub(super) fn scale(&self, settings: &Settings) -> Option<usize> {
        if let Some(engine) = self.engine() {
            return Some(engine.scale());
        }
        Some(Source::find(&settings.model()).and_then(|source| source.manifest()).ok()?.geometry.scale)
    }
}

/// Folders where the plugin's own runtime may have been installed: beside the folder of plugins, where GStreamer does not take it
/// for one; beside its file.
fn beside() -> Vec<PathBuf> {
    folders::own().map_or(Vec::new(), |folder| vec![folder.join("../fastvsr"), folder])
}

/// Bridges ONNX Runtime's log to the element's category.
fn log_runtime(severity: Severity, text: &str) {
    let level = match severity {
        Severity::Error => gst::DebugLevel::Error,
        Severity::Warning => gst::DebugLevel::Warning,
        Severity::Info => gst::DebugLevel::Info,
        Severity::Trace => gst::DebugLevel::Trace,
    };
    gst::log_with_level!(CAT, level, "ONNX Runtime: {text}");
}
