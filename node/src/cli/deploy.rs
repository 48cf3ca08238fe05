//! `tidelock deploy FILE`.

use std::path::{Path, PathBuf};

use clap::Args;
use tidelock::{Environment, EnvironmentConfig, ModuleError};
use tidelock_control::modules::check_module_name;
use wasmparser::{BinaryReaderError, Parser, Payload, Validator};

use super::{
    Output,
    connect::Cluster,
    failure::{Failure, Outcome},
    names,
    output::size,
    run::{not_runnable, read_module},
};

/// Give the cluster a module; prints its hash
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// A .wasm or .wat file
    file: PathBuf,
    /// The name to deploy it under; the file's, without its ending, if left out
    #[arg(long)]
    name: Option<String>,
}

impl Deploy {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let bytes = read_module(&self.file)?;
        check(&self.file, &bytes)?;
        let name = self.name()?;
        let module = cluster.put_module(&name, bytes).await?;
        out.one(&module, &module.hash, &module.hash)?;
        if !out.machine() {
            out.say(format_args!(
                "{name}, {}\n  next: tidelock spawn {name}    start a process of it",
                size(module.size_bytes)
            ));
        }
        Ok(())
    }

    /// Others call the module by it, so none is made up for them. Control judges one that was given.
    fn name(&self) -> Outcome<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let name = names::stem(&self.file);
        check_module_name(&name).map_err(|error| {
            let message = format!(
                "{}: the module cannot have the file's name",
                self.file.display()
            );
            let like = format!("--name {}", names::of_module(&self.file));
            Failure::new("E0002", message).detail(error).next(
                like,
                "names it; any other name that is allowed does as well",
            )
        })?;
        Ok(name)
    }
}

/// Refuses what no node of this version could run, as far as can be told without compiling it.
fn check(file: &Path, bytes: &[u8]) -> Outcome {
    let invalid = |error: BinaryReaderError| {
        let error = ModuleError::Invalid(error.to_string());
        not_runnable(file, &error)
    };
    if matches!(bytes, [0, b'a', b's', b'm', _, _, 1, 0, ..]) {
        return Err(not_runnable(
            file,
            &ModuleError::NotWasm("it is a component"),
        ));
    }
    // With more proposals than nodes compile, which say so when the module is spawned.
    Validator::new().validate_all(bytes).map_err(invalid)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::new("E0001", error);
    let environment =
        Environment::new(EnvironmentConfig::default()).map_err(|error| wrong(&error))?;
    let offered = environment.imports().map_err(|error| wrong(&error))?;
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::ImportSection(imports) = payload.map_err(invalid)? else {
            continue;
        };
        for import in imports.into_imports() {
            let import = import.map_err(invalid)?;
            let known = offered
                .iter()
                .any(|one| one.module == import.module && one.name == import.name);
            if !known {
                let error = ModuleError::UnknownImport {
                    module: import.module.to_owned(),
                    name: import.name.to_owned(),
                };
                return Err(not_runnable(file, &error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the letter, if there is one.
    fn checked(bytes: &[u8]) -> Option<String> {
        match check(Path::new("x.wasm"), bytes) {
            Err(Failure::Letter(letter)) => Some(format!("{} {}", letter.code, letter.message)),
            _ => None,
        }
    }

    #[test]
    fn whoever_has_to_name_a_module_is_told_how() {
        let named = |file: &str, name: Option<&str>| {
            let deploy = Deploy {
                file: file.into(),
                name: name.map(str::to_owned),
            };
            deploy.name()
        };
        assert_eq!(named("a/app.wasm", None).unwrap(), "app");
        assert_eq!(named("my app.wasm", Some("x y")).unwrap(), "x y");
        let Err(Failure::Letter(letter)) = named("my app.wasm", None) else {
            panic!("a blank is no part of a name");
        };
        assert!(letter.message.contains("my app.wasm"), "{letter:?}");
        assert_eq!(letter.next[0].command, "--name my-app");
        assert_eq!(letter.exit, 2);
    }

    #[tokio::test]
    async fn what_could_not_run_is_found_before_it_is_given_away() {
        let module = |text: &str| wat::parse_str(text).unwrap();
        let good = module(
            "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32)))
             (memory (export \"memory\") 1)
             (func (export \"_start\") (drop (v128.const i64x2 1 2))))",
        );
        assert_eq!(checked(&good), None);
        assert_eq!(
            checked(include_bytes!("../../../benches/load/load.wasm")),
            None
        );
        let cases: [(Vec<u8>, &str); 6] = [
            (good[..good.len() - 3].to_vec(), "module is not valid"),
            (good[..9].to_vec(), "module is not valid"),
            (
                module("(module (func (result i32)))"),
                "module is not valid",
            ),
            (
                module("(module (import \"a\" \"b\" (func)))"),
                "unknown import a::b",
            ),
            (
                module("(module (import \"env\" \"memory\" (memory 1)))"),
                "unknown import env::memory",
            ),
            (b"\0asm\x0d\0\x01\0".to_vec(), "it is a component"),
        ];
        for (bytes, word) in cases {
            let words = checked(&bytes).expect("a letter");
            assert!(words.starts_with("E0030 x.wasm: "), "{words}");
            assert!(words.contains(word), "{words}");
        }
    }
}
