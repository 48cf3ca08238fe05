//! Carrying datagrams in place of the kernel.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

/// Carries datagrams in place of the kernel: a tunnel, a simulated network.
///
/// Datagrams may be lost, delayed, repeated and reordered; they are not cut. All of it is called on
/// the runtime that the [`Transport`](super::Transport) was made in.
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
pub(super) struct Carried(pub(super) Arc<dyn Carrier>);

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
