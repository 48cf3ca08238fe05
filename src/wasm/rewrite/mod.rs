//! What a module becomes before it is compiled: one that does the same, gives way in time, and loops faster.
//!
//! ```text
//! module ──▶ loops.rs: several rounds of a short loop for each time it is asked to give way
//!        ──▶ bulk.rs: instructions that touch any amount of memory, in pieces
//!        ──▶ compiler
//! ```
//!
//! Nothing is counted on: what these cannot read, and whatever does not compile afterwards, is compiled as it came,
//! so what is wrong with a module is said of the module itself.

mod bulk;
mod loops;

use std::borrow::Cow;

use wasm_encoder::{CodeSection, Function, RawSection};
use wasmparser::{BinaryReaderError, FunctionBody, Parser, Payload};

use super::compiler::How;

/// Changes with what is done here: what was compiled otherwise is not used any more.
pub(super) const VERSION: &[u8] = b"rewritten 1";

type Parsed<T> = Result<T, BinaryReaderError>;

/// Native code of a module, rewritten if that is possible, on an engine that compiles so.
pub(super) fn compiled(
    engine: &wasmtime::Engine,
    how: How,
    module: &[u8],
) -> wasmtime::Result<Vec<u8>> {
    let compile = |module: &[u8]| engine.precompile_module(module);
    match rewritten(module, how) {
        Cow::Owned(rewritten) => compile(&rewritten).or_else(|_| compile(module)),
        Cow::Borrowed(module) => compile(module),
    }
}

fn rewritten(module: &[u8], how: How) -> Cow<'_, [u8]> {
    // Whoever pays for each instruction pays for those of the module.
    let looping = match how.fuel {
        true => None,
        false => loops::rewritten(module).ok().flatten(),
    };
    // Trusted guests do not give way anyway.
    let pieces = match how.trusted {
        true => None,
        false => {
            let module = looping.as_deref().unwrap_or(module);
            bulk::rewritten(module).ok().flatten()
        }
    };
    pieces.or(looping).map_or(module.into(), Cow::Owned)
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
