//! What other nodes ask for and tell: processes made for them, the parent's half of those that they made, signals and
//! messages that came over a session, and that the session ended.
//!
//! Their word opens no files here. Whoever is parked for too long is ended, unrun (`Watch`).

use std::sync::{Arc, PoisonError, Weak};

use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal};
use tidelock_proto::{Environ, ExitReason, NodeId, Pid, link};
use tokio::time::Instant;

use super::spawn::reserve;
use super::{Environment, Inner, SpawnOptions};
use crate::host::Origin;
use crate::info::Happening;
use crate::mailbox::Message;
use crate::process::{Parked, Parking};
use crate::sync::MutexGuard;
use crate::wasm::{self, Module};
use crate::{Context, SpawnError};

impl Environment {
    /// Makes a process that another node asked for, with its halves in place. It does not run.
    ///
    /// # Errors
    ///
    /// Why not; nothing was made.
    pub fn park(
        &self,
        prepare: Prepare,
        module: Module,
        epoch: u64,
        reference: u64,
    ) -> Result<Parked, Refusal> {
        let Prepare {
            environ,
            parent,
            entry,
            params,
            config,
            link,
            monitor,
            ..
        } = prepare;
        module
            .check_entry(&entry, &params)
            .map_err(|error| Refusal::NoFunction(error.to_string()))?;
        let config = self.allowed(config);
        let refused = |error: SpawnError| match error {
            SpawnError::Refused(refusal) => refusal,
            other => Refusal::Full(other.to_string()),
        };
        let start = reserve(module, entry, params, &config).map_err(refused)?;
        let module = Some(start.module.hash());
        let options = SpawnOptions {
            config,
            parent: Some(parent),
            link: None,
            environ,
            name: None,
        };
        let shared = self
            .make(options, &start.entry, module, Origin::Elsewhere)
            .map_err(refused)?;
        {
            let mut core = shared.core();
            if link.is_some() {
                // The parent's end is told without a tag: the tag is the parent's.
                core.block.adopt(parent, None);
            }
            if let Some(watch) = monitor {
                core.block.adopt_watcher(parent, watch);
            }
        }
        let code = wasm::run(start, Context::new(shared.clone()));
        self.0.table.insert(shared.clone());
        self.happened(
            &shared,
            Happening::Spawned {
                name: shared.about.name.clone(),
                module: shared.about.module,
                parent: Some(parent),
                linked: link.is_some(),
            },
        );
        Ok(shared.park((parent.node(), epoch, reference), code))
    }

    /// Until when those wait that are parked.
    pub(crate) fn parking(&self) -> &Parking {
        &self.0.parking
    }

    /// Notes that a process is parked. If it still is after
    /// [`Limits::parked_max`](super::Limits::parked_max), it is ended.
    pub(crate) fn note_parked(&self, pid: Pid) {
        // A time that no clock reaches is for ever.
        let Some(until) = Instant::now().checked_add(self.0.limits.parked_max) else {
            return;
        };
        if !self.0.parking.enter(pid, until) {
            return;
        }
        let mut watch = Watch(Some(Arc::downgrade(&self.0)));
        self.0.scheduler.runtime().spawn(async move {
            let mut next = Some(until);
            while let Some(until) = next {
                tokio::time::sleep_until(until).await;
                next = watch.env().and_then(|env| {
                    let (overdue, later) = env.0.parking.overdue(Instant::now());
                    env.give_up(&overdue, "parked for too long");
                    later
                });
            }
            // Nobody is left, and whoever comes next has a watch of its own.
            drop(watch.0.take());
        });
    }

    fn give_up(&self, parked: &[Pid], why: &str) {
        for shared in parked.iter().filter_map(|pid| self.0.table.find(*pid)) {
            shared.give_up(why);
        }
    }

    /// A configuration of another node without the directories that this one does not open for others.
    pub(super) fn allowed(&self, asked: Arc<ProcessConfig>) -> Arc<ProcessConfig> {
        if asked.preopens.is_empty() {
            return asked;
        }
        // A parent spawns with one configuration many times.
        let known = {
            let last = self.last_allowed();
            let same = last.as_ref().filter(|(last, _)| Arc::ptr_eq(last, &asked));
            let allowed = same.map(|(_, allowed)| allowed);
            if allowed.is_some_and(|allowed| Arc::ptr_eq(allowed, &asked)) {
                // All were open to others. Whether they are still is asked again when one is opened.
                return asked;
            }
            allowed.cloned()
        };
        // Another node's word does not open this machine's files. A file system may take its time, so nobody waits for this.
        let is_open = |dir: &&String| self.0.directories.is_open_to_others(dir);
        let open: Vec<String> = asked.preopens.iter().filter(is_open).cloned().collect();
        let allowed = match known {
            Some(known) if known.preopens == open => return known,
            _ if open == asked.preopens => asked.clone(),
            _ => Arc::new(ProcessConfig {
                preopens: open,
                ..ProcessConfig::clone(&asked)
            }),
        };
        *self.last_allowed() = Some((asked, allowed.clone()));
        allowed
    }

    fn last_allowed(&self) -> MutexGuard<'_, Option<(Arc<ProcessConfig>, Arc<ProcessConfig>)>> {
        let last = self.0.last_allowed.lock();
        last.unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the parent's half of a spawn on another node and lets the child run, in one step.
    ///
    /// `start` appends Start to the lane. The caller returns the pid to the parent on `true`; on
    /// `false` the parent has given up or the session is over, and nothing was entered.
    pub fn adopt(
        &self,
        parent: Pid,
        child: Pid,
        link: Option<Option<i64>>,
        reference: u64,
        start: impl FnOnce() -> bool,
    ) -> bool {
        let Some(shared) = self.0.table.find(parent) else {
            return false;
        };
        let mut core = shared.core();
        if core.block.ended().is_some() || !core.block.asked(child.node(), reference) {
            return false;
        }
        if !start() {
            return false;
        }
        if let Some(tag) = link {
            core.block.adopt(child, tag);
        }
        true
    }

    /// Hands a signal from another node to a process here. The answer for a process that is gone
    /// is returned; it must take the same lane.
    #[must_use]
    pub fn deliver(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        signal: link::Signal,
    ) -> Option<link::Signal> {
        match self.find(environ, to) {
            Some(shared) => {
                shared.deliver(from, signal);
                None
            }
            None => link::answer_for_nobody(&signal),
        }
    }

    /// Puts messages from another node into a mailbox here, in one step. A process that is gone is silence.
    pub fn deliver_messages(
        &self,
        environ: Environ,
        to: Pid,
        messages: impl IntoIterator<Item = Message>,
    ) {
        if let Some(shared) = self.find(environ, to) {
            shared.receive_messages(messages.into_iter());
        }
    }

    /// Tells one process that the session with `node` ended.
    pub fn session_lost(&self, local: Pid, node: NodeId, reason: &ExitReason) {
        if let Some(shared) = self.0.table.find(local) {
            shared.step(|core, effects| core.block.session_lost(node, reason, effects));
        }
    }
}

/// Looks after those that are parked. They have no tasks: if it ends with its runtime, nobody else ends them.
struct Watch(Option<Weak<Inner>>);

impl Watch {
    fn env(&self) -> Option<Environment> {
        self.0.as_ref()?.upgrade().map(Environment)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(env) = self.env() {
            env.give_up(&env.0.parking.take(), "the spawn was given up");
        }
    }
}
