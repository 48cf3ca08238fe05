//! Processes that run and say so.

use tidelock_guest::{NodeId, Spawn, me};

use crate::pace::Pace;
use crate::plan::Plan;
use crate::report::{self, Counts};
use crate::wire::{LOAD, PATIENCE, pid, tell, told};

/// Processes before anything is measured: the first one takes the module to its node.
const WARM_UP: u64 = 3;

/// Says who it is, and ends.
fn child(parent: u64) {
    tell(pid(parent), LOAD, &[me().raw()]);
}

/// One process after the other.
pub(crate) fn lane(
    plan: &Plan,
    number: u64,
    go: impl FnOnce() -> Result<u64, String>,
) -> Result<(Counts, Vec<u64>), String> {
    for _ in 0..WARM_UP {
        once(plan)?;
    }
    let pace = Pace::new(plan, number, go()?);
    report::one_by_one(pace, || once(plan), || Ok(()))
}

fn once(plan: &Plan) -> Result<(), String> {
    let spawn = Spawn::new().on(NodeId(plan.node)).within(Some(PATIENCE));
    let made = spawn.start(child, me().raw()).map_err(|e| e.to_string())?;
    match told(LOAD)?[..] {
        [ran] if ran == made.raw() => Ok(()),
        ref other => Err(format!("instead of {made}, {other:?} has run")),
    }
}
