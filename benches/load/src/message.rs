//! Messages one way.

use std::time::Duration;

use tidelock_guest::{Data, NodeId, Pid, Received, Spawn, me, receive, send};

use crate::pace::{Next, Pace, now_ns, rest};
use crate::plan::Plan;
use crate::report::{self, Counts};
use crate::wire::{
    CLOCK, COUNTED, LAST, LOAD, PLAN, SEEN, VALUES, check, end, numbers, pid, stamp, tell, told,
    told_within,
};

/// Questions for the time of the other machine; the quickest answer counts.
const CLOCK_ROUNDS: u32 = 50;

/// One pair. Up to `plan.under_way` messages are sent before the receiver has said that it is so far.
pub(crate) fn lane(
    plan: &Plan,
    number: u64,
    go: impl FnOnce() -> Result<u64, String>,
) -> Result<(Counts, Vec<u64>), String> {
    let spawn = Spawn::new().on(NodeId(plan.node)).linked(0);
    let other = spawn.start(sink, me().raw()).map_err(|e| e.to_string())?;
    let before = clocks(plan, other)?;
    let offset = before.offset_ns.cast_unsigned();
    tell(other, PLAN, &[plan.size, every(plan), offset]);
    let begun = begin(plan, other, Pace::new(plan, number, go()?))?;
    tell(other, LAST, &[]);
    let seen = told(COUNTED)?;
    let pairs = told(VALUES)?;
    let after = clocks(plan, other)?;
    end(other);
    let counts = Counts {
        begun,
        done: seen[0],
        end_ns: seen[1].saturating_add_signed(-before.offset_ns),
        clock_ns: before.error_ns + before.offset_ns.abs_diff(after.offset_ns),
    };
    Ok((counts, pairs))
}

/// The receiver says how far it is twice in each window, so that the sender need not stop.
fn every(plan: &Plan) -> u64 {
    (plan.under_way / 2).max(1)
}

/// Sends what is due until no more is; returns how many.
fn begin(plan: &Plan, other: Pid, mut pace: Pace) -> Result<u64, String> {
    let mut payload = vec![0; plan.size as usize];
    let mut seen = 0;
    loop {
        let now = now_ns();
        match pace.next(now) {
            Next::Over => return Ok(pace.begun()),
            Next::Later(due) => rest(due - now),
            Next::Due(due) if pace.begun() - seen < plan.under_way => {
                stamp(&mut payload, pace.begun(), due);
                pace.begin();
                send(other, LOAD, &payload);
            }
            Next::Due(_) => seen = told(SEEN)?[0],
        }
        while let Ok(more) = told_within(SEEN, Some(Duration::ZERO)) {
            seen = more[0];
        }
    }
}

/// Counts, checks and times what comes, until it is told that no more follows.
fn sink(parent: u64) {
    if let Err(why) = take_all(pid(parent)) {
        // Its parent is linked to it and hears this.
        panic!("{why}");
    }
}

fn take_all(parent: Pid) -> Result<(), String> {
    let plan = loop {
        match receive(&[CLOCK, PLAN], None) {
            Received::Data(Data { tag: PLAN, bytes }) => break numbers(&bytes),
            _ => tell(parent, CLOCK, &[now_ns()]),
        }
    };
    let (size, every, offset_ns) = (plan[0], plan[1], plan[2].cast_signed());
    let mut histogram = report::histogram();
    let (mut count, mut last_ns) = (0, 0);
    loop {
        match receive(&[LOAD, LAST], None) {
            Received::Data(Data { tag: LAST, .. }) => break,
            Received::Data(Data { bytes, .. }) => {
                last_ns = now_ns();
                let due_ns = check(&bytes, size, count)?.saturating_add_signed(offset_ns);
                histogram.saturating_record(last_ns.saturating_sub(due_ns));
            }
            other => return Err(format!("instead of a message: {other:?}")),
        }
        count += 1;
        if count % every == 0 {
            tell(parent, SEEN, &[count]);
        }
    }
    tell(parent, COUNTED, &[count, last_ns]);
    tell(parent, VALUES, &report::pairs(&histogram));
    loop {
        // Until it is killed.
        told_within(CLOCK, None)?;
        tell(parent, CLOCK, &[now_ns()]);
    }
}

/// How far the clock of another machine is ahead, and how far off that may be.
struct Clocks {
    offset_ns: i64,
    error_ns: u64,
}

/// Compares the clocks: the other one was read in the middle of a round trip, give or take half of it.
fn clocks(plan: &Plan, other: Pid) -> Result<Clocks, String> {
    if plan.one_clock() {
        return Ok(Clocks {
            offset_ns: 0,
            error_ns: 0,
        });
    }
    let mut best = Clocks {
        offset_ns: 0,
        error_ns: u64::MAX,
    };
    for _ in 0..CLOCK_ROUNDS {
        let asked = now_ns();
        tell(other, CLOCK, &[]);
        let there = told(CLOCK)?[0];
        let error_ns = (now_ns() - asked) / 2;
        if error_ns < best.error_ns {
            let offset_ns = there.cast_signed() - (asked + error_ns).cast_signed();
            best = Clocks {
                offset_ns,
                error_ns,
            };
        }
    }
    Ok(best)
}
