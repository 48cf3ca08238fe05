//! Names of processes, of each tenant its own.

use tidelock_proto::Environ;

use super::*;
use crate::registry::Named;

/// Names, and a process by name.
pub(super) const NAMES: &str = r#"
    (import "lunatic::registry" "put" (func $put (param i32 i32 i64 i64)))
    (import "lunatic::registry" "get" (func $get (param i32 i32 i32 i32) (result i32)))
    (import "lunatic::registry" "remove" (func $remove (param i32 i32)))
    (import "lunatic::process" "get_or_spawn" (func $get_or_spawn
        (param i32 i32 i64 i64 i64 i32 i32 i32 i32 i32 i32) (result i32)))"#;

#[tokio::test]
async fn a_name_is_known_to_its_tenant_alone() {
    let imports = [PROCESS_ID, NAMES].concat();
    let body = r#"(data (i32.const 100) "name") (data (i32.const 110) "child")
        (func (export "child"))
        (func $is (param $code i32)
            (call $check32 (local.get $code)
                (call $get (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 8))))
        (func $named (param $node i64)
            (call $put (i32.const 100) (i32.const 4) (local.get $node) (call $process_id)))
        (func (export "first") (call $named (i64.const 1)))
        (func (export "stranger")
            (call $is (i32.const 1))
            (call $named (i64.const 2))
            (call $is (i32.const 0))
            (call $check (i64.load (i32.const 0)) (i64.const 2))
            (call $remove (i32.const 100) (i32.const 4))
            (call $is (i32.const 1))
            ;; it is spawned, not found
            (call $check32 (i32.const 0)
                (call $get_or_spawn (i32.const 100) (i32.const 4) (i64.const 0) (i64.const -1)
                    (i64.const -1) (i32.const 110) (i32.const 5) (i32.const 0) (i32.const 0)
                    (i32.const 0) (i32.const 16))))
        (func (export "last")
            (call $is (i32.const 0))
            (call $check (i64.load (i32.const 0)) (i64.const 1)))"#;
    let env = environment();
    let module = guest(&env, &imports, body).await;
    for (entry, environ) in [
        ("first", Environ::default()),
        ("stranger", Environ(7)),
        ("last", Environ::default()),
    ] {
        let options = SpawnOptions {
            environ,
            ..SpawnOptions::default()
        };
        let pid = env.spawn_wasm(&module, entry, vec![], options).unwrap();
        assert_eq!(end(&env, pid).await, ExitReason::Normal, "{entry}");
    }
}

/// Spawns `child` with its parameter under the name in the four bytes at 100.
const SPAWNS_NAMED: &str = r#"(data (i32.const 110) "child")
    (func $named (result i32)
        (call $get_or_spawn (i32.const 100) (i32.const 4) (i64.const 0) (i64.const -1)
            (i64.const -1) (i32.const 110) (i32.const 5) (i32.const 200) (i32.const 17)
            (i32.const 0) (i32.const 16)))"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_spawned_under_a_name_has_it_before_it_runs() {
    let imports = [PROCESS_ID, NAMES].concat();
    let body = format!(
        r#"{SPAWNS_NAMED}
        (func (export "child") (param i32)
            (i32.store (i32.const 100) (local.get 0))
            (call $check32 (call $get (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 8))
                (i32.const 0))
            (call $check (i64.load (i32.const 8)) (call $process_id)))
        (func (export "_start") (local $i i32)
            (i32.store8 (i32.const 200) (i32.const 0x7f))
            (loop $next
                (i32.store (i32.const 100) (local.get $i))
                (i32.store (i32.const 201) (local.get $i))
                (call $check32 (call $named) (i32.const 0))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $i) (i32.const 120)))))"#
    );
    let env = environment();
    let module = guest(&env, &imports, &body).await;
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    env.idle().await;
    let counters = env.counters();
    assert_eq!((counters.spawned, counters.ended_abnormally), (121, 0));
}

#[tokio::test]
async fn whoever_has_a_name_is_found_without_permission_to_spawn() {
    let imports = [PROCESS_ID, NAMES].concat();
    let body = format!(
        r#"(data (i32.const 100) "name") {SPAWNS_NAMED}
        (func (export "child") (param i32))
        (func (export "_start")
            (i32.store8 (i32.const 200) (i32.const 0x7f))
            (call $put (i32.const 100) (i32.const 4) (i64.const 12) (call $process_id))
            (call $check32 (call $named) (i32.const 2))
            (call $check (i64.load (i32.const 0)) (i64.const 12))
            (call $check (i64.load (i32.const 16)) (call $process_id))
            (call $remove (i32.const 100) (i32.const 4))
            (drop (call $named)))"#
    );
    let env = environment();
    let module = guest(&env, &imports, &body).await;
    let config = ProcessConfig {
        can_spawn_processes: false,
        ..ProcessConfig::default()
    };
    let pid = start_as(&env, &module, config);
    let reason = end(&env, pid).await;
    assert!(trap(&reason).contains("may not spawn"), "{reason:?}");
}

#[tokio::test]
async fn a_name_is_looked_up_and_given_in_one_step() {
    let env = environment_with(Limits {
        names_max: 2,
        ..Limits::default()
    });
    let (names, mine) = (env.registry(), Environ::default());
    let made = std::cell::Cell::new(0);
    let get_or_put = |name: &str| {
        let make = || {
            made.set(made.get() + 1);
            if name == "no" { Err(()) } else { Ok((1, 2)) }
        };
        names.get_or_put(mine, name, make)
    };
    assert_eq!(get_or_put("no"), Err(()));
    assert_eq!(names.find(mine, "no"), None);
    assert_eq!(get_or_put("a"), Ok(Named::Now(1, 2)));
    // Whoever gives the name to somebody else meanwhile comes before or after, and is not overwritten.
    std::thread::scope(|scope| {
        let mut puts = None;
        let named = names.get_or_put(mine, "b", || {
            puts = Some(scope.spawn(move || names.put(mine, "b", 8, 9)));
            Ok::<_, ()>((3, 4))
        });
        assert_eq!(named, Ok(Named::Now(3, 4)));
        assert!(puts.unwrap().join().unwrap());
    });
    assert_eq!(names.find(mine, "b"), Some((8, 9)));
    assert_eq!(get_or_put("b"), Ok(Named::Before(8, 9)));
    assert_eq!(get_or_put("c"), Ok(Named::Nobody));
    assert_eq!(made.get(), 2);
}

#[tokio::test]
async fn no_tenant_takes_the_names_of_another() {
    let env = environment_with(Limits {
        names_max: 20,
        ..Limits::default()
    });
    let names = env.registry();
    let fills = |environ: Environ| {
        let put = |number: &u64| names.put(environ, &number.to_string(), 0, *number);
        (0..30).take_while(put).count()
    };
    // Each of these has a tenth, and all of them together have no more than the default tenant.
    for other in 2..12 {
        assert_eq!(fills(Environ(other)), 2);
    }
    assert_eq!(fills(Environ(12)), 0);
    assert_eq!(fills(Environ::default()), 20);
    // A name that is there is given to another process all the same, of this tenant alone.
    assert!(names.put(Environ(2), "1", 0, 9));
    assert_eq!(names.find(Environ(2), "1"), Some((0, 9)));
    assert_eq!(names.find(Environ(3), "1"), Some((0, 1)));
    // What is removed makes room, once.
    names.remove(Environ(2), "1");
    names.remove(Environ(2), "1");
    assert_eq!(names.find(Environ(2), "1"), None);
    assert_eq!(names.find(Environ(3), "1"), Some((0, 1)));
    assert_eq!(fills(Environ(12)), 1);
}
