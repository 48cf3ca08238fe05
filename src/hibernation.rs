//! Guests that wait for long take less memory: who they are, and how many.
//!
//! A process that waits for a message is looked at every [`Limits::hibernate_after`](crate::Limits::hibernate_after). One that
//! still waits in the same receive at the next look is asked to hibernate: it is woken, packs its memory (`wasm/packed.rs`), and
//! waits on. So it does after having waited for once to twice that time, and a second more for each twelve thousand who are asked
//! before it; and nothing is done for each receive but to note that a new one has begun.
//!
//! ```text
//!   Busy ──look──▶ Seen ──look──▶ Asked ──woken, finds nothing──▶ Told ──packed──▶ Asleep
//!    ▲               │               │                             │                │
//!    └───────────────┴───────────────┴── the next receive begins ──┴────────────────┘
//! ```
//!
//! The time after which is OTP's `hibernate_after` of `gen_server`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::process::Shared;
use crate::table::PARTS;

/// So many are asked at once, with a pause behind them: each takes 20 us of a core, one with much memory ten times as
/// much, and others want to run.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
/// The next are asked once there are no more of them left that have not come to it, or after so many pauses.
const LEFT: usize = BATCH / 8;
const PAUSES_MAX: usize = 100;
/// The least time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(1);
/// So many are looked at without giving way.
const LOOKS: usize = 1024;

/// How long a process has waited in its present receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// There is nothing to be packed.
    Never,
    /// Since less than a look ago, as far as anybody knows.
    Busy,
    Seen,
    Asked,
    Told,
    /// Told, and its memory is packed as long as it waits.
    Asleep,
}

impl Idle {
    /// A receive has found nothing: whether the process is to hibernate. If the receive has not waited before, it begins now.
    pub(crate) fn found_nothing(&mut self, waits_since_before: bool) -> bool {
        let is_asked = *self == Idle::Asked && waits_since_before;
        if is_asked {
            *self = Idle::Told;
        } else if !waits_since_before && *self != Idle::Never {
            *self = Idle::Busy;
        }
        is_asked
    }

    /// A look at a process that waits: whether it is to be asked.
    pub(crate) fn see(&mut self) -> bool {
        if *self == Idle::Busy {
            *self = Idle::Seen;
            return false;
        }
        *self == Idle::Seen
    }

    /// Asks one that was to be asked and waits: whether it has to be woken.
    pub(crate) fn ask(&mut self) -> bool {
        let is_seen = *self == Idle::Seen;
        if is_seen {
            *self = Idle::Asked;
        }
        is_seen
    }
}

/// The looks of one environment.
#[derive(Debug, Default)]
pub(crate) struct Hibernation {
    begun: AtomicBool,
    asleep: Arc<AtomicUsize>,
}

/// A process that hibernates, as long as it does.
#[derive(Debug)]
pub(crate) struct Hibernating(Arc<AtomicUsize>);

impl Drop for Hibernating {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hibernation {
    /// How many hibernate.
    pub(crate) fn asleep(&self) -> usize {
        self.asleep.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> Hibernating {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        Hibernating(self.asleep.clone())
    }

    /// Whether somebody looks.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Looks at all processes every so often, from the first call on. `part` gives those of one part of the table, and
    /// None when there is no table any more.
    pub(crate) fn begin(
        &self,
        runtime: &Handle,
        every: Duration,
        part: impl Fn(usize) -> Option<Vec<Arc<Shared>>> + Send + Sync + 'static,
    ) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let every = every.max(EVERY_MIN);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                for number in 0..PARTS {
                    let Some(processes) = part(number) else {
                        return;
                    };
                    look(processes).await;
                }
            }
        });
    }
}

/// Looks at some processes, and asks those that have waited. Nobody is kept alive meanwhile but those of this part.
async fn look(processes: Vec<Arc<Shared>>) {
    let mut waited: Vec<Weak<Shared>> = Vec::new();
    let mut processes = processes.into_iter();
    while processes.len() > 0 {
        for shared in processes.by_ref().take(LOOKS) {
            if shared.has_waited() {
                waited.push(Arc::downgrade(&shared));
            }
        }
        tokio::task::yield_now().await;
    }
    for batch in waited.chunks(BATCH) {
        for shared in batch.iter().filter_map(Weak::upgrade) {
            shared.hibernate();
        }
        for _ in 0..PAUSES_MAX {
            tokio::time::sleep(PAUSE).await;
            let left = batch.iter().filter_map(Weak::upgrade);
            if left.filter(|shared| shared.is_asked()).count() <= LEFT {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_hibernates_after_two_looks_at_one_receive() {
        let mut idle = Idle::Busy;
        assert!(!idle.found_nothing(false) && !idle.ask());
        assert!(!idle.see() && idle.see() && idle.ask());
        assert!(!idle.ask() && !idle.see(), "it is asked once");
        assert!(
            idle.found_nothing(true) && !idle.found_nothing(true),
            "and told once"
        );
        // The next receive.
        assert!(!idle.found_nothing(false) && !idle.see());
        // Woken in between for something else.
        assert!(!idle.found_nothing(true) && idle.see() && idle.ask());
        // What came at last was received before it could hibernate.
        assert!(!idle.found_nothing(false) && !idle.ask() && !idle.see());
    }

    #[test]
    fn whoever_hibernates_is_left_alone_until_its_next_receive() {
        let mut idle = Idle::Asleep;
        assert!(!idle.see() && !idle.ask());
        assert_eq!(idle, Idle::Asleep);
        assert_eq!((idle.found_nothing(false), idle), (false, Idle::Busy));
    }

    #[test]
    fn one_that_has_nothing_to_pack_never_does() {
        let mut idle = Idle::Never;
        assert!(!idle.found_nothing(false) && !idle.see() && !idle.see() && !idle.ask());
        assert_eq!((idle.found_nothing(true), idle), (false, Idle::Never));
    }
}
