//! Guests in their text form against every namespace: answers, error codes, traps.

mod answers;
mod certificates;
mod faults;
mod hibernation;
mod hostile;
mod ids;
mod life;
mod mail;
mod message;
mod modules;
mod names;
mod networking;
mod pointers;
mod process;
mod profiles;
pub(crate) mod silent;
mod small;
mod sqlite;
mod tidelock;
mod timers;
mod traps;
mod wasi;

use std::sync::Arc;
use std::time::Duration;

use tidelock_proto::{ExitReason, Pid};

use crate::{
    EngineConfig, Environment, EnvironmentConfig, Limits, Module, ProcessConfig, Profile,
    SpawnOptions,
};

fn environment() -> Environment {
    environment_with(Limits::default())
}

fn environment_with(limits: Limits) -> Environment {
    let config = EnvironmentConfig {
        limits,
        ..EnvironmentConfig::default()
    };
    Environment::new(config).unwrap()
}

fn environment_on(engine: EngineConfig) -> Environment {
    let config = EnvironmentConfig {
        engine,
        ..EnvironmentConfig::default()
    };
    Environment::new(config).unwrap()
}

fn environment_for(profile: Profile) -> Environment {
    environment_on(EngineConfig {
        profile,
        ..EngineConfig::default()
    })
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
    Module::compile(env.engine(), bytes)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

fn start(env: &Environment, module: &Module) -> Pid {
    env.spawn_wasm(module, "_start", vec![], SpawnOptions::default())
        .unwrap()
}

fn start_as(env: &Environment, module: &Module, config: ProcessConfig) -> Pid {
    let options = SpawnOptions {
        config: Arc::new(config),
        ..SpawnOptions::default()
    };
    env.spawn_wasm(module, "_start", vec![], options).unwrap()
}

async fn end(env: &Environment, pid: Pid) -> ExitReason {
    let end = tokio::time::timeout(Duration::from_secs(20), env.wait(pid));
    end.await.expect("the guest ends in time")
}

/// Runs `_start` made of `code` to its end.
async fn run(imports: &str, data: &str, code: &str) -> ExitReason {
    run_in(&environment(), imports, data, code).await
}

async fn run_in(env: &Environment, imports: &str, data: &str, code: &str) -> ExitReason {
    let body = format!(r#"{data} (func (export "_start") {code})"#);
    let module = guest(env, imports, &body).await;
    let pid = start(env, &module);
    end(env, pid).await
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

// ---- imports, as guests write them ----

const FD_WRITE: &str = r#"(import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))"#;
const PROC_EXIT: &str = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
const SPAWN: &str = r#"(import "lunatic::process" "spawn"
    (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))"#;
const SPAWN_CALL: &str = r#"(call $spawn (i64.const 0) (i64.const -1) (i64.const -1)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"#;
const DIE: &str = r#"(import "lunatic::process" "die_when_link_dies" (func $die (param i32)))"#;
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
