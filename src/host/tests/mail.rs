//! `tidelock`: messages in one call each.

use tidelock_proto::Environ;

use super::tidelock::{CHILD, TIDELOCK};
use super::*;
use crate::{Filter, Message};

/// Messages in one call each.
const SHORT: &str = r#"
    (import "tidelock" "try_send" (func $try_send (param i64 i64 i32 i32) (result i32)))
    (import "tidelock" "try_receive" (func $try_receive (param i32 i32 i32 i32 i32) (result i32)))
    (import "tidelock" "receive" (func $receive_into
        (param i32 i32 i64 i32 i32 i32) (result i32)))
    (import "tidelock" "request" (func $ask
        (param i64 i64 i32 i32 i64 i64 i32 i32 i32) (result i32)))
    (import "tidelock" "take_data" (func $take (param i32 i32 i32)))"#;

/// `$found` checks the tag and the size at 32.
const FOUND: &str = r#"
    (data (i32.const 100) "abcdefgh") (data (i32.const 8) "\07\00\00\00\00\00\00\00")
    (func $post (param $tag i64) (param $len i32)
        (call $check32 (call $try_send (call $process_id) (local.get $tag) (i32.const 100)
            (local.get $len)) (i32.const 0)))
    (func $found (param $tag i64) (param $size i64)
        (call $check (i64.load (i32.const 32)) (local.get $tag))
        (call $check (i64.load (i32.const 40)) (local.get $size)))
    (func $next (param $tags i32) (param $len i32) (result i32)
        (call $try_receive (i32.const 8) (local.get $tags) (i32.const 200) (local.get $len)
            (i32.const 32)))"#;

async fn short(data: &str, code: &str) -> ExitReason {
    let imports = [SHORT, MESSAGES, RECEIVE, GET_TAG, PROCESS_ID].concat();
    run(&imports, &[FOUND, data].concat(), code).await
}

#[tokio::test]
async fn a_message_takes_one_call_each_way() {
    let code = r#"
        (call $check32 (call $next (i32.const 0) (i32.const 8)) (i32.const 9027))
        (call $check (i64.load (i32.const 32)) (i64.const 0))
        (call $post (i64.const 5) (i32.const 8))
        (call $post (i64.const 7) (i32.const 3))
        (call $post (i64.const 0) (i32.const 0))
        ;; by tag, past another one
        (call $check32 (call $next (i32.const 1) (i32.const 3)) (i32.const 0))
        (call $found (i64.const 7) (i64.const 3))
        (call $check (i64.load (i32.const 200)) (i64.const 0x636261))
        (call $check32 (call $next (i32.const 1) (i32.const 3)) (i32.const 9027))
        ;; nothing is written behind it, and nothing is left in the slot
        (call $check32 (call $next (i32.const 0) (i32.const 100)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 8))
        (call $check (i64.load (i32.const 200)) (i64.load (i32.const 100)))
        (call $check (i64.load (i32.const 208)) (i64.const 0))
        (call $check32 (call $next (i32.const 0) (i32.const 0)) (i32.const 0))
        (call $found (i64.const 0) (i64.const 0))
        ;; waiting
        (call $check32 (call $receive_into (i32.const 0) (i32.const 0) (i64.const 1) (i32.const 200)
            (i32.const 8) (i32.const 32)) (i32.const 9027))
        (call $post (i64.const 6) (i32.const 4))
        (call $check32 (call $receive_into (i32.const 0) (i32.const 0) (i64.const -1)
            (i32.const 200) (i32.const 8) (i32.const 32)) (i32.const 0))
        (call $found (i64.const 6) (i64.const 4))
        ;; nobody
        (call $check32 (call $try_send (i64.const 0) (i64.const 1) (i32.const 0) (i32.const 8))
            (i32.const 0))
        (drop (call $size))"#;
    let reason = short("", code).await;
    assert!(trap(&reason).contains("there is no data"), "{reason:?}");
}

#[tokio::test]
async fn a_message_without_room_stays_in_the_slot() {
    let code = r#"
        (call $post (i64.const 5) (i32.const 8))
        (call $check32 (call $next (i32.const 0) (i32.const 7)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 8))
        (call $check (i64.load (i32.const 200)) (i64.const 0))
        ;; sending and finding nothing leave it there
        (call $post (i64.const 9) (i32.const 1))
        (call $check32 (call $next (i32.const 1) (i32.const 7)) (i32.const 9027))
        (call $check (call $get_tag) (i64.const 5))
        (call $check32 (call $read (i32.const 200) (i32.const 2)) (i32.const 2))
        ;; from the beginning again
        (call $take (i32.const 300) (i32.const 7) (i32.const 32))
        (call $check (i64.load (i32.const 300)) (i64.const 0))
        (call $check (call $size) (i64.const 8))
        (i64.store (i32.const 32) (i64.const 0))
        (call $take (i32.const 300) (i32.const 8) (i32.const 32))
        (call $found (i64.const 5) (i64.const 8))
        (call $check (i64.load (i32.const 300)) (i64.load (i32.const 100)))
        (call $take (i32.const 300) (i32.const 8) (i32.const 32))"#;
    let reason = short("", code).await;
    assert!(
        trap(&reason).contains("tidelock::take_data: there is no data"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_request_is_one_call_and_does_not_look_at_what_was_there() {
    let data = r#"
        (func $asked (param $reply i64) (param $timeout i64) (result i32)
            (call $ask (call $process_id) (i64.const 5) (i32.const 100) (i32.const 8)
                (local.get $reply) (local.get $timeout) (i32.const 200) (i32.const 8)
                (i32.const 32)))"#;
    let code = r#"
        (call $post (i64.const 5) (i32.const 3))
        ;; what it sends itself is the answer
        (call $check32 (call $asked (i64.const 5) (i64.const -1)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 8))
        (call $check (i64.load (i32.const 200)) (i64.load (i32.const 100)))
        (call $check32 (call $asked (i64.const 4) (i64.const 5)) (i32.const 9027))
        (call $check32 (call $asked (i64.const 4) (i64.const 0)) (i32.const 9027))
        ;; all three are still there
        (call $check32 (call $next (i32.const 0) (i32.const 8)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 3))
        (call $check32 (call $next (i32.const 0) (i32.const 8)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 8))
        (call $check32 (call $next (i32.const 0) (i32.const 8)) (i32.const 0))
        (call $check32 (call $next (i32.const 0) (i32.const 8)) (i32.const 9027))"#;
    assert_eq!(short(data, code).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_message_with_resources_is_copied_and_stays() {
    let module = r#"
        (data (i32.const 400) "\00asm\01\00\00\00")"#;
    let imports = r#"
        (import "lunatic::process" "compile_module"
            (func $compile (param i32 i32 i32) (result i32)))
        (import "lunatic::message" "push_module" (func $push (param i64) (result i64)))
        (import "lunatic::message" "take_module" (func $take_module (param i64) (result i64)))"#;
    let code = r#"
        (call $check32 (call $compile (i32.const 400) (i32.const 8) (i32.const 48)) (i32.const 0))
        (call $create_data (i64.const 7) (i64.const 8))
        (drop (call $write (i32.const 100) (i32.const 8)))
        (drop (call $push (i64.load (i32.const 48))))
        (drop (call $send (call $process_id)))
        (call $check32 (call $next (i32.const 1) (i32.const 8)) (i32.const 0))
        (call $found (i64.const 7) (i64.const 8))
        (call $check (i64.load (i32.const 200)) (i64.load (i32.const 100)))
        (drop (call $take_module (i64.const 0)))
        (call $take (i32.const 300) (i32.const 8) (i32.const 32))
        (call $check (i64.load (i32.const 300)) (i64.load (i32.const 100)))
        (call $check (call $size) (i64.const 8))"#;
    let imports = [SHORT, MESSAGES, RECEIVE, GET_TAG, PROCESS_ID, imports].concat();
    let reason = run(&imports, &[FOUND, module].concat(), code).await;
    assert_eq!(reason, ExitReason::Normal);
}

#[tokio::test]
async fn an_end_is_in_the_slot_however_it_is_received() {
    let imports = [
        TIDELOCK, SHORT, RECEIVE, GET_TAG, DIE, PROC_EXIT, PROCESS_ID,
    ]
    .concat();
    let code = r#"(local $pid i64)
        (call $die (i32.const 0))
        (local.set $pid (call $child (i32.const 120) (i64.const 4)))
        (call $check32 (call $receive_into (i32.const 0) (i32.const 0) (i64.const -1)
            (i32.const 200) (i32.const 8) (i32.const 32)) (i32.const 1))
        (call $check (call $died_pid) (local.get $pid))
        (call $check (call $get_tag) (i64.const 4))
        (call $check (i64.load (i32.const 40)) (i64.const 0))"#;
    assert_eq!(run(&imports, CHILD, code).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_place_outside_of_the_memory_traps_before_anything_is_received() {
    for (call, with) in [
        (
            "(call $ask (i64.const 1) (i64.const 0) (i32.const 65535) (i32.const 2) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
            "tidelock::request: ptr",
        ),
        (
            "(call $ask (i64.const 1) (i64.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 65535) (i32.const 2) (i32.const 0))",
            "request: reply_ptr",
        ),
        (
            "(call $ask (i64.const 1) (i64.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 65521))",
            "request: found_ptr",
        ),
        (
            "(call $try_send (i64.const 1) (i64.const 0) (i32.const 65535) (i32.const 2))",
            "try_send: ptr",
        ),
        (
            "(call $try_send (i64.const 0) (i64.const 0) (i32.const -1) (i32.const -1))",
            "try_send: ptr",
        ),
        (
            "(call $next (i32.const 0) (i32.const -1))",
            "try_receive: ptr",
        ),
        (
            "(call $next (i32.const -1) (i32.const 8))",
            "try_receive: tags_len",
        ),
        (
            "(call $next (i32.const 0) (i32.const 65337))",
            "try_receive: ptr",
        ),
        (
            "(call $try_receive (i32.const 65530) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0))",
            "try_receive: tags_ptr",
        ),
        (
            "(call $try_receive (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65521))",
            "try_receive: found_ptr",
        ),
        (
            "(call $receive_into (i32.const 0) (i32.const 0) (i64.const 0) (i32.const -1) (i32.const -1) (i32.const 0))",
            "tidelock::receive: ptr",
        ),
        (
            "(call $receive_into (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const -1))",
            "tidelock::receive: found_ptr",
        ),
        (
            "(i32.const 0) (call $take (i32.const 65529) (i32.const 8) (i32.const 0))",
            "take_data: ptr",
        ),
        (
            "(i32.const 0) (call $take (i32.const 0) (i32.const 8) (i32.const -8))",
            "take_data: found_ptr",
        ),
    ] {
        let reason = short("", &format!("{call} drop")).await;
        assert!(trap(&reason).contains(with), "{reason:?} lacks {with:?}");
    }
}

#[tokio::test]
async fn a_crowded_mailbox_is_told_without_waiting() {
    let env = environment_with(Limits {
        mailbox_len_max: 8,
        ..Limits::default()
    });
    let body = r#"
        (func (export "_start") (local $sent i64)
            (loop $more
                (if (i32.eqz (call $try_send (call $process_id) (i64.const 0) (i32.const 100)
                    (i32.const 8)))
                    (then (local.set $sent (i64.add (local.get $sent) (i64.const 1)))
                        (br $more))))
            (call $check (local.get $sent) (i64.const 5)))"#;
    let imports = [SHORT, PROCESS_ID].concat();
    let module = guest(&env, &imports, body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_message_longer_than_the_bound_traps() {
    let env = environment_with(Limits {
        message_bytes_max: 100,
        ..Limits::default()
    });
    let data = [
        FOUND,
        r#"(func $sent (param $len i32)
            (drop (call $try_send (call $process_id) (i64.const 0) (i32.const 0) (local.get $len))))
        (func $asked (param $len i32)
            (drop (call $ask (call $process_id) (i64.const 5) (i32.const 0) (local.get $len)
                (i64.const 5) (i64.const 0) (i32.const 200) (i32.const 100) (i32.const 32))))"#,
    ]
    .concat();
    let imports = [SHORT, PROCESS_ID].concat();
    for name in ["sent", "asked"] {
        let code = format!("(call ${name} (i32.const 100)) (call ${name} (i32.const 101))");
        let reason = run_in(&env, &imports, &data, &code).await;
        assert!(trap(&reason).contains("at most 100 bytes"), "{reason:?}");
    }
}

#[tokio::test]
async fn a_long_answer_stays_in_the_slot_until_it_is_taken() {
    let code = r#"
        (call $check32 (call $ask (call $process_id) (i64.const 5) (i32.const 100) (i32.const 8)
            (i64.const 5) (i64.const -1) (i32.const 200) (i32.const 7) (i32.const 32)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 8))
        (call $check (i64.load (i32.const 200)) (i64.const 0))
        ;; nothing comes: all is as it was
        (i64.store (i32.const 32) (i64.const 3))
        (call $check32 (call $ask (call $process_id) (i64.const 6) (i32.const 100) (i32.const 2)
            (i64.const 4) (i64.const 0) (i32.const 200) (i32.const 8) (i32.const 32))
            (i32.const 9027))
        (call $check (i64.load (i32.const 32)) (i64.const 3))
        (call $check (i64.load (i32.const 200)) (i64.const 0))
        (call $take (i32.const 200) (i32.const 8) (i32.const 32))
        (call $found (i64.const 5) (i64.const 8))
        (call $check (i64.load (i32.const 200)) (i64.load (i32.const 100)))
        (drop (call $size))"#;
    let reason = short("", code).await;
    assert!(trap(&reason).contains("there is no data"), "{reason:?}");
}

#[tokio::test]
async fn an_end_is_no_message_to_take() {
    let imports = [
        TIDELOCK, SHORT, RECEIVE, GET_TAG, DIE, PROC_EXIT, PROCESS_ID,
    ]
    .concat();
    let code = r#"
        (call $die (i32.const 0))
        (drop (call $child (i32.const 120) (i64.const 4)))
        (call $check32 (call $next) (i32.const 1))
        (call $take (i32.const 200) (i32.const 8) (i32.const 32))"#;
    let reason = run(&imports, CHILD, code).await;
    assert!(trap(&reason).contains("there is no data"), "{reason:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_must_end_takes_nothing_more() {
    let env = environment_with(Limits {
        mailbox_len_max: 8,
        ..Limits::default()
    });
    let (go, wait) = std::sync::mpsc::channel();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let busy = env.spawn_native("busy", SpawnOptions::default(), |_| async move {
        begin.send(()).unwrap();
        // Its thread stands still, so it does not look whether it must end.
        wait.recv().unwrap();
        std::future::pending().await
    });
    let busy = busy.unwrap();
    begun.await.unwrap();
    for count in [100, 1] {
        let messages = std::iter::repeat_n(Message::default(), count);
        env.deliver_messages(Environ::default(), busy, messages);
        assert_eq!(env.info(busy).unwrap().queued, 9);
    }
    go.send(()).unwrap();
    assert_eq!(end(&env, busy).await, ExitReason::MailboxFull);
}

#[tokio::test]
async fn one_that_has_ended_is_silence_to_whoever_has_sent_to_it() {
    let env = environment();
    let parent = env.spawn_native("parent", SpawnOptions::default(), |mut me| async move {
        let env = me.environment().clone();
        let child = env.spawn_native("child", SpawnOptions::default(), |mut me| async move {
            me.receive(Filter::Any, None).await.unwrap();
            ExitReason::Exit(3)
        });
        let child = child.unwrap();
        me.try_send(child, Message::default()).unwrap();
        assert_eq!(env.wait(child).await, ExitReason::Exit(3));
        for _ in 0..2 {
            me.try_send(child, Message::default()).unwrap();
            assert!(me.try_send_bytes(child, None, &[1; 9000]));
        }
        ExitReason::Normal
    });
    assert_eq!(end(&env, parent.unwrap()).await, ExitReason::Normal);
}

#[tokio::test]
async fn one_that_never_receives_is_not_filled_by_normal_ends() {
    let env = environment_with(Limits {
        mailbox_len_max: 8,
        ..Limits::default()
    });
    let server = env.spawn_native("server", SpawnOptions::default(), |mut me| async move {
        let env = me.environment().clone();
        // It is never read, so nothing behind it is at the front.
        me.send(me.pid(), Message::default()).await.unwrap();
        for _ in 0..100 {
            let once = |mut me: crate::Context| async move {
                me.receive(Filter::Any, None).await.unwrap();
                ExitReason::Normal
            };
            let child = env.spawn_native("child", SpawnOptions::default(), once);
            let child = child.unwrap();
            me.link(child, None, crate::LinkForm::Value, None)
                .await
                .unwrap();
            me.send(child, Message::default()).await.unwrap();
            assert_eq!(env.wait(child).await, ExitReason::Normal);
        }
        assert_eq!(env.info(me.pid()).unwrap().queued, 1);
        ExitReason::Normal
    });
    assert_eq!(end(&env, server.unwrap()).await, ExitReason::Normal);
}

/// A call that never waits looks at a thousand; one that may wait finds it, also if it has no time.
#[tokio::test]
async fn a_long_mailbox_is_looked_through_in_steps() {
    let code = r#"
        (local $count i32)
        (loop $more
            (call $post (i64.const 5) (i32.const 8))
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $count) (i32.const 5000))))
        (call $post (i64.const 7) (i32.const 3))
        (call $check32 (call $next (i32.const 1) (i32.const 8)) (i32.const 9028))
        (call $check32 (call $next (i32.const 1) (i32.const 8)) (i32.const 9028))
        (call $check32 (call $receive_into (i32.const 8) (i32.const 1) (i64.const 0) (i32.const 200)
            (i32.const 8) (i32.const 32)) (i32.const 0))
        (call $found (i64.const 7) (i64.const 3))
        ;; all of it was looked at
        (call $check32 (call $next (i32.const 1) (i32.const 8)) (i32.const 9027))
        ;; nothing has changed its place
        (call $check32 (call $next (i32.const 0) (i32.const 8)) (i32.const 0))
        (call $found (i64.const 5) (i64.const 8))"#;
    assert_eq!(short("", code).await, ExitReason::Normal);
}

#[tokio::test]
async fn many_tags_are_wanted_in_any_order() {
    let env = environment();
    let process = env.spawn_native("picky", SpawnOptions::default(), |mut me| async move {
        let wanted = || Filter::Tags((0..20).rev().map(|tag| tag * tag).collect());
        for tag in [16, 7, 9] {
            let message = Message {
                tag: Some(tag),
                ..Message::default()
            };
            me.try_send(me.pid(), message).unwrap();
        }
        let first = me.try_receive(&wanted());
        let second = me.receive(wanted(), None).await;
        for (received, tag) in [(first, 16), (second, 9)] {
            let Some(crate::Received::Message(message)) = received else {
                panic!("{tag} is wanted, not {received:?}");
            };
            assert_eq!(message.tag, Some(tag));
        }
        ExitReason::Normal
    });
    assert_eq!(end(&env, process.unwrap()).await, ExitReason::Normal);
}
