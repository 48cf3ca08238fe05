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
mod joining;
mod live;
mod membership;
mod modules;
pub mod observe;
mod renewal;
mod spin;
mod subject;
pub mod transport;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidelock::{Environment, EnvironmentConfig, NodeId};
use tidelock_certs::{Identity, JoinToken};
use tidelock_control::client::{Client, ClientError, Joined, NodeDescription};
use tidelock_control::tags::Tags;
use tidelock_proto::session;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dist::{Dist, DistConfig};
use crate::guest_certificates::ForGuests;
use crate::joining::{join, lock_state, save};
use crate::membership::{follow_members, keep_lease, record_peers, renew};
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

/// Locks. What a panic left behind is as good as before: every change under these locks is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
