//! What a module becomes before it is compiled: one that does the same, gives way in time, and loops faster.
//!
//! ```text
//! module ──▶ loops.rs: several rounds of a short loop for each time it is asked to give way
//!        ──▶ bulk.rs: instructions that touch any amount of memory, in pieces
//!        ──▶ compiler
//! ```
//!
//! What is wrong with a module is said of the module itself, as it came. Loops that cannot be repeated stay as they are.
//! A long instruction that cannot be done in pieces would run as one, and nobody could end it: a module that only
//! compiles with such is refused.

mod bulk;
mod loops;

use std::borrow::Cow;

use wasm_encoder::{CodeSection, Function, RawSection};
use wasmparser::{BinaryReaderError, FunctionBody, Parser, Payload};

use super::compiler::How;

/// Changes with what is done here: what was compiled otherwise is not used any more.
pub(super) const VERSION: &[u8] = b"rewritten 2";

/// Why a module is refused that compiles as it came, and not with its long instructions in pieces.
const NO_ROOM: &str = "memory.fill and memory.copy are done in pieces, by two functions that are added to a module; \
    with them this one is beyond a limit of WebAssembly, as a million of types or functions";

type Parsed<T> = Result<T, BinaryReaderError>;

/// Native code of a module, rewritten, on an engine that compiles so.
pub(super) fn compiled(
    engine: &wasmtime::Engine,
    how: How,
    module: &[u8],
) -> wasmtime::Result<Vec<u8>> {
    let compile = |module: &[u8]| engine.precompile_module(module);
    // Whoever pays for each instruction pays for those of the module.
    let looping = match how.fuel {
        true => None,
        false => loops::rewritten(module).ok().flatten(),
    };
    if let Some(looping) = looping
        && let Ok(module) = in_pieces(&looping, how)
        && let Ok(native) = compile(&module)
    {
        return Ok(native);
    }
    match in_pieces(module, how) {
        Ok(Cow::Borrowed(module)) => compile(module),
        Ok(Cow::Owned(pieces)) => compile(&pieces).or_else(|_| whole(compile(module))),
        Err(_) => whole(compile(module)),
    }
}

/// The module with long instructions in pieces; as it is if it has none.
fn in_pieces(module: &[u8], how: How) -> Parsed<Cow<'_, [u8]>> {
    // Trusted guests do not give way anyway.
    let pieces = match how.trusted {
        true => None,
        false => bulk::rewritten(module)?,
    };
    Ok(pieces.map_or(module.into(), Cow::Owned))
}

/// What became of a module whose long instructions could not be done in pieces.
fn whole(compiled: wasmtime::Result<Vec<u8>>) -> wasmtime::Result<Vec<u8>> {
    compiled.and_then(|_| Err(wasmtime::Error::msg(NO_ROOM)))
}

/// One change of a module.
trait Rewrite {
    /// The content of a section other than the code.
    fn section<'a>(&self, _id: u8, data: &'a [u8]) -> Parsed<Cow<'a, [u8]>> {
        Ok(data.into())
    }

    /// The bytes of a function, its locals and its code.
    fn body(&self, module: &[u8], body: &FunctionBody<'_>) -> Parsed<Vec<u8>>;

    /// Functions that come after those of the module.
    fn added(&self) -> Vec<Function> {
        Vec::new()
    }

    /// The whole module.
    fn rewrite(&self, module: &[u8]) -> Parsed<Vec<u8>> {
        let (mut out, mut code, mut left) = (wasm_encoder::Module::new(), CodeSection::new(), 0);
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::CodeSectionStart { count, .. } => left = count,
                Payload::CodeSectionEntry(body) => {
                    code.raw(&self.body(module, &body)?);
                    left -= 1;
                    if left == 0 {
                        for function in self.added() {
                            code.function(&function);
                        }
                        out.section(&code);
                    }
                }
                // Hints where branches go, by offset: those are others now.
                Payload::CustomSection(custom) if custom.name().starts_with("metadata.code.") => {}
                other => {
                    if let Some((id, range)) = other.as_section() {
                        let data = &*self.section(id, &module[range])?;
                        out.section(&RawSection { id, data });
                    }
                }
            }
        }
        Ok(out.finish())
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{FunctionSection, MemorySection, MemoryType, Module, TypeSection};

    use super::*;

    /// A module of so many types whose only function fills a length of memory that it does not say.
    fn filling(types: u32) -> Vec<u8> {
        let mut all = TypeSection::new();
        for _ in 0..types {
            all.ty().function([], []);
        }
        let mut functions = FunctionSection::new();
        functions.function(0);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: 1,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut fill = Function::new([]);
        let mut code = fill.instructions();
        code.i32_const(0)
            .i32_const(0)
            .i32_const(0)
            .i32_const(1)
            .i32_add();
        code.memory_fill(0).end();
        let mut code = CodeSection::new();
        code.function(&fill);
        let mut module = Module::new();
        module
            .section(&all)
            .section(&functions)
            .section(&memories)
            .section(&code);
        module.finish()
    }

    #[test]
    fn a_module_without_room_for_pieces_is_refused() {
        const TYPES_MAX: u32 = 1_000_000;
        let engine = wasmtime::Engine::default();
        let how = How {
            trusted: false,
            guarded: false,
            fuel: false,
        };
        let error = compiled(&engine, how, &filling(TYPES_MAX)).unwrap_err();
        assert_eq!(error.to_string(), NO_ROOM);
        compiled(&engine, how, &filling(2)).unwrap();
        // What is wrong with the module itself comes first.
        let error = compiled(&engine, how, &filling(TYPES_MAX + 1)).unwrap_err();
        assert_ne!(error.to_string(), NO_ROOM);
    }
}
