//! What stdout says: one JSON object a line, each with an `event`.
//!
//! | event | fields |
//! | --- | --- |
//! | `started` | all lanes have begun |
//! | `values` | `pairs`: nanoseconds and how often, in turn |
//! | `result` | `asked`, `begun`, `done`, `elapsed_ns`, `clock_ns`: how well the clocks of two machines are known to agree |
//! | `error` | `message`; the exit code is not 0 then |

use hdrhistogram::Histogram;

use crate::pace::{Pace, now_ns};

/// Pairs of one line: a line has at most 8 KiB.
const PAIRS: usize = 200;

/// What lanes have counted, added up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Operations that were begun.
    pub(crate) begun: u64,
    /// Those of them that came to their end.
    pub(crate) done: u64,
    /// When the last of them did.
    pub(crate) end_ns: u64,
    /// How far the clocks of sender and receiver may be apart.
    pub(crate) clock_ns: u64,
}

impl Counts {
    /// As numbers, for a message to the director.
    pub(crate) fn numbers(&self) -> [u64; 4] {
        [self.begun, self.done, self.end_ns, self.clock_ns]
    }

    /// Adds what another lane sent with [`Counts::numbers`].
    pub(crate) fn add(&mut self, numbers: &[u64]) {
        self.begun += numbers[0];
        self.done += numbers[1];
        self.end_ns = self.end_ns.max(numbers[2]);
        self.clock_ns = self.clock_ns.max(numbers[3]);
    }
}

/// Durations of up to an hour, three digits of each.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(3_600_000_000_000, 3).expect("the bounds are constants")
}

/// Everything in a histogram: value and count, in turn.
pub(crate) fn pairs(histogram: &Histogram<u64>) -> Vec<u64> {
    let recorded = histogram.iter_recorded();
    recorded
        .flat_map(|step| [step.value_iterated_to(), step.count_at_value()])
        .collect()
}

/// Does one operation after the other, each when it is due; `after` each, what is not measured.
///
/// # Errors
///
/// The first error of either.
pub(crate) fn one_by_one(
    mut pace: Pace,
    mut operation: impl FnMut() -> Result<(), String>,
    mut after: impl FnMut() -> Result<(), String>,
) -> Result<(Counts, Vec<u64>), String> {
    let mut histogram = histogram();
    let mut counts = Counts::default();
    while let Some(due_ns) = pace.wait() {
        operation()?;
        counts.done += 1;
        counts.end_ns = now_ns();
        histogram.saturating_record(counts.end_ns.saturating_sub(due_ns));
        after()?;
    }
    counts.begun = pace.begun();
    Ok((counts, pairs(&histogram)))
}

pub(crate) fn started() {
    println!(r#"{{"event":"started"}}"#);
}

pub(crate) fn values(pairs: &[u64]) {
    for part in pairs.chunks(2 * PAIRS) {
        let words: Vec<String> = part.iter().map(u64::to_string).collect();
        println!(r#"{{"event":"values","pairs":[{}]}}"#, words.join(","));
    }
}

pub(crate) fn result(counts: &Counts, asked: u64, elapsed_ns: u64) {
    println!(
        r#"{{"event":"result","asked":{asked},"begun":{},"done":{},"elapsed_ns":{elapsed_ns},"clock_ns":{}}}"#,
        counts.begun, counts.done, counts.clock_ns
    );
}

pub(crate) fn error(message: &str) {
    let mut quoted = String::new();
    for c in message.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    println!(r#"{{"event":"error","message":"{quoted}"}}"#);
}
