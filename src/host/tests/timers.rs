//! Timers: how many there may be, and which of firing and being taken back wins.

use bytes::Bytes;
use tidelock_proto::Environ;

use super::*;
use crate::{Context, Filter, Message, Resource};

/// Longer than any test.
const LATER: Duration = Duration::from_hours(1);

/// Runs a process made of `code`, which ends in its first turn.
async fn ends(env: &Environment, code: impl FnOnce(&mut Context) + Send + 'static) -> ExitReason {
    ends_in(env, Environ::default(), code).await
}

/// As [`ends`], of a tenant.
async fn ends_in(
    env: &Environment,
    environ: Environ,
    code: impl FnOnce(&mut Context) + Send + 'static,
) -> ExitReason {
    let options = SpawnOptions {
        environ,
        ..SpawnOptions::default()
    };
    let process = env.spawn_native("timers", options, |mut me| async move {
        code(&mut me);
        ExitReason::Normal
    });
    end(env, process.unwrap()).await
}

/// Sets a timer with a message of so many bytes.
fn set(me: &mut Context, bytes: usize) -> u64 {
    let (to, data) = (me.pid(), Bytes::from(vec![0_u8; bytes]));
    me.send_after(to, Message::new(None, data), LATER)
}

fn three(me: &mut Context) -> Vec<u64> {
    (0..3).map(|_| set(me, 0)).collect()
}

fn assert_limit(reason: &ExitReason, words: &str) {
    assert!(
        matches!(reason, ExitReason::Limit(text) if text.contains(words)),
        "{reason:?} lacks {words:?}"
    );
}

#[tokio::test]
async fn timers_of_a_process_are_counted_while_they_are_under_way() {
    let env = environment_with(Limits {
        timers_max: 3,
        ..Limits::default()
    });
    let as_many = ends(&env, |me| {
        three(me);
    });
    assert_eq!(as_many.await, ExitReason::Normal);
    let one_more = ends(&env, |me| {
        three(me);
        set(me, 0);
    });
    assert_limit(&one_more.await, "3 timers under way (timers_max)");
    let one_less = ends(&env, |me| {
        let timers = three(me);
        assert!(me.cancel_timer(timers[1]));
        set(me, 0);
    });
    assert_eq!(one_less.await, ExitReason::Normal);
}

#[tokio::test]
async fn timers_of_all_processes_have_an_end_together() {
    let env = environment_with(Limits {
        all_timers_max: 3,
        all_timers_bytes_max: 100,
        ..Limits::default()
    });
    // They stay when their process has ended.
    let two = ends(&env, |me| {
        set(me, 60);
        set(me, 0);
    });
    assert_eq!(two.await, ExitReason::Normal);
    let too_long = ends(&env, |me| {
        set(me, 41);
    });
    assert_limit(
        &too_long.await,
        "100 bytes of timers (all_timers_bytes_max)",
    );
    let third = ends(&env, |me| {
        set(me, 40);
    });
    assert_eq!(third.await, ExitReason::Normal);
    let fourth = ends(&env, |me| {
        set(me, 0);
    });
    assert_limit(&fourth.await, "3 timers (all_timers_max)");
}

#[tokio::test]
async fn bytes_of_timers_of_a_process_have_an_end() {
    let env = environment_with(Limits {
        timers_bytes_max: 200,
        ..Limits::default()
    });
    let as_many = ends(&env, |me| {
        let timer = set(me, 200);
        assert!(me.cancel_timer(timer));
        set(me, 120);
        set(me, 80);
        set(me, 0);
    });
    assert_eq!(as_many.await, ExitReason::Normal);
    let one_more = ends(&env, |me| {
        set(me, 120);
        set(me, 81);
    });
    let words = "200 bytes of timers under way (timers_bytes_max)";
    assert_limit(&one_more.await, words);
    for (resources, fits) in [(2, true), (3, false)] {
        let full = ends(&env, move |me| {
            let resource: Resource = Arc::new(());
            let message = Message {
                resources: vec![resource; resources],
                ..Message::default()
            };
            me.send_after(me.pid(), message, LATER);
        });
        let reason = full.await;
        if fits {
            assert_eq!(reason, ExitReason::Normal);
        } else {
            assert_limit(&reason, words);
        }
    }
}

#[tokio::test]
async fn a_timer_holds_a_message_of_the_largest_size() {
    let env = environment_with(Limits::default());
    for tenant in [Environ::default(), Environ(7)] {
        let largest = ends_in(&env, tenant, |me| {
            let resource: Resource = Arc::new(());
            let bytes = Limits::default().message_bytes_max;
            let message = Message {
                data: Bytes::from(vec![0_u8; bytes]),
                resources: vec![resource; 256],
                ..Message::default()
            };
            me.send_after(me.pid(), message, LATER);
        });
        assert_eq!(largest.await, ExitReason::Normal);
    }
}

#[tokio::test]
async fn no_tenant_takes_the_timers_of_another() {
    let env = environment_with(Limits {
        all_timers_max: 20,
        all_timers_bytes_max: 1_000,
        ..Limits::default()
    });
    // Each has a tenth, and all of them together as much as the default tenant.
    for tenant in 10..20 {
        let too_long = ends_in(&env, Environ(tenant), |me| {
            set(me, 101);
        });
        let words = "100 bytes of timers (all_timers_bytes_max)";
        assert_limit(&too_long.await, words);
        let two = ends_in(&env, Environ(tenant), |me| {
            set(me, 100);
            set(me, 0);
        });
        assert_eq!(two.await, ExitReason::Normal);
        let third = ends_in(&env, Environ(tenant), |me| {
            set(me, 0);
        });
        assert_limit(&third.await, "2 timers (all_timers_max)");
    }
    let late = ends_in(&env, Environ(20), |me| {
        set(me, 0);
    });
    assert_limit(&late.await, "20 timers (all_timers_max)");
    let default = ends(&env, |me| {
        for _ in 0..20 {
            set(me, 50);
        }
    });
    assert_eq!(default.await, ExitReason::Normal);
}

#[tokio::test]
async fn a_timer_that_is_taken_back_or_has_fired_makes_room_at_once() {
    let env = environment_with(Limits {
        timers_max: 1,
        all_timers_max: 1,
        all_timers_bytes_max: 100,
        ..Limits::default()
    });
    let process = env.spawn_native("timers", SpawnOptions::default(), |mut me| async move {
        for _ in 0..10 {
            let timer = set(&mut me, 100);
            assert!(me.cancel_timer(timer));
        }
        for _ in 0..3 {
            let (to, data) = (me.pid(), Bytes::from(vec![0_u8; 100]));
            me.send_after(to, Message::new(None, data), Duration::ZERO);
            me.receive(Filter::Any, None).await.unwrap();
        }
        ExitReason::Normal
    });
    assert_eq!(end(&env, process.unwrap()).await, ExitReason::Normal);
}

/// On one worker: it lets others run once it has sent, since the mailbox is crowded, and has fired all the same.
#[tokio::test]
async fn a_timer_whose_message_was_received_is_not_taken_back() {
    let env = environment_with(Limits {
        mailbox_len_max: 2,
        ..Limits::default()
    });
    let process = env.spawn_native("timers", SpawnOptions::default(), |mut me| async move {
        let to = me.pid();
        me.try_send(to, Message::default()).unwrap();
        let message = Message::new(Some(7), Bytes::new());
        let timer = me.send_after(to, message, Duration::ZERO);
        me.receive(Filter::Tag(7), None).await.unwrap();
        assert!(!me.cancel_timer(timer));
        ExitReason::Normal
    });
    assert_eq!(end(&env, process.unwrap()).await, ExitReason::Normal);
}
