//! What an end says, and when: its reason, the tag of the link, and after everything that was said before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidelock::{ExitReason, Pid};

use super::super::cluster::LEASE;
use super::super::journal::{Entry, Linked, What};
use super::super::script::CHILD_TAG;
use super::{Broken, Facts, SAME_STEP, SLACK, broken};

/// Somebody was told of an end.
struct Told<'a> {
    by: Pid,
    about: Pid,
    at: Duration,
    reason: &'a ExitReason,
    /// When it was asked for, if that is known.
    asked: Option<Duration>,
    /// When the other one had answered.
    answered: Option<Duration>,
}

impl Told<'_> {
    /// Whether the other one was born before it was asked for. *No such process* is also said of one that is to be born.
    fn was_born(&self, facts: &Facts<'_>) -> bool {
        let born = facts.born.get(&self.about);
        born.is_some_and(|born| self.asked.is_some_and(|asked| *born < asked))
    }

    /// Whether the other one is dead, so that nothing of it is still to come.
    fn is_end(&self, facts: &Facts<'_>) -> bool {
        let ended = facts.ended.get(&self.about);
        let is_dead = ended.is_some_and(|(ended, _)| *ended <= self.at + SAME_STEP);
        let says_so = match self.reason {
            ExitReason::NodeDown { .. } => false,
            ExitReason::NoProcess => self.was_born(facts),
            _ => true,
        };
        is_dead && says_so
    }

    /// Whether the reason is the one for which the other ended, or why that is not known here.
    fn is_true(&self, facts: &Facts<'_>) -> bool {
        let ended = facts.ended.get(&self.about);
        match self.reason {
            ExitReason::NodeDown { node, .. } => {
                *node == self.about.node() && *node != self.by.node()
            }
            // Not of one that has answered and lives on.
            ExitReason::NoProcess => !self.answered.is_some_and(|answered| {
                let lived_on = ended.is_none_or(|(ended, _)| *ended > answered + SAME_STEP);
                lived_on && self.was_born(facts)
            }),
            reason => match ended {
                Some((_, why)) => *why == reason,
                // Nobody wrote that down.
                None => {
                    facts.crashed.contains_key(&self.about.node()) || self.at + SLACK > facts.end()
                }
            },
        }
    }
}

/// P1 and P5: whoever is told of an end is told why, and has got everything that was sent before.
pub(super) fn ends_say_why_and_come_last(facts: &Facts<'_>) -> Result<(), Broken> {
    let mut monitored: BTreeMap<(Pid, u64), Duration> = BTreeMap::new();
    let mut called: BTreeMap<(Pid, Pid), Duration> = BTreeMap::new();
    let mut linked: BTreeMap<(Pid, Pid), Duration> = BTreeMap::new();
    let mut sent: BTreeMap<(Pid, Pid), Vec<(u64, usize)>> = BTreeMap::new();
    let mut got: BTreeMap<(Pid, Pid), usize> = BTreeMap::new();
    let mut over: BTreeSet<(Pid, Pid)> = BTreeSet::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        let told = |by, about, reason, asked, answered| Told {
            by,
            about,
            at: entry.at,
            reason,
            asked,
            answered,
        };
        let (told, is_read) = match entry.what {
            What::MonitorReturned { by, reference, .. } => {
                monitored.insert((by, reference), entry.at);
                continue;
            }
            What::LinkCalled { by, to, .. } => {
                called.insert((by, to), entry.at);
                continue;
            }
            What::LinkReturned {
                by,
                to,
                how: Linked::Yes,
                ..
            } => {
                linked.insert((by, to), entry.at);
                continue;
            }
            What::Sent { by, to, number } => {
                sent.entry((by, to)).or_default().push((number, at));
                continue;
            }
            What::Got {
                by, from, number, ..
            } => {
                let all = sent.get(&(from, by)).map_or(&[][..], Vec::as_slice);
                // What a timer sends is said by nobody.
                let Some(place) = all.iter().position(|(sent, _)| *sent == number) else {
                    continue;
                };
                if over.contains(&(by, from)) {
                    return broken(
                        "P5",
                        format!("{by} was told of the end of {from}, then got {number} from it"),
                    );
                }
                got.insert((from, by), place + 1);
                continue;
            }
            What::Down {
                by,
                about,
                reference,
                ref reason,
            } => {
                let asked = monitored.get(&(by, reference)).copied();
                // It says nothing, so it takes a while until the other node has been asked for sure.
                let is_here = by.node() == about.node();
                let is_sound = |from, until| facts.sound(by.node(), about.node(), from, until);
                let answered = match asked {
                    Some(asked) if is_here => Some(asked),
                    Some(asked) if is_sound(asked, asked + LEASE) => Some(asked + LEASE),
                    _ => None,
                };
                (told(by, about, reason, asked, answered), true)
            }
            What::LinkDied {
                by,
                about,
                ref reason,
                ..
            } => {
                let asked = called.get(&(by, about)).copied();
                let answered = linked.get(&(by, about)).copied();
                (told(by, about, reason, asked, answered), true)
            }
            What::LinkReturned {
                by,
                to,
                reason: Some(ref reason),
                ..
            } => (told(by, to, reason, None, None), false),
            _ => continue,
        };
        let (by, about) = (told.by, told.about);
        if !told.is_true(facts) {
            let reason = told.reason;
            return broken(
                "P1",
                format!("{by} was told a wrong reason of {about}: {reason}"),
            );
        }
        // What `link` returns says nothing of what was read.
        if !is_read || !told.is_end(facts) {
            continue;
        }
        over.insert((by, about));
        let all = sent.get(&(about, by)).map_or(&[][..], Vec::as_slice);
        let mut left = all[got.get(&(about, by)).copied().unwrap_or(0)..].iter();
        if let Some((missed, sent)) = left.find(|(_, sent)| facts.was_there(by, *sent))
            && !facts.cut(about, by, *sent, at)
        {
            return broken(
                "P5",
                format!("{by} was told of the end of {about} before it got {missed} from it"),
            );
        }
    }
    Ok(())
}

/// The tag of a link that may be in place.
struct Tag {
    by: Pid,
    tag: i64,
    /// The other one has answered.
    answered: bool,
    /// Another tag, or no link, is in its place from there on.
    until: Option<usize>,
}

fn is_link_of(what: &What, p: Pid, q: Pid) -> bool {
    matches!(*what, What::LinkCalled { by, to, .. } if (by, to) == (p, q))
}

fn is_lost(what: &What, p: Pid, q: Pid) -> bool {
    match what {
        What::LinkDied {
            by, about, reason, ..
        } => (*by, *about) == (p, q) && matches!(reason, ExitReason::NodeDown { .. }),
        // It does not live to read it.
        What::Ended {
            pid,
            reason: ExitReason::LinkDied { pid: about, why },
        } => (*pid, *about) == (p, q) && why.starts_with("node "),
        _ => false,
    }
}

/// When the end of a session took the link away that p's `link()` made, which returned there. It may have been answered by
/// that end: then q hears of it later, or never.
pub(super) fn lost_at(entries: &[Entry], returned: usize, p: Pid, q: Pid) -> Option<Duration> {
    let mut of_link = entries[returned..]
        .iter()
        .take_while(|later| !is_link_of(&later.what, p, q));
    let lost = of_link.find(|later| is_lost(&later.what, p, q))?;
    Some(lost.at)
}

/// P1: a LinkDied carries the tag of the link that it ends.
pub(super) fn tags_are_those_of_links(entries: &[Entry]) -> Result<(), Broken> {
    let mut tags: BTreeMap<(Pid, Pid), Vec<Tag>> = BTreeMap::new();
    // When each process had read everything, the last time we know of.
    let mut emptied: BTreeMap<Pid, usize> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Some((p, ..)) = entry.what.call() {
            emptied.insert(p, at);
        }
        match entry.what {
            What::LinkCalled {
                by: p, to: q, tag, ..
            } => {
                for pair in [(p, q), (q, p)] {
                    tags.entry(pair).or_default().push(Tag {
                        by: p,
                        tag,
                        answered: false,
                        until: None,
                    });
                }
            }
            What::SpawnReturned {
                by: p,
                child: Some(q),
                ..
            } => tags.entry((p, q)).or_default().push(Tag {
                by: p,
                tag: CHILD_TAG,
                answered: true,
                until: None,
            }),
            What::LinkReturned {
                by: p,
                to: q,
                how: Linked::Yes,
                ..
            } => {
                let died = lost_at(entries, at, p, q).is_some();
                let pairs = if died {
                    &[(p, q)][..]
                } else {
                    &[(p, q), (q, p)]
                };
                for pair in pairs {
                    let all = tags.get_mut(pair).into_iter().flatten();
                    let mut of_p = all.filter(|tag| tag.by == p).rev();
                    if let Some(newest) = of_p.next() {
                        newest.answered = true;
                    }
                    for older in of_p {
                        older.until.get_or_insert(at);
                    }
                }
            }
            What::UnlinkCalled { by: p, to: q, .. }
            | What::LinkReturned {
                by: p,
                to: q,
                how: Linked::TimedOut,
                ..
            } => {
                for tag in tags.get_mut(&(p, q)).into_iter().flatten() {
                    if tag.by == p || tag.answered {
                        tag.until.get_or_insert(at);
                    }
                }
            }
            What::LinkDied {
                by: p,
                about: q,
                tag,
                ..
            } => {
                let emptied = emptied.get(&p).copied().unwrap_or(0);
                let mut all = tags.get(&(p, q)).into_iter().flatten();
                let known = all.any(|of_link| {
                    let counts = of_link.until.is_none_or(|until| until > emptied);
                    counts && Some(of_link.tag) == tag
                });
                if !known {
                    return broken("P1", format!("{p} was told of {q} with the tag {tag:?}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
