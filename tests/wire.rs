//! The bytes of frames.
//!
//! Goal: no input panics, is taken for something else, or costs more than its own length; and the
//! bytes of every frame stay what they are, so that two versions understand each other. Method:
//! the bytes of every kind of frame are written down in `wire/golden.txt`; each is cut at every
//! byte, lengthened, and damaged in every place; random frames and random bytes go both ways.
//!
//! After a deliberate change of the format, `TIDELOCK_BLESS=1` writes the file anew.

#[allow(dead_code, reason = "another test uses the rest")]
mod frames;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use frames::{PEER, US, bytes_of, frame_of, hello, here, prepare, renew, request, route, there};
use proptest::prelude::*;
use tidelock_proto::link::{LinkAnswer, Signal};
use tidelock_proto::session::{Action, Limits, Session, SessionError};
use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Refusal};
use tidelock_proto::wire::{
    BulkHead, CERTIFICATE_BYTES_MAX, CONTROL_BYTES_MAX, Datagram, Frame, HEADER_BYTES,
    LANE_PAYLOAD_BYTES_MAX, PROOF_BYTES_MAX, Renew, Route, TICKET_BYTES_MAX, WireError, decode,
};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid};

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
    add("renew", Frame::Renew(renew()));
    add("config", Frame::Config(0, prepare().config));
    add("request", Frame::Request(8, Box::new(request(0))));
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
        let known = (1..=17).contains(&kind);
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
fn every_kind_of_frame_has_its_longest_body() {
    let small = &[2, 5, 7, 9, 10, 11, 12, 13, 14][..];
    for (kinds, longest) in [
        (&[1][..], 4_160u32),
        (&[3, 8], 1_280),
        (&[4], 65_569),
        (&[6], 1_048_576),
        (&[15], 8_472),
        (small, 128),
    ] {
        for &kind in kinds {
            let claims = |length: u32| {
                let [a, b, c, d] = length.to_le_bytes();
                frame_of(&[a, b, c, d, kind])
            };
            assert_eq!(claims(longest), Ok(None), "kind {kind}");
            let refused = Err(WireError::Length(longest + 1));
            assert_eq!(claims(longest + 1), refused, "kind {kind}");
        }
    }
}

/// Within the bound of the whole, each part of a renewal has its own.
#[test]
fn no_part_of_a_renewal_is_longer_than_it_may_be() {
    let of = |certificate, ticket, proof| Renew {
        certificate: vec![1; certificate],
        ticket: vec![2; ticket],
        proof: vec![3; proof],
    };
    let longest = of(CERTIFICATE_BYTES_MAX, TICKET_BYTES_MAX, PROOF_BYTES_MAX);
    let frame = Frame::Renew(longest.clone());
    assert!(longest.is_bounded());
    assert_eq!(frame_of(&bytes_of(&frame)), Ok(Some(frame)));
    for longer in [
        of(CERTIFICATE_BYTES_MAX + 1, 0, 0),
        of(0, TICKET_BYTES_MAX + 1, 0),
        of(0, 0, PROOF_BYTES_MAX + 1),
    ] {
        assert!(!longer.is_bounded());
        // Written by hand: the encoder refuses to.
        let mut body = Vec::new();
        for part in [&longer.certificate, &longer.ticket, &longer.proof] {
            body.extend((part.len() as u64).to_le_bytes());
            body.extend(part);
        }
        let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        bytes.push(15);
        bytes.extend(body);
        assert_eq!(frame_of(&bytes), Err(WireError::Body("renew")));
    }
}

/// However a long frame is cut, it is copied at most once more, and a peer that claims much and
/// sends little costs no more than that frame would.
#[test]
fn a_frame_that_comes_in_parts_is_given_its_room_once() {
    let payload = vec![7; LANE_PAYLOAD_BYTES_MAX];
    let bytes = bytes_of(&Frame::Message(route(), None, payload.into()));
    for come in [HEADER_BYTES, 100, bytes.len() * 3 / 4, bytes.len() - 1] {
        let mut buffer = BytesMut::from(&bytes[..come]);
        assert_eq!(decode(&mut buffer), Ok(None));
        let room = buffer.capacity();
        assert!(room >= bytes.len(), "{room} after {come}: moved again");
        assert!(room <= 2 * bytes.len(), "{room} after {come}");
    }
}

/// A mailbox may keep a payload for long; the read buffer it came in is many times its size.
#[test]
fn a_payload_does_not_keep_what_was_read_with_it() {
    for length in [0, 1, 4_096, 60_000] {
        let payload = vec![7; length];
        let bytes = bytes_of(&Frame::Message(route(), None, payload.clone().into()));
        let mut buffer = BytesMut::from(&bytes[..]);
        let read = buffer.as_ptr_range();
        let Ok(Some(Frame::Message(_, _, taken))) = decode(&mut buffer) else {
            panic!("a message of {length} bytes");
        };
        assert_eq!(taken, payload);
        assert!(!read.contains(&taken.as_ptr()), "{length} bytes");
    }
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

fn any_frame() -> impl Strategy<Value = Frame> {
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
        configs.clone(),
        any::<Option<Option<i64>>>(),
    )
        .prop_map(|(parent, module, entry, params, config, link)| Prepare {
            environ: Environ::default(),
            parent,
            module: ModuleHash(module),
            entry,
            params,
            config: config.into(),
            link,
            monitor: None,
        });
    let payloads = proptest::collection::vec(any::<u8>(), 0..6000);
    let part = |max| proptest::collection::vec(any::<u8>(), 0..=max);
    let renewals = (
        part(CERTIFICATE_BYTES_MAX),
        part(TICKET_BYTES_MAX),
        part(PROOF_BYTES_MAX),
    )
        .prop_map(|(certificate, ticket, proof)| Renew {
            certificate,
            ticket,
            proof,
        });
    prop_oneof![
        (routes.clone(), signals).prop_map(|(route, signal)| Frame::Signal(route, signal)),
        (routes, any::<Option<i64>>(), payloads).prop_map(|(route, tag, bytes)| Frame::Message(
            route,
            tag,
            bytes.into()
        )),
        (any::<u64>(), prepares).prop_map(|(number, p)| Frame::Prepare(number, Box::new(p))),
        (any::<u8>(), configs).prop_map(|(slot, config)| Frame::Config(slot, config.into())),
        (any::<u64>(), any::<u8>())
            .prop_map(|(number, slot)| { Frame::Request(number, Box::new(request(slot))) }),
        (any::<u64>(), texts).prop_map(|(number, why)| Frame::Refused(number, Refusal::Full(why))),
        (any::<u64>(), pids()).prop_map(|(number, pid)| Frame::Prepared(number, pid)),
        any::<u64>().prop_map(Frame::Start),
        renewals.prop_map(Frame::Renew),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(sent in proptest::collection::vec(any_frame(), 1..5)) {
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
        kind in 0u8..19,
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
        frame in any_frame(),
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
        sent in proptest::collection::vec(any_frame(), 1..5),
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
