//! What came of a run, and how it is shown.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Plan, run::Measured};
use crate::cli::{
    Output,
    failure::{Failure, Outcome},
    output::{Format, grouped, size},
};

/// One run, complete. The names of the fields are those of the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    kind: &'static str,
    /// Where operations were begun, and where the other side was.
    between: [String; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    lanes: u64,
    under_way: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_asked: Option<u64>,
    begun: u64,
    done: u64,
    lost: u64,
    seconds: f64,
    per_second: f64,
    /// Of the operations that were due at the asked rate, how many were begun in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    achieved_percent: Option<f64>,
    latency_us: Latency,
    /// How far off all latencies may be, since the clocks of two machines were compared by messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_error_us: Option<f64>,
    machine: Machine,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    mean: f64,
}

/// Where this program runs. Nodes of a cluster may be elsewhere.
#[derive(Debug, Serialize)]
struct Machine {
    system: String,
    cores: usize,
    version: &'static str,
    node_versions: Vec<String>,
}

impl Report {
    /// # Errors
    ///
    /// Something that was begun did not come to its end, or nothing was begun: there are no figures then.
    pub(super) fn new(plan: &Plan, measured: &Measured) -> Outcome<Self> {
        let counts = measured.counts;
        let lost = counts.begun - counts.done.min(counts.begun);
        let recorded = measured.histogram.len();
        if lost > 0 || recorded != counts.begun {
            let message = format!("{lost} of {} operations were lost", counts.begun);
            return Err(Failure::new("E0053", message)
                .detail(format_args!("{} were timed.", recorded))
                .next("tidelock events", "what happened meanwhile"));
        }
        if counts.begun == 0 {
            return Err(Failure::new("E0054", "nothing was done in that time")
                .detail("The rate is too low for it, or the machine too busy."));
        }
        let seconds = counts.elapsed_ns as f64 / 1e9;
        Ok(Report {
            kind: plan.kind,
            between: measured.between.clone(),
            size_bytes: plan.size,
            lanes: plan.lanes,
            under_way: plan.under_way,
            rate_asked: plan.rate,
            begun: counts.begun,
            done: counts.done,
            lost,
            seconds,
            per_second: counts.done as f64 / seconds,
            achieved_percent: plan
                .rate
                .map(|_| counts.begun as f64 / counts.asked.max(1) as f64 * 100.0),
            latency_us: Latency::of(&measured.histogram),
            clock_error_us: Some(counts.clock_ns as f64 / 1e3).filter(|error| *error > 0.0),
            machine: Machine::here(measured.versions.clone()),
        })
    }

    /// Prints the run; as CSV, its whole histogram.
    pub(super) fn print(&self, out: &Output, histogram: &Histogram<u64>) -> Outcome {
        match out.format {
            Format::Csv => out.print(&csv(histogram)),
            _ => out.one(self, &format!("{:.0}", self.per_second), &self.text()),
        }
    }

    fn text(&self) -> String {
        let latency = &self.latency_us;
        let mut text = self.title();
        let count = grouped(self.begun);
        let _ = write!(
            text,
            "  done       {count}, {} /s",
            grouped(self.per_second as u64)
        );
        if let Some(percent) = self.achieved_percent {
            let _ = write!(text, "; {percent:.1} % of what was due was begun");
        }
        let _ = write!(
            text,
            "\n  latency    p50 {}   p90 {}   p99 {}   p99.9 {}   max {}\n",
            time(latency.p50),
            time(latency.p90),
            time(latency.p99),
            time(latency.p99_9),
            time(latency.max)
        );
        if let Some(error) = self.clock_error_us {
            let _ = writeln!(
                text,
                "  clocks     of the two machines agree to {}",
                time(error)
            );
        }
        let machine = &self.machine;
        let _ = write!(
            text,
            "  lost       0\n  on         {}, {} cores; nodes of version {}",
            machine.system,
            machine.cores,
            machine.node_versions.join(" and ")
        );
        text
    }

    fn title(&self) -> String {
        let mut title = self.kind.to_owned();
        if let Some(bytes) = self.size_bytes {
            let _ = write!(title, " of {}", size(bytes));
        }
        let [from, to] = &self.between;
        let _ = write!(title, ", {from} to {to}");
        let lanes = match (self.size_bytes, self.lanes) {
            (Some(_), 1) => "one pair".to_owned(),
            (Some(_), pairs) => format!("{pairs} pairs"),
            (None, 1) => "one process".to_owned(),
            (None, processes) => format!("{processes} processes"),
        };
        let _ = write!(title, ", {lanes}, {} under way each", self.under_way);
        match self.rate_asked {
            Some(rate) => {
                let _ = write!(title, ", {} /s asked", grouped(rate));
            }
            None => title.push_str(", as fast as it goes"),
        }
        title.push('\n');
        title
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |part: f64| histogram.value_at_quantile(part) as f64 / 1e3;
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
        }
    }
}

impl Machine {
    fn here(node_versions: Vec<String>) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            system: format!(
                "{} {} {}",
                std::env::consts::OS,
                kernel.trim(),
                std::env::consts::ARCH
            ),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            version: env!("CARGO_PKG_VERSION"),
            node_versions,
        }
    }
}

/// Each duration that was met, how often, and which part of all was at most as long.
fn csv(histogram: &Histogram<u64>) -> String {
    let mut text = "latency_us,count,at_most".to_owned();
    let mut seen = 0;
    for step in histogram.iter_recorded() {
        seen += step.count_at_value();
        let part = seen as f64 / histogram.len() as f64;
        let us = step.value_iterated_to() as f64 / 1e3;
        let _ = write!(text, "\n{us},{},{part:.6}", step.count_at_value());
    }
    text
}

/// Microseconds for people, in the unit that fits.
fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us => format!("{us:.1} µs"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::run::Counts;

    fn measured(begun: u64, done: u64, timed: u64) -> Measured {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record_n(1500, timed).unwrap();
        Measured {
            histogram,
            counts: Counts {
                asked: 10,
                begun,
                done,
                elapsed_ns: 2_000_000_000,
                clock_ns: 0,
            },
            between: ["n1".to_owned(), "n2".to_owned()],
            versions: vec!["0.1.0".to_owned()],
        }
    }

    fn plan() -> Plan {
        Plan {
            kind: "message",
            remote: true,
            between: None,
            lanes: 1,
            under_way: 2,
            size: Some(64),
            rate: Some(5),
            time: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_lost_message_is_no_figure() {
        for wrong in [
            measured(10, 9, 9),
            measured(10, 10, 9),
            measured(10, 9, 10),
            measured(10, 10, 11),
        ] {
            assert!(Report::new(&plan(), &wrong).is_err());
        }
        assert!(Report::new(&plan(), &measured(0, 0, 0)).is_err());
    }

    #[test]
    fn a_complete_run_is_shown() {
        let report = Report::new(&plan(), &measured(8, 8, 8)).unwrap();
        let text = report.text();
        assert!(
            text.starts_with("message of 64 B, n1 to n2, one pair, 2 under way each, 5 /s asked\n"),
            "{text}"
        );
        assert!(
            text.contains("done       8, 4 /s; 80.0 % of what was due was begun\n"),
            "{text}"
        );
        assert!(text.contains("p50 1.5 µs"), "{text}");
        assert_eq!(csv(&measured(8, 8, 8).histogram).lines().count(), 2);
    }
}
