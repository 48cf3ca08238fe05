//! Who runs next: the run queues of an environment's processes, and the threads that take from them.
//!
//! Processes do little between two waits, and mostly wake each other. A general runtime wakes a second thread
//! for what the first would have done a microsecond later; that costs more than all the rest of a round trip.
//! So processes have schedulers of their own, one thread for each worker of the tokio runtime, which
//! keeps timers, sockets and sessions:
//!
//! ```text
//!   woken by what runs here ──▶ next ──┐
//!             displaced from there ▼   ├──▶ this thread
//!   gave way ────────────────▶ queue ──┤        ▲ steals when it has nothing
//!   woken from anywhere else ─▶ injected ───────┴── other threads
//! ```
//!
//! * What a running process wakes runs next on the same thread, as soon as that one waits or gives way; no
//!   other thread is woken for it. After [`worker::STREAK`] of these in a row the queue comes first; while some compute,
//!   after [`worker::STREAK_TIME`].
//! * Unless it has run just now while others waited, and none compute: then it goes to the end of the queue, too. Many
//!   that wait there and all tell one process something would have it run in between each two of them.
//! * One that gives way goes to the end of the queue. Each [`worker::INJECTED_EVERY`] turns, what was injected has
//!   precedence; while some compute, whose turns are long, it has it for [`worker::STREAK`] turns in a row.
//! * What is injected while some compute and no thread is free makes them give way at once
//!   ([`Scheduler::preempt_by`]), so a message waits neither for the end of a turn nor for its clock.
//! * Whoever queues wakes at most one idle thread, and none while another one is looking: the one that finds
//!   something wakes the next one if there is more (the rule of the Go scheduler and of tokio's).
//! * A thread that is not ours may be lent for a moment ([`Scheduler::lend_thread`]): what it wakes while all of
//!   ours are idle runs on it, since waking one of them takes longer than most processes run.
//! * A task that does not come back, since it blocks its thread or its module is trusted and computes, holds up
//!   nobody for more than two looks of the watch ([`watch::LOOK`]): what it woke is handed to the other threads, and
//!   where all of them are held up and somebody waits, a spare thread starts, and ends when there is nothing
//!   left for it.
//!
//! A task is queued at most once, so the queues hold at most as many entries as there are processes.
//!
//! On a tokio runtime of one thread there are no threads of ours: processes are its tasks, so a clock that
//! stands still and a seed decide everything.

mod lent;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_task::{ScheduleInfo, WithInfo};
use crossbeam_deque::{Injector, Steal, Stealer, Worker};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;

pub use self::lent::{LentThread, SetAside};

/// A process that may run now.
type Runnable = async_task::Runnable<LastTurn>;

/// The thread that a process ran on last, and which of its turns that was; see [`worker::ROUND`].
#[derive(Default)]
struct LastTurn(AtomicU64);

/// How often those that compute are made to give way, at the most.
const PREEMPT_EVERY: Duration = Duration::from_micros(100);

/// Looks for which a task that has given way is taken to compute.
const COMPUTING_LOOKS: u32 = 5;

/// Runs the tasks of processes. Dropping it ends its threads once they have nothing left to run.
pub(crate) struct Scheduler {
    runtime: Handle,
    queues: Option<Arc<Queues>>,
    watch: OnceLock<AbortHandle>,
}

impl Scheduler {
    /// As many threads as `runtime` has workers; none if it runs on its caller's.
    ///
    /// # Panics
    ///
    /// If the system gives no more threads.
    pub(crate) fn new(runtime: Handle) -> Self {
        let queues = match runtime.runtime_flavor() {
            RuntimeFlavor::CurrentThread => None,
            _ => Some(Queues::start(&runtime, runtime.metrics().num_workers())),
        };
        Scheduler {
            runtime,
            queues,
            watch: OnceLock::new(),
        }
    }

    /// What keeps timers and sockets.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Lends this thread, which is none of ours, to what it wakes until the result is dropped; that runs the
    /// tasks, for [`lent::LENT_TIME`] and as long as the last one takes. Nothing is lent on a thread of ours, on one that
    /// is lent already, or on a runtime of one thread.
    pub(crate) fn lend_thread(&self) -> LentThread<'_> {
        let ours = worker::is_one();
        LentThread::lend(&self.runtime, self.queues.as_ref().filter(|_| !ours))
    }

    /// Whether all threads of ours wait to be woken; `false` on a runtime of one thread.
    pub(crate) fn is_idle(&self) -> bool {
        let queues = self.queues.as_ref();
        queues.is_some_and(|queues| queues.is_idle())
    }

    /// What makes all tasks that compute give way soon. Called from any thread, at most every [`PREEMPT_EVERY`].
    pub(crate) fn preempt_by(&self, preempt: impl Fn() + Send + Sync + 'static) {
        if let Some(queues) = &self.queues {
            // The first one stays.
            let _: Result<(), _> = queues.preempt.set(Box::new(preempt));
        }
    }

    /// Notes that a task computes: it has had long turns, and has just given way again.
    pub(crate) fn note_computing(&self) {
        if let Some(queues) = &self.queues {
            queues.note_computing();
        }
    }

    /// Calls `ended` once the runtime ends before this does: it drops its own tasks then, and knows nothing
    /// of ours.
    pub(crate) fn watch_runtime(&self, ended: impl FnOnce() + Send + 'static) {
        if self.queues.is_none() {
            return;
        }
        let guard = AtDrop(Some(ended));
        let task = self.runtime.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        // One runtime, one watch.
        let _: Result<(), _> = self.watch.set(task.abort_handle());
    }

    /// Runs a task to its end. It runs for the first time soon, never within this call.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(queues) = &self.queues else {
            self.runtime.spawn(task);
            return;
        };
        let queues = queues.clone();
        let schedule = move |runnable, info: ScheduleInfo| queues.schedule(runnable, info);
        let builder = async_task::Builder::new().metadata(LastTurn::default());
        let (runnable, task) = builder.spawn(|_| task, WithInfo(schedule));
        task.detach();
        runnable.schedule();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if let Some(queues) = &self.queues {
            queues.close();
        }
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }
}

struct AtDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// What the threads share.
struct Queues {
    injected: Injector<Runnable>,
    /// The other end of each thread's queue.
    stealers: Vec<Stealer<Runnable>>,
    /// Threads that look for something to run.
    searching: AtomicUsize,
    /// Threads that wait to be woken; `parked` is their number.
    idle: Mutex<Vec<usize>>,
    parked: AtomicUsize,
    threads: OnceLock<Vec<Thread>>,
    /// What others may know of each thread.
    places: Vec<Place>,
    /// Looks of the watch until none is taken to compute, unless one gives way again.
    computing: AtomicU32,
    preempt: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// When that was last called, in microseconds after the start.
    preempted: AtomicU64,
    started: Instant,
    /// Spare threads that run.
    spares: AtomicUsize,
    closed: AtomicBool,
}

/// What others may know of one thread. Alone on its cache line.
#[derive(Default)]
#[repr(align(64))]
struct Place {
    /// What was woken last by what runs there.
    next: Mutex<Option<Runnable>>,
    /// Counts up when a task begins to run and when it comes back: odd while one runs.
    pulse: AtomicU64,
}

impl Place {
    fn next(&self) -> MutexGuard<'_, Option<Runnable>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By its own thread alone.
    fn beat(&self) {
        let pulse = self.pulse.load(Ordering::Relaxed);
        self.pulse.store(pulse + 1, Ordering::Relaxed);
    }
}

impl Queues {
    fn start(runtime: &Handle, threads: usize) -> Arc<Self> {
        let workers: Vec<_> = (0..threads).map(|_| Worker::new_fifo()).collect();
        let queues = Arc::new(Queues {
            injected: Injector::new(),
            stealers: workers.iter().map(Worker::stealer).collect(),
            searching: AtomicUsize::new(threads),
            idle: Mutex::default(),
            parked: AtomicUsize::new(0),
            threads: OnceLock::new(),
            places: (0..threads).map(|_| Place::default()).collect(),
            computing: AtomicU32::new(0),
            preempt: OnceLock::new(),
            preempted: AtomicU64::new(0),
            started: Instant::now(),
            spares: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let started = workers.into_iter().enumerate().map(|(index, queue)| {
            let (runtime, queues) = (runtime.clone(), queues.clone());
            let thread = std::thread::Builder::new().name(format!("tidelock-run-{index}"));
            let run = move || {
                let _entered = runtime.enter();
                worker::run(queues, index, queue);
            };
            let thread = thread.spawn(run);
            let thread = thread.expect("a thread can be started while the node starts");
            thread.thread().clone()
        });
        // Nobody is woken before this: nothing was spawned.
        let _: Result<(), _> = queues.threads.set(started.collect());
        let (runtime, watched) = (runtime.clone(), Arc::downgrade(&queues));
        let watch = std::thread::Builder::new().name("tidelock-watch".into());
        let watch = watch.spawn(move || watch::look(&runtime, &watched));
        watch.expect("a thread can be started while the node starts");
        queues
    }

    fn schedule(self: &Arc<Self>, runnable: Runnable, info: ScheduleInfo) {
        let woken_while_running = info.woken_while_running;
        let runnable = worker::schedule(self, runnable, woken_while_running);
        let runnable = match woken_while_running {
            true => runnable,
            false => runnable.and_then(|runnable| lent::keep(self, runnable)),
        };
        if let Some(runnable) = runnable {
            self.inject(runnable);
        }
    }

    fn note_computing(&self) {
        self.computing.store(COMPUTING_LOOKS, Ordering::Relaxed);
    }

    fn is_computing(&self) -> bool {
        self.computing.load(Ordering::Relaxed) > 0
    }

    fn inject(&self, runnable: Runnable) {
        self.injected.push(runnable);
        if !self.notify() {
            self.preempt();
        }
    }

    /// Makes those that compute give way, if there are any and it was not done just now.
    fn preempt(&self) {
        if !self.is_computing() {
            return;
        }
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (now, last) = (
            micros(self.started.elapsed()),
            self.preempted.load(Ordering::Relaxed),
        );
        let relaxed = Ordering::Relaxed;
        if now.saturating_sub(last) >= micros(PREEMPT_EVERY)
            && self
                .preempted
                .compare_exchange(last, now, relaxed, relaxed)
                .is_ok()
            && let Some(preempt) = self.preempt.get()
        {
            preempt();
        }
    }

    fn is_idle(&self) -> bool {
        self.parked.load(Ordering::SeqCst) == self.stealers.len()
    }

    /// Wakes a thread for what was just queued, unless one is looking already. `false`: all of them are at work.
    fn notify(&self) -> bool {
        // Pairs with the fence of a thread that parks: either it sees what was queued, or it is seen here.
        fence(Ordering::SeqCst);
        if self.searching.load(Ordering::SeqCst) > 0 {
            return true;
        }
        if self.parked.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut idle = self.idle();
        let Some(index) = idle.pop() else {
            return false;
        };
        self.parked.store(idle.len(), Ordering::SeqCst);
        self.searching.fetch_add(1, Ordering::SeqCst);
        drop(idle);
        if let Some(threads) = self.threads.get() {
            threads[index].unpark();
        }
        true
    }

    /// A thread that was looking has found something.
    fn found(&self) {
        if self.searching.fetch_sub(1, Ordering::SeqCst) == 1 && self.has_more() {
            self.notify();
        }
    }

    fn has_more(&self) -> bool {
        !self.injected.is_empty() || self.stealers.iter().any(|stealer| !stealer.is_empty())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<usize>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a thread off the list of idle ones; `false` if somebody woke it.
    fn withdraw(&self, index: usize) -> bool {
        let mut idle = self.idle();
        let place = idle.iter().position(|other| *other == index);
        if let Some(place) = place {
            idle.swap_remove(place);
            self.parked.store(idle.len(), Ordering::SeqCst);
            self.searching.fetch_add(1, Ordering::SeqCst);
        }
        place.is_some()
    }

    /// Takes one task, from wherever it waits for a thread.
    fn steal(&self) -> Option<Runnable> {
        until_known(|| {
            let injected = self.injected.steal();
            let others = self.stealers.iter();
            others.fold(injected, |stolen, other| stolen.or_else(|| other.steal()))
        })
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for thread in self.threads.get().into_iter().flatten() {
            thread.unpark();
        }
    }
}

/// Looks again while somebody else was in the way.
fn until_known(look: impl FnMut() -> Steal<Runnable>) -> Option<Runnable> {
    let mut looks = std::iter::repeat_with(look);
    looks.find(|stolen| !stolen.is_retry())?.success()
}

/// Runs a task until it waits. The end of a process is told by its task, whatever panicked; the thread is for all.
fn run(runnable: Runnable) {
    if catch_unwind(AssertUnwindSafe(|| runnable.run())).is_err() {
        tracing::error!("the task of a process panicked");
    }
}
