//! The command line: one file per command. A command returns data; `output.rs` prints it.

mod bench;
mod cluster;
mod compile;
mod completions;
mod config;
mod connect;
mod control;
mod daemon;
mod demo;
mod deploy;
mod dev;
mod drain;
mod events;
mod explain;
mod failure;
mod kill;
mod logs;
mod modules;
mod names;
mod node;
mod nodes;
mod open_files;
mod output;
mod ps;
mod remove;
mod run;
mod show;
mod spawn;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::styling::{AnsiColor, Styles},
    error::{ContextKind, ContextValue, ErrorKind},
};

use failure::{Exit, Failure, Outcome};
use output::{Color, Format, Output};

/// Processes that fail alone and are told of each other's end, in WebAssembly, across machines.
#[derive(Debug, Parser)]
#[command(
    name = "tidelock",
    version,
    styles = Styles::styled().header(AnsiColor::Yellow.on_default()).literal(AnsiColor::Green.on_default()),
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES,
    disable_help_subcommand = false,
    propagate_version = false
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0 done · 1 it failed · 2 called wrong · 3 cluster unreachable · 4 no such thing
  5 refused (limit, permission) · 6 timed out · 130 interrupted
  `run` and `dev --once` pass the guest's own code; a trap is 101.";

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Common {
    /// Form of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "text",
        hide_default_value = true,
        env = "TIDELOCK_OUTPUT",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    output: Format,
    /// Only ids, one per line; no talk on stderr
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    quiet: bool,
    /// When to colour
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        hide_default_value = true,
        help_heading = "Everywhere"
    )]
    color: Color,
    /// Directory with the credentials of the cluster to talk to
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TIDELOCK_CONTEXT",
        hide_env_values = true,
        help_heading = "Everywhere"
    )]
    context: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Dev(dev::Dev),
    Run(run::Run),
    Ps(ps::Ps),
    Show(show::Show),
    Logs(logs::Logs),
    Events(events::Events),
    Spawn(spawn::Spawn),
    Kill(kill::Kill),
    Deploy(deploy::Deploy),
    Modules(modules::Modules),
    Nodes(nodes::Nodes),
    Drain(drain::Drain),
    Remove(remove::Remove),
    Node(Box<node::Node>),
    Control(control::Control),
    Token(token::Token),
    Bench(bench::Bench),
    #[command(subcommand)]
    Config(config::Config),
    Explain(explain::Explain),
    Completions(completions::Completions),
    #[command(name = compile::NAME, hide = true)]
    Compile(compile::Compile),
}

/// Parses the command line, runs the command, says what went wrong, and gives the exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return called_wrong(error),
    };
    // Its result is for the program that has started it.
    if let Command::Compile(command) = cli.command {
        return command.run();
    }
    let out = Output::new(cli.common.output, cli.common.quiet, cli.common.color);
    match cli.run(&out) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(report(&out, &failure)),
    }
}

fn report(out: &Output, failure: &Failure) -> u8 {
    match failure {
        Failure::Letter(letter) => {
            out.letter(letter);
            letter.exit
        }
        Failure::Closed => 0,
        Failure::Code(code) => *code,
    }
}

/// Reads the command line. A variable that is empty is one that is not set.
fn parse() -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    for (option, variable) in [
        ("context", "TIDELOCK_CONTEXT"),
        ("output", "TIDELOCK_OUTPUT"),
    ] {
        if std::env::var_os(variable).is_some_and(|value| value.is_empty()) {
            command = command.mut_arg(option, |arg| arg.env(None::<&'static str>));
        }
    }
    let mut matches = command.try_get_matches()?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut Cli::command()))
}

/// Help and version go to stdout and are no error; the rest is clap's text and our exit code, or a letter for programs.
fn called_wrong(mut error: clap::Error) -> ExitCode {
    // clap counts the commands that are not for people, too.
    for kind in [
        ContextKind::ValidSubcommand,
        ContextKind::SuggestedSubcommand,
    ] {
        if let Some(ContextValue::Strings(names)) = error.get(kind) {
            let mut names = names.clone();
            names.retain(|name| name != compile::NAME);
            match names.is_empty() {
                true => error.remove(kind),
                false => error.insert(kind, ContextValue::Strings(names)),
            };
        }
    }
    let is_wanted = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let out = Output::new(asked_format(), false, Color::Never);
    if !is_wanted && matches!(out.format, Format::Json | Format::Ndjson) {
        return ExitCode::from(report(&out, &wrong_call(&error)));
    }
    let _ = error.print();
    match is_wanted {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Exit::Usage as u8),
    }
}

/// clap's text as a letter.
fn wrong_call(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim);
    let letter = match lines.next().and_then(|line| line.strip_prefix("error: ")) {
        Some(message) => {
            let rest: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
            Failure::new("E0002", message).detail(rest.join("\n"))
        }
        // Its text is all the help.
        None => Failure::new("E0002", "a command is missing"),
    };
    letter.next("tidelock --help", "what is possible")
}

/// The form that was asked for, as far as that can be told of a command line that is not understood.
fn asked_format() -> Format {
    let form = |text: &str| Format::from_str(text, false).ok();
    let variable = std::env::var("TIDELOCK_OUTPUT").ok();
    let mut asked = variable.and_then(|text| form(&text));
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    // What stands behind this is not ours.
    while let Some(arg) = args.next().filter(|arg| arg != "--") {
        let value = match arg.as_str() {
            "-o" | "--output" => args.next(),
            other => other
                .strip_prefix("--output=")
                .or_else(|| other.strip_prefix("-o"))
                .map(|value| value.trim_start_matches('=').to_owned()),
        };
        asked = value.and_then(|value| form(&value)).or(asked);
    }
    asked.unwrap_or(Format::Text)
}

impl Cli {
    fn run(self, out: &Output) -> Outcome<u8> {
        let context = self.common.context.as_deref();
        let done = |()| 0;
        if out.format == Format::Csv && !matches!(self.command, Command::Bench(_)) {
            return Err(Failure::new(
                "E0002",
                "-o csv: only `tidelock bench` has this form",
            ));
        }
        open_files::raise()?;
        match self.command {
            Command::Explain(command) => command.run(out).map(done),
            Command::Completions(command) => command.run(out).map(done),
            Command::Config(command) => command.run(out).map(done),
            Command::Run(command) => on_all_cores(command.run(out)),
            Command::Dev(command) => on_all_cores(command.run(out)),
            Command::Demo(command) => on_all_cores(command.run(out)),
            Command::Bench(command) => on_all_cores(command.run(context, out)),
            Command::Node(command) => on_all_cores(command.run(out)),
            Command::Control(command) => on_all_cores(command.run(out)).map(done),
            command => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let work = command.over_the_wire(out, context);
                    tokio::select! {
                        outcome = work => outcome.map(done),
                        _ = tokio::signal::ctrl_c() => Err(Failure::Code(Exit::Interrupted as u8)),
                    }
                })
            }
        }
    }
}

impl Command {
    /// The commands that ask a running cluster.
    async fn over_the_wire(self, out: &Output, context: Option<&std::path::Path>) -> Outcome {
        let cluster = connect::Cluster::open(context, out)?;
        match self {
            Self::Ps(command) => command.run(out, &cluster).await,
            Self::Show(command) => command.run(out, &cluster).await,
            Self::Logs(command) => command.run(out, &cluster).await,
            Self::Events(command) => command.run(out, &cluster).await,
            Self::Spawn(command) => command.run(out, &cluster).await,
            Self::Kill(command) => command.run(out, &cluster).await,
            Self::Deploy(command) => command.run(out, &cluster).await,
            Self::Modules(command) => command.run(out, &cluster).await,
            Self::Nodes(command) => command.run(out, &cluster).await,
            Self::Drain(command) => command.run(out, &cluster).await,
            Self::Remove(command) => command.run(out, &cluster).await,
            Self::Token(command) => command.run(out, &cluster).await,
            _ => unreachable!("handled before a cluster was asked for"),
        }
    }
}

/// For daemons and guests. Does not wait for threads that are stuck in a system call, such as a guest's
/// read of a terminal.
fn on_all_cores<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Guests that compute take a tick each: sockets and timers must be looked at in between.
        .event_interval(31)
        .build()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}
