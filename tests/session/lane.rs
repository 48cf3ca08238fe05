//! The order in which things arrive: it stays, however the bytes are cut.

use bytes::Bytes;
use tidelock_proto::link::Signal;
use tidelock_proto::session::{Action, Over, SessionError};
use tidelock_proto::wire::Frame;

use crate::frames::{bytes_of, here, renew, route};
use crate::{session, take};

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
fn signals_in_a_row_come_out_at_once_and_in_their_place() {
    let mut session = session();
    let signal = |id| Signal::Unlink { id };
    let unlink = |id| Frame::Signal(route(), signal(id));
    let message = Frame::Message(route(), Some(4), Bytes::from_static(b"text"));
    let frames = [unlink(1), unlink(2), unlink(3), message, unlink(5)];
    let bytes = frames.each_ref().map(bytes_of).concat();
    session.handle_bytes(&bytes).unwrap();
    let mut next = |max| {
        let mut signals = Vec::new();
        session.poll_signals(max, &mut signals);
        (signals, session.poll_action())
    };
    let some = |id| vec![(route(), signal(id))];
    let one = |id| Some(Action::Deliver(route(), signal(id)));
    let text = Action::Message(route(), Some(4), Bytes::from_static(b"text"));
    assert_eq!(next(1), (some(1), one(2)));
    assert_eq!(next(9), (some(3), Some(text)));
    assert_eq!(next(0), (vec![], one(5)));
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
fn other_actions_in_a_row_come_out_at_once_and_in_their_place() {
    let mut session = session();
    let query = |reference| Frame::Query(reference, here(1));
    let kill = Frame::Signal(route(), Signal::Kill);
    let leaves = Frame::Goodbye;
    let frames = [
        query(1),
        query(2),
        query(3),
        kill,
        query(4),
        leaves,
        query(5),
    ];
    let bytes = frames.each_ref().map(bytes_of).concat();
    session.handle_bytes(&bytes).unwrap();
    let mut next = |max| {
        let mut others = Vec::new();
        session.poll_others(max, &mut others);
        (others, session.poll_action())
    };
    let one = |reference| Action::Query(reference, here(1));
    let killed = Action::Deliver(route(), Signal::Kill);
    assert_eq!(next(1), (vec![one(1)], Some(one(2))));
    assert_eq!(next(9), (vec![one(3)], Some(killed)));
    // What follows a goodbye is not taken out with it.
    assert_eq!(next(9), (vec![one(4), Action::Left], Some(one(5))));
    assert_eq!(next(9), (vec![], None));
}
