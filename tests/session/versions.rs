//! Hellos, and peers that speak an earlier protocol.

use tidelock_proto::session::{Action, SessionError, check_hello};
use tidelock_proto::wire::{Frame, Hello};
use tidelock_proto::{NodeId, PROTOCOL};

use crate::frames::{PEER, US, bytes_of, hello, prepare, renew};
use crate::{session, take};

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
fn a_peer_of_protocol_2_hears_of_no_slots() {
    let mut session = session();
    session.speak(2);
    assert_eq!(session.ask(prepare()), Ok(1));
    let sent = Frame::Prepare(1, Box::new(prepare()));
    assert_eq!(session.poll_transmit(), Some(bytes_of(&sent)));
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
