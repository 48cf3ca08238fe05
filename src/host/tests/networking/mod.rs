//! `lunatic::networking`, and sockets in messages. Guests talk to each other over the loopback
//! interface; a test that waits for time itself waits for a timeout that the guest has set.

mod dns;
mod messages;
#[cfg(target_os = "linux")]
mod refused;
mod tcp;
mod tls;
mod udp;

use super::*;
use crate::Param;

/// Every function of the namespace, named as it is called.
const NETWORKING: &[(&str, &str)] = &[
    ("resolve", "i32 i32 i64 i32) (result i32"),
    ("resolve_next", "i64 i32 i32 i32 i32 i32) (result i32"),
    ("drop_dns_iterator", "i64"),
    ("tcp_bind", "i32 i32 i32 i32 i32 i32) (result i32"),
    ("tcp_local_addr", "i64 i32) (result i32"),
    ("tcp_accept", "i64 i32 i32) (result i32"),
    ("tcp_connect", "i32 i32 i32 i32 i32 i64 i32) (result i32"),
    ("tcp_peer_addr", "i64 i32) (result i32"),
    ("tcp_write_vectored", "i64 i32 i32 i32) (result i32"),
    ("tcp_read", "i64 i32 i32 i32) (result i32"),
    ("tcp_peek", "i64 i32 i32 i32) (result i32"),
    ("tcp_flush", "i64 i32) (result i32"),
    ("set_read_timeout", "i64 i64"),
    ("set_write_timeout", "i64 i64"),
    ("set_peek_timeout", "i64 i64"),
    ("get_read_timeout", "i64) (result i64"),
    ("get_write_timeout", "i64) (result i64"),
    ("get_peek_timeout", "i64) (result i64"),
    ("clone_tcp_stream", "i64) (result i64"),
    ("drop_tcp_stream", "i64"),
    ("drop_tcp_listener", "i64"),
    (
        "tls_bind",
        "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32",
    ),
    ("tls_local_addr", "i64 i32) (result i32"),
    ("tls_accept", "i64 i32 i32) (result i32"),
    ("tls_connect", "i32 i32 i32 i64 i32 i32 i32) (result i32"),
    ("tls_write_vectored", "i64 i32 i32 i32) (result i32"),
    ("tls_read", "i64 i32 i32 i32) (result i32"),
    ("tls_flush", "i64 i32) (result i32"),
    ("set_tls_read_timeout", "i64 i64"),
    ("set_tls_write_timeout", "i64 i64"),
    ("get_tls_read_timeout", "i64) (result i64"),
    ("get_tls_write_timeout", "i64) (result i64"),
    ("clone_tls_stream", "i64) (result i64"),
    ("drop_tls_stream", "i64"),
    ("drop_tls_listener", "i64"),
    ("udp_bind", "i32 i32 i32 i32 i32 i32) (result i32"),
    ("udp_local_addr", "i64 i32) (result i32"),
    ("udp_peer_addr", "i64 i32) (result i32"),
    (
        "udp_connect",
        "i64 i32 i32 i32 i32 i32 i64 i32) (result i32",
    ),
    ("udp_send", "i64 i32 i32 i32) (result i32"),
    (
        "udp_send_to",
        "i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32",
    ),
    ("udp_receive", "i64 i32 i32 i32) (result i32"),
    ("udp_receive_from", "i64 i32 i32 i32 i32) (result i32"),
    ("set_udp_socket_broadcast", "i64 i32"),
    ("get_udp_socket_broadcast", "i64) (result i32"),
    ("set_udp_socket_ttl", "i64 i32"),
    ("get_udp_socket_ttl", "i64) (result i32"),
    ("clone_udp_socket", "i64) (result i64"),
    ("drop_udp_socket", "i64"),
];

const MOVES: [&str; 6] = [
    "push_tcp_stream",
    "take_tcp_stream",
    "push_tls_stream",
    "take_tls_stream",
    "push_udp_socket",
    "take_udp_socket",
];

/// What guests here import, and what their calls are made of.
///
/// ```text
///    0  127.0.0.1      16  ::1         32  buffers of a vectored write
///  100  an id or a number, 108 another one; 120 an address, 140 its type, 144 its port
///  200  what is sent, 1000 what is received
/// ```
fn prelude() -> String {
    let imports = NETWORKING.iter().map(|(name, params)| {
        format!(
            r#"(import "lunatic::networking" "{name}" (func ${name} (param {params})))
            "#
        )
    });
    let moves = MOVES.iter().map(|name| {
        format!(
            r#"(import "lunatic::message" "{name}" (func ${name} (param i64) (result i64)))
            "#
        )
    });
    let more = [
        MESSAGES,
        RECEIVE,
        PROCESS_ID,
        ERRORS,
        SPAWN,
        DIE,
        r#"(import "lunatic::process" "kill" (func $kill (param i64)))
        (import "lunatic::process" "monitor" (func $monitor (param i64)))
        (import "lunatic::process" "sleep_ms" (func $sleep (param i64)))
        (import "lunatic::trap" "catch" (func $catch (param i32 i32) (result i32)))"#,
    ];
    imports
        .chain(moves)
        .chain(more.map(str::to_owned))
        .collect()
}

const HELPERS: &str = r#"
    (data (i32.const 0) "\7f\00\00\01")
    (data (i32.const 31) "\01")
    (data (i32.const 200) "the quick brown fox")
    (func $ok (param i32) (call $check32 (local.get 0) (i32.const 0)))
    (func $id (result i64) (i64.load (i32.const 100)))
    (func $number (param i64) (call $check (call $id) (local.get 0)))
    ;; the address behind an iterator must be 127.0.0.1; its port
    (func $port_of (param $iter i64) (result i32)
        (call $ok (call $resolve_next (local.get $iter) (i32.const 140) (i32.const 120)
            (i32.const 144) (i32.const 0) (i32.const 0)))
        (call $check32 (i32.load (i32.const 140)) (i32.const 4))
        (call $check32 (i32.load (i32.const 120)) (i32.const 0x0100007f))
        (call $check32 (i32.const 1) (call $resolve_next (local.get $iter) (i32.const 140)
            (i32.const 120) (i32.const 144) (i32.const 0) (i32.const 0)))
        (call $drop_dns_iterator (local.get $iter))
        (i32.load16_u (i32.const 144)))
    (func $listen (result i64)
        (call $ok (call $tcp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)))
        (call $id))
    (func $listens_at (param $listener i64) (result i32)
        (call $ok (call $tcp_local_addr (local.get $listener) (i32.const 100)))
        (call $port_of (call $id)))
    (func $connect (param $port i32) (result i64)
        (call $ok (call $tcp_connect (i32.const 4) (i32.const 0) (local.get $port) (i32.const 0)
            (i32.const 0) (i64.const -1) (i32.const 100)))
        (call $id))
    (func $accept (param $listener i64) (result i64)
        (call $ok (call $tcp_accept (local.get $listener) (i32.const 100) (i32.const 108)))
        (drop (call $port_of (i64.load (i32.const 108))))
        (call $id))
    ;; sends `len` bytes from 200 in one buffer
    (func $iov (param $at i32) (param $ptr i32) (param $len i32)
        (i32.store (local.get $at) (local.get $ptr))
        (i32.store offset=4 (local.get $at) (local.get $len)))
    (func $say (param $stream i64) (param $len i32)
        (call $iov (i32.const 32) (i32.const 200) (local.get $len))
        (call $ok (call $tcp_write_vectored (local.get $stream) (i32.const 32) (i32.const 1)
            (i32.const 100)))
        (call $number (i64.extend_i32_u (local.get $len))))
    ;; receives `len` bytes at 1000, or fewer
    (func $hear (param $stream i64) (param $len i32) (result i64)
        (call $ok (call $tcp_read (local.get $stream) (i32.const 1000) (local.get $len)
            (i32.const 100)))
        (call $id))
    ;; traps unless the error at 100 begins so, four bytes
    (func $error (param $code i32) (param $begins i32)
        (call $check32 (local.get $code) (i32.const 1))
        (call $error_text (call $id) (i32.const 2000))
        (call $check32 (i32.load (i32.const 2000)) (local.get $begins))
        (call $error_drop (call $id)))
    ;; the name of a function of this module is at `ptr`; it gets a number, and its link's end kills
    (func $start (param $ptr i32) (param $len i32) (param $arg i32) (result i64)
        (i32.store8 (i32.const 60) (i32.const 0x7f))
        (i32.store (i32.const 61) (local.get $arg))
        (call $ok (call $spawn (i64.const 9) (i64.const -1) (i64.const -1) (local.get $ptr)
            (local.get $len) (i32.const 60) (i32.const 17) (i32.const 100)))
        (i64.store (i32.const 716) (call $id))
        (call $id))
    ;; the end of the process that was started last; had it failed, this one would not come here
    (func $wait_for_child
        (call $monitor (i64.load (i32.const 716)))
        (loop $next (br_if $next
            (i32.ne (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 2)))))
    "#;

/// Compiles a guest that uses the helpers.
async fn compile(env: &Environment, body: &str) -> Module {
    guest(env, &prelude(), &[HELPERS, body].concat()).await
}

/// Runs `_start` made of `code` to its end, in an environment of its own.
async fn runs(more: &str, code: &str) -> ExitReason {
    let env = environment();
    let body = format!(r#"{more} (func (export "_start") {code})"#);
    let module = compile(&env, &body).await;
    let pid = start(&env, &module);
    end(&env, pid).await
}

async fn holds(more: &str, code: &str) {
    assert_eq!(runs(more, code).await, ExitReason::Normal);
}

async fn fails(more: &str, code: &str, with: &str) {
    let reason = runs(more, code).await;
    assert!(trap(&reason).contains(with), "{reason:?} lacks {with:?}");
}

/// Starts a function with a number.
fn start_with(env: &Environment, module: &Module, entry: &str, arg: u16) -> Pid {
    let params = vec![Param::I32(arg.into())];
    env.spawn_wasm(module, entry, params, SpawnOptions::default())
        .unwrap()
}

/// Every function with an id traps without the thing, and says what is missing.
#[tokio::test]
async fn dead_ids_trap_by_their_names() {
    let missing = |name: &str| {
        Some(match name {
            "resolve_next" | "drop_dns_iterator" => "no DNS iterator 3",
            "tcp_local_addr" | "tcp_accept" | "drop_tcp_listener" => "no TCP listener 3",
            "tls_local_addr" | "tls_accept" | "drop_tls_listener" => "no TLS listener 3",
            "resolve" | "tcp_bind" | "tls_bind" | "udp_bind" | "tcp_connect" | "tls_connect" => {
                return None;
            }
            name if name.contains("udp") => "no UDP socket 3",
            name if name.contains("tls") => "no TLS stream 3",
            _ => "no TCP stream 3",
        })
    };
    let env = environment();
    for (name, params) in NETWORKING {
        let Some(text) = missing(name) else { continue };
        let (params, result) = params.split_once(')').unwrap_or((params, ""));
        let args: String = params
            .split(' ')
            .enumerate()
            .map(|(at, ty)| format!("({ty}.const {})", if at == 0 { 3 } else { 0 }))
            .collect();
        let drop = if result.is_empty() { "" } else { "drop" };
        let code = format!(r#"(func (export "_start") (call ${name} {args}) {drop})"#);
        let module = compile(&env, &code).await;
        let reason = end(&env, start(&env, &module)).await;
        let expected = format!("lunatic::networking::{name}: {text}");
        assert!(trap(&reason).contains(&expected), "{name}: {reason:?}");
    }
}

#[tokio::test]
async fn wrong_addresses_trap() {
    let bind = |kind: i32, ptr: i32, port: i32| {
        format!(
            "(drop (call $tcp_bind (i32.const {kind}) (i32.const {ptr}) (i32.const {port})
                (i32.const 0) (i32.const 0) (i32.const 100)))"
        )
    };
    fails("", &bind(5, 0, 0), "addr_type: 5").await;
    fails("", &bind(4, 65533, 0), "addr_u8_ptr: 4 bytes at 65533").await;
    fails("", &bind(6, 65521, 0), "addr_u8_ptr: 16 bytes at 65521").await;
    fails("", &bind(4, 0, 65536), "port: 65536").await;
}

/// A socket is closed with its last holder, and makes room for another one.
#[tokio::test]
async fn sockets_are_bounded() {
    let env = environment_with(Limits {
        sockets_max: 2,
        ..Limits::default()
    });
    let body = r#"(func (export "_start") (local $listener i64) (local $stream i64)
        (local $clone i64) (local $port i32)
        (local.set $listener (call $listen))
        (local.set $port (call $listens_at (local.get $listener)))
        (local.set $stream (call $connect (local.get $port)))
        (local.set $clone (call $clone_tcp_stream (local.get $stream)))
        ;; "2 so": 2 sockets of guests are open
        (call $error (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)) (i32.const 0x6f732032))
        (call $error (call $tcp_connect (i32.const 4) (i32.const 0) (local.get $port) (i32.const 0)
            (i32.const 0) (i64.const -1) (i32.const 100)) (i32.const 0x6f732032))
        (call $error (call $tcp_accept (local.get $listener) (i32.const 100) (i32.const 108))
            (i32.const 0x6f732032))
        ;; the refused connection was closed
        (call $check (call $hear (local.get $stream) (i32.const 9)) (i64.const 0))
        (call $drop_tcp_stream (local.get $stream))
        (call $error (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)) (i32.const 0x6f732032))
        (call $drop_tcp_stream (local.get $clone))
        (call $ok (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100))))"#;
    let module = compile(&env, body).await;
    for _ in 0..2 {
        let pid = start(&env, &module);
        assert_eq!(end(&env, pid).await, ExitReason::Normal);
    }
}
