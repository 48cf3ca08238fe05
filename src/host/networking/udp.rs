//! UDP sockets. No call here has a timeout: a receive waits until something comes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::Interest;

use super::super::state::Table;
use super::super::{Call, Caller, Linker, Result, sync, waits};
use super::address;
use super::dns::{self, answer_address};
use super::{Buffer, Kind, Outcome, Place, Sockets, answer, find, is_early, kept, remove, share};

/// The code of `udp_peer_addr` when something else than a missing peer is wrong.
const OTHER_ERROR: u32 = 2;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::networking";
        "drop_udp_socket" => drop_udp_socket(id: u64);
        "clone_udp_socket" => clone_udp_socket(id: u64);
        "udp_local_addr" => udp_local_addr(socket: u64, iter_ptr: u32);
        "udp_peer_addr" => udp_peer_addr(socket: u64, iter_ptr: u32);
        "set_udp_socket_broadcast" => set_broadcast(socket: u64, on: u32);
        "get_udp_socket_broadcast" => get_broadcast(socket: u64);
        "set_udp_socket_ttl" => set_ttl(socket: u64, ttl: u32);
        "get_udp_socket_ttl" => get_ttl(socket: u64);
    }
    waits! { linker, "lunatic::networking";
        "udp_bind" =>
            udp_bind(kind: u32, addr_ptr: u32, port: u32, flow: u32, scope: u32, id_ptr: u32);
        "udp_connect" => udp_connect(
            socket: u64, kind: u32, addr_ptr: u32, port: u32, flow: u32, scope: u32, timeout: u64,
            id_ptr: u32
        );
        "udp_send" => udp_send(socket: u64, ptr: u32, len: u32, opaque_ptr: u32);
        "udp_send_to" => udp_send_to(
            socket: u64, ptr: u32, len: u32, kind: u32, addr_ptr: u32, port: u32, flow: u32,
            scope: u32, opaque_ptr: u32
        );
        "udp_receive" => udp_receive(socket: u64, ptr: u32, len: u32, opaque_ptr: u32);
        "udp_receive_from" =>
            udp_receive_from(socket: u64, ptr: u32, len: u32, opaque_ptr: u32, peer_ptr: u32);
    }
    Ok(())
}

/// One socket, shared by its clones.
pub(in crate::host) struct Socket {
    socket: tokio::net::UdpSocket,
    _place: Place,
}

impl Kind for Socket {
    const NAME: &'static str = "UDP socket";

    fn table(sockets: &mut Sockets) -> &mut Table<Arc<Self>> {
        &mut sockets.udp_sockets
    }
}

impl Socket {
    /// Waits until the socket is ready, or has an error: what an earlier datagram met on its way.
    async fn ready(&self, interest: Interest) -> io::Result<()> {
        let ready = self.socket.ready(interest | Interest::ERROR).await?;
        if ready.is_error() {
            // The hint stays until it is taken back, and is given again for the next error.
            let taken_back = || Err(io::ErrorKind::WouldBlock.into());
            let _: io::Result<()> = self.socket.try_io(Interest::ERROR, taken_back);
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
        }
        Ok(())
    }
}

async fn udp_bind(
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
    let socket = bind(&mut call, address).await;
    let outcome = kept(&mut call, socket)?;
    answer(&mut call, "id_u64_ptr", id_ptr, outcome)
}

async fn bind(call: &mut Call<'_>, address: SocketAddr) -> Outcome<Arc<Socket>> {
    let place = Place::take(call)?;
    let socket = tokio::net::UdpSocket::bind(address).await?;
    Ok(Arc::new(Socket {
        socket,
        _place: place,
    }))
}

fn drop_udp_socket(mut call: Call<'_>, id: u64) -> Result<()> {
    remove::<Socket>(&mut call, id).map(drop)
}

fn clone_udp_socket(call: Call<'_>, id: u64) -> Result<u64> {
    share::<Socket>(call, id)
}

fn udp_local_addr(mut call: Call<'_>, socket: u64, iter_ptr: u32) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    call.room("id_u64_ptr", iter_ptr, 8)?;
    answer_address(&mut call, iter_ptr, socket.socket.local_addr())
}

/// 1: not connected; 2: anything else. An error id is written in both cases.
fn udp_peer_addr(mut call: Call<'_>, socket: u64, iter_ptr: u32) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    call.room("id_u64_ptr", iter_ptr, 8)?;
    let peer = socket.socket.peer_addr();
    let other = |error: &io::Error| error.kind() != io::ErrorKind::NotConnected;
    let is_other = peer.as_ref().is_err_and(other);
    let code = answer_address(&mut call, iter_ptr, peer)?;
    Ok(if is_other { OTHER_ERROR } else { code })
}

/// Sets whom `udp_send` reaches and `udp_receive` hears. That needs no answer from there, so the
/// timeout (0 in the guest library) has no meaning. 0: a zero is at `id_ptr`.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn udp_connect(
    mut call: Call<'_>,
    socket: u64,
    kind: u32,
    addr_ptr: u32,
    port: u32,
    flow: u32,
    scope: u32,
    _timeout: u64,
    id_ptr: u32,
) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    call.room("id_u64_ptr", id_ptr, 8)?;
    let address = address::read(&mut call, kind, addr_ptr, port, flow, scope)?;
    let connected = socket.socket.connect(address).await;
    let outcome = connected.map(|()| 0).map_err(Into::into);
    answer(&mut call, "id_u64_ptr", id_ptr, outcome)
}

async fn udp_send(
    mut call: Call<'_>,
    socket: u64,
    ptr: u32,
    len: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    let outcome = send(&mut call, &socket, ptr, len, None).await?;
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn udp_send_to(
    mut call: Call<'_>,
    socket: u64,
    ptr: u32,
    len: u32,
    kind: u32,
    addr_ptr: u32,
    port: u32,
    flow: u32,
    scope: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    let to = address::read(&mut call, kind, addr_ptr, port, flow, scope)?;
    let outcome = send(&mut call, &socket, ptr, len, Some(to)).await?;
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

async fn send(
    call: &mut Call<'_>,
    socket: &Socket,
    ptr: u32,
    len: u32,
    to: Option<SocketAddr>,
) -> Result<Outcome<u64>> {
    loop {
        let datagram = call.bytes("buf_ptr", ptr, len)?;
        let sent = match to {
            Some(to) => socket.socket.try_send_to(datagram, to),
            None => socket.socket.try_send(datagram),
        };
        match sent {
            Err(error) if is_early(&error) => {}
            done => return Ok(done.map(|n| n as u64).map_err(Into::into)),
        }
        if let Err(error) = socket.ready(Interest::WRITABLE).await {
            return Ok(Err(error.into()));
        }
    }
}

/// What does not fit into the buffer is lost, as everywhere.
async fn udp_receive(
    mut call: Call<'_>,
    socket: u64,
    ptr: u32,
    len: u32,
    opaque_ptr: u32,
) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    let buffer = Buffer::check(&mut call, ptr, len)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    let outcome = receive(&mut call, &socket, buffer).await?;
    let outcome = outcome.map(|(bytes, _)| bytes);
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

async fn udp_receive_from(
    mut call: Call<'_>,
    socket: u64,
    ptr: u32,
    len: u32,
    opaque_ptr: u32,
    peer_ptr: u32,
) -> Result<u32> {
    let socket = find::<Socket>(&mut call, socket)?;
    let buffer = Buffer::check(&mut call, ptr, len)?;
    call.room("opaque_ptr", opaque_ptr, 8)?;
    call.room("dns_iter_ptr", peer_ptr, 8)?;
    let outcome = match receive(&mut call, &socket, buffer).await? {
        Ok((bytes, peer)) => {
            let peer = dns::keep(&mut call, [peer])?;
            call.put_u64("dns_iter_ptr", peer_ptr, peer)?;
            Ok(bytes)
        }
        Err(failure) => Err(failure),
    };
    answer(&mut call, "opaque_ptr", opaque_ptr, outcome)
}

/// # Cancellation
///
/// A datagram leaves the socket only in the step that puts it into the guest's memory.
async fn receive(
    call: &mut Call<'_>,
    socket: &Socket,
    buffer: Buffer,
) -> Result<Outcome<(u64, SocketAddr)>> {
    loop {
        match socket.socket.try_recv_from(buffer.place(call)?) {
            Err(error) if is_early(&error) => {}
            Err(error) => return Ok(Err(error.into())),
            Ok((bytes, peer)) => return Ok(Ok((bytes as u64, peer))),
        }
        if let Err(error) = socket.ready(Interest::READABLE).await {
            return Ok(Err(error.into()));
        }
    }
}

// ---- options ---------------------------------------------------------------------------------

/// Sets or asks for an option; the interface has no way to tell an error but a trap.
fn option<T>(
    call: &mut Call<'_>,
    socket: u64,
    option: impl FnOnce(&tokio::net::UdpSocket) -> io::Result<T>,
) -> Result<T> {
    let socket = find::<Socket>(call, socket)?;
    option(&socket.socket).map_err(|error| call.trap(error))
}

fn set_broadcast(mut call: Call<'_>, socket: u64, on: u32) -> Result<()> {
    option(&mut call, socket, |socket| socket.set_broadcast(on != 0))
}

fn get_broadcast(mut call: Call<'_>, socket: u64) -> Result<u32> {
    option(&mut call, socket, |socket| {
        socket.broadcast().map(u32::from)
    })
}

fn set_ttl(mut call: Call<'_>, socket: u64, ttl: u32) -> Result<()> {
    option(&mut call, socket, |socket| socket.set_ttl(ttl))
}

fn get_ttl(mut call: Call<'_>, socket: u64) -> Result<u32> {
    option(&mut call, socket, tokio::net::UdpSocket::ttl)
}
