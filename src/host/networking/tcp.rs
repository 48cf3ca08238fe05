//! TCP listeners and streams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;

use super::super::state::Table;
use super::super::{Call, Caller, Linker, Result, sync, waits};
use super::address;
use super::dns::answer_address;
use super::{
    Buffer, Kind, Outcome, Patience, Place, Sockets, Wait, answer, answer_accepted, answer_new,
    buffers, find, is_early, kept, remove, share, slices,
};

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::networking";
        "drop_tcp_listener" => drop_tcp_listener(id: u64);
        "tcp_local_addr" => tcp_local_addr(listener: u64, iter_ptr: u32);
        "drop_tcp_stream" => drop_tcp_stream(id: u64);
        "clone_tcp_stream" => clone_tcp_stream(id: u64);
        "tcp_peer_addr" => tcp_peer_addr(stream: u64, iter_ptr: u32);
        "tcp_flush" => tcp_flush(stream: u64, error_ptr: u32);
        "set_read_timeout" => set_read_timeout(stream: u64, ms: u64);
        "get_read_timeout" => get_read_timeout(stream: u64);
        "set_write_timeout" => set_write_timeout(stream: u64, ms: u64);
        "get_write_timeout" => get_write_timeout(stream: u64);
        "set_peek_timeout" => set_peek_timeout(stream: u64, ms: u64);
        "get_peek_timeout" => get_peek_timeout(stream: u64);
    }
    waits! { linker, "lunatic::networking";
        "tcp_bind" =>
            tcp_bind(kind: u32, addr_ptr: u32, port: u32, flow: u32, scope: u32, id_ptr: u32);
        "tcp_accept" => tcp_accept(listener: u64, id_ptr: u32, peer_ptr: u32);
        "tcp_connect" => tcp_connect(
            kind: u32, addr_ptr: u32, port: u32, flow: u32, scope: u32, timeout: u64, id_ptr: u32
        );
        "tcp_read" => tcp_read(stream: u64, ptr: u32, len: u32, opaque_ptr: u32);
        "tcp_peek" => tcp_peek(stream: u64, ptr: u32, len: u32, opaque_ptr: u32);
        "tcp_write_vectored" => tcp_write_vectored(stream: u64, ptr: u32, count: u32, opaque_ptr: u32);
    }
    Ok(())
}

/// Waits for connections; belongs to one process.
pub(in crate::host) struct Listener {
    socket: tokio::net::TcpListener,
    _place: Place,
}

/// One connection, shared by its clones.
pub(in crate::host) struct Stream {
    socket: tokio::net::TcpStream,
    read: Patience,
    write: Patience,
    peek: Patience,
    _place: Place,
}

impl Kind for Listener {
    const NAME: &'static str = "TCP listener";

    fn table(sockets: &mut Sockets) -> &mut Table<Arc<Self>> {
        &mut sockets.tcp_listeners
    }
}

impl Kind for Stream {
    const NAME: &'static str = "TCP stream";

    fn table(sockets: &mut Sockets) -> &mut Table<Arc<Self>> {
        &mut sockets.tcp_streams
    }
}

impl Stream {
    fn new(socket: tokio::net::TcpStream, place: Place) -> Arc<Self> {
        send_at_once(&socket);
        Arc::new(Self {
            socket,
            read: Patience::endless(),
            write: Patience::endless(),
            peek: Patience::endless(),
            _place: place,
        })
    }
}

/// Small writes go out without waiting for an answer to the one before: guests cannot ask for that.
pub(super) fn send_at_once(socket: &tokio::net::TcpStream) {
    // A connection that is closed already does not take it, and needs it no more.
    let _: io::Result<()> = socket.set_nodelay(true);
}

// ---- listeners -------------------------------------------------------------------------------

async fn tcp_bind(
    mut call: Call<'_>,
    kind: u32,
    addr_ptr: u32,
    port: u32,
    flow: u32,
    scope: u32,
    id_ptr: u32,
) -> Result<u32> {
    call.room("id_u64_ptr", id_ptr, 8)?;
    let address = address::read(&mut call, kind, addr_ptr, port, flow, scope)?;
    let listener = bind(&mut call, address).await;
    let outcome = kept(&mut call, listener)?;
    answer(&mut call, "id_u64_ptr", id_ptr, outcome)
}

async fn bind(call: &mut Call<'_>, address: SocketAddr) -> Outcome<Arc<Listener>> {
    let place = Place::take(call)?;
    let socket = tokio::net::TcpListener::bind(address).await?;
    Ok(Arc::new(Listener {
        socket,
        _place: place,
    }))
}

fn drop_tcp_listener(mut call: Call<'_>, id: u64) -> Result<()> {
    remove::<Listener>(&mut call, id).map(drop)
}

fn tcp_local_addr(mut call: Call<'_>, listener: u64, iter_ptr: u32) -> Result<u32> {
    let listener = find::<Listener>(&mut call, listener)?;
    call.room("id_u64_ptr", iter_ptr, 8)?;
    answer_address(&mut call, iter_ptr, listener.socket.local_addr())
}

/// A process that ends while it waits here takes no connection along: those not yet accepted are
/// closed with the listener.
async fn tcp_accept(mut call: Call<'_>, listener: u64, id_ptr: u32, peer_ptr: u32) -> Result<u32> {
    let listener = find::<Listener>(&mut call, listener)?;
    call.room("id_u64_ptr", id_ptr, 8)?;
    call.room("socket_addr_id_ptr", peer_ptr, 8)?;
    let accepted = accept(&mut call, &listener).await;
    answer_accepted(&mut call, id_ptr, peer_ptr, accepted)
}

async fn accept(call: &mut Call<'_>, listener: &Listener) -> Outcome<(Arc<Stream>, SocketAddr)> {
    let (socket, peer) = listener.socket.accept().await?;
    let place = Place::take(call)?;
    Ok((Stream::new(socket, place), peer))
}

// ---- streams ---------------------------------------------------------------------------------

/// 0: the id of the stream is at `id_ptr`; else that of an error is, and: 1 not connected, 9027.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn tcp_connect(
    mut call: Call<'_>,
    kind: u32,
    addr_ptr: u32,
    port: u32,
    flow: u32,
    scope: u32,
    timeout: u64,
    id_ptr: u32,
) -> Result<u32> {
    call.room("id_u64_ptr", id_ptr, 8)?;
    let address = address::read(&mut call, kind, addr_ptr, port, flow, scope)?;
    let stream = connect(&mut call, address, timeout).await;
    let outcome = kept(&mut call, stream)?;
    answer_new(&mut call, "id_u64_ptr", id_ptr, outcome)
}

async fn connect(call: &mut Call<'_>, address: SocketAddr, timeout: u64) -> Outcome<Arc<Stream>> {
    let place = Place::take(call)?;
    let connect = tokio::net::TcpStream::connect(address);
    let socket = Wait::new(timeout).step(connect).await?;
    Ok(Stream::new(socket, place))
}

fn drop_tcp_stream(mut call: Call<'_>, id: u64) -> Result<()> {
    remove::<Stream>(&mut call, id).map(drop)
}

fn clone_tcp_stream(call: Call<'_>, id: u64) -> Result<u64> {
    share::<Stream>(call, id)
}

fn tcp_peer_addr(mut call: Call<'_>, stream: u64, iter_ptr: u32) -> Result<u32> {
    let stream = find::<Stream>(&mut call, stream)?;
    call.room("id_u64_ptr", iter_ptr, 8)?;
    answer_address(&mut call, iter_ptr, stream.socket.peer_addr())
}

/// What was written is with the system already.
fn tcp_flush(mut call: Call<'_>, stream: u64, error_ptr: u32) -> Result<u32> {
    find::<Stream>(&mut call, stream)?;
    call.room("error_id_ptr", error_ptr, 8)?;
    Ok(0)
}

async fn tcp_read(
    mut call: Call<'_>,
    stream: u64,
    ptr: u32,
    len: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let stream = find::<Stream>(&mut call, stream)?;
    let outcome = take_in(
        &mut call,
        &stream,
        &stream.read,
        (ptr, len),
        opaque_ptr,
        |bytes| stream.socket.try_read(bytes),
    );
    let outcome = outcome.await?;
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

/// As `tcp_read`; the bytes stay for whoever reads or peeks next.
async fn tcp_peek(
    mut call: Call<'_>,
    stream: u64,
    ptr: u32,
    len: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let stream = find::<Stream>(&mut call, stream)?;
    // There is no peek that does not wait, so one that would is given up.
    let early = || Err(io::ErrorKind::WouldBlock.into());
    let outcome = take_in(
        &mut call,
        &stream,
        &stream.peek,
        (ptr, len),
        opaque_ptr,
        |bytes| {
            stream
                .socket
                .peek(bytes)
                .now_or_never()
                .unwrap_or_else(early)
        },
    );
    let outcome = outcome.await?;
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

/// Fills the guest's buffer as far as there are bytes; waits for the first.
///
/// # Cancellation
///
/// Bytes leave the socket only in the step that puts them into the guest's memory.
async fn take_in(
    call: &mut Call<'_>,
    stream: &Stream,
    patience: &Patience,
    (ptr, len): (u32, u32),
    opaque_ptr: u32,
    mut attempt: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<Outcome<u64>> {
    let buffer = Buffer::check(call, ptr, len)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    if buffer.len == 0 {
        return Ok(Ok(0));
    }
    let mut wait = Wait::of(patience);
    loop {
        match attempt(buffer.place(call)?) {
            Err(error) if is_early(&error) => {}
            done => return Ok(done.map(|n| n as u64).map_err(Into::into)),
        }
        if let Err(failure) = wait.step(stream.socket.readable()).await {
            return Ok(Err(failure));
        }
    }
}

async fn tcp_write_vectored(
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
/// Before the end of the future nothing was written.
async fn write(call: &mut Call<'_>, stream: &Stream, ptr: u32, count: u32) -> Result<Outcome<u64>> {
    let ranges = buffers(call, ptr, count)?;
    if ranges.is_empty() {
        return Ok(Ok(0));
    }
    let mut wait = Wait::of(&stream.write);
    loop {
        let parts = slices(call.parts()?.0, &ranges);
        match stream.socket.try_write_vectored(&parts) {
            Err(error) if is_early(&error) => {}
            done => return Ok(done.map(|n| n as u64).map_err(Into::into)),
        }
        if let Err(failure) = wait.step(stream.socket.writable()).await {
            return Ok(Err(failure));
        }
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

fn set_peek_timeout(mut call: Call<'_>, stream: u64, ms: u64) -> Result<()> {
    find::<Stream>(&mut call, stream)?.peek.set(ms);
    Ok(())
}

fn get_peek_timeout(mut call: Call<'_>, stream: u64) -> Result<u64> {
    Ok(find::<Stream>(&mut call, stream)?.peek.get())
}
