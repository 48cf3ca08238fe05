//! What an observer outside the system writes down: calls, returns, notices, and the faults.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidelock::{ExitReason, NodeId, Pid};

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Since the start of the simulated cluster.
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A process came to be, told by itself.
    Began(Pid),
    /// A process ended, told by its node.
    Ended {
        pid: Pid,
        reason: ExitReason,
    },
    LinkCalled {
        by: Pid,
        to: Pid,
        /// What the LinkDied carries.
        tag: i64,
        /// How long it waits at most.
        within: Duration,
    },
    LinkReturned {
        by: Pid,
        to: Pid,
        how: Linked,
        /// Why the other one is gone, if it said so.
        reason: Option<ExitReason>,
    },
    UnlinkCalled {
        by: Pid,
        to: Pid,
        within: Duration,
    },
    UnlinkReturned {
        by: Pid,
        to: Pid,
        in_time: bool,
    },
    LinkDied {
        by: Pid,
        about: Pid,
        tag: Option<i64>,
        reason: ExitReason,
    },
    MonitorCalled {
        by: Pid,
        to: Pid,
    },
    MonitorReturned {
        by: Pid,
        to: Pid,
        reference: u64,
    },
    NodeMonitorCalled {
        by: Pid,
        node: NodeId,
    },
    NodeMonitorReturned {
        by: Pid,
        node: NodeId,
        reference: u64,
        /// When it was called.
        since: Duration,
    },
    Demonitored {
        by: Pid,
        reference: u64,
    },
    Down {
        by: Pid,
        about: Pid,
        reference: u64,
        reason: ExitReason,
    },
    /// A process was told that a node it monitors is down.
    ToldOfNode {
        by: Pid,
        node: NodeId,
        reference: u64,
        reason: ExitReason,
    },
    SendCalled {
        by: Pid,
        to: Pid,
        bytes: usize,
    },
    Sent {
        by: Pid,
        to: Pid,
        number: u64,
    },
    NotSent {
        by: Pid,
        to: Pid,
    },
    Got {
        by: Pid,
        from: Pid,
        meant: Pid,
        number: u64,
    },
    /// A message that is sent by itself, so much later.
    TimerSet {
        by: Pid,
        to: Pid,
        number: u64,
        delay: Duration,
    },
    /// A timer was taken back, or was too late for that.
    TimerCancelled {
        by: Pid,
        number: u64,
        taken: bool,
    },
    SpawnCalled {
        by: Pid,
        on: NodeId,
        token: u32,
        within: Duration,
    },
    SpawnReturned {
        by: Pid,
        token: u32,
        child: Option<Pid>,
    },
    /// A child executed its first instruction, told by itself.
    Ran {
        child: Pid,
        token: u32,
    },
    Killed {
        by: Pid,
        target: Pid,
    },
    KillReturned {
        by: Pid,
    },
    NodeUp {
        on: NodeId,
        peer: NodeId,
        epoch: u64,
    },
    NodeDown {
        on: NodeId,
        peer: NodeId,
        epoch: u64,
        why: String,
    },
    /// A fault began or ended, in words.
    Fault(String),
    Started {
        node: NodeId,
        name: usize,
    },
    /// The certificate that a node shows from here on, and when it runs out, if that is within the run.
    Shows {
        node: NodeId,
        until: Option<Duration>,
    },
    /// A node begins to leave.
    Leaves(NodeId),
    /// Nothing of this node counts from here on: it crashed, or has left.
    Crashed(NodeId),
    Paused(NodeId),
    Resumed(NodeId),
    /// A process lives at the very end, told by its node.
    Lives(Pid),
    /// Every fault is healed; nothing is killed for a while.
    Quiet,
    /// Some of the processes that still live are about to be killed, so that halves show.
    Reaping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    Yes,
    /// The other one was gone; nothing else is told.
    Gone,
    TimedOut,
}

impl What {
    /// Who began to wait, for an answer of which node, and how long, if this is such a call.
    pub(crate) fn call(&self) -> Option<(Pid, NodeId, Duration)> {
        match *self {
            What::LinkCalled { by, to, within, .. } | What::UnlinkCalled { by, to, within } => {
                Some((by, to.node(), within))
            }
            What::SpawnCalled { by, on, within, .. } => Some((by, on, within)),
            _ => None,
        }
    }

    /// Whose call returns, and whether with an answer in time, if this is such a return.
    pub(crate) fn returned(&self) -> Option<(Pid, bool)> {
        match *self {
            What::LinkReturned { by, how, .. } => Some((by, how != Linked::TimedOut)),
            What::UnlinkReturned { by, in_time, .. } => Some((by, in_time)),
            What::SpawnReturned { by, child, .. } => Some((by, child.is_some())),
            _ => None,
        }
    }

    /// Who began something that has no deadline, with which node, and what, if this is such a call.
    pub(crate) fn wait(&self) -> Option<(Pid, NodeId, &'static str)> {
        match *self {
            What::MonitorCalled { by, to } => Some((by, to.node(), "monitor")),
            What::NodeMonitorCalled { by, node } => Some((by, node, "monitor_node")),
            What::SendCalled { by, to, .. } => Some((by, to.node(), "send")),
            What::Killed { by, target } => Some((by, target.node(), "kill")),
            _ => None,
        }
    }

    /// Whose call of that kind returns, if this is such a return.
    pub(crate) fn waited(&self) -> Option<Pid> {
        match *self {
            What::MonitorReturned { by, .. }
            | What::NodeMonitorReturned { by, .. }
            | What::Sent { by, .. }
            | What::NotSent { by, .. }
            | What::KillReturned { by } => Some(by),
            _ => None,
        }
    }

    /// Whose observation this is, if a node's or a process's.
    fn observer(&self) -> Option<NodeId> {
        match self {
            What::Began(pid)
            | What::Ended { pid, .. }
            | What::Ran { child: pid, .. }
            | What::Lives(pid) => Some(pid.node()),
            What::LinkCalled { by, .. }
            | What::LinkReturned { by, .. }
            | What::UnlinkCalled { by, .. }
            | What::UnlinkReturned { by, .. }
            | What::LinkDied { by, .. }
            | What::MonitorCalled { by, .. }
            | What::MonitorReturned { by, .. }
            | What::NodeMonitorCalled { by, .. }
            | What::NodeMonitorReturned { by, .. }
            | What::Demonitored { by, .. }
            | What::Down { by, .. }
            | What::ToldOfNode { by, .. }
            | What::SendCalled { by, .. }
            | What::Sent { by, .. }
            | What::NotSent { by, .. }
            | What::Got { by, .. }
            | What::TimerSet { by, .. }
            | What::TimerCancelled { by, .. }
            | What::SpawnCalled { by, .. }
            | What::SpawnReturned { by, .. }
            | What::Killed { by, .. }
            | What::KillReturned { by } => Some(by.node()),
            What::NodeUp { on, .. } | What::NodeDown { on, .. } => Some(*on),
            What::Fault(_)
            | What::Started { .. }
            | What::Shows { .. }
            | What::Leaves(_)
            | What::Crashed(_)
            | What::Paused(_)
            | What::Resumed(_)
            | What::Quiet
            | What::Reaping => None,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s  ", self.at.as_secs_f64())?;
        match &self.what {
            What::Fault(text) => write!(f, "** {text}"),
            what => write!(f, "{what:?}"),
        }
    }
}

/// The journal of one run.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    entries: Vec<Entry>,
    crashed: Vec<NodeId>,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line, unless it comes from a node that crashed.
    pub(crate) fn write(&self, at: Duration, what: What) {
        let mut pages = self.lock();
        if what
            .observer()
            .is_some_and(|node| pages.crashed.contains(&node))
        {
            return;
        }
        if let What::Crashed(node) = what {
            pages.crashed.push(node);
        }
        pages.entries.push(Entry { at, what });
    }

    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.lock().entries)
    }
}
