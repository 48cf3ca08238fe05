//! P6 and P5 of nodes that leave: their peers are told that they left, and have everything that was said before.

use std::collections::BTreeSet;
use std::time::Duration;

use tidelock::NodeId;

use super::super::cluster::LEASE;
use super::super::journal::What;
use super::super::plan::{Due, Fault, Plan};
use super::sessions::{lapses, says_left};
use super::{Broken, Facts, broken};

/// How long the word takes at the most, on a network that loses some; and how long a session may wait after it for
/// the peer to have seen the own last words.
const GOODBYE: Duration = Duration::from_secs(2 + LEASE.as_secs());

/// Reads what became of the sessions of nodes that left, and says how many there were.
pub(super) fn leaves(plan: &Plan, facts: &Facts<'_>) -> Result<u64, Broken> {
    let mut got: BTreeSet<u64> = BTreeSet::new();
    for entry in facts.entries {
        if let What::Got { number, .. } = entry.what {
            got.insert(number);
        }
    }
    let faults = plan.faults();
    let lapses = lapses(facts.entries);
    let mut seen = 0;
    for (left, entry) in facts.entries.iter().enumerate() {
        let What::Leaves(node) = entry.what else {
            continue;
        };
        for ((on, peer), changes) in &facts.sessions {
            let crashed = facts.crashed.get(on).copied();
            // The dead hear nothing: their sessions have no end in the journal.
            if *peer != node || crashed.is_some_and(|at| at <= entry.at) {
                continue;
            }
            let next = changes.partition_point(|(at, _)| *at < left);
            let Some(&(opened, true)) = next.checked_sub(1).and_then(|last| changes.get(last))
            else {
                continue;
            };
            let ended = changes.get(next).map(|(at, _)| *at);
            let heard = ended.and_then(|at| says_left(facts.what(at)));
            let told = heard == Some(true);
            if told {
                seen += 1;
                said_before_is_there(facts, &got, (node, *on), (opened, left))?;
            }
            if heard.is_some()
                && let Some((again, _)) = changes[next..].iter().find(|(_, opened)| *opened)
            {
                let when = facts.at(*again);
                return broken(
                    "P7",
                    format!("{on} has {node} back at {when:?}, which left"),
                );
            }
            let in_time = ended.is_some_and(|at| facts.at(at) <= entry.at + GOODBYE);
            let is_sound = !faults
                .iter()
                .any(|due| disturbs(due, facts, (*on, node), entry.at));
            let died_first = ended.is_none() && crashed.is_some_and(|at| at <= entry.at + GOODBYE);
            let lapsed = ended.is_some_and(|at| {
                let at = facts.at(at);
                lapses.iter().any(|lapse| lapse.ends([*on, node], at))
            });
            let is_excused = died_first || lapsed;
            if is_sound && !is_excused && !(told && in_time) {
                return broken(
                    "P6",
                    format!("{node} left at {:?}, and {on} was not told so", entry.at),
                );
            }
        }
    }
    Ok(seen)
}

/// Whether a fault may keep a goodbye from `on`, or has just ended the session.
fn disturbs(due: &Due, facts: &Facts<'_>, (on, node): (NodeId, NodeId), at: Duration) -> bool {
    let (Some(a), Some(b)) = (facts.names.get(&on), facts.names.get(&node)) else {
        return true;
    };
    // The journal has it, and with it what `on` was told before.
    let is_own_crash = matches!(due.fault, Fault::Crash(name, _) if name == *a) && due.at >= at;
    let is_this = matches!(due.fault, Fault::Leave(..));
    let before = due.at <= at + GOODBYE;
    let after = at <= due.at + due.fault.length() + 2 * LEASE;
    !is_this && !is_own_crash && due.fault.touches(*a, *b) && before && after
}

/// A peer that was told *left* has all that was sent in that session before.
fn said_before_is_there(
    facts: &Facts<'_>,
    got: &BTreeSet<u64>,
    (node, on): (NodeId, NodeId),
    (opened, left): (usize, usize),
) -> Result<(), Broken> {
    let epoch_at = |at: usize| match facts.what(at) {
        What::NodeUp { epoch, .. } => Some(*epoch),
        _ => None,
    };
    let epoch = epoch_at(opened);
    // The same session as the one that left saw it.
    let mut own = facts.changes(node, on).iter();
    let Some((since, _)) = own.find(|(at, _)| epoch_at(*at) == epoch) else {
        return Ok(());
    };
    if facts.lost(node, on, since + 1..left) {
        return Ok(());
    }
    for (at, entry) in facts.entries[..left].iter().enumerate().skip(*since) {
        if let What::Sent { by, to, number } = entry.what
            && (by.node(), to.node()) == (node, on)
            && facts.readers.contains(&to)
            && facts.lives(to)
            && facts.was_there(to, at)
            && !got.contains(&number)
        {
            return broken(
                "P5",
                format!("{to} never got {number}, which {by} had sent before {node} left"),
            );
        }
    }
    Ok(())
}
