//! Owns the thread that owns a model's sessions, and the waiting for it.
//!
//! ONNX Runtime's `Run` is not safe to call from several threads, and GPU sessions want one thread, so each loaded
//! model has one [`Worker`]; its users queue up in the order in which they come. A user waits with a [`Cancel`]: when
//! that is triggered the wait ends at once, the running job is interrupted, and its result is discarded.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::error::Error;
use crate::sync::lock;

/// Ends the waits of one user of a worker, from any thread.
#[derive(Debug, Default)]
pub struct Cancel {
    state: Mutex<CancelState>,
    changed: Condvar,
}

#[derive(Default)]
struct CancelState {
    cancelled: bool,
    /// Counts cancellations: a job that was begun before the last one has nobody who waits for it.
    generation: u64,
    interrupt: Option<Interrupt>,
}

type Interrupt = Box<dyn Fn() + Send>;

impl std::fmt::Debug for CancelState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelState")
            .field("cancelled", &self.cancelled)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl CancelState {
    fn serves(&self, generation: u64) -> bool {
        !self.cancelled && self.generation == generation
    }
}

impl Cancel {
    /// Ends the current wait with [`Error::Cancelled`], and every later one until [`Self::reset`].
    pub fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        state.generation += 1;
        if let Some(interrupt) = state.interrupt.take() {
            interrupt();
        }
        self.changed.notify_all();
    }

    /// Allows waits again.
    pub fn reset(&self) {
        lock(&self.state).cancelled = false;
    }
}

/// What a job knows of its user.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    cancel: Arc<Cancel>,
    generation: u64,
}

impl Ticket {
    fn new(cancel: &Arc<Cancel>) -> Self {
        Self { cancel: Arc::clone(cancel), generation: lock(&cancel.state).generation }
    }

    /// Whether the user has left.
    pub(super) fn is_cancelled(&self) -> bool {
        !lock(&self.cancel.state).serves(self.generation)
    }

    /// Runs a part of a job that `interrupt` can end early.
    pub(super) fn interruptible<T>(&self, interrupt: impl Fn() + Send + 'static, run: impl FnOnce() -> T) -> T {
        {
            let mut state = lock(&self.cancel.state);
            if state.serves(self.generation) {
                state.interrupt = Some(Box::new(interrupt));
            } else {
                interrupt();
            }
        }
        let result = run();
        let mut state = lock(&self.cancel.state);
        // After a cancellation it may be the interrupt of a later job, on another worker.
        if state.generation == self.generation {
            state.interrupt = None;
        }
        result
    }
}

/// How long a user who leaves waits for an interrupted job to give back what it owns: buffers of the pipeline, which
/// should not outlive it.
const GRACE: Duration = Duration::from_millis(20);

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that owns an `S` and runs jobs on it, one after the other.
#[derive(Debug)]
pub(super) struct Worker<S> {
    jobs: mpsc::Sender<Job<S>>,
}

impl<S: Send + 'static> Worker<S> {
    /// Starts the thread. It ends when the worker is dropped and its last job is done; nobody waits for that but the
    /// end of the process.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn new(mut owned: S) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel::<Job<S>>();
        start_thread("fastvsr", move || {
            for job in queue {
                let _busy = Busy::new();
                job(&mut owned);
            }
            let _busy = Busy::new();
            drop(owned);
        })?;
        Ok(Self { jobs })
    }

    /// Queues a job that nobody waits for.
    pub(super) fn post(&self, job: impl FnOnce(&mut S) + Send + 'static) {
        // Without a thread there is nothing to do it to.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Runs a job and waits for its result.
    ///
    /// # Errors
    /// The job's own; [`Error::Cancelled`] soon after `cancel` is triggered: what a job owns that has not begun, or that
    /// heeds its interruption, is dropped by then, and the worker drops what is left; [`Error::Panicked`] if it panicked.
    pub(super) fn call<T: Send + 'static>(
        &self,
        cancel: &Arc<Cancel>,
        job: impl FnOnce(&mut S, &Ticket) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.call_until(None, cancel, job).map(|result| result.expect("there is no limit"))
    }

    /// Runs a job and waits for its result, until `limit` at the longest: then it gives `None`, and the job goes on, and can
    /// still be cancelled.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) fn call_until<T: Send + 'static>(
        &self,
        limit: Option<Instant>,
        cancel: &Arc<Cancel>,
        job: impl FnOnce(&mut S, &Ticket) -> Result<T, Error> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let ticket = Ticket::new(cancel);
        if ticket.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let generation = ticket.generation;
        let slot = Arc::new(Mutex::new(None));
        let pending = Arc::new(Mutex::new(Some(job)));
        let queued: Job<S> = {
            let (slot, pending) = (Arc::clone(&slot), Arc::clone(&pending));
            Box::new(move |owned| {
                // A job whose user left while it was queued must not delay the others.
                let Some(job) = lock(&pending).take() else { return };
                let result = if ticket.is_cancelled() {
                    Err(Error::Cancelled)
                } else {
                    catch_unwind(AssertUnwindSafe(|| job(owned, &ticket)))
                        .unwrap_or_else(|panic| Err(Error::Panicked(message(panic.as_ref()))))
                };
                *lock(&slot) = Some(result);
                // Taking the lock orders this notification after the waiter's last look at the slot.
                let _state = lock(&ticket.cancel.state);
                ticket.cancel.changed.notify_all();
            })
        };
        self.jobs.send(queued).map_err(|_| Error::Panicked("the worker thread is gone".into()))?;

        let mut give_up = None;
        let mut state = lock(&cancel.state);
        loop {
            let served = state.serves(generation);
            if let Some(result) = lock(&slot).take() {
                drop(state);
                return if served { result.map(Some) } else { Err(Error::Cancelled) };
            }
            let now = Instant::now();
            if served {
                state = match limit {
                    None => cancel.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(limit) if now >= limit => return Ok(None),
                    Some(limit) => {
                        cancel.changed.wait_timeout(state, limit - now).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            }
            let give_up = *give_up.get_or_insert(now + GRACE);
            let withdrawn = lock(&pending).take();
            if withdrawn.is_some() || now >= give_up {
                drop(state);
                return Err(Error::Cancelled);
            }
            state = cancel.changed.wait_timeout(state, give_up - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}

/// Starts a thread that nobody joins.
///
/// # Errors
/// If the system has none to give.
pub(super) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(|err| Error::Thread { reason: err.to_string() })
}

/// What keeps the process from ending while a thread is inside ONNX Runtime: the library's own destructors would take
/// its ground away. Waiting in `Drop` instead would make a pipeline's shutdown as slow as one run of the model.
struct Gate {
    busy: usize,
    /// When the process ends at the latest, once it has begun to.
    deadline: Option<Instant>,
}

static GATE: Mutex<Gate> = Mutex::new(Gate { busy: 0, deadline: None });
static IDLE: Condvar = Condvar::new();

/// The process whose threads are counted: a forked child has none of its parent's.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Longest wait at the end of the process.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A thread that is about to enter the library, until it has left it.
pub(super) struct Busy;

impl Busy {
    pub(super) fn new() -> Self {
        let mut gate = lock(&GATE);
        if PROCESS.swap(process::id(), Relaxed) != process::id() {
            *gate = Gate { busy: 0, deadline: None };
        }
        while gate.deadline.is_some() {
            // The process ends under this thread.
            gate = IDLE.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.busy += 1;
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&GATE).busy -= 1;
        IDLE.notify_all();
    }
}

/// Makes the end of the process wait for the threads that are busy, and keeps them from beginning anything new. To be
/// called whenever the library may have set up more of itself: what was registered last is called first, and this must come
/// before the library's own destructors. However often it was registered, all calls together wait once.
pub(super) fn wait_at_exit() {
    extern "C" fn wait() {
        // In a forked child the lock may be one that a thread of the parent's has taken for good.
        if PROCESS.load(Relaxed) != process::id() {
            return;
        }
        let mut gate = lock(&GATE);
        let deadline = *gate.deadline.get_or_insert_with(|| Instant::now() + LONGEST_WAIT);
        let left = deadline.saturating_duration_since(Instant::now());
        drop(IDLE.wait_timeout_while(gate, left, |gate| gate.busy > 0));
    }
    // SAFETY: `wait` is a plain function that lives as long as the process: GStreamer never unloads plugins.
    unsafe { libc::atexit(wait) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_in_order_on_what_the_worker_owns() {
        let worker = Worker::new(Vec::new()).unwrap();
        let cancel = Arc::default();
        for n in 0..5 {
            let job = move |list: &mut Vec<_>, _: &Ticket| {
                list.push(n);
                Ok(())
            };
            worker.call(&cancel, job).unwrap();
        }
        assert_eq!(worker.call(&cancel, |list, _| Ok(list.clone())).unwrap(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_cancelled_wait_ends_at_once_and_the_job_is_interrupted() {
        let worker = Worker::new(()).unwrap();
        let cancel = Arc::<Cancel>::default();
        let (started, wait) = mpsc::channel();
        let other = thread::spawn({
            let cancel = Arc::clone(&cancel);
            move || {
                wait.recv().unwrap();
                let begin = Instant::now();
                cancel.cancel();
                begin
            }
        });
        let (interrupted, was_interrupted) = mpsc::channel();
        let result = worker.call(&cancel, move |_, ticket| {
            ticket.interruptible(
                move || interrupted.send(()).unwrap(),
                || {
                    started.send(()).unwrap();
                    thread::sleep(Duration::from_millis(300));
                    Ok(())
                },
            )
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(other.join().unwrap().elapsed() < Duration::from_millis(100));
        was_interrupted.recv().unwrap();
    }

    #[test]
    fn after_a_reset_the_worker_serves_again() {
        let worker = Worker::new(1).unwrap();
        let cancel = Arc::<Cancel>::default();
        cancel.cancel();
        assert!(matches!(worker.call(&cancel, |n, _| Ok(*n)), Err(Error::Cancelled)));
        cancel.reset();
        assert_eq!(worker.call(&cancel, |n, _| Ok(*n)).unwrap(), 1);
    }

    /// Occupies a worker for another user, until the sender is used.
    fn keep_busy<S: Send + 'static>(
        worker: &Arc<Worker<S>>,
    ) -> (thread::JoinHandle<Result<bool, Error>>, mpsc::Sender<()>) {
        let worker = Arc::clone(worker);
        let (go, gone) = mpsc::channel::<()>();
        let (started, begun) = mpsc::channel();
        let running = thread::spawn(move || {
            worker.call(&Arc::default(), move |_, _| {
                started.send(()).unwrap();
                Ok(gone.recv().is_ok())
            })
        });
        begun.recv().unwrap();
        (running, go)
    }

    #[test]
    fn a_queued_job_whose_user_left_and_came_back_is_not_run() {
        let worker = Arc::new(Worker::new(Vec::new()).unwrap());
        let second = Arc::<Cancel>::default();
        let (running, go) = keep_busy(&worker);
        let queued = thread::spawn({
            let (worker, second) = (Arc::clone(&worker), Arc::clone(&second));
            let stale = |list: &mut Vec<_>, _: &Ticket| {
                list.push("stale");
                Ok(())
            };
            move || worker.call(&second, stale)
        });
        thread::sleep(Duration::from_millis(50));
        second.cancel();
        assert!(matches!(queued.join().unwrap(), Err(Error::Cancelled)));
        second.reset();
        go.send(()).unwrap();
        assert!(running.join().unwrap().unwrap());
        assert!(worker.call(&second, |list, _| Ok(list.is_empty())).unwrap());
    }

    #[test]
    fn a_job_that_has_not_begun_gives_back_what_it_owns_at_once() {
        let worker = Arc::new(Worker::new(()).unwrap());
        let second = Arc::<Cancel>::default();
        let (running, go) = keep_busy(&worker);
        let owned = Arc::new(());
        let queued = thread::spawn({
            let (worker, second, owned) = (Arc::clone(&worker), Arc::clone(&second), Arc::clone(&owned));
            move || worker.call(&second, move |_, _| Ok(Arc::strong_count(&owned)))
        });
        thread::sleep(Duration::from_millis(50));
        second.cancel();
        assert!(matches!(queued.join().unwrap(), Err(Error::Cancelled)));
        assert_eq!(Arc::strong_count(&owned), 1);
        go.send(()).unwrap();
        assert!(running.join().unwrap().unwrap());
    }

    #[test]
    fn what_is_left_of_a_cancelled_job_is_interrupted_after_a_reset_too() {
        let worker = Arc::new(Worker::new(()).unwrap());
        let cancel = Arc::<Cancel>::default();
        let (started, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let (interrupted, was_interrupted) = mpsc::channel();
        let waiter = thread::spawn({
            let (worker, cancel) = (Arc::clone(&worker), Arc::clone(&cancel));
            move || {
                worker.call(&cancel, move |_, ticket| {
                    started.send(()).unwrap();
                    gone.recv().unwrap();
                    ticket.interruptible(move || interrupted.send(()).unwrap(), || Ok(()))
                })
            }
        });
        begun.recv().unwrap();
        cancel.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        cancel.reset();
        go.send(()).unwrap();
        was_interrupted.recv().unwrap();
    }

    #[test]
    fn one_user_cancels_and_the_other_is_served() {
        let worker = Arc::new(Worker::new(()).unwrap());
        let (leaves, stays) = (Arc::<Cancel>::default(), Arc::<Cancel>::default());
        let slow = thread::spawn({
            let (worker, leaves) = (Arc::clone(&worker), Arc::clone(&leaves));
            let job = |_: &mut (), _: &Ticket| {
                thread::sleep(Duration::from_millis(100));
                Ok(())
            };
            move || worker.call(&leaves, job)
        });
        thread::sleep(Duration::from_millis(20));
        leaves.cancel();
        assert_eq!(worker.call(&stays, |_, _| Ok(42)).unwrap(), 42);
        assert!(matches!(slow.join().unwrap(), Err(Error::Cancelled)));
    }

    #[test]
    fn a_crowd_that_comes_and_goes_gets_its_own_results_or_none() {
        const JOBS: u32 = 300;
        let worker = Arc::new(Worker::new(0u32).unwrap());
        let user = |number: u32| {
            let (worker, cancel) = (Arc::clone(&worker), Arc::<Cancel>::default());
            let (done, running) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Arc::clone(&cancel));
            let over = Arc::clone(&done);
            let restless = thread::spawn(move || {
                for n in 0.. {
                    if over.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    running.cancel();
                    running.reset();
                    thread::sleep(Duration::from_micros(u64::from((n * 37 + number * 11) % 400)));
                }
            });
            thread::spawn(move || {
                let mut served = 0;
                for n in 0..JOBS {
                    let own = number * JOBS + n;
                    let result = worker.call(&cancel, move |count, ticket| {
                        ticket.interruptible(|| {}, || *count += 1);
                        Ok(own)
                    });
                    match result {
                        Ok(got) => {
                            assert_eq!(got, own);
                            served += 1;
                        }
                        Err(Error::Cancelled) => {}
                        Err(err) => panic!("{err}"),
                    }
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                restless.join().unwrap();
                served
            })
        };
        let users: Vec<_> = (0..4).map(user).collect();
        let served: u32 = users.into_iter().map(|user| user.join().unwrap()).sum();
        let run = worker.call(&Arc::default(), |count, _| Ok(*count)).unwrap();
        assert!((served..=4 * JOBS).contains(&run), "{served} served, {run} run");
    }

    #[test]
    fn who_waits_no_longer_can_still_cancel_the_job() {
        let worker = Worker::new(()).unwrap();
        let cancel = Arc::<Cancel>::default();
        let (started, begun) = mpsc::channel();
        let (interrupted, was_interrupted) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let left = worker.call_until(Some(Instant::now()), &cancel, move |_, ticket| {
            started.send(()).unwrap();
            ticket.interruptible(move || interrupted.send(()).unwrap(), || Ok(gone.recv().is_ok()))
        });
        assert!(matches!(left, Ok(None)));
        begun.recv().unwrap();
        cancel.cancel();
        was_interrupted.recv().unwrap();
        go.send(()).unwrap();
        cancel.reset();
        worker.call(&cancel, |_, _| Ok(())).unwrap();
    }

    #[test]
    fn a_panic_is_an_error_and_the_worker_lives_on() {
        let worker = Worker::new(()).unwrap();
        let cancel = Arc::default();
        let result = worker.call(&cancel, |_, _| -> Result<(), Error> { panic!("out of cheese") });
        assert!(result.unwrap_err().to_string().contains("out of cheese"));
        worker.call(&cancel, |_, _| Ok(())).unwrap();
    }
}
