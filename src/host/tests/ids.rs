//! Ids of things that are gone, or never were: every call that takes one traps and says which.

use super::*;

/// Calls whose first argument is an id of the caller's own: of a module, a config, an error, a socket, an
/// iterator, a database or a statement. Processes, timers and queries that are gone have answers instead.
const WITH_ID: &[&str] = &[
    "lunatic::error::drop",
    "lunatic::error::string_size",
    "lunatic::error::to_string",
    "lunatic::message::push_module",
    "lunatic::message::push_tcp_stream",
    "lunatic::message::push_tls_stream",
    "lunatic::message::push_udp_socket",
    "lunatic::message::take_module",
    "lunatic::message::take_tcp_stream",
    "lunatic::message::take_tls_stream",
    "lunatic::message::take_udp_socket",
    "lunatic::networking::clone_tcp_stream",
    "lunatic::networking::clone_tls_stream",
    "lunatic::networking::clone_udp_socket",
    "lunatic::networking::drop_dns_iterator",
    "lunatic::networking::drop_tcp_listener",
    "lunatic::networking::drop_tcp_stream",
    "lunatic::networking::drop_tls_listener",
    "lunatic::networking::drop_tls_stream",
    "lunatic::networking::drop_udp_socket",
    "lunatic::networking::get_peek_timeout",
    "lunatic::networking::get_read_timeout",
    "lunatic::networking::get_tls_read_timeout",
    "lunatic::networking::get_tls_write_timeout",
    "lunatic::networking::get_udp_socket_broadcast",
    "lunatic::networking::get_udp_socket_ttl",
    "lunatic::networking::get_write_timeout",
    "lunatic::networking::resolve_next",
    "lunatic::networking::set_peek_timeout",
    "lunatic::networking::set_read_timeout",
    "lunatic::networking::set_tls_read_timeout",
    "lunatic::networking::set_tls_write_timeout",
    "lunatic::networking::set_udp_socket_broadcast",
    "lunatic::networking::set_udp_socket_ttl",
    "lunatic::networking::set_write_timeout",
    "lunatic::networking::tcp_accept",
    "lunatic::networking::tcp_flush",
    "lunatic::networking::tcp_local_addr",
    "lunatic::networking::tcp_peek",
    "lunatic::networking::tcp_peer_addr",
    "lunatic::networking::tcp_read",
    "lunatic::networking::tcp_write_vectored",
    "lunatic::networking::tls_accept",
    "lunatic::networking::tls_flush",
    "lunatic::networking::tls_local_addr",
    "lunatic::networking::tls_read",
    "lunatic::networking::tls_write_vectored",
    "lunatic::networking::udp_connect",
    "lunatic::networking::udp_local_addr",
    "lunatic::networking::udp_peer_addr",
    "lunatic::networking::udp_receive",
    "lunatic::networking::udp_receive_from",
    "lunatic::networking::udp_send",
    "lunatic::networking::udp_send_to",
    "lunatic::process::config_can_compile_modules",
    "lunatic::process::config_can_create_configs",
    "lunatic::process::config_can_spawn_processes",
    "lunatic::process::config_get_max_fuel",
    "lunatic::process::config_get_max_memory",
    "lunatic::process::config_set_can_compile_modules",
    "lunatic::process::config_set_can_create_configs",
    "lunatic::process::config_set_can_spawn_processes",
    "lunatic::process::config_set_max_fuel",
    "lunatic::process::config_set_max_memory",
    "lunatic::process::drop_config",
    "lunatic::process::drop_module",
    "lunatic::sqlite::bind_value",
    "lunatic::sqlite::column_count",
    "lunatic::sqlite::column_name",
    "lunatic::sqlite::column_names",
    "lunatic::sqlite::execute",
    "lunatic::sqlite::last_error",
    "lunatic::sqlite::query_prepare",
    "lunatic::sqlite::read_column",
    "lunatic::sqlite::read_row",
    "lunatic::sqlite::sqlite3_changes",
    "lunatic::sqlite::sqlite3_finalize",
    "lunatic::sqlite::sqlite3_step",
    "lunatic::sqlite::statement_reset",
    "lunatic::wasi::config_add_command_line_argument",
    "lunatic::wasi::config_add_environment_variable",
    "lunatic::wasi::config_preopen_dir",
];

/// Calls that a process survives, whatever number it gives: what they answer.
const ANSWERED: &[(&str, &str)] = &[
    ("lunatic::distributed::copy_lookup_nodes_results", "-1"),
    ("lunatic::process::exists", "0"),
    ("lunatic::process::kill", ""),
    ("lunatic::process::monitor", ""),
    ("lunatic::process::stop_monitoring", ""),
    ("lunatic::process::unlink", ""),
    ("lunatic::timer::cancel_timer", "0"),
];

const NOBODY: &str = "1234567";

/// The import of Lunatic's interface with this path, named `$f`, and the types of its parameters.
pub(super) fn import(path: &str) -> (String, Vec<&'static str>) {
    let line = include_str!("../lunatic_imports.txt")
        .lines()
        .find(|line| line.split(' ').next() == Some(path));
    let line = line.unwrap_or_else(|| panic!("{path} is no import"));
    let (space, name) = path.rsplit_once("::").unwrap();
    let (params, result) = line[path.len()..].split_once("->").unwrap();
    let ty = |letter| match letter {
        'i' => "i32",
        'l' => "i64",
        _ => "f64",
    };
    let types = |letters: &str| -> Vec<&'static str> { letters.trim().chars().map(ty).collect() };
    let (params, result) = (types(params), types(result));
    let import = format!(
        r#"(import "{space}" "{name}" (func $f (param {}) (result {})))"#,
        params.join(" "),
        result.join(" ")
    );
    (import, params)
}

/// The import named `$f`, and a call of it with [`NOBODY`] first and small numbers behind.
fn import_and_call(path: &str) -> (String, String) {
    let (import, params) = import(path);
    let arguments = params.iter().enumerate().map(|(at, ty)| {
        // Addresses are of kind 4; a port, lengths and places are small.
        let value = match at {
            0 => NOBODY,
            _ => "4",
        };
        format!("({ty}.const {value})")
    });
    let arguments: Vec<String> = arguments.collect();
    (import, format!("(call $f {})", arguments.join(" ")))
}

#[tokio::test]
async fn an_id_that_is_nothing_traps_and_is_named() {
    let env = environment();
    for path in WITH_ID {
        let (import, call) = import_and_call(path);
        let imports = [MESSAGES, &import].concat();
        let drop = if import.contains("(result )") {
            ""
        } else {
            "drop"
        };
        // Texts are looked at before.
        let data = if path.starts_with("lunatic::wasi") {
            r#"(data (i32.const 4) "text")"#
        } else {
            ""
        };
        let body = format!(
            r#"{data} (func (export "lunatic_alloc") (param i32) (result i32) i32.const 1024)
            (func (export "_start")
                (call $create_data (i64.const 0) (i64.const 0))
                {call} {drop})"#
        );
        let module = guest(&env, &imports, &body).await;
        let reason = end(&env, start(&env, &module)).await;
        let text = trap(&reason);
        assert!(text.contains(path), "{path}: {text}");
        assert!(text.contains(NOBODY), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_process_or_a_timer_that_is_gone_is_an_answer() {
    let env = environment();
    for (path, answer) in ANSWERED {
        let (import, call) = import_and_call(path);
        let check = match *answer {
            "" => call,
            answer => format!("(call $check32 {call} (i32.const {answer}))"),
        };
        let body = format!(r#"(func (export "_start") {check})"#);
        let module = guest(&env, &import, &body).await;
        let reason = end(&env, start(&env, &module)).await;
        assert_eq!(reason, ExitReason::Normal, "{path}");
    }
}

#[test]
fn every_call_of_lunatic_with_an_id_is_in_the_lists() {
    // All that take a number of 64 bits first, but for those whose number is no id.
    let numbers = [
        "lunatic::distributed::send",
        "lunatic::distributed::send_receive_skip_search",
        "lunatic::distributed::spawn",
        "lunatic::message::create_data",
        "lunatic::message::seek_data",
        "lunatic::message::send",
        "lunatic::message::send_receive_skip_search",
        "lunatic::process::link",
        "lunatic::process::sleep_ms",
        "lunatic::process::spawn",
        "lunatic::timer::send_after",
    ];
    let listed = |path: &str| {
        WITH_ID.contains(&path)
            || numbers.contains(&path)
            || ANSWERED.iter().any(|(answered, _)| *answered == path)
    };
    for line in include_str!("../lunatic_imports.txt").lines() {
        let Some((path, ty)) = line.split_once(' ') else {
            continue;
        };
        assert!(!ty.trim().starts_with('l') || listed(path), "{path}");
    }
}
