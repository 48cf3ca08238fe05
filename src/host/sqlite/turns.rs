//! Which databases compute: a few at a time, in turns.
//!
//! Each database has a thread, and hundreds of queries at once would leave next to nothing of the cores to the threads
//! that run processes. So a statement takes a turn. It hands the turn on once it has had it for a while and somebody waits,
//! and gives it back while it waits for a lock, since whoever holds that needs a turn to let go of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Statements that compute at a time, for each core. One more waits for its turn.
const TURNS_PER_CORE: usize = 2;
/// How long a statement computes while another waits.
const TURN: Duration = Duration::from_millis(10);

/// The turns of all databases of this program.
pub(super) static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Turns::new(TURNS_PER_CORE * cores)
});

thread_local! {
    /// When the turn of this thread began, if it has one.
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// So many turns at a time. Whoever waits longest is next.
pub(super) struct Turns(Mutex<State>);

struct State {
    /// Turns that nobody has; none while anybody waits.
    free: usize,
    waiting: VecDeque<Arc<Waiting>>,
}

struct Waiting {
    thread: Thread,
    called: AtomicBool,
}

/// The turn of this thread, until it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Turns {
    fn new(max: usize) -> Self {
        Self(Mutex::new(State {
            free: max,
            waiting: VecDeque::new(),
        }))
    }

    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        self.enter();
        Turn(self)
    }

    /// Hands this thread's turn on and waits for another, if it has had it for long and somebody waits.
    pub(super) fn give_way(&self) {
        if SINCE.get().is_some_and(|since| since.elapsed() >= TURN) {
            self.leave();
            self.enter();
        }
    }

    /// Waits for something else, without this thread's turn.
    pub(super) fn aside(&self, wait: impl FnOnce()) {
        let has_turn = SINCE.get().is_some();
        if has_turn {
            self.leave();
        }
        wait();
        if has_turn {
            self.enter();
        }
    }

    fn enter(&self) {
        if let Some(waiting) = self.queue() {
            while !waiting.called.load(Ordering::Acquire) {
                thread::park();
            }
        }
        SINCE.set(Some(Instant::now()));
    }

    /// Takes a turn that is free, or the place behind all who wait.
    fn queue(&self) -> Option<Arc<Waiting>> {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return None;
        }
        let waiting = Arc::new(Waiting {
            thread: thread::current(),
            called: AtomicBool::new(false),
        });
        state.waiting.push_back(waiting.clone());
        Some(waiting)
    }

    fn leave(&self) {
        SINCE.set(None);
        let mut state = self.state();
        let Some(next) = state.waiting.pop_front() else {
            state.free += 1;
            return;
        };
        drop(state);
        next.called.store(true, Ordering::Release);
        next.thread.unpark();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Whether another thread has a turn while this one does what it is told; then that turn is over.
    fn another_has_a_turn(turns: &Turns, meanwhile: impl FnOnce(&mpsc::Receiver<()>)) {
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _turn = turns.take();
                tell.send(()).unwrap();
            });
            while turns.state().waiting.is_empty() {
                thread::yield_now();
            }
            meanwhile(&told);
        });
    }

    #[test]
    fn a_turn_ends_when_it_is_dropped_or_long_or_set_aside() {
        let turns = Turns::new(1);
        let mine = turns.take();
        another_has_a_turn(&turns, |told| {
            // It is not long yet, but for a clock that jumps.
            SINCE.set(Some(Instant::now() + TURN));
            turns.give_way();
            assert!(told.try_recv().is_err());
            SINCE.set(Some(Instant::now() - TURN));
            turns.give_way();
            assert!(
                told.try_recv().is_ok(),
                "it comes before this one's next turn"
            );
        });
        another_has_a_turn(&turns, |told| {
            turns.aside(|| told.recv().unwrap());
        });
        another_has_a_turn(&turns, |told| {
            drop(mine);
            told.recv().unwrap();
            // Without a turn there is none to set aside.
            turns.aside(|| {});
            turns.give_way();
        });
        assert_eq!(turns.state().free, 1);
    }
}
