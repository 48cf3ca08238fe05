//! A long time of everything, with a fault every so often, that must leave nothing behind.
//!
//! Three nodes behind a [`Relay`]. In each round every node has links, monitors and a [`Watch`] with each
//! other one, and processes on each other one that are spawned, linked, sent to (16 MiB included) and
//! killed. Then one fault, drawn by the seed. Who must be told is told once; who must not is not. Once the
//! cluster is whole again and at rest, each daemon is compared with what it held after its warm-up.
//!
//! ```text
//! cargo xtask soak --for 24h --seed 7
//! ```
//!
//! `TIDELOCK_SOAK=24h`, `TIDELOCK_SOAK_EVERY=30s` and `TIDELOCK_SEED=7` are what that command sets. Without
//! them two rounds are made.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bench::{Cluster, Guest, PATIENCE, Shape};
use crate::chance::Chance;
use crate::faults::{Watch, event, ms, round_trip};
use crate::relay::{Relay, Weather, places, real};
use crate::resources::Holds;
use crate::settings::{setting, time_setting};

const NAMES: &[&str] = &["a", "b", "c"];
/// Links of each watch.
const COUNT: usize = 3;
/// Between two looks at a cluster that comes to rest.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What keeps some time, and nobody may notice but by waiting.
const STORM: Weather = Weather {
    delay: Duration::from_millis(5),
    late: 100,
    late_by: Duration::from_millis(20),
    repeated: 30,
    lost: 30,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL; it is started again.
    Kill,
    /// Nothing gets to the node or from it, for longer than a lease.
    Isolate,
    /// SIGSTOP for longer than a lease.
    Freeze,
    /// SIGSTOP for a part of a lease.
    Pause,
    /// A network that is slow, out of order, and loses some.
    Storm,
}

impl Fault {
    const ALL: [Fault; 5] = [
        Fault::Kill,
        Fault::Isolate,
        Fault::Freeze,
        Fault::Pause,
        Fault::Storm,
    ];

    /// Whether the node's sessions end by it.
    fn cuts(self) -> bool {
        matches!(self, Fault::Kill | Fault::Isolate | Fault::Freeze)
    }
}

/// What was done, for people.
#[derive(Default)]
struct Sums {
    faults: BTreeMap<String, u64>,
    told: u64,
    messages: u64,
    bulk_bytes: u64,
    resident_max: u64,
    fds_max: u64,
    noticed_max: Duration,
}

/// A pair of nodes, and what is between them.
struct Pair {
    from: &'static str,
    to: &'static str,
    watch: Watch,
    churn: Guest,
}

/// A cluster that is hurt and heals.
struct Soak {
    cluster: Cluster,
    relay: Relay,
    chance: Chance,
    /// What each daemon held after its warm-up; nothing yet of one that was just started.
    warm: BTreeMap<&'static str, Holds>,
    /// Processes that are to be there at rest.
    residents: BTreeMap<&'static str, u64>,
    sums: Sums,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let relay = Relay::new(seed, Weather::default());
        let shape = Shape {
            names: NAMES,
            ..Shape::default()
        };
        let cluster = Cluster::start_in(shape, places(NAMES), |_, addr| {
            relay.answer_for(addr, real(addr));
        });
        Soak {
            cluster,
            relay,
            chance: Chance::of(seed, 0),
            warm: BTreeMap::new(),
            // The one with which the harness warms a node up.
            residents: NAMES.iter().map(|name| (*name, 1)).collect(),
            sums: Sums::default(),
        }
    }

    fn churn(&mut self, from: &str, to: &str, time: Duration) -> Guest {
        let (node, ms) = (self.cluster.id(to), time.as_millis().to_string());
        let seed = self.chance.below(u64::from(u32::MAX)).to_string();
        self.cluster.spawn(from, &["churn", &node, &ms, &seed])
    }

    /// Waits for the end of a churn. It may have been cut off if that is what was done to its nodes.
    fn churned(&mut self, from: &str, to: &str, guest: &Guest, may_be_cut: bool) {
        let sums = guest.one("churn");
        for sin in ["lost", "wrong"] {
            let text = &sums.text;
            assert_eq!(sums.number(sin), 0, "{sin}, {from} to {to}: {text}");
        }
        let cut = sums.number("cut") == 1;
        assert!(may_be_cut || !cut, "{from} lost {to} without a cause");
        let add = |sum: &mut u64, what| *sum += sums.number(what).cast_unsigned();
        add(&mut self.sums.told, "told");
        add(&mut self.sums.messages, "messages");
        add(&mut self.sums.bulk_bytes, "bulk_bytes");
    }

    /// One round of work, with a fault in it or without.
    fn round(&mut self, fault: Option<(Fault, &'static str)>, time: Duration) {
        let mut pairs = Vec::new();
        for from in NAMES {
            for to in NAMES.iter().filter(|to| *to != from) {
                let watch = Watch::new(&self.cluster, from, to, COUNT);
                let churn = self.churn(from, to, time);
                pairs.push(Pair {
                    from,
                    to,
                    watch,
                    churn,
                });
            }
        }
        let quarter = time.as_millis() as u64 / 4;
        let moment = Duration::from_millis(quarter + self.chance.below(quarter));
        std::thread::sleep(moment); // a fault comes at any time of the work
        if let Some((fault, victim)) = fault {
            *self.sums.faults.entry(format!("{fault:?}")).or_default() += 1;
            self.hurt(fault, victim, &pairs);
        }
        self.cluster.meet();
        for pair in &pairs {
            round_trip(&self.cluster, pair.from, pair.to);
        }
        for pair in pairs {
            self.judge(&pair, fault);
        }
        // What was cut off is at work again.
        let again: Vec<_> = NAMES
            .iter()
            .flat_map(|from| NAMES.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (from, to, self.churn(from, to, time / 8)))
            .collect();
        for (from, to, churn) in again {
            self.churned(from, to, &churn, false);
        }
    }

    /// Does it, waits until all who must be told are, and undoes it.
    fn hurt(&mut self, fault: Fault, victim: &'static str, pairs: &[Pair]) {
        let lease = self.cluster.lease();
        let listed = self.cluster.node(victim).addr();
        let events = NAMES.map_to(|name| self.cluster.node(name).events.len());
        let gone = self.cluster.id(victim);
        let others = || NAMES.iter().filter(|name| **name != victim);
        match fault {
            Fault::Kill => {
                let at = self.cluster.node_mut(victim).kill();
                self.noticed(at, victim, pairs);
                let addr = self.cluster.restart(victim);
                self.relay.answer_for(addr, real(addr));
                self.warm.remove(victim);
                self.residents.insert(victim, 0);
            }
            Fault::Isolate => {
                let at = Instant::now();
                self.relay.isolate(Some(real(listed)));
                self.noticed(at, victim, pairs);
                for name in others() {
                    let peer = self.cluster.id(name);
                    event(&self.cluster, victim, "node_lost", &peer, events[victim]);
                }
                self.relay.isolate(None);
            }
            Fault::Freeze => {
                let at = self.cluster.node(victim).freeze();
                self.noticed(at, victim, pairs);
                self.cluster.node(victim).assert_frozen();
                self.cluster.node(victim).thaw();
            }
            Fault::Pause => {
                self.cluster.node(victim).freeze();
                std::thread::sleep(lease / 4); // the length is the fault
                self.cluster.node(victim).thaw();
            }
            Fault::Storm => {
                self.relay.set(STORM);
                std::thread::sleep(lease); // the length is the fault
                self.relay.set(Weather::default());
            }
        }
        if fault.cuts() && fault != Fault::Kill {
            for name in others() {
                event(&self.cluster, name, "node_up", &gone, events[*name]);
            }
        }
    }

    /// Waits until all others have been told that a node is lost.
    fn noticed(&mut self, at: Instant, victim: &str, pairs: &[Pair]) {
        let (of, on) = (
            pairs.iter().filter(|pair| pair.to == victim),
            pairs.iter().filter(|pair| pair.from == victim),
        );
        let watches = of.map(|pair| pair.watch.told());
        let children = on.flat_map(|pair| pair.watch.children_told(&self.cluster, pair.to));
        let last = watches.chain(children.map(|seen| seen.at)).max();
        let took = last.expect("there are pairs") - at;
        self.sums.noticed_max = self.sums.noticed_max.max(took);
    }

    /// Compares what both ends of a pair were told with what they had to be, and ends them.
    fn judge(&mut self, pair: &Pair, fault: Option<(Fault, &'static str)>) {
        let Pair {
            from,
            to,
            watch,
            churn,
        } = pair;
        let hit = fault.filter(|(fault, victim)| fault.cuts() && [from, to].contains(&victim));
        let killed = |name| hit == Some((Fault::Kill, name));
        if !killed(*from) {
            if hit.is_some() {
                watch.told();
                watch.exactly_once();
                watch.lost_the_node();
                self.sums.told += (2 * COUNT + 5) as u64;
            } else {
                for kind in ["link", "down", "node"] {
                    let told = watch.guest.all(kind);
                    assert!(
                        told.is_empty(),
                        "{from} to {to}: told without a cause: {told:#?}"
                    );
                }
            }
            self.cluster.end(from, &watch.guest.pid);
            self.churned(from, to, churn, hit.is_some());
        }
        if !killed(*to) {
            if hit.is_some() {
                let told = watch.children_told(&self.cluster, to);
                assert_eq!(told.len(), COUNT, "{to}: each child once");
                self.sums.told += COUNT as u64;
            }
            for child in &watch.children {
                self.cluster.end(to, child);
            }
        }
    }

    /// Waits until every daemon holds no more than it did when it was warm; fails and says what grew.
    fn rest(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now: BTreeMap<_, _> = NAMES
                .iter()
                .map(|name| (*name, Holds::of(&self.cluster, name)))
                .chain([("control", Holds::of_daemon(&self.cluster.control))])
                .collect();
            let grown: Vec<String> = now
                .iter()
                .flat_map(|(name, holds)| {
                    let residents = self.residents.get(name).copied().unwrap_or_default();
                    let warm = self.warm.get(name).unwrap_or(holds);
                    let mut grown = holds.grown(warm);
                    grown.extend(holds.left_over(residents));
                    grown.into_iter().map(move |what| format!("{name}: {what}"))
                })
                .collect();
            if grown.is_empty() {
                for (name, holds) in now {
                    self.sums.resident_max = self.sums.resident_max.max(holds.resident);
                    self.sums.fds_max = self.sums.fds_max.max(holds.fds);
                    self.warm.entry(name).or_insert(holds);
                }
                self.cluster.forget();
                return;
            }
            assert!(Instant::now() < deadline, "leaks:\n{}", grown.join("\n"));
            std::thread::sleep(LOOK_EVERY); // between two looks
        }
    }

    fn say(&self, seed: u64, began: Instant) {
        let faults: Vec<_> = self.sums.faults.iter().collect();
        let count: u64 = self.sums.faults.values().sum();
        eprintln!(
            "soak: {} s, seed {seed}, {count} faults {faults:?}; {} ends told, noticed after {:.0} ms at most; \
             {} messages, {} MiB of bulk; at rest {} MiB and {} fds at most",
            began.elapsed().as_secs(),
            self.sums.told,
            ms(self.sums.noticed_max),
            self.sums.messages,
            self.sums.bulk_bytes >> 20,
            self.sums.resident_max >> 20,
            self.sums.fds_max
        );
        for (name, warm) in &self.warm {
            let now = match *name {
                "control" => Holds::of_daemon(&self.cluster.control),
                name => Holds::of(&self.cluster, name),
            };
            eprintln!("soak: {name}: warm {warm}; now {now}");
        }
    }
}

/// What is found by a node's name.
trait ByName {
    fn map_to<T>(&self, of: impl Fn(&str) -> T) -> BTreeMap<&'static str, T>;
}

impl ByName for [&'static str] {
    fn map_to<T>(&self, of: impl Fn(&str) -> T) -> BTreeMap<&'static str, T> {
        self.iter().map(|name| (*name, of(name))).collect()
    }
}

#[test]
fn a_long_time_of_faults_leaves_nothing_behind() {
    let seed = setting("TIDELOCK_SEED", 1);
    let every = time_setting("TIDELOCK_SOAK_EVERY", Duration::from_secs(8));
    let time = time_setting("TIDELOCK_SOAK", 2 * every);
    let began = Instant::now();
    let mut soak = Soak::new(seed);
    let work = every / 3;
    soak.round(None, work);
    soak.rest();
    let hurting = Instant::now();
    let mut rounds = 0;
    while hurting.elapsed() < time {
        let fault = Fault::ALL[(seed as usize + rounds as usize) % Fault::ALL.len()];
        // `a` is never killed: it sees all the others come and go.
        let victims = if fault == Fault::Kill {
            &NAMES[1..]
        } else {
            NAMES
        };
        let victim = soak.chance.pick(victims).copied().expect("somebody");
        soak.round(Some((fault, victim)), work);
        soak.rest();
        rounds += 1;
        eprintln!("soak: round {rounds} done: {fault:?} of {victim}");
        let next = hurting + every * rounds;
        std::thread::sleep(next.saturating_duration_since(Instant::now())); // the pace of the faults
    }
    soak.say(seed, began);
    soak.relay.say();
}
