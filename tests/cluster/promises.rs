//! What holds between two nodes that are well: spawns, links, monitors, kills, reasons, refusals.

use crate::bench::{Cluster, Guest, Shape};

/// A round trip each way over the lanes of `a` and `b`. What came before it has arrived.
fn fence(cluster: &Cluster) {
    for (from, to) in [("a", "b"), ("b", "a")] {
        let ran = cluster.spawn(from, &["spawn", &cluster.id(to)]).one("ran");
        assert_eq!(ran.text("child"), ran.text("said"));
    }
}

/// Fails unless a guest has observed this kind so often by now, and not once more.
fn exactly(guest: &Guest, what: &str, count: usize) {
    let all = guest.all(what);
    assert_eq!(
        all.len(),
        count,
        "{} has said {what:?}: {all:#?}",
        guest.pid
    );
}

#[test]
fn a_child_runs_on_the_node_it_was_put_on() {
    let cluster = Cluster::pair();
    let ran = cluster.spawn("a", &["spawn", &cluster.id("b")]).one("ran");
    let child = ran.text("child");
    assert_eq!(child, ran.text("said"), "the child knows its own name");
    assert!(
        child.starts_with(&format!("{}.", cluster.id("b"))),
        "{child}"
    );
    let end = cluster.end_of("b", &child);
    assert_eq!((end.exit_code, end.reason.as_str()), (0, "normal"));
    // Its own node may also be named as the place.
    let here = cluster.spawn("a", &["spawn", &cluster.id("a")]).one("ran");
    assert!(
        here.text("child")
            .starts_with(&format!("{}.", cluster.id("a")))
    );
}

#[test]
fn a_parent_is_told_of_its_childs_end_with_tag_and_reason() {
    let cluster = Cluster::pair();
    let cases = [
        (
            "fails",
            101,
            "trap: wasm `unreachable` instruction executed",
        ),
        ("recurses", 101, "trap: call stack exhausted"),
        ("leaves", 7, "exit code 7"),
        ("killed", 137, "killed by "),
        ("spins", 137, "killed by "),
        ("ends", 0, "normal"),
    ];
    let mut guests = Vec::new();
    for (how, code, why) in cases {
        let guest = cluster.spawn("a", &["child", &cluster.id("b"), how]);
        let linked = guest.one("linked");
        let child = linked.text("child");
        let down = guest.one("down");
        assert_eq!(down.text("about"), child, "{how}");
        assert_eq!(down.number("ref"), linked.number("ref"), "{how}");
        assert_eq!(down.number("code"), code, "{how}: {}", down.text);
        assert!(down.text("why").contains(why), "{how}: {}", down.text);
        // The words that the parent reads are those that the child's own node has.
        assert_eq!(
            cluster.end_of("b", &child).reason,
            down.text("why"),
            "{how}"
        );
        let links = usize::from(code != 0);
        if links > 0 {
            let link = guest.one("link");
            assert_eq!(
                (link.text("about"), link.number("tag")),
                (child, 41),
                "{how}"
            );
            assert_eq!(link.text("why"), down.text("why"), "{how}");
        }
        let ms = (down.at - linked.at).as_secs_f64() * 1e3;
        eprintln!(
            "child {how}: told {ms:.1} ms after it was there: {}",
            down.text("why")
        );
        guests.push((guest, links));
    }
    fence(&cluster);
    for (guest, links) in guests {
        exactly(&guest, "link", links);
        exactly(&guest, "down", 1);
    }
}

#[test]
fn a_child_ends_with_its_parent() {
    let cluster = Cluster::pair();
    for (how, why) in [("killed", "killed by "), ("leaves", "exit code 9")] {
        let guest = cluster.spawn("a", &["orphan", &cluster.id("b"), how]);
        let orphan = guest.one("orphan");
        let (parent, child) = (orphan.text("parent"), orphan.text("child"));
        let down = guest.one("down");
        assert_eq!(
            (down.text("about"), down.number("code")),
            (child.clone(), 101)
        );
        let reason = down.text("why");
        assert!(
            reason.starts_with(&format!("linked process {parent} ended: ")),
            "{reason}"
        );
        assert!(reason.contains(why), "{reason}");
        assert_eq!(cluster.end_of("b", &child).reason, reason);
        assert!(!cluster.runs("b", &child), "{child} has ended");
        let ms = (down.at - orphan.at).as_secs_f64() * 1e3;
        eprintln!("parent {how}: child ended, third party told, after {ms:.1} ms: {reason}");
    }
}

#[test]
fn each_monitor_fires_once_and_a_removed_one_never() {
    let cluster = Cluster::pair();
    let guest = cluster.spawn("a", &["monitors", &cluster.id("b")]);
    let watching = guest.one("monitoring");
    let late = guest.one("late");
    let downs = guest.many("down", 3);
    fence(&cluster);
    exactly(&guest, "down", 3);
    let fired: Vec<_> = downs
        .iter()
        .map(|down| (down.number("ref"), down.number("code")))
        .collect();
    let expected = [
        (watching.number("first"), 7),
        (watching.number("third"), 7),
        (late.number("ref"), 254),
    ];
    assert_eq!(fired, expected);
    assert!(
        downs
            .iter()
            .all(|down| down.text("about") == watching.text("child"))
    );
}

#[test]
fn a_spawn_that_cannot_be_says_why_and_leaves_nothing() {
    let cluster = Cluster::start(Shape {
        settings: &[("TIDELOCK_LIMITS_PROCESSES_MAX", "12")],
        ..Shape::default()
    });
    let asks = cluster.spawn("a", &["refused", &cluster.id("b")]);
    let why = asks.one("refused").text("why");
    assert!(
        why.starts_with("NoFunction(") && why.contains("no_such_function"),
        "{why}"
    );

    let there: Vec<serde_json::Value> = cluster.get("b", "/v1/processes");
    let fills = cluster.spawn("a", &["fill", &cluster.id("b"), "50"]);
    let refused = fills.one("refused");
    let why = refused.text("why");
    assert!(why.starts_with("Full("), "{why}");
    assert_eq!(
        refused.number("after"),
        12 - i64::try_from(there.len()).expect("few")
    );
    // The refused one left no half of a link behind, and the node still serves who is there.
    exactly(&asks, "link", 0);
    exactly(&fills, "link", 0);
    let there: Vec<serde_json::Value> = cluster.get("b", "/v1/processes");
    assert_eq!(there.len(), 12);

    let output = cluster.tidelock(&["spawn", "nobody-deployed-this", "--on", "b"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{words}");
    assert!(words.contains("nobody-deployed-this"), "{words}");
    assert_eq!(words.matches("[E0022]").count(), 1, "{words}");
    eprintln!("refused: {why}\n{words}");
}
