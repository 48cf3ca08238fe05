//! Threads of somebody else that run what they wake, for a moment.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{Queues, Runnable, run, worker};

/// Tasks that a lent thread keeps for itself at once, and runs altogether.
const LENT_KEPT: usize = 2;
const LENT_RUNS: u32 = 8;
/// What a lent thread spends on tasks. After more than that it keeps none for a while.
pub(super) const LENT_TIME: Duration = Duration::from_micros(100);
/// Tasks that are left to our threads then.
pub(super) const LENT_PAUSE: u32 = 64;

thread_local! {
    /// What this thread keeps while it is lent.
    static LENT: RefCell<Lent> = const { RefCell::new(Lent::new()) };
}

struct Lent {
    /// Whom it is lent to.
    queues: Option<Arc<Queues>>,
    kept: VecDeque<Runnable>,
    /// How many more are not kept, since one took too long.
    pause: u32,
}

impl Lent {
    const fn new() -> Self {
        Lent {
            queues: None,
            kept: VecDeque::new(),
            pause: 0,
        }
    }
}

/// A thread that is lent until this is dropped, which runs what it woke meanwhile.
#[must_use]
pub struct LentThread<'a> {
    runtime: &'a Handle,
    /// Whom it is lent to, if it is.
    queues: Option<&'a Arc<Queues>>,
    /// It is this thread that is lent, and no other.
    here: PhantomData<*const ()>,
}

impl<'a> LentThread<'a> {
    /// Lends this thread, unless it is lent already.
    pub(super) fn lend(runtime: &'a Handle, queues: Option<&'a Arc<Queues>>) -> Self {
        let free = |queues: &&Arc<Queues>| {
            LENT.with(|lent| {
                let mut lent = lent.borrow_mut();
                let free = lent.queues.is_none();
                if free {
                    lent.queues = Some(Arc::clone(queues));
                }
                free
            })
        };
        LentThread {
            runtime,
            queues: queues.filter(free),
            here: PhantomData,
        }
    }

    /// Ends the loan and sets aside what was woken, to be run a little later; `None` if nobody was.
    pub fn set_aside(mut self) -> Option<SetAside<'a>> {
        let queues = self.queues.take()?;
        let kept = LENT.with(|lent| {
            let mut lent = lent.borrow_mut();
            lent.queues = None;
            std::mem::take(&mut lent.kept)
        });
        let runtime = self.runtime;
        (!kept.is_empty()).then_some(SetAside {
            runtime,
            queues,
            kept,
            since: Instant::now(),
        })
    }
}

impl Drop for LentThread<'_> {
    fn drop(&mut self) {
        let Some(queues) = self.queues else {
            return;
        };
        let next = || LENT.with(|lent| lent.borrow_mut().kept.pop_front());
        let Some(mut runnable) = next() else {
            LENT.with(|lent| lent.borrow_mut().queues = None);
            return;
        };
        // Timers and sockets belong to the runtime of the others.
        let _entered = self.runtime.enter();
        let begun = Instant::now();
        let mut runs = 0;
        loop {
            if runs < LENT_RUNS && begun.elapsed() < LENT_TIME {
                runs += 1;
                run(runnable);
            } else {
                queues.inject(runnable);
            }
            match next() {
                Some(more) => runnable = more,
                None => break,
            }
        }
        LENT.with(|lent| {
            let mut lent = lent.borrow_mut();
            lent.queues = None;
            if begun.elapsed() > LENT_TIME {
                lent.pause = LENT_PAUSE;
            }
        });
    }
}

/// What a lent thread woke and has not run yet. Dropping it leaves that to our threads.
#[must_use]
pub struct SetAside<'a> {
    runtime: &'a Handle,
    queues: &'a Arc<Queues>,
    kept: VecDeque<Runnable>,
    since: Instant,
}

impl SetAside<'_> {
    /// Runs it on this thread, which is lent meanwhile. Left to our threads if it has waited for as long as they take to be woken.
    pub fn run(mut self) {
        let in_time = !worker::is_one() && self.since.elapsed() < LENT_TIME;
        let queues = Some(self.queues).filter(|_| in_time);
        let lent = LentThread::lend(self.runtime, queues);
        if lent.queues.is_some() {
            let kept = std::mem::take(&mut self.kept);
            LENT.with(|lent| lent.borrow_mut().kept.extend(kept));
        }
    }
}

impl Drop for SetAside<'_> {
    fn drop(&mut self) {
        for runnable in self.kept.drain(..) {
            self.queues.inject(runnable);
        }
    }
}

/// Keeps a task for this thread if it is lent and none of ours has anything to do.
pub(super) fn keep(queues: &Arc<Queues>, runnable: Runnable) -> Option<Runnable> {
    if !queues.is_idle() {
        return Some(runnable);
    }
    let mut runnable = Some(runnable);
    // Fails while a thread ends.
    let _: Result<(), _> = LENT.try_with(|lent| {
        let mut lent = lent.borrow_mut();
        let ours = lent
            .queues
            .as_ref()
            .is_some_and(|lent| Arc::ptr_eq(lent, queues));
        if !ours || lent.kept.len() >= LENT_KEPT {
            return;
        }
        if lent.pause > 0 {
            lent.pause -= 1;
            return;
        }
        lent.kept.extend(runnable.take());
    });
    runnable
}
