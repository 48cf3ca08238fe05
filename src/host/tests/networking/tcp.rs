//! TCP: what is written is read, every error has its code, nothing is lost on the way.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

/// A pair of connected streams of one guest.
const PAIR: &str = r#"(local $listener i64) (local $a i64) (local $b i64)
    (local $port i32) (local $i i32) (local $at i32) (local $child i64)
    (local.set $listener (call $listen))
    (local.set $a (call $connect (call $listens_at (local.get $listener))))
    (local.set $b (call $accept (local.get $listener)))
    "#;

async fn pair_holds(code: &str) {
    holds("", &[PAIR, code].concat()).await;
}

#[tokio::test]
async fn what_is_written_is_peeked_and_read() {
    pair_holds(
        r#"
        ;; three buffers, one of them empty
        (call $iov (i32.const 32) (i32.const 204) (i32.const 5))
        (call $iov (i32.const 40) (i32.const 65536) (i32.const 0))
        (call $iov (i32.const 48) (i32.const 200) (i32.const 4))
        (call $ok (call $tcp_write_vectored (local.get $a) (i32.const 32) (i32.const 3) (i32.const 100)))
        (call $number (i64.const 9))
        (call $ok (call $tcp_flush (local.get $a) (i32.const 100)))
        ;; a peek leaves everything as it is, twice
        (call $ok (call $tcp_peek (local.get $b) (i32.const 1000) (i32.const 4) (i32.const 100)))
        (call $number (i64.const 4))
        (call $ok (call $tcp_peek (local.get $b) (i32.const 1000) (i32.const 65) (i32.const 100)))
        (call $number (i64.const 9))
        (call $check (i64.load (i32.const 1000)) (i64.const 0x6568746b63697571))
        (i64.store (i32.const 1000) (i64.const 0))
        (call $check (call $hear (local.get $b) (i32.const 5)) (i64.const 5))
        (call $check (i64.load (i32.const 1000)) (i64.const 0x6b63697571))
        (call $check (call $hear (local.get $b) (i32.const 100)) (i64.const 4))
        (call $check32 (i32.load (i32.const 1000)) (i32.const 0x20656874))
        ;; nothing is written and read at once
        (call $ok (call $tcp_write_vectored (local.get $a) (i32.const 32) (i32.const 0) (i32.const 100)))
        (call $number (i64.const 0))
        (call $check (call $hear (local.get $b) (i32.const 0)) (i64.const 0))
        ;; the other way, by a clone; the stream stays open while one of them is there
        (local.set $listener (call $clone_tcp_stream (local.get $b)))
        (call $drop_tcp_stream (local.get $b))
        (call $say (local.get $listener) (i32.const 3))
        (call $drop_tcp_stream (local.get $listener))
        (call $check (call $hear (local.get $a) (i32.const 3)) (i64.const 3))
        ;; the end is told to every reader
        (call $check (call $hear (local.get $a) (i32.const 3)) (i64.const 0))
        (call $ok (call $tcp_peek (local.get $a) (i32.const 1000) (i32.const 4) (i32.const 100)))
        (call $number (i64.const 0))"#,
    )
    .await;
}

#[tokio::test]
async fn addresses_of_both_ends_are_told() {
    pair_holds(
        r#"
        (call $ok (call $tcp_peer_addr (local.get $a) (i32.const 100)))
        (call $check32 (call $port_of (call $id)) (call $listens_at (local.get $listener)))"#,
    )
    .await;
}

#[tokio::test]
async fn version_6_works_where_the_machine_has_it() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    holds(
        "",
        r#"(local $listener i64)
        (call $ok (call $tcp_bind (i32.const 6) (i32.const 16) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)))
        (local.set $listener (call $id))
        (call $ok (call $tcp_local_addr (local.get $listener) (i32.const 100)))
        (call $ok (call $resolve_next (call $id) (i32.const 140) (i32.const 120) (i32.const 144)
            (i32.const 148) (i32.const 152)))
        (call $check32 (i32.load (i32.const 140)) (i32.const 6))
        (call $check (i64.load (i32.const 128)) (i64.const 0x0100000000000000))
        (call $ok (call $tcp_connect (i32.const 6) (i32.const 16) (i32.load16_u (i32.const 144))
            (i32.const 0) (i32.const 0) (i64.const -1) (i32.const 100)))"#,
    )
    .await;
}

#[tokio::test]
async fn timeouts_have_their_code_and_lose_nothing() {
    pair_holds(
        r#"
        (call $check (call $get_read_timeout (local.get $b)) (i64.const -1))
        (call $check (call $get_write_timeout (local.get $b)) (i64.const -1))
        (call $check (call $get_peek_timeout (local.get $b)) (i64.const -1))
        (call $set_read_timeout (local.get $b) (i64.const 5))
        (call $set_peek_timeout (local.get $b) (i64.const 6))
        (call $set_write_timeout (local.get $b) (i64.const 7))
        ;; clones share them
        (call $check (call $get_read_timeout (call $clone_tcp_stream (local.get $b))) (i64.const 5))
        (call $check (call $get_peek_timeout (local.get $b)) (i64.const 6))
        (call $check (call $get_write_timeout (local.get $b)) (i64.const 7))
        (i64.store (i32.const 100) (i64.const 77))
        (call $check32 (i32.const 9027)
            (call $tcp_read (local.get $b) (i32.const 1000) (i32.const 9) (i32.const 100)))
        (call $check32 (i32.const 9027)
            (call $tcp_peek (local.get $b) (i32.const 1000) (i32.const 9) (i32.const 100)))
        (call $set_read_timeout (local.get $b) (i64.const 0))
        (call $check32 (i32.const 9027)
            (call $tcp_read (local.get $b) (i32.const 1000) (i32.const 9) (i32.const 100)))
        (call $number (i64.const 77))
        (call $say (local.get $a) (i32.const 9))
        (call $set_read_timeout (local.get $b) (i64.const -1))
        (call $check (call $hear (local.get $b) (i32.const 9)) (i64.const 9))
        ;; a peer that does not read
        (call $iov (i32.const 32) (i32.const 0) (i32.const 65536))
        (loop $more
            (br_if $more (i32.eqz (call $tcp_write_vectored (local.get $b) (i32.const 32)
                (i32.const 1) (i32.const 100)))))
        (call $check32 (i32.const 9027)
            (call $tcp_write_vectored (local.get $b) (i32.const 32) (i32.const 1) (i32.const 100)))
        ;; whoever does not wait for a connection has none, and an error says so: "time"
        (call $check32 (i32.const 9027) (call $tcp_connect (i32.const 4) (i32.const 0)
            (call $listens_at (local.get $listener)) (i32.const 0) (i32.const 0) (i64.const 0)
            (i32.const 100)))
        (call $error (i32.const 1) (i32.const 0x656d6974))"#,
    )
    .await;
}

#[tokio::test]
async fn errors_have_a_code_and_a_text() {
    pair_holds(
        r#"
        (local.set $port (call $listens_at (local.get $listener)))
        ;; "Addr": address already in use
        (call $error (call $tcp_bind (i32.const 4) (i32.const 0) (local.get $port) (i32.const 0)
            (i32.const 0) (i32.const 100)) (i32.const 0x72646441))
        (call $drop_tcp_listener (local.get $listener))
        ;; "Conn": connection refused
        (call $error (call $tcp_connect (i32.const 4) (i32.const 0) (local.get $port) (i32.const 0)
            (i32.const 0) (i64.const -1) (i32.const 100)) (i32.const 0x6e6e6f43))
        ;; a peer that closed without reading: in the end writing and reading say so
        (call $say (local.get $a) (i32.const 9))
        (call $drop_tcp_stream (local.get $b))
        (call $iov (i32.const 32) (i32.const 200) (i32.const 9))
        (loop $more
            (br_if $more (i32.eqz (call $tcp_write_vectored (local.get $a) (i32.const 32)
                (i32.const 1) (i32.const 100)))))
        (drop (call $error_size (call $id)))
        (call $check32 (i32.const 1)
            (call $tcp_write_vectored (local.get $a) (i32.const 32) (i32.const 1) (i32.const 100)))"#,
    )
    .await;
}

/// A peer that closes without reading what has come resets the connection.
#[tokio::test]
async fn a_reset_is_an_error_for_whoever_reads_or_peeks() {
    for call in ["tcp_read", "tcp_peek"] {
        // "Conn": connection reset; then the stream has no peer any more.
        let code = format!(
            r#"
            (call $say (local.get $a) (i32.const 9))
            (call $ok (call $tcp_peek (local.get $b) (i32.const 1000) (i32.const 9) (i32.const 100)))
            (call $drop_tcp_stream (local.get $b))
            (call $error (call ${call} (local.get $a) (i32.const 1000) (i32.const 9)
                (i32.const 100)) (i32.const 0x6e6e6f43))
            (call $check32 (i32.const 1) (call $tcp_peer_addr (local.get $a) (i32.const 100)))
            (drop (call $error_size (call $id)))"#
        );
        pair_holds(&code).await;
    }
}

/// Each wrong pointer traps before anything is taken from the socket: another call finds it all.
#[tokio::test]
async fn wrong_pointers_trap_and_lose_nothing() {
    let more = r#"(global $stream (mut i64) (i64.const 0))
        (func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (if (i32.eq (local.get 0) (i32.const 0)) (then
                (return (call $tcp_read (global.get $stream) (i32.const 65530) (i32.const 9) (i32.const 100)))))
            (if (i32.eq (local.get 0) (i32.const 1)) (then
                (return (call $tcp_read (global.get $stream) (i32.const 1000) (i32.const 9) (i32.const 65529)))))
            (if (i32.eq (local.get 0) (i32.const 2)) (then
                (return (call $tcp_read (global.get $stream) (i32.const 0) (i32.const -1) (i32.const 100)))))
            (if (i32.eq (local.get 0) (i32.const 3)) (then
                (return (call $tcp_peek (global.get $stream) (i32.const -1) (i32.const -1) (i32.const 100)))))
            (if (i32.eq (local.get 0) (i32.const 4)) (then
                (return (call $tcp_accept (i64.const 0) (i32.const 100) (i32.const 65529)))))
            (if (i32.eq (local.get 0) (i32.const 5)) (then
                (return (call $tcp_accept (i64.const 0) (i32.const 65529) (i32.const 100)))))
            (i32.const 9))"#;
    let code = r#"
        (global.set $stream (local.get $b))
        (call $say (local.get $a) (i32.const 9))
        (drop (call $connect (call $listens_at (local.get $listener))))
        (loop $next
            (call $check32 (call $catch (local.get $i) (i32.const 0)) (i32.const 0))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 6))))
        (call $check32 (call $catch (local.get $i) (i32.const 0)) (i32.const 9))
        (drop (call $accept (local.get $listener)))
        (call $check (call $hear (local.get $b) (i32.const 99)) (i64.const 9))"#;
    holds(more, &[PAIR, code].concat()).await;
}

#[tokio::test]
async fn a_vectored_write_is_bounded_and_checked() {
    let write = |ptr: i32, count: i32| {
        format!(
            "{PAIR} (drop (call $tcp_write_vectored (local.get $a) (i32.const {ptr})
                (i32.const {count}) (i32.const 100)))"
        )
    };
    for (ptr, count) in [(65529, 1), (0, 8193), (0, -1), (-1, 1), (0, 1 << 29)] {
        fails(
            "",
            &write(ptr, count),
            "tcp_write_vectored: ciovec_array_ptr",
        )
        .await;
    }
    let outside =
        "(i32.store (i32.const 32) (i32.const 65535)) (i32.store (i32.const 36) (i32.const 2))";
    let code = write(32, 1).replacen("(drop", &format!("{outside} (drop"), 1);
    fails("", &code, "tcp_write_vectored: ciovec").await;
    // A million buffers of one byte: as many as are looked at are written, and the answer says so.
    let code = r#"
        (drop (memory.grow (i32.const 15)))
        (local.set $at (i32.const 65536))
        (loop $next
            (call $iov (local.get $at) (i32.const 200) (i32.const 1))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $at) (i32.const 1048576))))
        (call $ok (call $tcp_write_vectored (local.get $a) (i32.const 65536) (i32.const 122880) (i32.const 100)))
        (call $number (i64.const 1024))
        (call $check (call $hear (local.get $b) (i32.const 60000)) (i64.const 1024))"#;
    pair_holds(code).await;
}

/// A process that is killed within any wait closes what it has.
#[tokio::test]
async fn the_end_of_a_process_closes_its_sockets() {
    let env = environment();
    let body = r#"
        (func (export "reads") (param $port i32)
            (drop (call $hear (call $connect (local.get $port)) (i32.const 9))))
        (func (export "accepts") (param $port i32) (local $listener i64)
            (local.set $listener (call $listen))
            (call $say (call $connect (local.get $port)) (i32.const 1))
            (drop (call $accept (local.get $listener))))
        (func (export "writes") (param $port i32) (local $stream i64)
            (local.set $stream (call $connect (local.get $port)))
            (call $iov (i32.const 32) (i32.const 0) (i32.const 65536))
            (loop $more
                (br_if $more (i32.eqz (call $tcp_write_vectored (local.get $stream) (i32.const 32)
                    (i32.const 1) (i32.const 100))))))"#;
    let module = compile(&env, body).await;
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    for entry in ["reads", "accepts", "writes"] {
        let pid = start_with(&env, &module, entry, port);
        let (mut stream, _) = accept_one(&host).await;
        env.kill(pid, None);
        assert_eq!(end(&env, pid).await, ExitReason::Killed(None));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
}

/// Accepts on a thread that may wait.
async fn accept_one(host: &TcpListener) -> (std::net::TcpStream, std::net::SocketAddr) {
    let host = host.try_clone().unwrap();
    tokio::task::spawn_blocking(move || host.accept().unwrap())
        .await
        .unwrap()
}

/// Two thousand processes wait for a byte each; another one is served at once, and then all of them.
#[tokio::test]
async fn idle_connections_hold_up_nobody() {
    const IDLE: usize = 2000;
    let env = environment();
    let body = r#"
        (func (export "idles") (param $port i32) (local $stream i64)
            (local.set $stream (call $connect (local.get $port)))
            (call $check (call $hear (local.get $stream) (i32.const 9)) (i64.const 1)))
        (func (export "_start")"#;
    let module = compile(&env, &[body, PAIR, "(call $say (local.get $a) (i32.const 9)) (call $check (call $hear (local.get $b) (i32.const 9)) (i64.const 9)))"].concat()).await;
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let mut idle = Vec::new();
    let mut pids = Vec::new();
    for _ in 0..IDLE {
        pids.push(start_with(&env, &module, "idles", port));
        idle.push(accept_one(&host).await.0);
    }
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    assert_eq!(env.processes().len(), IDLE);
    for stream in &mut idle {
        stream.write_all(b"x").unwrap();
    }
    for pid in pids {
        assert_eq!(end(&env, pid).await, ExitReason::Normal);
    }
}

/// Reads and writes of one stream do not wait for each other, be it by clones.
#[tokio::test]
async fn a_reader_does_not_hold_up_a_writer() {
    let more = r#"(data (i32.const 300) "writes")
        (func (export "writes") (param $peer i32) (local $stream i64)
            (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
            (local.set $stream (call $take_tcp_stream (i64.const 0)))
            (call $say (local.get $stream) (i32.const 4)))
        (func $give (param $to i64) (param $stream i64)
            (call $create_data (i64.const 0) (i64.const 0))
            (drop (call $push_tcp_stream (local.get $stream)))
            (call $ok (call $send (local.get $to))))"#;
    // The child writes to `a` while the parent reads from it; only then does `b` answer.
    let code = r#"
        (local.set $child (call $start (i32.const 300) (i32.const 6) (i32.const 0)))
        (call $give (local.get $child) (call $clone_tcp_stream (local.get $a)))
        (call $check (call $hear (local.get $b) (i32.const 9)) (i64.const 4))
        (call $say (local.get $b) (i32.const 5))
        (call $check (call $hear (local.get $a) (i32.const 9)) (i64.const 5))"#;
    holds(more, &[PAIR, code].concat()).await;
}
