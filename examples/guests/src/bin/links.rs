//! What links and monitors promise, checked one by one, on this node and on another.
//!
//!     tidelock run links.wasm
//!     tidelock dev --nodes 2 --once links.wasm
//!
//! Prints a line for each check and ends with code 0 only if all hold.

use std::time::Duration;

use tidelock_guest::{
    cancel_timer, demonitor, die_when_link_dies, exists, kill, link, lookup, me, monitor, node_id,
    nodes, receive, register, request, send, send_after, sleep, spawn, unlink, unregister, Data,
    Down, LinkDied, LinkError, NodeId, Pid, Received, Spawn, SpawnError,
};

/// Long enough for anything here on a busy machine.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));
/// To see that something does not come.
const MOMENT: Option<Duration> = Some(Duration::from_millis(200));

const ECHO: i64 = 10;
const ECHOED: i64 = 11;

fn main() {
    die_when_link_dies(false);
    check_pids();
    let here = node_id();
    check_node(here, "here");
    match nodes().into_iter().find(|node| *node != here) {
        Some(node) => check_node(node, "there"),
        None => println!("-- no other node"),
    }
    check_local();
    println!("links: all checks hold");
}

/// A process that ends by itself, with a failure.
fn fail(_: u64) {
    panic!("as told");
}

/// A process that ends by itself, normally.
fn end(_: u64) {}

/// A process that leaves with a code.
fn leave(code: u64) {
    std::process::exit(code as i32);
}

/// A process that sends back what it gets, for ever.
fn echo(parent: u64) {
    let parent = Pid::from_raw(parent).expect("the parent passed its pid");
    loop {
        if let Received::Data(Data { tag: ECHO, bytes }) = receive(&[], None) {
            send(parent, ECHOED, &bytes);
        }
    }
}

/// A process that waits for a word, then fails.
fn fail_when_told(_: u64) {
    receive(&[], None);
    panic!("as told");
}

/// A process that links itself to another, tells it to fail, and does not trap that.
fn follow(leader: u64) {
    let leader = Pid::from_raw(leader).expect("a pid was passed");
    link(leader, 0, PATIENCE).expect("the leader runs");
    send(leader, 0, &[]);
    receive(&[ECHO], None);
}

fn ok(place: &str, what: &str) {
    println!("ok {place}: {what}");
}

fn check_pids() {
    let pid = me();
    assert_eq!(pid.to_string().parse(), Ok(pid));
    assert_eq!(Pid::from_raw(pid.raw()), Some(pid));
    assert_eq!(pid.node(), node_id());
    assert!("n1".parse::<Pid>().is_err() && "n0.0".parse::<Pid>().is_err());
    ok("here", "pids read back as printed");
}

fn start(node: NodeId, entry: fn(u64)) -> Pid {
    Spawn::new()
        .on(node)
        .start(entry, me().raw())
        .expect("room")
}

fn start_linked(node: NodeId, tag: i64, entry: fn(u64), argument: u64) -> Pid {
    let pid = Spawn::new().on(node).linked(tag).start(entry, argument);
    pid.expect("room")
}

fn expect_link_died(from: Pid, tag: i64) -> LinkDied {
    match receive(&[], PATIENCE) {
        Received::LinkDied(died) if died.pid == from && died.tag == tag => died,
        other => panic!("expected the end of {from} with tag {tag}, received {other:?}"),
    }
}

fn expect_down(from: Pid, reference: u64) -> Down {
    match receive(&[], PATIENCE) {
        Received::Down(down) if down.pid == from && down.reference == reference => down,
        other => panic!("expected {from} down, received {other:?}"),
    }
}

fn expect_silence() {
    let received = receive(&[], MOMENT);
    assert_eq!(received, Received::Timeout, "nothing was to come");
}

fn check_node(node: NodeId, place: &str) {
    let pid = start(node, end);
    assert_eq!(pid.node(), node);
    ok(place, "a child lives where it was put");

    let pid = start_linked(node, 41, fail, 0);
    let died = expect_link_died(pid, 41);
    assert_eq!(died.reason.code, 101, "{died:?}");
    expect_silence();
    ok(
        place,
        "a failing linked child is told of once, with its tag",
    );

    start_linked(node, 42, end, 0);
    expect_silence();
    ok(place, "a normal end is no news");

    let pid = start_linked(node, 43, leave, 7);
    assert_eq!(expect_link_died(pid, 43).reason.code, 7);
    start_linked(node, 43, leave, 0);
    expect_silence();
    ok(place, "an exit code is a reason, and 0 a normal end");

    let pid = start_linked(node, 44, echo, me().raw());
    kill(pid);
    assert_eq!(expect_link_died(pid, 44).reason.code, 137);
    assert!(!exists(pid));
    ok(place, "a killed child is told of");

    check_echo(node, place);
    check_links_made_later(node, place);
    check_monitors(node, place);

    let spawned = Spawn::new().on(node).start_export("no_such_function");
    assert!(
        matches!(spawned, Err(SpawnError::NoFunction(_))),
        "{spawned:?}"
    );
    let spawned = Spawn::new().on(NodeId(4_000_000)).start(end, 0);
    assert!(
        matches!(spawned, Err(SpawnError::Unreachable(_))),
        "{spawned:?}"
    );
    ok(place, "a spawn that cannot be says why");
}

fn check_echo(node: NodeId, place: &str) {
    let pid = start_linked(node, 0, echo, me().raw());
    assert!(exists(pid));
    for n in 0..1000_u32 {
        send(pid, ECHO, &n.to_le_bytes());
    }
    for n in 0..1000_u32 {
        match receive(&[ECHOED], PATIENCE) {
            Received::Data(data) => assert_eq!(data.bytes, n.to_le_bytes()),
            other => panic!("expected number {n}, received {other:?}"),
        }
    }
    ok(place, "1000 messages there and back, in order");

    let long: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    match request(pid, ECHO, &long, ECHOED, PATIENCE) {
        Received::Data(data) => assert!(data.bytes == long),
        other => panic!("expected a long answer, received {other:?}"),
    }
    let empty = request(pid, ECHO, &[], ECHOED, PATIENCE);
    assert!(matches!(&empty, Received::Data(data) if data.bytes.is_empty()));
    ok(place, "300 000 bytes and none at all");

    unlink(pid, PATIENCE).expect("an answer");
    kill(pid);
    expect_silence();
    send(pid, ECHO, b"to nobody");
    ok(
        place,
        "no news after unlink, no harm in sending to the dead",
    );
}

fn check_links_made_later(node: NodeId, place: &str) {
    let pid = start(node, fail_when_told);
    link(pid, 50, PATIENCE).expect("it runs");
    link(pid, 51, PATIENCE).expect("linking twice is linking once");
    send(pid, 0, &[]);
    expect_link_died(pid, 51);
    expect_silence();
    ok(place, "two links are one, with the later tag");

    let error = link(pid, 52, PATIENCE);
    assert!(matches!(error, Err(LinkError::Ended(_))), "{error:?}");
    expect_silence();
    ok(place, "a link to the dead is an error, not a message");

    let leader = start(node, fail_when_told);
    let follower = Spawn::new().start(follow, leader.raw()).expect("room");
    let watch = monitor(follower);
    let down = expect_down(follower, watch.reference());
    assert!(!down.reason.is_normal(), "{down:?}");
    assert!(!exists(leader));
    ok(place, "failure passes on along links");
}

fn check_monitors(node: NodeId, place: &str) {
    let pid = start(node, echo);
    let (first, second, third) = (monitor(pid), monitor(pid), monitor(pid));
    demonitor(second);
    kill(pid);
    let mut references = [first.reference(), third.reference()];
    for _ in 0..2 {
        match receive(&[], PATIENCE) {
            Received::Down(down) if references.contains(&down.reference) => {
                assert_eq!((down.pid, down.reason.code), (pid, 137));
                references = references.map(|r| if r == down.reference { 0 } else { r });
            }
            other => panic!("expected a monitor to fire, received {other:?}"),
        }
    }
    expect_silence();
    ok(place, "each monitor fires once, a removed one never");

    let late = monitor(pid);
    let down = expect_down(pid, late.reference());
    assert!(!down.reason.is_normal(), "{down:?}");
    ok(place, "a monitor of the dead fires at once");

    let pid = start(node, end);
    let watch = monitor(pid);
    expect_down(pid, watch.reference());
    ok(place, "a monitor fires for a normal end");
}

fn check_local() {
    register("links/me", me());
    assert_eq!(lookup("links/me"), Some(me()));
    unregister("links/me");
    assert_eq!(lookup("links/me"), None);
    ok("here", "names come and go");

    send_after(me(), 60, b"later", Duration::from_millis(20));
    match receive(&[60], PATIENCE) {
        Received::Data(data) => assert_eq!(data.bytes, b"later"),
        other => panic!("expected a timed message, received {other:?}"),
    }
    let timer = send_after(me(), 61, b"never", Duration::from_secs(3600));
    assert!(cancel_timer(timer));
    expect_silence();
    ok("here", "timers fire, and not when cancelled");

    send(me(), 70, b"first");
    send(me(), 71, b"second");
    let second = receive(&[71, 72], PATIENCE);
    assert!(matches!(second, Received::Data(Data { tag: 71, .. })));
    let first = receive(&[], PATIENCE);
    assert!(matches!(first, Received::Data(Data { tag: 70, .. })));
    ok("here", "receive by tag leaves the rest in order");

    let busy = spawn(spin, 0).expect("room");
    sleep(Duration::from_millis(20));
    kill(busy);
    let watch = monitor(busy);
    expect_down(busy, watch.reference());
    ok("here", "an endless loop holds up nobody and can be killed");
}

/// A process that never gives way.
fn spin(_: u64) {
    let mut n = 0_u64;
    loop {
        n = std::hint::black_box(n + 1);
    }
}
