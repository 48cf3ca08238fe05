//! Imports that link but do nothing yet: calling one traps, and says so.
//!
//! The only list of them. Whoever writes one of these functions takes its row out.

use wasmtime::{Error, FuncType, ValType};

use super::{Linker, Result};

/// Namespace, name, parameters and result; one letter per value: `i` i32, `l` i64.
const MISSING: &[(&str, &str, &str, &str)] = &[
    (
        "lunatic::distributed",
        "default_server_certificates",
        "iiiii",
        "i",
    ),
    ("lunatic::distributed", "sign_node", "iiiiiii", "i"),
    ("lunatic::distributed", "test_root_cert", "i", "i"),
];

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    for &(space, name, params, result) in MISSING {
        let ty = FuncType::new(linker.engine(), values(params), values(result));
        linker.func_new(space, name, ty, move |_, _, _| {
            Err(Error::msg(format!(
                "{space}::{name}: not available in this build"
            )))
        })?;
    }
    Ok(())
}

fn values(letters: &str) -> impl Iterator<Item = ValType> {
    letters.bytes().map(|letter| {
        if letter == b'i' {
            ValType::I32
        } else {
            ValType::I64
        }
    })
}
