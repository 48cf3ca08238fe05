//! WASI preview 1: what a process is given, and that it is all.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::{Filter, ProcessConfig, Received};

const WASI: &str = r#"
    (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get"
        (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))"#;

#[tokio::test]
async fn paths_stay_below_their_directory() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-wasi", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("open")).unwrap();
    fs::write(dir.join("secret"), "s").unwrap();
    fs::write(dir.join("open/inside"), "hello").unwrap();
    std::os::unix::fs::symlink("../secret", dir.join("open/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("open/absolute")).unwrap();

    let paths = [
        "inside",
        "../secret",
        "/etc/passwd",
        "link",
        "absolute",
        "x/../../secret",
    ];
    let data: String = paths
        .iter()
        .enumerate()
        .map(|(i, path)| format!(r#"(data (i32.const {}) "{path}")"#, 1000 + i * 100))
        .collect();
    // Follows symbolic links, asks for reading.
    let open = |i: usize| {
        format!(
            "(call $path_open (i32.const 3) (i32.const 1) (i32.const {}) (i32.const {})
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 4))",
            1000 + i * 100,
            paths[i].len()
        )
    };
    let refused: String = (1..paths.len())
        .map(|i| format!("(if (i32.eqz {}) (then unreachable))", open(i)))
        .collect();
    let body = format!(
        r#"{data} (func (export "_start")
            {refused}
            (call $check32 {inside} (i32.const 0))
            (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 9))
            (call $check32 (call $fd_read (i32.load (i32.const 4)) (i32.const 16) (i32.const 1)
                (i32.const 8)) (i32.const 0))
            (call $check32 (i32.load (i32.const 8)) (i32.const 5))
            (call $check32 (i32.load8_u (i32.const 64)) (i32.const 104)))
        (func (export "without")
            (call $check32 {inside} (i32.const 8)))"#,
        inside = open(0)
    );
    let env = environment();
    let module = guest(&env, WASI, &body).await;
    let given = ProcessConfig {
        preopens: vec![dir.join("open").to_str().unwrap().to_owned()],
        ..ProcessConfig::default()
    };
    for (entry, config) in [("_start", given), ("without", ProcessConfig::default())] {
        let options = SpawnOptions {
            config: Arc::new(config),
            ..SpawnOptions::default()
        };
        let pid = env.spawn_wasm(&module, entry, vec![], options).unwrap();
        assert_eq!(end(&env, pid).await, ExitReason::Normal, "{entry}");
    }
    fs::remove_dir_all(&dir).unwrap();
}

/// A guest that may write to the folder of a directory can put a link in its place.
#[tokio::test]
async fn a_directory_that_was_swapped_for_a_link_is_missing() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-link", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    for name in ["open", "secret"] {
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("file"), "f").unwrap();
    }
    // 0: it is there; 8: there is no such directory.
    let opens = |entry: &str, code: u32| {
        format!(
            r#"(func (export "{entry}") (call $check32 (call $path_open (i32.const 3) (i32.const 1)
                (i32.const 100) (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 0)
                (i32.const 0) (i32.const 4)) (i32.const {code})))"#
        )
    };
    let body = format!(
        r#"(data (i32.const 100) "file") {} {}"#,
        opens("before", 0),
        opens("after", 8)
    );
    let env = environment();
    let module = guest(&env, WASI, &body).await;
    let config = Arc::new(ProcessConfig {
        preopens: vec![dir.join("open").to_str().unwrap().to_owned()],
        ..ProcessConfig::default()
    });
    for entry in ["before", "after"] {
        let options = SpawnOptions {
            config: config.clone(),
            ..SpawnOptions::default()
        };
        let pid = env.spawn_wasm(&module, entry, vec![], options).unwrap();
        assert_eq!(end(&env, pid).await, ExitReason::Normal, "{entry}");
        if entry == "before" {
            fs::rename(dir.join("open"), dir.join("gone")).unwrap();
            std::os::unix::fs::symlink("secret", dir.join("open")).unwrap();
        }
    }
    fs::remove_dir_all(&dir).unwrap();
}

/// The time that guests are told is the time they can wait for: one that has come is no reason to wait.
#[tokio::test]
async fn a_moment_of_the_monotonic_clock_is_waited_for_by_that_clock() {
    let imports = format!(
        r#"{WASI} (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))"#
    );
    let now = |at: u32| {
        format!(
            "(call $check32 (call $clock (i32.const 1) (i64.const 1) (i32.const {at})) (i32.const 0))"
        )
    };
    assert_eq!(run(WASI, "", &now(0)).await, ExitReason::Normal);
    tokio::time::sleep(Duration::from_millis(200)).await; // the clock that all processes have comes to be of some age
    // A clock that began with the process comes to that age as late again, each time. A busy machine is late now and then.
    let code = format!(
        r#"(local $tries i32) (local $age i64)
        {before}
        (local.set $age (i64.load (i32.const 0)))
        (i32.store (i32.const 80) (i32.const 1))
        (i32.store16 (i32.const 104) (i32.const 1))
        (block $at_once (loop $again
            {before}
            (i64.store (i32.const 88) (i64.load (i32.const 0)))
            (call $check32 (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200))
                (i32.const 0))
            {after}
            (br_if $at_once (i64.lt_u (i64.sub (i64.load (i32.const 8)) (i64.load (i32.const 0)))
                (i64.shr_u (local.get $age) (i64.const 1))))
            (br_if $again (i32.lt_u
                (local.tee $tries (i32.add (local.get $tries) (i32.const 1))) (i32.const 10)))
            unreachable))"#,
        before = now(0),
        after = now(8)
    );
    assert_eq!(run(&imports, "", &code).await, ExitReason::Normal);
}

#[tokio::test]
async fn clocks_chance_and_an_empty_standard_input() {
    let code = r#"
        (call $check32 (call $yield) (i32.const 0))
        (call $check32 (call $clock (i32.const 0) (i64.const 1) (i32.const 0)) (i32.const 0))
        (if (i64.lt_u (i64.load (i32.const 0)) (i64.const 1600000000000000000)) (then unreachable))
        (call $check32 (call $clock (i32.const 1) (i64.const 1) (i32.const 0)) (i32.const 0))
        (if (i32.eqz (call $clock (i32.const 9) (i64.const 1) (i32.const 0))) (then unreachable))
        (call $check32 (call $random (i32.const 0) (i32.const 16)) (i32.const 0))
        (if (i64.eqz (i64.or (i64.load (i32.const 0)) (i64.load (i32.const 8)))) (then unreachable))
        (call $check32 (call $random (i32.const 0) (i32.const 99999999)) (i32.const 28))
        (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 9))
        (call $check32 (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 8))
            (i32.const 0))
        (call $check32 (i32.load (i32.const 8)) (i32.const 0))
        (drop (call $random (i32.const 65535) (i32.const 2)))"#;
    let reason = run(WASI, "", code).await;
    assert!(trap(&reason).contains("random_get: ptr"), "{reason:?}");
}

/// `$args` adds texts of 64 KiB to a config, each of which counts 24 bytes more; 15 of them leave 32 408 bytes of one.
/// `$fill` makes configs with so many.
const FILL: &str = r#"
    (func $args (param $config i64) (param $count i32)
        (loop
            (call $arg (local.get $config) (i32.const 65536) (i32.const 65536))
            (br_if 0 (local.tee $count (i32.sub (local.get $count) (i32.const 1))))))
    (func $fill (param $configs i32)
        (loop
            (call $args (call $create) (i32.const 15))
            (br_if 0 (local.tee $configs (i32.sub (local.get $configs) (i32.const 1))))))"#;

#[tokio::test]
async fn the_texts_of_a_config_and_of_all_of_a_process_have_an_end() {
    let imports = r#"
        (import "lunatic::process" "create_config" (func $create (result i64)))
        (import "lunatic::process" "drop_config" (func $drop_config (param i64)))
        (import "lunatic::wasi" "config_add_command_line_argument" (func $arg (param i64 i32 i32)))
        (import "lunatic::wasi" "config_add_environment_variable"
            (func $var (param i64 i32 i32 i32 i32)))"#;
    let pair = |bytes: u32| {
        format!(
            "(call $var (i64.const 0) (i32.const 65536) (i32.const {bytes}) (i32.const 65536)
                (i32.const {bytes}))"
        )
    };
    let full = |bytes| format!("(call $fill (i32.const 1)) {}", pair(bytes));
    let nothing = "(call $arg (i64.const 0) (i32.const 0) (i32.const 0))";
    let one = "add_command_line_argument: a config has at most 1015808 bytes";
    for (code, words) in [
        (full(16_180), None),
        (
            full(16_181),
            Some("add_environment_variable: a config has at most 1015808 bytes"),
        ),
        (full(16_180) + nothing, Some(one)),
        (
            "(call $args (call $create) (i32.const 16))".to_owned(),
            Some(one),
        ),
        (
            "(call $fill (i32.const 17)) (call $drop_config (i64.const 0)) (call $fill (i32.const 1))"
                .to_owned(),
            None,
        ),
        (
            "(call $fill (i32.const 18))".to_owned(),
            Some("all configs have at most 16777216 bytes"),
        ),
    ] {
        let code = format!(
            "(drop (memory.grow (i32.const 1)))
            (memory.fill (i32.const 65536) (i32.const 97) (i32.const 65536)) {code}"
        );
        let reason = run(imports, FILL, &code).await;
        match words {
            Some(words) => assert!(trap(&reason).contains(words), "{reason:?} lacks {words:?}"),
            None => assert_eq!(reason, ExitReason::Normal, "{code}"),
        }
    }
}

/// On one worker the echo can only run while the guest lets it.
#[tokio::test]
async fn whoever_yields_lets_others_run() {
    let env = environment();
    let echo = env.spawn_native("echo", SpawnOptions::default(), |mut me| async move {
        while let Some(Received::Message(message)) = me.receive(Filter::Any, None).await {
            let to = u64::from_le_bytes(message.data[..].try_into().unwrap());
            let to = Pid::from_raw(to).unwrap();
            me.send(to, message).await.unwrap();
        }
        ExitReason::Normal
    });
    let body = format!(
        r#"(func (export "_start")
            (i64.store (i32.const 0) (call $process_id))
            (call $create_data (i64.const 1) (i64.const 8))
            (drop (call $write (i32.const 0) (i32.const 8)))
            (drop (call $send (i64.const {echo})))
            (call $check32 (call $yield) (i32.const 0))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const 0)))"#,
        echo = echo.unwrap().raw()
    );
    let imports = format!("{WASI}{PROCESS_ID}{RECEIVE}{MESSAGES}");
    let module = guest(&env, &imports, &body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}
