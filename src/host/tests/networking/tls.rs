//! TLS: two guests shake hands and talk; whatever is wrong with either is an error, never a trap.

use std::fmt::Write as _;

use tidelock_certs::testing::{WebServer, web_server};

use super::*;

/// Where the texts of a guest lie.
const CERTIFICATE: usize = 4096;
const KEY: usize = 8192;
const AUTHORITY: usize = 12288;

/// The texts, and what is done with them.
///
/// The server is `_start`, and starts the client with its port; both end well, or the test fails.
pub(super) fn texts(server: &WebServer, authority: &str) -> String {
    let mut text = String::new();
    for (at, pem) in [
        (CERTIFICATE, server.certificate.as_str()),
        (KEY, &server.key),
        (AUTHORITY, authority),
    ] {
        assert!(pem.len() < 4096, "the texts do not overlap");
        let bytes: String = pem.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let _ = writeln!(text, r#"(data (i32.const {at}) "{bytes}")"#);
    }
    let (cert_len, key_len, ca_len) = (server.certificate.len(), server.key.len(), authority.len());
    text + &format!(
        r#"(data (i32.const 300) "client") (data (i32.const 320) "localhost")
        (func $bind (result i32)
            (call $tls_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 100) (i32.const {CERTIFICATE}) (i32.const {cert_len})
                (i32.const {KEY}) (i32.const {key_len})))
        (func $tls_listen (result i64) (call $ok (call $bind)) (call $id))
        (func $tls_listens_at (param $listener i64) (result i32)
            (call $ok (call $tls_local_addr (local.get $listener) (i32.const 100)))
            (call $port_of (call $id)))
        (func $client (param $port i32)
            (drop (call $start (i32.const 300) (i32.const 6) (local.get $port))))
        (func $try_accept (param $listener i64) (result i32)
            (call $tls_accept (local.get $listener) (i32.const 100) (i32.const 108)))
        (func $tls_accepted (param $listener i64) (result i64)
            (call $ok (call $try_accept (local.get $listener)))
            (drop (call $port_of (i64.load (i32.const 108))))
            (call $id))
        ;; trusts the authority whose place and length stand at 32, if `count` is 1
        (func $dial (param $port i32) (param $count i32) (result i32)
            (call $tls_connect (i32.const 320) (i32.const 9) (local.get $port) (i64.const -1)
                (i32.const 100) (i32.const 32) (local.get $count)))
        (func $trust (call $iov (i32.const 32) (i32.const {AUTHORITY}) (i32.const {ca_len})))
        (func $tls_connected (param $port i32) (result i64)
            (call $trust)
            (call $ok (call $dial (local.get $port) (i32.const 1)))
            (call $id))
        (func $tls_say (param $stream i64) (param $len i32)
            (call $iov (i32.const 32) (i32.const 200) (local.get $len))
            (call $ok (call $tls_write_vectored (local.get $stream) (i32.const 32) (i32.const 1)
                (i32.const 100)))
            (call $number (i64.extend_i32_u (local.get $len))))
        (func $tls_hear (param $stream i64) (param $len i32) (result i64)
            (call $ok (call $tls_read (local.get $stream) (i32.const 1000) (local.get $len)
                (i32.const 100)))
            (call $id))
        ;; an error was written whose text is at 2000 then, with `len` bytes
        (func $error_read (param $code i32) (result i32) (local $len i32)
            (call $check32 (local.get $code) (i32.const 1))
            (local.set $len (call $error_size (call $id)))
            (call $error_text (call $id) (i32.const 2000))
            (call $error_drop (call $id))
            (local.get $len))
        "#
    )
}

pub(super) fn localhost() -> WebServer {
    web_server(&["localhost", "127.0.0.1"])
}

/// Runs a server and the client that it starts.
async fn talk(server: &str, client: &str) -> ExitReason {
    let keys = localhost();
    let more = format!(
        r#"{} (func (export "client") (param $port i32) (local $s i64)
            (local $sent i32) (local $at i32) {client})"#,
        texts(&keys, &keys.authority)
    );
    let server = format!(
        r#"(local $listener i64) (local $s i64) (local $port i32) (local $i i32)
        (local $rest i32) (local $n i32) (local $at i32) (local $next i32)
        (local.set $listener (call $tls_listen))
        (local.set $port (call $tls_listens_at (local.get $listener)))
        {server}
        (call $wait_for_child)"#
    );
    runs(&more, &server).await
}

async fn talks(server: &str, client: &str) {
    assert_eq!(talk(server, client).await, ExitReason::Normal);
}

const ACCEPT: &str = r#"(call $client (local.get $port))
    (local.set $s (call $tls_accepted (local.get $listener)))
    "#;
const CONNECT: &str = "(local.set $s (call $tls_connected (local.get $port)))";

#[tokio::test]
async fn what_is_written_is_read_both_ways() {
    let server = r#"
        (call $check (call $tls_hear (local.get $s) (i32.const 5)) (i64.const 5))
        (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 4))
        (call $check (call $tls_hear (local.get $s) (i32.const 0)) (i64.const 0))
        ;; several buffers are one record
        (call $iov (i32.const 32) (i32.const 204) (i32.const 5))
        (call $iov (i32.const 40) (i32.const 65536) (i32.const 0))
        (call $iov (i32.const 48) (i32.const 200) (i32.const 4))
        (call $ok (call $tls_write_vectored (local.get $s) (i32.const 32) (i32.const 3) (i32.const 100)))
        (call $number (i64.const 9))
        (call $ok (call $tls_flush (local.get $s) (i32.const 100)))
        ;; a clone, and the end by the last of both
        (local.set $listener (call $clone_tls_stream (local.get $s)))
        (call $drop_tls_stream (local.get $s))
        (call $tls_say (local.get $listener) (i32.const 3))
        (call $drop_tls_stream (local.get $listener))"#;
    let client = r#"
        (call $tls_say (local.get $s) (i32.const 9))
        (call $check (call $tls_hear (local.get $s) (i32.const 9)) (i64.const 9))
        (call $check (i64.load (i32.const 1000)) (i64.const 0x6568746b63697571))
        (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 3))
        (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 0))
        (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 0))"#;
    talks(&[ACCEPT, server].concat(), &[CONNECT, client].concat()).await;
}

/// More than all buffers on the way hold, by small and large writes, arrives byte by byte as it was sent.
#[tokio::test]
async fn a_long_stream_arrives_in_order() {
    let server = r#"
        (local.set $rest (i32.const 6000000))
        (loop $more
            (call $ok (call $tls_read (local.get $s) (i32.const 16384) (i32.const 30000) (i32.const 100)))
            (local.set $n (i32.wrap_i64 (call $id)))
            (call $check32 (i32.eqz (local.get $n)) (i32.const 0))
            (local.set $at (i32.const 0))
            (loop $each
                (call $check32 (i32.load8_u (i32.add (local.get $at) (i32.const 16384)))
                    (i32.and (local.get $next) (i32.const 127)))
                (local.set $next (i32.add (local.get $next) (i32.const 1)))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br_if $each (i32.lt_u (local.get $at) (local.get $n))))
            (local.set $rest (i32.sub (local.get $rest) (local.get $n)))
            (br_if $more (i32.gt_s (local.get $rest) (i32.const 0))))
        (call $tls_say (local.get $s) (i32.const 9))"#;
    // 128 numbers, over and over: a write may begin at any of them.
    let client = r#"
        (loop $fill
            (i32.store8 (i32.add (i32.const 16384) (local.get $at)) (i32.and (local.get $at) (i32.const 127)))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $fill (i32.lt_u (local.get $at) (i32.const 40000))))
        (local.set $at (i32.const 1))
        (loop $more
            (call $iov (i32.const 32)
                (i32.add (i32.const 16384) (i32.and (local.get $sent) (i32.const 127)))
                (select (local.get $at) (i32.sub (i32.const 6000000) (local.get $sent))
                    (i32.lt_u (local.get $at) (i32.sub (i32.const 6000000) (local.get $sent)))))
            (call $ok (call $tls_write_vectored (local.get $s) (i32.const 32) (i32.const 1) (i32.const 100)))
            (local.set $sent (i32.add (local.get $sent) (i32.wrap_i64 (call $id))))
            (local.set $at (i32.add (i32.const 1) (i32.rem_u (i32.mul (local.get $at) (i32.const 7)) (i32.const 39000))))
            (br_if $more (i32.lt_u (local.get $sent) (i32.const 6000000))))
        (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 9))"#;
    talks(&[ACCEPT, server].concat(), &[CONNECT, client].concat()).await;
}

#[tokio::test]
async fn timeouts_have_their_code_and_lose_nothing() {
    let server = r#"
        (call $check (call $get_tls_read_timeout (local.get $s)) (i64.const -1))
        (call $check (call $get_tls_write_timeout (local.get $s)) (i64.const -1))
        (call $set_tls_read_timeout (local.get $s) (i64.const 5))
        (call $set_tls_write_timeout (local.get $s) (i64.const 6))
        (call $check (call $get_tls_read_timeout (call $clone_tls_stream (local.get $s))) (i64.const 5))
        (call $check (call $get_tls_write_timeout (local.get $s)) (i64.const 6))
        (call $check32 (i32.const 9027)
            (call $tls_read (local.get $s) (i32.const 1000) (i32.const 9) (i32.const 100)))
        (call $set_tls_read_timeout (local.get $s) (i64.const 0))
        (call $check32 (i32.const 9027)
            (call $tls_read (local.get $s) (i32.const 1000) (i32.const 9) (i32.const 100)))
        ;; the client reads nothing: bytes are taken until nobody has room, and that is counted at 700
        (call $iov (i32.const 32) (i32.const 0) (i32.const 65536))
        (loop $more
            (if (i32.eqz (call $tls_write_vectored (local.get $s) (i32.const 32) (i32.const 1) (i32.const 100)))
                (then
                    (i64.store (i32.const 700) (i64.add (i64.load (i32.const 700)) (call $id)))
                    (br $more))))
        (call $check32 (i32.const 9027)
            (call $tls_write_vectored (local.get $s) (i32.const 32) (i32.const 1) (i32.const 100)))
        (call $check32 (i32.const 9027) (call $tls_flush (local.get $s) (i32.const 100)))
        (call $error (i32.const 1) (i32.const 0x656d6974))
        ;; exactly that many arrive once it does read, and the rest goes out by whatever is called next
        (call $set_tls_write_timeout (local.get $s) (i64.const -1))
        (call $create_data (i64.const 0) (i64.const 0))
        (drop (call $write (i32.const 700) (i32.const 8)))
        (call $ok (call $send (i64.load (i32.const 708))))
        (call $ok (call $tls_flush (local.get $s) (i32.const 100)))
        (call $set_tls_read_timeout (local.get $s) (i64.const -1))
        (call $check (call $tls_hear (local.get $s) (i32.const 9)) (i64.const 9))"#;
    let client = r#"
        (call $ok (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
        (drop (call $read (i32.const 700) (i32.const 8)))
        (loop $more
            (call $ok (call $tls_read (local.get $s) (i32.const 16384) (i32.const 40000) (i32.const 100)))
            (i64.store (i32.const 700) (i64.sub (i64.load (i32.const 700)) (call $id)))
            (br_if $more (i64.gt_s (i64.load (i32.const 700)) (i64.const 0))))
        (call $check (i64.load (i32.const 700)) (i64.const 0))
        (call $tls_say (local.get $s) (i32.const 9))"#;
    let accept = r#"(i64.store (i32.const 708) (call $start (i32.const 300) (i32.const 6) (local.get $port)))
        (local.set $s (call $tls_accepted (local.get $listener)))
        "#;
    talks(&[accept, server].concat(), &[CONNECT, client].concat()).await;
}

/// Bytes that the session still holds when the peer is gone: whoever waits for them to go out is told.
#[tokio::test]
async fn a_flush_to_a_peer_that_closed_is_an_error() {
    let server = r#"
        (i64.store (i32.const 708) (call $start (i32.const 300) (i32.const 6) (local.get $port)))
        (local.set $s (call $tls_accepted (local.get $listener)))
        (call $set_tls_write_timeout (local.get $s) (i64.const 6))
        (call $iov (i32.const 32) (i32.const 0) (i32.const 65536))
        (loop $more
            (br_if $more (i32.eqz (call $tls_write_vectored (local.get $s) (i32.const 32)
                (i32.const 1) (i32.const 100)))))
        (call $check32 (i32.const 9027) (call $tls_flush (local.get $s) (i32.const 100)))
        (call $error_drop (call $id))
        (call $set_tls_write_timeout (local.get $s) (i64.const -1))
        (call $create_data (i64.const 0) (i64.const 0))
        (call $ok (call $send (i64.load (i32.const 708))))
        ;; twice: it stays one. The first says "Conn"ection reset
        (call $error (call $tls_flush (local.get $s) (i32.const 100)) (i32.const 0x6e6e6f43))
        (drop (call $error_read (call $tls_flush (local.get $s) (i32.const 100))))"#;
    let client = r#"
        (call $ok (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
        (call $drop_tls_stream (local.get $s))"#;
    talks(server, &[CONNECT, client].concat()).await;
}

/// Both ends learn of a handshake that fails, and the listener goes on.
#[tokio::test]
async fn a_failed_handshake_is_an_error_on_both_sides() {
    let server = r#"
        (call $client (local.get $port))
        ;; twice refused: "hand"shake with ...
        (call $error (call $try_accept (local.get $listener)) (i32.const 0x646e6168))
        (call $error (call $try_accept (local.get $listener)) (i32.const 0x646e6168))
        (local.set $s (call $tls_accepted (local.get $listener)))
        (call $check (call $tls_hear (local.get $s) (i32.const 9)) (i64.const 3))"#;
    let client = r#"
        ;; the public authorities know nothing of this server: "inva"lid peer certificate
        (call $error (call $dial (local.get $port) (i32.const 0)) (i32.const 0x61766e69))
        ;; its own certificate is no authority
        (call $iov (i32.const 32) (i32.const 4096) (i32.load (i32.const 4)))
        (i32.store (i32.const 36) (i32.const CERT_LEN))
        (call $error (call $dial (local.get $port) (i32.const 1)) (i32.const 0x61766e69))
        ;; length before pointer is understood, too
        (call $trust)
        (i64.store (i32.const 32) (i64.rotl (i64.load (i32.const 32)) (i64.const 32)))
        (call $ok (call $dial (local.get $port) (i32.const 1)))
        (call $tls_say (call $id) (i32.const 3))"#;
    let keys = localhost();
    let client = client.replace("CERT_LEN", &keys.certificate.len().to_string());
    let more = format!(
        r#"{} (func (export "client") (param $port i32) {client})"#,
        texts(&keys, &keys.authority)
    );
    let server = format!(
        r#"(local $listener i64) (local $s i64) (local $port i32)
        (local.set $listener (call $tls_listen))
        (local.set $port (call $tls_listens_at (local.get $listener))) {server}
        (call $wait_for_child)"#
    );
    holds(&more, &server).await;
}

#[tokio::test]
async fn a_server_by_another_name_is_not_believed() {
    let keys = web_server(&["example.com"]);
    let more = format!(
        r#"{} (func (export "client") (param $port i32) (call $trust)
            (call $error (call $dial (local.get $port) (i32.const 1)) (i32.const 0x61766e69)))"#,
        texts(&keys, &keys.authority)
    );
    let server = r#"(local $listener i64)
        (local.set $listener (call $tls_listen))
        (call $client (call $tls_listens_at (local.get $listener)))
        (call $error (call $try_accept (local.get $listener)) (i32.const 0x646e6168))
        (call $wait_for_child)"#;
    holds(&more, server).await;
}

/// Connections that say nothing, or nonsense, are in nobody's way.
#[tokio::test]
async fn a_silent_client_holds_up_nobody() {
    let server = r#"
        (loop $next
            (drop (call $connect (local.get $port)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 20))))
        (call $client (local.get $port))
        (local.set $s (call $tls_accepted (local.get $listener)))
        (call $check (call $tls_hear (local.get $s) (i32.const 9)) (i64.const 3))
        ;; nonsense is an error of its own
        (call $say (call $connect (local.get $port)) (i32.const 19))
        (call $error (call $try_accept (local.get $listener)) (i32.const 0x646e6168))
        ;; and so is whoever leaves in the middle
        (call $drop_tcp_stream (i64.const 0))
        (call $error (call $try_accept (local.get $listener)) (i32.const 0x646e6168))"#;
    talks(
        server,
        &[CONNECT, "(call $tls_say (local.get $s) (i32.const 3))"].concat(),
    )
    .await;
}

/// It takes the ten seconds of the clock that handshakes have.
#[tokio::test]
async fn a_client_that_never_says_anything_is_given_up_and_the_next_is_served() {
    let server = r#"
        (drop (call $connect (local.get $port)))
        (local.set $n (call $error_read (call $try_accept (local.get $listener))))
        ;; its last words are how long a handshake may take
        (call $check (i64.load (i32.add (i32.const 1992) (local.get $n))) (i64.const 0x73303120_6e696874))
        (call $client (local.get $port))
        (local.set $s (call $tls_accepted (local.get $listener)))
        (call $check (call $tls_hear (local.get $s) (i32.const 9)) (i64.const 3))"#;
    let client = [CONNECT, "(call $tls_say (local.get $s) (i32.const 3))"].concat();
    let began = std::time::Instant::now();
    talks(server, &client).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(10), "{took:?}");
}

/// Only a holder that lets go of a stream says that it was the end; a kill cuts it short.
#[tokio::test]
async fn a_kill_is_no_end_of_the_stream() {
    let server = r#"
        (call $die (i32.const 0))
        (i64.store (i32.const 708) (call $start (i32.const 300) (i32.const 6) (local.get $port)))
        (local.set $s (call $tls_accepted (local.get $listener)))
        (call $check (call $tls_hear (local.get $s) (i32.const 9)) (i64.const 3))
        (call $kill (i64.load (i32.const 708)))
        (drop (call $error_read (call $tls_read (local.get $s) (i32.const 1000) (i32.const 9)
            (i32.const 100))))"#;
    let client = "(call $tls_say (local.get $s) (i32.const 3)) (call $sleep (i64.const -1))";
    talks(server, &[CONNECT, client].concat()).await;
}

#[tokio::test]
async fn keys_and_certificates_that_cannot_be_used_are_errors() {
    let good = localhost();
    let other = localhost();
    let broken = |certificate: &str, key: &str| WebServer {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        ..good.clone()
    };
    let cut = &good.certificate[..good.certificate.len() / 2];
    for (keys, begins) in [
        (broken("nonsense", &good.key), "certificate: "),
        (broken("", &good.key), "certificate: "),
        (broken(cut, &good.key), "certificate: "),
        (broken(&good.certificate, "nonsense"), "key: "),
        (broken(&good.certificate, &good.certificate), "key: "),
        (
            broken(&good.certificate, &other.key),
            "keys may not be consistent",
        ),
    ] {
        let code = format!(
            r#"(local $len i32) (local.set $len (call $error_read (call $bind)))
            {}"#,
            says(begins)
        );
        holds(&texts(&keys, &good.authority), &code).await;
    }
    // Authorities of a client.
    for (authority, begins) in [("nonsense", "certificate: "), (cut, "certificate: ")] {
        let code = format!(
            r#"(local $len i32) (call $trust)
            (local.set $len (call $error_read (call $dial (i32.const 1) (i32.const 1)))) {}"#,
            says(begins)
        );
        holds(&texts(&good, authority), &code).await;
    }
}

/// Checks that the text at 2000 begins so.
fn says(begins: &str) -> String {
    let each = begins.bytes().enumerate().map(|(at, byte)| {
        format!(
            "(call $check32 (i32.load8_u (i32.const {})) (i32.const {byte}))",
            2000 + at
        )
    });
    each.collect()
}

#[tokio::test]
async fn claims_beyond_reason_are_refused() {
    let keys = localhost();
    let more = texts(&keys, &keys.authority);
    // "a na"me has at most; "257 "; "cert"ificates and keys have at most
    for (code, begins) in [
        (
            "(call $tls_connect (i32.const 0) (i32.const 1025) (i32.const 1) (i64.const -1) (i32.const 100) (i32.const 0) (i32.const 0))",
            0x616e_2061,
        ),
        (
            "(call $tls_connect (i32.const 320) (i32.const 9) (i32.const 1) (i64.const -1) (i32.const 100) (i32.const 0) (i32.const 257))",
            0x2037_3532,
        ),
    ] {
        holds(&more, &format!("(call $error {code} (i32.const {begins}))")).await;
    }
    let long = r#"(drop (memory.grow (i32.const 15)) ) (drop (memory.grow (i32.const 0)))
        (call $error (call $tls_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 100) (i32.const 0) (i32.const 1048576) (i32.const 0) (i32.const 1))
            (i32.const 0x74726563))"#;
    holds(&more, long).await;
    for (code, with) in [
        (
            "(call $tls_connect (i32.const 320) (i32.const 9) (i32.const 1) (i64.const -1) (i32.const 100) (i32.const 65530) (i32.const 1))",
            "tls_connect: certs_array_ptr",
        ),
        (
            "(call $tls_connect (i32.const 320) (i32.const 9) (i32.const 65536) (i64.const -1) (i32.const 100) (i32.const 0) (i32.const 0))",
            "tls_connect: port",
        ),
        (
            "(call $tls_connect (i32.const 65530) (i32.const 9) (i32.const 1) (i64.const -1) (i32.const 100) (i32.const 0) (i32.const 0))",
            "tls_connect: name_str_ptr",
        ),
        (
            "(call $tls_connect (i32.const 320) (i32.const 9) (i32.const 1) (i64.const -1) (i32.const -1) (i32.const 0) (i32.const 0))",
            "tls_connect: id_u64_ptr",
        ),
        (
            "(call $tls_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 65530) (i32.const 9) (i32.const 0) (i32.const 0))",
            "tls_bind: certs_array_ptr",
        ),
        (
            "(call $tls_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 9) (i32.const 65530) (i32.const 9))",
            "tls_bind: keys_array_ptr",
        ),
    ] {
        fails(&more, &format!("(drop {code})"), with).await;
    }
}

#[tokio::test]
async fn a_timeout_covers_the_handshake() {
    // A listener that never says anything.
    let code = r#"(local $listener i64)
        (local.set $listener (call $listen))
        (call $check32 (i32.const 9027)
            (call $tls_connect (i32.const 320) (i32.const 9) (call $listens_at (local.get $listener))
                (i64.const 30) (i32.const 100) (i32.const 0) (i32.const 0)))
        (call $error (i32.const 1) (i32.const 0x656d6974))"#;
    let keys = localhost();
    holds(&texts(&keys, &keys.authority), code).await;
}

#[tokio::test]
async fn a_stream_moves_to_another_process() {
    let keys = localhost();
    let more = format!(
        r#"{} (data (i32.const 340) "echo")
        (func (export "client") (param $port i32) (local $s i64) {CONNECT}
            (call $tls_say (local.get $s) (i32.const 9))
            (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 4))
            (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 0)))
        (func (export "echo") (param i32) (local $s i64)
            (call $ok (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
            (local.set $s (call $take_tls_stream (i64.const 0)))
            (call $check (call $tls_hear (local.get $s) (i32.const 99)) (i64.const 9))
            (call $tls_say (local.get $s) (i32.const 4))
            (call $drop_tls_stream (local.get $s)))"#,
        texts(&keys, &keys.authority)
    );
    let code = r#"(local $listener i64) (local $s i64)
        (local.set $listener (call $tls_listen))
        (call $client (call $tls_listens_at (local.get $listener)))
        (local.set $s (call $tls_accepted (local.get $listener)))
        (call $create_data (i64.const 0) (i64.const 0))
        (call $check (call $push_tls_stream (local.get $s)) (i64.const 0))
        (call $ok (call $send (call $start (i32.const 340) (i32.const 4) (i32.const 0))))
        (call $drop_tls_listener (local.get $listener))
        (drop (call $clone_tls_stream (local.get $s)))"#;
    fails(&more, code, "clone_tls_stream: no TLS stream 0").await;
}

/// On a listener, and on a stream that works; each call has one wrong pointer.
#[tokio::test]
async fn wrong_pointers_trap_and_are_named() {
    let keys = localhost();
    let more = texts(&keys, &keys.authority);
    for outside in ["65535", "-1"] {
        let of_listener = [
            (
                format!("$tls_local_addr (local.get $s) (i32.const {outside})"),
                "tls_local_addr: id_u64_ptr: ",
            ),
            (
                format!("$tls_accept (local.get $s) (i32.const {outside}) (i32.const 108)"),
                "tls_accept: id_u64_ptr: ",
            ),
            (
                format!("$tls_accept (local.get $s) (i32.const 100) (i32.const {outside})"),
                "tls_accept: socket_addr_id_ptr: ",
            ),
        ];
        for (call, with) in of_listener {
            let code =
                format!("(local $s i64) (local.set $s (call $tls_listen)) (drop (call {call}))");
            fails(&more, &code, with).await;
        }
        let of_stream = [
            (
                format!(
                    "$tls_read (local.get $s) (i32.const {outside}) (i32.const 9) (i32.const 100)"
                ),
                "tls_read: buf_ptr: ",
            ),
            (
                format!(
                    "$tls_read (local.get $s) (i32.const 0) (i32.const 9) (i32.const {outside})"
                ),
                "tls_read: opaque_ptr: ",
            ),
            (
                format!(
                    "$tls_write_vectored (local.get $s) (i32.const {outside}) (i32.const 1)
                    (i32.const 100)"
                ),
                "tls_write_vectored: ciovec_array_ptr: ",
            ),
            (
                format!(
                    "$tls_write_vectored (local.get $s) (i32.const 32) (i32.const 1)
                    (i32.const {outside})"
                ),
                "tls_write_vectored: opaque_ptr: ",
            ),
            (
                format!("$tls_flush (local.get $s) (i32.const {outside})"),
                "tls_flush: error_id_ptr: ",
            ),
        ];
        for (call, with) in of_stream {
            let server = format!("{ACCEPT} (drop (call {call}))");
            let client = format!("{CONNECT} (call $sleep (i64.const -1))");
            let reason = talk(&server, &client).await;
            assert!(trap(&reason).contains(with), "{reason:?} lacks {with:?}");
        }
    }
}
