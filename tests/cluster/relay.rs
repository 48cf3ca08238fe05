//! A network that delays, reorders, repeats and loses: a relay of UDP packets in this process.
//!
//! Each node listens on one loopback address, and control lists another with the same port; there
//! the relay answers for it. So it is in the way of every dial, whoever dials. It needs no rights.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};

use crate::bench::{Cluster, NOTICE_MAX, Place, Places, Shape};
use crate::chance::Chance;
use crate::faults::{Watch, ms, round_trip};
use crate::network::{came_back, traffic};

/// Senders for whom one node's front keeps a socket. Above it the one that was silent for longest loses
/// its own, and gets another when it sends again. A peer is one, and so is each of its canaries.
const PEERS_MAX: usize = 16;

/// What becomes of packets. The shares are of a thousand.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Of every packet.
    pub(crate) delay: Duration,
    /// How many come later than that, and how much at most.
    pub(crate) late: u64,
    pub(crate) late_by: Duration,
    pub(crate) repeated: u64,
    pub(crate) lost: u64,
}

/// What the relay does at the moment.
#[derive(Clone, Copy)]
struct Sky {
    weather: Weather,
    /// Where the node really listens that nothing gets to or from.
    isolated: Option<SocketAddr>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has become of packets.
#[derive(Default)]
struct Sums {
    seen: AtomicU64,
    overtaken: AtomicU64,
    repeated: AtomicU64,
    lost: AtomicU64,
}

/// The relay: one thread, which ends with it.
pub(crate) struct Relay {
    runtime: tokio::runtime::Runtime,
    sky: Arc<Mutex<Sky>>,
    sums: Arc<Sums>,
    chance: Arc<Mutex<Chance>>,
    tape: Arc<Tape>,
    /// By the IP address that control lists.
    fronts: Mutex<HashMap<IpAddr, AbortHandle>>,
}

/// A sender, on the node's side.
struct Back {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
    /// The number of its last packet.
    last: u64,
}

/// A packet, by which socket it went on, and to whom.
type Packet = (Vec<u8>, Arc<UdpSocket>, SocketAddr);

/// Every packet since the recording began, in order, if it has.
type Tape = Mutex<Option<Vec<Packet>>>;

impl Relay {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the relay");
        Relay {
            runtime,
            sky: Arc::new(Mutex::new(Sky {
                weather,
                isolated: None,
            })),
            sums: Arc::default(),
            chance: Arc::new(Mutex::new(Chance::of(seed, 0))),
            tape: Arc::default(),
            fronts: Mutex::default(),
        }
    }

    /// From now on packets fare otherwise.
    pub(crate) fn set(&self, weather: Weather) {
        lock(&self.sky).weather = weather;
    }

    /// From now on no packet gets to or from the node that listens there, and only there.
    pub(crate) fn isolate(&self, real: Option<SocketAddr>) {
        lock(&self.sky).isolated = real;
    }

    /// Keeps every packet from now on.
    fn record(&self) {
        *lock(&self.tape) = Some(Vec::new());
    }

    /// Sends everything again that was recorded; how many packets that was.
    fn play_back(&self) -> usize {
        let tape = lock(&self.tape).clone().expect("it was recorded");
        self.runtime.block_on(async {
            for (at, (packet, by, to)) in tape.iter().enumerate() {
                // Nobody may listen any more.
                let _ = by.send_to(packet, to).await;
                if at % 32 == 31 {
                    // Not more than a socket can queue.
                    tokio::time::sleep(Duration::from_millis(2)).await; // the pace is what is meant
                }
            }
        });
        tape.len()
    }

    /// Answers at `listed` for a node that listens at `real`, and no more for an earlier one with the
    /// same IP address.
    pub(crate) fn answer_for(&self, listed: SocketAddr, real: SocketAddr) {
        let air = || Air {
            sky: self.sky.clone(),
            sums: self.sums.clone(),
            chance: self.chance.clone(),
            tape: self.tape.clone(),
            newest: Arc::default(),
        };
        let (to_node, to_peers) = (air(), air());
        let front = self.runtime.block_on(UdpSocket::bind(listed));
        let front = Arc::new(front.expect("the address that control lists is free"));
        let task = self.runtime.spawn(async move {
            // Towards the node each peer has a socket, by which its answers are told apart.
            let mut peers: HashMap<SocketAddr, Back> = HashMap::new();
            // They end with this task.
            let mut tasks = JoinSet::new();
            let mut number = 0;
            let mut packet = vec![0; 64 << 10];
            loop {
                let Ok((length, peer)) = front.recv_from(&mut packet).await else {
                    // An earlier packet was refused: nobody listens there any more.
                    continue;
                };
                number += 1;
                if peers.len() > PEERS_MAX {
                    let oldest = peers.iter().min_by_key(|(_, back)| back.last);
                    let oldest = oldest.map(|(peer, _)| *peer).expect("there are many");
                    peers.remove(&oldest).expect("just found").task.abort();
                    while tasks.try_join_next().is_some() {}
                }
                if let Entry::Vacant(entry) = peers.entry(peer) {
                    let back = UdpSocket::bind((real.ip(), 0)).await.expect("a socket");
                    let socket = Arc::new(back);
                    let (front, air, back) = (front.clone(), to_peers.clone(), socket.clone());
                    let task = tasks.spawn(async move {
                        let mut packet = vec![0; 64 << 10];
                        loop {
                            if let Ok((length, _)) = back.recv_from(&mut packet).await {
                                air.carry(&packet[..length], &front, peer, [real, peer]);
                            }
                        }
                    });
                    let last = number;
                    entry.insert(Back { socket, task, last });
                }
                let back = peers.get_mut(&peer).expect("just made");
                back.last = number;
                to_node.carry(&packet[..length], &back.socket, real, [real, peer]);
            }
        });
        let front = task.abort_handle();
        if let Some(earlier) = lock(&self.fronts).insert(listed.ip(), front) {
            earlier.abort();
        }
    }

    pub(crate) fn say(&self) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        eprintln!(
            "relay: {} packets, {} overtaken, {} repeated, {} lost",
            of(&self.sums.seen),
            of(&self.sums.overtaken),
            of(&self.sums.repeated),
            of(&self.sums.lost)
        );
    }
}

/// One way through the relay.
#[derive(Clone)]
struct Air {
    sky: Arc<Mutex<Sky>>,
    sums: Arc<Sums>,
    chance: Arc<Mutex<Chance>>,
    tape: Arc<Tape>,
    /// The number of the latest packet that came out.
    newest: Arc<AtomicU64>,
}

impl Air {
    /// Carries a packet between two `ends`, where they really are.
    fn carry(&self, packet: &[u8], by: &Arc<UdpSocket>, to: SocketAddr, ends: [SocketAddr; 2]) {
        let number = self.sums.seen.fetch_add(1, Ordering::Relaxed);
        if let Some(tape) = lock(&self.tape).as_mut() {
            tape.push((packet.to_vec(), by.clone(), to));
        }
        let Sky { weather, isolated } = *lock(&self.sky);
        let cut = isolated.is_some_and(|real| ends.contains(&real));
        if cut || lock(&self.chance).per_mille(weather.lost) {
            self.sums.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let twice = lock(&self.chance).per_mille(weather.repeated);
        if twice {
            self.sums.repeated.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..=u32::from(twice) {
            let mut delay = weather.delay;
            if lock(&self.chance).per_mille(weather.late) {
                let most = u64::try_from(weather.late_by.as_micros()).expect("short");
                delay += Duration::from_micros(lock(&self.chance).below(most));
            }
            if delay.is_zero() && by.try_send_to(packet, to).is_ok() {
                continue;
            }
            let due = tokio::time::Instant::now() + delay;
            let (packet, by, air) = (packet.to_vec(), by.clone(), self.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until(due).await;
                if air.newest.fetch_max(number, Ordering::Relaxed) > number {
                    air.sums.overtaken.fetch_add(1, Ordering::Relaxed);
                }
                // Nobody may listen any more.
                let _ = by.send_to(&packet, to).await;
            });
        }
    }
}

/// Places for nodes behind a relay: each listens on the usual address, and control lists one of its own.
pub(crate) fn places(names: &[&'static str]) -> Places {
    let place = |at: usize| {
        let listed = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(at).expect("few nodes"));
        Place {
            admin: listed.into(),
            advertise: Some(listed.into()),
            ..Place::default()
        }
    };
    let all = names.iter().enumerate();
    all.map(|(at, name)| (*name, place(at))).collect()
}

/// Where a node really listens that control lists at this address.
pub(crate) fn real(listed: SocketAddr) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listed.port())
}

/// Two nodes that reach each other by the relay alone.
fn cluster_behind(relay: &Relay) -> Cluster {
    Cluster::start_in(Shape::default(), places(&["a", "b"]), |_, addr| {
        relay.answer_for(addr, real(addr));
    })
}

#[test]
fn recorded_packets_mean_nothing_when_they_come_again() {
    let relay = Relay::new(1, Weather::default());
    relay.record();
    let mut cluster = cluster_behind(&relay);
    let a = Watch::new(&cluster, "a", "b", 5);
    let b = Watch::new(&cluster, "b", "a", 5);
    // Messages, spawns, links and ends, each of which would show if it happened again.
    let echoed = cluster.spawn("a", &["echo", &cluster.id("b"), "300"]);
    assert_eq!(echoed.one("echoed").number("in_order"), 300);
    let child = cluster.spawn("a", &["child", &cluster.id("b"), "fails"]);
    child.one("link");
    for (from, to) in [("a", "b"), ("b", "a")] {
        round_trip(&cluster, from, to);
    }
    let before = cluster.session("a", "b").expect("a session");
    // Whatever is made on a node takes the next number.
    let next_number = |name: &str| -> u64 {
        let guest = cluster.spawn(name, &["hold"]);
        guest.one("holding");
        let number = guest.pid.rsplit('.').next().expect("a number");
        number.parse().expect("a number")
    };
    let numbers = ["a", "b"].map(next_number);
    let lines = cluster.lines();

    let packets = relay.play_back();
    // The handshake is on it, too: what begins a session begins none again.
    assert!(packets > 100, "only {packets} packets were recorded");
    for (from, to) in [("a", "b"), ("b", "a")] {
        round_trip(&cluster, from, to);
    }
    let after = cluster.session("a", "b").expect("a session");
    assert_eq!(
        (after.epoch, after.opened_at),
        (before.epoch, before.opened_at)
    );
    // Two round trips: a line each, and two processes on each node.
    assert_eq!(
        cluster.lines(),
        lines + 2,
        "somebody was told something again"
    );
    let made = ["a", "b"].map(next_number);
    assert_eq!(
        made,
        numbers.map(|number| number + 3),
        "something was made again"
    );
    let lives = |watch: &Watch, on: &str, of: &str| {
        let children = watch.children.iter().all(|child| cluster.runs(of, child));
        children && cluster.runs(on, &watch.guest.pid)
    };
    assert!(
        lives(&a, "a", "b") && lives(&b, "b", "a"),
        "something was ended again"
    );
    for watch in [&a, &b] {
        for kind in ["link", "down", "node"] {
            assert!(watch.guest.all(kind).is_empty(), "a false verdict: {kind}");
        }
    }

    // A session that is over stays over.
    cluster.node_mut("b").kill();
    a.told();
    let (events, log) = (cluster.node("a").events.len(), cluster.node("a").log.len());
    let packets = relay.play_back();
    // Behind it in the same queue.
    let ran = cluster.spawn("a", &["spawn", &cluster.id("a")]).one("ran");
    assert_eq!(ran.text("child"), ran.text("said"));
    assert!(cluster.session("a", "b").is_none());
    let up = |line: &crate::feed::Seen| line.text.contains("node_up");
    assert!(!cluster.node("a").events.all()[events..].iter().any(up));
    let opened = |line: &crate::feed::Seen| line.text.contains("session open");
    assert!(!cluster.node("a").log.all()[log..].iter().any(opened));
    a.exactly_once();
    eprintln!("{packets} packets of both sides were sent again, during the session and after it");
}

#[test]
fn delay_reorder_and_repetition_change_nothing() {
    let seed = 2026;
    let relay = Relay::new(
        seed,
        Weather {
            delay: Duration::from_millis(15),
            late: 100,
            late_by: Duration::from_millis(25),
            repeated: 50,
            lost: 10,
        },
    );
    let mut cluster = cluster_behind(&relay);
    let count = 20;
    let a = Watch::new(&cluster, "a", "b", count);
    let b = Watch::new(&cluster, "b", "a", count);
    let before = cluster.session("a", "b").expect("a session");
    let time = Duration::from_secs(8);
    let all = [
        ("small, a to b", traffic(&cluster, ("a", "b"), time, 32, 8)),
        ("small, b to a", traffic(&cluster, ("b", "a"), time, 32, 8)),
        (
            "bulk, a to b",
            traffic(&cluster, ("a", "b"), time, 1, 256 << 10),
        ),
    ];
    for (what, guest) in &all {
        came_back(&format!("relay, seed {seed}, {what}"), guest);
    }
    round_trip(&cluster, "a", "b");
    round_trip(&cluster, "b", "a");
    for watch in [&a, &b] {
        for kind in ["link", "down", "node"] {
            assert!(watch.guest.all(kind).is_empty(), "a false verdict: {kind}");
        }
    }
    let after = cluster.session("a", "b").expect("a session");
    assert_eq!(after.epoch, before.epoch, "the session was lost");
    assert!(after.rtt_ms >= 10.0, "it goes by the relay: {after:?}");
    let sums = &relay.sums;
    for count in [&sums.overtaken, &sums.repeated, &sums.lost] {
        assert!(count.load(Ordering::Relaxed) > 20);
    }

    // Races of links and ends, where each answer is late and some come twice.
    let races = [("a", "b", "5"), ("b", "a", "6")]
        .map(|(from, to, seed)| cluster.spawn(from, &["endings", &cluster.id(to), "60", seed]));
    for race in races {
        let sums = race.one("endings");
        for sin in ["lost", "after_unlink", "twice"] {
            assert_eq!(sums.number(sin), 0, "{sin}: {}", sums.text);
        }
    }

    let at: Instant = cluster.node_mut("b").kill();
    let survivors = b.children_told(&cluster, "a");
    let last = survivors.iter().map(|seen| seen.at).max();
    let took = a.told().max(last.expect("survivors")) - at;
    assert!(took <= cluster.lease() + NOTICE_MAX, "{took:?}");
    a.exactly_once();
    a.lost_the_node();
    assert_eq!(b.children_told(&cluster, "a").len(), count);
    relay.say();
    eprintln!("relay: SIGKILL of b told of on a after {:.0} ms", ms(took));
}
