//! One session with one peer: who may say what, and who is told at its end.
//!
//! A session is one lane each way. Whatever a process's block wants to say to the other node is
//! appended to the outgoing lane *in the same step* as the block's change; whatever arrives comes
//! out as [`Action`]s, in order. A session is never repaired: its end is told to everybody who has
//! something over it, and a reconnection is a new session.
//!
//! The methods sort into commands (`signal`, `message`, `ask`, …: this node → lane), `handle_*`
//! (lane → this node) and `poll_*` (what the caller must do). After `handle_bytes`, drain
//! [`Session::poll_action`], and [`Session::poll_messages`], [`Session::poll_signals`] or
//! [`Session::poll_others`] first if several at once are wanted; after any command,
//! [`Session::poll_transmit`] may have bytes.
//!
//! # Guarantees
//!
//! * **N1 — order (P5).** Actions come out in the order the peer appended the frames.
//! * **N2 — identity (P8).** Every action's sender lives on the peer's node and every target here;
//!   anything else ends the session and names the rule.
//! * **N3 — nobody forgotten (P1).** [`Session::end`] lists every local process that may hold a
//!   half over this session, every spawn that waits and every child that has not run.
//!
//! # What this module does not do
//!
//! It does not know time ([`crate::lease`]), which session is the current one ([`crate::pair`]),
//! or what is in a ticket or a certificate.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::link::{LinkAnswer, Signal};
use crate::spawn::{
    Answer, Asking, AskingStep, Hosting, HostingStep, Prepare, ProcessConfig, Refusal,
};
use crate::switch::off;
use crate::wire::{self, BulkHead, Frame, Hello, Renew, Route, WireError};
use crate::{Environ, NodeId, PROTOCOL, Pid};

/// The first protocol version that has [`Frame::Renew`].
const RENEW_SINCE: u16 = 2;

/// The first protocol version that has [`Frame::Config`].
const CONFIGS_SINCE: u16 = 3;

/// Slots for configurations, each way.
const CONFIGS_MAX: u8 = 16;

/// Bytes that wait to be sent before callers wait. As much as a quick network takes in a few milliseconds: a longer
/// queue makes nothing faster, later signals wait behind it, and memory that is touched for the first time costs more than the
/// waking of those who wait.
pub const CONGESTED_BYTES: usize = 1 << 20;

/// The bounds of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Spawns that may be preparing or parked for the peer; one more is refused as full.
    pub hosting_max: usize,
    /// Bytes of one message; the sender's call fails above.
    pub message_bytes_max: u64,
    /// Bytes that wait to be sent. Above [`CONGESTED_BYTES`], or half of this where that is less, callers wait; above this the
    /// session ends.
    pub backlog_bytes_max: usize,
    /// Questions of the peer (does this process live?) that may be unanswered.
    pub queries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hosting_max: 16_384,
            message_bytes_max: 64 << 20,
            backlog_bytes_max: 64 << 20,
            queries_max: 65_536,
        }
    }
}

/// Why a session ended, sorted by whose move it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The network or the peer's machine went away. A new session may be opened at any time.
    #[error("{0}")]
    Lost(String),
    /// The peer left on purpose.
    #[error("left")]
    Left,
    /// The peer left on purpose, and its connection was lost before all had arrived that it had sent.
    #[error("left, and messages that it had sent are lost")]
    LeftUndelivered,
    /// An operator has removed the peer from the cluster. There is no session with it any more.
    #[error("removed from the cluster by an operator")]
    Removed,
    /// No protocol version in common. An operator has to upgrade one side.
    #[error(
        "peer speaks protocol {}–{}, this node speaks {}–{}",
        theirs.0, theirs.1, ours.0, ours.1
    )]
    Incompatible {
        /// Oldest and newest of this node.
        ours: (u16, u16),
        /// Oldest and newest of the peer.
        theirs: (u16, u16),
    },
    /// The peer sent what no correct peer can send; the text names the rule.
    #[error("peer broke the protocol: {0}")]
    Misbehaved(String),
    /// The peer takes less than is sent to it, and the backlog is at its bound.
    #[error("peer does not keep up: backlog above {0} bytes")]
    Backlog(usize),
}

impl SessionError {
    /// Whether the peer has said goodbye. It opens no session any more.
    #[must_use]
    pub fn is_left(&self) -> bool {
        matches!(self, SessionError::Left | SessionError::LeftUndelivered)
    }
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        SessionError::Misbehaved(error.to_string())
    }
}

/// Fills a slot, which is there already or is the next one.
fn set_slot(slots: &mut Vec<Arc<ProcessConfig>>, slot: u8, config: Arc<ProcessConfig>) {
    match slots.get_mut(usize::from(slot)) {
        Some(held) => *held = config,
        None => slots.push(config),
    }
}

fn rule(text: &str) -> SessionError {
    SessionError::Misbehaved(text.to_owned())
}

/// The session is over; nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("session is over")]
pub struct Over;

/// What the caller must do, in the order it comes out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub enum Action {
    /// Hand this to the target's block, or answer for nobody.
    Deliver(Route, Signal),
    /// Put this into the target's mailbox, or drop it if there is none.
    Message(Route, Option<i64>, Bytes),
    /// As [`Action::Message`], when the stream's bytes have come; later frames of the same pair wait.
    Bulk(Route, Option<i64>, BulkHead),
    /// Check and make this child, then say [`Session::made`] or [`Session::refuse`].
    Make(u64, Box<Prepare>),
    /// Enter the parent's half and say [`Session::start`] in the same step.
    Adopt(u64, Pid),
    /// Return this refusal to the parent.
    Refused(u64, Refusal),
    /// Run the parked child.
    Run(u64),
    /// Let go of the child: one that is being made is not made any more, a parked one ends, unrun, if it has not ended.
    End(u64),
    /// Answer with [`Session::answer`].
    Query(u64, Pid),
    /// The peer answered a question.
    Answered(u64, bool),
    /// The peer leaves; end the session as [`SessionError::Left`].
    Left,
    /// Check this certificate; if it is good, the session may last as long as it does, else it ends.
    Renew(Renew),
}

/// Who has to be told that a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// Spawns whose parents wait: unreachable.
    pub asks: Vec<u64>,
    /// Children being made for the peer: drop them when they are ready.
    pub preparing: Vec<u64>,
    /// Children that never ran: end them.
    pub parked: Vec<u64>,
    /// Questions without an answer.
    pub queries: Vec<u64>,
    /// Local processes that may hold a half over this session.
    pub locals: Vec<Pid>,
}

/// One session with one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    us: NodeId,
    peer: NodeId,
    epoch: u64,
    limits: Limits,
    /// The protocol version both sides speak.
    version: u16,
    /// Tenants the peer's ticket allows; `None`: all.
    environs: Option<BTreeSet<Environ>>,
    over: bool,
    /// The outgoing lane: bytes not handed to the transport yet.
    out: Vec<u8>,
    /// Bytes handed to the transport and not yet taken by it.
    in_flight: usize,
    /// The incoming lane: bytes of a frame that is not whole yet.
    partial: BytesMut,
    next: u64,
    asks: BTreeMap<u64, Asking>,
    hosts: BTreeMap<u64, Hosting>,
    /// The highest spawn reference the peer used; references only grow.
    hosted: u64,
    /// Questions asked and not answered.
    queries: BTreeSet<u64>,
    /// Questions of the peer not answered yet.
    asked: BTreeSet<u64>,
    /// Local processes that may hold a half over this session.
    locals: BTreeSet<Pid>,
    /// The configurations that the peer knows, by slot.
    told: Vec<Arc<ProcessConfig>>,
    /// The slot that the next one gets, once there is one in each.
    next_slot: u8,
    /// The configurations that the peer has told, by slot.
    heard: Vec<Arc<ProcessConfig>>,
    actions: VecDeque<Action>,
}

/// Compares a peer's Hello with who its certificate and ticket say it is, and returns the newest protocol
/// version that both sides speak, for [`Session::speak`].
///
/// # Errors
///
/// [`SessionError::Incompatible`] or the broken rule; nothing may be read after it.
pub fn check_hello(hello: &Hello, us: NodeId, certified: NodeId) -> Result<u16, SessionError> {
    let (ours, theirs) = (PROTOCOL, hello.versions);
    if theirs.0 > theirs.1 {
        return Err(rule("a version range runs upwards"));
    }
    if theirs.0 > ours.1 || theirs.1 < ours.0 {
        return Err(SessionError::Incompatible { ours, theirs });
    }
    if hello.from != certified {
        return Err(rule("a node is who its certificate and ticket say"));
    }
    if hello.to != us {
        return Err(rule("this is another node than the one dialled"));
    }
    if hello.from == NodeId::STANDALONE || hello.from > NodeId::MAX || hello.from == us {
        return Err(rule("a peer has a node id of its own"));
    }
    if hello.epoch == 0 {
        return Err(rule("epochs count from 1"));
    }
    Ok(ours.1.min(theirs.1))
}

impl Session {
    /// A session that both sides have said Hello for.
    pub fn new(us: NodeId, peer: NodeId, epoch: u64, limits: Limits) -> Self {
        Session {
            us,
            peer,
            epoch,
            limits,
            version: PROTOCOL.1,
            environs: None,
            over: false,
            out: Vec::new(),
            in_flight: 0,
            partial: BytesMut::new(),
            next: 1,
            asks: BTreeMap::new(),
            hosts: BTreeMap::new(),
            hosted: 0,
            queries: BTreeSet::new(),
            asked: BTreeSet::new(),
            locals: BTreeSet::new(),
            told: Vec::new(),
            next_slot: 0,
            heard: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// Speaks this protocol version, as [`check_hello`] found it, and not the newest.
    pub fn speak(&mut self, version: u16) {
        self.version = version;
    }

    /// Allows only frames of these tenants, as the peer's ticket says.
    pub fn restrict(&mut self, environs: impl IntoIterator<Item = Environ>) {
        self.environs = Some(environs.into_iter().collect());
    }

    /// Whether the peer's ticket allows it to speak for this tenant.
    pub fn permits(&self, environ: Environ) -> bool {
        let allowed = self.environs.as_ref();
        allowed.is_none_or(|allowed| allowed.contains(&environ))
    }

    /// The peer.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The number of this session among all of this pair.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Bytes that wait to be sent, handed to the transport or not.
    pub fn backlog(&self) -> usize {
        self.out.len() + self.in_flight
    }

    /// Bytes that wait to be handed to the transport.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// How many local processes may hold a half over this session.
    pub fn locals(&self) -> usize {
        self.locals.len()
    }

    /// Whether frames that guests make should wait.
    pub fn is_congested(&self) -> bool {
        self.backlog() > CONGESTED_BYTES.min(self.limits.backlog_bytes_max / 2)
    }

    /// Whether so much waits that the session must end ([`SessionError::Backlog`]).
    pub fn is_overrun(&self) -> bool {
        self.backlog() > self.limits.backlog_bytes_max
    }

    /// Whether nothing is under way: no spawn, no question, no byte.
    pub fn at_rest(&self) -> bool {
        self.asks.is_empty()
            && self.hosts.is_empty()
            && self.queries.is_empty()
            && self.asked.is_empty()
            && self.actions.is_empty()
            && self.out.is_empty()
    }

    // ---- this node → lane ------------------------------------------------------------------

    fn put(&mut self, frame: &Frame) -> Result<(), Over> {
        if self.over {
            return Err(Over);
        }
        frame.encode(&mut self.out);
        Ok(())
    }

    /// Appends what a local block says. Call it in the same step as the block's change.
    ///
    /// # Errors
    ///
    /// [`Over`]: hand the signal to [`crate::link::Block::unsent`].
    pub fn signal(
        &mut self,
        environ: Environ,
        from: Pid,
        to: Pid,
        signal: &Signal,
    ) -> Result<(), Over> {
        if self.over {
            return Err(Over);
        }
        match signal {
            Signal::Link { .. } | Signal::Unlink { .. } | Signal::Monitor { .. } => {
                if !off("who asks is noted") {
                    self.locals.insert(from);
                }
            }
            // Said for nobody, whom what was asked had entered; or the last word of one who is nobody now.
            Signal::LinkAck {
                answer: LinkAnswer::NoProcess,
                ..
            }
            | Signal::MonitorAck { exists: false, .. }
            | Signal::Exit { .. } => {
                self.locals.remove(&from);
            }
            Signal::LinkAck { .. }
            | Signal::UnlinkAck { .. }
            | Signal::MonitorAck { .. }
            | Signal::Demonitor { .. }
            | Signal::Down { .. }
            | Signal::Kill => {}
        }
        wire::encode_signal(&mut self.out, &Route { environ, from, to }, signal);
        Ok(())
    }

    /// Appends a message. Longer payloads than [`wire::LANE_PAYLOAD_BYTES_MAX`] are [`Session::bulk`].
    ///
    /// # Errors
    ///
    /// [`Over`]: the message is not sent; whoever must know holds a link or a monitor.
    pub fn message(&mut self, route: &Route, tag: Option<i64>, payload: &[u8]) -> Result<(), Over> {
        if self.over {
            return Err(Over);
        }
        wire::encode_message(&mut self.out, route, tag, payload);
        Ok(())
    }

    /// Appends the place of a bulk message and returns the number of its stream.
    ///
    /// # Errors
    ///
    /// [`Over`], as for [`Session::message`].
    pub fn bulk(&mut self, route: Route, tag: Option<i64>, bytes: u64) -> Result<u64, Over> {
        let stream = self.next;
        self.put(&Frame::Bulk(route, tag, BulkHead { stream, bytes }))?;
        self.next += 1;
        Ok(stream)
    }

    /// Asks the peer for a process. It ends with [`Action::Adopt`], [`Action::Refused`], a
    /// [`Session::cancel`], or the session's end.
    ///
    /// A request that no frame can hold is refused here, without the peer: its
    /// [`Action::Refused`] is there to be polled as soon as this returns.
    ///
    /// # Errors
    ///
    /// [`Over`]: nothing was asked.
    pub fn ask(&mut self, prepare: Prepare) -> Result<u64, Over> {
        if self.over {
            return Err(Over);
        }
        let (reference, parent) = (self.next, prepare.parent);
        self.next += 1;
        let slot = self.slot_of(&prepare.config);
        let before = self.out.len();
        match slot {
            Some(slot) => {
                wire::encode_request(&mut self.out, reference, &prepare.into_request(slot));
            }
            None => Frame::Prepare(reference, Box::new(prepare)).encode(&mut self.out),
        }
        let bytes = self.out.len() - before - wire::HEADER_BYTES;
        if bytes > wire::CONTROL_BYTES_MAX {
            self.out.truncate(before);
            let why = format!(
                "a spawn of {bytes} bytes; at most {}",
                wire::CONTROL_BYTES_MAX
            );
            self.actions
                .push_back(Action::Refused(reference, Refusal::NotPermitted(why)));
        } else {
            self.asks.insert(reference, Asking::Asked);
        }
        // Its block remembers the number, which a later session gives to somebody else.
        if !off("who spawns is noted") {
            self.locals.insert(parent);
        }
        Ok(reference)
    }

    /// The slot in which the peer has this configuration; it is told, if it does not have it yet. `None`: each
    /// request has to carry it.
    fn slot_of(&mut self, config: &Arc<ProcessConfig>) -> Option<u8> {
        if self.version < CONFIGS_SINCE || config.is_short() {
            return None;
        }
        let same = |told: &Arc<ProcessConfig>| Arc::ptr_eq(told, config) || told == config;
        if let Some(slot) = (0..).zip(&self.told).find(|(_, told)| same(told)) {
            return Some(slot.0);
        }
        let (slot, before) = (self.next_slot, self.out.len());
        Frame::Config(slot, config.clone()).encode(&mut self.out);
        if self.out.len() - before - wire::HEADER_BYTES > wire::CONFIG_BYTES_MAX {
            self.out.truncate(before);
            return None;
        }
        set_slot(&mut self.told, slot, config.clone());
        self.next_slot = (slot + 1) % CONFIGS_MAX;
        Some(slot)
    }

    /// Gives a spawn up: the child is never made, or ends unrun. Harmless if it is over already.
    ///
    /// An [`Action::Adopt`] that was not polled yet does not come any more.
    pub fn cancel(&mut self, reference: u64) {
        if let Some(asking @ (Asking::Asked | Asking::Answered)) = self.asks.get_mut(&reference)
            && !self.over
        {
            if *asking == Asking::Answered && off("an answered spawn can be given up") {
                return;
            }
            *asking = Asking::Cancelled;
            if off("Cancel leaves a tombstone") {
                self.asks.remove(&reference);
            }
            Frame::Cancel(reference).encode(&mut self.out);
        }
    }

    /// Lets the child of [`Action::Adopt`] run; `parent` holds its half from this step on.
    ///
    /// # Errors
    ///
    /// [`Over`]: the child ends unrun, and the spawn has failed.
    pub fn start(&mut self, reference: u64, parent: Pid) -> Result<(), Over> {
        match self.asks.entry(reference) {
            Entry::Occupied(asking) if !self.over && *asking.get() == Asking::Answered => {
                asking.remove();
            }
            Entry::Occupied(_) | Entry::Vacant(_) => return Err(Over),
        }
        self.put(&Frame::Start(reference))?;
        debug_assert!(self.locals.contains(&parent), "noted when it asked");
        Ok(())
    }

    /// Says that the child of [`Action::Make`] exists. `false`: nobody wants it any more; it must
    /// be dropped without a trace.
    #[must_use]
    pub fn made(&mut self, reference: u64, child: Pid) -> bool {
        let Some(hosting @ Hosting::Preparing) = self.hosts.get_mut(&reference) else {
            return false;
        };
        *hosting = Hosting::Parked;
        if !off("a child is noted") {
            self.locals.insert(child);
        }
        self.put(&Frame::Prepared(reference, child)).is_ok()
    }

    /// Whether somebody still waits for the child of [`Action::Make`].
    pub fn is_wanted(&self, reference: u64) -> bool {
        self.hosts.get(&reference) == Some(&Hosting::Preparing)
    }

    /// Says that the child of [`Action::Make`] will not exist. Harmless if nobody asks any more.
    pub fn refuse(&mut self, reference: u64, why: Refusal) {
        if self.hosts.get(&reference) == Some(&Hosting::Preparing) {
            self.hosts.remove(&reference);
            // If the session is over, nobody waits for the answer.
            let _: Result<(), Over> = self.put(&Frame::Refused(reference, why.bounded()));
        }
    }

    /// A parked child ended (killed, or parked for too long). Its block has told its links.
    pub fn parked_ended(&mut self, reference: u64) {
        match self.hosts.get_mut(&reference) {
            Some(hosting @ Hosting::Parked) => *hosting = Hosting::Ended,
            Some(Hosting::Starting) => {
                self.hosts.remove(&reference);
            }
            Some(Hosting::Preparing | Hosting::Ended) | None => {}
        }
    }

    /// Asks whether a process of the peer lives.
    ///
    /// # Errors
    ///
    /// [`Over`]: nothing was asked.
    pub fn query(&mut self, pid: Pid) -> Result<u64, Over> {
        let reference = self.next;
        self.put(&Frame::Query(reference, pid))?;
        self.next += 1;
        self.queries.insert(reference);
        Ok(reference)
    }

    /// Answers [`Action::Query`].
    pub fn answer(&mut self, reference: u64, exists: bool) {
        if self.asked.remove(&reference) {
            // If the session is over, nobody waits for the answer.
            let _: Result<(), Over> = self.put(&Frame::Answer(reference, exists));
        }
    }

    /// Notes a local process that must hear of this session's end (a node monitor).
    ///
    /// # Errors
    ///
    /// [`Over`]: it must be told now.
    pub fn note(&mut self, local: Pid) -> Result<(), Over> {
        if self.over {
            return Err(Over);
        }
        self.locals.insert(local);
        Ok(())
    }

    /// A local process ended: it need not be told of anything.
    pub fn forget(&mut self, local: Pid) {
        self.locals.remove(&local);
    }

    /// Shows the peer a later certificate. `false`: it speaks a protocol without that, and nothing was
    /// appended; the session ends with the certificate that it knows.
    ///
    /// # Errors
    ///
    /// [`Over`]: a later session shows the certificate by itself.
    ///
    /// # Panics
    ///
    /// If a part is beyond its bound: ask [`Renew::is_bounded`] before.
    pub fn renew(&mut self, renew: Renew) -> Result<bool, Over> {
        if self.version < RENEW_SINCE {
            return Ok(false);
        }
        self.put(&Frame::Renew(renew)).map(|()| true)
    }

    /// Says goodbye; nothing may be sent afterwards.
    pub fn goodbye(&mut self) {
        // If the session is over already, so be it.
        let _: Result<(), Over> = self.put(&Frame::Goodbye);
    }

    /// Bytes for the lane, if any; say [`Session::transmitted`] when the transport took them.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.out.is_empty()).then(|| {
            self.in_flight += self.out.len();
            std::mem::take(&mut self.out)
        })
    }

    /// The transport took this many bytes.
    pub fn transmitted(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    // ---- lane → this node ------------------------------------------------------------------

    /// Takes in bytes of the lane. What they say comes out of [`Session::poll_action`].
    ///
    /// # Errors
    ///
    /// The session must be ended with this error. Actions of frames before the bad one stand.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let mut rest = bytes;
        // First what began in an earlier read, and no more than that: the others are read where they are.
        while !self.partial.is_empty() {
            if let Some(frame) = wire::decode(&mut self.partial)? {
                self.handle_frame(frame)?;
                continue;
            }
            let lacking = wire::lacking(&self.partial)?.min(rest.len());
            if lacking == 0 {
                return Ok(());
            }
            let now = rest.split_off(..lacking).expect("at most all of it");
            self.partial.extend_from_slice(now);
        }
        while !self.over {
            let Some((frame, used)) = wire::decode_first(rest)? else {
                if !rest.is_empty() {
                    // What has begun is given its room at once.
                    self.partial.reserve(rest.len() + wire::lacking(rest)?);
                    self.partial.extend_from_slice(rest);
                }
                break;
            };
            rest = &rest[used..];
            self.handle_frame(frame)?;
        }
        Ok(())
    }

    /// Takes in one frame.
    ///
    /// # Errors
    ///
    /// As for [`Session::handle_bytes`].
    pub fn handle_frame(&mut self, frame: Frame) -> Result<(), SessionError> {
        if self.over {
            return Ok(());
        }
        match frame {
            Frame::Hello(_) => return Err(rule("Hello comes once")),
            Frame::Stale(_) => return Err(rule("Stale answers a Hello")),
            Frame::Signal(route, signal) => {
                self.check(&route)?;
                match signal {
                    Signal::Link { .. } | Signal::Monitor { .. } => {
                        if !off("who is asked is noted") {
                            self.locals.insert(route.to);
                        }
                    }
                    Signal::LinkAck { .. }
                    | Signal::Unlink { .. }
                    | Signal::UnlinkAck { .. }
                    | Signal::Exit { .. }
                    | Signal::MonitorAck { .. }
                    | Signal::Demonitor { .. }
                    | Signal::Down { .. }
                    | Signal::Kill => {}
                }
                self.actions.push_back(Action::Deliver(route, signal));
            }
            Frame::Message(route, tag, payload) => {
                self.check(&route)?;
                self.actions.push_back(Action::Message(route, tag, payload));
            }
            Frame::Bulk(route, tag, head) => {
                self.check(&route)?;
                if head.bytes > self.limits.message_bytes_max {
                    return Err(rule("a message is within message_bytes_max"));
                }
                self.actions.push_back(Action::Bulk(route, tag, head));
            }
            Frame::Prepare(reference, prepare) => self.handle_prepare(reference, prepare)?,
            Frame::Prepared(reference, child) => {
                if child.node() != self.peer {
                    return Err(rule("a child lives on the node that was asked"));
                }
                if self.answered(reference, Answer::Prepared)? {
                    self.actions.push_back(Action::Adopt(reference, child));
                }
            }
            Frame::Refused(reference, why) => {
                if self.answered(reference, Answer::Refused)? {
                    self.actions.push_back(Action::Refused(reference, why));
                }
            }
            Frame::Cancelled(reference) => {
                self.answered(reference, Answer::Cancelled)?;
            }
            Frame::Start(reference) => {
                let hosting = self
                    .hosts
                    .get_mut(&reference)
                    .ok_or_else(|| rule("Start follows Prepared"))?;
                match hosting.handle_start().map_err(rule)? {
                    HostingStep::Run => {
                        *hosting = Hosting::Starting;
                        self.actions.push_back(Action::Run(reference));
                    }
                    HostingStep::End | HostingStep::Drop => {
                        self.hosts.remove(&reference);
                        self.actions.push_back(Action::End(reference));
                    }
                }
            }
            Frame::Cancel(reference) => self.handle_cancel(reference)?,
            Frame::Query(reference, pid) => {
                if pid.node() != self.us {
                    return Err(rule("a question is about a process of this node"));
                }
                if self.asked.len() >= self.limits.queries_max || !self.asked.insert(reference) {
                    return Err(rule("a question is asked once, and only so many at a time"));
                }
                self.actions.push_back(Action::Query(reference, pid));
            }
            Frame::Answer(reference, exists) => {
                if !self.queries.remove(&reference) {
                    return Err(rule("an answer answers a question"));
                }
                self.actions.push_back(Action::Answered(reference, exists));
            }
            Frame::Goodbye => self.actions.push_back(Action::Left),
            Frame::Renew(_) if self.version < RENEW_SINCE => {
                return Err(rule("Renew is spoken since protocol 2"));
            }
            Frame::Renew(renew) => self.actions.push_back(Action::Renew(renew)),
            Frame::Config(..) | Frame::Request(..) if self.version < CONFIGS_SINCE => {
                return Err(rule("configurations have slots since protocol 3"));
            }
            Frame::Config(slot, config) => {
                if slot >= CONFIGS_MAX || usize::from(slot) > self.heard.len() {
                    return Err(rule("slots are filled one after the other, and are 16"));
                }
                set_slot(&mut self.heard, slot, config);
            }
            Frame::Request(reference, request) => {
                let config = self.heard.get(usize::from(request.slot));
                let config = config.ok_or_else(|| rule("a slot is filled before it is named"))?;
                let prepare = request.into_prepare(config.clone());
                self.handle_prepare(reference, Box::new(prepare))?;
            }
        }
        Ok(())
    }

    fn check(&self, route: &Route) -> Result<(), SessionError> {
        if route.from.node() != self.peer {
            return Err(rule(
                "a sender lives on the node that its certificate names",
            ));
        }
        if route.to.node() != self.us {
            return Err(rule("a target lives on this node"));
        }
        self.check_environ(route.environ)
    }

    fn check_environ(&self, environ: Environ) -> Result<(), SessionError> {
        if self.permits(environ) {
            return Ok(());
        }
        Err(rule("a sender's environment is one its ticket names"))
    }

    fn handle_prepare(
        &mut self,
        reference: u64,
        prepare: Box<Prepare>,
    ) -> Result<(), SessionError> {
        if reference <= self.hosted {
            return Err(rule("a spawn reference is used once, and they grow"));
        }
        if prepare.parent.node() != self.peer {
            return Err(rule(
                "a parent lives on the node that its certificate names",
            ));
        }
        self.check_environ(prepare.environ)?;
        self.hosted = reference;
        if self.hosts.len() >= self.limits.hosting_max {
            let why = Refusal::Full(format!("{} spawns under way", self.hosts.len()));
            // If the session is over, nobody waits for the answer.
            let _: Result<(), Over> = self.put(&Frame::Refused(reference, why));
        } else {
            self.hosts.insert(reference, Hosting::Preparing);
            self.actions.push_back(Action::Make(reference, prepare));
        }
        Ok(())
    }

    fn handle_cancel(&mut self, reference: u64) -> Result<(), SessionError> {
        if reference > self.hosted {
            return Err(rule("Cancel follows Prepare"));
        }
        // Gone already: our Refused crossed the Cancel.
        if off("Cancel reaches a child that is made")
            && self.hosts.get(&reference) == Some(&Hosting::Preparing)
        {
            // The mutation: what is being made goes on.
        } else if let Some(hosting) = self.hosts.remove(&reference)
            && !(hosting.handle_cancel() == HostingStep::End && off("Cancel ends a parked child"))
        {
            self.actions.push_back(Action::End(reference));
        }
        // If the session is over, nobody waits for the answer.
        let _: Result<(), Over> = self.put(&Frame::Cancelled(reference));
        Ok(())
    }

    /// Handles an answer to a spawn; `true` if somebody waits for it.
    fn answered(&mut self, reference: u64, answer: Answer) -> Result<bool, SessionError> {
        let asking = self
            .asks
            .get_mut(&reference)
            .ok_or_else(|| rule("an answer to a spawn that nobody asked for"))?;
        let step = asking.handle(answer).map_err(rule)?;
        match step {
            AskingStep::Adopt => *asking = Asking::Answered,
            AskingStep::Fail | AskingStep::Forget => {
                self.asks.remove(&reference);
            }
            AskingStep::Stay => {}
        }
        Ok(matches!(step, AskingStep::Adopt | AskingStep::Fail))
    }

    /// Moves the messages that the caller must deliver next behind `messages`, until that has `max`. They are what
    /// [`Session::poll_action`] would give one by one.
    pub fn poll_messages(&mut self, max: usize, messages: &mut Vec<(Route, Option<i64>, Bytes)>) {
        while messages.len() < max
            && matches!(self.actions.front(), Some(Action::Message(..)))
            && let Some(Action::Message(route, tag, data)) = self.actions.pop_front()
        {
            messages.push((route, tag, data));
        }
    }

    /// As [`Session::poll_messages`], for what [`Session::poll_action`] would give as [`Action::Deliver`]. No action
    /// before them makes these void, so they may wait outside for those.
    pub fn poll_signals(&mut self, max: usize, signals: &mut Vec<(Route, Signal)>) {
        while signals.len() < max
            && matches!(self.actions.front(), Some(Action::Deliver(..)))
            && let Some(Action::Deliver(route, signal)) = self.actions.pop_front()
        {
            signals.push((route, signal));
        }
    }

    /// As [`Session::poll_messages`], for whatever is neither a message nor a signal, up to an [`Action::Left`]. What
    /// happens until one of them is carried out may make it void: [`Session::made`] says so of a Make,
    /// [`Session::start`] of an Adopt, and a Run finds its child ended. A Run that was taken out is not in the list of
    /// [`Session::end`] any more: whoever does not carry it out ends the child.
    pub fn poll_others(&mut self, max: usize, others: &mut Vec<Action>) {
        while others.len() < max && !matches!(others.last(), Some(Action::Left)) {
            match self.actions.front() {
                None | Some(Action::Message(..) | Action::Deliver(..)) => return,
                Some(_) => {}
            }
            let next = self.actions.pop_front();
            others.extend(next.and_then(|action| self.judge(action)));
        }
    }

    /// Whether [`Session::poll_action`] has something.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// What the caller must do next, if anything.
    pub fn poll_action(&mut self) -> Option<Action> {
        loop {
            let next = self.actions.pop_front()?;
            if let Some(action) = self.judge(next) {
                return Some(action);
            }
        }
    }

    /// What the caller must do instead of an action that was noted, if anything.
    fn judge(&mut self, action: Action) -> Option<Action> {
        match action {
            // An action before this one ended the parent, or the session.
            Action::Adopt(reference, _) if self.asks.get(&reference) != Some(&Asking::Answered) => {
                None
            }
            // An action before this one ended the child, or the session.
            Action::Run(reference) if self.hosts.remove(&reference).is_none() => {
                (!self.over).then_some(Action::End(reference))
            }
            action => Some(action),
        }
    }

    /// Ends the session. From here on nothing is sent and nothing handled; the caller tells
    /// everybody in the list, in the order of its fields, before the next session opens.
    ///
    /// Poll every action first: what had arrived whole comes before the end. An
    /// [`Action::Adopt`] or [`Action::Run`] that is left over is withdrawn: it is in the list.
    pub fn end(&mut self) -> Ending {
        self.over = !off("nothing of an ended session is taken in");
        self.out.clear();
        self.partial.clear();
        let hosts = std::mem::take(&mut self.hosts);
        let of = |states: &'static [Hosting]| {
            hosts
                .iter()
                .filter(|(_, hosting)| states.contains(hosting))
                .map(|(reference, _)| *reference)
        };
        Ending {
            asks: std::mem::take(&mut self.asks)
                .into_iter()
                .filter(|(_, asking)| *asking != Asking::Cancelled)
                .map(|(reference, _)| reference)
                .collect(),
            preparing: of(&[Hosting::Preparing]).collect(),
            parked: match off("a lost session ends parked children") {
                true => Vec::new(),
                false => of(&[Hosting::Parked, Hosting::Starting]).collect(),
            },
            queries: std::mem::take(&mut self.queries).into_iter().collect(),
            locals: std::mem::take(&mut self.locals).into_iter().collect(),
        }
    }
}
