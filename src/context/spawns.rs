//! Spawning: the processes that a process has made, on this node or on another.
//!
//! A spawn on another node that is given up is cancelled; a child that may run is never reported as failed.

use std::future::Future;
use std::sync::Arc;

use tidelock_proto::link::Effect;
use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Refusal};
use tidelock_proto::{ExitReason, NodeId, Pid};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Context, Ready, not_clustered, unreachable};
use crate::environment::SpawnOptions;
use crate::process::Shared;
use crate::registry::Named;
use crate::remote::SpawnAnswer;
use crate::{Module, SpawnError};

/// A process to be made.
#[derive(Debug, Clone)]
pub struct SpawnRequest {
    /// Its code.
    pub module: Module,
    /// The exported function it runs.
    pub entry: String,
    /// The function's arguments.
    pub params: Vec<Param>,
    /// What it may do and use; `None`: what the parent may.
    pub config: Option<Arc<ProcessConfig>>,
    /// `Some(tag)`: linked to the parent, and `tag` is what the parent's LinkDied carries.
    pub link: Option<Option<i64>>,
}

impl Context {
    /// Spawns a process on this node. Both halves of the link, if asked for, exist before it runs.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing was made.
    pub fn spawn(&mut self, request: SpawnRequest) -> Result<Pid, SpawnError> {
        let options = self.options_of(request.config, request.link);
        self.shared.env.spawn_wasm_from(
            Some(&self.shared),
            request.module,
            request.entry,
            request.params,
            options,
        )
    }

    /// As [`Context::spawn`], if nobody of this tenant has the name, which is the child's before it runs.
    pub(crate) fn spawn_named(
        &mut self,
        name: &str,
        request: SpawnRequest,
    ) -> Result<Named, SpawnError> {
        let options = self.options_of(request.config, request.link);
        self.shared.env.spawn_wasm_named(
            &self.shared,
            name,
            request.module,
            request.entry,
            request.params,
            options,
        )
    }

    /// How a child on this node is spawned.
    fn options_of(
        &self,
        config: Option<Arc<ProcessConfig>>,
        link: Option<Option<i64>>,
    ) -> SpawnOptions {
        SpawnOptions {
            config: config.unwrap_or_else(|| self.config().clone()),
            parent: Some(self.pid()),
            link,
            environ: self.shared.about.environ,
            name: None,
        }
    }

    /// Spawns a Rust future as a process, linked to this one.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing was made.
    pub fn spawn_native_link<F, C>(
        &mut self,
        name: &str,
        tag: Option<i64>,
        code: F,
    ) -> Result<Pid, SpawnError>
    where
        F: FnOnce(Context) -> C,
        C: Future<Output = ExitReason> + Send + 'static,
    {
        let options = SpawnOptions {
            name: Some(name.to_owned()),
            ..self.options_of(None, Some(tag))
        };
        self.shared
            .env
            .spawn_native_from(Some(&self.shared), options, code)
    }

    /// Spawns a process on `node`, which may be this one.
    ///
    /// Returns once both ends hold the link, if one was asked for. The child may not have executed
    /// anything yet.
    ///
    /// # Ordering
    ///
    /// What this process sends to the child afterwards arrives after the start.
    ///
    /// # Cancellation
    ///
    /// Dropping the future withdraws the request: the child never runs, or is killed if it was
    /// started in that moment.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; the child did not and will not run.
    pub async fn spawn_on(
        &mut self,
        node: NodeId,
        request: SpawnRequest,
        deadline: Option<Instant>,
    ) -> Result<Pid, SpawnError> {
        if node == self.shared.env.node() {
            if let Err(error) = request.module.check_entry(&request.entry, &request.params) {
                return Err(Refusal::NoFunction(error.to_string()).into());
            }
            return self.spawn(request);
        }
        let alone = || unreachable(node, &not_clustered(node));
        let mut remote = self.shared.env.remote().ok_or_else(alone)?;
        if !remote.is_ready(node) {
            // Nobody is kept alive by waiting for it.
            drop(remote);
            if self.ready(node, deadline).await == Ready::TimedOut {
                return Err(SpawnError::TimedOut);
            }
            remote = self.shared.env.remote().ok_or_else(alone)?;
        }
        let config = request.config.unwrap_or_else(|| self.config().clone());
        let prepare = Prepare {
            environ: self.shared.about.environ,
            parent: self.pid(),
            module: request.module.hash(),
            entry: request.entry,
            params: request.params,
            config,
            link: request.link,
            monitor: None,
        };
        self.shared.env.modules().keep(&request.module);
        let (reference, answer) = self.shared.step(|core, _| {
            let asked = remote
                .ask(node, prepare)
                .map_err(|reason| unreachable(node, &reason))?;
            core.block.asks(node, asked.0);
            Ok::<_, SpawnError>(asked)
        })?;
        drop(remote);
        let mut asking = PendingSpawn {
            shared: &self.shared,
            node,
            reference,
            answer: Some(answer),
        };
        let answer = asking.answer.as_mut().expect("just put there");
        let answered = match deadline {
            None => Some(answer.await),
            Some(deadline) => timeout_at(deadline, answer).await.ok(),
        };
        asking.settle(answered)
    }
}

/// A remote spawn under way; given up, it is cancelled.
struct PendingSpawn<'a> {
    shared: &'a Arc<Shared>,
    node: NodeId,
    reference: u64,
    answer: Option<oneshot::Receiver<SpawnAnswer>>,
}

impl PendingSpawn<'_> {
    /// What `spawn` returns. Without an answer it is given up, unless it is answered in this very
    /// moment: a child that may run is never reported as failed (P4).
    fn settle(
        mut self,
        answered: Option<Result<SpawnAnswer, oneshot::error::RecvError>>,
    ) -> Result<Pid, SpawnError> {
        let mut answer = self.answer.take().expect("settled once");
        self.shared.step(|core, _| {
            let waits = core.block.asked(self.node, self.reference);
            let answered = match answered {
                Some(answered) => answered.ok(),
                None => match answer.try_recv() {
                    Ok(answered) => Some(answered),
                    Err(oneshot::error::TryRecvError::Closed) => None,
                    Err(oneshot::error::TryRecvError::Empty) => {
                        if waits && let Some(remote) = self.shared.env.remote() {
                            remote.cancel(self.node, self.reference);
                        }
                        return Err(SpawnError::TimedOut);
                    }
                },
            };
            answered.unwrap_or_else(|| {
                Err(SpawnError::Unreachable {
                    node: self.node,
                    how: "session ended".into(),
                })
            })
        })
    }
}

impl Drop for PendingSpawn<'_> {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else {
            return;
        };
        self.shared.step(|core, effects| {
            if core.block.asked(self.node, self.reference) {
                if let Some(remote) = self.shared.env.remote() {
                    remote.cancel(self.node, self.reference);
                }
            } else if let Ok(Ok(child)) = answer.try_recv() {
                // Started in this very moment, and nobody will ever know its pid.
                core.block.unlink(child, effects);
                core.block.forget_unlink_caller(child);
                effects.push(Effect::Send(child, tidelock_proto::link::Signal::Kill));
            }
        });
    }
}
