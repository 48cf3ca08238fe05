//! How a node comes, comes back, is removed and is missed.

use std::process::{Command, Stdio};

use tidelock_control::api;

use crate::user::{Daemon, User, ends_with, refused, token};

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

/// Starts a node that cannot join, and kills it when it has said a line with all of these words.
fn waits(mut node: Command, words: &[&str]) {
    ends_with(node.stderr(Stdio::piped()).spawn().unwrap(), words);
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
    let other = control.node(user, "other", Some(&unused));
    control.kill();
    let words = [
        format!("control plane {addr} cannot be reached; start it with: tidelock control"),
        "[E0011]".to_owned(),
    ];
    let words = words.each_ref().map(String::as_str);
    let told = refused(&mut user.command(&["nodes"]), 3, &words);
    assert!(!told.contains("tidelock nodes"), "{told}");

    waits(other, &[format!("waiting for control at {addr}").as_str()]);
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
    second.args(["--name", "a"]);
    let waiting = format!("waiting for control at {}: ", control.addr());
    let called = format!("{} is called", first.id());
    waits(second, &["WARN", &waiting, &called]);
}
