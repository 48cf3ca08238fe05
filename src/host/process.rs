//! `lunatic::process`: modules, configurations, spawning, links, monitors.

use std::sync::Arc;

use bytes::Bytes;
use tidelock_proto::Pid;
use tidelock_proto::spawn::ProcessConfig;

use super::registry::FULL;
use super::{Call, Caller, Linker, Result, deadline, message, sync, waits};
use crate::registry::Named as Registered;
use crate::wasm::{AT_ONCE_BYTES_MAX, MODULE_BYTES_MAX, Whose};
use crate::{LinkForm, Module, ModuleError, Param, SpawnRequest};

/// "My own" on the interface: the caller's configuration, the caller's module.
const MINE: u64 = u64::MAX;
/// Bytes of one spawn parameter: its type and 128 bits.
const PARAM_BYTES: usize = 17;
/// Parameters of one spawn.
const PARAMS_MAX: usize = 256;
/// Bytes of the name of a function or of a process.
pub(super) const NAME_BYTES_MAX: u32 = 4096;
/// Instructions per unit of fuel are counted in u64.
const NO_LIMIT: u64 = 0;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    sync! { linker, "lunatic::process";
        "drop_module" => drop_module(id: u64);
        "create_config" => create_config();
        "drop_config" => drop_config(id: u64);
        "config_set_max_memory" => set_max_memory(id: u64, bytes: u64);
        "config_get_max_memory" => get_max_memory(id: u64);
        "config_set_max_fuel" => set_max_fuel(id: u64, units: u64);
        "config_get_max_fuel" => get_max_fuel(id: u64);
        "config_set_can_compile_modules" => set_can_compile(id: u64, can: u32);
        "config_can_compile_modules" => get_can_compile(id: u64);
        "config_set_can_create_configs" => set_can_configure(id: u64, can: u32);
        "config_can_create_configs" => get_can_configure(id: u64);
        "config_set_can_spawn_processes" => set_can_spawn(id: u64, can: u32);
        "config_can_spawn_processes" => get_can_spawn(id: u64);
        "die_when_link_dies" => die_when_link_dies(die: u32);
        "process_id" => process_id();
        "environment_id" => environment_id();
        "stop_monitoring" => stop_monitoring(process: u64);
        "spawn" => spawn(
            link: i64, config: u64, module: u64, name_ptr: u32, name_len: u32,
            params_ptr: u32, params_len: u32, id_ptr: u32
        );
        "get_or_spawn" => get_or_spawn(
            name_ptr: u32, name_len: u32, link: i64, config: u64, module: u64, func_ptr: u32,
            func_len: u32, params_ptr: u32, params_len: u32, node_ptr: u32, id_ptr: u32
        );
    }
    waits! { linker, "lunatic::process";
        "compile_module" => compile_module(ptr: u32, len: u32, id_ptr: u32);
        "sleep_ms" => sleep_ms(ms: u64);
        "link" => link_to(tag: i64, process: u64);
        "unlink" => unlink(process: u64);
        "monitor" => monitor(process: u64);
        "kill" => kill(process: u64);
        "exists" => exists(process: u64);
    }
    Ok(())
}

// ---- modules and configurations ------------------------------------------------------------------------

/// 0: the id of the module is at `id_ptr`; 1: the id of an error is; -1: not permitted.
async fn compile_module(mut call: Call<'_>, ptr: u32, len: u32, id_ptr: u32) -> Result<i32> {
    if !call.state().context.config().can_compile_modules {
        return Ok(-1);
    }
    call.room("id_ptr", id_ptr, 8)?;
    match compiled(&mut call, ptr, len).await? {
        Ok(module) => {
            let id = call
                .state()
                .modules
                .insert(module)
                .map_err(|full| call.trap(full))?;
            call.put_u64("id_ptr", id_ptr, id)?;
            Ok(0)
        }
        Err(error) => {
            call.put_error("id_ptr", id_ptr, error)?;
            Ok(1)
        }
    }
}

/// Compiles bytes of the guest. Too many are refused before they are looked at.
async fn compiled(
    call: &mut Call<'_>,
    ptr: u32,
    len: u32,
) -> Result<std::result::Result<Module, ModuleError>> {
    let bytes = len as usize;
    if bytes > MODULE_BYTES_MAX {
        return Ok(Err(ModuleError::TooLarge {
            bytes,
            of: "",
            max: MODULE_BYTES_MAX,
        }));
    }
    call.bytes("data_ptr", ptr, len)?;
    if let Err(full) = call.state().modules.check_room(bytes) {
        return Ok(Err(ModuleError::Full(full)));
    }
    let context = &call.state().context;
    let (engine, whose) = (
        context.environment().engine().clone(),
        Whose::Tenant(context.environ()),
    );
    // Those that wait for their tenant's turn do not hold a copy of a large one each.
    let turn = match bytes > AT_ONCE_BYTES_MAX {
        true => Some(engine.own_turn(whose).await),
        false => None,
    };
    let bytes = Bytes::copy_from_slice(call.bytes("data_ptr", ptr, len)?);
    Ok(Module::compile_for(&engine, whose, turn, bytes).await)
}

fn drop_module(mut call: Call<'_>, id: u64) -> Result<()> {
    match call.state().modules.remove(id) {
        Some(_) => Ok(()),
        None => Err(call.trap(format_args!("no module {id}"))),
    }
}

/// Nothing is allowed in a new configuration, and no limit is wider than the caller's. -1: not permitted.
fn create_config(mut call: Call<'_>) -> Result<i64> {
    let mine = call.state().context.config().clone();
    if !mine.can_create_configs {
        return Ok(-1);
    }
    let config = ProcessConfig {
        args: Vec::new(),
        env: Vec::new(),
        preopens: Vec::new(),
        memory_bytes_max: mine.memory_bytes_max,
        fuel_max: mine.fuel_max,
        can_compile_modules: false,
        can_create_configs: false,
        can_spawn_processes: false,
    };
    let id = call
        .state()
        .configs
        .insert(Arc::new(config))
        .map_err(|full| call.trap(full))?;
    Ok(id as i64)
}

fn drop_config(mut call: Call<'_>, id: u64) -> Result<()> {
    config(&mut call, id)?;
    let state = call.state();
    if let Some(dropped) = state.configs.remove(id) {
        state.configs_bytes -= dropped.text_bytes();
    }
    Ok(())
}

/// A configuration the caller made.
pub(super) fn config<'a>(call: &'a mut Call<'_>, id: u64) -> Result<&'a Arc<ProcessConfig>> {
    if call.state().configs.get(id).is_none() {
        return Err(call.trap(format_args!("no config {id}")));
    }
    Ok(call.state().configs.get(id).expect("checked above"))
}

/// As [`config`], to be changed. Whoever was spawned with it keeps what it was.
pub(super) fn config_mut<'a>(call: &'a mut Call<'_>, id: u64) -> Result<&'a mut ProcessConfig> {
    config(call, id)?;
    let config = call.state().configs.get_mut(id).expect("checked above");
    Ok(Arc::make_mut(config))
}

fn set_max_memory(mut call: Call<'_>, id: u64, bytes: u64) -> Result<()> {
    let mine = call.state().context.config().memory_bytes_max;
    config_mut(&mut call, id)?.memory_bytes_max = bytes.min(mine);
    Ok(())
}

fn get_max_memory(mut call: Call<'_>, id: u64) -> Result<u64> {
    Ok(config(&mut call, id)?.memory_bytes_max)
}

fn set_max_fuel(mut call: Call<'_>, id: u64, units: u64) -> Result<()> {
    let mine = call.state().context.config().fuel_max;
    let asked = (units != NO_LIMIT).then_some(units);
    config_mut(&mut call, id)?.fuel_max = match (asked, mine) {
        (Some(asked), Some(mine)) => Some(asked.min(mine)),
        (asked, mine) => asked.or(mine),
    };
    Ok(())
}

fn get_max_fuel(mut call: Call<'_>, id: u64) -> Result<u64> {
    Ok(config(&mut call, id)?.fuel_max.unwrap_or(NO_LIMIT))
}

fn set_can_compile(mut call: Call<'_>, id: u64, can: u32) -> Result<()> {
    let mine = call.state().context.config().can_compile_modules;
    config_mut(&mut call, id)?.can_compile_modules = can != 0 && mine;
    Ok(())
}

fn get_can_compile(mut call: Call<'_>, id: u64) -> Result<u32> {
    Ok(u32::from(config(&mut call, id)?.can_compile_modules))
}

fn set_can_configure(mut call: Call<'_>, id: u64, can: u32) -> Result<()> {
    let mine = call.state().context.config().can_create_configs;
    config_mut(&mut call, id)?.can_create_configs = can != 0 && mine;
    Ok(())
}

fn get_can_configure(mut call: Call<'_>, id: u64) -> Result<u32> {
    Ok(u32::from(config(&mut call, id)?.can_create_configs))
}

fn set_can_spawn(mut call: Call<'_>, id: u64, can: u32) -> Result<()> {
    let mine = call.state().context.config().can_spawn_processes;
    config_mut(&mut call, id)?.can_spawn_processes = can != 0 && mine;
    Ok(())
}

fn get_can_spawn(mut call: Call<'_>, id: u64) -> Result<u32> {
    Ok(u32::from(config(&mut call, id)?.can_spawn_processes))
}

// ---- spawning ------------------------------------------------------------------------------------------

/// What the guest asked to have spawned.
pub(super) struct Wanted {
    pub(super) module: Option<Module>,
    pub(super) config: Arc<ProcessConfig>,
    pub(super) entry: String,
    pub(super) params: Vec<Param>,
}

/// Where a name lies in the guest's memory, behind what its two arguments are called.
pub(super) type Named = ([&'static str; 2], u32, u32);

/// Where the description of a new process lies in the guest's memory.
pub(super) struct Described {
    pub(super) config: u64,
    pub(super) module: u64,
    pub(super) name: Named,
    pub(super) params: (u32, u32),
}

/// Reads the description; `module` is None for an unknown module.
pub(super) fn wanted(call: &mut Call<'_>, described: &Described) -> Result<Wanted> {
    let config = match described.config {
        MINE => call.state().context.config().clone(),
        id => config(call, id)?.clone(),
    };
    let module = match described.module {
        MINE => Some(call.state().module().clone()),
        id => call.state().modules.get(id).cloned(),
    };
    let entry = name(call, described.name)?;
    let params = params(call, described.params)?;
    Ok(Wanted {
        module,
        config,
        entry,
        params,
    })
}

/// A name of a function or of a process.
pub(super) fn name(call: &mut Call<'_>, ([at, length], ptr, len): Named) -> Result<String> {
    if len > NAME_BYTES_MAX {
        return Err(call.trap(format_args!("{length}: more than {NAME_BYTES_MAX} bytes")));
    }
    call.text(at, ptr, len)
}

fn params(call: &mut Call<'_>, (ptr, len): (u32, u32)) -> Result<Vec<Param>> {
    let bytes = len as usize;
    if !bytes.is_multiple_of(PARAM_BYTES) || bytes > PARAMS_MAX * PARAM_BYTES {
        let text = format_args!("params_len: {len} is not {PARAM_BYTES} times 0 to {PARAMS_MAX}");
        return Err(call.trap(text));
    }
    let (records, _) = call
        .bytes("params_ptr", ptr, len)?
        .as_chunks::<PARAM_BYTES>();
    let decoded: Vec<_> = records.iter().map(param).collect();
    decoded
        .into_iter()
        .collect::<std::result::Result<_, u8>>()
        .map_err(|kind| {
            call.trap(format_args!(
                "params_ptr: {kind:#04x} is no type of a parameter"
            ))
        })
}

fn param(record: &[u8; PARAM_BYTES]) -> std::result::Result<Param, u8> {
    let (kind, value) = (record[0], &record[1..]);
    let value = u128::from_le_bytes(
        value
            .try_into()
            .expect("a record holds 16 bytes after its type"),
    );
    match kind {
        0x7F => Ok(Param::I32(value as i32)),
        0x7E => Ok(Param::I64(value as i64)),
        0x7B => Ok(Param::V128(value)),
        kind => Err(kind),
    }
}

/// Checks that this process may spawn, now.
pub(super) fn may_spawn(call: &mut Call<'_>) -> Result<()> {
    if !call.state().is_instantiated() {
        return Err(call.trap("a start function cannot spawn"));
    }
    if !call.state().context.config().can_spawn_processes {
        return Err(call.trap("this process may not spawn"));
    }
    Ok(())
}

/// With a function that does not exist the child starts, and fails at once, as Lunatic promises.
fn request(call: &mut Call<'_>, wanted: Wanted, link: i64) -> Result<SpawnRequest> {
    let Some(module) = wanted.module else {
        return Err(call.trap("module: no such module"));
    };
    let link = message::tag(link).map(Some);
    let Wanted {
        config,
        entry,
        params,
        ..
    } = wanted;
    Ok(SpawnRequest {
        module,
        entry,
        params,
        config: Some(config),
        link,
    })
}

#[expect(clippy::too_many_arguments, reason = "the interface has them")]
fn spawn(
    mut call: Call<'_>,
    link: i64,
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
    let described = Described {
        config,
        module,
        name: (["name_ptr", "name_len"], name_ptr, name_len),
        params: (params_ptr, params_len),
    };
    let wanted = wanted(&mut call, &described)?;
    let request = request(&mut call, wanted, link)?;
    match call.state().context.spawn(request) {
        Ok(pid) => {
            call.put_u64("id_ptr", id_ptr, pid.raw())?;
            Ok(0)
        }
        Err(error) => {
            call.put_error("id_ptr", id_ptr, error)?;
            Ok(1)
        }
    }
}

/// 0: spawned; 2: whoever has the name was found, for which no permission is needed; 1: the id of an error is at `id_ptr`.
#[expect(clippy::too_many_arguments, reason = "the interface has them")]
fn get_or_spawn(
    mut call: Call<'_>,
    name_ptr: u32,
    name_len: u32,
    link: i64,
    config: u64,
    module: u64,
    func_ptr: u32,
    func_len: u32,
    params_ptr: u32,
    params_len: u32,
    node_ptr: u32,
    id_ptr: u32,
) -> Result<u32> {
    call.room("node_id_ptr", node_ptr, 8)?;
    call.room("id_ptr", id_ptr, 8)?;
    let name = name(&mut call, (["name_ptr", "name_len"], name_ptr, name_len))?;
    let described = Described {
        config,
        module,
        name: (["func_ptr", "func_len"], func_ptr, func_len),
        params: (params_ptr, params_len),
    };
    let wanted = wanted(&mut call, &described)?;
    let context = &call.state().context;
    let registry = context.environment().registry();
    let named = match registry.find(context.environ(), &name) {
        Some((node, process)) => Ok(Registered::Before(node, process)),
        None => {
            may_spawn(&mut call)?;
            let request = request(&mut call, wanted, link)?;
            call.state().context.spawn_named(&name, request)
        }
    };
    let (code, node, process) = match named {
        Ok(Registered::Now(node, process)) => (0, node, process),
        Ok(Registered::Before(node, process)) => (2, node, process),
        Ok(Registered::Nobody) => return Err(call.trap(FULL)),
        Err(error) => {
            call.put_error("id_ptr", id_ptr, error)?;
            return Ok(1);
        }
    };
    call.put_u64("node_id_ptr", node_ptr, node)?;
    call.put_u64("id_ptr", id_ptr, process)?;
    Ok(code)
}

// ---- itself and others ---------------------------------------------------------------------------------

async fn sleep_ms(_call: Call<'_>, ms: u64) -> Result<()> {
    match deadline(ms) {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
    Ok(())
}

fn die_when_link_dies(mut call: Call<'_>, die: u32) -> Result<()> {
    call.state().context.set_die_when_link_dies(die != 0);
    Ok(())
}

fn process_id(mut call: Call<'_>) -> Result<u64> {
    Ok(call.state().context.pid().raw())
}

/// Guests see one environment, their own.
fn environment_id(_call: Call<'_>) -> Result<u64> {
    Ok(1)
}

/// The process a number names. Numbers that are no pid name a process which never was.
pub(super) fn pid_of(call: &mut Call<'_>, raw: u64) -> Pid {
    Pid::from_raw(raw).unwrap_or_else(|| {
        let node = call.state().context.pid().node();
        Pid::new(node, Pid::LOCAL_MAX).expect("the last number of a node is a pid")
    })
}

async fn link_to(mut call: Call<'_>, tag: i64, process: u64) -> Result<()> {
    let pid = pid_of(&mut call, process);
    let context = &mut call.state().context;
    // In this form the end of the other process is told as a message or by ending this one.
    let _ = context
        .link(pid, message::tag(tag), LinkForm::Notice, None)
        .await;
    Ok(())
}

async fn unlink(mut call: Call<'_>, process: u64) -> Result<()> {
    let pid = pid_of(&mut call, process);
    // Without a deadline it cannot time out.
    let _ = call.state().context.unlink(pid, None).await;
    Ok(())
}

async fn monitor(mut call: Call<'_>, process: u64) -> Result<()> {
    let pid = pid_of(&mut call, process);
    call.state().context.monitor_once(pid).await;
    Ok(())
}

fn stop_monitoring(mut call: Call<'_>, process: u64) -> Result<()> {
    let pid = pid_of(&mut call, process);
    call.state().context.stop_monitoring(pid);
    Ok(())
}

async fn kill(mut call: Call<'_>, process: u64) -> Result<()> {
    let pid = pid_of(&mut call, process);
    call.state().context.kill(pid).await;
    Ok(())
}

async fn exists(mut call: Call<'_>, process: u64) -> Result<u32> {
    let Some(pid) = Pid::from_raw(process) else {
        return Ok(0);
    };
    Ok(u32::from(call.state().context.exists(pid).await))
}
