//! The promises, on real daemons: separate processes, real QUIC, real certificates, real faults.
//!
//! Goal: show that what the models show of the machines is true of the programs people run, and
//! measure how fast. Method: a control plane and nodes are started as child processes; a guest
//! (`examples/guests/src/bin/scenarios.rs`) observes from inside and prints; the faults come from
//! outside, through the kernel or through a stranger's connection. Each test first verifies that its
//! fault took effect, then compares who was told with who had to be, name by name, exactly once.
//!
//! ```text
//! cargo test --release -p tidelock-node --test cluster -- --nocapture   # prints the figures
//! ```
//!
//! "Nothing more comes" is judged behind a fence: a round trip over the same lane that began after
//! everything else was seen. Networks that cut, lose and slow down are the kernel's own, in
//! namespaces, where this test has the rights; those that delay, reorder and repeat are a relay.

#![allow(
    clippy::print_stderr,
    reason = "the figures are for whoever reads the log"
)]

#[path = "cluster/bench.rs"]
mod bench;
#[path = "simulate/chance.rs"]
mod chance;
#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/feed.rs"]
mod feed;
#[path = "cluster/limits.rs"]
mod limits;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/many.rs"]
mod many;
#[path = "cluster/neighbours.rs"]
mod neighbours;
#[path = "cluster/network.rs"]
mod network;
#[path = "cluster/outsiders.rs"]
mod outsiders;
#[path = "cluster/pressure.rs"]
mod pressure;
#[path = "cluster/promises.rs"]
mod promises;
#[path = "cluster/relay.rs"]
mod relay;
#[path = "cluster/resources.rs"]
mod resources;
#[path = "cluster/settings.rs"]
mod settings;
#[path = "cluster/soak.rs"]
mod soak;
#[path = "cluster/strangers.rs"]
mod strangers;
#[path = "cluster/unmodified.rs"]
mod unmodified;
