//! Many at once: races of links and unlinks, ten thousand links, spawns from everywhere.

use crate::bench::Cluster;
use crate::faults::ms;
use crate::feed::Seen;
use crate::settings::setting;

/// Whatever was owed came once; nothing came that was not owed.
fn balanced(sums: &Seen) {
    for sin in ["lost", "after_unlink", "twice"] {
        assert_eq!(sums.number(sin), 0, "{sin}: {}", sums.text);
    }
}

/// So many were told of their link's end, each once, and of nothing else.
fn all_told(told: &Seen, count: i64) {
    assert_eq!(
        (told.number("count"), told.number("wrong")),
        (count, 0),
        "{}",
        told.text
    );
}

#[test]
fn links_and_unlinks_race_with_ends() {
    let cluster = Cluster::pair();
    let rounds = 600;
    // Both directions at once: each node is asker and host.
    let sides = [("a", "b", "4711"), ("b", "a", "1147")].map(|(from, to, seed)| {
        cluster.spawn(
            from,
            &["endings", &cluster.id(to), &rounds.to_string(), seed],
        )
    });
    for side in sides {
        let sums = side.one("endings");
        balanced(&sums);
        let (linked, ended) = (sums.number("linked"), sums.number("ended"));
        assert_eq!(linked + ended, rounds);
        // A race that always ends alike is none.
        for met in ["linked", "ended", "told", "before_unlink"] {
            assert!(
                sums.number(met) > rounds / 100,
                "too few {met}: {}",
                sums.text
            );
        }
        eprintln!("endings: {}", sums.text);
    }
}

#[test]
fn links_and_unlinks_of_both_sides_cross() {
    let cluster = Cluster::pair();
    let rounds = 400;
    let sides = [("a", "b", "99"), ("b", "a", "77")].map(|(from, to, seed)| {
        cluster.spawn(
            from,
            &["crossings", &cluster.id(to), &rounds.to_string(), seed],
        )
    });
    for side in sides {
        let sums = side.one("crossings");
        balanced(&sums);
        assert_eq!(sums.number("told"), sums.number("linked"), "{}", sums.text);
        assert!(sums.number("linked") > rounds / 4, "{}", sums.text);
        eprintln!("crossings: {}", sums.text);
    }
}

/// `TIDELOCK_LINKS=100000` has more of them.
#[test]
fn ten_thousand_links_are_told_at_once() {
    let cluster = Cluster::pair();
    let count = setting("TIDELOCK_LINKS", 10_000);
    let storm = cluster.spawn("a", &["storm", &cluster.id("b"), &count.to_string()]);
    let linked = storm.one("linked");
    let told = storm.one("told");
    all_told(&told, count);
    let ms = told.json()["ms"].as_f64().expect("a time");
    eprintln!(
        "{count} links made in {} ms; all have told it on {ms} ms after the kill",
        linked.number("ms")
    );
}

/// `TIDELOCK_LINKS=100000` has more of them. What the node says of itself is the time from the verdict until the last
/// of them has it in its mailbox.
#[test]
fn ten_thousand_links_to_a_node_that_dies_are_told_at_once() {
    let mut cluster = Cluster::pair();
    let count = setting("TIDELOCK_LINKS", 10_000);
    let orphans = cluster.spawn("a", &["orphans", &cluster.id("b"), &count.to_string()]);
    orphans.one("linked");
    let logged = cluster.node("a").log.len();
    let at = cluster.node_mut("b").kill();
    let told = orphans.one("told");
    let took = told.at - at;
    all_told(&told, count);
    let line = |seen: &Seen| seen.text.contains("were told");
    let line = cluster.node("a").log.wait_from(logged, line);
    let line = line.expect("a line about it").text;
    // And the parent of the one they are linked to.
    let processes = format!("processes={}", count + 1);
    assert!(line.contains(&processes), "{line} lacks {processes}");
    eprintln!(
        "{line}\n{count} links: all have told it on {:.0} ms after SIGKILL",
        ms(took)
    );
}

#[test]
fn spawns_from_everywhere_lose_none() {
    let cluster = Cluster::pair();
    let guest = cluster.spawn("a", &["spawns", &cluster.id("b"), "32", "50"]);
    let sums = guest.one("spawns");
    assert_eq!(
        (sums.number("failed"), sums.number("ran")),
        (0, 1600),
        "{}",
        sums.text
    );
    eprintln!("32 x 50 linked spawns on the other node: {}", sums.text);
}
