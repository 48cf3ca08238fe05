//! `lunatic::version`: the interface offered here is that of Lunatic 0.13.2.

use super::{Linker, Result};

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    linker.func_wrap("lunatic::version", "major", || 0u32)?;
    linker.func_wrap("lunatic::version", "minor", || 13u32)?;
    linker.func_wrap("lunatic::version", "patch", || 2u32)?;
    Ok(())
}
