//! Guests in their text form against every namespace: answers, error codes, traps.

use std::sync::Arc;
use std::time::Duration;

use tidelock_proto::spawn::{Param, ProcessConfig};
use tidelock_proto::{ExitReason, Pid};

use crate::{
    Engine, EngineConfig, Environment, EnvironmentConfig, Module, ModuleError, SpawnOptions,
};

fn environment() -> Environment {
    Environment::new(EnvironmentConfig::default()).unwrap()
}

/// Compiles `body` inside a module with one page of memory. `$check` traps unless two numbers agree.
async fn guest(env: &Environment, imports: &str, body: &str) -> Module {
    let text = format!(
        r#"(module
            {imports}
            (memory (export "memory") 1 16)
            (func $check (param i64 i64)
                local.get 0 local.get 1 i64.ne if unreachable end)
            (func $check32 (param i32 i32)
                local.get 0 local.get 1 i32.ne if unreachable end)
            {body})"#
    );
    let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    Module::compile(env.engine(), bytes).await.unwrap_or_else(|error| panic!("{error}"))
}

fn start(env: &Environment, module: &Module) -> Pid {
    env.spawn_wasm(module, "_start", vec![], SpawnOptions::default()).unwrap()
}

async fn end(env: &Environment, pid: Pid) -> ExitReason {
    let end = tokio::time::timeout(Duration::from_secs(20), env.wait(pid));
    end.await.expect("the guest ends in time")
}

/// Runs `_start` made of `code` to its end.
async fn run(imports: &str, data: &str, code: &str) -> ExitReason {
    let env = environment();
    let body = format!(r#"{data} (func (export "_start") {code})"#);
    let module = guest(&env, imports, &body).await;
    let pid = start(&env, &module);
    end(&env, pid).await
}

fn trap(reason: &ExitReason) -> &str {
    match reason {
        ExitReason::Trap(text) => text,
        other => panic!("expected a trap, got {other:?}"),
    }
}

async fn traps(imports: &str, code: &str, with: &str) {
    let reason = run(imports, "", code).await;
    assert!(trap(&reason).contains(with), "{reason:?} lacks {with:?}");
}

// ---- how processes start and end -----------------------------------------------------------------------

const FD_WRITE: &str = r#"(import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))"#;
const PROC_EXIT: &str =
    r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;

#[tokio::test]
async fn a_guest_says_hello_and_ends() {
    let env = environment();
    let mut output = env.output();
    let body = r#"(data (i32.const 100) "hello\nworld")
        (data (i32.const 0) "\64\00\00\00\0b\00\00\00")
        (func (export "_start")
            (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20))
            i32.const 0 call $check32)"#;
    let module = guest(&env, FD_WRITE, body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    let line = output.recv().await.unwrap();
    assert_eq!((line.pid, &line.line[..], line.ended), (pid, &b"hello"[..], true));
    let line = output.recv().await.unwrap();
    assert_eq!((&line.line[..], line.ended), (&b"world"[..], false));
}

#[tokio::test]
async fn exit_codes_and_traps_are_reasons() {
    assert_eq!(run(PROC_EXIT, "", "i32.const 0 call $exit").await, ExitReason::Normal);
    assert_eq!(run(PROC_EXIT, "", "i32.const 7 call $exit").await, ExitReason::Exit(7));
    let reason = run("", "", "unreachable").await;
    assert!(trap(&reason).contains("unreachable"), "{reason:?}");
    let reason = run("", "(func $deep call $deep)", "call $deep").await;
    assert!(trap(&reason).contains("stack") && trap(&reason).contains("deep"), "{reason:?}");
}

#[tokio::test]
async fn every_access_outside_of_the_memory_traps() {
    for at in ["65536", "65533", "1048576", "-1"] {
        let code = format!("(i32.store (i32.const {at}) (i32.const 1))");
        assert!(trap(&run("", "", &code).await).contains("out of bounds"), "{at}");
        let code = format!("(drop (i32.load (i32.const {at})))");
        assert!(trap(&run("", "", &code).await).contains("out of bounds"), "{at}");
    }
    // Grown memory is there, zero, and one byte beyond it is not.
    let code = r#"(call $check32 (memory.grow (i32.const 2)) (i32.const 1))
        (call $check32 (i32.load (i32.const 196604)) (i32.const 0))
        (i32.store8 (i32.const 196608) (i32.const 1))"#;
    assert!(trap(&run("", "", code).await).contains("out of bounds"));
}

#[tokio::test]
async fn growing_beyond_the_limit_fails_in_the_guest() {
    let code = "(call $check32 (memory.grow (i32.const 16)) (i32.const -1)) unreachable";
    let reason = run("", "", code).await;
    assert!(matches!(&reason, ExitReason::Limit(text) if text.contains("memory")), "{reason:?}");

    let env = environment();
    let module = guest(&env, "", r#"(func (export "_start"))"#).await;
    let config = Arc::new(ProcessConfig { memory_bytes_max: 1000, ..ProcessConfig::default() });
    let options = SpawnOptions { config, ..SpawnOptions::default() };
    let refused = env.spawn_wasm(&module, "_start", vec![], options).unwrap_err();
    assert!(refused.to_string().contains("65536"), "{refused}");
}

#[tokio::test]
async fn an_endless_loop_yields_and_can_be_killed() {
    let env = environment();
    let module = guest(&env, "", r#"(func (export "_start") (loop br 0))"#).await;
    let pid = start(&env, &module);
    // One thread: without yielding this test would never get here.
    tokio::time::sleep(Duration::from_millis(20)).await;
    env.kill(pid, None);
    assert_eq!(end(&env, pid).await, ExitReason::Killed(None));
}

#[tokio::test]
async fn fuel_ends_a_process_with_a_limit() {
    let env = environment();
    let module = guest(&env, "", r#"(func (export "_start") (loop br 0))"#).await;
    let config = Arc::new(ProcessConfig { fuel_max: Some(3), ..ProcessConfig::default() });
    let options = SpawnOptions { config, ..SpawnOptions::default() };
    let pid = env.spawn_wasm(&module, "_start", vec![], options).unwrap();
    let reason = end(&env, pid).await;
    assert!(matches!(&reason, ExitReason::Limit(text) if text.contains("fuel")), "{reason:?}");
}

#[tokio::test]
async fn entries_are_checked() {
    let env = environment();
    let body = r#"(func (export "f") (param i32 i64)
            (call $check32 (local.get 0) (i32.const -5))
            (call $check (local.get 1) (i64.const 9)))
        (func (export "r") (result i32) i32.const 1)"#;
    let module = guest(&env, "", body).await;
    let params = vec![Param::I32(-5), Param::I64(9)];
    assert!(module.check_entry("f", &params).is_ok());
    assert!(module.check_entry("f", &[]).is_err());
    assert!(module.check_entry("r", &[]).is_err());
    assert!(module.check_entry("memory", &[]).is_err());
    assert_eq!(module.functions().collect::<Vec<_>>(), ["f", "r"]);
    let pid = env.spawn_wasm(&module, "f", params, SpawnOptions::default()).unwrap();
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    let pid = env.spawn_wasm(&module, "nowhere", vec![], SpawnOptions::default()).unwrap();
    let reason = end(&env, pid).await;
    assert!(matches!(&reason, ExitReason::NotStarted(why) if why.contains("nowhere")), "{reason:?}");
}

#[tokio::test]
async fn start_sections_run_in_the_process_and_cannot_spawn() {
    let env = environment();
    let module = guest(&env, "", r#"(func $s unreachable) (start $s) (func (export "_start"))"#).await;
    let pid = start(&env, &module);
    assert!(trap(&end(&env, pid).await).contains("unreachable"));
    let body = format!("(func $s {SPAWN_CALL} drop) (start $s) (func (export \"_start\"))");
    let module = guest(&env, SPAWN, &body).await;
    let pid = start(&env, &module);
    assert!(trap(&end(&env, pid).await).contains("start function"));
}

// ---- modules -------------------------------------------------------------------------------------------

#[tokio::test]
async fn bytes_that_are_no_module_are_refused_with_a_reason() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let compile = |bytes: Vec<u8>| Module::compile(&engine, bytes);
    assert!(matches!(compile(vec![]).await, Err(ModuleError::NotWasm(_))));
    assert!(matches!(compile(b"(module)".to_vec()).await, Err(ModuleError::NotWasm(_))));
    let component = b"\0asm\x0d\0\x01\0".to_vec();
    assert!(matches!(compile(component).await, Err(ModuleError::NotWasm(w)) if w.contains("component")));
    let cut = b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff".to_vec();
    assert!(matches!(compile(cut).await, Err(ModuleError::Invalid(_))));
    let huge = [b"\0asm\x01\0\0\0".as_slice(), &vec![0; 64 << 20]].concat();
    assert!(matches!(compile(huge).await, Err(ModuleError::TooLarge { of: "", .. })));

    // 17 MiB of custom section pass; of data they do not.
    let section = |id: u8| {
        let len = 17 << 20;
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        bytes.extend([id, 0x80, 0x80, 0xc0, 0x08]);
        bytes.extend(vec![0; len]);
        bytes
    };
    assert!(compile(section(0)).await.is_ok());
    assert!(matches!(compile(section(11)).await, Err(ModuleError::TooLarge { max, .. }) if max == 16 << 20));

    for text in [
        r#"(module (memory i64 1))"#,
        r#"(module (memory 1) (memory 1))"#,
        r#"(module (func (param externref)))"#,
        r#"(module (memory 1 1 shared))"#,
        r#"(module (tag))"#,
    ] {
        let bytes = wat::parse_str(text).unwrap();
        assert!(matches!(compile(bytes).await, Err(ModuleError::Invalid(_))), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_import_is_named() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let bytes = wat::parse_str(r#"(module (import "lunatic::nothing" "here" (func)))"#).unwrap();
    let error = Module::compile(&engine, bytes).await.unwrap_err();
    assert!(error.to_string().contains("lunatic::nothing::here"), "{error}");
    let bytes = wat::parse_str(r#"(module (import "lunatic::process" "kill" (func)))"#).unwrap();
    let error = Module::compile(&engine, bytes).await.unwrap_err();
    assert!(error.to_string().contains("kill"), "{error}");
}

#[tokio::test]
async fn every_import_of_lunatic_links() {
    let names: Vec<_> = include_str!("lunatic_imports.txt").lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(names.len(), 140);
    let mut text = String::from("(module ");
    for line in names {
        let (path, ty) = line.split_once(' ').unwrap();
        let (space, name) = path.rsplit_once("::").unwrap();
        let (params, result) = ty.split_once("->").unwrap();
        let words = |letters: &str| {
            let types = letters.trim().chars().map(|letter| match letter {
                'i' => " i32",
                'l' => " i64",
                'd' => " f64",
                other => panic!("{other} in {line}"),
            });
            types.collect::<String>()
        };
        text += &format!(
            r#"(import "{space}" "{name}" (func (param{}) (result{})))"#,
            words(params),
            words(result)
        );
    }
    text += ")";
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let module = Module::compile(&engine, wat::parse_str(&text).unwrap()).await;
    module.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn compiled_modules_are_kept_on_disk_and_shared() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-engine", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let config = EngineConfig { cache_dir: Some(dir.clone()), ..EngineConfig::default() };
    let bytes = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    let engine = Engine::new(config.clone()).unwrap();
    let both = tokio::join!(
        Module::compile(&engine, bytes.clone()),
        Module::compile(&engine, bytes.clone())
    );
    assert_eq!(both.0.unwrap(), both.1.unwrap());
    let files = walk(&dir);
    assert_eq!(files.len(), 2, "{files:?}");
    let again = Engine::new(config.clone()).unwrap();
    Module::compile(&again, bytes.clone()).await.unwrap();
    assert_eq!(walk(&dir), files);
    for file in &files {
        std::fs::write(file, b"damaged").unwrap();
    }
    let env = Environment::new(EnvironmentConfig { engine: config, ..Default::default() }).unwrap();
    let module = Module::compile(env.engine(), bytes).await.unwrap();
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

// ---- lunatic::process ----------------------------------------------------------------------------------

const SPAWN: &str = r#"(import "lunatic::process" "spawn"
    (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))"#;
const SPAWN_CALL: &str = r#"(call $spawn (i64.const 0) (i64.const -1) (i64.const -1)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"#;

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
    let options = SpawnOptions { config: Arc::new(config), ..SpawnOptions::default() };
    let pid = env.spawn_wasm(&module, "_start", vec![], options).unwrap();
    let reason = end(&env, pid).await;
    assert!(trap(&reason).contains("drop_config: no config 1"), "{reason:?}");
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
    let options = SpawnOptions { config: Arc::new(config), ..SpawnOptions::default() };
    let pid = env.spawn_wasm(&module, "_start", vec![], options).unwrap();
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
    assert!(trap(&reason).contains("lunatic::error::drop: no error 0"), "{reason:?}");
}

// ---- lunatic::message ----------------------------------------------------------------------------------

const DIE: &str =
    r#"(import "lunatic::process" "die_when_link_dies" (func $die (param i32)))"#;
const PROCESS_ID: &str =
    r#"(import "lunatic::process" "process_id" (func $process_id (result i64)))"#;
const RECEIVE: &str = r#"(import "lunatic::message" "receive"
    (func $receive (param i32 i32 i64) (result i32)))"#;
const GET_TAG: &str = r#"(import "lunatic::message" "get_tag" (func $get_tag (result i64)))"#;
const MESSAGES: &str = r#"
    (import "lunatic::message" "create_data" (func $create_data (param i64 i64)))
    (import "lunatic::message" "write_data" (func $write (param i32 i32) (result i32)))
    (import "lunatic::message" "read_data" (func $read (param i32 i32) (result i32)))
    (import "lunatic::message" "seek_data" (func $seek (param i64)))
    (import "lunatic::message" "data_size" (func $size (result i64)))
    (import "lunatic::message" "get_process_id" (func $dead_id (result i64)))
    (import "lunatic::message" "send" (func $send (param i64) (result i32)))
    (import "lunatic::message" "send_receive_skip_search"
        (func $request (param i64 i64 i64) (result i32)))"#;
const ERRORS: &str = r#"
    (import "lunatic::error" "string_size" (func $error_size (param i64) (result i32)))
    (import "lunatic::error" "to_string" (func $error_text (param i64 i32)))
    (import "lunatic::error" "drop" (func $error_drop (param i64)))"#;

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
    assert!(trap(&reason).contains("lunatic::message::send: there is no data"), "{reason:?}");
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
    traps(imports, "(drop (call $write (i32.const 0) (i32.const 1)))", "no data message").await;
    traps(imports, "(drop (call $read (i32.const 0) (i32.const 1)))", "no data message").await;
    traps(imports, "(drop (call $size))", "data_size: there is no data").await;
    traps(imports, "(drop (call $get_tag))", "get_tag: the scratch slot is empty").await;
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
    let code = format!("{new} (call $seek (i64.const -1)) (drop (call $read (i32.const 0) (i32.const 1)))");
    traps(imports, &code, "behind the end").await;
    for (ptr, len, with) in [(65530, 1, "tags_ptr"), (0, -1, "tags_len"), (-8, 4000, "tags_ptr")] {
        let code = format!("(drop (call $receive (i32.const {ptr}) (i32.const {len}) (i64.const 0)))");
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

// ---- the small namespaces ------------------------------------------------------------------------------

#[tokio::test]
async fn timers_fire_and_can_be_cancelled() {
    let imports = [MESSAGES, RECEIVE, GET_TAG, PROCESS_ID, r#"
        (import "lunatic::timer" "send_after" (func $after (param i64 i64) (result i64)))
        (import "lunatic::timer" "cancel_timer" (func $cancel (param i64) (result i32)))
        (import "lunatic::process" "sleep_ms" (func $sleep (param i64)))"#]
    .concat();
    let code = r#"(local $timer i64)
        (call $create_data (i64.const 1) (i64.const 0))
        (local.set $timer (call $after (call $process_id) (i64.const 5)))
        (call $check32 (call $cancel (local.get $timer)) (i32.const 1))
        (call $check32 (call $cancel (local.get $timer)) (i32.const 0))
        (call $create_data (i64.const 2) (i64.const 0))
        (local.set $timer (call $after (call $process_id) (i64.const 10)))
        (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
        (call $check (call $get_tag) (i64.const 2))
        (call $sleep (i64.const 1))
        (call $check32 (call $cancel (local.get $timer)) (i32.const 0))
        (call $check32 (call $cancel (i64.const 99)) (i32.const 0))
        (drop (call $after (i64.const 0) (i64.const 1)))
        (drop (call $after (i64.const 0) (i64.const 1)))"#;
    let reason = run(&imports, "", code).await;
    assert!(trap(&reason).contains("send_after"), "{reason:?}");
}

#[tokio::test]
async fn names_are_put_found_and_removed() {
    let imports = [PROCESS_ID, r#"
        (import "lunatic::registry" "put" (func $put (param i32 i32 i64 i64)))
        (import "lunatic::registry" "get" (func $get (param i32 i32 i32 i32) (result i32)))
        (import "lunatic::registry" "remove" (func $remove (param i32 i32)))
        (import "lunatic::process" "get_or_spawn" (func $get_or_spawn
            (param i32 i32 i64 i64 i64 i32 i32 i32 i32 i32 i32) (result i32)))"#]
    .concat();
    let data = r#"(data (i32.const 100) "name") (data (i32.const 110) "child")
        (func (export "child"))
        (func $found (result i32)
            (call $get (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 8)))
        (func $found_or_spawned (result i32)
            (call $get_or_spawn (i32.const 100) (i32.const 4) (i64.const 0) (i64.const -1)
                (i64.const -1) (i32.const 110) (i32.const 5) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 16)))"#;
    let code = r#"
        (call $check32 (call $found) (i32.const 1))
        (call $put (i32.const 100) (i32.const 4) (i64.const 12) (call $process_id))
        (call $check32 (call $found) (i32.const 0))
        (call $check (i64.load (i32.const 0)) (i64.const 12))
        (call $check (i64.load (i32.const 8)) (call $process_id))
        (call $check32 (call $found_or_spawned) (i32.const 2))
        (call $check (i64.load (i32.const 16)) (call $process_id))
        (call $remove (i32.const 100) (i32.const 4))
        (call $remove (i32.const 100) (i32.const 4))
        (call $check32 (call $found) (i32.const 1))
        (call $check32 (call $found_or_spawned) (i32.const 0))
        (call $check32 (call $found_or_spawned) (i32.const 2))
        (call $check32 (call $found) (i32.const 0))
        (call $check (i64.load (i32.const 8)) (i64.load (i32.const 16)))
        (call $put (i32.const 65535) (i32.const 4) (i64.const 0) (i64.const 1))"#;
    let reason = run(&imports, data, code).await;
    assert!(trap(&reason).contains("registry::put: name_ptr"), "{reason:?}");
}

#[tokio::test]
async fn a_trap_can_be_caught() {
    let imports = [PROC_EXIT, r#"
        (import "lunatic::trap" "catch" (func $catch (param i32 i32) (result i32)))"#]
    .concat();
    let data = r#"(func $inner (export "_lunatic_catch_trap") (param i32 i32) (result i32)
        (if (i32.eq (local.get 0) (i32.const 1)) (then unreachable))
        (if (i32.eq (local.get 0) (i32.const 2)) (then (call $exit (local.get 1))))
        (if (i32.eq (local.get 0) (i32.const 3))
            (then (return (call $catch (i32.const 3) (i32.const 0)))))
        (i32.add (local.get 0) (local.get 1)))"#;
    let code = r#"
        (call $check32 (call $catch (i32.const 40) (i32.const 2)) (i32.const 42))
        (call $check32 (call $catch (i32.const 1) (i32.const 2)) (i32.const 0))
        (call $check32 (call $catch (i32.const 3) (i32.const 0)) (i32.const 0))
        (drop (call $catch (i32.const 2) (i32.const 9)))"#;
    assert_eq!(run(&imports, data, code).await, ExitReason::Exit(9));
    traps(&imports, "(drop (call $catch (i32.const 0) (i32.const 0)))", "_lunatic_catch_trap").await;
}

#[tokio::test]
async fn version_metrics_and_the_missing_answer() {
    let imports = r#"
        (import "lunatic::version" "major" (func $major (result i32)))
        (import "lunatic::version" "minor" (func $minor (result i32)))
        (import "lunatic::version" "patch" (func $patch (result i32)))
        (import "lunatic::metrics" "counter" (func $counter (param i32 i32 i64)))
        (import "lunatic::metrics" "increment_counter" (func $increment (param i32 i32)))
        (import "lunatic::metrics" "gauge" (func $gauge (param i32 i32 f64)))
        (import "lunatic::metrics" "histogram" (func $histogram (param i32 i32 f64)))
        (import "lunatic::networking" "tcp_flush" (func $flush (param i64 i32) (result i32)))"#;
    let data = r#"(data (i32.const 0) "test.metric.abc")"#;
    let code = r#"
        (call $check32 (call $major) (i32.const 0))
        (call $check32 (call $minor) (i32.const 13))
        (call $check32 (call $patch) (i32.const 2))
        (call $counter (i32.const 0) (i32.const 13) (i64.const 7))
        (call $increment (i32.const 0) (i32.const 13))
        (call $gauge (i32.const 0) (i32.const 14) (f64.const 2.5))
        (call $histogram (i32.const 0) (i32.const 15) (f64.const 1.5))
        (call $histogram (i32.const 0) (i32.const 15) (f64.const 2))
        (drop (call $flush (i64.const 0) (i32.const 0)))"#;
    let reason = run(imports, data, code).await;
    assert!(trap(&reason).contains("tcp_flush: not available in this build"), "{reason:?}");
    let metrics = crate::guest_metrics();
    assert_eq!(metrics.values["test.metric.a"], 8.0);
    assert_eq!(metrics.values["test.metric.ab"], 2.5);
    assert_eq!(metrics.histograms["test.metric.abc"], (2, 3.5));
}

// ---- wasi ----------------------------------------------------------------------------------------------

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
    assert!(trap(&reason).contains("no directory of this process"), "{reason:?}");
}
