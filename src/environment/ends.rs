//! How processes of this node ended: who is told, what is remembered, who waits.
//!
//! An end is remembered in the step in which the process leaves the table, so whoever finds it gone finds out why.
//! Whoever waits for one process is woken by its end alone; whoever waits for all of them says so first (`Counting`).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

use tidelock_proto::{ExitReason, NodeId, Pid};
use tokio::sync::Notify;

use super::Environment;
use crate::info::Happening;
use crate::process::Shared;
use crate::sync::{AtomicUsize, fence};
use crate::table::ByNumber;

/// How processes ended, for whoever asks later.
///
/// Next to nobody does. So they lie in a row, whose end is in the caches, and whoever asks looks through 8 bytes of each:
/// half a megabyte for as many as are remembered by default.
#[derive(Default)]
pub(super) struct Ends {
    /// The oldest first.
    order: VecDeque<Pid>,
    /// Of the same processes.
    reasons: VecDeque<ExitReason>,
    /// Whom somebody waits for. Held weakly: a waiter that gave up leaves nothing alive.
    awaited: HashMap<Pid, Weak<Notify>, ByNumber>,
}

impl Ends {
    /// Remembers one more. If there are `max`, the oldest makes room.
    fn remember(&mut self, pid: Pid, reason: ExitReason, max: usize) {
        if self.order.len() >= max && self.order.pop_front().is_some() {
            self.reasons.pop_front();
        }
        self.order.push_back(pid);
        self.reasons.push_back(reason);
    }

    fn find(&self, pid: Pid) -> Option<&ExitReason> {
        // Who asks mostly asks soon.
        let place = self.order.iter().rposition(|other| *other == pid);
        self.reasons.get(place?)
    }

    /// What is notified once this process has ended.
    fn of(&mut self, pid: Pid) -> Arc<Notify> {
        if let Some(ended) = self.awaited.get(&pid).and_then(Weak::upgrade) {
            return ended;
        }
        if self.awaited.len() % 64 == 63 {
            self.awaited.retain(|_, ended| ended.strong_count() > 0);
        }
        let ended = Arc::new(Notify::new());
        self.awaited.insert(pid, Arc::downgrade(&ended));
        ended
    }
}

/// Somebody who wants to be woken at every end, while it lives.
struct Counting<'a>(&'a AtomicUsize);

impl<'a> Counting<'a> {
    fn new(counting: &'a AtomicUsize) -> Self {
        counting.fetch_add(1, Ordering::Relaxed);
        Counting(counting)
    }

    /// Comes before each look at the table, and its counterpart in [`Environment::ended`] after each change
    /// of it: either the look finds the change, or whoever made it finds somebody to wake.
    fn before_a_look(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Environment {
    /// Remembers an end, and wakes who waits for it. Somebody on `told` was sent the Exit.
    pub(crate) fn ended(&self, shared: &Arc<Shared>, reason: ExitReason, told: Option<NodeId>) {
        let awaited = {
            let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the same lock: whoever finds it gone finds out why.
            self.0.table.remove(shared.pid);
            ends.remember(shared.pid, reason.clone(), self.0.limits.ends_max);
            let awaited = !ends.awaited.is_empty();
            awaited.then(|| ends.awaited.remove(&shared.pid)).flatten()
        };
        if let Some(remote) = self.remote() {
            remote.ended(shared.pid, told);
        }
        let counter = if reason.is_normal() {
            &self.0.over.normal
        } else {
            &self.0.over.abnormal
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(ended) = awaited.and_then(|ended| ended.upgrade()) {
            ended.notify_waiters();
        }
        // Waking somebody at each end costs more than the rest of an end. Whoever counts says so before it
        // looks at the table, which this process has left above (`Counting::before_a_look`).
        fence(Ordering::SeqCst);
        if self.0.counting.load(Ordering::Relaxed) > 0 {
            self.0.ended.notify_waiters();
        }
        self.happened(
            shared,
            Happening::Ended {
                reason,
                name: shared.about.name.clone(),
                module: shared.about.module,
            },
        );
    }

    /// How a process of this node ended, if it did and that is not forgotten yet.
    pub fn end_of(&self, pid: Pid) -> Option<ExitReason> {
        if pid.node() != self.0.node {
            return None;
        }
        let ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.find(pid).cloned()
    }

    /// Waits until a process of this node has ended. [`ExitReason::NoProcess`] if it never was, or
    /// its end is forgotten.
    pub async fn wait(&self, pid: Pid) -> ExitReason {
        loop {
            let notify = {
                let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
                ends.of(pid)
            };
            let mut ended = std::pin::pin!(notify.notified());
            ended.as_mut().enable();
            // Not `exists`: an end is remembered when the process leaves the table, not before.
            let alive = pid.node() == self.0.node && self.0.table.find(pid).is_some();
            if !alive {
                return self.end_of(pid).unwrap_or(ExitReason::NoProcess);
            }
            ended.await;
        }
    }

    /// Kills every process and waits until all are gone.
    pub async fn shutdown(&self) {
        self.until(|| {
            let all = self.0.table.all();
            for shared in &all {
                shared.condemn(ExitReason::Killed(None));
            }
            all.is_empty()
        })
        .await;
    }

    /// Waits until nobody lives here.
    pub async fn idle(&self) {
        self.until(|| self.0.table.len() == 0).await;
    }

    /// Waits until a look at the table says so. Each end is followed by one.
    async fn until(&self, look: impl Fn() -> bool) {
        let counting = Counting::new(&self.0.counting);
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            ended.as_mut().enable();
            counting.before_a_look();
            if look() {
                return;
            }
            ended.await;
        }
    }
}
