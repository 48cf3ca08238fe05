//! A cluster under faults for a long time, compared with itself before.
//!
//! The work is done by a test of `tests/cluster/soak.rs`, which has the harness; this is how it is started
//! for longer than a test should take.

use anyhow::{Context as _, Result, bail};

use crate::run::{command, run};

/// How long it goes on where every push is tested.
pub(crate) const IN_CI: &str = "5m";

/// What may be asked for.
struct Options<'a> {
    /// How long faults go on, such as `24h`.
    time: &'a str,
    /// What decides them.
    seed: u64,
    /// How often there is one.
    every: &'a str,
}

/// Runs it as the arguments say.
pub(crate) fn from_arguments(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let mut soak = command(
        "cargo test --release --locked --workspace --test cluster \
         soak::a_long_time -- --nocapture",
    );
    soak.env("TIDELOCK_SOAK", options.time);
    soak.env("TIDELOCK_SOAK_EVERY", options.every);
    soak.env("TIDELOCK_SEED", options.seed.to_string());
    run(&mut soak)
}

fn parse<'a>(mut arguments: &[&'a str]) -> Result<Options<'a>> {
    let mut options = Options {
        time: IN_CI,
        seed: 1,
        every: "30s",
    };
    while let [name, rest @ ..] = arguments {
        let [value, rest @ ..] = rest else {
            bail!("{name} needs a value");
        };
        match *name {
            "--for" => options.time = value,
            "--every" => options.every = value,
            "--seed" => {
                let seed = value.parse();
                options.seed = seed.with_context(|| format!("{value:?} is not a number"))?;
            }
            _ => bail!("soak has no {name}: --for TIME, --every TIME, --seed NUMBER"),
        }
        arguments = rest;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_usual() {
        let options = parse(&["--seed", "9", "--for", "24h"]).unwrap();
        let Options { time, seed, every } = options;
        assert_eq!((time, seed, every), ("24h", 9, "30s"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (wrong, word) in [
            (&["--from", "now"][..], "--from"),
            (&["--for"], "--for"),
            (&["--seed", "x"], "\"x\""),
        ] {
            let error = parse(wrong).err().expect("it has no meaning");
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
