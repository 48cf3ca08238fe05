//! What a control block says, step by step.
//!
//! Goal: every line of the link table is there for a reason that some test names. Method: one block,
//! one input at a time, and everything that follows from it compared as a whole. Which orders of
//! steps keep the promises is for `model_combined.rs`; here it is what one step says.

#[allow(dead_code, reason = "another test uses the rest")]
mod frames;

use frames::{PEER, here, there};
use tidelock_proto::link::{
    Block, Effect, LinkAnswer, LinkForm, LinkOutcome, Signal, TOLD_BYTES_MAX, WATCHERS_MAX,
    answer_for_nobody,
};
use tidelock_proto::{ExitReason, NodeId, Pid};

fn reason() -> ExitReason {
    ExitReason::Exit(3)
}

fn block() -> Block {
    Block::new(here(5))
}

/// Lets one step happen and returns what follows from it.
fn on(block: &mut Block, step: impl FnOnce(&mut Block, &mut Vec<Effect>)) -> Vec<Effect> {
    let mut effects = Vec::new();
    step(block, &mut effects);
    effects
}

fn hears(block: &mut Block, from: Pid, signal: Signal) -> Vec<Effect> {
    on(block, |block, out| block.handle(from, signal, out))
}

fn links(block: &mut Block, peer: Pid, form: LinkForm) -> Vec<Effect> {
    on(block, |block, out| block.link(peer, Some(4), form, out))
}

fn unlinks(block: &mut Block, peer: Pid) -> Vec<Effect> {
    on(block, |block, out| block.unlink(peer, out))
}

fn acked(id: u64, answer: LinkAnswer) -> Signal {
    Signal::LinkAck { id, answer }
}

#[test]
fn numbers_are_fresh() {
    let mut block = block();
    assert_eq!([block.fresh(), block.fresh(), block.fresh()], [1, 2, 3]);
    let reference = on(&mut block, |block, out| {
        assert_eq!(block.monitor(there(7), out), 4);
    });
    assert_eq!(
        reference,
        [Effect::Send(there(7), Signal::Monitor { reference: 4 })]
    );
    assert_eq!(block.monitor_node(PEER), 5);
}

#[test]
fn a_block_tells_what_it_holds() {
    let mut block = block();
    assert_eq!((block.pid(), block.ended()), (here(5), None));
    assert_eq!(block.halves(), 0);
    drop(links(&mut block, there(7), LinkForm::Value));
    block.adopt(there(8), None);
    drop(links(&mut block, there(9), LinkForm::Value));
    drop(unlinks(&mut block, there(9)));
    assert_eq!(block.halves(), 3);
    assert_eq!(block.links().collect::<Vec<_>>(), [there(7), there(8)]);
    let linked = [7, 8, 9].map(|local| block.is_linked(there(local)));
    assert_eq!(linked, [true, true, false]);

    block.adopt_monitor(40, there(1));
    block.adopt_monitor(41, there(2));
    assert_eq!(block.halves(), 5);
    assert_eq!(
        block.monitors().collect::<Vec<_>>(),
        [(40, there(1)), (41, there(2))]
    );
    assert_eq!(block.monitors_of(there(2)).collect::<Vec<_>>(), [41]);
    for reference in 50..54 {
        block.adopt_watcher(there(3), reference);
    }
    assert_eq!(block.halves(), 9);
    assert_eq!(block.watchers().collect::<Vec<_>>(), [there(3); 4]);
    for _ in 0..5 {
        block.monitor_node(PEER);
    }
    assert_eq!((block.halves(), block.monitoring()), (14, 7));

    drop(on(&mut block, |block, out| block.end(reason(), out)));
    assert_eq!((block.ended(), block.halves()), (Some(&reason()), 0));
    assert_eq!(block.monitors_of(there(2)).count(), 0);
}

#[test]
fn a_block_rests_when_nothing_is_under_way() {
    let mut block = block();
    assert!(block.at_rest());
    block.asks(PEER, 1);
    assert!(!block.at_rest(), "a spawn is under way");
    assert!(block.asked(PEER, 1) && !block.asked(PEER, 1));
    block.adopt(there(8), None);
    assert!(block.at_rest(), "a link is no hurry");
    drop(links(&mut block, there(7), LinkForm::Value));
    assert!(!block.at_rest(), "link() waits");
    drop(hears(&mut block, there(7), acked(1, LinkAnswer::Linked)));
    assert!(block.at_rest());
    drop(unlinks(&mut block, there(7)));
    assert!(!block.at_rest(), "unlink() waits");
    block.forget_unlink_caller(there(7));
    assert!(!block.at_rest(), "the unlink stands");
    drop(hears(&mut block, there(7), Signal::UnlinkAck { id: 2 }));
    assert!(block.at_rest());
    drop(hears(
        &mut block,
        there(8),
        Signal::Exit { reason: reason() },
    ));
    assert!(!block.at_rest(), "a LinkDied is not taken");
    // A link made meanwhile by the other side does not hide it.
    drop(hears(
        &mut block,
        there(8),
        Signal::Link { id: 1, tag: None },
    ));
    assert!(!block.at_rest() && block.is_linked(there(8)));
    assert!(block.has_queued(there(8)) && !block.has_queued(there(7)));
    assert!(block.take(there(8), 3));
    assert!(block.at_rest() && !block.has_queued(there(8)));
}

#[test]
fn an_unlink_nobody_waits_for_returns_to_nobody() {
    let mut block = block();
    block.adopt(there(7), None);
    assert_eq!(
        unlinks(&mut block, there(7)),
        [Effect::Send(there(7), Signal::Unlink { id: 1 })]
    );
    let mut waits = block.clone();
    assert_eq!(unlinks(&mut waits, there(7)), [], "one Unlink is enough");
    block.forget_unlink_caller(there(7));
    let ack = || Signal::UnlinkAck { id: 1 };
    assert_eq!(hears(&mut block, there(7), ack()), []);
    // The answer to another unlink is not this one's.
    let other = Signal::UnlinkAck { id: 9 };
    assert_eq!(hears(&mut waits, there(7), other), []);
    let returns = [Effect::UnlinkReturns(there(7))];
    assert_eq!(hears(&mut waits, there(7), ack()), returns);
    for mut block in [block, waits] {
        assert_eq!(block.halves(), 0, "nothing is left of it");
        assert_eq!(unlinks(&mut block, there(7)), returns, "at once");
    }
}

#[test]
fn an_unlink_withdraws_what_is_queued() {
    let mut block = block();
    block.adopt(there(7), Some(4));
    let told = hears(&mut block, there(7), Signal::Exit { reason: reason() });
    let tell = Effect::Tell {
        number: 1,
        about: there(7),
        tag: Some(4),
        reason: reason(),
    };
    assert_eq!(told, [tell]);
    let mut taken = block.clone();
    assert!(!taken.take(there(7), 2) && !taken.take(there(8), 1));
    assert!(taken.take(there(7), 1) && !taken.take(there(7), 1));
    assert_eq!(taken.halves(), 0);
    let returns = [Effect::UnlinkReturns(there(7))];
    assert_eq!(unlinks(&mut block, there(7)), returns);
    assert!(!block.take(there(7), 1));
    assert_eq!(block.halves(), 0);
}

#[test]
fn a_link_that_crosses_an_unlink_is_asked_again() {
    let mut block = block();
    block.adopt(there(7), None);
    drop(unlinks(&mut block, there(7)));
    let link = Signal::Link { id: 8, tag: None };
    assert_eq!(
        hears(&mut block, there(7), link),
        [Effect::Send(there(7), acked(8, LinkAnswer::Crossed))]
    );
    assert!(!block.is_linked(there(7)));
    // link() after unlink(): the unlink has returned.
    let again = [
        Effect::UnlinkReturns(there(7)),
        Effect::Send(
            there(7),
            Signal::Link {
                id: 2,
                tag: Some(4),
            },
        ),
    ];
    assert_eq!(links(&mut block, there(7), LinkForm::Value), again);
    let crossed = hears(&mut block, there(7), acked(2, LinkAnswer::Crossed));
    let link = Signal::Link {
        id: 3,
        tag: Some(4),
    };
    assert_eq!(crossed, [Effect::Send(there(7), link)]);
    assert_eq!(block.fresh(), 4, "3 is used");
    assert_eq!(
        hears(&mut block, there(7), acked(2, LinkAnswer::Linked)),
        []
    );
    let linked = Effect::LinkReturns(there(7), LinkOutcome::Linked);
    let ack = acked(3, LinkAnswer::Linked);
    assert_eq!(hears(&mut block, there(7), ack), [linked]);
    assert!(block.at_rest());
}

#[test]
fn a_link_to_the_dead_says_so_in_its_form() {
    for (form, number) in [(LinkForm::Value, 2), (LinkForm::Notice, 3)] {
        let mut block = block();
        drop(links(&mut block, there(7), form));
        let effects = hears(&mut block, there(7), acked(1, LinkAnswer::NoProcess));
        let value = LinkOutcome::Ended(ExitReason::NoProcess);
        let tell = Effect::Tell {
            number: 2,
            about: there(7),
            tag: Some(4),
            reason: ExitReason::NoProcess,
        };
        match form {
            LinkForm::Value => assert_eq!(effects, [Effect::LinkReturns(there(7), value)]),
            LinkForm::Notice => assert_eq!(
                effects,
                [tell, Effect::LinkReturns(there(7), LinkOutcome::Told)]
            ),
        }
        assert_eq!(block.fresh(), number, "a LinkDied has a number of its own");
    }
    let mut me = block();
    let linked = Effect::LinkReturns(here(5), LinkOutcome::Linked);
    assert_eq!(links(&mut me, here(5), LinkForm::Value), [linked]);
    assert_eq!(me.halves(), 0, "nobody is linked to itself");
}

#[test]
fn an_unlink_of_the_other_leaves_a_call_alone() {
    let mut block = block();
    drop(links(&mut block, there(7), LinkForm::Value));
    let answer = Effect::Send(there(7), Signal::UnlinkAck { id: 6 });
    let unlink = Signal::Unlink { id: 6 };
    assert_eq!(hears(&mut block, there(7), unlink), [answer]);
    assert_eq!(
        block.links().collect::<Vec<_>>(),
        [there(7)],
        "it still calls"
    );
    assert!(!block.is_linked(there(7)));
    // The session's end answers the call.
    let lost = on(&mut block.clone(), |block, out| {
        block.session_lost(PEER, &reason(), out);
    });
    let ended = LinkOutcome::Ended(reason());
    assert_eq!(lost, [Effect::LinkReturns(there(7), ended)]);
    // So does the other's end.
    let gone = hears(&mut block, there(7), Signal::Exit { reason: reason() });
    let ended = LinkOutcome::Ended(reason());
    assert_eq!(gone, [Effect::LinkReturns(there(7), ended)]);
}

#[test]
fn monitors_are_told_once_and_by_their_target() {
    let mut block = block();
    assert_eq!(
        on(&mut block, |block, out| {
            block.monitor(here(5), out);
        }),
        [],
        "nobody watches itself"
    );
    assert_eq!(block.halves(), 0);
    let mut reference = 0;
    drop(on(&mut block, |block, out| {
        reference = block.monitor(there(7), out);
    }));
    let exists = |exists| Signal::MonitorAck { reference, exists };
    assert_eq!(hears(&mut block, there(7), exists(true)), []);
    assert_eq!(hears(&mut block, there(8), exists(false)), [], "a forgery");
    let mut withdrawn = block.clone();
    let down = Effect::Down {
        reference,
        about: there(7),
        reason: ExitReason::NoProcess,
    };
    assert_eq!(hears(&mut block, there(7), exists(false)), [down]);
    assert_eq!(hears(&mut block, there(7), exists(false)), [], "used up");
    let demonitor = Effect::Send(there(7), Signal::Demonitor { reference });
    let step = |block: &mut Block, out: &mut Vec<Effect>| block.demonitor(reference, out);
    assert_eq!(on(&mut withdrawn, step), [demonitor]);
    assert_eq!(hears(&mut withdrawn, there(7), exists(false)), []);
    let watched = withdrawn.monitor_node(PEER);
    assert_eq!(
        on(&mut withdrawn, |block, out| block.demonitor(watched, out)),
        []
    );
    assert_eq!(withdrawn.halves(), 0);
}

#[test]
fn monitors_are_found_by_their_target_until_they_are_gone() {
    let mut block = block();
    let watch = |block: &mut Block, local| {
        let mut reference = 0;
        drop(on(block, |block, out| {
            reference = block.monitor(there(local), out);
        }));
        reference
    };
    let of_seven: Vec<u64> = (0..3).map(|_| watch(&mut block, 7)).collect();
    let of_eight = watch(&mut block, 8);
    let found = |block: &Block, local| block.monitors_of(there(local)).collect::<Vec<_>>();
    assert_eq!(found(&block, 7), of_seven);
    assert_eq!(found(&block, 8), [of_eight]);
    assert!(found(&block, 9).is_empty());
    // Taken back, told, and lost with the session.
    drop(on(&mut block, |block, out| {
        block.demonitor(of_seven[1], out);
    }));
    assert_eq!(found(&block, 7), [of_seven[0], of_seven[2]]);
    let down = Signal::Down {
        reference: of_seven[0],
        reason: reason(),
    };
    drop(hears(&mut block, there(7), down));
    assert_eq!(found(&block, 7), [of_seven[2]]);
    drop(on(&mut block, |block, out| {
        block.session_lost(PEER, &reason(), out);
    }));
    assert!(found(&block, 7).is_empty());
    assert_eq!((found(&block, 8).len(), block.monitoring()), (0, 0));
}

#[test]
fn one_monitor_too_many_is_told_at_once() {
    let mut block = block();
    for reference in 0..WATCHERS_MAX as u64 {
        block.adopt_watcher(there(6), reference);
    }
    let effects = hears(&mut block, there(7), Signal::Monitor { reference: 3 });
    let [Effect::Send(to, Signal::Down { reference, reason })] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!((*to, *reference), (there(7), 3));
    assert!(matches!(reason, ExitReason::Limit(_)), "{reason}");
    assert_eq!(block.halves(), WATCHERS_MAX);
    // One that goes makes room.
    drop(hears(
        &mut block,
        there(6),
        Signal::Demonitor { reference: 0 },
    ));
    let ack = Signal::MonitorAck {
        reference: 3,
        exists: true,
    };
    assert_eq!(
        hears(&mut block, there(7), Signal::Monitor { reference: 3 }),
        [Effect::Send(there(7), ack)]
    );
}

#[test]
fn last_words_told_to_many_are_short() {
    let words = "x".repeat(1024);
    for (watchers, bytes) in [(1, 1024), (16_383, 1024), (16_384, 1023), (65_535, 256)] {
        let mut block = block();
        block.adopt(there(1), None);
        for reference in 0..watchers {
            block.adopt_watcher(there(6), reference);
        }
        let told = on(&mut block, |block, out| {
            block.end(ExitReason::Trap(words.clone()), out);
        });
        let lengths: Vec<usize> = told
            .iter()
            .map(|effect| match effect {
                Effect::Send(_, Signal::Exit { reason } | Signal::Down { reason, .. }) => {
                    reason.text_bytes()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(lengths.iter().all(|length| *length == bytes), "{bytes}");
        assert!(lengths.iter().sum::<usize>() <= TOLD_BYTES_MAX);
        assert_eq!(block.ended(), Some(&ExitReason::Trap(words.clone())));
    }
}

#[test]
fn a_lost_session_tells_what_was_over_it_and_no_more() {
    let other = Pid::new(NodeId(3), 1).unwrap();
    let mut block = block();
    for local in [1, Pid::LOCAL_MAX] {
        block.adopt(there(local), Some(4));
    }
    for peer in [other, here(6)] {
        block.adopt(peer, None);
        block.adopt_watcher(peer, 9);
        block.adopt_monitor(peer.raw(), peer);
    }
    block.adopt_watcher(there(7), 9);
    block.adopt_monitor(20, there(7));
    block.asks(PEER, 1);
    block.asks(NodeId(3), 1);
    let nodes = [block.monitor_node(PEER), block.monitor_node(NodeId(3))];
    let lost = on(&mut block, |block, out| {
        block.session_lost(PEER, &reason(), out);
    });
    let tell = |number, local| Effect::Tell {
        number,
        about: there(local),
        tag: Some(4),
        reason: reason(),
    };
    assert_eq!(
        lost,
        [
            tell(3, 1),
            tell(4, Pid::LOCAL_MAX),
            Effect::Down {
                reference: 20,
                about: there(7),
                reason: reason()
            },
            Effect::NodeDown {
                reference: nodes[0],
                node: PEER,
                reason: reason()
            },
        ]
    );
    assert_eq!(block.links().collect::<Vec<_>>(), [here(6), other]);
    assert_eq!(block.watchers().collect::<Vec<_>>(), [here(6), other]);
    assert_eq!(block.monitors().count(), 2);
    assert!(!block.asked(PEER, 1) && block.asked(NodeId(3), 1));
    let again = on(&mut block, |block, out| {
        block.session_lost(PEER, &reason(), out);
    });
    assert_eq!(again, [], "once");
}

#[test]
fn an_end_tells_everybody_in_one_step_and_is_the_last() {
    let mut block = block();
    block.adopt(there(7), None);
    block.adopt(there(8), None);
    drop(unlinks(&mut block, there(8)));
    block.adopt_watcher(there(9), 3);
    block.adopt_monitor(4, there(6));
    block.asks(PEER, 5);
    block.monitor_node(PEER);
    let end = on(&mut block, |block, out| block.end(reason(), out));
    assert_eq!(
        end,
        [
            Effect::Send(there(7), Signal::Exit { reason: reason() }),
            Effect::Send(
                there(9),
                Signal::Down {
                    reference: 3,
                    reason: reason()
                }
            ),
            Effect::Send(there(6), Signal::Demonitor { reference: 4 }),
            Effect::CancelSpawn(PEER, 5),
        ]
    );
    let ended = block.clone();
    let later = on(&mut block, |block, out| {
        block.end(ExitReason::Normal, out);
        block.session_lost(PEER, &reason(), out);
        block.link(there(7), None, LinkForm::Value, out);
        block.monitor(there(7), out);
    });
    assert_eq!(later, []);
    block.monitor_node(PEER);
    assert_eq!((block.ended(), block.halves()), (ended.ended(), 0));
    let link = Signal::Link { id: 7, tag: None };
    let answer = answer_for_nobody(&link).expect("it asks");
    assert_eq!(answer, acked(7, LinkAnswer::NoProcess));
    assert_eq!(
        hears(&mut block, there(7), link),
        [Effect::Send(there(7), answer)]
    );
}

#[test]
fn what_cannot_be_sent_is_told_at_once() {
    let unsent = |block: &mut Block, signal: Signal| {
        on(block, |block, out| {
            block.unsent(there(7), &signal, &reason(), out);
        })
    };
    let mut block = block();
    drop(links(&mut block, there(7), LinkForm::Value));
    let ended = Effect::LinkReturns(there(7), LinkOutcome::Ended(reason()));
    let link = Signal::Link { id: 1, tag: None };
    assert_eq!(unsent(&mut block, link), [ended]);
    block.adopt(there(7), None);
    drop(unlinks(&mut block, there(7)));
    let returns = [Effect::UnlinkReturns(there(7))];
    assert_eq!(unsent(&mut block, Signal::Unlink { id: 2 }), returns);
    block.adopt_monitor(9, there(7));
    assert_eq!(unsent(&mut block, Signal::Kill), []);
    let down = Effect::Down {
        reference: 9,
        about: there(7),
        reason: reason(),
    };
    let monitor = Signal::Monitor { reference: 9 };
    assert_eq!(unsent(&mut block, monitor), [down]);
    assert_eq!(block.halves(), 0);
    let kill = hears(&mut block, there(7), Signal::Kill);
    assert_eq!(kill, [Effect::Kill(there(7))]);
}
