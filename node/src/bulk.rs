//! The second connection of a session, and the large messages that travel on it.
//!
//! A large message takes its place in the lane and travels on a stream of its own; [`crate::live`] puts the two
//! together. Since protocol 3 these streams have a connection of their own, driven by a thread that
//! gives way to all others: what keeps a processor busy for milliseconds is not ahead of what needs
//! microseconds.
//!
//! # How it is bound to the first
//!
//! Whoever dialled the session dials again, as the same node and to the same address. Each side compares
//! the key of the other's certificate with the session's, and the dialler shows a token that the two ends
//! of the first connection compute from it and nobody else can (RFC 5705). One connection is taken, within
//! [`SECOND_TIME_MAX`] after the session opened; until then bulk waits, and counts in the backlog as ever.
//!
//! # The end
//!
//! The loss of either connection ends both. That of the second is the last thing the session's task looks at:
//! what the lane has brought before, a Goodbye first of all, still counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidelock_certs::key_fingerprint;
use tidelock_proto::session::SessionError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::live::{Live, WRITE_BYTES, progress};
use crate::transport::{
    Connection, LaneReader, LaneWriter, Opened, Transport, TransportError, Unknown,
};

/// How long after the opening of a session its second connection may take. Above what a handshake
/// takes on a network that loses three packets of ten.
const SECOND_TIME_MAX: Duration = Duration::from_secs(10);
/// Messages read at the same time.
const READERS: usize = 2;
/// Streams taken in and not handed to the session yet. As many as QUIC lets a peer have open: what is
/// read sooner than the session takes it must not be more.
const TAKEN_MAX: usize = 256;
/// Bytes taken from a stream in one step.
const READ_BYTES: usize = 256 << 10;

/// Messages to be sent: the number of the stream, and what it carries.
pub(crate) type Outgoing = mpsc::UnboundedReceiver<(u64, Bytes)>;
/// A message that is there as a whole, or what is wrong with it.
pub(crate) type Arrived = Result<(u64, Bytes), SessionError>;

/// Where a session's bulk travels, and who makes the way.
pub(crate) enum Second {
    /// On the session's only connection: the peer speaks protocol 2 or before.
    Shared,
    /// On a second one that this node dials.
    Dialled(Transport),
    /// On a second one that the peer dials.
    Awaited,
}

/// The second connection of a session.
pub(crate) struct Way(watch::Sender<State>);

enum State {
    Awaited,
    Open(Connection),
    /// There is none any more, or never: the session is over, or of a protocol without.
    Over,
}

impl Way {
    pub(crate) fn new(awaited: bool) -> Self {
        let state = if awaited { State::Awaited } else { State::Over };
        Way(watch::Sender::new(state))
    }

    /// Takes the connection, if one is awaited.
    fn open(&self, connection: &Connection) -> Result<(), String> {
        let taken = self.0.send_if_modified(|state| {
            let awaited = matches!(state, State::Awaited);
            if awaited {
                *state = State::Open(connection.clone());
            }
            awaited
        });
        let why = "the session takes no second connection any more";
        taken.then_some(()).ok_or_else(|| why.into())
    }

    async fn opened(&self) -> Result<Connection, String> {
        let mut state = self.0.subscribe();
        // The sender lives as long as the session.
        let opened = state.wait_for(|state| !matches!(state, State::Awaited));
        match &*opened.await.map_err(|error| error.to_string())? {
            State::Open(connection) => Ok(connection.clone()),
            State::Awaited | State::Over => Err("the session is over".into()),
        }
    }

    /// Closes the connection if there is one, and takes none from now on.
    pub(crate) fn close(&self, why: &str) {
        if let State::Open(connection) = self.0.send_replace(State::Over) {
            connection.close(why);
        }
    }

    /// Bytes sent and received in UDP payloads.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        match &*self.0.borrow() {
            State::Open(connection) => connection.bytes(),
            State::Awaited | State::Over => (0, 0),
        }
    }
}

impl Live {
    /// Takes the second connection that the peer has dialled.
    ///
    /// # Errors
    ///
    /// Why it is not taken; the session goes on without it.
    pub(crate) fn attach(&self, second: &Connection, token: [u8; 32]) -> Result<(), String> {
        self.check_key(second)?;
        let ours = self.connection.token().map_err(told)?;
        // Compared in constant time.
        if blake3::Hash::from_bytes(token) != blake3::Hash::from_bytes(ours) {
            return Err("peer broke the protocol: the token is of another session".into());
        }
        self.way.open(second)
    }

    fn check_key(&self, second: &Connection) -> Result<(), String> {
        let certificate = second.certificate().ok_or("peer shows no certificate")?;
        let key = key_fingerprint(&certificate).map_err(|error| error.to_string())?;
        if key != self.certificates.key {
            return Err("both connections of a session have the same two ends".into());
        }
        Ok(())
    }

    async fn dial_second(&self, transport: &Transport) -> Result<Connection, String> {
        let second = transport.dial_bulk(&self.connection).await.map_err(told)?;
        self.check_key(&second)?;
        let token = self.connection.token().map_err(told)?;
        second
            .prove(self.certificates.us, &token)
            .await
            .map_err(told)?;
        self.way.open(&second)?;
        Ok(second)
    }

    async fn second(&self, second: &Second) -> Result<Connection, String> {
        let found = async {
            match second {
                Second::Shared => Ok(self.connection.clone()),
                Second::Dialled(transport) => self.dial_second(transport).await,
                Second::Awaited => self.way.opened().await,
            }
        };
        let late = |_| Err("the session's second connection did not come in time".into());
        let found = tokio::time::timeout(SECOND_TIME_MAX, found).await;
        found.unwrap_or_else(late)
    }
}

fn told(error: TransportError) -> String {
    error.to_string()
}

/// Carries a session's bulk both ways, and returns why it can no longer.
///
/// Dropping the future leaves what is under way unsent; what has arrived is in `arrived`.
pub(crate) async fn carry(
    live: Arc<Live>,
    second: Second,
    outgoing: Outgoing,
    arrived: mpsc::Sender<Arrived>,
    (lease, bytes_max): (Duration, usize),
) -> SessionError {
    let connection = match live.second(&second).await {
        Ok(connection) => connection,
        Err(why) => return SessionError::Lost(why),
    };
    let apart = !matches!(second, Second::Shared);
    let reader = Reader {
        places: Arc::new(Semaphore::new(TAKEN_MAX)),
        turns: Arc::new(Semaphore::new(READERS)),
        sized: apart,
        bytes_max,
        arrived,
    };
    tokio::select! {
        why = write_all(&live, &connection, apart, outgoing, lease) => why,
        never = reader.read_all(&connection) => match never {},
        why = connection.closed(), if apart => SessionError::Lost(why),
    }
}

/// Writes messages one after the other, each on a stream of its own, until that fails.
async fn write_all(
    live: &Live,
    connection: &Connection,
    sized: bool,
    mut outgoing: Outgoing,
    lease: Duration,
) -> SessionError {
    while let Some((stream, bytes)) = outgoing.recv().await {
        if let Err(why) = write(connection, sized, (stream, &bytes), lease).await {
            // Else it is the end of the connection, which waits for its turn.
            if !connection.is_closed() {
                live.end(why.clone());
            }
            return why;
        }
        let length = bytes.len() as u64;
        live.bulk_backlog.fetch_sub(length, Ordering::Relaxed);
        live.drained.notify_waiters();
    }
    SessionError::Lost("the session is over".into())
}

async fn write(
    connection: &Connection,
    sized: bool,
    (stream, bytes): (u64, &Bytes),
    lease: Duration,
) -> Result<(), SessionError> {
    let open = async {
        if sized {
            connection.open_sized_bulk(stream, bytes.len() as u64).await
        } else {
            connection.open_bulk(stream).await
        }
    };
    let mut lane: LaneWriter = progress(connection, lease, open).await?;
    for start in (0..bytes.len()).step_by(WRITE_BYTES) {
        let end = bytes.len().min(start + WRITE_BYTES);
        progress(connection, lease, lane.write(bytes.slice(start..end))).await?;
    }
    progress(connection, lease, lane.finish()).await
}

/// What every stream of a session is read with.
#[derive(Clone)]
struct Reader {
    /// A place for each stream that was taken in.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// Whether a stream says how many bytes it has.
    sized: bool,
    bytes_max: usize,
    arrived: mpsc::Sender<Arrived>,
}

impl Reader {
    /// Reads messages side by side. After the end of the connection nothing comes any more.
    async fn read_all(&self, connection: &Connection) -> std::convert::Infallible {
        while let Ok(place) = self.places.clone().acquire_owned().await
            && let Ok(stream) = connection.accept_stream().await
        {
            tokio::spawn(self.clone().read(stream, place));
        }
        std::future::pending().await
    }

    async fn read(self, stream: Unknown, _place: OwnedSemaphorePermit) {
        let outcome = self.message(stream).await;
        // If nobody listens, the session is over.
        let _: Result<(), _> = self.arrived.send(outcome).await;
    }

    async fn message(&self, stream: Unknown) -> Arrived {
        let (number, claim, reader) = match stream.identify().await.map_err(lost)? {
            Opened::Bulk(number, claim, reader) => (number, claim, reader),
            Opened::Lane(_) => return Err(broken("a session has one lane each way")),
            Opened::Proof(..) => return Err(broken("a second connection is proven once")),
        };
        if claim.is_some() != self.sized {
            return Err(broken(
                "since protocol 3 a bulk stream says how many bytes it has",
            ));
        }
        // The others stay with the sender: QUIC's window holds them back.
        let _turn = self.turns.acquire().await;
        let bytes = match claim {
            Some(claim) => self.exactly(claim, reader).await?,
            None => self.to_the_end(reader).await?,
        };
        Ok((number, bytes))
    }

    async fn exactly(&self, claim: u64, mut reader: LaneReader) -> Result<Bytes, SessionError> {
        let claim = usize::try_from(claim).ok();
        let Some(claim) = claim.filter(|claim| *claim <= self.bytes_max) else {
            return Err(self.too_long());
        };
        // What is not filled is address space, not memory.
        let mut bytes = BytesMut::with_capacity(claim);
        while let Some(chunk) = reader.read(READ_BYTES).await.map_err(lost)? {
            if chunk.len() > claim - bytes.len() {
                return Err(broken("a bulk stream carries as many bytes as it says"));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() < claim {
            return Err(broken("a bulk stream carries as many bytes as it says"));
        }
        Ok(bytes.freeze())
    }

    async fn to_the_end(&self, mut reader: LaneReader) -> Result<Bytes, SessionError> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.read(READ_BYTES).await.map_err(lost)? {
            if bytes.len() + chunk.len() > self.bytes_max {
                return Err(self.too_long());
            }
            if bytes.capacity() - bytes.len() < chunk.len() {
                // Growing copies. What is not filled is address space, not memory.
                let more = (3 * bytes.capacity()).max(READ_BYTES);
                bytes.reserve(more.min(self.bytes_max));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    fn too_long(&self) -> SessionError {
        let max = self.bytes_max;
        SessionError::Misbehaved(format!("a bulk message is at most {max} bytes"))
    }
}

fn lost(error: TransportError) -> SessionError {
    SessionError::Lost(error.to_string())
}

fn broken(rule: &str) -> SessionError {
    SessionError::Misbehaved(rule.into())
}
