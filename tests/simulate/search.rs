//! Many seeds on all cores, and what to do with one that breaks a promise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cluster::run;
use super::oracle::{Broken, Seen, judge};
use super::plan::Plan;

/// What a search found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) seeds: u64,
    pub(crate) took: Duration,
    seen: Seen,
    datagrams: u64,
    /// The lowest seed that broke a promise, of those that ran.
    pub(crate) broken: Option<(Plan, Broken)>,
}

impl Found {
    /// For people.
    pub(crate) fn figures(&self) -> String {
        let rate = self.seeds as f64 / self.took.as_secs_f64();
        let per = |count: u64| count / self.seeds.max(1);
        let mut noticed = self.seen.noticed.clone();
        noticed.sort_unstable();
        let at = |part: usize| {
            noticed.get((noticed.len() * part / 1_000).min(noticed.len().saturating_sub(1)))
        };
        format!(
            "{} seeds in {:.1} s, {rate:.0} a second; of each: {} processes, {} calls, {} messages and {} \
             ends told, {} sessions lost, {} datagrams; {} cuts noticed, p50 {:?}, p99 {:?}, at most {:?}; \
             {} sessions with nodes that stopped or left",
            self.seeds,
            self.took.as_secs_f64(),
            per(self.seen.processes),
            per(self.seen.calls),
            per(self.seen.messages),
            per(self.seen.told),
            per(self.seen.sessions_lost),
            per(self.datagrams),
            noticed.len(),
            at(500),
            at(990),
            noticed.last(),
            self.seen.gone,
        )
    }
}

fn without(rule: &'static str) {
    #[cfg(feature = "switches")]
    tidelock_proto::switch::remove(rule);
    assert!(
        rule.is_empty() || cfg!(feature = "switches"),
        "build with --features switches"
    );
}

/// Runs seeds, with a rule removed if one is named, until all have run or one breaks a promise.
pub(crate) fn search(first: u64, seeds: u64, rule: &'static str) -> Found {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Found::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                without(rule);
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let plan = Plan::of(seed);
                    let run = run(&plan);
                    let judged = judge(&plan, &run.entries);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.datagrams += run.datagrams;
                    found.seeds += 1;
                    match judged {
                        Ok(seen) => found.seen.add(seen),
                        Err(broken) => {
                            stop.store(true, Ordering::Relaxed);
                            let lowest = found.broken.as_ref().map(|(other, _)| other.seed);
                            if lowest.is_none_or(|lowest| seed < lowest) {
                                found.broken = Some((plan, broken));
                            }
                        }
                    }
                }
            });
        }
    });
    Found {
        took: began.elapsed(),
        ..found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves out of a plan what is not needed to break the same promise.
pub(crate) fn shrink(mut plan: Plan, mut broken: Broken, rule: &'static str) -> (Plan, Broken) {
    without(rule);
    let mut runs = 0;
    'again: loop {
        for smaller in plan.smaller() {
            runs += 1;
            if runs > 400 {
                break 'again;
            }
            if let Err(again) = judge(&smaller, &run(&smaller).entries)
                && again.promise == broken.promise
            {
                (plan, broken) = (smaller, again);
                continue 'again;
            }
        }
        break;
    }
    without("");
    (plan, broken)
}

/// Runs one plan and tells all of it; fails if it breaks a promise.
pub(crate) fn tell(plan: &Plan) {
    let run = run(plan);
    eprintln!("plan {plan}: {:?}", plan.faults());
    for entry in &run.entries {
        eprintln!("{entry}");
    }
    eprintln!("{} datagrams, trace {:016x}", run.datagrams, run.digest);
    let judged = judge(plan, &run.entries);
    assert!(judged.is_ok(), "plan {plan}: {:?}", judged.err());
}

/// Runs one plan and tells it only if it breaks a promise.
pub(crate) fn tell_if_broken(plan: &Plan) {
    if judge(plan, &run(plan).entries).is_err() {
        tell(plan);
    }
}
