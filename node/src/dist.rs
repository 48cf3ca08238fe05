//! Who the other nodes are, and the way to their processes.
//!
//! For every peer there is at most one open session; [`tidelock_proto::pair`] says which, this
//! module dials, accepts and waits. [`Dist`] is the environment's [`Remote`]: it appends to lanes.
//!
//! Addresses come from control's membership and are advice. Who a peer *is* comes from its
//! certificate and start ticket, checked here before anything else is read.

mod handshake;
mod known;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tidelock::{
    Environ, Environment, ExitReason, LinkSignal, Message, NodeId, Pending, Pid, Prepare, Remote,
    SendError, SpawnAnswer,
};
use tidelock_certs::Identity;
use tidelock_control::tags::Tags;
use tidelock_proto::PROTOCOL;
use tidelock_proto::pair::Pair;
use tidelock_proto::session::{self, SessionError};
use tidelock_proto::switch::off;
use tidelock_proto::wire::{Frame, Hello, LANE_PAYLOAD_BYTES_MAX, Route};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;

use self::known::{Known, Moment, Open};
use crate::live::{Live, Waiting};
use crate::lock;
use crate::modules::Fetcher;
use crate::transport::{Connection, Transport, TransportError};

/// How long to wait before a lost peer is dialled again, at first and at most.
///
/// The most is short, because it is what a healed network costs: until it is over nobody knows. And it
/// is cheap: we dial only whom control lists as alive, so a peer that is gone is dialled for as long
/// as control's lease; one that is cut off costs two packets of 1 200 bytes a second.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// How long a dial that came to nothing is the answer for whoever asks next.
///
/// A peer whose certificate has run out refuses at once: without this each message to it would cost both of them a TLS handshake.
/// Shorter than [`RECONNECT_MAX`], since what is healed meanwhile is not seen before.
const FAILURE_STANDS: Duration = Duration::from_millis(250);

/// A node that control lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its stable name.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether control takes it for alive. Advice, never a verdict.
    pub alive: bool,
    /// What guests find it by.
    pub tags: Tags,
}

/// A session began or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// A session is open.
    Up {
        /// With whom.
        node: NodeId,
        /// Its number.
        epoch: u64,
    },
    /// A session has ended, and everybody has been told.
    Down {
        /// With whom.
        node: NodeId,
        /// Its number.
        epoch: u64,
        /// Why.
        why: String,
    },
}

/// An open session, for people.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// With whom.
    pub node: NodeId,
    /// Its stable name.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// The session's number.
    pub epoch: u64,
    /// Since when.
    pub opened_at: SystemTime,
    /// The last round trip.
    pub rtt: Duration,
    /// Bytes that wait to be sent.
    pub backlog_bytes: u64,
    /// Bytes sent and received.
    pub bytes: (u64, u64),
    /// Local processes that would be told of its end.
    pub locals: u64,
    /// When it ends, unless the peer renews its certificate before.
    pub expires_at: SystemTime,
}

/// The way to other nodes.
pub struct Dist {
    us: NodeId,
    env: Environment,
    transport: Transport,
    lease: Duration,
    limits: session::Limits,
    mesh_max: usize,
    /// The cluster is small enough for sessions that nobody has asked for.
    is_mesh: AtomicBool,
    fetcher: Arc<Fetcher>,
    members: RwLock<HashMap<NodeId, Member>>,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    /// Their sessions.
    open: Arc<Open<Live>>,
    /// Until a session of any of them begins or ends.
    moment: Arc<Moment>,
    /// Keys whose nodes an operator has removed; control has the list. None is ever taken off it.
    denied: RwLock<HashSet<[u8; 32]>>,
    /// The newest start of every name that opened a session here.
    newest: Mutex<HashMap<String, NodeId>>,
    events: broadcast::Sender<PeerEvent>,
    draining: watch::Sender<bool>,
    /// It says goodbye to its peers: no session opens any more.
    leaving: AtomicBool,
    /// Where sessions and sockets run, apart from guests.
    network: Handle,
    me: std::sync::Weak<Dist>,
}

/// What is kept for one peer.
struct Peer {
    node: NodeId,
    pair: Mutex<Pair>,
    live: RwLock<Option<Arc<Live>>>,
    /// Of the dist.
    open: Arc<Open<Live>>,
    /// Of the dist.
    moment: Arc<Moment>,
    /// The last session ended, or the last dial failed: nobody is placed there until one opens.
    lost: AtomicBool,
    /// It said goodbye. Whoever starts again is another node, so it is not dialled any more, and none of its dials is
    /// taken that was under way.
    left: AtomicBool,
    /// Why there is no session: how the last one ended, or what the last dial came to.
    why: Mutex<String>,
    failures: Mutex<Failures>,
    /// A task dials it until there is a session.
    reconnecting: AtomicBool,
    /// Counts openings and endings; waiters look again.
    changed: watch::Sender<u64>,
    /// Held while a session opens, so that two never open at once.
    opening: tokio::sync::Mutex<()>,
    /// Held while this node dials, TLS included.
    dialling: tokio::sync::Mutex<()>,
}

/// Dials of a peer that came to nothing. Whoever waited for one of them has its answer.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    /// When the last one did, unless a session opened since.
    last: Option<Instant>,
}

thread_local! {
    /// The sessions that this thread has found last, of all dists.
    static KNOWN: Known<Live> = const { Known::new() };
}

impl Peer {
    fn live(&self) -> Option<Arc<Live>> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_live(&self, live: Option<Arc<Live>>) {
        let mut own = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *own, live.clone());
        self.open.change(before.as_ref(), live);
        self.moment.pass();
        drop(own);
        self.changed.send_modify(|count| *count += 1);
    }

    /// The error for a session that would begin after the peer has left.
    fn check_stays(&self) -> Result<(), String> {
        match self.left.load(Ordering::Relaxed) && !off("who has left is not let in") {
            true => Err("the peer has left".into()),
            false => Ok(()),
        }
    }
}

/// What a dist is made from.
#[derive(Debug)]
pub struct DistConfig {
    /// Whose processes it connects.
    pub env: Environment,
    /// What it speaks over, as a node with its start ticket.
    pub transport: Transport,
    /// How long a peer may be silent.
    pub lease: Duration,
    /// Bounds of every session.
    pub limits: session::Limits,
    /// The most live members that a cluster has in which everybody opens a session with everybody at once.
    pub mesh_max: usize,
    /// Where sessions run.
    pub network: Handle,
}

impl Dist {
    /// Sessions for `config.env`, without a control plane: whoever makes it hands it to
    /// [`Environment::set_remote`], runs [`Dist::accept`] and says who the members are.
    pub fn new(config: DistConfig) -> Arc<Self> {
        Arc::new_cyclic(|me| Dist {
            us: config.env.node(),
            env: config.env,
            transport: config.transport,
            lease: config.lease,
            limits: config.limits,
            mesh_max: config.mesh_max,
            is_mesh: AtomicBool::new(true),
            fetcher: Arc::default(),
            members: RwLock::default(),
            peers: RwLock::default(),
            open: Open::new(),
            moment: Moment::new(),
            denied: RwLock::default(),
            newest: Mutex::default(),
            events: broadcast::channel(1024).0,
            draining: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            network: config.network,
            me: me.clone(),
        })
    }

    /// Asks control for modules, too, when a peer has nothing.
    pub(crate) fn set_control(&self, client: tidelock_control::client::Client) {
        self.fetcher.set_control(client);
    }

    /// What control lists, as of now. While no more than [`DistConfig::mesh_max`] of them are alive, those of a larger
    /// id are dialled by us, so that the whole cluster is linked up without anybody asking. In a larger one a session
    /// opens when somebody has something to say: a mesh costs each node a session per other node, and all of them together the square of
    /// that. A peer that was lost is dialled in either, since nobody is placed there before.
    pub fn set_members(&self, members: impl IntoIterator<Item = Member>) {
        let mut dialled = Vec::new();
        {
            let mut known = self.members.write().unwrap_or_else(PoisonError::into_inner);
            for member in members {
                if member.alive {
                    dialled.push(member.id);
                }
                known.insert(member.id, member);
            }
            // Bounded by what control lists; ids of long ago are of no use.
            if known.len() > 100_000 {
                known.retain(|_, member| member.alive);
            }
            let alive = || known.values().filter(|member| member.alive);
            let some = alive().take(self.mesh_max.saturating_add(1)).count();
            let is_mesh = some <= self.mesh_max;
            self.is_mesh.store(is_mesh, Ordering::Relaxed);
            match is_mesh {
                true => {
                    dialled = alive().map(|member| member.id).collect();
                    dialled.retain(|node| *node > self.us);
                    dialled.sort_unstable();
                }
                false => dialled.retain(|node| self.is_lost(*node)),
            }
        }
        for node in dialled {
            if self.peer(node).live().is_none() {
                self.reconnect(node);
            }
        }
    }

    fn is_lost(&self, node: NodeId) -> bool {
        let lost = |peer: Arc<Peer>| peer.lost.load(Ordering::Relaxed);
        self.find(node).is_some_and(lost)
    }

    /// Ends the sessions with holders of these keys, and opens none with them from now on: an operator has
    /// removed their nodes.
    ///
    /// A key is what [`Ticket::key`](tidelock_certs::Ticket::key) says. It counts and not the node's id,
    /// since it may have tickets for several.
    pub fn deny(&self, keys: impl IntoIterator<Item = [u8; 32]>) {
        self.denied
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(keys);
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        for live in peers.values().filter_map(|peer| peer.live()) {
            self.end_if_denied(&live);
        }
    }

    fn end_if_denied(&self, live: &Live) {
        if self.is_denied(&live.certificates.key) {
            live.end(SessionError::Removed);
        }
    }

    fn is_denied(&self, key: &[u8; 32]) -> bool {
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        denied.contains(key)
    }

    /// Speaks as `identity` from now on, and shows it in the sessions that are open: they last as long as the
    /// certificate in it. With peers that speak protocol 1 they end with the one shown before.
    ///
    /// # Errors
    ///
    /// [`TransportError::Identity`]; nothing changes.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), TransportError> {
        self.transport.speak_as(identity, self.lease)?;
        // A session that opens after this look shows it by itself.
        for live in self.open_sessions() {
            live.show(identity);
        }
        Ok(())
    }

    /// Sessions that begin and end from now on.
    pub fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.events.subscribe()
    }

    /// From now on asks of other nodes are refused.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether this node takes no more spawns from others.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// The open sessions.
    pub fn sessions(&self) -> Vec<PeerInfo> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        // By node: the map is in order.
        peers
            .values()
            .filter_map(|peer| peer.live())
            .filter(|live| !live.is_over())
            .map(|live| PeerInfo {
                node: live.peer,
                name: live.certificates.name.clone(),
                addr: live.connection.addr(),
                epoch: live.epoch,
                opened_at: live.opened_at,
                rtt: live.rtt(),
                backlog_bytes: live.backlog(),
                bytes: live.connection.bytes(),
                locals: live.locals() as u64,
                expires_at: live.certificates.not_after(),
            })
            .collect()
    }

    /// Says goodbye to every peer, everything sent before it. From the first word on no session opens: one that did
    /// would end with the socket, and its peer would take that for a crash.
    pub async fn leave(&self) {
        self.drain();
        self.leaving.store(true, Ordering::SeqCst);
        let goodbye = async {
            // Also to those that were about to open.
            loop {
                let all = self.open_sessions();
                if all.is_empty() {
                    return;
                }
                futures_util::future::join_all(all.iter().map(|live| live.leave(self.lease / 2)))
                    .await;
            }
        };
        // A peer that does not answer within a lease is told nothing more.
        let _: Result<_, _> = tokio::time::timeout(self.lease, goodbye).await;
        self.transport.close().await;
    }

    /// The error for a session that would begin while this node leaves.
    fn check_stays(&self) -> Result<(), String> {
        match self.leaving.load(Ordering::SeqCst) {
            true => Err("this node leaves".into()),
            false => Ok(()),
        }
    }

    fn peer(&self, node: NodeId) -> Arc<Peer> {
        if let Some(peer) = self.find(node) {
            return peer;
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Peer {
                node,
                pair: Mutex::new(Pair::new(self.us, node)),
                live: RwLock::default(),
                open: self.open.clone(),
                moment: self.moment.clone(),
                lost: AtomicBool::new(false),
                left: AtomicBool::new(false),
                why: Mutex::new("no session".into()),
                failures: Mutex::default(),
                reconnecting: AtomicBool::new(false),
                changed: watch::Sender::new(0),
                opening: tokio::sync::Mutex::default(),
                dialling: tokio::sync::Mutex::default(),
            })
        };
        peers.entry(node).or_insert_with(new).clone()
    }

    fn find(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }

    fn open_sessions(&self) -> Vec<Arc<Live>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        // By node, so in one order each time: what is sent to all goes out in it.
        peers.values().filter_map(|peer| peer.live()).collect()
    }

    /// The open session with a node.
    fn live(&self, node: NodeId) -> Option<Arc<Live>> {
        let moment = self.moment.now();
        // There is none while a thread ends.
        let known = KNOWN.try_with(|known| known.get(moment, node));
        if let Ok(Some(live)) = known {
            return Some(live);
        }
        let live = {
            let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
            peers.get(&node)?.live()?
        };
        let _: Result<(), _> = KNOWN.try_with(|known| known.put(moment, node, &live));
        Some(live)
    }

    /// Waits until there is a session with a node and it is open for something.
    async fn ready_when(
        &self,
        node: NodeId,
        is_open: impl Fn(&Live) -> bool,
    ) -> Result<(), ExitReason> {
        loop {
            match self.live(node) {
                Some(live) if !live.is_over() => {
                    let mut drained = std::pin::pin!(live.drained.notified());
                    drained.as_mut().enable();
                    if is_open(&live) {
                        return Ok(());
                    }
                    if live.is_over() {
                        continue;
                    }
                    drained.await;
                }
                Some(live) => live.ended().await,
                None => self.open(node).await?,
            }
        }
    }

    /// Why a node cannot be reached now, in the words of whoever tried last.
    fn why_no_session(&self, node: NodeId) -> String {
        match self.find(node) {
            Some(peer) => lock(&peer.why).clone(),
            None => "no such node in this cluster".into(),
        }
    }

    fn no_session(&self, node: NodeId) -> ExitReason {
        let how = self.why_no_session(node);
        ExitReason::NodeDown { node, how }
    }

    fn hello(&self, connection: &Connection, to: NodeId, epoch: u64) -> Frame {
        // The one that goes with the certificate of this connection.
        let ticket = connection.shown().ticket().unwrap_or_default().to_vec();
        Frame::Hello(Hello {
            versions: PROTOCOL,
            from: self.us,
            to,
            epoch,
            ticket,
        })
    }

    /// Dials a node in the background until there is a session, or control lists it no more.
    fn reconnect(&self, node: NodeId) {
        let me = self.me.clone();
        let peer = self.peer(node);
        if peer.reconnecting.swap(true, Ordering::AcqRel) {
            return;
        }
        self.network.spawn(async move {
            let mut wait = RECONNECT_MIN;
            while let Some(me) = me.upgrade() {
                let wanted = !me.is_draining() && me.takes_part(node);
                if !wanted || me.redial(node).await.is_ok() {
                    break;
                }
                drop(me);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RECONNECT_MAX);
            }
            peer.reconnecting.store(false, Ordering::Release);
        });
    }

    /// Whether control lists the node as alive, it has not said goodbye, and no later start of it has shown itself.
    fn takes_part(&self, node: NodeId) -> bool {
        if self
            .find(node)
            .is_some_and(|peer| peer.left.load(Ordering::Relaxed))
        {
            return false;
        }
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let newest = lock(&self.newest);
        members
            .get(&node)
            .is_some_and(|member| member.alive && later_start(&newest, member).is_none())
    }

    /// The name of a node and a later start of it, if one has shown itself here, or control lists this one as gone and
    /// a later one beside it: whoever has the address now is not who is asked for.
    fn replaced_by(&self, node: NodeId) -> Option<(String, NodeId)> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let member = members.get(&node)?;
        let shown = later_start(&lock(&self.newest), member);
        let listed = || {
            let same = members.values().filter(|other| other.name == member.name);
            let newest = same.map(|other| other.id).max();
            newest.filter(|newest| *newest > node && !member.alive)
        };
        Some((member.name.clone(), shown.or_else(listed)?))
    }
}

/// A later start of a member's name that has shown itself.
fn later_start(newest: &HashMap<String, NodeId>, member: &Member) -> Option<NodeId> {
    let newest = newest.get(&member.name).copied();
    newest.filter(|newest| *newest > member.id)
}

/// How long a signal is kept out of the lane, so that answers overtake it: none is, unless a test removes
/// the rule.
fn overtaken(signal: &LinkSignal) -> Option<Duration> {
    let answer = matches!(
        signal,
        LinkSignal::LinkAck { .. } | LinkSignal::UnlinkAck { .. }
    );
    (!answer && off("an answer keeps its place in the lane")).then_some(Duration::from_millis(20))
}

impl Remote for Dist {
    fn nodes(&self) -> Vec<NodeId> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let newest = lock(&self.newest);
        // Control's word, corrected by what our own sessions show.
        let takes_part = |id: NodeId, member: &Member| {
            let replaced = later_start(&newest, member).is_some();
            let open = self.live(id).is_some_and(|live| !live.is_over());
            !replaced && (open || (member.alive && !self.is_lost(id)))
        };
        let others = members
            .iter()
            .filter(|(id, member)| **id != self.us && takes_part(**id, member))
            .map(|(id, _)| *id);
        let mut nodes: Vec<NodeId> = others.chain([self.us]).collect();
        nodes.sort_unstable();
        nodes
    }

    fn nodes_with(&self, tags: &[(String, String)]) -> Vec<NodeId> {
        let mut nodes = self.nodes();
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        // One that control has not listed yet has no tags that we know of.
        let has = |id: &NodeId| match members.get(id) {
            Some(member) => member.tags.have(tags),
            None => tags.is_empty(),
        };
        nodes.retain(has);
        nodes
    }

    fn ready(&self, node: NodeId) -> Pending<'_, Result<(), ExitReason>> {
        Box::pin(self.ready_when(node, Live::is_open))
    }

    fn is_ready(&self, node: NodeId) -> bool {
        self.live(node).is_some_and(|live| live.is_open())
    }

    fn ready_for(&self, from: Pid, to: Pid, bytes: usize) -> Pending<'_, Result<(), ExitReason>> {
        let takes = move |live: &Live| live.takes((from, to), bytes);
        Box::pin(self.ready_when(to.node(), takes))
    }

    fn is_ready_for(&self, from: Pid, to: Pid, bytes: usize) -> bool {
        self.live(to.node())
            .is_some_and(|live| live.takes((from, to), bytes))
    }

    fn signal(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        signal: &LinkSignal,
    ) -> Result<(), ExitReason> {
        let node = to.node();
        let live = self.live(node).ok_or_else(|| self.no_session(node))?;
        if let Some(overtaken) = overtaken(signal) {
            // If the session ends first, whoever said it is told.
            self.note(node, from)?;
            let signal = signal.clone();
            self.network.spawn(async move {
                tokio::time::sleep(overtaken).await;
                live.with(|session| session.signal(environ, from, to, &signal))
            });
            return Ok(());
        }
        let route = Route { environ, from, to };
        live.with(|session| live.signal(session, &route, signal))
            .map_err(|_| self.no_session(node))
    }

    fn try_message(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        tag: Option<i64>,
        data: &[u8],
    ) -> bool {
        if data.len() > LANE_PAYLOAD_BYTES_MAX {
            return false;
        }
        let Some(live) = self.live(to.node()) else {
            return false;
        };
        let route = Route { environ, from, to };
        live.with(|session| {
            !live.holds_up(session, (from, to), data.len())
                && live.message(session, &route, tag, data).is_ok()
        })
    }

    fn message(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        message: &Message,
    ) -> Result<(), SendError> {
        let node = to.node();
        if !message.resources.is_empty() {
            return Err(SendError::Resources);
        }
        let down = || SendError::Unreachable {
            node,
            how: self.why_no_session(node),
        };
        let live = self.live(node).ok_or_else(down)?;
        let route = Route { environ, from, to };
        if message.data.len() <= LANE_PAYLOAD_BYTES_MAX {
            let sent =
                live.with(|session| live.message(session, &route, message.tag, &message.data));
            return sent.map_err(|_| down());
        }
        let bytes = message.data.len() as u64;
        live.with(|session| {
            let stream = session.bulk(route, message.tag, bytes)?;
            live.send_bulk(&route, stream, message.data.clone());
            Ok(())
        })
        .map_err(|_: session::Over| down())
    }

    fn note(&self, node: NodeId, local: Pid) -> Result<(), ExitReason> {
        let live = self.live(node).ok_or_else(|| self.no_session(node))?;
        live.with(|session| session.note(local))
            .map_err(|_| self.no_session(node))
    }

    fn ask(
        &self,
        node: NodeId,
        prepare: Prepare,
    ) -> Result<(u64, oneshot::Receiver<SpawnAnswer>), ExitReason> {
        let live = self.live(node).ok_or_else(|| self.no_session(node))?;
        let (answer, answered) = oneshot::channel();
        let (parent, link) = (prepare.parent, prepare.link);
        let (reference, is_refused) = live
            .with(|session| {
                let reference = session.ask(prepare)?;
                live.wait_for_spawn(
                    reference,
                    Waiting {
                        answer,
                        parent,
                        link,
                    },
                );
                Ok((reference, session.has_actions()))
            })
            .map_err(|_: session::Over| self.no_session(node))?;
        if is_refused {
            // A request no frame can hold is refused by the session itself. Or it is busy with something, and looks once more.
            live.poked.notify_one();
        }
        Ok((reference, answered))
    }

    fn cancel(&self, node: NodeId, reference: u64) {
        if let Some(live) = self.live(node) {
            live.forget_spawn(reference);
            live.with(|session| session.cancel(reference));
        }
    }

    fn exists(&self, pid: Pid) -> Pending<'_, bool> {
        Box::pin(async move {
            if self.ready(pid.node()).await.is_err() {
                return false;
            }
            let Some(live) = self.live(pid.node()) else {
                return false;
            };
            let (answer, answered) = oneshot::channel();
            let asked = live.with(|session| {
                let reference = session.query(pid)?;
                live.wait_for_answer(reference, answer);
                Ok::<_, session::Over>(reference)
            });
            asked.is_ok() && answered.await.unwrap_or(false)
        })
    }

    fn parked_ended(&self, node: NodeId, epoch: u64, reference: u64) {
        if let Some(live) = self.live(node)
            && live.epoch == epoch
        {
            live.with(|session| session.parked_ended(reference));
        }
    }

    fn ended(&self, local: Pid, told: Option<NodeId>) {
        // Under one lock: a count of those who hold each session would be one more that all cores share.
        self.open.each(|live| {
            // The session that took its Exit has forgotten it, and its lock is where all meet who send.
            if told != Some(live.peer) {
                live.forget(local);
            }
        });
    }
}
