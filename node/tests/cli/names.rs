//! Names of processes and of modules.

use std::fs;

use tidelock_control::api;

use crate::user::{Dev, User, example, refused, until};

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
