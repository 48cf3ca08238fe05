//! Each argument is one row, `name:number:number`; each answer is one line of JSON on stdout.
//!
//! A line holds the row as it was asked for, what was measured, and how many things were counted. A row
//! that counts wrongly ends the guest with a panic, so a figure that is printed is of work that was done.

mod local;
mod remote;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidelock_guest::{
    Data, NodeId, Pid, Received, die_when_link_dies, me, node_id, nodes, receive, send,
};

/// "I am done", or "go".
pub(crate) const DONE: i64 = 1;
/// Payload.
pub(crate) const LOAD: i64 = 2;
/// The end of a linked process.
pub(crate) const END: i64 = 3;

/// Runs the rows that the arguments name.
pub fn run() {
    die_when_link_dies(false);
    for row in std::env::args().skip(1) {
        let mut parts = row.split(':');
        let name = parts.next().unwrap_or_default();
        let numbers: Vec<u64> = parts
            .map(|part| part.parse().expect("numbers follow the name"))
            .collect();
        let values = local::row(name, &numbers)
            .or_else(|| remote::row(name, &numbers))
            .unwrap_or_else(|| panic!("no row {name}"));
        print(&row, &values);
    }
}

/// One figure of a row: its unit and its value.
pub(crate) type Values = Vec<(&'static str, f64)>;

pub(crate) fn print(row: &str, values: &[(&'static str, f64)]) {
    let values: Vec<_> = values
        .iter()
        .map(|(unit, value)| format!("\"{unit}\":{value}"))
        .collect();
    println!("{{\"row\":\"{row}\",{}}}", values.join(","));
}

/// Things per second.
pub(crate) fn rate(count: u64, since: Instant) -> (&'static str, f64) {
    ("per_s", count as f64 / since.elapsed().as_secs_f64())
}

/// Median and 99th percentile of some times, in microseconds.
pub(crate) fn spread(mut times: Vec<Duration>) -> Values {
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        times[index.min(times.len() - 1)].as_secs_f64() * 1e6
    };
    vec![("p50_us", at(0.5)), ("p99_us", at(0.99))]
}

/// Wall-clock time, to be compared with the clock of the harness.
pub(crate) fn now_ns() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock stands after 1970").as_nanos() as f64
}

/// Keeps up to `window` things under way until `total` are done.
pub(crate) fn windowed(total: u64, window: u64, mut start: impl FnMut(), mut finish: impl FnMut()) {
    let first = total.min(window);
    for _ in 0..first {
        start();
    }
    for done in 0..total {
        finish();
        if done + first < total {
            start();
        }
    }
}

/// Waits for one message with a tag.
pub(crate) fn take(tag: i64) -> Vec<u8> {
    match receive(&[tag], None) {
        Received::Data(Data { bytes, .. }) => bytes,
        other => panic!("{other:?}"),
    }
}

/// Waits for the end of one linked process.
pub(crate) fn take_end() {
    match receive(&[END], None) {
        Received::LinkDied(died) => assert_eq!(died.reason.code, 1, "{}", died.reason),
        other => panic!("{other:?}"),
    }
}

/// Sends numbers to a process.
pub(crate) fn tell(to: Pid, tag: i64, numbers: &[u64]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    send(to, tag, &bytes);
}

/// Takes numbers that were sent with [`tell`].
pub(crate) fn told(tag: i64) -> Vec<u64> {
    let bytes = take(tag);
    let (numbers, _) = bytes.as_chunks::<8>();
    numbers.iter().map(|n| u64::from_le_bytes(*n)).collect()
}

pub(crate) fn pid(raw: u64) -> Pid {
    Pid::from_raw(raw).expect("a pid was passed")
}

pub(crate) fn mine() -> u64 {
    me().raw()
}

/// The other node of two.
pub(crate) fn other_node() -> NodeId {
    let here = node_id();
    nodes()
        .into_iter()
        .find(|node| *node != here)
        .expect("this row needs two nodes")
}

// ---- what other processes do ---------------------------------------------------------------------------

/// Ends at once.
pub(crate) fn noop(_: u64) {}

/// Ends at once, with a failure.
pub(crate) fn fail(_: u64) {
    std::process::exit(1);
}

/// Sends back whatever comes.
pub(crate) fn echo(parent: u64) {
    let parent = pid(parent);
    loop {
        if let Received::Data(Data { bytes, .. }) = receive(&[], None) {
            send(parent, LOAD, &bytes);
        }
    }
}
