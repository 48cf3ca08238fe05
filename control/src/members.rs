//! Who is in the cluster: admission, leases, and the stream of changes.
//!
//! ```text
//!             join / rejoin             lease {draining}
//!   (nobody) ───────────────▶ Alive ─────────────────────▶ Draining
//!                               │  leave, removed, a later start     │
//!                               ├────────────────────────────▶ Left ◀┤
//!                               │  lease ran out                     │
//!                               └────────────────────────────▶ Lost ◀┘
//!                                          lease │ │  leave, removed
//!                                      Alive ◀───┘ └───▶ Left
//!                                      unless the name has a later start
//! ```
//!
//! # Guarantees
//!
//! * Left is for good: whoever is there must join again, under a new id. Lost is only what control
//!   believes: a node that was cut off from control alone still has its sessions and its processes,
//!   so it is listed again as soon as it is heard of, unless its name has a later start.
//! * Each change has its own revision, larger by one than the one before, across restarts.
//! * Whoever watches gets a snapshot and then every change after it, in order, or another snapshot.
//! * A start that shows its ticket gets nothing that is another's. One whose name has a later start gets nothing.
//! * At most one start of a name is present. The tags of those that are not are shown to nobody.
//! * A rejoin names the start that it follows, and never replaces a later one than that: however long it was held
//!   up, whatever clocks say, also after a restart. Whoever is refused so is told the newest start, and asks
//!   again with that if it is still there. So no node is kept out, be it that it crashed before its answer was on its
//!   disk, or that its state directory is an old copy; and for a start that is over nobody asks again.
//! * A rejoin that is repeated is one start: it gets the id that it has once more, or hears what became of that.
//! * What a watcher is told is on disk.
//!
//! What a rejoin may replace is looked up in the books: they never forget who is present, and those who are gone
//! not within an hour (`GONE_MAX`). A backup knows nothing of what came after it. Nodes of earlier versions name
//! no start: their rejoins count when they come.
//!
//! Leases live in memory only, by the monotonic clock. After a restart, or if this process itself was
//! stopped for a while, every node gets a fresh lease: nobody is declared lost because *we* slept.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;
use tidelock_certs::to_hex;
use tidelock_proto::NodeId;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::api::{Members, NodeInfo, NodeState, WatchEvent};
use crate::store::{Admission, NodeRecord, Refused, Store, StoreError};
use crate::tags::Tags;

/// Changes that a watcher may be behind before it is given a snapshot instead.
const CHANGES_KEPT: usize = 256;
/// Gone nodes that are remembered for people to look at, if they joined more than an hour ago. Above it
/// those that are over are forgotten first. Lost ones without a later start may be back, and go last:
/// one that is forgotten is told to join again.
const GONE_MAX: usize = 1000;

const HOUR_S: i64 = 3600;

/// Both clocks, read once per request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    pub(crate) steady: Instant,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            wall: Timestamp::now(),
            steady: Instant::now(),
        }
    }
}

/// Why a node was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmitError {
    #[error("the join token is wrong, used up or expired")]
    Token,
    #[error("{id} is called {name:?} and is there")]
    NameTaken { id: String, name: String },
    #[error(
        "{name:?} was given {max} node ids within an hour, and gets another when the first of them is an hour \
         old; see to what starts it so often, or give it another name"
    )]
    TooManyIds { name: String, max: usize },
    #[error("an operator has removed this node")]
    Removed,
    #[error("all node ids of this cluster are used up; whoever wants to join needs a new cluster")]
    Exhausted,
    #[error(
        "{name:?} has a later start than {after}, which this one was to follow: {newest}; a node that starts asks \
         again by itself, so another one starts under this name"
    )]
    Later {
        name: String,
        after: NodeId,
        newest: NodeId,
    },
    /// The same request has let it in before, and what that made is over.
    #[error(transparent)]
    Listed(#[from] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a node's state was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("there is no node {0}")]
    Unknown(NodeId),
    #[error("{0} belongs to another key than the caller's")]
    NotYours(NodeId),
    #[error("{0} has left; a node that wants to be there joins again and gets a new id")]
    Gone(NodeId),
    // Not to join again: the two would replace each other for ever.
    #[error(
        "{by} is a later start of this node's name than {id}: what still runs as {id} has to end, and is not \
         to be started again while {by} is there"
    )]
    Replaced { id: NodeId, by: NodeId },
    #[error(
        "control's books are older than {0}: they are from a backup; the node goes on, and is listed \
         again when it is started again"
    )]
    OldBooks(NodeId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node that wants in, checked except for what the books know.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) key: [u8; 32],
    pub(crate) addr: std::net::SocketAddr,
    pub(crate) admin_addr: std::net::SocketAddr,
    pub(crate) version: String,
    pub(crate) tags: Tags,
    /// What it shows: a token's hash, or nothing but the certificate it has already shown.
    pub(crate) token: Option<blake3::Hash>,
    /// Which start this is, and the newest that it knows of; see [`RejoinRequest`](crate::api::RejoinRequest).
    pub(crate) start: Option<[u8; 16]>,
    pub(crate) after: Option<NodeId>,
}

/// The books of the cluster. All functions block for as long as a disk takes.
pub(crate) struct Books {
    store: Arc<Store>,
    state: Mutex<State>,
    /// Keys that are never to be let in again. Removing is an operator's act, and none is forgotten.
    /// Apart from `state`, whose lock is held while a disk writes; changed under that lock.
    removed: RwLock<BTreeSet<[u8; 32]>>,
    /// Sent to under the lock of `state`, so that order and snapshots agree.
    changes: broadcast::Sender<WatchEvent>,
    lease: Duration,
    ids_per_name_hour_max: usize,
}

struct State {
    revision: u64,
    nodes: BTreeMap<NodeId, Entry>,
    swept_at: Instant,
    /// The store's count of faults that `nodes` is of.
    faults: u64,
}

fn is_of(record: &NodeRecord, name: &str, key: &[u8; 32]) -> bool {
    record.info.name == name && record.key == *key
}

impl State {
    /// The latest start of the name of this one, if that is a later one.
    fn replaced_by(&self, id: NodeId, entry: &Entry) -> Option<NodeId> {
        let newest = self.newest(&entry.record.info.name);
        newest.filter(|newest| *newest > id)
    }

    /// The newest start as `name`, by whatever key and whatever has become of it.
    fn newest(&self, name: &str) -> Option<NodeId> {
        self.last(|record| record.info.name == name)
    }

    /// The start as `name` by the holder of `key` that the same request has made before.
    fn made_by(&self, name: &str, key: &[u8; 32], start: [u8; 16]) -> Option<NodeId> {
        self.last(|record| record.start == Some(start) && is_of(record, name, key))
    }

    /// The latest start as `name` by the holder of `key`.
    fn latest(&self, name: &str, key: &[u8; 32]) -> Option<NodeId> {
        self.last(|record| is_of(record, name, key))
    }

    fn last(&self, is_it: impl Fn(&NodeRecord) -> bool) -> Option<NodeId> {
        let mut latest = self.nodes.iter().rev();
        let found = latest.find(|(_, entry)| is_it(&entry.record));
        found.map(|(id, _)| *id)
    }

    /// Those that are gone and joined before `before_s`, the first to be forgotten first.
    fn gone_before(&self, before_s: i64) -> Vec<NodeId> {
        let (mut over, mut lost) = (Vec::new(), Vec::new());
        let mut later = HashSet::new();
        for (id, entry) in self.nodes.iter().rev() {
            let info = &entry.record.info;
            let is_replaced = !later.insert(info.name.as_str());
            if info.state.is_present() || info.joined_at.as_second() >= before_s {
                continue;
            }
            if info.state == NodeState::Lost && !is_replaced {
                lost.push(*id);
            } else {
                over.push(*id);
            }
        }
        over.reverse();
        over.extend(lost.into_iter().rev());
        over
    }
}

struct Entry {
    record: NodeRecord,
    /// When the lease runs out. Without meaning for nodes that are gone.
    until: Instant,
}

impl Books {
    pub(crate) fn open(
        store: Arc<Store>,
        lease: Duration,
        ids_per_name_hour_max: usize,
        now: Instant,
    ) -> Result<Self, StoreError> {
        let faults = store.faults();
        let (revision, records) = store.nodes()?;
        let nodes = records
            .into_iter()
            .map(|record| {
                (
                    id_of(&record),
                    Entry {
                        record,
                        until: now + lease,
                    },
                )
            })
            .collect();
        let state = Mutex::new(State {
            revision,
            nodes,
            swept_at: now,
            faults,
        });
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        Ok(Self {
            removed: RwLock::new(store.removed_keys()?),
            store,
            state,
            changes,
            lease,
            ids_per_name_hour_max,
        })
    }

    /// Makes `candidate` a node under a fresh id, and ends earlier starts of its name.
    ///
    /// With a token, a name that is present under another key is refused: a token lets somebody in,
    /// it does not let anybody be somebody else. A request that has let it in before lets it in no second time.
    pub(crate) fn admit(
        &self,
        candidate: Candidate,
        now: Moment,
    ) -> Result<(NodeInfo, Members), AdmitError> {
        let mut state = self.fresh()?;
        let Candidate {
            name,
            key,
            addr,
            admin_addr,
            version,
            tags,
            token,
            start,
            after,
        } = candidate;
        let now_s = now.wall.as_second();
        if token.is_some_and(|token| !self.store.is_token_good(token, now_s).unwrap_or(true)) {
            return Err(AdmitError::Token);
        }
        if self.is_removed(&key) {
            return Err(AdmitError::Removed);
        }
        // Before all that speaks against one more start: this is none.
        if let Some(id) = start.and_then(|start| state.made_by(&name, &key, start)) {
            self.heard_of(&mut state, id, &key, || false, now)?;
            let info = shown(&state.nodes[&id].record);
            return Ok((info, self.members_of(&state)));
        }

        let same_name = || {
            state
                .nodes
                .values()
                .filter(|entry| entry.record.info.name == name)
        };
        let present = || same_name().filter(|entry| entry.record.info.state.is_present());
        if let Some(other) = present().find(|entry| entry.record.key != key) {
            let id = other.record.info.id.clone();
            return Err(AdmitError::NameTaken { id, name });
        }
        // Not only one that is present: that may be lost, and back in a moment.
        if let (Some(after), Some(newest)) = (after, state.newest(&name))
            && newest > after
        {
            return Err(AdmitError::Later {
                name,
                after,
                newest,
            });
        }
        // Whoever was removed does not keep out the machine that has the name from now on.
        let recent = same_name()
            .filter(|entry| entry.record.info.joined_at.as_second() > now_s - HOUR_S)
            .filter(|entry| !self.is_removed(&entry.record.key))
            .count();
        if recent >= self.ids_per_name_hour_max {
            return Err(AdmitError::TooManyIds { name, max: recent });
        }
        let replaced: Vec<NodeRecord> = present()
            .map(|entry| with_state(&entry.record, NodeState::Left))
            .collect();

        let info = NodeInfo {
            id: String::new(),
            name,
            addr,
            admin_addr,
            state: NodeState::Alive,
            joined_at: now.wall,
            last_seen: now.wall,
            version,
            tags,
        };
        let node = NodeRecord { info, key, start };
        let admission = Admission {
            token,
            now_s,
            replaced: &replaced,
            node,
        };
        let (node, revision) = match self.store.admit(admission)? {
            Ok(admitted) => admitted,
            Err(Refused::Token) => return Err(AdmitError::Token),
            Err(Refused::Exhausted) => return Err(AdmitError::Exhausted),
        };
        let info = node.info.clone();
        let changed: Vec<NodeRecord> = replaced.into_iter().chain([node]).collect();
        self.publish(&mut state, changed, revision, now.steady);
        Ok((info, self.members_of(&state)))
    }

    /// Renews the lease of `id`, which must belong to `key`. `is_ticketed` says whether the
    /// authority has handed `id` out to it; only asked where the books do not know.
    pub(crate) fn lease(
        &self,
        id: NodeId,
        key: &[u8; 32],
        draining: bool,
        is_ticketed: impl FnOnce() -> bool,
        now: Moment,
    ) -> Result<u64, ChangeError> {
        let mut state = self.fresh()?;
        self.heard_of(&mut state, id, key, is_ticketed, now)?;
        let entry = state.nodes.get(&id).ok_or(ChangeError::Unknown(id))?;
        if draining && entry.record.info.state == NodeState::Alive {
            let changed = with_state(&entry.record, NodeState::Draining);
            let revision = self.store.update(std::slice::from_ref(&changed))?;
            self.publish(&mut state, vec![changed], revision, now.steady);
        }
        Ok(state.revision)
    }

    /// The holder of `key` has asked for its start `id`, `now`: its lease begins anew.
    fn heard_of(
        &self,
        state: &mut State,
        id: NodeId,
        key: &[u8; 32],
        is_ticketed: impl FnOnce() -> bool,
        now: Moment,
    ) -> Result<(), ChangeError> {
        let entry = self.current(state, id, key, is_ticketed)?;
        if entry.record.info.state == NodeState::Lost {
            let changed = with_state(&entry.record, NodeState::Alive);
            let revision = self.store.update(std::slice::from_ref(&changed))?;
            self.publish(state, vec![changed], revision, now.steady);
        }
        let entry = state.nodes.get_mut(&id).ok_or(ChangeError::Unknown(id))?;
        // Requests that have waited for a disk come in any order.
        entry.until = entry.until.max(now.steady + self.lease);
        entry.record.info.last_seen = now.wall;
        Ok(())
    }

    /// Ends `id`'s presence, also of one that was lost: it may be back in a moment. If `key` is given, `id` must
    /// belong to it. Twice is as good as once.
    pub(crate) fn leave(
        &self,
        id: NodeId,
        key: Option<&[u8; 32]>,
        now: Moment,
    ) -> Result<NodeInfo, ChangeError> {
        let mut state = self.fresh()?;
        let entry = state.nodes.get(&id).ok_or(ChangeError::Unknown(id))?;
        if key.is_some_and(|key| entry.record.key != *key) {
            return Err(ChangeError::NotYours(id));
        }
        if entry.record.info.state == NodeState::Left {
            return Ok(shown(&entry.record));
        }
        let changed = with_state(&entry.record, NodeState::Left);
        let info = changed.info.clone();
        let revision = self.store.update(std::slice::from_ref(&changed))?;
        self.publish(&mut state, vec![changed], revision, now.steady);
        Ok(info)
    }

    /// Ends `id`'s presence, that of all starts with its key, and keeps the key from ever being a node
    /// again.
    pub(crate) fn remove(&self, id: NodeId, now: Moment) -> Result<NodeInfo, ChangeError> {
        let mut state = self.fresh()?;
        let entry = state.nodes.get(&id).ok_or(ChangeError::Unknown(id))?;
        let key = entry.record.key;
        // Lost ones too: they may be back in a moment.
        let is_gone = |entry: &Entry| entry.record.info.state == NodeState::Left;
        let changed: Vec<NodeRecord> = state
            .nodes
            .iter()
            .filter(|(other, entry)| **other == id || (entry.record.key == key && !is_gone(entry)))
            .map(|(_, entry)| with_state(&entry.record, NodeState::Left))
            .collect();
        let revision = self
            .store
            .remove_key(&key, &changed, now.wall.as_second())?;
        self.write_removed().insert(key);
        let info = with_state(&state.nodes[&id].record, NodeState::Left).info;
        self.publish_with(&mut state, changed, revision, now.steady, Some(key));
        Ok(info)
    }

    /// Whether an operator has removed the node with this key. Alone of all functions here it does
    /// not wait for a disk.
    pub(crate) fn is_removed(&self, key: &[u8; 32]) -> bool {
        self.read_removed().contains(key)
    }

    /// Whether these books, which do not know `id`, are older than it. An operator's removal counts for more.
    fn is_older_than(&self, id: NodeId, key: &[u8; 32]) -> Result<bool, StoreError> {
        Ok(!self.is_removed(key) && self.store.is_of_lost_books(id)?)
    }

    /// The id under which the holder of `key` is present as `name`, or will be when it is heard of.
    ///
    /// `ticketed` is the id that the authority has handed out to it, if it shows so: this start is answered as
    /// at its lease, and by no means with the id of another. Without it nothing tells the starts of a key
    /// apart, and the latest is meant.
    pub(crate) fn present_as(
        &self,
        name: &str,
        key: &[u8; 32],
        ticketed: Option<NodeId>,
    ) -> Result<NodeId, ChangeError> {
        let state = self.fresh()?;
        let id = ticketed.or_else(|| state.latest(name, key));
        let id = id.ok_or(ChangeError::Unknown(NodeId::STANDALONE))?;
        self.current(&state, id, key, || ticketed.is_some())?;
        Ok(id)
    }

    /// The start `id` of the holder of `key`, if it is present, or will be when it is heard of.
    fn current<'a>(
        &self,
        state: &'a State,
        id: NodeId,
        key: &[u8; 32],
        is_ticketed: impl FnOnce() -> bool,
    ) -> Result<&'a Entry, ChangeError> {
        let Some(entry) = state.nodes.get(&id) else {
            let is_old = is_ticketed() && self.is_older_than(id, key)?;
            return Err(if is_old {
                ChangeError::OldBooks(id)
            } else {
                ChangeError::Unknown(id)
            });
        };
        if entry.record.key != *key {
            return Err(ChangeError::NotYours(id));
        }
        if entry.record.info.state.is_present() {
            return Ok(entry);
        }
        match (state.replaced_by(id, entry), entry.record.info.state) {
            (Some(by), _) => Err(ChangeError::Replaced { id, by }),
            (None, NodeState::Left) => Err(ChangeError::Gone(id)),
            (None, NodeState::Lost | NodeState::Alive | NodeState::Draining) => Ok(entry),
        }
    }

    /// Everybody.
    pub(crate) fn members(&self) -> Members {
        self.members_of(&self.lock())
    }

    /// Everybody, and all changes from there on.
    pub(crate) fn watch(&self) -> (Members, broadcast::Receiver<WatchEvent>) {
        let state = self.lock();
        (self.members_of(&state), self.changes.subscribe())
    }

    /// Declares lost whose lease has run out. Called several times per lease.
    pub(crate) fn sweep(&self, now: Moment) -> Result<(), StoreError> {
        let mut state = self.fresh()?;
        let slept = now.steady.saturating_duration_since(state.swept_at);
        state.swept_at = now.steady;
        if slept > self.lease {
            // This process was stopped: nobody could renew, so nobody is to blame.
            let until = now.steady + self.lease;
            state
                .nodes
                .values_mut()
                .for_each(|entry| entry.until = entry.until.max(until));
            return Ok(());
        }
        let lost: Vec<NodeRecord> = state
            .nodes
            .values()
            .filter(|entry| entry.record.info.state.is_present() && entry.until <= now.steady)
            .map(|entry| with_state(&entry.record, NodeState::Lost))
            .collect();
        if !lost.is_empty() {
            let revision = self.store.update(&lost)?;
            self.publish(&mut state, lost, revision, now.steady);
        }
        self.forget_old(&mut state, now)
    }

    fn forget_old(&self, state: &mut State, now: Moment) -> Result<(), StoreError> {
        let gone = state.gone_before(now.wall.as_second() - HOUR_S);
        let excess = gone.len().saturating_sub(GONE_MAX);
        if excess > 0 {
            self.store.forget(&gone[..excess])?;
            state.nodes.retain(|id, _| !gone[..excess].contains(id));
        }
        Ok(())
    }

    fn publish(&self, state: &mut State, changed: Vec<NodeRecord>, revision: u64, now: Instant) {
        self.publish_with(state, changed, revision, now, None);
    }

    /// Puts what the store holds already into memory, and tells the watchers; with each change of the
    /// key that was removed by it.
    fn publish_with(
        &self,
        state: &mut State,
        changed: Vec<NodeRecord>,
        revision: u64,
        now: Instant,
        removed: Option<[u8; 32]>,
    ) {
        let first = revision + 1 - changed.len() as u64;
        for (revision, record) in (first..).zip(changed) {
            let node = shown(&record);
            tracing::info!(node = %node.id, name = %node.name, state = ?node.state, "membership");
            let id = id_of(&record);
            let until = state
                .nodes
                .get(&id)
                .map_or(now + self.lease, |entry| entry.until);
            state.nodes.insert(id, Entry { record, until });
            state.revision = revision;
            // Nobody listening is fine.
            let _ = self.changes.send(WatchEvent::Change {
                revision,
                node,
                removed: removed.map(|key| to_hex(&key)),
            });
        }
    }

    /// The state, as the store has it.
    fn fresh(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.lock();
        let faults = self.store.faults();
        if state.faults != faults {
            let (revision, records) = self.store.nodes()?;
            let now = Instant::now();
            let mut before = std::mem::take(&mut state.nodes);
            for mut record in records {
                let id = id_of(&record);
                let mut until = now + self.lease;
                if let Some(entry) = before.remove(&id) {
                    // These two live in memory only.
                    record.info.last_seen = entry.record.info.last_seen;
                    until = entry.until;
                }
                state.nodes.insert(id, Entry { record, until });
            }
            *self.write_removed() = self.store.removed_keys()?;
            (state.revision, state.faults) = (revision, faults);
            let _ = self
                .changes
                .send(WatchEvent::Snapshot(self.members_of(&state)));
        }
        Ok(state)
    }

    fn members_of(&self, state: &State) -> Members {
        let nodes = state
            .nodes
            .values()
            .map(|entry| shown(&entry.record))
            .collect();
        Members {
            revision: state.revision,
            nodes,
            removed: self.read_removed().iter().map(|key| to_hex(key)).collect(),
        }
    }

    fn read_removed(&self) -> RwLockReadGuard<'_, BTreeSet<[u8; 32]>> {
        self.removed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_removed(&self) -> RwLockWriteGuard<'_, BTreeSet<[u8; 32]>> {
        self.removed.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Memory follows the store, so a panic in between leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tags are for finding a node to place something on. One that is lost gets them back.
fn with_state(record: &NodeRecord, state: NodeState) -> NodeRecord {
    let mut record = record.clone();
    record.info.state = state;
    if state == NodeState::Left {
        record.info.tags = Tags::default();
    }
    record
}

/// What everybody may see of a node.
fn shown(record: &NodeRecord) -> NodeInfo {
    let mut info = record.info.clone();
    if !info.state.is_present() {
        info.tags = Tags::default();
    }
    info
}

fn id_of(record: &NodeRecord) -> NodeId {
    record.info.id.parse().expect("ids are ours")
}
