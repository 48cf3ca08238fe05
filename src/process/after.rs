//! What a step leaves to do once its core is let go: wakers to call, inboxes to pump.
//!
//! Most steps have one or two effects and fill one inbox at the most, so these need no memory of their own; what an end
//! has for thousands is given back.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Waker;

use tidelock_proto::link::Effect;

use super::parked::Unrun;
use super::{Core, Shared};
use crate::sync::MutexGuard;

impl Core {
    pub(super) fn wake(&mut self) -> Wakers {
        Wakers(self.task.take(), self.waiter.take(), self.doomed())
    }
}

/// Lets go of the lock, and wakes whoever waits for a change.
pub(super) fn wake(mut core: MutexGuard<'_, Core>) {
    let wakers = core.wake();
    drop(core);
    wakers.call();
}

/// Wakers to call once no lock is held, and a parked process to be ended then.
#[derive(Default)]
#[must_use]
pub(super) struct Wakers(Option<Waker>, Option<Waker>, Option<Unrun>);

impl Wakers {
    /// Those of a later change of the same step.
    pub(super) fn add(&mut self, Wakers(task, waiter, unrun): Wakers) {
        self.0 = task.or(self.0.take());
        self.1 = waiter.or(self.1.take());
        self.2 = unrun.or(self.2.take());
    }

    pub(super) fn call(self) {
        match (self.0, self.1) {
            (Some(task), Some(waiter)) if task.will_wake(&waiter) => task.wake(),
            (task, waiter) => {
                if let Some(task) = task {
                    task.wake();
                }
                if let Some(waiter) = waiter {
                    waiter.wake();
                }
            }
        }
        if let Some(unrun) = self.2 {
            unrun.end();
        }
    }
}

/// What follows from a step once its core is let go: inboxes to pump, the last one first. Mostly there is one at the
/// most, which needs no memory elsewhere.
#[derive(Default)]
#[must_use]
pub(super) struct After {
    first: Option<Arc<Shared>>,
    /// Nothing, if there is no first.
    others: Vec<Arc<Shared>>,
}

impl After {
    pub(super) fn push(&mut self, shared: Arc<Shared>) {
        match self.first {
            None => self.first = Some(shared),
            Some(_) => self.others.push(shared),
        }
    }

    fn pop(&mut self) -> Option<Arc<Shared>> {
        self.others.pop().or_else(|| self.first.take())
    }

    /// Pumps every inbox that got something, and what follows from that.
    pub(super) fn run(mut self) {
        while let Some(shared) = self.pop() {
            shared.pump(&mut self);
        }
    }
}

/// Effects that a thread keeps room for. Most steps have one or two; what an end has for thousands is given back.
const ROOM_MAX: usize = 64;

thread_local! {
    /// Room for the effects of the next step of this thread. Empty while a step has it.
    static ROOM: Cell<Vec<Effect>> = const { Cell::new(Vec::new()) };
}

/// Room for the effects of a step.
pub(super) fn take_room() -> Vec<Effect> {
    // There is none while a thread ends.
    ROOM.try_with(Cell::take).unwrap_or_default()
}

/// Keeps it for the next step. All of them have been carried out.
pub(super) fn keep_room(effects: Vec<Effect>) {
    if effects.capacity() <= ROOM_MAX {
        // While a thread ends it is not kept.
        let _: Result<(), _> = ROOM.try_with(|room| room.set(effects));
    }
}

#[cfg(test)]
mod tests {
    use tidelock_proto::link::Signal;

    use super::super::tests::{elsewhere, waiting};
    use super::*;

    #[tokio::test]
    async fn the_last_inbox_is_pumped_first_and_one_needs_no_memory() {
        let all: [_; 3] = waiting();
        let mut after = After::default();
        for shared in &all {
            after.push(shared.clone());
            assert!(after.pop().is_some_and(|one| Arc::ptr_eq(&one, shared)));
            assert_eq!(after.others.capacity(), 0);
        }
        all.iter().for_each(|shared| after.push(shared.clone()));
        let pumped = std::iter::from_fn(|| after.pop()).map(|shared| shared.pid);
        assert!(pumped.eq(all.iter().rev().map(|shared| shared.pid)));
    }

    #[tokio::test]
    async fn a_thread_keeps_room_for_the_few_effects_of_a_step() {
        let [shared] = waiting();
        let place = |id| {
            shared.deliver(elsewhere(), Signal::Link { id, tag: None });
            let room = take_room();
            assert!(room.is_empty() && room.capacity() > 0);
            let place = room.as_ptr();
            keep_room(room);
            place
        };
        assert_eq!(place(1), place(2));
        let room = take_room();
        // What thousands needed is given back.
        keep_room(Vec::with_capacity(ROOM_MAX + 1));
        assert_eq!(take_room().capacity(), 0);
        drop(room);
    }
}
