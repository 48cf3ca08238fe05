//! How many instructions the hot paths take, compared with what was recorded.
//!
//! Times depend on the machine and on who else uses it, counts hardly do. Each path of `benches/hot_paths.rs`
//! runs under callgrind with two counts of operations; the difference, divided, is the cost of one. So neither
//! the start of the program nor its end is in a figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::run::{command, is_ci, output, program, root, run, yielding};

/// Where the counts are recorded.
const RECORD: &str = "benches/instructions.txt";

/// How far a count may be from the recorded one, in parts of it. What spawns has the engine's clock beside it, which
/// counts time: 9300 to 9730 were seen of the same program.
const TOLERANCE: f64 = 0.08;

/// Operations of the shorter run; the longer one has twice as many.
const OPERATIONS: u64 = 5_000;

const HEAD: &str = "\
# Instructions of one operation of each path in hot_paths.rs, by `cargo xtask instructions --bless`.
# Fails at a difference of 8 % either way. Recorded with
";

/// Counts all paths and compares them with the record, or makes them the record.
///
/// # Errors
///
/// A path takes more or fewer instructions than recorded, by more than the tolerance.
pub(crate) fn count(bless: bool) -> Result<()> {
    if let Some(missing) = missing() {
        if is_ci() {
            bail!("no instruction was counted: {missing}");
        }
        eprintln!("  SKIPPED, no instruction was counted: {missing}");
        return Ok(());
    }
    run(&mut yielding(
        "cargo build --release --locked --workspace --examples",
    ))?;
    let paths = output(&mut hot_paths())?;
    let mut found = BTreeMap::new();
    for path in paths.lines() {
        let fewer = instructions(path, OPERATIONS)?;
        let more = instructions(path, 2 * OPERATIONS)?;
        found.insert(path.to_owned(), more.saturating_sub(fewer) / OPERATIONS);
    }
    if bless {
        let text = format!("{HEAD}# {}\n{}", compiler()?, shown(&found));
        return fs::write(root().join(RECORD), text).with_context(|| format!("writing {RECORD}"));
    }
    compare(&found)
}

/// What this machine lacks, if anything.
fn missing() -> Option<&'static str> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("they are recorded for Linux on x86-64");
    }
    let valgrind = command("valgrind --version").stdout(Stdio::null()).status();
    match valgrind {
        Ok(status) if status.success() => None,
        _ => Some("valgrind is not installed (apt-get install valgrind)"),
    }
}

/// Wherever cargo builds, it lies beside this program.
fn hot_paths() -> std::process::Command {
    let here = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("target/release/xtask"));
    program(here.with_file_name("examples").join("hot_paths"))
}

/// Runs one path under callgrind; all instructions that it took.
fn instructions(path: &str, operations: u64) -> Result<u64> {
    let binary = hot_paths();
    let mut callgrind = command("valgrind --tool=callgrind --callgrind-out-file=/dev/null");
    callgrind
        .arg(binary.get_program())
        .arg(path)
        .arg(operations.to_string());
    let ran = callgrind.output().context("starting valgrind")?;
    let words = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        bail!("{path}: {}\n{words}", ran.status);
    }
    let collected = words
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .with_context(|| format!("callgrind has not said what it collected: {words}"))?;
    Ok(collected.1.trim().parse()?)
}

fn compiler() -> Result<String> {
    Ok(output(&mut command("rustc --version"))?.trim().to_owned())
}

fn shown(counts: &BTreeMap<String, u64>) -> String {
    let mut text = String::new();
    for (path, count) in counts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{path:<20} {count:>8}");
    }
    text
}

fn recorded(text: &str) -> Result<BTreeMap<String, u64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (path, count) = line.split_once(' ').context("a path and its count")?;
            Ok((path.to_owned(), count.trim().parse()?))
        })
        .collect()
}

fn compare(found: &BTreeMap<String, u64>) -> Result<()> {
    let text =
        fs::read_to_string(root().join(RECORD)).with_context(|| format!("reading {RECORD}"))?;
    let recorded = recorded(&text).with_context(|| format!("understanding {RECORD}"))?;
    let faults = faults(found, &recorded);
    for (path, count) in found {
        let before = recorded.get(path).copied().unwrap_or_default();
        eprintln!("  {path:<20} {count:>8} instructions, recorded {before}");
    }
    if faults.is_empty() {
        return Ok(());
    }
    let now = compiler()?;
    let same = if text.contains(&now) {
        "the same"
    } else {
        "another"
    };
    bail!(
        "{}\n  They were recorded with {same} compiler as this, {now}.\n  \
         next: look for the cause; cargo xtask instructions --bless if it is meant",
        faults.join("\n")
    )
}

/// What differs too much, or stands on one side only.
fn faults(found: &BTreeMap<String, u64>, recorded: &BTreeMap<String, u64>) -> Vec<String> {
    let mut faults = Vec::new();
    for path in recorded.keys().filter(|path| !found.contains_key(*path)) {
        faults.push(format!("{path}: recorded, but not counted"));
    }
    for (path, count) in found {
        match recorded.get(path) {
            None => faults.push(format!("{path}: {count}, not recorded")),
            Some(before) => {
                let change = *count as f64 / *before as f64 - 1.0;
                if change.abs() > TOLERANCE {
                    let percent = change * 100.0;
                    faults.push(format!(
                        "{path}: {count} instead of {before}, {percent:+.1} %"
                    ));
                }
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
        all.iter()
            .map(|(path, count)| ((*path).to_owned(), *count))
            .collect()
    }

    #[test]
    fn a_difference_either_way_is_a_fault() {
        let recorded = counts(&[("a", 1000), ("b", 1000), ("c", 1000)]);
        assert!(faults(&counts(&[("a", 1079), ("b", 921), ("c", 1000)]), &recorded).is_empty());
        let far = faults(&counts(&[("a", 1081), ("b", 919), ("d", 1)]), &recorded);
        assert_eq!(far.len(), 4, "{far:?}");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let all = counts(&[("a", 12), ("long_name", 3_456_789)]);
        let text = format!("{HEAD}# rustc\n{}", shown(&all));
        assert_eq!(recorded(&text).unwrap(), all);
    }
}
