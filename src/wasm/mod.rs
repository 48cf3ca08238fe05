//! Compiled guests and the machinery that runs them.
//!
//! Promises:
//!
//! * A guest touches its own memory and what the host gave it, nothing else.
//! * A guest yields within a tick however tight its loop is, so one worker serves all processes.
//! * Bytes are compiled once per node and kept as files; what comes from the network is never native code.
//! * Starting a process of a dense module takes no system call when slots are warm.
//!
//! ```text
//! bytes ──Module::compile──▶ Module ──check_entry, reserve──▶ Reservation ──run──▶ ExitReason
//!             │ size, imports           no guest code yet          instantiate, call the entry
//!             ├─ cache.rs: native code by content hash             slab.rs: memory and stack
//!             ├─ compiles.rs: who may when
//!             └─ compiler.rs: a process with bounds
//!                └─ rewrite/: shorter loops, longer instructions in pieces
//! ```
//!
//! Not here: what guests may call (`host`), who lives where and when a process ends (`process`).

mod cache;
mod compiler;
mod compiles;
mod instance;
mod module;
mod packed;
mod profile;
mod rewrite;
mod slab;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Linker, OptLevel, WasmFeatures};

use compiler::How;
pub use compiler::{Compiler, compile_apart};
pub(crate) use compiles::{OwnTurn, Whose};
pub use instance::Import;
pub(crate) use instance::{Asleep, Limits, Start, imports, run, trap_text};
pub(crate) use module::AT_ONCE_BYTES_MAX;
pub use module::{EntryError, Module, ModuleError};
use rustix::process::{Resource, getrlimit};
pub(crate) use slab::give_unused_stack_back;
#[cfg(test)]
pub(crate) use slab::testing::can_tell;
use slab::{MemorySlot, RestingStack, SlabFull};

use crate::host::State;

/// Largest module in bytes, custom sections (debug information) included.
pub(crate) const MODULE_BYTES_MAX: usize = 64 << 20;
/// Largest module in bytes without its custom sections.
pub(crate) const CODE_BYTES_MAX: usize = 16 << 20;
/// Elements of the one table a process may have.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Bytes of stack compiled code may use before it traps.
const WASM_STACK_BYTES: usize = 512 << 10;
/// Processes in guarded memory at the same time. Each takes 4 GiB of 128 TiB of address space and a few mappings
/// of the 65 530 that a process may have.
const GUARDED_MAX: usize = 2_048;
/// Address space of one: what a 32-bit address reaches, and the guards.
const GUARDED_BYTES: usize = (4 << 30) + (64 << 20);
/// Ticks without any process before the clock sleeps.
const IDLE_TICKS: u32 = 20;
/// How often a guest that computes gives way.
const TICK: Duration = Duration::from_millis(1);

/// How guests are compiled and where the result is kept.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Directory for compiled modules. None: compile again after each start of the node. A directory
    /// which others than this user may write to is not used.
    pub cache_dir: Option<PathBuf>,
    /// Compiles in processes of its own, which the system holds to their bounds. None: compile in this process,
    /// where a module may take any time and memory.
    pub compiler: Option<Compiler>,
    /// What modules are compiled for.
    pub profile: Profile,
    /// Compile without checks in loops, and unless the profile is [`Profile::Dense`] without those at memory accesses, too:
    /// guests compute as fast as in wasmtime alone. In return one that computes cannot be killed or preempted. Only for
    /// modules the operator trusts.
    pub trusted: bool,
}

/// What a module is compiled for. A guest cannot tell which it is, but by time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// As the module says, in a custom section `tidelock.profile` that holds `dense` or `compute`. One that says
    /// nothing is compiled to compute if it cannot start processes, so that there are not many of it.
    #[default]
    Auto,
    /// For a million processes: memories lie side by side, and each access is compared with the size.
    Dense,
    /// For speed: around each memory lie pages that fault, and no access is compared with anything. Each process
    /// takes mappings of its own, 30 µs to be made, and 4 GiB of address space. While 2 048 of them are alive on an
    /// engine, further processes of these modules are dense.
    Compute,
}

/// Why no engine could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the WebAssembly engine: {0}")]
pub struct EngineError(String);

/// Compiles modules and runs them; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    profile: Profile,
    plain: Flavour,
    /// The same in guarded memory, made when the first module is to compute.
    computing: OnceLock<Result<Flavour, String>>,
    /// The plain one with fuel counting, made when the first process with a fuel limit starts.
    fuelled: OnceLock<Result<Flavour, String>>,
    /// Guarded memories that may be had.
    guarded: Arc<tokio::sync::Semaphore>,
    cache: Option<cache::Cache>,
    compiler: Option<Compiler>,
    modules: module::Modules,
    compiles: compiles::Compiles,
    /// Turns for guests that do nothing but compute.
    turns: Arc<tokio::sync::Semaphore>,
    ticker: Arc<Ticker>,
}

/// Threads that run guests.
fn workers() -> usize {
    tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers())
}

/// One way of compiling, with everything a guest may import.
pub(crate) struct Flavour {
    engine: wasmtime::Engine,
    linker: Linker<State>,
    how: How,
    /// Names this way of compiling among the files of the cache.
    key: String,
}

impl Engine {
    /// Sets up compiler, slots and clock.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let how = How {
            trusted: config.trusted,
            guarded: config.trusted && config.profile != Profile::Dense,
            fuel: false,
        };
        let plain = Flavour::new(how).map_err(EngineError)?;
        let ticker = Ticker::start(plain.engine.clone());
        Ok(Self(Arc::new(Inner {
            profile: config.profile,
            plain,
            computing: OnceLock::new(),
            fuelled: OnceLock::new(),
            guarded: Arc::new(tokio::sync::Semaphore::new(GUARDED_MAX)),
            cache: config.cache_dir.and_then(cache::Cache::open),
            compiler: config.compiler,
            modules: module::Modules::default(),
            compiles: compiles::Compiles::new(),
            turns: Arc::new(tokio::sync::Semaphore::new(2 * workers())),
            ticker,
        })))
    }

    /// Turns for guests that do nothing but compute.
    pub(crate) fn turns(&self) -> Arc<tokio::sync::Semaphore> {
        self.0.turns.clone()
    }

    /// Whether modules run without the checks that let them be preempted and killed.
    pub fn trusted(&self) -> bool {
        self.0.plain.how.trusted
    }

    /// Whether plain code needs memories that no slot has.
    fn guards(&self) -> bool {
        self.0.plain.how.guarded
    }

    fn plain(&self) -> &Flavour {
        &self.0.plain
    }

    fn fuelled(&self) -> Result<&Flavour, String> {
        let how = How {
            fuel: true,
            ..self.0.plain.how
        };
        self.other(&self.0.fuelled, how)
    }

    fn computing(&self) -> Result<&Flavour, String> {
        let how = How {
            guarded: true,
            ..self.0.plain.how
        };
        self.other(&self.0.computing, how)
    }

    /// Makes a flavour when it is first asked for.
    fn other<'a>(
        &self,
        flavour: &'a OnceLock<Result<Flavour, String>>,
        how: How,
    ) -> Result<&'a Flavour, String> {
        flavour
            .get_or_init(|| {
                let flavour = Flavour::new(how)?;
                self.0.ticker.also(flavour.engine.clone());
                Ok(flavour)
            })
            .as_ref()
            .map_err(Clone::clone)
    }

    /// Whether this module is compiled to compute.
    fn computes(&self, module: &[u8]) -> bool {
        match self.0.profile {
            // It has no other form.
            _ if self.trusted() => false,
            Profile::Auto => profile::computes(module),
            Profile::Dense => false,
            Profile::Compute => true,
        }
    }

    /// One of the guarded memories; None if all are in use, or this program may not have so much address space
    /// (`ulimit -v`). Another one may take that space before it is used; then the process does not start.
    fn guarded(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let one = self.0.guarded.clone().try_acquire_owned().ok()?;
        let bounded = getrlimit(Resource::As).current.is_some();
        (!bounded || slab::has_space(GUARDED_BYTES)).then_some(one)
    }

    fn cache(&self) -> Option<&cache::Cache> {
        self.0.cache.as_ref()
    }

    fn compiler(&self) -> Option<&Compiler> {
        self.0.compiler.as_ref()
    }

    fn modules(&self) -> &module::Modules {
        &self.0.modules
    }

    fn compiles(&self) -> &compiles::Compiles {
        &self.0.compiles
    }

    /// Waits until it is somebody's turn to have a module compiled by [`Module::compile_for`].
    pub(crate) async fn own_turn(&self, whose: Whose) -> OwnTurn {
        self.0.compiles.own(whose).await
    }

    /// Makes every guest that computes give way soon, not only when the clock says so.
    pub(crate) fn preempt(&self) {
        self.0.plain.engine.increment_epoch();
        let others = [&self.0.computing, &self.0.fuelled];
        for flavour in others
            .into_iter()
            .filter_map(|other| other.get()?.as_ref().ok())
        {
            flavour.engine.increment_epoch();
        }
    }

    /// Ticks so far, and around. There is one in each millisecond or so while any process lives.
    fn ticks(&self) -> u32 {
        self.0.ticker.ticks.load(Ordering::Relaxed)
    }

    /// Keeps the clock running while the result lives.
    fn running(&self) -> Running<'_> {
        self.0.ticker.enter();
        Running(&self.0.ticker)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("trusted", &self.0.plain.how.trusted)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ticker.stop();
    }
}

impl Flavour {
    fn new(how: How) -> Result<Self, String> {
        let engine = wasmtime::Engine::new(&config(how)).map_err(|e| e.to_string())?;
        let mut linker = Linker::new(&engine);
        crate::host::link(&mut linker).map_err(|e| e.to_string())?;
        let key = cache::key(&engine);
        Ok(Self {
            engine,
            linker,
            how,
            key,
        })
    }
}

/// How guests are compiled.
fn config(how: How) -> Config {
    let How {
        trusted,
        guarded,
        fuel,
    } = how;
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(!trusted)
        .consume_fuel(fuel)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(slab::STACK_SLOT_BYTES - (16 << 10))
        .async_stack_zeroing(false)
        // A reason names functions; where in them is not said, and takes longer to find out than most processes live.
        .generate_address_map(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(instance::FRAMES_MAX + 1));
    config.with_host_stack(Arc::new(slab::Stacks));
    if !guarded {
        dense(&mut config);
    }
    // What guests are compiled with today, and nothing more. (Reference types are on by default.)
    config
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_simd(true)
        .wasm_extended_const(true)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .wasm_gc(false)
        // Its own method is there with the feature `gc` only.
        .wasm_features(WasmFeatures::FUNCTION_REFERENCES, false)
        .wasm_component_model(false);
    config
}

/// Memories in slots; every access is compared with the memory's size.
fn dense(config: &mut Config) {
    // A reservation of 0 is what makes compiled code compare with the current size of the memory. With
    // any other value it compares with the reservation and counts on unmapped pages in between, which
    // slots do not have.
    config
        .memory_reservation(0)
        .memory_reservation_for_growth(0)
        .memory_guard_size(0)
        .guard_before_linear_memory(false)
        .memory_may_move(false)
        .memory_init_cow(false)
        .with_host_memory(Arc::new(slab::Memories));
}

// ---- the clock -----------------------------------------------------------------------------------------

/// Advances the epoch of the engines once a tick while any process lives, and sleeps otherwise.
struct Ticker {
    engines: Mutex<Vec<wasmtime::Engine>>,
    live: AtomicUsize,
    /// How many there were.
    ticks: AtomicU32,
    /// Whether whoever enters has to wake it.
    asleep: AtomicBool,
    stopped: AtomicBool,
    wake: Condvar,
}

/// One process that wants ticks.
struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> Arc<Self> {
        let ticker = Arc::new(Self {
            engines: Mutex::new(vec![engine]),
            live: AtomicUsize::new(0),
            ticks: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let runner = ticker.clone();
        let spawned = std::thread::Builder::new()
            .name("tidelock-tick".into())
            .spawn(move || runner.run());
        spawned.expect("a thread can be started while the node starts");
        ticker
    }

    fn run(&self) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            idle = match self.live.load(Ordering::SeqCst) {
                0 => idle + 1,
                _ => 0,
            };
            // Processes that come and go one at a time do not wake it each time.
            if idle > IDLE_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                if self.live.load(Ordering::SeqCst) == 0 {
                    // A lost wake costs one pause at most, never a stop.
                    let pause = self.wake.wait_timeout(engines, 100 * TICK);
                    engines = pause.unwrap_or_else(PoisonError::into_inner).0;
                }
                self.asleep.store(false, Ordering::SeqCst);
                continue;
            }
            for engine in engines.iter() {
                engine.increment_epoch();
            }
            drop(engines);
            self.ticks.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(TICK);
            engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn also(&self, engine: wasmtime::Engine) {
        self.engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(engine);
    }

    fn enter(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}
