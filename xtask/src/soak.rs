//! A cluster under faults for a long time, compared with itself before.
//!
//! The work is done by a test of `tests/cluster/soak.rs`, which has the harness; this is how it is started
//! for longer than a test should take.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::run::{command, output, program, root, run};
use crate::test::GUESTS_VARIABLE;

/// How long it goes on where every push is tested.
const IN_CI: &str = "5m";

/// The test that does it.
const TEST: &str = "soak::a_long_time_of_faults_leaves_nothing_behind";

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
    let mut soak = command("cargo test --release --locked --workspace --test cluster");
    soak.args([TEST, "--", "--exact", "--nocapture"]);
    options.tell(&mut soak);
    run(&mut soak)
}

impl Options<'_> {
    /// Says them to the test.
    fn tell(&self, test: &mut Command) {
        test.env("TIDELOCK_SOAK", self.time);
        test.env("TIDELOCK_SOAK_EVERY", self.every);
        test.env("TIDELOCK_SEED", self.seed.to_string());
    }
}

/// One that goes on beside what else is done. Dropped before its end, it is killed.
pub(crate) struct Beside {
    child: Child,
    /// What it says.
    log: PathBuf,
}

impl Beside {
    /// Starts it, as long as every push has one. What it needs must be compiled.
    ///
    /// Its nodes are of a copy of the binary: other jobs compile others in that place.
    pub(crate) fn start(guests: &Path) -> Result<Self> {
        let folder = root().join("target/soak");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let built = std::env::current_exe()?.with_file_name("tidelock");
        let node = folder.join("tidelock");
        fs::copy(&built, &node).with_context(|| format!("copying {}", built.display()))?;
        let log = folder.join("log");
        let said = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut soak = program(test_binary()?);
        soak.args([TEST, "--exact", "--nocapture"]);
        parse(&[])?.tell(&mut soak);
        soak.env(GUESTS_VARIABLE, guests);
        soak.env("TIDELOCK_NODE_BINARY", node);
        soak.stdout(said.try_clone()?).stderr(said);
        let child = soak.spawn().context("starting the soak")?;
        eprintln!("── soak: begun; it goes on beside what is next\n");
        Ok(Beside { child, log })
    }

    /// Waits for its end, and says what it said.
    ///
    /// # Errors
    ///
    /// If it has failed.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.child.wait().context("waiting for the soak")?;
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        eprint!("{said}");
        if !status.success() {
            bail!("{TEST}: {status}");
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where cargo has put the tests of clusters.
fn test_binary() -> Result<PathBuf> {
    let told = output(
        command("cargo test --release --locked --workspace --test cluster --no-run")
            .arg("--message-format=json")
            .stderr(Stdio::null()),
    )?;
    told.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "cluster")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo has compiled no tests of clusters")
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
