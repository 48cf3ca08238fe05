//! What strangers may send, on any toolchain.
//!
//! Goal: what `fuzz/` searches for with libFuzzer is shown by every run of the tests, if less deeply.
//! Method: each target's function gets every seed of `fuzz/corpus`, and then the same random changes
//! of them in every run. A failure prints the input, to be kept as another seed.
//!
//! `TIDELOCK_FUZZ_EXECUTIONS=1000000` makes a run longer, with other changes than the usual ones.
//! `TIDELOCK_BLESS=1` writes the seeds anew, as after a deliberate change of the wire format.

#![allow(clippy::print_stderr, reason = "the input that failed must be shown")]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a library of another workspace"
)]

#[path = "../fuzz/src/input.rs"]
mod input;
#[path = "../fuzz/src/join.rs"]
mod join;
mod seeds;
#[path = "../fuzz/src/session.rs"]
mod session;
#[path = "../fuzz/src/ticket.rs"]
mod ticket;
#[path = "../fuzz/src/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;

use seeds::{Seeds, are_there, replay};

#[test]
fn frames() {
    replay("wire", wire::run, 200_000);
}

#[test]
fn sessions() {
    replay("session", session::run, 100_000);
}

#[test]
fn tickets() {
    replay("ticket", ticket::run, 5_000);
}

#[test]
fn requests_to_join() {
    replay("join", join::run, 5_000);
}

#[test]
fn the_seeds_are_there() {
    for (target, seeds) in seeds() {
        are_there(target, &seeds);
    }
}

/// A damaged input shows that it is damaged: the search is not blind.
#[test]
fn a_changed_ticket_is_not_taken_for_the_original() {
    let failed = std::panic::catch_unwind(|| {
        let mut input = input::Input(&[7, 3, 1]);
        assert_eq!(input.damage(b"original"), b"original");
    });
    assert!(failed.is_err());
    assert_eq!(input::Input(&[]).damage(b"original"), b"original");
}

/// The seeds that are made and not found.
fn seeds() -> [(&'static str, Seeds); 4] {
    [
        ("wire", frame_seeds()),
        ("session", session_seeds()),
        ("ticket", ticket_seeds()),
        ("join", join_seeds()),
    ]
}

/// The frames whose bytes are written down for the tests of the format.
fn frame_seeds() -> Seeds {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/wire/golden.txt");
    fs::read_to_string(golden)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, hex) = line.split_once(' ').unwrap();
            (name.to_owned(), tidelock_certs::from_hex(hex).unwrap())
        })
        .collect()
}

fn session_seeds() -> Seeds {
    let frames = frame_seeds();
    let lane = |size: u8, names: &[&str]| {
        let bodies = names.iter().flat_map(|name| frames[*name].clone());
        [0, size].into_iter().chain(bodies).collect::<Vec<u8>>()
    };
    // What the moves mean stands in `fuzz/src/session.rs`.
    let prepare = [0, 3, 1, 0, 0, 0x11, 0, 5];
    let drain = [7, 255];
    let made = [13, 0, 0, 4];
    let ask = [10, 1, 0, 0x11, 0, 0];
    let ask_too_much = [10, 1, 0, 0x11, 0, 255];
    let moves = |moves: &[&[u8]]| [&[1, 1], moves.concat().as_slice()].concat();
    [
        (
            "lane.signals",
            lane(
                6,
                &["signal.link", "signal.unlink", "signal.kill", "signal.exit"],
            ),
        ),
        (
            "lane.messages",
            lane(255, &["message", "message.empty", "bulk"]),
        ),
        ("lane.spawn", lane(0, &["prepare", "cancel", "start"])),
        ("lane.query", lane(9, &["query", "query"])),
        ("lane.hello", lane(30, &["goodbye", "hello"])),
        ("lane.request", lane(0, &["config", "request", "cancel"])),
        ("lane.renew", lane(9, &["renew", "signal.kill", "renew"])),
        (
            "hosted",
            moves(&[&prepare, &drain, &made, &[15], &[0, 7, 1, 9], &drain]),
        ),
        (
            "hosted.refused",
            moves(&[&prepare, &drain, &[13, 2, 0, 1, b'x'], &[15]]),
        ),
        (
            "hosted.ended",
            moves(&[&prepare, &drain, &made, &[13, 3, 0], &[0, 8, 1, 0], &drain]),
        ),
        (
            "hosted.cancelled",
            moves(&[&prepare, &drain, &[0, 8, 1, 0], &made, &[15]]),
        ),
        ("hosted.foreign", moves(&[&[0, 3, 1, 0xf0, 0, 0, 0, 0]])),
        (
            "asked",
            moves(&[&ask, &[15], &[0, 5, 1, 4, 0], &drain, &[12, 0], &[15]]),
        ),
        ("asked.refused", moves(&[&ask, &[0, 6, 1, 0], &drain])),
        (
            "asked.cancelled",
            moves(&[&ask, &[11, 0], &[0, 5, 1, 4, 0], &[0, 9, 1, 0], &drain]),
        ),
        ("asked.too_much", moves(&[&ask_too_much, &drain])),
        (
            "questions",
            moves(&[
                &[14, 0, 1],
                &[0, 11, 1, 0],
                &[0, 10, 3, 2, 0],
                &drain,
                &[14, 1, 0, 0],
            ]),
        ),
        (
            "links",
            moves(&[
                &[9, 1, 2, 0, 0, 7],
                &[0, 0, 0, 1, 1, 1, 7, 0],
                &drain,
                &[9, 1, 2, 0, 8, 7],
            ]),
        ),
        (
            "tenants",
            [&[1, 0][..], &[0, 1, 255, 1, 1, 2, b'h', b'i', 0], &drain].concat(),
        ),
        (
            "renewals",
            moves(&[
                &[0, 13, 1, b'c', 1, b't', 1, b'p', 0],
                &[14, 4, 1, b'c', 0, 1, b'p'],
                &drain,
                &[15],
            ]),
        ),
        (
            "renewals.old",
            [&[1, 3][..], &[14, 4, 0, 0, 0], &[0, 13, 0, 0, 0, 0], &drain].concat(),
        ),
        (
            "notes",
            moves(&[&[14, 2, 3], &[14, 3, 3], &[6, 4, 0, 0, 0, 0], &[15]]),
        ),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn ticket_seeds() -> Seeds {
    [
        ("bytes", &b"\0\0\x02{}\x30\x06\x02\x01\x01\x02\x01\x01"[..]),
        ("bytes.short", b"\0\xff\xff"),
        ("original", b"\x01"),
        ("cut", b"\x01\x00\xc0\x00"),
        ("longer", b"\x01\x12\x00\x00\x04abcd"),
        ("length", b"\x01\x05\x00\xff"),
        ("body", b"\x01\x07\x20\x01"),
        ("signature", b"\x01\x17\x30\x80"),
        ("certificate.original", b"\x02"),
        ("certificate.changed", b"\x02\x17\x20\x01"),
        (
            "certificate.bytes",
            b"\x03\x30\x82\x01\x0a\x30\x81\xb0\xa0\x03\x02\x01\x02",
        ),
        ("signed", b"\x04\0"),
        ("signed.name", b"\x04\x01\x05web-1"),
        ("signed.cluster", b"\x04\x02\x05river"),
        ("signed.key", b"\x04\x04\x03\x01"),
        (
            "signed.times",
            b"\x04\x18\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
        ),
        ("signed.environments", b"\x04\x60\x07\0\0\0\0\0\0\0\x40\x01"),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
    .into()
}

fn join_seeds() -> Seeds {
    let token = format!("\0tl1.{}.{}", "0a".repeat(32), "5f".repeat(16));
    let pem = |body: &str| {
        let kind = "CERTIFICATE REQUEST-----";
        format!("\x03-----BEGIN {kind}\n{body}\n-----END {kind}\n")
    };
    let wrapped = pem("MIIBCgIBADAAMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE");
    [
        ("token", token.as_bytes()),
        ("token.blanks", format!("{token}\n\n").as_bytes()),
        ("token.original", b"\x01"),
        ("token.upper", b"\x01\x05\x04A"),
        ("token.authority", b"\x01\x05\x04f"),
        ("name", b"\x02web-0"),
        ("name.dots", b"\x02..%2f"),
        ("name.uri", b"\x02tidelock://sea/node/web-0"),
        ("name.hex", b"\x0200ff"),
        ("request.bytes", wrapped.as_bytes()),
        ("request.empty", pem("").as_bytes()),
        ("request.original", b"\x04"),
        ("request.text", b"\x04\x05\x60A"),
        ("request.twice", b"\x04\x12\x00\x00\x05-----"),
        ("request.der", b"\x05"),
        ("request.der.length", b"\x05\x06\x02\x01"),
        ("request.der.key", b"\x05\x06\x40\x01"),
        ("request.der.signature", b"\x05\x07\xd0\x01"),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
    .into()
}
