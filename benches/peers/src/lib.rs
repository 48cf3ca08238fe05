//! What the drivers share: rows as arguments, figures as lines, a second program of the same kind.
//!
//! A row is `name:number:number`, as for the guest in `benches/guest`; each answer is one line of JSON on stdout.
//! A row that counts wrongly ends the program, so a figure that is printed is of work that was done.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One row: its words, its name and its numbers.
pub struct Row {
    /// As it was asked for.
    pub text: String,
    /// What is done.
    pub name: String,
    /// How much of it.
    pub numbers: Vec<u64>,
}

impl Row {
    /// Reads the first argument.
    ///
    /// # Errors
    ///
    /// There is none, or it has no numbers.
    pub fn first() -> Result<Self> {
        let text = env::args().nth(1).context("a row is asked for")?;
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default().to_owned();
        let numbers: Result<Vec<u64>, _> = parts.map(str::parse).collect();
        let numbers = numbers.context("numbers follow the name")?;
        Ok(Row {
            text,
            name,
            numbers,
        })
    }

    /// Prints what was measured.
    pub fn print(&self, values: &[(&str, f64)]) {
        let values: Vec<_> = values
            .iter()
            .map(|(unit, value)| format!("\"{unit}\":{value}"))
            .collect();
        println!("{{\"row\":\"{}\",{}}}", self.text, values.join(","));
    }
}

/// Lets the harness read how much memory there is.
pub async fn phase(name: &str) {
    println!("{{\"phase\":\"{name}\"}}");
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Things per second.
pub fn rate(count: u64, since: Instant) -> (&'static str, f64) {
    ("per_s", count as f64 / since.elapsed().as_secs_f64())
}

/// Median and 99th percentile, in microseconds.
pub fn spread(mut times: Vec<Duration>) -> Vec<(&'static str, f64)> {
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        times[index.min(times.len() - 1)].as_secs_f64() * 1e6
    };
    vec![("p50_us", at(0.5)), ("p99_us", at(0.99))]
}

/// The same program as a second node. It ends with this value.
pub struct Second {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

impl Second {
    /// Starts it, and waits for the port that it prints.
    ///
    /// # Errors
    ///
    /// It did not say where it listens.
    pub fn start() -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg("second")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().parse();
        let second = Second {
            child,
            port: *port.as_ref().unwrap_or(&0),
        };
        match port {
            Ok(_) => Ok(second),
            Err(_) => bail!("the second node said {line:?} instead of its port"),
        }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // It serves this run only.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback interface that nobody uses at this moment.
///
/// # Errors
///
/// There is none.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
