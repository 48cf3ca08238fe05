//! WASI preview 1 for one process, and `lunatic::wasi`, which configures that of a child.
//!
//! A process has the arguments, variables and directories of its configuration and nothing else of the host.
//! Its WASI context is made at its first WASI call: most processes of a large program never make one.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use tidelock_proto::bounded;
use tidelock_proto::spawn::ProcessConfig;
use tidelock_proto::wire::CONTROL_BYTES_MAX;
use wasmtime::{Config, Engine, Error, Store, WasmBacktrace};
use wasmtime_wasi::clocks::MonotonicClock;
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_async};
use wasmtime_wasi::{FsPerms, HostMonotonicClock, I32Exit, WasiCtxBuilder};

use super::output::{LineStream, RATE_BYTES, Sink};
use super::{Call, Caller, Linker, Result, State, Stdio, process, sync, waits};
use crate::{Context, OutputLine, Stream};

/// Arguments or variables of one configuration, and bytes of each.
const ENTRIES_MAX: usize = 1024;
const ENTRY_BYTES_MAX: u32 = 64 << 10;
/// Bytes of all texts of one configuration, as [`ProcessConfig::text_bytes`] counts them: so many that a request for a
/// process on another node always holds them, and the longest name and parameters.
const CONFIG_BYTES_MAX: usize = CONTROL_BYTES_MAX - (32 << 10);
/// Bytes of the texts of all configurations that one process has made and not dropped.
const CONFIGS_BYTES_MAX: usize = 16 << 20;

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    add_to_linker_async(linker, State::wasi)?;
    // The guest library's hash maps ask for their keys, and its programs for the time, in processes that
    // need nothing else of WASI.
    linker.allow_shadowing(true);
    sync! { linker, "wasi_snapshot_preview1";
        "random_get" => random_get(ptr: u32, len: u32);
        "clock_time_get" => clock_time_get(clock: u32, precision: u64, time_ptr: u32);
        "proc_exit" => proc_exit(code: u32);
    }
    waits! { linker, "wasi_snapshot_preview1";
        "sched_yield" => sched_yield();
    }
    linker.allow_shadowing(false);
    sync! { linker, "lunatic::wasi";
        "config_add_environment_variable" =>
            add_variable(config: u64, key_ptr: u32, key_len: u32, val_ptr: u32, val_len: u32);
        "config_add_command_line_argument" => add_argument(config: u64, ptr: u32, len: u32);
        "config_preopen_dir" => preopen_dir(config: u64, ptr: u32, len: u32);
    }
    Ok(())
}

/// Lets every process that is ready run first. One that was woken by this one waits for it otherwise, up to a tick.
async fn sched_yield(_call: Call<'_>) -> Result<u32> {
    tokio::task::yield_now().await;
    Ok(0)
}

/// Random bytes of one call: filling more would hold up others.
const RANDOM_BYTES_MAX: u32 = 16 << 20;

/// Bytes from the generator that WASI contexts use, too: seeded by the system, safe for keys.
fn random_get(mut call: Call<'_>, ptr: u32, len: u32) -> Result<u32> {
    const INVALID: u32 = 28;
    if len > RANDOM_BYTES_MAX {
        return Ok(INVALID);
    }
    let range = ptr as usize..ptr as usize + len as usize;
    let Some(place) = call.parts()?.0.get_mut(range) else {
        return Err(call.outside("ptr", ptr, u64::from(len)));
    };
    wasmtime_wasi::thread_rng().fill_bytes(place);
    Ok(0)
}

/// Wall-clock time, or the time since the first process of this node asked for it; no other clock.
fn clock_time_get(mut call: Call<'_>, clock: u32, _precision: u64, time_ptr: u32) -> Result<u32> {
    const BAD_CLOCK: u32 = 8;
    let since = match clock {
        // Before 1970 there was no such machine.
        0 => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
        1 => START.elapsed(),
        _ => return Ok(BAD_CLOCK),
    };
    call.put_u64("time_ptr", time_ptr, nanoseconds(since))?;
    Ok(0)
}

/// When the first process of this node asked for the time.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The clock that WASI contexts wait by: what it shows is what `clock_time_get` answers.
struct SinceStart;

impl HostMonotonicClock for SinceStart {
    fn resolution(&self) -> u64 {
        MonotonicClock::new().resolution()
    }

    fn now(&self) -> u64 {
        nanoseconds(START.elapsed())
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn proc_exit(_call: Call<'_>, code: u32) -> Result<()> {
    Err(Error::from(I32Exit(code.cast_signed())).context(nowhere()))
}

/// A backtrace without frames. wasmtime walks the stack for each error that comes without any, and looks its
/// functions up; nobody asks where a process has called `proc_exit`.
fn nowhere() -> WasmBacktrace {
    static OF_NONE: LazyLock<Store<()>> = LazyLock::new(|| {
        let mut config = Config::new();
        config.wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).expect("nothing else is asked for");
        Store::new(&engine, ())
    });
    WasmBacktrace::capture(&*OF_NONE)
}

impl State {
    fn wasi(&mut self) -> &mut WasiP1Ctx {
        let Self { wasi, context, .. } = self;
        wasi.get_or_insert_with(|| {
            let stdio = context.environment().stdio();
            Box::new(build(context, stdio))
        })
    }
}

fn build(context: &Context, stdio: Stdio) -> WasiP1Ctx {
    let (config, pid, environment) = (context.config(), context.pid(), context.environment());
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(&config.args).envs(&config.env);
    let lines = |stream, rate| {
        let environment = environment.clone();
        let sink: Sink = std::sync::Arc::new(move |line, ended| {
            environment.wrote(OutputLine {
                pid,
                stream,
                line,
                ended,
            });
        });
        LineStream { sink, rate }
    };
    match stdio {
        Stdio::Lines | Stdio::AllLines => {
            let rate = (stdio == Stdio::Lines).then_some(RATE_BYTES);
            wasi.stdout(lines(Stream::Stdout, rate))
                .stderr(lines(Stream::Stderr, rate));
        }
        Stdio::Inherit => {
            wasi.inherit_stdio();
        }
    }
    wasi.monotonic_clock(SinceStart);
    for dir in &config.preopens {
        let opened = environment.directories().open(dir, context.origin());
        let opened = opened.map_err(Error::from);
        let given = opened.and_then(|opened| {
            let given = wasi.preopened_dir(opened.path(), dir, FsPerms::ReadWrite);
            given.map(drop)
        });
        if let Err(error) = given {
            // As on any system where a directory vanished: the program finds it missing.
            tracing::warn!(%pid, %dir, %error, "directory cannot be opened for the process");
        }
    }
    wasi.build_p1()
}

// ---- lunatic::wasi -------------------------------------------------------------------------------------

fn entry(call: &mut Call<'_>, arg: &str, ptr: u32, len: u32) -> Result<String> {
    if len > ENTRY_BYTES_MAX {
        return Err(call.trap(format_args!("{arg}: more than {ENTRY_BYTES_MAX} bytes")));
    }
    let text = call.text(arg, ptr, len)?;
    if text.contains('\0') {
        return Err(call.trap(format_args!("{arg}: contains a zero byte")));
    }
    Ok(text)
}

/// Takes room for more texts of a configuration; traps if it has too many bytes of them, or all of the caller's have.
fn take_room(call: &mut Call<'_>, config: u64, texts: &[&str]) -> Result<()> {
    let more: usize = texts.iter().map(|text| ProcessConfig::bytes_of(text)).sum();
    if process::config(call, config)?.text_bytes() + more > CONFIG_BYTES_MAX {
        let text = format_args!("a config has at most {CONFIG_BYTES_MAX} bytes of texts");
        return Err(call.trap(text));
    }
    let state = call.state();
    if state.configs_bytes + more > CONFIGS_BYTES_MAX {
        let text = format_args!("all configs have at most {CONFIGS_BYTES_MAX} bytes of texts");
        return Err(call.trap(text));
    }
    state.configs_bytes += more;
    Ok(())
}

fn add_variable(
    mut call: Call<'_>,
    config: u64,
    key_ptr: u32,
    key_len: u32,
    val_ptr: u32,
    val_len: u32,
) -> Result<()> {
    let key = entry(&mut call, "key_ptr", key_ptr, key_len)?;
    let value = entry(&mut call, "val_ptr", val_ptr, val_len)?;
    if process::config(&mut call, config)?.env.len() >= ENTRIES_MAX {
        return Err(call.trap(format_args!("more than {ENTRIES_MAX} variables")));
    }
    take_room(&mut call, config, &[&key, &value])?;
    process::config_mut(&mut call, config)?
        .env
        .push((key, value));
    Ok(())
}

fn add_argument(mut call: Call<'_>, config: u64, ptr: u32, len: u32) -> Result<()> {
    let argument = entry(&mut call, "ptr", ptr, len)?;
    if process::config(&mut call, config)?.args.len() >= ENTRIES_MAX {
        return Err(call.trap(format_args!("more than {ENTRIES_MAX} arguments")));
    }
    take_room(&mut call, config, &[&argument])?;
    process::config_mut(&mut call, config)?.args.push(argument);
    Ok(())
}

/// A process hands on directories it has itself, by the same name.
fn preopen_dir(mut call: Call<'_>, config: u64, ptr: u32, len: u32) -> Result<()> {
    let dir = entry(&mut call, "ptr", ptr, len)?;
    process::config(&mut call, config)?;
    if !call.state().context.config().preopens.contains(&dir) {
        let dir = bounded(dir);
        return Err(call.trap(format_args!(
            "{dir:?} is no directory of this process itself"
        )));
    }
    if !process::config(&mut call, config)?.preopens.contains(&dir) {
        take_room(&mut call, config, &[&dir])?;
        process::config_mut(&mut call, config)?.preopens.push(dir);
    }
    Ok(())
}
