//! Owns the sharing of loaded models: elements that ask for the same model on the same device get the same engine.

use std::{
    collections::HashMap,
    hash::Hash,
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

/// What is loaded and used, by key.
#[derive(Debug)]
struct Registry<K, T> {
    slots: Mutex<HashMap<K, Slot<T>>>,
}

/// Locked while its own is loaded, so that whoever wants the same waits for it.
type Slot<T> = Arc<Mutex<Weak<T>>>;

static ENGINES: Lazy<Registry<Key, Engine>> = Lazy::new(Registry::new);

/// Gives the engine of `key`, loading it if nobody uses it yet. Two threads that want the same engine load it once;
/// different engines load in parallel.
pub(super) fn get(key: &Key, load: impl FnOnce() -> Result<Engine, Error>) -> Result<Arc<Engine>, Error> {
    ENGINES.get(key, load)
}

impl<K: Clone + Eq + Hash, T> Registry<K, T> {
    fn new() -> Self {
        Self { slots: Mutex::default() }
    }

    fn get<E>(&self, key: &K, load: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let slot = {
            let mut slots = lock(&self.slots);
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
            Arc::clone(slots.entry(key.clone()).or_default())
        };
        let mut shared = lock(&slot);
        if let Some(loaded) = shared.upgrade() {
            return Ok(loaded);
        }
        let loaded = Arc::new(load()?);
        *shared = Arc::downgrade(&loaded);
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        thread::scope,
    };

    use super::*;

    #[test]
    fn a_crowd_that_wants_the_same_loads_it_once() {
        let (registry, loads, together) = (Registry::new(), AtomicUsize::new(0), Barrier::new(8));
        let want = || {
            together.wait();
            let loaded = registry.get(&"s", || Ok::<_, ()>(loads.fetch_add(1, SeqCst))).unwrap();
            // Until all have it: what nobody uses is let go.
            together.wait();
            *loaded
        };
        for round in 0..50 {
            let got = scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(want)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(got, [round; 8]);
        }
    }

    #[test]
    fn different_ones_load_at_the_same_time() {
        let (registry, together) = (Registry::new(), Barrier::new(2));
        let load = |key| registry.get(&key, || Ok::<_, ()>(together.wait().is_leader())).unwrap();
        scope(|scope| {
            scope.spawn(|| load(1));
            load(2);
        });
    }

    #[test]
    fn what_failed_to_load_is_tried_again_and_what_is_unused_forgotten() {
        let registry = Registry::new();
        assert_eq!(registry.get(&1, || Err::<i32, _>("no")), Err("no"));
        let loaded = registry.get(&1, || Ok::<_, ()>(5)).unwrap();
        assert_eq!(registry.get(&1, || Ok::<_, ()>(6)), Ok(loaded));
        let other = registry.get(&2, || Ok::<_, ()>(7)).unwrap();
        assert_eq!(*registry.get(&1, || Ok::<_, ()>(8)).unwrap(), 8);
        drop(other);
        drop(registry.get(&3, || Ok::<_, ()>(9)));
        assert_eq!(lock(&registry.slots).keys().collect::<Vec<_>>(), [&3]);
    }
}
