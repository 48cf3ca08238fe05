//! Timers, names, catching, versions, metrics.

use super::names::NAMES;
use super::*;

#[tokio::test]
async fn timers_fire_and_can_be_cancelled() {
    let imports = [
        MESSAGES,
        RECEIVE,
        GET_TAG,
        PROCESS_ID,
        r#"
        (import "lunatic::timer" "send_after" (func $after (param i64 i64) (result i64)))
        (import "lunatic::timer" "cancel_timer" (func $cancel (param i64) (result i32)))
        (import "lunatic::process" "sleep_ms" (func $sleep (param i64)))"#,
    ]
    .concat();
    let code = r#"(local $timer i64)
        (call $create_data (i64.const 1) (i64.const 0))
        (local.set $timer (call $after (call $process_id) (i64.const 5)))
        (call $check32 (call $cancel (local.get $timer)) (i32.const 1))
        (call $check32 (call $cancel (local.get $timer)) (i32.const 0))
        (call $create_data (i64.const 2) (i64.const 0))
        (local.set $timer (call $after (call $process_id) (i64.const 10)))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
        (call $check (call $get_tag) (i64.const 2))
        (call $sleep (i64.const 1))
        (call $check32 (call $cancel (local.get $timer)) (i32.const 0))
        (call $check32 (call $cancel (i64.const 99)) (i32.const 0))
        (drop (call $after (i64.const 0) (i64.const 1)))
        (drop (call $after (i64.const 0) (i64.const 1)))"#;
    let reason = run(&imports, "", code).await;
    assert!(trap(&reason).contains("send_after"), "{reason:?}");
}

#[tokio::test]
async fn a_timer_of_nobody_has_a_number_of_its_own() {
    let imports = [
        MESSAGES,
        PROCESS_ID,
        r#"
        (import "lunatic::timer" "send_after" (func $after (param i64 i64) (result i64)))
        (import "lunatic::timer" "cancel_timer" (func $cancel (param i64) (result i32)))"#,
    ]
    .concat();
    let code = r#"(local $nobody i64) (local $mine i64)
        (call $create_data (i64.const 1) (i64.const 0))
        (local.set $nobody (call $after (i64.const 0) (i64.const 3600000)))
        (call $create_data (i64.const 1) (i64.const 0))
        (local.set $mine (call $after (call $process_id) (i64.const 3600000)))
        (call $check32 (i64.eq (local.get $nobody) (local.get $mine)) (i32.const 0))
        (call $check32 (call $cancel (local.get $nobody)) (i32.const 0))
        (call $check32 (call $cancel (local.get $mine)) (i32.const 1))"#;
    assert_eq!(run(&imports, "", code).await, ExitReason::Normal);
}

#[tokio::test]
async fn names_are_put_found_and_removed() {
    let imports = [PROCESS_ID, NAMES].concat();
    let data = r#"(data (i32.const 100) "name") (data (i32.const 110) "child")
        (func (export "child"))
        (func $found (result i32)
            (call $get (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 8)))
        (func $found_or_spawned (result i32)
            (call $get_or_spawn (i32.const 100) (i32.const 4) (i64.const 0) (i64.const -1)
                (i64.const -1) (i32.const 110) (i32.const 5) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 16)))"#;
    let code = r#"
        (call $check32 (call $found) (i32.const 1))
        (call $put (i32.const 100) (i32.const 4) (i64.const 12) (call $process_id))
        (call $check32 (call $found) (i32.const 0))
        (call $check (i64.load (i32.const 0)) (i64.const 12))
        (call $check (i64.load (i32.const 8)) (call $process_id))
        (call $check32 (call $found_or_spawned) (i32.const 2))
        (call $check (i64.load (i32.const 16)) (call $process_id))
        (call $remove (i32.const 100) (i32.const 4))
        (call $remove (i32.const 100) (i32.const 4))
        (call $check32 (call $found) (i32.const 1))
        (call $check32 (call $found_or_spawned) (i32.const 0))
        (call $check32 (call $found_or_spawned) (i32.const 2))
        (call $check32 (call $found) (i32.const 0))
        (call $check (i64.load (i32.const 8)) (i64.load (i32.const 16)))
        (call $put (i32.const 65535) (i32.const 4) (i64.const 0) (i64.const 1))"#;
    let reason = run(&imports, data, code).await;
    assert!(
        trap(&reason).contains("registry::put: name_ptr"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_trap_can_be_caught() {
    let imports = [
        PROC_EXIT,
        r#"
        (import "lunatic::trap" "catch" (func $catch (param i32 i32) (result i32)))"#,
    ]
    .concat();
    let data = r#"(func $inner (export "_lunatic_catch_trap") (param i32 i32) (result i32)
        (if (i32.eq (local.get 0) (i32.const 1)) (then unreachable))
        (if (i32.eq (local.get 0) (i32.const 2)) (then (call $exit (local.get 1))))
        (if (i32.eq (local.get 0) (i32.const 3))
            (then (return (call $catch (i32.const 3) (i32.const 0)))))
        (i32.add (local.get 0) (local.get 1)))"#;
    let code = r#"
        (call $check32 (call $catch (i32.const 40) (i32.const 2)) (i32.const 42))
        (call $check32 (call $catch (i32.const 1) (i32.const 2)) (i32.const 0))
        (call $check32 (call $catch (i32.const 3) (i32.const 0)) (i32.const 0))
        (drop (call $catch (i32.const 2) (i32.const 9)))"#;
    assert_eq!(run(&imports, data, code).await, ExitReason::Exit(9));
    traps(
        &imports,
        "(drop (call $catch (i32.const 0) (i32.const 0)))",
        "_lunatic_catch_trap",
    )
    .await;
}

#[tokio::test]
async fn version_and_metrics() {
    let imports = r#"
        (import "lunatic::version" "major" (func $major (result i32)))
        (import "lunatic::version" "minor" (func $minor (result i32)))
        (import "lunatic::version" "patch" (func $patch (result i32)))
        (import "lunatic::metrics" "counter" (func $counter (param i32 i32 i64)))
        (import "lunatic::metrics" "increment_counter" (func $increment (param i32 i32)))
        (import "lunatic::metrics" "gauge" (func $gauge (param i32 i32 f64)))
        (import "lunatic::metrics" "histogram" (func $histogram (param i32 i32 f64)))"#;
    let data = r#"(data (i32.const 0) "test.metric.abc")"#;
    let code = r#"
        (call $check32 (call $major) (i32.const 0))
        (call $check32 (call $minor) (i32.const 13))
        (call $check32 (call $patch) (i32.const 2))
        (call $counter (i32.const 0) (i32.const 13) (i64.const 7))
        (call $increment (i32.const 0) (i32.const 13))
        (call $gauge (i32.const 0) (i32.const 14) (f64.const 2.5))
        (call $histogram (i32.const 0) (i32.const 15) (f64.const 1.5))
        (call $histogram (i32.const 0) (i32.const 15) (f64.const 2))"#;
    let reason = run(imports, data, code).await;
    assert_eq!(reason, ExitReason::Normal);
    let metrics = crate::guest_metrics();
    assert_eq!(metrics.values["test.metric.a"], 8.0);
    assert_eq!(metrics.values["test.metric.ab"], 2.5);
    assert_eq!(metrics.histograms["test.metric.abc"], (2, 3.5));
    metrics_are_counted_and_one_more_is_ignored().await;
}

/// What is cut off is not looked at, be it no text.
#[tokio::test]
async fn a_long_name_of_a_metric_is_cut_at_a_character() {
    let imports = r#"
        (import "lunatic::metrics" "counter" (func $counter (param i32 i32 i64)))"#;
    // A character lies across the end, at 127 and 128.
    let name = format!("cut.{}", "m".repeat(123));
    let data = format!(r#"(data (i32.const 0) "{name}\c3\a9\ff")"#);
    let code = "(call $counter (i32.const 0) (i32.const 130) (i64.const 5))";
    assert_eq!(run(imports, &data, code).await, ExitReason::Normal);
    assert_eq!(crate::guest_metrics().values[&name], 5.0);
}

/// The metrics are those of the whole process, so this comes after whoever else wants a histogram.
async fn metrics_are_counted_and_one_more_is_ignored() {
    let imports = r#"
        (import "lunatic::metrics" "histogram" (func $histogram (param i32 i32 f64)))"#;
    // 5 000 names.
    let data = r#"(data (i32.const 0) "many.")"#;
    let code = r#"(local $n i32)
        (loop $next
            (i32.store8 (i32.const 5) (i32.add (i32.const 97) (i32.rem_u (local.get $n) (i32.const 26))))
            (i32.store8 (i32.const 6) (i32.add (i32.const 97)
                (i32.rem_u (i32.div_u (local.get $n) (i32.const 26)) (i32.const 26))))
            (i32.store8 (i32.const 7) (i32.add (i32.const 97) (i32.div_u (local.get $n) (i32.const 676))))
            (call $histogram (i32.const 0) (i32.const 8) (f64.const 1))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $n) (i32.const 5000))))
        ;; one that was there still counts
        (i32.store8 (i32.const 5) (i32.const 97))
        (i32.store8 (i32.const 6) (i32.const 97))
        (i32.store8 (i32.const 7) (i32.const 97))
        (call $histogram (i32.const 0) (i32.const 8) (f64.const 6))"#;
    assert_eq!(run(imports, data, code).await, ExitReason::Normal);
    let metrics = crate::guest_metrics();
    assert_eq!(metrics.histograms.len(), 4096);
    // The histogram above was there before.
    assert!(metrics.ignored > 5000 - 4096, "{}", metrics.ignored);
    assert_eq!(metrics.histograms["many.aaa"], (2, 7.0));
}
