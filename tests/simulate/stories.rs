//! Journals written by hand: the judge must see what is wrong in each, and nothing in those that are right.

use std::time::Duration;

use tidelock::{ExitReason, NodeId, Pid};

use crate::simulate::cluster::LEASE;
use crate::simulate::journal::{Entry, Linked, What};
use crate::simulate::oracle::judge;
use crate::simulate::plan::{Due, Fault, Plan};

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);
/// A later start of the name of p's node.
const AGAIN: NodeId = NodeId(3);

fn p() -> Pid {
    Pid::new(HERE, 1).expect("a small number")
}

fn r() -> Pid {
    Pid::new(HERE, 2).expect("a small number")
}

fn q() -> Pid {
    Pid::new(THERE, 1).expect("a small number")
}

/// Nothing goes wrong in it.
fn calm() -> Plan {
    Plan {
        mask: 0,
        ..Plan::of(0)
    }
}

/// A plan with nothing in it but a fault like that.
fn plan_with(is_it: impl Fn(&Due) -> bool) -> Plan {
    let single = (0..1_000).flat_map(|seed| (0..5).map(move |bit| (seed, 1 << bit)));
    let mut plans = single.map(|(seed, mask)| Plan {
        mask,
        ..Plan::of(seed)
    });
    let found = plans.find(|plan| is_it(&plan.faults()[0]));
    found.expect("one of so many seeds")
}

fn millis(at: Duration) -> u64 {
    at.as_millis() as u64
}

/// What the judge says of a story that begins with p and r on one node, q on another, and an open session.
fn judged(plan: &Plan, story: Vec<(u64, What)>) -> Result<(), &'static str> {
    let up = |on, peer| What::NodeUp { on, peer, epoch: 1 };
    let name = |node, name| What::Started { node, name };
    let mut all = vec![(0, name(HERE, 0)), (0, name(THERE, 1))];
    all.extend([(100, up(HERE, THERE)), (100, up(THERE, HERE))]);
    all.extend([p(), r(), q()].map(|pid| (500, What::Began(pid))));
    all.extend(story);
    all.push((31_500, What::Lives(p())));
    let entry = |(ms, what)| Entry {
        at: Duration::from_millis(ms),
        what,
    };
    let entries: Vec<Entry> = all.into_iter().map(entry).collect();
    judge(plan, &entries)
        .map(|_| ())
        .map_err(|broken| broken.promise)
}

fn ended(reason: ExitReason) -> What {
    What::Ended { pid: q(), reason }
}

fn sent(number: u64) -> What {
    What::Sent {
        by: q(),
        to: p(),
        number,
    }
}

fn got(number: u64) -> What {
    What::Got {
        by: p(),
        from: q(),
        meant: p(),
        number,
    }
}

fn down(reason: ExitReason) -> What {
    What::Down {
        by: p(),
        about: q(),
        reference: 1,
        reason,
    }
}

fn monitored() -> What {
    What::MonitorReturned {
        by: p(),
        to: q(),
        reference: 1,
    }
}

fn link_called(tag: i64) -> What {
    What::LinkCalled {
        by: p(),
        to: q(),
        tag,
        within: Duration::from_secs(2),
    }
}

fn link_returned(how: Linked) -> What {
    What::LinkReturned {
        by: p(),
        to: q(),
        how,
        reason: None,
    }
}

/// An unlink of somebody else: it begins with a look at everything that was there.
fn has_read(at: u64) -> [(u64, What); 2] {
    let (by, to) = (p(), r());
    let within = Duration::from_secs(1);
    let in_time = true;
    [
        (at, What::UnlinkCalled { by, to, within }),
        (at, What::UnlinkReturned { by, to, in_time }),
    ]
}

fn send_called(bytes: usize) -> What {
    let (by, to) = (p(), q());
    What::SendCalled { by, to, bytes }
}

fn link_died(tag: i64) -> What {
    What::LinkDied {
        by: p(),
        about: q(),
        tag: Some(tag),
        reason: ExitReason::Exit(1),
    }
}

fn node_down(why: &str) -> What {
    given_up(HERE, THERE, why)
}

fn given_up(on: NodeId, peer: NodeId, why: &str) -> What {
    What::NodeDown {
        on,
        peer,
        epoch: 1,
        why: why.into(),
    }
}

#[test]
fn an_end_comes_last_and_says_why() {
    let story = |got_at, reason| {
        let mut story = vec![(1_000, monitored()), (2_000, sent(7))];
        story.extend([(2_100, ended(ExitReason::Exit(1))), (2_200, down(reason))]);
        story.push((got_at, got(7)));
        story.sort_by_key(|(at, _)| *at);
        judged(&calm(), story)
    };
    assert_eq!(story(2_050, ExitReason::Exit(1)), Ok(()));
    assert_eq!(story(2_300, ExitReason::Exit(1)), Err("P5"));
    assert_eq!(story(2_050, ExitReason::Exit(2)), Err("P1"));
    assert_eq!(story(2_050, ExitReason::MailboxFull), Err("P1"));
}

#[test]
fn a_link_died_has_the_tag_of_its_link() {
    let story = |tag| {
        let mut story = vec![(1_000, link_called(3)), (1_100, link_returned(Linked::Yes))];
        story.extend([(1_200, link_called(4)), (1_300, link_returned(Linked::Yes))]);
        story.extend(has_read(1_400));
        story.extend([(5_000, ended(ExitReason::Exit(1))), (5_100, link_died(tag))]);
        judged(&calm(), story)
    };
    assert_eq!(story(4), Ok(()));
    assert_eq!(story(3), Err("P1"), "it was replaced");
    assert_eq!(story(9), Err("P1"));
}

#[test]
fn a_link_that_the_end_of_a_session_answered_may_come_later() {
    let plan = plan_with(|due| matches!(due.fault, Fault::Pause(1, length) if length > LEASE));
    let since = millis(plan.faults()[0].at);
    let (told, over) = (since + 3_100, since + 3_200);
    let down = |by: Pid, about: Pid| What::LinkDied {
        by,
        about,
        tag: Some(7),
        reason: ExitReason::NodeDown {
            node: about.node(),
            how: "lost".into(),
        },
    };
    // q asks for a link with p, whose node stands still and is given up. p goes on, unlinks q, and only then
    // hears of the link, and that q's node is gone.
    let story = |answered_at: u64| {
        let (by, to) = (p(), q());
        let within = Duration::from_secs(4);
        let mut story = vec![
            (since + 100, What::Paused(HERE)),
            (
                since + 200,
                What::LinkCalled {
                    by: to,
                    to: by,
                    tag: 7,
                    within,
                },
            ),
            (
                answered_at,
                What::LinkReturned {
                    by: to,
                    to: by,
                    how: Linked::Yes,
                    reason: None,
                },
            ),
            (told, given_up(THERE, HERE, "no round trip")),
            (told, down(to, by)),
        ];
        story.extend([
            (over, What::Resumed(HERE)),
            (over, What::UnlinkCalled { by, to, within }),
            (
                over,
                What::UnlinkReturned {
                    by,
                    to,
                    in_time: true,
                },
            ),
            (over, down(by, to)),
            (over, node_down("no round trip")),
        ]);
        judged(&plan, story)
    };
    assert_eq!(story(told), Ok(()));
    assert_eq!(story(since + 2_000), Err("P2"), "it was linked long before");
}

#[test]
fn a_link_without_an_answer_is_none() {
    let story = |told_at| {
        let mut story = vec![(1_000, link_called(3)), (1_100, link_returned(Linked::Yes))];
        story.extend([
            (2_000, link_called(4)),
            (3_900, ended(ExitReason::Exit(1))),
            (4_000, link_returned(Linked::TimedOut)),
            (told_at, link_died(3)),
        ]);
        story.extend(has_read(5_000));
        story.sort_by_key(|(at, _)| *at);
        judged(&calm(), story)
    };
    assert_eq!(story(4_100), Ok(()), "it was in the mailbox before");
    assert_eq!(story(5_100), Err("P2"));
}

#[test]
fn every_wait_ends() {
    let called = send_called(24);
    let not_sent = What::NotSent { by: p(), to: q() };
    let story = vec![(1_000, called.clone()), (1_500, not_sent)];
    assert_eq!(judged(&calm(), story), Ok(()));
    assert_eq!(judged(&calm(), vec![(1_000, called)]), Err("P6"));
}

#[test]
fn a_call_may_wait_for_a_large_message_of_its_own() {
    let story = |bytes, sent_at| {
        let (by, to, number) = (p(), q(), 1);
        let mut story = vec![
            (sent_at, send_called(bytes)),
            (sent_at, What::Sent { by, to, number }),
        ];
        let within = Duration::from_secs(3);
        story.push((
            9_000,
            What::LinkCalled {
                by,
                to,
                tag: 3,
                within,
            },
        ));
        story.push((12_000, link_returned(Linked::TimedOut)));
        let (from, meant) = (by, to);
        story.push((
            12_100,
            What::Got {
                by: to,
                from,
                meant,
                number,
            },
        ));
        judged(&calm(), story)
    };
    assert_eq!(story(70_000, 8_000), Ok(()));
    assert_eq!(story(24, 8_000), Err("P6"));
    assert_eq!(story(70_000, 3_000), Err("P6"), "it is there by then");
}

#[test]
fn a_late_wait_is_excused_by_a_fault_in_its_way_alone() {
    let story = |plan: &Plan, began: u64, took: u64| {
        let called = send_called(24);
        let not_sent = What::NotSent { by: p(), to: q() };
        judged(plan, vec![(began, called), (began + took, not_sent)])
    };
    assert_eq!(story(&calm(), 1_000, 7_000), Ok(()));
    assert_eq!(story(&calm(), 1_000, 7_200), Err("P6"));
    let is_short = |due: &Due| due.fault.length() < LEASE && due.at < Duration::from_secs(10);
    let cut = plan_with(|due| {
        is_short(due)
            && matches!(
                due.fault,
                Fault::Partition(0, 1, _) | Fault::Partition(1, 0, _)
            )
    });
    let pause = plan_with(|due| is_short(due) && matches!(due.fault, Fault::Pause(1, _)));
    let crash = plan_with(|due| is_short(due) && matches!(due.fault, Fault::Crash(1, _)));
    for plan in [cut, pause, crash] {
        let due = plan.faults()[0];
        let over = due.at + 2 * due.fault.length() + Duration::from_millis(1_010);
        assert_eq!(story(&plan, millis(due.at) + 10, 7_200), Ok(()), "{due:?}");
        assert_eq!(story(&plan, millis(over), 7_200), Err("P6"), "{due:?}");
    }
    let away =
        plan_with(|due| is_short(due) && due.fault.touches(1, 2) && !due.fault.touches(0, 1));
    let at = millis(away.faults()[0].at);
    assert_eq!(story(&away, at + 10, 7_200), Err("P6"));
}

#[test]
fn a_monitor_of_a_node_is_told_once() {
    let reason = ExitReason::NodeDown {
        node: THERE,
        how: "lost".into(),
    };
    let told = What::ToldOfNode {
        by: p(),
        node: THERE,
        reference: 1,
        reason,
    };
    let asked = What::NodeMonitorReturned {
        by: p(),
        node: THERE,
        reference: 1,
        since: Duration::from_secs(1),
    };
    let story = |rest: Vec<(u64, What)>| {
        let mut story = vec![(1_000, asked.clone()), (2_000, What::Leaves(THERE))];
        story.push((2_100, node_down("left")));
        story.extend(rest);
        story.push((2_900, What::Crashed(THERE)));
        judged(&calm(), story)
    };
    assert_eq!(story(vec![(2_200, told.clone())]), Ok(()));
    assert_eq!(story(vec![]), Err("P1"));
    assert_eq!(story(vec![(2_200, told.clone()), (2_300, told)]), Err("P1"));
}

#[test]
fn whoever_stops_is_noticed() {
    assert_eq!(
        judged(&calm(), vec![(5_000, What::Crashed(THERE))]),
        Err("P6")
    );
    let stood_still = vec![(5_000, What::Paused(THERE)), (9_000, What::Resumed(THERE))];
    assert_eq!(judged(&calm(), stood_still), Err("P6"));
    let shortly = vec![(5_000, What::Paused(THERE)), (6_000, What::Resumed(THERE))];
    assert_eq!(judged(&calm(), shortly), Ok(()));
}

#[test]
fn whoever_leaves_says_so_and_is_heard() {
    let story = |why, got_at: Option<u64>| {
        let mut story = vec![(4_000, sent(7))];
        story.extend(got_at.map(|at| (at, got(7))));
        story.extend([(5_000, What::Leaves(THERE)), (5_100, node_down(why))]);
        story.push((5_200, What::Crashed(THERE)));
        judged(&calm(), story)
    };
    assert_eq!(story("left", Some(4_100)), Ok(()));
    assert_eq!(story("left", None), Err("P5"));
    assert_eq!(story("no round trip", Some(4_100)), Err("P6"));
    // Which no calm network is a reason for.
    let lossy = "left, and messages that it had sent are lost";
    assert_eq!(story(lossy, None), Err("P6"));
    let mut silent = vec![(5_000, What::Leaves(THERE))];
    silent.push((5_200, What::Crashed(THERE)));
    assert_eq!(judged(&calm(), silent), Err("P6"));
}

#[test]
fn the_dead_need_not_hear_who_leaves() {
    let plan =
        plan_with(|due| matches!(due.fault, Fault::Crash(0, _)) && due.at < Duration::from_secs(5));
    let crash = plan.faults()[0];
    let crashed = millis(crash.at);
    let back = crashed + millis(crash.fault.length());
    // Later than the crash of a name excuses anybody.
    let left = back + 2 * millis(LEASE) + 1_000;
    let story = |lives_again, rest: Vec<(u64, What)>| {
        let up = |on, peer| What::NodeUp { on, peer, epoch: 1 };
        let mut story = vec![(crashed, What::Crashed(HERE))];
        if lives_again {
            let (node, name) = (AGAIN, 0);
            story.push((back, What::Started { node, name }));
            story.extend([(back + 10, up(AGAIN, THERE)), (back + 10, up(THERE, AGAIN))]);
        }
        story.push((crashed + 3_000, given_up(THERE, HERE, "no round trip")));
        story.push((left, What::Leaves(THERE)));
        story.extend(rest);
        story.push((left + 200, What::Crashed(THERE)));
        judged(&plan, story)
    };
    assert_eq!(story(false, vec![]), Ok(()));
    assert_eq!(story(true, vec![]), Err("P6"), "its next start lives");
    let told = given_up(AGAIN, THERE, "left");
    assert_eq!(story(true, vec![(left + 100, told)]), Ok(()));
}

#[test]
fn a_crash_excuses_only_what_was_not_told_before() {
    let story = |crashed_at| {
        let mut story = vec![(5_000, What::Leaves(THERE)), (5_200, What::Crashed(THERE))];
        story.push((crashed_at, What::Crashed(HERE)));
        story.sort_by_key(|(at, _)| *at);
        judged(&calm(), story)
    };
    assert_eq!(story(5_050), Ok(()));
    assert_eq!(story(10_100), Err("P6"), "there was time to hear of it");
    let plan = plan_with(|due| matches!(due.fault, Fault::Crash(0, _)));
    let crashed = millis(plan.faults()[0].at);
    let told = |why| {
        let mut story = vec![(crashed - 50, What::Leaves(THERE))];
        story.push((crashed - 10, node_down(why)));
        story.extend([HERE, THERE].map(|node| (crashed, What::Crashed(node))));
        judged(&plan, story)
    };
    assert_eq!(told("left"), Ok(()));
    assert_eq!(told("no round trip"), Err("P6"));
}

#[test]
fn a_certificate_may_run_out_as_its_node_leaves() {
    let story = |until: Option<u64>| {
        let until = until.map(Duration::from_secs);
        let mut story = vec![(600, What::Shows { node: HERE, until })];
        story.extend([
            (5_000, What::Leaves(THERE)),
            (5_020, node_down("its certificate")),
        ]);
        story.push((5_200, What::Crashed(THERE)));
        judged(&calm(), story)
    };
    assert_eq!(story(Some(5)), Ok(()));
    assert_eq!(story(Some(20)), Err("P6"));
    assert_eq!(story(None), Err("P6"));
}

#[test]
fn a_certificate_may_run_out_while_a_goodbye_waits() {
    let story = |ended| {
        let until = Some(Duration::from_secs(5));
        let story = vec![
            (600, What::Shows { node: THERE, until }),
            (5_000, What::Leaves(HERE)),
            (5_020, given_up(THERE, HERE, "left")),
            (ended, given_up(HERE, THERE, "left")),
        ];
        judged(&calm(), story)
    };
    assert_eq!(story(8_020), Ok(()));
    // Until a lease before that it has taken in what came.
    assert_eq!(story(11_500), Err("P8"));
}

#[test]
fn what_a_timer_sends_comes_once_and_in_time() {
    let story = |rest: Vec<(u64, What)>| {
        let set = What::TimerSet {
            by: q(),
            to: p(),
            number: 7,
            delay: Duration::from_secs(1),
        };
        let mut story = vec![(1_000, set)];
        story.extend(rest);
        judged(&calm(), story)
    };
    let taken = What::TimerCancelled {
        by: q(),
        number: 7,
        taken: true,
    };
    assert_eq!(story(vec![(2_000, got(7))]), Ok(()));
    assert_eq!(story(vec![(1_500, taken.clone())]), Ok(()));
    assert_eq!(story(vec![]), Err("P5"), "it never came");
    assert_eq!(story(vec![(1_900, got(7))]), Err("P5"), "it came too early");
    assert_eq!(story(vec![(2_000, got(7)), (2_100, got(7))]), Err("P5"));
    assert_eq!(story(vec![(1_500, taken), (2_000, got(7))]), Err("P5"));
}

#[test]
fn a_fault_excuses_only_those_it_touches() {
    let away = plan_with(|due| due.fault.touches(1, 2) && !due.fault.touches(0, 1));
    let between = plan_with(|due| due.fault.touches(0, 1));
    let story = |plan: Plan| {
        let at = millis(plan.faults()[0].at) + 10;
        let both = [(HERE, THERE), (THERE, HERE)];
        let story = both.map(|(on, peer)| (at, given_up(on, peer, "lost")));
        judged(&plan, story.to_vec())
    };
    assert_eq!(story(away), Err("P6"));
    assert_eq!(story(between), Ok(()));
}
