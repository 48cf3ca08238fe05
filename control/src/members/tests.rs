//! The books with a clock that the test turns.

use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::store::tests::store_with_switch;

const LEASE: Duration = Duration::from_secs(10);

struct Bench {
    dir: TempDir,
    books: Books,
    start: Moment,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let start = Moment::now();
        let books = Self::open(&dir, start);
        Self { dir, books, start }
    }

    fn open(dir: &TempDir, now: Moment) -> Books {
        let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
        Books::open(Arc::new(store), LEASE, 5, now.steady).unwrap()
    }

    /// Both clocks, this long after the start.
    fn at(&self, seconds: u64) -> Moment {
        let passed = Duration::from_secs(seconds);
        Moment {
            wall: self.start.wall + passed,
            steady: self.start.steady + passed,
        }
    }

    /// Sweeps once per second from `from` to `to`, as the caretaker would.
    fn sweep(&self, from: u64, to: u64) {
        for second in from..=to {
            self.books.sweep(self.at(second)).unwrap();
        }
    }

    fn states(&self) -> Vec<NodeState> {
        self.books
            .members()
            .nodes
            .iter()
            .map(|node| node.state)
            .collect()
    }
}

fn candidate(name: &str, key: u8) -> Candidate {
    Candidate {
        name: name.to_owned(),
        key: [key; 32],
        addr: ([127, 0, 0, 1], 1).into(),
        admin_addr: ([127, 0, 0, 1], 2).into(),
        version: "1".to_owned(),
        tags: Tags::default(),
        token: None,
        start: None,
        after: None,
    }
}

/// A start that knows of `after` as the newest of its name.
fn following(name: &str, key: u8, start: u8, after: u64) -> Candidate {
    Candidate {
        start: Some([start; 16]),
        after: Some(NodeId(after)),
        ..candidate(name, key)
    }
}

#[test]
fn a_lease_runs_out_after_its_time_and_not_before() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    bench.sweep(1, 9);
    assert_eq!(bench.states(), [NodeState::Alive]);
    bench
        .books
        .lease(NodeId(1), &[1; 32], false, || false, bench.at(9))
        .unwrap();
    bench.sweep(10, 18);
    assert_eq!(bench.states(), [NodeState::Alive]);
    bench.sweep(19, 19);
    assert_eq!(bench.states(), [NodeState::Lost]);
}

#[test]
fn a_renewal_that_was_held_up_takes_nothing_from_a_later_one() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    // Both waited for a disk, and the earlier one longer.
    for sent_at in [8, 2] {
        bench
            .books
            .lease(NodeId(1), &[1; 32], false, || false, bench.at(sent_at))
            .unwrap();
    }
    bench.sweep(9, 17);
    assert_eq!(bench.states(), [NodeState::Alive]);
    bench.sweep(18, 18);
    assert_eq!(bench.states(), [NodeState::Lost]);
}

#[test]
fn whoever_says_goodbye_has_left_also_if_it_was_lost() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    bench.sweep(1, 11);
    assert_eq!(bench.states(), [NodeState::Lost]);
    let leave = || bench.books.leave(NodeId(1), Some(&[1; 32]), bench.at(12));
    assert_eq!(leave().unwrap().state, NodeState::Left);
    let revision = bench.books.members().revision;
    // A lease that it asked for before, and that comes after.
    let late = bench
        .books
        .lease(NodeId(1), &[1; 32], false, || false, bench.at(11));
    assert!(matches!(late, Err(ChangeError::Gone(_))));
    assert_eq!(leave().unwrap().state, NodeState::Left);
    assert_eq!(bench.states(), [NodeState::Left]);
    assert_eq!(bench.books.members().revision, revision, "twice");
}

#[test]
fn a_rejoin_that_was_held_up_replaces_no_later_start() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    // Two starts know of the first one only: the request of start 1 is held up, and that of start 2 is not.
    let (node, _) = bench
        .books
        .admit(following("a", 1, 2, 1), bench.at(1))
        .unwrap();
    assert_eq!(node.id, "n2");
    let is_refused = |books: &Books, now| {
        let late = books.admit(following("a", 1, 1, 1), now);
        let newest = NodeId(2);
        matches!(late, Err(AdmitError::Later { newest: told, .. }) if told == newest)
    };
    assert!(is_refused(&bench.books, bench.at(2)));
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Alive]);
    // Whatever time it is, and wherever start 2 is.
    for hours in [30, -30] {
        let now = Moment {
            wall: bench.start.wall + jiff::SignedDuration::from_hours(hours),
            ..bench.at(3)
        };
        assert!(is_refused(&bench.books, now), "{hours} h");
    }
    bench.sweep(1, 11);
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Lost]);
    assert!(is_refused(&bench.books, bench.at(12)));
    // Control restarts.
    let Bench { dir, books, start } = bench;
    drop(books);
    let bench = Bench {
        books: Bench::open(&dir, start),
        dir,
        start,
    };
    assert!(is_refused(&bench.books, bench.at(13)));
    bench
        .books
        .lease(NodeId(2), &[1; 32], false, || false, bench.at(14))
        .unwrap();
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Alive]);
    bench.books.leave(NodeId(2), None, bench.at(15)).unwrap();
    assert!(is_refused(&bench.books, bench.at(16)));
}

#[test]
fn no_start_is_kept_out_by_what_it_does_not_know() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    let admit = |candidate: Candidate, second| {
        let admitted = bench.books.admit(candidate, bench.at(second));
        admitted.map(|(node, _)| node.id)
    };
    // It is listed, and crashes before it has that on disk.
    assert_eq!(admit(following("a", 1, 1, 1), 1).unwrap(), "n2");
    let newest = match admit(following("a", 1, 2, 1), 2) {
        Err(AdmitError::Later { newest, .. }) => newest,
        other => panic!("{other:?}"),
    };
    assert_eq!(admit(following("a", 1, 2, newest.0), 2).unwrap(), "n3");
    // It knows of a later start than books that are a backup.
    assert_eq!(admit(following("a", 1, 3, 70), 3).unwrap(), "n4");
    // Of none, where there is none.
    assert_eq!(admit(following("b", 2, 4, 0), 4).unwrap(), "n5");
    // A node of an earlier version says nothing.
    assert_eq!(admit(candidate("a", 1), 5).unwrap(), "n6");
}

#[test]
fn a_rejoin_that_is_repeated_is_one_start() {
    let bench = Bench::new();
    let admit = |candidate: Candidate, second| {
        let admitted = bench.books.admit(candidate, bench.at(second));
        admitted.map(|(node, members)| (node.id, members.revision))
    };
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    let first = admit(following("a", 1, 1, 1), 1).unwrap();
    assert_eq!(first.0, "n2");
    assert_eq!(admit(following("a", 1, 1, 1), 2).unwrap(), first);
    // Its lease begins anew, as when it is heard of.
    bench.sweep(1, 11);
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Alive]);
    bench.sweep(12, 12);
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Lost]);
    assert_eq!(admit(following("a", 1, 1, 1), 13).unwrap().0, "n2");
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Alive]);
    // By the key that it was for, and under its name: nobody gets what is another's.
    let stranger = admit(following("a", 2, 1, 2), 14);
    assert!(matches!(stranger, Err(AdmitError::NameTaken { .. })));
    assert_eq!(admit(following("b", 1, 1, 0), 14).unwrap().0, "n3");
    // Also where the name may have no more ids.
    for (start, after) in [(2, 2), (3, 4), (4, 5)] {
        admit(following("a", 1, start, after), 15).unwrap();
    }
    let bound = admit(following("a", 1, 5, 6), 16);
    assert!(matches!(bound, Err(AdmitError::TooManyIds { .. })));
    assert_eq!(admit(following("a", 1, 4, 5), 16).unwrap().0, "n6");
    // Once there is a later one it gets nothing, and is not to ask again.
    let replaced = admit(following("a", 1, 1, 1), 17).unwrap_err();
    let AdmitError::Listed(ChangeError::Replaced { id, by }) = &replaced else {
        panic!("{replaced}");
    };
    assert_eq!((*id, *by), (NodeId(2), NodeId(6)));
    let answer = crate::http::ApiError::from(replaced);
    assert_eq!(answer.status, axum::http::StatusCode::GONE);
    assert_eq!(answer.body.newest, None);
    // So it does once it has left, and once its key is removed.
    bench.books.leave(NodeId(6), None, bench.at(18)).unwrap();
    let gone = admit(following("a", 1, 4, 5), 19).unwrap_err();
    assert!(matches!(gone, AdmitError::Listed(ChangeError::Gone(_))));
    bench.books.remove(NodeId(6), bench.at(20)).unwrap();
    let removed = admit(following("a", 1, 4, 5), 21);
    assert!(matches!(removed, Err(AdmitError::Removed)));
}

#[test]
fn a_node_that_was_only_cut_off_from_control_is_listed_again() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    bench.sweep(1, 11);
    assert_eq!(bench.states(), [NodeState::Lost]);
    let lease = |key: u8, at: u64| {
        bench
            .books
            .lease(NodeId(1), &[key; 32], false, || false, bench.at(at))
    };
    assert!(matches!(lease(2, 12), Err(ChangeError::NotYours(_))));
    lease(1, 12).unwrap();
    assert_eq!(bench.states(), [NodeState::Alive]);
    bench.sweep(12, 23);
    assert_eq!(bench.states(), [NodeState::Lost], "silent again");
    // A later start of the name is the node now.
    bench.books.admit(candidate("a", 1), bench.at(24)).unwrap();
    let by = NodeId(2);
    assert!(matches!(lease(1, 25), Err(ChangeError::Replaced { by: later, .. }) if later == by));
}

#[test]
fn a_lost_node_that_was_removed_does_not_come_back() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    bench.sweep(1, 11);
    bench.books.remove(NodeId(1), bench.at(12)).unwrap();
    let back = bench
        .books
        .lease(NodeId(1), &[1; 32], false, || false, bench.at(13));
    assert!(matches!(back, Err(ChangeError::Gone(_))));
}

#[test]
fn nobody_is_lost_because_control_slept() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    bench.sweep(1, 2);
    bench.sweep(3600, 3609);
    assert_eq!(bench.states(), [NodeState::Alive]);
    bench.sweep(3610, 3610);
    assert_eq!(
        bench.states(),
        [NodeState::Lost],
        "but it is if it stays silent"
    );
}

#[test]
fn a_wall_clock_that_jumps_ends_no_lease() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    for hours in [5, -5] {
        let jumped = bench.start.wall + jiff::SignedDuration::from_hours(hours);
        let now = Moment {
            wall: jumped,
            steady: bench.at(5).steady,
        };
        bench.books.sweep(now).unwrap();
    }
    assert_eq!(bench.states(), [NodeState::Alive]);
}

#[test]
fn a_restart_gives_everybody_a_fresh_lease() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    bench.books.admit(candidate("b", 2), bench.at(0)).unwrap();
    bench.books.leave(NodeId(2), None, bench.at(1)).unwrap();
    let before = bench.books.members();
    let Bench { dir, books, start } = bench;
    drop(books);
    let passed = Duration::from_secs(100);
    let later = Moment {
        wall: start.wall + passed,
        steady: start.steady + passed,
    };
    let bench = Bench {
        books: Bench::open(&dir, later),
        dir,
        start,
    };
    assert_eq!(bench.books.members(), before);
    bench.sweep(100, 109);
    assert_eq!(bench.states(), [NodeState::Alive, NodeState::Left]);
    bench.sweep(110, 110);
    assert_eq!(bench.states(), [NodeState::Lost, NodeState::Left]);
}

#[test]
fn one_start_of_a_name_is_present() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    let stranger = bench.books.admit(candidate("a", 2), bench.at(1));
    assert!(matches!(stranger, Err(AdmitError::NameTaken { .. })));
    bench.books.admit(candidate("a", 1), bench.at(1)).unwrap();
    assert_eq!(bench.states(), [NodeState::Left, NodeState::Alive]);
    // Lost frees the name, for another key, too.
    bench.sweep(1, 11);
    bench.books.admit(candidate("a", 2), bench.at(12)).unwrap();
    assert_eq!(
        bench.states(),
        [NodeState::Left, NodeState::Lost, NodeState::Alive]
    );
    let present_as = |key: u8| bench.books.present_as("a", &[key; 32], None);
    assert_eq!(present_as(2).unwrap(), NodeId(3));
    assert!(present_as(1).is_err());
}

#[test]
fn a_renewal_is_of_the_start_that_asks_and_of_no_other() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    let renewed = |key: u8, ticketed: Option<u64>| {
        let ticketed = ticketed.map(NodeId);
        bench.books.present_as("a", &[key; 32], ticketed)
    };
    assert_eq!(renewed(1, Some(1)).unwrap(), NodeId(1));
    bench.sweep(1, 11);
    assert_eq!(renewed(1, Some(1)).unwrap(), NodeId(1), "lost");
    let is_replaced = |by: u64| {
        let refused = renewed(1, Some(1));
        matches!(refused, Err(ChangeError::Replaced { id: NodeId(1), by: later }) if later.0 == by)
    };
    // A later start under the same key, whatever becomes of it.
    bench.books.admit(candidate("a", 1), bench.at(12)).unwrap();
    assert!(is_replaced(2));
    assert_eq!(renewed(1, Some(2)).unwrap(), NodeId(2));
    assert_eq!(renewed(1, None).unwrap(), NodeId(2), "the latest of a key");
    bench.books.leave(NodeId(2), None, bench.at(13)).unwrap();
    assert!(is_replaced(2));
    assert!(matches!(renewed(1, Some(2)), Err(ChangeError::Gone(_))));
    // One under another key.
    bench.books.admit(candidate("a", 2), bench.at(14)).unwrap();
    assert!(is_replaced(3));
    assert!(matches!(renewed(1, Some(3)), Err(ChangeError::NotYours(_))));
    // One that is forgotten, while its key has a start that is there.
    bench.books.leave(NodeId(3), None, bench.at(15)).unwrap();
    bench.books.admit(candidate("a", 1), bench.at(16)).unwrap();
    bench.books.lock().nodes.remove(&NodeId(2));
    assert!(matches!(renewed(1, Some(2)), Err(ChangeError::Unknown(_))));
    assert_eq!(renewed(1, Some(4)).unwrap(), NodeId(4));
}

#[test]
fn used_up_ids_are_not_answered_as_a_store_that_fails() {
    let bench = Bench::new();
    // Books that are lost have handed out the last id there is.
    let last = bench
        .books
        .lease(NodeId::MAX, &[1; 32], false, || true, bench.at(0));
    assert!(matches!(last, Err(ChangeError::OldBooks(_))));
    let refused = bench.books.admit(candidate("a", 2), bench.at(1));
    let answer = crate::http::ApiError::from(refused.unwrap_err());
    assert_eq!(answer.status, axum::http::StatusCode::CONFLICT);
    assert_eq!(answer.body.code, crate::api::codes::NO_IDS_LEFT);
}

#[test]
fn the_limit_on_ids_is_per_hour() {
    let bench = Bench::new();
    for second in 0..5 {
        bench
            .books
            .admit(candidate("a", 1), bench.at(second))
            .unwrap();
    }
    let too_many = bench.books.admit(candidate("a", 1), bench.at(3599));
    assert!(matches!(too_many, Err(AdmitError::TooManyIds { .. })));
    bench
        .books
        .admit(candidate("b", 2), bench.at(3599))
        .unwrap();
    bench
        .books
        .admit(candidate("a", 1), bench.at(3605))
        .unwrap();
}

#[test]
fn the_long_gone_are_forgotten_but_their_ids_stay_used() {
    let bench = Bench::new();
    let names: Vec<String> = (0..GONE_MAX + 20)
        .map(|number| format!("x{number}"))
        .collect();
    for name in &names {
        let (node, _) = bench.books.admit(candidate(name, 1), bench.at(0)).unwrap();
        bench
            .books
            .leave(node.id.parse().unwrap(), None, bench.at(0))
            .unwrap();
    }
    bench.sweep(3602, 3602);
    assert_eq!(
        bench.books.members().nodes.len(),
        GONE_MAX + 20,
        "control had slept"
    );
    bench.sweep(3603, 3603);
    let members = bench.books.members();
    assert_eq!(
        (members.nodes.len(), members.nodes[0].id.as_str()),
        (GONE_MAX, "n21")
    );
    let (node, _) = bench
        .books
        .admit(candidate("x0", 1), bench.at(3604))
        .unwrap();
    assert_eq!(node.id, format!("n{}", GONE_MAX + 21));
}

#[test]
fn after_a_full_disk_memory_and_disk_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (store, full) = store_with_switch(dir.path().join("store"));
    let now = Moment::now();
    let books = Books::open(Arc::new(store), LEASE, 5, now.steady).unwrap();
    books.admit(candidate("a", 1), now).unwrap();
    let (_, mut changes) = books.watch();

    full.store(true, Ordering::Relaxed);
    let refused = books.admit(candidate("b", 2), now);
    assert!(matches!(refused, Err(AdmitError::Store(_))));
    assert!(books.leave(NodeId(1), None, now).is_err());
    // Looking still works, and shows what was true.
    assert_eq!(books.members().nodes.len(), 1);
    assert_eq!(books.members().nodes[0].state, NodeState::Alive);
    full.store(false, Ordering::Relaxed);

    let (node, members) = books.admit(candidate("c", 3), now).unwrap();
    assert!(node.id.parse::<NodeId>().unwrap() > NodeId(1));
    let Ok(WatchEvent::Snapshot(snapshot)) = changes.try_recv() else {
        panic!("watchers must be told to start over");
    };
    let Ok(WatchEvent::Change {
        revision,
        node: changed,
        removed: None,
    }) = changes.try_recv()
    else {
        panic!("watchers must be told of the change");
    };
    assert_eq!((revision, changed), (snapshot.revision + 1, node));
    // What memory holds is what a restart would read.
    drop(books);
    let (store, _) = store_with_switch(dir.path().join("store"));
    let books = Books::open(Arc::new(store), LEASE, 5, now.steady).unwrap();
    assert_eq!(books.members(), members);
}

#[test]
fn the_tags_of_whoever_is_not_present_are_shown_to_nobody() {
    let bench = Bench::new();
    let tagged = |name: &str, key: u8| Candidate {
        tags: "region=eu".parse().unwrap(),
        ..candidate(name, key)
    };
    let tags = || {
        let nodes = bench.books.members().nodes;
        let of = |node: &NodeInfo| node.tags.to_string();
        nodes.iter().map(of).collect::<Vec<_>>()
    };
    let (_, mut changes) = bench.books.watch();
    bench.books.admit(tagged("a", 1), bench.at(0)).unwrap();
    bench.books.admit(tagged("a", 1), bench.at(0)).unwrap();
    assert_eq!(tags(), ["", "region=eu"], "replaced");
    bench.sweep(1, 11);
    assert_eq!(tags(), ["", ""], "lost");
    let lease = |at| {
        bench
            .books
            .lease(NodeId(2), &[1; 32], false, || false, bench.at(at))
    };
    lease(12).unwrap();
    assert_eq!(tags(), ["", "region=eu"], "heard of again");
    bench.books.leave(NodeId(2), None, bench.at(13)).unwrap();
    assert_eq!(tags(), ["", ""], "left");
    while let Ok(change) = changes.try_recv() {
        let WatchEvent::Change { node, .. } = change else {
            panic!("{change:?}");
        };
        assert_eq!(node.tags == Tags::default(), !node.state.is_present());
    }
}

/// The longest that a node can make of its record.
fn longest(number: usize) -> Candidate {
    let tags: Vec<String> = (0..32)
        .map(|tag| format!("{tag:02}={}", "%22".repeat(126)))
        .collect();
    let addr = std::net::SocketAddrV6::new([0xffff; 8].into(), 65535, 0, u32::MAX);
    Candidate {
        addr: addr.into(),
        admin_addr: addr.into(),
        version: "\"".repeat(64),
        tags: tags.join("&").parse().unwrap(),
        ..candidate(&format!("{number:x>63}"), 1)
    }
}

#[test]
fn everybody_at_their_longest_fits_into_an_answer() {
    let bench = Bench::new();
    let (info, mut members) = bench.books.admit(longest(0), bench.at(0)).unwrap();
    let gone = shown(&with_state(
        &NodeRecord {
            info: info.clone(),
            key: [1; 32],
            start: None,
        },
        NodeState::Lost,
    ));
    // As many that are gone as are kept, and as many that are present.
    members.nodes = [vec![info; GONE_MAX], vec![gone; GONE_MAX]].concat();
    members.removed = vec![to_hex(&[1; 32]); GONE_MAX];
    let bytes = serde_json::to_vec(&WatchEvent::Snapshot(members)).unwrap();
    let max = crate::client::ANSWER_BYTES_MAX;
    assert!(bytes.len() < max, "{} of {max} bytes", bytes.len());
}

#[test]
fn whoever_may_be_back_is_forgotten_last() {
    let bench = Bench::new();
    let admit = |name: &str, key| {
        let (node, _) = bench
            .books
            .admit(candidate(name, key), bench.at(0))
            .unwrap();
        node.id.parse::<NodeId>().unwrap()
    };
    let cut_off = admit("cut-off", 1);
    let replaced = admit("replaced", 1);
    bench.sweep(1, 11);
    assert_eq!(bench.states(), [NodeState::Lost; 2]);
    let later = admit("replaced", 1);
    let left = admit("left", 1);
    bench.books.leave(left, None, bench.at(11)).unwrap();
    let gone = |before_s| bench.books.lock().gone_before(before_s);
    let joined_s = bench.start.wall.as_second();
    assert!(gone(joined_s).is_empty());
    assert_eq!(gone(joined_s + 1), [replaced, left, cut_off]);
    bench.books.leave(later, None, bench.at(12)).unwrap();
    assert_eq!(gone(joined_s + 1), [replaced, later, left, cut_off]);
}

#[test]
fn starts_by_a_removed_key_do_not_use_up_the_ids_of_a_name() {
    let bench = Bench::new();
    for second in 0..5 {
        let thief = candidate("a", 1);
        bench.books.admit(thief, bench.at(second)).unwrap();
    }
    let owner = || bench.books.admit(candidate("a", 2), bench.at(6));
    bench.books.leave(NodeId(5), None, bench.at(5)).unwrap();
    assert!(matches!(owner(), Err(AdmitError::TooManyIds { .. })));
    bench.books.remove(NodeId(5), bench.at(6)).unwrap();
    owner().unwrap();
}

#[test]
fn a_node_of_a_later_state_of_the_books_is_not_told_to_end() {
    let bench = Bench::new();
    bench.books.admit(candidate("a", 1), bench.at(0)).unwrap();
    let lease = |id: u64, key: u8, is_ticketed: bool| {
        let at = bench.at(1);
        let leased = bench
            .books
            .lease(NodeId(id), &[key; 32], false, || is_ticketed, at);
        leased.unwrap_err()
    };
    // Anybody can say so.
    assert!(matches!(lease(7, 2, false), ChangeError::Unknown(_)));
    assert!(matches!(lease(7, 2, true), ChangeError::OldBooks(_)));
    assert!(matches!(lease(6, 3, true), ChangeError::OldBooks(_)));
    // At its renewal, too, which is not one of the earlier start that they know.
    let renewed = |id: u64| bench.books.present_as("a", &[1; 32], Some(NodeId(id)));
    assert!(matches!(renewed(7), Err(ChangeError::OldBooks(_))));
    assert_eq!(renewed(1).unwrap(), NodeId(1));
    // Whoever joins gets none of theirs.
    let (node, _) = bench.books.admit(candidate("b", 4), bench.at(2)).unwrap();
    assert_eq!(node.id, "n8");
    assert!(matches!(lease(8, 2, true), ChangeError::NotYours(_)));
    // A removal is for good, whatever else is known of the node.
    bench.books.remove(NodeId(8), bench.at(3)).unwrap();
    assert!(matches!(lease(7, 4, true), ChangeError::Unknown(_)));
}
