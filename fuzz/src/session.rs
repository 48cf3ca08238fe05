//! A session whose peer says anything at all: N1, N2 and N3 of `tidelock_proto::session`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use tidelock_proto::link::{LinkAnswer, Signal};
use tidelock_proto::session::{Action, Limits, Over, Session, SessionError};
use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal, Request};
use tidelock_proto::wire::{BulkHead, Frame, Renew, Route, decode};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid};

use super::input::Input;

const US: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

/// The number of a process that never was.
const NOBODY: u64 = 99;

/// Small enough to be reached.
fn limits() -> Limits {
    Limits {
        hosting_max: 4,
        message_bytes_max: 1 << 20,
        backlog_bytes_max: 1 << 16,
        queries_max: 4,
    }
}

/// Takes `data` for bytes of a lane (first byte even), or for moves of both sides (odd).
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    if input.byte().is_multiple_of(2) {
        chunks(&mut input);
    } else {
        let mut play = Play::new(input.byte());
        while !input.is_empty() && !play.session.is_over() {
            play.step(&mut input);
        }
        play.end();
        play.nothing_comes_after_the_end(&mut input);
    }
}

/// What arrives means the same however it was cut.
fn chunks(input: &mut Input<'_>) {
    let size = usize::from(input.byte()) + 1;
    let mut whole = Session::new(US, PEER, 1, limits());
    let mut cut = whole.clone();
    let outcome = whole.handle_bytes(input.0);
    let of_pieces = input
        .0
        .chunks(size)
        .try_for_each(|piece| cut.handle_bytes(piece));
    assert_eq!(outcome, of_pieces);
    let mut messages = Vec::new();
    loop {
        // One side gives messages in a row at once.
        cut.poll_messages(size, &mut messages);
        for (route, tag, data) in messages.drain(..) {
            let message = Action::Message(route, tag, data);
            check_parties(&message, None);
            assert_eq!(whole.poll_action(), Some(message));
        }
        let action = whole.poll_action();
        assert_eq!(action, cut.poll_action());
        match action {
            Some(action) => check_parties(&action, None),
            None => break,
        }
    }
    assert_eq!(whole.poll_transmit(), cut.poll_transmit());
    assert_eq!(whole.end(), cut.end());
}

/// N2: senders live on the peer and targets here, in environments the ticket allows.
fn check_parties(action: &Action, allowed: Option<Environ>) {
    let permitted = |environ| assert!(allowed.is_none_or(|only| only == environ), "{action:?}");
    match action {
        Action::Deliver(route, _) | Action::Message(route, ..) | Action::Bulk(route, ..) => {
            assert_eq!(
                (route.from.node(), route.to.node()),
                (PEER, US),
                "{action:?}"
            );
            permitted(route.environ);
        }
        Action::Make(_, prepare) => {
            assert_eq!(prepare.parent.node(), PEER, "{action:?}");
            permitted(prepare.environ);
        }
        Action::Adopt(_, child) => assert_eq!(child.node(), PEER, "{action:?}"),
        Action::Query(_, pid) => assert_eq!(pid.node(), US, "{action:?}"),
        Action::Refused(..)
        | Action::Run(_)
        | Action::End(_)
        | Action::Answered(..)
        | Action::Left
        | Action::Renew(_) => {}
    }
    if let Action::Bulk(_, _, head) = action {
        assert!(head.bytes <= limits().message_bytes_max, "{action:?}");
    }
}

/// A session and what its caller knows of it.
struct Play {
    session: Session,
    /// Whether the peer's protocol has renewals.
    renews: bool,
    allowed: Option<Environ>,
    /// Spawns that this side waits for, and who asked.
    asked: BTreeMap<u64, Pid>,
    /// Of those, the ones with a child to adopt.
    answered: BTreeSet<u64>,
    /// Spawns of the peer's that came out, in order of their numbers.
    to_make: BTreeSet<u64>,
    last_make: u64,
    /// Children of the peer's that exist and have not run.
    parked: BTreeSet<u64>,
    /// Questions of this side without an answer.
    queries: BTreeSet<u64>,
    /// Questions of the peer's without an answer.
    to_answer: BTreeSet<u64>,
    /// Processes here that asked for something over this session.
    involved: BTreeSet<Pid>,
    /// Processes here that ended.
    ended: BTreeSet<Pid>,
    /// Bytes that came out for the lane.
    sent: BytesMut,
}

impl Play {
    /// A bit of `how` each: whether the ticket names any tenant, and whether the peer is an old one.
    fn new(how: u8) -> Self {
        let (restricted, renews) = (how & 1 == 0, how & 2 == 0);
        let mut session = Session::new(US, PEER, 1, limits());
        let allowed = restricted.then_some(Environ(1));
        if let Some(only) = allowed {
            session.restrict([only]);
        }
        if !renews {
            session.speak(1);
        }
        Play {
            session,
            renews,
            allowed,
            asked: BTreeMap::new(),
            answered: BTreeSet::new(),
            to_make: BTreeSet::new(),
            last_make: 0,
            parked: BTreeSet::new(),
            queries: BTreeSet::new(),
            to_answer: BTreeSet::new(),
            involved: BTreeSet::new(),
            ended: BTreeSet::new(),
            sent: BytesMut::new(),
        }
    }

    /// One move of this side or of the peer's.
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=5 => {
                let frame = peer_frame(input);
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                let cut = usize::from(input.byte()) % (bytes.len() + 1);
                let (first, second) = bytes.split_at(cut);
                let session = &mut self.session;
                let outcome = session.handle_bytes(first);
                let outcome = outcome.and_then(|()| session.handle_bytes(second));
                self.outcome(outcome);
            }
            6 => {
                let outcome = self.session.handle_bytes(input.short());
                self.outcome(outcome);
            }
            7 | 8 => self.drain(input),
            9 => self.say(input),
            10 => {
                let parent = here(input);
                let mut prepare = prepare(input, parent);
                let fits = input.byte() != 0xff;
                if !fits {
                    Arc::make_mut(&mut prepare.config).args = vec!["x".repeat(1 << 20)];
                }
                let reference = self.session.ask(prepare).expect("not over");
                let before = self.asked.insert(reference, parent);
                assert_eq!(before, None, "a number is given once");
                if fits {
                    self.involved.insert(parent);
                }
            }
            11 => {
                let reference = pick(self.asked.keys(), input);
                self.cancel(reference);
            }
            12 => {
                let reference = pick(&self.answered, input);
                let parent = self.asked.get(&reference).copied();
                let started = self.session.start(reference, parent.unwrap_or(here_pid(1)));
                assert_eq!(started.is_ok(), self.answered.remove(&reference));
                if started.is_ok() {
                    self.asked.remove(&reference);
                }
            }
            13 => self.host(input),
            14 => match input.byte() % 5 {
                0 => {
                    let pid = there(input);
                    let reference = self.session.query(pid).expect("not over");
                    assert!(self.queries.insert(reference));
                }
                1 => {
                    let reference = pick(&self.to_answer, input);
                    self.session
                        .answer(reference, input.byte().is_multiple_of(2));
                    self.to_answer.remove(&reference);
                }
                2 => {
                    let local = here(input);
                    self.session.note(local).expect("not over");
                    self.involved.insert(local);
                }
                4 => assert_eq!(self.session.renew(renew(input)), Ok(self.renews)),
                _ => {
                    let local = here(input);
                    self.end_of(local);
                    self.session.forget(local);
                }
            },
            _ => self.transmit(),
        }
    }

    /// A process here ends; what it waits for is given up.
    fn end_of(&mut self, local: Pid) {
        let asked = self.asked.clone();
        for (reference, _) in asked.iter().filter(|(_, parent)| **parent == local) {
            self.cancel(*reference);
        }
        self.involved.remove(&local);
        self.ended.insert(local);
    }

    fn cancel(&mut self, reference: u64) {
        self.session.cancel(reference);
        self.asked.remove(&reference);
        self.answered.remove(&reference);
    }

    /// Something a process here says.
    fn say(&mut self, input: &mut Input<'_>) {
        let mut route = Route {
            environ: Environ(1),
            from: here(input),
            to: there(input),
        };
        match input.byte() % 3 {
            0 => {
                let signal = signal(input);
                match signal {
                    Signal::Link { .. } | Signal::Unlink { .. } | Signal::Monitor { .. } => {
                        self.involved.insert(route.from);
                    }
                    Signal::LinkAck {
                        answer: LinkAnswer::NoProcess,
                        ..
                    }
                    | Signal::MonitorAck { exists: false, .. } => route.from = here_pid(NOBODY),
                    // Its last word: the session forgets it with that.
                    Signal::Exit { .. } => self.end_of(route.from),
                    _ => {}
                }
                let Route { environ, from, to } = route;
                assert_eq!(self.session.signal(environ, from, to, &signal), Ok(()));
            }
            1 => {
                let payload = input.short();
                assert_eq!(self.session.message(&route, None, payload), Ok(()));
            }
            _ => assert!(self.session.bulk(route, Some(3), input.number()).is_ok()),
        }
    }

    /// What becomes of a child that the peer asked for.
    fn host(&mut self, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 | 1 => {
                let reference = pick(&self.to_make, input);
                let child = here(input);
                if self.session.made(reference, child) {
                    assert!(self.to_make.contains(&reference), "nobody asked for it");
                    self.parked.insert(reference);
                    self.involved.insert(child);
                }
                self.to_make.remove(&reference);
            }
            2 => {
                let reference = pick(&self.to_make, input);
                self.session.refuse(reference, Refusal::Full(input.text()));
                self.to_make.remove(&reference);
            }
            _ => {
                let reference = pick(&self.parked, input);
                self.session.parked_ended(reference);
                self.parked.remove(&reference);
            }
        }
    }

    fn drain(&mut self, input: &mut Input<'_>) {
        let several = input.byte();
        if several.is_multiple_of(2) {
            let mut others = Vec::new();
            self.session
                .poll_others(1 + usize::from(several), &mut others);
            for action in &others {
                self.act(action);
            }
        }
        for _ in 0..=input.byte() {
            let Some(action) = self.session.poll_action() else {
                break;
            };
            self.act(&action);
        }
    }

    fn act(&mut self, action: &Action) {
        check_parties(action, self.allowed);
        match action {
            Action::Make(reference, _) => {
                assert!(*reference > self.last_make, "numbers grow");
                self.last_make = *reference;
                self.to_make.insert(*reference);
            }
            Action::Adopt(reference, _) => {
                assert!(self.asked.contains_key(reference), "{action:?}");
                assert!(self.answered.insert(*reference), "{action:?} comes once");
            }
            Action::Refused(reference, _) => {
                assert!(!self.answered.contains(reference), "{action:?}");
                self.asked.remove(reference);
            }
            Action::Run(reference) => assert!(self.parked.remove(reference), "{action:?}"),
            Action::End(reference) => drop(self.parked.remove(reference)),
            Action::Query(reference, _) => {
                assert!(self.to_answer.insert(*reference), "{action:?} comes once");
                assert!(self.to_answer.len() <= limits().queries_max);
            }
            Action::Answered(reference, _) => {
                assert!(self.queries.remove(reference), "{action:?} answers nothing");
            }
            Action::Deliver(route, Signal::Link { .. } | Signal::Monitor { .. })
                if !self.ended.contains(&route.to) =>
            {
                self.involved.insert(route.to);
            }
            Action::Renew(renew) => assert!(renew.is_bounded(), "{action:?}"),
            Action::Deliver(..) | Action::Message(..) | Action::Bulk(..) | Action::Left => {}
        }
    }

    fn outcome(&mut self, outcome: Result<(), SessionError>) {
        match outcome {
            Ok(()) => {}
            Err(SessionError::Misbehaved(_)) => self.end(),
            Err(other) => panic!("a peer can only misbehave: {other}"),
        }
    }

    /// What comes out for the lane are whole frames, between processes here and there.
    fn transmit(&mut self) {
        let Some(bytes) = self.session.poll_transmit() else {
            return;
        };
        self.session.transmitted(bytes.len());
        self.sent.extend_from_slice(&bytes);
        while let Some(frame) = decode(&mut self.sent).expect("ours are well-formed") {
            match frame {
                Frame::Signal(route, _) | Frame::Message(route, ..) | Frame::Bulk(route, ..) => {
                    assert_eq!((route.from.node(), route.to.node()), (US, PEER));
                }
                Frame::Prepared(_, child) => assert_eq!(child.node(), US),
                _ => {}
            }
        }
        assert!(self.sent.is_empty(), "frames are appended whole");
    }

    /// N3: the end names everybody who waits.
    fn end(&mut self) {
        if self.session.is_over() {
            return;
        }
        while let Some(action) = self.session.poll_action() {
            self.act(&action);
        }
        // What is unsent now must stay so.
        let ending = self.session.end();
        let set = |list: &[u64]| list.iter().copied().collect::<BTreeSet<u64>>();
        assert!(
            ending.asks.iter().eq(self.asked.keys()),
            "{:?}",
            ending.asks
        );
        assert_eq!(set(&ending.parked), self.parked);
        assert_eq!(set(&ending.queries), self.queries);
        assert!(set(&ending.preparing).is_subset(&self.to_make));
        let locals: BTreeSet<Pid> = ending.locals.iter().copied().collect();
        assert!(locals.iter().all(|local| local.node() == US));
        let forgotten: Vec<&Pid> = self.involved.difference(&locals).collect();
        assert!(forgotten.is_empty(), "{forgotten:?} are forgotten");
    }

    fn nothing_comes_after_the_end(&mut self, input: &mut Input<'_>) {
        let session = &mut self.session;
        assert_eq!(session.handle_bytes(input.0), Ok(()));
        assert_eq!(session.handle_frame(peer_frame(input)), Ok(()));
        let route = Route {
            environ: Environ(1),
            from: here_pid(1),
            to: there_pid(1),
        };
        assert_eq!(session.message(&route, None, b"x"), Err(Over));
        assert_eq!(session.bulk(route, None, 1), Err(Over));
        assert_eq!(session.query(there_pid(1)), Err(Over));
        assert_eq!(session.note(here_pid(1)), Err(Over));
        assert_eq!(session.start(1, here_pid(1)), Err(Over));
        assert_eq!(session.ask(prepare(input, here_pid(1))), Err(Over));
        session.cancel(pick(self.asked.keys(), input));
        session.answer(1, true);
        session.refuse(self.last_make, Refusal::Draining);
        assert!(!session.made(self.last_make, here_pid(9)));
        session.goodbye();
        assert_eq!(session.poll_transmit(), None);
        assert_eq!(session.poll_action(), None);
        assert_eq!(session.end(), Default::default());
    }
}

/// One of `known`, or at times a number that is never in use.
fn pick<'a>(known: impl IntoIterator<Item = &'a u64>, input: &mut Input<'_>) -> u64 {
    let which = input.byte();
    let known: Vec<&u64> = known.into_iter().collect();
    match known.get(usize::from(which & 0x7f) % known.len().max(1)) {
        Some(known) if which < 0xf0 => **known,
        _ => u64::MAX - u64::from(which & 0xf),
    }
}

fn pid(node: NodeId, local: u64) -> Pid {
    Pid::new(node, local).expect("small numbers")
}

fn here_pid(local: u64) -> Pid {
    pid(US, local)
}

fn there_pid(local: u64) -> Pid {
    pid(PEER, local)
}

fn here(input: &mut Input<'_>) -> Pid {
    here_pid(u64::from(input.byte() % 8) + 1)
}

fn there(input: &mut Input<'_>) -> Pid {
    there_pid(u64::from(input.byte() % 8) + 1)
}

/// A process of `usual`, or at times of somebody else.
fn mostly(usual: NodeId, input: &mut Input<'_>) -> Pid {
    let byte = input.byte();
    let node = match byte >> 4 {
        0xd => US,
        0xe => PEER,
        0xf => THIRD,
        _ => usual,
    };
    pid(node, u64::from(byte % 8) + 1)
}

fn environ(input: &mut Input<'_>) -> Environ {
    match input.byte() {
        0xff => Environ(2),
        _ => Environ(1),
    }
}

/// A number that may be in use.
fn reference(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        0xff => input.number() >> 1,
        small => u64::from(small % 16),
    }
}

fn prepare(input: &mut Input<'_>, parent: Pid) -> Prepare {
    Prepare {
        environ: environ(input),
        parent,
        module: ModuleHash([input.byte(); 32]),
        entry: input.text(),
        params: Vec::new(),
        config: ProcessConfig::default().into(),
        link: Some(None),
        monitor: None,
    }
}

fn signal(input: &mut Input<'_>) -> Signal {
    let kind = input.byte();
    let id = u64::from(input.byte());
    let reason = || ExitReason::Exit(3);
    match kind % 12 {
        0 => Signal::Link { id, tag: Some(1) },
        1 => Signal::LinkAck {
            id,
            answer: LinkAnswer::Linked,
        },
        2 => Signal::LinkAck {
            id,
            answer: LinkAnswer::NoProcess,
        },
        3 => Signal::Unlink { id },
        4 => Signal::UnlinkAck { id },
        5 => Signal::Exit { reason: reason() },
        6 => Signal::Monitor { reference: id },
        7 => Signal::MonitorAck {
            reference: id,
            exists: true,
        },
        8 => Signal::MonitorAck {
            reference: id,
            exists: false,
        },
        9 => Signal::Demonitor { reference: id },
        10 => Signal::Down {
            reference: id,
            reason: reason(),
        },
        _ => Signal::Kill,
    }
}

/// Something the peer says: mostly what it may.
fn peer_frame(input: &mut Input<'_>) -> Frame {
    let kind = input.byte();
    let route = |input: &mut Input<'_>| Route {
        environ: environ(input),
        from: mostly(PEER, input),
        to: mostly(US, input),
    };
    // Beside the others, so that what is kept of those stays what it was.
    match kind {
        0xf0..0xf8 => return Frame::Config(input.byte() % 32, config(input)),
        0xf8..=0xff => return requested(input),
        _ => {}
    }
    match kind % 15 {
        0 => Frame::Signal(route(input), signal(input)),
        1 => Frame::Message(route(input), None, input.short().to_vec().into()),
        2 => Frame::Bulk(
            route(input),
            None,
            BulkHead {
                stream: reference(input),
                bytes: u64::from(input.byte()) << 14,
            },
        ),
        3 | 4 => {
            let (reference, parent) = (reference(input), mostly(PEER, input));
            Frame::Prepare(reference, Box::new(prepare(input, parent)))
        }
        5 => Frame::Prepared(reference(input), mostly(PEER, input)),
        6 => Frame::Refused(reference(input), Refusal::Draining),
        7 => Frame::Start(reference(input)),
        8 => Frame::Cancel(reference(input)),
        9 => Frame::Cancelled(reference(input)),
        10 => Frame::Query(reference(input), mostly(US, input)),
        11 => Frame::Answer(reference(input), true),
        12 => Frame::Stale(reference(input)),
        13 => Frame::Renew(renew(input)),
        _ => Frame::Goodbye,
    }
}

fn config(input: &mut Input<'_>) -> Arc<ProcessConfig> {
    Arc::new(ProcessConfig {
        args: vec![input.text()],
        ..ProcessConfig::default()
    })
}

fn requested(input: &mut Input<'_>) -> Frame {
    let (reference, parent) = (reference(input), mostly(PEER, input));
    let prepare = prepare(input, parent);
    let request = Request {
        environ: prepare.environ,
        parent: prepare.parent,
        module: prepare.module,
        entry: prepare.entry,
        params: prepare.params,
        slot: input.byte() % 32,
        link: prepare.link,
        monitor: prepare.monitor,
    };
    Frame::Request(reference, Box::new(request))
}

fn renew(input: &mut Input<'_>) -> Renew {
    Renew {
        certificate: input.short().to_vec(),
        ticket: input.short().to_vec(),
        proof: input.short().to_vec(),
    }
}
