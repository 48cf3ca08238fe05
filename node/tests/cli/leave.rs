//! How daemons leave when they are told to, and what they log.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tidelock_control::api;

use crate::user::{Daemon, User, until};

/// What a daemon has logged; fails unless every line of it is JSON.
fn log_of(told: &str) -> Vec<serde_json::Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    told.lines().map(line).collect()
}

/// The first line of a log that begins like this.
fn logged<'a>(log: &'a [serde_json::Value], words: &str) -> &'a serde_json::Value {
    let begins = |line: &&serde_json::Value| {
        let message = line["message"].as_str();
        message.is_some_and(|message| message.starts_with(words))
    };
    log.iter()
        .find(begins)
        .unwrap_or_else(|| panic!("no {words:?} in {log:?}"))
}

#[test]
fn a_hang_up_is_an_orderly_leave_and_logs_are_json() {
    // Whoever runs the tests may have it ignored, and so would what they start.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap() & 1 == 1;
    let hang_up = if ignored {
        Signal::SIGTERM
    } else {
        Signal::SIGHUP
    };

    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let (a, b) = (control.join(user, "a"), control.join(user, "b"));
    let up = |id: &str| {
        let events: Vec<api::Event> = user.lines(&["events", "--on", id]);
        events
            .iter()
            .any(|event| event.kind == api::EventKind::NodeUp)
    };
    until("they have a session", || up(a.id()) && up(b.id()));
    let send = |daemon: &Daemon, signal| {
        kill(Pid::from_raw(daemon.child.id() as i32), signal).unwrap();
    };
    let end = |daemon: Daemon, signal| {
        send(&daemon, signal);
        let (code, told) = daemon.end();
        assert_eq!(code, Some(0), "{told}");
        log_of(&told)
    };
    send(&a, hang_up);
    let mut a = a;
    let mut said = BufReader::new(a.child.stderr.take().unwrap());
    let leaving = said.by_ref().lines().any(|line| {
        let line = line.unwrap();
        line.contains("leaving; once more ends at once") && log_of(&line).len() == 1
    });
    assert!(leaving, "it has ended without a word");
    // A terminal that is closed may say it twice.
    if hang_up == Signal::SIGHUP {
        send(&a, hang_up);
    }
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    log_of(&rest);
    assert_eq!(a.child.wait().unwrap().code(), Some(0), "{rest}");
    let log = end(b, Signal::SIGTERM);
    let left =
        |line: &&serde_json::Value| line["message"] == "session over" && line["why"] == "left";
    assert_eq!(log.iter().find(left).expect("it was told")["level"], "INFO");
    let log = end(control, Signal::SIGTERM);
    logged(&log, "control plane of default on https://");
    logged(&log, "stopping");
}
