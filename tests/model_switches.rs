//! One rule removed at a time: each must be missed.
//!
//! Goal: show that `model_combined.rs` would notice if a rule of the protocol, or of the driver
//! around it, were not there. Method: remove one rule, search the scenario that needs it, and
//! expect a broken promise. The shortest story that leads to it is printed; it is also the answer
//! to "why is this rule here?". A rule that nobody misses is a failure of this test.
//!
//! ```text
//! cargo test --release -p tidelock-proto --features switches --test model_switches -- --nocapture
//! ```

#[allow(dead_code, reason = "the other model test uses the rest")]
mod model;

use model::scenarios::{Depth, scenario};
use model::search::{Findings, explore};

/// Each rule, and the scenario that misses it.
const RULES: &[(&str, &str)] = &[
    ("link waits for its answer", "links"),
    ("unlink withdraws what is queued", "links"),
    ("a link that crosses an unlink is not taken", "links"),
    ("an unlink leaves the other's call alone", "links"),
    ("unlink has an id", "links"),
    ("NoProcess has an id", "guess"),
    ("a crossed link is asked again", "links"),
    ("an end answers the call", "links"),
    ("an exit needs an entry", "links"),
    ("an end answers the unlink", "links"),
    ("a Down uses its reference up", "monitors"),
    ("a lost session answers calls", "links"),
    ("a lost session ends its watchers", "monitors"),
    ("an end withdraws its monitors", "monitors"),
    ("at a tie one dial yields", "sound"),
    ("at a tie one dial stays", "sound"),
    ("a dial under way counts", "dials"),
    ("an epoch is opened once", "dials"),
    ("an accepted Hello drops the own dial", "dials"),
    ("who asks is noted", "links"),
    ("who is asked is noted", "links"),
    ("an answered spawn can be given up", "kill_parent"),
    ("who spawns is noted", "spawns_again"),
    ("Cancel leaves a tombstone", "spawn"),
    ("a child is noted", "spawn"),
    ("Cancel reaches a child that is made", "spawn"),
    ("Cancel ends a parked child", "spawn"),
    ("a lost session ends parked children", "spawn"),
    ("one connection, one session", "links_again"),
    ("giving link() up is an unlink", "links"),
    ("a parent's end cancels its spawn", "spawn"),
    ("unsent is told", "links_again"),
    ("the dead answer Link", "links"),
    ("the dead answer Unlink", "links"),
    ("the dead answer Monitor", "monitors"),
    ("who watches a node is noted", "node_monitors"),
    ("a parked child ends like any other", "spawn"),
    ("a parked child's end is noted", "spawn"),
    ("giving spawn() up is a Cancel", "spawn"),
    ("a child runs at Start", "spawn"),
    ("the parent's half comes before Start", "spawn"),
    ("the block alone reports ends", "spawn"),
    ("Start follows in the same step", "spawn"),
    ("a lost session is told", "links"),
    ("the open session ends before the next opens", "links_again"),
    ("link() drains first", "links_again"),
    ("an exit keeps its place in the lane", "links"),
    ("an answer keeps its place in the lane", "links"),
];

/// Explores `name` without `rule`.
fn without(rule: &'static str, name: &str) -> Findings {
    tidelock_proto::switch::remove(rule);
    model::remove(rule);
    let found = explore(&scenario(name, Depth::Usual), usize::MAX);
    tidelock_proto::switch::remove("");
    model::remove("");
    found
}

#[test]
#[allow(clippy::print_stdout, reason = "the stories are worth reading")]
fn every_rule_is_missed() {
    let mut needless = Vec::new();
    for (rule, name) in RULES {
        let found = without(rule, name);
        match found.violation {
            Some(broken) => println!(
                "without {rule:?}: {} ({} steps)\n    {}\n",
                broken.promise,
                broken.story.len(),
                broken.story.join("\n    ")
            ),
            None => needless.push(format!("{rule:?} in {name} ({} states)", found.states)),
        }
    }
    assert!(
        needless.is_empty(),
        "nothing breaks without\n  {}",
        needless.join("\n  ")
    );
}
