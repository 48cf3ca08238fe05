//! What is a module and what is not.

use super::*;
use crate::{Engine, EngineConfig, ModuleError};

#[tokio::test]
async fn bytes_that_are_no_module_are_refused_with_a_reason() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let compile = |bytes: Vec<u8>| Module::compile(&engine, bytes);
    assert!(matches!(
        compile(vec![]).await,
        Err(ModuleError::NotWasm(_))
    ));
    assert!(matches!(
        compile(b"(module)".to_vec()).await,
        Err(ModuleError::NotWasm(_))
    ));
    let component = b"\0asm\x0d\0\x01\0".to_vec();
    assert!(
        matches!(compile(component).await, Err(ModuleError::NotWasm(w)) if w.contains("component"))
    );
    let cut = b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff".to_vec();
    assert!(matches!(compile(cut).await, Err(ModuleError::Invalid(_))));
    let huge = [b"\0asm\x01\0\0\0".as_slice(), &vec![0; 64 << 20]].concat();
    assert!(matches!(
        compile(huge).await,
        Err(ModuleError::TooLarge { of: "", .. })
    ));

    // 17 MiB of custom section pass; of data they do not.
    let section = |id: u8| {
        let len = 17 << 20;
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        bytes.extend([id, 0x80, 0x80, 0xc0, 0x08]);
        bytes.extend(vec![0; len]);
        bytes
    };
    assert!(compile(section(0)).await.is_ok());
    assert!(
        matches!(compile(section(11)).await, Err(ModuleError::TooLarge { max, .. }) if max == 16 << 20)
    );

    for text in [
        r#"(module (memory i64 1))"#,
        r#"(module (memory 1) (memory 1))"#,
        r#"(module (func (param externref)))"#,
        r#"(module (memory 1 1 shared))"#,
        r#"(module (tag))"#,
        r#"(module (type (struct)))"#,
        r#"(module (type $f (func)) (func (param (ref null $f))))"#,
        r#"(module (type $f (func)) (func (call_ref $f (ref.null $f))))"#,
        r#"(module (func (block (drop (br_on_null 0 (ref.null func))))))"#,
    ] {
        let bytes = wat::parse_str(text).unwrap();
        assert!(
            matches!(compile(bytes).await, Err(ModuleError::Invalid(_))),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_unknown_import_is_named() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let bytes = wat::parse_str(r#"(module (import "lunatic::nothing" "here" (func)))"#).unwrap();
    let error = Module::compile(&engine, bytes).await.unwrap_err();
    assert!(
        error.to_string().contains("lunatic::nothing::here"),
        "{error}"
    );
    let bytes = wat::parse_str(r#"(module (import "lunatic::process" "kill" (func)))"#).unwrap();
    let error = Module::compile(&engine, bytes).await.unwrap_err();
    assert!(error.to_string().contains("kill"), "{error}");
}

#[tokio::test]
async fn every_import_of_lunatic_links() {
    let names: Vec<_> = include_str!("../lunatic_imports.txt")
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
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
    let config = EngineConfig {
        cache_dir: Some(dir.clone()),
        ..EngineConfig::default()
    };
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
    let env = environment_on(config);
    let module = Module::compile(env.engine(), bytes).await.unwrap();
    let pid = start(&env, &module);
    assert_eq!(end(&env, pid).await, ExitReason::Normal);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
