//! Many processes that wait, each as small as a Rust guest gets without leaving the standard library:
//! `local_idle:COUNT`, and `local_hibernating:COUNT` for so long that they hibernate.
//!
//! A program of its own, since what a process costs is mostly what its program touches: it says nothing when it
//! panics, and its stack ends where its data begins (`build.rs`), so both share a page. The processes are spread
//! over nurseries, so that none has to remember more than fits in 1 MiB.

use std::time::{Duration, Instant};

use tidelock_guest::{Pid, Received, me, receive, send, sleep, spawn};

/// Processes of one nursery.
const EACH: u64 = 5000;
const GO: i64 = 1;
const DONE: i64 = 2;

/// Ends the process if something is not as it must be. Words for it would be data that each process has.
fn must<T>(value: Option<T>) -> T {
    value.unwrap_or_else(|| std::process::abort())
}

fn take(tag: i64) -> Vec<u8> {
    match receive(&[tag], None) {
        Received::Data(data) => data.bytes,
        _ => must(None),
    }
}

fn parent(raw: u64) -> Pid {
    must(Pid::from_raw(raw))
}

/// Says that it is there, waits for one message and answers it.
fn wait(nursery: u64) {
    send(parent(nursery), DONE, &[0]);
    take(GO);
    send(parent(nursery), DONE, &[1]);
}

/// Starts as many as it is told; wakes them when it is told.
fn nursery(main: u64) {
    let count = u64::from_le_bytes(must(take(GO).try_into().ok()));
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(must(spawn(wait, me().raw()).ok()));
    }
    for _ in &all {
        must((take(DONE) == [0]).then_some(()));
    }
    send(parent(main), DONE, &[]);
    take(GO);
    for one in &all {
        send(*one, GO, &[]);
    }
    for _ in &all {
        must((take(DONE) == [1]).then_some(()));
    }
    send(parent(main), DONE, &[]);
}

fn main() {
    for row in std::env::args().skip(1) {
        let (name, count) = must(row.split_once(':'));
        let count: u64 = must(count.parse().ok());
        let hibernates = name == "local_hibernating";
        // The harness reads how much memory the node has at the two phases.
        println!("{{\"phase\":\"before\"}}");
        sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let mut nurseries = Vec::new();
        for at in 0..count.div_ceil(EACH) {
            let one = must(spawn(nursery, me().raw()).ok());
            let share = EACH.min(count - at * EACH);
            send(one, GO, &share.to_le_bytes());
            nurseries.push(one);
        }
        nurseries.iter().for_each(|_| drop(take(DONE)));
        let mut rate = u128::from(count) * 1000 / begun.elapsed().as_millis().max(1);
        sleep(Duration::from_millis(500));
        if hibernates {
            // Twice five seconds, and those asked first are some ten thousand a second.
            sleep(Duration::from_millis(11_000 + count / 8));
        }
        println!("{{\"phase\":\"alive\"}}");
        sleep(Duration::from_millis(500));
        let begun = Instant::now();
        for one in &nurseries {
            send(*one, GO, &[]);
        }
        nurseries.iter().for_each(|_| drop(take(DONE)));
        if hibernates {
            rate = u128::from(count) * 1000 / begun.elapsed().as_millis().max(1);
        }
        println!("{{\"row\":\"{row}\",\"per_s\":{rate},\"alive\":{count}}}");
    }
}
