//! Everything that has a bound, at its bound.

use std::sync::Arc;

use bytes::Bytes;
use tidelock_proto::link::{Block, Effect};
use tidelock_proto::session::{Action, CONGESTED_BYTES, Limits, Session};
use tidelock_proto::spawn::Refusal;
use tidelock_proto::wire::{BulkHead, CONTROL_BYTES_MAX, Frame, HEADER_BYTES, Route};
use tidelock_proto::{Environ, ExitReason, TEXT_BYTES_MAX};

use crate::frames::{PEER, US, bytes_of, frame_of, here, prepare, route, there};
use crate::{busy, session, take};

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
        assert!(!session.has_actions());
        let all = session.poll_transmit().unwrap();
        assert_eq!(&all[..sent.len()], sent);
        let asked = Frame::Prepare(1, Box::new(longest));
        assert_eq!(frame_of(&all[sent.len()..]), Ok(Some(asked)));

        // One byte more is refused, and what had been said before stays.
        assert_eq!(refused.ask(sized(CONTROL_BYTES_MAX + 1)), Ok(1));
        assert!(refused.has_actions());
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
