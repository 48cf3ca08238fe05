//! `lunatic::message`.

use super::*;

#[tokio::test]
async fn bytes_written_are_bytes_read() {
    let imports = [MESSAGES, RECEIVE, GET_TAG, PROCESS_ID].concat();
    let code = r#"
        (call $create_data (i64.const 5) (i64.const -1))
        (call $check32 (call $write (i32.const 100) (i32.const 3)) (i32.const 3))
        (call $check32 (call $write (i32.const 65536) (i32.const 0)) (i32.const 0))
        (call $check32 (call $write (i32.const 103) (i32.const 4)) (i32.const 4))
        (call $check (call $size) (i64.const 7))
        (call $check32 (call $send (call $process_id)) (i32.const 0))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const 0))
        (call $check (call $get_tag) (i64.const 5))
        (call $check (call $dead_id) (i64.const 0))
        (call $check32 (call $read (i32.const 200) (i32.const 4)) (i32.const 4))
        (call $check32 (call $read (i32.const 204) (i32.const 100)) (i32.const 3))
        (call $check32 (call $read (i32.const 300) (i32.const 100)) (i32.const 0))
        (call $check (i64.and (i64.load (i32.const 200)) (i64.const 0xffffffffffffff))
            (i64.const 0x67666564636261))
        ;; forwarding what was received, with more behind it
        (call $check32 (call $write (i32.const 100) (i32.const 1)) (i32.const 1))
        (call $seek (i64.const 6))
        (call $check32 (call $send (call $process_id)) (i32.const 0))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const 0))
        (call $check (call $size) (i64.const 8))
        ;; nothing there: the slot stays
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const 9027))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 5)) (i32.const 9027))
        (call $check (call $size) (i64.const 8))
        ;; a process that never was
        (call $check32 (call $send (i64.const 0)) (i32.const 0))
        (call $check32 (call $send (call $process_id)) (i32.const 0))"#;
    let reason = run(&imports, r#"(data (i32.const 100) "abcdefg")"#, code).await;
    assert!(
        trap(&reason).contains("lunatic::message::send: there is no data"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn receiving_by_tag_leaves_the_others_in_order() {
    let imports = [MESSAGES, RECEIVE, GET_TAG, PROCESS_ID].concat();
    let data = r#"(data (i32.const 8) "\02\00\00\00\00\00\00\00\09\00\00\00\00\00\00\00")
        (func $post (param i64)
            (call $create_data (local.get 0) (i64.const 0))
            (drop (call $send (call $process_id))))
        (func $next (param i32 i64)
            (call $check32 (call $receive (i32.const 8) (local.get 0) (i64.const 0)) (i32.const 0))
            (call $check (call $get_tag) (local.get 1)))"#;
    let code = r#"
        (call $post (i64.const 1)) (call $post (i64.const 0)) (call $post (i64.const 9))
        (call $post (i64.const 2)) (call $post (i64.const 3))
        (call $next (i32.const 2) (i64.const 9))
        (call $next (i32.const 1) (i64.const 2))
        (call $check32 (call $receive (i32.const 8) (i32.const 2) (i64.const 1)) (i32.const 9027))
        (call $next (i32.const 0) (i64.const 1))
        (call $next (i32.const 0) (i64.const 0))
        (call $next (i32.const 0) (i64.const 3))
        ;; a request does not look at what was there before
        (call $post (i64.const 4))
        (call $create_data (i64.const 5) (i64.const 0))
        (call $check32 (call $request (call $process_id) (i64.const 4) (i64.const 5)) (i32.const 9027))
        (call $create_data (i64.const 6) (i64.const 0))
        (call $check32 (call $request (call $process_id) (i64.const 6) (i64.const -1)) (i32.const 0))
        (call $check (call $get_tag) (i64.const 6))
        (call $next (i32.const 0) (i64.const 4))
        (call $next (i32.const 0) (i64.const 5))"#;
    assert_eq!(run(&imports, data, code).await, ExitReason::Normal);
}

#[tokio::test]
async fn message_calls_trap_with_the_name_of_what_is_wrong() {
    let new = "(call $create_data (i64.const 0) (i64.const 0))";
    let imports = &[MESSAGES, RECEIVE, GET_TAG].concat();
    traps(
        imports,
        "(drop (call $write (i32.const 0) (i32.const 1)))",
        "no data message",
    )
    .await;
    traps(
        imports,
        "(drop (call $read (i32.const 0) (i32.const 1)))",
        "no data message",
    )
    .await;
    traps(
        imports,
        "(drop (call $size))",
        "data_size: there is no data",
    )
    .await;
    traps(
        imports,
        "(drop (call $get_tag))",
        "get_tag: the scratch slot is empty",
    )
    .await;
    traps(imports, "(drop (call $dead_id))", "get_process_id").await;
    for (ptr, len) in [(65536, 1), (65535, 2), (0, -1), (-1, -1), (-1, 1)] {
        let code = format!("{new} (drop (call $write (i32.const {ptr}) (i32.const {len})))");
        traps(imports, &code, "write_data: ptr").await;
    }
    let code = format!(
        "{new} (drop (call $write (i32.const 0) (i32.const 9)))
        (drop (call $read (i32.const 65530) (i32.const 9)))"
    );
    traps(imports, &code, "read_data: ptr").await;
    let code = format!(
        "{new} (call $seek (i64.const -1)) (drop (call $read (i32.const 0) (i32.const 1)))"
    );
    traps(imports, &code, "behind the end").await;
    for (ptr, len, with) in [
        (65530, 1, "tags_ptr"),
        (0, -1, "tags_len"),
        (-8, 4000, "tags_ptr"),
    ] {
        let code =
            format!("(drop (call $receive (i32.const {ptr}) (i32.const {len}) (i64.const 0)))");
        traps(imports, &code, with).await;
    }
}

#[tokio::test]
async fn a_message_has_a_largest_size() {
    let data = r#"(func $fill (local $i i32)
        (call $create_data (i64.const 0) (i64.const 0))
        (loop (drop (call $write (i32.const 0) (i32.const 65536))) br 0))"#;
    let reason = run(MESSAGES, data, "call $fill").await;
    assert!(trap(&reason).contains("at most"), "{reason:?}");
}
