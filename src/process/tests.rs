//! Steps of a process, and how it lies in memory.

use std::mem::offset_of;

use tidelock_proto::link::Signal;

use super::*;
use crate::host::tests::silent::Silent;
use crate::remote::Remote;
use crate::{EnvironmentConfig, SpawnOptions};

/// Bytes of a cache line.
const LINE: usize = 64;

/// So many processes that only wait.
pub(super) fn waiting<const COUNT: usize>() -> [Arc<Shared>; COUNT] {
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    std::array::from_fn(|_| {
        let options = SpawnOptions::default();
        let pid = env.spawn_native("it", options, |_| std::future::pending());
        env.find(Environ::default(), pid.unwrap()).unwrap()
    })
}

pub(super) fn elsewhere() -> Pid {
    Pid::new(NodeId(2), 1).unwrap()
}

#[tokio::test]
async fn what_a_failed_send_leads_to_comes_before_what_follows_it() {
    let [shared] = waiting();
    let other = elsewhere();
    let monitor = shared.step(|core, effects| {
        let reference = core.block.monitor(other, effects);
        effects.push(Effect::NodeDown {
            reference: 99,
            node: other.node(),
            reason: ExitReason::NoProcess,
        });
        reference
    });
    let mut received = std::iter::from_fn(|| shared.core().pop(&Filter::Any));
    assert!(matches!(
        received.next(),
        Some(Received::Down { reference, .. }) if reference == monitor
    ));
    assert!(matches!(received.next(), Some(Received::NodeDown { .. })));
    assert!(received.next().is_none());
}

/// Its memory is noted as packed until its next receive.
#[tokio::test]
async fn whoever_does_not_wait_does_not_hibernate() {
    let [shared] = waiting();
    let mut core = shared.core();
    core.idle = Idle::Asleep;
    assert!(!core.is_waiting() && !core.is_hibernating());
    core.receiving = true;
    core.task
        .get_or_insert_with(|| std::task::Waker::noop().clone());
    assert!(core.is_waiting() && core.is_hibernating());
}

#[test]
fn what_a_process_is_told_something_with_is_together() {
    let counts = 2 * size_of::<usize>();
    let whose = counts + offset_of!(Shared, about) + offset_of!(About, environ);
    assert!(whose + size_of::<Environ>() <= LINE);
    let (inbox, core) = (offset_of!(Shared, inbox), offset_of!(Shared, core));
    assert!(inbox < core && core - inbox <= LINE);
    // What any change looks at, then the mailbox, then what links need.
    assert_eq!(offset_of!(Core, die_when_link_dies), 0);
    assert!(offset_of!(Core, verdict) < offset_of!(Core, mailbox));
    assert!(offset_of!(Core, mailbox) < offset_of!(Core, block));
    assert!(offset_of!(Core, block) <= 5 * LINE);
    for seldom in [
        offset_of!(Core, linked),
        offset_of!(Core, unlinked),
        offset_of!(Core, parked),
    ] {
        assert!(seldom > offset_of!(Core, block));
    }
}

#[tokio::test]
async fn a_signal_goes_through_the_inbox_only_behind_others() {
    let [shared] = waiting();
    let other = elsewhere();
    let links = || shared.core().block.links().collect::<Vec<_>>();
    shared.deliver(other, Signal::Link { id: 1, tag: None });
    assert_eq!((links(), shared.inbox().capacity()), (vec![other], 0));
    // Somebody has appended it, and has not come to handle it.
    shared.append(other, Signal::Unlink { id: 2 });
    shared.deliver(other, Signal::Link { id: 3, tag: None });
    assert!(shared.inbox().is_empty());
    assert_eq!(links(), [other], "linked again");
}

#[tokio::test]
async fn an_end_says_which_session_knows_of_it_by_an_exit() {
    let [linked, between, alone] = waiting();
    let others = Arc::new(Silent::default());
    let remote: Arc<dyn Remote> = others.clone();
    linked.env.set_remote(Arc::downgrade(&remote));
    let link = || Signal::Link { id: 1, tag: None };
    linked.deliver(elsewhere(), link());
    // What it says to somebody here is known to no session.
    between.deliver(alone.pid, link());
    let all = [&linked, &between, &alone];
    for shared in all {
        shared.finish(ExitReason::Exit(1));
    }
    let told = [Some(elsewhere().node()), None, None];
    let ended = all
        .iter()
        .zip(told)
        .map(|(shared, told)| (shared.pid, told));
    assert!(others.ended.lock().unwrap().iter().copied().eq(ended));
}
