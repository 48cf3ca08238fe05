//! Content-addressed modules between nodes: ask, verify, compile, keep.
//!
//! A node that is asked to host a module it does not hold asks for it by content hash: first the
//! node that wants it run, over the session's connection, then control. The bytes count only if
//! their hash is the one asked for. Native code never travels.
//!
//! Several spawns of one module that one peer asks for share one transfer and one compilation. Those of
//! another peer do not wait for it: a peer that never answers holds up nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidelock::{Environment, Module, ModuleError, ModuleHash, NodeId, Refusal};
use tidelock_control::client::{Client, ClientError};
use tokio::sync::{OnceCell, Semaphore};

use crate::lock;
use crate::transport::{Connection, Question};

/// Bytes of the largest module that is taken from anybody.
const MODULE_BYTES_MAX: usize = 64 << 20;
/// Modules sent to one peer at the same time.
const SERVING_MAX: usize = 8;

type Fetched = Arc<OnceCell<Result<Module, Refusal>>>;

/// Gets modules from elsewhere, each once.
#[derive(Default)]
pub(crate) struct Fetcher {
    under_way: Mutex<HashMap<(NodeId, ModuleHash), Fetched>>,
    control: Mutex<Option<Client>>,
}

impl Fetcher {
    /// Asks control too, when a peer has nothing.
    pub(crate) fn set_control(&self, client: Client) {
        *lock(&self.control) = Some(client);
    }

    /// Gets a module from a peer, the other end of `connection`, or from control, and keeps it.
    ///
    /// # Errors
    ///
    /// What to tell whoever wants it run.
    pub(crate) async fn fetch(
        &self,
        hash: ModuleHash,
        peer: NodeId,
        connection: &Connection,
        env: &Environment,
    ) -> Result<Module, Refusal> {
        let which = (peer, hash);
        let cell = {
            let mut under_way = lock(&self.under_way);
            under_way.entry(which).or_default().clone()
        };
        let waiting = Waiting {
            fetcher: self,
            which,
            cell,
        };
        let get = || self.get(hash, peer, connection, env);
        let outcome = waiting.cell.get_or_init(get).await.clone();
        // A failure is not remembered: the module may be deployed in a moment.
        lock(&self.under_way).remove(&which);
        outcome
    }

    async fn get(
        &self,
        hash: ModuleHash,
        peer: NodeId,
        connection: &Connection,
        env: &Environment,
    ) -> Result<Module, Refusal> {
        if let Some(module) = env.modules().find(&hash) {
            return Ok(module);
        }
        let control = lock(&self.control).clone();
        let bytes = match (ask_peer(connection, hash).await, control) {
            (Some(bytes), _) => bytes,
            (None, Some(control)) => {
                let got = control.module(hash).await;
                got.map_err(|error| not_had(hash, &error))?
            }
            (None, None) => {
                let why = format!("{hash}: the asking node does not have it");
                return Err(Refusal::NoModule(why));
            }
        };
        let module = Module::compile_for_peer(env.engine(), peer, bytes).await;
        let module = module.map_err(|error| match error {
            ModuleError::Full(_) => Refusal::Full(error.to_string()),
            _ => Refusal::BadModule(error.to_string()),
        })?;
        env.modules().keep(&module);
        Ok(module)
    }

    /// Gives a peer the modules it asks for, until the connection ends.
    pub(crate) async fn serve(self: Arc<Self>, connection: Connection, env: Environment) {
        let turns = Arc::new(Semaphore::new(SERVING_MAX));
        while let Ok(question) = connection.accept_question().await {
            let Ok(turn) = turns.clone().acquire_owned().await else {
                return;
            };
            let env = env.clone();
            tokio::spawn(async move {
                if let Err(error) = serve_one(question, &env).await {
                    tracing::debug!(%error, "a module was not sent");
                }
                drop(turn);
            });
        }
    }
}

/// One that waits for a module. The last one to give up forgets that it was asked for.
struct Waiting<'a> {
    fetcher: &'a Fetcher,
    which: (NodeId, ModuleHash),
    cell: Fetched,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.fetcher.under_way);
        if let Some(cell) = under_way.get(&self.which)
            && Arc::ptr_eq(cell, &self.cell)
            // This one and the one in the map.
            && Arc::strong_count(cell) == 2
        {
            under_way.remove(&self.which);
        }
    }
}

async fn serve_one(
    mut question: Question,
    env: &Environment,
) -> Result<(), crate::transport::TransportError> {
    let asked = question.read(32).await?;
    let found = <[u8; 32]>::try_from(asked.as_slice())
        .ok()
        .and_then(|hash| env.modules().find(&ModuleHash(hash)));
    // No module is empty, so an empty answer means: not here.
    let answer = found.map_or_else(Bytes::new, |module| module.bytes().clone());
    question.answer(answer).await
}

/// What to tell whoever wants it run when control gave no bytes. What passes is no word on the module: it may
/// be had elsewhere, or here in a moment.
fn not_had(hash: ModuleHash, error: &ClientError) -> Refusal {
    if error.is_temporary() {
        return Refusal::Full(format!("{hash} cannot be fetched now: {error}"));
    }
    let why = match error {
        ClientError::Refused { status: 404, .. } => {
            format!("{hash}: neither the asking node nor control has it")
        }
        error => format!("{hash}: the asking node does not have it, and of control: {error}"),
    };
    Refusal::NoModule(why)
}

async fn ask_peer(peer: &Connection, hash: ModuleHash) -> Option<Bytes> {
    let answer = peer.ask(&hash.0, MODULE_BYTES_MAX).await.ok()?;
    let bytes = Bytes::from(answer);
    // A session's thread has other things to do than to read 64 MiB.
    let checked = tokio::task::spawn_blocking(move || {
        (*blake3::hash(&bytes).as_bytes() == hash.0).then_some(bytes)
    });
    checked.await.ok()?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidelock_control::api::{ErrorBody, codes};

    use super::*;

    #[test]
    fn a_module_that_cannot_be_fetched_now_is_not_one_that_is_not_there() {
        let control = "control:1".to_owned();
        let refused = |status, code: &str| ClientError::Refused {
            status,
            body: ErrorBody {
                code: code.to_owned(),
                message: "no".to_owned(),
                next: Vec::new(),
                newest: None,
            },
        };
        let passing = [
            refused(429, codes::TOO_MANY),
            refused(503, codes::STORE),
            ClientError::Unreachable {
                control: control.clone(),
                reason: "refused".to_owned(),
            },
            ClientError::TimedOut {
                control: control.clone(),
                limit: Duration::from_secs(1),
            },
        ];
        for error in &passing {
            let refusal = not_had(ModuleHash([7; 32]), error);
            assert!(matches!(refusal, Refusal::Full(_)), "{refusal}");
        }
        let reason = "of another cluster".to_owned();
        let lasting = [
            refused(404, codes::NOT_FOUND),
            // Its file is damaged.
            refused(500, codes::STORE),
            ClientError::NotTrusted { control, reason },
        ];
        for error in &lasting {
            let refusal = not_had(ModuleHash([7; 32]), error);
            assert!(matches!(refusal, Refusal::NoModule(_)), "{refusal}");
        }
    }
}
