//! Looking for what comes next instead of sleeping until it does, while messages follow each other closely.
//!
//! A thread that sleeps until a datagram comes is woken tens of microseconds later, and a virtual processor that has
//! nothing else to do takes longest: between two nodes that answer at once, most of a round trip is that. So, as OTP's
//! schedulers do (`+sbwt`), a session looks again and again for a moment; it costs that moment of a processor that
//! nobody here has a use for.
//!
//! A session that hears something now and then never spins, nor does one whose node has processes to run.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tidelock::Environment;

/// Two arrivals that are no further apart make a third one likely.
const CLOSE: Duration = Duration::from_micros(300);
/// How long after an arrival the next one is looked for.
const WINDOW: Duration = Duration::from_micros(100);

/// When something arrived, and whether it pays to look for more.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Spin {
    /// Something arrived.
    pub(crate) fn arrived(&mut self, now: Instant) {
        let close = self.last.is_some_and(|last| now - last < CLOSE);
        self.until = close.then_some(now + WINDOW);
        self.last = Some(now);
    }

    /// Has its task polled again and again for as long as that pays, and never ends. Dropping it is what ends it.
    pub(crate) async fn keep_looking(&self, env: &Environment) -> Infallible {
        while env.threads_are_idle() && self.pays(Instant::now()) {
            // Between two polls the runtime looks for datagrams, without waiting for any.
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }

    fn pays(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_closely_is_waited_for_and_not_for_long() {
        let start = Instant::now();
        let mut spin = Spin::default();
        assert!(!spin.pays(start));
        spin.arrived(start);
        assert!(!spin.pays(start), "one arrival alone");
        let second = start + CLOSE / 2;
        spin.arrived(second);
        assert!(spin.pays(second));
        assert!(!spin.pays(second + WINDOW));
        let late = second + CLOSE;
        spin.arrived(late);
        assert!(!spin.pays(late), "nothing for a while");
    }
}
