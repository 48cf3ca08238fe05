//! Starts the lanes, lets them begin together, and adds up what they say.

use std::time::Duration;

use hdrhistogram::Histogram;
use tidelock_guest::{Data, Pid, Received, Spawn, die_when_link_dies, me, receive};

use crate::pace::now_ns;
use crate::plan::{Kind, Plan};
use crate::report::{self, Counts};
use crate::wire::{COUNTED, END, PATIENCE, PLAN, READY, VALUES, numbers, pid, tell, told};
use crate::{call, link, message, spawn};

/// How long all lanes may take to be told when to begin.
const LEAD_NS: u64 = 20_000_000;

/// Does what was planned and prints what came of it.
///
/// # Errors
///
/// Something was not as it must be; nothing was measured then.
pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    die_when_link_dies(false);
    let lanes = start(plan)?;
    for _ in &lanes {
        heard(READY, PATIENCE * 6)?;
    }
    let start_ns = now_ns() + LEAD_NS;
    for lane in &lanes {
        tell(*lane, READY, &[start_ns]);
    }
    report::started();
    let (mut counts, mut all) = (Counts::default(), report::histogram());
    let limit = Duration::from_nanos(plan.for_ns) + PATIENCE * 3;
    for _ in &lanes {
        counts.add(&heard(COUNTED, limit)?);
    }
    for _ in &lanes {
        record(&mut all, &heard(VALUES, PATIENCE)?);
    }
    report::values(&report::pairs(&all));
    let asked = u128::from(plan.rate) * u128::from(plan.for_ns) / 1_000_000_000;
    report::result(
        &counts,
        asked as u64,
        counts.end_ns.saturating_sub(start_ns),
    );
    Ok(())
}

fn start(plan: &Plan) -> Result<Vec<Pid>, String> {
    (0..plan.lanes)
        .map(|number| {
            let spawn = Spawn::new().linked(END);
            let lane = spawn.start(lane, me().raw());
            let lane = lane.map_err(|error| format!("lane {number}: {error}"))?;
            tell(lane, PLAN, &[&[number][..], &plan.numbers()].concat());
            Ok(lane)
        })
        .collect()
}

/// Waits for what a lane says, or for how one of them ended.
fn heard(tag: i64, limit: Duration) -> Result<Vec<u64>, String> {
    match receive(&[tag, END], Some(limit)) {
        Received::Data(Data { bytes, tag: END }) => Err(String::from_utf8_lossy(&bytes).into()),
        Received::Data(Data { bytes, .. }) => Ok(numbers(&bytes)),
        Received::LinkDied(died) => Err(format!("{}: {}", died.pid, died.reason)),
        _ => Err(format!("a lane said nothing for {} s", limit.as_secs())),
    }
}

fn record(all: &mut Histogram<u64>, pairs: &[u64]) {
    for pair in pairs.chunks_exact(2) {
        all.saturating_record_n(pair[0], pair[1]);
    }
}

/// A lane: from its plan to what it has measured.
fn lane(director: u64) {
    let director = pid(director);
    let outcome = told(PLAN).and_then(|plan| {
        let (number, plan) = (plan[0], Plan::of(&plan[1..]));
        let go = || {
            tell(director, READY, &[]);
            told(READY).map(|start| start[0])
        };
        match plan.kind {
            Kind::Message => message::lane(&plan, number, go),
            Kind::Call => call::lane(&plan, number, go),
            Kind::Spawn => spawn::lane(&plan, number, go),
            Kind::Link => link::lane(&plan, number, go),
        }
    });
    match outcome {
        Ok((counts, pairs)) => {
            tell(director, COUNTED, &counts.numbers());
            tell(director, VALUES, &pairs);
        }
        Err(why) => {
            tidelock_guest::send(director, END, why.as_bytes());
            // Its partner goes with it.
            std::process::exit(1);
        }
    }
}
