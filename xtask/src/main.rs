//! Chores of this repository. `cargo xtask` lists them.

#![allow(
    clippy::print_stderr,
    reason = "talking to people is what a chore does"
)]

mod fuzz;
mod guests;
mod instructions;
mod languages;
mod lint;
mod run;
mod soak;
mod test;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup             make this machine able to compile guests
  guests            compile all guests, those in other languages too if pip and npm are there
  guests --ship     renew the compiled guests of the repository: wordcount.wasm, load.wasm
  guests --check    whether those were made from the sources here
  test [--quick]    everything a push must pass; --quick leaves out guests and demo. Where CI is
                    set, a soak of five minutes comes with it
  lint              clippy and documentation, warnings being errors; compiles what is missing
  fuzz [--seconds N]
                    search for inputs that break something, N seconds (10) for each kind of
                    input, if cargo-fuzz and a nightly toolchain are installed
  soak [--for TIME] [--every TIME] [--seed N]
                    a cluster under load with a fault every 30 s, for 5m unless told otherwise
                    (24h); fails if anything is lost, told wrongly, or left behind
  instructions [--bless]
                    how many instructions the hot paths take, against benches/instructions.txt,
                    if valgrind is installed; --bless records them
  tidy              the rules in tests/tidy.rs alone
  deny              licences and advisories, if cargo-deny is installed";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(done) = lint::called_as_compiler(&arguments) {
        return done;
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["setup"] => guests::setup().map(drop),
        ["guests"] => guests::build().map(drop).and_then(|()| languages::build()),
        ["guests", "--ship"] => guests::ship(),
        ["guests", "--check"] => guests::check_shipped(),
        ["test"] => test::all(false),
        ["test", "--quick"] => test::all(true),
        ["lint"] => lint::all(false),
        ["fuzz"] => fuzz::all(fuzz::SECONDS),
        ["fuzz", "--seconds", seconds] => fuzz::all(
            seconds
                .parse()
                .with_context(|| format!("{seconds:?} is not a number of seconds"))?,
        ),
        ["soak", options @ ..] => soak::from_arguments(options),
        ["instructions"] => instructions::count(false),
        ["instructions", "--bless"] => instructions::count(true),
        ["tidy"] => test::tidy(),
        ["deny"] => test::deny(),
        [] | ["help" | "--help" | "-h"] => {
            eprintln!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown chore: {}\n\n{USAGE}", arguments.join(" ")),
    }
}
