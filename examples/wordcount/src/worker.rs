//! A worker: chunks in, counts out.

use tidelock_guest::{Pid, Received, me, receive, send};

use crate::count::{self, Counts};
use crate::wire;

/// Counts what the coordinator sends until it says stop.
///
/// Linked to the coordinator, so it ends with it.
pub(crate) fn run(coordinator: u64) {
    let coordinator = Pid::from_raw(coordinator).expect("the coordinator passed its pid");
    let me = me().raw();
    let mut holding = false;
    let mut kept = Vec::new();
    loop {
        let Received::Data(data) = receive(&[], None) else {
            continue;
        };
        match data.tag {
            wire::COUNT => {
                let (number, text) = wire::read_chunk(&data.bytes).expect("a chunk has a number");
                let mut counts = Counts::new();
                count::add(&mut counts, text);
                let answer = wire::answer(me, number, &counts);
                if holding {
                    kept.push(answer);
                } else {
                    send(coordinator, wire::ANSWER, &answer);
                }
            }
            wire::HOLD => holding = true,
            wire::RELEASE => {
                holding = false;
                for answer in kept.drain(..) {
                    send(coordinator, wire::ANSWER, &answer);
                }
            }
            wire::STOP => return,
            _ => {}
        }
    }
}
