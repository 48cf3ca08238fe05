//! Answers and traps that belong to no other table: a full environment, permissions, ids without end, what a
//! message must be for each call, links and monitors as Lunatic has them.

use super::ids::import;
use super::*;
use crate::ProcessConfig;

/// The imports of Lunatic's interface with these paths, each named by its last part.
fn imports(paths: &[&str]) -> String {
    let named = |path: &&str| {
        let name = path.rsplit("::").next().unwrap();
        import(path)
            .0
            .replacen("(func $f", &format!("(func ${name}"), 1)
    };
    paths.iter().map(named).collect()
}

/// Runs `_start` made of `code` with this configuration.
async fn runs_as(config: ProcessConfig, imports: &str, body: &str) -> ExitReason {
    let env = environment();
    let module = guest(&env, imports, body).await;
    let pid = start_as(&env, &module, config);
    end(&env, pid).await
}

/// All calls that spawn, with a name that is `word`.
const SPAWNS: &str = r#"
    (import "lunatic::process" "spawn" (func $spawn
        (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::process" "get_or_spawn" (func $get_or_spawn
        (param i32 i32 i64 i64 i64 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::distributed" "spawn" (func $spawn_at
        (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
    (import "tidelock" "spawn" (func $spawn_on
        (param i64 i64 i64 i64 i32 i32 i32 i32 i64 i32) (result i32)))
    (import "lunatic::registry" "get" (func $get (param i32 i32 i32 i32) (result i32)))"#;

const SPAWN_DATA: &str = r#"(data (i32.const 100) "word")
    (func (export "word"))
    (func $spawns (result i32) (call $spawn (i64.const 0) (i64.const -1) (i64.const -1)
        (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 8)))
    (func $gets_or_spawns (result i32) (call $get_or_spawn (i32.const 100) (i32.const 4)
        (i64.const 0) (i64.const -1) (i64.const -1) (i32.const 100) (i32.const 4) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 8)))
    (func $spawns_at (param $name i32) (result i32) (call $spawn_at (i64.const 0) (i64.const -1)
        (i64.const 0) (local.get $name) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 8)))
    (func $spawns_on (result i32) (call $spawn_on (i64.const 0) (i64.const -1) (i64.const -1)
        (i64.const -1) (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const 1000)
        (i32.const 8)))"#;

#[tokio::test]
async fn a_full_environment_is_an_answer_with_a_text() {
    let env = environment_with(Limits {
        processes_max: 1,
        ..Limits::default()
    });
    let imports = [SPAWNS, ERRORS].concat();
    // The text of the error at 8 begins so: "node".
    let body = format!(
        r#"{SPAWN_DATA}
        (func $full (param $code i32) (param $is i32)
            (call $check32 (local.get $code) (local.get $is))
            (call $error_text (i64.load (i32.const 8)) (i32.const 1000))
            (call $check32 (i32.load (i32.const 1000)) (i32.const 0x65646f6e))
            (call $error_drop (i64.load (i32.const 8))))
        (func (export "_start")
            (call $full (call $spawns) (i32.const 1))
            (call $full (call $gets_or_spawns) (i32.const 1))
            (call $full (call $spawns_at (i32.const 100)) (i32.const 9027))
            (call $full (call $spawns_on) (i32.const 4))
            ;; and nothing was registered
            (call $check32 (call $get (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0))
                (i32.const 1)))"#
    );
    let module = guest(&env, &imports, &body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_process_that_cannot_be_given_its_name_does_not_stay() {
    let env = environment_with(Limits {
        names_max: 0,
        ..Limits::default()
    });
    let endless = SPAWN_DATA.replace(r#"(export "word")"#, r#"(export "word") (loop (br 0))"#);
    let body = format!(r#"{endless} (func (export "_start") (drop (call $gets_or_spawns)))"#);
    let module = guest(&env, SPAWNS, &body).await;
    let reason = end(&env, start(&env, &module)).await;
    assert!(
        trap(&reason).contains("too many names are registered"),
        "{reason:?}"
    );
    env.idle().await;
}

#[tokio::test]
async fn a_spawn_on_the_own_node_has_its_codes() {
    let imports = [SPAWNS, ERRORS].concat();
    let body = format!(
        r#"{SPAWN_DATA} (func (export "_start")
            (call $check32 (call $spawns_at (i32.const 100)) (i32.const 0))
            (if (i64.eqz (i64.load (i32.const 8))) (then unreachable))
            ;; a function that is not there
            (call $check32 (call $spawns_at (i32.const 200)) (i32.const 9027))
            (call $error_drop (i64.load (i32.const 8)))
            (call $check32 (call $spawns_on) (i32.const 0)))"#
    );
    let reason = runs_as(ProcessConfig::default(), &imports, &body).await;
    assert_eq!(reason, ExitReason::Normal);
}

#[tokio::test]
async fn without_permission_each_way_to_spawn_is_closed() {
    let denied = || ProcessConfig {
        can_spawn_processes: false,
        ..ProcessConfig::default()
    };
    let imports = [SPAWNS, ERRORS].concat();
    let body = |code: &str| format!(r#"{SPAWN_DATA} (func (export "_start") {code})"#);
    for (code, path) in [
        ("(drop (call $spawns))", "lunatic::process::spawn"),
        (
            "(drop (call $gets_or_spawns))",
            "lunatic::process::get_or_spawn",
        ),
        (
            "(drop (call $spawns_at (i32.const 100)))",
            "lunatic::distributed::spawn",
        ),
    ] {
        let reason = runs_as(denied(), &imports, &body(code)).await;
        let expected = format!("{path}: this process may not spawn");
        assert!(trap(&reason).contains(&expected), "{reason:?}");
    }
    let code = "(call $check32 (call $spawns_on) (i32.const 5))
        (call $error_drop (i64.load (i32.const 8)))";
    let reason = runs_as(denied(), &imports, &body(code)).await;
    assert_eq!(reason, ExitReason::Normal);
}

#[tokio::test]
async fn before_an_instance_is_there_nothing_is_spawned() {
    let starts = async |code: &str| {
        let body = format!(r#"{SPAWN_DATA} (func $s {code}) (start $s) (func (export "_start"))"#);
        let env = environment();
        let module = guest(&env, SPAWNS, &body).await;
        let pid = start(&env, &module);
        end(&env, pid).await
    };
    for code in [
        "(drop (call $spawns))",
        "(drop (call $gets_or_spawns))",
        "(drop (call $spawns_at (i32.const 100)))",
    ] {
        let reason = starts(code).await;
        assert!(
            trap(&reason).contains("a start function cannot spawn"),
            "{reason:?}"
        );
    }
    let code = "(call $check32 (call $spawns_on) (i32.const 5))";
    assert_eq!(starts(code).await, ExitReason::Normal);
}

#[tokio::test]
async fn parameters_of_every_type_arrive() {
    let body = r#"(data (i32.const 100) "child")
        (data (i32.const 200) "\7f\fe\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff")
        (data (i32.const 217) "\7e\03\00\00\00\00\00\00\80\00\00\00\00\00\00\00\00")
        (data (i32.const 234) "\7b\01\00\00\00\00\00\00\00\02\00\00\00\00\00\00\00")
        (func (export "child") (param $a i32) (param $b i64) (param $c v128)
            (call $check32 (local.get $a) (i32.const -2))
            (call $check (local.get $b) (i64.const 0x8000000000000003))
            (call $check (i64x2.extract_lane 0 (local.get $c)) (i64.const 1))
            (call $check (i64x2.extract_lane 1 (local.get $c)) (i64.const 2))
            (call $exit (i32.const 7)))
        (func (export "_start")
            (call $check32 (call $spawn (i64.const 5) (i64.const -1) (i64.const -1)
                (i32.const 100) (i32.const 5) (i32.const 200) (i32.const 51) (i32.const 0))
                (i32.const 0))
            (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))"#;
    let imports = [SPAWN, RECEIVE, PROC_EXIT].concat();
    let reason = runs_as(ProcessConfig::default(), &imports, body).await;
    // The child ends so if it has got all of them.
    let ExitReason::LinkDied { .. } = &reason else {
        panic!("{reason:?}");
    };
    assert!(reason.to_string().contains('7'), "{reason}");
}

/// A way to have ever more of something that has an id.
#[tokio::test]
async fn ids_of_one_kind_have_an_end() {
    let resolve = "lunatic::networking::resolve";
    let data = r#"(data (i32.const 100) "word") (data (i32.const 110) "1.1.1.1:1")"#;
    for (path, values) in [
        ("lunatic::process::create_config", ""),
        // An error; an iterator; a query for nodes.
        (
            resolve,
            "(i32.const 100) (i32.const 4) (i64.const 0) (i32.const 0)",
        ),
        (
            resolve,
            "(i32.const 110) (i32.const 9) (i64.const 0) (i32.const 0)",
        ),
        (
            "lunatic::distributed::exec_lookup_nodes",
            "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 16)",
        ),
    ] {
        let body = format!(
            r#"{data} (func (export "_start") (local $left i32)
                (local.set $left (i32.const 65536))
                (loop
                    (drop (call $f {values}))
                    (br_if 0 (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
                ;; one more
                (drop (call $f {values})))"#
        );
        let reason = runs_as(ProcessConfig::default(), &import(path).0, &body).await;
        let expected = format!("{path}: more than 65536 ids of one kind");
        assert!(trap(&reason).contains(&expected), "{reason:?}");
    }
}

// ---- messages --------------------------------------------------------------------------------------------

/// Calls that need a data message, with a module that has the id 0.
const OF_DATA: &[(&str, &str)] = &[
    (
        "lunatic::message::write_data",
        "(drop (call $f (i32.const 0) (i32.const 0)))",
    ),
    (
        "lunatic::message::read_data",
        "(drop (call $f (i32.const 0) (i32.const 0)))",
    ),
    ("lunatic::message::seek_data", "(call $f (i64.const 0))"),
    ("lunatic::message::data_size", "(drop (call $f))"),
    (
        "lunatic::message::push_module",
        "(drop (call $f (i64.const 0)))",
    ),
    (
        "lunatic::message::take_module",
        "(drop (call $f (i64.const 0)))",
    ),
    (
        "lunatic::message::take_tcp_stream",
        "(drop (call $f (i64.const 0)))",
    ),
    (
        "lunatic::message::take_tls_stream",
        "(drop (call $f (i64.const 0)))",
    ),
    (
        "lunatic::message::take_udp_socket",
        "(drop (call $f (i64.const 0)))",
    ),
    ("lunatic::message::send", "(drop (call $f (i64.const 0)))"),
    (
        "lunatic::message::send_receive_skip_search",
        "(drop (call $f (i64.const 0) (i64.const 1) (i64.const 0)))",
    ),
    (
        "lunatic::timer::send_after",
        "(drop (call $f (i64.const 0) (i64.const 0)))",
    ),
    (
        "lunatic::distributed::send",
        "(drop (call $f (i64.const 0) (i64.const 0)))",
    ),
    (
        "lunatic::distributed::send_receive_skip_search",
        "(drop (call $f (i64.const 0) (i64.const 0) (i64.const 1) (i64.const 0)))",
    ),
];

/// What compiles a module, and tells of ends.
const ENDS: &str = r#"
    (import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))
    (import "lunatic::process" "monitor" (func $watch (param i64)))
    (import "lunatic::process" "link" (func $bind (param i64 i64)))"#;

const MODULE: &str = r#"(data (i32.const 400) "\00asm\01\00\00\00")
    (func $module (call $check32
        (call $compile (i32.const 400) (i32.const 8) (i32.const 0)) (i32.const 0)))"#;

/// Nobody has this number.
const GONE: &str = "(i64.const 99999)";

#[tokio::test]
async fn without_a_data_message_each_call_about_one_traps() {
    let next = "(drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))";
    // Nothing; a link that died, with the tag 9; a process that is down.
    let slots = [
        String::new(),
        format!(
            "(call $die (i32.const 0)) (call $bind (i64.const 9) {GONE}) {next}
            (call $check (call $get_tag) (i64.const 9)) (call $check (call $dead_id) (i64.const 0))"
        ),
        format!(
            "(call $watch {GONE}) {next}
            (call $check (call $get_tag) (i64.const 0))
            (call $check (call $dead_id) {GONE})"
        ),
    ];
    for (path, call) in OF_DATA {
        for slot in &slots {
            let imports = [
                ENDS,
                DIE,
                RECEIVE,
                GET_TAG,
                r#"(import "lunatic::message" "get_process_id" (func $dead_id (result i64)))"#,
                &import(path).0,
            ]
            .concat();
            let body = format!(r#"{MODULE} (func (export "_start") (call $module) {slot} {call})"#);
            let reason = runs_as(ProcessConfig::default(), &imports, &body).await;
            let expected = format!("{path}: there is no data message in the scratch slot");
            assert!(trap(&reason).contains(&expected), "{path}: {reason:?}");
        }
    }
}

#[tokio::test]
async fn modules_are_at_places_of_a_message_and_have_an_end_there() {
    let imports = [
        MESSAGES,
        ENDS,
        &imports(&[
            "lunatic::message::push_module",
            "lunatic::message::take_module",
        ]),
    ]
    .concat();
    let new = "(call $module) (call $create_data (i64.const 0) (i64.const 0))";
    let cases = [
        // Behind the last one; taken already.
        (
            "(drop (call $push_module (i64.const 0))) (drop (call $take_module (i64.const 1)))",
            "take_module: no module at index 1 of the message",
        ),
        (
            "(drop (call $push_module (i64.const 0)))
            (call $check (call $take_module (i64.const 0)) (i64.const 1))
            (drop (call $take_module (i64.const 0)))",
            "take_module: no module at index 0 of the message",
        ),
        (
            "(loop (drop (call $push_module (i64.const 0))) (br 0))",
            "push_module: a message has at most 256 resources",
        ),
    ];
    for (code, words) in cases {
        let body = format!(r#"{MODULE} (func (export "_start") {new} {code})"#);
        let reason = runs_as(ProcessConfig::default(), &imports, &body).await;
        assert!(trap(&reason).contains(words), "{reason:?}");
    }
}

#[tokio::test]
async fn a_request_to_a_process_of_some_node_is_a_request() {
    let imports = [
        MESSAGES,
        GET_TAG,
        PROCESS_ID,
        r#"(import "lunatic::distributed" "send_receive_skip_search"
            (func $ask (param i64 i64 i64 i64) (result i32)))"#,
    ]
    .concat();
    // The node beside the process is not looked at: the id says which it is.
    let code = r#"
        (call $create_data (i64.const 6) (i64.const 0))
        (call $check32 (call $ask (i64.const 3) (call $process_id) (i64.const 6) (i64.const -1))
            (i32.const 0))
        (call $check (call $get_tag) (i64.const 6))
        (call $create_data (i64.const 6) (i64.const 0))
        (call $check32 (call $ask (i64.const 0) (call $process_id) (i64.const 7) (i64.const 5))
            (i32.const 9027))
        ;; nobody is there to answer
        (call $create_data (i64.const 6) (i64.const 0))
        (call $check32 (call $ask (i64.const 3) (i64.const 0x30000000001) (i64.const 6) (i64.const 5))
            (i32.const 9027))"#;
    assert_eq!(run(&imports, "", code).await, ExitReason::Normal);
}

#[tokio::test]
async fn timers_of_a_process_have_an_end() {
    let env = environment_with(Limits {
        timers_max: 3,
        ..Limits::default()
    });
    let imports = [
        MESSAGES,
        PROCESS_ID,
        &imports(&["lunatic::timer::send_after", "lunatic::process::sleep_ms"]),
    ]
    .concat();
    let body = r#"(func (export "_start")
        (loop
            (call $create_data (i64.const 0) (i64.const 0))
            (drop (call $send_after (call $process_id) (i64.const 1000000)))
            (call $sleep_ms (i64.const 0))
            (br 0)))"#;
    let module = guest(&env, &imports, body).await;
    let pid = start(&env, &module);
    let reason = end(&env, pid).await;
    assert!(
        matches!(&reason, ExitReason::Limit(text) if text.contains("timers_max")),
        "{reason:?}"
    );
}

// ---- links and monitors as Lunatic has them --------------------------------------------------------------

const LIVES: &str = r#"(data (i32.const 100) "waits")
    (func (export "waits") (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))
    (func $child (result i64)
        (call $check32 (call $spawn (i64.const 0) (i64.const -1) (i64.const -1)
            (i32.const 100) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 0))
        (i64.load (i32.const 0)))
    (func $next (param $kind i32) (call $check32 (local.get $kind)
        (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))
    ;; nothing is told up to a message of its own, which comes behind
    (func $silence
        (call $create_data (i64.const 50) (i64.const 0))
        (drop (call $send (call $process_id)))
        (call $next (i32.const 0))
        (call $check (call $get_tag) (i64.const 50)))"#;

async fn lives(code: &str) -> ExitReason {
    let imports = [
        SPAWN,
        DIE,
        RECEIVE,
        GET_TAG,
        PROCESS_ID,
        MESSAGES,
        &imports(&[
            "lunatic::process::link",
            "lunatic::process::unlink",
            "lunatic::process::monitor",
            "lunatic::process::stop_monitoring",
            "lunatic::process::kill",
            "lunatic::process::exists",
            "lunatic::process::environment_id",
        ]),
    ]
    .concat();
    run(&imports, LIVES, code).await
}

#[tokio::test]
async fn links_are_told_with_their_tag_and_taken_back() {
    let code = r#"(local $pid i64)
        (call $check (call $environment_id) (i64.const 1))
        (call $die (i32.const 0))
        ;; linking again replaces the tag
        (local.set $pid (call $child))
        (call $link (i64.const 8) (local.get $pid))
        (call $link (i64.const 9) (local.get $pid))
        (call $check32 (call $exists (local.get $pid)) (i32.const 1))
        (call $kill (local.get $pid))
        (call $next (i32.const 1))
        (call $check (call $get_tag) (i64.const 9))
        (call $check32 (call $exists (local.get $pid)) (i32.const 0))
        ;; a process that is gone is told as one, and once
        (call $link (i64.const 7) (local.get $pid))
        (call $next (i32.const 1))
        (call $check (call $get_tag) (i64.const 7))
        (call $silence)
        ;; what was taken back is not told
        (local.set $pid (call $child))
        (call $link (i64.const 6) (local.get $pid))
        (call $unlink (local.get $pid))
        (call $kill (local.get $pid))
        (call $monitor (local.get $pid))
        (call $next (i32.const 2))
        (call $silence)
        ;; whoever does not ask for messages ends with it
        (call $die (i32.const 1))
        (call $link (i64.const 5) (local.get $pid))
        (call $next (i32.const 9))"#;
    let reason = lives(code).await;
    assert!(matches!(&reason, ExitReason::LinkDied { .. }), "{reason:?}");
}

#[tokio::test]
async fn one_monitor_of_a_process_tells_once_or_is_taken_back() {
    let code = r#"(local $pid i64)
        (local.set $pid (call $child))
        (call $monitor (local.get $pid))
        (call $monitor (local.get $pid))
        (call $kill (local.get $pid))
        (call $next (i32.const 2))
        (call $check (call $dead_id) (local.get $pid))
        (call $check (call $get_tag) (i64.const 0))
        (call $silence)
        (local.set $pid (call $child))
        (call $monitor (local.get $pid))
        (call $stop_monitoring (local.get $pid))
        (call $kill (local.get $pid))
        (loop $lives (br_if $lives (call $exists (local.get $pid))))
        (call $silence)"#;
    assert_eq!(lives(code).await, ExitReason::Normal);
}

// ---- the rest ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn permissions_of_a_config_are_numbers_and_go_no_further_than_ones_own() {
    let imports = imports(&[
        "lunatic::process::create_config",
        "lunatic::process::config_set_can_create_configs",
        "lunatic::process::config_can_create_configs",
        "lunatic::process::config_set_can_compile_modules",
        "lunatic::process::config_can_compile_modules",
        "lunatic::process::config_set_can_spawn_processes",
        "lunatic::process::config_can_spawn_processes",
    ]);
    let each = |given: i32, got: [i32; 3]| {
        let names = ["create_configs", "compile_modules", "spawn_processes"];
        let one = |(name, got): (&str, i32)| {
            format!(
                "(call $config_set_can_{name} (i64.const 0) (i32.const {given}))
                (call $check32 (call $config_can_{name} (i64.const 0)) (i32.const {got}))"
            )
        };
        names.into_iter().zip(got).map(one).collect::<String>()
    };
    let all = ProcessConfig::default();
    let some = ProcessConfig {
        can_compile_modules: false,
        can_spawn_processes: false,
        ..ProcessConfig::default()
    };
    for (config, got) in [(all, [1, 1, 1]), (some, [1, 0, 0])] {
        let body = format!(
            r#"(func (export "_start") (call $check (call $create_config) (i64.const 0)) {} {} {})"#,
            each(1, got),
            each(0, [0; 3]),
            each(-1, got)
        );
        let reason = runs_as(config, &imports, &body).await;
        assert_eq!(reason, ExitReason::Normal);
    }
}

#[tokio::test]
async fn a_directory_is_handed_on_by_its_name() {
    let dir = std::env::temp_dir().to_str().unwrap().to_owned();
    let imports = [
        SPAWN,
        RECEIVE,
        PROC_EXIT,
        DIE,
        r#"(import "wasi_snapshot_preview1" "fd_prestat_get"
            (func $prestat (param i32 i32) (result i32)))
        (import "lunatic::process" "create_config" (func $create (result i64)))
        (import "lunatic::wasi" "config_preopen_dir" (func $dir (param i64 i32 i32)))
        (import "tidelock" "exit_code" (func $code (result i32)))"#,
    ]
    .concat();
    let body = format!(
        r#"(data (i32.const 100) "child") (data (i32.const 200) "{dir}")
        (func (export "child")
            (call $check32 (call $prestat (i32.const 3) (i32.const 0)) (i32.const 0))
            (call $check32 (i32.load (i32.const 4)) (i32.const {len}))
            ;; one, and no other: 8 is no such descriptor
            (call $check32 (call $prestat (i32.const 4) (i32.const 0)) (i32.const 8))
            (call $exit (i32.const 7)))
        (func (export "_start")
            (call $die (i32.const 0))
            (call $check (call $create) (i64.const 0))
            (call $dir (i64.const 0) (i32.const 200) (i32.const {len}))
            (call $check32 (call $spawn (i64.const 5) (i64.const 0) (i64.const -1)
                (i32.const 100) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0))
                (i32.const 0))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 1))
            (call $check32 (call $code) (i32.const 7)))"#,
        len = dir.len()
    );
    let config = ProcessConfig {
        preopens: vec![dir],
        ..ProcessConfig::default()
    };
    let reason = runs_as(config, &imports, &body).await;
    assert_eq!(reason, ExitReason::Normal);
}

#[tokio::test]
async fn the_end_of_fuel_is_not_caught() {
    let config = ProcessConfig {
        fuel_max: Some(3),
        ..ProcessConfig::default()
    };
    let body = r#"(func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (loop (br 0)) unreachable)
        (func (export "_start") (drop (call $f (i32.const 0) (i32.const 0))))"#;
    let reason = runs_as(config, &import("lunatic::trap::catch").0, body).await;
    assert!(
        matches!(&reason, ExitReason::Limit(text) if text.contains("fuel")),
        "{reason:?}"
    );
}

#[tokio::test]
async fn catching_goes_so_deep_and_no_deeper() {
    // Each level counts itself; the last one traps, and those around it go on.
    let body = r#"(global $deep (mut i32) (i32.const 0))
        (func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (global.set $deep (i32.add (global.get $deep) (i32.const 1)))
            (i32.add (call $f (i32.const 0) (i32.const 0)) (i32.const 1)))
        (func (export "_start")
            (call $check32 (call $f (i32.const 0) (i32.const 0)) (i32.const 31))
            (call $check32 (global.get $deep) (i32.const 32)))"#;
    let imports = import("lunatic::trap::catch").0;
    let reason = runs_as(ProcessConfig::default(), &imports, body).await;
    assert_eq!(reason, ExitReason::Normal);
    // What gives memory counts, too: here it catches, and what is caught asks for memory.
    let imports = r#"
        (import "lunatic::trap" "catch" (func $catch (param i32 i32) (result i32)))
        (import "lunatic::sqlite" "open" (func $open (param i32 i32 i32) (result i64)))
        (import "lunatic::sqlite" "execute" (func $execute (param i64 i32 i32) (result i32)))
        (import "lunatic::sqlite" "last_error" (func $error (param i64 i32) (result i32)))"#;
    let body = r#"(data (i32.const 100) "nonsense")
        (global $deep (mut i32) (i32.const 0))
        (func $deeper (global.set $deep (i32.add (global.get $deep) (i32.const 1))))
        (func (export "lunatic_alloc") (param i32) (result i32)
            (call $deeper)
            (drop (call $catch (i32.const 0) (i32.const 0)))
            (i32.const 1024))
        (func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (call $deeper)
            (call $error (i64.const 0) (i32.const 0)))
        (func (export "_start")
            (call $check (call $open (i32.const 0) (i32.const 0) (i32.const 0)) (i64.const 0))
            (call $check32 (call $execute (i64.const 0) (i32.const 100) (i32.const 8)) (i32.const 1))
            (call $check32 (call $error (i64.const 0) (i32.const 0)) (i32.const 1024))
            (call $check32 (global.get $deep) (i32.const 32)))"#;
    let reason = runs_as(ProcessConfig::default(), imports, body).await;
    assert_eq!(reason, ExitReason::Normal);
}

#[tokio::test]
async fn gauges_go_up_and_down_and_long_names_are_cut() {
    let imports = imports(&[
        "lunatic::metrics::gauge",
        "lunatic::metrics::increment_gauge",
        "lunatic::metrics::decrement_gauge",
    ]);
    let name = format!("answers.{}", "é".repeat(100));
    let code = format!(
        r#"(call $increment_gauge (i32.const 100) (i32.const 9) (f64.const 2.5))
        (call $decrement_gauge (i32.const 100) (i32.const 9) (f64.const 1))
        (call $gauge (i32.const 200) (i32.const {}) (f64.const 4))"#,
        name.len()
    );
    let data = format!(r#"(data (i32.const 100) "answers.a") (data (i32.const 200) "{name}")"#);
    assert_eq!(run(&imports, &data, &code).await, ExitReason::Normal);
    let metrics = crate::guest_metrics();
    assert_eq!(metrics.values["answers.a"], 1.5);
    // 128 bytes, and no half of a letter.
    let cut = format!("answers.{}", "é".repeat(60));
    assert_eq!(cut.len(), 128);
    assert_eq!(metrics.values[&cut], 4.0);
}
