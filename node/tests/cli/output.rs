//! What is written: lists, colour, help.

use std::{fs, path::Path, process::Stdio};

use crate::user::{User, text};

#[test]
fn lists_have_four_forms() {
    let user = User::new();
    let all: Vec<serde_json::Value> = user.json(&["explain"]);
    assert_eq!(user.lines::<serde_json::Value>(&["explain"]), all);
    let codes: Vec<&str> = all
        .iter()
        .map(|page| page["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        user.ok(&["explain", "-q"]).lines().collect::<Vec<_>>(),
        codes
    );
    assert_eq!(
        user.ok(&["explain"]).lines().count(),
        codes.len() + 1,
        "and a header"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let user = User::new();
    for args in [
        &["completions", "zsh"][..],
        &["explain", "-o", "ndjson"],
        &["--help"],
    ] {
        let mut child = user
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(text(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn colour_is_for_terminals_and_those_who_ask() {
    let user = User::new();
    let escape = |args: &[&str]| user.run(args).stderr.contains(&0x1b);
    assert!(!escape(&["run", "nothing.wasm"]));
    assert!(escape(&["--color", "always", "run", "nothing.wasm"]));
    let forced = |name: &str| {
        let mut command = user.command(&["run", "nothing.wasm"]);
        command
            .env("CLICOLOR_FORCE", "1")
            .env(name, "1")
            .output()
            .unwrap()
            .stderr
    };
    assert!(forced("NOTHING").contains(&0x1b));
    assert!(!forced("NO_COLOR").contains(&0x1b));
}

/// All help texts, against `help.txt`. `TIDELOCK_BLESS=1` writes it anew.
#[test]
fn help_is_as_reviewed() {
    let mut all = String::new();
    add_help(&User::new(), &[], &mut all);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("TIDELOCK_BLESS").is_some() {
        fs::write(&file, &all).unwrap();
    }
    let reviewed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        all == reviewed,
        "help has changed; look at the difference after TIDELOCK_BLESS=1"
    );
}

/// Adds the help of a command, and of all commands that it lists.
fn add_help(user: &User, command: &[&str], all: &mut String) {
    let words = [command, &["--help"]].concat();
    let help = user.ok(&words);
    if !all.is_empty() {
        all.push('\n');
    }
    *all += &format!("$ tidelock {}\n{help}", words.join(" "));
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    let listed = listed.split("\n\n").next().unwrap_or_default();
    for line in listed.lines() {
        match line.split_whitespace().next() {
            Some("help") | None => {}
            Some(one) => add_help(user, &[command, &[one]].concat(), all),
        }
    }
}
