//! The process table: from local numbers to processes.
//!
//! Sharded by number, so that spawning on several workers does not meet at one lock. Numbers are
//! handed out in order and never again, which makes the number itself a good hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tidelock_proto::Pid;

use crate::process::Shared;
use crate::sync::{AtomicUsize, RwLock};

/// Parts of the table.
pub(crate) const PARTS: usize = 64;

#[derive(Default)]
pub(crate) struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Spread over the high bits too: the map takes its control bytes from them.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Hashes by the number, of a process or a pid.
pub(crate) type ByNumber = BuildHasherDefault<Number>;

type Shard = RwLock<HashMap<u64, Arc<Shared>, ByNumber>>;

pub(crate) struct Table {
    shards: Box<[Shard]>,
    len: AtomicUsize,
}

impl Table {
    pub(crate) fn new() -> Self {
        let shards = (0..PARTS).map(|_| Shard::default()).collect();
        Table {
            shards,
            len: AtomicUsize::new(0),
        }
    }

    fn shard(&self, pid: Pid) -> &Shard {
        &self.shards[usize::try_from(pid.local() % PARTS as u64).expect("below 64")]
    }

    /// Makes room for one more process; `false` at `max`. [`Table::remove`] of that process gives it back.
    pub(crate) fn reserve(&self, max: usize) -> bool {
        self.len
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |len| {
                (len < max).then_some(len + 1)
            })
            .is_ok()
    }

    /// Gives back the room of a process that is not made.
    pub(crate) fn give_back(&self) {
        self.len.fetch_sub(1, Ordering::Relaxed);
    }

    /// Enters a process there is room for.
    pub(crate) fn insert(&self, shared: Arc<Shared>) {
        let mut shard = self
            .shard(shared.pid)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shard.insert(shared.pid.local(), shared);
    }

    pub(crate) fn remove(&self, pid: Pid) {
        let mut shard = self
            .shard(pid)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if shard.remove(&pid.local()).is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn find(&self, pid: Pid) -> Option<Arc<Shared>> {
        let shard = self
            .shard(pid)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(&pid.local()).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Those of one of the [`PARTS`].
    pub(crate) fn part(&self, number: usize) -> Vec<Arc<Shared>> {
        let shard = self.shards[number].read();
        let shard = shard.unwrap_or_else(PoisonError::into_inner);
        shard.values().cloned().collect()
    }

    /// Everybody, by pid.
    pub(crate) fn all(&self) -> Vec<Arc<Shared>> {
        let mut all = Vec::with_capacity(self.len());
        for number in 0..PARTS {
            all.append(&mut self.part(number));
        }
        all.sort_by_key(|shared| shared.pid);
        all
    }
}
