//! The command line as people and scripts meet it.
//!
//! Goal: exit codes, error letters, JSON and help are promises. Method: the binary is run as it is
//! installed; a cluster is one that `tidelock dev` starts, and each test has its own folders, so that
//! nothing of this machine's user is read or changed.

mod user;

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tidelock_certs::Identity;
use tidelock_control::{api, client::Client};

use user::{Daemon, Dev, User, example, refused, text, token, until};

// ---- without a cluster -------------------------------------------------------------------------

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

// ---- with a cluster ----------------------------------------------------------------------------

/// The node that is there: its id and its name.
fn present(user: &User) -> (String, String) {
    let mut nodes: Vec<api::NodeInfo> = user.json(&["nodes"]);
    nodes.retain(|node| node.state.is_present());
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    (nodes[0].id.clone(), nodes[0].name.clone())
}

#[test]
fn a_node_starts_again_whatever_token_is_still_set() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let called = |mut command: Command, name: &str| {
        command.args(["--name", name]);
        command
    };
    let first = token(user);
    let node = Daemon::start(called(control.node(user, "dir", Some(&first)), "a"));
    assert_eq!(present(user), ("n1".to_owned(), "a".to_owned()));

    // One state directory is one node's.
    let fresh = token(user);
    let told = refused(
        &mut called(control.node(user, "dir", Some(&fresh)), "b"),
        1,
        &[
            "another node is using dir",
            "its own --state-dir",
            "[E0043]",
        ],
    );
    assert!(!told.contains("tidelock token"), "{told}");
    node.stop();

    // The token is spent, and not needed.
    let node = Daemon::start(called(control.node(user, "dir", Some(&first)), "a"));
    assert_eq!(present(user), ("n2".to_owned(), "a".to_owned()));
    node.stop();
    let node = Daemon::start(control.node(user, "dir", None));
    assert_eq!(present(user), ("n3".to_owned(), "a".to_owned()));
    node.stop();

    // Another name is another node, for which the token is still as good as it was.
    refused(
        &mut called(control.node(user, "dir", None), "b"),
        1,
        &["dir holds the identity of node a", "leave --name out"],
    );
    let node = Daemon::start(called(control.node(user, "dir", Some(&fresh)), "b"));
    assert_eq!(present(user), ("n4".to_owned(), "b".to_owned()));
    node.stop();
    refused(
        &mut control.node(user, "other", Some(&fresh)),
        5,
        &["[E1002]", "tidelock token"],
    );
}

#[test]
fn a_node_that_was_removed_says_so_and_comes_back_with_a_new_token() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let first = token(user);
    let mut named = control.node(user, "dir", Some(&first));
    named.args(["--name", "a"]);
    let node = Daemon::start(named);
    let words = ["a: remove takes an id: a is n1", "[E0021]"];
    refused(&mut user.command(&["remove", "a"]), 4, &words);
    user.ok(&["remove", "n1"]);
    let (code, told) = node.end();
    assert_eq!(code, Some(5), "{told}");
    assert!(
        told.contains("[E1008]") && told.contains("an operator has removed this node"),
        "{told}"
    );

    refused(&mut control.node(user, "dir", None), 5, &["[E1003]"]);
    refused(
        &mut control.node(user, "dir", Some(&first)),
        5,
        &["[E1002]"],
    );
    let node = Daemon::start(control.node(user, "dir", Some(&token(user))));
    assert_eq!(present(user).1, "a");
    user.ok(&["drain", node.id()]);
    let (code, told) = node.end();
    assert_eq!(code, Some(0), "a drain is no failure: {told}");
}

#[test]
fn whoever_is_out_of_reach_is_named() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let node = control.join(user, "a");
    let pid = format!("{}.1", node.id());
    let unused = token(user);
    node.kill();
    refused(&mut user.command(&["show", &pid]), 3, &["[E0012]"]);

    let addr = control.addr().to_owned();
    let mut waits = control.node(user, "other", Some(&unused));
    control.kill();
    let words = [
        format!("control plane {addr} cannot be reached; start it with: tidelock control"),
        "[E0011]".to_owned(),
    ];
    let words = words.each_ref().map(String::as_str);
    let told = refused(&mut user.command(&["nodes"]), 3, &words);
    assert!(!told.contains("tidelock nodes"), "{told}");

    let mut waits = waits.stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(waits.stderr.take().unwrap());
    let words = format!("waiting for control at {addr}");
    let told = said.lines().any(|line| line.unwrap().contains(&words));
    waits.kill().unwrap();
    waits.wait().unwrap();
    assert!(told, "it has ended without a word");
}

/// Gives the cluster a module that `tidelock deploy` would not.
fn put_module(user: &User, name: &str, bytes: Vec<u8>) {
    let dir = user.context.as_deref().unwrap();
    let context = fs::read(dir.join("context.json")).unwrap();
    let context: api::OperatorContext = serde_json::from_slice(&context).unwrap();
    let operator = Identity::load(dir).unwrap();
    let client = Client::with_identity(&context.control, &operator).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let put = runtime.block_on(client.put_module(Some(name), bytes));
    put.unwrap();
}

#[test]
fn what_operators_are_told_is_so() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "1"]);
    let user = &user;
    for (list, words) in [
        ("ps", "no processes\n"),
        ("modules", "no modules\n"),
        ("logs", "no output is kept\n"),
    ] {
        let output = user.run(&[list]);
        assert_eq!(output.status.code(), Some(0));
        let told = (text(&output.stdout), text(&output.stderr));
        assert_eq!(told, (String::new(), words.to_owned()));
    }

    let spin = wat::parse_file(example("spin.wat")).unwrap();
    let strange = "(module (import \"a\" \"b\" (func)) (func (export \"_start\")))";
    let strange = wat::parse_str(strange).unwrap();
    let home = user.home.path();
    fs::write(home.join("cut.wasm"), &spin[..spin.len() - 2]).unwrap();
    fs::write(home.join("strange.wasm"), &strange).unwrap();
    let words = ["cut.wasm: module is not valid", "[E0030]"];
    refused(&mut user.command(&["deploy", "cut.wasm"]), 1, &words);
    let words = ["strange.wasm: unknown import a::b", "[E0030]"];
    refused(&mut user.command(&["deploy", "strange.wasm"]), 1, &words);
    assert_eq!(user.ok(&["modules", "-q"]), "", "nothing was given away");
    put_module(user, "strange", strange);
    let words = ["strange: unknown import a::b", "[E0030]"];
    refused(&mut user.command(&["spawn", "strange"]), 1, &words);

    let module: api::ModuleInfo = user.json(&["deploy", &example("spin.wat")]);
    for missing in ["b3:00000000", "b3:0", "nothing", "no/name"] {
        let words = [missing, "[E0022]", "tidelock modules"];
        refused(&mut user.command(&["spawn", missing]), 4, &words);
    }
    let nowhere = home.join("nowhere").display().to_string();
    let words = [nowhere.as_str(), "there is no such directory on n1"];
    refused(
        &mut user.command(&["spawn", "spin", "--dir", &nowhere]),
        5,
        &words,
    );

    let beginning = &module.hash[.."b3:".len() + 8];
    let spawned: api::Spawned = user.json(&["spawn", beginning, "--name", "loop"]);
    let pid = spawned.pid.as_str();
    let detail: api::ProcessDetail = user.json(&["show", pid]);
    assert_eq!(
        (detail.info.name.as_deref(), detail.info.entry.as_str()),
        (Some("loop"), "_start")
    );
    assert_eq!(detail.messages_in, Some(0));
    assert!(user.ok(&["show", pid]).contains("received"));
    assert!(user.ok(&["ps"]).contains("loop"));

    user.ok(&["kill", pid]);
    let detail: api::ProcessDetail = user.json(&["show", pid]);
    assert_eq!(
        (detail.messages_in, detail.die_when_link_dies),
        (None, None)
    );
    let shown = user.ok(&["show", pid]);
    for unknown in ["received", "memory", "queued"] {
        assert!(!shown.contains(unknown), "{shown}");
    }
    let words = [pid, "there is no such process [E0020]"];
    refused(&mut user.command(&["kill", "--dry-run", pid]), 4, &words);

    user.ok(&["spawn", "spin"]);
    assert_eq!(
        user.ok(&["drain", "n1", "--timeout", "900ms"]),
        "n1 waits for 1 process to end, then leaves\n"
    );
}

#[test]
fn operators_can_look_and_act() {
    let mut user = User::new();
    let mut dev = Dev::start(&mut user, &["--nodes", "2"]);
    let user = &user;

    let nodes: Vec<api::NodeInfo> = user.json(&["nodes"]);
    assert_eq!(
        nodes.iter().map(|n| n.id.as_str()).collect::<Vec<_>>(),
        ["n1", "n2"]
    );
    assert!(nodes.iter().all(|node| node.state == api::NodeState::Alive));
    assert_eq!(
        user.ok(&["ps", "-o", "json"]).trim(),
        "[]",
        "an empty list is a list"
    );
    assert_eq!(user.ok(&["ps"]), "", "and nothing to read for people");

    let module: api::ModuleInfo = user.json(&["deploy", &example("spin.wat")]);
    assert_eq!(
        user.ok(&["deploy", "-q", &example("spin.wat")]).trim(),
        module.hash
    );
    assert_eq!(user.json::<Vec<api::ModuleInfo>>(&["modules"]).len(), 1);

    let spawned: api::Spawned = user.json(&["spawn", "spin", "--on", "n2"]);
    assert!(spawned.pid.starts_with("n2."), "{}", spawned.pid);
    let pid = spawned.pid.as_str();
    let by_hash = user.ok(&["spawn", "-q", &module.hash]);
    assert_eq!(user.ok(&["ps", "-q"]).lines().count(), 2);
    let listed: Vec<api::ProcessInfo> = user.json(&["ps", "--on", "n2", "--module", &module.hash]);
    assert!(listed.iter().any(|process| process.pid == pid));
    let named = user.ok(&["ps", "-q", "--module", "spin"]);
    assert_eq!(named.lines().count(), 2, "{named}");
    let words = ["spun: there is no such module", "[E0022]"];
    refused(&mut user.command(&["ps", "--module", "spun"]), 4, &words);
    refused(&mut user.command(&["logs", "n1.999"]), 4, &["[E0020]"]);
    let detail: api::ProcessDetail = user.json(&["show", pid]);
    assert_eq!((detail.info.pid.as_str(), detail.reason), (pid, None));
    let radius: api::BlastRadius = user.json(&["kill", "--dry-run", pid]);
    assert_eq!(radius.ends, [pid]);

    user.ok(&["kill", pid, by_hash.trim()]);
    assert_eq!(user.ok(&["ps", "-q"]), "");
    let detail: api::ProcessDetail = user.json(&["show", pid]);
    assert_eq!(detail.reason.as_deref(), Some("killed"));
    let output = user.run(&["kill", "n2.999"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("error: n2.999: there is no such process [E0020]"));
    assert_eq!(user.run(&["show", "n7.1"]).status.code(), Some(4));
    assert_eq!(user.run(&["show", "seven"]).status.code(), Some(2));
    assert_eq!(user.run(&["ps", "--on", "n7"]).status.code(), Some(4));
    assert_eq!(user.run(&["spawn", "nothing"]).status.code(), Some(4));
    assert_eq!(
        user.run(&["spawn", "spin", "no_such_entry"]).status.code(),
        Some(5)
    );

    user.ok(&["deploy", &example("hello.wat")]);
    let hello = user.ok(&["spawn", "-q", "hello", "--on", "n1"]);
    let (hello, lines) = (hello.trim(), || user.lines::<api::LogLine>(&["logs"]));
    until("the greeting is in the log", || {
        lines()
            .iter()
            .any(|line| line.pid == hello && line.line == "hello from wat")
    });
    let events: Vec<api::Event> = user.lines(&["events"]);
    let of = |kind, pid: &str| {
        events
            .iter()
            .any(|event| event.kind == kind && event.pid.as_deref() == Some(pid))
    };
    assert!(
        of(api::EventKind::Spawned, pid) && of(api::EventKind::Ended, pid),
        "{events:?}"
    );
    assert!(
        events
            .iter()
            .any(|event| event.kind == api::EventKind::NodeUp),
        "{events:?}"
    );
    assert!(user.ok(&["token", "-q"]).starts_with("tl1."));
    assert!(!user.ok(&["nodes"]).contains('\u{1b}'));

    user.ok(&["drain", "n2"]);
    until("the drained node has left", || {
        let nodes: Vec<api::NodeInfo> = user.json(&["nodes", "--all"]);
        nodes
            .iter()
            .any(|node| node.id == "n2" && node.state == api::NodeState::Left)
    });

    // Also one that has left: its key is what is refused.
    let removed: api::NodeInfo = user.json(&["remove", "n2"]);
    assert_eq!(
        (removed.id.as_str(), removed.state),
        ("n2", api::NodeState::Left)
    );
    let nobody = user.run(&["remove", "n9"]);
    assert_eq!(nobody.status.code(), Some(4));
    assert!(text(&nobody.stderr).contains("there is no node with this id"));

    dev.signal(Signal::SIGINT);
    let (code, said) = dev.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("Draining"), "{said}");
    assert!(!dev.dir.exists());
    assert_eq!(user.run(&["ps"]).status.code(), Some(3));
}

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
    assert_eq!(
        fs::read_dir(user.home.path())
            .unwrap()
            .flatten()
            .filter(is_ours)
            .count(),
        0
    );
}

/// Nobody may be there to take note of the end of an orphan.
#[cfg(target_os = "linux")]
fn is_zombie(id: i32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Whether a folder is one that a cluster was kept in.
fn is_ours(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with("tidelock-")
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
    assert_eq!(
        fs::read_dir(user.home.path())
            .unwrap()
            .flatten()
            .filter(is_ours)
            .count(),
        0
    );
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

#[test]
fn the_demonstration_is_exact_and_leaves_nothing() {
    let user = User::new();
    let words: String = (0..300_000_u64)
        .map(|n| format!("w{} ", n * n % 10_007))
        .collect();
    let folder = user.home.path().join("texts/of/words");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("words.txt"), words).unwrap();
    let report: serde_json::Value = user.json(&["demo", "texts"]);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["result"]["words"], 300_000, "{report}");
    assert_eq!(report["killed"]["signal"], 9, "{report}");
    let percent = report["killed"]["percent"].as_f64().unwrap();
    assert!((25.0..=75.0).contains(&percent), "{report}");
    assert_eq!(report["notices"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(
        fs::read_dir(user.home.path())
            .unwrap()
            .flatten()
            .filter(is_ours)
            .count(),
        0
    );
}

#[test]
fn a_demonstration_without_a_loss_fails() {
    let user = User::new();
    fs::write(user.home.path().join("words.txt"), "word ".repeat(300_000)).unwrap();
    // Claims the right numbers at once, so that there is no moment at which a node could be killed.
    let line = "{\\22event\\22:\\22result\\22,\\22words\\22:300000,\\22distinct\\22:1,\
                \\22checksum\\22:\\22\\22,\\22chunks\\22:1,\\22resent\\22:0,\\22lost\\22:[],\
                \\22elapsed_ms\\22:1}\\n";
    let length = line.replace("\\22", "\"").replace("\\n", "\n").len();
    let guest = format!(
        "(module (import \"wasi_snapshot_preview1\" \"fd_write\"
           (func $write (param i32 i32 i32 i32) (result i32)))
         (memory (export \"memory\") 1)
         (data (i32.const 16) \"{line}\")
         (func (export \"_start\")
           (i32.store (i32.const 0) (i32.const 16))
           (i32.store (i32.const 4) (i32.const {length}))
           (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"
    );
    fs::write(user.home.path().join("liar.wat"), guest).unwrap();
    let output = user.run(&["demo", "-o", "json", "--guest", "liar.wat", "words.txt"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false, "{report}");
    let check = |name: &str| {
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == name)
            .cloned()
    };
    assert_eq!(check("fault").unwrap()["ok"], false, "{report}");
    assert_eq!(
        check("count").unwrap()["ok"],
        false,
        "a wrong checksum is seen: {report}"
    );
    assert!(text(&output.stderr).contains("E0051"));
}

// ---- bench -------------------------------------------------------------------------------------

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
    let left = fs::read_dir(user.home.path()).unwrap().flatten();
    assert_eq!(left.filter(is_ours).count(), 0);
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

// ---- names, events, and what daemons say -------------------------------------------------------

/// Is registered under a name of its own, has a linked child that traps, and waits for good.
const WAITER: &str = r#"(module
    (import "lunatic::process" "process_id" (func $me (result i64)))
    (import "lunatic::process" "die_when_link_dies" (func $die_when_link_dies (param i32)))
    (import "lunatic::process" "spawn"
        (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::distributed" "node_id" (func $node (result i64)))
    (import "lunatic::registry" "put" (func $put (param i32 i32 i64 i64)))
    (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "child")
    (data (i32.const 32) "guest-1")
    (func (export "child") (unreachable))
    (func (export "_start")
        (call $put (i32.const 32) (i32.const 7) (call $node) (call $me))
        (call $die_when_link_dies (i32.const 0))
        (drop (call $spawn (i64.const 42) (i64.const -1) (i64.const -1)
            (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 8)))
        (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
        (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))))"#;

#[test]
fn a_process_goes_by_its_name() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "2"]);
    let user = &user;
    fs::write(user.home.path().join("waiter.wat"), WAITER).unwrap();
    let module: api::ModuleInfo = user.json(&["deploy", "waiter.wat"]);
    let named = ["spawn", "waiter", "--on", "n1", "--name", "worker-1"];
    let one = user.json::<api::Spawned>(&named).pid;
    let show = |name: &str| user.json::<api::ProcessDetail>(&["show", name]);
    until("it waits for a message", || {
        show("worker-1").info.state == api::ProcessState::Waiting
    });
    // Of its two names the first in their order.
    let shown = show("worker-1@n1").info;
    assert_eq!((&shown.pid, shown.name.as_deref()), (&one, Some("guest-1")));
    let listed: Vec<api::ProcessInfo> = user.json(&["ps", "--on", "n1"]);
    let listed = listed.iter().find(|process| process.pid == one).unwrap();
    assert_eq!(listed.name.as_deref(), Some("guest-1"));

    let taken = format!("worker-1: {one} has this name");
    refused(&mut user.command(&named), 5, &[taken.as_str()]);
    for (name, words) in [
        ("a\nb", "a name has no control characters"),
        ("n1.2", "this is a pid"),
        ("a@n1", "a name has no @"),
    ] {
        let mut spawn = user.command(&["spawn", "waiter", "--on", "n1", "--name", name]);
        refused(&mut spawn, 2, &[words]);
    }

    let two = user.json::<api::Spawned>(&["spawn", "waiter", "--on", "n2"]);
    until("it has its name", || {
        user.run(&["show", "guest-1@n2"]).status.success()
    });
    let words = ["several processes have this name", &one, &two.pid];
    refused(&mut user.command(&["show", "guest-1"]), 2, &words);
    user.ok(&["logs", "worker-1"]);
    refused(
        &mut user.command(&["kill", "worker-1", "nobody"]),
        2,
        &["nobody"],
    );
    assert_eq!(show(&one).reason, None, "a mistype ends nobody");
    assert_eq!(user.ok(&["kill", "-q", "guest-1@n2"]).trim(), two.pid);
    assert_eq!(show(&two.pid).reason.as_deref(), Some("killed"));
    user.ok(&["kill", "worker-1"]);
    // Nobody living has it any more.
    user.ok(&named);

    let events = || user.lines::<api::Event>(&["events", "--on", "n1"]);
    let of = |kind| events().into_iter().find(|event| event.kind == kind);
    until("the end of the child is told", || {
        of(api::EventKind::Ended).is_some()
    });
    let ended = of(api::EventKind::Ended).unwrap();
    assert_eq!(
        (ended.entry.as_deref(), ended.module.as_ref()),
        (Some("child"), Some(&module.hash))
    );
    let linked = of(api::EventKind::Linked).unwrap();
    assert_eq!((linked.pid, &linked.peer), (Some(one.clone()), &ended.pid));
    let child = show(&ended.pid.unwrap());
    assert_eq!(
        (
            child.info.entry.as_str(),
            child.info.module,
            child.info.parent
        ),
        ("child", Some(module.hash), Some(one))
    );
    assert_eq!(child.ended_at, Some(ended.time));
}

#[test]
fn a_module_has_the_names_that_stand_for_it() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "1"]);
    let deploy =
        |file: &str| -> api::ModuleInfo { user.json(&["deploy", &example(file), "--name", "app"]) };
    let old = deploy("spin.wat");
    let spinning: api::Spawned = user.json(&["spawn", "app"]);
    let new = deploy("hello.wat");
    let modules: Vec<api::ModuleInfo> = user.json(&["modules"]);
    let listed: Vec<_> = modules
        .iter()
        .map(|module| (&module.hash, module.names.join(" ")))
        .collect();
    assert_eq!(
        listed,
        [(&new.hash, "app".to_owned()), (&old.hash, String::new())]
    );
    assert_eq!(user.ok(&["ps", "-q", "--module", "app"]), "");
    let by_hash = user.ok(&["ps", "-q", "--module", &old.hash]);
    assert_eq!(by_hash.trim(), spinning.pid);
}

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
#[cfg(target_os = "linux")]
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

#[test]
fn a_node_says_what_it_waits_for() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let mut first = control.node(user, "one", Some(&token(user)));
    first.args(["--name", "a"]);
    let first = Daemon::start(first);
    let mut second = control.node(user, "two", Some(&token(user)));
    second.args(["--name", "a"]).stderr(Stdio::piped());
    let mut second = second.spawn().unwrap();
    let said = BufReader::new(second.stderr.take().unwrap());
    let words = [
        format!("waiting for control at {}: ", control.addr()),
        format!("{} is called", first.id()),
    ];
    let told = said.lines().any(|line| {
        let line = line.unwrap();
        words.iter().all(|word| line.contains(word)) && line.contains("WARN")
    });
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(told, "it has ended without a word");
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
