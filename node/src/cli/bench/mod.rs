//! `tidelock bench`: how fast processes, messages and links are here, at a given rate.
//!
//! The guest that does the work is an ordinary one, see `benches/load`. Latency counts from the moment an
//! operation was due, so a stall shows in all that had to wait for it. A run whose work is not complete has no
//! figures: it is an error.

mod numbers;
mod report;
mod run;

use std::{path::Path, time::Duration};

use clap::{Args, Subcommand};
use tidelock::{Limits, MAILBOX_ENTRY_BYTES};

use super::{
    Output,
    failure::{Failure, Outcome},
    output::size,
};
use report::Report;

/// Bytes that a message of the bench has at least: its number, and when it was due.
const SIZE_MIN: u64 = 16;

/// Messages of one pair that are under way unless somebody says otherwise.
const WINDOW: u64 = 1000;

/// Measure spawns, messages, calls or links at a given rate
///
/// Without --between it starts what it needs on this machine: one environment in this program, or for
/// the remote kinds a cluster of two nodes, as `tidelock dev` does. Latency is counted from when an
/// operation was due, so waiting behind a stall is part of it. If anything is lost, or comes twice or in
/// the wrong order, there is no figure but an error.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Clone, Subcommand)]
enum Kind {
    /// Start processes; until each has run and its word is back
    Spawn(Lanes),
    /// Send messages one way; until the receiver has each
    Message(Messages),
    /// Send messages; until the answer to each is back
    Call(Calls),
    /// Link to a process; until both ends hold the link
    Link(Lanes),
    /// The same as spawn, on the other of two nodes
    RemoteSpawn(Lanes),
    /// The same as message, to the other of two nodes
    RemoteMessage(Messages),
    /// The same as call, to the other of two nodes
    RemoteCall(Calls),
    /// The same as link, to a process of the other of two nodes
    RemoteLink(Lanes),
}

/// Options of every kind.
#[derive(Debug, Clone, Args)]
struct Load {
    /// Operations that are due in each second, such as 500 or 100k; as many as can be done if left out
    #[arg(long, value_parser = numbers::rate)]
    rate: Option<u64>,
    /// For how long operations are begun
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = numbers::time)]
    time: Duration,
    /// Two nodes of a running cluster: where the operations are begun, and where the other side is
    #[arg(long, num_args = 2, value_names = ["NODE", "NODE"])]
    between: Option<Vec<String>>,
}

#[derive(Debug, Clone, Args)]
struct Lanes {
    #[command(flatten)]
    load: Load,
    /// How many processes do this, each one operation after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    under_way: u64,
}

/// Options of kinds that send messages.
#[derive(Debug, Clone, Args)]
struct Pairs {
    #[command(flatten)]
    load: Load,
    /// Bytes of a message, such as 128, 64KiB or 1MiB
    #[arg(long, default_value = "64", value_parser = numbers::size)]
    size: u64,
    /// How many pairs of processes do this
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pairs: u64,
}

#[derive(Debug, Clone, Args)]
struct Calls {
    #[command(flatten)]
    pairs: Pairs,
    /// Calls of one pair that may wait for their answers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    under_way: u64,
}

#[derive(Debug, Clone, Args)]
struct Messages {
    #[command(flatten)]
    pairs: Pairs,
    /// Messages of one pair that may be sent before the receiver has them; 1000, or what fits into a
    /// quarter of its mailbox, if left out
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    under_way: Option<u64>,
}

/// What a guest is asked to do, and whether on two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    kind: &'static str,
    remote: bool,
    between: Option<[String; 2]>,
    lanes: u64,
    under_way: u64,
    /// Of kinds that have messages.
    size: Option<u64>,
    rate: Option<u64>,
    time: Duration,
}

impl Bench {
    pub(crate) async fn run(self, context: Option<&Path>, out: &Output) -> Outcome<u8> {
        let plan = Plan::new(self.kind)?;
        let measured = run::run(&plan, context, out).await?;
        let report = Report::new(&plan, &measured)?;
        report.print(out, &measured.histogram).map(|()| 0)
    }
}

impl Plan {
    /// # Errors
    ///
    /// What was asked for does not fit into a mailbox.
    fn new(kind: Kind) -> Outcome<Self> {
        let plan = match kind {
            Kind::Spawn(lanes) => Self::of_lanes("spawn", false, lanes),
            Kind::Link(lanes) => Self::of_lanes("link", false, lanes),
            Kind::RemoteSpawn(lanes) => Self::of_lanes("spawn", true, lanes),
            Kind::RemoteLink(lanes) => Self::of_lanes("link", true, lanes),
            Kind::Call(calls) => Self::of_calls(false, calls),
            Kind::RemoteCall(calls) => Self::of_calls(true, calls),
            Kind::Message(messages) => Self::of_messages(false, messages),
            Kind::RemoteMessage(messages) => Self::of_messages(true, messages),
        };
        plan.fits().map(|()| plan)
    }

    fn of_lanes(kind: &'static str, remote: bool, lanes: Lanes) -> Self {
        Plan {
            lanes: lanes.under_way,
            ..Self::of_load(kind, remote, lanes.load)
        }
    }

    fn of_calls(remote: bool, calls: Calls) -> Self {
        Plan {
            under_way: calls.under_way,
            ..Self::of_pairs("call", remote, calls.pairs)
        }
    }

    fn of_messages(remote: bool, messages: Messages) -> Self {
        let window = most_in_mailbox(messages.pairs.size) / 4;
        Plan {
            under_way: messages.under_way.unwrap_or(WINDOW.min(window).max(1)),
            ..Self::of_pairs("message", remote, messages.pairs)
        }
    }

    fn of_pairs(kind: &'static str, remote: bool, pairs: Pairs) -> Self {
        Plan {
            lanes: pairs.pairs,
            size: Some(pairs.size),
            ..Self::of_load(kind, remote, pairs.load)
        }
    }

    fn of_load(kind: &'static str, remote: bool, load: Load) -> Self {
        Plan {
            kind,
            remote,
            between: load
                .between
                .map(|names| <[String; 2]>::try_from(names).expect("the parser counts them")),
            lanes: 1,
            under_way: 1,
            size: None,
            rate: load.rate,
            time: load.time,
        }
    }

    fn fits(&self) -> Outcome {
        let Some(bytes) = self.size else {
            return Ok(());
        };
        let limits = Limits::default();
        let mailbox = limits.mailbox_bytes_max as u64;
        let most = (limits.message_bytes_max as u64).min(mailbox - MAILBOX_ENTRY_BYTES as u64);
        if !(SIZE_MIN..=most).contains(&bytes) {
            let message =
                format!("--size {bytes}: a message of the bench has {SIZE_MIN} to {most} bytes");
            let why = "It carries its number and its time, and has to fit into a mailbox.";
            return Err(self.too_much(message, why));
        }
        if self.under_way > most_in_mailbox(bytes) {
            let message = format!(
                "--under-way {}: a mailbox takes {} messages of {}",
                self.under_way,
                most_in_mailbox(bytes),
                size(bytes)
            );
            let why = "One more would end its owner, and there would be nothing to measure.";
            return Err(self.too_much(message, why));
        }
        Ok(())
    }

    /// A node tells its limits beside one of its processes, and there is none yet.
    fn too_much(&self, message: String, why: &str) -> Failure {
        let failure = Failure::new("E0002", message).detail(why);
        match self.between {
            None => failure,
            Some(_) => failure.detail(
                "These are the default limits: those of the two nodes, [limits] in their settings, \
                 are not asked for. Ask for no more than this, and for less if theirs are smaller.",
            ),
        }
    }

    /// The words that the guest reads.
    fn words(&self, node: u64, near: bool) -> Vec<String> {
        let mut words = vec![self.kind.to_owned()];
        let numbers = [
            ("node", node),
            ("near", u64::from(near)),
            ("lanes", self.lanes),
            ("under-way", self.under_way),
            ("size", self.size.unwrap_or(SIZE_MIN)),
            ("rate", self.rate.unwrap_or(0)),
            ("for-ns", self.time.as_nanos() as u64),
        ];
        words.extend(numbers.map(|(name, number)| format!("{name}={number}")));
        words
    }
}

/// How many messages of a size a mailbox takes.
fn most_in_mailbox(bytes: u64) -> u64 {
    let limits = Limits::default();
    (limits.mailbox_bytes_max as u64 / (bytes + MAILBOX_ENTRY_BYTES as u64))
        .min(limits.mailbox_len_max as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_names_nodes_is_told_whose_limits_count() {
        let told = |size: u64, under_way: Option<u64>, between: Option<Vec<String>>| {
            let load = Load {
                rate: None,
                time: Duration::from_secs(1),
                between,
            };
            let pairs = Pairs {
                load,
                size,
                pairs: 1,
            };
            match Plan::new(Kind::Message(Messages { pairs, under_way })) {
                Err(Failure::Letter(letter)) => letter.detail.unwrap_or_default(),
                other => panic!("{other:?}"),
            }
        };
        let nodes = || Some(vec!["n1".to_owned(), "n2".to_owned()]);
        for (size, under_way) in [(1 << 30, None), (1 << 20, Some(100_000))] {
            assert!(told(size, under_way, nodes()).contains("default limits"));
            assert!(!told(size, under_way, None).contains("default limits"));
        }
    }
}
