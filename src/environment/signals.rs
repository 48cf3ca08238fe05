//! Who is told something: processes by pid and tenant, handles on them, messages, kills.
//!
//! A target of this node is told at once; one of another node by the way that leads there (`Remote`).

use std::sync::Arc;

use tidelock_proto::{Environ, ExitReason, Pid, link};

use super::Environment;
use crate::context::{not_clustered, unreachable};
use crate::mailbox::Message;
use crate::process::{Process, Shared, Signal};
use crate::remote::Pending;
use crate::{SendError, SpawnError};

impl Environment {
    /// Finds a process of this node and tenant.
    pub(crate) fn find(&self, environ: Environ, pid: Pid) -> Option<Arc<Shared>> {
        self.0
            .table
            .find(pid)
            .filter(|shared| shared.about.environ == environ)
    }

    /// Whether this process lives here. Whoever was told of its end gets `false`.
    pub fn exists(&self, pid: Pid) -> bool {
        self.tenant_of(pid).is_some()
    }

    /// Whose a process is, if it lives here.
    pub fn tenant_of(&self, pid: Pid) -> Option<Environ> {
        if pid.node() != self.0.node {
            return None;
        }
        let shared = self.0.table.find(pid)?;
        // It is told of before it leaves the table, so the table alone would be late.
        let lives = shared.core().block.ended().is_none();
        lives.then_some(shared.about.environ)
    }

    /// A handle on a process, wherever it lives.
    pub fn process(&self, pid: Pid) -> Arc<dyn Process> {
        Arc::new(Handle {
            env: self.clone(),
            pid,
        })
    }

    /// The sender of what no process sent.
    pub(super) fn nobody(&self) -> Pid {
        Pid::new(self.0.node, Pid::LOCAL_MAX).expect("in range")
    }

    /// Sends a message in the name of the node.
    ///
    /// # Errors
    ///
    /// As for [`Context::send`](crate::Context::send).
    pub async fn send(&self, to: Pid, message: Message) -> Result<(), SendError> {
        self.send_as(Environ::default(), self.nobody(), to, message)
            .await
    }

    pub(crate) async fn send_as(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        message: Message,
    ) -> Result<(), SendError> {
        let (bytes, max) = (message.data.len(), self.0.limits.message_bytes_max);
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max });
        }
        let node = to.node();
        if node == self.0.node {
            if let Some(target) = self.find(environ, to)
                && target.receive_message(message)
            {
                tokio::task::yield_now().await;
            }
            return Ok(());
        }
        if !message.resources.is_empty() {
            return Err(SendError::Resources);
        }
        let down = |reason: &ExitReason| match unreachable(node, reason) {
            SpawnError::Unreachable { node, how } => SendError::Unreachable { node, how },
            other => SendError::Unreachable {
                node,
                how: other.to_string(),
            },
        };
        let remote = self.remote().ok_or_else(|| down(&not_clustered(node)))?;
        if !remote.is_ready_for(from, to, bytes) {
            let ready = remote.ready_for(from, to, bytes);
            ready.await.map_err(|reason| down(&reason))?;
        }
        remote.message(environ, from, to, &message)
    }

    /// Kills a process of this node. A process that is gone is silence.
    pub fn kill(&self, pid: Pid, by: Option<Pid>) {
        if let Some(shared) = self.0.table.find(pid) {
            shared.condemn(ExitReason::Killed(by));
        }
    }
}

/// A handle on a process, wherever it lives.
#[derive(Debug)]
struct Handle {
    env: Environment,
    pid: Pid,
}

impl Process for Handle {
    fn pid(&self) -> Pid {
        self.pid
    }

    fn signal(&self, signal: Signal) -> Pending<'_, Result<(), SendError>> {
        Box::pin(async move {
            match signal {
                Signal::Message(message) => self.env.send(self.pid, message).await,
                Signal::Kill if self.pid.node() == self.env.node() => {
                    self.env.kill(self.pid, None);
                    Ok(())
                }
                Signal::Kill => {
                    let node = self.pid.node();
                    let down = |reason: ExitReason| SendError::Unreachable {
                        node,
                        how: reason.to_string(),
                    };
                    let remote = self.env.remote().ok_or_else(|| down(not_clustered(node)))?;
                    remote.ready(node).await.map_err(down)?;
                    let nobody = self.env.nobody();
                    remote
                        .signal(Environ::default(), nobody, self.pid, &link::Signal::Kill)
                        .map_err(down)
                }
            }
        })
    }
}
