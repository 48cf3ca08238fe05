//! `lunatic::error`: the texts behind error ids.

use super::{Call, Caller, Linker, Result, sync};

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::error";
        "string_size" => string_size(id: u64);
        "to_string" => to_string(id: u64, ptr: u32);
        "drop" => forget(id: u64);
    }
    Ok(())
}

fn text(call: &mut Call<'_>, id: u64) -> Result<String> {
    let text = call.state().errors.get(id).cloned();
    text.ok_or_else(|| call.trap(format_args!("no error {id}")))
}

fn string_size(mut call: Call<'_>, id: u64) -> Result<u32> {
    let text = text(&mut call, id)?;
    Ok(u32::try_from(text.len()).expect("texts are bounded"))
}

fn to_string(mut call: Call<'_>, id: u64, ptr: u32) -> Result<()> {
    let text = text(&mut call, id)?;
    call.put("ptr", ptr, text.as_bytes())
}

fn forget(mut call: Call<'_>, id: u64) -> Result<()> {
    match call.state().errors.remove(id) {
        Some(_) => Ok(()),
        None => Err(call.trap(format_args!("no error {id}"))),
    }
}
