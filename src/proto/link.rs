//! Links, unlinks and monitors of one process: the table in its control block.
//!
//! A link has two halves, one in each process's [`Block`]. They are put in place and taken down by
//! an acknowledged handshake, so that both sides agree in the end whatever crosses on the way:
//!
//! ```text
//!   p                                        q
//!   link(q)      ── Link(id, tag) ────────▶  entry: Active
//!   Active, call id
//!   returns      ◀──────── LinkAck(id) ───
//!
//!   unlink(q)    ── Unlink(id) ───────────▶  entry: none
//!   Unlinking(id)
//!   returns      ◀────── UnlinkAck(id) ───   before anything else to p
//! ```
//!
//! # Guarantees
//!
//! * **L1** — once `link()` returned *Linked*, the process is told of the other's end once (P1).
//! * **L2** — once `unlink()` was called, nothing of that link is acted on (P2).
//! * **L3** — both halves exist, or none, whenever nothing is under way.
//!
//! They rest on the order of the lane: signals between two processes arrive in the order in which
//! the blocks emitted them, or the session is lost and both blocks hear of it. The unlink id and
//! its acknowledgement follow the link protocol of Erlang/OTP 23.3 (`erl_dist_protocol`, "Link
//! Protocol"); the acknowledged `link()`, its crossing and the withdrawal of what is queued are ours.
//!
//! # What this module does not do
//!
//! It does not know where a process lives: local links obey the same table. It holds no mailbox:
//! a LinkDied is *queued* by the caller under a number, and counts only while [`Block::take`] says so.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::few::{Few, Numbers};
use crate::switch::off;
use crate::{ExitReason, NodeId, Pid};

/// Monitors of one process that others hold. One more is told at once, with [`ExitReason::Limit`].
pub const WATCHERS_MAX: usize = 1_000_000;

/// Bytes of text with which all that hear of one end are told, together. The more they are, the less of it
/// each is told.
pub const TOLD_BYTES_MAX: usize = 16 << 20;

/// What one process's block says to another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Signal {
    /// I linked to you; answer with the same id.
    Link {
        /// Names this request among all of the sender's.
        id: u64,
        /// What your LinkDied about me carries.
        tag: Option<i64>,
    },
    /// Answer to [`Signal::Link`].
    LinkAck {
        /// The id of the request.
        id: u64,
        /// What became of it.
        answer: LinkAnswer,
    },
    /// I am no longer linked to you; answer with the same id.
    Unlink {
        /// Names this request among all of the sender's.
        id: u64,
    },
    /// Answer to [`Signal::Unlink`].
    UnlinkAck {
        /// The id of the request.
        id: u64,
    },
    /// I ended, and you may have been linked to me.
    Exit {
        /// Why.
        reason: ExitReason,
    },
    /// Tell me when you end.
    Monitor {
        /// Names this monitor among all of the sender's.
        reference: u64,
    },
    /// Answer to [`Signal::Monitor`]. `exists: false` is a Down.
    MonitorAck {
        /// The monitor.
        reference: u64,
        /// Whether the target lives.
        exists: bool,
    },
    /// Forget that monitor.
    Demonitor {
        /// The monitor.
        reference: u64,
    },
    /// I ended, and you asked to be told.
    Down {
        /// The monitor.
        reference: u64,
        /// Why.
        reason: ExitReason,
    },
    /// End yourself. Cannot be trapped.
    Kill,
}

/// What became of a link request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LinkAnswer {
    /// The other half is in place.
    Linked,
    /// There is no such process.
    NoProcess,
    /// I was unlinking when your request came; my acknowledgement is ahead of this answer. Ask again.
    Crossed,
}

/// How `link()` wants to hear that the other process is gone already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkForm {
    /// As its return value, nothing is queued (`tidelock::link`).
    Value,
    /// As a LinkDied like any other (`lunatic::process::link`).
    Notice,
}

/// How `link()` ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkOutcome {
    /// Both halves are in place.
    Linked,
    /// The other process is gone; a LinkDied is queued ([`LinkForm::Notice`]).
    Told,
    /// The other process is gone, for this reason ([`LinkForm::Value`]).
    Ended(ExitReason),
}

/// What the caller must do next, in this order, in the same step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub enum Effect {
    /// Put this signal on the way to that process.
    Send(Pid, Signal),
    /// Queue a LinkDied; it counts when [`Block::take`] agrees.
    Tell {
        /// The number to hand to [`Block::take`].
        number: u64,
        /// Who ended.
        about: Pid,
        /// The link's tag.
        tag: Option<i64>,
        /// Why.
        reason: ExitReason,
    },
    /// A pending `link()` to this process returns.
    LinkReturns(Pid, LinkOutcome),
    /// A pending `unlink()` of this process returns.
    UnlinkReturns(Pid),
    /// Deliver a Down.
    Down {
        /// The monitor, now used up.
        reference: u64,
        /// Who ended.
        about: Pid,
        /// Why.
        reason: ExitReason,
    },
    /// Deliver a node-down.
    NodeDown {
        /// The node monitor, now used up.
        reference: u64,
        /// Which node.
        node: NodeId,
        /// How that was noticed.
        reason: ExitReason,
    },
    /// End this process: somebody killed it.
    Kill(Pid),
    /// Give up the spawn request under way at that node.
    CancelSpawn(NodeId, u64),
}

/// The three independent facts about one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Row {
    entry: Entry,
    call: Option<Call>,
    /// An `unlink()` waits for the acknowledgement.
    unlink_waits: bool,
    /// Numbers of the LinkDieds the process has not taken yet.
    queued: Numbers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Entry {
    #[default]
    None,
    Active(Option<i64>),
    Unlinking(u64),
}

/// A `link()` that has not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Call {
    id: u64,
    tag: Option<i64>,
    form: LinkForm,
}

impl Row {
    fn is_empty(&self) -> bool {
        self.entry == Entry::None
            && self.call.is_none()
            && !self.unlink_waits
            && self.queued.is_empty()
    }

    fn is_linked(&self) -> bool {
        matches!(self.entry, Entry::Active(_)) || self.call.is_some()
    }
}

/// What outlives a process's code: its links, monitors, and how it ended.
///
/// Every method is one step: state and effects change together, and the caller carries the effects
/// out, in order, before anybody else touches the block.
///
/// Its fields are in this order: of a process that has waited for long nothing is in a cache, so what any signal about
/// a link looks at is together, and comes first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Block {
    me: Pid,
    /// Ids, references and numbers all come from here and are never reused.
    next: u64,
    ended: Option<ExitReason>,
    /// The only one lies here: whoever is told of an end has it at hand.
    rows: Few<Pid, Row>,
    /// Remote spawns under way that I asked for.
    asks: Few<(NodeId, u64), ()>,
    /// Monitors I hold: reference → target.
    watching: BTreeMap<u64, Pid>,
    /// The same by target.
    watched: BTreeSet<(Pid, u64)>,
    /// Node monitors I hold: reference → node.
    watching_nodes: BTreeMap<u64, NodeId>,
    /// Who watches me.
    watched_by: BTreeSet<(Pid, u64)>,
}

impl Block {
    /// A process nobody knows yet.
    pub fn new(me: Pid) -> Self {
        Block {
            me,
            next: 1,
            ended: None,
            rows: Few::default(),
            asks: Few::default(),
            watching: BTreeMap::new(),
            watched: BTreeSet::new(),
            watching_nodes: BTreeMap::new(),
            watched_by: BTreeSet::new(),
        }
    }

    /// Whose block this is.
    pub fn pid(&self) -> Pid {
        self.me
    }

    /// How the process ended, if it did.
    pub fn ended(&self) -> Option<&ExitReason> {
        self.ended.as_ref()
    }

    /// The processes linked to this one, acknowledged or not.
    pub fn links(&self) -> impl Iterator<Item = Pid> + '_ {
        self.rows
            .iter()
            .filter(|(_, row)| row.is_linked())
            .map(|(pid, _)| *pid)
    }

    /// The processes this one monitors.
    pub fn monitors(&self) -> impl Iterator<Item = (u64, Pid)> + '_ {
        self.watching
            .iter()
            .map(|(reference, pid)| (*reference, *pid))
    }

    /// The monitors of `target` that this process holds, oldest first.
    pub fn monitors_of(&self, target: Pid) -> impl Iterator<Item = u64> + '_ {
        self.watched
            .range((target, 0)..=(target, u64::MAX))
            .map(|(_, reference)| *reference)
    }

    /// How many monitors this process holds, of processes and of nodes.
    pub fn monitoring(&self) -> usize {
        self.watching.len() + self.watching_nodes.len()
    }

    /// The processes that monitor this one.
    pub fn watchers(&self) -> impl Iterator<Item = Pid> + '_ {
        self.watched_by.iter().map(|(pid, _)| *pid)
    }

    /// How many links and monitors there are, on either side.
    pub fn halves(&self) -> usize {
        self.rows.len() + self.monitoring() + self.watched_by.len()
    }

    /// Whether nothing is under way: no call pending, nothing unacknowledged, nothing queued.
    pub fn at_rest(&self) -> bool {
        self.asks.is_empty()
            && self.rows.iter().all(|(_, row)| {
                matches!(row.entry, Entry::Active(_))
                    && row.call.is_none()
                    && !row.unlink_waits
                    && row.queued.is_empty()
            })
    }

    /// Whether this block holds an active half of a link with `peer`.
    pub fn is_linked(&self, peer: Pid) -> bool {
        self.rows
            .get(&peer)
            .is_some_and(|row| matches!(row.entry, Entry::Active(_)))
    }

    /// Whether LinkDieds about `peer` are queued: they must be taken before [`Block::link`].
    pub fn has_queued(&self, peer: Pid) -> bool {
        self.rows
            .get(&peer)
            .is_some_and(|row| !row.queued.is_empty())
    }

    /// Puts one half of a link in place that a spawn made.
    pub fn adopt(&mut self, peer: Pid, tag: Option<i64>) {
        debug_assert!(self.ended.is_none(), "a process that ended adopts nobody");
        self.rows.get_or_default(peer).entry = Entry::Active(tag);
    }

    /// Puts the target's half of a monitor in place that a spawn made.
    pub fn adopt_watcher(&mut self, watcher: Pid, reference: u64) {
        self.watched_by.insert((watcher, reference));
    }

    /// Puts the watcher's half of a monitor in place that a spawn made.
    pub fn adopt_monitor(&mut self, reference: u64, target: Pid) {
        self.watching.insert(reference, target);
        self.watched.insert((target, reference));
    }

    /// Lets go of a monitor of a process, and says of whom it was.
    fn release_monitor(&mut self, reference: u64) -> Option<Pid> {
        let target = self.watching.remove(&reference)?;
        self.watched.remove(&(target, reference));
        Some(target)
    }

    /// Takes a fresh number: an id, a reference.
    pub fn fresh(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Begins `link(peer)`. It ends with [`Effect::LinkReturns`].
    ///
    /// The caller has taken every LinkDied about `peer` that is queued: linking again is fresh news.
    pub fn link(&mut self, peer: Pid, tag: Option<i64>, form: LinkForm, out: &mut Vec<Effect>) {
        debug_assert!(!self.has_queued(peer), "take what is queued first");
        if self.ended.is_some() {
            return;
        }
        if peer == self.me {
            out.push(Effect::LinkReturns(peer, LinkOutcome::Linked));
            return;
        }
        let id = self.fresh();
        let row = self.rows.get_or_default(peer);
        let waited = std::mem::take(&mut row.unlink_waits);
        row.entry = Entry::Active(tag);
        row.call = Some(Call { id, tag, form });
        if waited {
            out.push(Effect::UnlinkReturns(peer));
        }
        out.push(Effect::Send(peer, Signal::Link { id, tag }));
        if off("link waits for its answer") {
            out.push(Effect::LinkReturns(peer, LinkOutcome::Linked));
        }
    }

    /// Begins `unlink(peer)`. It ends with [`Effect::UnlinkReturns`], at the latest with the session.
    ///
    /// From here on no LinkDied about `peer` counts, those already queued included, until somebody
    /// links again. A pending `link()` is given up and does not return any more.
    pub fn unlink(&mut self, peer: Pid, out: &mut Vec<Effect>) {
        let id = self.fresh();
        let Some(row) = self.rows.get_mut(&peer) else {
            out.push(Effect::UnlinkReturns(peer));
            return;
        };
        if !off("unlink withdraws what is queued") {
            row.queued = Numbers::None;
        }
        if row.is_linked() {
            row.call = None;
            row.entry = Entry::Unlinking(id);
            row.unlink_waits = true;
            out.push(Effect::Send(peer, Signal::Unlink { id }));
        } else if let Entry::Unlinking(_) = row.entry {
            row.unlink_waits = true;
        } else {
            out.push(Effect::UnlinkReturns(peer));
        }
        self.sweep(peer);
    }

    /// The caller of `unlink(peer)` gives up waiting. The unlink itself stands.
    pub fn forget_unlink_caller(&mut self, peer: Pid) {
        if let Some(row) = self.rows.get_mut(&peer) {
            row.unlink_waits = false;
        }
        self.sweep(peer);
    }

    /// The process takes the LinkDied `number` about `peer`: `false` if it was withdrawn meanwhile.
    #[must_use]
    pub fn take(&mut self, peer: Pid, number: u64) -> bool {
        let Some(row) = self.rows.get_mut(&peer) else {
            return false;
        };
        let is_queued = row.queued.take(number);
        if is_queued {
            self.sweep(peer);
        }
        is_queued
    }

    /// Begins to monitor `target`; the reference comes back in [`Effect::Down`].
    pub fn monitor(&mut self, target: Pid, out: &mut Vec<Effect>) -> u64 {
        let reference = self.fresh();
        if target != self.me && self.ended.is_none() {
            self.adopt_monitor(reference, target);
            out.push(Effect::Send(target, Signal::Monitor { reference }));
        }
        reference
    }

    /// Ends a monitor. No Down with this reference follows.
    pub fn demonitor(&mut self, reference: u64, out: &mut Vec<Effect>) {
        if let Some(target) = self.release_monitor(reference) {
            out.push(Effect::Send(target, Signal::Demonitor { reference }));
        }
        self.watching_nodes.remove(&reference);
    }

    /// Begins to monitor a node. The caller makes sure that a session is open, or says
    /// [`Block::session_lost`] at once.
    pub fn monitor_node(&mut self, node: NodeId) -> u64 {
        let reference = self.fresh();
        if self.ended.is_none() {
            self.watching_nodes.insert(reference, node);
        }
        reference
    }

    /// Notes a remote spawn under way, so that the end of this process cancels it.
    pub fn asks(&mut self, node: NodeId, reference: u64) {
        self.asks.get_or_default((node, reference));
    }

    /// A remote spawn is over. `false` if this process had given it up.
    pub fn asked(&mut self, node: NodeId, reference: u64) -> bool {
        self.asks.remove(&(node, reference)).is_some()
    }

    /// Handles what `from` says.
    pub fn handle(&mut self, from: Pid, signal: Signal, out: &mut Vec<Effect>) {
        if self.ended.is_some() {
            out.extend(answer_for_nobody(&signal).map(|answer| Effect::Send(from, answer)));
            return;
        }
        match signal {
            Signal::Link { id, tag } => {
                let row = self.rows.get_or_default(from);
                let answer = match row.entry {
                    Entry::None | Entry::Active(_) => {
                        row.entry = Entry::Active(tag);
                        LinkAnswer::Linked
                    }
                    Entry::Unlinking(_) if off("a link that crosses an unlink is not taken") => {
                        row.entry = Entry::Active(tag);
                        LinkAnswer::Linked
                    }
                    Entry::Unlinking(_) => LinkAnswer::Crossed,
                };
                out.push(Effect::Send(from, Signal::LinkAck { id, answer }));
            }
            Signal::LinkAck { id, answer } => self.link_answered(from, id, answer, out),
            Signal::Unlink { id } => {
                if let Some(row) = self.rows.get_mut(&from)
                    && let Entry::Active(_) = row.entry
                {
                    row.entry = Entry::None;
                    if off("an unlink leaves the other's call alone") {
                        row.call = None;
                    }
                }
                out.push(Effect::Send(from, Signal::UnlinkAck { id }));
                self.sweep(from);
            }
            Signal::UnlinkAck { id } => {
                if let Some(row) = self.rows.get_mut(&from)
                    && (row.entry == Entry::Unlinking(id)
                        || (matches!(row.entry, Entry::Unlinking(_)) && off("unlink has an id")))
                {
                    row.entry = Entry::None;
                    if std::mem::take(&mut row.unlink_waits) {
                        out.push(Effect::UnlinkReturns(from));
                    }
                }
                self.sweep(from);
            }
            Signal::Exit { reason } => self.peer_gone(from, &reason, out),
            Signal::Monitor { reference } if self.watched_by.len() >= WATCHERS_MAX => {
                let reason = ExitReason::Limit(format!("{WATCHERS_MAX} monitors of one process"));
                out.push(Effect::Send(from, Signal::Down { reference, reason }));
            }
            Signal::Monitor { reference } => {
                self.watched_by.insert((from, reference));
                out.push(Effect::Send(
                    from,
                    Signal::MonitorAck {
                        reference,
                        exists: true,
                    },
                ));
            }
            // A monitor that exists needs no note: it is watched from the moment it was asked for.
            Signal::MonitorAck {
                reference: _,
                exists: true,
            } => {}
            Signal::MonitorAck {
                reference,
                exists: false,
            } => {
                self.down(from, reference, ExitReason::NoProcess, out);
            }
            Signal::Demonitor { reference } => {
                self.watched_by.remove(&(from, reference));
            }
            Signal::Down { reference, reason } => self.down(from, reference, reason, out),
            Signal::Kill => out.push(Effect::Kill(from)),
        }
    }

    fn link_answered(&mut self, from: Pid, id: u64, answer: LinkAnswer, out: &mut Vec<Effect>) {
        let fresh = self.next;
        if answer == LinkAnswer::NoProcess && off("NoProcess has an id") {
            return self.peer_gone(from, &ExitReason::NoProcess, out);
        }
        // A straggler: the request was given up, or answered by the other's end.
        let Some(row) = self.rows.get_mut(&from) else {
            return;
        };
        let Some(call) = row.call.filter(|call| call.id == id) else {
            return;
        };
        match answer {
            LinkAnswer::Linked => {
                row.call = None;
                out.push(Effect::LinkReturns(from, LinkOutcome::Linked));
            }
            LinkAnswer::Crossed if off("a crossed link is asked again") => {
                row.call = None;
                out.push(Effect::LinkReturns(from, LinkOutcome::Linked));
            }
            LinkAnswer::Crossed => {
                self.next += 1;
                row.entry = Entry::Active(call.tag);
                row.call = Some(Call { id: fresh, ..call });
                out.push(Effect::Send(
                    from,
                    Signal::Link {
                        id: fresh,
                        tag: call.tag,
                    },
                ));
            }
            LinkAnswer::NoProcess => self.peer_gone(from, &ExitReason::NoProcess, out),
        }
        self.sweep(from);
    }

    /// `peer` ended, or can no longer be reached: its link, if any, is over and told.
    pub fn peer_gone(&mut self, peer: Pid, reason: &ExitReason, out: &mut Vec<Effect>) {
        let number = self.next;
        let Some(row) = self.rows.get_mut(&peer) else {
            return;
        };
        let call = match row.call {
            Some(_) if off("an end answers the call") => None,
            _ => row.call.take(),
        };
        let tag = match (row.entry, call) {
            (Entry::Active(tag), _) => Some(tag),
            (Entry::None | Entry::Unlinking(_), Some(call)) => Some(call.tag),
            (Entry::None | Entry::Unlinking(_), None) => {
                off("an exit needs an entry").then_some(None)
            }
        };
        row.entry = Entry::None;
        if !off("an end answers the unlink") && std::mem::take(&mut row.unlink_waits) {
            out.push(Effect::UnlinkReturns(peer));
        }
        match (tag, call) {
            (None, _) => {}
            (
                Some(_),
                Some(Call {
                    form: LinkForm::Value,
                    ..
                }),
            ) => {
                out.push(Effect::LinkReturns(
                    peer,
                    LinkOutcome::Ended(reason.clone()),
                ));
            }
            (Some(tag), call) => {
                self.next += 1;
                row.queued.push(number);
                out.push(Effect::Tell {
                    number,
                    about: peer,
                    tag,
                    reason: reason.clone(),
                });
                if call.is_some() {
                    out.push(Effect::LinkReturns(peer, LinkOutcome::Told));
                }
            }
        }
        self.sweep(peer);
    }

    /// A signal to `peer` could not be put on its way because there is no session.
    ///
    /// What was entered for it is told at once; a session that ended tells the rest.
    pub fn unsent(
        &mut self,
        peer: Pid,
        signal: &Signal,
        reason: &ExitReason,
        out: &mut Vec<Effect>,
    ) {
        match signal {
            Signal::Link { .. } | Signal::Unlink { .. } => self.peer_gone(peer, reason, out),
            Signal::Monitor { reference } => self.down(peer, *reference, reason.clone(), out),
            // Answers and ends: the session's end tells the other side.
            Signal::LinkAck { .. }
            | Signal::UnlinkAck { .. }
            | Signal::Exit { .. }
            | Signal::MonitorAck { .. }
            | Signal::Demonitor { .. }
            | Signal::Down { .. }
            | Signal::Kill => {}
        }
    }

    fn down(&mut self, from: Pid, reference: u64, reason: ExitReason, out: &mut Vec<Effect>) {
        // A straggler if the monitor was withdrawn; a forgery if it was about somebody else.
        if self.watching.get(&reference) == Some(&from) || off("a Down uses its reference up") {
            self.release_monitor(reference);
            out.push(Effect::Down {
                reference,
                about: from,
                reason,
            });
        }
    }

    /// The session to `node` ended: every half over it is told, once.
    pub fn session_lost(&mut self, node: NodeId, reason: &ExitReason, out: &mut Vec<Effect>) {
        if self.ended.is_some() {
            return;
        }
        let low = Pid::new(node, 1);
        let high = Pid::new(node, Pid::LOCAL_MAX);
        if let (Some(low), Some(high)) = (low, high) {
            for peer in self.rows.keys_within(low..=high) {
                let row = self.rows.get(&peer);
                if off("a lost session answers calls")
                    && row.is_some_and(|row| row.entry == Entry::None)
                {
                    continue;
                }
                self.peer_gone(peer, reason, out);
            }
        }
        let downs: Vec<(u64, Pid)> = self
            .watching
            .iter()
            .filter(|(_, target)| target.node() == node)
            .map(|(reference, target)| (*reference, *target))
            .collect();
        for (reference, target) in downs {
            self.down(target, reference, reason.clone(), out);
        }
        self.watched_by.retain(|(watcher, _)| {
            watcher.node() != node || off("a lost session ends its watchers")
        });
        self.asks.retain(|(asked, _)| *asked != node);
        self.watching_nodes.retain(|reference, watched| {
            if *watched == node {
                out.push(Effect::NodeDown {
                    reference: *reference,
                    node,
                    reason: reason.clone(),
                });
            }
            *watched != node
        });
    }

    /// The process ends: everyone who must know is told, in this one step. Later calls do nothing.
    ///
    /// The reason is kept and told within [`crate::TEXT_BYTES_MAX`]: a guest's long last words must
    /// not make a frame that ends the session. Nor must many of them: together they are within
    /// [`TOLD_BYTES_MAX`].
    pub fn end(&mut self, reason: ExitReason, out: &mut Vec<Effect>) {
        if self.ended.is_some() {
            return;
        }
        let reason = reason.bounded();
        let listeners = self.rows.len() + self.watched_by.len();
        let told = reason.clone().within(TOLD_BYTES_MAX / listeners.max(1));
        // Room for thousands that grows step by step is copied, and touched, twice.
        out.reserve(listeners + self.watching.len() + self.asks.len());
        for (peer, row) in self.rows.take() {
            if row.is_linked() {
                let reason = told.clone();
                out.push(Effect::Send(peer, Signal::Exit { reason }));
            }
        }
        for (watcher, reference) in std::mem::take(&mut self.watched_by) {
            let reason = told.clone();
            out.push(Effect::Send(watcher, Signal::Down { reference, reason }));
        }
        self.watched.clear();
        for (reference, target) in std::mem::take(&mut self.watching) {
            if off("an end withdraws its monitors") {
                break;
            }
            out.push(Effect::Send(target, Signal::Demonitor { reference }));
        }
        for ((node, reference), ()) in self.asks.take() {
            out.push(Effect::CancelSpawn(node, reference));
        }
        self.watching_nodes.clear();
        self.ended = Some(reason);
    }

    /// Keeps no row that says nothing.
    fn sweep(&mut self, peer: Pid) {
        if self.rows.get(&peer).is_some_and(|row| row.is_empty()) {
            self.rows.remove(&peer);
        }
    }
}

/// What is answered for a process that ended, or never was.
///
/// Answers take the same lane as everything else, so that they cannot overtake its last words.
pub fn answer_for_nobody(signal: &Signal) -> Option<Signal> {
    match signal {
        Signal::Link { id, .. } => Some(Signal::LinkAck {
            id: *id,
            answer: LinkAnswer::NoProcess,
        }),
        Signal::Unlink { id } => Some(Signal::UnlinkAck { id: *id }),
        Signal::Monitor { reference } => Some(Signal::MonitorAck {
            reference: *reference,
            exists: false,
        }),
        Signal::LinkAck { .. }
        | Signal::UnlinkAck { .. }
        | Signal::Exit { .. }
        | Signal::MonitorAck { .. }
        | Signal::Demonitor { .. }
        | Signal::Down { .. }
        | Signal::Kill => None,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn room_for_all_who_are_told_is_made_once() {
        let mut block = Block::new(Pid::new(NodeId(1), 1).unwrap());
        let listeners = 1000;
        for local in 1..=listeners {
            block.adopt(Pid::new(NodeId(2), local).unwrap(), None);
        }
        let mut effects = Vec::new();
        block.end(ExitReason::Exit(1), &mut effects);
        assert_eq!(effects.len() as u64, listeners);
        assert_eq!(effects.capacity(), effects.len(), "grown step by step");
    }

    #[test]
    fn what_signals_about_links_look_at_comes_first() {
        for place in [offset_of!(Block, next), offset_of!(Block, ended)] {
            assert!(place < offset_of!(Block, rows));
        }
        // On three cache lines, with the only link.
        assert!(offset_of!(Block, rows) + size_of::<Few<Pid, Row>>() <= 192);
    }
}
