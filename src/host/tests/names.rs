//! Names of processes, of each tenant its own.

use tidelock_proto::Environ;

use super::*;

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
