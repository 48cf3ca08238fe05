//! Links to a process that lives, and one to its end.

use tidelock_guest::{
    NodeId, Pid, Received, Spawn, die_when_link_dies, link, me, monitor, receive, unlink,
};

use crate::pace::Pace;
use crate::plan::Plan;
use crate::report::{self, Counts};
use crate::wire::{LAST, PATIENCE, pid, tell};

/// The tag of the links.
const LINK: i64 = 20;
/// Links before anything is measured.
const WARM_UP: u64 = 5;

/// Lives until it is told to fail, or until its parent has ended.
fn target(parent: u64) {
    monitor(pid(parent));
    receive(&[], None);
    std::process::exit(1);
}

/// One link after the other, each removed again before the next; the last one is kept, and told.
pub(crate) fn lane(
    plan: &Plan,
    number: u64,
    go: impl FnOnce() -> Result<u64, String>,
) -> Result<(Counts, Vec<u64>), String> {
    let spawn = Spawn::new().on(NodeId(plan.node)).within(Some(PATIENCE));
    let target = spawn.start(target, me().raw()).map_err(|e| e.to_string())?;
    for _ in 0..WARM_UP {
        linked(target)?;
        unlinked(target)?;
    }
    let pace = Pace::new(plan, number, go()?);
    let measured = report::one_by_one(pace, || linked(target), || unlinked(target))?;
    die_when_link_dies(false);
    linked(target)?;
    tell(target, LAST, &[]);
    told_once(target)?;
    Ok(measured)
}

fn linked(target: Pid) -> Result<(), String> {
    link(target, LINK, Some(PATIENCE)).map_err(|error| format!("a link to {target}: {error}"))
}

fn unlinked(target: Pid) -> Result<(), String> {
    unlink(target, Some(PATIENCE)).map_err(|error| format!("an unlink of {target}: {error}"))
}

/// Of all those links one was left, so its end is told once.
fn told_once(target: Pid) -> Result<(), String> {
    match receive(&[LINK], Some(PATIENCE)) {
        Received::LinkDied(died) if died.pid == target && died.reason.code == 1 => {}
        other => return Err(format!("instead of the end of {target}: {other:?}")),
    }
    match receive(&[LINK], Some(std::time::Duration::ZERO)) {
        Received::Timeout => Ok(()),
        other => Err(format!("told again of the end of {target}: {other:?}")),
    }
}
