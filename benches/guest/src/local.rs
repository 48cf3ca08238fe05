//! Rows of one node.

use std::collections::HashMap;
use std::time::Instant;

use tidelock_guest::{Data, Pid, Received, Spawn, kill, me, receive, send, spawn};

use super::{
    DONE, END, LOAD, Values, echo, fail, mine, noop, pid, rate, spread, take, take_end, windowed,
};

/// Under way at once where a row is about throughput.
const WINDOW: u64 = 1000;

pub(crate) fn row(name: &str, numbers: &[u64]) -> Option<Values> {
    Some(match (name, numbers) {
        ("local_spawn", &[count]) => spawns(count, work),
        ("local_spawn_empty", &[count]) => spawns(count, report),
        ("local_spawn_unheard", &[count]) => unheard(count),
        ("local_link", &[count]) => links(count, WINDOW),
        ("local_link_seq", &[count]) => links(count, 1),
        ("local_ping", &[count]) => ping(count),
        ("local_fanin", &[senders, count]) => fan_in(senders, count),
        ("local_backlog", &[backlog, count]) => behind(backlog, count),
        _ => return None,
    })
}

fn start(entry: fn(u64)) -> Pid {
    spawn(entry, mine()).expect("there is room")
}

/// Allocates as a small program does, then reports.
fn work(parent: u64) {
    let map: HashMap<String, String> = (0..4)
        .map(|i| (format!("key {i}"), format!("value {i} of {parent}")))
        .collect();
    send(pid(parent), DONE, &[map.len() as u8]);
}

fn report(parent: u64) {
    send(pid(parent), DONE, &[4]);
}

fn spawns(count: u64, entry: fn(u64)) -> Values {
    let begun = Instant::now();
    let start = || {
        start(entry);
    };
    windowed(count, WINDOW, start, || assert_eq!(take(DONE), [4]));
    vec![rate(count, begun)]
}

/// Without a word from the children, one after the other as fast as they can be made.
fn unheard(count: u64) -> Values {
    let begun = Instant::now();
    for _ in 0..count {
        start(noop);
    }
    vec![rate(count, begun)]
}

/// Linked processes that fail, until each end was told.
fn links(count: u64, window: u64) -> Values {
    let begun = Instant::now();
    let start = || {
        let spawn = Spawn::new().linked(END);
        spawn.start(fail, 0).expect("there is room");
    };
    windowed(count, window, start, take_end);
    vec![rate(count, begun)]
}

fn ping(count: u64) -> Values {
    let other = start(echo);
    let begun = Instant::now();
    for number in 0..count {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        send(other, LOAD, &bytes);
        assert_eq!(take(LOAD), bytes);
    }
    let values = vec![rate(count, begun)];
    kill(other);
    values
}

/// Waits for "go", then sends as many messages as it was told.
fn flood(parent: u64) {
    let parent = pid(parent);
    let count = u64::from_le_bytes(take(DONE).try_into().expect("a number"));
    for _ in 0..count {
        send(parent, LOAD, &[7; 64]);
    }
}

fn fan_in(senders: u64, count: u64) -> Values {
    let each = count / senders;
    let all: Vec<_> = (0..senders).map(|_| start(flood)).collect();
    let begun = Instant::now();
    for sender in all {
        send(sender, DONE, &each.to_le_bytes());
    }
    for _ in 0..each * senders {
        match receive(&[], None) {
            Received::Data(Data { tag: LOAD, bytes }) => assert_eq!(bytes.len(), 64),
            other => panic!("{other:?}"),
        }
    }
    vec![rate(each * senders, begun)]
}

/// Sends itself a message and receives it by its tag, behind others with another tag.
fn behind(backlog: u64, count: u64) -> Values {
    for _ in 0..backlog {
        send(me(), DONE, &[0; 64]);
    }
    let once = || {
        let begun = Instant::now();
        send(me(), LOAD, &[1; 64]);
        assert_eq!(take(LOAD), [1; 64]);
        begun.elapsed()
    };
    let first = once();
    let times = (0..count).map(|_| once()).collect();
    for _ in 0..backlog {
        assert_eq!(take(DONE), [0; 64]);
    }
    let mut values = spread(times);
    values.push(("first_us", first.as_secs_f64() * 1e6));
    values
}
