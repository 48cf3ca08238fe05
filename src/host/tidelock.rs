//! `tidelock`: what Lunatic's interface lacks. `docs/abi.md` is its contract.
//!
//! Links which are acknowledged, spawning on any node with or without a link, monitors that stack, and the
//! reason somebody ended; and a process that keeps no stack while it waits.

use tidelock_proto::{ExitReason, NodeId, Pid};

use super::message::tag;
use super::process::{self, Described, Wanted, may_spawn, pid_of, wanted};
use super::state::{Handler, Held};
use super::{Call, Caller, Linker, Result, TIMED_OUT, deadline, sync, waits};
use crate::{LinkError, LinkForm, Refusal, SpawnError, SpawnRequest};

/// Bytes of one line to the log.
const LOG_BYTES_MAX: u32 = 1 << 10;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "tidelock";
        "demonitor" => demonitor(reference: u64);
        "died_pid" => died_pid();
        "died_ref" => died_ref();
        "exit_reason" => exit_reason(ptr: u32, len: u32);
        "exit_code" => exit_code();
        "node_of" => node_of(process: u64);
        "log" => log(ptr: u32, len: u32);
        "handle" => handle(name_ptr: u32, name_len: u32, function: u32, state: u64);
    }
    waits! { linker, "tidelock";
        "link" => link_to(process: u64, tag: i64, timeout: u64, error_ptr: u32);
        "unlink" => unlink(process: u64, timeout: u64);
        "spawn" => spawn(
            node: u64, link: i64, config: u64, module: u64, name_ptr: u32, name_len: u32,
            params_ptr: u32, params_len: u32, timeout: u64, id_ptr: u32
        );
        "monitor" => monitor(process: u64);
        "monitor_node" => monitor_node(node: u64);
    }
    Ok(())
}

// ---- links and monitors --------------------------------------------------------------------------------

/// 0: both halves are in place; 1: the process is gone, an error with the reason is at `error_ptr`; 9027:
/// timed out. After 1 and 9027 no link remains.
async fn link_to(
    mut call: Call<'_>,
    process: u64,
    raw: i64,
    timeout: u64,
    error_ptr: u32,
) -> Result<u32> {
    call.room("error_ptr", error_ptr, 8)?;
    let pid = pid_of(&mut call, process);
    let context = &mut call.state().context;
    match context
        .link(pid, tag(raw), LinkForm::Value, deadline(timeout))
        .await
    {
        Ok(()) => Ok(0),
        Err(LinkError::Ended(reason)) => {
            call.put_error("error_ptr", error_ptr, reason)?;
            Ok(1)
        }
        Err(LinkError::TimedOut) => Ok(TIMED_OUT),
    }
}

/// 0: both halves are gone; 9027: the other side has not confirmed yet, the unlink stands all the same.
async fn unlink(mut call: Call<'_>, process: u64, timeout: u64) -> Result<u32> {
    let pid = pid_of(&mut call, process);
    let unlinked = call.state().context.unlink(pid, deadline(timeout)).await;
    Ok(if unlinked.is_ok() { 0 } else { TIMED_OUT })
}

async fn monitor(mut call: Call<'_>, process: u64) -> Result<u64> {
    let pid = pid_of(&mut call, process);
    Ok(call.state().context.monitor(pid).await)
}

async fn monitor_node(mut call: Call<'_>, node: u64) -> Result<u64> {
    let node = node_named(&mut call, node)?;
    Ok(call.state().context.monitor_node(node).await)
}

fn demonitor(mut call: Call<'_>, reference: u64) -> Result<()> {
    call.state().context.demonitor(reference);
    Ok(())
}

/// A node by its number; 0 is the caller's.
fn node_named(call: &mut Call<'_>, node: u64) -> Result<NodeId> {
    match node {
        0 => Ok(call.state().context.pid().node()),
        node if node <= NodeId::MAX.0 => Ok(NodeId(node)),
        node => Err(call.trap(format_args!("node: {node} is no node"))),
    }
}

// ---- who ended and why ---------------------------------------------------------------------------------

const NO_END: &str = "the scratch slot holds no message about an end";

/// The process that ended; for a node (kind 3) its number.
fn died_pid(mut call: Call<'_>) -> Result<u64> {
    match &call.state().held {
        Some(Held::LinkDied { pid, .. } | Held::Down { pid, .. }) => Ok(pid.raw()),
        Some(Held::NodeDown { node, .. }) => Ok(node.0),
        _ => Err(call.trap(NO_END)),
    }
}

/// The monitor that told; 0 for a link.
fn died_ref(mut call: Call<'_>) -> Result<u64> {
    match &call.state().held {
        Some(Held::Down { reference, .. } | Held::NodeDown { reference, .. }) => Ok(*reference),
        Some(Held::LinkDied { .. }) => Ok(0),
        _ => Err(call.trap(NO_END)),
    }
}

/// What is read of the reason of the end in the slot.
fn reason<T>(call: &mut Call<'_>, read: impl FnOnce(&ExitReason) -> T) -> Result<T> {
    match &call.state().held {
        Some(
            Held::LinkDied { reason, .. }
            | Held::Down { reason, .. }
            | Held::NodeDown { reason, .. },
        ) => Ok(read(reason)),
        _ => Err(call.trap(NO_END)),
    }
}

/// Copies the text as far as it fits; its whole length.
fn exit_reason(mut call: Call<'_>, ptr: u32, len: u32) -> Result<u32> {
    let text = reason(&mut call, ToString::to_string)?;
    let copied = &text.as_bytes()[..text.len().min(len as usize)];
    call.put("ptr", ptr, copied)?;
    Ok(u32::try_from(text.len()).expect("reasons are bounded"))
}

fn exit_code(mut call: Call<'_>) -> Result<i32> {
    reason(&mut call, |reason| match reason {
        ExitReason::Killed(_) => 137,
        ExitReason::NoProcess => 254,
        ExitReason::NodeDown { .. } => 255,
        reason => reason.exit_code(),
    })
}

// ---- spawning ------------------------------------------------------------------------------------------

/// 0: the process id is at `id_ptr`. Else an error id is, and the code says whose move it is; the child did
/// not and will not run.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn spawn(
    mut call: Call<'_>,
    node: u64,
    link: i64,
    config: u64,
    module: u64,
    name_ptr: u32,
    name_len: u32,
    params_ptr: u32,
    params_len: u32,
    timeout: u64,
    id_ptr: u32,
) -> Result<u32> {
    call.room("id_ptr", id_ptr, 8)?;
    if let Err(not_permitted) = may_spawn(&mut call) {
        call.put_error("id_ptr", id_ptr, not_permitted)?;
        return Ok(5);
    }
    let node = node_named(&mut call, node)?;
    let described = Described {
        config,
        module,
        name: (["name_ptr", "name_len"], name_ptr, name_len),
        params: (params_ptr, params_len),
    };
    let Wanted {
        module,
        config,
        entry,
        params,
    } = wanted(&mut call, &described)?;
    let Some(module) = module else {
        call.put_error("id_ptr", id_ptr, "this process has no such module")?;
        return Ok(2);
    };
    let link = (link != -1).then(|| tag(link));
    let request = SpawnRequest {
        module,
        entry,
        params,
        config: Some(config),
        link,
    };
    match call
        .state()
        .context
        .spawn_on(node, request, deadline(timeout))
        .await
    {
        Ok(pid) => {
            call.put_u64("id_ptr", id_ptr, pid.raw())?;
            Ok(0)
        }
        Err(error) => {
            call.put_error("id_ptr", id_ptr, &error)?;
            Ok(spawn_code(&error))
        }
    }
}

fn spawn_code(error: &SpawnError) -> u32 {
    match error {
        SpawnError::Unreachable { .. } => 1,
        SpawnError::Refused(refusal) => match refusal {
            Refusal::NoModule(_) | Refusal::BadModule(_) => 2,
            Refusal::NoFunction(_) => 3,
            Refusal::NotPermitted(_) => 5,
            Refusal::OutOfMemory(_) => 6,
            // Full, draining, and whatever a later node refuses for: another node may take it.
            _ => 4,
        },
        SpawnError::TimedOut => TIMED_OUT,
    }
}

// ---- handlers ------------------------------------------------------------------------------------------

/// From the normal return of the entry on, the export is called with the kind of each thing received,
/// `function` and `state`, until it answers other than 0. The last call counts.
fn handle(
    mut call: Call<'_>,
    name_ptr: u32,
    name_len: u32,
    function: u32,
    state: u64,
) -> Result<()> {
    let name = process::name(&mut call, (["name_ptr", "name_len"], name_ptr, name_len))?;
    let export = call.caller.get_export(&name);
    let Some(export) = export.and_then(wasmtime::Extern::into_func) else {
        return Err(call.trap(format_args!("the module has no exported function {name:?}")));
    };
    let Ok(export) = export.typed(&call.caller) else {
        return Err(call.trap(format_args!("{name:?} is not (i32, i32, i64) -> i32")));
    };
    call.state().handler = Some(Handler {
        export,
        function,
        state,
    });
    Ok(())
}

// ---- the rest ------------------------------------------------------------------------------------------

/// The node of a process; 0 for numbers that are no process id.
fn node_of(_call: Call<'_>, process: u64) -> Result<u64> {
    Ok(Pid::from_raw(process).map_or(0, |pid| pid.node().0))
}

/// A line among the events of the node; what is longer is cut.
fn log(mut call: Call<'_>, ptr: u32, len: u32) -> Result<()> {
    let bytes = call.bytes("ptr", ptr, len.min(LOG_BYTES_MAX))?;
    let line = tidelock_proto::bounded(String::from_utf8_lossy(bytes).into_owned());
    let context = &call.state().context;
    context.environment().said(context.pid(), line);
    Ok(())
}
