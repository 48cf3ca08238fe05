//! The bench of the protocol models: two nodes, their lanes, and somebody who watches.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`driver`] | what a node must do around the protocol crate, and nothing more |
//! | [`spawning`] | the part of it that makes children |
//! | [`world`] | two nodes and the network between them; every step that can happen next |
//! | [`observer`] | who is owed what, kept outside the system and compared with it |
//! | [`search`] | breadth-first, so the first violation is a shortest one |
//! | [`scenarios`] | what may happen how often |
//!
//! No protocol rule is written down here. Every transition is the shipped crate's: the world holds
//! its `Block`s, `Session`s and `Pair`s, and what travels is the bytes they made.

pub(crate) mod driver;
pub(crate) mod observer;
pub(crate) mod scenarios;
pub(crate) mod search;
mod spawning;
pub(crate) mod world;

use std::cell::Cell;

use tidelock_proto::{NodeId, Pid};

/// The parent: on node 1, there from the beginning.
pub(crate) const P: usize = 0;
/// The child: on node 2, spawned by P or there from the beginning.
pub(crate) const C: usize = 1;
/// The third process: on either node, there from the beginning; it can guess pids.
pub(crate) const T: usize = 2;
/// The second child that is spawned, on node 2.
pub(crate) const D: usize = 3;
/// How many roles there are.
pub(crate) const ROLES: usize = 4;

/// Who may call `link` about whom, in the order of a scenario's budgets.
pub(crate) const PAIRS: [(usize, usize); 6] = [(P, C), (C, P), (T, C), (C, T), (P, T), (T, P)];

/// The local number of the third process.
const THIRD: u64 = 9;

/// The node on this side (0 or 1).
pub(crate) fn node(side: usize) -> NodeId {
    NodeId(side as u64 + 1)
}

/// The side a node is on.
pub(crate) fn side(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// The pid that plays `role`.
pub(crate) fn pid(role: usize, third: usize) -> Pid {
    let (side, local) = match role {
        P => (0, 1),
        C => (1, 1),
        D => (1, 2),
        _ => (third, THIRD),
    };
    Pid::new(node(side), local).unwrap()
}

/// The role that `pid` plays.
pub(crate) fn role(pid: Pid) -> usize {
    match (side(pid.node()), pid.local()) {
        (_, THIRD) => T,
        (0, _) => P,
        (_, 1) => C,
        _ => D,
    }
}

/// What a story calls `pid`.
pub(crate) fn name(pid: Pid) -> &'static str {
    ["P", "C", "T", "D"][role(pid)]
}

thread_local! {
    static REMOVED: Cell<&'static str> = const { Cell::new("") };
}

/// Removes one rule that the driver or the network must keep, on this thread.
pub(crate) fn remove(rule: &'static str) {
    REMOVED.set(rule);
}

/// Whether that rule of the driver or the network is removed.
pub(crate) fn off(rule: &str) -> bool {
    REMOVED.get() == rule
}
