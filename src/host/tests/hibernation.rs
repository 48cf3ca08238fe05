//! Guests that wait for long: their memory is packed, and is what it was when they go on.

use bytes::Bytes;

use super::*;
use crate::wasm::can_tell;
use crate::{Message, Signal};

/// None: this kernel does not say which pages were touched, so nobody hibernates.
fn sleepy(profile: Profile) -> Option<Environment> {
    let limits = Limits {
        hibernate_after: Some(Duration::from_millis(1)),
        ..Limits::default()
    };
    let config = EnvironmentConfig {
        limits,
        engine: EngineConfig {
            profile,
            ..EngineConfig::default()
        },
        ..EnvironmentConfig::default()
    };
    can_tell().then(|| Environment::new(config).unwrap())
}

/// Waits until so many guests hibernate.
async fn hibernate(env: &Environment, count: u64) {
    let looks = async {
        while env.counters().hibernating != count {
            tokio::time::sleep(Duration::from_millis(1)).await; // a look at what nobody tells
        }
    };
    let looks = tokio::time::timeout(Duration::from_secs(20), looks);
    looks
        .await
        .unwrap_or_else(|_| panic!("{:?}", env.counters()));
}

/// Waits until it is seen hibernating: it is counted a moment before.
async fn is_seen_hibernating(env: &Environment, pid: Pid) {
    let looks = async {
        while !env.info(pid).expect("it lives").hibernating {
            tokio::time::sleep(Duration::from_millis(1)).await; // a look at what nobody tells
        }
    };
    let looks = tokio::time::timeout(Duration::from_secs(20), looks);
    looks
        .await
        .unwrap_or_else(|_| panic!("{:?}", env.info(pid)));
    assert!(env.info(pid).expect("it lives").waiting);
}

fn wake(env: &Environment, pid: Pid) {
    let message = Message::new(Some(5), Bytes::from_static(b"wake"));
    let process = env.process(pid);
    tokio::spawn(async move { process.signal(Signal::Message(message)).await });
}

/// A sum over all bytes that depends on where each lies, and bytes in four pages of which one is data.
const MEMORY: &str = r#"
    (data (i32.const 8190) "across two pages, and the data of the module")
    (data (i32.const 8300) "written over later")
    (func $fill
        (i64.store (i32.const 16) (i64.const 0x1234567890abcdef))
        (i32.store8 (i32.const 8301) (i32.const 0))
        (memory.fill (i32.const 20000) (i32.const 7) (i32.const 300))
        (i32.store8 (i32.const 65535) (i32.const 9)))
    (func $sum (result i64) (local $at i32) (local $sum i64)
        (loop $more
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31))
                (i64.load8_u (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 65536))))
        (local.get $sum))"#;

/// A guest with that memory, where guests hibernate soon; None as for [`sleepy`].
async fn sleepy_guest(imports: &str, body: &str) -> Option<(Environment, Module)> {
    let env = sleepy(Profile::Dense)?;
    let module = guest(&env, imports, &format!("{MEMORY}{body}")).await;
    Some((env, module))
}

#[tokio::test]
async fn a_guest_that_hibernates_has_its_memory_when_it_wakes() {
    let body = r#"
        (func (export "_start") (local $sum i64)
            (call $fill)
            (local.set $sum (call $sum))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
            (call $check (call $sum) (local.get $sum))
            ;; And once more, with other bytes.
            (i32.store8 (i32.const 12000) (i32.const 1))
            (local.set $sum (call $sum))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
            (call $check (call $sum) (local.get $sum)))"#;
    let Some((env, module)) = sleepy_guest(RECEIVE, body).await else {
        return;
    };
    let all: Vec<Pid> = (0..3).map(|_| start(&env, &module)).collect();
    hibernate(&env, 3).await;
    for pid in &all {
        is_seen_hibernating(&env, *pid).await;
    }
    wake(&env, all[0]);
    wake(&env, all[1]);
    let received = || {
        env.processes()
            .iter()
            .map(|process| process.received)
            .sum::<u64>()
    };
    while received() != 2 {
        tokio::task::yield_now().await;
    }
    hibernate(&env, 3).await;
    for pid in &all {
        wake(&env, *pid);
    }
    for pid in &all[..2] {
        assert_eq!(end(&env, *pid).await, ExitReason::Normal);
    }
    hibernate(&env, 1).await;
    wake(&env, all[2]);
    assert_eq!(end(&env, all[2]).await, ExitReason::Normal);
    hibernate(&env, 0).await;
}

#[tokio::test]
async fn what_is_received_after_a_hibernation_comes_into_the_memory_as_it_was() {
    let imports = r#"(import "tidelock" "receive"
        (func $receive (param i32 i32 i64 i32 i32 i32) (result i32)))"#;
    // The tag lies in the memory that is packed, and so does the place of the message.
    let body = r#"
        (func (export "_start") (local $sum i64)
            (call $fill)
            (i64.store (i32.const 100) (i64.const 5))
            (local.set $sum (call $sum))
            (call $check32 (i32.const 0)
                (call $receive (i32.const 100) (i32.const 1) (i64.const -1) (i32.const 8192)
                    (i32.const 4) (i32.const 30000)))
            (call $check (i64.load (i32.const 30000)) (i64.const 5))
            (call $check32 (i32.load (i32.const 8192)) (i32.const 0x656b6177))
            (i64.store (i32.const 30000) (i64.const 0))
            (i64.store (i32.const 30008) (i64.const 0))
            (memory.init $data (i32.const 8192) (i32.const 2) (i32.const 4))
            (call $check (call $sum) (local.get $sum)))
        (data $data "across two pages")"#;
    let Some((env, module)) = sleepy_guest(imports, body).await else {
        return;
    };
    let pid = start(&env, &module);
    hibernate(&env, 1).await;
    wake(&env, pid);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}

#[tokio::test]
async fn a_receive_that_times_out_wakes_a_guest_that_hibernates() {
    let body = r#"
        (func (export "_start") (local $sum i64)
            (call $fill)
            (local.set $sum (call $sum))
            (call $check32 (call $receive (i32.const 0) (i32.const 0) (i64.const 300))
                (i32.const 9027))
            (call $check (call $sum) (local.get $sum)))"#;
    let Some((env, module)) = sleepy_guest(RECEIVE, body).await else {
        return;
    };
    let pid = start(&env, &module);
    hibernate(&env, 1).await;
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    hibernate(&env, 0).await;
}

#[tokio::test]
async fn handlers_hibernate_between_two_messages() {
    let imports = r#"(import "tidelock" "handle" (func $handle (param i32 i32 i32 i64)))"#;
    let body = r#"
        (global $sum (mut i64) (i64.const 0))
        (data (i32.const 8400) "on")
        (func (export "_start")
            (call $fill)
            (global.set $sum (call $sum))
            (call $handle (i32.const 8400) (i32.const 2) (i32.const 7) (i64.const 0)))
        (func (export "on") (param i32 i32 i64) (result i32)
            (call $check (call $sum) (global.get $sum))
            (i32.store8 (i32.const 300) (i32.add (i32.load8_u (i32.const 300)) (i32.const 1)))
            (global.set $sum (call $sum))
            (i32.eq (i32.load8_u (i32.const 300)) (i32.const 2)))"#;
    let Some((env, module)) = sleepy_guest(imports, body).await else {
        return;
    };
    let pid = start(&env, &module);
    for _ in 0..2 {
        hibernate(&env, 1).await;
        wake(&env, pid);
        hibernate(&env, 0).await;
    }
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
}

#[tokio::test]
async fn one_that_is_killed_while_it_hibernates_leaves_nothing() {
    let body = r#"
        (func (export "_start")
            (call $fill)
            (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))"#;
    let Some((env, module)) = sleepy_guest(RECEIVE, body).await else {
        return;
    };
    let all: Vec<Pid> = (0..20).map(|_| start(&env, &module)).collect();
    hibernate(&env, 20).await;
    for pid in &all {
        let process = env.process(*pid);
        process.signal(Signal::Kill).await.unwrap();
    }
    for pid in &all {
        assert_eq!(end(&env, *pid).await, ExitReason::Killed(None));
    }
    hibernate(&env, 0).await;
    // Their slots read as zero for whoever has them next.
    let body = r#"(func (export "_start") (local $at i32)
        (loop $more
            (call $check (i64.load (local.get $at)) (i64.const 0))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 65536)))))"#;
    let module = guest(&env, "", body).await;
    for _ in 0..40 {
        let pid = start(&env, &module);
        assert_eq!(end(&env, pid).await, ExitReason::Normal);
    }
}

#[tokio::test]
async fn whoever_has_guarded_memory_or_much_of_its_own_keeps_it() {
    let code = |fill: &str| {
        format!(
            r#"(func (export "_start") (local $at i32)
                {fill}
                (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))"#
        )
    };
    // As many different words as there are.
    let random = r#"(loop $more
        (i64.store (local.get $at)
            (i64.mul (i64.extend_i32_u (i32.add (local.get $at) (i32.const 1)))
                (i64.const 0x9e3779b97f4a7c15)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $more (i32.lt_u (local.get $at) (i32.const 65536))))"#;
    let touches = "(i32.store (i32.const 0) (i32.const 1))";
    let (Some(compute), Some(dense)) = (sleepy(Profile::Compute), sleepy(Profile::Dense)) else {
        return;
    };
    let few = guest(
        &dense,
        RECEIVE,
        &code("(i32.store (i32.const 0) (i32.const 1))"),
    )
    .await;
    let full = guest(&dense, RECEIVE, &code(random)).await;
    let guarded = guest(&compute, RECEIVE, &code(touches)).await;
    let others = [start(&dense, &full), start(&compute, &guarded)];
    // One after the other, each after several looks at the others.
    for _ in 0..3 {
        let pid = start(&dense, &few);
        hibernate(&dense, 1).await;
        wake(&dense, pid);
        assert_eq!(end(&dense, pid).await, ExitReason::Normal);
        hibernate(&dense, 0).await;
    }
    assert_eq!(compute.counters().hibernating, 0);
    for (env, pid) in [&dense, &compute].into_iter().zip(others) {
        assert!(!env.info(pid).expect("it lives").hibernating);
        wake(env, pid);
        assert_eq!(end(env, pid).await, ExitReason::Normal);
    }
}
