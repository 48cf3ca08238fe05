//! The guests in `examples/`, run by the binary as a person would.
//!
//! Goal: what the examples say of themselves is true, and an unchanged program for Lunatic
//! runs, on one machine and on several. Method: each guest checks itself and ends with code 0
//! only if all is well; here its exit code and last line are compared. The guests in Wat need
//! nothing but this repository. The compiled ones are looked for in `TIDELOCK_GUESTS`, which
//! `cargo xtask test` sets; without it their tests say that they were left out.

#![allow(clippy::print_stderr, reason = "read when a test fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with compiled guests, if there is one.
fn compiled(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TIDELOCK_GUESTS").map(PathBuf::from);
    let guest = folder.map(|folder| folder.join(name));
    if let Some(guest) = &guest {
        assert!(guest.is_file(), "{} is missing", guest.display());
    } else {
        eprintln!("left out: TIDELOCK_GUESTS is not set (cargo xtask test sets it)");
    }
    guest
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

/// Runs the binary to its end, in an empty folder of its own.
fn tidelock(arguments: &[&str], guest: &Path, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder for the guest");
    tidelock_in(folder.path(), arguments, guest, more)
}

/// As [`tidelock`], in a folder that has something in it.
fn tidelock_in(folder: &Path, arguments: &[&str], guest: &Path, more: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .args(arguments)
        .arg(guest)
        .args(more)
        .current_dir(folder)
        // A guest inherits the variables of `run`; the noise of a backtrace is none of its.
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Fails unless the binary ended with a code and its stdout, line by line, ends with these; of a line that
/// ends with `…` the beginning is compared.
fn ends(output: &Output, code: i32, lines: &[&str]) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let found: Vec<&str> = stdout.lines().collect();
    assert_eq!(output.status.code(), Some(code), "stdout:\n{stdout}");
    let last = found.len().checked_sub(lines.len()).map(|at| &found[at..]);
    let alike = |(found, line): (&&str, &&str)| match line.strip_suffix('…') {
        Some(beginning) => found.starts_with(beginning),
        None => found == line,
    };
    assert!(
        last.is_some_and(|last| last.iter().zip(lines).all(alike)),
        "stdout:\n{stdout}\nshould end with {lines:?}"
    );
}

#[test]
fn guests_in_wat_do_what_they_say() {
    let cases: &[(&str, i32, &[&str])] = &[
        ("hello", 0, &["hello from wat"]),
        ("ping_pong", 0, &["10 round trips"]),
        ("linked_trap", 0, &[]),
        ("exit", 3, &[]),
        ("trap", 101, &[]),
    ];
    for (name, code, lines) in cases {
        let output = tidelock(&["run"], &example(&format!("wat/{name}.wat")), &[]);
        ends(&output, *code, lines);
    }
}

#[test]
fn the_shipped_guest_counts() {
    let folder = tempfile::tempdir().expect("a folder for the text");
    std::fs::write(
        folder.path().join("text.txt"),
        "One two, two: THREE three three.\n",
    )
    .expect("a text to count");
    let output = Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .arg("run")
        .arg(example("wordcount/wordcount.wasm"))
        .arg("text.txt")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let result = stdout.lines().last().expect("a result");
    assert!(
        result.contains(r#""event":"result","words":6,"distinct":3"#),
        "{result}"
    );
    assert!(result.contains(r#"{"word":"three","count":3}"#), "{result}");
}

#[test]
fn the_greeting_comes_back() {
    let Some(guest) = compiled("hello.wasm") else {
        return;
    };
    let output = tidelock(&["run"], &guest, &["Ada"]);
    ends(&output, 0, &["hello from n0.1", "n0.2 says hello, Ada"]);
}

#[test]
fn links_keep_their_promises_on_one_machine() {
    let Some(guest) = compiled("links.wasm") else {
        return;
    };
    ends(
        &tidelock(&["run"], &guest, &[]),
        0,
        &["links: all checks hold"],
    );
}

#[test]
fn links_keep_their_promises_between_nodes() {
    let Some(guest) = compiled("links.wasm") else {
        return;
    };
    let output = tidelock(&["dev", "--nodes", "2", "--once"], &guest, &[]);
    ends(&output, 0, &["links: all checks hold"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("ok there: failure passes on along links"),
        "{stdout}"
    );
}

#[test]
fn an_unchanged_lunatic_program_runs() {
    let Some(guest) = compiled("lunatic_smoke.wasm") else {
        return;
    };
    ends(
        &tidelock(&["run"], &guest, &[]),
        0,
        &["lunatic smoke: all 26 checks hold"],
    );
}

#[test]
fn an_unchanged_lunatic_program_runs_on_several_nodes() {
    let Some(guest) = compiled("lunatic_smoke.wasm") else {
        return;
    };
    let output = tidelock(&["dev", "--nodes", "2", "--once"], &guest, &[]);
    ends(&output, 0, &["lunatic smoke: all 26 checks hold"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(!stdout.contains("no other node"), "{stdout}");
}

#[test]
fn an_unchanged_lunatic_program_does_all_it_can_on_other_nodes() {
    let Some(guest) = compiled("lunatic_cluster.wasm") else {
        return;
    };
    let output = tidelock(&["dev", "--nodes", "3", "--once"], &guest, &[]);
    ends(
        &output,
        0,
        &["lunatic cluster: all checks hold on 2 other nodes"],
    );
}

/// What a page in `examples/` says its program prints.
fn promised(page: &str) -> Vec<String> {
    let page = std::fs::read_to_string(example(page)).expect("the page is there");
    let lines = page.lines().skip_while(|line| *line != "```text").skip(1);
    let lines = lines.take_while(|line| *line != "```").map(str::to_owned);
    lines.collect()
}

#[test]
fn guests_in_other_languages_do_what_their_pages_say() {
    let wat = tidelock(&["run"], &example("wat/workers.wat"), &[]);
    for (language, guest) in [
        ("c", "workers_c.wasm"),
        ("zig", "workers_zig.wasm"),
        ("assemblyscript", "workers_assemblyscript.wasm"),
    ] {
        let lines = promised(&format!("{language}/README.md"));
        assert_eq!(lines.len(), 3, "{language}");
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        ends(&wat, 0, &lines);
        // Where neither pip nor npm is, they were not compiled.
        let folder = std::env::var_os("TIDELOCK_GUESTS").map(PathBuf::from);
        match folder.map(|folder| folder.join(guest)) {
            Some(guest) if guest.is_file() => {
                ends(&tidelock(&["run"], &guest, &[]), 0, &lines);
                let output = tidelock(&["dev", "--nodes", "2", "--once"], &guest, &[]);
                ends(&output, 0, &lines);
            }
            _ => eprintln!("left out: {guest} was not compiled"),
        }
    }
}

#[test]
fn sockets_of_an_unchanged_lunatic_program_work() {
    let Some(guest) = compiled("lunatic_sockets.wasm") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder for the guest");
    let server = tidelock_certs::testing::web_server(&["localhost"]);
    let files = [
        ("certificate.pem", &server.certificate),
        ("key.pem", &server.key),
        ("authority.pem", &server.authority),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file for the guest");
    }
    let names = files.map(|(name, _)| name);
    let output = tidelock_in(folder.path(), &["run"], &guest, &names);
    ends(&output, 0, &["lunatic sockets: all 8 checks hold"]);
}
