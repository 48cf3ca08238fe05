//! A node as operators see it: all that its admin port asks of it.
//!
//! A module is found by its name, its hash, or the beginning of its hash, here or in the cluster.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tidelock::{Environment, Module, ModuleHash};
use tidelock_certs::Identity;
use tidelock_control::api::{self, codes};
use tidelock_control::client::ClientError;
use tidelock_control::http::ApiError;
use tokio::sync::watch;

use crate::observe::Subject;
use crate::{Node, dist};

impl Subject for Node {
    fn environment(&self) -> &Environment {
        &self.0.env
    }

    fn name(&self) -> &str {
        &self.0.name
    }

    fn identity(&self) -> Identity {
        self.0.identity()
    }

    fn tasks(&self) -> usize {
        let of = |runtime: &tokio::runtime::Handle| runtime.metrics().num_alive_tasks();
        of(&self.0.runtime) + of(&self.0.network.handle())
    }

    fn sessions(&self) -> Vec<api::SessionInfo> {
        let sessions = self.0.dist.sessions();
        let info = |peer: dist::PeerInfo| api::SessionInfo {
            peer: peer.node.to_string(),
            name: peer.name,
            addr: peer.addr,
            epoch: peer.epoch,
            opened_at: Timestamp::try_from(peer.opened_at).unwrap_or_default(),
            rtt_ms: peer.rtt.as_secs_f64() * 1e3,
            backlog_bytes: peer.backlog_bytes,
            sent_bytes: peer.bytes.0,
            received_bytes: peer.bytes.1,
            links: peer.locals,
            expires_at: Timestamp::try_from(peer.expires_at).ok(),
        };
        sessions.into_iter().map(info).collect()
    }

    fn nodes(&self) -> usize {
        tidelock::Remote::nodes(&*self.0.dist).len()
    }

    fn peers_changed(&self) -> watch::Receiver<u64> {
        self.0.peers_changed.subscribe()
    }

    fn is_draining(&self) -> bool {
        self.0.dist.is_draining()
    }

    fn drain(&self, limit: Option<Duration>) {
        self.0.dist.drain();
        let node = self.clone();
        tokio::spawn(async move {
            let idle = node.0.env.idle();
            match limit {
                None => idle.await,
                Some(limit) => {
                    // What still runs then is killed by leaving.
                    let _: Result<_, _> = tokio::time::timeout(limit, idle).await;
                }
            }
            node.leave().await;
        });
    }

    fn module<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Module, ApiError>> {
        Box::pin(async move {
            let (env, client) = (&self.0.env, &self.0.client);
            let refused = |error| not_had(name, error);
            let hash = match name.parse::<ModuleHash>() {
                Ok(hash) => Some(hash),
                // No name of a module has a colon.
                Err(_) if name.starts_with("b3:") => {
                    let modules = client.modules().await.map_err(refused)?;
                    let hashes = modules.iter().map(|module| module.hash.as_str());
                    Some(beginning_with(name, hashes)?)
                }
                Err(_) => None,
            };
            if let Some(module) = hash.and_then(|hash| env.modules().find(&hash)) {
                return Ok(module);
            }
            let bytes = match hash {
                Some(hash) => client.module(hash).await,
                None => client.module_named(name).await.map(|(_, bytes)| bytes),
            };
            let compiled = Module::compile(env.engine(), bytes.map_err(refused)?).await;
            let module = compiled.map_err(|error| {
                let short = |hash: ModuleHash| format!("b3:{}", hash.short());
                let name = hash.map_or_else(|| name.to_owned(), short);
                ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    codes::NOT_RUNNABLE,
                    format!("{name}: {error}"),
                )
            })?;
            env.modules().keep(&module);
            Ok(module)
        })
    }
}

/// Fewer digits of a hash name nothing.
const BEGINNING_MIN: usize = "b3:".len() + 4;

/// The one hash among all that begins like this.
fn beginning_with<'a>(
    beginning: &str,
    hashes: impl Iterator<Item = &'a str>,
) -> Result<ModuleHash, ApiError> {
    let begins = beginning.to_ascii_lowercase();
    let enough = begins.len() >= BEGINNING_MIN;
    let mut found = hashes.filter(|hash| enough && hash.starts_with(&begins));
    let why = match (found.next(), found.count()) {
        (Some(hash), 0) => match hash.parse::<ModuleHash>() {
            Ok(hash) => return Ok(hash),
            Err(error) => error.to_string(),
        },
        (Some(_), more) => format!("{} modules begin like this", more + 1),
        (None, _) if enough => "there is no such module".to_owned(),
        (None, _) => "four digits of a hash are needed at least".to_owned(),
    };
    Err(no_module(beginning, &why))
}

fn no_module(name: &str, why: &str) -> ApiError {
    let message = format!("{name}: {why}");
    ApiError::new(StatusCode::NOT_FOUND, codes::NO_MODULE, message).next("tidelock modules")
}

/// Why control gave no bytes.
fn not_had(name: &str, error: ClientError) -> ApiError {
    match error {
        // It is no name that a module could have.
        ClientError::Refused { status: 404, .. } | ClientError::Usage(_) => {
            no_module(name, "there is no such module")
        }
        ClientError::Refused { status, body } => ApiError {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            body,
        },
        error => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            codes::CONTROL_UNREACHABLE,
            format!("{name}: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_the_beginning_of_its_hash() {
        let hashes: Vec<String> = ["abcd1", "abcd2", "0123"]
            .iter()
            .map(|digits| format!("b3:{digits:0<64}"))
            .collect();
        let found = |beginning: &str| beginning_with(beginning, hashes.iter().map(String::as_str));
        for (beginning, at) in [("b3:abcd1", 0), ("b3:ABCD2", 1), ("b3:0123", 2)] {
            let hash: ModuleHash = hashes[at].parse().unwrap();
            assert_eq!(found(beginning), Ok(hash));
        }
        for (beginning, why) in [
            ("b3:abcd", "2 modules begin like this"),
            ("b3:abcd3", "there is no such module"),
            ("b3:012", "four digits"),
            ("b3:", "four digits"),
        ] {
            let error = found(beginning).unwrap_err();
            assert_eq!(error.body.code, codes::NO_MODULE);
            assert!(error.body.message.contains(why), "{error}");
        }
    }
}
