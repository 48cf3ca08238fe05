//! The locks, and what else threads meet at, of processes and of what they live in.
//!
//! In everything that ships these are std's and tokio's. With the feature `loom` they are
//! [loom](https://docs.rs/loom)'s: then `tests/loom.rs` runs processes in every order of their steps, and
//! each process's task is a thread of the model.
//!
//! Not here: totals, and the number of the next process. They order nothing.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::{
    Mutex, MutexGuard, RwLock,
    atomic::{AtomicUsize, fence},
};
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::{
    Mutex, MutexGuard, RwLock,
    atomic::{AtomicUsize, fence},
};

use std::future::Future;

use crate::scheduler::Scheduler;

/// Runs the task of a process.
#[cfg(not(feature = "loom"))]
pub(crate) fn spawn(scheduler: &Scheduler, task: impl Future<Output = ()> + Send + 'static) {
    scheduler.spawn(task);
}

/// Runs the task of a process, until the model's runtime has it done: one that never ends is a deadlock.
#[cfg(feature = "loom")]
pub(crate) fn spawn(_scheduler: &Scheduler, task: impl Future<Output = ()> + Send + 'static) {
    /// In words; loom gives 4 096 unless told otherwise, less than a debug build takes.
    const STACK_WORDS: usize = 32_768;
    loom::thread::Builder::new()
        .stack_size(STACK_WORDS)
        .spawn(move || loom::future::block_on(task))
        .expect("a thread of the model");
}
