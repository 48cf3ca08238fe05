//! `lunatic::registry`: names of processes, shared by all processes of a tenant on this node.

use super::{Call, Caller, Linker, Result, process, sync};

/// What ends a process that would give one name more than there may be.
pub(super) const FULL: &str = "too many names are registered";

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::registry";
        "put" => put(name_ptr: u32, name_len: u32, node: u64, process: u64);
        "get" => get(name_ptr: u32, name_len: u32, node_ptr: u32, process_ptr: u32);
        "remove" => remove(name_ptr: u32, name_len: u32);
    }
    Ok(())
}

/// Overwrites. Nobody checks that the process lives.
fn put(mut call: Call<'_>, name_ptr: u32, name_len: u32, node: u64, process: u64) -> Result<()> {
    let name = process::name(&mut call, (["name_ptr", "name_len"], name_ptr, name_len))?;
    let context = &call.state().context;
    let registry = context.environment().registry();
    if registry.put(context.environ(), &name, node, process) {
        return Ok(());
    }
    Err(call.trap(FULL))
}

/// 0: found, node and process written; 1: not found.
fn get(
    mut call: Call<'_>,
    name_ptr: u32,
    name_len: u32,
    node_ptr: u32,
    process_ptr: u32,
) -> Result<u32> {
    let name = process::name(&mut call, (["name_ptr", "name_len"], name_ptr, name_len))?;
    let context = &call.state().context;
    let registry = context.environment().registry();
    let Some((node, process)) = registry.find(context.environ(), &name) else {
        return Ok(1);
    };
    call.put_u64("node_ptr", node_ptr, node)?;
    call.put_u64("process_ptr", process_ptr, process)?;
    Ok(0)
}

fn remove(mut call: Call<'_>, name_ptr: u32, name_len: u32) -> Result<()> {
    let name = process::name(&mut call, (["name_ptr", "name_len"], name_ptr, name_len))?;
    let context = &call.state().context;
    let registry = context.environment().registry();
    registry.remove(context.environ(), &name);
    Ok(())
}
