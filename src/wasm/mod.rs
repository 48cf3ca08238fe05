//! Compiled guests and the machinery that runs them.
//!
//! Promises:
//!
//! * A guest touches its own memory and what the host gave it, nothing else.
//! * A guest yields within a tick however tight its loop is, so one worker serves all processes.
//! * Bytes are compiled once per node and kept as files; what comes from the network is never native code.
//! * Starting a process takes no system call when slots are warm.
//!
//! ```text
//! bytes ──Module::compile──▶ Module ──check_entry, reserve──▶ Reservation ──run──▶ ExitReason
//!             │ size, imports           no guest code yet          instantiate, call the entry
//!             ├─ cache.rs: native code by content hash             slab.rs: memory and stack
//!             └─ compiler.rs: a process with bounds
//! ```
//!
//! Not here: what guests may call (`host`), who lives where and when a process ends (`process`).

mod cache;
mod compiler;
mod instance;
mod module;
mod slab;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Linker, OptLevel};

use compiler::How;
pub use compiler::{Compiler, compile_apart};
pub use instance::Import;
pub(crate) use instance::{Limits, Start, imports, run, trap_text};
pub use module::{EntryError, Module, ModuleError};
use slab::{MemorySlot, SlabFull};

use crate::host::State;

/// Largest module in bytes, custom sections (debug information) included.
pub(crate) const MODULE_BYTES_MAX: usize = 64 << 20;
/// Largest module in bytes without its custom sections.
pub(crate) const CODE_BYTES_MAX: usize = 16 << 20;
/// Elements of the one table a process may have.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Bytes of stack compiled code may use before it traps.
const WASM_STACK_BYTES: usize = 512 << 10;
/// Modules compiled at the same time.
const COMPILES_MAX: usize = 2;
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
    /// Compile without checks in loops and at memory accesses: pages that fault replace the latter. Guests
    /// compute as fast as in wasmtime alone. In return one that computes cannot be killed or
    /// preempted, and each needs mappings of its own: some ten thousand processes instead of a
    /// million, 30 µs to make one. Only for modules the operator trusts.
    pub trusted: bool,
}

/// Why no engine could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the WebAssembly engine: {0}")]
pub struct EngineError(String);

/// Compiles modules and runs them; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    plain: Flavour,
    /// The same with fuel counting, made when the first process with a fuel limit starts.
    fuelled: OnceLock<Result<Flavour, String>>,
    cache: Option<cache::Cache>,
    compiler: Option<Compiler>,
    modules: module::Modules,
    compiles: Arc<tokio::sync::Semaphore>,
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
            fuel: false,
        };
        let plain = Flavour::new(how).map_err(EngineError)?;
        let ticker = Ticker::start(plain.engine.clone());
        Ok(Self(Arc::new(Inner {
            plain,
            fuelled: OnceLock::new(),
            cache: config.cache_dir.and_then(cache::Cache::open),
            compiler: config.compiler,
            modules: module::Modules::default(),
            compiles: Arc::new(tokio::sync::Semaphore::new(COMPILES_MAX)),
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

    fn plain(&self) -> &Flavour {
        &self.0.plain
    }

    fn fuelled(&self) -> Result<&Flavour, String> {
        self.0
            .fuelled
            .get_or_init(|| {
                let flavour = Flavour::new(How {
                    fuel: true,
                    ..self.0.plain.how
                })?;
                self.0.ticker.also(flavour.engine.clone());
                Ok(flavour)
            })
            .as_ref()
            .map_err(Clone::clone)
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

    fn compiles(&self) -> Arc<tokio::sync::Semaphore> {
        self.0.compiles.clone()
    }

    /// Keeps the clock running while the result lives.
    fn running(&self) -> Running {
        self.0.ticker.enter();
        Running(self.0.ticker.clone())
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
fn config(How { trusted, fuel }: How) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(!trusted)
        .consume_fuel(fuel)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(slab::STACK_SLOT_BYTES - (16 << 10))
        .async_stack_zeroing(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    config.with_host_stack(Arc::new(slab::Stacks));
    if !trusted {
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
    /// Whether whoever enters has to wake it.
    asleep: AtomicBool,
    stopped: AtomicBool,
    wake: Condvar,
}

/// One process that wants ticks.
struct Running(Arc<Ticker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> Arc<Self> {
        let ticker = Arc::new(Self {
            engines: Mutex::new(vec![engine]),
            live: AtomicUsize::new(0),
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
