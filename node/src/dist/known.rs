//! What one thread has found of what all share: it finds that again without meeting anybody at a lock.
//!
//! Whatever is said to another node begins with finding the session. That takes two locks and a count, which all cores
//! would pass to and fro; instead each thread remembers what it found last, and the [moment](Moment) of that.
//!
//! The end of a process is told to all sessions, and those are in one [list](Open).

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use tidelock::NodeId;

/// What a thread remembers at once. Nodes that have the same place take turns.
const PLACES: u64 = 4;

/// Of all moments, of whatever they are.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Changes when what is found does. No two moments are the same, of one thing or of several.
#[derive(Debug)]
pub(super) struct Moment(AtomicU64);

impl Moment {
    pub(super) fn new() -> Arc<Self> {
        let moment = Moment(AtomicU64::new(0));
        moment.pass();
        Arc::new(moment)
    }

    /// Which one it is. Comes before what is found is looked for.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// What is found has changed, under the lock that whoever looks for it takes: nobody has found the change yet.
    pub(super) fn pass(&self) {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0.store(next, Ordering::Release);
    }
}

/// What a thread has found. Held weakly: it keeps nothing alive that has ended.
pub(super) struct Known<T>(RefCell<[Option<Found<T>>; PLACES as usize]>);

struct Found<T> {
    at: u64,
    node: NodeId,
    what: Weak<T>,
}

impl<T> Known<T> {
    pub(super) const fn new() -> Self {
        Known(RefCell::new([const { None }; PLACES as usize]))
    }

    /// What was found of this node at this moment, if anything was.
    pub(super) fn get(&self, at: u64, node: NodeId) -> Option<Arc<T>> {
        let places = self.0.borrow();
        let found = places[place(node)].as_ref()?;
        match found.at == at && found.node == node {
            true => found.what.upgrade(),
            false => None,
        }
    }

    pub(super) fn put(&self, at: u64, node: NodeId, what: &Arc<T>) {
        let what = Arc::downgrade(what);
        self.0.borrow_mut()[place(node)] = Some(Found { at, node, what });
    }
}

/// What is open, of all peers, behind one lock: with a lock for each, whoever looks at all of them would take as many
/// as there were ever peers.
pub(super) struct Open<T>(RwLock<Vec<Arc<T>>>);

impl<T> Open<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Open(RwLock::default()))
    }

    /// What was open of a peer is not any more, and something else is, if anything.
    pub(super) fn change(&self, before: Option<&Arc<T>>, after: Option<Arc<T>>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before {
            all.retain(|one| !Arc::ptr_eq(one, before));
        }
        all.extend(after);
    }

    /// Does something with each. None of them is closed meanwhile.
    pub(super) fn each(&self, act: impl FnMut(&Arc<T>)) {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(act);
    }
}

fn place(node: NodeId) -> usize {
    usize::try_from(node.0 % PLACES).expect("it is small")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_until_something_changes() {
        let (one, other) = (Moment::new(), Moment::new());
        let known = Known::new();
        let (node, same_place) = (NodeId(7), NodeId(7 + PLACES));
        let what = Arc::new("what");
        let before = one.now();
        known.put(before, node, &what);
        assert_eq!(known.get(one.now(), node), Some(what.clone()));
        assert_eq!(known.get(one.now(), same_place), None);
        assert_eq!(known.get(other.now(), node), None, "of something else");
        one.pass();
        assert_eq!(known.get(one.now(), node), None);
        // Whoever began to look before the change has found it too late.
        known.put(before, node, &what);
        assert_eq!(known.get(one.now(), node), None);
        known.put(one.now(), node, &what);
        known.put(one.now(), same_place, &what);
        assert_eq!(known.get(one.now(), node), None, "its place is taken");
        drop(what);
        assert_eq!(known.get(one.now(), same_place), None, "nothing is kept");
    }

    #[test]
    fn what_is_open_is_what_was_put_there_last() {
        let open = Open::new();
        let all = || {
            let mut found = Vec::new();
            open.each(|one: &Arc<&str>| found.push(**one));
            found
        };
        let [first, later, other] = ["first", "later", "other"].map(Arc::new);
        open.change(None, Some(first.clone()));
        open.change(None, Some(other.clone()));
        assert_eq!(all(), ["first", "other"]);
        open.change(Some(&first), Some(later.clone()));
        assert_eq!(all(), ["other", "later"]);
        // One that is equal is another one.
        open.change(Some(&Arc::new("other")), None);
        open.change(Some(&later), None);
        assert_eq!(all(), ["other"]);
        assert_eq!(Arc::strong_count(&first), 1, "nothing is kept");
        open.change(Some(&other), None);
        assert_eq!(all(), [""; 0]);
    }
}
