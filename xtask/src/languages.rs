//! Compiling the examples that are not written in Rust.
//!
//! Their compilers come from the registries of Python and Node.js, in fixed versions, into the build folder. Where
//! neither pip nor npm is, the examples are left out, loudly; where CI is set, that is a failure.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::guests;
use crate::run::{command, is_ci, program, root, run};

/// A C compiler, too.
const ZIG: &str = "ziglang==0.15.2";
const ASSEMBLYSCRIPT: &str = "assemblyscript@0.28.20";

/// Compiles `workers` in every language into the folder of the guests.
pub(crate) fn build() -> Result<()> {
    let folder = guests::folder();
    if let Some(zig) = zig()? {
        let mut c = zig();
        c.args(["cc", "-target", "wasm32-wasi", "-Os", "-Wall", "-Wextra"])
            .args(["-Werror", "examples/c/workers.c", "-o"]);
        run(c.arg(folder.join("workers_c.wasm")))?;
        let mut zig = zig();
        zig.args(["build-exe", "examples/zig/workers.zig", "-rdynamic"])
            .args(["-target", "wasm32-wasi", "-O", "ReleaseSmall"]);
        let out = folder.join("workers_zig.wasm");
        run(zig.arg(format!("-femit-bin={}", out.display())))?;
    }
    if let Some(asc) = asc()? {
        let out = folder.join("workers_assemblyscript.wasm");
        run(program(asc)
            .arg("examples/assemblyscript/workers.ts")
            .args(["-O", "--use"])
            // As asc names the file, seen from where it runs.
            .arg("abort=examples/assemblyscript/tidelock/abort")
            .arg("--outFile")
            .arg(out))?;
    }
    Ok(())
}

fn compilers(name: &str) -> PathBuf {
    root().join("target/compilers").join(name)
}

/// What runs the Zig compiler.
fn zig() -> Result<Option<impl Fn() -> Command>> {
    let packages = compilers("python");
    if !packages.join("ziglang").is_dir() {
        if !is_there("python3 -m pip --version") {
            return left_out("C and Zig", "pip (python3-pip)").map(|()| None);
        }
        run(command("python3 -m pip install --quiet --target")
            .arg(&packages)
            .arg(ZIG))?;
    }
    Ok(Some(move || {
        let mut zig = command("python3 -m ziglang");
        zig.env("PYTHONPATH", &packages);
        zig
    }))
}

/// The AssemblyScript compiler.
fn asc() -> Result<Option<PathBuf>> {
    let packages = compilers("node");
    let asc = packages.join("node_modules/.bin/asc");
    if !asc.is_file() {
        if !is_there("npm --version") {
            return left_out("AssemblyScript", "npm").map(|()| None);
        }
        run(command("npm install --silent --no-save --prefix")
            .arg(&packages)
            .arg(ASSEMBLYSCRIPT))?;
    }
    Ok(Some(asc))
}

fn is_there(program: &str) -> bool {
    command(program)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn left_out(languages: &str, tool: &str) -> Result<()> {
    if is_ci() {
        bail!("examples in {languages} cannot be compiled: {tool} is not installed");
    }
    eprintln!("  SKIPPED, examples in {languages} were not compiled: {tool} is not installed");
    Ok(())
}
