//! Names, addresses, and the iterators over them.

use super::*;

/// Puts a name at 300 and asks for its addresses.
fn resolve(name: &str, timeout: i64) -> (String, String) {
    let data = format!(r#"(data (i32.const 300) "{name}")"#);
    let call = format!(
        "(call $resolve (i32.const 300) (i32.const {}) (i64.const {timeout}) (i32.const 100))",
        name.len()
    );
    (data, call)
}

async fn resolves(name: &str, timeout: i64, then: &str) {
    let (data, call) = resolve(name, timeout);
    holds(&data, &format!("(call $ok {call}) {then}")).await;
}

#[tokio::test]
async fn numbers_are_addresses() {
    let four = "(call $check32 (call $port_of (call $id)) (i32.const 8080))";
    resolves("127.0.0.1:8080", 0, four).await;
    let six = r#"(call $ok (call $resolve_next (call $id) (i32.const 140) (i32.const 120)
            (i32.const 144) (i32.const 148) (i32.const 152)))
        (call $check32 (i32.load (i32.const 140)) (i32.const 6))
        (call $check (i64.load (i32.const 120)) (i64.const 0xb80d0120))
        (call $check32 (i32.load16_u (i32.const 144)) (i32.const 443))
        (call $check32 (i32.load (i32.const 148)) (i32.const 0))
        (call $check32 (i32.load (i32.const 152)) (i32.const 7))"#;
    resolves("[2001:db8::1%7]:443", 0, six).await;
}

#[tokio::test]
async fn localhost_is_this_machine() {
    let then = r#"(local.set $iter (call $id))
        (loop $next
            (if (i32.eqz (call $resolve_next (local.get $iter) (i32.const 140) (i32.const 120)
                (i32.const 144) (i32.const 148) (i32.const 152)))
            (then
                (call $check32 (i32.load16_u (i32.const 144)) (i32.const 80))
                (if (i32.eq (i32.load (i32.const 120)) (i32.const 0x0100007f))
                    (then (local.set $found (i32.const 1))))
                (br $next))))
        (call $check32 (local.get $found) (i32.const 1))"#;
    let (data, call) = resolve("localhost:80", -1);
    let code = format!("(local $iter i64) (local $found i32) (call $ok {call}) {then}");
    holds(&data, &code).await;
}

#[tokio::test]
async fn what_is_no_name_is_an_error() {
    // The text names it: `"loc`, `""`.
    for name in [
        "localhost",
        "local host:80",
        "localhost:99999",
        "localhost:http",
    ] {
        let (data, call) = resolve(name, -1);
        holds(
            &data,
            &format!("(call $error {call} (i32.const 0x636f6c22))"),
        )
        .await;
    }
    let (data, call) = resolve("", -1);
    holds(
        &data,
        &format!("(call $error {call} (i32.const 0x69202222))"),
    )
    .await;
    let (data, call) = resolve(&"x".repeat(1025), -1);
    holds(
        &data,
        &format!("(call $error {call} (i32.const 0x616e2061))"),
    )
    .await;
    // Without a wait the system cannot be asked: an error, "time".
    let (data, call) = resolve("localhost:80", 0);
    let code = format!(
        "(call $check32 {call} (i32.const 9027)) (call $error (i32.const 1) (i32.const 0x656d6974))"
    );
    holds(&data, &code).await;
}

#[tokio::test]
async fn an_address_is_written_whole_or_stays() {
    let more = r#"(data (i32.const 300) "127.0.0.1:80")
        (func (export "_lunatic_catch_trap") (param i32 i32) (result i32)
            (call $resolve_next (call $id) (local.get 0) (i32.const 120) (local.get 1)
                (i32.const 148) (i32.const 152)))"#;
    let code = r#"(call $ok (call $resolve (i32.const 300) (i32.const 12) (i64.const 0) (i32.const 100)))
        (drop (call $catch (i32.const 65533) (i32.const 144)))
        (drop (call $catch (i32.const 140) (i32.const 65535)))
        (call $check32 (i32.load (i32.const 120)) (i32.const 0))
        (call $check32 (call $port_of (call $id)) (i32.const 80))"#;
    holds(more, code).await;
    let (_, call) = (
        "",
        "(drop (call $resolve (i32.const 65530) (i32.const 9) (i64.const 0) (i32.const 100)))",
    );
    fails("", call, "resolve: name_str_ptr").await;
    let call = "(drop (call $resolve (i32.const 300) (i32.const 9) (i64.const 0) (i32.const -1)))";
    fails("", call, "resolve: id_u64_ptr").await;
    let call = r#"(i32.store8 (i32.const 300) (i32.const 0xff))
        (drop (call $resolve (i32.const 300) (i32.const 1) (i64.const 0) (i32.const 100)))"#;
    fails("", call, "resolve: name_str_ptr: not UTF-8").await;
}
