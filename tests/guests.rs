//! The guests in `examples/`, run by the binary as a person would.
//!
//! Goal: what the examples say of themselves is true, and an unchanged program for Lunatic
//! runs, on one machine and on several. Method: each guest checks itself and ends with code 0
//! only if all is well; here its exit code and last line are compared. The guests in Wat need
//! nothing but this repository. The compiled ones are looked for in `TIDELOCK_GUESTS`, which
//! `cargo xtask test` sets; without it their tests say that they were left out.

#![allow(clippy::print_stderr, reason = "read when a test fails")]

// The part of the guest library that asks the host for nothing.
#[path = "../sdk/src/waits.rs"]
mod waits;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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
fn receives_wait_at_once_for_longer_the_less_is_found() {
    let waits = waits::Waits::new();
    // How many do so until one looks first.
    let at_once = || (0..).take_while(|_| !waits.looks_first()).count();
    assert_eq!((at_once(), at_once()), (0, 0), "nothing is known yet");
    for more in [1, 3, 7, 15, 15] {
        waits.found_nothing();
        assert_eq!(at_once(), more);
    }
    waits.found_something();
    assert_eq!((at_once(), at_once()), (0, 0), "something was there");
    waits.found_nothing();
    assert_eq!(at_once(), 1, "it begins anew");
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
fn the_guest_of_the_readme_is_answered_by_another_node() {
    let Some(guest) = compiled("first_guest.wasm") else {
        return;
    };
    let output = tidelock(&["dev", "--nodes", "2", "--once"], &guest, &[]);
    ends(&output, 0, &["n2.1 says hello"]);
}

#[test]
fn processes_that_handle_messages_keep_their_accounts() {
    let Some(guest) = compiled("handlers.wasm") else {
        return;
    };
    let output = tidelock(&["run"], &guest, &["200"]);
    ends(&output, 0, &["200 accounts hold 1200"]);
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

// ---- examples/testing ---------------------------------------------------------------------

/// What the test binary of the example prints on stdout, without what differs between two runs.
fn report(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = |line: &str| -> String {
        let line = match line.split_once("; finished in ") {
            Some((result, _)) => result,
            // Compilers name the thread and the place in different words.
            None if line.starts_with("thread '") => "thread panicked",
            None => line,
        };
        line.to_owned() + "\n"
    };
    let report: String = stdout.lines().map(line).collect();
    // Some leave a line empty before it.
    report.replace("\n\nthread panicked", "\nthread panicked")
}

const EVERY_OUTCOME: &str = "
running 11 tests
test tests::fails ... FAILED
test tests::fails_by_its_result ... FAILED
test tests::fails_with_another_process ... FAILED
test tests::ignored_because_it_never_ends ... ignored
test tests::panics - should panic ... ok
test tests::panics_not - should panic ... FAILED
test tests::panics_otherwise - should panic ... FAILED
test tests::passes ... ok
test tests::passes_with_another_process ... ok
test tests::plain ... ok
test tests::plain_and_fails ... FAILED

failures:

---- tests::fails stdout ----
this is seen
thread panicked
assertion `left == right` failed
  left: 2
 right: 3
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

";

#[test]
fn every_outcome_of_a_test_is_told_as_cargo_users_know_it() {
    let Some(guest) = compiled("testing.lib.wasm") else {
        return;
    };
    let output = tidelock(&["run"], &guest, &["--test-threads=1"]);
    assert_eq!(output.status.code(), Some(101));
    let report = report(&output);
    assert!(report.starts_with(EVERY_OUTCOME), "{report}");
    for part in [
        // The child's output is that of its test, and so is the reason the test ended for.
        "---- tests::fails_with_another_process stdout ----\ndividing 6 by 0\n",
        "note: linked process n0.2 ended: ",
        "the test returned a value indicating failure (Err(\"no\"))",
        "---- tests::panics_not stdout ----\nnote: test did not panic as expected\n",
        "note: panic did not contain expected string\n expected substring: \"division #2 by\"\n",
    ] {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }
    let end = "
failures:
    tests::fails
    tests::fails_by_its_result
    tests::fails_with_another_process
    tests::panics_not
    tests::panics_otherwise
    tests::plain_and_fails

test result: FAILED. 4 passed; 6 failed; 1 ignored; 0 measured; 0 filtered out

";
    assert!(report.ends_with(end), "{report}");
    assert!(!report.contains("nobody sees this"), "{report}");
}

#[test]
fn a_test_that_never_ends_is_killed_and_the_others_are_not_disturbed() {
    let Some(guest) = compiled("testing.lib.wasm") else {
        return;
    };
    let flags = ["--include-ignored", "--test-timeout=1", "pass", "ends"];
    let output = tidelock(&["run"], &guest, &flags);
    assert_eq!(output.status.code(), Some(101));
    let report = report(&output);
    for part in [
        "running 3 tests\n",
        "test tests::passes ... ok\n",
        "test tests::passes_with_another_process ... ok\n",
        "test tests::ignored_because_it_never_ends ... FAILED\n",
        "stdout ----\non and on\nnote: killed after 1 s (--test-timeout, TIDELOCK_TEST_TIMEOUT)\n",
        "FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 8 filtered out",
    ] {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }
}

#[test]
fn tests_are_chosen_listed_and_shown() {
    let Some(guest) = compiled("testing.lib.wasm") else {
        return;
    };
    let run = |flags: &[&str]| {
        let output = tidelock(&["run"], &guest, flags);
        (output.status.code(), report(&output))
    };
    let list = "tests::passes: test\ntests::passes_with_another_process: test\n";
    let cases: &[(&[&str], &str)] = &[
        (&["--list", "--format", "terse", "passes"], list),
        (
            &["--list", "tests::plain", "--exact"],
            "tests::plain: test\n\n1 test, 0 benchmarks\n",
        ),
        (
            &["--list", "--format=terse", "--ignored"],
            "tests::ignored_because_it_never_ends: test\n",
        ),
        (
            &["-q", "pass", "plain", "ignored", "--skip", "fails"],
            "\nrunning 4 tests\n",
        ),
        (
            &["tests::passes", "--exact", "--show-output"],
            "\nrunning 1 test\ntest tests::passes ... ok\n\nsuccesses:\n\n\
             ---- tests::passes stdout ----\nnobody sees this\n\n\nsuccesses:\n    tests::passes\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 10 filtered out\n\n",
        ),
        (
            &[
                "tests::passes",
                "--exact",
                "--nocapture",
                "--test-threads",
                "1",
            ],
            "\nrunning 1 test\ntest tests::passes ... nobody sees this\nok\n\n",
        ),
    ];
    for (flags, beginning) in cases {
        let (code, report) = run(flags);
        assert_eq!(code, Some(0), "{flags:?}\n{report}");
        assert!(report.starts_with(beginning), "{flags:?}\n{report}");
    }
    assert_eq!(run(&["--flaky"]).0, Some(2));
    assert_eq!(run(&["--test-threads=0"]).0, Some(2));
}

#[test]
fn no_test_at_all_is_no_quiet_success() {
    let Some(guest) = compiled("testing.lib.wasm") else {
        return;
    };
    let output = tidelock(&["run"], &guest, &["nothing is called so"]);
    // Cargo passes one filter to many test binaries: that one has no such test is no failure.
    ends(&output, 0, &[""]);
    assert!(report(&output).contains("0 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("none of the 11 tests of"), "{stderr}");

    let folder = tempfile::tempdir().expect("a folder for a module");
    let module = folder.path().join("later.wat");
    let text = r##"(module (memory (export "memory") 1)
        (func (export "_start")) (func (export "#lunatic_test_#flaky_demo::a")))"##;
    std::fs::write(&module, text).expect("a module");
    let output = tidelock(&["run"], &module, &[]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("[E0034]"), "{stderr}");
}

#[test]
fn a_test_binary_without_tests_of_lunatic_is_a_program_like_any_other() {
    let Some(guest) = compiled("testing.bin.wasm") else {
        return;
    };
    let output = tidelock(&["run"], &guest, &["--test-threads=1"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        report(&output),
        "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\n"
    );
}

#[test]
fn a_program_gets_its_arguments_and_its_input() {
    let Some(guest) = compiled("testing.wasm") else {
        return;
    };
    let run = |arguments: &[&str], input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidelock"))
            .arg("run")
            .arg(&guest)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("the guest reads");
        drop(stdin);
        child.wait_with_output().expect("the guest ends")
    };
    // All of these are options of `tidelock`, too.
    let arguments = ["-q", "--color", "never", "--", "-o=json", "--help"];
    let output = run(&arguments, "6 3\n8 2\n");
    let last = format!("2 answers; arguments {arguments:?}");
    ends(&output, 0, &["2", "4", &last]);
    ends(&run(&["--quiet"], "6 3\n"), 0, &["2"]);
    let output = run(&[], "6 3\nsix\n");
    ends(&output, 3, &["2"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "\"six\": expected two numbers\n"
    );
}

#[test]
fn a_database_keeps_what_guests_put_in() {
    let Some(guest) = compiled("notes.wasm") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder for the database");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidelock"))
            .arg("run")
            .arg(&guest)
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output();
        output.expect("the binary starts")
    };
    let error = "error: Error";
    let first = ["1: milk (4)", "2: bread (5)", "long: [[Int64(1)]]", error];
    ends(&run(&["milk", "bread", "milk"]), 0, &first);
    let second = [
        "1: milk (4)",
        "2: bread (5)",
        "3: salt (4)",
        "long: [[Int64(1)]]",
        error,
    ];
    ends(&run(&["salt"]), 0, &second);
}

/// Prints the test root, and ends with 0 if a server's certificate can be made with it.
const ROOT: &str = r#"(module
    (import "lunatic::distributed" "test_root_cert" (func $root (param i32) (result i32)))
    (import "lunatic::distributed" "default_server_certificates"
        (func $server (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "lunatic_alloc") (param i32) (result i32)
        global.get $free
        (global.set $free (i32.add (global.get $free) (local.get 0))))
    (func (export "_start") (local $cert i32) (local $len i32) (local $key i32)
        (local.set $cert (i32.add (call $root (i32.const 0)) (i32.const 8)))
        (local.set $len (i32.load (i32.sub (local.get $cert) (i32.const 8))))
        (local.set $key (i32.add (i32.add (local.get $cert) (local.get $len)) (i32.const 8)))
        (drop (call $server (local.get $cert) (local.get $len)
            (local.get $key) (i32.load (i32.sub (local.get $key) (i32.const 8))) (i32.const 0)))
        (i32.store (i32.const 8) (local.get $cert))
        (i32.store (i32.const 12) (local.get $len))
        (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#;

#[test]
fn each_run_has_a_test_root_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder for a module");
    let module = folder.path().join("root.wat");
    std::fs::write(&module, ROOT).expect("a module");
    let run = || {
        let output = tidelock(&["run"], &module, &[]);
        ends(&output, 0, &["-----END CERTIFICATE-----"]);
        output.stdout
    };
    assert_ne!(run(), run());
}

// ---- examples/web -------------------------------------------------------------------------

/// Ends the program with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<std::process::ExitStatus> = self.0.wait();
    }
}

/// One request on a connection: the status and the body.
fn ask(connection: &mut TcpStream, request: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let kind = "Content-Type: application/json";
    let text = format!(
        "{request} HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(text.as_bytes()).expect("it is sent");
    let mut reader = BufReader::new(connection);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line of the head");
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().expect("a status");
        } else if let Some(rest) = line.strip_prefix("content-length: ") {
            length = rest.parse().expect("a length");
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    (status, String::from_utf8(body).expect("text"))
}

#[test]
fn a_web_application_on_a_framework_for_lunatic_serves() {
    let Some(guest) = compiled("web.wasm") else {
        return;
    };
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let address = free.expect("a free port").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelock"));
    command.arg("run").arg(guest).arg(&address);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let _server = Running(command.spawn().expect("the binary starts"));
    let connect = || TcpStream::connect(&address);
    let since = Instant::now();
    let mut one = loop {
        match connect() {
            Ok(connection) => break connection,
            Err(error) => assert!(since.elapsed() < Duration::from_secs(60), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5)); // between two looks: it does not say that it listens
    };
    let ok = |text: &str| (200, text.to_owned());
    // Several requests on one connection.
    assert_eq!(ask(&mut one, "GET /", ""), ok("hello\n"));
    assert_eq!(ask(&mut one, "GET /hello/Ada", ""), ok("hello, Ada\n"));
    assert_eq!(ask(&mut one, "POST /sum", "[1, 2, 39]"), ok("42"));
    assert_eq!(ask(&mut one, "POST /sum", "[1, 2,").0, 400);
    assert_eq!(ask(&mut one, "GET /nowhere", "").0, 404);
    // One that panics is answered and ends alone.
    let mut other = connect().expect("another connection");
    assert_eq!(ask(&mut other, "GET /panic", "").0, 500);
    assert_eq!(ask(&mut one, "GET /count", ""), ok("1\n"));
    // One that waits holds up nobody, and neither do many that say nothing.
    let idle: Vec<TcpStream> = (0..500).map(|_| connect().expect("a connection")).collect();
    let mut waiting = connect().expect("another connection");
    let slow = std::thread::spawn(move || ask(&mut waiting, "GET /slow", ""));
    let mut count = 1;
    while !slow.is_finished() {
        count += 1;
        assert_eq!(ask(&mut one, "GET /count", ""), ok(&format!("{count}\n")));
    }
    assert_eq!(slow.join().expect("an answer"), ok("at last\n"));
    assert!(count > 20, "only {count} requests beside one that waits");
    drop(idle);
}
