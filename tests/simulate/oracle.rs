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
use std::ops::Range;
use std::time::Duration;

use tidelock::{ExitReason, NodeId, Pid};

use super::journal::{Entry, Linked, What};
use super::plan::{Due, Fault, Plan};

mod calls;
mod leaves;
mod sessions;
mod timers;
mod told;
mod words;

/// What a call may take on top of its deadline: how far a node runs ahead, a timer's rounding, a slow clock.
const SLACK: Duration = Duration::from_millis(100);

/// How far apart the lines of one step may be written.
const SAME_STEP: Duration = Duration::from_millis(10);

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
    /// Sessions with nodes that were dead, stood still or left, each noticed on one side.
    pub(crate) gone: u64,
}

/// Reads the whole journal.
pub(crate) fn judge(plan: &Plan, entries: &[Entry]) -> Result<Seen, Broken> {
    let facts = Facts::read(plan, entries);
    told::told_for_a_reason(entries)?;
    told::told_of_every_end(&facts)?;
    told::asked_are_told(&facts)?;
    told::ends_are_true(&facts)?;
    told::monitors(&facts)?;
    told::node_monitors(&facts)?;
    words::ends_say_why_and_come_last(&facts)?;
    words::tags_are_those_of_links(entries)?;
    spawns(&facts)?;
    order(&facts)?;
    timers::timers(&facts)?;
    calls::calls_end(&facts)?;
    calls::waits_end(&facts)?;
    calls::sessions_end_calls(&facts)?;
    calls::sound_calls_succeed(&facts)?;
    sessions::sessions(entries)?;
    sessions::sessions_end_once_with_a_certificate(entries)?;
    sessions::sessions_end_with_certificates(&facts)?;
    let noticed = sessions::nodes_are_noticed(plan, &facts)?;
    let gone = sessions::stopped_nodes_are_noticed(&facts)? + leaves::leaves(plan, &facts)?;
    sessions::no_false_verdict(plan, &facts)?;
    let count =
        |of: fn(&What) -> bool| entries.iter().filter(|entry| of(&entry.what)).count() as u64;
    Ok(Seen {
        calls: count(|what| {
            matches!(
                what,
                What::LinkCalled { .. }
                    | What::UnlinkCalled { .. }
                    | What::MonitorReturned { .. }
                    | What::NodeMonitorReturned { .. }
                    | What::Demonitored { .. }
                    | What::SpawnCalled { .. }
                    | What::Sent { .. }
                    | What::TimerSet { .. }
                    | What::Killed { .. }
            )
        }),
        told: count(|what| {
            matches!(
                what,
                What::LinkDied { .. } | What::Down { .. } | What::ToldOfNode { .. }
            )
        }),
        messages: count(|what| matches!(what, What::Got { .. })),
        sessions_lost: count(|what| matches!(what, What::NodeDown { .. })),
        processes: count(|what| matches!(what, What::Began(_) | What::Ran { .. })),
        noticed,
        gone,
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
        self.gone += other.gone;
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
    /// When each process is known to have been there.
    born: BTreeMap<Pid, Duration>,
    /// When, and why.
    ended: BTreeMap<Pid, (Duration, &'a ExitReason)>,
    /// When they did, or were gone after they had left.
    crashed: BTreeMap<NodeId, Duration>,
    /// When they began to.
    leaving: BTreeMap<NodeId, Duration>,
    /// Which machine each node is a start of.
    names: BTreeMap<NodeId, usize>,
    /// Where sessions opened (`true`) and ended, as `.0` saw those with `.1`.
    sessions: BTreeMap<(NodeId, NodeId), Vec<(usize, bool)>>,
    /// When, and between which machines, the network was not sound: all of them, if there are none.
    disturbed: Vec<(Duration, Duration, Vec<usize>)>,
    /// What each process did or was told about each other.
    about: BTreeMap<(Pid, Pid), Vec<usize>>,
}

/// When a fault may show, and between which machines. What is lost in it is sent again less and less often,
/// so it takes as long again until the network works.
fn disturbed(due: &Due) -> Option<(Duration, Duration, Vec<usize>)> {
    let between = match due.fault {
        Fault::OneWay(a, b, _) | Fault::Partition(a, b, _) => vec![a, b],
        Fault::Isolate(a, _) | Fault::Pause(a, _) | Fault::Crash(a, _) => vec![a],
        Fault::Storm(..) => Vec::new(),
        // Whoever leaves says so.
        Fault::Leave(..) | Fault::ControlDown(_) => return None,
    };
    let until = due.at + 2 * due.fault.length() + Duration::from_secs(1);
    Some((due.at, until, between))
}

impl<'a> Facts<'a> {
    fn read(plan: &Plan, entries: &'a [Entry]) -> Self {
        let mut facts = Facts {
            entries,
            readers: BTreeSet::new(),
            born: BTreeMap::new(),
            names: BTreeMap::new(),
            sessions: BTreeMap::new(),
            disturbed: plan.faults().iter().filter_map(disturbed).collect(),
            ended: BTreeMap::new(),
            crashed: BTreeMap::new(),
            leaving: BTreeMap::new(),
            about: BTreeMap::new(),
        };
        for (at, entry) in entries.iter().enumerate() {
            match entry.what {
                What::Started { node, name } => {
                    facts.names.insert(node, name);
                }
                What::Began(pid) => {
                    facts.readers.insert(pid);
                    facts.born.insert(pid, entry.at);
                }
                What::Ran { child, .. } => {
                    facts.born.insert(child, entry.at);
                }
                What::Ended { pid, ref reason } => {
                    facts.ended.insert(pid, (entry.at, reason));
                }
                What::Crashed(node) => {
                    facts.crashed.insert(node, entry.at);
                }
                What::Leaves(node) => {
                    facts.leaving.insert(node, entry.at);
                }
                What::NodeUp { on, peer, .. } | What::NodeDown { on, peer, .. } => {
                    let opened = matches!(entry.what, What::NodeUp { .. });
                    let changes = facts.sessions.entry((on, peer)).or_default();
                    changes.push((at, opened));
                }
                What::LinkCalled { by, to, .. }
                | What::LinkReturned { by, to, .. }
                | What::UnlinkCalled { by, to, .. }
                | What::LinkDied { by, about: to, .. } => {
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

    fn at(&self, at: usize) -> Duration {
        self.entries[at].at
    }

    /// Whether `by` could reach `to` all the time, as its node saw it.
    fn reach(&self, by: Pid, to: Pid, from: Duration, until: Duration) -> bool {
        by.node() == to.node() || self.open(by.node(), to.node(), from, until)
    }

    /// Where the session of `on` with `peer` opened and ended.
    fn changes(&self, on: NodeId, peer: NodeId) -> &[(usize, bool)] {
        self.sessions.get(&(on, peer)).map_or(&[], Vec::as_slice)
    }

    /// Whether a node has begun to leave by then. From there on everybody may have been told of the end of its
    /// sessions, though they are over only when each side has what the other one said.
    fn leaves(&self, node: NodeId, until: Duration) -> bool {
        self.leaving.get(&node).is_some_and(|at| *at <= until)
    }

    /// The end of the journal.
    fn end(&self) -> Duration {
        self.entries.last().map_or(Duration::ZERO, |last| last.at)
    }

    /// Whether `on` had an open session with `peer` all the time, and neither was about to leave.
    fn open(&self, on: NodeId, peer: NodeId, from: Duration, until: Duration) -> bool {
        if self.leaves(on, until) || self.leaves(peer, until) {
            return false;
        }
        let changes = self.changes(on, peer);
        let before = changes.partition_point(|(at, _)| self.at(*at) < from);
        let was_open = before > 0 && changes[before - 1].1;
        was_open && changes[before..].iter().all(|(at, _)| self.at(*at) > until)
    }

    /// Whether a session of `on` with `peer` ended at one of these places.
    fn lost(&self, on: NodeId, peer: NodeId, within: Range<usize>) -> bool {
        let mut changes = self.changes(on, peer).iter();
        changes.any(|(at, opened)| !opened && within.contains(at))
    }

    /// Whether what `a` sent `b` at `from` may have been lost until `to`.
    fn cut(&self, a: Pid, b: Pid, from: usize, to: usize) -> bool {
        self.lost(a.node(), b.node(), from..to)
            || self.lost(b.node(), a.node(), from..to)
            || self.crashed.contains_key(&a.node())
            || self.crashed.contains_key(&b.node())
    }

    /// Whether somebody was there when something was sent to them: what was sent to a pid that was guessed may have
    /// come too early.
    fn was_there(&self, to: Pid, sent: usize) -> bool {
        let born = self.born.get(&to);
        born.is_none_or(|born| *born <= self.at(sent))
    }

    /// Whether nothing was in the way of the two all the time.
    fn sound(&self, a: NodeId, b: NodeId, from: Duration, until: Duration) -> bool {
        let open = a == b || (self.open(a, b, from, until) && self.open(b, a, from, until));
        open && self.undisturbed(a, b, from, until)
    }

    /// Whether no fault may have shown between the two in that time.
    fn undisturbed(&self, a: NodeId, b: NodeId, from: Duration, until: Duration) -> bool {
        let pair = [self.names.get(&a), self.names.get(&b)];
        !self.disturbed.iter().any(|(begin, end, between)| {
            let touches = between.iter().all(|name| pair.contains(&Some(name)));
            touches && *begin <= until && from <= *end
        })
    }

    fn lives(&self, pid: Pid) -> bool {
        !self.ended.contains_key(&pid) && !self.crashed.contains_key(&pid.node())
    }

    /// Whether `on` had to hear of the end of something at `peer` after `at`, and why.
    fn out_of_reach(&self, on: Pid, peer: Pid, at: usize) -> Option<&'static str> {
        if on.node() == peer.node() {
            return None;
        }
        if self.crashed.contains_key(&peer.node()) {
            return Some("its node crashed");
        }
        let lost = self.lost(on.node(), peer.node(), at + 1..self.entries.len());
        lost.then_some("the session ended")
    }

    /// Whether `on`, linked with `peer` since `at`, had to be told of an end of that, and why: a normal end
    /// is told to nobody.
    fn link_ended(&self, on: Pid, peer: Pid, at: usize) -> Option<&'static str> {
        match self.ended.get(&peer) {
            Some((_, reason)) => (!reason.is_normal()).then_some("it ended"),
            None => self.out_of_reach(on, peer, at),
        }
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
    for entry in facts.entries {
        if let What::Lives(pid) = entry.what
            && !facts.born.contains_key(&pid)
        {
            return broken("P4", format!("{pid} was made, and neither ran nor ended"));
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
        let parent_gone = facts.link_ended(*child, parent, *at);
        if parent_gone.is_some()
            && facts.lives(*child)
            && !facts.may_have_unlinked(parent, *child, 0)
        {
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
    // They keep no order: what they say is said by nobody.
    let mut timers: BTreeSet<u64> = BTreeSet::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match entry.what {
            What::Sent { by, to, number } => sent.entry((by, to)).or_default().push((number, at)),
            What::TimerSet { number, .. } => {
                timers.insert(number);
            }
            What::Got {
                by,
                from,
                meant,
                number,
            } => {
                if meant != by {
                    return broken("P7", format!("{by} got what was meant for {meant}"));
                }
                if timers.contains(&number) {
                    continue;
                }
                let all = sent.get(&(from, by)).map_or(&[][..], Vec::as_slice);
                let Some(place) = all.iter().position(|(sent, _)| *sent == number) else {
                    return broken("P7", format!("{by} got {number} from {from}, never sent"));
                };
                let next = got.entry((from, by)).or_default();
                if place < *next {
                    return broken("P5", format!("{by} got {number} from {from} late or twice"));
                }
                let mut passed = all[*next..place].iter();
                if let Some((missed, sent)) = passed.find(|(_, sent)| facts.was_there(by, *sent))
                    && !facts.cut(from, by, *sent, at)
                {
                    return broken(
                        "P5",
                        format!("{by} missed {missed} from {from}, then got {number}"),
                    );
                }
                *next = place + 1;
            }
            _ => {}
        }
    }
    for ((from, to), all) in sent {
        let next = got.get(&(from, to)).copied().unwrap_or(0);
        let mut left = all[next..].iter();
        let Some((number, at)) = left.find(|(_, sent)| facts.was_there(to, *sent)) else {
            continue;
        };
        let reads = facts.readers.contains(&to);
        if reads && facts.lives(to) && !facts.cut(from, to, *at, facts.entries.len()) {
            return broken("P5", format!("{to} never got {number} from {from}"));
        }
    }
    Ok(())
}
