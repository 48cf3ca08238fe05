//! UDP: datagrams both ways, errors, options.

use super::*;

/// Two sockets of one guest, and the port of the second.
const PAIR: &str = r#"(local $a i64) (local $b i64) (local $port i32) (local $back i32)
    (local.set $a (call $socket))
    (local.set $b (call $socket))
    (call $ok (call $udp_local_addr (local.get $b) (i32.const 100)))
    (local.set $port (call $port_of (call $id)))
    "#;

const SOCKET: &str = r#"
    (func $socket (result i64)
        (call $ok (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)))
        (call $id))
    (func $send_to (param $from i64) (param $port i32) (param $len i32) (result i32)
        (call $udp_send_to (local.get $from) (i32.const 200) (local.get $len) (i32.const 4)
            (i32.const 0) (local.get $port) (i32.const 0) (i32.const 0) (i32.const 100)))
    (func $connect_to (param $from i64) (param $port i32)
        (i64.store (i32.const 100) (i64.const -1))
        (call $ok (call $udp_connect (local.get $from) (i32.const 4) (i32.const 0)
            (local.get $port) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 100)))
        (call $number (i64.const 0)))
    "#;

async fn pair_holds(code: &str) {
    holds(SOCKET, &[PAIR, code].concat()).await;
}

#[tokio::test]
async fn datagrams_go_both_ways() {
    pair_holds(
        r#"
        (call $ok (call $send_to (local.get $a) (local.get $port) (i32.const 9)))
        (call $number (i64.const 9))
        (call $ok (call $udp_receive_from (local.get $b) (i32.const 1000) (i32.const 99)
            (i32.const 100) (i32.const 108)))
        (call $number (i64.const 9))
        (call $check (i64.load (i32.const 1000)) (i64.load (i32.const 200)))
        ;; the answer goes to the sender, by a connected socket
        (local.set $back (call $port_of (i64.load (i32.const 108))))
        (call $check32 (i32.const 1) (call $udp_peer_addr (local.get $b) (i32.const 100)))
        (drop (call $error_size (call $id)))
        (call $connect_to (local.get $b) (local.get $back))
        (call $ok (call $udp_peer_addr (local.get $b) (i32.const 100)))
        (call $check32 (call $port_of (call $id)) (local.get $back))
        (call $ok (call $udp_send (call $clone_udp_socket (local.get $b)) (i32.const 200)
            (i32.const 4) (i32.const 100)))
        (call $number (i64.const 4))
        ;; an empty one is one, too
        (call $ok (call $udp_send (local.get $b) (i32.const 200) (i32.const 0) (i32.const 100)))
        (call $ok (call $udp_receive (local.get $a) (i32.const 1000) (i32.const 2) (i32.const 100)))
        ;; what did not fit is gone
        (call $number (i64.const 2))
        (call $ok (call $udp_receive (local.get $a) (i32.const 1000) (i32.const 9) (i32.const 100)))
        (call $number (i64.const 0))"#,
    )
    .await;
}

#[tokio::test]
async fn errors_have_a_code_and_a_text() {
    pair_holds(
        r#"
        ;; nobody to send to: "Dest"ination address required
        (call $error (call $udp_send (local.get $a) (i32.const 200) (i32.const 4) (i32.const 100))
            (i32.const 0x74736544))
        ;; more than a datagram holds: "Mess"age too long
        (drop (memory.grow (i32.const 1)))
        (call $error (call $send_to (local.get $a) (local.get $port) (i32.const 66000))
            (i32.const 0x7373654d))
        ;; the port is in use: "Addr"
        (call $error (call $udp_bind (i32.const 4) (i32.const 0) (local.get $port) (i32.const 0)
            (i32.const 0) (i32.const 100)) (i32.const 0x72646441))
        ;; nobody there: "Conn"ection refused, at the next call
        (call $connect_to (local.get $a) (local.get $port))
        (call $drop_udp_socket (local.get $b))
        (call $ok (call $udp_send (local.get $a) (i32.const 200) (i32.const 4) (i32.const 100)))
        (call $error (call $udp_receive (local.get $a) (i32.const 1000) (i32.const 4)
            (i32.const 100)) (i32.const 0x6e6e6f43))
        (call $ok (call $udp_send (local.get $a) (i32.const 200) (i32.const 4) (i32.const 100)))
        (call $error (call $udp_receive_from (local.get $a) (i32.const 1000) (i32.const 4)
            (i32.const 100) (i32.const 108)) (i32.const 0x6e6e6f43))
        ;; an address of the other kind
        (call $check32 (i32.const 1) (call $udp_connect (local.get $a) (i32.const 6) (i32.const 16)
            (local.get $port) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 100)))
        (drop (call $error_size (call $id)))"#,
    )
    .await;
}

#[tokio::test]
async fn options_are_set_or_trap() {
    pair_holds(
        r#"
        (call $check32 (call $get_udp_socket_broadcast (local.get $a)) (i32.const 0))
        (call $set_udp_socket_broadcast (local.get $a) (i32.const 7))
        (call $check32 (call $get_udp_socket_broadcast (local.get $a)) (i32.const 1))
        (call $set_udp_socket_ttl (local.get $a) (i32.const 9))
        (call $check32 (call $get_udp_socket_ttl (local.get $a)) (i32.const 9))"#,
    )
    .await;
    let code = [
        PAIR,
        "(call $set_udp_socket_ttl (local.get $a) (i32.const 999))",
    ]
    .concat();
    fails(SOCKET, &code, "set_udp_socket_ttl: Invalid argument").await;
}

#[tokio::test]
async fn wrong_pointers_trap() {
    for (call, with) in [
        (
            "(call $udp_send (local.get $a) (i32.const 65530) (i32.const 9) (i32.const 100))",
            "udp_send: buf_ptr",
        ),
        (
            "(call $udp_send (local.get $a) (i32.const 200) (i32.const 9) (i32.const 65530))",
            "udp_send: opaque_ptr",
        ),
        (
            "(call $udp_receive (local.get $a) (i32.const 1) (i32.const -1) (i32.const 100))",
            "udp_receive: buf_ptr",
        ),
        (
            "(call $udp_receive (local.get $a) (i32.const 1) (i32.const 1) (i32.const -1))",
            "udp_receive: opaque_ptr",
        ),
        (
            "(call $udp_receive_from (local.get $a) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const -1))",
            "udp_receive_from: dns_iter_ptr",
        ),
        (
            "(call $udp_local_addr (local.get $a) (i32.const 65529))",
            "udp_local_addr: id_u64_ptr",
        ),
    ] {
        let code = format!("{PAIR} (drop {call})");
        fails(SOCKET, &code, with).await;
    }
}
