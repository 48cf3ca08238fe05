//! One rule removed at a time from what ships: the simulation must miss it.
//!
//! Goal: show that `simulate.rs` would find what is not there to be found. Method: remove one rule of the
//! protocol, the runtime or the node, run the first seed that is known to miss it, and expect a broken
//! promise. Where none breaks any more, since the workload or the timing is another one, seeds from 0 on are
//! run, up to [`SEEDS_MAX`]. A rule that is named is always searched for from 0: how many seeds it takes is
//! printed, and the plan that is left when it was shrunk.
//!
//! ```text
//! cargo test --release -p tidelock-node --features switches --test simulate_switches -- --nocapture
//! TIDELOCK_RULE='unlink has an id' …                                              # one of them
//! ```

#![allow(
    clippy::print_stderr,
    reason = "the figures are for whoever reads the log"
)]

#[path = "simulate/mod.rs"]
#[allow(dead_code, reason = "the other test uses the rest")]
mod simulate;

use simulate::search;

/// Seeds within which each rule must be missed.
const SEEDS_MAX: u64 = 10_000;

/// Rules of the shipped code, by the names that it knows them by, each with the first seed that misses it.
const RULES: &[(&str, u64)] = &[
    ("link waits for its answer", 0),
    ("a link that crosses an unlink is not taken", 0),
    ("an end answers the call", 0),
    ("an exit needs an entry", 1),
    ("an end answers the unlink", 1),
    ("a Down uses its reference up", 3),
    ("who asks is noted", 0),
    ("a child is noted", 0),
    ("Cancel reaches a child that is made", 1),
    ("an epoch is opened once", 3),
    ("a lease counts round trips", 807),
    ("a lost session is told", 0),
    ("a child runs at Start", 0),
    ("the dead answer", 0),
    ("giving link() up is an unlink", 0),
    ("a process that ends gives no link() up", 88),
    ("the open session ends before the next opens", 195),
    ("unlink withdraws what is queued", 0),
    ("an unlink leaves the other's call alone", 0),
    ("NoProcess has an id", 385),
    ("a crossed link is asked again", 0),
    ("a lost session answers calls", 4),
    ("who is asked is noted", 20),
    ("Cancel ends a parked child", 1),
    ("an answer keeps its place in the lane", 0),
    ("nothing of an ended session is taken in", 2),
    ("unlink has an id", 21),
    ("the parent is answered in the step of Start", 0),
    ("a session ends with its certificate", 0),
    ("a renewal moves the end of the session", 0),
    ("the last second of a certificate counts", 0),
    ("who has left is not let in", 4253),
];

#[test]
fn every_rule_is_missed() {
    let rules = match std::env::var("TIDELOCK_RULE") {
        Ok(name) => {
            let named = RULES.iter().find(|(rule, _)| *rule == name);
            vec![*named.unwrap_or_else(|| panic!("no rule is called {name:?}"))]
        }
        Err(_) => RULES.to_vec(),
    };
    // Searching from 0 and shrinking take some hundred runs: for the one that somebody looks at.
    let alone = rules.len() == 1;
    let mut needless = Vec::new();
    for (rule, known) in rules {
        let at_once = (!alone)
            .then(|| search::search(known, 1, rule))
            .filter(|found| found.broken.is_some());
        let found = at_once.unwrap_or_else(|| search::search(0, SEEDS_MAX, rule));
        match found.broken {
            Some((mut plan, broken)) => {
                if alone {
                    (plan, _) = search::shrink(plan, broken.clone(), rule);
                }
                eprintln!(
                    "| {rule} | {} | {} | {} | `{plan}` |",
                    found.seeds, broken.promise, broken.how
                );
            }
            None => needless.push(rule),
        }
    }
    assert!(
        needless.is_empty(),
        "nothing breaks in {SEEDS_MAX} seeds without {needless:?}"
    );
}
