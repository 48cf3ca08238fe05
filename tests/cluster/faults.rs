//! Nodes that die, freeze, restart, leave or cannot be reached; control that is gone.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::bench::{Cluster, Guest, NOTICE_MAX, Shape};
use crate::feed::Seen;
use crate::network::Times;
use crate::settings::setting;

const THREE: Shape = Shape {
    names: &["a", "b", "c"],
    lease: Duration::from_secs(3),
    settings: &[],
};

/// A guest that has links, monitors and node monitors with another node, and what it has.
pub(crate) struct Watch {
    pub(crate) guest: Guest,
    node: String,
    pub(crate) children: Vec<String>,
    references: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Watch {
    pub(crate) fn new(cluster: &Cluster, from: &str, to: &str, count: usize) -> Self {
        let guest = cluster.spawn(from, &["watch", &cluster.id(to), &count.to_string()]);
        let watching = guest.one("watching");
        let set = |key| watching.list(key).into_iter().collect::<BTreeSet<_>>();
        let watch = Watch {
            node: cluster.id(to),
            children: watching.list("children"),
            references: set("refs"),
            nodes: set("nodes"),
            guest,
        };
        let kinds = (
            watch.children.len(),
            watch.references.len(),
            watch.nodes.len(),
        );
        assert_eq!(kinds, (count, count + 3, 2));
        watch
    }

    /// Waits until the guest was told of everything it has, and returns when the last word came.
    pub(crate) fn told(&self) -> Instant {
        let links = self.guest.many("link", self.children.len());
        let downs = self.guest.many("down", self.references.len());
        let nodes = self.guest.many("node", self.nodes.len());
        let all = links.iter().chain(&downs).chain(&nodes);
        all.map(|seen| seen.at).max().expect("somebody was told")
    }

    /// Fails unless each link, monitor and node monitor was told of exactly once, by name.
    pub(crate) fn exactly_once(&self) {
        let links = self.guest.all("link");
        let pairs: Vec<_> = links
            .iter()
            .map(|seen| (seen.text("about"), seen.number("tag")))
            .collect();
        let mut told: Vec<_> = pairs.clone();
        told.sort_by_key(|(_, tag)| *tag);
        let owed: Vec<_> = self.children.iter().cloned().zip(1000..).collect();
        assert_eq!(told, owed, "links, each once, with its tag");

        let downs = self.guest.all("down");
        let fired = |all: &[Seen]| -> Vec<String> {
            all.iter()
                .map(|seen| seen.number("ref").to_string())
                .collect()
        };
        let told: BTreeSet<_> = fired(&downs).into_iter().collect();
        assert_eq!(
            (downs.len(), &told),
            (self.references.len(), &self.references),
            "monitors"
        );
        assert!(
            downs
                .iter()
                .all(|down| self.children.contains(&down.text("about")))
        );

        let nodes = self.guest.all("node");
        let told: BTreeSet<_> = fired(&nodes).into_iter().collect();
        assert_eq!(
            (nodes.len(), &told),
            (self.nodes.len(), &self.nodes),
            "node monitors"
        );
        assert!(nodes.iter().all(|down| down.text("about") == self.node));
    }

    /// Fails unless the reasons are those of a lost node, and the node's own end came last.
    pub(crate) fn lost_the_node(&self) {
        for kind in ["link", "down"] {
            for seen in self.guest.all(kind) {
                assert_eq!(seen.number("code"), 255, "{}", seen.text);
                let why = seen.text("why");
                assert!(
                    why.starts_with(&format!("node {} down: ", self.node)),
                    "{why}"
                );
            }
        }
        let last = self
            .guest
            .all("link")
            .into_iter()
            .chain(self.guest.all("down"));
        let last = last.map(|seen| seen.at).max();
        let first = self.guest.all("node").into_iter().map(|seen| seen.at).min();
        assert!(
            last <= first,
            "links and monitors are told of before the node"
        );
    }

    /// The children's side of the links: what each of them was told.
    pub(crate) fn children_told(&self, cluster: &Cluster, on: &str) -> Vec<Seen> {
        let of = |child: &String| cluster.listen(on, child).many("link", 1);
        self.children.iter().flat_map(of).collect()
    }
}

/// Waits until a node says that it has lost, or met, another.
pub(crate) fn event(cluster: &Cluster, of: &str, kind: &str, peer: &str, from: usize) -> Seen {
    let seen = cluster.node(of).events.wait_from(from, |line| {
        let event = line.json();
        event["kind"] == kind && event["peer"] == peer
    });
    seen.unwrap_or_else(|| panic!("{of} never said {kind} of {peer}"))
}

pub(crate) fn round_trip(cluster: &Cluster, from: &str, to: &str) {
    let ran = cluster.spawn(from, &["spawn", &cluster.id(to)]).one("ran");
    assert_eq!(ran.text("child"), ran.text("said"));
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[test]
fn everybody_is_told_once_when_a_node_is_killed() {
    let mut cluster = Cluster::start(THREE);
    let count = 50;
    let a = Watch::new(&cluster, "a", "b", count);
    let c = Watch::new(&cluster, "c", "b", count);
    // Links that the dying node made: their survivors are on a.
    let b = Watch::new(&cluster, "b", "a", count);
    let others = cluster.session("a", "c").expect("a session").epoch;
    let gone = cluster.id("b");

    let at = cluster.node_mut("b").kill();
    for (name, watch) in [("a", &a), ("c", &c)] {
        let took = watch.told() - at;
        event(&cluster, name, "node_lost", &gone, 0);
        eprintln!(
            "SIGKILL of b: {name} told of {} things after {:.0} ms",
            2 * count + 5,
            ms(took)
        );
        assert!(took <= cluster.lease() + NOTICE_MAX, "{name}: {took:?}");
    }
    let survivors = b.children_told(&cluster, "a");
    let took = survivors
        .iter()
        .map(|seen| seen.at)
        .max()
        .expect("survivors")
        - at;
    assert!(took <= cluster.lease() + NOTICE_MAX, "survivors: {took:?}");

    round_trip(&cluster, "a", "c");
    round_trip(&cluster, "c", "a");
    for watch in [&a, &c] {
        watch.exactly_once();
        watch.lost_the_node();
    }
    let survivors = b.children_told(&cluster, "a");
    assert_eq!(survivors.len(), count, "survivors are told once");
    assert!(
        survivors
            .iter()
            .all(|seen| seen.text("about") == b.guest.pid)
    );
    let now = cluster.session("a", "c").expect("a session").epoch;
    assert_eq!(now, others, "the session of the survivors is not disturbed");
    assert!(cluster.session("a", "b").is_none());
}

#[test]
fn both_sides_are_told_once_when_a_node_freezes() {
    let cluster = Cluster::pair();
    let count = 20;
    let a = Watch::new(&cluster, "a", "b", count);
    let b = Watch::new(&cluster, "b", "a", count);
    let before = cluster.session("a", "b").expect("a session");
    let events = cluster.node("a").events.len();

    let at = cluster.node("b").freeze();
    let took = a.told() - at;
    assert!(took <= cluster.lease() + NOTICE_MAX, "a: {took:?}");
    assert_eq!(b.children_told(&cluster, "a").len(), count);
    event(&cluster, "a", "node_lost", &cluster.id("b"), events);
    cluster.node("b").assert_frozen();
    assert!(
        b.guest.all("link").is_empty(),
        "the frozen cannot have been told yet"
    );
    eprintln!(
        "SIGSTOP of b: a told of {} things after {:.0} ms",
        2 * count + 5,
        ms(took)
    );

    let at = cluster.node("b").thaw();
    let took = b.told() - at;
    assert_eq!(a.children_told(&cluster, "b").len(), count);
    eprintln!(
        "SIGCONT of b: b told of {} things after {:.0} ms",
        2 * count + 5,
        ms(took)
    );
    assert!(took <= cluster.lease() + NOTICE_MAX, "b: {took:?}");

    event(&cluster, "a", "node_up", &cluster.id("b"), events);
    round_trip(&cluster, "a", "b");
    round_trip(&cluster, "b", "a");
    let after = cluster.session("a", "b").expect("a new session");
    assert!(
        after.epoch > before.epoch,
        "{} then {}",
        before.epoch,
        after.epoch
    );
    for (watch, on) in [(&a, "b"), (&b, "a")] {
        watch.exactly_once();
        watch.lost_the_node();
        assert_eq!(
            watch.children_told(&cluster, on).len(),
            count,
            "each child once"
        );
    }
    // The verdict was "node down", and both processes live: they can be linked again.
    assert!(cluster.runs("b", &a.children[0]) && cluster.runs("a", &a.guest.pid));
    eprintln!("session {} became session {}", before.epoch, after.epoch);
}

#[test]
fn a_restarted_node_is_another_node() {
    let mut cluster = Cluster::pair();
    let watch = Watch::new(&cluster, "a", "b", 5);
    let (old, old_id) = (watch.children[0].clone(), cluster.id("b"));
    let at = cluster.node_mut("b").kill();
    cluster.restart("b");
    let new_id = cluster.id("b");
    let number = |id: &str| id[1..].parse::<u64>().expect("a node id");
    assert!(number(&new_id) > number(&old_id), "{old_id} then {new_id}");
    let took = watch.told() - at;
    eprintln!(
        "restart of b ({old_id}, now {new_id}): a told after {:.0} ms",
        ms(took)
    );
    assert!(took <= cluster.lease() + NOTICE_MAX, "{took:?}");
    event(&cluster, "a", "node_up", &new_id, 0);

    // A process of the new start gets the number that the old one had.
    let local = |pid: &str| {
        pid.rsplit('.')
            .next()
            .expect("a number")
            .parse::<u64>()
            .expect("it")
    };
    let double = loop {
        let holder = cluster.spawn("b", &["hold"]);
        holder.one("holding");
        assert!(
            local(&holder.pid) <= local(&old),
            "{} has been left out",
            local(&old)
        );
        if local(&holder.pid) == local(&old) {
            break holder;
        }
    };
    let caller = cluster.spawn("a", &["stale", &old]);
    assert_eq!(caller.one("exists").number("yes"), 0);
    let why = caller.one("not linked").text("why");
    let down = caller.one("down");
    assert_eq!(down.text("about"), old);
    assert!([254, 255].contains(&down.number("code")), "{}", down.text);
    round_trip(&cluster, "a", "b");
    assert!(
        cluster.runs("b", &double.pid),
        "the namesake was killed in its place"
    );
    assert!(
        double.all("data").is_empty(),
        "the namesake got its message"
    );
    watch.exactly_once();
    eprintln!("{old} is not {}: {why}; {}", double.pid, down.text("why"));
}

#[test]
fn a_node_that_leaves_says_so_at_once() {
    let mut cluster = Cluster::start(THREE);
    let a = Watch::new(&cluster, "a", "b", 50);
    let c = Watch::new(&cluster, "c", "b", 50);
    let gone = cluster.id("b");
    let at = cluster.node_mut("b").leave();
    for (name, watch) in [("a", &a), ("c", &c)] {
        let took = watch.told() - at;
        event(&cluster, name, "node_left", &gone, 0);
        eprintln!(
            "SIGTERM of b: {name} told of 105 things after {:.0} ms",
            ms(took)
        );
        assert!(took < cluster.lease() / 3, "{name}: {took:?}");
    }
    round_trip(&cluster, "a", "c");
    round_trip(&cluster, "c", "a");
    a.exactly_once();
    c.exactly_once();
    let output = cluster.tidelock(&["nodes", "--all", "-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"left\""), "control was told too: {text}");
}

/// `TIDELOCK_LEAVES=100` lets it leave that often; the usual 3 are for whoever waits.
#[test]
fn a_node_leaves_and_comes_back_again_and_again() {
    let mut cluster = Cluster::pair();
    let mut times = Times::default();
    for _ in 0..setting("TIDELOCK_LEAVES", 3) {
        let watch = Watch::new(&cluster, "a", "b", 1);
        let gone = cluster.id("b");
        let at = cluster.node_mut("b").leave();
        times.add(watch.told() - at);
        event(&cluster, "a", "node_left", &gone, 0);
        watch.exactly_once();
        cluster.restart("b");
        cluster.meet();
        cluster.end("a", &watch.guest.pid);
        cluster.forget();
    }
    times.say("SIGTERM of b: a told of all after");
}

#[test]
fn a_removed_node_is_given_up_at_once() {
    let cluster = Cluster::start(THREE);
    let count = 20;
    let a = Watch::new(&cluster, "a", "b", count);
    let c = Watch::new(&cluster, "c", "b", count);
    let b = Watch::new(&cluster, "b", "a", count);
    let (gone, others) = (cluster.id("b"), cluster.session("a", "c"));

    // It stands still, so that it cannot stop by itself before the others have the list.
    cluster.node("b").freeze();
    let at = Instant::now();
    let node = gone.parse().expect("a node id");
    let removed = cluster.block_on(cluster.operator.remove(node));
    removed.expect("control removes it");
    for (name, watch) in [("a", &a), ("c", &c)] {
        let took = watch.told() - at;
        let lost = event(&cluster, name, "node_lost", &gone, 0);
        let why = lost.text("reason");
        assert_eq!(why, "removed from the cluster by an operator");
        eprintln!(
            "removal of b: {name} told of 45 things after {:.0} ms",
            ms(took)
        );
        // It answers no ping: without the list, a lease would pass.
        assert!(took < cluster.lease() / 2, "{name}: {took:?}");
        for link in watch.guest.all("link") {
            assert!(link.text("why").ends_with(&why), "{}", link.text);
        }
    }
    cluster.node("b").assert_frozen();
    assert_eq!(b.children_told(&cluster, "a").len(), count);

    cluster.node("b").thaw();
    // It learns that control has given it up, and leaves by itself.
    let left = cluster
        .node("b")
        .log
        .wait(|line| line.text.contains("it leaves"));
    left.expect("b learns of it");
    round_trip(&cluster, "a", "c");
    round_trip(&cluster, "c", "a");
    for watch in [&a, &c] {
        watch.exactly_once();
        watch.lost_the_node();
    }
    assert_eq!(b.children_told(&cluster, "a").len(), count, "told once");
    let now = cluster.session("a", "c").expect("a session").epoch;
    assert_eq!(Some(now), others.map(|session| session.epoch));
    assert!(cluster.session("a", "b").is_none());
}

#[test]
fn nothing_between_nodes_needs_control() {
    let mut cluster = Cluster::pair();
    let at = cluster.control.kill();
    let [a, b] = [cluster.id("a"), cluster.id("b")];

    let output = cluster.tidelock(&["nodes"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("cannot be reached"), "{words}");

    round_trip(&cluster, "a", "b");
    round_trip(&cluster, "b", "a");
    let child = cluster.spawn("a", &["child", &b, "fails"]);
    assert_eq!(child.one("link").number("tag"), 41);
    let orphan = cluster.spawn("b", &["orphan", &a, "killed"]);
    assert_eq!(orphan.one("down").number("code"), 101);
    let monitors = cluster.spawn("b", &["monitors", &a]);
    assert_eq!(monitors.many("down", 3).len(), 3);
    let echo = cluster.spawn("a", &["echo", &b, "500"]).one("echoed");
    assert_eq!(echo.number("in_order"), 500);

    let watch = Watch::new(&cluster, "a", "b", 10);
    let killed = cluster.node_mut("b").kill();
    let took = watch.told() - killed;
    assert!(took <= cluster.lease() + NOTICE_MAX, "{took:?}");
    watch.exactly_once();
    assert!(!cluster.control.is_alive(), "control was away all the time");
    eprintln!(
        "without control for {:.0} ms, a loss included:\n{words}",
        ms(at.elapsed())
    );
}

#[test]
fn udp_that_does_not_get_through_is_said() {
    let cluster = Cluster::start(Shape {
        names: &["a"],
        ..Shape::default()
    });
    // A member that control lists, behind a firewall that swallows: bound, and never read.
    let hole = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let addr = hole.local_addr().expect("an address");
    let ghost = cluster.list("ghost", addr);
    let guest = cluster.turn_to("a", &ghost);
    let how = guest.one("spawned").text("how");
    assert!(how.starts_with("Err(Unreachable("), "{how}");
    for words in [
        &addr.to_string(),
        "over UDP",
        "is the node running",
        "firewall",
    ] {
        assert!(how.contains(words), "{words}: {how}");
    }
    assert!(guest.one("linked").text("how").contains("over UDP"));
    assert_eq!(guest.one("down").number("code"), 255);
    assert_eq!(guest.one("node").text("about"), ghost);
    let took = guest.one("spawned").number("ms");
    let bound = cluster.lease() + NOTICE_MAX;
    // A dial of the node's own may be under way; ours waits for it, then for its own.
    assert!(
        took <= 2 * i64::try_from(bound.as_millis()).expect("short"),
        "{took} ms"
    );
    eprintln!("after {took} ms: {how}");

    let nobody = cluster
        .spawn("a", &["unreachable", "n4000000"])
        .one("spawned");
    assert!(
        nobody.text("how").contains("no such node in this cluster"),
        "{}",
        nobody.text
    );
    assert!(nobody.number("ms") < 1000, "{}", nobody.text);
}
