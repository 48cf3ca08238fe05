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

type Processes = HashMap<u64, Arc<Shared>, ByNumber>;

/// On one cache line, and alone there: those beside it are locked by other cores at the same time.
#[derive(Default)]
#[repr(align(64))]
struct Shard(RwLock<Processes>);

/// Changed by each beginning and end of a process. What lies beside it is read with each message, on all cores, so it
/// has cache lines of its own; two, since processors fetch pairs of them.
#[repr(align(128))]
struct Len(AtomicUsize);

pub(crate) struct Table {
    shards: Box<[Shard]>,
    len: Len,
}

impl Table {
    pub(crate) fn new() -> Self {
        let shards = (0..PARTS).map(|_| Shard::default()).collect();
        Table {
            shards,
            len: Len(AtomicUsize::new(0)),
        }
    }

    fn shard(&self, pid: Pid) -> &RwLock<Processes> {
        &self.shards[usize::try_from(pid.local() % PARTS as u64).expect("below 64")].0
    }

    /// Makes room for one more process; `false` at `max`. [`Table::remove`] of that process gives it back.
    pub(crate) fn reserve(&self, max: usize) -> bool {
        let more = |len: usize| (len < max).then_some(len + 1);
        let len = &self.len.0;
        len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Gives back the room of a process that is not made.
    pub(crate) fn give_back(&self) {
        self.len.0.fetch_sub(1, Ordering::Relaxed);
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
            self.len.0.fetch_sub(1, Ordering::Relaxed);
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
        self.len.0.load(Ordering::Relaxed)
    }

    /// Those of one of the [`PARTS`].
    pub(crate) fn part(&self, number: usize) -> Vec<Arc<Shared>> {
        let shard = self.shards[number].0.read();
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

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// What one core changes is on no cache line that others look at for something else.
    #[test]
    fn shards_and_the_count_share_no_cache_line() {
        assert_eq!(align_of::<Shard>(), 64);
        // Those of the model are larger.
        #[cfg(not(feature = "loom"))]
        assert_eq!(size_of::<Shard>(), 64);
        let line = |at: usize| at / 128;
        let shards = offset_of!(Table, shards);
        assert_eq!(offset_of!(Table, len) % 128, 0);
        assert_ne!(line(shards), line(offset_of!(Table, len)));
        assert_eq!(align_of::<Table>(), 128);
    }
}
