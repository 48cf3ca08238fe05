//! How processes start and end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tidelock_proto::spawn::{Param, ProcessConfig};

use super::*;
use crate::{Context, Filter, Message, Resource};

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
    assert_eq!(
        (line.pid, &line.line[..], line.ended),
        (pid, &b"hello"[..], true)
    );
    let line = output.recv().await.unwrap();
    assert_eq!((&line.line[..], line.ended), (&b"world"[..], false));
}

#[tokio::test]
async fn exit_codes_and_traps_are_reasons() {
    assert_eq!(
        run(PROC_EXIT, "", "i32.const 0 call $exit").await,
        ExitReason::Normal
    );
    assert_eq!(
        run(PROC_EXIT, "", "i32.const 7 call $exit").await,
        ExitReason::Exit(7)
    );
    let reason = run("", "", "unreachable").await;
    assert!(trap(&reason).contains("unreachable"), "{reason:?}");
    let reason = run("", "(func $deep call $deep)", "call $deep").await;
    assert!(
        trap(&reason).contains("stack") && trap(&reason).contains("deep"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn growing_beyond_the_limit_fails_in_the_guest() {
    let code = "(call $check32 (memory.grow (i32.const 16)) (i32.const -1)) unreachable";
    let reason = run("", "", code).await;
    assert!(
        matches!(&reason, ExitReason::Limit(text) if text.contains("memory")),
        "{reason:?}"
    );

    let env = environment();
    let module = guest(&env, "", r#"(func (export "_start"))"#).await;
    let config = Arc::new(ProcessConfig {
        memory_bytes_max: 1000,
        ..ProcessConfig::default()
    });
    let options = SpawnOptions {
        config,
        ..SpawnOptions::default()
    };
    let refused = env
        .spawn_wasm(&module, "_start", vec![], options)
        .unwrap_err();
    assert!(refused.to_string().contains("65536"), "{refused}");
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
    let pid = env
        .spawn_wasm(&module, "f", params, SpawnOptions::default())
        .unwrap();
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    let pid = env
        .spawn_wasm(&module, "nowhere", vec![], SpawnOptions::default())
        .unwrap();
    let reason = end(&env, pid).await;
    assert!(
        matches!(&reason, ExitReason::NotStarted(why) if why.contains("nowhere")),
        "{reason:?}"
    );
}

#[tokio::test]
async fn start_sections_run_in_the_process_and_cannot_spawn() {
    let env = environment();
    let module = guest(
        &env,
        "",
        r#"(func $s unreachable) (start $s) (func (export "_start"))"#,
    )
    .await;
    let pid = start(&env, &module);
    assert!(trap(&end(&env, pid).await).contains("unreachable"));
    let body = format!("(func $s {SPAWN_CALL} drop) (start $s) (func (export \"_start\"))");
    let module = guest(&env, SPAWN, &body).await;
    let pid = start(&env, &module);
    assert!(trap(&end(&env, pid).await).contains("start function"));
}

/// On one thread: each turn of the counter is one in which the other, within a single instruction, gave way.
#[tokio::test]
async fn a_long_fill_and_a_long_copy_give_way() {
    let long = [
        "(memory.fill (i32.const 0) (i32.const 7) (i32.const 0x10000000))",
        "(memory.copy (i32.const 0) (i32.const 0x8000000) (i32.const 0x8000000))",
    ];
    for profile in [Profile::Dense, Profile::Compute] {
        for instruction in long {
            let env = environment_for(profile);
            let text = format!(
                r#"(module (memory (export "memory") 4096 4096)
                    (func (export "_start") {instruction}))"#
            );
            let bytes = wat::parse_str(text).unwrap();
            let module = Module::compile(env.engine(), bytes).await.unwrap();
            let turns = Arc::new(AtomicUsize::new(0));
            let counted = turns.clone();
            let counter = env.spawn_native("counter", SpawnOptions::default(), |_| async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
            let pid = start(&env, &module);
            assert_eq!(end(&env, pid).await, ExitReason::Normal);
            // Some at its start and its end; it takes tens of milliseconds, and gives way each.
            let turns = turns.load(Ordering::Relaxed);
            env.kill(counter.unwrap(), None);
            assert!(turns >= 8, "{profile:?} {instruction}: {turns} turns");
        }
    }
}

#[tokio::test]
async fn a_native_process_that_panics_before_it_has_code_ends_alone() {
    let env = environment();
    let code = |_: Context| -> std::future::Ready<ExitReason> { panic!("no code") };
    let pid = env.spawn_native("never", SpawnOptions::default(), code);
    let reason = end(&env, pid.unwrap()).await;
    assert!(
        matches!(&reason, ExitReason::Fault(text) if text == "no code"),
        "{reason:?}"
    );
    assert_eq!(env.counters().alive, 0);
}

/// Asks whether a process is there when it is dropped.
struct Asks {
    asker: Mutex<Context>,
    about: Pid,
    answer: Arc<Mutex<Option<bool>>>,
}

impl Drop for Asks {
    fn drop(&mut self) {
        let asker = self.asker.lock().unwrap();
        *self.answer.lock().unwrap() = asker.exists(self.about).now_or_never();
    }
}

/// What its mailbox holds is dropped when everybody has been told, and it is in the table still.
#[tokio::test]
async fn one_whose_end_was_told_is_not_there_any_more() {
    let env = environment();
    let mut asker = None;
    let waits = |me: Context| {
        asker = Some(me);
        std::future::pending()
    };
    env.spawn_native("asker", SpawnOptions::default(), waits)
        .unwrap();
    let ends = env.spawn_native("ends", SpawnOptions::default(), |mut me| async move {
        me.receive(Filter::Tag(1), None).await.unwrap();
        ExitReason::Normal
    });
    let ends = ends.unwrap();
    let answer = Arc::<Mutex<Option<bool>>>::default();
    let asks: Resource = Arc::new(Asks {
        asker: Mutex::new(asker.unwrap()),
        about: ends,
        answer: Arc::clone(&answer),
    });
    let stays = Message {
        resources: vec![asks],
        ..Message::default()
    };
    env.send(ends, stays).await.unwrap();
    let last = Message {
        tag: Some(1),
        ..Message::default()
    };
    env.send(ends, last).await.unwrap();
    assert_eq!(end(&env, ends).await, ExitReason::Normal);
    assert_eq!(*answer.lock().unwrap(), Some(false));
}
