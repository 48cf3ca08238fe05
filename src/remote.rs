//! What an environment knows of other machines.

use std::future::Future;
use std::pin::Pin;

use tidelock_proto::link::Signal;
use tidelock_proto::spawn::Prepare;
use tidelock_proto::{Environ, ExitReason, NodeId, Pid};
use tokio::sync::oneshot;

use crate::{Message, SendError, SpawnError};

/// A future that an object-safe trait can return.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a spawn on another node comes out.
pub type SpawnAnswer = Result<Pid, SpawnError>;

/// The way to processes on other nodes.
///
/// The methods that are not `Pending` are called while a process's control block is locked: they
/// append to the lane and return. So the order of the lane is the order of the block's changes.
pub trait Remote: Send + Sync + 'static {
    /// The nodes that take part, this one included.
    fn nodes(&self) -> Vec<NodeId>;

    /// Those among [`Remote::nodes`] that have all of these tags, by name and value.
    fn nodes_with(&self, tags: &[(String, String)]) -> Vec<NodeId>;

    /// Waits until there is a session with `node` that is not congested. What a guest makes waits
    /// here, before it changes any state. Dropping the future is harmless.
    fn ready(&self, node: NodeId) -> Pending<'_, Result<(), ExitReason>>;

    /// Whether [`Remote::ready`] would return at once.
    fn is_ready(&self, node: NodeId) -> bool;

    /// As [`Remote::ready`], for a message of so many bytes: what is under way between the same two processes
    /// may hold it up, too.
    fn ready_for(&self, from: Pid, to: Pid, bytes: usize) -> Pending<'_, Result<(), ExitReason>> {
        let _ = (from, bytes);
        self.ready(to.node())
    }

    /// Whether [`Remote::ready_for`] would return at once.
    fn is_ready_for(&self, from: Pid, to: Pid, bytes: usize) -> bool {
        let _ = (from, bytes);
        self.is_ready(to.node())
    }

    /// Appends a signal; the error is the reason to tell the sender's block.
    fn signal(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        signal: &Signal,
    ) -> Result<(), ExitReason>;

    /// Appends a message of bytes if that can be done at once: `false`, nothing was done otherwise. There
    /// may be no session, it may be congested, or the message too large for the lane.
    fn try_message(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        tag: Option<i64>,
        data: &[u8],
    ) -> bool {
        let _ = (environ, from, to, tag, data);
        false
    }

    /// Appends a message.
    fn message(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        message: &Message,
    ) -> Result<(), SendError>;

    /// Notes that `local` must hear when the session with `node` ends.
    fn note(&self, node: NodeId, local: Pid) -> Result<(), ExitReason>;

    /// Asks `node` for a process. The answer comes on the channel; its sender adopts first.
    fn ask(
        &self,
        node: NodeId,
        prepare: Prepare,
    ) -> Result<(u64, oneshot::Receiver<SpawnAnswer>), ExitReason>;

    /// Gives a spawn up.
    fn cancel(&self, node: NodeId, reference: u64);

    /// Asks whether a process lives. `false` also when its node cannot be reached.
    fn exists(&self, pid: Pid) -> Pending<'_, bool>;

    /// A parked child ended before it was started.
    fn parked_ended(&self, node: NodeId, epoch: u64, reference: u64);

    /// A local process ended; it need not be told of anything any more. An Exit of it was handed to
    /// [`Remote::signal`] for somebody on `told`, so the session with that node has forgotten it, or is over. Others that
    /// took one are told again, which does nothing.
    fn ended(&self, local: Pid, told: Option<NodeId>);
}
