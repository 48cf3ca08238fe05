//! Exit codes and error letters.

use std::{fs, path::Path};

use crate::user::{User, example, text};

#[test]
fn exit_codes_are_as_documented() {
    let user = User::new();
    fs::write(user.home.path().join("text.wasm"), "this is text").unwrap();
    fs::write(user.home.path().join("library.wat"), "(module)").unwrap();
    let (hello, exit, trap) = (
        example("hello.wat"),
        example("exit.wat"),
        example("trap.wat"),
    );
    let cases: &[(&[&str], i32)] = &[
        (&["--help"], 0),
        (&["--version"], 0),
        (&["explain"], 0),
        (&["explain", "e0020"], 0),
        (&["config", "show"], 0),
        (&["config", "template"], 0),
        (&["completions", "bash"], 0),
        (&["run", &hello], 0),
        (&["run", &exit], 3),
        (&["run", &trap], 101),
        (&["run", "text.wasm"], 1),
        (&["run", "library.wat"], 5),
        (&["dev", "."], 2),
        (&["token", "--ttl", "0s"], 2),
        (&["control", "--advertise", "noport"], 2),
        (&[], 2),
        (&["nodse"], 2),
        (&["run"], 2),
        (&["show", "--nope"], 2),
        (&["node", "--token", "not a token"], 2),
        (&["demo", "--nodes", "1"], 2),
        (&["ps"], 3),
        (&["nodes", "--context", "nowhere"], 3),
        (&["nodes", "--context", "."], 3),
        (&["explain", "E9999"], 4),
        (&["run", "nothing.wasm"], 4),
        (&["demo", "nothing.txt"], 4),
        (&["demo", "text.wasm"], 1),
        (&["dev", "--once", "nothing.wasm"], 4),
        (&["bench"], 2),
        (&["bench", "call", "--rate", "0"], 2),
        (&["bench", "call", "--rate", "-1"], 2),
        (&["bench", "call", "--for", "0s"], 2),
        (&["bench", "call", "--size", "15"], 2),
        (&["bench", "call", "--size", "65MiB"], 2),
        (&["bench", "call", "--size", "64MiB"], 2),
        (&["bench", "call", "--under-way", "0"], 2),
        (&["bench", "call", "--size", "1MiB", "--under-way", "64"], 2),
        (&["bench", "call", "--between", "n1"], 2),
        (&["bench", "call", "--between", "n1", "n2"], 3),
        (&["bench", "spawn", "--size", "64"], 2),
        (&["explain", "-o", "csv"], 2),
    ];
    for (args, code) in cases {
        let output = user.run(args);
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{args:?}\n{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn an_error_is_a_letter() {
    let user = User::new();
    for args in [
        &["ps"][..],
        &["run", "nothing.wasm"],
        &["explain", "E9999"],
        &["run", "/"],
        &["bench", "call", "--size", "100MiB"],
        &[
            "bench",
            "message",
            "--under-way",
            "100000",
            "--size",
            "1MiB",
        ],
        &["ps", "-o", "csv"],
    ] {
        let output = user.run(args);
        assert!(output.stdout.is_empty(), "{args:?}: stdout is for data");
        let letter = text(&output.stderr);
        let mut lines = letter.lines();
        let first = lines.next().unwrap();
        assert!(
            first.starts_with("error: ") && first.ends_with(']'),
            "{args:?}: {first}"
        );
        assert!(first.chars().count() <= 100, "{args:?}: {first}");
        let code = &first[first.len() - 6..first.len() - 1];
        assert!(letter.contains("\n  next: "), "{args:?}: {letter}");
        assert!(
            lines.all(|line| line.starts_with("  ")),
            "{args:?}: {letter}"
        );
        user.ok(&["explain", code]);

        if args.contains(&"csv") {
            continue;
        }
        let output = user.run(&[&["-o", "json"], args].concat());
        let letter: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(letter["code"], code, "{args:?}");
        assert!(
            letter["message"].is_string() && letter["next"].is_array(),
            "{letter}"
        );
    }
}

#[test]
fn every_code_has_a_page() {
    let user = User::new();
    let pages: Vec<serde_json::Value> = user.json(&["explain"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = vec![root.join("control/src/api.rs")];
    let mut folders = vec![root.join("node/src/cli")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let list = if entry.path().is_dir() {
                &mut folders
            } else {
                &mut files
            };
            list.push(entry.path());
        }
    }
    let mut codes = 0;
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        for (at, _) in source.match_indices("\"E") {
            let code = source[at + 1..].split('"').next().unwrap();
            if code.len() == 5 && code[1..].bytes().all(|digit| digit.is_ascii_digit()) {
                codes += 1;
                let known = pages.iter().any(|page| page["code"] == code);
                assert!(
                    known || code == "E9999",
                    "{code} of {} has no page",
                    file.display()
                );
            }
        }
    }
    assert!(codes > 50, "only {codes} codes were found");
}

#[test]
fn nobody_is_shown_how_the_program_is_written() {
    let user = User::new();
    fs::write(user.home.path().join("broken.wat"), "(module (func").unwrap();
    fs::write(
        user.home.path().join("import.wat"),
        "(module (import \"a\" \"b\" (func)))",
    )
    .unwrap();
    for args in [
        &["run", "broken.wat"][..],
        &["run", "import.wat"],
        &["run", "/"],
        &["--context", "/", "ps"],
        &[
            "control",
            "--state-dir",
            "/dev/null/x",
            "--listen",
            "127.0.0.1:0",
        ],
        &["node", "--state-dir", "nothing"],
    ] {
        let output = user.run(args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        let all = text(&output.stderr);
        for word in [
            "failed to",
            "Error(",
            "Os {",
            "kind:",
            "panicked",
            "os error",
        ] {
            assert!(!all.contains(word), "{args:?} says {word:?}:\n{all}");
        }
    }
}

#[test]
fn a_mistyped_command_is_understood() {
    let output = User::new().run(&["nodse"]);
    assert!(
        text(&output.stderr).contains("'nodes'"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_wrong_call_is_a_letter_for_programs() {
    let user = User::new();
    for (args, words) in [
        (&["-o", "json", "show", "--nope"][..], "--nope"),
        (&["nodse", "--output=ndjson"], "nodse"),
        (&["-ojson"], "subcommand"),
    ] {
        let output = user.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let told = text(&output.stderr);
        let letter: serde_json::Value = serde_json::from_str(&told).expect(&told);
        assert_eq!(letter["code"], "E0002", "{args:?}: {letter}");
        let message = letter["message"].as_str().unwrap();
        assert!(
            message.contains(words) && !message.contains("error:"),
            "{letter}"
        );
    }
}
