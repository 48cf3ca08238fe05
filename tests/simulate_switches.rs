//! One rule removed at a time from what ships: the simulation must miss it.
//!
//! Goal: show that `simulate.rs` would find what is not there to be found. Method: remove one rule of the
//! protocol, the runtime or the node, run seeds from 0 on, and expect a broken promise within
//! [`SEEDS_MAX`]. How many it takes is printed, with the plan that is left when it was shrunk.
//!
//! ```text
//! cargo test --release -p tidelock-node --features switches --test simulate_switches -- --nocapture
//! ```

#![allow(
    clippy::print_stderr,
    reason = "the figures are for whoever reads the log"
)]

#[path = "simulate/chance.rs"]
mod chance;
#[path = "simulate/cluster.rs"]
mod cluster;
#[path = "simulate/journal.rs"]
mod journal;
#[path = "simulate/network.rs"]
mod network;
#[path = "simulate/oracle.rs"]
mod oracle;
#[path = "simulate/plan.rs"]
mod plan;
#[path = "simulate/script.rs"]
mod script;
#[allow(dead_code, reason = "the other test uses the rest")]
#[path = "simulate/search.rs"]
mod search;

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
];

#[test]
fn every_rule_is_missed() {
    let only = std::env::var("TIDELOCK_RULE").ok();
    let mut needless = Vec::new();
    for rule in RULES {
        if only.as_ref().is_some_and(|only| only != rule) {
            continue;
        }
        let found = search::search(0, SEEDS_MAX, rule);
        match found.broken {
            Some((plan, broken)) => {
                let (plan, _) = search::shrink(plan, broken.clone(), rule);
                eprintln!(
                    "| {rule} | {} | {} | {} | `{plan}` |",
                    found.seeds, broken.promise, broken.how
                );
            }
            None => needless.push(*rule),
        }
    }
    assert!(
        needless.is_empty(),
        "nothing breaks in {SEEDS_MAX} seeds without {needless:?}"
    );
}
