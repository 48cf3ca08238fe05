//! Asking a peer's kernel whether anybody listens there still.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How often a kernel is asked whether a peer's port is open still, by a node with few sessions that are in a hurry.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often at the least, however many of them there are.
const ASK_EVERY_MAX: Duration = Duration::from_millis(250);
/// What each such session of this program adds to the time between two asks of each: 250 asks a second in all, until
/// they are so many that [`ASK_EVERY_MAX`] holds.
const ASK_PAUSE: Duration = Duration::from_millis(4);

/// Canaries of this program that are in a hurry.
static CANARIES: AtomicU32 = AtomicU32::new(0);

/// Learns from the kernel of a peer's machine that nobody listens at its address any more.
///
/// A socket of its own, connected to that address: only such a one is told. What it sends is one byte, which
/// no QUIC endpoint answers. Whoever can forge the answer can cause a hint, and no more than a hint; after one that the peer
/// disproved, a session asks no more.
#[derive(Debug)]
pub struct Canary {
    socket: Option<tokio::net::UdpSocket>,
    ask_at: Instant,
    /// It asks by itself; else only when somebody comes by.
    hurries: bool,
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
        Canary {
            socket,
            ask_at: Instant::now(),
            hurries: false,
        }
    }

    /// Asks no more: what it learned was wrong, and would be again.
    pub fn fall_silent(&mut self) {
        self.socket = None;
        self.hurry(false);
    }

    /// Says whether anybody waits for what it learns. If nobody does, it asks only when it is called for another reason.
    pub fn hurry(&mut self, hurries: bool) {
        let hurries = hurries && self.socket.is_some();
        match (self.hurries, hurries) {
            (false, true) => _ = CANARIES.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = CANARIES.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.hurries = hurries;
    }

    /// When [`Canary::ask`] is due; `None`: whenever it suits.
    pub fn due(&self) -> Option<Instant> {
        self.hurries.then_some(self.ask_at)
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
        self.hurry(false);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test]
    async fn a_canary_asks_in_turn_and_sings_where_nobody_listens() {
        let listens = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut canary = Canary::new(listens.local_addr().unwrap());
        canary.socket.as_ref().unwrap().writable().await.unwrap();
        assert_eq!(canary.due(), None, "nobody waits for it");
        canary.hurry(true);
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
        // One that nobody waits for shares nothing, and asks all the same when it is called.
        let hurrying = || CANARIES.load(Ordering::Relaxed);
        let before = hurrying();
        canary.hurry(false);
        canary.hurry(false);
        assert_eq!((hurrying(), canary.due()), (before - 1, None));
        canary.hurry(true);
        canary.fall_silent();
        canary.hurry(true);
        assert_eq!((hurrying(), canary.due()), (before - 1, None));
        let mut mute = Canary::mute();
        mute.hurry(true);
        assert_eq!((hurrying(), mute.due()), (before - 1, None));
    }
}
