//! One of the scheduler's threads: what it runs next, where it looks for more, and how it waits.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_deque::{Steal, Worker};

use super::{Place, Queues, Runnable, until_known};

/// Tasks in a row that run because the one before woke them, or because they come from outside, while others
/// wait in the same queue.
const STREAK: u32 = 16;
/// As long as those may last while some compute: as long as one turn of those.
const STREAK_TIME: Duration = Duration::from_millis(1);
/// A process that ran within so many turns of the thread waits behind those in the queue when it is woken again.
pub(super) const ROUND: u64 = 64;
/// Turns after which a thread looks first at what came from outside.
const INJECTED_EVERY: u64 = 8;

thread_local! {
    /// Set in the threads of a scheduler, for as long as they run.
    static LOCAL: OnceCell<Local> = const { OnceCell::new() };
}

/// Makes this thread one of the scheduler's until that is closed and has no task left.
pub(super) fn run(queues: Arc<Queues>, index: usize, queue: Worker<Runnable>) {
    LOCAL.with(|local| {
        local.get_or_init(|| Local::new(queues, index, queue)).run();
    });
}

/// Whether this thread is one of a scheduler's.
pub(super) fn is_one() -> bool {
    LOCAL.with(|local| local.get().is_some())
}

/// Queues a task on this thread if it is one of this scheduler's; else it comes back.
pub(super) fn schedule(
    queues: &Arc<Queues>,
    runnable: Runnable,
    gave_way: bool,
) -> Option<Runnable> {
    let mut runnable = Some(runnable);
    // Fails while a thread ends, when it has no queue any more.
    let _: Result<(), _> = LOCAL.try_with(|local| {
        if let Some(local) = local.get()
            && Arc::ptr_eq(&local.queues, queues)
            && let Some(runnable) = runnable.take()
        {
            local.schedule(runnable, gave_way);
        }
    });
    runnable
}

/// One thread's.
struct Local {
    queues: Arc<Queues>,
    index: usize,
    queue: Worker<Runnable>,
    streak: Cell<u32>,
    /// When it began, if it began while some computed.
    since: Cell<Instant>,
    /// Turns in a row of what was injected.
    injected: Cell<u32>,
    turn: Cell<u64>,
}

impl Local {
    fn new(queues: Arc<Queues>, index: usize, queue: Worker<Runnable>) -> Self {
        Local {
            queues,
            index,
            queue,
            streak: Cell::new(0),
            since: Cell::new(Instant::now()),
            injected: Cell::new(0),
            turn: Cell::new(0),
        }
    }

    fn place(&self) -> &Place {
        &self.queues.places[self.index]
    }

    /// This turn, as distinct from all others of all threads.
    fn stamp(&self) -> u64 {
        ((self.index as u64 + 1) << 48) | self.turn.get()
    }

    /// Whether it ran a short while ago, and others wait.
    fn has_had_its_turn(&self, runnable: &Runnable) -> bool {
        let last = runnable.metadata().0.load(Ordering::Relaxed);
        let turns = self.stamp().wrapping_sub(last);
        turns < ROUND && !self.queue.is_empty() && !self.queues.is_computing()
    }

    /// Called by what runs on this thread.
    fn schedule(&self, runnable: Runnable, gave_way: bool) {
        if !gave_way && self.has_had_its_turn(&runnable) {
            self.queue.push(runnable);
            // Those it waits behind may have been stolen meanwhile, and this task may not come back.
            self.queues.notify();
            return;
        }
        let (behind, has_next) = {
            let mut next = self.place().next();
            match gave_way {
                true => (Some(runnable), next.is_some()),
                false => (next.replace(runnable), true),
            }
        };
        if let Some(behind) = behind {
            // One that gives way and is alone runs on here: there is nothing to share.
            let shares = has_next || !self.queue.is_empty();
            self.queue.push(behind);
            if shares {
                self.queues.notify();
            }
        }
    }

    /// Runs tasks until the scheduler is closed and has none left.
    fn run(&self) {
        // Threads begin by looking, and were counted.
        let mut searching = true;
        loop {
            let runnable = match self.take() {
                Some(runnable) => runnable,
                None => {
                    if !searching {
                        searching = true;
                        self.queues.searching.fetch_add(1, Ordering::SeqCst);
                    }
                    match self.find() {
                        Some(runnable) => runnable,
                        None if self.queues.is_closed() => return,
                        None => {
                            self.park();
                            continue;
                        }
                    }
                }
            };
            if searching {
                searching = false;
                self.queues.found();
            }
            let last = &runnable.metadata().0;
            last.store(self.stamp(), Ordering::Relaxed);
            self.place().beat();
            super::run(runnable);
            self.place().beat();
        }
    }

    /// What this thread runs next, of its own; now and then from outside.
    fn take(&self) -> Option<Runnable> {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let computing = self.queues.is_computing();
        let injected = self.injected.get();
        if (turn.is_multiple_of(INJECTED_EVERY) || (computing && injected < STREAK))
            && let Steal::Success(runnable) = self.queues.injected.steal()
        {
            self.injected.set(injected + 1);
            return Some(runnable);
        }
        self.injected.set(0);
        let streak = self.streak.get();
        let is_short = || computing && self.since.get().elapsed() < STREAK_TIME;
        if (streak < STREAK || is_short())
            && let Some(next) = self.place().next().take()
        {
            if streak == 0 && computing {
                self.since.set(Instant::now());
            }
            self.streak.set(streak + 1);
            return Some(next);
        }
        self.streak.set(0);
        self.queue.pop().or_else(|| self.place().next().take())
    }

    /// What others left: from outside first, then from each other thread's queue.
    fn find(&self) -> Option<Runnable> {
        let queues = &self.queues;
        let threads = queues.stealers.len();
        until_known(|| {
            let others = (1..threads).map(|step| &queues.stealers[(self.index + step) % threads]);
            let injected = queues.injected.steal_batch_and_pop(&self.queue);
            others.fold(injected, |stolen, other| {
                stolen.or_else(|| other.steal_batch_and_pop(&self.queue))
            })
        })
    }

    /// Waits to be woken, unless something was queued meanwhile. This thread was looking and does so again.
    fn park(&self) {
        let queues = &self.queues;
        {
            let mut idle = queues.idle();
            idle.push(self.index);
            queues.parked.store(idle.len(), Ordering::SeqCst);
        }
        queues.searching.fetch_sub(1, Ordering::SeqCst);
        // Pairs with the fence of whoever queues.
        fence(Ordering::SeqCst);
        if queues.has_more() && queues.withdraw(self.index) {
            return;
        }
        while queues.idle().contains(&self.index) {
            if queues.is_closed() {
                queues.withdraw(self.index);
                return;
            }
            std::thread::park();
        }
    }
}
