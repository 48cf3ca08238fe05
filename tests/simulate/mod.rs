//! Whole nodes in a simulated world, for the tests that run many of them.
//!
//! ```text
//!   plan ──▶ cluster: network · clocks · script (actor, duel) ──▶ journal ──▶ oracle
//!                        search: many seeds, shrunk plans
//! ```

#![allow(
    clippy::print_stderr,
    reason = "the figures are for whoever reads the log"
)]

pub(crate) mod actor;
pub(crate) mod chance;
pub(crate) mod cluster;
pub(crate) mod duel;
pub(crate) mod journal;
pub(crate) mod network;
pub(crate) mod oracle;
pub(crate) mod plan;
pub(crate) mod script;
pub(crate) mod search;
