//! Running programs and saying what they are for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
        .to_owned()
}

/// A program that will run at the top of the repository.
///
/// `words` is split at spaces: the program and its first arguments.
pub(crate) fn command(words: &str) -> Command {
    let mut words = words.split_whitespace();
    let mut command = program(words.next().expect("a program is named"));
    command.args(words);
    command
}

/// As [`command`], of a program that gives way to all others.
pub(crate) fn yielding(words: &str) -> Command {
    command(&format!("nice -n 19 {words}"))
}

/// As [`command`], of a program whose path may have spaces.
pub(crate) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a program to its end.
///
/// # Errors
///
/// If it cannot be started or does not end with 0. The error has the whole command line, ready
/// to be run by hand.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("  $ {line}");
    let status = command
        .status()
        .with_context(|| format!("starting {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Runs a program to its end and returns what it wrote to stdout.
///
/// # Errors
///
/// As for [`run`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    eprintln!("  $ {line}");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        bail!("{line}: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{line}: stdout is no text"))
}

/// Whether `cargo NAME` is there.
pub(crate) fn has_cargo(name: &str) -> bool {
    command(&format!("cargo {name} --version"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether nobody waits for it: what takes minutes is run, too.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Does one job of several, with its name before and its time after it.
///
/// # Errors
///
/// The job's own, with the name of the job.
pub(crate) fn job(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("── {name}");
    let began = Instant::now();
    work().with_context(|| name.to_owned())?;
    eprintln!("── {name}: done in {} s\n", began.elapsed().as_secs());
    Ok(())
}

/// A command as one could type it.
fn shown(command: &Command) -> String {
    let mut line = String::new();
    if let Some(folder) = command.get_current_dir()
        && let Ok(inside) = folder.strip_prefix(root())
        && !inside.as_os_str().is_empty()
    {
        line = format!("cd {} && ", inside.display());
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line += &format!("{}='{}' ", name.display(), value.display());
        }
    }
    line += &command.get_program().display().to_string();
    for argument in command.get_args() {
        line += &format!(" {}", argument.display());
    }
    line
}
