//! Links and monitors of a process, and kills.
//!
//! A `link()` that is given up on the way becomes an unlink, also while it waits for the way. What is monitored is
//! bounded.

use std::sync::Arc;

use tidelock_proto::link::{Effect, LinkForm, LinkOutcome};
use tidelock_proto::switch::off;
use tidelock_proto::{ExitReason, NodeId, Pid};
use tokio::time::{Instant, timeout_at};

use super::{Context, Ready, not_clustered};
use crate::info::Happening;
use crate::process::{Core, Shared};
use crate::{LinkError, TimedOut};

impl Context {
    /// Whether a link's abnormal end ends this process (the default) or becomes a message.
    pub fn set_die_when_link_dies(&mut self, die: bool) {
        let mut core = self.shared.core();
        // What came before is judged by the old rule.
        core.settle();
        core.die_when_link_dies = die;
    }

    /// Links this process and `pid`, and returns when both halves are in place.
    ///
    /// From then on each of the two that outlives the link is told of its end exactly once. Linking
    /// again replaces the tag. If `pid` is gone already, [`LinkForm::Value`] returns the reason and
    /// queues nothing, [`LinkForm::Notice`] returns `Ok` and queues a LinkDied.
    ///
    /// # Cancellation
    ///
    /// Dropping the future unlinks.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; no half remains.
    pub async fn link(
        &mut self,
        pid: Pid,
        tag: Option<i64>,
        form: LinkForm,
        deadline: Option<Instant>,
    ) -> Result<(), LinkError> {
        // Also while it waits for the way: a link from before must not remain.
        let mut pending = PendingLink {
            shared: &self.shared,
            pid,
            done: false,
        };
        if self.ready(pid.node(), deadline).await == Ready::TimedOut {
            return Err(LinkError::TimedOut);
        }
        self.shared.step(|core, effects| {
            core.settle();
            core.linked = None;
            if !core.must_end() {
                core.block.link(pid, tag, form, effects);
            }
        });
        let wait = self.wait(|core| match core.linked.take() {
            Some((peer, outcome)) if peer == pid => Some(outcome),
            _ => None,
        });
        let outcome = match deadline {
            None => wait.await,
            Some(deadline) => timeout_at(deadline, wait)
                .await
                .map_err(|_| LinkError::TimedOut)?,
        };
        pending.done = true;
        match outcome {
            LinkOutcome::Linked => {
                self.shared
                    .env
                    .happened(&self.shared, Happening::Linked { peer: pid });
                Ok(())
            }
            LinkOutcome::Told => Ok(()),
            LinkOutcome::Ended(reason) => Err(LinkError::Ended(reason)),
        }
    }

    /// Unlinks this process and `pid`. From the call on, no LinkDied of that link is acted on or
    /// received, except one that was already received into the mailbox.
    ///
    /// # Errors
    ///
    /// [`TimedOut`]: the other side has not confirmed yet. The unlink stands all the same.
    pub async fn unlink(&mut self, pid: Pid, deadline: Option<Instant>) -> Result<(), TimedOut> {
        self.shared.step(|core, effects| {
            // A LinkDied that came before the call and is not in the mailbox yet is withdrawn.
            core.unlinked = None;
            core.block.unlink(pid, effects);
        });
        let wait = self.wait(|core| core.unlinked.take().filter(|peer| *peer == pid));
        let done = match deadline {
            None => Ok(wait.await),
            Some(deadline) => timeout_at(deadline, wait).await,
        };
        if done.is_err() {
            self.shared.core().block.forget_unlink_caller(pid);
            return Err(TimedOut);
        }
        Ok(())
    }

    /// Monitors `pid`: one [`Received::Down`](crate::Received::Down) with the returned reference follows,
    /// at once if there is no such process. It waits while the way to another node is congested, until that
    /// cannot be reached.
    ///
    /// One more monitor than [`Limits`](crate::Limits) allow is not made: this process ends.
    pub async fn monitor(&mut self, pid: Pid) -> u64 {
        self.ready(pid.node(), None).await;
        self.watch(|core, effects| core.block.monitor(pid, effects))
    }

    /// Makes a monitor, if there may be one more. No monitor has the reference 0.
    fn watch(&self, make: impl FnOnce(&mut Core, &mut Vec<Effect>) -> u64) -> u64 {
        let max = self.shared.env.limits().monitors_max;
        let made = self.shared.step(|core, effects| {
            let has_room = core.block.monitoring() < max;
            has_room.then(|| make(core, effects))
        });
        made.unwrap_or_else(|| {
            self.shared.condemn(ExitReason::Limit(format!(
                "{max} monitors (monitors_max): take some back"
            )));
            0
        })
    }

    /// As [`Context::monitor`], unless this process monitors `pid` already.
    pub async fn monitor_once(&mut self, pid: Pid) {
        let is_monitored = self.shared.core().block.monitors_of(pid).next().is_some();
        if !is_monitored {
            self.monitor(pid).await;
        }
    }

    /// Ends a monitor. No Down with this reference is received afterwards that was not already.
    pub fn demonitor(&mut self, reference: u64) {
        self.shared
            .step(|core, effects| core.block.demonitor(reference, effects));
    }

    /// Ends every monitor of `pid`.
    pub fn stop_monitoring(&mut self, pid: Pid) {
        self.shared.step(|core, effects| {
            let references: Vec<u64> = core.block.monitors_of(pid).collect();
            for reference in references {
                core.block.demonitor(reference, effects);
            }
        });
    }

    /// Monitors a node: one [`Received::NodeDown`](crate::Received::NodeDown) follows when the session with it
    /// ends, at once if it cannot be reached. Waiting and bounds are those of [`Context::monitor`].
    pub async fn monitor_node(&mut self, node: NodeId) -> u64 {
        self.ready(node, None).await;
        let me = self.pid();
        let remote = self.shared.env.remote();
        let own = node == self.shared.env.node();
        self.watch(|core, effects| {
            let reference = core.block.monitor_node(node);
            let noted = match remote {
                _ if own => Ok(()),
                Some(remote) => remote.note(node, me),
                None => Err(not_clustered(node)),
            };
            if let Err(reason) = noted {
                effects.push(Effect::NodeDown {
                    reference,
                    node,
                    reason,
                });
                let mut nothing = Vec::new();
                core.block.demonitor(reference, &mut nothing);
            }
            reference
        })
    }

    /// Kills a process. It cannot trap that; its links see a failure.
    pub async fn kill(&mut self, pid: Pid) {
        self.ready(pid.node(), None).await;
        self.shared.step(|_, effects| {
            effects.push(Effect::Send(pid, tidelock_proto::link::Signal::Kill));
        });
        if pid == self.pid() {
            // Nothing of this process runs after its own death.
            self.wait(|_| None::<()>).await;
        }
    }
}

/// A `link()` under way, from its call on; given up, it becomes a real unlink. If its process ends in it, it is
/// not given up: whoever is linked already must be told of an end.
struct PendingLink<'a> {
    shared: &'a Arc<Shared>,
    pid: Pid,
    done: bool,
}

impl Drop for PendingLink<'_> {
    fn drop(&mut self) {
        if !self.done && !off("giving link() up is an unlink") {
            self.shared.step(|core, effects| {
                if core.block.ended().is_none()
                    && (!core.must_end() || off("a process that ends gives no link() up"))
                {
                    core.block.unlink(self.pid, effects);
                    core.block.forget_unlink_caller(self.pid);
                }
            });
        }
    }
}
