//! `lunatic::networking`: TCP, TLS, UDP and names, for one process each.
//!
//! ```text
//! id ──▶ table of one kind, per process ──▶ Arc<socket> ◀── clones, here or in other processes
//!                     │                        ▲
//!                     └─ push_* ─▶ a message ──┘ take_*
//! ```
//!
//! Promises:
//!
//! * **A wait suspends its own process only.** Sockets never block; whoever waits is woken by the
//!   runtime. Name look-ups have threads of their own, a bounded number of them.
//! * **Nothing is lost by a timeout or by a kill.** Bytes are taken from a socket in the very step that
//!   puts them into the guest's memory. Every pointer is checked before the wait.
//! * **The host keeps no copy of what is read or written**, except TLS: at most 64 KiB each way.
//! * **A socket is closed when its last holder is gone**: an id that was dropped, a process that ended,
//!   a message that nobody received.
//! * **At most `sockets_max` sockets are open** in an environment. One more is an error for whoever
//!   asks; a connection that is accepted beyond it is closed.
//!
//! Clones share one socket and its timeouts. They need no lock: one call is one operation of the
//! system, so what two processes write is mixed between calls at most.
//!
//! # What it does not do
//!
//! No permission is needed, as on Lunatic: a guest reaches whatever its node reaches.

mod address;
mod dns;
mod tcp;
mod tls;
mod udp;

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::state::Table;
use super::{Call, Linker, Result, TIMED_OUT, deadline};
pub(super) use tcp::Stream as TcpStream;
pub(super) use tls::Stream as TlsStream;
pub(super) use udp::Socket as UdpSocket;

/// Buffers of one vectored write that are looked at; the answer says how much of them was written.
const BUFFERS_MAX: u32 = 1024;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    dns::link(linker)?;
    tcp::link(linker)?;
    tls::link(linker)?;
    udp::link(linker)
}

/// The tables of one process.
#[derive(Default)]
pub(super) struct Sockets {
    addresses: Table<dns::Addresses>,
    tcp_listeners: Table<Arc<tcp::Listener>>,
    tcp_streams: Table<Arc<tcp::Stream>>,
    tls_listeners: Table<Arc<tls::Listener>>,
    tls_streams: Table<Arc<tls::Stream>>,
    udp_sockets: Table<Arc<udp::Socket>>,
}

// ---- things with an id -----------------------------------------------------------------------

/// One kind of socket, with ids of its own.
pub(super) trait Kind: Send + Sync + Sized + 'static {
    /// What a trap calls it.
    const NAME: &'static str;

    fn table(sockets: &mut Sockets) -> &mut Table<Arc<Self>>;
}

/// The socket behind an id; traps without one.
pub(super) fn find<T: Kind>(call: &mut Call<'_>, id: u64) -> Result<Arc<T>> {
    match T::table(call.state().sockets()).get(id) {
        Some(found) => Ok(found.clone()),
        None => Err(no::<T>(call, id)),
    }
}

/// Takes the socket behind an id out of the table; traps without one.
pub(super) fn remove<T: Kind>(call: &mut Call<'_>, id: u64) -> Result<Arc<T>> {
    match T::table(call.state().sockets()).remove(id) {
        Some(found) => Ok(found),
        None => Err(no::<T>(call, id)),
    }
}

fn no<T: Kind>(call: &Call<'_>, id: u64) -> wasmtime::Error {
    call.trap(format_args!("no {} {id}", T::NAME))
}

/// Gives a socket an id.
pub(super) fn keep<T: Kind>(call: &mut Call<'_>, socket: Arc<T>) -> Result<u64> {
    let kept = T::table(call.state().sockets()).insert(socket);
    kept.map_err(|full| call.trap(full))
}

/// Gives what was opened an id.
fn kept<T: Kind>(call: &mut Call<'_>, opened: Outcome<Arc<T>>) -> Result<Outcome<u64>> {
    match opened {
        Ok(socket) => keep(call, socket).map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

/// A second id for the same socket.
fn share<T: Kind>(mut call: Call<'_>, id: u64) -> Result<u64> {
    let socket = find::<T>(&mut call, id)?;
    keep(&mut call, socket)
}

/// A place among the open sockets of the environment; dropping it gives it back.
struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Place {
    fn take(call: &mut Call<'_>) -> std::result::Result<Self, Failure> {
        let env = call.state().context.environment();
        match env.sockets().clone().try_acquire_owned() {
            Ok(permit) => Ok(Self(permit)),
            Err(_) => {
                let max = env.limits().sockets_max;
                let text = format!("{max} sockets of guests are open on this node (sockets_max)");
                Err(Failure::Error(text))
            }
        }
    }
}

// ---- waiting and answering -------------------------------------------------------------------

/// How an operation on a socket did not succeed.
enum Failure {
    TimedOut,
    /// What the guest's error says.
    Error(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Error(error.to_string())
    }
}

type Outcome<T> = std::result::Result<T, Failure>;

/// How long operations of one kind wait on a stream, in milliseconds; shared by its clones.
struct Patience(AtomicU64);

impl Patience {
    const fn endless() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A wait that may have several steps; its patience begins with the first of them.
struct Wait {
    patience_ms: u64,
    until: Option<Option<Instant>>,
}

impl Wait {
    fn new(patience_ms: u64) -> Self {
        Self {
            patience_ms,
            until: None,
        }
    }

    fn of(patience: &Patience) -> Self {
        Self::new(patience.get())
    }

    /// Whether only what is there at once counts.
    fn is_none(&self) -> bool {
        self.patience_ms == 0
    }

    /// What the future gives, unless the patience is over first. Without any, what it gives at once.
    ///
    /// # Cancellation
    ///
    /// As that of the future.
    async fn step<T>(&mut self, done: impl Future<Output = io::Result<T>>) -> Outcome<T> {
        if self.is_none() {
            // A timer would round it up.
            return Ok(done.now_or_never().ok_or(Failure::TimedOut)??);
        }
        let patience_ms = self.patience_ms;
        match *self.until.get_or_insert_with(|| deadline(patience_ms)) {
            None => Ok(done.await?),
            Some(until) => match timeout_at(until, done).await {
                Ok(done) => Ok(done?),
                Err(_) => Err(Failure::TimedOut),
            },
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Writes a number and returns 0, or an error id and 1. After a timeout nothing is written.
fn answer(call: &mut Call<'_>, arg: &str, ptr: u32, outcome: Outcome<u64>) -> Result<u32> {
    match outcome {
        Ok(value) => {
            call.put_u64(arg, ptr, value)?;
            Ok(0)
        }
        Err(Failure::TimedOut) => Ok(TIMED_OUT),
        Err(Failure::Error(text)) => {
            call.put_error(arg, ptr, text)?;
            Ok(1)
        }
    }
}

/// As [`answer`], but a timeout is an error with an id, too: the guest library takes what stands at
/// `ptr` for one.
fn answer_new(call: &mut Call<'_>, arg: &str, ptr: u32, outcome: Outcome<u64>) -> Result<u32> {
    if let Err(Failure::TimedOut) = outcome {
        call.put_error(arg, ptr, "timed out")?;
        return Ok(TIMED_OUT);
    }
    answer(call, arg, ptr, outcome)
}

/// Gives a connection and the address of its peer ids, and answers with both.
fn answer_accepted<T: Kind>(
    call: &mut Call<'_>,
    id_ptr: u32,
    peer_ptr: u32,
    accepted: Outcome<(Arc<T>, SocketAddr)>,
) -> Result<u32> {
    let outcome = match accepted {
        Ok((stream, peer)) => {
            let peer = dns::keep(call, [peer])?;
            call.put_u64("socket_addr_id_ptr", peer_ptr, peer)?;
            keep(call, stream).map(Ok)?
        }
        Err(failure) => Err(failure),
    };
    answer(call, "id_u64_ptr", id_ptr, outcome)
}

// ---- the guest's memory ----------------------------------------------------------------------

/// Where a guest wants bytes to be put.
#[derive(Clone, Copy)]
struct Buffer {
    ptr: u32,
    len: u32,
}

impl Buffer {
    fn check(call: &mut Call<'_>, ptr: u32, len: u32) -> Result<Self> {
        call.room("buf_ptr", ptr, len)?;
        Ok(Self { ptr, len })
    }

    /// The place itself. Taken anew after each wait.
    fn place<'a>(self, call: &'a mut Call<'_>) -> Result<&'a mut [u8]> {
        let range = self.ptr as usize..self.ptr as usize + self.len as usize;
        if call.parts()?.0.get(range.clone()).is_none() {
            return Err(call.outside("buf_ptr", self.ptr, u64::from(self.len)));
        }
        Ok(&mut call.parts()?.0[range])
    }
}

/// The buffers of a vectored write, each within the memory; empty ones are left out.
fn buffers(call: &mut Call<'_>, ptr: u32, count: u32) -> Result<Vec<Range<usize>>> {
    let bytes = u64::from(count) * 8;
    let memory = &*call.parts()?.0;
    let at = ptr as usize;
    if at as u64 + bytes > memory.len() as u64 {
        return Err(call.outside("ciovec_array_ptr", ptr, bytes));
    }
    let looked_at = count.min(BUFFERS_MAX) as usize * 8;
    let (pairs, _) = memory[at..at + looked_at].as_chunks::<8>();
    let mut ranges = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let [start, len] = halves(*pair);
        let range = start as usize..start as usize + len as usize;
        if range.end > memory.len() {
            return Err(call.outside("ciovec", start, u64::from(len)));
        }
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

/// What lies in those buffers now.
fn slices<'a>(memory: &'a [u8], ranges: &[Range<usize>]) -> Vec<IoSlice<'a>> {
    let slice = |range: &Range<usize>| IoSlice::new(&memory[range.clone()]);
    ranges.iter().map(slice).collect()
}

/// Two numbers that lie behind each other.
fn halves(pair: [u8; 8]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = pair;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}
