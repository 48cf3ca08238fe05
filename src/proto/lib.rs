//! What Tidelock nodes promise each other, as a pure function of its inputs.
//!
//! This crate holds no clock, no socket, no executor and no randomness: every machine takes one
//! input and returns what the caller must do next. The same code is driven by the node, by the
//! model checker (`tests/model_*.rs`) and by property tests, so what is checked is what runs.
//!
//! # The promises
//!
//! * **P1 — told exactly once.** Once `link()` returned *Linked*, each of the two processes that
//!   outlives the link receives exactly one LinkDied: because the other ended, or because the
//!   session between their nodes ended.
//! * **P2 — unlink is final.** Once `unlink()` returned, no LinkDied of that link is acted on or
//!   put into the mailbox.
//! * **P3 — no unlinked instruction.** A child spawned with a link executes nothing until both
//!   halves exist, wherever it runs.
//! * **P4 — a failed spawn never ran.**
//! * **P5 — order.** Within a session, signals between two nodes arrive in the order sent,
//!   without a gap.
//! * **P6 — bounded wait.** Calls end at their deadline or with the session.
//! * **P7 — no ghosts.** A pid never means another process; nothing of an ended session acts in
//!   a later one.
//! * **P8 — identity is the certificate.** A signal is accepted only if its sender lives on the
//!   node that the connection's certificate and ticket name.
//!
//! # The rooms
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`link`] | links, unlinks and monitors of *one* process, kept in its control block |
//! | [`spawn`] | the three-message spawn: asking side, hosting side |
//! | [`session`] | one session with one peer: what may arrive, who sent it, who is told at its end |
//! | [`pair`] | dials and epochs of two nodes: which session is the one |
//! | [`lease`] | when a silent peer is gone |
//! | [`wire`] | frames and their bytes |
//!
//! # What this crate does not do
//!
//! It does not retry, log, sleep or measure time. It does not know what a guest is.

mod few;
mod ids;
pub mod lease;
pub mod link;
pub mod pair;
mod reason;
pub mod session;
pub mod spawn;
#[doc(hidden)]
pub mod switch;
pub mod wire;

pub use few::Numbers;
pub use ids::{Environ, ModuleHash, NodeId, ParseIdError, Pid};
pub use reason::{ExitReason, TEXT_BYTES_MAX, bounded};

/// The protocol versions this crate speaks, oldest and newest.
///
/// Version 2 has [`wire::Frame::Renew`], version 3 [`wire::Frame::Config`] and [`wire::Frame::Request`]; each is
/// the one before in everything else.
pub const PROTOCOL: (u16, u16) = (1, 3);
