//! Many processes that wait, each as small as a Rust guest is without trying: `local_idle:COUNT`.
//!
//! A program of its own, since what a process costs is mostly what its program touches. The processes are
//! spread over nurseries, so that none has to remember more than fits in 1 MiB.

use std::time::{Duration, Instant};

use tidelock_guest::{Pid, Received, me, receive, send, sleep, spawn};

/// Processes of one nursery.
const EACH: u64 = 5000;
const GO: i64 = 1;
const DONE: i64 = 2;

fn take(tag: i64) -> Vec<u8> {
    match receive(&[tag], None) {
        Received::Data(data) => data.bytes,
        _ => panic!("nobody dies here"),
    }
}

fn parent(raw: u64) -> Pid {
    Pid::from_raw(raw).expect("a pid was passed")
}

/// Says that it is there, waits for one message and answers it.
fn wait(nursery: u64) {
    send(parent(nursery), DONE, &[0]);
    take(GO);
    send(parent(nursery), DONE, &[1]);
}

/// Starts as many as it is told; wakes them when it is told.
fn nursery(main: u64) {
    let count = u64::from_le_bytes(take(GO).try_into().expect("a number"));
    let all: Vec<Pid> = (0..count)
        .map(|_| spawn(wait, me().raw()).expect("there is room"))
        .collect();
    all.iter().for_each(|_| assert!(take(DONE) == [0]));
    send(parent(main), DONE, &[]);
    take(GO);
    for one in &all {
        send(*one, GO, &[]);
    }
    all.iter().for_each(|_| assert!(take(DONE) == [1]));
    send(parent(main), DONE, &[]);
}

fn main() {
    for row in std::env::args().skip(1) {
        let count: u64 = row
            .strip_prefix("local_idle:")
            .and_then(|count| count.parse().ok())
            .expect("the row is local_idle:COUNT");
        // The harness reads how much memory the node has at the two phases.
        println!("{{\"phase\":\"before\"}}");
        sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let nurseries: Vec<Pid> = (0..count.div_ceil(EACH))
            .map(|at| {
                let one = spawn(nursery, me().raw()).expect("there is room");
                let share = EACH.min(count - at * EACH);
                send(one, GO, &share.to_le_bytes());
                one
            })
            .collect();
        nurseries.iter().for_each(|_| drop(take(DONE)));
        let rate = u128::from(count) * 1000 / begun.elapsed().as_millis().max(1);
        sleep(Duration::from_millis(500));
        println!("{{\"phase\":\"alive\"}}");
        sleep(Duration::from_millis(500));
        for one in &nurseries {
            send(*one, GO, &[]);
        }
        nurseries.iter().for_each(|_| drop(take(DONE)));
        println!("{{\"row\":\"{row}\",\"per_s\":{rate},\"alive\":{count}}}");
    }
}
