//! Which receives look first, and which wait at once.
//!
//! To look and then to wait are two calls of the host, to wait at once is one. Whoever asks and is answered always
//! waits; whoever is told by many finds something there.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So many at most wait at once: what comes and is there is looked for again soon.
const WAITS_MAX: usize = 15;

/// What the last looks have found.
pub(crate) struct Waits {
    /// How many receives wait at once after the last look; 0 if it found something.
    at_once: AtomicUsize,
    /// How many of those are still to come.
    left: AtomicUsize,
}

impl Waits {
    pub(crate) const fn new() -> Self {
        Waits {
            at_once: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        }
    }

    /// Whether the next receive looks first. Counts it.
    pub(crate) fn looks_first(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }

    /// A look found nothing.
    pub(crate) fn found_nothing(&self) {
        let waits = (2 * self.at_once.load(Ordering::Relaxed) + 1).min(WAITS_MAX);
        self.at_once.store(waits, Ordering::Relaxed);
        self.left.store(waits, Ordering::Relaxed);
    }

    /// A look found something.
    pub(crate) fn found_something(&self) {
        self.at_once.store(0, Ordering::Relaxed);
    }
}
