//! Which databases compute: a few at a time, in turns.
//!
//! Each database has a thread, and hundreds of queries at once would leave next to nothing of the cores to the threads
//! that run processes. So a statement takes a turn. It hands the turn on once it has had it for a while and somebody waits,
//! and gives it back while it waits for a lock, since whoever holds that needs a turn to let go of it.
//!
//! A function of SQL may compute for long without a look at the clock (`LIKE` of a large text). Then its turn lapses: whoever
//! waits longest has one beside it, and such a statement computes on at the expense of the cores alone.

use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Statements that compute at a time, for each core. One more waits for its turn.
const TURNS_PER_CORE: usize = 2;
/// How long a statement computes while another waits.
const TURN: Duration = Duration::from_millis(10);
/// How long a turn is one while another waits, if whoever has it does not hand it on.
const LAPSE: Duration = Duration::from_millis(50);

/// The turns of all databases of this program.
pub(super) static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Turns::new(TURNS_PER_CORE * cores)
});

thread_local! {
    /// The turn of this thread, if it has one. It may have lapsed.
    static MINE: Cell<Option<Held>> = const { Cell::new(None) };
}

/// So many turns at a time. Whoever waits longest is next.
pub(super) struct Turns(Mutex<State>);

struct State {
    /// Turns at a time.
    max: usize,
    /// Turns that somebody has, as many as there are while anybody waits.
    held: Vec<Held>,
    /// Turns that were ever given.
    given: u64,
    waiting: VecDeque<Arc<Waiting>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    number: u64,
    since: Instant,
}

struct Waiting {
    thread: Thread,
    called: OnceLock<Held>,
}

impl State {
    fn is_free(&self) -> bool {
        self.held.len() < self.max
    }

    /// A turn for somebody.
    fn give(&mut self) -> Held {
        self.given += 1;
        let held = Held {
            number: self.given,
            since: Instant::now(),
        };
        self.held.push(held);
        held
    }

    /// Ends turns, and gives what is free to whoever waits longest.
    fn end(&mut self, ends: impl Fn(&Held) -> bool) {
        self.held.retain(|held| !ends(held));
        while self.is_free()
            && let Some(next) = self.waiting.pop_front()
        {
            let held = self.give();
            next.called.get_or_init(|| held);
            next.thread.unpark();
        }
    }
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
            max,
            held: Vec::new(),
            given: 0,
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
        if MINE.get().is_some_and(|mine| mine.since.elapsed() >= TURN) {
            self.leave();
            self.enter();
        }
    }

    /// Waits for something else, without this thread's turn.
    pub(super) fn aside(&self, wait: impl FnOnce()) {
        let has_turn = MINE.get().is_some();
        if has_turn {
            self.leave();
        }
        wait();
        if has_turn {
            self.enter();
        }
    }

    fn enter(&self) {
        MINE.set(Some(self.wait()));
    }

    /// Takes a turn that is free, or waits behind all who wait.
    fn wait(&self) -> Held {
        let waiting = {
            let mut state = self.state();
            if state.is_free() {
                return state.give();
            }
            let waiting = Arc::new(Waiting {
                thread: thread::current(),
                called: OnceLock::new(),
            });
            state.waiting.push_back(waiting.clone());
            waiting
        };
        loop {
            thread::park_timeout(LAPSE);
            if let Some(held) = waiting.called.get() {
                return *held;
            }
            self.state().end(|held| held.since.elapsed() >= LAPSE);
        }
    }

    fn leave(&self) {
        let Some(mine) = MINE.take() else {
            return;
        };
        // It may be over already.
        self.state().end(|held| held.number == mine.number);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn free(turns: &Turns) -> usize {
        let state = turns.state();
        state.max - state.held.len()
    }

    /// Whether another thread has a turn while this one does what it is told; then that turn is over.
    fn another_has_a_turn(turns: &Turns, meanwhile: impl FnOnce(&mpsc::Receiver<()>)) {
        let (tell, told) = mpsc::channel();
        let given = turns.state().given;
        thread::scope(|scope| {
            scope.spawn(move || {
                let _turn = turns.take();
                tell.send(()).unwrap();
            });
            let waits =
                |state: MutexGuard<'_, State>| !state.waiting.is_empty() || state.given > given;
            while !waits(turns.state()) {
                thread::yield_now();
            }
            meanwhile(&told);
        });
    }

    #[test]
    fn a_turn_ends_when_it_is_dropped_or_long_or_set_aside() {
        let turns = Turns::new(1);
        let mine = turns.take();
        let began = |since: Instant| {
            let mine = MINE.take().unwrap();
            MINE.set(Some(Held { since, ..mine }));
        };
        // It is not long yet and does not lapse, whatever else holds this thread up.
        let later = Instant::now() + Duration::from_secs(3600);
        began(later);
        turns.state().held[0].since = later;
        another_has_a_turn(&turns, |told| {
            turns.give_way();
            assert_eq!(turns.state().waiting.len(), 1);
            began(Instant::now() - TURN);
            turns.give_way();
            told.recv().unwrap();
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
        assert_eq!(free(&turns), 1);
    }

    #[test]
    fn a_turn_that_is_not_handed_on_lapses() {
        let turns = Turns::new(1);
        let mine = turns.take();
        another_has_a_turn(&turns, |told| told.recv().unwrap());
        assert_eq!(free(&turns), 1);
        // Nothing comes back of what has lapsed.
        drop(mine);
        assert_eq!(free(&turns), 1);
        // Whoever computes on takes another.
        let mine = turns.take();
        another_has_a_turn(&turns, |told| told.recv().unwrap());
        turns.aside(|| assert_eq!(free(&turns), 1));
        assert_eq!(free(&turns), 0);
        drop(mine);
        assert_eq!(free(&turns), 1);
    }
}
