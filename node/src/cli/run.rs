//! `tidelock run FILE`: one guest on this machine alone, as if it were a program.
//!
//! A module that exports tests is a test binary, wherever its file lies: its tests are run instead.

mod exports;
mod flags;
mod report;
mod suite;

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tidelock::{
    Compiler, Engine, EngineConfig, Environment, EnvironmentConfig, ExitReason, Module,
    ModuleError, ProcessConfig, Profile, SpawnOptions, Stdio,
};
use tidelock_node::guest_certificates::ForGuests;
use tokio::signal::ctrl_c;

use super::{
    Output, compile,
    failure::{Exit, Failure, Outcome},
};

/// Run one guest on one node; its exit code is ours
///
/// The guest gets its arguments, the environment and the current folder, and reads and writes the
/// terminal like any program. A guest that traps ends with 101.
///
/// A module compiled from `#[lunatic::test]` functions is recognised: its tests are run, and the
/// arguments are those of `cargo test --`. With this in .cargo/config.toml, `cargo run` and
/// `cargo test` use it:
///
///     [target.wasm32-wasip1]
///     runner = "tidelock run"
#[derive(Debug, Args)]
#[command(
    override_usage = "tidelock run [OPTIONS] <FILE> [ARGS]...",
    verbatim_doc_comment
)]
pub(crate) struct Run {
    /// A .wasm or .wat file, and the guest's arguments, which may look like options
    #[arg(
        required = true,
        value_names = ["FILE", "ARGS"],
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    program: Vec<String>,
    /// What the guest is compiled for
    #[arg(long, value_name = "PROFILE", default_value_t, value_enum)]
    profile: CompiledFor,
}

/// What guests are compiled for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CompiledFor {
    /// As the module says; else speed if it cannot start processes, else many processes
    #[default]
    Auto,
    /// A million processes
    Dense,
    /// Speed, with 4 GiB of address space for each process
    Compute,
    /// More speed: a process that computes cannot be killed, or give way
    Trusted,
}

impl Run {
    pub(crate) async fn run(self, _out: &Output) -> Outcome<u8> {
        let mut program = self.program.into_iter();
        let file = PathBuf::from(program.next().expect("clap asks for at least one"));
        let args: Vec<String> = program.collect();
        no_option("run", &file)?;
        let bytes = read_module(&file)?;
        let engine =
            Engine::new(engine(self.profile)?).map_err(|error| Failure::new("E0001", error))?;
        let module = Module::compile(&engine, bytes)
            .await
            .map_err(|error| not_runnable(&file, &error))?;
        let tests = exports::tests(module.functions()).map_err(|export| {
            Failure::new(
                "E0034",
                format!("{}: a test that is not understood", file.display()),
            )
            .detail(format!("Its export is called {export:?}."))
        })?;
        let config = ProcessConfig {
            args: vec![program_name(&file)],
            env: variables(),
            preopens: vec![".".to_owned()],
            ..ProcessConfig::default()
        };
        tokio::select! {
            outcome = async {
                if tests.is_empty() {
                    module
                        .check_entry("_start", &[])
                        .map_err(|error| cannot_start(&file, &error))?;
                    start(&file, &module, config, args).await
                } else {
                    suite::run(&file, &module, tests, config, &args).await
                }
            } => outcome,
            _ = ctrl_c() => Err(Failure::Code(Exit::Interrupted as u8)),
        }
    }
}

/// Runs a program to its end.
async fn start(
    file: &Path,
    module: &Module,
    mut config: ProcessConfig,
    args: Vec<String>,
) -> Outcome<u8> {
    let environment = EnvironmentConfig {
        stdio: Stdio::Inherit,
        certificates: Some(Arc::new(ForGuests::default())),
        ..EnvironmentConfig::default()
    };
    let environment = Environment::with_engine(environment, module.engine().clone());
    config.args.extend(args);
    let mut options = SpawnOptions::default();
    options.config = config.into();
    let pid = environment
        .spawn_wasm(module, "_start", Vec::new(), options)
        .map_err(|error| cannot_start(file, &error))?;
    end(file, &environment.wait(pid).await)
}

fn cannot_start(file: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new("E0032", format!("{}: {why}", file.display()))
}

/// The exit code of a first process; an end that is not the guest's own doing gets a letter, too.
fn end(file: &Path, reason: &ExitReason) -> Outcome<u8> {
    match reason {
        ExitReason::Normal | ExitReason::Exit(_) => Ok(exit_code(reason.exit_code())),
        other => Err(ended_badly(file, &other.to_string(), other.exit_code())),
    }
}

/// The letter of a guest that trapped, was killed, or reached a limit.
pub(super) fn ended_badly(file: &Path, reason: &str, code: i32) -> Failure {
    let mut lines = reason.lines();
    let first = lines.next().unwrap_or(reason);
    let rest: Vec<&str> = lines.collect();
    Failure::new("E0033", format!("{}: {first}", file.display()))
        .detail(rest.join("\n"))
        .exit(exit_code(code))
}

/// What the shell sees: the low byte, as with any program; never 0 for a failure.
pub(super) fn exit_code(code: i32) -> u8 {
    match code.to_le_bytes()[0] {
        0 if code != 0 => Exit::Failed as u8,
        byte => byte,
    }
}

/// All variables of this process that are text.
pub(super) fn variables() -> Vec<(String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A file that is not there and looks like an option is one that the command does not have.
pub(super) fn no_option(command: &str, file: &Path) -> Outcome {
    let shown = file.display().to_string();
    if !shown.starts_with('-') || file.exists() {
        return Ok(());
    }
    let message = format!("{shown}: `{command}` has no such option");
    Err(Failure::new("E0002", message)
        .detail("Its options go before the file; what stands behind the file is the guest's.")
        .next(format!("tidelock {command} --help"), "which ones there are"))
}

/// A module's bytes; text form is translated.
pub(super) fn read_module(file: &Path) -> Outcome<Vec<u8>> {
    let bytes = std::fs::read(file).map_err(|error| Failure::file(file, &error))?;
    if bytes.starts_with(b"\0asm") {
        return Ok(bytes);
    }
    let is_text = file.extension().is_some_and(|extension| extension == "wat")
        || bytes.trim_ascii_start().starts_with(b"(module")
        || bytes.trim_ascii_start().starts_with(b";;");
    if !is_text {
        return Err(
            Failure::new("E0030", format!("{}: this is not a module", file.display()))
                .detail("A module begins with \"\\0asm\", its text form with \"(module\"."),
        );
    }
    wat::parse_bytes(&bytes)
        .map(std::borrow::Cow::into_owned)
        .map_err(|mut error| {
            error.set_path(file);
            Failure::new("E0030", format!("{}: this is not a module", file.display())).detail(error)
        })
}

/// A module that the compiler refuses.
pub(super) fn not_runnable(file: &Path, error: &ModuleError) -> Failure {
    Failure::new("E0030", format!("{}: {error}", file.display()))
}

/// Argument number 0.
pub(super) fn program_name(file: &Path) -> String {
    file.file_name()
        .unwrap_or(file.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// How this program compiles modules.
pub(super) fn engine(profile: CompiledFor) -> Outcome<EngineConfig> {
    Ok(EngineConfig {
        cache_dir: cache_dir(),
        compiler: Some(Compiler::this_program(&[compile::NAME])?),
        profile: match profile {
            CompiledFor::Auto | CompiledFor::Trusted => Profile::Auto,
            CompiledFor::Dense => Profile::Dense,
            CompiledFor::Compute => Profile::Compute,
        },
        trusted: profile == CompiledFor::Trusted,
    })
}

/// Where compiled modules are kept between runs; the engine checks that it is ours alone.
fn cache_dir() -> Option<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|dir| dir.join("tidelock"))
}
