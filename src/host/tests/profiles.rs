//! What holds whatever a module is compiled for.

use std::time::Duration;

use tidelock_proto::spawn::ProcessConfig;

use super::*;

const PROFILES: [Profile; 2] = [Profile::Dense, Profile::Compute];

#[tokio::test]
async fn every_access_outside_of_the_memory_traps() {
    for profile in PROFILES {
        let env = environment_for(profile);
        let run = async |code: &str| run_in(&env, "", "", code).await;
        for at in ["65536", "65533", "1048576", "-1"] {
            for code in [
                format!("(i32.store (i32.const {at}) (i32.const 1))"),
                format!("(i32.store offset=4294967295 (i32.const {at}) (i32.const 1))"),
                format!("(drop (i32.load (i32.const {at})))"),
                format!("(drop (i64.load offset=2147483648 (i32.const {at})))"),
                format!("(memory.fill (i32.const {at}) (i32.const 1) (i32.const 300000))"),
                format!("(memory.copy (i32.const 0) (i32.const {at}) (i32.const 300000))"),
            ] {
                let reason = run(&code).await;
                assert!(
                    trap(&reason).contains("out of bounds"),
                    "{profile:?} {code}"
                );
            }
        }
        // Grown memory is there, zero, and one byte beyond it is not.
        let code = r#"(call $check32 (memory.grow (i32.const 2)) (i32.const 1))
            (call $check32 (i32.load (i32.const 196604)) (i32.const 0))
            (i32.store8 (i32.const 196608) (i32.const 1))"#;
        assert!(
            trap(&run(code).await).contains("out of bounds"),
            "{profile:?}"
        );
        // What may not grow stays as it was.
        let code = "(call $check32 (memory.grow (i32.const 16)) (i32.const -1))
            (i32.store (i32.const 65532) (i32.const 1))";
        assert_eq!(run(code).await, ExitReason::Normal, "{profile:?}");
    }
}

#[tokio::test]
async fn an_endless_loop_yields_and_can_be_killed() {
    for profile in PROFILES {
        let env = environment_for(profile);
        for code in [
            "(loop br 0)",
            "(loop (drop (i32.load (i32.const 8))) br 0)",
            "(drop (memory.grow (i32.const 15)))
            (loop
                (memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576))
                (memory.copy (i32.const 1) (i32.const 0) (i32.const 1048575))
                br 0)",
        ] {
            let body = format!(r#"(func (export "_start") {code})"#);
            let module = guest(&env, "", &body).await;
            let pid = start(&env, &module);
            // One thread: without yielding this test would never get here.
            tokio::time::sleep(Duration::from_millis(20)).await; // time for a loop that never yields
            env.kill(pid, None);
            assert_eq!(
                end(&env, pid).await,
                ExitReason::Killed(None),
                "{profile:?} {code}"
            );
        }
    }
}

#[tokio::test]
async fn a_thousand_guests_that_trap_leave_no_byte_behind() {
    // Each looks whether its memory is all zero, fills it, and traps.
    let body = r#"(func (export "_start") (local $at i32)
        (loop
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (call $exit (i32.const 66))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if 0 (i32.lt_u (local.get $at) (i32.const 65536))))
        (drop (memory.grow (i32.const 1)))
        (memory.fill (i32.const 0) (i32.const 0xee) (i32.const 131072))
        unreachable)"#;
    for profile in PROFILES {
        let env = environment_for(profile);
        let module = guest(&env, PROC_EXIT, body).await;
        for _ in 0..10 {
            let pids: Vec<_> = (0..100).map(|_| start(&env, &module)).collect();
            for pid in pids {
                let reason = end(&env, pid).await;
                assert!(
                    matches!(reason, ExitReason::Trap(_)),
                    "{profile:?} {reason:?}"
                );
            }
        }
    }
}

/// More processes than there are guarded memories: the rest are dense, and nobody can tell.
#[tokio::test]
async fn more_processes_than_guarded_memories_compute_all_the_same() {
    let env = environment_for(Profile::Compute);
    // Waits for a message, then computes a sum over its memory and checks it.
    let body = r#"(func (export "_start") (local $at i32) (local $sum i32)
        (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
        (loop
            (i32.store (local.get $at) (local.get $at))
            (local.set $sum (i32.add (local.get $sum) (i32.load (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (br_if 0 (i32.lt_u (local.get $at) (i32.const 4096))))
        (call $check32 (local.get $sum) (i32.const 2095104)))"#;
    let module = guest(&env, RECEIVE, body).await;
    let pids: Vec<_> = (0..2_100).map(|_| start(&env, &module)).collect();
    for pid in &pids {
        env.send(*pid, crate::Message::default()).await.unwrap();
    }
    for pid in pids {
        assert_eq!(end(&env, pid).await, ExitReason::Normal);
    }
}

#[tokio::test]
async fn fuel_ends_a_process_with_a_limit() {
    for profile in PROFILES {
        let env = environment_for(profile);
        let module = guest(&env, "", r#"(func (export "_start") (loop br 0))"#).await;
        let config = ProcessConfig {
            fuel_max: Some(3),
            ..ProcessConfig::default()
        };
        let pid = start_as(&env, &module, config);
        let reason = end(&env, pid).await;
        assert!(
            matches!(&reason, ExitReason::Limit(text) if text.contains("fuel")),
            "{profile:?} {reason:?}"
        );
    }
}
