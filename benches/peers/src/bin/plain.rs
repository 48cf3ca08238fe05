//! Runs a guest that is no more than a program, in wasmtime as it comes: `plain FILE ARGUMENTS`.
//!
//! No preemption, guard pages, every default: what compute costs without a runtime around it.

use anyhow::{Context, Result};
use wasmtime::{Config, Engine, Linker, Module, Store};
use wasmtime_wasi::{WasiCtxBuilder, p1};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let file = words.first().context("a module is asked for")?;
    let engine = Engine::new(&Config::new())?;
    let module = Module::from_file(&engine, file)?;
    let mut linker = Linker::new(&engine);
    p1::add_to_linker_sync(&mut linker, |wasi: &mut p1::WasiP1Ctx| wasi)?;
    let wasi = WasiCtxBuilder::new()
        .inherit_stdio()
        .args(&words)
        .build_p1();
    let mut store = Store::new(&engine, wasi);
    let instance = linker.instantiate(&mut store, &module)?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    Ok(start.call(&mut store, ())?)
}
