//! Measures Tidelock and its peers in one run, row by row, in turns.
//!
//!     benches/compare              everything, three rounds
//!     benches/compare --short      only whether the counts are right
//!
//! The table goes to stdout, progress to stderr. A row that cannot be measured says so and why.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

mod bars;
mod machine;
mod peers;
mod program;
mod rows;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use machine::Taken;
use peers::{Done, Peers};
use program::Figures;
use rows::{GROWTH, Place, ROWS, Row};
use table::Line;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Measure Tidelock, Erlang/OTP, ractor, kameo and plain wasmtime in turns
#[derive(Debug, Parser)]
struct Args {
    /// Each row once and tiny: fails only if a count is wrong, never by a time
    #[arg(long)]
    short: bool,
    /// How often each row is run by each; the medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How the cost grows with processes, nodes, sizes and links, instead of the table
    #[arg(long)]
    growth: bool,
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
    /// Leave the peers in Rust out, which take minutes to compile once
    #[arg(long)]
    no_rust: bool,
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
    /// Builds what is not named: as it is installed, or as it is tested if no time counts.
    fn build(tidelock: Option<PathBuf>, short: bool) -> Result<Self> {
        let target = root().join("target");
        let tidelock = match tidelock {
            Some(tidelock) => tidelock,
            None => {
                let profile = if short { "release" } else { "dist" };
                // The whole workspace, so that dependencies have the features that every other build gives them.
                let build = [
                    "build",
                    "--profile",
                    profile,
                    "--workspace",
                    "--bin",
                    "tidelock",
                ];
                output(Command::new("cargo").args(build).current_dir(root()))?;
                target.join(profile).join("tidelock")
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
        let (one, more) = (&["run"][..], &["dev", "--once", "--nodes"][..]);
        let (words, guest) = match place {
            Place::One => (one, "many.wasm"),
            Place::OneIdle => (one, "idle.wasm"),
            Place::OneSmallest => (one, "smallest.wat"),
            Place::Compute => (one, "kernels.wasm"),
            Place::Two | Place::Nodes => (more, "many.wasm"),
            Place::TwoLarge => (more, "large.wasm"),
            Place::TwoBig => (more, "big.wasm"),
            Place::Start => return self.starts(row),
        };
        let mut command = Command::new(&self.tidelock);
        command.args(words);
        if words == more {
            command.arg(match place {
                Place::Nodes => row.rsplit(':').next().unwrap_or_default(),
                _ => "2",
            });
        }
        command.arg(match place {
            Place::OneSmallest => root().join("benches/guest").join(guest),
            _ => self.guests.join(guest),
        });
        command.arg(row);
        if place != Place::TwoBig {
            return program::run(command);
        }
        // What was compiled in an earlier run is not looked for.
        let fresh = root().join(format!("target/bench-cache-{}", std::process::id()));
        command.env("XDG_CACHE_HOME", &fresh);
        let ran = program::run(command);
        // Nobody needs it; the next run has another one.
        let _ = std::fs::remove_dir_all(&fresh);
        ran
    }

    /// Programs one after the other, each from its start to its exit. The first one compiles.
    fn starts(&self, row: &str) -> Result<Figures> {
        let count: usize = row.rsplit(':').next().unwrap_or_default().parse()?;
        let guest = self.guests.join("start.wasm");
        let mut times = Vec::new();
        for _ in 0..=count {
            let begun = Instant::now();
            let said = output(Command::new(&self.tidelock).arg("run").arg(&guest))?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
            if said != "hello\n" {
                bail!("it said {said:?}");
            }
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
        Ok(Figures::from([
            ("p99_us".to_owned(), p99),
            ("p50_us".to_owned(), table::middle(times)),
        ]))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ours = Ours::build(args.tidelock.clone(), args.short)?;
    let peers = Peers::build(args.no_erlang || args.short, args.no_rust || args.short);
    let mut lines = Vec::new();
    let mut wrong = Vec::new();
    let mut taken = Taken::default();
    let rows = match (args.growth, args.short) {
        (true, _) => vec![GROWTH],
        (false, true) => vec![ROWS, GROWTH],
        (false, false) => vec![ROWS],
    };
    for row in rows.into_iter().flatten() {
        let sizes = if args.short {
            std::slice::from_ref(&row.short)
        } else {
            row.sizes
        };
        for size in sizes {
            if !args.only.is_empty() && !args.only.iter().any(|part| size.contains(part)) {
                continue;
            }
            if !args.short {
                taken.look();
            }
            let line = measure(&args, row, size, &ours, &peers);
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
        Form::Text => println!("{}{taken}", table::text(&lines)),
        Form::Json => {
            println!("{}", table::json(&lines));
            eprintln!("{taken}");
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// Runs one size of one row by each, in turns.
fn measure(args: &Args, row: &'static Row, size: &'static str, ours: &Ours, peers: &Peers) -> Line {
    let rounds = if args.short { 1 } else { args.rounds };
    let (mut here, mut there) = (Vec::new(), Done::new());
    for round in 0..rounds {
        eprintln!("{size} ({}/{rounds})", round + 1);
        here.push(ours.run(size, row.place));
        for peer in row.peers.iter().filter(|_| !args.short) {
            let done = peers.run(*peer, size, row.place, &ours.guests);
            there.entry(*peer).or_default().push(done);
        }
    }
    let there = there.into_iter();
    Line {
        row,
        size,
        ours: table::medians(here),
        peers: there
            .map(|(peer, runs)| (peer, table::medians(runs)))
            .collect(),
    }
}
