//! What arrives from outside: bytes, frames out of place, and Hellos.
//!
//! Goal: no input panics, is taken for something else, or costs more than its own length; and the
//! bytes of every frame stay what they are, so that two versions understand each other. Method:
//! the bytes of every kind of frame are written down in `wire/golden.txt`; each is cut at every
//! byte, lengthened, and damaged in every place; random frames and random bytes go both ways; and
//! a table lists every frame no correct peer can send, beside the stragglers that are harmless.
//!
//! After a deliberate change of the format, `TIDELOCK_BLESS=1` writes the file anew.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tidelock_proto::link::{Block, LinkAnswer, LinkForm, Signal};
use tidelock_proto::session::{Action, Limits, Session, SessionError, check_hello};
use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Refusal};
use tidelock_proto::wire::{
    BulkHead, CONTROL_BYTES_MAX, Datagram, Frame, HEADER_BYTES, Hello, LANE_PAYLOAD_BYTES_MAX,
    Route, TICKET_BYTES_MAX, WireError, decode,
};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, PROTOCOL, Pid, TEXT_BYTES_MAX};

const US: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);

fn here(local: u64) -> Pid {
    Pid::new(US, local).unwrap()
}

fn there(local: u64) -> Pid {
    Pid::new(PEER, local).unwrap()
}

/// From the peer's process 7 to ours with number 5.
fn route() -> Route {
    Route {
        environ: Environ(1),
        from: there(7),
        to: here(5),
    }
}

fn hello() -> Hello {
    Hello {
        versions: PROTOCOL,
        from: PEER,
        to: US,
        epoch: 3,
        ticket: vec![0xaa, 0xbb],
    }
}

fn prepare() -> Prepare {
    Prepare {
        environ: Environ(1),
        parent: there(7),
        module: ModuleHash([0x11; 32]),
        entry: "main".into(),
        params: vec![Param::I32(-1), Param::I64(2), Param::V128(3)],
        config: ProcessConfig {
            args: vec!["wc".into(), "-l".into()],
            env: vec![("HOME".into(), "/".into())],
            preopens: vec!["/data".into()],
            memory_bytes_max: 1 << 20,
            fuel_max: Some(9),
            ..ProcessConfig::default()
        },
        link: Some(Some(-4)),
        monitor: Some(6),
    }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn frame_of(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    decode(&mut BytesMut::from(bytes))
}

/// One of every kind of frame, signal, reason and refusal.
fn examples() -> Vec<(String, Frame)> {
    let mut all: Vec<(String, Frame)> = Vec::new();
    let mut add = |name: &str, frame| all.push((name.to_owned(), frame));
    add("hello", Frame::Hello(hello()));
    add("stale", Frame::Stale(4));
    for (name, signal) in signals() {
        add(&format!("signal.{name}"), Frame::Signal(route(), signal));
    }
    for (name, reason) in reasons() {
        add(
            &format!("reason.{name}"),
            Frame::Signal(route(), Signal::Exit { reason }),
        );
    }
    add(
        "message",
        Frame::Message(route(), Some(-2), Bytes::from_static(b"hi")),
    );
    add("message.empty", Frame::Message(route(), None, Bytes::new()));
    let head = BulkHead {
        stream: 3,
        bytes: 1 << 20,
    };
    add("bulk", Frame::Bulk(route(), None, head));
    add("prepare", Frame::Prepare(8, Box::new(prepare())));
    add("prepared", Frame::Prepared(8, there(9)));
    for (name, why) in refusals() {
        add(&format!("refused.{name}"), Frame::Refused(8, why));
    }
    add("start", Frame::Start(8));
    add("cancel", Frame::Cancel(8));
    add("cancelled", Frame::Cancelled(8));
    add("query", Frame::Query(10, here(5)));
    add("answer", Frame::Answer(10, true));
    add("goodbye", Frame::Goodbye);
    all
}

fn signals() -> Vec<(&'static str, Signal)> {
    let reason = ExitReason::Exit(3);
    let ack = |answer| Signal::LinkAck { id: 1, answer };
    vec![
        (
            "link",
            Signal::Link {
                id: 1,
                tag: Some(2),
            },
        ),
        ("link.untagged", Signal::Link { id: 1, tag: None }),
        ("link_ack.linked", ack(LinkAnswer::Linked)),
        ("link_ack.no_process", ack(LinkAnswer::NoProcess)),
        ("link_ack.crossed", ack(LinkAnswer::Crossed)),
        ("unlink", Signal::Unlink { id: 1 }),
        ("unlink_ack", Signal::UnlinkAck { id: 1 }),
        (
            "exit",
            Signal::Exit {
                reason: reason.clone(),
            },
        ),
        ("monitor", Signal::Monitor { reference: 4 }),
        (
            "monitor_ack",
            Signal::MonitorAck {
                reference: 4,
                exists: true,
            },
        ),
        ("demonitor", Signal::Demonitor { reference: 4 }),
        (
            "down",
            Signal::Down {
                reference: 4,
                reason,
            },
        ),
        ("kill", Signal::Kill),
    ]
}

fn reasons() -> Vec<(&'static str, ExitReason)> {
    vec![
        ("normal", ExitReason::Normal),
        ("exit", ExitReason::Exit(-1)),
        ("trap", ExitReason::Trap("é".into())),
        ("killed", ExitReason::Killed(None)),
        ("killed.by", ExitReason::Killed(Some(there(7)))),
        (
            "link_died",
            ExitReason::LinkDied {
                pid: there(7),
                why: "x".into(),
            },
        ),
        (
            "node_down",
            ExitReason::NodeDown {
                node: PEER,
                how: "x".into(),
            },
        ),
        ("no_process", ExitReason::NoProcess),
        ("mailbox_full", ExitReason::MailboxFull),
        ("limit", ExitReason::Limit("x".into())),
        ("fault", ExitReason::Fault("x".into())),
        ("not_started", ExitReason::NotStarted("x".into())),
    ]
}

fn refusals() -> Vec<(&'static str, Refusal)> {
    let x = || "x".to_owned();
    vec![
        ("no_module", Refusal::NoModule(x())),
        ("bad_module", Refusal::BadModule(x())),
        ("no_function", Refusal::NoFunction(x())),
        ("full", Refusal::Full(x())),
        ("not_permitted", Refusal::NotPermitted(x())),
        ("out_of_memory", Refusal::OutOfMemory(x())),
        ("draining", Refusal::Draining),
    ]
}

// ---- bytes -------------------------------------------------------------------------------------

#[test]
fn the_bytes_of_every_frame_stay_what_they_are() {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let lines: Vec<String> = examples()
        .iter()
        .map(|(name, frame)| format!("{name} {}", hex(&bytes_of(frame))))
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/wire/golden.txt");
    if std::env::var_os("TIDELOCK_BLESS").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (line, golden) in lines.iter().zip(golden.lines()) {
        assert_eq!(line, golden, "a frame changed its bytes");
    }
    assert_eq!(lines.len(), golden.lines().count());
    for (name, frame) in examples() {
        assert_eq!(frame_of(&bytes_of(&frame)), Ok(Some(frame)), "{name}");
    }
}

#[test]
fn a_frame_cut_anywhere_is_no_frame_yet() {
    for (name, frame) in examples() {
        let bytes = bytes_of(&frame);
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            assert_eq!(decode(&mut buffer), Ok(None), "{name} cut at {cut}");
            assert_eq!(
                buffer.len(),
                cut,
                "{name}: bytes are kept until the rest comes"
            );
            buffer.extend_from_slice(&bytes[cut..]);
            assert_eq!(decode(&mut buffer), Ok(Some(frame.clone())), "{name}");
        }
    }
}

#[test]
fn a_body_is_used_up_exactly() {
    for (name, frame) in examples() {
        let bytes = bytes_of(&frame);
        let resized = |length: usize| {
            let mut bytes = bytes.clone();
            bytes.resize(HEADER_BYTES + length, 0);
            bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            frame_of(&bytes)
        };
        let length = bytes.len() - HEADER_BYTES;
        let is_message = matches!(frame, Frame::Message(..));
        for longer in [1, 8] {
            let result = resized(length + longer);
            assert!(
                result.is_err() != is_message,
                "{name} + {longer}: {result:?}"
            );
        }
        for shorter in 0..length {
            let result = resized(shorter);
            // A message's payload may be shorter, its head may not.
            let head_stands = is_message && matches!(result, Ok(Some(Frame::Message(..))));
            assert!(
                result.is_err() || head_stands,
                "{name} cut to {shorter}: {result:?}"
            );
        }
    }
}

#[test]
fn a_header_is_judged_before_anything_is_kept() {
    for kind in 0..=u8::MAX {
        let known = (1..=14).contains(&kind);
        for length in [u32::MAX, 1 << 31, CONTROL_BYTES_MAX as u32 + 1] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.push(kind);
            let mut buffer = BytesMut::from(&bytes[..]);
            let refused = if known {
                WireError::Length(length)
            } else {
                WireError::Kind(kind)
            };
            assert_eq!(decode(&mut buffer), Err(refused));
            assert!(buffer.capacity() < 4096, "nothing is reserved for it");
        }
        let empty = frame_of(&[0, 0, 0, 0, kind]);
        assert!(empty.is_err(), "an empty body of kind {kind}: {empty:?}");
    }
    let longest = Frame::Message(route(), Some(1), vec![7; LANE_PAYLOAD_BYTES_MAX].into());
    assert_eq!(frame_of(&bytes_of(&longest)), Ok(Some(longest)));
    let mut longer = bytes_of(&Frame::Message(
        route(),
        None,
        vec![7; LANE_PAYLOAD_BYTES_MAX].into(),
    ));
    longer.push(7);
    let length = u32::try_from(longer.len() - HEADER_BYTES).unwrap();
    longer[..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(frame_of(&longer), Err(WireError::Body("message")));
    let mut ticket = hello();
    ticket.ticket = vec![1; TICKET_BYTES_MAX];
    assert!(frame_of(&bytes_of(&Frame::Hello(ticket))).is_ok());
}

#[test]
fn one_damaged_byte_is_refused_or_means_itself() {
    for (name, frame) in examples() {
        let bytes = bytes_of(&frame);
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Ok(Some(frame)) = frame_of(&damaged) {
                    let again = bytes_of(&frame);
                    assert_eq!(
                        again,
                        damaged[..again.len()],
                        "{name}, byte {at} is {value}"
                    );
                }
            }
        }
    }
}

/// A few bytes that claim 2³¹ things must be refused for what they are, at once.
#[test]
fn a_huge_claim_costs_nothing() {
    let began = Instant::now();
    for (_, frame) in examples() {
        let bytes = bytes_of(&frame);
        for at in HEADER_BYTES..bytes.len().saturating_sub(7) {
            for claim in [1u64 << 31, 1 << 20, u64::MAX, u64::MAX / 16] {
                let mut damaged = bytes.clone();
                damaged[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                // Damage may hit a number that may be anything; then it is that number.
                if let Ok(Some(frame)) = frame_of(&damaged) {
                    assert_eq!(bytes_of(&frame), damaged, "what decodes is canonical");
                }
            }
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_pid_that_nobody_can_have_is_no_pid() {
    let of = |frame: Frame, pid: Pid, bad: u64| {
        let mut bytes = bytes_of(&frame);
        let needle = pid.raw().to_le_bytes();
        let at = bytes.windows(8).position(|window| window == needle);
        let at = at.expect("the pid is in the frame");
        bytes[at..at + 8].copy_from_slice(&bad.to_le_bytes());
        frame_of(&bytes)
    };
    let killed = Signal::Exit {
        reason: ExitReason::Killed(Some(there(9))),
    };
    for bad in [0, 1 << 63 | there(7).raw(), PEER.0 << 40, u64::MAX] {
        for (frame, pid) in [
            (Frame::Signal(route(), Signal::Kill), there(7)),
            (Frame::Signal(route(), Signal::Kill), here(5)),
            (Frame::Signal(route(), killed.clone()), there(9)),
            (Frame::Message(route(), None, Bytes::new()), there(7)),
            (Frame::Prepare(1, Box::new(prepare())), there(7)),
            (Frame::Prepared(1, there(9)), there(9)),
            (Frame::Query(1, here(5)), here(5)),
        ] {
            let result = of(frame.clone(), pid, bad);
            assert!(
                matches!(result, Err(WireError::Body(_))),
                "{frame:?}: {result:?}"
            );
        }
    }
}

#[test]
fn a_datagram_is_a_ping_or_a_pong() {
    for datagram in [Datagram::Ping(7), Datagram::Pong(u64::MAX)] {
        assert_eq!(Datagram::decode(&datagram.encode()), Some(datagram));
    }
    for bad in [&b""[..], b"?", b"?1234567", b"?123456789", b"x12345678"] {
        assert_eq!(Datagram::decode(bad), None, "{bad:?}");
    }
}

fn pids() -> impl Strategy<Value = Pid> + Clone {
    (0..=NodeId::MAX.0, 1..=Pid::LOCAL_MAX)
        .prop_map(|(node, local)| Pid::new(NodeId(node), local).unwrap())
}

fn frames() -> impl Strategy<Value = Frame> {
    let routes = (any::<u64>(), pids(), pids()).prop_map(|(environ, from, to)| Route {
        environ: Environ(environ),
        from,
        to,
    });
    let texts = ".{0,40}";
    let reasons = prop_oneof![
        any::<i32>().prop_map(ExitReason::Exit),
        texts.prop_map(ExitReason::Trap),
        proptest::option::of(pids()).prop_map(ExitReason::Killed),
        (pids(), texts).prop_map(|(pid, why)| ExitReason::LinkDied { pid, why }),
        Just(ExitReason::NoProcess),
    ];
    let signals = prop_oneof![
        (any::<u64>(), any::<Option<i64>>()).prop_map(|(id, tag)| Signal::Link { id, tag }),
        any::<u64>().prop_map(|id| Signal::Unlink { id }),
        (any::<u64>(), reasons).prop_map(|(reference, reason)| Signal::Down { reference, reason }),
        (any::<u64>(), any::<bool>())
            .prop_map(|(reference, exists)| Signal::MonitorAck { reference, exists }),
    ];
    let configs = (
        proptest::collection::vec(texts, 0..4),
        proptest::collection::vec((texts, texts), 0..4),
        any::<Option<u64>>(),
        any::<bool>(),
    )
        .prop_map(|(args, env, fuel_max, can)| ProcessConfig {
            args,
            env,
            fuel_max,
            can_spawn_processes: can,
            ..ProcessConfig::default()
        });
    let params = prop_oneof![
        any::<i32>().prop_map(Param::I32),
        any::<i64>().prop_map(Param::I64),
        any::<u128>().prop_map(Param::V128),
    ];
    let prepares = (
        pids(),
        any::<[u8; 32]>(),
        texts,
        proptest::collection::vec(params, 0..5),
        configs,
        any::<Option<Option<i64>>>(),
    )
        .prop_map(|(parent, module, entry, params, config, link)| Prepare {
            environ: Environ::default(),
            parent,
            module: ModuleHash(module),
            entry,
            params,
            config,
            link,
            monitor: None,
        });
    let payloads = proptest::collection::vec(any::<u8>(), 0..6000);
    prop_oneof![
        (routes.clone(), signals).prop_map(|(route, signal)| Frame::Signal(route, signal)),
        (routes, any::<Option<i64>>(), payloads).prop_map(|(route, tag, bytes)| Frame::Message(
            route,
            tag,
            bytes.into()
        )),
        (any::<u64>(), prepares).prop_map(|(number, p)| Frame::Prepare(number, Box::new(p))),
        (any::<u64>(), texts).prop_map(|(number, why)| Frame::Refused(number, Refusal::Full(why))),
        (any::<u64>(), pids()).prop_map(|(number, pid)| Frame::Prepared(number, pid)),
        any::<u64>().prop_map(Frame::Start),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(sent in proptest::collection::vec(frames(), 1..5)) {
        let mut bytes = Vec::new();
        for frame in &sent {
            frame.encode(&mut bytes);
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        for frame in sent {
            prop_assert_eq!(decode(&mut buffer), Ok(Some(frame)));
        }
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn random_bytes_never_panic(
        kind in 0u8..16,
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(body);
        if let Ok(Some(frame)) = frame_of(&bytes) {
            prop_assert_eq!(bytes_of(&frame), bytes, "what decodes is canonical");
        }
    }

    #[test]
    fn a_damaged_frame_never_panics(
        frame in frames(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = bytes_of(&frame);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut session = Session::new(US, PEER, 1, Limits::default());
        // Whatever comes of it, the session says so and does not panic.
        let _: Result<(), SessionError> = session.handle_bytes(&bytes);
        while session.poll_action().is_some() {}
        let _: tidelock_proto::session::Ending = session.end();
    }

    #[test]
    fn the_cuts_between_reads_do_not_matter(
        sent in proptest::collection::vec(frames(), 1..5),
        size in 1usize..200,
    ) {
        let mut bytes = Vec::new();
        for frame in &sent {
            frame.encode(&mut bytes);
        }
        let read = |size: usize| {
            let mut session = Session::new(US, PEER, 1, Limits::default());
            let result = bytes.chunks(size).try_for_each(|chunk| session.handle_bytes(chunk));
            let actions: Vec<Action> = std::iter::from_fn(|| session.poll_action()).collect();
            (result, actions)
        };
        prop_assert_eq!(read(size), read(usize::MAX));
    }
}

// ---- frames out of place -----------------------------------------------------------------------

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
fn a_hello_is_compared_with_its_certificate() {
    let ok = hello();
    assert_eq!(check_hello(&ok, US, PEER), Ok(()));
    let versions = |versions| Hello {
        versions,
        ..hello()
    };
    let (old, new) = PROTOCOL;
    assert_eq!(check_hello(&versions((old, new + 7)), US, PEER), Ok(()));
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
            let tidelock_proto::link::Effect::Send(to, signal) = effect else {
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
    huge.config.args = vec!["x".repeat(CONTROL_BYTES_MAX)];
    assert_eq!(session.ask(huge), Ok(1));
    assert_eq!(session.poll_transmit(), None, "nothing is sent");
    assert!(matches!(
        session.poll_action(),
        Some(Action::Refused(1, Refusal::NotPermitted(_)))
    ));
    assert!(session.at_rest());
    assert_eq!(session.ask(prepare()), Ok(2));
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
