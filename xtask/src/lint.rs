//! Lints and documentation, without compiling a dependency for them.
//!
//! `cargo clippy` and `cargo doc` want all dependencies checked, which in a fresh clone takes six minutes
//! beside having them compiled. Here cargo does what it does to compile everything, with this program in
//! the place of the compiler for members of the workspace (`RUSTC_WORKSPACE_WRAPPER`): each is given to
//! clippy and, where it has documentation, to rustdoc, with what was compiled of its dependencies. Nothing is
//! generated, and what was compiled before stays as it is: cargo keeps apart what a wrapper made.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::guests;
use crate::run::{run, yielding};

/// Tells this program that cargo calls it.
const CALLED_VARIABLE: &str = "TIDELOCK_LINT";

/// Lints everything, and reads all documentation, warnings being errors.
///
/// # Errors
///
/// There is a warning.
pub(crate) fn all(quick: bool) -> Result<()> {
    let cargo = "cargo build --release --locked --all-targets --quiet";
    run(in_place_of_compiler(yielding(cargo).arg("--workspace"))?)?;
    if !quick && guests::has_ordinary_toolchain()? {
        for workspace in guests::workspaces() {
            let mut lint = yielding(cargo);
            guests::in_workspace(&mut lint, workspace);
            lint.args(["--target", guests::TARGET]);
            run(in_place_of_compiler(&mut lint)?)?;
        }
    }
    Ok(())
}

fn in_place_of_compiler(cargo: &mut Command) -> Result<&mut Command> {
    // Compiling everything may have put another one in the place of the file that runs here.
    let here = std::env::current_exe().context("where this program lies")?;
    Ok(cargo
        .env("RUSTC_WORKSPACE_WRAPPER", here.with_file_name("xtask"))
        .env(CALLED_VARIABLE, "1")
        // As `cargo clippy -- -D warnings` tells it.
        .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings"))
}

/// If cargo calls this program as its compiler: does that, and says how it ended.
pub(crate) fn called_as_compiler(arguments: &[String]) -> Option<ExitCode> {
    std::env::var_os(CALLED_VARIABLE)?;
    let (rustc, arguments) = arguments.split_first()?;
    let done = Unit { rustc, arguments }.lint();
    Some(done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    }))
}

/// One call of the compiler.
struct Unit<'a> {
    rustc: &'a str,
    arguments: &'a [String],
}

impl Unit<'_> {
    fn lint(&self) -> Result<ExitCode> {
        if !self.compiles() {
            return ended(Command::new(self.rustc).args(self.arguments));
        }
        let mut lint = Command::new("clippy-driver");
        lint.arg(self.rustc);
        if self.is_run_by_cargo() {
            return ended(lint.args(self.arguments));
        }
        lint.args(
            self.arguments
                .iter()
                .map(|argument| match argument.starts_with("--emit=") {
                    true => "--emit=dep-info,metadata".to_owned(),
                    false => what_there_is(argument),
                }),
        );
        let linted = ended(&mut lint)?;
        if linted != ExitCode::SUCCESS || !self.has_documentation() {
            return Ok(linted);
        }
        ended(&mut self.documentation()?)
    }

    /// Not so where cargo asks the compiler about itself.
    fn compiles(&self) -> bool {
        self.arguments
            .iter()
            .any(|argument| argument.starts_with("--emit="))
    }

    fn is_run_by_cargo(&self) -> bool {
        self.value("--crate-name")
            .is_some_and(|name| name.starts_with("build_script_"))
            || self.value("--crate-type") == Some("proc-macro")
    }

    fn has_documentation(&self) -> bool {
        matches!(self.value("--crate-type"), Some("lib" | "rlib" | "bin"))
    }

    /// The call of rustdoc for the same unit.
    fn documentation(&self) -> Result<Command> {
        let compiled = self
            .value("--out-dir")
            .context("no --out-dir in a call of the compiler")?;
        let name = self.value("--crate-name").unwrap_or_default();
        let kind = self.value("--crate-type").unwrap_or_default();
        let mut rustdoc = Command::new(Path::new(self.rustc).with_file_name("rustdoc"));
        rustdoc.args(["-D", "warnings", "--out-dir"]);
        rustdoc.arg(Path::new(compiled).with_file_name(format!("documentation-{name}-{kind}")));
        if kind == "bin" {
            // Who reads a program's documentation reads the program.
            let private = "--allow=rustdoc::private_intra_doc_links";
            rustdoc.args(["--document-private-items", private]);
        }
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--out-dir" => drop(arguments.next()),
                // Rustdoc's own are not stable yet.
                given
                    if given.starts_with("--emit=")
                        || given.starts_with("--remap-path-prefix=") => {}
                given if given.starts_with("--json=") => {
                    rustdoc.arg("--json=diagnostic-rendered-ansi");
                }
                given => drop(rustdoc.arg(what_there_is(given))),
            }
        }
        Ok(rustdoc)
    }

    /// What follows a word.
    fn value(&self, word: &str) -> Option<&str> {
        let at = self
            .arguments
            .iter()
            .position(|argument| argument == word)?;
        self.arguments.get(at + 1).map(String::as_str)
    }
}

/// An argument as it is, but for a library of which there is only what clippy left, its metadata.
fn what_there_is(argument: &str) -> String {
    if let Some((before, "rlib")) = argument.rsplit_once('.')
        && let path = before.split_once('=').map_or(before, |(_, path)| path)
        && !PathBuf::from(format!("{path}.rlib")).exists()
    {
        return format!("{before}.rmeta");
    }
    argument.to_owned()
}

fn ended(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
