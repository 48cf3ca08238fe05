//! Guests that mean harm: each costs itself its process, and nobody else anything.

use std::time::{Duration, Instant};

use super::*;
use crate::{Engine, EngineConfig, ModuleError, Profile};

async fn compile(text: &str) -> Result<Module, ModuleError> {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    Module::compile(&engine, wat::parse_str(text).unwrap()).await
}

#[tokio::test]
async fn an_endless_start_section_holds_up_nobody() {
    let env = environment();
    let body = r#"(func $s (loop br 0)) (start $s) (func (export "_start"))"#;
    let module = guest(&env, "", body).await;
    let begun = Instant::now();
    let pid = start(&env, &module);
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "spawning runs no guest code"
    );
    let other = guest(&env, "", r#"(func (export "_start"))"#).await;
    let other = start(&env, &other);
    assert_eq!(end(&env, other).await, ExitReason::Normal);
    env.kill(pid, None);
    assert_eq!(end(&env, pid).await, ExitReason::Killed(None));
}

#[tokio::test]
async fn bombs_are_refused_or_end_their_process() {
    let ends = async |text: &str| {
        let env = environment();
        let module = Module::compile(env.engine(), wat::parse_str(text).unwrap())
            .await
            .unwrap();
        let pid = start(&env, &module);
        end(&env, pid).await
    };
    let limit = |reason: ExitReason, with: &str| match &reason {
        ExitReason::Limit(text) if text.contains(with) => {}
        other => panic!("{other:?} is no limit about {with}"),
    };
    // A table of ten million elements; two tables; a table that grows and grows.
    limit(
        ends(r#"(module (table 10000000 funcref) (func (export "_start")))"#).await,
        "table",
    );
    let two = r#"(module (table 1 funcref) (table 1 funcref) (func (export "_start")))"#;
    let reason = ends(two).await;
    assert!(!reason.is_normal(), "{reason:?}");
    let grow = r#"(module (table $t 1 funcref) (func (export "_start")
        (if (i32.ne (table.grow $t (ref.null func) (i32.const 200000)) (i32.const -1))
            (then unreachable))))"#;
    assert_eq!(ends(grow).await, ExitReason::Normal);
    // Data and elements outside of what was declared.
    let data = r#"(module (memory 1) (data (i32.const 65535) "ab") (func (export "_start")))"#;
    assert!(matches!(ends(data).await, ExitReason::Trap(_)));
    let elements = r#"(module (table 1 funcref) (elem (i32.const 1) $f) (func $f)
        (func (export "_start")))"#;
    assert!(matches!(ends(elements).await, ExitReason::Trap(_)));
    // Calls through the table: out of it, into nothing, with another type.
    for index in ["9", "1", "0"] {
        let call = format!(
            r#"(module (type $v (func)) (table 2 funcref) (elem (i32.const 0) $f)
            (func $f (param i32)) (func (export "_start")
                (call_indirect (type $v) (i32.const {index}))))"#
        );
        assert!(matches!(ends(&call).await, ExitReason::Trap(_)), "{index}");
    }
    let divide =
        r#"(module (func (export "_start") (drop (i32.div_u (i32.const 1) (i32.const 0)))))"#;
    assert!(matches!(ends(divide).await, ExitReason::Trap(_)));
}

#[tokio::test]
async fn modules_beyond_reason_are_refused() {
    let locals = "(module (func (local ".to_owned() + &"i64 ".repeat(60_000) + ")))";
    assert!(matches!(
        compile(&locals).await,
        Err(ModuleError::Invalid(_))
    ));
    let params = "(module (type (func (param ".to_owned() + &"i32 ".repeat(2_000) + "))))";
    assert!(matches!(
        compile(&params).await,
        Err(ModuleError::Invalid(_))
    ));
    let memory = compile("(module (memory 65537))").await;
    assert!(matches!(memory, Err(ModuleError::Invalid(_))));
    // A name for an export that is neither short nor tame is just a name.
    let long = "x".repeat(50_000);
    let text =
        format!(r#"(module (func (export "{long}")) (func (export "../../\00") unreachable))"#);
    let module = compile(&text).await;
    let module = module.unwrap();
    assert_eq!(module.functions().count(), 2);
    assert!(module.check_entry(&long, &[]).is_ok());
    let error = module.check_entry(&"y".repeat(50_000), &[]).unwrap_err();
    assert!(error.to_string().len() < 4096);
}

#[tokio::test]
async fn trusted_guests_are_contained_all_the_same() {
    for profile in [Profile::Auto, Profile::Dense] {
        let env = environment_on(EngineConfig {
            trusted: true,
            profile,
            ..EngineConfig::default()
        });
        let ends = async |code: &str, memory_bytes_max: u64| {
            let module = guest(&env, "", &format!(r#"(func (export "_start") {code})"#)).await;
            let config = crate::ProcessConfig {
                memory_bytes_max,
                ..Default::default()
            };
            let pid = start_as(&env, &module, config);
            end(&env, pid).await
        };
        assert_eq!(
            ends("(i32.store (i32.const 65532) (i32.const 1))", 1 << 20).await,
            ExitReason::Normal
        );
        let reason = ends("(i32.store (i32.const 65533) (i32.const 1))", 1 << 20).await;
        assert!(trap(&reason).contains("out of bounds"), "{reason:?}");
        let grow = "(call $check32 (memory.grow (i32.const 1)) (i32.const -1))";
        assert_eq!(ends(grow, 100_000).await, ExitReason::Normal);
    }
}
