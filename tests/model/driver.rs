//! What a node must do around the protocol crate. Glue: it decides nothing.
//!
//! # The rules a driver keeps
//!
//! The node keeps the same ones for the same reasons (`node/src/live.rs` for sessions,
//! `src/process.rs` for blocks). Most are removed once in `tests/model_switches.rs`.
//!
//! * **D1 — one step.** A block's change, its effects and the frames they append are one step: no
//!   other input of that block or session comes in between. Effects are carried out in order.
//! * **D2 — unsent is told.** A signal that finds no open session goes to `Block::unsent` at once.
//! * **D3 — somebody answers for nobody.** A signal to a process that is not there is answered by
//!   `answer_for_nobody`, in the lane, like everything else.
//! * **D4 — link drains first.** Before `link(q)` the LinkDieds about q are taken; a process that
//!   ends of one makes no link. A LinkDied counts only if `Block::take` agrees.
//! * **D5 — giving up is a signal.** A `link` that times out calls `unlink`; a `spawn` that times
//!   out, and `Effect::CancelSpawn`, call `Session::cancel`. Nothing is merely forgotten.
//! * **D6 — halves first.** The child's half is in its block before `Session::made`; the parent's
//!   before `Session::start`, in the step of `Action::Adopt`. A child runs at `Action::Run` only.
//! * **D7 — the end of a process.** `Block::end`, its effects, `Session::parked_ended` if it was
//!   parked, `Session::forget`. A parked child ends like any other. Whoever was killed, or is to end of a
//!   link, answers until then, makes no call and does not begin to run; a child that it was given and did not
//!   see is unlinked and killed.
//! * **D8 — the end of a session.** Poll every action, `Session::end`, then tell the list in its
//!   order: spawns fail, parked children end, blocks hear `session_lost`; then `Pair::handle_ended`.
//!   Only then may the next session open. The blocks alone report ends of links.
//! * **D9 — one connection, one session.** What arrives on a connection goes to its own session;
//!   on `Verdict::Accept` the open session ends first and the own dial's connection is closed.
//! * **D10 — order.** A lane is read in order, by one reader.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::BytesMut;
use tidelock_proto::link::{Block, Effect, LinkOutcome, Signal, answer_for_nobody};
use tidelock_proto::pair::{Pair, Verdict};
use tidelock_proto::session::{Action, Limits, Session, check_hello};
use tidelock_proto::spawn::Prepare;
use tidelock_proto::wire::{self, Frame, Hello};
use tidelock_proto::{Environ, ExitReason, PROTOCOL, Pid};

use super::world::World;
use super::{node, off, side};

/// What a suspended process waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wait {
    Link(Pid),
    Unlink(Pid),
    Spawn(u64),
}

/// A LinkDied in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Notice {
    pub(crate) about: Pid,
    pub(crate) number: u64,
    /// For the observer: `link` was called after it came.
    pub(crate) stale: bool,
}

/// One process: its control block, its mailbox, and where its code stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) block: Block,
    pub(crate) mailbox: VecDeque<Notice>,
    pub(crate) wait: Option<Wait>,
    /// Why it must end: its code runs no more, and its block still answers.
    pub(crate) verdict: Option<ExitReason>,
    /// What its `spawn` returned after that.
    pub(crate) unseen: Option<Pid>,
    /// The spawn whose Start it waits for; it has not run.
    pub(crate) parked: Option<u64>,
    /// For the observer: the monitors it asked for and has not heard of.
    pub(crate) watching: BTreeMap<u64, Pid>,
    /// For the observer: the monitors of the other node it has not heard of.
    pub(crate) watching_node: BTreeSet<u64>,
}

impl Process {
    pub(crate) fn new(pid: Pid) -> Self {
        Process {
            block: Block::new(pid),
            mailbox: VecDeque::new(),
            wait: None,
            verdict: None,
            unseen: None,
            parked: None,
            watching: BTreeMap::new(),
            watching_node: BTreeSet::new(),
        }
    }
}

/// A spawn that a process of this node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    pub(crate) parent: Pid,
    pub(crate) linked: bool,
    pub(crate) monitor: Option<u64>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) up: bool,
    pub(crate) pair: Pair,
    /// The connection of the open session.
    pub(crate) open: Option<usize>,
    pub(crate) processes: BTreeMap<Pid, Rc<Process>>,
    pub(crate) asks: BTreeMap<u64, Ask>,
    /// Children being made: their connection and request.
    pub(crate) making: BTreeMap<(usize, u64), Rc<Prepare>>,
    /// Local numbers given to children.
    pub(crate) born: u64,
    /// Signals between two processes of this node, in order per pair.
    pub(crate) local: BTreeMap<(Pid, Pid), VecDeque<Signal>>,
}

impl Node {
    pub(crate) fn new(side: usize) -> Self {
        Node {
            up: true,
            pair: Pair::new(node(side), node(1 - side)),
            open: None,
            processes: BTreeMap::new(),
            asks: BTreeMap::new(),
            making: BTreeMap::new(),
            born: 0,
            local: BTreeMap::new(),
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// Hello is out.
    Dialling,
    /// Hello is awaited.
    Listening,
    Open(Rc<Session>),
    Gone,
}

/// One connection: two lanes of frames, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Connection {
    pub(crate) epoch: u64,
    pub(crate) ends: [End; 2],
    /// Nothing more gets on its way; what is under way may still arrive.
    pub(crate) cut: bool,
    /// What each side sent.
    pub(crate) lanes: [VecDeque<Rc<[u8]>>; 2],
}

impl Connection {
    fn push(&mut self, from: usize, frame: Rc<[u8]>) {
        let read = self.ends[1 - from] != End::Gone || off("one connection, one session");
        if !self.cut && read {
            self.lanes[from].push_back(frame);
        }
    }
}

/// Why the far side is out of reach.
fn lost(side: usize) -> ExitReason {
    ExitReason::NodeDown {
        node: node(1 - side),
        how: String::new(),
    }
}

fn bytes_of(frame: &Frame) -> Rc<[u8]> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes.into()
}

/// Reads one frame.
pub(crate) fn frame_of(bytes: &[u8]) -> Frame {
    let frame = wire::decode(&mut BytesMut::from(bytes));
    frame.expect("a frame").expect("a whole frame")
}

impl World {
    pub(crate) fn process(&mut self, pid: Pid) -> Option<&mut Process> {
        let processes = &mut self.node_mut(side(pid.node())).processes;
        processes.get_mut(&pid).map(Rc::make_mut)
    }

    pub(crate) fn session(&mut self, side: usize) -> Option<&mut Session> {
        let at = self.nodes[side].open?;
        match &mut self.connections[at].ends[side] {
            End::Open(session) => Some(Rc::make_mut(session)),
            _ => None,
        }
    }

    /// Hands a step to a block and carries out what follows (D1).
    pub(crate) fn on_block(&mut self, pid: Pid, step: impl FnOnce(&mut Block, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        if let Some(process) = self.process(pid) {
            step(&mut process.block, &mut effects);
        }
        self.carry_out(pid, effects);
    }

    fn carry_out(&mut self, pid: Pid, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, signal) => self.send(pid, to, signal),
                Effect::Tell { number, about, .. } => {
                    self.observer.told(pid, about);
                    if let Some(process) = self.process(pid) {
                        process.mailbox.push_back(Notice {
                            about,
                            number,
                            stale: false,
                        });
                    }
                }
                Effect::LinkReturns(peer, outcome) => self.link_returns(pid, peer, &outcome),
                Effect::UnlinkReturns(peer) => {
                    if let Some(process) = self.process(pid)
                        && process.wait == Some(Wait::Unlink(peer))
                    {
                        process.wait = None;
                    }
                }
                Effect::Down { reference, .. } => {
                    if let Some(process) = self.process(pid)
                        && process.watching.remove(&reference).is_none()
                    {
                        self.observer
                            .break_promise("a Down comes twice, or after demonitor()");
                    }
                }
                Effect::NodeDown { reference, .. } => {
                    if let Some(process) = self.process(pid)
                        && !process.watching_node.remove(&reference)
                    {
                        self.observer.break_promise("a node-down comes twice");
                    }
                }
                Effect::Kill(by) => self.condemn(pid, ExitReason::Killed(Some(by))),
                Effect::CancelSpawn(_, reference) => {
                    let here = side(pid.node());
                    let ask = self.nodes[here].asks.get(&reference);
                    if ask.is_some_and(|ask| ask.parent != pid) {
                        self.observer
                            .break_promise("P7: the end of a process cancels another's spawn");
                    }
                    self.spawn_failed(here, reference);
                    if !off("a parent's end cancels its spawn")
                        && let Some(session) = self.session(here)
                    {
                        session.cancel(reference);
                    }
                }
            }
        }
    }

    fn link_returns(&mut self, pid: Pid, peer: Pid, outcome: &LinkOutcome) {
        let Some(process) = self.process(pid) else {
            return;
        };
        if process.wait != Some(Wait::Link(peer)) {
            if !off("giving link() up is an unlink") && !off("link waits for its answer") {
                self.observer
                    .break_promise("link() returns although nobody waits for it");
            }
            return;
        }
        process.wait = None;
        match outcome {
            LinkOutcome::Linked => {
                if !process.block.is_linked(peer) {
                    self.observer
                        .break_promise("P1: link() returns Linked, and there is no link");
                }
            }
            LinkOutcome::Told => {}
            LinkOutcome::Ended(_) => self.observer.told(pid, peer),
        }
    }

    /// Puts a signal on its way: D2 if there is none.
    pub(crate) fn send(&mut self, from: Pid, to: Pid, signal: Signal) {
        let here = side(from.node());
        if from.node() == to.node() {
            let lanes = &mut self.node_mut(here).local;
            lanes.entry((from, to)).or_default().push_back(signal);
            return;
        }
        let sent = self.session(here).is_some_and(|session| {
            session
                .signal(Environ::default(), from, to, &signal)
                .is_ok()
        });
        if !sent && !off("unsent is told") {
            self.on_block(from, |block, out| {
                block.unsent(to, &signal, &lost(here), out);
            });
        }
    }

    /// A signal arrives at a process, or at nobody (D3).
    pub(crate) fn arrive(&mut self, from: Pid, to: Pid, signal: Signal) {
        if self.process(to).is_none() {
            let silent = match signal {
                Signal::Link { .. } => off("the dead answer Link"),
                Signal::Unlink { .. } => off("the dead answer Unlink"),
                Signal::Monitor { .. } => off("the dead answer Monitor"),
                _ => false,
            };
            if !silent && let Some(answer) = answer_for_nobody(&signal) {
                self.send(to, from, answer);
            }
            return;
        }
        let is_unlink = matches!(signal, Signal::Unlink { .. });
        let process = self.process(to).expect("it is there");
        let calls = process.wait == Some(Wait::Link(from));
        let before = process.block.is_linked(from);
        let mut effects = Vec::new();
        process.block.handle(from, signal, &mut effects);
        let after = process.block.is_linked(from);
        if !before && after && !calls {
            self.observer.linked(to, from);
        }
        if before && !after && is_unlink && !calls {
            self.observer.half(to, from).owed = false;
        }
        self.carry_out(to, effects);
    }

    /// A process must end: at once, or when its task gets to it.
    pub(crate) fn condemn(&mut self, pid: Pid, reason: ExitReason) {
        if !self.slow_ends {
            return self.end_process(pid, reason);
        }
        if let Some(process) = self.process(pid) {
            process.verdict.get_or_insert(reason);
        }
    }

    /// The task of a process that must end gets to it.
    pub(crate) fn finish(&mut self, pid: Pid) {
        let process = self.process(pid).expect("it must end");
        let reason = process.verdict.take().expect("it must end");
        if let Some(child) = process.unseen.take() {
            self.observer.unlinked(pid, child);
            self.on_block(pid, |block, out| {
                block.unlink(child, out);
                block.forget_unlink_caller(child);
            });
            self.send(pid, child, Signal::Kill);
        }
        self.end_process(pid, reason);
    }

    /// D7.
    pub(crate) fn end_process(&mut self, pid: Pid, reason: ExitReason) {
        let here = side(pid.node());
        let Some(process) = self.node_mut(here).processes.remove(&pid) else {
            return;
        };
        let mut process = Rc::unwrap_or_clone(process);
        self.observer.ended(pid);
        let mut effects = Vec::new();
        process.block.end(reason, &mut effects);
        if process.parked.is_some() && off("a parked child ends like any other") {
            effects.clear();
        }
        self.carry_out(pid, effects);
        if let Some(session) = self.session(here) {
            if let Some(reference) = process.parked
                && !off("a parked child's end is noted")
            {
                session.parked_ended(reference);
            }
            session.forget(pid);
        }
    }

    /// `watcher` monitors the other node; without a session it is told at once (D2).
    pub(crate) fn monitor_node(&mut self, watcher: Pid) {
        let here = side(watcher.node());
        let noted = self.session(here).is_some_and(|session| {
            off("who watches a node is noted") || session.note(watcher).is_ok()
        });
        if let Some(process) = self.process(watcher) {
            let reference = process.block.monitor_node(node(1 - here));
            process.watching_node.insert(reference);
        }
        if !noted {
            self.on_block(watcher, |block, out| {
                block.session_lost(node(1 - here), &lost(here), out);
            });
        }
    }

    // ---- sessions --------------------------------------------------------------------------

    /// Does what the open session says, until it says no more.
    fn act(&mut self, side: usize) {
        while let Some(action) = self.session(side).and_then(Session::poll_action) {
            match action {
                Action::Deliver(route, signal) => self.arrive(route.from, route.to, signal),
                Action::Make(reference, prepare) => {
                    let at = self.nodes[side].open.expect("it says so");
                    let making = &mut self.node_mut(side).making;
                    making.insert((at, reference), Rc::new(*prepare));
                }
                Action::Adopt(reference, child) => self.adopt(side, reference, child),
                Action::Refused(reference, _) => {
                    if let Some(ask) = self.nodes[side].asks.get(&reference).copied()
                        && let Some(parent) = self.process(ask.parent)
                    {
                        parent.block.asked(node(1 - side), reference);
                    }
                    self.spawn_failed(side, reference);
                }
                Action::Run(reference) => self.run(side, reference),
                Action::End(reference) => {
                    if let Some(child) = self.parked(side, reference) {
                        self.end_process(child, ExitReason::NotStarted(String::new()));
                    }
                }
                Action::Message(..)
                | Action::Bulk(..)
                | Action::Query(..)
                | Action::Answered(..)
                | Action::Left
                | Action::Renew(_) => unreachable!("not in this model"),
            }
        }
    }

    /// D8.
    pub(crate) fn end_session(&mut self, side: usize) {
        let Some(session) = self.session(side) else {
            return;
        };
        let epoch = session.epoch();
        let ending = session.end();
        for reference in ending.asks {
            self.spawn_failed(side, reference);
        }
        for reference in ending.parked {
            if let Some(child) = self.parked(side, reference) {
                self.end_process(child, ExitReason::NotStarted(String::new()));
            }
        }
        for local in ending.locals {
            if !off("a lost session is told") {
                self.on_block(local, |block, out| {
                    block.session_lost(node(1 - side), &lost(side), out);
                });
            }
        }
        for (parent, child) in std::mem::take(&mut self.owners) {
            if self.process(parent).is_some() {
                self.observer.told(parent, child);
            }
        }
        self.node_mut(side).pair.handle_ended(epoch);
        let at = self.node_mut(side).open.take().expect("it was open");
        self.leave(at, side);
    }

    /// Side takes no further part in connection `at`.
    pub(crate) fn leave(&mut self, at: usize, side: usize) {
        let connection = &mut self.connections[at];
        connection.ends[side] = End::Gone;
        if off("one connection, one session") {
            return;
        }
        connection.lanes[1 - side].clear();
        if connection.ends[1 - side] == End::Gone {
            // Nobody can tell dead connections apart.
            connection.lanes[side].clear();
            (connection.cut, connection.epoch) = (true, 0);
        }
    }

    /// Begins a dial, if the pair wants one.
    pub(crate) fn dial(&mut self, from: usize) {
        let Some(epoch) = self.node_mut(from).pair.dial() else {
            return;
        };
        let mut ends = [End::Listening, End::Listening];
        ends[from] = End::Dialling;
        if !self.nodes[1 - from].up {
            ends[1 - from] = End::Gone;
        }
        let mut connection = Connection {
            epoch,
            ends,
            cut: false,
            lanes: Default::default(),
        };
        connection.push(from, bytes_of(&Frame::Hello(hello(from, epoch))));
        self.connections.push(connection);
    }

    /// A dial, or the wait for a Hello, comes to nothing.
    pub(crate) fn dial_fails(&mut self, at: usize, side: usize) {
        let connection = &self.connections[at];
        let epoch = connection.epoch;
        if connection.ends[side] == End::Dialling {
            self.node_mut(side).pair.handle_dial_failed(epoch);
        }
        self.leave(at, side);
    }

    /// Opens a session on a connection, for nodes that knew each other before the story begins.
    pub(crate) fn open(&mut self, at: usize, side: usize) {
        let epoch = self.connections[at].epoch;
        self.observer.opened(side, epoch);
        if self.nodes[side].open.is_some() {
            self.observer
                .break_promise("two sessions are open on one node");
        }
        let session = Session::new(node(side), node(1 - side), epoch, Limits::default());
        self.connections[at].ends[side] = End::Open(session.into());
        self.node_mut(side).open = Some(at);
    }

    /// `count` frames arrive together, from position `skip` of the lane (D10: 0).
    pub(crate) fn deliver(&mut self, at: usize, to: usize, skip: usize, count: usize) {
        let lane = &mut self.connections[at].lanes[1 - to];
        let frames: Vec<Rc<[u8]>> = lane.drain(skip..skip + count).collect();
        let old = self.connections[at].ends[to] == End::Gone;
        match &self.connections[at].ends[to] {
            End::Dialling => self.answered(at, to, frame_of(&frames[0])),
            End::Listening => self.hello(at, to, frame_of(&frames[0])),
            End::Open(_) | End::Gone => {
                let bytes = frames.concat();
                let result = match self.session(to) {
                    Some(session) => session.handle_bytes(&bytes),
                    None => return,
                };
                self.act(to);
                if let Err(error) = result {
                    // Frames of another session may well be out of place.
                    if !old {
                        self.accuse(&error.to_string());
                    }
                    self.end_session(to);
                }
            }
        }
    }

    fn accuse(&mut self, _error: &str) {
        self.observer
            .break_promise("a correct peer is accused of breaking the protocol");
    }

    /// A dial is answered.
    fn answered(&mut self, at: usize, side: usize, frame: Frame) {
        match frame {
            Frame::Hello(hello) if self.is_sound(&hello, side) => {
                if self.node_mut(side).pair.handle_answer(hello.epoch) {
                    self.open(at, side);
                } else {
                    self.leave(at, side);
                }
            }
            Frame::Stale(known) => {
                let epoch = self.connections[at].epoch;
                self.node_mut(side).pair.handle_stale(epoch, known);
                self.leave(at, side);
            }
            frame => self.accuse(&format!("{frame:?}")),
        }
    }

    fn is_sound(&mut self, hello: &Hello, side: usize) -> bool {
        let sound = check_hello(hello, node(side), node(1 - side)).is_ok();
        if !sound {
            self.accuse("Hello");
        }
        sound
    }

    /// A Hello arrives (D9).
    fn hello(&mut self, at: usize, side: usize, frame: Frame) {
        let Frame::Hello(theirs) = frame else {
            return self.accuse("no Hello");
        };
        if !self.is_sound(&theirs, side) {
            return;
        }
        match self.nodes[side].pair.handle_hello(theirs.epoch) {
            Verdict::Accept => {
                if off("the open session ends before the next opens") {
                    if let Some(old) = self.node_mut(side).open.take() {
                        let epoch = self.connections[old].epoch;
                        self.node_mut(side).pair.handle_ended(epoch);
                        self.leave(old, side);
                    }
                } else {
                    self.end_session(side);
                }
                let dials = (0..self.connections.len())
                    .find(|at| self.connections[*at].ends[side] == End::Dialling);
                if let Some(own) = dials
                    && !off("an accepted Hello drops the own dial")
                {
                    self.leave(own, side);
                }
                self.node_mut(side).pair.handle_accepted(theirs.epoch);
                self.open(at, side);
                let answer = Frame::Hello(hello(side, theirs.epoch));
                self.connections[at].push(side, bytes_of(&answer));
            }
            Verdict::Stale(known) => {
                self.connections[at].push(side, bytes_of(&Frame::Stale(known)));
                self.leave(at, side);
            }
        }
    }

    /// Hands what the open session wrote to its lane.
    pub(crate) fn flush(&mut self, side: usize) {
        let Some(bytes) = self.nodes[side].open.and_then(|at| {
            // Only a session that wrote something is touched.
            let End::Open(session) = &self.connections[at].ends[side] else {
                return None;
            };
            if session.backlog() == 0 {
                return None;
            }
            self.session(side).and_then(|session| {
                let bytes = session.poll_transmit()?;
                session.transmitted(bytes.len());
                Some(bytes)
            })
        }) else {
            return;
        };
        let at = self.nodes[side].open.expect("it wrote");
        let mut rest = &bytes[..];
        while let Some((header, _)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*header) as usize + wire::HEADER_BYTES;
            let (frame, more) = rest.split_at(length);
            self.connections[at].push(side, frame.into());
            rest = more;
        }
    }
}

fn hello(from: usize, epoch: u64) -> Hello {
    Hello {
        versions: PROTOCOL,
        from: node(from),
        to: node(1 - from),
        epoch,
        ticket: Vec::new(),
    }
}
