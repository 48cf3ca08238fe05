//! Seeing inside a node: snapshots, events, output, metrics and health, over HTTPS on the admin port.
//!
//! Everything under `/v1` is for operators; `/livez`, `/readyz` and `/metrics` are for whoever reaches
//! the port. The types are those of [`tidelock_control::api`].
//!
//! # What is kept, and what happens at the bound
//!
//! The last events and lines of output stay in two rings ([`Kept`]); the oldest makes room. A reader who
//! follows and falls behind by a whole ring misses the oldest and is told how many. Nothing here can slow
//! a process down: rings are filled from broadcasts that drop for a slow reader, and count what they
//! dropped.
//!
//! # Cancellation
//!
//! A client that goes away takes its request with it; nothing that was started is stopped by that.

mod journal;
mod routes;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tidelock::{Environment, Module};
use tidelock_certs::{Identity, tls::https_server_config};
use tidelock_control::{
    api::{EventKind, SessionInfo},
    http::{ApiError, Server},
};

pub use journal::{Journal, Kept};

/// What is looked at: a node, as far as operators are concerned.
pub trait Subject: Send + Sync + 'static {
    /// Its processes.
    fn environment(&self) -> &Environment;
    /// Its stable name.
    fn name(&self) -> &str;
    /// Its identity; its certificate may be replaced while it runs.
    fn identity(&self) -> Identity;
    /// Tasks of its runtimes that have not ended.
    fn tasks(&self) -> usize;
    /// Its peers.
    fn sessions(&self) -> Vec<SessionInfo>;
    /// How many nodes it takes to be there, itself included.
    fn nodes(&self) -> usize;
    /// Changes whenever a session begins or ends, or a node is listed.
    fn peers_changed(&self) -> tokio::sync::watch::Receiver<u64>;
    /// Whether it takes no new work.
    fn is_draining(&self) -> bool;
    /// Takes no new work from now on, and leaves once all processes have ended or been killed at the
    /// limit. Returns at once.
    fn drain(&self, limit: Option<Duration>);
    /// Finds a module by hash or name: here, or in the cluster.
    ///
    /// # Errors
    ///
    /// What the operator reads.
    fn module<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Module, ApiError>>;
}

/// A running admin port.
#[derive(Debug)]
pub struct Observer {
    handle: axum_server::Handle<std::net::SocketAddr>,
    task: tokio::task::JoinHandle<io::Result<()>>,
    tls: axum_server::tls_rustls::RustlsConfig,
}

/// Serves the admin port on `listener` until [`Observer::shutdown`] or the end of the runtime.
///
/// `journal` should have been made before the first process, so that nothing is missed.
///
/// # Errors
///
/// An identity that TLS cannot use.
pub fn serve(
    subject: Arc<dyn Subject>,
    journal: Journal,
    listener: TcpListener,
) -> io::Result<Observer> {
    let config = https_server_config(&subject.identity()).map_err(io::Error::other)?;
    let server = Server::new(listener, config);
    let (handle, tls) = (server.handle(), server.tls());
    let state = routes::State {
        subject,
        journal,
        started_at: Timestamp::now(),
        naming: Arc::default(),
    };
    let task = tokio::spawn(server.serve(routes::router(state)));
    Ok(Observer { handle, task, tls })
}

impl Observer {
    /// Shows another certificate from the next connection on.
    ///
    /// # Errors
    ///
    /// An identity that TLS cannot use; the old one stays.
    pub fn renew(&self, identity: &Identity) -> io::Result<()> {
        let config = https_server_config(identity).map_err(io::Error::other)?;
        self.tls.reload_from_config(Arc::new(config));
        Ok(())
    }

    /// Lets requests finish for a moment, then ends.
    pub async fn shutdown(self) {
        self.handle
            .graceful_shutdown(Some(Duration::from_millis(200)));
        // It ends because we asked for it; what it says about that is of no interest.
        let _ = self.task.await;
    }
}

/// The word of an event's kind in logs.
#[must_use]
pub fn word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Spawned => "spawned",
        EventKind::Linked => "linked",
        EventKind::Unlinked => "unlinked",
        EventKind::Ended => "ended",
        EventKind::NodeUp => "node up",
        EventKind::NodeLost => "node lost",
        EventKind::NodeLeft => "node left",
        EventKind::ModuleLoaded => "module loaded",
        EventKind::Draining => "draining",
        EventKind::Log => "log",
        EventKind::Other => "event",
    }
}
