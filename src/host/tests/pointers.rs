//! Pointers out of the memory: every call that takes one traps, and names the one that was wrong.
//!
//! Each call is first right in all but one pointer, so that nothing else can be what traps.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::certificates::Told;
use super::ids::import;
use super::*;

/// A call, values that are right for it, and which of its parameters are pointers, by what traps call them.
struct Row(&'static str, &'static str, &'static [(usize, &'static str)]);

/// What lies in each guest's memory:
///
/// ```text
///    0 –  99  answers              100  "word"          300  a parameter of 32 bits
///  340  127.0.0.1                  360  one buffer: "word"          400  what is received
/// ```
const DATA: &str = r#"(data (i32.const 100) "word") (data (i32.const 300) "\7f")
    (data (i32.const 340) "\7f\00\00\01") (data (i32.const 360) "\64\00\00\00\04")
    (data (i32.const 500) "[::1]:80") (data (i32.const 520) "SELECT 1")
    (func (export "lunatic_alloc") (param i32) (result i32) i32.const 1024)"#;

const ROWS: &[Row] = &[
    // An id of no query, whose error is written; and one of a query.
    Row(
        "lunatic::distributed::copy_lookup_nodes_results",
        "9 16 1 24",
        &[(3, "error_ptr")],
    ),
    Row(
        "lunatic::distributed::copy_lookup_nodes_results",
        "0 16 1 24",
        &[(1, "ptr")],
    ),
    Row(
        "lunatic::distributed::default_server_certificates",
        "100 4 100 4 16",
        &[(0, "cert_ptr"), (2, "key_ptr"), (4, "len_ptr")],
    ),
    Row(
        "lunatic::distributed::exec_lookup_nodes",
        "100 4 16 24 32",
        &[(0, "query_ptr"), (2, "query_id_ptr"), (3, "nodes_len_ptr")],
    ),
    Row(
        "lunatic::distributed::exec_lookup_nodes",
        "100 4097 16 24 32",
        &[(4, "error_ptr")],
    ),
    Row("lunatic::distributed::get_nodes", "16 1", &[(0, "ptr")]),
    Row(
        "lunatic::distributed::sign_node",
        "100 4 100 4 100 4 16",
        &[
            (0, "cert_ptr"),
            (2, "key_ptr"),
            (4, "csr_ptr"),
            (6, "len_ptr"),
        ],
    ),
    Row(
        "lunatic::distributed::spawn",
        "0 -1 0 100 4 300 17 16",
        &[(3, "name_ptr"), (5, "params_ptr"), (7, "id_ptr")],
    ),
    Row(
        "lunatic::distributed::test_root_cert",
        "16",
        &[(0, "len_ptr")],
    ),
    Row("lunatic::error::to_string", "0 16", &[(1, "ptr")]),
    Row("lunatic::message::read_data", "400 8", &[(0, "ptr")]),
    Row("lunatic::message::receive", "100 1 0", &[(0, "tags_ptr")]),
    Row("lunatic::message::write_data", "100 4", &[(0, "ptr")]),
    Row("lunatic::metrics::counter", "100 4 1", &[(0, "name_ptr")]),
    Row(
        "lunatic::metrics::decrement_gauge",
        "100 4 1",
        &[(0, "name_ptr")],
    ),
    Row("lunatic::metrics::gauge", "100 4 1", &[(0, "name_ptr")]),
    Row("lunatic::metrics::histogram", "100 4 1", &[(0, "name_ptr")]),
    Row(
        "lunatic::metrics::increment_counter",
        "100 4",
        &[(0, "name_ptr")],
    ),
    Row(
        "lunatic::metrics::increment_gauge",
        "100 4 1",
        &[(0, "name_ptr")],
    ),
    Row(
        "lunatic::networking::resolve",
        "500 8 0 16",
        &[(0, "name_str_ptr"), (3, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::resolve_next",
        "0 16 32 48 52 56",
        &[
            (1, "addr_type_u32_ptr"),
            (2, "addr_u8_ptr"),
            (3, "port_u16_ptr"),
            (4, "flow_info_u32_ptr"),
            (5, "scope_id_u32_ptr"),
        ],
    ),
    Row(
        "lunatic::networking::tcp_accept",
        "0 16 24",
        &[(1, "id_u64_ptr"), (2, "socket_addr_id_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_bind",
        "4 340 0 0 0 16",
        &[(1, "addr_u8_ptr"), (5, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_connect",
        "4 340 1 0 0 -1 16",
        &[(1, "addr_u8_ptr"), (6, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_flush",
        "0 16",
        &[(1, "error_id_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_local_addr",
        "0 16",
        &[(1, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_peek",
        "0 400 4 16",
        &[(1, "buf_ptr"), (3, "opaque_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_peer_addr",
        "0 16",
        &[(1, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_read",
        "0 400 4 16",
        &[(1, "buf_ptr"), (3, "opaque_ptr")],
    ),
    Row(
        "lunatic::networking::tcp_write_vectored",
        "0 360 1 16",
        &[(1, "ciovec_array_ptr"), (3, "opaque_ptr")],
    ),
    Row(
        "lunatic::networking::tls_bind",
        "4 340 0 0 0 16 100 4 100 4",
        &[
            (1, "addr_u8_ptr"),
            (5, "id_u64_ptr"),
            (6, "certs_array_ptr"),
            (8, "keys_array_ptr"),
        ],
    ),
    Row(
        "lunatic::networking::tls_connect",
        "100 4 1 -1 16 360 1",
        &[
            (0, "name_str_ptr"),
            (4, "id_u64_ptr"),
            (5, "certs_array_ptr"),
        ],
    ),
    Row(
        "lunatic::networking::udp_bind",
        "4 340 0 0 0 16",
        &[(1, "addr_u8_ptr"), (5, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::udp_connect",
        "0 4 340 1 0 0 0 16",
        &[(2, "addr_u8_ptr"), (7, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::udp_local_addr",
        "0 16",
        &[(1, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::udp_peer_addr",
        "0 16",
        &[(1, "id_u64_ptr")],
    ),
    Row(
        "lunatic::networking::udp_receive",
        "0 400 4 16",
        &[(1, "buf_ptr"), (3, "opaque_ptr")],
    ),
    Row(
        "lunatic::networking::udp_receive_from",
        "0 400 4 16 24",
        &[(1, "buf_ptr"), (3, "opaque_ptr"), (4, "dns_iter_ptr")],
    ),
    Row(
        "lunatic::networking::udp_send",
        "0 100 4 16",
        &[(1, "buf_ptr"), (3, "opaque_ptr")],
    ),
    Row(
        "lunatic::networking::udp_send_to",
        "0 100 4 4 340 1 0 0 16",
        &[(1, "buf_ptr"), (4, "addr_u8_ptr"), (8, "opaque_ptr")],
    ),
    Row(
        "lunatic::process::compile_module",
        "100 4 16",
        &[(0, "data_ptr"), (2, "id_ptr")],
    ),
    Row(
        "lunatic::process::get_or_spawn",
        "520 4 0 -1 -1 100 4 300 17 16 24",
        &[
            (0, "name_ptr"),
            (5, "func_ptr"),
            (7, "params_ptr"),
            (9, "node_id_ptr"),
            (10, "id_ptr"),
        ],
    ),
    Row(
        "lunatic::process::spawn",
        "0 -1 -1 100 4 300 17 16",
        &[(3, "name_ptr"), (5, "params_ptr"), (7, "id_ptr")],
    ),
    // A name that is known.
    Row(
        "lunatic::registry::get",
        "100 4 16 24",
        &[(0, "name_ptr"), (2, "node_ptr"), (3, "process_ptr")],
    ),
    Row("lunatic::registry::put", "100 4 0 1", &[(0, "name_ptr")]),
    Row("lunatic::registry::remove", "100 4", &[(0, "name_ptr")]),
    Row("lunatic::sqlite::bind_value", "0 100 4", &[(1, "ptr")]),
    Row("lunatic::sqlite::column_name", "0 0 16", &[(2, "len_ptr")]),
    Row("lunatic::sqlite::column_names", "0 16", &[(1, "len_ptr")]),
    Row("lunatic::sqlite::execute", "0 100 4", &[(1, "sql_ptr")]),
    Row("lunatic::sqlite::last_error", "0 16", &[(1, "len_ptr")]),
    Row(
        "lunatic::sqlite::open",
        "100 4 16",
        &[(0, "path_ptr"), (2, "id_ptr")],
    ),
    Row(
        "lunatic::sqlite::query_prepare",
        "0 520 8",
        &[(1, "sql_ptr")],
    ),
    Row("lunatic::sqlite::read_column", "0 0 16", &[(2, "len_ptr")]),
    Row("lunatic::sqlite::read_row", "0 16", &[(1, "len_ptr")]),
    Row(
        "lunatic::wasi::config_add_command_line_argument",
        "0 100 4",
        &[(1, "ptr")],
    ),
    Row(
        "lunatic::wasi::config_add_environment_variable",
        "0 100 4 100 4",
        &[(1, "key_ptr"), (3, "val_ptr")],
    ),
    Row(
        "lunatic::wasi::config_preopen_dir",
        "0 100 4",
        &[(1, "ptr")],
    ),
];

/// Those with pairs of guests, in `networking/tls.rs`, and how many pointers each has.
const ELSEWHERE: &[(&str, usize)] = &[
    ("lunatic::networking::tls_accept", 2),
    ("lunatic::networking::tls_flush", 1),
    ("lunatic::networking::tls_local_addr", 1),
    ("lunatic::networking::tls_read", 2),
    ("lunatic::networking::tls_write_vectored", 2),
];

/// Without a cluster no node is written, and nothing has room at the last byte.
const OF_NO_LENGTH: [&str; 2] = [
    "lunatic::distributed::copy_lookup_nodes_results",
    "lunatic::distributed::get_nodes",
];

/// Makes one of everything that has an id, each with the id 0: a config, an error, a query, a database whose last
/// call has failed, a statement at a row, an iterator, a listener, a stream and a socket; a name, and a message.
const IMPORTS: &str = r#"
    (import "lunatic::process" "create_config" (func $config (result i64)))
    (import "lunatic::distributed" "exec_lookup_nodes"
        (func $lookup (param i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::sqlite" "open" (func $open (param i32 i32 i32) (result i64)))
    (import "lunatic::sqlite" "execute" (func $execute (param i64 i32 i32) (result i32)))
    (import "lunatic::sqlite" "query_prepare" (func $prepare (param i64 i32 i32) (result i64)))
    (import "lunatic::sqlite" "sqlite3_step" (func $step (param i64) (result i32)))
    (import "lunatic::networking" "resolve" (func $resolve (param i32 i32 i64 i32) (result i32)))
    (import "lunatic::networking" "resolve_next"
        (func $next (param i64 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::networking" "tcp_bind"
        (func $listen (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::networking" "tcp_local_addr" (func $listens_at (param i64 i32) (result i32)))
    (import "lunatic::networking" "tcp_connect"
        (func $connect (param i32 i32 i32 i32 i32 i64 i32) (result i32)))
    (import "lunatic::networking" "udp_bind"
        (func $socket (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::registry" "put" (func $put (param i32 i32 i64 i64)))"#;

const EVERYTHING: &str = r#"
    (func $ok (param i32) (call $check32 (local.get 0) (i32.const 0)))
    (func $is_0 (param $at i32) (call $check (i64.load (local.get $at)) (i64.const 0)))
    (func $make
        (call $check (call $config) (i64.const 0))
        (call $check32 (call $resolve (i32.const 100) (i32.const 4) (i64.const 0) (i32.const 0))
            (i32.const 1))
        (call $is_0 (i32.const 0))
        (call $ok (call $lookup (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8)
            (i32.const 16)))
        (call $is_0 (i32.const 0))
        (call $check (call $open (i32.const 0) (i32.const 0) (i32.const 0)) (i64.const 0))
        (call $is_0 (i32.const 0))
        (call $check (call $prepare (i64.const 0) (i32.const 520) (i32.const 8)) (i64.const 0))
        (call $check32 (call $step (i64.const 0)) (i32.const 100))
        (call $check32 (call $execute (i64.const 0) (i32.const 100) (i32.const 4)) (i32.const 1))
        (call $ok (call $resolve (i32.const 500) (i32.const 8) (i64.const 0) (i32.const 0)))
        (call $is_0 (i32.const 0))
        (call $ok (call $listen (i32.const 4) (i32.const 340) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0)))
        (call $is_0 (i32.const 0))
        (call $ok (call $listens_at (i64.const 0) (i32.const 0)))
        (call $ok (call $next (i64.load (i32.const 0)) (i32.const 8) (i32.const 16) (i32.const 24)
            (i32.const 28) (i32.const 32)))
        (call $ok (call $connect (i32.const 4) (i32.const 340) (i32.load16_u (i32.const 24))
            (i32.const 0) (i32.const 0) (i64.const -1) (i32.const 0)))
        (call $is_0 (i32.const 0))
        (call $ok (call $socket (i32.const 4) (i32.const 340) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0)))
        (call $is_0 (i32.const 0))
        (call $put (i32.const 100) (i32.const 4) (i64.const 0) (i64.const 1))
        (call $create_data (i64.const 0) (i64.const 0))
        (drop (call $write (i32.const 100) (i32.const 8))))"#;

/// The call with one of its values replaced.
fn call(row: &Row, wrong: (usize, &str)) -> (String, String) {
    let (import, params) = import(row.0);
    let values: Vec<&str> = row.1.split(' ').collect();
    assert_eq!(values.len(), params.len(), "{}", row.0);
    let value = |at: usize| if at == wrong.0 { wrong.1 } else { values[at] };
    let values = params.iter().enumerate();
    let values: String = values
        .map(|(at, ty)| format!("({ty}.const {}) ", value(at)))
        .collect();
    let drop = if import.contains("(result )") {
        ""
    } else {
        "drop"
    };
    (import, format!("(call $f {values}) {drop}"))
}

#[tokio::test]
async fn a_pointer_out_of_the_memory_traps_and_is_named() {
    let env = Environment::new(EnvironmentConfig {
        certificates: Some(Arc::new(Told)),
        ..EnvironmentConfig::default()
    })
    .unwrap();
    for row @ Row(path, _, pointers) in ROWS {
        for (at, name) in *pointers {
            for outside in ["65535", "-1"] {
                if outside == "65535" && OF_NO_LENGTH.contains(path) && *name == "ptr" {
                    continue;
                }
                let (import, call) = call(row, (*at, outside));
                let imports = [IMPORTS, MESSAGES, &import].concat();
                let body =
                    format!(r#"{DATA} {EVERYTHING} (func (export "_start") (call $make) {call})"#);
                let module = guest(&env, &imports, &body).await;
                let reason = end(&env, start(&env, &module)).await;
                let text = trap(&reason);
                let expected = format!("{path}: {name}: ");
                assert!(text.contains(&expected), "{expected}{outside}: {text}");
                assert!(text.contains("outside of the memory"), "{text}");
            }
        }
    }
}

/// How many pointers each call takes, by how it is defined.
fn defined() -> BTreeMap<String, usize> {
    let sources = [
        include_str!("../certificates.rs"),
        include_str!("../distributed.rs"),
        include_str!("../error.rs"),
        include_str!("../message.rs"),
        include_str!("../metrics.rs"),
        include_str!("../networking/dns.rs"),
        include_str!("../networking/tcp.rs"),
        include_str!("../networking/tls.rs"),
        include_str!("../networking/udp.rs"),
        include_str!("../process.rs"),
        include_str!("../registry.rs"),
        include_str!("../sqlite.rs"),
        include_str!("../timer.rs"),
        include_str!("../trap.rs"),
        include_str!("../wasi.rs"),
    ];
    let mut all = BTreeMap::new();
    for source in sources {
        for group in source.split("{ linker, \"").skip(1) {
            let (space, rest) = group.split_once("\";").unwrap();
            let (calls, _) = rest.split_once("\n    }\n").unwrap();
            for call in calls.split(';') {
                let Some((name, params)) = call.split_once("=>") else {
                    continue;
                };
                let name = name.trim().trim_matches('"');
                let (_, params) = params.split_once('(').unwrap();
                let params = params.split(',').filter_map(|param| param.split_once(':'));
                let pointers = params.filter(|(param, _)| param.trim().ends_with("ptr"));
                all.insert(format!("{space}::{name}"), pointers.count());
            }
        }
    }
    all
}

#[test]
fn every_pointer_of_every_call_is_in_the_table() {
    let mut tried: BTreeMap<&str, usize> = ELSEWHERE.iter().copied().collect();
    for Row(path, _, pointers) in ROWS {
        *tried.entry(path).or_default() += pointers.len();
    }
    let defined = defined();
    let lunatic = include_str!("../lunatic_imports.txt").lines();
    let paths: Vec<&str> = lunatic
        .filter_map(|line| Some(line.split_once(' ')?.0))
        .collect();
    assert_eq!(paths.len(), 140);
    for path in paths {
        if path.starts_with("lunatic::version::") {
            continue; // They take nothing, and are defined otherwise.
        }
        let pointers = defined.get(path).copied();
        let tried = tried.get(path).copied().unwrap_or(0);
        assert_eq!(pointers, Some(tried), "{path}");
    }
}
