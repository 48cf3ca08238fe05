//! P6, P7 and P8 of nodes: sessions open and end in turn, for a reason, and in time; none outlives what its
//! peer showed.

use std::collections::BTreeMap;
use std::time::Duration;

use tidelock::NodeId;

use super::super::cluster::LEASE;
use super::super::journal::{Entry, What};
use super::super::plan::{Due, Fault, NODES, Plan};
use super::{Broken, Facts, SLACK, broken};

/// What a dead or cut-off node may take on top of the lease to be noticed.
const NOTICE: Duration = Duration::from_millis(300);
/// How long after a fault has ended a session of the same pair may still end because of it: a dial that began in it takes
/// a lease at the most, and a session that it opened on one side only is noticed by another one.
const AFTERMATH: Duration =
    Duration::from_millis((2 * LEASE.as_millis() + NOTICE.as_millis()) as u64);
/// Until a peer that says nothing is given up, at the most: clocks are wrong by a hundredth.
const GIVEN_UP: Duration = Duration::from_millis(
    (LEASE.as_millis() + NOTICE.as_millis() + LEASE.as_millis() / 100) as u64,
);

/// How early or late a certificate runs out on another node's clock: it is good in its last second, what is
/// left of it is counted in whole ones, clocks are wrong by a hundredth.
const DATES: Duration = Duration::from_millis(2_300);
/// A session that is ended while the next is made, or a dial that crosses the end: more of them is a storm.
const LOST_MAX: usize = 4;

/// A node has no certificate that is good.
pub(super) struct Lapse {
    node: NodeId,
    from: Duration,
    /// When it shows one again.
    until: Duration,
}

impl Lapse {
    /// Whether a session of the two may end of it at that time.
    pub(super) fn ends(&self, pair: [NodeId; 2], at: Duration) -> bool {
        let in_it = self.from <= at + DATES && at <= self.until.saturating_add(DATES);
        in_it && pair.contains(&self.node)
    }
}

pub(super) fn lapses(entries: &[Entry]) -> Vec<Lapse> {
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
    for lapse in lapses(entries) {
        let Lapse { node, from, .. } = lapse;
        let lost = |entry: &&Entry| {
            matches!(&entry.what, What::NodeDown { on, peer, why, .. }
                if *peer == node && why.contains("certificate") && lapse.ends([*on, node], entry.at))
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
    for entry in facts.entries {
        // In turn.
        if let What::Paused(node) | What::Resumed(node) = entry.what {
            still.entry(node).or_default().push(entry.at);
        }
    }
    let mut left: BTreeMap<NodeId, Duration> = BTreeMap::new();
    for entry in facts.entries {
        if let What::Leaves(node) = entry.what {
            left.insert(node, entry.at);
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
                let crashed = facts.crashed.get(on).copied().unwrap_or(end_of_run);
                let (mut ended, may_wait) = match changes.get(at + 1) {
                    Some((end, _)) => (facts.at(*end), says_left(facts.what(*end)).is_some()),
                    None => (crashed, true),
                };
                // Whoever leaves has ended it, and waits at the most a lease for its goodbye to be read.
                if let Some(left) = left.get(on).filter(|left| may_wait && **left < ended) {
                    ended = ended.saturating_sub(LEASE + LEASE / 100).max(*left);
                }
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

/// Whether a session ended with a goodbye, and if so whether all had come that was sent before it.
pub(super) fn says_left(what: &What) -> Option<bool> {
    let What::NodeDown { why, .. } = what else {
        return None;
    };
    why.starts_with("left").then(|| why == "left")
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
    let faults = faults_of(plan);
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
        if length < long || due.at + long > plan.quiet_at {
            continue;
        }
        for (on, peer) in pairs {
            // Alone in its time, or it cannot be told what was noticed.
            let alone = faults.iter().all(|other| {
                other == due
                    || !other.fault.touches(on, peer)
                    || other.at > due.at + long
                    || other.at + other.fault.length() + AFTERMATH < due.at
            });
            if !alone {
                continue;
            }
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
                Some(took) if took <= GIVEN_UP => noticed.push(took),
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

/// The faults that happen.
fn faults_of(plan: &Plan) -> Vec<Due> {
    let mut all = plan.faults();
    all.retain(|due| due.at < plan.quiet_at);
    all
}

/// A node is dead, or stands still.
struct Stop {
    node: NodeId,
    from: Duration,
    /// When it goes on, if it does.
    until: Option<Duration>,
}

impl Stop {
    fn all(entries: &[Entry]) -> Vec<Stop> {
        let mut all: Vec<Stop> = Vec::new();
        for entry in entries {
            match entry.what {
                What::Crashed(node) | What::Paused(node) => all.push(Stop {
                    node,
                    from: entry.at,
                    until: None,
                }),
                What::Resumed(node) => {
                    let mut of_it = all.iter_mut().filter(|stop| stop.node == node);
                    if let Some(last) = of_it.next_back() {
                        last.until = Some(entry.at);
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// Whether that node stood still at some time in between.
    fn is_of(&self, node: NodeId, from: Duration, until: Duration) -> bool {
        let ended = self.until.is_some_and(|at| at < from);
        self.node == node && self.from <= until && !ended
    }
}

/// P6: a node that is dead, or stands still for longer than a lease, is noticed by everybody who had a session with it; and
/// by itself when it goes on. Says how often.
pub(super) fn stopped_nodes_are_noticed(facts: &Facts<'_>) -> Result<u64, Broken> {
    let stops = Stop::all(facts.entries);
    let still = |node: NodeId, from: Duration, until: Duration| {
        stops.iter().any(|stop| stop.is_of(node, from, until)) || facts.leaves(node, until)
    };
    let mut seen = 0;
    for stop in &stops {
        for ((on, peer), changes) in &facts.sessions {
            for (at, &(opened, up)) in changes.iter().enumerate() {
                let ended = changes.get(at + 1).map(|(at, _)| facts.at(*at));
                let opened = facts.at(opened);
                if !up || ended.is_some_and(|ended| ended < stop.from) {
                    continue;
                }
                let from = stop.from.max(opened);
                let late = from + GIVEN_UP;
                let due = if *peer == stop.node {
                    // Whoever did not run itself, or was about to leave, may be late.
                    let excused =
                        still(*on, from.saturating_sub(LEASE), late) || facts.leaves(*peer, late);
                    (!excused && stop.until.is_none_or(|until| until > late)).then_some(late)
                } else if *on == stop.node {
                    stop.until.map(|until| until + NOTICE).filter(|due| {
                        let again = stops.iter().any(|other| {
                            other.from > stop.from && other.is_of(*on, stop.from, *due)
                        });
                        opened <= stop.from
                            && *due > late + NOTICE + SLACK
                            && !again
                            && !facts.leaves(*on, *due)
                    })
                } else {
                    None
                };
                let Some(due) = due.filter(|due| *due <= facts.end()) else {
                    continue;
                };
                if ended.is_none_or(|ended| ended > due) {
                    let node = stop.node;
                    let when = stop.from;
                    return broken(
                        "P6",
                        format!(
                            "{on} kept its session with {peer} until {ended:?}, though {node} stopped at {when:?}"
                        ),
                    );
                }
                seen += 1;
            }
        }
    }
    Ok(seen)
}

/// Whether a fault of the plan may still show between two machines at a time.
fn is_disturbed(faults: &[Due], (a, b): (usize, usize), at: Duration) -> bool {
    faults.iter().any(|due| {
        // Whoever leaves is known by its id: the next start of its name has no part in that.
        let counts = !matches!(due.fault, Fault::Leave(..)) && due.fault.touches(a, b);
        counts && due.at <= at && due.at + due.fault.length() + AFTERMATH >= at
    })
}

/// No session ends but for a fault between these two, for the goodbye of one of them, or for a certificate that was not
/// renewed in time: loss of up to 5 % and delay are none.
pub(super) fn no_false_verdict(plan: &Plan, facts: &Facts<'_>) -> Result<(), Broken> {
    let lapses = lapses(facts.entries);
    let lapsed = |at, pair| lapses.iter().any(|lapse| lapse.ends(pair, at));
    let faults = faults_of(plan);
    let disturbed = |at: Duration, on: &NodeId, peer: &NodeId| {
        let names = (facts.names.get(on), facts.names.get(peer));
        let (Some(on), Some(peer)) = names else {
            return true;
        };
        is_disturbed(&faults, (*on, *peer), at)
    };
    for entry in facts.entries {
        if let What::NodeDown { on, peer, why, .. } = &entry.what
            && !disturbed(entry.at, on, peer)
            && !lapsed(entry.at, [*on, *peer])
            && !facts.leaves(*on, entry.at)
            && !facts.leaves(*peer, entry.at)
        {
            return broken("P6", format!("{on} gave {peer} up without a cause: {why}"));
        }
    }
    Ok(())
}
