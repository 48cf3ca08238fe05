//! A first guest, as the README shows it: a linked child on another node, and what becomes of it.

use tidelock_guest::{die_when_link_dies, me, node_id, nodes, receive, send, Pid, Received, Spawn};

fn main() {
    die_when_link_dies(false); // the failures of linked processes become messages
    let here = node_id();
    let other = nodes().into_iter().find(|node| *node != here);
    let child = Spawn::new().on(other.unwrap_or(here)).linked(1);
    let child = child.start(work, me().raw()).expect("there is room for it");
    match receive(&[], None) {
        Received::Data(data) => println!("{child} says {}", String::from_utf8_lossy(&data.bytes)),
        Received::LinkDied(end) => println!("{child} is lost: {}", end.reason), // once
        other => panic!("{other:?}"),
    }
}

/// Runs in a process and a memory of its own.
fn work(parent: u64) {
    let parent = Pid::from_raw(parent).expect("a pid was passed");
    send(parent, 0, b"hello");
}
