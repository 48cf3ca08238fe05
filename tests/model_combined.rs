//! Every interleaving of links, spawns, monitors and sessions, checked against the promises.
//!
//! Goal: show that no order of calls, deliveries, ends, cuts, dials and crashes breaks P1–P4, P6
//! or P7 of `tidelock_proto`, within the bounds of `model/scenarios.rs`. Method: breadth-first
//! search over the shipped crate. The world holds its blocks, sessions and pairs, and what travels
//! between them is the bytes they made; the driver around them (`model/driver.rs`) decides nothing.
//! An observer outside says who is owed what. The first violation found is a shortest one, and its
//! story is the failure message.
//!
//! ```text
//! TIDELOCK_MODEL=quick cargo test -p tidelock-proto
//! cargo test --release -p tidelock-proto --test model_combined -- --nocapture
//! TIDELOCK_MODEL=deep cargo test --release -p tidelock-proto --test model_combined -- --nocapture
//! ```
//!
//! The quick form looks at the first few thousand states of each scenario only: enough to be run for
//! every mutant (`.cargo/mutants.toml`), and no proof of anything.
//!
//! That the model would notice is shown by `model_switches.rs`.

#[allow(dead_code, reason = "the other model test uses the rest")]
mod model;

use std::env;

use model::scenarios::{Depth, scenario};
use model::search::explore;

/// How many states of each scenario the quick form looks at.
const QUICK_STATES: usize = 3_000;

/// Explores one scenario to its end and prints what that took.
#[allow(
    clippy::print_stdout,
    reason = "whoever reads the log wants the figures"
)]
fn hold_every_promise(name: &str) {
    let asked = env::var("TIDELOCK_MODEL").unwrap_or_default();
    let (deep, quick) = (asked == "deep", asked == "quick");
    let depth = if deep { Depth::Deep } else { Depth::Usual };
    let scenario = scenario(name, depth);
    let found = explore(&scenario, if quick { QUICK_STATES } else { usize::MAX });
    if let Some(broken) = &found.violation {
        panic!(
            "{} after\n  {}\n{}",
            broken.promise,
            broken.story.join("\n  "),
            scenario.budget
        );
    }
    println!(
        "{name:13} {:9} states, {:6} at rest, {:2} steps deep, {:6.1} s; {}",
        found.states,
        found.rests,
        found.depth,
        found.time.as_secs_f64(),
        scenario.budget
    );
    if quick {
        let reached = found.complete || found.states >= QUICK_STATES;
        assert!(reached, "{name} ended at {} states", found.states);
        return;
    }
    assert!(found.complete, "{name} was not explored to its end");
    // A model that explores little proves little.
    let stated = scenario.states_min[usize::from(deep)];
    assert!(
        found.states >= stated,
        "only {} states of {name}, where {stated} were stated",
        found.states
    );
    for kind in scenario.kinds() {
        assert!(found.taken.contains(&kind), "{name} has no step {kind:?}");
    }
}

#[test]
fn links() {
    hold_every_promise("links");
}

#[test]
fn links_again() {
    hold_every_promise("links_again");
}

#[test]
fn links_here() {
    hold_every_promise("links_here");
}

#[test]
fn ring() {
    hold_every_promise("ring");
}

#[test]
fn spawn() {
    hold_every_promise("spawn");
}

#[test]
fn guess() {
    hold_every_promise("guess");
}

#[test]
fn guess_here() {
    hold_every_promise("guess_here");
}

#[test]
fn parent_guess() {
    hold_every_promise("parent_guess");
}

#[test]
fn spawns() {
    hold_every_promise("spawns");
}

#[test]
fn kill_parent() {
    hold_every_promise("kill_parent");
}

#[test]
fn slow_ends() {
    hold_every_promise("slow_ends");
}

#[test]
fn slow_links() {
    hold_every_promise("slow_links");
}

#[test]
fn spawn_again() {
    hold_every_promise("spawn_again");
}

#[test]
fn spawns_again() {
    hold_every_promise("spawns_again");
}

#[test]
fn spawn_monitor() {
    hold_every_promise("spawn_monitor");
}

#[test]
fn monitors() {
    hold_every_promise("monitors");
}

#[test]
fn node_monitors() {
    hold_every_promise("node_monitors");
}

#[test]
fn dials() {
    hold_every_promise("dials");
}

#[test]
fn dials_links() {
    hold_every_promise("dials_links");
}

#[test]
fn sound() {
    hold_every_promise("sound");
}

#[test]
fn crash() {
    hold_every_promise("crash");
}
