//! HTTPS as both our servers speak it: who is calling, what a body may cost, how errors look.
//!
//! Bounds on what a client can make the server hold: the number of connections, the time of the TLS
//! handshake, the time and size of a request's head, the time and size of its body. A connection
//! that exceeds one is closed or answered with an [`ErrorBody`].

use std::future::{Ready, ready};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls::TlsInfo;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidelock_certs::{CertificateDer, PeerName, Role, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

use crate::api::{ErrorBody, codes};

/// Below the 1024 files that a process may usually have open: the store needs some, too.
const CONNECTIONS_MAX: usize = 768;
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
            });
        self.listener.set_nonblocking(true)?;
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let acceptor = RustlsAcceptor::new(self.config)
            .handshake_timeout(HANDSHAKE_TIME_MAX)
            .acceptor(BoundedAcceptor { connections });
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
            Some(Self::Known { peer, key })
        });
        Ok(known.unwrap_or(Self::Nobody))
    }
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
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body)).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = header::HeaderValue::from_static("1");
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

/// Refuses connections above a number; the permit lives as long as the connection.
#[derive(Clone)]
struct BoundedAcceptor {
    connections: Arc<Semaphore>,
}

impl<S> Accept<TcpStream, S> for BoundedAcceptor {
    type Stream = TcpStream;
    type Service = BoundedService<S>;
    type Future = Ready<io::Result<(TcpStream, BoundedService<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        ready(match permit {
            Ok(permit) => stream.set_nodelay(true).map(|()| {
                (
                    stream,
                    BoundedService {
                        service,
                        _permit: Arc::new(permit),
                    },
                )
            }),
            Err(_) => Err(io::Error::other("too many connections")),
        })
    }
}

/// The service of one connection.
#[derive(Clone)]
struct BoundedService<S> {
    service: S,
    /// Given back when the connection is gone.
    _permit: Arc<OwnedSemaphorePermit>,
}

impl<S: Service<R>, R> Service<R> for BoundedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}
