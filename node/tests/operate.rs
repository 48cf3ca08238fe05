//! What operators see of a running cluster, and do to it, when not all is well.
//!
//! Goal: whatever is missing, gone or doubtful is said, and nothing that is there is out of reach. Method: daemons
//! are started by hand, told to keep little, and killed.

mod user;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tidelock_control::api;

use user::{Daemon, Dev, User, ends_with, example, refused, says, token, until};

/// Monitors a child that it is not linked to; both wait for good.
const WATCHER: &str = r#"(module
    (import "lunatic::process" "spawn"
        (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::process" "monitor" (func $monitor (param i64)))
    (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "child")
    (func $wait (export "child")
        (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))
    (func (export "_start")
        (drop (call $spawn (i64.const 0) (i64.const -1) (i64.const -1)
            (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 8)))
        (call $monitor (i64.load (i32.const 8)))
        (call $wait)))"#;

/// Stands between whoever asks and a node, and can be cut.
struct Cable {
    addr: SocketAddr,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn to(node: SocketAddr) -> Self {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = door.local_addr().unwrap();
        let ends: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let open = Arc::clone(&ends);
        thread::spawn(move || {
            for near in door.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(node).unwrap();
                open.lock().unwrap().push(near.try_clone().unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let mut from = from.try_clone().unwrap();
                    let mut to = to.try_clone().unwrap();
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { addr, ends }
    }

    /// Ends all connections; new ones are passed on again.
    fn cut(&self) {
        for end in self.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A file that the commands of this user keep about its cluster.
fn kept(user: &User, file: &str) -> PathBuf {
    user.context.as_ref().unwrap().join(file)
}

/// Starts `spin.wat` on the cluster, where and how these arguments say; its pid.
fn spin(user: &User, how: &[&str]) -> String {
    user.ok(&["deploy", &example("spin.wat")]);
    let args = [&["spawn", "-q", "spin"], how].concat();
    user.ok(&args).trim().to_owned()
}

/// Starts a guest on the cluster; its pid.
fn start(user: &User, name: &str, guest: &str) -> String {
    let file = format!("{name}.wat");
    fs::write(user.home.path().join(&file), guest).unwrap();
    user.ok(&["deploy", &file]);
    user.ok(&["spawn", "-q", name]).trim().to_owned()
}

#[test]
fn what_is_not_kept_any_more_is_told() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let mut node = control.node(user, "dir", Some(&token(user)));
    node.env("TIDELOCK_LOG_OUTPUT_LINES_MAX", "3");
    let node = Daemon::start(node);
    let lines: String = (0..10).map(|number| format!("line {number}\n")).collect();
    let pid = start(user, "lines", &says(&lines));
    let logs = || user.ok(&["logs"]);
    until("the last line is kept", || logs().contains("line 9"));
    let told = logs();
    let gap = format!("{}: 7 lines are missing here\n", node.id());
    assert!(told.starts_with(&gap), "{told}");
    assert_eq!(told.lines().count(), 4, "{told}");
    let told = user.ok(&["logs", "-o", "json", &pid]);
    let first: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(first, serde_json::json!({"node": node.id(), "missed": 7}));
    assert_eq!(user.ok(&["logs", "-q"]).lines().count(), 3);
    let unknown = format!("{}.999", node.id());
    let missing = format!("{}: 7 lines are missing here", node.id());
    let words = ["there is no such process", "[E0020]", missing.as_str()];
    refused(&mut user.command(&["logs", &unknown]), 4, &words);
}

#[test]
fn output_of_a_guest_is_no_command_of_the_terminal() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let _node = control.join(user, "a");
    let said = "\u{1b}[2J\u{202e}rude\u{9b}m";
    let guest = says(&format!("{said}\n"));
    start(user, "rude", &guest);
    let logs = || user.ok(&["logs"]);
    until("it is kept", || logs().contains("rude"));
    let shown = logs();
    assert!(
        shown.contains("\u{fffd}[2J\u{fffd}rude\u{fffd}m"),
        "{shown:?}"
    );
    let lines: Vec<api::LogLine> = user.lines(&["logs"]);
    assert_eq!(lines[0].line, said);
    assert_eq!(user.ok(&["run", "rude.wat"]), format!("{said}\n"));
}

#[test]
fn whoever_follows_is_told_of_nodes_that_join_and_end() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let a = control.join(user, "a");
    start(user, "hello", &says("hello\n"));
    let mut follower = user
        .command(&["events", "-f", "-o", "ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(follower.stdout.take().unwrap());
    let mut of = |node: &str| {
        told.by_ref().lines().any(|line| {
            let event: api::Event = serde_json::from_str(&line.unwrap()).unwrap();
            event.node == node
        })
    };
    assert!(of(a.id()), "it follows");
    let b = control.join(user, "b");
    let id = b.id().to_owned();
    assert!(of(&id), "it has ended before {id} was followed");
    b.kill();
    ends_with(follower, &[&format!("no more lines from {id}")]);
}

#[test]
fn a_stream_that_was_lost_goes_on_where_it_was() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let (_a, b) = (control.join(user, "a"), control.join(user, "b"));
    let pid = spin(user, &["--on", "b"]);
    let pid = pid.as_str();
    // Its address is believed from now on.
    control.kill();
    let direct = b.ready["admin_addr"].as_str().unwrap();
    let cable = Cable::to(direct.parse().unwrap());
    let kept = kept(user, "nodes.json");
    let known = fs::read_to_string(&kept).unwrap();
    assert!(known.contains(direct), "{known}");
    fs::write(&kept, known.replace(direct, &cable.addr.to_string())).unwrap();

    let mut follower = user
        .command(&["events", "-f", "-o", "ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(follower.stdout.take().unwrap());
    let mut events = told
        .lines()
        .map(|line| serde_json::from_str::<api::Event>(&line.unwrap()).unwrap());
    let is = |event: &api::Event, kind: api::EventKind| {
        event.kind == kind && event.pid.as_deref() == Some(pid)
    };
    assert!(
        events.any(|event| is(&event, api::EventKind::Spawned)),
        "it follows"
    );
    cable.cut();
    let said = BufReader::new(follower.stderr.take().unwrap());
    let words = format!("no more lines from {}", b.id());
    let told = said.lines().any(|line| line.unwrap().contains(&words));
    assert!(told, "it has ended without a word");
    user.ok(&["kill", pid]);
    let more: Vec<api::Event> = events
        .by_ref()
        .take_while(|event| !is(event, api::EventKind::Ended))
        .collect();
    let again = more.iter().any(|event| is(event, api::EventKind::Spawned));
    let goes_on = follower.try_wait().unwrap().is_none();
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(goes_on, "it has ended");
    assert!(!again, "what was read is read again: {more:?}");
}

#[test]
fn a_kill_goes_on_and_tells_who_was_missing() {
    let mut user = User::new();
    let _dev = Dev::start(&mut user, &["--nodes", "1"]);
    let user = &user;
    let (one, two) = (spin(user, &[]), spin(user, &[]));
    let words = ["n1.999: there is no such process [E0020]"];
    refused(
        &mut user.command(&["kill", &one, "n1.999", &two]),
        4,
        &words,
    );
    assert_eq!(user.ok(&["ps", "-q"]), "");

    let watcher = start(user, "watcher", WATCHER);
    let mut watched = String::new();
    until("its child is monitored", || {
        let all: Vec<api::ProcessInfo> = user.json(&["ps"]);
        let child = all.into_iter().find(|process| process.entry == "child");
        watched = child.map_or_else(String::new, |child| child.pid);
        let detail = || user.json::<api::ProcessDetail>(&["show", &watched]);
        !watched.is_empty() && detail().monitored_by == [watcher.as_str()]
    });
    let radius: api::BlastRadius = user.json(&["kill", "--dry-run", &watched]);
    assert_eq!((radius.ends, radius.told), (vec![watched], vec![watcher]));
}

#[test]
fn without_control_the_nodes_are_asked_all_the_same() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let node = control.join(user, "a");
    let pid = spin(user, &[]);
    let pid = pid.as_str();
    assert!(user.ok(&["ps"]).contains(pid));
    let kept = kept(user, "nodes.json");
    let mode = fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    control.kill();
    let asked = "control is not there; asking the nodes as known";
    for args in [
        &["ps"][..],
        &["show", pid],
        &["logs"],
        &["events"],
        &["kill", "--dry-run", pid],
    ] {
        refused(&mut user.command(args), 0, &[asked]);
    }
    assert!(user.ok(&["ps"]).contains(pid));
    refused(&mut user.command(&["nodes"]), 3, &["[E0011]"]);

    let known = fs::read_to_string(&kept).unwrap();
    let is = |state: &str| fs::write(&kept, known.replace("alive", state)).unwrap();
    let show = || user.command(&["show", pid]);
    is("lost");
    refused(&mut show(), 0, &["but it answers"]);
    let words = ["n1 (a) is left out: control has lost it"];
    refused(&mut user.command(&["ps"]), 0, &words);
    is("left");
    refused(&mut show(), 3, &["gone for good", "[E0012]"]);
    node.kill();
    is("lost");
    refused(&mut show(), 3, &["may still run", "[E0012]"]);
    fs::remove_file(&kept).unwrap();
    refused(&mut user.command(&["ps"]), 3, &["[E0011]"]);
}

#[test]
fn what_was_remembered_is_checked_before_it_is_acted_on() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let node = control.join(user, "a");
    spin(user, &[]);
    let kept = kept(user, "nodes.json");
    let mut known: serde_json::Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    control.kill();
    let mut was = |id: &str, name: &str| {
        known["nodes"][0]["id"] = id.into();
        known["nodes"][0]["name"] = name.into();
        fs::write(&kept, known.to_string()).unwrap();
    };

    was("n9", "old");
    let is = format!("now: {} (a)", node.id());
    let words = ["n9: another node answers at", is.as_str(), "[E0012]"];
    for args in [
        &["drain", "n9"][..],
        &["drain", "old"],
        &["spawn", "--on", "old", "spin"],
        &["show", "n9.1"],
        &["kill", "n9.1"],
    ] {
        refused(&mut user.command(args), 3, &words);
    }
    // It may have joined since.
    let words = ["n2 is not among the nodes that were known", "[E0011]"];
    for args in [&["drain", "n2"][..], &["show", "n2.1"]] {
        refused(&mut user.command(args), 3, &words);
    }
    // Whoever is called so is meant, whatever its id is by now.
    was("n9", "a");
    let draining: serde_json::Value = user.json(&["drain", "a"]);
    assert_eq!(draining["node"], node.id(), "{draining}");
}

#[test]
fn a_control_that_is_not_there_is_waited_for_once() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let _node = control.join(user, "a");
    user.ok(&["ps"]);
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = kept(user, "context.json");
    let mut context: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    context["control"] = door.local_addr().unwrap().to_string().into();
    fs::write(&file, context.to_string()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for connection in door.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            drop(connection);
        }
    });
    refused(&mut user.command(&["ps"]), 0, &["control is not there"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_name_that_is_another_nodes_id_names_neither() {
    let mut user = User::new();
    let control = Daemon::control(&mut user);
    let user = &user;
    let one = control.join(user, "n2");
    let two = control.join(user, "b");
    assert_eq!((one.id(), two.id()), ("n1", "n2"));
    let words = [
        "n2 is the node called b; the node called n2 is n1",
        "[E0021]",
    ];
    refused(&mut user.command(&["ps", "--on", "n2"]), 4, &words);
    for name in ["n1", "b"] {
        user.ok(&["ps", "--on", name]);
    }
    let draining: serde_json::Value = user.json(&["drain", "b"]);
    assert_eq!(draining["node"], "n2", "{draining}");
}

#[test]
fn the_control_of_this_user_is_the_default() {
    let user = User::new();
    let _control = Daemon::start(user.command(&["control", "--listen", "127.0.0.1:0"]));
    assert!(token(&user).starts_with("tl1."));
}
