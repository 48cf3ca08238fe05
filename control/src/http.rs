//! HTTPS as both our servers speak it: who is calling, what a body may cost, how errors look.
//!
//! Bounds on what a client can make the server hold: the number of connections, the time of the TLS
//! handshake, the time and size of a request's head, the time and size of its body, the time that an
//! answer is not taken. A connection that exceeds one is closed or answered with an [`ErrorBody`].
//!
//! Whoever has shown no certificate is a stranger. There are places that strangers do not get, one
//! source has only a few of theirs, and a connection of theirs is closed after one answer. When all are
//! taken, a source that has fewer than another takes the oldest of the one that has most: few sources do
//! not keep out the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::future::{Ready, ready};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls::TlsInfo;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidelock_certs::{CertificateDer, PeerName, Role, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tower_service::Service;

use crate::api::{ErrorBody, codes};
use crate::limit::network;

/// Below the 1024 files that a process may usually have open: the store needs some, too. Further ones
/// are closed, or a stranger's is for them, as with [`STRANGERS_MAX`].
const CONNECTIONS_MAX: usize = 768;
/// Those of strangers among them, and of whoever has not made a request yet. A further one is closed, unless
/// another source has more of them than its own: then the oldest of the source that has most is closed.
const STRANGERS_MAX: usize = 512;
/// Those of strangers of one source, an IPv4 address or an IPv6 network of 64 bits. Further ones are
/// closed. Programs of the server's own machine share an address and are not bounded by it.
const STRANGERS_OF_SOURCE_MAX: usize = 32;
/// How long a client may take nothing of what is sent to it. Then its connection is closed.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
const JSON_BYTES_MAX: usize = 64 * 1024;
const JSON_TIME_MAX: Duration = Duration::from_secs(10);

/// An HTTPS server that knows its callers.
pub struct Server {
    listener: TcpListener,
    config: RustlsConfig,
    handle: Handle<SocketAddr>,
}

impl Server {
    /// Serves on `listener`, with a configuration of
    /// [`https_server_config`](tidelock_certs::tls::https_server_config).
    #[must_use]
    pub fn new(listener: TcpListener, config: rustls::ServerConfig) -> Self {
        Self {
            listener,
            config: RustlsConfig::from_config(Arc::new(config)),
            handle: Handle::new(),
        }
    }

    /// Ends the server: `graceful_shutdown(Some(time))` lets requests finish, `shutdown()` does not.
    #[must_use]
    pub fn handle(&self) -> Handle<SocketAddr> {
        self.handle.clone()
    }

    /// Replaces the TLS configuration for later connections: `reload_from_config`.
    #[must_use]
    pub fn tls(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Answers requests until the handle ends it.
    ///
    /// Handlers find the caller as [`Caller`] and its address as `ConnectInfo<SocketAddr>`. Paths and
    /// methods that `router` does not know are answered with an [`ErrorBody`].
    ///
    /// # Errors
    ///
    /// The listener's.
    pub async fn serve(self, router: Router) -> io::Result<()> {
        self.serving(router).await
    }

    /// Boxed by a function that is not async: a web server is compiled with this crate, and not again
    /// with each program that starts one.
    fn serving(self, router: Router) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(self.served(router))
    }

    async fn served(self, router: Router) -> io::Result<()> {
        let router = router
            .fallback(|| async { ApiError::not_found("there is nothing at this path") })
            .method_not_allowed_fallback(|| async {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                ApiError::new(
                    status,
                    codes::BAD_REQUEST,
                    "this path does not take that method",
                )
            })
            .layer(middleware::from_fn(one_answer_for_strangers));
        self.listener.set_nonblocking(true)?;
        let acceptor = RustlsAcceptor::new(self.config)
            .handshake_timeout(HANDSHAKE_TIME_MAX)
            .acceptor(BoundedAcceptor::default());
        let mut server = axum_server::from_tcp(self.listener)?
            .acceptor(acceptor)
            .handle(self.handle)
            .http1_only()
            .first_request_timeout(HEAD_TIME_MAX);
        server
            .http_builder()
            .http1()
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        server
            .serve(router.into_make_service_with_connect_info::<SocketAddr>())
            .await
    }
}

/// Who sent a request, according to the certificate of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No certificate was shown.
    Nobody,
    /// A holder of a certificate of this cluster.
    Known {
        /// Who that is.
        peer: PeerName,
        /// The fingerprint of its key.
        key: [u8; 32],
        /// The last second of its certificate: what is open beyond it has to end.
        not_after: UnixTime,
    },
}

impl Caller {
    /// Lets only `roles` pass.
    ///
    /// # Errors
    ///
    /// 403, saying which role is needed.
    pub fn require(&self, roles: &[Role]) -> Result<&PeerName, ApiError> {
        match self {
            Self::Known { peer, .. } if roles.contains(&peer.role) => Ok(peer),
            Self::Known { peer, .. } => Err(not_permitted(
                roles,
                &format!("the certificate is for {}", peer.role),
            )),
            Self::Nobody => Err(not_permitted(
                roles,
                "no certificate, or an expired one, was shown",
            )),
        }
    }

    /// The fingerprint of its key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Known { key, .. } => Some(key),
            Self::Nobody => None,
        }
    }
}

fn not_permitted(roles: &[Role], who: &str) -> ApiError {
    let roles: Vec<String> = roles.iter().map(Role::to_string).collect();
    let message = format!("this needs the role {}: {who}", roles.join(" or "));
    ApiError::new(StatusCode::FORBIDDEN, codes::NOT_PERMITTED, message)
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let shown = parts.extensions.get::<Arc<TlsInfo>>();
        let certificate = shown.and_then(|shown| shown.peer_certificates.first());
        // What cannot be read would not have passed the handshake. But a connection may live longer
        // than the certificate it was opened with.
        let known = certificate.and_then(|certificate| {
            let certificate = CertificateDer::from(certificate.as_slice());
            let (_, not_after_s) = tidelock_certs::validity(&certificate).ok()?;
            if UnixTime::now().as_secs() > not_after_s {
                return None;
            }
            let peer = tidelock_certs::peer_name(&certificate).ok()?;
            let key = tidelock_certs::key_fingerprint(&certificate).ok()?;
            Some(Self::Known {
                peer,
                key,
                not_after: UnixTime::since_unix_epoch(Duration::from_secs(not_after_s)),
            })
        });
        Ok(known.unwrap_or(Self::Nobody))
    }
}

/// Whether a certificate was shown on the connection, which TLS has accepted then.
fn is_known(extensions: &axum::http::Extensions) -> bool {
    let shown = extensions.get::<Arc<TlsInfo>>();
    shown.is_some_and(|shown| !shown.peer_certificates.is_empty())
}

/// A stranger that asks again has to come again, and to find a place.
async fn one_answer_for_strangers(request: Request, next: Next) -> Response {
    let is_known = is_known(request.extensions());
    let mut response = next.run(request).await;
    if !is_known {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// A JSON body of at most 64 KiB that arrived within ten seconds.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read_body(request.into_body(), JSON_BYTES_MAX, JSON_TIME_MAX).await?;
        // An empty body means "all defaults".
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            ApiError::bad_request(format!("the body is not what this path takes: {error}"))
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Reads a body within `bytes_max` and `time_max`.
///
/// # Errors
///
/// 413 if it is longer, 408 if it takes longer, 400 if it breaks off.
pub async fn read_body(
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(time_max, axum::body::to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_error(&error) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            codes::TOO_LARGE,
            format!("the body is larger than {bytes_max} bytes"),
        )),
        Ok(Err(_)) => Err(ApiError::bad_request("the body broke off")),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            codes::BAD_REQUEST,
            format!("the body took longer than {time_max:?}"),
        )),
    }
}

fn is_length_error(error: &axum::Error) -> bool {
    // axum reports the limit as a type of http-body-util, which is not a dependency of ours.
    std::error::Error::source(error).is_some_and(|error| error.to_string().contains("length limit"))
}

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What the caller reads.
    pub body: ErrorBody,
}

impl ApiError {
    /// An error without advice.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            code: code.to_owned(),
            message: message.into(),
            next: Vec::new(),
            newest: None,
        };
        Self { status, body }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, codes::BAD_REQUEST, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, codes::NOT_FOUND, message)
    }

    /// Adds a step that may help.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.body.next.push(step.into());
        self
    }

    /// Says which start of a name is the newest; see [`ErrorBody::newest`].
    #[must_use]
    pub fn newest(mut self, start: impl Into<String>) -> Self {
        self.body.newest = Some(start.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body)).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.body.message, self.body.code)
    }
}

impl std::error::Error for ApiError {}

/// Refuses connections beyond the bounds.
#[derive(Clone, Default)]
struct BoundedAcceptor {
    places: Arc<Places>,
}

impl<S> Accept<TcpStream, S> for BoundedAcceptor {
    type Stream = Patient<TcpStream>;
    type Service = BoundedService<S>;
    type Future = Ready<io::Result<(Patient<TcpStream>, BoundedService<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.place_of(&stream).map(|place| {
            let place = Arc::new(place);
            (
                Patient::new(stream, STALL_TIME_MAX, Arc::clone(&place.hold)),
                BoundedService { service, place },
            )
        }))
    }
}

impl BoundedAcceptor {
    fn place_of(&self, stream: &TcpStream) -> io::Result<Place> {
        let place = self.places.take(stream.peer_addr()?.ip());
        let place = place.ok_or_else(|| io::Error::other("too many connections"))?;
        stream.set_nodelay(true)?;
        Ok(place)
    }
}

/// The service of one connection.
#[derive(Clone)]
struct BoundedService<S> {
    service: S,
    /// Given back when the connection is gone.
    place: Arc<Place>,
}

impl<S, B> Service<axum::http::Request<B>> for BoundedService<S>
where
    S: Service<axum::http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: axum::http::Request<B>) -> S::Future {
        if is_known(request.extensions()) {
            self.place.becomes_known();
        }
        self.service.call(request)
    }
}

/// The connections that are open, and whose they are.
#[derive(Default)]
struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    all: usize,
    strangers: usize,
    /// Strangers by source, the oldest of each first; no entry is empty.
    of_source: HashMap<IpAddr, BTreeMap<u64, Arc<Hold>>>,
    /// The number of the next one.
    next: u64,
}

impl Taken {
    /// Again is as good as once.
    fn stranger_goes(&mut self, source: IpAddr, number: u64) {
        if let Some(open) = self.of_source.get_mut(&source)
            && open.remove(&number).is_some()
        {
            if open.is_empty() {
                self.of_source.remove(&source);
            }
            self.strangers -= 1;
        }
    }

    /// Takes the oldest place of the source that has most of them, if it has more than `of_source`.
    fn displace(&mut self, of_source: usize) -> bool {
        let most = self.of_source.iter().max_by_key(|(_, open)| {
            let oldest = open.keys().next().copied();
            (open.len(), Reverse(oldest))
        });
        let Some((&source, open)) = most.filter(|(_, open)| open.len() > of_source) else {
            return false;
        };
        let Some((&number, hold)) = open.first_key_value() else {
            return false;
        };
        hold.lose();
        self.stranger_goes(source, number);
        self.all -= 1;
        true
    }
}

impl Places {
    /// A place for a connection, which is a stranger's until it is known to be somebody else's.
    fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = source.to_canonical();
        let is_own = source.is_loopback();
        let source = if is_own {
            Ipv4Addr::LOCALHOST.into()
        } else {
            network(source)
        };
        let mut taken = self.lock();
        let of_source = taken.of_source.get(&source).map_or(0, BTreeMap::len);
        if !is_own && of_source >= STRANGERS_OF_SOURCE_MAX {
            return None;
        }
        let is_full = taken.all >= CONNECTIONS_MAX || taken.strangers >= STRANGERS_MAX;
        if is_full && !taken.displace(of_source) {
            return None;
        }
        let (number, hold) = (taken.next, Arc::new(Hold::default()));
        taken.next += 1;
        taken.all += 1;
        taken.strangers += 1;
        let open = taken.of_source.entry(source).or_default();
        open.insert(number, Arc::clone(&hold));
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            source,
            number,
            is_known: AtomicBool::new(false),
            hold,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place.
struct Place {
    places: Arc<Places>,
    /// Whose it is as long as it is a stranger's, and which of theirs.
    source: IpAddr,
    number: u64,
    is_known: AtomicBool,
    hold: Arc<Hold>,
}

impl Place {
    /// From now on it is not one of the strangers' places.
    fn becomes_known(&self) {
        if !self.is_known.swap(true, Ordering::Relaxed) {
            self.places.lock().stranger_goes(self.source, self.number);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.stranger_goes(self.source, self.number);
        // One that was lost is another's already.
        if !self.hold.is_lost() {
            taken.all -= 1;
        }
    }
}

/// Whether a connection still has its place. Lost under the lock of the places; its stream fails then.
#[derive(Default)]
struct Hold {
    lost: AtomicBool,
    /// The task of the connection.
    waker: AtomicWaker,
}

impl Hold {
    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Fails once it is lost, and has `cx` woken then.
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.waker.register(cx.waker());
        if self.is_lost() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// A stream that fails when its other end takes nothing for a while, or its place is another's.
struct Patient<S> {
    stream: S,
    time_max: Duration,
    hold: Arc<Hold>,
    /// Runs while something waits to be taken.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, time_max: Duration, hold: Arc<Hold>) -> Self {
        Self {
            stream,
            time_max,
            hold,
            stall: None,
        }
    }

    /// What is made of a write's progress.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stall = None;
            return progress;
        }
        let time_max = self.time_max;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max)));
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.hold.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hold.check(cx)?;
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.hold.check(cx)?;
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn strangers_leave_places_for_others() {
        let places = Arc::new(Places::default());
        let mut open = Vec::new();
        let mut come = |source| places.take(source).map(|place| open.push(place)).is_some();
        // Of one source only so many.
        let of_one = (0..100).filter(|_| come(source(1))).count();
        assert_eq!(of_one, STRANGERS_OF_SOURCE_MAX);
        let host = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]);
        let of_network = (0..100).filter(|number| come(host(*number))).count();
        assert_eq!(of_network, STRANGERS_OF_SOURCE_MAX);
        // This machine's are bounded by what all strangers have, and by who has fewer.
        let own = IpAddr::from([127, 0, 0, 1]);
        let others = STRANGERS_MAX - 2 * STRANGERS_OF_SOURCE_MAX;
        assert_eq!((0..1000).filter(|_| come(own)).count(), others);
        assert!(!come(own));
        assert!(come(source(2)));
        let lost: Vec<bool> = open.iter().map(|place| place.hold.is_lost()).collect();
        let first_own = 2 * STRANGERS_OF_SOURCE_MAX;
        assert_eq!(lost.iter().position(|lost| *lost), Some(first_own));
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);
        // Who shows a certificate makes room for strangers, up to what all have.
        for place in &open {
            place.becomes_known();
            place.becomes_known();
        }
        let mut later = Vec::new();
        let mut come = |source| places.take(source).map(|place| later.push(place)).is_some();
        let rest = CONNECTIONS_MAX - STRANGERS_MAX;
        assert_eq!((0..1000).filter(|_| come(own)).count(), rest);
        drop((open, later));
        let taken = places.lock();
        assert_eq!(
            (taken.all, taken.strangers, taken.of_source.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn few_sources_do_not_keep_out_the_others() {
        let places = Arc::new(Places::default());
        let full = u8::try_from(STRANGERS_MAX / STRANGERS_OF_SOURCE_MAX).unwrap();
        let mut open = Vec::new();
        for number in 0..full {
            for _ in 0..STRANGERS_OF_SOURCE_MAX {
                open.push(places.take(source(number)).unwrap());
            }
        }
        let lost = |open: &[Place]| -> Vec<usize> {
            let all = open.iter().enumerate();
            let lost = all.filter(|(_, place)| place.hold.is_lost());
            lost.map(|(at, _)| at).collect()
        };
        // Each comer takes the oldest place of whoever has most.
        let first = places.take(source(100)).unwrap();
        assert_eq!(lost(&open), [0]);
        let second = places.take(source(101)).unwrap();
        assert_eq!(lost(&open), [0, STRANGERS_OF_SOURCE_MAX]);
        // None comes instead of somebody who has as few.
        let comers = (0..100).map_while(|_| places.take(source(102)));
        let later: Vec<Place> = comers.collect();
        let of_source = |number| places.lock().of_source[&source(number)].len();
        assert!((0..full).all(|number| of_source(number) <= later.len()));
        assert_eq!((of_source(100), of_source(101)), (1, 1));
        assert!(!first.hold.is_lost() && !second.hold.is_lost());
        {
            let taken = places.lock();
            assert_eq!((taken.all, taken.strangers), (STRANGERS_MAX, STRANGERS_MAX));
        }
        drop((open, first, second, later));
        assert_eq!(places.lock().all, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_loses_its_place_is_hung_up_on() {
        let (near, _far) = tokio::io::duplex(1);
        let hold = Arc::new(Hold::default());
        let mut near = Patient::new(near, STALL_TIME_MAX, Arc::clone(&hold));
        let read = tokio::time::timeout(STALL_TIME_MAX, near.read_u8());
        let (read, ()) = tokio::join!(read, async { hold.lose() });
        let error = read.expect("it waits on").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let error = near.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_is_slow_is_not() {
        let (near, mut far) = tokio::io::duplex(1);
        let mut near = Patient::new(near, STALL_TIME_MAX, Arc::default());
        let slow = async {
            for _ in 0..3 {
                tokio::time::sleep(STALL_TIME_MAX - Duration::from_secs(1)).await; // the clock is stopped
                far.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[0; 4]), slow);
        written.unwrap();
        let began = tokio::time::Instant::now();
        let error = near.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < 2 * STALL_TIME_MAX);
    }
}
