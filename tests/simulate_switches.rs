//! One rule removed at a time from what ships: the simulation must miss it.
//!
//! Goal: show that `simulate.rs` would find what is not there to be found. Method: remove one rule of the
//! protocol, the runtime or the node, run seeds from 0 on, and expect a broken promise within
//! [`SEEDS_MAX`]. How many it takes is printed; of a rule that is named, also the plan that is left when it
//! was shrunk.
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

/// Rules of the shipped code, by the names that it knows them by.
const RULES: &[&str] = &[
    "link waits for its answer",
    "a link that crosses an unlink is not taken",
    "an end answers the call",
    "an exit needs an entry",
    "an end answers the unlink",
    "a Down uses its reference up",
    "who asks is noted",
    "a child is noted",
    "Cancel reaches a child that is made",
    "an epoch is opened once",
    "a lease counts round trips",
    "a lost session is told",
    "a child runs at Start",
    "the dead answer",
    "giving link() up is an unlink",
    "a process that ends gives no link() up",
    "the open session ends before the next opens",
    "unlink withdraws what is queued",
    "an unlink leaves the other's call alone",
    "NoProcess has an id",
    "a crossed link is asked again",
    "a lost session answers calls",
    "who is asked is noted",
    "Cancel ends a parked child",
    "an answer keeps its place in the lane",
    "nothing of an ended session is taken in",
    "unlink has an id",
    "the parent is answered in the step of Start",
];

#[test]
fn every_rule_is_missed() {
    let rules = match std::env::var("TIDELOCK_RULE") {
        Ok(name) => {
            let named = RULES.iter().find(|rule| **rule == name);
            vec![*named.unwrap_or_else(|| panic!("no rule is called {name:?}"))]
        }
        Err(_) => RULES.to_vec(),
    };
    // Shrinking takes some hundred runs: for the one that somebody looks at.
    let alone = rules.len() == 1;
    let mut needless = Vec::new();
    for rule in rules {
        let found = search::search(0, SEEDS_MAX, rule);
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
