//! P6: every call ends: with its deadline, with its session, and mostly with an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use tidelock::{NodeId, Pid};
use tidelock_proto::wire::LANE_PAYLOAD_BYTES_MAX;

use super::super::cluster::LEASE;
use super::super::journal::What;
use super::{Broken, Facts, SAME_STEP, SLACK, broken};

/// The longest that a call waits that has no deadline, on a network that is whole: for the end of a session that
/// nobody answers in, and for a dial that nobody answers.
const WAIT_MAX: Duration = Duration::from_secs(2 * LEASE.as_secs() + 1);

/// P6: calls end by their deadline, unless their machine stands still.
pub(super) fn calls_end(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut under_way: BTreeMap<Pid, (Duration, Duration)> = BTreeMap::new();
    let mut paused: BTreeMap<NodeId, Duration> = BTreeMap::new();
    let end = facts.end();
    let late = |pid: Pid, (began, within), at, paused: &BTreeMap<NodeId, Duration>| {
        let still = paused.get(&pid.node()).is_some_and(|until| *until >= began);
        (at > began + within + SLACK && !still).then_some(pid)
    };
    for entry in facts.entries {
        if let Some((by, _, within)) = entry.what.call() {
            under_way.insert(by, (entry.at, within));
        }
        if let Some((by, _)) = entry.what.returned()
            && let Some(call) = under_way.remove(&by)
            && let Some(pid) = late(by, call, entry.at, &paused)
        {
            let took = entry.at - call.0;
            return broken("P6", format!("a call of {pid} took {took:?}"));
        }
        match entry.what {
            What::Paused(node) => {
                paused.insert(node, Duration::MAX);
            }
            What::Resumed(node) => {
                paused.insert(node, entry.at);
            }
            _ => {}
        }
    }
    for (by, call) in under_way {
        if facts.lives(by)
            && let Some(pid) = late(by, call, end, &paused)
        {
            return broken("P6", format!("a call of {pid} never returned"));
        }
    }
    Ok(())
}

/// P6: calls without a deadline end as well, and in time where no fault was between the two and neither left.
pub(super) fn waits_end(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut under_way: BTreeMap<Pid, (Duration, NodeId, &str)> = BTreeMap::new();
    for entry in facts.entries {
        if let Some((by, node, what)) = entry.what.wait() {
            under_way.insert(by, (entry.at, node, what));
        }
        if let Some(by) = entry.what.waited()
            && let Some((began, node, what)) = under_way.remove(&by)
            && entry.at > began + WAIT_MAX + SLACK
            && facts.undisturbed(by.node(), node, began, entry.at)
            && !facts.leaves(by.node(), entry.at)
            && !facts.leaves(node, entry.at)
        {
            let took = entry.at - began;
            return broken("P6", format!("{what} of {by} at {began:?} took {took:?}"));
        }
    }
    for (by, (began, _, what)) in under_way {
        if facts.lives(by) && began + WAIT_MAX < facts.end() {
            return broken("P6", format!("{what} of {by} at {began:?} never returned"));
        }
    }
    Ok(())
}

/// P6: whoever waits for an answer of a node is told when the session with it ends.
pub(super) fn sessions_end_calls(facts: &Facts<'_>) -> Result<(), Broken> {
    // Who waits since when, for an answer of whom, and until when at most since the session ended.
    let mut waits: BTreeMap<Pid, (Duration, NodeId, Option<Duration>)> = BTreeMap::new();
    for entry in facts.entries {
        if let Some((by, node, _)) = entry.what.call() {
            waits.insert(by, (entry.at, node, None));
        }
        match entry.what {
            What::NodeDown { on, peer, .. } => {
                for (by, (began, node, until)) in &mut waits {
                    // A call that began without one, or as it ended, waits for the next session first.
                    let just_before = entry.at.saturating_sub(SAME_STEP);
                    if (by.node(), *node) == (on, peer)
                        && *began < just_before
                        && facts.open(on, peer, *began, just_before)
                    {
                        until.get_or_insert(entry.at + SLACK);
                    }
                }
            }
            // Whoever stood still is late with everything.
            What::Paused(node) => waits.retain(|by, _| by.node() != node),
            _ => {}
        }
        if let Some((by, _)) = entry.what.returned()
            && let Some((_, node, Some(until))) = waits.remove(&by)
            && entry.at > until
        {
            let late = entry.at - until;
            return broken(
                "P6",
                format!("{by} waited for {node} {late:?} after their session had ended"),
            );
        }
    }
    Ok(())
}

/// P6: on a sound network a call that waits long enough is answered. Sound is a network whose session stays
/// open on both sides, and which no fault touches.
pub(super) fn sound_calls_succeed(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut called: BTreeMap<Pid, (Duration, NodeId, Duration)> = BTreeMap::new();
    let mut bulk: BTreeMap<(Pid, NodeId), Duration> = BTreeMap::new();
    for entry in facts.entries {
        if let What::SendCalled { by, to, bytes } = entry.what
            && bytes > LANE_PAYLOAD_BYTES_MAX
        {
            bulk.insert((by, to.node()), entry.at);
        }
        if let Some((by, about, within)) = entry.what.call() {
            called.insert(by, (entry.at, about, within));
        }
        let Some((by, answered)) = entry.what.returned() else {
            continue;
        };
        let Some((began, node, within)) = called.remove(&by) else {
            continue;
        };
        let waited_out = entry.at - began + SLACK >= within;
        if !answered
            && waited_out
            && within >= LONG_ENOUGH
            && bulk
                .get(&(by, node))
                .is_none_or(|sent| *sent + BULK < began)
            && facts.sound(by.node(), node, began, entry.at)
        {
            return broken("P6", format!("nobody answered a call of {by} at {began:?}"));
        }
    }
    Ok(())
}

/// How long the bytes of a bulk message may take where packets are lost: what else is said to that node waits behind them.
const BULK: Duration = Duration::from_secs(5);
/// A call that waits so long outlasts a few lost packets.
const LONG_ENOUGH: Duration = Duration::from_secs(3);
