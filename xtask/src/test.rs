//! Everything a push must pass.
//!
//! The jobs run one after the other, the quick ones first, in one profile so that they share
//! what they compile; only the soak, which waits more than it works, goes on beside what is compiled.
//! The tests are last: a run ends with the words of the test runner.

use anyhow::Result;

use crate::run::{command, has_cargo, is_ci, job, output, program, run, yielding};
use crate::{fuzz, guests, instructions, languages, lint, soak};

/// Where tests look for compiled guests.
pub(crate) const GUESTS_VARIABLE: &str = "TIDELOCK_GUESTS";

/// Makes tests of network faults fail where they cannot be made, rather than be skipped.
const NETNS_VARIABLE: &str = "TIDELOCK_REQUIRE_NETNS";

/// What the protocol crate is compiled for to show that it needs nothing of a machine.
const BARE_TARGET: &str = "wasm32-unknown-unknown";

/// Runs all jobs; `quick` leaves out those that need guests.
pub(crate) fn all(quick: bool) -> Result<()> {
    job("format", || format(quick))?;
    if !quick {
        job("shipped guests match their sources", guests::check_shipped)?;
        job("guests", || guests::build().map(drop))?;
        job("guests in other languages", languages::build)?;
    }
    job("licences and advisories", deny)?;
    let mut soak = None;
    if !quick {
        job("build", build)?;
        job("demo", demo)?;
        if is_ci() {
            soak = Some(soak::Beside::start(&guests::folder())?);
        }
    }
    // These are compiled more than they run, and give way to the soak.
    job("lint and documentation", || lint::all(quick))?;
    job("protocol needs nothing of a machine", bare_protocol)?;
    job("every rule of the protocol is missed when removed", || {
        run(&mut yielding(
            "cargo test --release --locked --workspace --features tidelock-proto/switches \
             --test model_switches",
        ))
    })?;
    if !quick {
        job(
            "the simulation misses every rule that is removed",
            removed_rules,
        )?;
        job("processes on several threads, in every order", every_order)?;
        job("instructions of the hot paths", || {
            instructions::count(false)
        })?;
        job("search for inputs that break something", || {
            fuzz::all(fuzz::SECONDS)
        })?;
    }
    job("examples in the docs", || {
        run(&mut yielding(
            "cargo test --release --locked --workspace --doc --quiet",
        ))
    })?;
    if let Some(soak) = soak {
        job("soak", || soak.finish())?;
    }
    job("tests", || tests(quick))
}

fn format(quick: bool) -> Result<()> {
    run(&mut command("cargo fmt --all --check"))?;
    if !quick {
        for workspace in guests::workspaces() {
            let mut fmt = command("cargo fmt --check");
            guests::in_workspace(&mut fmt, workspace);
            run(&mut fmt)?;
        }
    }
    Ok(())
}

fn bare_protocol() -> Result<()> {
    let installed = output(&mut command("rustc --print sysroot"))?;
    let library = format!("{}/lib/rustlib/{BARE_TARGET}/lib", installed.trim());
    if !std::path::Path::new(&library).is_dir() {
        eprintln!("  skipped: this toolchain has no {BARE_TARGET}; cargo xtask setup adds it");
        return Ok(());
    }
    run(
        yielding("cargo build --release --locked --package tidelock-proto --target")
            .arg(BARE_TARGET),
    )
}

/// One seed for each rule: compiling counts, not running.
fn removed_rules() -> Result<()> {
    run(&mut yielding(
        "cargo test --release --locked --workspace --features tidelock-node/switches \
         --config profile.release.package.tidelock.opt-level=0 \
         --config profile.release.package.tidelock-node.opt-level=0 \
         --test simulate_switches -- --nocapture",
    ))
}

fn every_order() -> Result<()> {
    run(yielding(
        "cargo test --release --locked --workspace --features tidelock/loom --test loom \
         -- --nocapture",
    )
    .env("LOOM_MAX_PREEMPTIONS", "2"))
}

/// Compiles what the tests need, the binary among it: it would not be the same one without the tests.
fn build() -> Result<()> {
    run(&mut command(
        "cargo test --release --locked --workspace --no-run --quiet",
    ))
}

fn demo() -> Result<()> {
    // Wherever cargo builds, it lies beside this program.
    let tidelock = std::env::current_exe()?.with_file_name("tidelock");
    let mut demo = program(tidelock);
    demo.args(["demo", "-o", "json", "--guest"]);
    run(demo.arg(guests::folder().join("wordcount.wasm")))
}

/// Checks licences and advisories, as far as this machine can.
pub(crate) fn deny() -> Result<()> {
    if !has_cargo("deny") {
        eprintln!("  skipped: cargo-deny is not installed");
        return Ok(());
    }
    run(&mut command("cargo deny check"))
}

/// Checks the rules of the repository alone.
pub(crate) fn tidy() -> Result<()> {
    run(&mut command(
        "cargo test --release --package xtask --test tidy",
    ))
}

fn tests(quick: bool) -> Result<()> {
    let mut tests = if has_cargo("nextest") {
        let mut tests = command("cargo nextest run --release --locked --workspace");
        // Some wait more than they work (.config/nextest.toml).
        let threads = std::thread::available_parallelism().map_or(1, usize::from) + 1;
        tests.args(["--no-tests=fail", "--test-threads", &threads.to_string()]);
        tests
    } else {
        command("cargo test --release --locked --workspace --lib --bins --tests")
    };
    if !quick {
        tests.env(GUESTS_VARIABLE, guests::folder());
    }
    // Root has what they take.
    if is_root() {
        tests.env(NETNS_VARIABLE, "1");
    }
    run(&mut tests)
}

fn is_root() -> bool {
    output(&mut command("id -u")).is_ok_and(|id| id.trim() == "0")
}
