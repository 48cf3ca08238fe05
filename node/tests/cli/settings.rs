//! Settings, on the command line, in variables and in files: what they do, and which are refused.

use std::fs;

use crate::user::{User, example, refused, text};

#[test]
fn a_mistake_in_the_settings_names_its_place() {
    let user = User::new();
    fs::write(
        user.home.path().join("tidelock.toml"),
        "[node]\nlease = 3\n",
    )
    .unwrap();
    let output = user.run(&["config", "show"]);
    assert_eq!(output.status.code(), Some(2));
    let letter = text(&output.stderr);
    assert!(
        letter.contains("node.lease (tidelock.toml)") && letter.contains("[E0003]"),
        "{letter}"
    );

    fs::write(
        user.home.path().join("tidelock.toml"),
        "[node]\nlease_ms = 107\n",
    )
    .unwrap();
    let rows: Vec<serde_json::Value> = user.json(&["config", "show"]);
    let row = rows
        .iter()
        .find(|row| row["key"] == "node.lease_ms")
        .unwrap();
    assert_eq!(
        (&row["value"], &row["origin"]),
        (&107.into(), &"tidelock.toml".into())
    );
}

#[test]
fn what_cannot_be_meant_is_refused_at_once() {
    let user = User::new();
    let hello = example("hello.wat");
    let token = format!("tl1.{}.{}", "0".repeat(64), "0".repeat(32));
    let node = |join: &str, listen: &str| {
        let mut command = user.command(&["node", "--join", join, "--listen", listen]);
        command
            .args(["--admin", "127.0.0.1:0", "--state-dir", "node"])
            .env("TIDELOCK_TOKEN", &token);
        command
    };
    let words = ["host:port is expected", "--join 127.0.0.1:7700", "[E0003]"];
    let told = refused(&mut node("127.0.0.1", "127.0.0.1:0"), 2, &words);
    assert!(!told.contains("tidelock token"), "{told}");
    let words = ["no address to reach a node at", "--advertise IP", "[E0003]"];
    refused(&mut node("127.0.0.1:1", "0.0.0.0:0"), 2, &words);

    let words = ["--nodes: `run` has no such option", "before the file"];
    refused(
        &mut user.command(&["run", "--nodes", "3", &hello]),
        2,
        &words,
    );
    let words = ["--dir", "begins with /"];
    refused(
        &mut user.command(&["spawn", "x", "--dir", "here"]),
        2,
        &words,
    );

    let mut show = user.command(&["config", "show"]);
    let show = show.env("TIDELOCK_NODE_NMAE", "a");
    let words = ["$TIDELOCK_NODE_NMAE: [node] has no setting nmae", "[E0003]"];
    let told = refused(show, 2, &words);
    assert!(!told.contains("tidelock config show"), "{told}");
    let mut show = user.command(&["config", "show"]);
    let show = show.env("TIDELOCK_CONFIG", "nope.toml");
    refused(
        show,
        2,
        &["nope.toml: cannot be read: No such file", "[E0003]"],
    );
    fs::write(user.home.path().join("tidelock.toml"), "[nodee]\n").unwrap();
    let words = ["nodee (tidelock.toml): unknown table", "[E0003]"];
    refused(&mut user.command(&["config", "show"]), 2, &words);
}

#[test]
fn an_empty_variable_is_not_set() {
    let user = User::new();
    let hello = example("hello.wat");
    let with = |args: &[&str], context: &str| {
        let mut command = user.command(args);
        command
            .env("TIDELOCK_CONTEXT", context)
            .env("TIDELOCK_OUTPUT", "");
        command
    };
    let output = with(&["run", &hello], "").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    refused(&mut with(&["ps"], ""), 3, &["[E0010]"]);
    // On the command line it is a mistake.
    refused(&mut user.command(&["ps", "--context", ""]), 2, &[]);

    // What is set does not count as an argument, and the runtime's own command is nobody's.
    let told = refused(&mut with(&[], "nowhere"), 2, &["completions"]);
    assert!(!told.contains("compile-module"), "{told}");
    let told = refused(&mut user.command(&["compile-modul"]), 2, &[]);
    assert!(!told.contains("compile-module'"), "{told}");
    let script = user.ok(&["completions", "bash"]);
    assert!(script.contains("completions") && !script.contains("compile-module"));
}

#[test]
fn a_program_does_the_same_whatever_it_is_compiled_for() {
    let user = User::new();
    let hello = example("hello.wat");
    let said = user.ok(&["run", &hello, "there"]);
    assert!(!said.is_empty());
    for profile in ["auto", "dense", "compute", "trusted"] {
        let again = user.ok(&["run", "--profile", profile, &hello, "there"]);
        assert_eq!(again, said, "{profile}");
    }
    let wrong = user.run(&["run", "--profile", "fast", &hello]);
    assert_eq!(wrong.status.code(), Some(2));
    let told = text(&wrong.stderr);
    assert!(told.contains("fast") && told.contains("trusted"), "{told}");
    let mut node = user.command(&["node"]);
    let node = node.env("TIDELOCK_NODE_PROFILE", "fast").output().unwrap();
    let told = text(&node.stderr);
    let wrong = "node.profile ($TIDELOCK_NODE_PROFILE): fast: it is none of";
    assert!(told.contains(wrong), "{told}");
}

#[test]
fn a_lease_that_cannot_be_kept_is_refused() {
    let user = User::new();
    for (daemon, ms, words) in [
        (
            "node",
            "99",
            "node.lease_ms (--lease-ms): 99: a lease has at least 100 ms",
        ),
        (
            "control",
            "0",
            "control.lease_ms (--lease-ms): 0: a lease has at least 300 ms",
        ),
    ] {
        refused(
            &mut user.command(&[daemon, "--lease-ms", ms]),
            2,
            &[words, "[E0003]"],
        );
    }
    let mut show = user.command(&["config", "show"]);
    let show = show.env("TIDELOCK_NODE_PROFILE", "fast");
    refused(
        show,
        2,
        &[
            "fast: it is none of auto, dense, compute, trusted",
            "[E0003]",
        ],
    );
}
