//! Timers: what they send comes once, not early, and not if it was taken back.

use std::collections::BTreeMap;
use std::time::Duration;

use tidelock::Pid;

use super::super::journal::What;
use super::{Broken, Facts, SAME_STEP, SLACK, broken};

/// How long after its time a message is read at the latest: whoever waits for an answer reads nothing.
const READ: Duration = Duration::from_secs(5);

struct Timer {
    by: Pid,
    to: Pid,
    set: Duration,
    delay: Duration,
    got: bool,
    taken: bool,
}

impl Timer {
    /// When it fires at the earliest: clocks are wrong by a hundredth.
    fn from(&self) -> Duration {
        (self.set + self.delay * 98 / 100).saturating_sub(SAME_STEP)
    }

    /// And at the latest, unless its machine stands still.
    fn until(&self) -> Duration {
        self.set + self.delay * 102 / 100 + SLACK
    }
}

/// P5 and P7 of timers.
pub(super) fn timers(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut timers: BTreeMap<u64, Timer> = BTreeMap::new();
    for entry in facts.entries {
        match entry.what {
            What::TimerSet {
                by,
                to,
                number,
                delay,
            } => {
                let timer = Timer {
                    by,
                    to,
                    set: entry.at,
                    delay,
                    got: false,
                    taken: false,
                };
                timers.insert(number, timer);
            }
            What::TimerCancelled { by, number, taken } => {
                let Some(timer) = timers.get_mut(&number) else {
                    continue;
                };
                timer.taken = taken;
                if taken && timer.got {
                    return broken("P5", format!("{by} took {number} back, which had come"));
                }
            }
            What::Got {
                by, from, number, ..
            } => {
                let Some(timer) = timers.get_mut(&number) else {
                    continue;
                };
                let wrong = if (timer.by, timer.to) != (from, by) {
                    "is of another timer"
                } else if timer.got {
                    "came twice"
                } else if timer.taken {
                    "was taken back"
                } else if entry.at < timer.from() {
                    "came too early"
                } else {
                    timer.got = true;
                    continue;
                };
                return broken(
                    "P5",
                    format!("{by} got {number} from {from}, which {wrong}"),
                );
            }
            _ => {}
        }
    }
    for (number, timer) in &timers {
        let (by, to) = (timer.by, timer.to);
        let there = facts.born.get(&to).is_some_and(|born| *born <= timer.set);
        let reads = there && facts.readers.contains(&to) && facts.lives(to);
        // The timer outlives its process, and not its node.
        let fires = !timer.taken && !facts.crashed.contains_key(&by.node());
        if !timer.got
            && reads
            && fires
            && timer.until() + READ < facts.end()
            && facts.reach(by, to, timer.from(), facts.end())
        {
            return broken(
                "P5",
                format!("{to} never got {number} from a timer of {by}"),
            );
        }
    }
    Ok(())
}
