//! How a session comes to be: dial or accept, Hello each way, certificate and ticket, epoch.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tidelock::{ExitReason, NodeId};
use tidelock_certs::{Environments, Shown, Ticket};
use tidelock_proto::pair::Verdict;
use tidelock_proto::session::{Session, SessionError, check_hello};
use tidelock_proto::switch::off;
use tidelock_proto::wire::{self, Frame, Hello};
use tokio::time::Instant;

use super::{Dist, FAILURE_STANDS, Peer, PeerEvent};
use crate::live::{Drive, Live};
use crate::lock;
use crate::renewal::Certificates;
use crate::transport::{Connection, LaneReader, LaneWriter, Opened, TransportError};

/// How long a peer may take for its Hello.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);
/// Dials of one attempt: the first, and again with a higher epoch when told Stale.
const DIALS_MAX: usize = 4;

impl Dist {
    // ---- dialling ----------------------------------------------------------------------------

    /// Waits until there is a session with `node`, dialling if need be: unless a dial came to nothing just now, which is
    /// the answer then.
    pub(super) async fn open(&self, node: NodeId) -> Result<(), ExitReason> {
        self.open_or(node, FAILURE_STANDS).await
    }

    /// As [`Dist::open`], but dials in any case.
    pub(super) async fn redial(&self, node: NodeId) -> Result<(), ExitReason> {
        self.open_or(node, Duration::ZERO).await
    }

    async fn open_or(&self, node: NodeId, stands: Duration) -> Result<(), ExitReason> {
        // Whatever dialling starts belongs to the network's threads, not to a guest's.
        let opened = match self.me.upgrade() {
            Some(me) => {
                let dialling = self
                    .network
                    .spawn(async move { me.try_open(node, stands).await });
                let stopped = |_| ExitReason::NodeDown {
                    node,
                    how: "this node stops".into(),
                };
                dialling.await.map_err(stopped).and_then(|opened| opened)
            }
            None => Err(self.no_session(node)),
        };
        if opened.is_err()
            && let Some(peer) = self.find(node)
        {
            peer.lost.store(true, Ordering::Relaxed);
            if !self.is_mesh.load(Ordering::Relaxed) {
                // Nobody is placed there until a session opens, and nobody else would try.
                self.reconnect(node);
            }
        }
        opened
    }

    async fn try_open(&self, node: NodeId, stands: Duration) -> Result<(), ExitReason> {
        let down = |how: String| ExitReason::NodeDown { node, how };
        if node == NodeId::STANDALONE || node == self.us {
            return Err(down("no such node".into()));
        }
        let addr = {
            let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
            members.get(&node).map(|member| member.addr)
        };
        let Some(addr) = addr else {
            return match self.live(node) {
                Some(live) if !live.is_over() => Ok(()),
                _ => Err(down("no such node in this cluster".into())),
            };
        };
        let peer = self.peer(node);
        if peer.left.load(Ordering::Relaxed) && peer.live().is_none() {
            return Err(down(lock(&peer.why).clone()));
        }
        // Whoever has its address now would say so, too, after a whole handshake: pids of it may be asked for often.
        if peer.live().is_none()
            && let Some((name, later)) = self.replaced_by(node)
        {
            return Err(down(replaced(node, &name, later)));
        }
        self.check_stays().map_err(down)?;
        // One dial at a time; what it comes to is the answer for all who waited for it, or ask just after it.
        let failures = || {
            let failures = lock(&peer.failures);
            let stands = failures.last.is_some_and(|last| last.elapsed() < stands);
            (failures.count, stands)
        };
        let (count, stands) = failures();
        if stands && peer.live().is_none() {
            return Err(down(lock(&peer.why).clone()));
        }
        let _dialling = peer.dialling.lock().await;
        if failures().0 != count && peer.live().is_none() {
            return Err(down(lock(&peer.why).clone()));
        }
        let outcome = self.dial_until_open(&peer, addr).await;
        if let Err(how) = &outcome {
            let mut failures = lock(&peer.failures);
            failures.count += 1;
            // A session that the peer has opened meanwhile counts for more.
            if peer.live().is_none() {
                lock(&peer.why).clone_from(how);
                failures.last = Some(Instant::now());
            }
        }
        outcome.map_err(down)
    }

    /// Dials, again if need be, and says what it came to.
    async fn dial_until_open(&self, peer: &Arc<Peer>, addr: SocketAddr) -> Result<(), String> {
        for _ in 0..DIALS_MAX {
            match peer.live() {
                Some(live) if !live.is_over() => return Ok(()),
                Some(live) => live.ended().await,
                None => {}
            }
            match tokio::time::timeout(self.lease, self.dial(peer, addr)).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let mut pair = lock(&peer.pair);
                    if let Some(epoch) = pair.dialling() {
                        pair.handle_dial_failed(epoch);
                    }
                    return Err(TransportError::Silent { addr }.to_string());
                }
            }
        }
        Err("it dials us at the same time, again and again".into())
    }

    /// Dials once. `false`: the peer knows a higher epoch, or its own dial was taken; look again.
    async fn dial(&self, peer: &Arc<Peer>, addr: SocketAddr) -> Result<bool, String> {
        let connection = self
            .transport
            .dial(addr)
            .await
            .map_err(|error| error.to_string())?;
        // Only a dial whose TLS is complete counts.
        let dialled = lock(&peer.pair).dial();
        let Some(epoch) = dialled else {
            // The peer's own dial came first.
            connection.close("another session is open");
            return Ok(false);
        };
        let outcome = self.shake_hands(peer, &connection, epoch).await;
        match outcome {
            Ok(opened) => Ok(opened),
            Err(error) => {
                lock(&peer.pair).handle_dial_failed(epoch);
                connection.close(&error);
                Err(error)
            }
        }
    }

    async fn shake_hands(
        &self,
        peer: &Arc<Peer>,
        connection: &Connection,
        epoch: u64,
    ) -> Result<bool, String> {
        let told = |error: TransportError| error.to_string();
        if !connection.takes_datagrams() {
            return Err("peer does not take datagrams".into());
        }
        let mut lane = connection.open_lane().await.map_err(told)?;
        let mut bytes = Vec::new();
        self.hello(connection, peer.node, epoch).encode(&mut bytes);
        lane.write(bytes.into()).await.map_err(told)?;

        let (reader, frame, early) = read_hello(connection).await?;
        let hello = match frame {
            Frame::Stale(known) => {
                lock(&peer.pair).handle_stale(epoch, known);
                connection.close("stale");
                return Ok(false);
            }
            Frame::Hello(hello) => hello,
            _ => return Err("peer broke the protocol: nothing comes before Hello".into()),
        };
        let known = self.check_peer(connection, &hello)?;
        if hello.from != peer.node {
            return Err(format!("it is {} that answers there", hello.from));
        }
        if hello.epoch != epoch {
            return Err("peer broke the protocol: an answer repeats the epoch".into());
        }
        self.replace_older(&known).await?;
        let _opening = peer.opening.lock().await;
        self.check_stays()?;
        peer.check_stays()?;
        if !lock(&peer.pair).handle_answer(epoch) {
            connection.close("another session is open");
            return Ok(false);
        }
        self.begin(
            peer,
            connection.clone(),
            known,
            epoch,
            (reader, early, lane),
        );
        Ok(true)
    }

    // ---- accepting ---------------------------------------------------------------------------

    /// Accepts connections until the socket is closed.
    pub async fn accept(self: Arc<Self>) {
        while let Some(accepting) = self.transport.accept().await {
            let me = self.clone();
            tokio::spawn(async move {
                let taken = async {
                    let told = |error: TransportError| error.to_string();
                    let connection = accepting.complete().await.map_err(told)?;
                    let outcome =
                        match tokio::time::timeout(HELLO_TIME_MAX, read_hello(&connection)).await {
                            Ok(hello) => match hello {
                                Ok(hello) => me.accepted(&connection, hello).await,
                                Err(error) => Err(error),
                            },
                            Err(_) => Err("no Hello in time".to_owned()),
                        };
                    if let Err(why) = &outcome {
                        connection.close(why);
                    }
                    outcome
                };
                if let Err(why) = taken.await {
                    tracing::warn!(%why, "a connection was refused");
                }
            });
        }
    }

    async fn accepted(
        &self,
        connection: &Connection,
        (reader, frame, early): (LaneReader, Frame, BytesMut),
    ) -> Result<(), String> {
        let told = |error: TransportError| error.to_string();
        let Frame::Hello(hello) = frame else {
            return Err("peer broke the protocol: nothing comes before Hello".into());
        };
        let known = self.check_peer(connection, &hello)?;
        if !connection.takes_datagrams() {
            return Err("peer does not take datagrams".into());
        }
        self.check_stays()?;
        self.replace_older(&known).await?;
        let peer = self.peer(hello.from);
        let mut lane = in_time(connection.open_lane()).await.map_err(told)?;
        let mut bytes = Vec::new();
        let opening = peer.opening.lock().await;
        let verdict = lock(&peer.pair).handle_hello(hello.epoch);
        match verdict {
            Verdict::Stale(highest) => {
                drop(opening);
                Frame::Stale(highest).encode(&mut bytes);
                in_time(lane.write(bytes.into())).await.map_err(told)?;
                // The peer closes when it has read it.
                let _: Result<_, _> =
                    tokio::time::timeout(HELLO_TIME_MAX, connection.closed()).await;
            }
            Verdict::Accept => {
                if let Some(live) = peer.live() {
                    live.end(SessionError::Lost("the peer opened a new session".into()));
                    if !off("the open session ends before the next opens") {
                        live.ended().await;
                    }
                }
                // A dial of our own may have opened while we waited for the end.
                if lock(&peer.pair).handle_hello(hello.epoch) != Verdict::Accept {
                    return Err("another session is open".into());
                }
                self.check_stays()?;
                peer.check_stays()?;
                lock(&peer.pair).handle_accepted(hello.epoch);
                self.hello(connection, hello.from, hello.epoch)
                    .encode(&mut bytes);
                let written = in_time(lane.write(bytes.into())).await;
                let epoch = hello.epoch;
                self.begin(
                    &peer,
                    connection.clone(),
                    known,
                    epoch,
                    (reader, early, lane),
                );
                if let Err(error) = written
                    && let Some(live) = peer.live()
                {
                    live.end(SessionError::Lost(error.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Whether the peer is who it says, by its certificate and ticket.
    fn check_peer(&self, connection: &Connection, hello: &Hello) -> Result<Known, String> {
        let certificate = connection
            .certificate()
            .ok_or("peer shows no certificate")?;
        let authority = connection.shown().authority();
        let ticket = Ticket::verify(&hello.ticket, authority, &certificate, connection.today())
            .map_err(|error| error.to_string())?;
        let version =
            check_hello(hello, self.us, ticket.node).map_err(|error| error.to_string())?;
        if self.is_denied(&ticket.key) {
            let (node, name) = (ticket.node, &ticket.name);
            return Err(format!("{node} ({name}): {}", SessionError::Removed));
        }
        let shown = Shown::new(ticket, &certificate).map_err(|error| error.to_string())?;
        Ok(Known { shown, version })
    }

    /// A larger NodeId of the same name ends sessions with smaller ones; smaller ones are refused.
    async fn replace_older(&self, known: &Known) -> Result<(), String> {
        let (name, node) = (&known.shown.ticket().name, known.shown.ticket().node);
        let older = {
            let mut newest = lock(&self.newest);
            let entry = newest.entry(name.clone()).or_insert(node);
            if *entry > node {
                return Err(replaced(node, name, *entry));
            }
            std::mem::replace(entry, node)
        };
        if older < node
            && let Some(live) = self.live(older)
        {
            live.end(SessionError::Lost(format!("{name} restarted as {node}")));
            live.ended().await;
        }
        Ok(())
    }

    // ---- sessions ----------------------------------------------------------------------------

    /// Opens the session here: node-up comes before any of its signals.
    fn begin(
        &self,
        peer: &Arc<Peer>,
        connection: Connection,
        known: Known,
        epoch: u64,
        (lane_in, early, lane_out): (LaneReader, BytesMut, LaneWriter),
    ) {
        let mut session = Session::new(self.us, peer.node, epoch, self.limits.clone());
        session.speak(known.version);
        if let Environments::Only(list) = &known.shown.ticket().environments {
            session.restrict(list.iter().copied());
        }
        let certificates = Certificates::new(self.us, known.shown, &connection);
        let (live, bulk) = Live::new(session, certificates, connection);
        let drive = Drive {
            env: self.env.clone(),
            fetcher: self.fetcher.clone(),
            lease: self.lease,
            lane_in,
            early,
            lane_out,
            draining: self.draining.subscribe(),
        };
        tracing::info!(peer = %peer.node, epoch, "session open");
        peer.lost.store(false, Ordering::Relaxed);
        lock(&peer.failures).last = None;
        *lock(&peer.why) = "the session is over".into();
        peer.set_live(Some(live.clone()));
        // Whoever hears of it finds it. Nobody may be listening.
        let _: Result<_, _> = self.events.send(PeerEvent::Up {
            node: peer.node,
            epoch,
        });
        // It may have been removed since its ticket was looked at, before there was a session to end.
        self.end_if_denied(&live);
        // It may leave since then.
        if self.check_stays().is_err() {
            let (live, patience) = (live.clone(), self.lease / 2);
            self.network
                .spawn(async move { live.leave(patience).await });
        }
        // And this node may have renewed its own since the handshake began.
        live.show(&self.transport.identity());
        let (peer, events, me) = (peer.clone(), self.events.clone(), self.me.clone());
        self.network.spawn(async move {
            let why = live.clone().drive(drive, bulk).await;
            if why.is_left() {
                peer.left.store(true, Ordering::Relaxed);
                tracing::info!(peer = %peer.node, epoch, %why, "session over");
            } else {
                tracing::warn!(peer = %peer.node, epoch, %why, "session over");
            }
            let why = why.to_string();
            // Nobody may be listening.
            let _: Result<_, _> = events.send(PeerEvent::Down {
                node: peer.node,
                epoch,
                why: why.clone(),
            });
            *lock(&peer.why) = why;
            peer.lost.store(true, Ordering::Relaxed);
            lock(&peer.pair).handle_ended(epoch);
            peer.set_live(None);
            live.is_told();
            if let Some(me) = me.upgrade() {
                me.reconnect(peer.node);
            }
        });
    }
}

/// Says that a node's name belongs to a later start.
fn replaced(node: NodeId, name: &str, later: NodeId) -> String {
    format!("{node} ({name}) was replaced by its restart {later}")
}

/// Waits for room that the peer has to give, as long as for a Hello of its.
async fn in_time<T>(
    step: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let late = |_| TransportError::Closed("peer gives a Hello no room".into());
    tokio::time::timeout(HELLO_TIME_MAX, step)
        .await
        .map_err(late)?
}

/// A peer whose certificate and ticket were checked.
struct Known {
    shown: Shown,
    /// The protocol version to speak with it.
    version: u16,
}

/// Reads the first frame of the peer's lane, and nothing after it.
async fn read_hello(connection: &Connection) -> Result<(LaneReader, Frame, BytesMut), String> {
    let told = |error: TransportError| error.to_string();
    let stream = connection.accept_stream().await.map_err(told)?;
    let Opened::Lane(mut lane) = stream.identify().await.map_err(told)? else {
        return Err("peer broke the protocol: the lane is the first stream".into());
    };
    let mut bytes = BytesMut::new();
    loop {
        if let Some(frame) =
            wire::decode(&mut bytes).map_err(|error| SessionError::from(error).to_string())?
        {
            return Ok((lane, frame, bytes));
        }
        match lane.read(4 << 10).await.map_err(told)? {
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => return Err("peer closed before its Hello".into()),
        }
    }
}
