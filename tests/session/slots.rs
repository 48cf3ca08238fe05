//! Configurations that travel once, and the slots that name them.

use std::sync::Arc;

use tidelock_proto::session::{Action, SessionError};
use tidelock_proto::spawn::{Prepare, ProcessConfig};
use tidelock_proto::wire::{CONFIG_BYTES_MAX, Frame, HEADER_BYTES};

use crate::frames::{bytes_of, frame_of, prepare, request, route};
use crate::{session, take};

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
