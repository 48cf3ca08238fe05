//! `tidelock`: acknowledged links, spawning anywhere, stacking monitors, reasons.

use super::*;

pub(super) const TIDELOCK: &str = r#"
    (import "tidelock" "link" (func $link (param i64 i64 i64 i32) (result i32)))
    (import "tidelock" "unlink" (func $unlink (param i64 i64) (result i32)))
    (import "tidelock" "spawn" (func $spawn_on
        (param i64 i64 i64 i64 i32 i32 i32 i32 i64 i32) (result i32)))
    (import "tidelock" "monitor" (func $monitor (param i64) (result i64)))
    (import "tidelock" "demonitor" (func $demonitor (param i64)))
    (import "tidelock" "monitor_node" (func $monitor_node (param i64) (result i64)))
    (import "tidelock" "died_pid" (func $died_pid (result i64)))
    (import "tidelock" "died_ref" (func $died_ref (result i64)))
    (import "tidelock" "exit_reason" (func $reason (param i32 i32) (result i32)))
    (import "tidelock" "exit_code" (func $code (result i32)))
    (import "tidelock" "node_of" (func $node_of (param i64) (result i64)))
    (import "tidelock" "log" (func $log (param i32 i32)))
    (import "lunatic::process" "kill" (func $kill (param i64)))
    (import "lunatic::process" "exists" (func $exists (param i64) (result i32)))"#;

/// Helpers for guests: `$child` spawns "child" here, linked or not, and returns its pid.
pub(super) const CHILD: &str = r#"
    (data (i32.const 100) "child") (data (i32.const 110) "waits") (data (i32.const 120) "fails")
    (func (export "waits") (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))
    (func (export "fails") (call $exit (i32.const 3)))
    (func $child (param $name i32) (param $link i64) (result i64)
        (call $check32 (call $spawn_on (i64.const 0) (local.get $link) (i64.const -1) (i64.const -1)
            (local.get $name) (i32.const 5) (i32.const 0) (i32.const 0) (i64.const -1)
            (i32.const 0)) (i32.const 0))
        (i64.load (i32.const 0)))
    (func $next (result i32) (call $receive (i32.const 0) (i32.const 0) (i64.const 5000)))"#;

async fn tide(code: &str) -> ExitReason {
    let imports = [TIDELOCK, RECEIVE, GET_TAG, DIE, PROC_EXIT, PROCESS_ID].concat();
    run(&imports, CHILD, code).await
}

#[tokio::test]
async fn a_link_is_in_place_when_the_call_returns() {
    let code = r#"(local $pid i64)
        (call $die (i32.const 0))
        (local.set $pid (call $child (i32.const 110) (i64.const -1)))
        (call $check32 (call $link (local.get $pid) (i64.const 9) (i64.const -1) (i32.const 0))
            (i32.const 0))
        (call $kill (local.get $pid))
        (call $check32 (call $next) (i32.const 1))
        (call $check (call $get_tag) (i64.const 9))
        (call $check (call $died_pid) (local.get $pid))
        (call $check (call $died_ref) (i64.const 0))
        (call $check32 (call $code) (i32.const 137))
        (call $check32 (call $exists (local.get $pid)) (i32.const 0))
        ;; it is gone: the reason comes as a value, and nothing is queued
        (call $check32 (call $link (local.get $pid) (i64.const 9) (i64.const -1) (i32.const 8))
            (i32.const 1))
        (call $check (i64.load (i32.const 8)) (i64.const 0))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 10)) (i32.const 9027))
        ;; nor is a process which never was, nor nobody
        (call $check32 (call $link (i64.const 99999) (i64.const 0) (i64.const -1) (i32.const 8))
            (i32.const 1))
        (call $check32 (call $link (i64.const 0) (i64.const 0) (i64.const 0) (i32.const 8))
            (i32.const 1))
        (drop (call $link (i64.const 1) (i64.const 0) (i64.const 0) (i32.const 65530)))"#;
    let reason = tide(code).await;
    assert!(
        trap(&reason).contains("tidelock::link: error_ptr"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn after_unlink_nothing_is_told() {
    let code = r#"(local $pid i64)
        (call $die (i32.const 0))
        (local.set $pid (call $child (i32.const 110) (i64.const 4)))
        (call $check32 (call $unlink (local.get $pid) (i64.const -1)) (i32.const 0))
        (call $check32 (call $unlink (local.get $pid) (i64.const -1)) (i32.const 0))
        (call $kill (local.get $pid))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 20)) (i32.const 9027))"#;
    assert_eq!(tide(code).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_linked_child_that_fails_tells_why() {
    let code = r#"(local $pid i64)
        (call $die (i32.const 0))
        (local.set $pid (call $child (i32.const 120) (i64.const 0)))
        (call $check32 (call $next) (i32.const 1))
        (call $check (call $get_tag) (i64.const 0))
        (call $check (call $died_pid) (local.get $pid))
        (call $check32 (call $code) (i32.const 3))
        (if (i32.lt_s (call $reason (i32.const 200) (i32.const 4)) (i32.const 5)) (then unreachable))
        (if (i32.eqz (i32.load8_u (i32.const 203))) (then unreachable))
        (call $check32 (i32.load8_u (i32.const 204)) (i32.const 0))
        (drop (call $reason (i32.const 65534) (i32.const 4)))"#;
    let reason = tide(code).await;
    assert!(trap(&reason).contains("exit_reason: ptr"), "{reason:?}");
}

#[tokio::test]
async fn a_link_takes_both_down_unless_it_is_trapped() {
    let code = r#"
        (drop (call $child (i32.const 120) (i64.const 5)))
        (drop (call $next)) (drop (call $next))"#;
    let reason = tide(code).await;
    assert!(matches!(&reason, ExitReason::LinkDied { .. }), "{reason:?}");
}

#[tokio::test]
async fn monitors_stack_and_go_one_by_one() {
    let code = r#"(local $pid i64) (local $first i64) (local $second i64)
        (local.set $pid (call $child (i32.const 110) (i64.const -1)))
        (local.set $first (call $monitor (local.get $pid)))
        (local.set $second (call $monitor (local.get $pid)))
        (call $demonitor (local.get $first))
        (call $kill (local.get $pid))
        (call $check32 (call $next) (i32.const 2))
        (call $check (call $died_pid) (local.get $pid))
        (call $check (call $died_ref) (local.get $second))
        (call $check (call $get_tag) (i64.const 0))
        (call $check32 (call $code) (i32.const 137))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 10)) (i32.const 9027))
        ;; of a process that is gone: at once
        (local.set $first (call $monitor (local.get $pid)))
        (call $check32 (call $next) (i32.const 2))
        (call $check (call $died_ref) (local.get $first))
        (call $check32 (call $code) (i32.const 254))
        ;; of a node which nobody reaches: at once, too
        (local.set $first (call $monitor_node (i64.const 5)))
        (call $check32 (call $next) (i32.const 3))
        (call $check (call $died_pid) (i64.const 5))
        (call $check (call $died_ref) (local.get $first))
        (call $check32 (call $code) (i32.const 255))
        (drop (call $monitor_node (i64.const -1)))"#;
    let reason = tide(code).await;
    assert!(trap(&reason).contains("monitor_node: node"), "{reason:?}");
}

#[tokio::test]
async fn monitors_of_a_process_have_an_end() {
    let env = environment_with(Limits {
        monitors_max: 3,
        ..Limits::default()
    });
    let imports = [TIDELOCK, RECEIVE, PROC_EXIT].concat();
    let ends = async |code: &str| {
        let child = "(drop (call $child (i32.const 110) (i64.const -1)))";
        run_in(&env, &imports, CHILD, &[child, code].concat()).await
    };
    let assert_limit = |reason: ExitReason| {
        let words = "3 monitors (monitors_max)";
        assert!(
            matches!(&reason, ExitReason::Limit(text) if text.contains(words)),
            "{reason:?}"
        );
    };
    let node = "(call $monitor_node (i64.const 0))";
    let process = "(call $monitor (i64.load (i32.const 0)))";
    for watch in [node, process] {
        let taken_back = format!("(call $demonitor {watch})").repeat(10);
        let three = format!("(drop {node}) (drop {process}) (drop {watch})");
        let as_many = ends(&(taken_back + &three)).await;
        assert_eq!(as_many, ExitReason::Normal);
        assert_limit(ends(&format!("{three} (drop {watch})")).await);
        assert_limit(ends(&format!("(loop (drop {watch}) (br 0))")).await);
    }
}

#[tokio::test]
async fn a_spawn_that_fails_says_whose_move_it_is() {
    let spawn = |node: i64, module: i64, name: i32, params: i32, code: i32| {
        format!(
            "(call $check32 (call $spawn_on (i64.const {node}) (i64.const -1) (i64.const -1)
                (i64.const {module}) (i32.const {name}) (i32.const 5) (i32.const 1000)
                (i32.const {params}) (i64.const 1000) (i32.const 0)) (i32.const {code}))"
        )
    };
    let code = [
        "(i32.store8 (i32.const 1000) (i32.const 0x7e))".to_owned(),
        spawn(0, -1, 110, 0, 0),
        spawn(7, -1, 110, 0, 1),
        spawn(0, 3, 110, 0, 2),
        spawn(0, -1, 111, 0, 3),
        spawn(0, -1, 110, 17, 3),
        "(call $log (i32.const 110) (i32.const 5))".to_owned(),
        "(call $check (call $node_of (i64.const 0)) (i64.const 0))".to_owned(),
        "(call $check (call $node_of (i64.const 0x70000000001)) (i64.const 7))".to_owned(),
        "(drop (call $died_pid))".to_owned(),
    ]
    .concat();
    let reason = tide(&code).await;
    assert!(
        trap(&reason).contains("no message about an end"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn without_a_cluster_there_are_no_nodes() {
    let imports = r#"
        (import "lunatic::distributed" "nodes_count" (func $count (result i32)))
        (import "lunatic::distributed" "get_nodes" (func $nodes (param i32 i32) (result i32)))
        (import "lunatic::distributed" "node_id" (func $node (result i64)))
        (import "lunatic::distributed" "module_id" (func $module (result i64)))
        (import "lunatic::distributed" "exec_lookup_nodes"
            (func $lookup (param i32 i32 i32 i32 i32) (result i32)))
        (import "lunatic::distributed" "copy_lookup_nodes_results"
            (func $copy (param i64 i32 i32 i32) (result i32)))
        (import "lunatic::distributed" "spawn" (func $spawn
            (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
        (import "lunatic::distributed" "send" (func $send (param i64 i64) (result i32)))
        (import "lunatic::message" "create_data" (func $create (param i64 i64)))"#;
    let spawn = |node: i64, module: i64, code: i32| {
        format!(
            "(call $check32 (call $spawn (i64.const {node}) (i64.const -1) (i64.const {module})
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 100))
                (i32.const {code}))"
        )
    };
    let code = [
        r#"(call $check32 (call $count) (i32.const 0))
        (call $check32 (call $nodes (i32.const 0) (i32.const 10)) (i32.const 0))
        (call $check (call $node) (i64.const 0))
        (call $check (call $module) (i64.const 0))
        (call $check32 (call $lookup (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8)
            (i32.const 16)) (i32.const 0))
        (i32.store (i32.const 12) (i32.const -1))
        (call $check32 (i32.load (i32.const 8)) (i32.const 0))
        (call $check32 (i32.load (i32.const 12)) (i32.const -1))
        (call $check32 (call $copy (i64.const 0) (i32.const 0) (i32.const 5) (i32.const 16))
            (i32.const 0))
        (call $check32 (call $copy (i64.const 0) (i32.const 0) (i32.const 5) (i32.const 16))
            (i32.const -1))"#,
        &spawn(0, 1, 2),
        // The id without a cluster is the caller's own module.
        &spawn(3, 0, 1),
        r#"(call $create (i64.const 0) (i64.const 0))
        (call $check32 (call $send (i64.const 3) (i64.const 0x30000000001)) (i32.const 2))
        (call $create (i64.const 0) (i64.const 0))
        (call $check32 (call $send (i64.const 0) (i64.const 12345)) (i32.const 0))"#,
    ]
    .concat();
    assert_eq!(run(imports, "", &code).await, ExitReason::Normal);
}

const HANDLE: &str = r#"
    (import "tidelock" "handle" (func $handle (param i32 i32 i32 i64)))
    (import "lunatic::message" "create_data" (func $create (param i64 i64)))
    (import "lunatic::message" "send" (func $send (param i64) (result i32)))
    (import "lunatic::message" "data_size" (func $size (result i64)))"#;

/// Runs `_start` made of `code` beside the export "on", made of `handler`, which is called with the kind, 7,
/// and a state of 40 and more.
async fn handled(code: &str, handler: &str) -> ExitReason {
    let imports = [
        HANDLE, TIDELOCK, RECEIVE, GET_TAG, DIE, PROC_EXIT, PROCESS_ID,
    ]
    .concat();
    let data = format!(
        r#"(data (i32.const 100) "on") (data (i32.const 110) "waits") (data (i32.const 120) "typed")
        (func (export "waits") (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))
        (func (export "typed") (param i32))
        (func $name (param $state i64)
            (call $handle (i32.const 100) (i32.const 2) (i32.const 7) (local.get $state)))
        (func $say (param $tag i64)
            (call $create (local.get $tag) (i64.const 0))
            (drop (call $send (call $process_id))))
        (func (export "on") (param $kind i32) (param $function i32) (param $state i64) (result i32)
            (call $check32 (local.get $function) (i32.const 7))
            {handler})"#
    );
    run(&imports, &data, code).await
}

#[tokio::test]
async fn a_handler_is_called_with_each_message_in_order_until_it_is_done() {
    let code = "(call $name (i64.const 41)) (call $say (i64.const 41)) (call $say (i64.const 42))
        (call $say (i64.const 43)) (call $say (i64.const 99))";
    // Each names the next state; the third one is the last.
    let handler = "(call $check32 (local.get $kind) (i32.const 0))
        (call $check (call $get_tag) (local.get $state))
        (call $check (call $size) (i64.const 0))
        (call $name (i64.add (local.get $state) (i64.const 1)))
        (i64.eq (local.get $state) (i64.const 43))";
    assert_eq!(handled(code, handler).await, ExitReason::Normal);
    // Had it not been done, the message tagged 99 would not have fitted.
    let on = handler.replace("43", "44");
    assert!(trap(&handled(code, &on).await).contains("unreachable"));
}

#[tokio::test]
async fn a_handler_hears_of_ends_waits_and_may_fail() {
    let code = r#"(local $pid i64)
        (call $die (i32.const 0))
        (call $check32 (call $spawn_on (i64.const 0) (i64.const 5) (i64.const -1) (i64.const -1)
            (i32.const 110) (i32.const 5) (i32.const 0) (i32.const 0) (i64.const -1) (i32.const 0))
            (i32.const 0))
        (local.set $pid (i64.load (i32.const 0)))
        (call $name (local.get $pid))
        (call $kill (local.get $pid))"#;
    let handler = "(call $check32 (local.get $kind) (i32.const 1))
        (call $check (call $died_pid) (local.get $state))
        (call $check (call $get_tag) (i64.const 5))
        (call $say (i64.const 8))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
        (call $check (call $get_tag) (i64.const 8))
        (call $exit (i32.const 9))
        (i32.const 0)";
    assert_eq!(handled(code, handler).await, ExitReason::Exit(9));
}

/// Longer apart than it takes to have the pages of its stack given back; and the call that names it, and one in each
/// of its own, is on another stack, which is gone by then.
#[tokio::test]
async fn a_handler_goes_on_with_a_stack_whose_pages_were_given_back() {
    let imports = [
        HANDLE,
        r#"(import "lunatic::timer" "send_after" (func $later (param i64 i64) (result i64)))
        (import "lunatic::trap" "catch" (func $catch (param i32 i32) (result i32)))"#,
        PROCESS_ID,
    ]
    .concat();
    let data = r#"(data (i32.const 100) "on")
        (func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (call $handle (i32.const 100) (i32.const 2) (local.get 0) (i64.const 0))
            (call $create (i64.const 1) (i64.const 0))
            (drop (call $later (call $process_id) (i64.const 100)))
            (i32.const 1))
        (func (export "on") (param $kind i32) (param $count i32) (param i64) (result i32)
            (if (i32.eq (local.get $count) (i32.const 3)) (then (return (i32.const 1))))
            (call $check32
                (call $catch (i32.add (local.get $count) (i32.const 1)) (i32.const 0)) (i32.const 1))
            (i32.const 0))"#;
    let code = "(call $check32 (call $catch (i32.const 0) (i32.const 0)) (i32.const 1))";
    assert_eq!(run(&imports, data, code).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_handler_that_waits_is_killed_like_any_other_process() {
    let env = environment();
    let body = r#"(data (i32.const 100) "on")
        (func (export "on") (param i32 i32 i64) (result i32) (i32.const 0))
        (func (export "_start")
            (call $handle (i32.const 100) (i32.const 2) (i32.const 0) (i64.const 0)))"#;
    let module = guest(&env, HANDLE, body).await;
    let pid = start(&env, &module);
    env.kill(pid, None);
    assert_eq!(end(&env, pid).await, ExitReason::Killed(None));
}

#[tokio::test]
async fn a_handler_that_is_missing_or_of_another_type_traps() {
    let named = |name: i32, len: i32| {
        format!("(call $handle (i32.const {name}) (i32.const {len}) (i32.const 0) (i64.const 0))")
    };
    for (code, says) in [
        (named(300, 2), "no exported function"),
        (named(120, 5), "\"typed\" is not (i32, i32, i64) -> i32"),
        (named(65_530, 9), "name_ptr"),
        (named(0, 4097), "name_len: more than 4096 bytes"),
    ] {
        let reason = handled(&code, "(i32.const 0)").await;
        assert!(trap(&reason).contains(says), "{reason:?} lacks {says:?}");
    }
}
