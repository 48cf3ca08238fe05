//! What traps and what it says, call by call: texts that are none, lengths beyond reason, exports that do not
//! fit, ends that are no ends. Ids that are nothing have a table of their own in `ids.rs`, pointers theirs
//! beside each namespace.

use super::certificates::Told;
use super::ids::import;
use super::*;

/// What lies in each guest's memory: zeros at 0, `"word"` at 100, a query at 120, and at 200 two bytes that are
/// no text.
const DATA: &str = r#"(data (i32.const 100) "word") (data (i32.const 120) "SELECT 1")
    (data (i32.const 200) "\ff\fe")"#;

/// A call, the values of its parameters, what is exported beside, and the words of the trap.
struct Case {
    path: &'static str,
    values: &'static str,
    more: &'static str,
    words: &'static str,
}

const fn case(path: &'static str, values: &'static str, words: &'static str) -> Case {
    Case {
        path,
        values,
        more: "",
        words,
    }
}

const fn beside(
    more: &'static str,
    path: &'static str,
    values: &'static str,
    words: &'static str,
) -> Case {
    Case {
        path,
        values,
        more,
        words,
    }
}

const NOT_TEXT: &[Case] = &[
    case("lunatic::registry::put", "200 2 0 1", "name_ptr: not UTF-8"),
    case("lunatic::registry::get", "200 2 0 8", "name_ptr: not UTF-8"),
    case("lunatic::registry::remove", "200 2", "name_ptr: not UTF-8"),
    case(
        "lunatic::process::spawn",
        "0 -1 -1 200 2 0 0 0",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "200 2 0 -1 -1 100 4 0 0 0 8",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::distributed::spawn",
        "0 -1 0 200 2 0 0 0",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::wasi::config_add_command_line_argument",
        "0 200 2",
        "ptr: not UTF-8",
    ),
    case(
        "lunatic::wasi::config_add_environment_variable",
        "0 200 2 100 4",
        "key_ptr: not UTF-8",
    ),
    case(
        "lunatic::wasi::config_add_environment_variable",
        "0 100 4 200 2",
        "val_ptr: not UTF-8",
    ),
    case(
        "lunatic::wasi::config_preopen_dir",
        "0 200 2",
        "ptr: not UTF-8",
    ),
    case("lunatic::sqlite::open", "200 2 0", "path_ptr: not UTF-8"),
    case("lunatic::sqlite::execute", "0 200 2", "sql_ptr: not UTF-8"),
    case(
        "lunatic::sqlite::query_prepare",
        "0 200 2",
        "sql_ptr: not UTF-8",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "100 4 0 -1 -1 200 2 0 0 0 8",
        "func_ptr: not UTF-8",
    ),
    case(
        "lunatic::metrics::counter",
        "200 2 1",
        "name_ptr: not UTF-8",
    ),
    case("lunatic::metrics::gauge", "200 2 1", "name_ptr: not UTF-8"),
    case(
        "lunatic::metrics::histogram",
        "200 2 1",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::metrics::increment_counter",
        "200 2",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::metrics::increment_gauge",
        "200 2 1",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::metrics::decrement_gauge",
        "200 2 1",
        "name_ptr: not UTF-8",
    ),
    case(
        "lunatic::distributed::default_server_certificates",
        "200 2 100 4 0",
        "cert_ptr: not UTF-8",
    ),
    case(
        "lunatic::distributed::default_server_certificates",
        "100 4 200 2 0",
        "key_ptr: not UTF-8",
    ),
    case(
        "lunatic::distributed::sign_node",
        "200 2 100 4 100 4 0",
        "cert_ptr: not UTF-8",
    ),
    case(
        "lunatic::distributed::sign_node",
        "100 4 200 2 100 4 0",
        "key_ptr: not UTF-8",
    ),
    case(
        "lunatic::distributed::sign_node",
        "100 4 100 4 200 2 0",
        "csr_ptr: not UTF-8",
    ),
];

const TOO_MUCH: &[Case] = &[
    case(
        "lunatic::process::get_or_spawn",
        "0 4097 0 -1 -1 100 4 0 0 0 8",
        "name_len: more than 4096 bytes",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "100 4 0 -1 -1 0 4097 0 0 0 8",
        "func_len: more than 4096 bytes",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "100 4 0 -1 -1 100 4 0 5 0 8",
        "params_len: 5 is not 17 times 0 to",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "100 4 0 -1 -1 100 4 0 17 0 8",
        "params_ptr: 0x00 is no type of a parameter",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "100 4 0 9 -1 100 4 0 0 0 8",
        "no config 9",
    ),
    case(
        "lunatic::process::get_or_spawn",
        "100 4 0 -1 9 100 4 0 0 0 8",
        "module: no such module",
    ),
    case(
        "lunatic::distributed::spawn",
        "0 9 0 100 4 0 0 8",
        "no config 9",
    ),
    case(
        "lunatic::distributed::spawn",
        "0 -1 0 0 4097 0 0 8",
        "name_len: more than 4096 bytes",
    ),
    case(
        "lunatic::distributed::spawn",
        "0 -1 0 100 4 0 5 8",
        "params_len: 5 is not 17 times 0 to",
    ),
    case(
        "lunatic::distributed::spawn",
        "0 -1 0 100 4 0 17 8",
        "params_ptr: 0x00 is no type of a parameter",
    ),
    case(
        "lunatic::message::receive",
        "0 4097 0",
        "tags_len: more than 4096 tags",
    ),
    case(
        "lunatic::sqlite::execute",
        "0 0 1048577",
        "sql_ptr: more than 1048576 bytes",
    ),
    case(
        "lunatic::sqlite::query_prepare",
        "0 0 1048577",
        "sql_ptr: more than 1048576 bytes",
    ),
    case(
        "lunatic::registry::put",
        "0 4097 0 1",
        "name_len: more than 4096 bytes",
    ),
    case(
        "lunatic::registry::get",
        "0 4097 0 8",
        "name_len: more than 4096 bytes",
    ),
    case(
        "lunatic::registry::remove",
        "0 4097",
        "name_len: more than 4096 bytes",
    ),
    case(
        "lunatic::process::spawn",
        "0 -1 -1 0 4097 0 0 0",
        "name_len: more than 4096 bytes",
    ),
    case(
        "lunatic::process::spawn",
        "0 -1 -1 100 4 0 5 0",
        "params_len: 5 is not 17 times 0 to",
    ),
    case(
        "lunatic::process::spawn",
        "0 -1 -1 100 4 0 17 0",
        "params_ptr: 0x00 is no type of a parameter",
    ),
    case(
        "lunatic::wasi::config_add_command_line_argument",
        "0 0 65537",
        "ptr: more than 65536 bytes",
    ),
    case(
        "lunatic::wasi::config_add_environment_variable",
        "0 0 65537 0 0",
        "key_ptr: more than 65536 bytes",
    ),
    case(
        "lunatic::wasi::config_add_environment_variable",
        "0 100 4 0 65537",
        "val_ptr: more than 65536 bytes",
    ),
    case(
        "lunatic::sqlite::open",
        "0 4097 0",
        "path_ptr: more than 4096 bytes",
    ),
    case(
        "lunatic::distributed::sign_node",
        "0 65537 0 0 0 0 0",
        "more than 40000 bytes",
    ),
    case(
        "lunatic::distributed::sign_node",
        "0 0 0 65537 0 0 0",
        "more than 40000 bytes",
    ),
    case(
        "lunatic::distributed::sign_node",
        "0 0 0 0 0 65537 0",
        "csr_ptr: more than 40000 bytes",
    ),
    case(
        "lunatic::distributed::default_server_certificates",
        "0 65537 0 0 0",
        "more than 40000 bytes",
    ),
];

const NOT_ALLOWED: &[Case] = &[
    case(
        "lunatic::wasi::config_add_command_line_argument",
        "0 0 4",
        "ptr: contains a zero byte",
    ),
    case(
        "lunatic::wasi::config_add_environment_variable",
        "0 0 4 100 4",
        "key_ptr: contains a zero byte",
    ),
    case(
        "lunatic::wasi::config_preopen_dir",
        "0 0 4",
        "ptr: contains a zero byte",
    ),
    case(
        "lunatic::wasi::config_preopen_dir",
        "0 100 4",
        "\"word\" is no directory of this process itself",
    ),
    case(
        "lunatic::sqlite::last_error",
        "0 0",
        "the last call had no error",
    ),
    case("lunatic::sqlite::column_name", "0 9 0", "no column 9"),
    case(
        "lunatic::sqlite::read_column",
        "0 0 0",
        "no row, or no column 0",
    ),
    case("lunatic::sqlite::read_row", "0 0", "at no row"),
    case("lunatic::sqlite::query_prepare", "0 100 4", "syntax error"),
    case("lunatic::sqlite::bind_value", "0 100 4", "ptr: "),
];

/// The host asks the guest for memory, or for a function to run.
const EXPORTS: &[Case] = &[
    case(
        "lunatic::sqlite::column_names",
        "0 0",
        "no exported function \"lunatic_alloc\"",
    ),
    beside(
        r#"(func (export "lunatic_alloc") (param i64) (result i32) i32.const 0)"#,
        "lunatic::sqlite::column_names",
        "0 0",
        "\"lunatic_alloc\" is not (i32) -> i32",
    ),
    beside(
        r#"(func (export "lunatic_alloc") (param i32) (result i32) i32.const -4)"#,
        "lunatic::sqlite::column_names",
        "0 0",
        "what lunatic_alloc gave: ",
    ),
    beside(
        r#"(func (export "lunatic_alloc") (param i32) (result i32) unreachable)"#,
        "lunatic::sqlite::column_name",
        "0 0 0",
        "unreachable",
    ),
    case(
        "lunatic::trap::catch",
        "0 0",
        "no exported function \"_lunatic_catch_trap\"",
    ),
    beside(
        r#"(func (export "_lunatic_catch_trap") (param i32) (result i32) i32.const 0)"#,
        "lunatic::trap::catch",
        "0 0",
        "\"_lunatic_catch_trap\" is not (i32, i32) -> i32",
    ),
];

/// Calls it with a config, a database and a statement that are numbered 0.
fn guest_of(case: &Case) -> (String, String) {
    let (import, params) = import(case.path);
    let values: Vec<&str> = case.values.split(' ').collect();
    assert_eq!(values.len(), params.len(), "{}", case.path);
    let values = params.iter().zip(values);
    let values: Vec<String> = values
        .map(|(ty, value)| format!("({ty}.const {value})"))
        .collect();
    let drop = if import.contains("(result )") {
        ""
    } else {
        "drop"
    };
    let imports = format!(
        r#"{import}
        (import "lunatic::process" "create_config" (func $config (result i64)))
        (import "lunatic::sqlite" "open" (func $open (param i32 i32 i32) (result i64)))
        (import "lunatic::sqlite" "query_prepare" (func $prepare (param i64 i32 i32) (result i64)))"#
    );
    let body = format!(
        r#"{DATA} {}
        (func (export "_start")
            (call $check (call $config) (i64.const 0))
            (call $check (call $open (i32.const 0) (i32.const 0) (i32.const 16)) (i64.const 0))
            (call $check (call $prepare (i64.const 0) (i32.const 120) (i32.const 8)) (i64.const 0))
            (call $f {}) {drop})"#,
        case.more,
        values.join(" ")
    );
    (imports, body)
}

#[tokio::test]
async fn each_call_traps_and_says_why() {
    let env = Environment::new(EnvironmentConfig {
        certificates: Some(Arc::new(Told)),
        ..EnvironmentConfig::default()
    });
    let env = env.unwrap();
    for case in [NOT_TEXT, TOO_MUCH, NOT_ALLOWED, EXPORTS]
        .into_iter()
        .flatten()
    {
        let (imports, body) = guest_of(case);
        let module = guest(&env, &imports, &body).await;
        let reason = end(&env, start(&env, &module)).await;
        let text = trap(&reason);
        assert!(
            text.contains(case.words),
            "{} {}: {text}",
            case.path,
            case.values
        );
        assert!(
            text.contains(case.path) || case.words == "unreachable",
            "{text}"
        );
    }
}

/// Lists that grow with each call have an end.
#[tokio::test]
async fn lists_of_a_config_and_names_have_an_end() {
    let mut config = EnvironmentConfig::default();
    config.limits.names_max = 1_000;
    let env = Environment::new(config).unwrap();
    for (path, values, words) in [
        (
            "lunatic::wasi::config_add_command_line_argument",
            "(i64.const 0) (i32.const 100) (i32.const 4)",
            "more than 1024 arguments",
        ),
        (
            "lunatic::wasi::config_add_environment_variable",
            "(i64.const 0) (i32.const 100) (i32.const 4) (i32.const 100) (i32.const 4)",
            "more than 1024 variables",
        ),
        (
            "lunatic::registry::put",
            "(i32.const 100) (i32.const 4) (i64.const 0) (i64.const 1)",
            "too many names are registered",
        ),
    ] {
        let (import, _) = import(path);
        let imports = format!(
            r#"{import} (import "lunatic::process" "create_config" (func $config (result i64)))"#
        );
        // Two letters are another pair in each of the first 4096 rounds.
        let body = format!(
            r#"{DATA} (func (export "_start") (local $round i32)
                (drop (call $config))
                (loop
                    (i32.store8 (i32.const 100)
                        (i32.add (i32.and (local.get $round) (i32.const 63)) (i32.const 48)))
                    (i32.store8 (i32.const 101)
                        (i32.add (i32.shr_u (local.get $round) (i32.const 6)) (i32.const 48)))
                    (call $f {values})
                    (local.set $round (i32.add (local.get $round) (i32.const 1)))
                    (br_if 0 (i32.lt_u (local.get $round) (i32.const 4096)))))"#
        );
        let module = guest(&env, &imports, &body).await;
        let reason = end(&env, start(&env, &module)).await;
        assert!(trap(&reason).contains(words), "{reason:?}");
    }
}

#[tokio::test]
async fn without_an_exported_memory_there_is_nothing_to_read() {
    let env = environment();
    for (import, call) in [
        (
            r#"(import "tidelock" "log" (func $f (param i32 i32)))"#,
            "(call $f (i32.const 0) (i32.const 1))",
        ),
        (
            r#"(import "lunatic::registry" "remove" (func $f (param i32 i32)))"#,
            "(call $f (i32.const 0) (i32.const 1))",
        ),
    ] {
        let text = format!(r#"(module {import} (memory 1) (func (export "_start") {call}))"#);
        let module = Module::compile(env.engine(), wat::parse_str(text).unwrap()).await;
        let reason = end(&env, start(&env, &module.unwrap())).await;
        let text = trap(&reason);
        assert!(text.contains("no export \"memory\""), "{text}");
    }
}

#[tokio::test]
async fn a_number_that_no_node_can_have_is_no_node() {
    let monitor = r#"(import "tidelock" "monitor_node" (func $f (param i64) (result i64)))"#;
    let call = "(drop (call $f (i64.const 0x4000000000000000)))";
    traps(monitor, call, "is no node").await;
    let spawn = r#"(import "tidelock" "spawn" (func $f
        (param i64 i64 i64 i64 i32 i32 i32 i32 i64 i32) (result i32)))"#;
    let call =
        "(drop (call $f (i64.const -1) (i64.const -1) (i64.const -1) (i64.const -1) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0)))";
    traps(spawn, call, "is no node").await;
}
