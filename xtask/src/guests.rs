//! Compiling guests, and those that are shipped compiled.
//!
//! `tidelock demo` and `tidelock bench` have to work on machines without the guest toolchain, so
//! `wordcount.wasm` and `load.wasm` are part of the repository. Beside each lies a file of its name and
//! `.sources`: a digest of the sources it was made from and one of itself. Both are
//! checked, so neither the guest nor its sources can change without the other.
//!
//! Compilers differ, so the shipped bytes are not compared with freshly compiled ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{command, output, root, run};

/// What guests are compiled for.
pub(crate) const TARGET: &str = "wasm32-wasip1";

/// The workspaces that hold guests, apart from each other and from the host's.
const WORKSPACES: [&str; 7] = [
    "benches/guest",
    "benches/load",
    "examples/wordcount",
    "examples/guests",
    "examples/testing",
    "examples/notes",
    "examples/web",
];

/// Those of them whose tests are compiled, too.
const TESTED: [&str; 1] = ["examples/testing"];

/// All workspaces that are compiled for guests: those, and what they are written with.
pub(crate) fn workspaces() -> impl Iterator<Item = &'static str> {
    ["sdk"].into_iter().chain(WORKSPACES)
}

/// A guest that is part of the repository, compiled.
struct Shipped {
    /// Its workspace; the compiled guest lies there, too.
    folder: &'static str,
    name: &'static str,
    /// What it is made from, besides the SDK.
    sources: &'static [&'static str],
}

const SHIPPED: [Shipped; 2] = [
    Shipped {
        folder: "examples/wordcount",
        name: "wordcount",
        sources: &["Cargo.lock", "Cargo.toml", "src"],
    },
    Shipped {
        folder: "benches/load",
        name: "load",
        sources: &["Cargo.lock", "Cargo.toml", "build.rs", "src"],
    },
];

/// What all guests are made from.
const SDK: [&str; 2] = ["sdk/Cargo.toml", "sdk/src"];

/// Makes this machine able to compile guests. Returns the cargo to do it with.
pub(crate) fn setup() -> Result<String> {
    let cargo = output(&mut command("bash xtask/guest-toolchain.sh"))
        .context("the guest toolchain cannot be installed")?;
    Ok(cargo.trim().to_owned())
}

/// Whether guests are compiled by the toolchain that compiles the rest, which alone has the
/// tools beside the compiler.
pub(crate) fn has_ordinary_toolchain() -> Result<bool> {
    let ordinary = setup()? == "cargo";
    if !ordinary {
        eprintln!("  guests left out: their toolchain is a compiler and nothing else");
    }
    Ok(ordinary)
}

/// Compiles all guests from their sources. Returns the folder with their `.wasm` files.
pub(crate) fn build() -> Result<PathBuf> {
    let cargo = setup()?;
    for workspace in WORKSPACES {
        build_workspace(&cargo, workspace)?;
    }
    for workspace in TESTED {
        build_tests(&cargo, workspace)?;
    }
    Ok(folder())
}

fn build_workspace(cargo: &str, workspace: &str) -> Result<()> {
    let mut build = command(cargo);
    in_workspace(&mut build, workspace);
    run(build.args(["build", "--release", "--locked", "--target", TARGET]))
}

/// Compiles the tests of a workspace and leaves each test binary beside the guests, under the name of its
/// sources: `testing.lib.wasm`, `testing.bin.wasm`, `outside.test.wasm`.
fn build_tests(cargo: &str, workspace: &str) -> Result<()> {
    let mut build = command(cargo);
    in_workspace(&mut build, workspace);
    let messages = output(build.args([
        "test",
        "--no-run",
        "--release",
        "--locked",
        "--message-format=json-render-diagnostics",
        "--target",
        TARGET,
    ]))?;
    for message in messages.lines() {
        let message: serde_json::Value =
            serde_json::from_str(message).context("cargo's messages")?;
        let (Some(true), Some(binary)) = (
            message["profile"]["test"].as_bool(),
            message["executable"].as_str(),
        ) else {
            continue;
        };
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (name, kind) = (
            text(&message["target"]["name"]),
            &message["target"]["kind"][0],
        );
        let copy = folder().join(format!("{name}.{}.wasm", text(kind)));
        fs::copy(binary, &copy).with_context(|| format!("copying {binary}"))?;
    }
    Ok(())
}

/// Where [`build`] leaves the guests.
pub(crate) fn folder() -> PathBuf {
    root().join("target/guests").join(TARGET).join("release")
}

/// Lets a cargo work on a guest workspace, with all guests in one target folder.
pub(crate) fn in_workspace(command: &mut Command, workspace: &str) {
    command
        .current_dir(root().join(workspace))
        .env("CARGO_TARGET_DIR", root().join("target/guests"))
        // The host's flags are not the guest's, and a guest names its own files and those of crates
        // alike wherever it is compiled.
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", same_paths());
}

/// What keeps paths of this machine out of a guest, as cargo takes several flags in one variable.
fn same_paths() -> String {
    let remap = |from: PathBuf, to| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(root(), "tidelock")];
    let home = |name| std::env::var_os(name).map(PathBuf::from);
    let cargo = home("CARGO_HOME").or_else(|| Some(home("HOME")?.join(".cargo")));
    flags.extend(cargo.map(|cargo| remap(cargo, "cargo")));
    flags.join("\u{1f}")
}

/// Compiles the shipped guests and makes them what the repository has.
pub(crate) fn ship() -> Result<()> {
    let cargo = setup()?;
    for guest in SHIPPED {
        build_workspace(&cargo, guest.folder)?;
        let bytes = read(&folder().join(format!("{}.wasm", guest.name)))?;
        write(&guest.file("wasm"), &bytes)?;
        let record = record(&guest.sources()?, &bytes);
        write(&guest.file("sources"), record.as_bytes())?;
        eprintln!("shipped: {}.wasm, {} bytes", guest.name, bytes.len());
    }
    Ok(())
}

/// Fails if a shipped guest was made from other sources than there are.
pub(crate) fn check_shipped() -> Result<()> {
    for guest in SHIPPED {
        let found = read(&guest.file("sources"))?;
        let expected = record(&guest.sources()?, &read(&guest.file("wasm"))?);
        if found != expected.as_bytes() {
            bail!(
                "{}/{}.wasm was not made from the sources here.\n  \
                 recorded:\n{}\n  found:\n{expected}\n  \
                 next: cargo xtask guests --ship",
                guest.folder,
                guest.name,
                String::from_utf8_lossy(&found),
            );
        }
    }
    Ok(())
}

/// The contents of a `.sources` file.
fn record(sources: &blake3::Hash, module: &[u8]) -> String {
    format!("sources b3:{sources}\nmodule b3:{}\n", blake3::hash(module))
}

impl Shipped {
    fn file(&self, ending: &str) -> PathBuf {
        root()
            .join(self.folder)
            .join(format!("{}.{ending}", self.name))
    }

    /// A digest of all sources: their paths, in order, and what is in them.
    fn sources(&self) -> Result<blake3::Hash> {
        let mut files = Vec::new();
        for source in SDK {
            collect(Path::new(source), &mut files)?;
        }
        for source in self.sources {
            collect(&Path::new(self.folder).join(source), &mut files)?;
        }
        files.sort();
        let mut hasher = blake3::Hasher::new();
        for file in files {
            let contents = read(&root().join(&file))?;
            for part in [file.as_bytes(), &contents] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        Ok(hasher.finalize())
    }
}

/// Adds a file, or all files below a folder, with `/` between the parts of their paths.
fn collect(path: &Path, files: &mut Vec<String>) -> Result<()> {
    let full = root().join(path);
    if full.is_dir() {
        for entry in fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))? {
            collect(&path.join(entry?.file_name()), files)?;
        }
    } else {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        files.push(parts.join("/"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}
