//! QUIC and mutual TLS: bytes between two nodes. The only user of quinn and of sockets.
//!
//! A connection carries one *lane* each way (a long-lived unidirectional stream), *bulk* streams
//! (one per large message), *fetches* (one bidirectional stream per module asked for) and datagrams
//! (Ping, Pong). What they mean is [`crate::dist`]'s business.
//!
//! # Settings, and why
//!
//! * MTU discovery may climb to 6 500 bytes: ten such segments stay below the 64 KiB of one
//!   segmented send, above which the kernel refuses the batch and the connection stalls.
//! * Socket buffers of 2 MiB: the usual 208 KiB lose packets under bulk, 4 MiB are a standing queue.
//! * QUIC's own idle timeout is only a backstop behind the lease, see [`tidelock_proto::lease`].
//! * Handshakes under way are bounded by a `Gate`: addresses must prove themselves when there are many,
//!   and one that has proven itself gets its share and no more, which is the smaller the more of them there are.

mod canary;
mod carrier;
mod connection;
mod gate;
mod queue;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tidelock_certs::{Identity, peer_config};

pub use self::canary::Canary;
use self::carrier::Carried;
pub use self::carrier::Carrier;
use self::connection::reason;
pub use self::connection::{
    BulkWriter, Connection, LaneReader, LaneWriter, Opened, Question, Unknown,
};
use self::gate::{Gate, HANDSHAKES_MAX, Pass};
use self::queue::ShortQueue;
use crate::lock;

/// The largest datagram payload QUIC may try, in bytes.
pub(crate) const MTU_MAX: u16 = 6_500;
/// Bytes of each socket buffer.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// Bytes a peer may send on one stream ahead of us reading it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes unacknowledged on one connection. Above every stream's window, or one stream starves the rest.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// Streams a peer may have open at once, of each kind.
const STREAMS_MAX: u32 = 256;
/// How long a handshake may take. Above what a dialler waits for an answer.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a dial waits for an answer before it knocks once more. Above the round trips of most
/// networks, so that they see one knock; below what people notice.
const KNOCK_EVERY: Duration = Duration::from_millis(500);

/// Why bytes do not get through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The socket could not be opened. An operator has to choose another address.
    #[error("cannot listen on UDP {addr}: {why}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// This node's own certificate or key cannot be used.
    #[error("this node's identity cannot be used: {0}")]
    Identity(String),
    /// Nothing came back.
    #[error(
        "no answer from {addr} over UDP; is the node running, and does a firewall let UDP through?"
    )]
    Silent {
        /// Who was dialled.
        addr: SocketAddr,
    },
    /// The other side, or its TLS, said no.
    #[error("{0}")]
    Closed(String),
}

/// The socket of one node.
#[derive(Debug, Clone)]
pub struct Transport {
    endpoint: quinn::Endpoint,
    /// Whom it speaks as; replaced as a whole, so that each connection is of one identity.
    speaker: Arc<Mutex<Arc<Speaker>>>,
    gate: Arc<Mutex<Gate>>,
    around: Surroundings,
}

/// What a transport is in.
#[derive(Debug, Clone)]
struct Surroundings {
    calendar: Arc<dyn TimeProvider>,
    /// Whether the kernel carries the datagrams, and so knows of ports that nobody listens at.
    kernel: bool,
}

fn transport_config(lease: Duration) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    let idle = quinn::IdleTimeout::try_from(lease * 3).expect("a lease is far below 2^62 ms");
    config
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(ShortQueue::default()))
        .max_idle_timeout(Some(idle))
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window((STREAM_WINDOW_BYTES * 8).into())
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_uni_streams(STREAMS_MAX.into())
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .datagram_receive_buffer_size(Some(64 << 10));
    config
}

fn endpoint_config() -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::default();
    // What is not announced here the peer does not try.
    config
        .max_udp_payload_size(MTU_MAX)
        .expect("it is between 1200 and 65527");
    config
}

/// An identity, and what dialling and accepting as it takes.
#[derive(Debug)]
struct Speaker {
    identity: Arc<Identity>,
    server: Arc<quinn::ServerConfig>,
    client: quinn::ClientConfig,
}

impl Speaker {
    fn new(
        identity: &Identity,
        lease: Duration,
        calendar: &Arc<dyn TimeProvider>,
    ) -> Result<Arc<Self>, TransportError> {
        let refused = |error: &dyn fmt::Display| TransportError::Identity(error.to_string());
        let (mut server, mut client) = peer_config(identity).map_err(|error| refused(&error))?;
        server.time_provider = calendar.clone();
        client.time_provider = calendar.clone();
        let config = Arc::new(transport_config(lease));
        let server = QuicServerConfig::try_from(server).map_err(|error| refused(&error))?;
        let client = QuicClientConfig::try_from(client).map_err(|error| refused(&error))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server
            .transport_config(config.clone())
            .max_incoming(HANDSHAKES_MAX);
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(config);
        Ok(Arc::new(Speaker {
            identity: Arc::new(identity.clone()),
            server: Arc::new(server),
            client,
        }))
    }
}

/// A UDP socket nobody speaks on yet.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    addr: SocketAddr,
}

impl Socket {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`].
    pub fn bind(addr: SocketAddr) -> Result<Self, TransportError> {
        let bind = |error: std::io::Error| TransportError::Bind {
            addr,
            why: error.to_string(),
        };
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(addr),
            socket2::Type::DGRAM,
            Some(socket2::Protocol::UDP),
        )
        .map_err(bind)?;
        // As much as the system gives.
        let _: std::io::Result<()> = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _: std::io::Result<()> = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&addr.into()).map_err(bind)?;
        let socket = UdpSocket::from(socket);
        let addr = socket.local_addr().map_err(bind)?;
        Ok(Socket { socket, addr })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Transport {
    /// Speaks on `socket` as `identity`.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] or [`TransportError::Identity`].
    pub fn new(
        socket: Socket,
        identity: &Identity,
        lease: Duration,
    ) -> Result<Self, TransportError> {
        let Socket { socket, addr } = socket;
        // Set up before the socket is read: packets of early dials are waiting in it.
        let around = Surroundings {
            calendar: Arc::new(DefaultTimeProvider),
            kernel: true,
        };
        let speaker = Speaker::new(identity, lease, &around.calendar)?;
        let server = Some((*speaker.server).clone());
        let config = endpoint_config();
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(config, server, socket, runtime);
        Self::begin(endpoint, addr, speaker, around)
    }

    /// As [`Transport::new`], with `carrier` in place of a socket of the kernel. What QUIC decides by
    /// chance follows from `seed`; keys and connection ids do not.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] or [`TransportError::Identity`].
    pub fn over(
        carrier: Arc<dyn Carrier>,
        identity: &Identity,
        lease: Duration,
        seed: [u8; 32],
    ) -> Result<Self, TransportError> {
        let addr = carrier.addr();
        let around = Surroundings {
            calendar: carrier.calendar(),
            kernel: false,
        };
        let speaker = Speaker::new(identity, lease, &around.calendar)?;
        let server = Some((*speaker.server).clone());
        let mut config = endpoint_config();
        config.rng_seed(Some(seed));
        let socket = Arc::new(Carried(carrier));
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(config, server, socket, runtime);
        Self::begin(endpoint, addr, speaker, around)
    }

    fn begin(
        endpoint: io::Result<quinn::Endpoint>,
        addr: SocketAddr,
        speaker: Arc<Speaker>,
        around: Surroundings,
    ) -> Result<Self, TransportError> {
        let endpoint = endpoint.map_err(|error| TransportError::Bind {
            addr,
            why: error.to_string(),
        })?;
        Ok(Transport {
            endpoint,
            speaker: Arc::new(Mutex::new(speaker)),
            gate: Arc::default(),
            around,
        })
    }

    /// From now on dials and accepts as `identity`; open connections are not touched.
    ///
    /// # Errors
    ///
    /// [`TransportError::Identity`]; nothing changes.
    pub fn speak_as(&self, identity: &Identity, lease: Duration) -> Result<(), TransportError> {
        let speaker = Speaker::new(identity, lease, &self.around.calendar)?;
        self.endpoint
            .set_server_config(Some((*speaker.server).clone()));
        *lock(&self.speaker) = speaker;
        Ok(())
    }

    /// Whom it speaks as.
    pub fn identity(&self) -> Arc<Identity> {
        self.speaker().identity.clone()
    }

    fn speaker(&self) -> Arc<Speaker> {
        lock(&self.speaker).clone()
    }

    /// Dials a node; TLS is complete when this returns. Never gives up by itself sooner than QUIC does.
    ///
    /// While no answer comes, it knocks again every half second, with a connection of its own; the
    /// first that is complete is taken, the others are dropped. QUIC alone repeats its first packet
    /// after 1, 3 and 7 seconds: a network that heals between is found healed seconds later.
    ///
    /// # Errors
    ///
    /// [`TransportError`].
    pub async fn dial(&self, addr: SocketAddr) -> Result<Connection, TransportError> {
        let mut knocks: FuturesUnordered<quinn::Connecting> = FuturesUnordered::new();
        let mut again = tokio::time::interval(KNOCK_EVERY);
        let speaker = self.speaker();
        loop {
            tokio::select! {
                biased;
                Some(answer) = knocks.next() => {
                    let shown = speaker.identity.clone();
                    return match answer {
                        Ok(quic) => Ok(Connection { quic, shown, around: self.around.clone() }),
                        Err(quinn::ConnectionError::TimedOut) => Err(TransportError::Silent { addr }),
                        Err(other) => Err(TransportError::Closed(reason(&other))),
                    };
                }
                // At once for the first time.
                _ = again.tick() => {
                    let connecting = self
                        .endpoint
                        .connect_with(speaker.client.clone(), addr, tidelock_certs::SERVER_NAME)
                        .map_err(|error| TransportError::Closed(error.to_string()))?;
                    knocks.push(connecting);
                }
            }
        }
    }

    /// Waits for a connection whose TLS is complete. `None` once the socket is closed.
    ///
    /// Handshakes run side by side in tasks of their own; failed ones are not reported.
    pub async fn accept(&self) -> Option<Accepting> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let proven = incoming.remote_address_validated();
            let source = incoming.remote_address().ip();
            let Some(pass) = Pass::get(&self.gate, source, proven) else {
                if proven || !incoming.may_retry() {
                    incoming.ignore();
                } else {
                    // It may have given up meanwhile.
                    let _: Result<(), _> = incoming.retry();
                }
                continue;
            };
            let speaker = self.speaker();
            match incoming.accept_with(speaker.server.clone()) {
                Ok(connecting) => {
                    return Some(Accepting {
                        connecting,
                        pass,
                        around: self.around.clone(),
                        shown: speaker.identity.clone(),
                    });
                }
                Err(error) => tracing::debug!(%error, "a connection was not accepted"),
            }
        }
    }

    /// Closes the socket; what was not sent is lost.
    pub async fn close(&self) {
        self.endpoint.close(0u32.into(), b"node stopped");
        self.endpoint.wait_idle().await;
    }
}

/// A connection whose TLS is not complete yet.
#[derive(Debug)]
pub struct Accepting {
    connecting: quinn::Connecting,
    pass: Pass,
    around: Surroundings,
    shown: Arc<Identity>,
}

impl Accepting {
    /// Waits for TLS, five seconds at most.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn complete(self) -> Result<Connection, TransportError> {
        let Accepting {
            connecting,
            pass,
            around,
            shown,
        } = self;
        let closed = TransportError::Closed;
        let answered = tokio::select! {
            answered = tokio::time::timeout(HANDSHAKE_TIME_MAX, connecting) => answered,
            () = pass.displaced() => {
                return Err(closed("too many handshakes of its address were under way".into()));
            }
        };
        match answered {
            Ok(Ok(quic)) => Ok(Connection {
                quic,
                around,
                shown,
            }),
            Ok(Err(error)) => Err(closed(reason(&error))),
            Err(_) => Err(closed("the handshake was not complete in time".into())),
        }
    }
}
