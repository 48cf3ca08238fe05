//! What the code of a running process may do.
//!
//! Receiving and sending are here; timers, links and spawns each have a file of their own.

mod links;
mod spawns;
mod timers;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use tidelock_proto::spawn::ProcessConfig;
use tidelock_proto::{Environ, ExitReason, NodeId, Pid};
use tokio::time::{Instant, timeout_at};

pub use self::spawns::SpawnRequest;
use self::timers::Timers;
use crate::environment::Environment;
use crate::hibernation::Idle;
use crate::host::Origin;
use crate::mailbox::{Filter, Mark, Message, Received, is_in_order};
use crate::process::{Core, Shared};
use crate::{SendError, SpawnError, TimedOut};

/// What is copied even if the receiver may not have room for it.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// The hands of one process: given to its code, and to nobody else.
///
/// Methods take `&mut self` where two at once would make no sense: a process does one thing after
/// the other. Once the process must end (it was killed, a link took it down, its mailbox is full),
/// waiting calls do not return any more; the code is dropped where it waits.
pub struct Context {
    shared: Arc<Shared>,
    /// Whom it sent to last on this node: most send to the same one again.
    last: Option<Arc<Shared>>,
    /// Most processes never set one.
    timers: Option<Box<Timers>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.shared.pid)
    }
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Context {
            shared,
            last: None,
            timers: None,
        }
    }

    /// Which process this is.
    pub fn pid(&self) -> Pid {
        self.shared.pid
    }

    /// Its tenant.
    pub fn environ(&self) -> Environ {
        self.shared.about.environ
    }

    /// Where it comes from, or the one that it descends from.
    pub(crate) fn origin(&self) -> Origin {
        self.shared.about.origin
    }

    /// Who asked for it; `None`: no process did.
    pub(crate) fn parent(&self) -> Option<Pid> {
        self.shared.about.parent
    }

    /// The environment it lives in.
    pub fn environment(&self) -> &Environment {
        &self.shared.env
    }

    /// What it may do and use.
    pub fn config(&self) -> &Arc<ProcessConfig> {
        &self.shared.about.config
    }

    /// Notes for whoever looks how much memory the guest has.
    pub(crate) fn note_memory(&self, bytes: usize) {
        self.shared.memory.store(bytes, Ordering::Relaxed);
    }

    // ---- receiving ---------------------------------------------------------------------------

    /// Takes what `filter` accepts, if it is there.
    pub fn try_receive(&mut self, filter: &Filter) -> Option<Received> {
        loop {
            // Others get at the mailbox in between.
            if let Poll::Ready(received) = self.receive_step(filter) {
                return received;
            }
        }
    }

    /// As [`Context::try_receive`], in one step of bounded length; `Pending`: there is more to look at.
    pub(crate) fn receive_step(&mut self, filter: &Filter) -> Poll<Option<Received>> {
        let ordered;
        let filter = match filter {
            Filter::Tags(tags) if !is_in_order(tags) => {
                let mut tags = tags.clone();
                tags.sort_unstable();
                ordered = Filter::Tags(tags);
                &ordered
            }
            _ => filter,
        };
        let mut core = self.shared.core();
        let received = core.pop(filter);
        if received.is_none() && core.is_looking() {
            return Poll::Pending;
        }
        Poll::Ready(received)
    }

    /// Waits for what `filter` accepts, at most until `deadline`; `None`: the deadline came first.
    ///
    /// # Ordering
    ///
    /// The oldest that fits comes first; what does not fit stays where it is.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing and changes no order.
    pub async fn receive(
        &mut self,
        mut filter: Filter,
        deadline: Option<Instant>,
    ) -> Option<Received> {
        filter.bring_in_order();
        let wait = self.wait_for(&filter, |_, _| false);
        match deadline {
            None => wait.await,
            Some(deadline) => timeout_at(deadline, wait).await.ok().flatten(),
        }
    }

    /// As [`Context::receive`], of tags [in order](is_in_order). `Ok(None)`: it has waited for so long that its guest is
    /// to hibernate, and may go on.
    pub(crate) fn receive_or_idle(
        &mut self,
        filter: &Filter,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Option<Received>, TimedOut>> {
        let mut wait = self.wait_for(filter, |core, waits_since_before| {
            core.idle.found_nothing(waits_since_before)
        });
        // Every guest that waits keeps this: an `async fn` would hold twice what it is given, and a timer, which most
        // do without, is in a box.
        async move {
            match deadline {
                None => Ok((&mut wait).await),
                Some(deadline) => {
                    let wait = Box::pin(timeout_at(deadline, &mut wait));
                    wait.await.map_err(|_| TimedOut)
                }
            }
        }
    }

    /// Waits for what `filter` accepts, or, which is `None`, until the process is idle. That is asked whenever there is nothing,
    /// with whether it was asked before.
    fn wait_for(
        &self,
        filter: &Filter,
        is_idle: impl Fn(&mut Core, bool) -> bool,
    ) -> impl Future<Output = Option<Received>> {
        let shared = &self.shared;
        let mut waits = false;
        std::future::poll_fn(move |poller| {
            let mut core = shared.core();
            let received = core.pop(filter);
            if received.is_some() {
                return Poll::Ready(received);
            }
            if core.must_end() || core.is_looking() {
                // Our own task has to look: it may have polled us after its own check. And a long mailbox is looked
                // through in steps.
                poller.waker().wake_by_ref();
            } else if is_idle(&mut core, std::mem::replace(&mut waits, true)) {
                return Poll::Ready(None);
            } else {
                core.receiving = true;
            }
            core.wake_me(poller);
            Poll::Pending
        })
    }

    /// Lets the process hibernate when it waits for long.
    pub(crate) fn may_hibernate(&self) {
        if self.shared.env.hibernates() {
            self.shared.core().idle = Idle::Busy;
        }
    }

    /// Takes note that its memory is packed until the present receive ends.
    pub(crate) fn sleeps(&self) {
        self.shared.core().idle = Idle::Asleep;
    }

    /// The present moment of the mailbox, for [`Filter::Since`].
    pub fn mark(&mut self) -> Mark {
        let mut core = self.shared.core();
        core.settle();
        core.mailbox.mark()
    }

    // ---- sending -----------------------------------------------------------------------------

    /// Sends without waiting. `Err` gives the message back: [`Context::send`] would wait or fail, or it is for
    /// another node and too large for the lane (64 KiB).
    pub fn try_send(&mut self, to: Pid, message: Message) -> Result<(), Message> {
        if to.node() == self.shared.env.node() {
            let target = self.target(to);
            return target.map_or(Ok(()), |target| target.offer_message(message));
        }
        if message.resources.is_empty() && self.try_remote(to, message.tag, &message.data) {
            return Ok(());
        }
        Err(message)
    }

    /// As [`Context::try_send`], of bytes that are copied only once, to where they go. `false`: nothing was sent.
    pub(crate) fn try_send_bytes(&mut self, to: Pid, tag: Option<i64>, data: &[u8]) -> bool {
        if to.node() != self.shared.env.node() {
            return self.try_remote(to, tag, data);
        }
        let Some(target) = self.target(to) else {
            return true;
        };
        if data.len() > COPIED_BYTES_MAX && target.is_crowded() {
            return false;
        }
        let message = Message::new(tag, Bytes::copy_from_slice(data));
        target.offer_message(message).is_ok()
    }

    /// A process of this node; `None` if there is none. One that has ended since takes no message.
    fn target(&mut self, to: Pid) -> Option<&Shared> {
        if self.last.as_ref().is_none_or(|last| last.pid != to) {
            self.last = self.shared.env.find(self.shared.about.environ, to);
        }
        self.last.as_deref()
    }

    fn try_remote(&self, to: Pid, tag: Option<i64>, data: &[u8]) -> bool {
        let environ = self.shared.about.environ;
        let remote = self.shared.env.remote();
        remote.is_some_and(|remote| remote.try_message(environ, self.pid(), to, tag, data))
    }

    /// Sends a message. A process that is gone is silence; delivery is at most once.
    ///
    /// # Ordering
    ///
    /// What one process sends to another arrives in the order sent, or the session is lost.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before it is done sends nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was sent.
    pub async fn send(&mut self, to: Pid, message: Message) -> Result<(), SendError> {
        let environ = self.shared.about.environ;
        self.shared
            .env
            .send_as(environ, self.pid(), to, message)
            .await
    }

    // ---- the rest ----------------------------------------------------------------------------

    /// The nodes that take part; empty without a cluster.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.shared
            .env
            .remote()
            .map(|remote| remote.nodes())
            .unwrap_or_default()
    }

    /// Those among [`Context::nodes`] that have all of these tags, by name and value.
    pub fn nodes_with(&self, tags: &[(String, String)]) -> Vec<NodeId> {
        let remote = self.shared.env.remote();
        remote
            .map(|remote| remote.nodes_with(tags))
            .unwrap_or_default()
    }

    /// Whether a process lives; `false` if its node cannot be reached.
    pub async fn exists(&self, pid: Pid) -> bool {
        if pid.node() == self.shared.env.node() {
            return self.shared.env.tenant_of(pid) == Some(self.environ());
        }
        match self.shared.env.remote() {
            Some(remote) => remote.exists(pid).await,
            None => false,
        }
    }

    /// Waits for what a step takes out of the core.
    fn wait<T>(
        &self,
        mut take: impl FnMut(&mut Core) -> Option<T> + Send,
    ) -> impl Future<Output = T> + Send {
        let shared = &self.shared;
        std::future::poll_fn(move |poller| {
            let mut core = shared.core();
            if core.must_end() {
                poller.waker().wake_by_ref();
            } else if let Some(value) = take(&mut core) {
                return Poll::Ready(value);
            }
            core.wake_me(poller);
            Poll::Pending
        })
    }

    /// What a guest makes waits here before it changes any state.
    async fn ready(&self, node: NodeId, deadline: Option<Instant>) -> Ready {
        if node == self.shared.env.node() {
            return Ready::Open;
        }
        let Some(remote) = self.shared.env.remote() else {
            return Ready::Down;
        };
        if remote.is_ready(node) {
            return Ready::Open;
        }
        let ready = remote.ready(node);
        let ready = match deadline {
            None => ready.await,
            Some(deadline) => match timeout_at(deadline, ready).await {
                Ok(ready) => ready,
                Err(_) => return Ready::TimedOut,
            },
        };
        if ready.is_ok() {
            Ready::Open
        } else {
            Ready::Down
        }
    }
}

#[derive(PartialEq)]
enum Ready {
    Open,
    /// Whatever is tried next is told that the node is down.
    Down,
    TimedOut,
}

pub(crate) fn not_clustered(node: NodeId) -> ExitReason {
    ExitReason::NodeDown {
        node,
        how: "this node is not part of a cluster".into(),
    }
}

pub(crate) fn unreachable(node: NodeId, reason: &ExitReason) -> SpawnError {
    let how = match reason {
        ExitReason::NodeDown { how, .. } => how.clone(),
        other => other.to_string(),
    };
    SpawnError::Unreachable { node, how }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EnvironmentConfig, SpawnOptions};

    #[tokio::test]
    async fn whoever_waits_without_a_limit_keeps_no_room_for_a_timer() {
        let env = Environment::new(EnvironmentConfig::default()).unwrap();
        let (size, told) = tokio::sync::oneshot::channel();
        let options = SpawnOptions::default();
        let spawned = env.spawn_native("it", options, |mut me| async move {
            let filter = Filter::Any;
            let bytes = size_of_val(&me.receive_or_idle(&filter, None));
            assert!(me.timers.is_none());
            size.send(bytes).unwrap();
            ExitReason::Normal
        });
        spawned.unwrap();
        let bytes = told.await.unwrap();
        let timer = size_of::<tokio::time::Sleep>();
        assert!(bytes < timer, "{bytes} bytes, a timer takes {timer}");
    }
}
