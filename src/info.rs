//! What people see of an environment: events, output, snapshots.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use tidelock_proto::{Environ, ExitReason, ModuleHash, Pid};

use crate::process::Shared;

/// A line of a guest's output.
#[derive(Debug, Clone)]
pub struct OutputLine {
    /// Who wrote it.
    pub pid: Pid,
    /// Where it wrote it.
    pub stream: Stream,
    /// The line without its end.
    pub line: Bytes,
    /// Whether the line was ended, or cut at a bound or at the end of the process.
    pub ended: bool,
}

/// Which output of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes every line of output, on the task of the guest that wrote it. It must not block for long.
pub type Output = Arc<dyn Fn(&OutputLine) + Send + Sync>;

/// Something that happened in an environment.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// To whom.
    pub pid: Pid,
    /// What.
    pub what: Happening,
}

/// What happened to a process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Happening {
    /// It was made.
    Spawned {
        /// What people call it: a guest by its entry function.
        name: Arc<str>,
        /// Its code, if it is a guest.
        module: Option<ModuleHash>,
        /// By whom.
        parent: Option<Pid>,
        /// Whether it is linked to its parent, from the beginning.
        linked: bool,
    },
    /// A link it asked for is in place. One that it was spawned with is part of the spawn.
    Linked {
        /// With whom.
        peer: Pid,
    },
    /// It ended.
    Ended {
        /// Why.
        reason: ExitReason,
        /// What people called it.
        name: Arc<str>,
        /// Its code, if it was a guest.
        module: Option<ModuleHash>,
    },
    /// It said something to the operator.
    Said {
        /// What.
        text: String,
    },
}

/// What people see of a process.
#[derive(Debug, Clone)]
pub struct ProcessInfo {
    /// Which.
    pub pid: Pid,
    /// Its tenant.
    pub environ: Environ,
    /// What people call it.
    pub name: String,
    /// Its code, if it is a guest.
    pub module: Option<ModuleHash>,
    /// Who spawned it.
    pub parent: Option<Pid>,
    /// When.
    pub started_at: SystemTime,
    /// Entries in its mailbox.
    pub queued: usize,
    /// Bytes in its mailbox.
    pub queued_bytes: usize,
    /// Bytes of its linear memory, if it is a guest.
    pub memory_bytes: usize,
    /// Received so far.
    pub received: u64,
    /// Linked to.
    pub links: Vec<Pid>,
    /// Monitors.
    pub monitors: Vec<Pid>,
    /// Monitored by.
    pub watchers: Vec<Pid>,
    /// Whether a link's end becomes a message.
    pub traps_exits: bool,
    /// Made for another node, and not started.
    pub parked: bool,
    /// Its code waits for a message, and has looked at all that is in its mailbox.
    pub waiting: bool,
    /// It waits so, and [hibernates](crate::Limits::hibernate_after).
    pub hibernating: bool,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Processes alive.
    pub alive: u64,
    /// Guests among them that [hibernate](crate::Limits::hibernate_after).
    pub hibernating: u64,
    /// Processes made.
    pub spawned: u64,
    /// Processes ended normally.
    pub ended_normally: u64,
    /// Processes ended otherwise.
    pub ended_abnormally: u64,
}

impl Shared {
    pub(crate) fn info(&self) -> ProcessInfo {
        let core = self.core();
        ProcessInfo {
            pid: self.pid,
            environ: self.about.environ,
            name: self.about.name.to_string(),
            module: self.about.module,
            parent: self.about.parent,
            started_at: self.about.started_at,
            queued: core.mailbox.len(),
            queued_bytes: core.mailbox.bytes(),
            memory_bytes: self.memory.load(Ordering::Relaxed),
            received: core.received,
            links: core.block.links().collect(),
            monitors: core.block.monitors().map(|(_, pid)| pid).collect(),
            watchers: core.block.watchers().collect(),
            traps_exits: !core.die_when_link_dies,
            parked: core.is_parked(),
            waiting: core.is_waiting(),
            hibernating: core.is_hibernating(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, EnvironmentConfig, Filter, Message, SpawnOptions};

    async fn until(env: &Environment, pid: Pid, so: impl Fn(&ProcessInfo) -> bool) {
        while !so(&env.info(pid).expect("it lives")) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_message_is_seen_waiting() {
        let env = Environment::new(EnvironmentConfig::default()).unwrap();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let options = SpawnOptions::default();
        let pid = env.spawn_native("it", options, |mut me| async move {
            me.receive(Filter::Tag(1), None).await;
            // No message: it could run for all that is known.
            gone.await.expect("it is told");
            me.receive(Filter::Tag(2), None).await;
            ExitReason::Normal
        });
        let pid = pid.unwrap();
        let send = |tag| env.send(pid, Message::new(Some(tag), Bytes::new()));
        until(&env, pid, |info| info.waiting).await;
        send(2).await.unwrap();
        until(&env, pid, |info| info.waiting && info.queued == 1).await;
        send(1).await.unwrap();
        assert!(!env.info(pid).unwrap().waiting, "it has not looked yet");
        until(&env, pid, |info| info.received == 1).await;
        assert!(
            !env.info(pid).unwrap().waiting,
            "what it waits for is no message"
        );
        go.send(()).unwrap();
        assert_eq!(env.wait(pid).await, ExitReason::Normal);
    }
}
