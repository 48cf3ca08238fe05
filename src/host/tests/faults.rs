//! Faults of the host inside a call, and of native code: one process ends, with a reason.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{Context, Filter, Received};

/// An environment whose output panics at the line `bad`, in the middle of a guest's `fd_write`.
fn fragile() -> Environment {
    Environment::new(EnvironmentConfig {
        output: Some(Arc::new(|line| {
            assert!(&line.line[..] != b"bad", "the host is at fault");
        })),
        ..Default::default()
    })
    .unwrap()
}

/// Leaves a line on its standard error unfinished and fills its memory, then says what `_start` or `good`
/// is to say.
const SAYS: &str = r#"
    (data (i32.const 0) "\40\00\00\00\05\00\00\00" "\48\00\00\00\05\00\00\00" "\50\00\00\00\04\00\00\00")
    (data (i32.const 64) "undon") (data (i32.const 72) "good\n") (data (i32.const 80) "bad\n")
    (func $say (param $stream i32) (param $what i32)
        (call $check32 (i32.const 0)
            (call $fd_write (local.get $stream) (local.get $what) (i32.const 1) (i32.const 32))))
    (func $dirty
        (call $check (i64.const 0) (i64.load (i32.const 4096)))
        (call $say (i32.const 2) (i32.const 0))
        (memory.fill (i32.const 4096) (i32.const 255) (i32.const 4096)))
    (func (export "good") (call $dirty) (call $say (i32.const 1) (i32.const 8)))
    (func (export "_start") (call $dirty) (call $say (i32.const 1) (i32.const 16)))"#;

/// Watches somebody until the end, and says in public what it was told.
async fn watch(mut me: Context, pid: Pid, told: Arc<Mutex<Vec<ExitReason>>>) -> ExitReason {
    me.set_die_when_link_dies(false);
    let reference = me.monitor(pid).await;
    match me.receive(Filter::Any, None).await {
        Some(Received::Down {
            reference: r,
            reason,
            ..
        }) if r == reference => {
            told.lock().unwrap().push(reason);
            ExitReason::Normal
        }
        other => ExitReason::Fault(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_host_call_ends_its_own_process_and_is_told() {
    let env = fragile();
    let module = guest(&env, FD_WRITE, SAYS).await;
    for _ in 0..100 {
        let bad = env
            .spawn_wasm(&module, "_start", vec![], SpawnOptions::default())
            .unwrap();
        let told = Arc::default();
        let watched = Arc::clone(&told);
        let watcher = env.spawn_native("watcher", SpawnOptions::default(), move |me| {
            watch(me, bad, watched)
        });
        let good = env.spawn_wasm(&module, "good", vec![], SpawnOptions::default());
        let fault = ExitReason::Fault("the host is at fault".into());
        assert_eq!(end(&env, bad).await, fault);
        assert_eq!(end(&env, good.unwrap()).await, ExitReason::Normal);
        assert_eq!(end(&env, watcher.unwrap()).await, ExitReason::Normal);
        let told = told.lock().unwrap().clone();
        assert!(
            [vec![fault], vec![ExitReason::NoProcess]].contains(&told),
            "{told:?}"
        );
    }
    assert_eq!(env.counters().alive, 0);
}

#[tokio::test]
async fn a_native_process_that_panics_ends_alone_and_is_told() {
    let env = environment();
    let parent = env.spawn_native("parent", SpawnOptions::default(), |mut me| async move {
        me.set_die_when_link_dies(false);
        let child = me.spawn_native_link("child", Some(7), |mut me| async move {
            me.set_die_when_link_dies(false);
            let number: Result<u32, _> = "seven".parse();
            ExitReason::Exit(i32::try_from(number.expect("a number")).unwrap())
        });
        match me.receive(Filter::Any, None).await {
            Some(Received::LinkDied {
                pid,
                tag: Some(7),
                reason,
            }) if Ok(pid) == child => reason,
            other => ExitReason::Fault(format!("{other:?}")),
        }
    });
    match end(&env, parent.unwrap()).await {
        ExitReason::Fault(text) => assert!(text.starts_with("a number: "), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(env.counters().ended_abnormally, 2);
}
