//! When operations are due.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidelock_guest::sleep;

use crate::plan::Plan;

/// Closer than this a sleep would end too late: timers count milliseconds.
const NEAR_NS: u64 = 2_000_000;

/// Nanoseconds since 1970: the one clock that all processes of a machine share.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.expect("the clock stands after 1970");
    u64::try_from(since.as_nanos()).expect("the clock stands before 2554")
}

/// The moments at which one lane's operations are due.
pub(crate) struct Pace {
    start_ns: u64,
    end_ns: u64,
    rate: u64,
    lanes: u64,
    lane: u64,
    begun: u64,
}

/// What is to be done next.
pub(crate) enum Next {
    /// An operation was due at this moment.
    Due(u64),
    /// Nothing before this moment.
    Later(u64),
    /// Nothing more.
    Over,
}

impl Pace {
    /// The lanes take turns: each has every `plan.lanes`-th of all moments.
    pub(crate) fn new(plan: &Plan, lane: u64, start_ns: u64) -> Self {
        Pace {
            start_ns,
            end_ns: start_ns + plan.for_ns,
            rate: plan.rate,
            lanes: plan.lanes,
            lane,
            begun: 0,
        }
    }

    /// What is to be done at a moment. The same again until [`Pace::begin`].
    pub(crate) fn next(&self, now_ns: u64) -> Next {
        let due_ns = match self.rate {
            0 => now_ns.max(self.start_ns),
            rate => {
                let turn = u128::from(self.lane + self.begun * self.lanes);
                let after = turn * 1_000_000_000 / u128::from(rate);
                self.start_ns + u64::try_from(after).unwrap_or(u64::MAX / 2)
            }
        };
        if due_ns >= self.end_ns || now_ns >= self.end_ns {
            Next::Over
        } else if due_ns > now_ns {
            Next::Later(due_ns)
        } else {
            Next::Due(due_ns)
        }
    }

    /// Notes that the operation which was due has begun.
    pub(crate) fn begin(&mut self) {
        self.begun += 1;
    }

    /// How many have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Waits until an operation is due, and notes that it begins; `None` once there is no more.
    pub(crate) fn wait(&mut self) -> Option<u64> {
        loop {
            let now = now_ns();
            match self.next(now) {
                Next::Due(due) => {
                    self.begin();
                    return Some(due);
                }
                Next::Later(due) => rest(due - now),
                Next::Over => return None,
            }
        }
    }
}

/// Lets others run; for at most so long.
pub(crate) fn rest(ns: u64) {
    match far(ns) {
        Some(time) => sleep(time),
        None => thread::yield_now(),
    }
}

/// How long a timer may be waited for when something is due after so long; `None`: no timer.
pub(crate) fn far(ns: u64) -> Option<Duration> {
    (ns > NEAR_NS).then(|| Duration::from_nanos(ns - NEAR_NS))
}
