//! `lunatic::process` and `lunatic::wasi`.

use tidelock_proto::spawn::ProcessConfig;

use super::*;

#[tokio::test]
async fn spawning_links_and_the_child_is_told_apart() {
    // The child traps; the parent, which does not die with it, gets a link-died with the spawn's tag.
    let imports = [SPAWN, DIE, RECEIVE, GET_TAG].concat();
    let body = r#"(data (i32.const 8) "child")
        (func (export "child") (param i32) unreachable)
        (func (export "_start")
            (call $die (i32.const 0))
            (i32.store8 (i32.const 32) (i32.const 0x7f))
            (i32.store8 (i32.const 33) (i32.const 5))
            (call $check32 (call $spawn (i64.const 77) (i64.const -1) (i64.const -1)
                (i32.const 8) (i32.const 5) (i32.const 32) (i32.const 17) (i32.const 0))
                (i32.const 0))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 1))
            (call $check (call $get_tag) (i64.const 77)))"#;
    let env = environment();
    let module = guest(&env, &imports, body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_missing_function_spawns_and_then_fails() {
    let imports = [SPAWN, DIE, RECEIVE].concat();
    let body = r#"(data (i32.const 8) "nobody")
        (func (export "_start")
            (call $die (i32.const 0))
            (call $check32 (call $spawn (i64.const 3) (i64.const -1) (i64.const -1)
                (i32.const 8) (i32.const 6) (i32.const 32) (i32.const 0) (i32.const 0))
                (i32.const 0))
            (if (i64.eqz (i64.load (i32.const 0))) (then unreachable))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 1)))"#;
    let env = environment();
    let module = guest(&env, &imports, body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}

#[tokio::test]
async fn bad_spawn_arguments_trap() {
    let call = |config: i64, module: i64, name: (i32, i32), params: (i32, i32), id: i32| {
        format!(
            "(drop (call $spawn (i64.const 0) (i64.const {config}) (i64.const {module})
                (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {id})))",
            name.0, name.1, params.0, params.1
        )
    };
    traps(SPAWN, &call(4, -1, (0, 0), (0, 0), 0), "no config 4").await;
    traps(SPAWN, &call(-1, 4, (0, 0), (0, 0), 0), "no such module").await;
    traps(SPAWN, &call(-1, -1, (65535, 2), (0, 0), 0), "name_ptr").await;
    traps(SPAWN, &call(-1, -1, (0, -1), (0, 0), 0), "name_len").await;
    traps(SPAWN, &call(-1, -1, (0, 0), (0, 16), 0), "params_len").await;
    traps(SPAWN, &call(-1, -1, (0, 0), (0, 17), 0), "0x00").await;
    traps(SPAWN, &call(-1, -1, (0, 0), (-1, 17), 0), "params_ptr").await;
    traps(SPAWN, &call(-1, -1, (0, 0), (0, 0), 65529), "id_ptr").await;
    traps(SPAWN, &call(-1, -1, (0, 0), (0, 0), -1), "id_ptr").await;
}

#[tokio::test]
async fn a_config_never_allows_more_than_its_maker_has() {
    let imports = r#"
        (import "lunatic::process" "create_config" (func $create (result i64)))
        (import "lunatic::process" "drop_config" (func $drop_config (param i64)))
        (import "lunatic::process" "config_set_max_memory" (func $set_mem (param i64 i64)))
        (import "lunatic::process" "config_get_max_memory" (func $mem (param i64) (result i64)))
        (import "lunatic::process" "config_set_max_fuel" (func $set_fuel (param i64 i64)))
        (import "lunatic::process" "config_get_max_fuel" (func $fuel (param i64) (result i64)))
        (import "lunatic::process" "config_set_can_spawn_processes" (func $set_spawn (param i64 i32)))
        (import "lunatic::process" "config_can_spawn_processes" (func $can_spawn (param i64) (result i32)))
        (import "lunatic::process" "config_set_can_compile_modules" (func $set_comp (param i64 i32)))
        (import "lunatic::process" "config_can_compile_modules" (func $can_comp (param i64) (result i32)))"#;
    let body = r#"(func (export "_start")
        (call $check (call $create) (i64.const 0))
        (call $check32 (call $can_spawn (i64.const 0)) (i32.const 0))
        (call $set_spawn (i64.const 0) (i32.const 1))
        (call $check32 (call $can_spawn (i64.const 0)) (i32.const 1))
        (call $set_comp (i64.const 0) (i32.const 1))
        (call $check32 (call $can_comp (i64.const 0)) (i32.const 0))
        (call $check (call $mem (i64.const 0)) (i64.const 1000000))
        (call $set_mem (i64.const 0) (i64.const 2000000))
        (call $check (call $mem (i64.const 0)) (i64.const 1000000))
        (call $set_mem (i64.const 0) (i64.const 70000))
        (call $check (call $mem (i64.const 0)) (i64.const 70000))
        (call $check (call $fuel (i64.const 0)) (i64.const 50000))
        (call $set_fuel (i64.const 0) (i64.const 0))
        (call $check (call $fuel (i64.const 0)) (i64.const 50000))
        (call $set_fuel (i64.const 0) (i64.const 6))
        (call $check (call $fuel (i64.const 0)) (i64.const 6))
        (call $check (call $create) (i64.const 1))
        (call $drop_config (i64.const 1))
        (call $check (call $create) (i64.const 2))
        (call $drop_config (i64.const 1)))"#;
    let env = environment();
    let module = guest(&env, imports, body).await;
    let config = ProcessConfig {
        memory_bytes_max: 1_000_000,
        fuel_max: Some(50_000),
        can_compile_modules: false,
        ..ProcessConfig::default()
    };
    let pid = start_as(&env, &module, config);
    let reason = end(&env, pid).await;
    assert!(
        trap(&reason).contains("drop_config: no config 1"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn without_permission_nothing_is_made() {
    let imports = [
        SPAWN,
        r#"(import "lunatic::process" "create_config" (func $create (result i64)))
        (import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))"#,
    ]
    .concat();
    let body = format!(
        r#"(func (export "_start")
            (call $check (call $create) (i64.const -1))
            (call $check32 (call $compile (i32.const 0) (i32.const 8) (i32.const 0)) (i32.const -1))
            (drop {SPAWN_CALL}))"#
    );
    let env = environment();
    let module = guest(&env, &imports, &body).await;
    let config = ProcessConfig {
        can_compile_modules: false,
        can_create_configs: false,
        can_spawn_processes: false,
        ..ProcessConfig::default()
    };
    let pid = start_as(&env, &module, config);
    assert!(trap(&end(&env, pid).await).contains("may not spawn"));
}

#[tokio::test]
async fn compiled_modules_travel_in_messages_and_errors_have_texts() {
    let inner = wat::parse_str(r#"(module (func (export "f")))"#).unwrap();
    let data: String = inner.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let imports = [
        SPAWN,
        MESSAGES,
        RECEIVE,
        PROCESS_ID,
        ERRORS,
        r#"(import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))
        (import "lunatic::process" "drop_module" (func $drop_module (param i64)))
        (import "lunatic::message" "push_module" (func $push (param i64) (result i64)))
        (import "lunatic::message" "take_module" (func $take (param i64) (result i64)))"#,
    ]
    .concat();
    let body = format!(
        r#"(data (i32.const 1000) "{data}") (data (i32.const 500) "f")
        (func (export "_start")
            (call $check32 (call $compile (i32.const 1000) (i32.const {len}) (i32.const 0)) (i32.const 0))
            (call $check (i64.load (i32.const 0)) (i64.const 0))
            (call $create_data (i64.const 0) (i64.const 0))
            (call $check (call $push (i64.const 0)) (i64.const 0))
            (call $drop_module (i64.const 0))
            (call $check32 (call $send (call $process_id)) (i32.const 0))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
            (call $check (call $take (i64.const 0)) (i64.const 1))
            (call $check32 (call $spawn (i64.const 0) (i64.const -1) (i64.const 1)
                (i32.const 500) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 0))
            ;; four bytes are no module
            (call $check32 (call $compile (i32.const 1000) (i32.const 4) (i32.const 0)) (i32.const 1))
            (call $check (i64.load (i32.const 0)) (i64.const 0))
            (if (i32.lt_u (call $error_size (i64.const 0)) (i32.const 10)) (then unreachable))
            (call $error_text (i64.const 0) (i32.const 2000))
            (call $check32 (i32.load8_u (i32.const 2000)) (i32.const {n}))
            (call $error_drop (i64.const 0))
            (call $error_drop (i64.const 0)))"#,
        len = inner.len(),
        n = u32::from(b'n'),
    );
    let env = environment();
    let module = guest(&env, &imports, &body).await;
    let pid = start(&env, &module);
    let reason = end(&env, pid).await;
    assert!(
        trap(&reason).contains("lunatic::error::drop: no error 0"),
        "{reason:?}"
    );
}

/// The memory is much smaller: nothing of such a module is looked at.
#[tokio::test]
async fn a_module_that_is_too_large_is_refused_by_its_length() {
    let imports = [
        ERRORS,
        r#"(import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))"#,
    ]
    .concat();
    let text = "module has 67108865 bytes, the limit is 67108864";
    let data = format!(r#"(data (i32.const 100) "{text}")"#);
    let code = format!(
        r#"(local $at i32)
        (call $check32 (call $compile (i32.const 0) (i32.const 67108865) (i32.const 0)) (i32.const 1))
        (call $check32 (call $error_size (i64.load (i32.const 0))) (i32.const {size}))
        (call $error_text (i64.load (i32.const 0)) (i32.const 200))
        (loop
            (call $check32 (i32.load8_u offset=100 (local.get $at)) (i32.load8_u offset=200 (local.get $at)))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if 0 (i32.lt_u (local.get $at) (i32.const {size}))))"#,
        size = text.len()
    );
    assert_eq!(run(&imports, &data, &code).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_process_holds_so_many_modules_at_once() {
    let imports = r#"
        (import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))
        (import "lunatic::process" "drop_module" (func $drop_module (param i64)))"#;
    let data = r#"(data (i32.const 400) "\00asm\01\00\00\00")
        (func $answers (param $code i32) (call $check32
            (call $compile (i32.const 400) (i32.const 8) (i32.const 0)) (local.get $code)))"#;
    let code = r#"(local $held i32)
        (loop
            (call $answers (i32.const 0))
            (local.set $held (i32.add (local.get $held) (i32.const 1)))
            (br_if 0 (i32.lt_u (local.get $held) (i32.const 256))))
        (call $answers (i32.const 1))
        (call $drop_module (i64.const 7))
        (call $answers (i32.const 0))
        (call $answers (i32.const 1))"#;
    assert_eq!(run(imports, data, code).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_child_has_the_arguments_of_its_config() {
    let imports = [SPAWN, DIE, RECEIVE, r#"
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env (param i32 i32) (result i32)))
        (import "lunatic::process" "create_config" (func $create (result i64)))
        (import "lunatic::wasi" "config_add_command_line_argument" (func $arg (param i64 i32 i32)))
        (import "lunatic::wasi" "config_add_environment_variable"
            (func $var (param i64 i32 i32 i32 i32)))
        (import "lunatic::wasi" "config_preopen_dir" (func $dir (param i64 i32 i32)))"#]
    .concat();
    let data = r#"(data (i32.const 100) "child") (data (i32.const 110) "/etc")
        (func (export "child")
            (drop (call $args (i32.const 0) (i32.const 4)))
            (call $check32 (i32.load (i32.const 0)) (i32.const 2))
            (call $check32 (i32.load (i32.const 4)) (i32.const 12))
            (drop (call $env (i32.const 0) (i32.const 4)))
            (call $check32 (i32.load (i32.const 0)) (i32.const 1))
            unreachable)"#;
    let code = r#"
        (call $die (i32.const 0))
        (drop (call $create))
        (call $arg (i64.const 0) (i32.const 100) (i32.const 5))
        (call $arg (i64.const 0) (i32.const 100) (i32.const 5))
        (call $var (i64.const 0) (i32.const 100) (i32.const 5) (i32.const 100) (i32.const 5))
        (call $check32 (call $spawn (i64.const 1) (i64.const 0) (i64.const -1)
            (i32.const 100) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 0))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 1))
        (call $dir (i64.const 0) (i32.const 110) (i32.const 4))"#;
    let reason = run(&imports, data, code).await;
    assert!(
        trap(&reason).contains("no directory of this process"),
        "{reason:?}"
    );
}
