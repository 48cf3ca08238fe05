//! Searching for inputs that break something, with libFuzzer.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::run::{command, has_cargo, output, root, run};

/// How long each target runs unless somebody says otherwise.
pub(crate) const SECONDS: u32 = 10;

/// Targets whose guests wait when the search ends: on stacks of their own, where LeakSanitizer does not look for
/// what is still in use.
const WITH_GUESTS: &[&str] = &["module", "pointers"];

/// Runs every target for so many seconds, from the seeds of the repository.
///
/// What is found goes to a folder that git does not know; a seed is added by hand.
pub(crate) fn all(seconds: u32) -> Result<()> {
    if let Some(missing) = missing() {
        eprintln!("  SKIPPED, nothing was searched: {missing}");
        eprintln!(
            "  The seeds and random changes of them are tests all the same (fuzz_seeds, fuzz_guests)."
        );
        return Ok(());
    }
    for target in targets()? {
        let found = root().join("target/fuzz").join(&target);
        fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        let mut fuzz = command("cargo +nightly fuzz run");
        fuzz.arg(&target).arg(&found);
        fuzz.arg(format!("fuzz/corpus/{target}"));
        fuzz.args(["--", "-max_len=4096", "-rss_limit_mb=2048", "-timeout=10"]);
        fuzz.arg(format!("-max_total_time={seconds}"));
        if WITH_GUESTS.contains(&target.as_str()) {
            fuzz.env("ASAN_OPTIONS", "detect_leaks=0");
        }
        run(&mut fuzz)?;
    }
    Ok(())
}

/// What this machine lacks, if anything.
fn missing() -> Option<&'static str> {
    if !has_cargo("fuzz") {
        return Some("cargo-fuzz is not installed (cargo install cargo-fuzz --locked)");
    }
    if !has_cargo("+nightly") {
        return Some("there is no nightly toolchain (rustup toolchain install nightly)");
    }
    None
}

fn targets() -> Result<Vec<String>> {
    let list = output(&mut command("cargo +nightly fuzz list"))?;
    let targets: Vec<String> = list.lines().map(str::to_owned).collect();
    if targets.is_empty() {
        bail!("fuzz/ has no targets");
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        for entry in fs::read_dir(root().join("fuzz/targets")).unwrap() {
            let path = entry.unwrap().path();
            let target = path.file_stem().unwrap();
            let seeds = fs::read_dir(root().join("fuzz/corpus").join(target));
            assert!(seeds.unwrap().count() >= 8, "{}", target.display());
        }
    }
}
