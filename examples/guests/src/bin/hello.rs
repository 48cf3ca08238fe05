//! One process greets, another answers.
//!
//!     tidelock run hello.wasm Ada
//!     tidelock dev --nodes 3 --once hello.wasm Ada
//!
//! With several nodes the answer comes from another machine.

use std::time::Duration;

use tidelock_guest::{me, node_id, nodes, receive, send, Pid, Received, Spawn};

const QUESTION: i64 = 1;
const ANSWER: i64 = 2;

fn main() {
    let name = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "world".to_owned());
    println!("hello from {}", me());

    let here = node_id();
    let other = nodes().into_iter().find(|node| *node != here);
    let child = Spawn::new()
        .on(other.unwrap_or(here))
        .linked(0)
        .start(answer, me().raw())
        .expect("a node has room for one more");

    send(child, QUESTION, name.as_bytes());
    match receive(&[ANSWER], Some(Duration::from_secs(10))) {
        Received::Data(data) => println!("{child} says {}", String::from_utf8_lossy(&data.bytes)),
        other => panic!("expected an answer, received {other:?}"),
    }
}

/// Greets whoever is named in the first message.
fn answer(asker: u64) {
    let asker = Pid::from_raw(asker).expect("the asker passed its pid");
    if let Received::Data(data) = receive(&[QUESTION], None) {
        let name = String::from_utf8_lossy(&data.bytes);
        send(asker, ANSWER, format!("hello, {name}").as_bytes());
    }
}
