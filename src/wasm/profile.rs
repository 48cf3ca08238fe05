//! What a module is compiled for, if the operator leaves that to the module.

use wasmparser::{BinaryReaderError, Parser, Payload, TypeRef};

/// The custom section in which a module says it.
const SECTION: &str = "tidelock.profile";

/// Whether a module is compiled to compute: it says so, or says nothing and imports no way to start a process.
///
/// What is no module is not; the compiler says what is wrong with it.
pub(super) fn computes(module: &[u8]) -> bool {
    said(module).unwrap_or(false)
}

fn said(module: &[u8]) -> Result<bool, BinaryReaderError> {
    let mut starts_processes = false;
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    let is_function = matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    starts_processes |= is_function && import.name.contains("spawn");
                }
            }
            Payload::CustomSection(section) if section.name() == SECTION => match section.data() {
                b"compute" => return Ok(true),
                b"dense" => return Ok(false),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(!starts_processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_is_compiled_for_or_is_looked_at() {
        let section = |text| format!("(@custom \"{SECTION}\" \"{text}\")");
        let import = |module, name| format!("(import \"{module}\" \"{name}\" (func))");
        for (inside, does) in [
            (String::new(), true),
            (import("lunatic::process", "process_id"), true),
            (import("lunatic::process", "spawn"), false),
            (import("lunatic::process", "get_or_spawn"), false),
            (import("lunatic::distributed", "spawn"), false),
            (section("compute"), true),
            (section("dense"), false),
            (section("fast"), true),
            (
                import("lunatic::process", "spawn") + &section("compute"),
                true,
            ),
            (
                import("lunatic::process", "spawn") + &section("fast"),
                false,
            ),
        ] {
            let module = wat::parse_str(format!("(module {inside})")).unwrap();
            assert_eq!(computes(&module), does, "{inside}");
        }
        for nothing in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0\x01"] {
            assert!(!computes(nothing));
        }
    }
}
