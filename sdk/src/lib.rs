//! Processes, links and messages for guests of Tidelock.
//!
//! A guest is a program for `wasm32-wasip1`. Run by Tidelock, its `main` is a *process*: an
//! instance with a memory of its own, a mailbox, and a [`Pid`]. This crate lets it spawn
//! more of them on any node of the cluster, send them bytes, and learn of their end. Every
//! call blocks the calling process only; there is no executor and nothing to await.
//!
//! ```no_run
//! use tidelock_guest::{Pid, Received, Spawn, receive, send};
//!
//! const ANSWER: i64 = 1;
//!
//! fn double(parent: u64) {
//!     let parent = Pid::from_raw(parent).expect("the parent passed its pid");
//!     if let Received::Data(data) = receive(&[], None) {
//!         send(parent, ANSWER, &[data.bytes[0] * 2]);
//!     }
//! }
//!
//! fn main() {
//!     let child = Spawn::new()
//!         .linked(7)
//!         .start(double, tidelock_guest::me().raw())
//!         .expect("this node has room for one more");
//!     send(child, 0, &[21]);
//!     match receive(&[ANSWER], None) {
//!         Received::Data(data) => println!("{} says {}", child, data.bytes[0]),
//!         other => panic!("{other:?}"),
//!     }
//! }
//! ```
//!
//! # What is promised
//!
//! * Messages from one process to another arrive in the order sent, or not at all from
//!   some point on. A message to a process that has ended goes nowhere.
//! * A linked spawn returns when both ends hold the link, and the child has not run before.
//! * When a linked process ends other than normally, this process ends too, or, after
//!   [`die_when_link_dies`]`(false)`, receives exactly one [`Received::LinkDied`].
//! * The end of a node is the end of everything on it: one notice per link or monitor.
//!
//! All of it holds for processes on this node and on others alike.
//!
//! # Where `unsafe` is
//!
//! In the module `sys` alone, which holds the imports and one safe function for each.

mod message;
mod node;
mod pid;
mod process;
mod registry;
mod sys;
mod waits;

pub use message::{
    Data, Down, LinkDied, Next, NodeDown, Reason, Received, TimerId, cancel_timer, handle, receive,
    request, send, send_after,
};
pub use node::{NodeId, module_id, monitor_node, node_id, nodes};
pub use pid::{ParsePidError, Pid};
pub use process::{
    LinkError, Monitor, Spawn, SpawnError, TimedOut, demonitor, die_when_link_dies, exists, kill,
    link, log, me, monitor, sleep, spawn, spawn_link, spawn_on, unlink,
};
pub use registry::{lookup, register, unregister};

/// The tag of a message without one.
pub const NO_TAG: i64 = 0;
