//! What the machine itself takes away while all of its cores are asked for: the floor under every p99 here.
//!
//! A virtual processor that is busy is stopped by its host now and then, for milliseconds, and what needs two of them waits for
//! either. A figure of a busy machine is worth as much as this one is small.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// How long each look takes.
const LOOK: Duration = Duration::from_millis(250);
/// Shorter than what a tick of the kernel takes, longer than reading the clock.
const SHORT: Duration = Duration::from_micros(20);
/// What everybody notices.
const LONG: Duration = Duration::from_millis(1);

/// What was taken away in all looks together.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    cores: usize,
    looked: Duration,
    lost: Duration,
    longest: Duration,
    /// Times of [`LONG`] or more: how many, and how long together.
    long: u32,
    lost_in_long: Duration,
}

impl Taken {
    /// Keeps every core busy for a moment, and notes when they were not.
    pub(crate) fn look(&mut self) {
        self.cores = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let busy: Vec<_> = (0..self.cores).map(|_| scope.spawn(gaps)).collect();
            for gaps in busy {
                self.looked += LOOK;
                for gap in gaps.join().expect("reading a clock does not panic") {
                    self.note(gap);
                }
            }
        });
    }

    fn note(&mut self, gap: Duration) {
        self.lost += gap;
        self.longest = self.longest.max(gap);
        if gap >= LONG {
            self.long += 1;
            self.lost_in_long += gap;
        }
    }

    fn share(&self, of: Duration) -> f64 {
        match self.looked.as_secs_f64() {
            0.0 => 0.0,
            looked => 100.0 * of.as_secs_f64() / looked,
        }
    }
}

/// The times for which this thread did not run, of one look.
fn gaps() -> Vec<Duration> {
    let begun = Instant::now();
    let mut last = begun;
    let mut gaps = Vec::new();
    while last - begun < LOOK {
        let now = Instant::now();
        if now - last >= SHORT {
            gaps.push(now - last);
        }
        last = now;
    }
    gaps
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each_second = match self.looked.as_secs_f64() {
            0.0 => 0.0,
            looked => f64::from(self.long) / looked,
        };
        write!(
            f,
            "the machine itself: of {} busy cores each lost {:.1} % of its time; {:.1} times a second for a millisecond or more, which \
             was {:.1} % of it; {:.1} ms at most ({:.0} s looked at)",
            self.cores,
            self.share(self.lost),
            each_second,
            self.share(self.lost_in_long),
            self.longest.as_secs_f64() * 1e3,
            self.looked.as_secs_f64() / self.cores.max(1) as f64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_told_as_a_share_of_each_core() {
        let mut taken = Taken {
            cores: 2,
            looked: Duration::from_secs(4),
            ..Taken::default()
        };
        for gap in [38, 2, 60] {
            taken.note(Duration::from_millis(gap));
        }
        let said = taken.to_string();
        for part in [
            "2 busy cores each lost 2.5 %",
            "0.8 times a second",
            "60.0 ms at most (2 s looked at)",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn without_a_look_nothing_was_lost() {
        assert!(Taken::default().to_string().contains("lost 0.0 %"));
    }
}
