//! A node: an environment of processes, and QUIC sessions that make other nodes' processes
//! reachable from it.
//!
//! [`Node::start`] joins a cluster and wires everything together: certificates, the transport, the
//! sessions, the admin port. The `tidelock node` command is a few lines around it, and so is any
//! Rust program that wants to host processes in a cluster.
//!
//! # Examples
//!
//! A program that hosts a process in a cluster of its own making:
//!
//! ```
//! use std::time::Duration;
//! use tidelock::{ExitReason, SpawnOptions};
//! use tidelock_certs::Identity;
//! use tidelock_control::{ControlConfig, client::Client};
//! use tidelock_node::{Node, NodeConfig};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let state = tempfile::tempdir()?;
//! // Usually `tidelock control`, on a machine of its own.
//! let mut control = ControlConfig::new("example", state.path());
//! control.listen.set_port(0);
//! let control = tidelock_control::serve(control).await?;
//! let operator = Identity::load(control.operator_dir())?;
//! let operator = Client::with_identity(control.control(), &operator)?;
//!
//! let mut config = NodeConfig::new("here", control.control());
//! let token = operator.create_token(Duration::from_secs(60), 1).await?;
//! config.token = Some(token.token.parse()?);
//! let node = Node::start(config).await?;
//!
//! let pid = node.environment().spawn_native("greeter", SpawnOptions::default(), |me| async move {
//!     assert_eq!(me.nodes(), [me.pid().node()]);
//!     ExitReason::Normal
//! })?;
//! assert_eq!(node.environment().wait(pid).await, ExitReason::Normal);
//! node.leave().await;
//! control.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # Losing control
//!
//! Control is off the data path. When it cannot be reached, sessions, links and messages go on;
//! new members are not learnt of and modules only come from peers.

pub mod config;
pub mod dist;
pub mod guest_certificates;
mod live;
mod modules;
pub mod observe;
mod renewal;
mod spin;
pub mod transport;

use std::fs::{File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tidelock::{Environment, EnvironmentConfig, Module, ModuleHash, NodeId};
use tidelock_certs::{Identity, JoinToken, UnixTime};
use tidelock_control::api::{self, EventKind, NodeInfo, NodeState, WatchEvent, codes};
use tidelock_control::client::{Client, ClientError, Joined, NodeDescription};
use tidelock_control::http::ApiError;
use tidelock_control::tags::Tags;
use tidelock_proto::session;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dist::{Dist, DistConfig, Member, PeerEvent};
use crate::guest_certificates::ForGuests;
use crate::observe::{Journal, Observer, Subject};
use crate::transport::{Socket, Transport, TransportError};

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its stable name, which its certificate carries. A saved identity of another name is not used.
    pub name: String,
    /// Where it speaks QUIC (UDP). Port 0: any free one.
    pub listen: SocketAddr,
    /// Where operators reach it (TCP). Port 0: any free one.
    pub admin_listen: SocketAddr,
    /// The host that peers and operators reach it by, if that is not where it listens.
    pub advertise: Option<std::net::IpAddr>,
    /// Control's `host:port`.
    pub control: String,
    /// What guests find it by.
    pub tags: Tags,
    /// A join token. It is spent only if no identity is saved in `state_dir`, or control does not accept
    /// that one.
    pub token: Option<JoinToken>,
    /// Where the identity is kept; one node at a time may use it. `None`: it is not kept.
    pub state_dir: Option<PathBuf>,
    /// How long a peer may be silent.
    pub lease: Duration,
    /// Bounds of every session.
    pub session_limits: session::Limits,
    /// The most live members that a cluster has in which everybody opens a session with everybody at once. In a larger
    /// one a session opens when a process has something to say to another node.
    pub mesh_max: usize,
    /// Events and lines of output kept for operators who come later.
    pub kept_max: (usize, usize),
    /// The environment. Its node is set when the node has joined.
    pub environment: EnvironmentConfig,
}

impl NodeConfig {
    /// The defaults, for a node called `name` that joins the control plane at `control`.
    pub fn new(name: impl Into<String>, control: impl Into<String>) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        NodeConfig {
            name: name.into(),
            listen: local,
            admin_listen: local,
            advertise: None,
            control: control.into(),
            tags: Tags::default(),
            token: None,
            state_dir: None,
            lease: Duration::from_secs(3),
            session_limits: session::Limits::default(),
            mesh_max: MESH_MAX,
            kept_max: (10_000, 10_000),
            environment: EnvironmentConfig::default(),
        }
    }
}

/// See [`NodeConfig::mesh_max`]: a session costs each of its ends one to two thousandths of a core at rest (`docs/performance.md`), and
/// spares the first word to the other node a handshake.
pub const MESH_MAX: usize = 16;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on. An operator has to choose another.
    #[error("cannot listen on {addr} for operators: {why}")]
    Admin {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// The socket or the identity cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Control did not let it in.
    #[error(transparent)]
    Join(#[from] ClientError),
    /// There is neither a token nor a saved identity.
    #[error("no join token, and no usable identity in {dir}: {why}")]
    NoIdentity {
        /// Where an identity was looked for.
        dir: String,
        /// Why there is none.
        why: String,
    },
    /// The system gives no more threads. An operator has to raise a limit.
    #[error("no thread for the network: {0}")]
    Network(String),
    /// This machine cannot run guests.
    #[error(transparent)]
    Engine(#[from] tidelock::EngineError),
    /// Its state cannot be written.
    #[error("state cannot be written to {dir}: {why}")]
    State {
        /// Where.
        dir: String,
        /// What the system said.
        why: String,
    },
    /// Another node uses its state directory.
    #[error("another node is using {dir}; give this one its own --state-dir")]
    StateInUse {
        /// Which directory.
        dir: String,
    },
    /// The saved identity is that of a node with another name, and there is no token to join anew with.
    #[error(
        "{dir} holds the identity of node {name}; give this one its own --state-dir, or leave --name out"
    )]
    OtherName {
        /// Which directory.
        dir: String,
        /// Whose identity it is.
        name: String,
    },
    /// It would be listed with an address that nobody can reach it by.
    #[error(
        "{addr} is no address to reach a node at; give --advertise IP, or listen on one address"
    )]
    NoAddress {
        /// The address.
        addr: SocketAddr,
    },
}

/// A running node. Cheap to clone; it stops by [`Node::leave`] or when its runtime ends.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    id: NodeId,
    addr: SocketAddr,
    admin_addr: SocketAddr,
    env: Environment,
    dist: Arc<Dist>,
    client: Client,
    identity: RwLock<Identity>,
    state_dir: Option<PathBuf>,
    journal: Journal,
    observer: Mutex<Option<Observer>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    peers_changed: watch::Sender<u64>,
    leaving: tokio::sync::Mutex<bool>,
    stopped: watch::Sender<bool>,
    /// Why control has given it up.
    given_up: OnceLock<String>,
    /// Held as long as the state directory is used.
    state_lock: Mutex<Option<File>>,
    /// Where processes and the admin port run.
    runtime: tokio::runtime::Handle,
    network: Network,
}

/// The thread of sessions and sockets.
///
/// Guests that compute keep the other threads busy, thousands of them for seconds. A session that
/// had to queue behind them would lose its lease. Apart from them, the system shares the cores out.
struct Network(Option<tokio::runtime::Runtime>);

impl Network {
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidelock-net")
            .enable_all()
            .build()?;
        Ok(Network(Some(runtime)))
    }

    fn handle(&self) -> tokio::runtime::Handle {
        let runtime = self.0.as_ref().expect("taken by drop only");
        runtime.handle().clone()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // May happen on a thread of another runtime, which must not block.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({}, {})", self.0.id, self.0.name)
    }
}

impl Node {
    /// Joins the cluster and returns when peers and operators can reach this node.
    ///
    /// # Cancellation
    ///
    /// A dropped start may have used up the token.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        Self::starting(config).await
    }

    /// Boxed by a function that is not async: a node is compiled with this crate, and not again with each
    /// program that starts one.
    fn starting(config: NodeConfig) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(Self::started(config))
    }

    async fn started(config: NodeConfig) -> Result<Self, StartError> {
        let state_lock = config.state_dir.as_deref().map(lock_state).transpose()?;
        let socket = Socket::bind(config.listen)?;
        let admin = |error: std::io::Error| StartError::Admin {
            addr: config.admin_listen,
            why: error.to_string(),
        };
        let listener = TcpListener::bind(config.admin_listen).map_err(admin)?;
        let advertise = |mut addr: SocketAddr| {
            if let Some(ip) = config.advertise {
                addr.set_ip(ip);
            }
            addr
        };
        let description = NodeDescription {
            name: config.name.clone(),
            addr: advertise(socket.local_addr()),
            admin_addr: advertise(listener.local_addr().map_err(admin)?),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: config.tags.clone(),
        };
        let addrs = [description.addr, description.admin_addr];
        if let Some(addr) = addrs.into_iter().find(|addr| addr.ip().is_unspecified()) {
            return Err(StartError::NoAddress { addr });
        }
        let Joined {
            client,
            identity,
            node,
            lease,
            members,
        } = join(&config, &description).await?;
        if let Some(dir) = &config.state_dir {
            save(dir, &identity)?;
        }

        let mut environment = config.environment;
        environment.node = node;
        environment
            .certificates
            .get_or_insert_with(|| Arc::new(ForGuests::default()));
        let env = Environment::new(environment)?;
        let network = Network::new().map_err(|error| StartError::Network(error.to_string()))?;
        let transport = {
            let _network = network.handle().enter();
            Transport::new(socket, &identity, config.lease)?
        };
        let dist = Dist::new(DistConfig {
            env: env.clone(),
            transport,
            lease: config.lease,
            limits: config.session_limits,
            mesh_max: config.mesh_max,
            network: network.handle(),
        });
        dist.set_control(client.clone());
        let remote: Arc<dyn tidelock::Remote> = dist.clone();
        env.set_remote(Arc::downgrade(&remote));
        let (events_max, lines_max) = config.kept_max;
        let journal = Journal::keep(&env, events_max, lines_max);
        let handle = network.handle();
        let inner = Arc::new(Inner {
            name: identity.name().name.clone(),
            id: node,
            addr: description.addr,
            admin_addr: description.admin_addr,
            env,
            dist: dist.clone(),
            client,
            identity: RwLock::new(identity),
            state_dir: config.state_dir,
            journal: journal.clone(),
            observer: Mutex::default(),
            tasks: Mutex::default(),
            peers_changed: watch::Sender::new(0),
            leaving: tokio::sync::Mutex::new(false),
            stopped: watch::Sender::new(false),
            given_up: OnceLock::new(),
            state_lock: Mutex::new(state_lock),
            runtime: tokio::runtime::Handle::current(),
            network,
        });
        // Before the first session, so that no event is missed.
        let events = dist.events();
        let tasks = vec![
            handle.spawn(record_peers(inner.clone(), events)),
            handle.spawn(dist.clone().accept()),
            handle.spawn(follow_members(inner.clone())),
            handle.spawn(keep_lease(inner.clone(), lease)),
            handle.spawn(renew(inner.clone())),
        ];
        *lock(&inner.tasks) = tasks;
        inner.take_members(&members);
        let node = Node(inner);
        let subject: Arc<dyn Subject> = Arc::new(node.clone());
        let observer = observe::serve(subject, journal, listener).map_err(admin)?;
        *node
            .0
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(observer);
        Ok(node)
    }

    /// The id of this start.
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Its stable name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its processes.
    pub fn environment(&self) -> &Environment {
        &self.0.env
    }

    /// Where peers reach it.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Where operators reach it.
    pub fn admin_addr(&self) -> SocketAddr {
        self.0.admin_addr
    }

    /// The way to other nodes.
    pub fn dist(&self) -> &Arc<Dist> {
        &self.0.dist
    }

    /// Leaves the cluster: refuses new work, kills what still runs, says goodbye to peers and to
    /// control. Peers' processes are told at once. A second call waits for the first.
    pub async fn leave(&self) {
        self.0.leave().await;
    }

    /// Waits until the node has left.
    pub async fn stopped(&self) {
        let mut stopped = self.0.stopped.subscribe();
        // The sender lives as long as this node.
        let _: Result<_, _> = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Why control has given this node up, if it has: an operator removed it, or its name has a later
    /// start. It leaves because of that.
    pub fn given_up(&self) -> Option<&str> {
        self.0.given_up.get().map(String::as_str)
    }
}

impl Inner {
    /// Boxed as in [`Node::starting`].
    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.go())
    }

    async fn go(&self) {
        let mut left = self.leaving.lock().await;
        if *left {
            return;
        }
        self.dist.drain();
        self.env.shutdown().await;
        self.dist.leave().await;
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        let goodbye = self.client.leave(self.id);
        // Control that cannot be reached sees the lease lapse.
        let _: Result<_, _> = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
        let observer = self
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(observer) = observer {
            observer.shutdown().await;
        }
        drop(lock(&self.state_lock).take());
        *left = true;
        self.stopped.send_replace(true);
    }
}

async fn join(config: &NodeConfig, node: &NodeDescription) -> Result<Joined, StartError> {
    if let Some(dir) = &config.state_dir {
        // A token is spent with the answer, and an identity that cannot be kept would be lost.
        Identity::check_room(&dir.join("identity")).map_err(|error| unwritable(dir, &error))?;
    }
    let saved = saved(config);
    let Some(token) = &config.token else {
        let (dir, identity) = saved?;
        let name = &identity.name().name;
        if *name != node.name {
            return Err(StartError::OtherName {
                dir: dir.display().to_string(),
                name: name.clone(),
            });
        }
        return Ok(Client::rejoin(&config.control, &identity, node).await?);
    };
    // The token may be an old one that is still set, and whom control knows needs none.
    if let Ok((_, identity)) = saved
        && identity.name().name == node.name
    {
        match Client::rejoin(&config.control, &identity, node).await {
            Err(error) if is_refused(&error) => {
                tracing::warn!(%error, "the saved identity is of no use; joining with the token");
            }
            rejoined => return Ok(rejoined?),
        }
    }
    Ok(Client::join(&config.control, token, node).await?)
}

/// Whether control wants nothing to do with whoever asked, as opposed to not being there, being busy or at
/// fault, having seen too much of that name, or knowing of a later start of it: a token would not help then.
fn is_refused(error: &ClientError) -> bool {
    let refused = matches!(
        error,
        ClientError::NotTrusted { .. }
            | ClientError::Refused {
                status: 400..=499,
                ..
            }
    );
    let of_the_name = [
        codes::TOO_MANY_IDS,
        codes::NO_IDS_LEFT,
        codes::LATER_START,
        codes::NODE_GONE,
    ];
    let is_of_the_name = error.code().is_some_and(|code| of_the_name.contains(&code));
    refused && !error.is_temporary() && !is_of_the_name
}

/// The identity of an earlier start, and the state directory that it is from.
fn saved(config: &NodeConfig) -> Result<(&Path, Identity), StartError> {
    let missing = |dir: String, why: String| StartError::NoIdentity { dir, why };
    let Some(dir) = &config.state_dir else {
        return Err(missing(
            "nowhere".into(),
            "no state directory is set".into(),
        ));
    };
    match Identity::load(&dir.join("identity")) {
        Ok(identity) => Ok((dir.as_path(), identity)),
        Err(error) => Err(missing(dir.display().to_string(), error.to_string())),
    }
}

/// Takes the state directory for as long as the file is open: two nodes would overwrite each other's
/// identity.
fn lock_state(dir: &Path) -> Result<File, StartError> {
    let shown = || dir.display().to_string();
    let unusable = |error: std::io::Error| StartError::State {
        dir: shown(),
        why: error.to_string(),
    };
    tidelock_certs::files::create_private_dir(dir).map_err(unusable)?;
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = options.open(dir.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::StateInUse { dir: shown() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

fn save(dir: &Path, identity: &Identity) -> Result<(), StartError> {
    let saved = identity.save(&dir.join("identity"));
    saved.map_err(|error| unwritable(dir, &error))
}

fn unwritable(dir: &Path, error: &tidelock_certs::IdentityError) -> StartError {
    StartError::State {
        dir: dir.display().to_string(),
        why: error.to_string(),
    }
}

fn member(info: &NodeInfo) -> Option<Member> {
    Some(Member {
        id: info.id.parse().ok()?,
        name: info.name.clone(),
        addr: info.addr,
        alive: matches!(info.state, NodeState::Alive | NodeState::Draining),
        tags: info.tags.clone(),
    })
}

/// A key that an operator removed, as control writes it.
fn key(text: &str) -> Option<[u8; 32]> {
    let key = tidelock_certs::from_hex(text).and_then(|bytes| bytes.try_into().ok());
    if key.is_none() {
        tracing::error!(
            text,
            "control has removed a key that is none; it is newer than this node"
        );
    }
    key
}

/// Locks. What a panic left behind is as good as before: every change under these locks is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Whom to deny comes first: nobody is dialled who is not to be spoken to.
    fn take_members(&self, members: &api::Members) {
        self.dist
            .deny(members.removed.iter().filter_map(|text| key(text)));
        self.set_members(members.nodes.iter().filter_map(member));
    }

    fn set_members(&self, members: impl IntoIterator<Item = Member>) {
        self.dist.set_members(members);
        self.peers_changed.send_modify(|count| *count += 1);
    }
}

async fn record_peers(inner: Arc<Inner>, mut events: tokio::sync::broadcast::Receiver<PeerEvent>) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(PeerEvent::Up { node, .. }) => {
                inner
                    .journal
                    .record(EventKind::NodeUp, Some(node.to_string()), None);
            }
            Ok(PeerEvent::Down { node, why, .. }) => {
                let left = [
                    session::SessionError::Left,
                    session::SessionError::LeftUndelivered,
                ];
                let kind = if left.iter().any(|left| why == left.to_string()) {
                    EventKind::NodeLeft
                } else {
                    EventKind::NodeLost
                };
                inner
                    .journal
                    .record(kind, Some(node.to_string()), Some(why));
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "session events were missed by the journal");
            }
            Err(RecvError::Closed) => return,
        }
        inner.peers_changed.send_modify(|count| *count += 1);
    }
}

/// Follows the membership for as long as the node is there: removals are learnt in no other way.
async fn follow_members(inner: Arc<Inner>) {
    // After what waiting may not mend: whoever answers as control is not trusted, or does not trust us,
    // which may be the fault of a clock.
    const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
    let mut wait = WAIT.0;
    loop {
        let mut watch = inner.client.watch();
        while let Some(event) = watch.next().await {
            match event {
                Ok(WatchEvent::Snapshot(members)) => {
                    wait = WAIT.0;
                    inner.take_members(&members);
                }
                Ok(WatchEvent::Change { node, removed, .. }) => {
                    inner.dist.deny(removed.as_deref().and_then(key));
                    inner.set_members(member(&node));
                }
                Ok(WatchEvent::Heartbeat { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "control cannot be watched; links are not touched");
                }
            }
        }
        tracing::error!(
            "control refuses to be watched: removals are not learnt; again in {wait:?}"
        );
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT.1);
    }
}

async fn keep_lease(inner: Arc<Inner>, lease: Duration) {
    /// Less is not enough for a handshake on a busy machine.
    const CALL_MIN: Duration = Duration::from_secs(1);
    let part = (lease / 3).max(Duration::from_millis(100));
    let mut every = tokio::time::interval(part);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let call = inner.client.lease(inner.id, inner.dist.is_draining());
        // One that is stuck leaves time for others before the lease runs out.
        let answer = tokio::time::timeout(part.max(CALL_MIN), call).await;
        let Ok(answer) = answer else {
            tracing::warn!("control does not answer; links are not touched");
            continue;
        };
        match answer {
            Ok(_) => {}
            Err(error) if error.is_node_gone() => {
                tracing::error!(%error, "control has given this node up; it leaves");
                let why = match error {
                    ClientError::Refused { body, .. } => body.message,
                    error => error.to_string(),
                };
                // Nobody else sets it.
                let _: Result<(), String> = inner.given_up.set(why);
                let node = Node(inner);
                tokio::spawn(async move { node.leave().await });
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "control cannot be reached; links are not touched");
            }
        }
    }
}

/// Gets a new certificate before the old one runs out.
async fn renew(inner: Arc<Inner>) {
    /// A clock may be put right at any time.
    const LOOK_S: u64 = 3_600;
    const PATIENCE_S: (u64, u64) = (60, 3_600);
    let (mut patience_s, mut kept) = (PATIENCE_S.0, true);
    loop {
        if !kept {
            // Used all the same: a full disk does not end a node, only a restart would miss it.
            kept = note(inner.keep_identity().await);
        }
        let identity = inner.identity();
        let due_s = if identity.is_due(UnixTime::now()) {
            0
        } else {
            identity.renew_at().as_secs().saturating_sub(now_s())
        };
        let wait_s = due_s.min(if kept { LOOK_S } else { PATIENCE_S.0 });
        tokio::time::sleep(Duration::from_secs(wait_s)).await;
        if due_s > wait_s {
            continue;
        }
        let renewed = match inner.client.renew(&identity).await {
            Ok(renewed) => inner.take_identity(renewed),
            Err(error) => Err(format!("the certificate could not be renewed yet: {error}")),
        };
        let is_renewed = note(renewed);
        kept &= !is_renewed;
        let identity = inner.identity();
        if is_renewed && !identity.is_due(UnixTime::now()) {
            patience_s = PATIENCE_S.0;
        } else {
            // Sessions end with the certificate: while it lasts, there is time for some more tries. A new
            // one that is due at once is of a clock that is ahead still.
            let wait_s = match identity.not_after().as_secs().saturating_sub(now_s()) {
                0 => patience_s,
                left_s => patience_s.min((left_s / 4).max(1)),
            };
            tokio::time::sleep(Duration::from_secs(wait_s)).await;
            patience_s = (patience_s * 2).min(PATIENCE_S.1);
        }
    }
}

fn now_s() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

fn note(done: Result<(), String>) -> bool {
    if let Err(error) = &done {
        tracing::warn!(error);
    }
    done.is_ok()
}

impl Inner {
    fn identity(&self) -> Identity {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Uses a new certificate from now on.
    fn take_identity(&self, renewed: Identity) -> Result<(), String> {
        let unusable = |error: &dyn std::fmt::Display| {
            format!("the renewed certificate cannot be used: {error}")
        };
        self.dist
            .set_identity(&renewed)
            .map_err(|error| unusable(&error))?;
        let observer = lock(&self.observer);
        if let Some(observer) = observer.as_ref() {
            observer.renew(&renewed).map_err(|error| unusable(&error))?;
        }
        drop(observer);
        *self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// Apart from the thread of sessions, which would wait for a disk.
    async fn keep_identity(self: &Arc<Self>) -> Result<(), String> {
        let inner = self.clone();
        let saving = move || {
            // Held meanwhile: nobody else has the directory.
            let held = lock(&inner.state_lock);
            match &inner.state_dir {
                Some(dir) if held.is_some() => {
                    save(dir, &inner.identity()).map_err(|error| error.to_string())
                }
                _ => Ok(()),
            }
        };
        let why = match tokio::task::spawn_blocking(saving).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        Err(format!(
            "the renewed certificate is used, but not kept: {why}"
        ))
    }
}

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

    #[test]
    fn a_token_is_spent_only_where_it_helps() {
        let helps = |status, code: &str| {
            is_refused(&ClientError::Refused {
                status,
                body: api::ErrorBody {
                    code: code.to_owned(),
                    message: "no".to_owned(),
                    next: Vec::new(),
                    newest: None,
                },
            })
        };
        assert!(helps(403, codes::NOT_PERMITTED));
        assert!(helps(400, codes::BAD_SIGNING_REQUEST));
        for (status, code) in [
            (409, codes::TOO_MANY_IDS),
            (409, codes::NO_IDS_LEFT),
            // Another start of this name is there.
            (409, codes::LATER_START),
            (410, codes::NODE_GONE),
            (429, codes::TOO_MANY),
            (500, codes::STORE),
            (503, codes::STORE),
        ] {
            assert!(!helps(status, code), "{status} {code}");
        }
    }

    #[test]
    fn a_state_directory_is_one_nodes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("node");
        let lock = lock_state(&dir).unwrap();
        let error = lock_state(&dir).unwrap_err();
        assert!(matches!(error, StartError::StateInUse { .. }), "{error}");
        drop(lock);
        lock_state(&dir).unwrap();
    }
}
