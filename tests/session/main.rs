//! What a session takes, and what ends it.
//!
//! Goal: a peer that is not correct is found out at its first wrong frame and costs little; one
//! that is correct is never accused. Method: a table of every frame no correct peer can send, each
//! with the rule it breaks; beside it the stragglers that are harmless; Hellos that disagree with
//! their certificates; and everything that has a bound, at its bound.

mod books;
mod bounds;
#[allow(dead_code, reason = "another test uses the rest")]
#[path = "../frames/mod.rs"]
mod frames;
mod lane;
mod rules;
mod slots;
mod spawns;
mod versions;

use frames::{PEER, US, bytes_of, here, prepare};
use tidelock_proto::session::{Action, Limits, Session, SessionError};
use tidelock_proto::spawn::Prepare;
use tidelock_proto::wire::Frame;

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
