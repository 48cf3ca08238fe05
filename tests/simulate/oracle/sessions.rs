//! P6, P7 and P8 of nodes: sessions open and end in turn, for a reason, and in time; none outlives what its
//! peer showed.

use std::collections::BTreeMap;
use std::time::Duration;

use tidelock::NodeId;

use super::super::cluster::LEASE;
use super::super::journal::{Entry, What};
use super::super::plan::{Fault, NODES, Plan};
use super::{Broken, Facts, SLACK, broken};

/// What a dead or cut-off node may take on top of the lease to be noticed.
const NOTICE: Duration = Duration::from_millis(300);
/// How long after a fault has ended a session may still end because of it.
const AFTERMATH: Duration = Duration::from_secs(9);

/// How early or late a certificate runs out on another node's clock: it is good in its last second, what is
/// left of it is counted in whole ones, clocks are wrong by a hundredth.
const DATES: Duration = Duration::from_millis(2_300);
/// A session that is ended while the next is made, or a dial that crosses the end: more of them is a storm.
const LOST_MAX: usize = 4;

/// A node has no certificate that is good.
struct Lapse {
    node: NodeId,
    from: Duration,
    /// When it shows one again.
    until: Duration,
}

fn lapses(entries: &[Entry]) -> Vec<Lapse> {
    let mut all: Vec<Lapse> = Vec::new();
    for entry in entries {
        if let What::Shows { node, until } = entry.what {
            let mut of_it = all.iter_mut().filter(|lapse| lapse.node == node);
            if let Some(last) = of_it.next_back() {
                last.until = entry.at;
            }
            all.extend(until.map(|from| Lapse {
                node,
                from,
                until: Duration::MAX,
            }));
        }
    }
    // Those who renew in time have none.
    all.retain(|lapse| lapse.until > lapse.from);
    all
}

/// P8: a certificate that has run out ends the sessions with it, and no storm of them.
pub(super) fn sessions_end_once_with_a_certificate(entries: &[Entry]) -> Result<(), Broken> {
    for Lapse { node, from, until } in &lapses(entries) {
        let lost = |entry: &&Entry| {
            let in_it = *from <= entry.at + DATES && entry.at <= until.saturating_add(DATES);
            let of_it = matches!(&entry.what,
                What::NodeDown { peer, why, .. } if peer == node && why.contains("certificate"));
            in_it && of_it
        };
        let lost = entries.iter().filter(lost).count();
        if lost > LOST_MAX {
            return broken(
                "P8",
                format!("{lost} sessions with {node} ended with its certificate of {from:?}"),
            );
        }
    }
    Ok(())
}

/// P8: a session ends with the certificate that the peer showed last, and none opens with one that has run out.
pub(super) fn sessions_end_with_certificates(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut still: BTreeMap<NodeId, Vec<Duration>> = BTreeMap::new();
    let mut crashed: BTreeMap<NodeId, Duration> = BTreeMap::new();
    for entry in facts.entries {
        match entry.what {
            // In turn.
            What::Paused(node) | What::Resumed(node) => {
                still.entry(node).or_default().push(entry.at);
            }
            What::Crashed(node) => drop(crashed.insert(node, entry.at)),
            _ => {}
        }
    }
    let end_of_run = facts.entries.last().map_or(Duration::ZERO, |last| last.at);
    for Lapse { node, from, until } in lapses(facts.entries) {
        for ((on, peer), changes) in &facts.sessions {
            if *peer != node {
                continue;
            }
            for (at, &(opened, up)) in changes.iter().enumerate() {
                if !up {
                    continue;
                }
                let ended = changes.get(at + 1).map(|(at, _)| facts.at(*at));
                let ended = ended.or(crashed.get(on).copied()).unwrap_or(end_of_run);
                let since = facts.at(opened).max(from + DATES);
                let stood_still = still.get(on).is_some_and(|times| {
                    let mut pauses = times.chunks(2);
                    pauses.any(|pause| {
                        let resumed = pause.get(1).copied().unwrap_or(Duration::MAX);
                        pause[0] <= since && since <= resumed.saturating_add(SLACK)
                    })
                });
                if since < ended.min(until) && !stood_still {
                    return broken(
                        "P8",
                        format!(
                            "{on} had a session with {peer}, whose certificate had run out at {from:?}"
                        ),
                    );
                }
            }
        }
    }
    Ok(())
}

/// P7: sessions of a pair open and end in turn, each with a larger epoch.
pub(super) fn sessions(entries: &[Entry]) -> Result<(), Broken> {
    let mut last: BTreeMap<(NodeId, NodeId), (u64, bool)> = BTreeMap::new();
    for entry in entries {
        match entry.what {
            What::NodeUp { on, peer, epoch } => {
                if let Some((before, open)) = last.insert((on, peer), (epoch, true))
                    && (open || before >= epoch)
                {
                    return broken(
                        "P7",
                        format!("{on} opened {epoch} with {peer} after {before}"),
                    );
                }
            }
            What::NodeDown {
                on, peer, epoch, ..
            } => {
                if last.insert((on, peer), (epoch, false)) != Some((epoch, true)) {
                    return broken(
                        "P7",
                        format!("{on} ended {epoch} with {peer}, which was not open"),
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// P6: a node that is cut off or gone is noticed by both sides within the lease and a bit.
pub(super) fn nodes_are_noticed(plan: &Plan, facts: &Facts<'_>) -> Result<Vec<Duration>, Broken> {
    let faults: Vec<_> = plan
        .faults()
        .into_iter()
        .filter(|due| due.at < plan.quiet_at && due.fault.ends_sessions())
        .collect();
    let mut noticed = Vec::new();
    let long = LEASE + NOTICE + SLACK;
    for due in &faults {
        let (pairs, length): (Vec<(usize, usize)>, Duration) = match due.fault {
            Fault::OneWay(a, b, length) | Fault::Partition(a, b, length) => {
                (vec![(a, b), (b, a)], length)
            }
            Fault::Isolate(a, length) => {
                let pairs = (0..NODES).filter(|b| *b != a);
                (pairs.flat_map(|b| [(a, b), (b, a)]).collect(), length)
            }
            _ => continue,
        };
        // Alone in its time, or it cannot be told what was noticed.
        let alone = faults.iter().all(|other| {
            other == due
                || other.at > due.at + long
                || other.at + other.fault.length() + AFTERMATH < due.at
        });
        if length < long || due.at + long > plan.quiet_at || !alone {
            continue;
        }
        for (on, peer) in pairs {
            let named = |node: &NodeId| facts.names.get(node).copied();
            let mut open = None;
            for entry in facts.entries.iter().filter(|entry| entry.at <= due.at) {
                match entry.what {
                    What::Crashed(node) if open.is_some_and(|(a, b)| a == node || b == node) => {
                        open = None;
                    }
                    What::NodeUp { on: a, peer: b, .. }
                        if named(&a) == Some(on) && named(&b) == Some(peer) =>
                    {
                        open = Some((a, b));
                    }
                    What::NodeDown { on: a, peer: b, .. } if open == Some((a, b)) => open = None,
                    _ => {}
                }
            }
            let Some((a, b)) = open else { continue };
            let down = facts.entries.iter().find(|entry| {
                entry.at > due.at
                    && matches!(entry.what, What::NodeDown { on, peer, .. } if (on, peer) == (a, b))
            });
            match down.map(|entry| entry.at - due.at) {
                Some(took) if took <= LEASE + NOTICE + LEASE / 100 => noticed.push(took),
                Some(took) => {
                    return broken(
                        "P6",
                        format!("{a} noticed after {took:?} that {b} was cut off"),
                    );
                }
                None => return broken("P6", format!("{a} never noticed that {b} was cut off")),
            }
        }
    }
    Ok(noticed)
}

/// Whether a fault of the plan may still show at a time.
fn is_disturbed(plan: &Plan, at: Duration) -> bool {
    plan.faults().iter().any(|due| {
        due.fault.ends_sessions() && due.at <= at && due.at + due.fault.length() + AFTERMATH >= at
    })
}

/// No session ends but for a fault, or for a certificate that was not renewed in time: loss of up to 5 % and
/// delay are none.
pub(super) fn no_false_verdict(plan: &Plan, entries: &[Entry]) -> Result<(), Broken> {
    let lapses = lapses(entries);
    let lapsed = |at: Duration, pair: [&NodeId; 2]| {
        let mut of_pair = lapses.iter().filter(|lapse| pair.contains(&&lapse.node));
        of_pair.any(|lapse| lapse.from <= at + DATES && at <= lapse.until.saturating_add(DATES))
    };
    for entry in entries {
        if let What::NodeDown { on, peer, why, .. } = &entry.what
            && !is_disturbed(plan, entry.at)
            && !lapsed(entry.at, [on, peer])
        {
            return broken("P6", format!("{on} gave {peer} up without a cause: {why}"));
        }
    }
    Ok(())
}
