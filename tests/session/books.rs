//! The books of a session: bytes, numbers, questions, and who has to be told at its end.

use bytes::Bytes;
use tidelock_proto::link::{LinkAnswer, Signal};
use tidelock_proto::session::{Action, Limits, Session};
use tidelock_proto::wire::{BulkHead, Frame, Route};
use tidelock_proto::{Environ, ExitReason};

use crate::frames::{PEER, US, bytes_of, here, prepare, request, route, there};
use crate::{session, take};

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

#[test]
fn whoever_has_said_its_exit_need_not_be_told() {
    let mut session = session();
    let say = |session: &mut Session, signal| {
        let said = session.signal(Environ(1), here(5), there(7), &signal);
        assert_eq!(said, Ok(()));
    };
    say(&mut session, Signal::Link { id: 1, tag: None });
    assert_eq!(session.note(here(6)), Ok(()));
    assert_eq!(session.locals(), 2);
    let reason = ExitReason::Exit(1);
    say(&mut session, Signal::Exit { reason });
    assert_eq!(session.end().locals, [here(6)]);
}
