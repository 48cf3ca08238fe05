//! The control plane's paths: who may call each, and what it answers.
//!
//! | path | who | what |
//! | --- | --- | --- |
//! | `POST /v1/join` | anybody with a token | become a node |
//! | `POST /v1/rejoin` | nodes | become a node again, under a new id; the same request twice gets the same id |
//! | `POST /v1/renew` | nodes | new certificate and ticket for the same key and id |
//! | `PUT /v1/nodes/{id}/lease` | that node | stay a node |
//! | `DELETE /v1/nodes/{id}` | that node, operators | stop being one; `?remove=true` (operators): for good |
//! | `GET /v1/nodes`, `/v1/watch`, `/v1/cluster` | nodes, operators | look |
//! | `GET /v1/modules`, `/v1/modules/{hash or name}` | nodes, operators | look, fetch |
//! | `PUT /v1/modules` | operators | deploy; after a later deploy of the name only the bytes are kept |
//! | `GET /v1/module-names/{name}` | operators | what a deploy under the name is to follow |
//! | `POST /v1/tokens` | operators | let somebody join |
//! | `GET /livez` | anybody | whether the server turns |
//!
//! # What this module does not do
//!
//! It never connects to anything: the addresses that nodes give are data. It never tells a stranger
//! which part of a token was wrong.
//!
//! A node that an operator has removed is nobody here, whatever its certificate says, and a watch it
//! has open ends. Only its own lease and renewal are answered otherwise: with "gone", which is what
//! tells an honest one to stop.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Extension, FromRequest as _, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum_server::tls::TlsInfo;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tidelock_certs::authority::RequestError;
use tidelock_certs::{
    Authority, CertificateDer, Environments, JoinToken, Role, Ticket, TicketError, UnixTime,
    certificate_fingerprint, check_name, from_hex, key_fingerprint, to_hex,
};
use tidelock_proto::{ModuleHash, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::api::{
    ClusterInfo, CreateToken, JoinRequest, JoinResponse, LeaseRequest, LeaseResponse, Members,
    ModuleInfo, ModuleName, NodeInfo, RejoinRequest, RenewRequest, RenewResponse, TokenCreated,
    WatchEvent, codes,
};
use crate::http::{ApiError, Caller, Json, read_body};
use crate::limit::JoinGate;
use crate::members::{AdmitError, Books, Candidate, ChangeError, Moment};
use crate::modules::{MODULE_BYTES_MAX, ModuleError, Shelf};
use crate::store::{Store, StoreError, TOKENS_MAX};
use crate::tags::Tags;

const MODULE_TIME_MAX: Duration = Duration::from_secs(120);
const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const TOKEN_USES_MAX: u32 = 10_000;
const VERSION_BYTES_MAX: usize = 64;
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Modules that are on their way out at once. Further ones wait for a minute and are then refused.
pub(crate) const MODULES_OUT_MAX: usize = 16;
const MODULE_WAIT_MAX: Duration = Duration::from_secs(60);
/// What of a module is given to a connection at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Join tokens that are looked at once. Further ones wait for five seconds and are then refused.
pub(crate) const JOINS_MAX: usize = 16;
const JOIN_WAIT_MAX: Duration = Duration::from_secs(5);

/// What all handlers share.
pub(crate) struct App {
    pub(crate) books: Books,
    pub(crate) shelf: Shelf,
    pub(crate) store: Arc<Store>,
    pub(crate) authority: Authority,
    pub(crate) gate: Mutex<JoinGate>,
    /// [`JOINS_MAX`] and [`MODULES_OUT_MAX`].
    pub(crate) joins: Arc<Semaphore>,
    pub(crate) modules_out: Arc<Semaphore>,
    pub(crate) lease: Duration,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) started_at: Timestamp,
    /// Becomes true, or closed, when the server ends; streams must end then.
    pub(crate) stop: watch::Receiver<bool>,
    /// Dropped last: whoever waits for its other end knows that the store is closed.
    pub(crate) _open: mpsc::Sender<()>,
}

type Shared = State<Arc<App>>;
type Answer<T> = Result<Json<T>, ApiError>;

const ANY_ROLE: &[Role] = &[Role::Node, Role::Operator];

/// All paths of the control plane.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/v1/cluster", get(cluster))
        .route("/v1/tokens", post(create_token))
        .route("/v1/join", post(join))
        .route("/v1/rejoin", post(rejoin))
        .route("/v1/renew", post(renew))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{id}", delete(leave))
        .route("/v1/nodes/{id}/lease", put(lease))
        .route("/v1/watch", get(watch_members))
        .route("/v1/modules", get(modules).put(put_module))
        .route("/v1/modules/{which}", get(module))
        .route("/v1/module-names/{name}", get(module_name))
        .with_state(app)
}

async fn cluster(State(app): Shared, caller: Caller) -> Answer<ClusterInfo> {
    app.require(&caller, ANY_ROLE)?;
    blocking(app, |app| {
        Ok(Json(ClusterInfo {
            cluster: app.authority.cluster().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: app.books.members().revision,
            authority_fingerprint: to_hex(&certificate_fingerprint(app.authority.certificate())),
            started_at: app.started_at,
        }))
    })
    .await
}

async fn create_token(
    State(app): Shared,
    caller: Caller,
    Json(request): Json<CreateToken>,
) -> Answer<TokenCreated> {
    let operator = caller.require(&[Role::Operator])?.name.clone();
    let ttl = Duration::from_secs(request.ttl_s);
    if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
        let days = TOKEN_TTL_MAX.as_secs() / 86_400;
        return Err(ApiError::bad_request(format!(
            "ttl_s must be 1 second to {days} days"
        )));
    }
    if request.uses == 0 || request.uses > TOKEN_USES_MAX {
        return Err(ApiError::bad_request(format!(
            "uses must be 1 to {TOKEN_USES_MAX}"
        )));
    }
    blocking(app, move |app| {
        let now = Timestamp::now();
        let ttl = SignedDuration::try_from(ttl).expect("bounded above");
        let expires_at = now.saturating_add(ttl).expect("a duration can be added");
        let token = JoinToken::generate(app.authority.certificate());
        let hash = blake3::hash(token.secret().as_bytes());
        let (expires_s, now_s) = (expires_at.as_second(), now.as_second());
        if !app.store.add_token(hash, request.uses, expires_s, now_s)? {
            // Not as attempts of which there are too many: they may be open for days.
            let message = format!(
                "{TOKENS_MAX} join tokens are open; another can be made when one of them is used up or has expired"
            );
            let status = StatusCode::CONFLICT;
            return Err(ApiError::new(status, codes::TOO_MANY_TOKENS, message));
        }
        tracing::info!(operator, uses = request.uses, %expires_at, "made a join token");
        Ok(Json(TokenCreated {
            token: token.to_string(),
            expires_at,
            uses: request.uses,
        }))
    })
    .await
}

async fn join(
    State(app): Shared,
    ConnectInfo(source): ConnectInfo<SocketAddr>,
    request: Request,
) -> Answer<JoinResponse> {
    // Before anything is read: a stranger costs a look at a counter.
    if !app.gate().admit(source.ip(), Moment::now().steady) {
        return Err(too_many_joins());
    }
    let Json(request) = Json::<JoinRequest>::from_request(request, &()).await?;
    check_tags(&request.tags)?;
    let place = place_in(&app.joins, JOIN_WAIT_MAX).await;
    let place = place.ok_or_else(too_many_joins)?;
    blocking(app, move |app| {
        let _place = place;
        let now = Moment::now();
        let token = blake3::hash(request.secret.as_bytes());
        if !app.store.is_token_good(token, now.wall.as_second())? {
            return Err(app.token_refused(source.ip(), now));
        }
        check_name(&request.name).map_err(|error| ApiError::bad_request(error.to_string()))?;
        check_description(request.addr, request.admin_addr, &request.version)?;
        let certificate = app.issue(&request.csr_pem, &request.name)?;
        let candidate = Candidate {
            name: request.name,
            key: fingerprint(&certificate),
            addr: request.addr,
            admin_addr: request.admin_addr,
            version: request.version,
            tags: request.tags,
            token: Some(token),
            start: None,
            after: None,
        };
        match app.books.admit(candidate, now) {
            Ok((node, members)) => Ok(Json(app.welcome(&certificate, &node, members))),
            Err(AdmitError::Token) => Err(app.token_refused(source.ip(), now)),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

async fn rejoin(
    State(app): Shared,
    caller: Caller,
    Json(request): Json<RejoinRequest>,
) -> Answer<JoinResponse> {
    let (name, key) = node_caller(&caller)?;
    check_description(request.addr, request.admin_addr, &request.version)?;
    check_tags(&request.tags)?;
    let start = request.start.as_deref().map(parse_start).transpose()?;
    let after = request.after.as_deref().map(parse_after).transpose()?;
    blocking(app, move |app| {
        let certificate = app.issue_for_key(&request.csr_pem, &name, key)?;
        let candidate = Candidate {
            name,
            key,
            addr: request.addr,
            admin_addr: request.admin_addr,
            version: request.version,
            tags: request.tags,
            token: None,
            start,
            after,
        };
        let (node, members) = app.books.admit(candidate, Moment::now())?;
        Ok(Json(app.welcome(&certificate, &node, members)))
    })
    .await
}

async fn renew(
    State(app): Shared,
    caller: Caller,
    Extension(tls): Extension<Arc<TlsInfo>>,
    Json(request): Json<RenewRequest>,
) -> Answer<RenewResponse> {
    let (name, key) = node_caller(&caller)?;
    blocking(app, move |app| {
        // A removed node is not present, by whatever start.
        let ticketed = app.ticketed(request.ticket.as_deref(), &tls);
        let node = app.books.present_as(&name, &key, ticketed);
        let node = node.map_err(|error| app.for_own_node(&key, error))?;
        let certificate = app.issue_for_key(&request.csr_pem, &name, key)?;
        Ok(Json(RenewResponse {
            cert_pem: tidelock_certs::identity::to_pem(&certificate),
            ticket: app.ticket(&certificate, node),
        }))
    })
    .await
}

async fn lease(
    State(app): Shared,
    caller: Caller,
    Extension(tls): Extension<Arc<TlsInfo>>,
    id: Result<Path<String>, PathRejection>,
    Json(request): Json<LeaseRequest>,
) -> Answer<LeaseResponse> {
    let (_, key) = node_caller(&caller)?;
    let id = parse_node(&part(id)?)?;
    blocking(app, move |app| {
        let is_ticketed = || app.ticketed(request.ticket.as_deref(), &tls) == Some(id);
        let now = Moment::now();
        let leased = app
            .books
            .lease(id, &key, request.draining, is_ticketed, now);
        let revision = leased.map_err(|error| app.for_own_node(&key, error))?;
        Ok(Json(LeaseResponse {
            lease_ms: app.lease_ms(),
            revision,
        }))
    })
    .await
}

#[derive(Deserialize)]
struct LeaveQuery {
    #[serde(default)]
    remove: bool,
}

async fn leave(
    State(app): Shared,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<LeaveQuery>, QueryRejection>,
) -> Answer<NodeInfo> {
    let remove = query
        .map_err(|error| ApiError::bad_request(error.to_string()))?
        .remove;
    let peer = caller.require(if remove { &[Role::Operator] } else { ANY_ROLE })?;
    let by_operator = peer.role == Role::Operator;
    let key = if by_operator {
        None
    } else {
        Some(node_caller(&caller)?.1)
    };
    let id = parse_node(&part(id)?)?;
    blocking(app, move |app| {
        let now = Moment::now();
        let node = if remove {
            app.books.remove(id, now)
        } else {
            app.books.leave(id, key.as_ref(), now)
        };
        Ok(Json(node?))
    })
    .await
}

async fn nodes(State(app): Shared, caller: Caller) -> Answer<Members> {
    app.require(&caller, ANY_ROLE)?;
    blocking(app, |app| Ok(Json(app.books.members()))).await
}

async fn watch_members(State(app): Shared, caller: Caller) -> Result<Response, ApiError> {
    app.require(&caller, ANY_ROLE)?;
    let reader = match &caller {
        Caller::Known { key, not_after, .. } => Some((*key, *not_after)),
        Caller::Nobody => None,
    };
    let stop = app.stop.clone();
    // A removal before it is open ends it with its first event, and one from there on is a change.
    let watcher = Watcher::open(Arc::clone(&app), reader, stop).await?;
    let lines = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(to_line(&event)), watcher))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

async fn modules(State(app): Shared, caller: Caller) -> Answer<Vec<ModuleInfo>> {
    app.require(&caller, ANY_ROLE)?;
    blocking(app, |app| Ok(Json(app.shelf.list()?))).await
}

async fn module(
    State(app): Shared,
    caller: Caller,
    which: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    app.require(&caller, ANY_ROLE)?;
    let which = part(which)?;
    let place = place_in(&app.modules_out, MODULE_WAIT_MAX).await;
    let place = place.ok_or_else(|| {
        let status = StatusCode::TOO_MANY_REQUESTS;
        ApiError::new(
            status,
            codes::TOO_MANY,
            "too many modules are on their way to others",
        )
    })?;
    blocking(app, move |app| match app.shelf.read(&which)? {
        Some(bytes) => Ok(in_chunks(bytes, place)),
        None => {
            Err(ApiError::not_found(format!("there is no module {which:?}"))
                .next("tidelock modules"))
        }
    })
    .await
}

/// A module as an answer: `place` is taken until all of it is sent, or its time is over.
fn in_chunks(bytes: Bytes, place: OwnedSemaphorePermit) -> Response {
    let length = bytes.len();
    let until = Instant::now() + MODULE_TIME_MAX;
    let chunks =
        futures_util::stream::unfold((bytes, place), move |(mut bytes, place)| async move {
            if bytes.is_empty() {
                return None;
            }
            let chunk = if Instant::now() < until {
                Ok(bytes.split_to(bytes.len().min(CHUNK_BYTES)))
            } else {
                Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
            };
            Some((chunk, (bytes, place)))
        });
    let head = [
        (header::CONTENT_TYPE, "application/wasm".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    (head, Body::from_stream(chunks)).into_response()
}

/// A place among those of `places`, if one is free in time.
async fn place_in(places: &Arc<Semaphore>, wait_max: Duration) -> Option<OwnedSemaphorePermit> {
    let place = timeout(wait_max, Arc::clone(places).acquire_owned()).await;
    place.ok()?.ok()
}

fn too_many_joins() -> ApiError {
    let status = StatusCode::TOO_MANY_REQUESTS;
    ApiError::new(status, codes::TOO_MANY, "too many attempts to join")
}

async fn module_name(
    State(app): Shared,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Answer<ModuleName> {
    caller.require(&[Role::Operator])?;
    let name = part(name)?;
    blocking(app, move |app| {
        let deploys = app.shelf.deploys(&name)?;
        Ok(Json(ModuleName { deploys }))
    })
    .await
}

#[derive(Deserialize)]
struct PutModuleQuery {
    name: Option<String>,
    hash: Option<String>,
    after: Option<u64>,
}

async fn put_module(
    State(app): Shared,
    caller: Caller,
    query: Result<Query<PutModuleQuery>, QueryRejection>,
    request: Request,
) -> Answer<ModuleInfo> {
    caller.require(&[Role::Operator])?;
    let Query(PutModuleQuery { name, hash, after }) =
        query.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let announced = match hash {
        Some(hash) => Some(
            hash.parse::<ModuleHash>()
                .map_err(|error| ApiError::bad_request(error.to_string()))?,
        ),
        None => None,
    };
    let bytes = read_body(request.into_body(), MODULE_BYTES_MAX, MODULE_TIME_MAX).await?;
    blocking(app, move |app| {
        Ok(Json(app.shelf.put(
            &bytes,
            announced,
            name,
            after,
            Timestamp::now(),
        )?))
    })
    .await
}

impl App {
    fn gate(&self) -> std::sync::MutexGuard<'_, JoinGate> {
        self.gate
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets only `roles` pass, and no node that was removed.
    fn require(&self, caller: &Caller, roles: &[Role]) -> Result<(), ApiError> {
        caller.require(roles)?;
        match caller.key() {
            Some(key) if self.books.is_removed(key) => Err(AdmitError::Removed.into()),
            _ => Ok(()),
        }
    }

    /// What the node with this key is told when it asks for itself.
    fn for_own_node(&self, key: &[u8; 32], error: ChangeError) -> ApiError {
        let gone = |message: String| ApiError::new(StatusCode::GONE, codes::NODE_GONE, message);
        match error {
            // The same code, so that it leaves; and why, for whoever reads its last words.
            ChangeError::Unknown(_) | ChangeError::Gone(_) | ChangeError::Replaced { .. }
                if self.books.is_removed(key) =>
            {
                gone(AdmitError::Removed.to_string())
            }
            // One that is not in the books has the same move as one that was lost.
            ChangeError::Unknown(_) => {
                gone("this node is not in the cluster's books; it must join again".to_owned())
            }
            error => error.into(),
        }
    }

    /// The one answer to all tokens that do not work, as long as there are not too many of them.
    fn token_refused(&self, source: IpAddr, now: Moment) -> ApiError {
        if !self.gate().failed(source, now.steady) {
            return too_many_joins();
        }
        tracing::warn!(%source, "a join token was refused");
        AdmitError::Token.into()
    }

    /// The id that the caller was given, as the authority says.
    fn ticketed(&self, ticket: Option<&str>, tls: &TlsInfo) -> Option<NodeId> {
        let ticket = ticket.and_then(from_hex)?;
        let certificate = CertificateDer::from(tls.peer_certificates.first()?.as_slice());
        let authority = self.authority.certificate();
        match Ticket::verify(&ticket, authority, &certificate, UnixTime::now()) {
            // One that has run out on the way was handed out all the same.
            Ok(Ticket { node, .. }) | Err(TicketError::Time { node, .. }) => Some(node),
            Err(_) => None,
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    fn issue(&self, request: &str, name: &str) -> Result<CertificateDer<'static>, ApiError> {
        let lifetime = self.certificate_lifetime;
        let certificate = self
            .authority
            .issue_node(request, name, lifetime, UnixTime::now());
        certificate.map_err(|error: RequestError| {
            let status = StatusCode::BAD_REQUEST;
            ApiError::new(status, codes::BAD_SIGNING_REQUEST, error.to_string())
        })
    }

    fn issue_for_key(
        &self,
        request: &str,
        name: &str,
        key: [u8; 32],
    ) -> Result<CertificateDer<'static>, ApiError> {
        let certificate = self.issue(request, name)?;
        if fingerprint(&certificate) == key {
            return Ok(certificate);
        }
        let message = "the signing request is for another key than the caller's";
        Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            codes::BAD_SIGNING_REQUEST,
            message,
        ))
    }

    fn ticket(&self, certificate: &CertificateDer<'_>, node: NodeId) -> String {
        let ticket = self
            .authority
            .issue_ticket(certificate, node, Environments::Any);
        to_hex(&ticket.expect("the certificate was just issued to a node"))
    }

    fn welcome(
        &self,
        certificate: &CertificateDer<'_>,
        node: &NodeInfo,
        members: Members,
    ) -> JoinResponse {
        let id = node.id.parse().expect("ids are ours");
        JoinResponse {
            node_id: node.id.clone(),
            cluster: self.authority.cluster().to_owned(),
            cert_pem: tidelock_certs::identity::to_pem(certificate),
            ca_pem: self.authority.certificate_pem(),
            ticket: self.ticket(certificate, id),
            lease_ms: self.lease_ms(),
            members,
        }
    }
}

/// One reader of the membership.
pub(crate) struct Watcher {
    app: Arc<App>,
    /// To be told before anything else.
    snapshot: Option<Members>,
    changes: broadcast::Receiver<WatchEvent>,
    revision: u64,
    /// The reader's key and the end of its certificate, if it has one: once the key is removed or the
    /// certificate has run out, it is told nothing more.
    reader: Option<([u8; 32], UnixTime)>,
    stop: watch::Receiver<bool>,
}

impl Watcher {
    pub(crate) async fn open(
        app: Arc<App>,
        reader: Option<([u8; 32], UnixTime)>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, ApiError> {
        let (members, changes) = blocking(Arc::clone(&app), |app| Ok(app.books.watch())).await?;
        let revision = members.revision;
        Ok(Self {
            app,
            snapshot: Some(members),
            changes,
            revision,
            reader,
            stop,
        })
    }

    /// `None` when the server ends, or the reader is no node any more, or only was one by the certificate
    /// that it came with.
    pub(crate) async fn next(&mut self) -> Option<WatchEvent> {
        let event = self.next_event().await?;
        let is_over = |(key, not_after): ([u8; 32], UnixTime)| {
            self.app.books.is_removed(&key) || UnixTime::now() > not_after
        };
        (!self.reader.is_some_and(is_over)).then_some(event)
    }

    async fn next_event(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(members) = self.snapshot.take() {
                return Some(WatchEvent::Snapshot(members));
            }
            let change = tokio::select! {
                change = self.changes.recv() => change,
                () = tokio::time::sleep(HEARTBEAT) => {
                    return Some(WatchEvent::Heartbeat { revision: self.revision });
                }
                _ = self.stop.wait_for(|stop| *stop) => return None,
            };
            match change {
                Ok(event) => {
                    if let WatchEvent::Change { revision, .. } = &event {
                        self.revision = *revision;
                    }
                    return Some(event);
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let (app, stop) = (Arc::clone(&self.app), self.stop.clone());
                    *self = Self::open(app, self.reader, stop).await.ok()?;
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Serialises one line of a stream.
fn to_line(event: &WatchEvent) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("our own types are plain data");
    line.push(b'\n');
    line.into()
}

/// Runs what waits for locks and disks away from the threads that serve connections.
///
/// It runs to its end even if the caller hangs up.
async fn blocking<T: Send + 'static>(
    app: Arc<App>,
    f: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(move || f(&app)).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a request could not be handled");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(ApiError::new(
                status,
                codes::STORE,
                "the control plane has a bug; see its log",
            ))
        }
    }
}

/// Name and key of the calling node.
fn node_caller(caller: &Caller) -> Result<(String, [u8; 32]), ApiError> {
    let name = caller.require(&[Role::Node])?.name.clone();
    match caller {
        Caller::Known { key, .. } => Ok((name, *key)),
        Caller::Nobody => unreachable!("has the role of a node"),
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    key_fingerprint(certificate).expect("the certificate was just issued")
}

/// What stands in a path.
fn part(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    match path {
        Ok(Path(part)) => Ok(part),
        Err(error) => Err(ApiError::bad_request(error.to_string())),
    }
}

fn check_tags(tags: &Tags) -> Result<(), ApiError> {
    tags.check()
        .map_err(|error| ApiError::bad_request(error.to_string()))
}

fn parse_node(text: &str) -> Result<NodeId, ApiError> {
    text.parse()
        .map_err(|_| ApiError::not_found(format!("there is no node {text:?}")))
}

/// Which start a rejoin is of.
fn parse_start(text: &str) -> Result<[u8; 16], ApiError> {
    let start: Option<[u8; 16]> = from_hex(text).and_then(|bytes| bytes.try_into().ok());
    start.ok_or_else(|| ApiError::bad_request("start must be 32 hexadecimal digits"))
}

/// Which start a rejoin is to follow.
fn parse_after(text: &str) -> Result<NodeId, ApiError> {
    text.parse()
        .map_err(|_| ApiError::bad_request("after must be a node, such as n3"))
}

/// Addresses are passed on to peers; nothing is ever sent to them from here.
fn check_description(
    addr: SocketAddr,
    admin_addr: SocketAddr,
    version: &str,
) -> Result<(), ApiError> {
    for addr in [addr, admin_addr] {
        if addr.ip().is_unspecified() || addr.ip().is_multicast() || addr.port() == 0 {
            return Err(ApiError::bad_request(format!(
                "{addr} is no address to reach a node at; give --advertise IP, or listen on one address"
            )));
        }
    }
    if version.len() > VERSION_BYTES_MAX || !version.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::bad_request(
            "version must be at most 64 printable characters",
        ));
    }
    Ok(())
}

impl From<AdmitError> for ApiError {
    fn from(error: AdmitError) -> Self {
        let (status, code) = match &error {
            AdmitError::Token => (StatusCode::FORBIDDEN, codes::TOKEN_REFUSED),
            AdmitError::NameTaken { .. } => (StatusCode::CONFLICT, codes::NAME_TAKEN),
            // Not as other attempts of which there are too many: a moment does not help.
            AdmitError::TooManyIds { .. } => (StatusCode::CONFLICT, codes::TOO_MANY_IDS),
            AdmitError::Removed => (StatusCode::FORBIDDEN, codes::NOT_PERMITTED),
            // Not as a store that fails: no time helps.
            AdmitError::Exhausted => (StatusCode::CONFLICT, codes::NO_IDS_LEFT),
            AdmitError::Later { .. } => (StatusCode::CONFLICT, codes::LATER_START),
            AdmitError::Listed(error) => refusal_of(error),
            AdmitError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, codes::STORE),
        };
        let answer = Self::new(status, code, error.to_string());
        match error {
            AdmitError::Token => answer.next("tidelock token"),
            AdmitError::NameTaken { .. } => answer.next("tidelock nodes"),
            AdmitError::Later { newest, .. } => answer.newest(newest.to_string()),
            _ => answer,
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let (status, code) = refusal_of(&error);
        Self::new(status, code, error.to_string())
    }
}

fn refusal_of(error: &ChangeError) -> (StatusCode, &'static str) {
    match error {
        ChangeError::Unknown(_) => (StatusCode::NOT_FOUND, codes::NOT_FOUND),
        ChangeError::NotYours(_) => (StatusCode::FORBIDDEN, codes::NOT_PERMITTED),
        ChangeError::Gone(_) | ChangeError::Replaced { .. } => (StatusCode::GONE, codes::NODE_GONE),
        ChangeError::OldBooks(_) | ChangeError::Store(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, codes::STORE)
        }
    }
}

impl From<ModuleError> for ApiError {
    fn from(error: ModuleError) -> Self {
        let (status, code) = match &error {
            ModuleError::Name(_) => (StatusCode::BAD_REQUEST, codes::BAD_REQUEST),
            ModuleError::NotWasm | ModuleError::OtherHash { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, codes::MODULE_REFUSED)
            }
            ModuleError::Clash(_) => (StatusCode::CONFLICT, codes::MODULE_REFUSED),
            ModuleError::Late { .. } => (StatusCode::CONFLICT, codes::LATER_DEPLOY),
            ModuleError::Full => (StatusCode::INSUFFICIENT_STORAGE, codes::MODULE_REFUSED),
            // Asking again does not mend it.
            ModuleError::Damaged(_) => (StatusCode::INTERNAL_SERVER_ERROR, codes::STORE),
            ModuleError::Io(_) | ModuleError::Store(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, codes::STORE)
            }
        };
        let answer = Self::new(status, code, error.to_string());
        match error {
            ModuleError::Late { .. } => answer.next("tidelock modules"),
            _ => answer,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            codes::STORE,
            error.to_string(),
        )
    }
}
