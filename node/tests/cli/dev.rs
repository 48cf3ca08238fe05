//! `tidelock dev`: clusters of one machine, and a guest on one.

use std::{fs, io::BufRead};

use nix::sys::signal::Signal;
#[cfg(target_os = "linux")]
use nix::{sys::signal::kill, unistd::Pid};
use tidelock_control::api;

#[cfg(target_os = "linux")]
use crate::user::until;
use crate::{
    nothing_is_left,
    user::{Dev, User, example, text},
};

#[test]
#[cfg(target_os = "linux")]
fn devs_live_side_by_side_and_leave_nothing() {
    let mut user = User::new();
    let mut first = Dev::start(&mut user, &["--nodes", "1"]);
    let first_context = user.context.clone();
    let second = Dev::start(&mut user, &["--nodes", "1"]);
    let second_context = user.context.clone();
    assert_ne!(first.dir, second.dir);
    let daemons = second.daemons();
    assert_eq!(daemons.len(), 2, "control and a node");

    user.context = None;
    let current: Vec<api::NodeInfo> = user.json(&["nodes"]);
    user.context = first_context;
    let of_first: Vec<api::NodeInfo> = user.json(&["nodes"]);
    assert_eq!(
        current[0].admin_addr, of_first[0].admin_addr,
        "the first one is the default"
    );

    // Not asked, not warned: the daemons notice it themselves.
    second.signal(Signal::SIGKILL);
    until("the daemons of a killed dev have ended", || {
        daemons
            .iter()
            .all(|id| kill(Pid::from_raw(*id), None).is_err() || is_zombie(*id))
    });
    until("its directory is gone", || !second.dir.exists());
    user.json::<Vec<api::NodeInfo>>(&["nodes"]);
    user.context = second_context;
    assert_eq!(user.run(&["nodes"]).status.code(), Some(3));

    let daemons = first.daemons();
    first.signal(Signal::SIGINT);
    assert_eq!(first.end().0, Some(130));
    assert!(!first.dir.exists());
    assert!(
        daemons
            .iter()
            .all(|id| kill(Pid::from_raw(*id), None).is_err()),
        "{daemons:?}"
    );
    nothing_is_left(&user);
}

/// Nobody may be there to take note of the end of an orphan.
#[cfg(target_os = "linux")]
fn is_zombie(id: i32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_guest_on_a_cluster_is_a_program_like_any_other() {
    let user = User::new();
    let output = user.run(&["dev", "--nodes", "2", "--once", &example("hello.wat")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "hello from wat\n");
    assert_eq!(text(&output.stderr), "");
    let output = user.run(&[
        "dev",
        "--nodes",
        "1",
        "--once",
        &example("exit.wat"),
        "--",
        "-x",
    ]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(3), String::new())
    );
    let output = user.run(&["dev", "--nodes", "1", "--once", &example("trap.wat")]);
    assert_eq!(output.status.code(), Some(101));
    assert!(
        text(&output.stderr).contains("[E0033]"),
        "{}",
        text(&output.stderr)
    );
    nothing_is_left(&user);
}

#[test]
fn a_guest_is_started_again_when_its_file_changes() {
    let mut user = User::new();
    let app = user.home.path().join("app.wat");
    fs::copy(example("spin.wat"), &app).unwrap();
    let mut dev = Dev::start(&mut user, &["--nodes", "1", "app.wat"]);
    let mut heard = |what: &str| {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(
                dev.talk.read_line(&mut line).unwrap() > 0,
                "{what} was never said"
            );
        }
        line
    };
    assert!(heard("runs as").contains("n1.1"));
    fs::write(&app, "(module (func").unwrap();
    assert!(
        heard("error:").contains("[E0030]"),
        "a mistake does not end the cluster"
    );
    fs::copy(example("hello.wat"), &app).unwrap();
    heard("runs as");
    let gone: api::ProcessDetail = user.json(&["show", "n1.1"]);
    assert_eq!(gone.reason.as_deref(), Some("killed"));
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.end().0, Some(130));
}
