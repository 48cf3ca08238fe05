//! More than there is room for: bulk beside small messages, receivers that sleep or are slow,
//! senders that have to wait.
//!
//! No time is judged here, only counts and bytes; the figures are printed for docs/reliability.md.
//! `TIDELOCK_LOAD_ROUNDS=20` and `TIDELOCK_OVERLOAD=10m` are for whoever measures.

use std::time::Duration;

use tidelock_control::api::{ProcessInfo, SessionInfo};

use crate::bench::{Cluster, Guest, PATIENCE, Shape};
use crate::feed::Seen;
use crate::network::{came_back, traffic};
use crate::resources::Gauge;
use crate::settings::{setting, time_setting};

const MIB: u64 = 1 << 20;

fn number(value: impl std::fmt::Display) -> String {
    value.to_string()
}

// ---- bulk beside small messages ----------------------------------------------------------------

/// One-way traffic of stamped messages, each acknowledged.
fn bulk(cluster: &Cluster, (from, to): (&str, &str), time: Duration, bytes: u64) -> Guest {
    let (node, ms) = (cluster.id(to), number(time.as_millis()));
    cluster.spawn(from, &["bulk", &node, &ms, "2", &number(bytes)])
}

/// Waits for the end of bulk; fails unless all of it arrived, whole, in order, once.
fn arrived(what: &str, guest: &Guest) -> Seen {
    let sums = guest.one("bulk");
    assert_eq!(sums.number("wrong"), 0, "{what}: {}", sums.text);
    assert_eq!(sums.number("taken"), sums.number("sent"), "{what}");
    sums
}

/// A percentile of what several runs found, in microseconds.
struct Trips(Vec<i64>);

impl Trips {
    fn median(&mut self) -> i64 {
        self.0.sort_unstable();
        self.0[self.0.len() / 2]
    }
}

#[test]
fn small_messages_beside_bulk_all_arrive() {
    let cluster = Cluster::pair();
    let rounds = setting("TIDELOCK_LOAD_ROUNDS", 3);
    let time = Duration::from_secs(2);
    // The idle path is warmed up, and so is the bulk path.
    came_back("warm-up", &traffic(&cluster, ("a", "b"), time / 4, 1, 8));
    arrived("warm-up", &bulk(&cluster, ("a", "b"), time / 4, 16 * MIB));
    let mut percentiles = [[0; 3]; 2].map(|all| all.map(|_: i32| Trips(Vec::new())));
    let mut rates = Vec::new();
    for round in 0..rounds {
        for (at, beside) in [false, true].into_iter().enumerate() {
            // Bulk begins first and ends last.
            let both = beside.then(|| bulk(&cluster, ("a", "b"), time * 2, 16 * MIB));
            let small = traffic(&cluster, ("a", "b"), time, 1, 8);
            let sums = came_back(&format!("small, round {round}"), &small);
            for (trips, key) in percentiles[at]
                .iter_mut()
                .zip(["p50_us", "p99_us", "max_us"])
            {
                trips.0.push(sums.number(key));
            }
            if let Some(guest) = both {
                assert!(guest.all("bulk").is_empty(), "bulk ended before the rest");
                let sums = arrived("bulk", &guest);
                assert!(sums.number("taken") > 0, "{}", sums.text);
                rates.push(sums.number("taken") * 16_000 / sums.number("ms").max(1));
            }
        }
    }
    rates.sort_unstable();
    let [idle, beside] = percentiles.map(|all| all.map(|mut trips| trips.median()));
    for (name, [p50, p99, max]) in [("alone", idle), ("beside bulk", beside)] {
        eprintln!("small {name}: p50 {p50}, p99 {p99}, max {max} us (medians of {rounds} runs)");
    }
    eprintln!(
        "small beside bulk / alone: p50 {:.1}, p99 {:.1}; bulk {} MiB/s",
        beside[0] as f64 / idle[0] as f64,
        beside[1] as f64 / idle[1] as f64,
        rates[rates.len() / 2]
    );
}

// ---- a receiver that sleeps --------------------------------------------------------------------

fn process(cluster: &Cluster, name: &str, pid: &str) -> Option<ProcessInfo> {
    let all: Vec<ProcessInfo> = cluster.get(name, "/v1/processes");
    all.into_iter().find(|process| process.pid == pid)
}

/// Waits until a guest is told that a process ended because its mailbox was full; fails if it is told so
/// other than once by its link and once by its monitor.
fn told_that_it_was_full(guest: &Guest, pid: &str) {
    for kind in ["link", "down"] {
        let told = guest.one(kind);
        assert_eq!(told.text("about"), pid);
        assert_eq!(told.text("why"), "mailbox full");
        assert_eq!(told.number("code"), 101);
        assert_eq!(guest.all(kind).len(), 1, "{kind}: told once");
    }
}

#[test]
fn a_receiver_that_sleeps_holds_nobody_up() {
    let most = 20_000;
    let cluster = Cluster::start(Shape {
        settings: &[("TIDELOCK_LIMITS_MAILBOX_LEN_MAX", "20000")],
        ..Shape::default()
    });
    let ways = [("a", "b"), ("b", "a"), ("b", "b"), ("a", "a")];
    let time = Duration::from_secs(2);
    let around: Vec<_> = ways
        .iter()
        .map(|way| traffic(&cluster, *way, time, 8, 64))
        .collect();

    let sleeper = cluster.spawn("b", &["sleeper"]);
    sleeper.one("sleeping");
    // From its own node and from the other one, up to the bound and not above it.
    let half = number(most / 2);
    let piles = ["a", "b"].map(|from| cluster.spawn(from, &["pile", &sleeper.pid, &half, "64"]));
    for pile in &piles {
        assert_eq!(pile.one("piled").number("lives"), 1, "{}", pile.pid);
    }
    let info = process(&cluster, "b", &sleeper.pid).expect("it is at its bound, not above");
    assert_eq!(info.queued, most);

    for (way, guest) in ways.iter().zip(&around) {
        let sums = came_back(&format!("beside a sleeper, {way:?}"), guest);
        assert!(sums.number("back") > 100, "{way:?}: {}", sums.text);
    }
    for (from, to) in ways {
        let echo = cluster.spawn(from, &["echo", &cluster.id(to), "2000"]);
        assert_eq!(echo.one("echoed").number("in_order"), 2000);
    }
    for pile in &piles {
        for kind in ["link", "down"] {
            assert!(pile.all(kind).is_empty(), "nobody was told of anything");
        }
    }

    // One more is too much.
    let last = cluster.spawn("a", &["pile", &sleeper.pid, "1", "64"]);
    last.one("piled");
    for guest in piles.iter().chain([&last]) {
        told_that_it_was_full(guest, &sleeper.pid);
    }
    assert_eq!(cluster.end_of("b", &sleeper.pid).reason, "mailbox full");
    for (from, to) in ways {
        let echo = cluster.spawn(from, &["echo", &cluster.id(to), "100"]);
        assert_eq!(echo.one("echoed").number("in_order"), 100);
    }
    assert!(!cluster.runs("b", &sleeper.pid));
}

// ---- a sender that has to wait -----------------------------------------------------------------

/// Bytes of bulk messages that may wait for one peer before senders have to.
const BACKLOG_MAX: u64 = 64 * MIB;

#[test]
fn a_sender_that_waits_for_a_peer_holds_up_nobody_and_its_timers_fire() {
    // Longer than all of it takes: the frozen node is not given up.
    let cluster = Cluster::start(Shape {
        lease: PATIENCE,
        ..Shape::default()
    });
    let before = cluster.session("a", "b").expect("a session").epoch;
    let counts = cluster.spawn("b", &["counts"]);
    counts.one("counting");
    cluster.node("b").freeze();

    // The one that passes the bound is let through, the next one waits.
    let (count, free) = (100_u64, BACKLOG_MAX / MIB + 1);
    let press = cluster.spawn(
        "a",
        &[
            "press",
            &counts.pid,
            &number(count),
            &number(MIB),
            &number(free),
        ],
    );
    let late = press.one("late");
    for what in ["link", "spawn", "request", "waits"] {
        assert_eq!(late.number(what), 1, "{what}: {}", late.text);
    }
    assert_eq!(late.number("back"), 1000, "{}", late.text);
    cluster.node("b").assert_frozen();
    let sessions: Vec<SessionInfo> = cluster.get("a", "/v1/sessions");
    let backlog = sessions[0].backlog_bytes;
    assert!(
        backlog > BACKLOG_MAX && backlog <= BACKLOG_MAX + 2 * MIB,
        "{backlog}"
    );
    assert!(press.all("pressed").is_empty());

    cluster.node("b").thaw();
    assert_eq!(press.one("pressed").number("count"), count.cast_signed());
    let counted = counts.one("counted");
    let sums = ["count", "wrong", "others"].map(|what| counted.number(what));
    // The other one is the request: it has waited for no bulk of another pair, and its caller for no answer.
    assert_eq!(sums, [count.cast_signed(), 0, 1], "{}", counted.text);
    let after = cluster.session("a", "b").expect("a session").epoch;
    assert_eq!(before, after, "the session was lost");
}

// ---- sustained overload ------------------------------------------------------------------------

/// Bytes of one mailbox in the overload.
const MAILBOX_BYTES_MAX: u64 = 8 * MIB;

/// What a mailbox may weigh for each byte that it counts: an empty message counts 64 bytes, and takes
/// 80 in a queue that doubles its place when it is full.
const WEIGHT: u64 = 4;

/// What else a node may hold for one peer: the lane's and the bulk backlog, what waits behind a bulk message,
/// and QUIC's windows.
const SESSION_BYTES_MAX: u64 = (64 + 64 + 64 + 128 + 8 + 8) * MIB;

#[test]
fn an_overloaded_node_keeps_its_bounds_and_tells() {
    let cluster = Cluster::start(Shape {
        settings: &[("TIDELOCK_LIMITS_MAILBOX_BYTES_MAX", "8388608")],
        ..Shape::default()
    });
    let time = time_setting("TIDELOCK_OVERLOAD", Duration::from_secs(10));
    let ms = number(time.as_millis());
    let began = ["a", "b"].map(|name| cluster.node(name).memory_bytes());
    let gauges = ["a", "b"].map(|name| Gauge::on(cluster.node(name)));
    // Of small ones, of those that a lane's buffer holds several of, and of bulk. Half of the senders
    // outrun their receivers, the others wait for them.
    let mut senders = Vec::new();
    for (from, to) in [("a", "b"), ("b", "b")] {
        for bytes in [8, 5_000, 70_000] {
            for window in ["0", "0", "4"] {
                let arguments = ["overload", &cluster.id(to), &ms, window, &number(bytes)];
                senders.push((window, cluster.spawn(from, &arguments)));
            }
        }
    }
    let mut total = [0; 3];
    for (window, sender) in &senders {
        let sums = sender.one_within("overload", time + PATIENCE);
        for sin in ["wrong", "lost", "otherwise"] {
            assert_eq!(sums.number(sin), 0, "{sin}: {}", sums.text);
        }
        // Each end was told to the link and to the monitor.
        assert_eq!(sums.number("links"), sums.number("full"), "{}", sums.text);
        if *window != "0" {
            assert_eq!(sums.number("full"), 0, "it was waited for: {}", sums.text);
        }
        for (sum, what) in total.iter_mut().zip(["sent", "receivers", "full"]) {
            *sum += sums.number(what);
        }
    }
    let [sent, receivers, full] = total;
    assert!(full > 10, "only {full} mailboxes were full: no overload");
    let bound = senders.len() as u64 * WEIGHT * MAILBOX_BYTES_MAX + SESSION_BYTES_MAX;
    for ((name, gauge), began) in ["a", "b"].iter().zip(&gauges).zip(began) {
        let most = gauge.most() - began;
        eprintln!(
            "overload of {time:?}, {name}: {} MiB more than at rest, at most {} MiB",
            most / MIB,
            bound / MIB
        );
        assert!(most < bound, "{name} took {most} bytes more, above {bound}");
    }
    eprintln!("{sent} messages to {receivers} receivers, {full} mailboxes full and told");
    for (from, to) in [("a", "b"), ("b", "a")] {
        let echo = cluster.spawn(from, &["echo", &cluster.id(to), "1000"]);
        assert_eq!(echo.one("echoed").number("in_order"), 1000);
    }
}
