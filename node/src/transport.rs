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

mod gate;
mod queue;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::CertificateDer;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tidelock_certs::{Identity, UnixTime, peer_config};
use tokio::time::Instant;

use self::gate::{Gate, HANDSHAKES_MAX, Pass};
use self::queue::ShortQueue;
use crate::lock;

/// The largest datagram payload QUIC may try, in bytes.
const MTU_MAX: u16 = 6_500;
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

/// What names the exporter's purpose.
const EXPORTER: &[u8] = b"EXPORTER-tidelock-renewal";

/// What the first byte of a unidirectional stream says it is.
const LANE: u8 = b'L';
const BULK: u8 = b'B';

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

/// Carries datagrams in place of the kernel: a tunnel, a simulated network.
///
/// Datagrams may be lost, delayed, repeated and reordered; they are not cut. All of it is called on
/// the runtime that the [`Transport`] was made in.
pub trait Carrier: Send + Sync + fmt::Debug + 'static {
    /// Where peers send to.
    fn addr(&self) -> SocketAddr;

    /// Sends one datagram, now or never.
    fn send(&self, to: SocketAddr, datagram: &[u8]);

    /// Writes the next datagram to `buffer` and returns its length and its sender; wakes the caller
    /// when there may be one.
    fn poll_receive(&self, poller: &mut Poller<'_>, buffer: &mut [u8])
    -> Poll<(usize, SocketAddr)>;

    /// What time it is where it carries, for the dates of certificates; the system's, unless it says
    /// otherwise.
    fn calendar(&self) -> Arc<dyn TimeProvider> {
        Arc::new(DefaultTimeProvider)
    }
}

/// A carrier as QUIC wants its sockets.
#[derive(Debug)]
struct Carried(Arc<dyn Carrier>);

/// A carrier always takes datagrams.
#[derive(Debug)]
struct AlwaysWritable;

impl quinn::UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl quinn::AsyncUdpSocket for Carried {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &quinn::udp::Transmit<'_>) -> io::Result<()> {
        self.0.send(transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        poller: &mut Poller<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [quinn::udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let (len, addr) = std::task::ready!(self.0.poll_receive(poller, buffer));
        *meta = quinn::udp::RecvMeta {
            addr,
            len,
            stride: len,
            ..Default::default()
        };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.addr())
    }
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

fn reason(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("closed by peer: {}", String::from_utf8_lossy(&close.reason))
        }
        quinn::ConnectionError::TimedOut => "nothing heard for three leases".into(),
        other => other.to_string(),
    }
}

/// One QUIC connection to a peer.
#[derive(Debug, Clone)]
pub struct Connection {
    quic: quinn::Connection,
    around: Surroundings,
    /// What this side showed in the handshake.
    shown: Arc<Identity>,
}

/// What a peer opened.
#[derive(Debug)]
pub enum Opened {
    /// Its lane.
    Lane(LaneReader),
    /// A bulk message: the number of its stream, and the stream.
    Bulk(u64, LaneReader),
}

/// A stream that has not said what it is.
#[derive(Debug)]
pub struct Unknown(quinn::RecvStream);

impl Unknown {
    /// Reads what it is. Dropping the future loses the stream.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], also for a stream that does not say.
    pub async fn identify(mut self) -> Result<Opened, TransportError> {
        let short = |_| TransportError::Closed("a stream ended before it said what it is".into());
        let mut kind = [0];
        self.0.read_exact(&mut kind).await.map_err(short)?;
        match kind[0] {
            LANE => Ok(Opened::Lane(LaneReader(self.0))),
            BULK => {
                let mut number = [0; 8];
                self.0.read_exact(&mut number).await.map_err(short)?;
                Ok(Opened::Bulk(u64::from_le_bytes(number), LaneReader(self.0)))
            }
            other => Err(TransportError::Closed(format!(
                "a stream of unknown kind {other}"
            ))),
        }
    }
}

impl Connection {
    /// The certificate the peer showed; TLS has accepted it.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        let chain = self
            .quic
            .peer_identity()?
            .downcast::<Vec<CertificateDer<'static>>>()
            .ok()?;
        chain.into_iter().next()
    }

    /// Whom this side showed in the handshake, as which it says Hello.
    pub fn shown(&self) -> &Arc<Identity> {
        &self.shown
    }

    /// What time it is, for the dates of certificates.
    pub(crate) fn today(&self) -> UnixTime {
        let now = self.around.calendar.current_time();
        now.unwrap_or_else(UnixTime::now)
    }

    /// Bytes that the two ends of this connection know, and nobody else (RFC 5705).
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], if TLS has none.
    pub fn exporter(&self) -> Result<[u8; 32], TransportError> {
        let mut bytes = [0; 32];
        let done = self.quic.export_keying_material(&mut bytes, EXPORTER, &[]);
        done.map_err(|_| TransportError::Closed("TLS exports no keying material".into()))?;
        Ok(bytes)
    }

    /// Where the peer is.
    pub fn addr(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// What learns that nobody listens at the peer's address any more.
    pub fn canary(&self) -> Canary {
        if self.around.kernel {
            Canary::new(self.addr())
        } else {
            Canary::mute()
        }
    }

    /// Whether the peer can take datagrams.
    pub fn takes_datagrams(&self) -> bool {
        self.quic.max_datagram_size().is_some_and(|size| size >= 9)
    }

    /// Opens our lane.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn open_lane(&self) -> Result<LaneWriter, TransportError> {
        let mut lane = LaneWriter(self.quic.open_uni().await.map_err(closed)?);
        // Above bulk and fetches.
        let _: Result<(), _> = lane.0.set_priority(10);
        lane.write(Bytes::from_static(&[LANE])).await?;
        Ok(lane)
    }

    /// Opens a stream for one bulk message.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn open_bulk(&self, stream: u64) -> Result<LaneWriter, TransportError> {
        let mut lane = LaneWriter(self.quic.open_uni().await.map_err(closed)?);
        let mut head = vec![BULK];
        head.extend_from_slice(&stream.to_le_bytes());
        lane.write(head.into()).await?;
        Ok(lane)
    }

    /// Waits for a stream the peer opens. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn accept_stream(&self) -> Result<Unknown, TransportError> {
        self.quic.accept_uni().await.map(Unknown).map_err(closed)
    }

    /// Asks the peer something on a stream of its own: writes `question`, reads at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], also for a longer answer.
    pub async fn ask(&self, question: &[u8], max: usize) -> Result<Vec<u8>, TransportError> {
        let (mut send, mut receive) = self.quic.open_bi().await.map_err(closed)?;
        let told = |error: &dyn std::fmt::Display| TransportError::Closed(error.to_string());
        send.write_all(question)
            .await
            .map_err(|error| told(&error))?;
        send.finish().map_err(|error| told(&error))?;
        receive.read_to_end(max).await.map_err(|error| told(&error))
    }

    /// Waits for a question of the peer of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn accept_question(&self) -> Result<Question, TransportError> {
        let (send, receive) = self.quic.accept_bi().await.map_err(closed)?;
        Ok(Question { send, receive })
    }

    /// Sends a datagram; it may be lost.
    pub fn send_datagram(&self, bytes: &[u8]) {
        // A datagram that cannot be sent is one that is lost.
        let _: Result<(), _> = self.quic.send_datagram(Bytes::copy_from_slice(bytes));
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn read_datagram(&self) -> Result<Bytes, TransportError> {
        self.quic.read_datagram().await.map_err(closed)
    }

    /// Closes the connection and says why. What was not sent is lost.
    pub fn close(&self, why: &str) {
        let why: String = why.chars().take(200).collect();
        queue::let_go(self.quic.congestion_state());
        self.quic.close(1u32.into(), why.as_bytes());
    }

    /// Waits until the connection is closed, by either side, and says why.
    pub async fn closed(&self) -> String {
        reason(&self.quic.closed().await)
    }

    /// How often bytes of a stream were put into a packet. While it grows, the peer makes room for them.
    pub fn writes(&self) -> u64 {
        self.quic.stats().frame_tx.stream
    }

    /// Bytes sent and received in UDP payloads.
    pub fn bytes(&self) -> (u64, u64) {
        let stats = self.quic.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }
}

/// How often a kernel is asked whether a peer's port is open still, by a node with few sessions.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often at the least, however many sessions there are.
const ASK_EVERY_MAX: Duration = Duration::from_millis(250);
/// What each session of this program adds to the time between two asks of each: 250 asks a second in all, until
/// they are so many that [`ASK_EVERY_MAX`] holds.
const ASK_PAUSE: Duration = Duration::from_millis(4);

/// Canaries of this program that have a socket.
static CANARIES: AtomicU32 = AtomicU32::new(0);

/// Learns from the kernel of a peer's machine that nobody listens at its address any more.
///
/// A socket of its own, connected to that address: only such a one is told. What it sends is one byte, which
/// no QUIC endpoint answers. Whoever can forge the answer can cause a hint, and no more than a hint.
#[derive(Debug)]
pub struct Canary {
    socket: Option<tokio::net::UdpSocket>,
    ask_at: Instant,
}

impl Canary {
    /// Without a socket, it never sings.
    pub fn new(addr: SocketAddr) -> Self {
        let any: SocketAddr = if addr.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let open = || {
            let socket = UdpSocket::bind(any)?;
            socket.connect(addr)?;
            socket.set_nonblocking(true)?;
            tokio::net::UdpSocket::from_std(socket)
        };
        Self::with(open().ok())
    }

    /// One for a way that has no kernel at its other end.
    pub fn mute() -> Self {
        Self::with(None)
    }

    fn with(socket: Option<tokio::net::UdpSocket>) -> Self {
        if socket.is_some() {
            CANARIES.fetch_add(1, Ordering::Relaxed);
        }
        let ask_at = Instant::now();
        Canary { socket, ask_at }
    }

    /// When [`Canary::ask`] is due; `None`: never.
    pub fn due(&self) -> Option<Instant> {
        self.socket.as_ref().map(|_| self.ask_at)
    }

    /// Asks, if it is time. The answer, if any, comes out of [`Canary::refused`]. The first one may be lost, as long as
    /// the runtime does not know the socket.
    pub fn ask(&mut self, now: Instant) {
        if let Some(socket) = &self.socket
            && now >= self.ask_at
        {
            // What was refused before is told here, too; the next one is heard all the same.
            let _: std::io::Result<usize> = socket.try_send(&[0]);
            let all = ASK_PAUSE * CANARIES.load(Ordering::Relaxed);
            self.ask_at = now + all.clamp(ASK_EVERY, ASK_EVERY_MAX);
        }
    }

    /// Waits until an ask was refused. Dropping the future loses nothing.
    pub async fn refused(&self) {
        let Some(socket) = &self.socket else {
            return std::future::pending().await;
        };
        loop {
            match socket.recv(&mut [0; 8]).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                // Nobody has reason to send here; a moment, so that nobody keeps us busy.
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if self.socket.is_some() {
            CANARIES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn closed(error: quinn::ConnectionError) -> TransportError {
    TransportError::Closed(reason(&error))
}

/// A question a peer asked on a stream of its own.
#[derive(Debug)]
pub struct Question {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Question {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`], also if it is longer than `max`.
    pub async fn read(&mut self, max: usize) -> Result<Vec<u8>, TransportError> {
        let question = self.receive.read_to_end(max).await;
        question.map_err(|error| TransportError::Closed(error.to_string()))
    }

    /// Answers it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn answer(mut self, answer: Bytes) -> Result<(), TransportError> {
        let told = |error: &dyn std::fmt::Display| TransportError::Closed(error.to_string());
        self.send
            .write_chunk(answer)
            .await
            .map_err(|error| told(&error))?;
        self.send.finish().map_err(|error| told(&error))?;
        // The peer has it, or is gone.
        let _: Result<_, _> = self.send.stopped().await;
        Ok(())
    }
}

/// The writing end of a lane or a bulk stream.
#[derive(Debug)]
pub struct LaneWriter(quinn::SendStream);

impl LaneWriter {
    /// Writes all bytes, waiting for the peer's window.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), TransportError> {
        let written = self.0.write_chunk(bytes).await;
        written.map_err(|error| TransportError::Closed(error.to_string()))
    }

    /// Ends the stream and waits until the peer has acknowledged all of it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn finish(&mut self) -> Result<(), TransportError> {
        let told = |error: &dyn std::fmt::Display| TransportError::Closed(error.to_string());
        self.0.finish().map_err(|error| told(&error))?;
        self.0.stopped().await.map_err(|error| told(&error))?;
        Ok(())
    }
}

/// The reading end of a lane or a bulk stream.
#[derive(Debug)]
pub struct LaneReader(quinn::RecvStream);

impl LaneReader {
    /// The next bytes, in order; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn read(&mut self, max: usize) -> Result<Option<Bytes>, TransportError> {
        let chunk = self.0.read_chunk(max, true).await;
        chunk
            .map(|chunk| chunk.map(|chunk| chunk.bytes))
            .map_err(|error| TransportError::Closed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_canary_asks_in_turn_and_sings_where_nobody_listens() {
        let listens = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut canary = Canary::new(listens.local_addr().unwrap());
        canary.socket.as_ref().unwrap().writable().await.unwrap();
        let first = canary.due().expect("it has a socket");
        canary.ask(first);
        assert_eq!(canary.due(), Some(first + ASK_EVERY));
        // Too early: nothing is sent.
        canary.ask(first);
        assert_eq!(listens.recv(&mut [0; 8]).await.unwrap(), 1);
        let nothing = listens.try_recv(&mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert!(futures_util::poll!(std::pin::pin!(canary.refused())).is_pending());
        drop(listens);
        canary.ask(first + ASK_EVERY);
        canary.refused().await;
        // Many share the asks among them.
        CANARIES.fetch_add(1000, Ordering::Relaxed);
        canary.ask(first + 2 * ASK_EVERY);
        assert_eq!(canary.due(), Some(first + 2 * ASK_EVERY + ASK_EVERY_MAX));
        CANARIES.fetch_sub(1000, Ordering::Relaxed);
        assert_eq!(Canary::mute().due(), None);
    }
}
