//! A program for Lunatic that spreads over a cluster: the `lunatic` crate as published, nothing of Tidelock.
//!
//!     tidelock dev --nodes 2 --once lunatic_cluster.wasm
//!     tidelock spawn lunatic_cluster -- wait
//!
//! Everything the crate can do with a process on another node is done, on every other node. `wait` then loses
//! one: it says that it is ready, and waits until it is told that the node of its child is gone.

use std::time::Duration;

use lunatic::ap::handlers::{Message, Request};
use lunatic::ap::{AbstractProcess, Config, MessageHandler, ProcessRef, RequestHandler, State};
use lunatic::distributed::{lookup_nodes, node_id, nodes};
use lunatic::serializer::Bincode;
use lunatic::{Mailbox, MessageSignal, Process, ProcessConfig, ProcessDiedSignal, Tag};

const MOMENT: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some("wait") = arguments.first().map(String::as_str) {
        return wait();
    }
    let here = node_id();
    let others: Vec<u64> = nodes().into_iter().filter(|node| *node != here).collect();
    assert!(!others.is_empty(), "there is no other node");
    let mut all = lookup_nodes("").unwrap();
    all.sort_unstable();
    let mut listed = nodes();
    listed.sort_unstable();
    assert_eq!(all, listed, "the empty query finds all");
    for node in &others {
        for check in [
            messages, orders, requests, links, monitors, kills, timers, names, configs,
        ] {
            // Each in a process and with a mailbox of its own.
            let done = Process::spawn_link(*node, check);
            unsafe { lunatic::host::api::process::monitor(done.id()) };
            assert_eq!(receive_any(), PROCESS_DIED);
        }
    }
    println!("west: {:?}", lookup_nodes("zone=west").unwrap());
    println!(
        "west and called b: {:?}",
        lookup_nodes("zone=west&name=b").unwrap()
    );
    println!(
        "lunatic cluster: all checks hold on {} other nodes",
        others.len()
    );
}

const PROCESS_DIED: u32 = 2;

fn receive_any() -> u32 {
    let tags = std::ptr::null();
    unsafe { lunatic::host::api::message::receive(tags, 0, PATIENCE.as_millis() as u64) }
}

/// Answers each number with the next one, until it is sent a negative one: then it panics.
fn successor(parent: Process<i64>, mailbox: Mailbox<i64>) {
    loop {
        let number = mailbox.receive();
        assert!(number >= 0, "on purpose");
        parent.send(number + 1);
    }
}

fn messages(node: u64, mailbox: Mailbox<i64>) {
    let child = Process::spawn_node(node, mailbox.this(), successor);
    assert_eq!(child.node_id(), node);
    for number in 0..200 {
        child.send(number);
        assert_eq!(mailbox.receive(), number + 1);
    }
    // What it answers to is the same process, whoever tells of it.
    let other = Process::spawn_node(
        node,
        (child, mailbox.this()),
        |(child, parent), mailbox: Mailbox<i64>| {
            let _: (Process<i64>, Mailbox<i64>) = (child, mailbox);
            Process::<i64>::send(&parent, 7);
        },
    );
    assert_eq!(mailbox.receive(), 7);
    assert_ne!(other.id(), child.id());
    child.kill();
}

fn orders(node: u64, mailbox: Mailbox<i64>) {
    let child = Process::spawn_node(
        node,
        mailbox.this(),
        |parent: Process<i64>, mailbox: Mailbox<i64>| {
            // The second tag is read first; what was passed over keeps its order.
            let tag = Tag::special(66).unwrap();
            parent.send(mailbox.tag_receive(&[tag]));
            for _ in 0..100 {
                parent.send(mailbox.receive());
            }
        },
    );
    for number in 0..100 {
        child.send(number);
    }
    child.tag_send(Tag::special(66).unwrap(), 1000);
    assert_eq!(mailbox.receive(), 1000);
    for number in 0..100 {
        assert_eq!(mailbox.receive(), number);
    }
}

struct Counter(i64);

impl AbstractProcess for Counter {
    type Arg = i64;
    type State = Self;
    type Serializer = Bincode;
    type Handlers = (Message<i64>, Request<()>, Request<u64>);
    type StartupError = ();

    fn init(_: Config<Self>, start: i64) -> Result<Self, ()> {
        if start < 0 {
            return Err(());
        }
        Ok(Counter(start))
    }
}

impl MessageHandler<i64> for Counter {
    fn handle(mut state: State<Self>, number: i64) {
        state.0 += number;
    }
}

impl RequestHandler<()> for Counter {
    type Response = (i64, u64);

    fn handle(state: State<Self>, (): ()) -> (i64, u64) {
        (state.0, node_id())
    }
}

impl RequestHandler<u64> for Counter {
    type Response = ();

    fn handle(_: State<Self>, milliseconds: u64) {
        lunatic::sleep(Duration::from_millis(milliseconds));
    }
}

fn requests(node: u64, _: Mailbox<i64>) {
    let counter: ProcessRef<Counter> = Counter::on_node(node).start(1_i64).unwrap();
    for number in 0..50_i64 {
        counter.send(number);
    }
    assert_eq!(counter.request(()), (1 + 49 * 50 / 2, node));
    let slow = counter.with_timeout(MOMENT).request(60_000_u64);
    assert!(slow.is_err(), "an answer in no time");
    counter.kill();
    assert!(Counter::on_node(node).start(-1).is_err());
    let counter = Counter::on_node(node).start(5).unwrap();
    assert_eq!(counter.request(()).0, 5);
    counter.shutdown();
}

fn links(node: u64, mailbox: Mailbox<i64>) {
    let child = Process::spawn_node(node, mailbox.this(), successor);
    let mailbox = mailbox.catch_link_failure();
    child.link();
    child.send(-1);
    match mailbox.receive_timeout(PATIENCE) {
        Ok(MessageSignal::Signal(_)) => {}
        other => panic!("{:?}", other.map(|_| "a message")),
    }
    // Told once.
    assert!(mailbox.receive_timeout(MOMENT).is_err());

    // Unlinked: nothing.
    let child = Process::spawn_node(node, mailbox.this(), successor);
    child.link();
    child.unlink();
    child.kill();
    assert!(mailbox.receive_timeout(MOMENT).is_err());
    // And of one that is gone, at once.
    child.link();
    match mailbox.receive_timeout(PATIENCE) {
        Ok(MessageSignal::Signal(_)) => {}
        other => panic!("{:?}", other.map(|_| "a message")),
    }
}

fn monitors(node: u64, mailbox: Mailbox<i64>) {
    let mailbox = mailbox.monitorable();
    let child = Process::spawn_node(
        node,
        mailbox.this(),
        |parent: Process<i64>, mailbox: Mailbox<i64>| {
            parent.send(mailbox.receive());
        },
    );
    let id = child.id();
    mailbox.monitor(child);
    child.send(1);
    assert_eq!(mailbox.receive().unwrap_message(), 1);
    let ProcessDiedSignal(died) = mailbox.receive().unwrap_signal();
    assert_eq!(died, id);
}

fn kills(node: u64, mailbox: Mailbox<i64>) {
    let mailbox = mailbox.monitorable();
    let child = Process::spawn_node(node, mailbox.this(), successor);
    let id = child.id();
    mailbox.monitor(child);
    child.kill();
    let ProcessDiedSignal(died) = mailbox.receive().unwrap_signal();
    assert_eq!(died, id);
    // One that is gone is silence.
    child.kill();
    child.send(1);
    assert!(mailbox.receive_timeout(MOMENT).is_err());
}

fn timers(node: u64, mailbox: Mailbox<i64>) {
    let child = Process::spawn_node(node, mailbox.this(), successor);
    child.send_after(1, Duration::from_millis(20));
    assert_eq!(mailbox.receive(), 2);
    let never = child.send_after(5, Duration::from_secs(3600));
    assert!(never.cancel());
    assert!(mailbox.receive_timeout(MOMENT).is_err());
    child.kill();
}

fn names(node: u64, mailbox: Mailbox<i64>) {
    let child = Process::spawn_node(node, mailbox.this(), successor);
    child.register(&"far");
    let found = Process::<i64>::lookup(&"far").expect("it is registered");
    assert_eq!((found.node_id(), found.id()), (child.node_id(), child.id()));
    found.send(41);
    assert_eq!(mailbox.receive(), 42);
    child.kill();
}

fn configs(node: u64, mailbox: Mailbox<i64>) {
    let mut config = ProcessConfig::new().unwrap();
    config.set_can_spawn_processes(false);
    config.add_environment_variable("SHIP", "Nostromo");
    Process::spawn_node_config(
        node,
        &config,
        mailbox.this(),
        |parent: Process<i64>, _: Mailbox<i64>| {
            // What was denied is denied there, too.
            let denied = ProcessConfig::new().is_err();
            let variable = std::env::var("SHIP").is_ok_and(|ship| ship == "Nostromo");
            parent.send(i64::from(denied) + 2 * i64::from(variable));
        },
    );
    assert_eq!(mailbox.receive(), 3);
}

/// Links a process on the last other node and waits until it is told of its end.
fn wait() {
    let here = node_id();
    let there = nodes()
        .into_iter()
        .filter(|node| *node != here)
        .max()
        .expect("another node");
    let mailbox: Mailbox<i64> = unsafe { Mailbox::new() };
    let child = Process::spawn_node(there, mailbox.this(), successor);
    child.send(1);
    assert_eq!(mailbox.receive(), 2);
    let mailbox = mailbox.catch_link_failure();
    child.link();
    println!("ready, with a child on node {there}");
    match mailbox.receive() {
        MessageSignal::Signal(_) => println!("told"),
        MessageSignal::Message(_) => panic!("a message"),
    }
    assert!(mailbox.receive_timeout(MOMENT).is_err(), "told twice");
    assert!(!nodes().contains(&there), "it is listed still");
    println!("once");
}
