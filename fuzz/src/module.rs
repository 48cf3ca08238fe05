//! Bytes that somebody deploys, or a guest compiles.
//!
//! They take the way of every module: checked by size, compiled, linked, and, if that went well, run.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Unstructured;
use tidelock::{Environment, Module, ModuleError, Param, ProcessConfig, SpawnOptions};

use super::host::Host;
use super::input::Input;

/// Exported functions of one module that are run.
const RUNS_MAX: usize = 4;
/// Parameters to run functions with, if they take any.
const PARAMS: &[&[Param]] = &[
    &[],
    &[Param::I32(1)],
    &[Param::I64(1)],
    &[Param::I32(-1), Param::I32(1)],
    &[Param::I32(65_536), Param::I64(-1)],
    &[Param::I64(-1), Param::I32(65_535)],
    &[Param::I64(1), Param::I64(1 << 32)],
    &[Param::V128(u128::MAX)],
];
/// How long one may run.
const WAIT: Duration = Duration::from_millis(5);
/// Longest text of an error: its own words, and a bounded part of the module's.
const ERROR_BYTES_MAX: usize = 4096;

/// Where everything runs; one for the process.
struct World {
    host: Host,
    config: Arc<ProcessConfig>,
    /// A module that imports everything there is, for the generator to choose from.
    imports: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    let imports = importing_everything(&host.env);
    let config = ProcessConfig {
        memory_bytes_max: 1 << 20,
        can_compile_modules: false,
        can_spawn_processes: false,
        ..ProcessConfig::default()
    };
    World {
        host,
        config: Arc::new(config),
        imports,
    }
});

/// Takes `data` for a module, or makes one of it, or damages one that it made.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let module = match input.byte() % 4 {
        0 => input.0.to_vec(),
        1 => [b"\0asm\x01\0\0\0", input.0].concat(),
        2 => generated(input.0),
        _ => {
            // At most 16 changes, so that something is left of it.
            let changes = usize::from(input.byte() % 16) * 3;
            let changes = input.bytes(changes);
            Input(changes).damage(&generated(input.0))
        }
    };
    deploy(module);
}

/// A valid module, as `bytes` decide; nothing, if they are too few.
fn generated(bytes: &[u8]) -> Vec<u8> {
    let config = wasm_smith::Config {
        available_imports: Some(WORLD.imports.clone()),
        max_imports: 8,
        max_memories: 1,
        max_tables: 1,
        max_memory32_bytes: 4 << 20,
        max_table_elements: 200_000,
        max_instructions: 200,
        max_funcs: 20,
        min_types: 1,
        export_everything: true,
        max_type_size: 100_000,
        // What this engine leaves out.
        compact_imports_enabled: false,
        gc_enabled: false,
        exceptions_enabled: false,
        memory64_enabled: false,
        threads_enabled: false,
        tail_call_enabled: false,
        wide_arithmetic_enabled: false,
        relaxed_simd_enabled: false,
        reference_types_enabled: false,
        ..wasm_smith::Config::default()
    };
    wasm_smith::Module::new(config, &mut Unstructured::new(bytes))
        .map(|module| module.to_bytes())
        .unwrap_or_default()
}

fn deploy(bytes: Vec<u8>) {
    let world = &*WORLD;
    let module = match Module::compile_blocking(world.host.env.engine(), bytes) {
        Ok(module) => module,
        Err(error) => return refused(&error),
    };
    let functions: Vec<String> = module.functions().map(str::to_owned).collect();
    let runnable = functions.iter().flat_map(|entry| {
        let fits = |params: &&[Param]| module.check_entry(entry, params).is_ok();
        PARAMS
            .iter()
            .copied()
            .find(fits)
            .map(|params| (entry, params))
    });
    for (entry, params) in runnable.take(RUNS_MAX) {
        let params = params.to_vec();
        world
            .host
            .runtime
            .block_on(world.process(&module, entry, params));
    }
}

fn refused(error: &ModuleError) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < ERROR_BYTES_MAX, "{text}");
}

impl World {
    /// Runs one function to its end, or for a while.
    async fn process(&self, module: &Module, entry: &str, params: Vec<Param>) {
        let mut options = SpawnOptions::default();
        options.config = self.config.clone();
        let Ok(pid) = self.host.env.spawn_wasm(module, entry, params, options) else {
            // It begins with more memory than it may have.
            return;
        };
        self.host.end(pid, WAIT, entry).await;
    }
}

fn importing_everything(env: &Environment) -> Vec<u8> {
    let imports = env.imports().expect("the empty module compiles");
    let lines: Vec<String> = imports
        .iter()
        .map(|import| {
            format!(
                r#"(import "{}" "{}" (func (param {}) (result {})))"#,
                import.module,
                import.name,
                import.params.join(" "),
                import.results.join(" ")
            )
        })
        .collect();
    wat::parse_str(format!("(module {})", lines.join("\n"))).expect("our own module")
}
