//! P1 and P2: who was told of whose end, and who was not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidelock::{ExitReason, NodeId, Pid};

use super::super::journal::{Entry, Linked, What};
use super::words::lost_at;
use super::{Broken, Facts, SAME_STEP, broken};

/// Something that may have made a half.
struct Cause {
    by: Pid,
    returned: Option<usize>,
    /// The other one has answered: nothing of it is under way any more.
    answered: bool,
    /// It was unlinked by a `link()` that nobody answered. Its end counts if it was in the mailbox before.
    over: bool,
}

/// P1 (never two) and P2: every LinkDied has a link that it ends.
pub(super) fn told_for_a_reason(entries: &[Entry]) -> Result<(), Broken> {
    let mut causes: BTreeMap<(Pid, Pid), Vec<Cause>> = BTreeMap::new();
    let mut unlinked: BTreeSet<(Pid, Pid)> = BTreeSet::new();
    // Whose `link()` was not answered, with whom, since it read everything.
    let mut given_up: BTreeMap<Pid, BTreeSet<Pid>> = BTreeMap::new();
    // When each process had read everything, the last time we know of: it begins its calls so.
    let mut emptied: BTreeMap<Pid, usize> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Some((p, ..)) = entry.what.call() {
            emptied.insert(p, at);
            for q in given_up.remove(&p).into_iter().flatten() {
                if let Some(all) = causes.get_mut(&(p, q)) {
                    all.retain(|cause| !cause.over);
                }
                unlinked.insert((p, q));
            }
        }
        match entry.what {
            What::LinkCalled { by: p, to: q, .. } => {
                for pair in [(p, q), (q, p)] {
                    causes.entry(pair).or_default().push(Cause {
                        by: p,
                        returned: None,
                        answered: false,
                        over: false,
                    });
                }
            }
            What::LinkReturned {
                by: p, to: q, how, ..
            } => {
                let at_once = |lost: Duration| lost <= entry.at + SAME_STEP;
                let said = how == Linked::Yes && !lost_at(entries, at, p, q).is_some_and(at_once);
                for pair in [(p, q), (q, p)] {
                    for cause in causes.get_mut(&pair).into_iter().flatten() {
                        if cause.by == p {
                            cause.returned.get_or_insert(at);
                            cause.answered |= said || p.node() == q.node();
                        }
                    }
                }
                if how == Linked::Yes {
                    unlinked.remove(&(p, q));
                } else if let Some(all) = causes.get_mut(&(p, q))
                    && let Some(last) = all.iter().rposition(|cause| cause.by == p)
                {
                    all.remove(last);
                }
                if how == Linked::TimedOut {
                    // No link remains, nor one that was there before.
                    for cause in causes.get_mut(&(p, q)).into_iter().flatten() {
                        cause.over |= cause.by == p || cause.answered;
                    }
                    given_up.entry(p).or_default().insert(q);
                }
            }
            What::SpawnReturned {
                by: p,
                child: Some(q),
                ..
            } => causes.entry((p, q)).or_default().push(Cause {
                by: p,
                returned: Some(at),
                answered: true,
                over: false,
            }),
            What::UnlinkCalled { by: p, to: q, .. } => {
                if let Some(all) = causes.get_mut(&(p, q)) {
                    // What q asks for may arrive after this, also if q has given it up meanwhile.
                    all.retain(|cause| cause.by != p && !cause.answered);
                }
                unlinked.insert((p, q));
            }
            What::LinkDied {
                by: p, about: q, ..
            } => {
                let all = causes.entry((p, q)).or_default();
                if all.is_empty() {
                    if unlinked.contains(&(p, q)) {
                        return broken("P2", format!("{p} unlinked {q}, and was told of its end"));
                    }
                    return broken("P1", format!("{p} was told of {q} once too often"));
                }
                // What was in place when everything had been read is one link, and one LinkDied ends
                // it. Of what came later, this may be the end of the first.
                let emptied = emptied.get(&p).copied().unwrap_or(0);
                let before = all.len();
                all.retain(|cause| cause.returned.is_none_or(|returned| returned > emptied));
                if all.len() == before {
                    // Rather of one that an unlink would end, too: what q asks for may still be on its way.
                    let ends = |cause: &Cause| cause.by == p || cause.answered;
                    all.remove(all.iter().position(ends).unwrap_or(0));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// P1 (never zero): whoever outlives a link was told of its end.
pub(super) fn told_of_every_end(facts: &Facts<'_>) -> Result<(), Broken> {
    for ((p, q), places) in &facts.about {
        if p == q || !facts.lives(*p) {
            continue;
        }
        // A LinkDied that is read between the call and its return does not count against the call, and
        // one that is read later does: a process does one thing after the other.
        let Some((asked, since)) = last_link(facts, places) else {
            continue;
        };
        if facts.may_have_unlinked(*q, *p, asked) {
            continue;
        }
        if let Some(why) = facts.link_ended(*p, *q, since) {
            return broken("P1", format!("{p} was never told of {q}, though {why}"));
        }
    }
    Ok(())
}

/// Where the link that a process last knew of was asked for, and where it was in place; `places` is what it
/// did or was told about the other one.
fn last_link(facts: &Facts<'_>, places: &[usize]) -> Option<(usize, usize)> {
    let (mut asked, mut linked) = (0, None);
    for at in places.iter().copied() {
        match *facts.what(at) {
            What::LinkCalled { .. } => asked = at,
            What::LinkReturned {
                how: Linked::Yes, ..
            } => linked = Some((asked, at)),
            What::SpawnReturned { .. } => linked = Some((at, at)),
            _ => linked = None,
        }
    }
    linked
}

/// P1 (never zero) for the other side: whoever was asked for a link is told of its end as well.
pub(super) fn asked_are_told(facts: &Facts<'_>) -> Result<(), Broken> {
    for ((p, q), places) in &facts.about {
        let Some((asked, since)) = last_link(facts, places) else {
            continue;
        };
        let (from, to) = (facts.at(asked), facts.at(since) + SAME_STEP);
        // Linked as far as p knows, at a time when q was there to be asked.
        let there = facts.readers.contains(q) && facts.born.get(q).is_some_and(|born| *born < from);
        if p == q || !there || !facts.lives(*q) || !facts.reach(*p, *q, from, to) {
            continue;
        }
        let mut later = facts.about.get(&(*q, *p)).into_iter().flatten();
        let silent = later.all(|at| *at <= asked);
        // A call of its own, or a LinkDied, is judged elsewhere.
        if silent && facts.link_ended(*q, *p, since).is_some() {
            return broken(
                "P1",
                format!("{q} was linked by {p}, and never told of its end"),
            );
        }
    }
    Ok(())
}

/// P1 (never too early): who is told of an end, or that there is nobody, is told the truth.
pub(super) fn ends_are_true(facts: &Facts<'_>) -> Result<(), Broken> {
    // When each process had read everything, the last time we know of.
    let mut emptied: BTreeMap<Pid, Duration> = BTreeMap::new();
    let mut monitored: BTreeMap<(Pid, u64), Duration> = BTreeMap::new();
    for entry in facts.entries {
        let (by, about, since) = match entry.what {
            What::LinkReturned {
                by,
                to,
                how: Linked::Gone,
                ..
            } => (by, to, emptied.get(&by)),
            What::LinkDied { by, about, .. } => (by, about, emptied.get(&by)),
            What::Down {
                by,
                about,
                reference,
                ..
            } => {
                let asked = monitored.get(&(by, reference));
                (by, about, asked.min(emptied.get(&by)))
            }
            What::MonitorReturned { by, reference, .. } => {
                monitored.insert((by, reference), entry.at);
                continue;
            }
            _ => {
                if let Some((by, ..)) = entry.what.call() {
                    emptied.insert(by, entry.at);
                }
                continue;
            }
        };
        let since = since.copied().unwrap_or_default();
        let until = entry.at + SAME_STEP;
        let lived = facts.born.get(&about).is_some_and(|born| *born < since);
        let ended = facts.ended.get(&about).is_some_and(|(at, _)| *at <= until);
        if lived && !ended && facts.reach(by, about, since, until) {
            return broken(
                "P1",
                format!("{by} was told that {about} is gone, and it is not"),
            );
        }
    }
    Ok(())
}

/// A monitor is told once, or withdrawn.
pub(super) fn monitors(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut open: BTreeMap<(Pid, u64), (Pid, usize)> = BTreeMap::new();
    let mut over: BTreeSet<(Pid, u64)> = BTreeSet::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match entry.what {
            What::MonitorReturned { by, to, reference } => {
                open.insert((by, reference), (to, at));
            }
            What::Demonitored { by, reference } => {
                open.remove(&(by, reference));
                over.insert((by, reference));
            }
            What::Down {
                by,
                about,
                reference,
                ..
            } => {
                if over.contains(&(by, reference)) {
                    return broken(
                        "P1",
                        format!("monitor {reference} of {by} was told too much"),
                    );
                }
                match open.remove(&(by, reference)) {
                    Some((to, _)) if to == about => over.insert((by, reference)),
                    _ => {
                        return broken(
                            "P7",
                            format!("{by} got a Down of {about} it never asked for"),
                        );
                    }
                };
            }
            _ => {}
        }
    }
    for ((by, reference), (to, at)) in open {
        let must = facts.ended.contains_key(&to) || facts.out_of_reach(by, to, at).is_some();
        if by != to && facts.lives(by) && must {
            return broken(
                "P1",
                format!("monitor {reference} of {by} was never told of {to}"),
            );
        }
    }
    Ok(())
}

/// A monitor of a node is told once, when the session with it has ended, or withdrawn.
pub(super) fn node_monitors(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut open: BTreeMap<(Pid, u64), (NodeId, Duration, usize)> = BTreeMap::new();
    let mut over: BTreeSet<(Pid, u64)> = BTreeSet::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match entry.what {
            What::NodeMonitorReturned {
                by,
                node,
                reference,
                since,
            } => {
                open.insert((by, reference), (node, since, at));
            }
            What::Demonitored { by, reference } => {
                open.remove(&(by, reference));
                over.insert((by, reference));
            }
            What::ToldOfNode {
                by,
                node,
                reference,
                ref reason,
            } => {
                if over.contains(&(by, reference)) {
                    return broken(
                        "P1",
                        format!("node monitor {reference} of {by} was told too much"),
                    );
                }
                let Some((asked, since, _)) = open.remove(&(by, reference)) else {
                    return broken("P7", format!("{by} was told of {node}, and never asked"));
                };
                over.insert((by, reference));
                let named = matches!(reason, ExitReason::NodeDown { node, .. } if *node == asked);
                if asked != node || !named {
                    return broken(
                        "P7",
                        format!("{by} monitored {asked}, and was told of {node}: {reason}"),
                    );
                }
                let until = entry.at + SAME_STEP;
                if by.node() == node || facts.open(by.node(), node, since, until) {
                    return broken(
                        "P1",
                        format!("{by} was told that {node} is down, and it is not"),
                    );
                }
            }
            _ => {}
        }
    }
    for ((by, reference), (node, _, at)) in open {
        let after = at + 1..facts.entries.len();
        let must = facts.crashed.contains_key(&node) || facts.lost(by.node(), node, after);
        if by.node() != node && facts.lives(by) && must {
            return broken(
                "P1",
                format!("node monitor {reference} of {by} was never told of {node}"),
            );
        }
    }
    Ok(())
}
