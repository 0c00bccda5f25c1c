//! Owns the sharing of loaded models: elements that ask for the same model on the same device get the same engine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use once_cell::sync::Lazy;

use super::{Engine, Error, Precision, Provider, worker::lock};
use crate::model::Source;

/// What makes two loaded models the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where the package comes from.
    pub source: Source,
    /// Execution provider asked for.
    pub provider: Provider,
    /// GPU number.
    pub device: i32,
    /// Precision asked for.
    pub precision: Precision,
}

type Slot = Arc<Mutex<Weak<Engine>>>;

static ENGINES: Lazy<Mutex<HashMap<Key, Slot>>> = Lazy::new(Mutex::default);

/// Gives the engine of `key`, loading it if nobody uses it yet. Two threads that want the same engine load it once;
/// different engines load in parallel.
pub(super) fn get(key: &Key, load: impl FnOnce() -> Result<Engine, Error>) -> Result<Arc<Engine>, Error> {
    let slot = {
        let mut engines = lock(&ENGINES);
        engines.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
        Arc::clone(engines.entry(key.clone()).or_default())
    };
    let mut engine = lock(&slot);
    if let Some(loaded) = engine.upgrade() {
        return Ok(loaded);
    }
    let loaded = Arc::new(load()?);
    *engine = Arc::downgrade(&loaded);
    Ok(loaded)
}
