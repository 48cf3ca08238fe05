//! Frames out of place: which end the session, and which are harmless.

use bytes::Bytes;
use tidelock_proto::link::{Block, LinkAnswer, LinkForm, Signal};
use tidelock_proto::session::{Action, SessionError};
use tidelock_proto::spawn::{Prepare, Refusal};
use tidelock_proto::wire::{BulkHead, Frame, Route};
use tidelock_proto::{Environ, ExitReason, NodeId, Pid};

use crate::frames::{bytes_of, hello, here, prepare, route, there};
use crate::{busy, session, take};

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
