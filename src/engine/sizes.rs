//! Owns the models that are made for one frame size, in the background, while the one for any size serves.
//!
//! OpenVINO runs a graph of known shapes in 0.7 of the time, TensorRT builds an engine for every shape, which takes
//! minutes. Neither holds up a frame: streams begin with the model for any size, and go on with their own as soon as that is
//! there. The recurrent state goes on too.
//!
//! Few sizes are kept. Where more take turns, as in adaptive streaming, the ones that serve stay: another takes the place of
//! the least used only when it has had twice as many frames, and what was long ago counts ever less.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    error::Error,
    worker::{Busy, start_thread},
};
use crate::{frames::Size, sync::lock};

/// How many sizes have a model of their own.
const KEPT: usize = 4;

/// Sizes that are remembered, with a model or not.
const KNOWN: usize = 32;

/// Frames after which those before count half: long beside the turns of adaptive streaming, some ten seconds each.
const HALF_LIFE: u64 = 4096;

/// Frames that a size has had at least before it takes another's place.
const SERIOUS: u64 = 16;

/// How the making of a model for a frame size goes.
#[derive(Debug)]
pub enum Build {
    /// It has begun; meanwhile the model for any size serves.
    Started,
    /// It serves from now on; it took so long.
    Done(Duration),
    /// Nobody wanted it any more.
    Dropped,
    /// It cannot be made, for this reason; the model for any size goes on.
    Failed(String),
}

/// A stream that gains by a model for its size, and is told how the making of it goes.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) size: Size,
    pub(super) notify: Arc<dyn Fn(Build) + Send + Sync>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wish").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A model for any frame size, and those made for one. Owned by a worker.
#[derive(Debug)]
pub(super) struct Sizes<M> {
    any: M,
    known: Vec<Known<M>>,
    frames: u64,
}

#[derive(Debug)]
struct Known<M> {
    size: Size,
    /// How many it has had, half of them forgotten again and again.
    frames: u64,
    model: OfSize<M>,
}

#[derive(Debug)]
enum OfSize<M> {
    None,
    Building,
    Ready(M),
    /// Why it cannot be made.
    Failed(String),
}

impl<M> OfSize<M> {
    fn takes_place(&self) -> bool {
        matches!(self, Self::Building | Self::Ready(_))
    }
}

impl<M> Sizes<M> {
    pub(super) fn new(any: M) -> Self {
        Self { any, known: Vec::new(), frames: 0 }
    }

    /// The model for any size.
    pub(super) fn any(&mut self) -> &mut M {
        &mut self.any
    }

    /// The model for frames of `size`, if there is one.
    pub(super) fn of(&mut self, size: Size) -> Option<&mut M> {
        let known = self.known.iter_mut().find(|known| known.size == size)?;
        if let OfSize::Ready(model) = &mut known.model { Some(model) } else { None }
    }

    /// Why there is no model for frames of `size`, if it was tried.
    pub(super) fn failure(&self, size: Size) -> Option<&str> {
        let known = self.known.iter().find(|known| known.size == size)?;
        if let OfSize::Failed(reason) = &known.model { Some(reason) } else { None }
    }

    /// Counts a frame of `size`; whether its model is to be built now, and then [`Self::finish`] to be called.
    pub(super) fn count(&mut self, size: Size) -> bool {
        self.frames += 1;
        if self.frames.is_multiple_of(HALF_LIFE) {
            self.known.iter_mut().for_each(|known| known.frames /= 2);
        }
        let index = self.known.iter().position(|known| known.size == size).unwrap_or_else(|| {
            if self.known.len() == KNOWN {
                let least = self.least(|model| !model.takes_place()).expect("only few take a place");
                self.known.remove(least);
            }
            self.known.push(Known { size, frames: 0, model: OfSize::None });
            self.known.len() - 1
        });
        self.known[index].frames += 1;
        if !matches!(self.known[index].model, OfSize::None) {
            return false;
        }
        if self.known.iter().filter(|known| known.model.takes_place()).count() == KEPT {
            let ready = |model: &OfSize<M>| matches!(model, OfSize::Ready(_));
            let Some(least) = self.least(ready) else { return false };
            if self.known[index].frames <= 2 * self.known[least].frames + SERIOUS {
                return false;
            }
            self.known[least].model = OfSize::None;
        }
        self.known[index].model = OfSize::Building;
        true
    }

    /// Takes up what was built, or why it could not be; without a reason nobody wanted it any more, and it may be built again.
    pub(super) fn finish(&mut self, size: Size, built: Result<M, Option<String>>) {
        if let Some(known) = self.known.iter_mut().find(|known| known.size == size) {
            known.model = match built {
                Ok(model) => OfSize::Ready(model),
                Err(None) => OfSize::None,
                Err(Some(reason)) => OfSize::Failed(reason),
            };
        }
    }

    /// The least used of those whose model is as `which` says.
    fn least(&self, which: impl Fn(&OfSize<M>) -> bool) -> Option<usize> {
        let candidates = self.known.iter().enumerate().filter(|(_, known)| which(&known.model));
        candidates.min_by_key(|(_, known)| known.frames).map(|(index, _)| index)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The builds of all models that wait, while a thread is at work. One runs at a time: each takes all cores, and as much of a
/// GPU's memory as it can use.
static BUILDS: Mutex<Option<VecDeque<Job>>> = Mutex::new(None);

/// Runs a build on the one thread that builds, after those that wait. Each engine has few of them.
///
/// # Errors
/// If no thread can be started.
pub(super) fn build(job: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let mut builds = lock(&BUILDS);
    if let Some(waiting) = builds.as_mut() {
        waiting.push_back(Box::new(job));
        return Ok(());
    }
    start_thread("fastvsr-build", move || {
        let mut next: Option<Job> = Some(Box::new(job));
        while let Some(job) = next {
            {
                let _busy = Busy::new();
                // A bug in one build is not the end of the others.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            }
            let mut builds = lock(&BUILDS);
            next = builds.as_mut().and_then(VecDeque::pop_front);
            if next.is_none() {
                *builds = None;
            }
        }
    })?;
    *builds = Some(VecDeque::new());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(number: usize) -> Size {
        Size { width: 8 * (number + 1), height: 8 }
    }

    /// Plays `frames` frames of a size; builds what is to be built at once, and says how often that was.
    fn play(sizes: &mut Sizes<usize>, number: usize, frames: usize) -> usize {
        let mut builds = 0;
        for _ in 0..frames {
            if sizes.count(size(number)) {
                sizes.finish(size(number), Ok(number));
                builds += 1;
            }
        }
        builds
    }

    #[test]
    fn a_size_gets_its_model_at_its_first_frame_and_keeps_it() {
        let mut sizes = Sizes::new(99);
        assert_eq!(sizes.of(size(0)), None);
        assert!(sizes.count(size(0)));
        assert!(!sizes.count(size(0)), "it is being built");
        assert_eq!(sizes.of(size(0)), None);
        sizes.finish(size(0), Ok(1));
        assert_eq!(sizes.of(size(0)), Some(&mut 1));
        assert_eq!(sizes.of(size(1)), None);
        assert_eq!(*sizes.any(), 99);
    }

    #[test]
    fn what_failed_is_not_tried_again_and_what_was_not_wanted_is() {
        let mut sizes = Sizes::new(0);
        assert!(sizes.count(size(0)));
        sizes.finish(size(0), Err(None));
        assert!(sizes.count(size(0)));
        sizes.finish(size(0), Err(Some("a bug".into())));
        assert!(!sizes.count(size(0)));
        assert_eq!(sizes.failure(size(0)), Some("a bug"));
        assert_eq!(sizes.failure(size(1)), None);
    }

    #[test]
    fn five_sizes_in_turn_do_not_thrash() {
        for frames in [1, 60, 300] {
            let mut sizes = Sizes::new(99);
            let builds: usize = (0..200).map(|turn| play(&mut sizes, turn % 5, frames)).sum();
            assert_eq!(builds, KEPT, "turns of {frames} frames");
        }
    }

    #[test]
    fn who_stays_takes_the_place_of_who_has_gone() {
        let mut sizes = Sizes::new(99);
        (0..4).for_each(|number| assert_eq!(play(&mut sizes, number, 5000), 1));
        assert_eq!(play(&mut sizes, 4, 5000), 1);
        assert_eq!(sizes.of(size(4)), Some(&mut 4));
        assert_eq!((0..5).filter(|number| sizes.of(size(*number)).is_some()).count(), KEPT);
    }

    #[test]
    fn a_new_size_with_every_frame_neither_builds_nor_grows_for_ever() {
        let mut sizes = Sizes::new(99);
        let builds: usize = (0..10_000).map(|number| play(&mut sizes, number, 1)).sum();
        assert_eq!(builds, KEPT);
        assert_eq!(sizes.known.len(), KNOWN);
    }

    #[test]
    fn builds_run_one_after_the_other_on_one_thread() {
        let (sender, done) = std::sync::mpsc::channel();
        for number in 0..5 {
            let sender = sender.clone();
            build(move || sender.send((number, std::thread::current().id())).unwrap()).unwrap();
        }
        let order: Vec<_> = (0..5).map(|_| done.recv().unwrap()).collect();
        assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}
