//! Runs one row in one program and reads what it prints.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long one row may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The figures of a row, by their keys.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Runs the program, helps it where a row needs somebody outside of it, and returns its figures.
pub(crate) fn run(mut command: Command) -> Result<Figures> {
    // A guest is given the variables of whoever starts it and hands them to each process it spawns, over
    // the network too: what happens to be set in a shell is no part of a figure.
    let kept = ["HOME", "PATH"];
    let set: Vec<_> = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(std::ffi::OsStr::to_owned)))
        .collect();
    command.env_clear();
    for name in kept {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, value) in set {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let outcome = watch(&mut child);
    if outcome.is_err() {
        // It may be hanging; its group is ours.
        let _ = killpg(pid(child.id()), Signal::SIGKILL);
    }
    let status = child.wait()?;
    let figures = outcome?;
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(figures)
}

fn watch(child: &mut Child) -> Result<Figures> {
    let stderr = child.stderr.take().expect("a pipe was asked for");
    let words = thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.collect::<Vec<_>>().join("\n")
    });
    let stdout = child.stdout.take().expect("a pipe was asked for");
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let until = Instant::now() + PATIENCE;
    let mut figures = Figures::new();
    let mut notes = Figures::new();
    loop {
        let line = match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("nothing after {} s", PATIENCE.as_secs());
            }
        };
        let value: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("a line that is no JSON: {line}"))?;
        match value["phase"].as_str() {
            Some("before") => drop(notes.insert("before".into(), resident(child.id())?)),
            Some("alive") => drop(notes.insert("alive".into(), resident(child.id())?)),
            Some("linked") => {
                let at = signal_second(child.id(), Signal::SIGKILL)?;
                notes.insert("lost".into(), at);
            }
            Some("linked, stop") => {
                let at = signal_second(child.id(), Signal::SIGSTOP)?;
                notes.insert("lost".into(), at);
            }
            _ => figures.extend(
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))),
            ),
        }
        if let (Some(row), Some(before), Some(alive)) = (
            value["row"].as_str(),
            notes.get("before"),
            notes.get("alive"),
        ) {
            let count: f64 = row.rsplit(':').next().unwrap_or_default().parse()?;
            figures.insert("bytes_each".into(), (alive - before) / count);
        }
    }
    if let Some(lost) = notes.get("lost") {
        for (from, to) in [("first_at_ns", "first_ms"), ("last_at_ns", "last_ms")] {
            if let Some(at) = figures.remove(from) {
                figures.insert(to.into(), (at - lost) / 1e6);
            }
        }
    }
    if figures.is_empty() {
        let words = words.join().unwrap_or_default();
        bail!("no figure: {}", words.trim());
    }
    Ok(figures)
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids are small"))
}

/// Bytes of memory that a program and those it has started have, with the kernel's tables for them.
fn resident(parent: u32) -> Result<f64> {
    let mut bytes = resident_alone(parent)?;
    for id in children(parent)? {
        // It may have ended just now.
        bytes += resident_alone(id).unwrap_or(0.0);
    }
    Ok(bytes)
}

fn resident_alone(id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let mut kib = 0.0;
    for name in ["VmRSS:", "VmPTE:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}"))?;
        kib += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(kib * 1024.0)
}

/// Sends a signal to the second node of a cluster that a program started; returns when, in nanoseconds of 1970.
fn signal_second(parent: u32, signal: Signal) -> Result<f64> {
    for id in children(parent)? {
        let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        if words.windows(2).any(|two| two == [&b"--name"[..], b"n2"]) {
            let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
            kill(pid(id), signal)?;
            return Ok(at.as_nanos() as f64);
        }
    }
    bail!("the second node is not among the children of {parent}")
}

/// The programs that a program has started and that run.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // It vanishes with the process.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let mut after_name = stat.rsplit(')').next().unwrap_or_default().split(' ');
        if after_name.nth(2) == Some(&parent.to_string()) {
            found.push(id);
        }
    }
    Ok(found)
}
