//! TLS 1.2 and 1.3 over TCP: the session of one connection, and how guests make one.
//!
//! ```text
//!              lock, never held over a wait
//! try_read  ──▶ ┌─────────┐ ◀─read_tls── ┌────────┐
//! try_write ──▶ │ session │              │ socket │
//!               └─────────┘ ──write_tls─▶└────────┘
//! ```
//!
//! * A write returns when its records are with the system, or the timeout is over; what the session has
//!   taken by then goes out with the next call of any holder.
//! * Readers and writers wait for the socket without the lock, so a clone that reads does not hold up
//!   one that writes.
//! * `drop_tls_stream` of the last holder tells the peer that this is the end. If the process is killed
//!   instead, the connection is just closed, even within a record: the peer reads an error, since for it
//!   somebody may have cut the stream short.
//! * Handshakes of a listener go on side by side, so a client that says nothing holds up nobody.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig};
use rustls::{ServerConnection, version};
use tidelock_proto::Environ;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::state::Table;
use super::super::{Call, Caller, Linker, Result, sync, waits};
use super::address;
use super::dns::{self, answer_address, look_up};
use super::tcp::send_at_once;
use super::{
    Buffer, Failure, Kind, Outcome, Patience, Place, Sockets, Wait, answer, answer_accepted,
    answer_new, buffers, find, halves, is_early, kept, remove, share, slices,
};

/// Handshakes of one listener under way; further connections wait unaccepted.
const HANDSHAKES_MAX: usize = 64;
/// How long a client of a listener may take for its handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes of certificates and keys in one call; more are an error.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Certificates that a client may bring along.
const CERTIFICATES_MAX: u32 = 256;
/// Bytes of a text that are looked at to find out whether it is PEM.
const HEAD_BYTES_MAX: usize = 1024;
/// Records without data that one step reads before others get their turn.
const EMPTY_READS_MAX: usize = 64;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::networking";
        "drop_tls_listener" => drop_tls_listener(id: u64);
        "tls_local_addr" => tls_local_addr(listener: u64, iter_ptr: u32);
        "drop_tls_stream" => drop_tls_stream(id: u64);
        "clone_tls_stream" => clone_tls_stream(id: u64);
        "set_tls_read_timeout" => set_read_timeout(stream: u64, ms: u64);
        "get_tls_read_timeout" => get_read_timeout(stream: u64);
        "set_tls_write_timeout" => set_write_timeout(stream: u64, ms: u64);
        "get_tls_write_timeout" => get_write_timeout(stream: u64);
    }
    waits! { linker, "lunatic::networking";
        "tls_bind" => tls_bind(
            kind: u32, addr_ptr: u32, port: u32, flow: u32, scope: u32, id_ptr: u32,
            cert_ptr: u32, cert_len: u32, key_ptr: u32, key_len: u32
        );
        "tls_accept" => tls_accept(listener: u64, id_ptr: u32, peer_ptr: u32);
        "tls_connect" => tls_connect(
            host_ptr: u32, host_len: u32, port: u32, timeout: u64, id_ptr: u32,
            certs_ptr: u32, certs_len: u32
        );
        "tls_read" => tls_read(stream: u64, ptr: u32, len: u32, opaque_ptr: u32);
        "tls_write_vectored" => tls_write_vectored(stream: u64, ptr: u32, count: u32, opaque_ptr: u32);
        "tls_flush" => tls_flush(stream: u64, error_ptr: u32);
    }
    Ok(())
}

impl Kind for Listener {
    const NAME: &'static str = "TLS listener";

    fn table(sockets: &mut Sockets) -> &mut Table<Arc<Self>> {
        &mut sockets.tls_listeners
    }
}

impl Kind for Stream {
    const NAME: &'static str = "TLS stream";

    fn table(sockets: &mut Sockets) -> &mut Table<Arc<Self>> {
        &mut sockets.tls_streams
    }
}

// ---- one connection --------------------------------------------------------------------------

/// One connection after its handshake, shared by its clones.
pub(in crate::host) struct Stream {
    socket: TcpStream,
    session: Mutex<Connection>,
    read: Patience,
    write: Patience,
    _place: Place,
}

impl Stream {
    fn session(&self) -> MutexGuard<'_, Connection> {
        // A panic within a step ends its process only; the session then says that it is broken.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decrypts what has arrived into `place`. 0: the peer said that this is the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: more has to arrive first. `Interrupted`: others should have their turn first.
    /// `UnexpectedEof`: the connection was closed without that word.
    fn try_read(&self, place: &mut [u8]) -> io::Result<usize> {
        let session = &mut *self.session();
        for _ in 0..EMPTY_READS_MAX {
            match session.reader().read(place) {
                Err(error) if is_early(&error) => {}
                done => return done,
            }
            // What an earlier write left, and what the protocol itself has to say.
            if let Err(error) = push(&self.socket, session)
                && !is_early(&error)
            {
                return Err(error);
            }
            session.read_tls(&mut Wire(&self.socket))?;
            process(&self.socket, session)?;
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Encrypts as much as fits, once everything before it is with the system.
    fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let session = &mut *self.session();
        push(&self.socket, session)?;
        session.writer().write_vectored(parts)
    }

    fn try_flush(&self) -> io::Result<()> {
        push(&self.socket, &mut self.session())
    }

    /// Waits until the session can go on: for bytes, and for room while it has some to send.
    async fn readable(&self) -> io::Result<()> {
        let wants_write = self.session().wants_write();
        let interest = if wants_write {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.socket.ready(interest).await.map(drop)
    }

    /// Waits until everything is with the system.
    async fn flush(&self, wait: &mut Wait) -> Outcome<()> {
        loop {
            match self.try_flush() {
                Err(error) if is_early(&error) => {}
                done => return done.map_err(Into::into),
            }
            wait.step(self.socket.writable()).await?;
        }
    }

    /// Tells the peer that nothing more comes, if there is room for it.
    fn close(self) {
        let mut session = self.session();
        session.send_close_notify();
        // The system cuts off a connection in which bytes are left unread, be they the protocol's own.
        for _ in 0..EMPTY_READS_MAX {
            let read = session.read_tls(&mut Wire(&self.socket));
            if !read.is_ok_and(|n| n > 0) || session.process_new_packets().is_err() {
                break;
            }
        }
        // Whoever does not take it reads an error instead of the end.
        let _: io::Result<()> = push(&self.socket, &mut session);
    }
}

/// The socket as the session sees it: it never waits.
struct Wire<'a>(&'a TcpStream);

impl io::Read for Wire<'_> {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(place)
    }
}

impl io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hands everything to the system, or says `WouldBlock`.
fn push(socket: &TcpStream, session: &mut Connection) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(&mut Wire(socket))?;
    }
    Ok(())
}

/// Lets the session understand what it has read; a peer that broke the protocol is told.
fn process(socket: &TcpStream, session: &mut Connection) -> io::Result<()> {
    session.process_new_packets().map(drop).map_err(|error| {
        // The alert is a courtesy.
        let _: io::Result<()> = push(socket, session);
        io::Error::new(io::ErrorKind::InvalidData, error)
    })
}

/// Shakes hands; the session is ready for data afterwards.
///
/// # Cancellation
///
/// The connection is closed.
async fn shake_hands(socket: &TcpStream, session: &mut Connection) -> io::Result<()> {
    loop {
        let sent = push(socket, session);
        if let Err(error) = &sent
            && !is_early(error)
        {
            return sent;
        }
        if sent.is_ok() && !session.is_handshaking() {
            return Ok(());
        }
        let interest = if sent.is_ok() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        if session.is_handshaking() {
            match session.read_tls(&mut Wire(socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    process(socket, session)?;
                    continue;
                }
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error),
            }
            socket.ready(interest).await?;
        } else {
            socket.writable().await?;
        }
    }
}

// ---- configurations --------------------------------------------------------------------------

/// The one cryptography provider, so that no process-wide default is needed.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// For a client that trusts these authorities. Sessions are not resumed: what one process agreed on
/// with a server is none of another's business.
fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("the provider speaks both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// For a client of the public web, with the list of authorities that was compiled in: the same on
/// every node, whatever is installed there.
fn public() -> Arc<ClientConfig> {
    static PUBLIC: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        client(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        })
    });
    PUBLIC.clone()
}

/// For a server that shows the first of these certificates, with the others as its chain.
fn server(certificates: &[u8], key: &[u8]) -> std::result::Result<Arc<ServerConfig>, String> {
    let chain = parse(certificates).map_err(|error| format!("certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("the provider speaks both versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config))
}

/// The certificates in a PEM text, at least one.
fn parse(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let parsed = CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>();
    let parsed = parsed.map_err(|error| error.to_string())?;
    if parsed.is_empty() {
        return Err("no certificate in the PEM text".into());
    }
    Ok(parsed)
}

// ---- listeners -------------------------------------------------------------------------------

/// Waits for connections; belongs to one process.
pub(in crate::host) struct Listener {
    socket: TcpListener,
    config: Arc<ServerConfig>,
    /// Handshakes under way. They stay when an accept is given up, and go on with the next.
    handshakes: tokio::sync::Mutex<FuturesUnordered<Handshake>>,
    _place: Place,
}

type Handshake = BoxFuture<'static, Outcome<(Arc<Stream>, SocketAddr)>>;

impl Listener {
    /// The next connection whose handshake is over, or the error of one.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no connection.
    async fn accept(
        &self,
        mut place: impl FnMut() -> Outcome<Place>,
    ) -> Outcome<(Arc<Stream>, SocketAddr)> {
        let mut handshakes = self.handshakes.lock().await;
        loop {
            let has_room = handshakes.len() < HANDSHAKES_MAX;
            tokio::select! {
                Some(done) = handshakes.next() => return done,
                accepted = self.socket.accept(), if has_room => {
                    let (socket, peer) = accepted?;
                    let place = place()?;
                    let session = ServerConnection::new(self.config.clone()).map_err(broken)?;
                    handshakes.push(Box::pin(greet(socket, session.into(), peer, place)));
                }
            }
        }
    }
}

/// Shakes hands with a client, in time.
async fn greet(
    socket: TcpStream,
    mut session: Connection,
    peer: SocketAddr,
    place: Place,
) -> Outcome<(Arc<Stream>, SocketAddr)> {
    let refused = |why: String| Failure::Error(format!("handshake with {peer}: {why}"));
    send_at_once(&socket);
    match timeout(HANDSHAKE_MAX, shake_hands(&socket, &mut session)).await {
        Ok(Ok(())) => Ok((Stream::new(socket, session, place), peer)),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("none within {HANDSHAKE_MAX:?}"))),
    }
}

impl Stream {
    fn new(socket: TcpStream, session: Connection, place: Place) -> Arc<Self> {
        Arc::new(Self {
            socket,
            session: Mutex::new(session),
            read: Patience::endless(),
            write: Patience::endless(),
            _place: place,
        })
    }
}

fn broken(error: impl ToString) -> Failure {
    Failure::Error(error.to_string())
}

#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn tls_bind(
    mut call: Call<'_>,
    kind: u32,
    addr_ptr: u32,
    port: u32,
    flow: u32,
    scope: u32,
    id_ptr: u32,
    cert_ptr: u32,
    cert_len: u32,
    key_ptr: u32,
    key_len: u32,
) -> Result<u32> {
    call.room("id_u64_ptr", id_ptr, 8)?;
    let address = address::read(&mut call, kind, addr_ptr, port, flow, scope)?;
    call.room("certs_array_ptr", cert_ptr, cert_len)?;
    call.room("keys_array_ptr", key_ptr, key_len)?;
    let outcome = if u64::from(cert_len) + u64::from(key_len) > PEM_BYTES_MAX {
        Err(too_long())
    } else {
        let certificates = call.bytes("certs_array_ptr", cert_ptr, cert_len)?.to_vec();
        let key = call.bytes("keys_array_ptr", key_ptr, key_len)?;
        server(&certificates, key).map_err(Failure::Error)
    };
    let listener = match outcome {
        Ok(config) => bind(&mut call, address, config).await,
        Err(failure) => Err(failure),
    };
    let outcome = kept(&mut call, listener)?;
    answer(&mut call, "id_u64_ptr", id_ptr, outcome)
}

fn too_long() -> Failure {
    Failure::Error(format!(
        "certificates and keys have at most {PEM_BYTES_MAX} bytes"
    ))
}

async fn bind(
    call: &mut Call<'_>,
    address: SocketAddr,
    config: Arc<ServerConfig>,
) -> Outcome<Arc<Listener>> {
    let place = Place::take(call)?;
    let socket = TcpListener::bind(address).await?;
    Ok(Arc::new(Listener {
        socket,
        config,
        handshakes: tokio::sync::Mutex::default(),
        _place: place,
    }))
}

/// Handshakes under way end with it.
fn drop_tls_listener(mut call: Call<'_>, id: u64) -> Result<()> {
    remove::<Listener>(&mut call, id).map(drop)
}

fn tls_local_addr(mut call: Call<'_>, listener: u64, iter_ptr: u32) -> Result<u32> {
    let listener = find::<Listener>(&mut call, listener)?;
    call.room("id_u64_ptr", iter_ptr, 8)?;
    answer_address(&mut call, iter_ptr, listener.socket.local_addr())
}

/// 1: a handshake failed, or the system could not accept. The listener goes on.
async fn tls_accept(mut call: Call<'_>, listener: u64, id_ptr: u32, peer_ptr: u32) -> Result<u32> {
    let listener = find::<Listener>(&mut call, listener)?;
    call.room("id_u64_ptr", id_ptr, 8)?;
    call.room("socket_addr_id_ptr", peer_ptr, 8)?;
    let accepted = listener.accept(|| Place::take(&mut call)).await;
    answer_accepted(&mut call, id_ptr, peer_ptr, accepted)
}

// ---- streams ---------------------------------------------------------------------------------

/// 0: the id of the stream is at `id_ptr`; else that of an error is, and: 1 not connected, 9027.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn tls_connect(
    mut call: Call<'_>,
    host_ptr: u32,
    host_len: u32,
    port: u32,
    timeout: u64,
    id_ptr: u32,
    certs_ptr: u32,
    certs_len: u32,
) -> Result<u32> {
    call.room("id_u64_ptr", id_ptr, 8)?;
    let port = address::port(&call, port)?;
    let host = dns::name(&mut call, host_ptr, host_len)?;
    let config = trusted(&mut call, certs_ptr, certs_len)?;
    let environ = call.state().context.environ();
    let stream = match (host, config, Place::take(&mut call)) {
        (Ok(host), Ok(config), Ok(place)) => {
            connect(environ, &host, port, timeout, config, place).await
        }
        (Err(failure), _, _) | (_, Err(failure), _) | (_, _, Err(failure)) => Err(failure),
    };
    let outcome = kept(&mut call, stream)?;
    answer_new(&mut call, "id_u64_ptr", id_ptr, outcome)
}

/// What a client trusts: the authorities that the guest names, or those of the public web.
fn trusted(call: &mut Call<'_>, ptr: u32, count: u32) -> Result<Outcome<Arc<ClientConfig>>> {
    if count == 0 {
        return Ok(Ok(public()));
    }
    if count > CERTIFICATES_MAX {
        let text = format!("{count} certificates, at most {CERTIFICATES_MAX} are taken");
        return Ok(Err(Failure::Error(text)));
    }
    let pairs = call.bytes("certs_array_ptr", ptr, count * 8)?.to_vec();
    let mut roots = RootCertStore::empty();
    let mut bytes = 0;
    for pair in pairs.as_chunks::<8>().0 {
        let (ptr, len) = certificate(call, halves(*pair))?;
        bytes += u64::from(len);
        if bytes > PEM_BYTES_MAX {
            return Ok(Err(too_long()));
        }
        let parsed = match parse(call.bytes("certificate", ptr, len)?) {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Err(broken(format!("certificate: {why}")))),
        };
        for certificate in parsed {
            if let Err(error) = roots.add(certificate) {
                return Ok(Err(broken(format!("certificate: {error}"))));
            }
        }
    }
    Ok(Ok(client(roots)))
}

/// Where a certificate lies. The interface says pointer, then length; version 0.14.1 of the guest
/// library writes them the other way round. A PEM text tells which it is.
fn certificate(call: &mut Call<'_>, [first, second]: [u32; 2]) -> Result<(u32, u32)> {
    let mut begins = |ptr: u32, len: u32| call.bytes("certificate", ptr, len).is_ok_and(is_pem);
    if !begins(first, second) && begins(second, first) {
        return Ok((second, first));
    }
    call.room("certificate", first, second)?;
    Ok((first, second))
}

/// Whether a PEM text begins here, behind a few blanks at most.
fn is_pem(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    head.trim_ascii_start().starts_with(b"-----BEGIN")
}

/// Tries the addresses of the host one after the other, then shakes hands.
async fn connect(
    environ: Environ,
    host: &str,
    port: u16,
    timeout_ms: u64,
    config: Arc<ClientConfig>,
    place: Place,
) -> Outcome<Arc<Stream>> {
    let mut wait = Wait::new(timeout_ms);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(broken)?;
    let addresses = match name {
        ServerName::IpAddress(ip) => vec![SocketAddr::new(ip.into(), port)],
        _ => look_up(environ, format!("{host}:{port}"), &mut wait).await?,
    };
    let socket = first(&addresses, &mut wait).await?;
    send_at_once(&socket);
    let session = ClientConnection::new(config, name).map_err(broken)?;
    let mut session = Connection::from(session);
    wait.step(shake_hands(&socket, &mut session)).await?;
    Ok(Stream::new(socket, session, place))
}

/// A connection to the first of the addresses that takes one, or why the last did not.
async fn first(addresses: &[SocketAddr], wait: &mut Wait) -> Outcome<TcpStream> {
    let mut last = Failure::Error("no address".into());
    for address in addresses {
        match wait.step(TcpStream::connect(*address)).await {
            Ok(socket) => return Ok(socket),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Without another holder, the peer is told that this is the end.
fn drop_tls_stream(mut call: Call<'_>, id: u64) -> Result<()> {
    let stream = remove::<Stream>(&mut call, id)?;
    if let Some(stream) = Arc::into_inner(stream) {
        stream.close();
    }
    Ok(())
}

fn clone_tls_stream(call: Call<'_>, id: u64) -> Result<u64> {
    share::<Stream>(call, id)
}

async fn tls_read(
    mut call: Call<'_>,
    stream: u64,
    ptr: u32,
    len: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let stream = find::<Stream>(&mut call, stream)?;
    let buffer = Buffer::check(&mut call, ptr, len)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    let outcome = read(&mut call, &stream, buffer).await?;
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

/// # Cancellation
///
/// Bytes leave the session only in the step that puts them into the guest's memory.
async fn read(call: &mut Call<'_>, stream: &Stream, buffer: Buffer) -> Result<Outcome<u64>> {
    if buffer.len == 0 {
        return Ok(Ok(0));
    }
    let mut wait = Wait::of(&stream.read);
    loop {
        match stream.try_read(buffer.place(call)?) {
            Err(error) if is_early(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                tokio::task::yield_now().await;
                continue;
            }
            done => return Ok(done.map(|n| n as u64).map_err(Into::into)),
        }
        if let Err(failure) = wait.step(stream.readable()).await {
            return Ok(Err(failure));
        }
    }
}

async fn tls_write_vectored(
    mut call: Call<'_>,
    stream: u64,
    ptr: u32,
    count: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let stream = find::<Stream>(&mut call, stream)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    let outcome = write(&mut call, &stream, ptr, count).await?;
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

/// # Cancellation
///
/// Some of the bytes may have been written.
async fn write(call: &mut Call<'_>, stream: &Stream, ptr: u32, count: u32) -> Result<Outcome<u64>> {
    let ranges = buffers(call, ptr, count)?;
    if ranges.is_empty() {
        return Ok(Ok(0));
    }
    let mut wait = Wait::of(&stream.write);
    // What came before goes out first, so the session never holds more than its bound.
    if let Err(failure) = stream.flush(&mut wait).await {
        return Ok(Err(failure));
    }
    let written = loop {
        let parts = slices(call.parts()?.0, &ranges);
        match stream.try_write(&parts) {
            Err(error) if is_early(&error) => {}
            Err(error) => return Ok(Err(error.into())),
            Ok(written) => break written as u64,
        }
        // Another holder was faster.
        if let Err(failure) = wait.step(stream.socket.writable()).await {
            return Ok(Err(failure));
        }
    };
    match stream.flush(&mut wait).await {
        // The session has taken the bytes; to say that it had not would make the guest repeat them.
        Ok(()) | Err(Failure::TimedOut) => Ok(Ok(written)),
        Err(failure) => Ok(Err(failure)),
    }
}

/// 0: everything is with the system; 9027: not in time, and nothing is lost.
async fn tls_flush(mut call: Call<'_>, stream: u64, error_ptr: u32) -> Result<u32> {
    let stream = find::<Stream>(&mut call, stream)?;
    call.room("error_id_ptr", error_ptr, 8)?;
    match stream.flush(&mut Wait::of(&stream.write)).await {
        Ok(()) => Ok(0),
        Err(failure) => answer_new(&mut call, "error_id_ptr", error_ptr, Err(failure)),
    }
}

// ---- timeouts --------------------------------------------------------------------------------

fn set_read_timeout(mut call: Call<'_>, stream: u64, ms: u64) -> Result<()> {
    find::<Stream>(&mut call, stream)?.read.set(ms);
    Ok(())
}

fn get_read_timeout(mut call: Call<'_>, stream: u64) -> Result<u64> {
    Ok(find::<Stream>(&mut call, stream)?.read.get())
}

fn set_write_timeout(mut call: Call<'_>, stream: u64, ms: u64) -> Result<()> {
    find::<Stream>(&mut call, stream)?.write.set(ms);
    Ok(())
}

fn get_write_timeout(mut call: Call<'_>, stream: u64) -> Result<u64> {
    Ok(find::<Stream>(&mut call, stream)?.write.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_known_by_its_head() {
        let behind = |blanks: usize| [&vec![b' '; blanks][..], b"-----BEGIN A-----"].concat();
        for blanks in [0, 1, 1000] {
            assert!(is_pem(&behind(blanks)), "{blanks}");
        }
        // The rest is not looked at, be it gigabytes.
        for blanks in [1015, 1 << 20] {
            assert!(!is_pem(&behind(blanks)), "{blanks}");
        }
        assert!(!is_pem(b"") && !is_pem(b"BEGIN"));
    }
}
