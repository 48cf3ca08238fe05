//! `lunatic::distributed`: nodes, spawning on them, sending to their processes.
//!
//! A remote failure is a code here, never a trap. Since process ids are global, the sending functions do the
//! same as those of `lunatic::message`; the node in front of the id is not looked at.

use tidelock_proto::NodeId;

use super::message::{deliver, send_receive_skip_search, take};
use super::process::{Described, Wanted, may_spawn, wanted};
use super::{Call, Caller, Linker, Result, TIMED_OUT, deadline, sync, waits};
use crate::{Refusal, SpawnError, SpawnRequest};

/// How long an unlinked spawn waits for the other node.
const SPAWN_TIMEOUT_MS: u64 = 30_000;
/// Bytes of a query for nodes.
const QUERY_BYTES_MAX: u32 = 4096;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::distributed";
        "nodes_count" => nodes_count();
        "get_nodes" => get_nodes(ptr: u32, len: u32);
        "node_id" => node_id();
        "module_id" => module_id();
        "exec_lookup_nodes" =>
            exec_lookup_nodes(query_ptr: u32, query_len: u32, id_ptr: u32, count_ptr: u32, error_ptr: u32);
        "copy_lookup_nodes_results" =>
            copy_lookup_nodes_results(query: u64, ptr: u32, len: u32, error_ptr: u32);
    }
    waits! { linker, "lunatic::distributed";
        "spawn" => spawn(
            node: u64, config: u64, module: u64, name_ptr: u32, name_len: u32,
            params_ptr: u32, params_len: u32, id_ptr: u32
        );
        "send" => send(node: u64, process: u64);
        "send_receive_skip_search" => request(node: u64, process: u64, tag: i64, timeout: u64);
    }
    Ok(())
}

/// The nodes of the cluster, this one included; none without a cluster.
fn nodes(call: &mut Call<'_>) -> Vec<u64> {
    let context = &call.state().context;
    if context.environment().remote().is_none() {
        return Vec::new();
    }
    context.nodes().into_iter().map(|node| node.0).collect()
}

fn nodes_count(mut call: Call<'_>) -> Result<u32> {
    Ok(nodes(&mut call).len() as u32)
}

/// Writes up to `len` ids; how many were written.
fn get_nodes(mut call: Call<'_>, ptr: u32, len: u32) -> Result<u32> {
    let nodes = nodes(&mut call);
    copy(&mut call, &nodes, ptr, len)
}

fn copy(call: &mut Call<'_>, nodes: &[u64], ptr: u32, len: u32) -> Result<u32> {
    let count = nodes.len().min(len as usize);
    let bytes: Vec<u8> = nodes[..count]
        .iter()
        .flat_map(|node| node.to_le_bytes())
        .collect();
    call.put("ptr", ptr, &bytes)?;
    Ok(count as u32)
}

fn node_id(mut call: Call<'_>) -> Result<u64> {
    Ok(call.state().context.pid().node().0)
}

/// Names the caller's module in the cluster; 0 without one.
fn module_id(mut call: Call<'_>) -> Result<u64> {
    let alone = call.state().context.environment().remote().is_none();
    Ok(if alone {
        0
    } else {
        call.state().module().hash().module_id()
    })
}

/// Finds the nodes that have every tag of a query such as `region=eu&gpu=yes`; the empty one finds all. 0: the
/// query's id and the number of nodes are written; 1: an error id is.
fn exec_lookup_nodes(
    mut call: Call<'_>,
    query_ptr: u32,
    query_len: u32,
    id_ptr: u32,
    count_ptr: u32,
    error_ptr: u32,
) -> Result<u32> {
    call.room("query_id_ptr", id_ptr, 8)?;
    call.room("nodes_len_ptr", count_ptr, 4)?;
    if query_len > QUERY_BYTES_MAX {
        call.put_error(
            "error_ptr",
            error_ptr,
            format!("a query has at most {QUERY_BYTES_MAX} bytes"),
        )?;
        return Ok(1);
    }
    let query = call.bytes("query_ptr", query_ptr, query_len)?;
    let tags: Vec<_> = form_urlencoded::parse(query).into_owned().collect();
    let found = call.state().context.nodes_with(&tags);
    let found: Vec<u64> = found.into_iter().map(|node| node.0).collect();
    let count = found.len() as u32;
    let id = call
        .state()
        .lookups
        .insert(found)
        .map_err(|full| call.trap(full))?;
    call.put_u64("query_id_ptr", id_ptr, id)?;
    call.put_u32("nodes_len_ptr", count_ptr, count)?;
    Ok(0)
}

/// How many ids were copied; -1: no such query, error id at `error_ptr`.
fn copy_lookup_nodes_results(
    mut call: Call<'_>,
    query: u64,
    ptr: u32,
    len: u32,
    error_ptr: u32,
) -> Result<i32> {
    match call.state().lookups.remove(query) {
        Some(found) => Ok(copy(&mut call, &found, ptr, len)? as i32),
        None => {
            call.put_error("error_ptr", error_ptr, format!("no query {query}"))?;
            Ok(-1)
        }
    }
}

/// 0: the process id is at `id_ptr`. Else an error id is, and: 1 no such node, 2 no such module, 9027
/// anything else.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
async fn spawn(
    mut call: Call<'_>,
    node: u64,
    config: u64,
    module: u64,
    name_ptr: u32,
    name_len: u32,
    params_ptr: u32,
    params_len: u32,
    id_ptr: u32,
) -> Result<u32> {
    may_spawn(&mut call)?;
    call.room("id_ptr", id_ptr, 8)?;
    // The module is named by its cluster id here (0: the caller's own), not by one of the caller's.
    let described = Described {
        config,
        module: u64::MAX,
        name: (["name_ptr", "name_len"], name_ptr, name_len),
        params: (params_ptr, params_len),
    };
    let wanted = wanted(&mut call, &described)?;
    let mine = call.state().module().clone();
    let found = if module == 0 || module == mine.hash().module_id() {
        Some(mine)
    } else {
        let kept = call.state().context.environment().modules().all();
        kept.into_iter()
            .find(|kept| kept.hash().module_id() == module)
    };
    let Some(module) = found else {
        call.put_error("id_ptr", id_ptr, format!("no module {module} on this node"))?;
        return Ok(2);
    };
    let Wanted {
        config,
        entry,
        params,
        ..
    } = wanted;
    let request = SpawnRequest {
        module,
        entry,
        params,
        config: Some(config),
        link: None,
    };
    let until = deadline(SPAWN_TIMEOUT_MS);
    match call
        .state()
        .context
        .spawn_on(NodeId(node), request, until)
        .await
    {
        Ok(pid) => {
            call.put_u64("id_ptr", id_ptr, pid.raw())?;
            Ok(0)
        }
        Err(error) => {
            let code = match &error {
                SpawnError::Unreachable { .. } => 1,
                SpawnError::Refused(Refusal::NoModule(_)) => 2,
                _ => TIMED_OUT,
            };
            call.put_error("id_ptr", id_ptr, error)?;
            Ok(code)
        }
    }
}

/// 0: sent; 2: its node cannot be reached.
async fn send(mut call: Call<'_>, _node: u64, process: u64) -> Result<u32> {
    let message = take(&mut call)?;
    Ok(if deliver(&mut call, process, message).await? {
        0
    } else {
        2
    })
}

async fn request(call: Call<'_>, _node: u64, process: u64, tag: i64, timeout: u64) -> Result<u32> {
    send_receive_skip_search(call, process, tag, timeout).await
}
