//! The judge: reads a journal and knows the promises, and nothing of how they are kept.
//!
//! What a process was told counts from when it read it; each empties its mailbox before it unlinks or
//! demonitors, so that what it reads afterwards came afterwards. Where two events cross and either order
//! is right, the judge takes the side of the accused.

#![allow(
    clippy::collapsible_match,
    reason = "a pattern says what was seen; what is wrong with it stands below"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidelock::{NodeId, Pid};

use super::cluster::LEASE;
use super::journal::{Entry, Linked, What};
use super::plan::{Fault, Plan};
use super::script::PATIENCE;

/// What a dead or cut-off node may take on top of the lease to be noticed.
const NOTICE: Duration = Duration::from_millis(300);
/// What a call may take on top of its deadline: a window, a timer's rounding, a slow clock.
const SLACK: Duration = Duration::from_millis(100);
/// How long after a fault has ended a session may still end because of it.
const AFTERMATH: Duration = Duration::from_secs(9);

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) promise: &'static str,
    pub(crate) how: String,
}

/// What was seen in a run whose promises were kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) calls: u64,
    pub(crate) told: u64,
    pub(crate) messages: u64,
    pub(crate) sessions_lost: u64,
    pub(crate) processes: u64,
    /// How long cuts took to be noticed, on each side.
    pub(crate) noticed: Vec<Duration>,
}

/// Reads the whole journal.
pub(crate) fn judge(plan: &Plan, entries: &[Entry]) -> Result<Seen, Broken> {
    let facts = Facts::read(entries);
    told_for_a_reason(entries)?;
    told_of_every_end(&facts)?;
    monitors(&facts)?;
    spawns(&facts)?;
    order(&facts)?;
    calls_end(&facts)?;
    sessions(entries)?;
    let noticed = nodes_are_noticed(plan, entries)?;
    no_false_verdict(plan, entries)?;
    sound_calls_succeed(plan, entries)?;
    let count =
        |of: fn(&What) -> bool| entries.iter().filter(|entry| of(&entry.what)).count() as u64;
    Ok(Seen {
        calls: count(|what| {
            matches!(
                what,
                What::LinkCalled { .. }
                    | What::UnlinkCalled { .. }
                    | What::MonitorReturned { .. }
                    | What::Demonitored { .. }
                    | What::SpawnCalled { .. }
                    | What::Sent { .. }
                    | What::Killed { .. }
            )
        }),
        told: count(|what| matches!(what, What::LinkDied { .. } | What::Down { .. })),
        messages: count(|what| matches!(what, What::Got { .. })),
        sessions_lost: count(|what| matches!(what, What::NodeDown { .. })),
        processes: count(|what| matches!(what, What::Began(_) | What::Ran { .. })),
        noticed,
    })
}

impl Seen {
    /// Takes in what was seen in another run.
    pub(crate) fn add(&mut self, other: Seen) {
        self.calls += other.calls;
        self.told += other.told;
        self.messages += other.messages;
        self.sessions_lost += other.sessions_lost;
        self.processes += other.processes;
        // Enough for percentiles, whatever the number of seeds.
        if self.noticed.len() < 1_000_000 {
            self.noticed.extend(other.noticed);
        }
    }
}

fn broken<T>(promise: &'static str, how: String) -> Result<T, Broken> {
    Err(Broken { promise, how })
}

/// The journal, sorted for look-ups; places are indices into it.
struct Facts<'a> {
    entries: &'a [Entry],
    /// Native processes: they read what they get. (Children read and say nothing.)
    readers: BTreeSet<Pid>,
    /// Whether normally.
    ended: BTreeMap<Pid, bool>,
    crashed: BTreeSet<NodeId>,
    /// Session ends, told by `.0` about `.1`.
    downs: BTreeMap<(NodeId, NodeId), Vec<usize>>,
    /// What each process did or was told about each other.
    about: BTreeMap<(Pid, Pid), Vec<usize>>,
}

impl<'a> Facts<'a> {
    fn read(entries: &'a [Entry]) -> Self {
        let mut facts = Facts {
            entries,
            readers: BTreeSet::new(),
            ended: BTreeMap::new(),
            crashed: BTreeSet::new(),
            downs: BTreeMap::new(),
            about: BTreeMap::new(),
        };
        for (at, entry) in entries.iter().enumerate() {
            match entry.what {
                What::Began(pid) => {
                    facts.readers.insert(pid);
                }
                What::Ended { pid, normal } => {
                    facts.ended.insert(pid, normal);
                }
                What::Crashed(node) => {
                    facts.crashed.insert(node);
                }
                What::NodeDown { on, peer, .. } => {
                    facts.downs.entry((on, peer)).or_default().push(at);
                }
                What::LinkCalled { by, to }
                | What::LinkReturned { by, to, .. }
                | What::UnlinkCalled { by, to }
                | What::LinkDied { by, about: to } => {
                    facts.about.entry((by, to)).or_default().push(at);
                }
                What::SpawnReturned {
                    by,
                    child: Some(child),
                    ..
                } => facts.about.entry((by, child)).or_default().push(at),
                _ => {}
            }
        }
        facts
    }

    fn what(&self, at: usize) -> &What {
        &self.entries[at].what
    }

    fn lives(&self, pid: Pid) -> bool {
        !self.ended.contains_key(&pid) && !self.crashed.contains(&pid.node())
    }

    /// Whether `on` had to hear of the end of something at `peer` after `at`, and why.
    fn out_of_reach(&self, on: Pid, peer: Pid, at: usize) -> Option<&'static str> {
        if on.node() == peer.node() {
            return None;
        }
        if self.crashed.contains(&peer.node()) {
            return Some("its node crashed");
        }
        let downs = self.downs.get(&(on.node(), peer.node()));
        downs
            .is_some_and(|downs| downs.iter().any(|down| *down > at))
            .then_some("the session ended")
    }

    /// Whether `p` took its link with `q` back at `after` or later. What it took back before `q` asked for
    /// a new one is no excuse, also if the two crossed.
    fn may_have_unlinked(&self, p: Pid, q: Pid, after: usize) -> bool {
        let places = self.about.get(&(p, q)).into_iter().flatten();
        places.copied().filter(|at| *at >= after).any(|at| {
            matches!(
                self.what(at),
                What::UnlinkCalled { .. }
                    | What::LinkReturned {
                        how: Linked::TimedOut,
                        ..
                    }
            )
        })
    }
}

/// P1 (never two) and P2: every LinkDied has a link that it ends.
fn told_for_a_reason(entries: &[Entry]) -> Result<(), Broken> {
    /// Something that may have made a half.
    struct Cause {
        by: Pid,
        returned: Option<usize>,
    }
    let mut causes: BTreeMap<(Pid, Pid), Vec<Cause>> = BTreeMap::new();
    let mut unlinked: BTreeSet<(Pid, Pid)> = BTreeSet::new();
    // When each process had read everything, the last time we know of: it begins its calls so.
    let mut emptied: BTreeMap<Pid, usize> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        match entry.what {
            What::LinkCalled { by: p, to: q } => {
                emptied.insert(p, at);
                for pair in [(p, q), (q, p)] {
                    causes.entry(pair).or_default().push(Cause {
                        by: p,
                        returned: None,
                    });
                }
            }
            What::SpawnCalled { by, .. } => {
                emptied.insert(by, at);
            }
            What::LinkReturned { by: p, to: q, how } => {
                for pair in [(p, q), (q, p)] {
                    for cause in causes.get_mut(&pair).into_iter().flatten() {
                        if cause.by == p {
                            cause.returned.get_or_insert(at);
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
            }
            What::SpawnReturned {
                by: p,
                child: Some(q),
                ..
            } => causes.entry((p, q)).or_default().push(Cause {
                by: p,
                returned: Some(at),
            }),
            What::UnlinkCalled { by: p, to: q } => {
                emptied.insert(p, at);
                if let Some(all) = causes.get_mut(&(p, q)) {
                    all.retain(|cause| cause.by != p && cause.returned.is_none());
                }
                unlinked.insert((p, q));
            }
            What::LinkDied { by: p, about: q } => {
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
                    all.remove(0);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// P1 (never zero): whoever outlives a link was told of its end.
fn told_of_every_end(facts: &Facts<'_>) -> Result<(), Broken> {
    for ((p, q), places) in &facts.about {
        if p == q || !facts.lives(*p) {
            continue;
        }
        // The last thing that p knows: linked since `since`, asked for at `asked`?
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
        // A LinkDied that is read between the call and its return does not count against the call, and
        // one that is read later does: a process does one thing after the other.
        let Some((asked, since)) = linked else {
            continue;
        };
        if facts.may_have_unlinked(*q, *p, asked) {
            continue;
        }
        let why = match facts.ended.get(q) {
            Some(true) => None,
            Some(false) => Some("it ended"),
            None => facts.out_of_reach(*p, *q, since),
        };
        if let Some(why) = why {
            return broken("P1", format!("{p} was never told of {q}, though {why}"));
        }
    }
    Ok(())
}

/// A monitor is told once, or withdrawn.
fn monitors(facts: &Facts<'_>) -> Result<(), Broken> {
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

/// P3 and P4, and that a child is told of its parent's end.
fn spawns(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut called: BTreeMap<u32, Pid> = BTreeMap::new();
    let mut returned: BTreeMap<u32, (usize, Option<Pid>)> = BTreeMap::new();
    let mut ran: BTreeMap<u32, (usize, Pid)> = BTreeMap::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match entry.what {
            What::SpawnCalled { by, token, .. } => {
                called.insert(token, by);
            }
            What::SpawnReturned { token, child, .. } => {
                returned.insert(token, (at, child));
            }
            What::Ran { child, token } => {
                if ran.insert(token, (at, child)).is_some() {
                    return broken("P7", format!("spawn {token} ran twice"));
                }
            }
            _ => {}
        }
    }
    for (token, (at, child)) in &ran {
        let Some(parent) = called.get(token).copied() else {
            return broken("P7", format!("{child} ran, and nobody spawned it"));
        };
        if let Some((_, outcome)) = returned.get(token)
            && *outcome != Some(*child)
        {
            return broken(
                "P4",
                format!("spawn {token} of {parent} failed, and {child} ran"),
            );
        }
        let parent_gone = match facts.ended.get(&parent) {
            Some(normal) => !normal,
            None => facts.out_of_reach(*child, parent, *at).is_some(),
        };
        if parent_gone && facts.lives(*child) && !facts.may_have_unlinked(parent, *child, 0) {
            return broken(
                "P3",
                format!("{child} outlived its link with its parent {parent}"),
            );
        }
    }
    for (token, (at, child)) in &returned {
        let (Some(child), Some(parent)) = (child, called.get(token)) else {
            continue;
        };
        let reached = facts.lives(*child) && facts.out_of_reach(*parent, *child, *at).is_none();
        if reached && facts.out_of_reach(*child, *parent, *at).is_none() && !ran.contains_key(token)
        {
            return broken("P6", format!("{child} was spawned and never ran"));
        }
    }
    Ok(())
}

/// P5 and P7: messages arrive in order, without gaps in a session, at whom they were meant for.
fn order(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut sent: BTreeMap<(Pid, Pid), Vec<(u64, usize)>> = BTreeMap::new();
    let mut got: BTreeMap<(Pid, Pid), usize> = BTreeMap::new();
    let cut = |a: Pid, b: Pid, from: usize, to: usize| {
        let between = |on: NodeId, peer: NodeId| {
            facts
                .downs
                .get(&(on, peer))
                .is_some_and(|downs| downs.iter().any(|down| (from..to).contains(down)))
        };
        between(a.node(), b.node())
            || between(b.node(), a.node())
            || facts.crashed.contains(&a.node())
            || facts.crashed.contains(&b.node())
    };
    for (at, entry) in facts.entries.iter().enumerate() {
        match entry.what {
            What::Sent { by, to, number } => sent.entry((by, to)).or_default().push((number, at)),
            What::Got {
                by,
                from,
                meant,
                number,
            } => {
                if meant != by {
                    return broken("P7", format!("{by} got what was meant for {meant}"));
                }
                let all = sent.get(&(from, by)).map_or(&[][..], Vec::as_slice);
                let Some(place) = all.iter().position(|(sent, _)| *sent == number) else {
                    return broken("P7", format!("{by} got {number} from {from}, never sent"));
                };
                let next = got.entry((from, by)).or_default();
                if place < *next {
                    return broken("P5", format!("{by} got {number} from {from} late or twice"));
                }
                if place > *next && !cut(from, by, all[*next].1, at) {
                    return broken(
                        "P5",
                        format!(
                            "{by} missed {} from {from}, then got {number}",
                            all[*next].0
                        ),
                    );
                }
                *next = place + 1;
            }
            _ => {}
        }
    }
    for ((from, to), all) in sent {
        let next = got.get(&(from, to)).copied().unwrap_or(0);
        let Some((number, at)) = all.get(next) else {
            continue;
        };
        let reads = facts.readers.contains(&to);
        if reads && facts.lives(to) && !cut(from, to, *at, facts.entries.len()) {
            return broken("P5", format!("{to} never got {number} from {from}"));
        }
    }
    Ok(())
}

/// P6: calls end by their deadline, unless their machine stands still.
fn calls_end(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut under_way: BTreeMap<Pid, Duration> = BTreeMap::new();
    let mut paused: BTreeMap<NodeId, Duration> = BTreeMap::new();
    let end = facts
        .entries
        .last()
        .map_or(Duration::ZERO, |entry| entry.at);
    let late = |pid: Pid, began: Duration, at: Duration, paused: &BTreeMap<NodeId, Duration>| {
        let still = paused.get(&pid.node()).is_some_and(|until| *until >= began);
        (at > began + PATIENCE + SLACK && !still).then_some(pid)
    };
    for entry in facts.entries {
        if let Some((by, _)) = entry.what.call() {
            under_way.insert(by, entry.at);
        }
        match entry.what {
            What::LinkReturned { by, .. }
            | What::UnlinkReturned { by, .. }
            | What::SpawnReturned { by, .. } => {
                if let Some(began) = under_way.remove(&by)
                    && let Some(pid) = late(by, began, entry.at, &paused)
                {
                    let took = entry.at - began;
                    return broken("P6", format!("a call of {pid} took {took:?}"));
                }
            }
            What::Paused(node) => {
                paused.insert(node, Duration::MAX);
            }
            What::Resumed(node) => {
                paused.insert(node, entry.at);
            }
            _ => {}
        }
    }
    for (by, began) in under_way {
        if facts.lives(by)
            && let Some(pid) = late(by, began, end, &paused)
        {
            return broken("P6", format!("a call of {pid} never returned"));
        }
    }
    Ok(())
}

/// P7: sessions of a pair open and end in turn, each with a larger epoch.
fn sessions(entries: &[Entry]) -> Result<(), Broken> {
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
fn nodes_are_noticed(plan: &Plan, entries: &[Entry]) -> Result<Vec<Duration>, Broken> {
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
                let pairs = (0..super::plan::NODES).filter(|b| *b != a);
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
            let (mut names, mut open) = (BTreeMap::new(), None);
            let mut next = 0;
            for entry in entries {
                match entry.what {
                    What::Started(node) => {
                        // The first starts come in the order of the names; later ones are not judged.
                        names.insert(node, next);
                        next += 1;
                    }
                    What::Crashed(node) if entry.at <= due.at => {
                        if open.is_some_and(|(a, b)| a == node || b == node) {
                            open = None;
                        }
                    }
                    What::NodeUp { on: a, peer: b, .. } if entry.at <= due.at => {
                        if names.get(&a) == Some(&on) && names.get(&b) == Some(&peer) {
                            open = Some((a, b));
                        }
                    }
                    What::NodeDown { on: a, peer: b, .. } if entry.at <= due.at => {
                        if open == Some((a, b)) {
                            open = None;
                        }
                    }
                    _ => {}
                }
            }
            let Some((a, b)) = open else { continue };
            let down = entries.iter().find(|entry| {
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

/// No session ends but for a fault: loss of up to 5 % and delay are none.
fn no_false_verdict(plan: &Plan, entries: &[Entry]) -> Result<(), Broken> {
    for entry in entries {
        if let What::NodeDown { on, peer, why, .. } = &entry.what
            && !is_disturbed(plan, entry.at)
        {
            return broken("P6", format!("{on} gave {peer} up without a cause: {why}"));
        }
    }
    Ok(())
}

/// P6: on a sound network a call that waits long enough is answered. One about a node that crashed need
/// not be: whoever answers at its address now says so once, and that may be lost.
fn sound_calls_succeed(plan: &Plan, entries: &[Entry]) -> Result<(), Broken> {
    let mut called: BTreeMap<Pid, (Duration, NodeId)> = BTreeMap::new();
    let mut crashed = BTreeSet::new();
    for entry in entries {
        if let Some((by, about)) = entry.what.call() {
            called.insert(by, (entry.at, about));
        }
        let by = match entry.what {
            What::Crashed(node) => {
                crashed.insert(node);
                continue;
            }
            What::LinkReturned {
                by,
                how: Linked::TimedOut,
                ..
            }
            | What::UnlinkReturned {
                by, in_time: false, ..
            }
            | What::SpawnReturned {
                by, child: None, ..
            } => by,
            _ => continue,
        };
        // Sessions that open at the start are waited for, too.
        if let Some((began, node)) = called.get(&by)
            && !crashed.contains(node)
            && *began > LEASE
            && entry.at - *began >= PATIENCE - SLACK
            && !is_disturbed(plan, entry.at)
            && !is_disturbed(plan, *began)
        {
            return broken("P6", format!("nobody answered a call of {by} at {began:?}"));
        }
    }
    Ok(())
}
