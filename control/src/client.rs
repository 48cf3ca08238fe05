//! A typed client of the control plane.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use tidelock_control::client::{Client, NodeDescription};
//! let token = "tl1.…".parse()?;
//! let node = NodeDescription {
//!     name: "web-0".to_owned(),
//!     addr: "10.0.0.7:7717".parse()?,
//!     admin_addr: "10.0.0.7:7718".parse()?,
//!     version: "0.1.0".to_owned(),
//!     tags: "region=eu".parse()?,
//! };
//! let joined = Client::join("control.example:7700", &token, &node).await?;
//! println!("{} of {}", joined.node, joined.identity.name().cluster);
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! * It speaks only to the control plane of the authority it knows: that of the identity, or of the
//!   join token. Host names play no part.
//! * Calls that may be repeated are repeated while control cannot be reached, for up to ten seconds;
//!   a call that was refused is not, but for those that fetch a module: they are, too, while control has
//!   no place for them, or its disk fails; and for a rejoin that is told of a later start. Nothing that may
//!   have taken effect is sent twice unless sending it twice is harmless.
//! * Each call ends: connecting, waiting for the answer and repeating all have limits.

mod error;
mod watch;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use tidelock_certs::tls::{https_client_config, pinned_client_config};
use tidelock_certs::{Identity, IdentityError, JoinToken, Key, Role, Ticket, from_hex, to_hex};
use tidelock_proto::{ModuleHash, NodeId};
use tokio::time::{Instant, sleep, timeout};

pub use self::error::ClientError;
use self::error::tls_reason;
use crate::api::{
    ClusterInfo, CreateToken, ErrorBody, JoinRequest, JoinResponse, LeaseRequest, LeaseResponse,
    Members, ModuleInfo, ModuleName, NodeInfo, RejoinRequest, RenewRequest, RenewResponse,
    TokenCreated, codes,
};
use crate::modules::{MODULE_BYTES_MAX, check_module_name, hash_of};
use crate::tags::Tags;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Shorter than the server's patience with idle connections, so that none is used as it closes.
const POOL_IDLE_MAX: Duration = Duration::from_secs(5);
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
const MODULE_TIME_MAX: Duration = Duration::from_secs(120);
/// How long a call is repeated while control cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long joining waits for control, for an earlier start of the same name to lapse, or for its turn.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long joining waits before it says what for, and how long until it says so again.
const TELL_AFTER: Duration = Duration::from_secs(1);
const TELL_AGAIN: Duration = Duration::from_secs(10);
pub(crate) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a node tells about itself when it joins.
#[derive(Debug, Clone)]
pub struct NodeDescription {
    /// Its stable name.
    pub name: String,
    /// Where peers reach it (UDP).
    pub addr: SocketAddr,
    /// Where operators reach it (TCP).
    pub admin_addr: SocketAddr,
    /// The version of its software.
    pub version: String,
    /// What guests find it by.
    pub tags: Tags,
}

/// A node that has just become part of a cluster.
#[derive(Debug, Clone)]
pub struct Joined {
    /// A client that speaks as the node.
    pub client: Client,
    /// Key, certificate and start ticket.
    pub identity: Identity,
    /// The id of this start.
    pub node: NodeId,
    /// How long the node may be silent before control declares it lost. A third of it is a good
    /// interval for [`Client::lease`].
    pub lease: Duration,
    /// Everybody in the cluster, this node included.
    pub members: Members,
}

/// Speaks to one control plane as one identity. Clones share connections and identity.
#[derive(Debug, Clone)]
pub struct Client {
    /// Replaced by [`Client::renew`]: a connection made later shows the new certificate.
    shown: Arc<RwLock<Shown>>,
    control: Arc<str>,
}

/// What a client shows of its identity.
#[derive(Debug, Clone)]
struct Shown {
    http: reqwest::Client,
    /// A node's start ticket, as it travels.
    ticket: Option<String>,
}

/// How often a call may be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Again after any failure of the network: twice has the effect of once.
    Always,
    /// Again only if the connection could not even be made.
    IfNotSent,
}

/// Whether joining may go well in a moment: an earlier start of the name lapses, or too many attempts are looked
/// at. A name that has had too many ids is refused for longer, with a status and a code of its own.
fn is_its_turn_to_come(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status: 429, .. })
        || error.code() == Some(codes::NAME_TAKEN)
}

/// The start that an identity's ticket names.
fn start_of(identity: &Identity) -> Option<NodeId> {
    let ticket = Ticket::read_unverified(identity.ticket()?);
    ticket.ok().map(|ticket| ticket.node)
}

/// The newest start of a name, if `error` says that it is a later one than was asked with.
fn later_start(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Refused { body, .. } if body.code == codes::LATER_START => body.newest.clone(),
        _ => None,
    }
}

/// What tells one start from all others.
fn mark() -> [u8; 16] {
    let mut mark = [0; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random
        .fill(&mut mark)
        .expect("the system gives random bytes");
    mark
}

/// The attempts at one call.
struct Attempts {
    /// None begins later.
    deadline: Instant,
    /// How long the next one waits.
    wait: Duration,
    /// When the log is told next what is waited for; where it never is, whoever calls tells it.
    tell_at: Option<Instant>,
}

impl Attempts {
    fn at_a_call() -> Self {
        Self {
            deadline: Instant::now() + PATIENCE,
            wait: BACKOFF_MIN,
            tell_at: None,
        }
    }

    fn at_joining() -> Self {
        let now = Instant::now();
        Self {
            deadline: now + JOIN_PATIENCE,
            wait: BACKOFF_MIN,
            tell_at: Some(now + TELL_AFTER),
        }
    }
}

impl Client {
    /// Joins a cluster with a token: makes a key, has it certified, and gets a node id.
    ///
    /// `control` is `host:port`. The server must show a certificate of the authority that the token
    /// names before the token's secret is sent. While control cannot be reached, has too many attempts to
    /// look at, or an earlier start with this name has not lapsed, it tries again for half a minute.
    ///
    /// # Cancellation
    ///
    /// A dropped call may have used up the token.
    ///
    /// # Errors
    ///
    /// [`ClientError`]. After [`ClientError::TimedOut`] the token may be spent.
    pub async fn join(
        control: &str,
        token: &JoinToken,
        node: &NodeDescription,
    ) -> Result<Joined, ClientError> {
        let key = Key::generate();
        let pinned = Self::new(control, pinned_client_config(token))?;
        let request = JoinRequest {
            secret: token.secret().to_owned(),
            name: node.name.clone(),
            csr_pem: key.signing_request(),
            addr: node.addr,
            admin_addr: node.admin_addr,
            version: node.version.clone(),
            tags: node.tags.clone(),
        };
        let mut attempts = Attempts::at_joining();
        let answer: JoinResponse = loop {
            let call = |client: &Self| client.http().post(client.url("join")).json(&request);
            let joined = pinned.json_until(call, Repeat::IfNotSent, &mut attempts);
            match joined.await {
                Err(error) if is_its_turn_to_come(&error) => {
                    pinned.pause(&mut attempts, error).await?;
                }
                other => break other?,
            }
        };
        let joined = pinned.joined(key, answer)?;
        if !token.is_from(joined.identity.authority()) {
            return Err(pinned.answer("the authority it sent is not the token's"));
        }
        Ok(joined)
    }

    /// Joins again as the node that `identity` names, after a restart: same name and key, new node id.
    ///
    /// `node.name` is not looked at; the certificate decides. An earlier start of the node counts as
    /// left from now on. Each call is one start, however often its request is sent, and a request that is
    /// held up on its way replaces no start that came after it. `identity` may be an old copy: control tells
    /// which start is the newest.
    ///
    /// # Errors
    ///
    /// [`ClientError`]. If the certificate has run out, or the node was removed, a new token is
    /// needed. With [`codes::LATER_START`] and [`codes::NODE_GONE`] another start of this name came in between.
    pub async fn rejoin(
        control: &str,
        identity: &Identity,
        node: &NodeDescription,
    ) -> Result<Joined, ClientError> {
        let client = Self::with_identity(control, identity)?;
        let after = start_of(identity).unwrap_or(NodeId::STANDALONE);
        let mut request = RejoinRequest {
            csr_pem: identity.key().signing_request(),
            addr: node.addr,
            admin_addr: node.admin_addr,
            version: node.version.clone(),
            tags: node.tags.clone(),
            start: Some(to_hex(&mark())),
            after: Some(after.to_string()),
        };
        let mut attempts = Attempts::at_joining();
        let mut was_told = false;
        let answer: JoinResponse = loop {
            let call = |client: &Self| client.http().post(client.url("rejoin")).json(&request);
            // Twice is as good as once: it is the same start.
            let rejoined = client.json_until(call, Repeat::Always, &mut attempts);
            let error = match rejoined.await {
                Ok(answer) => break answer,
                Err(error) => error,
            };
            let Some(newest) = later_start(&error) else {
                return Err(error);
            };
            request.after = Some(newest);
            // Once there is nothing to wait for: an earlier start crashed before it had its answer on disk, or
            // `identity` is an old copy. After that somebody else starts this name, too.
            if was_told {
                client.pause(&mut attempts, error).await?;
            }
            was_told = true;
        };
        client.joined(identity.key().clone(), answer)
    }

    /// Speaks as `identity`, an operator's or a node's. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Usage`] if `control` is not an address or the identity cannot be used.
    pub fn with_identity(control: &str, identity: &Identity) -> Result<Self, ClientError> {
        let client = Self::new(control, https_client_config(identity, Role::Control, None))?;
        client.write().ticket = identity.ticket().map(to_hex);
        Ok(client)
    }

    /// What this control plane is.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable.
    pub async fn cluster(&self) -> Result<ClusterInfo, ClientError> {
        self.json(
            |client| client.http().get(client.url("cluster")),
            Repeat::Always,
        )
        .await
    }

    /// All nodes, the gone ones included.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable.
    pub async fn nodes(&self) -> Result<Members, ClientError> {
        self.json(
            |client| client.http().get(client.url("nodes")),
            Repeat::Always,
        )
        .await
    }

    /// Renews the lease of `node`, which must be this identity's.
    ///
    /// Repeated while unreachable, which may take longer than a lease: whoever holds one gives the call up
    /// after a part of it and calls again. Dropping the call harms nothing.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; see [`ClientError::is_node_gone`].
    pub async fn lease(&self, node: NodeId, draining: bool) -> Result<LeaseResponse, ClientError> {
        let ticket = self.shown().ticket;
        let request = LeaseRequest { draining, ticket };
        let url = self.url(&format!("nodes/{node}/lease"));
        self.json(
            |client| client.http().put(&url).json(&request),
            Repeat::Always,
        )
        .await
    }

    /// Says goodbye for `node`: for this identity's own node, or as an operator for any.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable.
    pub async fn leave(&self, node: NodeId) -> Result<NodeInfo, ClientError> {
        let url = self.url(&format!("nodes/{node}"));
        self.json(|client| client.http().delete(&url), Repeat::Always)
            .await
    }

    /// Removes `node` for good, operators only: its certificate cannot be used to join or renew.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable.
    pub async fn remove(&self, node: NodeId) -> Result<NodeInfo, ClientError> {
        let url = self.url(&format!("nodes/{node}"));
        let call = |client: &Self| client.http().delete(&url).query(&[("remove", "true")]);
        self.json(call, Repeat::Always).await
    }

    /// Gets a new certificate and ticket for the key of `identity`, a node's.
    ///
    /// From then on this client and its clones use the new certificate and ticket themselves.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable. A start whose name has a later one gets nothing; see
    /// [`ClientError::is_node_gone`].
    pub async fn renew(&self, identity: &Identity) -> Result<Identity, ClientError> {
        let request = RenewRequest {
            csr_pem: identity.key().signing_request(),
            ticket: identity.ticket().map(to_hex),
        };
        let call = |client: &Self| client.http().post(client.url("renew")).json(&request);
        let answer: RenewResponse = self.json(call, Repeat::Always).await?;
        let authority = tidelock_certs::identity::to_pem(identity.authority());
        let key = identity.key().clone();
        let renewed = self.identity(key, &answer.cert_pem, &authority, &answer.ticket)?;
        // A control of an earlier version answers whoever has the key with the latest start's.
        if let (Some(ours), Some(theirs)) = (start_of(identity), start_of(&renewed))
            && ours != theirs
        {
            return Err(self.answer(&format!("the ticket is {theirs}'s, and this is {ours}")));
        }
        let client = Self::with_identity(&self.control, &renewed)?;
        let shown = client.shown();
        *self.write() = shown;
        Ok(renewed)
    }

    /// Makes a join token, operators only.
    ///
    /// # Errors
    ///
    /// [`ClientError`]. After a timeout a token may exist that nobody knows; it expires.
    pub async fn create_token(
        &self,
        ttl: Duration,
        uses: u32,
    ) -> Result<TokenCreated, ClientError> {
        let request = CreateToken {
            ttl_s: ttl.as_secs(),
            uses,
        };
        let call = |client: &Self| client.http().post(client.url("tokens")).json(&request);
        self.json(call, Repeat::IfNotSent).await
    }

    /// Stores a module, operators only, and names it if `name` is given. Storing it again is harmless, and so is a
    /// request that is held up on its way: it takes no name from a deploy that came after it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable. With [`codes::LATER_DEPLOY`] somebody else has deployed under the
    /// name since this was called; the module is stored, by its hash alone.
    pub async fn put_module(
        &self,
        name: Option<&str>,
        bytes: impl Into<Bytes>,
    ) -> Result<ModuleInfo, ClientError> {
        let bytes = bytes.into();
        let mut query = vec![("hash", hash_of(&bytes).to_string())];
        if let Some(name) = name {
            query.push(("name", name.to_owned()));
            let after = self.deploys(name).await?;
            query.extend(after.map(|after| ("after", after.to_string())));
        }
        let call = |client: &Self| {
            let put = client.http().put(client.url("modules")).query(&query);
            put.timeout(MODULE_TIME_MAX).body(bytes.clone())
        };
        self.json(call, Repeat::Always).await
    }

    /// How often a module was deployed under `name`; `None` if this control does not count that.
    async fn deploys(&self, name: &str) -> Result<Option<u64>, ClientError> {
        // Anything but a plain name would be another path.
        check_module_name(name).map_err(|error| ClientError::Usage(error.to_string()))?;
        let url = self.url(&format!("module-names/{name}"));
        let call = |client: &Self| client.http().get(&url);
        match self.json::<ModuleName>(call, Repeat::Always).await {
            Ok(name) => Ok(Some(name.deploys)),
            // One of an earlier version.
            Err(error) if error.code() == Some(codes::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes of a module, checked against `hash`.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable or busy.
    pub async fn module(&self, hash: ModuleHash) -> Result<Bytes, ClientError> {
        let bytes = self.module_bytes(&hash.to_string()).await?;
        if hash_of(&bytes) != hash {
            return Err(self.answer("the module's bytes do not have its hash"));
        }
        Ok(bytes)
    }

    /// The module last deployed under `name`.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable or busy.
    pub async fn module_named(&self, name: &str) -> Result<(ModuleHash, Bytes), ClientError> {
        // Anything but a plain name would be another path.
        check_module_name(name).map_err(|error| ClientError::Usage(error.to_string()))?;
        let bytes = self.module_bytes(name).await?;
        Ok((hash_of(&bytes), bytes))
    }

    /// All modules the cluster holds.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; repeated while unreachable.
    pub async fn modules(&self) -> Result<Vec<ModuleInfo>, ClientError> {
        self.json(
            |client| client.http().get(client.url("modules")),
            Repeat::Always,
        )
        .await
    }

    fn new(
        control: &str,
        config: Result<rustls::ClientConfig, rustls::Error>,
    ) -> Result<Self, ClientError> {
        let control = control
            .strip_prefix("https://")
            .unwrap_or(control)
            .trim_end_matches('/');
        let usage = |reason: String| ClientError::Usage(format!("control {control:?}: {reason}"));
        let url = reqwest::Url::parse(&format!("https://{control}/"))
            .map_err(|error| usage(error.to_string()))?;
        // Not the URL's: that leaves out 443.
        let port = control
            .rsplit_once(':')
            .map(|(_, port)| port.parse::<u16>());
        let has_port = matches!(port, Some(Ok(1..)));
        if url.host().is_none() || url.path() != "/" || !url.username().is_empty() || !has_port {
            return Err(usage("host:port is expected".to_owned()));
        }
        let config = config.map_err(|error| usage(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .connect_timeout(CONNECT_TIME_MAX)
            .pool_idle_timeout(POOL_IDLE_MAX)
            .build()
            .map_err(|error| usage(error.to_string()))?;
        let shown = Shown { http, ticket: None };
        Ok(Self {
            shown: Arc::new(RwLock::new(shown)),
            control: control.into(),
        })
    }

    fn http(&self) -> reqwest::Client {
        self.shown().http
    }

    fn shown(&self) -> Shown {
        self.shown
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/v1/{path}", self.control)
    }

    fn joined(&self, key: Key, answer: JoinResponse) -> Result<Joined, ClientError> {
        let identity = self.identity(key, &answer.cert_pem, &answer.ca_pem, &answer.ticket)?;
        let node: NodeId = answer
            .node_id
            .parse()
            .ok()
            .filter(|node| *node != NodeId::STANDALONE)
            .ok_or_else(|| self.answer("its node id is none"))?;
        Ok(Joined {
            client: Self::with_identity(&self.control, &identity)?,
            identity,
            node,
            lease: Duration::from_millis(answer.lease_ms),
            members: answer.members,
        })
    }

    fn identity(
        &self,
        key: Key,
        certificate: &str,
        authority: &str,
        ticket: &str,
    ) -> Result<Identity, ClientError> {
        let ticket =
            from_hex(ticket).ok_or_else(|| self.answer("the ticket is not hexadecimal"))?;
        Identity::from_pem(key, certificate, authority, Some(ticket))
            .map_err(|error: IdentityError| self.answer(&error.to_string()))
    }

    async fn module_bytes(&self, which: &str) -> Result<Bytes, ClientError> {
        let url = self.url(&format!("modules/{which}"));
        let mut attempts = Attempts::at_a_call();
        loop {
            let call = |client: &Self| client.http().get(&url).timeout(MODULE_TIME_MAX);
            let sent = self.send_until(call, Repeat::Always, &mut attempts).await;
            let got = match sent {
                Ok(response) => self.read(response, MODULE_BYTES_MAX).await,
                Err(error) => Err(error),
            };
            let error = match got {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            // No place for it, a disk that failed, or an answer that broke off.
            let passes = matches!(
                &error,
                ClientError::Unreachable { .. }
                    | ClientError::Refused {
                        status: 429 | 503,
                        ..
                    }
            );
            if !passes {
                return Err(error);
            }
            self.pause(&mut attempts, error).await?;
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        call: impl Fn(&Self) -> RequestBuilder,
        repeat: Repeat,
    ) -> Result<T, ClientError> {
        self.json_until(call, repeat, &mut Attempts::at_a_call())
            .await
    }

    async fn json_until<T: DeserializeOwned>(
        &self,
        call: impl Fn(&Self) -> RequestBuilder,
        repeat: Repeat,
        attempts: &mut Attempts,
    ) -> Result<T, ClientError> {
        let response = self.send_until(call, repeat, attempts).await?;
        let bytes = self.read(response, ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.answer(&error.to_string()))
    }

    /// Sends a call until it is answered, refused, or the deadline has passed.
    async fn send_until(
        &self,
        call: impl Fn(&Self) -> RequestBuilder,
        repeat: Repeat,
        attempts: &mut Attempts,
    ) -> Result<Response, ClientError> {
        loop {
            let request = call(self).build().map_err(|error| {
                ClientError::Usage(format!("control {}: {error}", self.control))
            })?;
            let limit = request.timeout().copied().unwrap_or(CALL_TIME_MAX);
            let error = match timeout(limit, self.http().execute(request)).await {
                Ok(Ok(response)) if response.status().is_success() => return Ok(response),
                Ok(Ok(response)) => return Err(self.refusal(response).await),
                Ok(Err(error)) => {
                    let unsent = error.is_connect();
                    let error = self.network_error(&error, limit);
                    let again = matches!(error, ClientError::Unreachable { .. })
                        && (repeat == Repeat::Always || unsent);
                    if !again {
                        return Err(error);
                    }
                    error
                }
                Err(_) => return Err(self.timed_out(limit)),
            };
            self.pause(attempts, error).await?;
        }
    }

    /// Waits before the next attempt; gives `error` back if there is no time for one.
    async fn pause(&self, attempts: &mut Attempts, error: ClientError) -> Result<(), ClientError> {
        let (now, wait) = (Instant::now(), attempts.wait);
        if now + wait >= attempts.deadline {
            return Err(error);
        }
        if attempts.tell_at.is_some_and(|tell_at| now >= tell_at) {
            attempts.tell_at = Some(now + TELL_AGAIN);
            let why = match &error {
                ClientError::Unreachable { reason, .. } => reason.clone(),
                other => other.to_string(),
            };
            tracing::warn!("waiting for control at {}: {why}", self.control);
        } else {
            tracing::debug!(control = %self.control, %error, "trying again in {wait:?}");
        }
        sleep(wait).await;
        attempts.wait = (wait * 2).min(BACKOFF_MAX);
        Ok(())
    }

    async fn read(&self, mut response: Response, bytes_max: usize) -> Result<Bytes, ClientError> {
        let mut bytes = Vec::new();
        let all = async {
            while let Some(chunk) = response.chunk().await? {
                if bytes.len() + chunk.len() > bytes_max {
                    return Ok(false);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(true)
        };
        match timeout(MODULE_TIME_MAX, all).await {
            Ok(Ok(true)) => Ok(bytes.into()),
            Ok(Ok(false)) => Err(self.answer(&format!("it is longer than {bytes_max} bytes"))),
            Ok(Err(error)) => Err(self.network_error(&error, MODULE_TIME_MAX)),
            Err(_) => Err(self.timed_out(MODULE_TIME_MAX)),
        }
    }

    async fn refusal(&self, response: Response) -> ClientError {
        let status = response.status();
        let bytes = self.read(response, 1024 * 1024).await.unwrap_or_default();
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => ClientError::Refused {
                status: status.as_u16(),
                body,
            },
            Err(_) => self.answer(&format!("status {status} without an explanation")),
        }
    }

    fn network_error(&self, error: &reqwest::Error, limit: Duration) -> ClientError {
        let control = self.control.to_string();
        if let Some(reason) = tls_reason(error) {
            return ClientError::NotTrusted { control, reason };
        }
        if error.is_timeout() && !error.is_connect() {
            return ClientError::TimedOut { control, limit };
        }
        // The innermost cause is the one a person can act on.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        ClientError::Unreachable {
            control,
            reason: cause.to_string(),
        }
    }

    fn timed_out(&self, limit: Duration) -> ClientError {
        ClientError::TimedOut {
            control: self.control.to_string(),
            limit,
        }
    }

    fn answer(&self, reason: &str) -> ClientError {
        ClientError::Answer {
            control: self.control.to_string(),
            reason: reason.to_owned(),
        }
    }
}
