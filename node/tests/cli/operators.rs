//! What operators see and do: modules, processes and nodes of a cluster.

use std::fs;

use nix::sys::signal::Signal;
use tidelock_certs::Identity;
use tidelock_control::{api, client::Client};

use crate::user::{Dev, User, example, refused, text, until};

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
