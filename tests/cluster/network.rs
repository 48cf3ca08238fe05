//! Networks that cut, lose and slow down: the kernel's own, in namespaces.
//!
//! Each node lives in a network namespace with two interfaces: `data`, which other nodes reach it by and
//! which is hurt, and `admin`, by which it is observed and reaches control. Both end in a namespace
//! that is the switch; control and this test live there. Nothing is added to the machine's own
//! network, and no packet leaves the namespaces.
//!
//! That takes root, `ip`, `tc` and `nft`. Where they are missing the tests say loudly that they show
//! nothing, and fail if they were meant to: with `CI` or `TIDELOCK_REQUIRE_NETNS` set.
//!
//! `TIDELOCK_CUTS=10` cuts that often in each way; the usual 3 are for whoever waits.

use std::fs::{self, File};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::bench::{Cluster, Guest, NOTICE_MAX, Place, Places, Shape};
use crate::faults::{Watch, event, ms, round_trip};
use crate::settings::setting;

/// How soon two nodes that control lists as alive meet again when they can.
const HEAL_MAX: Duration = Duration::from_secs(1);
/// What takes longer to be done was held up by others.
const AT_ONCE: Duration = Duration::from_millis(200);

/// What of the kernel's address resolution adds to that: after a link was down it asks once a second.
const RESOLVE_MAX: Duration = Duration::from_secs(1);

/// Nodes in namespaces of their own. This thread is in the switch's until the end.
struct Net {
    /// What all its namespaces begin with.
    tag: String,
    nodes: &'static [&'static str],
    home: File,
}

impl Net {
    /// `None`: this machine cannot, and nobody insists.
    fn new(nodes: &'static [&'static str]) -> Option<Self> {
        match Self::try_new(nodes) {
            Ok(net) => Some(net),
            Err(why) => {
                let insists =
                    |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                let asked = ["CI", "TIDELOCK_REQUIRE_NETNS"]
                    .into_iter()
                    .find(|n| insists(n));
                if let Some(name) = asked {
                    panic!("network faults cannot be made here, and {name} is set: {why}");
                }
                eprintln!("SKIPPED, NOTHING SHOWN: network faults cannot be made here: {why}");
                None
            }
        }
    }

    fn try_new(nodes: &'static [&'static str]) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        run("nft --version")?;
        run("tc -V")?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        // From here on its drop tears down whatever there is.
        let net = Net {
            tag: format!("tidelock-{}-{count}", std::process::id()),
            nodes,
            home,
        };
        let hub = net.space("switch");
        run(&format!("ip netns add {hub}"))?;
        run(&format!("ip -n {hub} link set lo up"))?;
        for network in ["data", "admin"] {
            run(&format!("ip -n {hub} link add {network} type bridge"))?;
            run(&format!("ip -n {hub} link set {network} up"))?;
        }
        run(&format!(
            "ip -n {hub} addr add {}/24 dev admin",
            net.control()
        ))?;
        for name in nodes {
            let space = net.space(name);
            run(&format!("ip netns add {space}"))?;
            run(&format!("ip -n {space} link set lo up"))?;
            for network in ["data", "admin"] {
                let (port, addr) = (format!("{network}-{name}"), net.addr(network, name));
                run(&format!(
                    "ip -n {hub} link add {port} type veth peer name {network} netns {space}"
                ))?;
                run(&format!("ip -n {hub} link set {port} master {network} up"))?;
                run(&format!("ip -n {space} addr add {addr}/24 dev {network}"))?;
                run(&format!("ip -n {space} link set {network} up"))?;
            }
        }
        let switch = File::open(format!("/run/netns/{hub}")).map_err(|error| error.to_string())?;
        setns(switch, CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
        Ok(net)
    }

    fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    fn control(&self) -> IpAddr {
        IpAddr::from([10, 77, 1, 1])
    }

    fn addr(&self, network: &str, name: &str) -> IpAddr {
        let at = self.nodes.iter().position(|node| *node == name);
        let at = u8::try_from(at.expect("a node of this network")).expect("few nodes");
        IpAddr::from([10, 77, u8::from(network == "admin"), 10 + at])
    }

    fn cluster(&self) -> Cluster {
        let local = Place {
            listen: self.control(),
            ..Place::default()
        };
        let mut places = Places::from([("control", local)]);
        for name in self.nodes {
            let starter = ["ip", "netns", "exec", &self.space(name)].map(str::to_owned);
            let place = Place {
                starter: starter.to_vec(),
                listen: self.addr("data", name),
                admin: self.addr("admin", name),
                advertise: None,
            };
            places.insert(name, place);
        }
        let shape = Shape {
            names: self.nodes,
            ..Shape::default()
        };
        Cluster::start_in(shape, places, |_, _| {})
    }

    /// From now on a node does not get what another sends, or not all of it. `which` is in the words of
    /// nftables. Returns [when](Net::happens).
    fn drop_some(&self, from: &str, to: &str, which: &str) -> Instant {
        self.judge_some(from, to, which, "drop")
    }

    /// From now on a node's kernel does something else with some of what another sends, in the words of nftables. Returns
    /// [when](Net::happens).
    fn judge_some(&self, from: &str, to: &str, which: &str, verdict: &str) -> Instant {
        let rule = format!(
            "table ip fault {{\n chain in {{\n type filter hook input priority 0\n \
             ip saddr {} ip protocol udp {which} counter {verdict}\n }}\n}}",
            self.addr("data", from)
        );
        let file = tempfile::NamedTempFile::new().expect("a file for the rule");
        fs::write(file.path(), rule).expect("the rule is written");
        let command = format!("nft -f {}", file.path().display());
        self.happens("a rule", to, &command)
    }

    /// How many packets the rule for a node has met.
    fn dropped(&self, to: &str) -> u64 {
        let text = self.must(to, "nft list table ip fault");
        let count = text
            .split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        count.expect("a counter").parse().expect("a count")
    }

    /// A node gets everything again. Returns [when](Net::happens).
    fn heal(&self, to: &str) -> Instant {
        self.happens("taking a rule away", to, "nft delete table ip fault")
    }

    /// Lets the kernel change something, and returns when that was asked for; if the kernel took long over it, when it was
    /// done: it waits for others who change their rules or end their namespaces, and all is as before meanwhile.
    fn happens(&self, what: &str, name: &str, command: &str) -> Instant {
        let at = Instant::now();
        self.must(name, command);
        let took = at.elapsed();
        if took < AT_ONCE {
            return at;
        }
        eprintln!("{what} took {took:?}");
        at + took
    }

    /// Sets one end of a node's link. Returns [when](Net::happens), after the node sees it.
    fn link(&self, end: End, name: &str, up: bool) -> Instant {
        let state = if up { "up" } else { "down" };
        let at = match end {
            End::Switch => {
                let command = format!("ip link set data-{name} {state}");
                self.happens("a link", "switch", &command)
            }
            End::Node => self.happens("a link", name, &format!("ip link set data {state}")),
        };
        let carries = self.must(name, "ip link show data").contains("LOWER_UP");
        assert_eq!(carries, up, "the link of {name}");
        at
    }

    fn must(&self, name: &str, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.space(name))).expect("the kernel does it")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        setns(&self.home, CloneFlags::CLONE_NEWNET).expect("the way home");
        for name in self.nodes.iter().chain([&"switch"]) {
            // It may never have come to be.
            let _ = run(&format!("ip netns del {}", self.space(name)));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// The cable is pulled out of the switch.
    Switch,
    /// The node's own interface is off: its kernel refuses to send.
    Node,
}

fn run(line: &str) -> Result<String, String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

/// Removes what a test left that was killed.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("tidelock-")
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            // Another test may be at it, too.
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}

// ---- verdicts ----------------------------------------------------------------------------------

/// Times of one kind, for people.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn say(&mut self, what: &str) {
        self.0.sort();
        let at = |percent: usize| ms(self.0[(self.0.len() - 1) * percent / 100]);
        eprintln!(
            "{what}: {} times, min {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0}, max {:.0} ms",
            self.0.len(),
            at(0),
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
}

/// Links and monitors both ways between `a` and `b`, and what is to become of them.
struct Both {
    a: Watch,
    b: Watch,
    epoch: u64,
    events: [usize; 2],
}

const COUNT: usize = 10;

impl Both {
    fn new(cluster: &Cluster) -> Self {
        Both {
            a: Watch::new(cluster, "a", "b", COUNT),
            b: Watch::new(cluster, "b", "a", COUNT),
            epoch: cluster.session("a", "b").expect("a session").epoch,
            events: ["a", "b"].map(|name| cluster.node(name).events.len()),
        }
    }

    /// Waits until everybody was told of a loss, and returns when the last word came to each side.
    fn told(&self, cluster: &Cluster, at: Instant) -> [Duration; 2] {
        let sides = [("a", &self.a, &self.b), ("b", &self.b, &self.a)];
        sides.map(|(name, watch, other)| {
            let children = other.children_told(cluster, name);
            let last = children.iter().map(|seen| seen.at).max();
            let took = watch.told().max(last.expect("children")) - at;
            assert!(took <= cluster.lease() + NOTICE_MAX, "{name}: {took:?}");
            took
        })
    }

    /// Waits for the new session on both sides, then fails unless everybody was told exactly once.
    fn healed(&self, cluster: &Cluster, at: Instant, most: Duration) -> Duration {
        let sides = [("a", "b", self.events[0]), ("b", "a", self.events[1])];
        let up = sides.map(|(name, peer, from)| {
            let peer = cluster.id(peer);
            event(cluster, name, "node_lost", &peer, from);
            event(cluster, name, "node_up", &peer, from).at
        });
        let took = up
            .into_iter()
            .max()
            .expect("two")
            .saturating_duration_since(at);
        round_trip(cluster, "a", "b");
        round_trip(cluster, "b", "a");
        for (watch, on) in [(&self.a, "b"), (&self.b, "a")] {
            watch.exactly_once();
            watch.lost_the_node();
            let told = watch.children_told(cluster, on);
            assert_eq!(told.len(), COUNT, "each child once");
        }
        let after = cluster.session("a", "b").expect("a session").epoch;
        assert!(after > self.epoch, "{} then {after}", self.epoch);
        assert!(took <= most, "they met after {took:?}");
        took
    }

    /// Fails if anybody was told of anything: all of it lives.
    fn undisturbed(&self, cluster: &Cluster) {
        round_trip(cluster, "a", "b");
        round_trip(cluster, "b", "a");
        for (watch, on) in [(&self.a, "b"), (&self.b, "a")] {
            let children = watch.children.iter().map(|child| cluster.listen(on, child));
            for guest in children.chain([watch.guest.clone()]) {
                for kind in ["link", "down", "node"] {
                    let told = guest.all(kind);
                    assert!(told.is_empty(), "{}: {told:#?}", guest.pid);
                }
            }
        }
        let epoch = cluster.session("a", "b").expect("a session").epoch;
        assert_eq!(epoch, self.epoch, "the session was lost");
    }
}

/// Traffic from one node to another and back.
pub(crate) fn traffic(
    cluster: &Cluster,
    (from, to): (&str, &str),
    time: Duration,
    window: u32,
    bytes: usize,
) -> Guest {
    let (ms, window, bytes) = (
        time.as_millis().to_string(),
        window.to_string(),
        bytes.to_string(),
    );
    cluster.spawn(from, &["traffic", &cluster.id(to), &ms, &window, &bytes])
}

/// Waits for the end of traffic; fails unless all of it came back, in order, once.
pub(crate) fn came_back(what: &str, guest: &Guest) -> crate::feed::Seen {
    let sums = guest.one("traffic");
    assert_eq!(sums.number("wrong"), 0, "{what}: {}", sums.text);
    assert_eq!(
        sums.number("back"),
        sums.number("sent"),
        "{what}: {}",
        sums.text
    );
    eprintln!(
        "{what}: {} back in order in {} ms; round trip p50 {:.1}, p99 {:.1}, max {:.1} ms",
        sums.number("back"),
        sums.number("ms"),
        sums.number("p50_us") as f64 / 1e3,
        sums.number("p99_us") as f64 / 1e3,
        sums.number("max_us") as f64 / 1e3
    );
    sums
}

/// How often each fault is repeated.
fn rounds() -> u64 {
    setting("TIDELOCK_CUTS", 3)
}

/// A moment of a fault that should not always be the same: what heals meets dials at any age.
fn some_time(round: u64) {
    let some = Duration::from_millis(round * 709 % 2_900);
    std::thread::sleep(some); // how long a fault lasts is the fault
}

#[test]
fn a_firewall_that_refuses_for_a_peer_ends_nothing() {
    let Some(net) = Net::new(&["a", "b"]) else {
        return;
    };
    let cluster = net.cluster();
    let both = Both::new(&cluster);
    // What asks whether anybody listens is one byte; all else is longer.
    net.judge_some(
        "a",
        "b",
        "udp length 9",
        "reject with icmp type port-unreachable",
    );
    let patience = Instant::now();
    while net.dropped("b") == 0 {
        assert!(patience.elapsed() < 30 * NOTICE_MAX, "nobody asks");
        round_trip(&cluster, "a", "b");
    }
    // The peer answers, so nobody is told, and it is not asked again.
    both.undisturbed(&cluster);
    let asked = loop {
        let asked = net.dropped("b");
        let traffic = traffic(&cluster, ("a", "b"), Duration::from_millis(500), 1, 64);
        came_back("beside a firewall", &traffic);
        if net.dropped("b") == asked {
            break asked;
        }
        assert!(patience.elapsed() < 30 * NOTICE_MAX, "it asks on and on");
    };
    both.undisturbed(&cluster);
    eprintln!("a firewall refused {asked} times");
}

#[test]
fn both_sides_notice_a_cut_of_one_way() {
    let Some(net) = Net::new(&["a", "b"]) else {
        return;
    };
    let cluster = net.cluster();
    let mut healing = Times::default();
    for (from, to) in [("a", "b"), ("b", "a")] {
        let (mut deaf, mut mute) = (Times::default(), Times::default());
        for round in 0..rounds() {
            let both = Both::new(&cluster);
            let at = net.drop_some(from, to, "");
            let [a, b] = both.told(&cluster, at);
            let (of_from, of_to) = if from == "a" { (a, b) } else { (b, a) };
            mute.add(of_from);
            deaf.add(of_to);
            some_time(round);
            let dropped = net.dropped(to);
            assert!(dropped >= 10, "only {dropped} packets were dropped");
            healing.add(both.healed(&cluster, net.heal(to), HEAL_MAX));
        }
        mute.say(&format!(
            "cut {from} to {to}: {from}, who is not heard, told after"
        ));
        deaf.say(&format!(
            "cut {from} to {to}: {to}, who does not hear, told after"
        ));
    }
    healing.say("cut healed: a new session on both sides after");
}

#[test]
fn both_sides_notice_that_a_link_is_down() {
    let Some(net) = Net::new(&["a", "b"]) else {
        return;
    };
    let cluster = net.cluster();
    for end in [End::Switch, End::Node] {
        let (mut notice, mut healing) = (Times::default(), Times::default());
        for round in 0..rounds().min(5) {
            let both = Both::new(&cluster);
            let at = net.link(end, "b", false);
            for took in both.told(&cluster, at) {
                notice.add(took);
            }
            some_time(round);
            let up = net.link(end, "b", true);
            healing.add(both.healed(&cluster, up, HEAL_MAX + RESOLVE_MAX));
        }
        notice.say(&format!("link of b down at {end:?}: both told after"));
        healing.say(&format!("link of b up at {end:?}: a new session after"));
    }
}

#[test]
fn a_lossy_network_loses_nothing() {
    let Some(net) = Net::new(&["a", "b"]) else {
        return;
    };
    let cluster = net.cluster();
    let both = Both::new(&cluster);
    let some = "numgen random mod 100 < 5";
    net.drop_some("a", "b", some);
    net.drop_some("b", "a", some);
    let time = Duration::from_secs(20);
    let all = [
        ("small, a to b", traffic(&cluster, ("a", "b"), time, 32, 8)),
        ("small, b to a", traffic(&cluster, ("b", "a"), time, 32, 8)),
        (
            "bulk, a to b",
            traffic(&cluster, ("a", "b"), time, 2, 1 << 20),
        ),
    ];
    for (what, guest) in &all {
        came_back(&format!("5 % lost, {what}"), guest);
    }
    both.undisturbed(&cluster);
    let dropped = ["a", "b"].map(|to| net.dropped(to));
    assert!(dropped.iter().all(|count| *count > 100), "{dropped:?}");
    eprintln!("5 % lost: {dropped:?} packets did not get to a and b");
}

#[test]
fn bulk_on_a_slow_network_leaves_room() {
    let Some(net) = Net::new(&["a", "b"]) else {
        return;
    };
    let cluster = net.cluster();
    let both = Both::new(&cluster);
    let bytes: u32 = 1 << 20;
    // At the second rate one message is longer under way than a lease.
    for (megabits, window, seconds) in [(20, 4, 8), (2, 1, 4)] {
        let name = format!("{megabits} Mbit/s");
        for node in ["a", "b"] {
            let rate = format!("rate {megabits}mbit burst 64kb latency 50ms");
            net.must(node, &format!("tc qdisc replace dev data root tbf {rate}"));
        }
        let time = Duration::from_secs(seconds);
        let bulk = traffic(&cluster, ("a", "b"), time, window, bytes as usize);
        let small = traffic(&cluster, ("a", "b"), time, 1, 8);
        let sums = came_back(&format!("{name}, bulk"), &bulk);
        let bits = sums.number("back") as f64 * f64::from(bytes) * 8.0;
        let rate = bits / 1e3 / sums.number("ms") as f64;
        eprintln!("{name}, bulk: {rate:.1} Mbit/s there and back");
        let most = f64::from(megabits) * 1.1;
        assert!(rate < most, "it is not slow: {rate:.1} Mbit/s");
        let sums = came_back(&format!("{name}, small beside bulk"), &small);
        let least = i64::try_from(2 * seconds).expect("few");
        assert!(sums.number("back") > least, "{}", sums.text);
        assert!(sums.number("max_us") < 1_000_000, "{}", sums.text);
        both.undisturbed(&cluster);
    }
}
