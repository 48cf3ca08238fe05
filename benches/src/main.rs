//! Measures Tidelock and Erlang/OTP in one run, row by row, in turns.
//!
//!     cargo run --release -p tidelock-bench              everything, three rounds: about ten minutes
//!     cargo run --release -p tidelock-bench -- --short   only whether the counts are right
//!
//! The table goes to stdout, progress to stderr. A row that cannot be measured says so and why.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

mod program;
mod rows;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use program::Figures;
use rows::{Place, ROWS, Row};
use table::Line;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Measure Tidelock and Erlang/OTP in turns
#[derive(Debug, Parser)]
struct Args {
    /// Each row once and tiny: fails only if a count is wrong, never by a time
    #[arg(long)]
    short: bool,
    /// How often each row is run on both; the medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only rows whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The form of the result
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The program to measure; built from this repository if not named
    #[arg(long, env = "TIDELOCK_BENCH_PROGRAM")]
    tidelock: Option<PathBuf>,
    /// Leave Erlang out
    #[arg(long)]
    no_erlang: bool,
}

fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this crate is inside the repository")
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What runs the rows of this repository.
struct Ours {
    tidelock: PathBuf,
    guests: PathBuf,
}

impl Ours {
    fn build(tidelock: Option<PathBuf>) -> Result<Self> {
        let target = root().join("target");
        let tidelock = match tidelock {
            Some(tidelock) => tidelock,
            None => {
                let build = [
                    "build",
                    "--release",
                    "-p",
                    "tidelock-node",
                    "--bin",
                    "tidelock",
                ];
                output(Command::new("cargo").args(build).current_dir(root()))?;
                target.join("release/tidelock")
            }
        };
        let cargo = output(
            Command::new("bash")
                .arg("xtask/guest-toolchain.sh")
                .current_dir(root()),
        )?;
        let mut words = cargo.split_whitespace();
        let mut build = Command::new(words.next().context("no cargo for guests")?);
        build
            .args(words)
            .args([
                "build",
                "--release",
                "--locked",
                "--target",
                "wasm32-wasip1",
            ])
            .current_dir(root().join("benches/guest"))
            .env("CARGO_TARGET_DIR", target.join("guests"))
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        output(&mut build)?;
        Ok(Self {
            tidelock,
            guests: target.join("guests/wasm32-wasip1/release"),
        })
    }

    fn run(&self, row: &str, place: Place) -> Result<Figures> {
        let mut command = Command::new(&self.tidelock);
        let guest = match place {
            Place::One | Place::Two => "many.wasm",
            Place::OneIdle => "idle.wasm",
            Place::TwoLarge => "large.wasm",
        };
        match place {
            Place::One | Place::OneIdle => command.arg("run"),
            Place::Two | Place::TwoLarge => command.args(["dev", "--nodes", "2", "--once"]),
        };
        command.arg(self.guests.join(guest));
        command.arg(row);
        program::run(command)
    }
}

/// Erlang's driver, compiled, with a name server of its own.
struct Erlang {
    code: PathBuf,
    names: std::process::Child,
    port: String,
}

impl Erlang {
    fn build() -> Result<Self> {
        let code = root().join("target/bench-erlang");
        std::fs::create_dir_all(&code)?;
        output(
            Command::new("erlc")
                .arg("-o")
                .arg(&code)
                .arg(root().join("benches/erlang/bench.erl")),
        )?;
        let port = (24_000 + std::process::id() % 4_000).to_string();
        let names = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &port])
            .stdin(std::process::Stdio::null())
            .spawn()
            .context("starting epmd")?;
        Ok(Self { code, names, port })
    }

    fn run(&self, row: &str, place: Place) -> Result<Figures> {
        let mut command = Command::new("erl");
        command
            .args(["-noshell", "+P", "2000000", "-start_epmd", "false"])
            .arg("-pa")
            .arg(&self.code)
            .env("ERL_EPMD_PORT", &self.port)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        if matches!(place, Place::Two | Place::TwoLarge) {
            let name = format!("bench{}@127.0.0.1", std::process::id());
            command
                .args(["-name", &name, "-kernel", "logger_level", "critical"])
                .args(["-setcookie", &format!("bench{}", std::process::id())]);
        }
        command.args(["-run", "bench", "main", row]);
        program::run(command)
    }
}

impl Drop for Erlang {
    fn drop(&mut self) {
        // It serves this run only.
        let _ = self.names.kill();
        let _ = self.names.wait();
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ours = Ours::build(args.tidelock.clone())?;
    let erlang = match args.no_erlang {
        true => None,
        false => Erlang::build()
            .inspect_err(|error| eprintln!("Erlang is not measured: {error:#}"))
            .ok(),
    };
    let mut lines = Vec::new();
    let mut wrong = Vec::new();
    for row in ROWS {
        let sizes = if args.short {
            std::slice::from_ref(&row.short)
        } else {
            row.sizes
        };
        for size in sizes {
            if !args.only.is_empty() && !args.only.iter().any(|part| size.contains(part)) {
                continue;
            }
            let line = measure(&args, row, size, &ours, erlang.as_ref());
            if let Err(why) = &line.ours {
                wrong.push(format!("{size}: {why}"));
            }
            lines.push(line);
        }
    }
    match args.output {
        Form::Text if args.short => {
            println!("{} rows, {} wrong", lines.len(), wrong.len());
        }
        Form::Text => print!("{}", table::text(&lines)),
        Form::Json => println!("{}", table::json(&lines)),
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// Runs one size of one row on both, in turns.
fn measure(
    args: &Args,
    row: &'static Row,
    size: &'static str,
    ours: &Ours,
    erlang: Option<&Erlang>,
) -> Line {
    let rounds = if args.short { 1 } else { args.rounds };
    let mut line = Line {
        row,
        size,
        ours: Err("not run".into()),
        erlang: Err("left out".into()),
    };
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("{size} ({}/{rounds})", round + 1);
        here.push(ours.run(size, row.place));
        if let Some(erlang) = erlang.filter(|_| row.erlang && !args.short) {
            there.push(erlang.run(size, row.place));
        }
    }
    line.ours = table::medians(here);
    if !there.is_empty() {
        line.erlang = table::medians(there);
    }
    line
}
