//! Messages that come back.

use std::time::Duration;

use tidelock_guest::{Data, NodeId, Pid, Received, Spawn, me, receive, send};

use crate::pace::{Next, Pace, far, now_ns, rest};
use crate::plan::Plan;
use crate::report::{self, Counts};
use crate::wire::{LOAD, PATIENCE, check, end, pid, stamp};

/// Round trips before anything is measured.
const WARM_UP: u64 = 20;

/// Sends whatever comes back to its parent.
fn echo(parent: u64) {
    let parent = pid(parent);
    while let Received::Data(Data { bytes, .. }) = receive(&[LOAD], None) {
        send(parent, LOAD, &bytes);
    }
}

/// One pair. Up to `plan.under_way` calls wait for their answers.
pub(crate) fn lane(
    plan: &Plan,
    number: u64,
    go: impl FnOnce() -> Result<u64, String>,
) -> Result<(Counts, Vec<u64>), String> {
    let spawn = Spawn::new().on(NodeId(plan.node)).linked(0);
    let other = spawn.start(echo, me().raw()).map_err(|e| e.to_string())?;
    let mut payload = vec![0; plan.size as usize];
    for number in 0..WARM_UP {
        stamp(&mut payload, number, 0);
        send(other, LOAD, &payload);
        answer(plan, number, Some(PATIENCE))?.ok_or("no answer to the first calls")?;
    }
    Caller {
        plan,
        other,
        payload,
        pace: Pace::new(plan, number, go()?),
        counts: Counts::default(),
        histogram: report::histogram(),
    }
    .run()
}

struct Caller<'a> {
    plan: &'a Plan,
    other: Pid,
    payload: Vec<u8>,
    pace: Pace,
    counts: Counts,
    histogram: hdrhistogram::Histogram<u64>,
}

impl Caller<'_> {
    fn run(mut self) -> Result<(Counts, Vec<u64>), String> {
        loop {
            while self.take(Some(Duration::ZERO))? {}
            let now = now_ns();
            let waiting = self.pace.begun() - self.counts.done;
            match self.pace.next(now) {
                Next::Over if waiting == 0 => break,
                Next::Due(due) if waiting < self.plan.under_way => self.send(due),
                Next::Later(due) => match far(due - now) {
                    Some(time) => drop(self.take(Some(time))?),
                    None => rest(due - now),
                },
                // All may be under way that may be, or no more is due.
                Next::Due(_) | Next::Over => {
                    if !self.take(Some(PATIENCE))? {
                        break;
                    }
                }
            }
        }
        end(self.other);
        self.counts.begun = self.pace.begun();
        Ok((self.counts, report::pairs(&self.histogram)))
    }

    fn send(&mut self, due_ns: u64) {
        stamp(&mut self.payload, self.pace.begun(), due_ns);
        self.pace.begin();
        send(self.other, LOAD, &self.payload);
    }

    /// Takes the next answer, if one comes within the time.
    fn take(&mut self, limit: Option<Duration>) -> Result<bool, String> {
        let Some(due_ns) = answer(self.plan, self.counts.done, limit)? else {
            return Ok(false);
        };
        let now = now_ns();
        self.histogram.saturating_record(now.saturating_sub(due_ns));
        self.counts.done += 1;
        self.counts.end_ns = now;
        Ok(true)
    }
}

/// When the call was due whose answer comes next.
fn answer(plan: &Plan, number: u64, limit: Option<Duration>) -> Result<Option<u64>, String> {
    match receive(&[LOAD], limit) {
        Received::Data(Data { bytes, .. }) => check(&bytes, plan.size, number).map(Some),
        Received::Timeout => Ok(None),
        other => Err(format!("instead of an answer: {other:?}")),
    }
}
