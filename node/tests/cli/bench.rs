//! `tidelock bench`.

use std::process::{Child, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tidelock_control::api;

use crate::{
    nothing_is_left,
    user::{Dev, User, text, until},
};

/// Fails unless a run is complete; returns how many operations it was.
fn complete(report: &serde_json::Value) -> u64 {
    let number = |name: &str| {
        let number = report[name].as_u64();
        number.unwrap_or_else(|| panic!("no {name}: {report}"))
    };
    let latency = |part: &str| report["latency_us"][part].as_f64().unwrap();
    assert_eq!(number("lost"), 0, "{report}");
    assert_eq!(number("begun"), number("done"), "{report}");
    assert!(number("done") > 0, "{report}");
    let parts = ["p50", "p90", "p99", "p99_9", "max"].map(latency);
    assert!(parts[0] > 0.0 && parts.is_sorted(), "{report}");
    assert!(report["per_second"].as_f64().unwrap() > 0.0, "{report}");
    number("done")
}

const KINDS: [&str; 4] = ["spawn", "message", "call", "link"];

#[test]
fn each_kind_is_measured_in_one_environment() {
    let user = User::new();
    for kind in KINDS {
        let report = user.json(&["bench", kind, "--for", "300ms"]);
        assert!(complete(&report) > 10, "{report}");
        assert_eq!(report["kind"], kind, "{report}");
        assert!(report["achieved_percent"].is_null(), "{report}");

        let report = user.json(&["bench", kind, "--for", "300ms", "--rate", "100"]);
        // No more than were due; a busy machine may do fewer.
        assert!(complete(&report) <= 30, "{report}");
        assert!(
            report["achieved_percent"].as_f64().unwrap() <= 100.0,
            "{report}"
        );
    }
}

#[test]
fn each_kind_is_measured_between_nodes() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "2"]);
    for kind in KINDS {
        let args = ["bench", kind, "--for", "300ms", "--between", "n2", "n1"];
        let report = user.json(&args);
        complete(&report);
        assert_eq!(
            report["between"],
            serde_json::json!(["n2", "n1"]),
            "{report}"
        );
        assert!(
            report["clock_error_us"].is_null(),
            "one machine has one clock: {report}"
        );
    }
    // Two pairs whose messages take a stream each, on one node and on two.
    for (from, to) in [("n1", "n1"), ("n1", "n2")] {
        for kind in ["message", "call"] {
            let report = user.json(&[
                "bench",
                kind,
                "--for",
                "300ms",
                "--size",
                "1MiB",
                "--pairs",
                "2",
                "--under-way",
                "3",
                "--between",
                from,
                to,
            ]);
            complete(&report);
            assert_eq!(report["size_bytes"], 1 << 20, "{report}");
        }
    }
    let unknown = user.run(&["bench", "call", "--between", "n1", "n9"]);
    assert_eq!(unknown.status.code(), Some(4));
    assert!(text(&unknown.stderr).contains("n9: there is no such node [E0021]"));
    assert_eq!(user.ok(&["ps", "-q"]), "", "nothing of a bench is left");
    let lines: Vec<api::LogLine> = user.lines(&["logs"]);
    assert!(lines.is_empty(), "its lines are nobody else's: {lines:?}");
}

#[test]
fn a_bench_brings_its_own_nodes() {
    let user = User::new();
    let report = user.json(&["bench", "remote-call", "--for", "300ms", "--rate", "1k"]);
    complete(&report);
    assert_eq!(
        report["between"],
        serde_json::json!(["n1", "n2"]),
        "{report}"
    );
    nothing_is_left(&user);
}

#[test]
fn a_bench_has_a_table_and_a_histogram() {
    let user = User::new();
    let args = ["bench", "call", "--for", "200ms", "--rate", "200"];
    let table = user.ok(&args);
    for word in ["call of 64 B", "200 /s asked", "p99.9", "lost       0"] {
        assert!(table.contains(word), "no {word:?} in:\n{table}");
    }
    let csv = user.ok(&[&["-o", "csv"], &args[..]].concat());
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("latency_us,count,at_most"));
    let rows: Vec<Vec<f64>> = lines
        .map(|line| line.split(',').map(|part| part.parse().unwrap()).collect())
        .collect();
    assert!(
        rows.is_sorted_by(|a, b| a[0] < b[0] && a[2] < b[2]),
        "{csv}"
    );
    assert_eq!(rows.last().map(|row| row[2]), Some(1.0), "{csv}");
}

/// Starts a long bench on a cluster; returns it, and the pid of its first process.
fn long_bench(user: &User) -> (Child, String) {
    let child = user
        .command(&["bench", "call", "--for", "10m", "--between", "n1", "n2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let all = || user.json::<Vec<api::ProcessInfo>>(&["ps"]);
    // The first process, a lane, and its partner there.
    until("all of its processes run", || all().len() == 3);
    let first = all().into_iter().find(|process| process.entry == "_start");
    (child, first.expect("one was started by the bench").pid)
}

/// Waits for a bench to say that one of its processes was killed; what it wrote to stdout.
fn says_killed(bench: Child) -> String {
    let output = bench.wait_with_output().unwrap();
    let letter = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{letter}");
    assert!(
        letter.contains("[E0054]") && letter.contains("killed"),
        "{letter}"
    );
    text(&output.stdout)
}

#[test]
fn a_bench_that_loses_a_process_has_no_figure() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "2"]);
    let (bench, _) = long_bench(&user);
    let there: Vec<api::ProcessInfo> = user.json(&["ps", "--on", "n2"]);
    user.ok(&["kill", &there[0].pid]);
    assert_eq!(says_killed(bench), "");

    let (bench, first) = long_bench(&user);
    user.ok(&["kill", &first]);
    says_killed(bench);
    until("the rest of it has ended", || {
        user.ok(&["ps", "-q"]).is_empty()
    });
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "2"]);
    let (mut bench, _) = long_bench(&user);
    kill(Pid::from_raw(bench.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(130));
    until("all of it has ended", || user.ok(&["ps", "-q"]).is_empty());
}
