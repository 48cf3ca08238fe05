//! What a session takes, and what ends it.
//!
//! Goal: a peer that is not correct is found out at its first wrong frame and costs little; one
//! that is correct is never accused. Method: a table of every frame no correct peer can send, each
//! with the rule it breaks; beside it the stragglers that are harmless; Hellos that disagree with
//! their certificates; and everything that has a bound, at its bound.

#[allow(dead_code, reason = "another test uses the rest")]
mod frames;

use std::sync::Arc;

use bytes::Bytes;
use frames::{PEER, US, bytes_of, frame_of, hello, here, prepare, renew, request, route, there};
use tidelock_proto::link::{Block, Effect, LinkAnswer, LinkForm, Signal};
use tidelock_proto::session::{
    Action, CONGESTED_BYTES, Limits, Over, Session, SessionError, check_hello,
};
use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal};
use tidelock_proto::wire::{
    BulkHead, CONFIG_BYTES_MAX, CONTROL_BYTES_MAX, Frame, HEADER_BYTES, Hello, Route,
};
use tidelock_proto::{Environ, ExitReason, NodeId, PROTOCOL, Pid, TEXT_BYTES_MAX};

fn session() -> Session {
    Session::new(US, PEER, 1, Limits::default())
}

/// A session in which our spawn 1 is asked for, and their spawn 1 is being prepared.
fn busy() -> Session {
    let mut session = session();
    let ours = Prepare {
        parent: here(5),
        ..prepare()
    };
    assert_eq!(session.ask(ours), Ok(1));
    take(&mut session, Frame::Prepare(1, Box::new(prepare()))).unwrap();
    session
}

/// Hands a frame over as bytes and returns what is to be done.
fn take(session: &mut Session, frame: Frame) -> Result<Vec<Action>, SessionError> {
    session.handle_bytes(&bytes_of(&frame))?;
    Ok(std::iter::from_fn(|| session.poll_action()).collect())
}

#[test]
fn no_correct_peer_sends_these() {
    let forged = |from, to| {
        Frame::Signal(
            Route {
                environ: Environ(1),
                from,
                to,
            },
            Signal::Kill,
        )
    };
    let head = |bytes| BulkHead { stream: 1, bytes };
    let parent = |parent, environ| Prepare {
        parent,
        environ: Environ(environ),
        ..prepare()
    };
    let table = [
        ("Hello comes once", Frame::Hello(hello())),
        ("Stale answers a Hello", Frame::Stale(1)),
        ("a sender lives on", forged(here(7), here(5))),
        (
            "a sender lives on",
            forged(Pid::new(NodeId(3), 1).unwrap(), here(5)),
        ),
        ("a target lives on", forged(there(7), there(5))),
        ("a sender's environment", {
            let route = Route {
                environ: Environ(2),
                ..route()
            };
            Frame::Message(route, None, Bytes::new())
        }),
        (
            "message_bytes_max",
            Frame::Bulk(route(), None, head(u64::MAX)),
        ),
        (
            "a spawn reference is used once",
            Frame::Prepare(1, Box::new(prepare())),
        ),
        (
            "a parent lives on",
            Frame::Prepare(2, Box::new(parent(here(5), 1))),
        ),
        (
            "a sender's environment",
            Frame::Prepare(2, Box::new(parent(there(7), 2))),
        ),
        ("a child lives on", Frame::Prepared(1, here(9))),
        ("nobody asked for", Frame::Prepared(2, there(9))),
        ("nobody asked for", Frame::Refused(2, Refusal::Draining)),
        ("nobody asked for", Frame::Cancelled(2)),
        ("answers a Cancel", Frame::Cancelled(1)),
        ("Start follows Prepared", Frame::Start(1)),
        ("Start follows Prepared", Frame::Start(9)),
        ("Cancel follows Prepare", Frame::Cancel(9)),
        ("about a process of this node", Frame::Query(1, there(9))),
        ("an answer answers", Frame::Answer(1, true)),
    ];
    for (rule, frame) in table {
        let mut session = busy();
        session.restrict([Environ(1)]);
        match take(&mut session, frame.clone()) {
            Err(SessionError::Misbehaved(text)) => {
                assert!(text.contains(rule), "{frame:?}: {text}");
            }
            other => panic!("{frame:?} was taken: {other:?}"),
        }
    }
}

#[test]
fn what_is_answered_once_is_not_answered_twice() {
    let mut session = busy();
    assert_eq!(
        take(&mut session, Frame::Prepared(1, there(9))),
        Ok(vec![Action::Adopt(1, there(9))])
    );
    for again in [
        Frame::Prepared(1, there(9)),
        Frame::Refused(1, Refusal::Draining),
        Frame::Cancelled(1),
    ] {
        let mut session = session.clone();
        assert!(take(&mut session, again.clone()).is_err(), "{again:?}");
    }
    assert_eq!(session.start(1, here(5)), Ok(()));
    assert!(take(&mut session, Frame::Prepared(1, there(9))).is_err());

    let mut hosts = busy();
    assert!(hosts.made(1, here(9)));
    assert_eq!(take(&mut hosts, Frame::Start(1)), Ok(vec![Action::Run(1)]));
    assert!(take(&mut hosts, Frame::Start(1)).is_err());

    let mut asks = busy();
    let question = Frame::Query(4, here(5));
    assert_eq!(
        take(&mut asks, question.clone()),
        Ok(vec![Action::Query(4, here(5))])
    );
    assert!(take(&mut asks, question).is_err());
}

#[test]
fn stragglers_are_harmless() {
    // Whatever a block is told about what is no longer its business, it neither says nor does.
    let mut block = Block::new(here(5));
    let mut effects = Vec::new();
    block.link(there(7), None, LinkForm::Value, &mut effects);
    let before = block.clone();
    effects.clear();
    let reason = || ExitReason::Exit(1);
    for (from, signal) in [
        (
            there(7),
            Signal::LinkAck {
                id: 99,
                answer: LinkAnswer::Linked,
            },
        ),
        (
            there(7),
            Signal::LinkAck {
                id: 99,
                answer: LinkAnswer::NoProcess,
            },
        ),
        (
            there(7),
            Signal::LinkAck {
                id: 99,
                answer: LinkAnswer::Crossed,
            },
        ),
        (
            there(8),
            Signal::LinkAck {
                id: 1,
                answer: LinkAnswer::Linked,
            },
        ),
        (there(7), Signal::UnlinkAck { id: 1 }),
        (there(8), Signal::Exit { reason: reason() }),
        (
            there(8),
            Signal::MonitorAck {
                reference: 1,
                exists: false,
            },
        ),
        (
            there(8),
            Signal::Down {
                reference: 1,
                reason: reason(),
            },
        ),
        (there(8), Signal::Demonitor { reference: 1 }),
    ] {
        let mut session = session();
        let route = Route { from, ..route() };
        let taken = take(&mut session, Frame::Signal(route, signal.clone()));
        assert_eq!(taken, Ok(vec![Action::Deliver(route, signal.clone())]));
        block.handle(from, signal.clone(), &mut effects);
        assert_eq!(
            (effects.as_slice(), &block),
            (&[][..], &before),
            "{signal:?}"
        );
    }
    // A Down about somebody else's process is a forgery, and ignored.
    let reference = block.monitor(there(7), &mut effects);
    effects.clear();
    let down = Signal::Down {
        reference,
        reason: reason(),
    };
    block.handle(there(8), down, &mut effects);
    assert!(effects.is_empty());

    // Answers that cross a Cancel; the tombstone goes with Cancelled.
    for answer in [
        Frame::Prepared(1, there(9)),
        Frame::Refused(1, Refusal::Draining),
    ] {
        let mut session = busy();
        session.cancel(1);
        assert_eq!(take(&mut session, answer), Ok(vec![]));
        assert_eq!(take(&mut session, Frame::Cancelled(1)), Ok(vec![]));
        assert!(take(&mut session, Frame::Cancelled(1)).is_err());
    }
    // A Cancel that finds nothing is answered all the same.
    let mut session = busy();
    session.refuse(1, Refusal::Draining);
    drop(session.poll_transmit());
    assert_eq!(take(&mut session, Frame::Cancel(1)), Ok(vec![]));
    assert_eq!(
        session.poll_transmit(),
        Some(bytes_of(&Frame::Cancelled(1)))
    );
}

#[test]
fn a_bad_frame_does_not_undo_the_good_ones_before_it() {
    let mut session = session();
    let good = Frame::Signal(route(), Signal::Kill);
    let mut bytes = bytes_of(&good);
    bytes.extend([0, 0, 0, 0, 99]);
    bytes.extend(bytes_of(&good));
    assert!(matches!(
        session.handle_bytes(&bytes),
        Err(SessionError::Misbehaved(_))
    ));
    assert_eq!(
        session.poll_action(),
        Some(Action::Deliver(route(), Signal::Kill))
    );
    assert_eq!(session.poll_action(), None);
}

#[test]
fn what_arrives_means_the_same_however_it_is_cut() {
    let message = |length: usize| Frame::Message(route(), Some(7), vec![5; length].into());
    let kill = Frame::Signal(route(), Signal::Kill);
    let frames = [
        message(0),
        kill.clone(),
        message(300),
        message(5000),
        message(1),
        kill,
    ];
    let bytes = frames.each_ref().map(bytes_of).concat();
    let actions = |pieces: &[&[u8]]| {
        let mut session = session();
        for piece in pieces {
            session.handle_bytes(piece).unwrap();
        }
        std::iter::from_fn(|| session.poll_action()).collect::<Vec<_>>()
    };
    let whole = actions(&[&bytes]);
    assert_eq!(whole.len(), frames.len());
    for cut in 0..=bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(actions(&[a, b]), whole, "cut at {cut}");
        let (b, c) = b.split_at(b.len().min(9));
        assert_eq!(actions(&[a, b, c]), whole, "cut at {cut}, and nine further");
    }
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(actions(&bytewise), whole);
}

#[test]
fn messages_in_a_row_come_out_at_once_and_in_their_place() {
    let mut session = session();
    let message = |tag| Frame::Message(route(), Some(tag), Bytes::from_static(b"text"));
    let kill = Frame::Signal(route(), Signal::Kill);
    let frames = [message(1), message(2), message(3), kill, message(4)];
    let bytes = frames.each_ref().map(bytes_of).concat();
    session.handle_bytes(&bytes).unwrap();
    let mut next = |max| {
        let mut messages = Vec::new();
        session.poll_messages(max, &mut messages);
        let tags = messages.into_iter().map(|(_, tag, _)| tag.unwrap());
        (tags.collect::<Vec<_>>(), session.poll_action())
    };
    let text = |tag| {
        Some(Action::Message(
            route(),
            Some(tag),
            Bytes::from_static(b"text"),
        ))
    };
    let killed = || Some(Action::Deliver(route(), Signal::Kill));
    assert_eq!(next(1), (vec![1], text(2)));
    assert_eq!(next(9), (vec![3], killed()));
    assert_eq!(next(0), (vec![], text(4)));
    assert_eq!(next(9), (vec![], None));
}

#[test]
fn a_renewal_keeps_its_place_in_the_lane() {
    let mut session = session();
    let kill = Frame::Signal(route(), Signal::Kill);
    let bytes = [&kill, &Frame::Renew(renew()), &kill, &Frame::Renew(renew())]
        .map(bytes_of)
        .concat();
    session.handle_bytes(&bytes).unwrap();
    // Whether it is good is not for the session to say: each comes out.
    let killed = || Action::Deliver(route(), Signal::Kill);
    let actions: Vec<Action> = std::iter::from_fn(|| session.poll_action()).collect();
    let renewed = || Action::Renew(renew());
    assert_eq!(actions, [killed(), renewed(), killed(), renewed()]);

    assert_eq!(session.renew(renew()), Ok(true));
    let sent = session.poll_transmit();
    assert_eq!(sent, Some(bytes_of(&Frame::Renew(renew()))));
    drop(session.end());
    assert_eq!(session.renew(renew()), Err(Over));
    assert_eq!(take(&mut session, Frame::Renew(renew())), Ok(vec![]));
}

#[test]
fn a_peer_of_protocol_1_neither_hears_of_renewals_nor_sends_any() {
    let mut session = session();
    session.speak(1);
    assert_eq!(session.renew(renew()), Ok(false));
    assert_eq!(session.poll_transmit(), None);
    assert!(session.at_rest());
    let taken = take(&mut session, Frame::Renew(renew()));
    let Err(SessionError::Misbehaved(text)) = taken else {
        panic!("{taken:?}");
    };
    assert!(text.contains("since protocol 2"), "{text}");
    session.speak(2);
    assert_eq!(session.renew(renew()), Ok(true));
    let taken = take(&mut session, Frame::Renew(renew()));
    assert_eq!(taken, Ok(vec![Action::Renew(renew())]));
}

#[test]
fn a_hello_is_compared_with_its_certificate() {
    let ok = hello();
    let (old, new) = PROTOCOL;
    assert_eq!(check_hello(&ok, US, PEER), Ok(new));
    let versions = |versions| Hello {
        versions,
        ..hello()
    };
    assert_eq!(check_hello(&versions((old, new + 7)), US, PEER), Ok(new));
    // What both speak is what the older of the two speaks.
    assert_eq!(check_hello(&versions((1, 1)), US, PEER), Ok(1));
    assert_eq!(check_hello(&versions((new, new)), US, PEER), Ok(new));
    for theirs in [(new + 1, new + 2), (0, old - 1)] {
        assert_eq!(
            check_hello(&versions(theirs), US, PEER),
            Err(SessionError::Incompatible {
                ours: PROTOCOL,
                theirs
            })
        );
    }
    let node = |id| Hello {
        from: NodeId(id),
        ..hello()
    };
    let last = check_hello(&node(NodeId::MAX.0), US, NodeId::MAX);
    assert_eq!(last, Ok(new), "the last id is a node's like any other");
    let table = [
        ("upwards", versions((2, 1)), PEER),
        ("certificate", hello(), NodeId(3)),
        (
            "another node",
            Hello {
                to: NodeId(9),
                ..hello()
            },
            PEER,
        ),
        ("of its own", node(0), NodeId(0)),
        ("of its own", node(US.0), US),
        ("of its own", node(1 << 23), NodeId(1 << 23)),
        (
            "from 1",
            Hello {
                epoch: 0,
                ..hello()
            },
            PEER,
        ),
    ];
    for (rule, hello, certified) in table {
        let error = check_hello(&hello, US, certified).unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
    }
}

// ---- bounds ------------------------------------------------------------------------------------

/// A guest's last words must not end a session: they are cut where they are said.
#[test]
fn no_text_makes_a_frame_that_a_peer_refuses() {
    let long = || "é".repeat(TEXT_BYTES_MAX * 3);
    for reason in [
        ExitReason::Trap(long()),
        ExitReason::Limit(long()),
        ExitReason::Fault(long()),
        ExitReason::NotStarted(long()),
        ExitReason::LinkDied {
            pid: there(7),
            why: long(),
        },
        ExitReason::NodeDown {
            node: PEER,
            how: long(),
        },
    ] {
        let mut block = Block::new(here(5));
        block.adopt(there(7), None);
        block.adopt_watcher(there(7), 1);
        let mut effects = Vec::new();
        block.end(reason, &mut effects);
        for effect in effects {
            let Effect::Send(to, signal) = effect else {
                continue;
            };
            let route = Route {
                environ: Environ(1),
                from: here(5),
                to,
            };
            let frame = Frame::Signal(route, signal);
            assert_eq!(frame_of(&bytes_of(&frame)), Ok(Some(frame)));
        }
    }
    let mut session = busy();
    drop(session.poll_transmit());
    session.refuse(1, Refusal::BadModule(long()));
    let sent = session.poll_transmit().unwrap();
    assert!(matches!(frame_of(&sent), Ok(Some(Frame::Refused(1, _)))));
}

#[test]
fn a_spawn_that_no_frame_holds_is_refused_here() {
    let mut session = session();
    let mut huge = prepare();
    Arc::make_mut(&mut huge.config).args = vec!["x".repeat(CONTROL_BYTES_MAX)];
    assert_eq!(session.ask(huge), Ok(1));
    assert_eq!(session.poll_transmit(), None, "nothing is sent");
    assert!(matches!(
        session.poll_action(),
        Some(Action::Refused(1, Refusal::NotPermitted(_)))
    ));
    assert!(session.at_rest());
    assert_eq!(session.ask(prepare()), Ok(2));
}

/// As [`prepare`], with another configuration for each number.
fn prepare_with(number: usize) -> Prepare {
    let config = ProcessConfig {
        args: vec![number.to_string()],
        ..ProcessConfig::default()
    };
    Prepare {
        config: config.into(),
        ..prepare()
    }
}

#[test]
fn a_configuration_is_told_once_and_named_by_its_slot() {
    let mut session = session();
    let mut expected = Vec::new();
    let mut ask = |number: usize, tells: bool, slot: u8| {
        let prepare = prepare_with(number);
        if tells {
            Frame::Config(slot, prepare.config.clone()).encode(&mut expected);
        }
        let reference = session.ask(prepare).unwrap();
        Frame::Request(reference, Box::new(request(slot))).encode(&mut expected);
    };
    ask(0, true, 0);
    ask(0, false, 0);
    for number in 1..16 {
        ask(number, true, u8::try_from(number).unwrap());
    }
    ask(0, false, 0);
    // No slot is left: the oldest makes room.
    ask(16, true, 0);
    ask(16, false, 0);
    ask(1, false, 1);
    ask(0, true, 1);
    assert_eq!(session.poll_transmit(), Some(expected));
}

#[test]
fn a_configuration_that_is_short_or_very_long_goes_with_each_request() {
    let with = |args: Vec<String>| Prepare {
        config: Arc::new(ProcessConfig {
            args,
            ..ProcessConfig::default()
        }),
        ..prepare()
    };
    for args in [vec![], vec!["x".repeat(CONFIG_BYTES_MAX)]] {
        let mut session = session();
        let prepare = with(args);
        assert_eq!(session.ask(prepare.clone()), Ok(1));
        let sent = Frame::Prepare(1, Box::new(prepare));
        assert_eq!(session.poll_transmit(), Some(bytes_of(&sent)));
    }
    // To the byte: what a slot holds, and what it does not.
    let without =
        bytes_of(&Frame::Config(0, with(vec![String::new()]).config)).len() - HEADER_BYTES;
    for (more, has_slot) in [(0, true), (1, false)] {
        let mut session = session();
        let args = vec!["x".repeat(CONFIG_BYTES_MAX - without + more)];
        assert_eq!(session.ask(with(args)), Ok(1));
        let sent = session.poll_transmit().unwrap();
        let first = frame_of(&sent).unwrap();
        assert_eq!(matches!(first, Some(Frame::Config(..))), has_slot);
    }
    // Whatever waits before it.
    let mut session = session();
    session
        .message(&route(), None, &vec![0; CONFIG_BYTES_MAX])
        .unwrap();
    let before = session.unsent();
    assert_eq!(session.ask(prepare_with(1)), Ok(1));
    let sent = session.poll_transmit().unwrap();
    let first = frame_of(&sent[before..]).unwrap();
    assert!(matches!(first, Some(Frame::Config(..))), "{first:?}");
}

#[test]
fn a_request_gets_what_its_slot_holds_then() {
    let mut session = session();
    let (first, second) = (prepare_with(1).config, prepare_with(2).config);
    let frames = [
        Frame::Config(0, first.clone()),
        Frame::Request(1, Box::new(request(0))),
        Frame::Config(0, second.clone()),
        Frame::Request(2, Box::new(request(0))),
        Frame::Request(3, Box::new(request(0))),
    ];
    let mut held = Vec::new();
    for frame in frames {
        for action in take(&mut session, frame).unwrap() {
            let Action::Make(_, prepare) = action else {
                panic!("{action:?}");
            };
            held.push(prepare.config);
        }
    }
    assert_eq!(held, [first, second.clone(), second]);
    assert!(Arc::ptr_eq(&held[1], &held[2]), "one for both");
}

#[test]
fn slots_are_what_the_peer_has_filled() {
    let broken = |version: u16, frames: &[Frame], with: &str| {
        let mut session = session();
        session.speak(version);
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            assert_eq!(take(&mut session, frame.clone()), Ok(vec![]));
        }
        let taken = take(&mut session, last.clone());
        let Err(SessionError::Misbehaved(text)) = taken else {
            panic!("{taken:?}");
        };
        assert!(text.contains(with), "{text}");
    };
    let config = |slot| Frame::Config(slot, prepare().config);
    let request = |slot| Frame::Request(1, Box::new(request(slot)));
    broken(3, &[request(0)], "filled before it is named");
    broken(3, &[config(0), request(1)], "filled before it is named");
    broken(3, &[config(1)], "one after the other");
    let sixteen: Vec<_> = (0..16).map(config).collect();
    broken(3, &[&sixteen[..], &[config(16)]].concat(), "are 16");
    broken(2, &[config(0)], "since protocol 3");
    broken(2, &[request(0)], "since protocol 3");
}

#[test]
fn a_peer_of_protocol_2_hears_of_no_slots() {
    let mut session = session();
    session.speak(2);
    assert_eq!(session.ask(prepare()), Ok(1));
    let sent = Frame::Prepare(1, Box::new(prepare()));
    assert_eq!(session.poll_transmit(), Some(bytes_of(&sent)));
}

#[test]
fn a_peer_has_only_so_many_spawns_and_questions_under_way() {
    let limits = Limits {
        hosting_max: 2,
        queries_max: 2,
        ..Limits::default()
    };
    let mut session = Session::new(US, PEER, 1, limits);
    for reference in 1..=2 {
        let taken = take(&mut session, Frame::Prepare(reference, Box::new(prepare())));
        assert_eq!(taken.unwrap().len(), 1);
    }
    assert_eq!(
        take(&mut session, Frame::Prepare(3, Box::new(prepare()))),
        Ok(vec![])
    );
    let answer = session.poll_transmit().unwrap();
    assert!(matches!(
        frame_of(&answer),
        Ok(Some(Frame::Refused(3, Refusal::Full(_))))
    ));
    for question in 1..=2 {
        assert!(take(&mut session, Frame::Query(question, here(1))).is_ok());
    }
    assert!(take(&mut session, Frame::Query(3, here(1))).is_err());
}

#[test]
fn asking_the_dead_leaves_nothing_behind() {
    let mut session = session();
    let before = session.locals();
    for local in 1..100 {
        let to = here(local);
        let route = Route { to, ..route() };
        let link = Signal::Link { id: 1, tag: None };
        assert!(take(&mut session, Frame::Signal(route, link)).is_ok());
        let answer = Signal::LinkAck {
            id: 1,
            answer: LinkAnswer::NoProcess,
        };
        assert_eq!(session.signal(Environ(1), to, there(7), &answer), Ok(()));
    }
    assert_eq!(session.locals(), before);
}

// ---- the books -----------------------------------------------------------------------------------

#[test]
fn a_session_knows_itself_and_its_bytes() {
    let mut session = Session::new(US, PEER, 9, Limits::default());
    assert_eq!((session.peer(), session.epoch()), (PEER, 9));
    assert!(session.at_rest() && !session.is_over());
    assert_eq!(session.poll_transmit(), None);
    assert_eq!(session.message(&route(), None, b"abc"), Ok(()));
    let sent = bytes_of(&Frame::Message(route(), None, Bytes::from_static(b"abc")));
    assert_eq!(
        (session.unsent(), session.backlog()),
        (sent.len(), sent.len())
    );
    assert!(!session.at_rest());
    assert_eq!(session.poll_transmit(), Some(sent.clone()));
    assert_eq!((session.unsent(), session.backlog()), (0, sent.len()));
    session.goodbye();
    let bye = bytes_of(&Frame::Goodbye);
    assert_eq!(session.backlog(), sent.len() + bye.len());
    assert_eq!(session.poll_transmit(), Some(bye.clone()));
    assert_eq!(session.backlog(), sent.len() + bye.len());
    session.transmitted(sent.len());
    assert_eq!(session.backlog(), bye.len());
    session.transmitted(usize::MAX);
    assert_eq!(session.backlog(), 0);
    assert_eq!(take(&mut session, Frame::Goodbye), Ok(vec![Action::Left]));
}

#[test]
fn a_backlog_has_two_marks() {
    let frame = bytes_of(&Frame::Goodbye).len();
    let limits = Limits {
        backlog_bytes_max: 4 * frame,
        ..Limits::default()
    };
    let mut session = Session::new(US, PEER, 1, limits);
    let marks: Vec<(bool, bool)> = (0..5)
        .map(|_| {
            session.goodbye();
            (session.is_congested(), session.is_overrun())
        })
        .collect();
    let (free, slow, over) = ((false, false), (true, false), (true, true));
    assert_eq!(marks, [free, free, slow, slow, over]);
    let usual = Limits::default();
    let bounds = (usual.message_bytes_max, usual.backlog_bytes_max);
    assert_eq!(bounds, (67_108_864, 67_108_864));
    // Callers wait long before the session would end.
    let mut session = Session::new(US, PEER, 1, usual);
    while session.backlog() <= CONGESTED_BYTES {
        assert!(!session.is_congested());
        assert_eq!(session.message(&route(), None, &[0; 1000]), Ok(()));
    }
    assert_eq!(
        (session.is_congested(), session.is_overrun()),
        (true, false)
    );
}

#[test]
fn every_number_is_used_once() {
    let mut session = session();
    assert_eq!(session.bulk(route(), None, 5), Ok(1));
    assert_eq!(session.ask(prepare()), Ok(2));
    assert_eq!(session.query(there(1)), Ok(3));
    assert_eq!(session.bulk(route(), Some(1), 6), Ok(4));
    assert_eq!(session.query(there(1)), Ok(5));
    let mut all = Vec::new();
    for frame in [
        Frame::Bulk(
            route(),
            None,
            BulkHead {
                stream: 1,
                bytes: 5,
            },
        ),
        Frame::Config(0, prepare().config),
        Frame::Request(2, Box::new(request(0))),
        Frame::Query(3, there(1)),
        Frame::Bulk(
            route(),
            Some(1),
            BulkHead {
                stream: 4,
                bytes: 6,
            },
        ),
        Frame::Query(5, there(1)),
    ] {
        frame.encode(&mut all);
    }
    assert_eq!(session.poll_transmit(), Some(all));
}

#[test]
fn a_spawn_of_exactly_a_frame_is_asked_for() {
    let sized = |bytes: usize| {
        let mut prepare = prepare();
        prepare.entry.clear();
        let without = bytes_of(&Frame::Prepare(1, Box::new(prepare.clone())));
        prepare.entry = "x".repeat(bytes - (without.len() - HEADER_BYTES));
        prepare
    };
    for said in [vec![], vec![Frame::Goodbye; 2]] {
        let mut session = session();
        // Its configuration goes with it.
        session.speak(2);
        let mut sent = Vec::new();
        for frame in &said {
            session.goodbye();
            frame.encode(&mut sent);
        }
        let mut refused = session.clone();
        let longest = sized(CONTROL_BYTES_MAX);
        assert_eq!(session.ask(longest.clone()), Ok(1));
        let all = session.poll_transmit().unwrap();
        assert_eq!(&all[..sent.len()], sent);
        let asked = Frame::Prepare(1, Box::new(longest));
        assert_eq!(frame_of(&all[sent.len()..]), Ok(Some(asked)));

        // One byte more is refused, and what had been said before stays.
        assert_eq!(refused.ask(sized(CONTROL_BYTES_MAX + 1)), Ok(1));
        let text = format!("a spawn of {} bytes", CONTROL_BYTES_MAX + 1);
        let Some(Action::Refused(1, Refusal::NotPermitted(why))) = refused.poll_action() else {
            panic!("it was asked for");
        };
        assert!(why.starts_with(&text), "{why}");
        assert_eq!(refused.poll_transmit().unwrap_or_default(), sent);
        assert_eq!(refused.locals(), 1, "its block remembers the number");
    }
}

#[test]
fn a_message_of_exactly_its_bound_is_taken() {
    let limits = Limits {
        message_bytes_max: 100,
        ..Limits::default()
    };
    for (bytes, taken) in [(99, true), (100, true), (101, false)] {
        let mut session = Session::new(US, PEER, 1, limits.clone());
        let head = BulkHead { stream: 1, bytes };
        let result = take(&mut session, Frame::Bulk(route(), None, head));
        assert_eq!(result.is_ok(), taken, "{bytes} bytes");
        if taken {
            assert_eq!(result, Ok(vec![Action::Bulk(route(), None, head)]));
        }
    }
    let mut session = session();
    let message = Frame::Message(route(), Some(3), Bytes::from_static(b"x"));
    let action = Action::Message(route(), Some(3), Bytes::from_static(b"x"));
    assert_eq!(take(&mut session, message), Ok(vec![action]));
}

#[test]
fn a_question_is_answered_once() {
    let mut session = session();
    assert_eq!(session.query(there(9)), Ok(1));
    drop(session.poll_transmit());
    assert!(!session.at_rest(), "a question waits for the peer");
    let answered = vec![Action::Answered(1, true)];
    assert_eq!(take(&mut session, Frame::Answer(1, true)), Ok(answered));
    assert!(session.at_rest());
    assert!(take(&mut session, Frame::Answer(1, true)).is_err());

    assert!(take(&mut session, Frame::Query(6, here(5))).is_ok());
    assert!(!session.at_rest(), "a question waits for this node");
    session.answer(7, true);
    assert_eq!(session.poll_transmit(), None, "nobody asked that");
    session.answer(6, false);
    let answer = bytes_of(&Frame::Answer(6, false));
    assert_eq!(session.poll_transmit(), Some(answer));
    session.answer(6, false);
    assert_eq!(session.poll_transmit(), None);
    assert!(session.at_rest());
}

#[test]
fn whoever_may_hold_a_half_is_noted() {
    let said = |signal: Signal| {
        let mut session = session();
        session
            .signal(Environ(1), here(5), there(7), &signal)
            .unwrap();
        session.end().locals
    };
    let heard = |signal: Signal| {
        let mut session = session();
        take(&mut session, Frame::Signal(route(), signal)).unwrap();
        session.end().locals
    };
    let link = || Signal::Link { id: 1, tag: None };
    let monitor = || Signal::Monitor { reference: 1 };
    assert_eq!(said(link()), [here(5)]);
    assert_eq!(said(monitor()), [here(5)]);
    assert_eq!(said(Signal::Unlink { id: 1 }), [here(5)]);
    assert_eq!(said(Signal::Kill), []);
    assert_eq!(heard(link()), [here(5)]);
    assert_eq!(heard(monitor()), [here(5)]);
    assert_eq!(heard(Signal::Unlink { id: 1 }), []);

    let mut session = session();
    for local in 1..=4 {
        assert_eq!(session.note(here(local)), Ok(()));
    }
    session.forget(here(2));
    let nobody = Signal::MonitorAck {
        reference: 1,
        exists: false,
    };
    let somebody = Signal::MonitorAck {
        reference: 1,
        exists: true,
    };
    session
        .signal(Environ(1), here(3), there(7), &nobody)
        .unwrap();
    session
        .signal(Environ(1), here(4), there(7), &somebody)
        .unwrap();
    assert_eq!(session.locals(), 2);
    assert_eq!(session.end().locals, [here(1), here(4)]);
}

#[test]
fn an_end_lists_what_waits_and_nothing_comes_after_it() {
    let mut session = busy();
    for reference in 2..=5 {
        let parent = here(reference);
        assert_eq!(
            session.ask(Prepare {
                parent,
                ..prepare()
            }),
            Ok(reference)
        );
        let theirs = Frame::Prepare(reference, Box::new(prepare()));
        assert_eq!(take(&mut session, theirs).unwrap().len(), 1);
    }
    // Ours: 1 asked, 2 answered, 3 cancelled, 4 started, 5 refused.
    assert!(take(&mut session, Frame::Prepared(2, there(2))).is_ok());
    session.cancel(3);
    assert!(take(&mut session, Frame::Prepared(4, there(4))).is_ok());
    assert_eq!(session.start(4, here(4)), Ok(()));
    let refused = Action::Refused(5, Refusal::Draining);
    let refusal = Frame::Refused(5, Refusal::Draining);
    assert_eq!(take(&mut session, refusal), Ok(vec![refused]));
    // Theirs: 1 preparing, 2 parked, 3 parked and ended, 4 starting, 5 refused.
    for reference in 2..=4 {
        assert!(session.made(reference, here(20 + reference)));
        assert!(!session.made(reference, here(20 + reference)), "once");
    }
    session.parked_ended(3);
    session.refuse(5, Refusal::Draining);
    session.handle_frame(Frame::Start(4)).unwrap();
    assert_eq!(session.query(there(9)), Ok(6));
    assert!(take_only(&mut session, Frame::Query(1, here(1))));

    let mut started = session.clone();
    let mut gone = session.clone();
    gone.parked_ended(4);
    let next = |session: &mut Session| session.poll_action();
    assert_eq!(next(&mut started), Some(Action::Run(4)));
    assert_eq!(
        next(&mut gone),
        Some(Action::End(4)),
        "it ended before it ran"
    );

    let ending = session.end();
    assert_eq!((ending.asks, ending.preparing), (vec![1, 2], vec![1]));
    assert_eq!((ending.parked, ending.queries), (vec![2, 4], vec![6]));
    let noted = [2, 3, 4, 5, 22, 23, 24].map(here);
    assert_eq!(ending.locals, noted);
    assert!(session.is_over());
    assert_eq!(session.poll_transmit(), None);
    assert_eq!(session.poll_action(), Some(Action::Query(1, here(1))));
    assert_eq!(session.poll_action(), None, "Run is withdrawn");
    let kill = Signal::Kill;
    assert!(session.message(&route(), None, b"").is_err());
    assert!(session.bulk(route(), None, 1).is_err());
    assert!(session.ask(prepare()).is_err());
    assert!(session.query(there(1)).is_err());
    assert!(session.note(here(1)).is_err());
    assert!(session.start(2, here(2)).is_err());
    assert!(!session.made(1, here(9)));
    assert!(
        session
            .signal(Environ(1), here(5), there(7), &kill)
            .is_err()
    );
    session.cancel(1);
    session.goodbye();
    session.answer(1, true);
    assert_eq!(take(&mut session, Frame::Goodbye), Ok(vec![]));
    assert_eq!(session.handle_frame(Frame::Goodbye), Ok(()));
    assert_eq!((session.poll_action(), session.unsent()), (None, 0));
}

/// Takes a frame in and leaves its actions to be polled.
fn take_only(session: &mut Session, frame: Frame) -> bool {
    session.handle_frame(frame).is_ok()
}

#[test]
fn a_cancel_ends_what_there_is() {
    let cancelled = Some(bytes_of(&Frame::Cancelled(1)));
    let state = |made: bool, started: bool, ended: bool| {
        let mut session = session();
        assert!(take(&mut session, Frame::Prepare(1, Box::new(prepare()))).is_ok());
        assert!(!session.at_rest());
        assert!(session.is_wanted(1));
        if made {
            assert!(session.made(1, here(9)));
            assert_eq!(
                session.poll_transmit(),
                Some(bytes_of(&Frame::Prepared(1, here(9))))
            );
        }
        if started {
            assert!(take_only(&mut session, Frame::Start(1)));
        }
        if ended {
            session.parked_ended(1);
        }
        session
    };
    for (session, actions) in [
        (state(false, false, false), vec![Action::End(1)]),
        (state(true, false, false), vec![Action::End(1)]),
        (state(true, false, true), vec![Action::End(1)]),
        (state(false, false, true), vec![Action::End(1)]),
    ] {
        let mut session = session;
        assert_eq!(take(&mut session, Frame::Cancel(1)), Ok(actions));
        assert_eq!(session.poll_transmit(), cancelled);
        assert!(session.at_rest(), "nothing is left of it");
        assert!(!session.is_wanted(1));
        assert!(!session.made(1, here(9)), "it is dropped without a trace");
        session.refuse(1, Refusal::Draining);
        assert_eq!(session.poll_transmit(), None);
    }
    // A child that ended while it was parked is let go of at Start.
    let mut ended = state(true, false, true);
    ended.refuse(1, Refusal::Draining);
    assert_eq!(ended.poll_transmit(), None, "it was made");
    assert_eq!(take(&mut ended, Frame::Start(1)), Ok(vec![Action::End(1)]));
    assert!(ended.at_rest());
    // A spawn is given up once, before it is started, and an unpolled Adopt with it.
    let mut session = session();
    assert_eq!(session.ask(prepare()), Ok(1));
    assert!(take_only(&mut session, Frame::Prepared(1, there(9))));
    drop(session.poll_transmit());
    session.cancel(1);
    session.cancel(1);
    session.cancel(2);
    let cancel = bytes_of(&Frame::Cancel(1));
    assert_eq!(session.poll_transmit(), Some(cancel));
    assert_eq!(session.poll_action(), None);
    assert!(session.start(1, there(7)).is_err());
    assert!(!session.at_rest(), "the tombstone stays");
    assert_eq!(take(&mut session, Frame::Cancelled(1)), Ok(vec![]));
    assert!(session.at_rest());
}

#[test]
fn a_ticket_allows_some_tenants() {
    let mut session = session();
    session.restrict([Environ(1), Environ(3)]);
    for (environ, allowed) in [(1, true), (2, false), (3, true)] {
        let route = Route {
            environ: Environ(environ),
            ..route()
        };
        let taken = take(&mut session.clone(), Frame::Signal(route, Signal::Kill));
        assert_eq!(taken.is_ok(), allowed, "tenant {environ}");
    }
}
