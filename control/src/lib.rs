//! The control plane of a cluster: who is in it, who may join, which modules it holds.
//!
//! [`serve`] runs it, [`client::Client`] talks to it, [`api`] is the language between the two.
//!
//! # What it promises
//!
//! * A node id is handed out once, ever.
//! * A join token lets in as many nodes as it says, however many try at once.
//! * What it has answered is on disk: a restart, or a crash, forgets nothing but leases.
//! * Books that are lost are not replaced by empty ones beside an authority that nodes trust. A backup of
//!   them learns from the nodes that run which ids are taken.
//! * What it believes about nodes is advice. With control gone, running nodes go on; joining,
//!   deploying and renewing wait.
//!
//! # What it does not do
//!
//! It never connects to a node. It runs no guest code and knows no process. One control plane owns
//! one state directory; there is no replication.

pub mod api;
pub mod client;
pub mod http;
pub mod limit;
mod members;
pub mod modules;
mod server;
mod store;
pub mod tags;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io};

use jiff::Timestamp;
use tidelock_certs::authority::{AuthorityError, DEFAULT_LIFETIME, RequestError};
use tidelock_certs::identity::IdentityError;
use tidelock_certs::tls::https_server_config;
use tidelock_certs::{Authority, Identity, Role, UnixTime, files};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

pub use limit::JoinLimits;
pub use store::StoreError;

use crate::api::OperatorContext;
use crate::limit::JoinGate;
use crate::members::{Books, Moment};
use crate::modules::Shelf;
use crate::server::App;
use crate::store::Store;

const OPERATOR_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const OPERATOR_NAME: &str = "admin";
/// How long requests may take to finish when the server ends.
const GRACE: Duration = Duration::from_secs(3);

/// How to run a control plane.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Where to listen (TCP). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` that others reach it at, if that is not `listen`: for the operator's context file
    /// and the certificate.
    pub advertise: Option<String>,
    /// The directory that holds everything it must not forget, the authority's key included. Made if
    /// it is not there.
    pub state_dir: PathBuf,
    /// The cluster's name. It cannot be changed later: it is part of every certificate.
    pub cluster: String,
    /// How long a node may be silent before it is declared lost.
    pub lease: Duration,
    /// How long certificates of nodes live. They are renewed after two thirds of it.
    pub certificate_lifetime: Duration,
    /// Bounds on attempts to join.
    pub join_limits: JoinLimits,
}

impl ControlConfig {
    /// The usual values: port 7700 on this machine only, leases of ten seconds, certificates of 30
    /// days.
    #[must_use]
    pub fn new(cluster: &str, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 7700).into(),
            advertise: None,
            state_dir: state_dir.into(),
            cluster: cluster.to_owned(),
            lease: Duration::from_secs(10),
            certificate_lifetime: DEFAULT_LIFETIME,
            join_limits: JoinLimits::default(),
        }
    }
}

/// A control plane could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A file or directory cannot be used.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The store cannot be opened: another control plane uses it, it is another cluster's, or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The operator's identity cannot be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// `advertise` holds no usable host name.
    #[error(transparent)]
    Certificate(#[from] RequestError),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A running control plane. Dropping it ends the server without waiting for it.
pub struct ControlHandle {
    addr: SocketAddr,
    context: OperatorContext,
    operator_dir: PathBuf,
    stop: watch::Sender<bool>,
    server: JoinHandle<io::Result<()>>,
    /// Yields its end when the store is closed.
    closed: mpsc::Receiver<()>,
}

impl ControlHandle {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where others reach it, `host:port`.
    #[must_use]
    pub fn control(&self) -> &str {
        &self.context.control
    }

    /// The directory with the first operator's identity (`Identity::load`) and `context.json`
    /// ([`OperatorContext`]).
    #[must_use]
    pub fn operator_dir(&self) -> &Path {
        &self.operator_dir
    }

    /// Waits until the server has ended by itself, which only happens if it fails.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost; it can be called again.
    ///
    /// # Errors
    ///
    /// The listener's.
    pub async fn failed(&mut self) -> io::Result<()> {
        match (&mut self.server).await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Ends the server: no new connections, requests finish within three seconds, watches end.
    ///
    /// When it returns, the state directory is free for another control plane.
    ///
    /// # Cancellation
    ///
    /// The server still ends, at its own pace.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        if !self.server.is_finished() {
            let _ = (&mut self.server).await;
        }
        // Requests that wait for a disk outlive their connections by that long.
        let _ = self.closed.recv().await;
    }
}

impl fmt::Debug for ControlHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlHandle")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// Starts a control plane. It listens when this returns.
///
/// The first start makes the authority, the store and an operator's identity in `state_dir`; later
/// ones find them there.
///
/// # Cancellation
///
/// Nothing is left running; files that were made stay.
///
/// # Errors
///
/// [`ServeError`]; nothing runs then.
pub async fn serve(config: ControlConfig) -> Result<ControlHandle, ServeError> {
    if config.lease < Duration::from_millis(100) {
        return Err(ServeError::Config(
            "a lease must be at least 100 ms".to_owned(),
        ));
    }
    // Starting means reading keys and syncing disks.
    let prepared = tokio::task::spawn_blocking(move || prepare(&config)).await;
    let Prepared {
        app,
        listener,
        addr,
        context,
        operator_dir,
        operator,
        identity,
        hosts,
        closed,
        stop,
    } = prepared.map_err(|error| ServeError::Config(error.to_string()))??;

    let server = http::Server::new(listener, https_server_config(&identity)?);
    let tls = server.tls();
    let handle = server.handle();
    let router = server::router(Arc::clone(&app));
    let stopped = stop.subscribe();
    let operator = Operator {
        dir: operator_dir.clone(),
        context: context.clone(),
        identity: operator,
        not_before: Instant::now(),
    };
    let server = tokio::spawn(async move {
        let caretaker = Caretaker {
            app,
            tls,
            identity,
            operator,
            hosts,
            stopped: stopped.clone(),
        };
        let caretaker = tokio::spawn(caretaker.run());
        let ending = {
            let mut stopped = stopped;
            let handle = handle.clone();
            tokio::spawn(async move {
                let _ = stopped.wait_for(|stop| *stop).await;
                handle.graceful_shutdown(Some(GRACE));
            })
        };
        let result = server.serve(router).await;
        ending.abort();
        caretaker.abort();
        result
    });
    tracing::info!(%addr, cluster = %context.cluster, "the control plane is up");
    Ok(ControlHandle {
        addr,
        context,
        operator_dir,
        stop,
        server,
        closed,
    })
}

struct Prepared {
    app: Arc<App>,
    listener: TcpListener,
    addr: SocketAddr,
    context: OperatorContext,
    operator_dir: PathBuf,
    operator: Identity,
    identity: Identity,
    hosts: Vec<String>,
    closed: mpsc::Receiver<()>,
    stop: watch::Sender<bool>,
}

fn prepare(config: &ControlConfig) -> Result<Prepared, ServeError> {
    let now = Moment::now();
    let dir = &config.state_dir;
    files::create_private_dir(dir).map_err(|error| io_error(dir, error))?;
    // The store first: its lock keeps a second control plane away from everything else. It is made before
    // the authority, so one that is missing beside an authority was there.
    let authority_dir = dir.join("authority");
    let is_first =
        !Authority::is_kept(&authority_dir).map_err(|error| io_error(&authority_dir, error))?;
    let store = Store::open(&dir.join("store.redb"), &config.cluster, is_first)?;
    let store = Arc::new(store);
    let authority = Authority::open(&authority_dir, &config.cluster, UnixTime::now())?;
    let shelf_dir = dir.join("modules");
    let shelf =
        Shelf::open(&shelf_dir, Arc::clone(&store)).map_err(|error| io_error(&shelf_dir, error))?;
    let ids_max = config.join_limits.ids_per_name_hour_max;
    let books = Books::open(Arc::clone(&store), config.lease, ids_max, now.steady)?;

    let listen_error = |error| ServeError::Listen {
        addr: config.listen,
        error,
    };
    let listener = TcpListener::bind(config.listen).map_err(listen_error)?;
    let addr = listener.local_addr().map_err(listen_error)?;
    let control = config
        .advertise
        .clone()
        .unwrap_or_else(|| reachable(addr).to_string());
    let hosts = hosts(&control);
    let identity =
        authority.issue_identity(Role::Control, "", &hosts, DEFAULT_LIFETIME, UnixTime::now())?;
    let context = OperatorContext {
        cluster: config.cluster.clone(),
        control,
    };
    let operator_dir = dir.join("operator");
    let operator = keep_operator(&authority, &operator_dir, &context, UnixTime::now())?;

    let (stop, stopped) = watch::channel(false);
    let (open, closed) = mpsc::channel(1);
    let app = Arc::new(App {
        books,
        shelf,
        store,
        authority,
        gate: Mutex::new(JoinGate::new(config.join_limits, now.steady)),
        joins: Arc::new(Semaphore::new(server::JOINS_MAX)),
        modules_out: Arc::new(Semaphore::new(server::MODULES_OUT_MAX)),
        lease: config.lease,
        certificate_lifetime: config.certificate_lifetime,
        started_at: Timestamp::now(),
        stop: stopped,
        _open: open,
    });
    Ok(Prepared {
        app,
        listener,
        addr,
        context,
        operator_dir,
        operator,
        identity,
        hosts,
        closed,
        stop,
    })
}

/// What others can dial if we listen on every address: this machine, at least.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        ip if !ip.is_unspecified() => addr,
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, addr.port()).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::LOCALHOST, addr.port()).into(),
    }
}

/// Names for tools that check host names; our own clients look at the role.
fn hosts(control: &str) -> Vec<String> {
    let host = control.rsplit_once(':').map_or(control, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    if !hosts.contains(&host) {
        hosts.push(host);
    }
    hosts
}

/// Makes or renews the first operator's identity, which whoever starts control may use.
fn keep_operator(
    authority: &Authority,
    dir: &Path,
    context: &OperatorContext,
    now: UnixTime,
) -> Result<Identity, ServeError> {
    let kept = Identity::load(dir)
        .ok()
        .filter(|kept| kept.authority() == authority.certificate() && !kept.is_due(now));
    let kept = match kept {
        Some(kept) => kept,
        None => {
            let role = Role::Operator;
            let new = authority.issue_identity(role, OPERATOR_NAME, &[], OPERATOR_LIFETIME, now)?;
            new.save(dir)?;
            new
        }
    };
    let path = dir.join("context.json");
    let text = serde_json::to_vec_pretty(context).expect("plain data");
    files::replace(&path, &text, files::PUBLIC).map_err(|error| io_error(&path, error))?;
    Ok(kept)
}

fn io_error(path: &Path, error: io::Error) -> ServeError {
    ServeError::Io {
        path: path.display().to_string(),
        error,
    }
}

/// The operator's identity that lies in a folder of control's state.
struct Operator {
    dir: PathBuf,
    context: OperatorContext,
    identity: Identity,
    /// It is not renewed before.
    not_before: Instant,
}

/// How long until what failed to be renewed is tried again.
const AGAIN: Duration = Duration::from_secs(3600);

/// Does what is due from time to time: lapsed leases, the certificates of the server and of the operator.
struct Caretaker {
    app: Arc<App>,
    tls: axum_server::tls_rustls::RustlsConfig,
    identity: Identity,
    operator: Operator,
    hosts: Vec<String>,
    stopped: watch::Receiver<bool>,
}

impl Caretaker {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(self.app.lease / 8);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = self.stopped.wait_for(|stop| *stop) => return,
            }
            let app = Arc::clone(&self.app);
            let swept = tokio::task::spawn_blocking(move || app.books.sweep(Moment::now())).await;
            if let Ok(Err(error)) = swept {
                tracing::error!(%error, "nodes cannot be declared lost");
            }
            if self.identity.is_due(UnixTime::now()) {
                self.renew();
            }
            let operator = &self.operator;
            if Instant::now() >= operator.not_before && operator.identity.is_due(UnixTime::now()) {
                self.renew_operator().await;
            }
        }
    }

    /// Whoever reads the folder from now on has the new one; the one before is good for as long as it was.
    async fn renew_operator(&mut self) {
        let (app, dir) = (Arc::clone(&self.app), self.operator.dir.clone());
        let (context, now) = (self.operator.context.clone(), UnixTime::now());
        let renewing = move || keep_operator(&app.authority, &dir, &context, now);
        match tokio::task::spawn_blocking(renewing).await {
            Ok(Ok(renewed)) => self.operator.identity = renewed,
            Ok(Err(error)) => {
                tracing::error!(%error, "the operator's certificate is not renewed");
                self.operator.not_before = Instant::now() + AGAIN;
            }
            Err(_) => self.operator.not_before = Instant::now() + AGAIN,
        }
    }

    fn renew(&mut self) {
        let (hosts, now) = (&self.hosts, UnixTime::now());
        let authority = &self.app.authority;
        let identity = authority.issue_identity(Role::Control, "", hosts, DEFAULT_LIFETIME, now);
        let identity = identity.expect("the same names were good at the start");
        match https_server_config(&identity) {
            Ok(config) => {
                self.tls.reload_from_config(Arc::new(config));
                self.identity = identity;
            }
            Err(error) => tracing::error!(%error, "the control plane's certificate is not renewed"),
        }
    }
}
