//! Spawns that are given up, and those that a session's end finds.

use tidelock_proto::Environ;
use tidelock_proto::link::Signal;
use tidelock_proto::session::{Action, Session};
use tidelock_proto::spawn::{Prepare, Refusal};
use tidelock_proto::wire::Frame;

use crate::frames::{bytes_of, here, prepare, route, there};
use crate::{busy, session, take};

/// Takes a frame in and leaves its actions to be polled.
fn take_only(session: &mut Session, frame: Frame) -> bool {
    session.handle_frame(frame).is_ok()
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
fn what_was_given_up_does_not_come_out_among_others() {
    let mut session = busy();
    assert!(session.made(1, here(9)));
    assert!(take_only(&mut session, Frame::Prepared(1, there(9))));
    assert!(take_only(&mut session, Frame::Start(1)));
    session.cancel(1);
    session.parked_ended(1);
    let mut others = Vec::new();
    session.poll_others(9, &mut others);
    assert_eq!(others, [Action::End(1)]);
    assert!(!session.has_actions());
}
