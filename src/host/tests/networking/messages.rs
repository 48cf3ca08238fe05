//! Sockets in messages: they move, and are closed if nobody takes them.

use super::*;

const PAIR: &str = r#"(local $listener i64) (local $a i64) (local $b i64) (local $i i32)
    (local.set $listener (call $listen))
    (local.set $a (call $connect (call $listens_at (local.get $listener))))
    (local.set $b (call $accept (local.get $listener)))
    (call $create_data (i64.const 0) (i64.const 0))
    "#;

#[tokio::test]
async fn a_stream_moves_to_another_process() {
    let more = r#"(data (i32.const 300) "echo")
        (func (export "echo") (param i32) (local $stream i64) (local $len i32)
            (call $ok (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
            (local.set $stream (call $take_tcp_stream (i64.const 0)))
            ;; its timeouts came along
            (call $check (call $get_write_timeout (local.get $stream)) (i64.const 321))
            (call $check (call $hear (local.get $stream) (i32.const 99)) (i64.const 9))
            (call $iov (i32.const 32) (i32.const 1000) (i32.const 9))
            (call $ok (call $tcp_write_vectored (local.get $stream) (i32.const 32) (i32.const 1) (i32.const 100))))"#;
    let code = r#"
        (call $set_write_timeout (local.get $b) (i64.const 321))
        (call $check (call $push_tcp_stream (local.get $b)) (i64.const 0))
        (call $ok (call $send (call $start (i32.const 300) (i32.const 4) (i32.const 0))))
        (call $say (local.get $a) (i32.const 9))
        (call $check (call $hear (local.get $a) (i32.const 99)) (i64.const 9))
        (call $check (i64.load (i32.const 1000)) (i64.load (i32.const 200)))
        ;; the child ended, and nobody else holds it
        (call $check (call $hear (local.get $a) (i32.const 99)) (i64.const 0))
        (call $drop_tcp_stream (local.get $b))"#;
    fails(
        more,
        &[PAIR, code].concat(),
        "drop_tcp_stream: no TCP stream 1",
    )
    .await;
}

#[tokio::test]
async fn a_stream_in_a_message_that_is_not_delivered_is_closed() {
    for undelivered in [
        // Replaced in the slot; sent to nobody; sent to one that has ended, is no longer there, never looks.
        "(call $create_data (i64.const 0) (i64.const 0))",
        "(call $ok (call $send (i64.const 0)))",
        "(call $ok (call $send (i64.const 123456)))",
        r#"(local.set $listener (call $start (i32.const 300) (i32.const 4) (i32.const 0)))
            (call $ok (call $send (local.get $listener)))
            (call $kill (local.get $listener))"#,
    ] {
        let more = r#"(data (i32.const 300) "lazy")
            (func (export "lazy") (param i32) (call $sleep (i64.const -1)))"#;
        let code = format!(
            "{PAIR} (call $die (i32.const 0)) (drop (call $push_tcp_stream (local.get $b))) {undelivered}
            (call $check (call $hear (local.get $a) (i32.const 9)) (i64.const 0))"
        );
        holds(more, &code).await;
    }
}

#[tokio::test]
async fn what_cannot_be_pushed_stays_and_what_is_of_another_kind_is_not_taken() {
    let more = r#"(global $stream (mut i64) (i64.const 0))
        (func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (if (i32.eq (local.get 0) (i32.const 0))
                (then (drop (call $push_tcp_stream (global.get $stream)))))
            (if (i32.eq (local.get 0) (i32.const 1))
                (then (drop (call $take_tls_stream (i64.const 0)))))
            (if (i32.eq (local.get 0) (i32.const 2))
                (then (drop (call $take_udp_socket (i64.const 0)))))
            (if (i32.eq (local.get 0) (i32.const 3))
                (then (drop (call $take_tcp_stream (i64.const 1)))))
            (i32.const 1))"#;
    let code = r#"
        (global.set $stream (local.get $b))
        ;; no message in the slot
        (call $ok (call $send (i64.const 0)))
        (call $check32 (call $catch (i32.const 0) (i32.const 0)) (i32.const 0))
        (call $create_data (i64.const 0) (i64.const 0))
        (call $check32 (call $catch (i32.const 0) (i32.const 0)) (i32.const 1))
        (call $check32 (call $catch (i32.const 1) (i32.const 0)) (i32.const 0))
        (call $check32 (call $catch (i32.const 2) (i32.const 0)) (i32.const 0))
        (call $check32 (call $catch (i32.const 3) (i32.const 0)) (i32.const 0))
        (local.set $b (call $take_tcp_stream (i64.const 0)))
        (call $check (local.get $b) (i64.const 2))
        (call $say (local.get $b) (i32.const 9))
        (call $check (call $hear (local.get $a) (i32.const 9)) (i64.const 9))
        (drop (call $take_tcp_stream (i64.const 0)))"#;
    let with = "take_tcp_stream: no TCP stream at index 0 of the message";
    fails(more, &[PAIR, code].concat(), with).await;
}

#[tokio::test]
async fn udp_sockets_move_too() {
    let code = r#"(local $socket i64)
        (call $ok (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)))
        (call $create_data (i64.const 0) (i64.const 0))
        (call $check (call $push_udp_socket (call $id)) (i64.const 0))
        (call $ok (call $send (call $process_id)))
        (call $ok (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
        (call $check (call $take_udp_socket (i64.const 0)) (i64.const 1))
        (call $ok (call $udp_local_addr (i64.const 1) (i32.const 100)))
        (drop (call $port_of (call $id)))
        (call $drop_udp_socket (i64.const 0))"#;
    fails("", code, "drop_udp_socket: no UDP socket 0").await;
}

#[tokio::test]
async fn a_message_holds_so_many_resources_and_no_more() {
    let code = r#"
        (loop $next
            (drop (call $push_tcp_stream (call $clone_tcp_stream (local.get $b))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 257))))"#;
    fails(
        "",
        &[PAIR, code].concat(),
        "push_tcp_stream: a message has at most 256 resources",
    )
    .await;
}

#[tokio::test]
async fn a_message_with_a_socket_cannot_leave_its_node() {
    let elsewhere = Pid::new(tidelock_proto::NodeId(7), 1).unwrap().raw();
    let code = format!(
        "{PAIR} (drop (call $push_tcp_stream (local.get $b)))
        (drop (call $send (i64.const {elsewhere})))"
    );
    fails(
        "",
        &code,
        "send: a message with resources cannot leave its node",
    )
    .await;
}
