//! Where the memories and stacks of processes live: few mappings, cut into many slots.
//!
//! Promises:
//!
//! * A slot handed out reads as zero, whoever had it before (memories only; no guest can read a stack).
//! * A process starts and ends without changing the address space. Every `mmap`, `mprotect` or
//!   `munmap` stops all cores for a moment, so one of them per process costs more than the process.
//! * The kernel sees a handful of mappings, however many processes live.
//!
//! ```text
//! class 64 KiB │slot│slot│slot│…        chunk: one read-write, unreserved mapping
//! class   4 MiB│    slot    │    slot   │…
//! stacks  1 MiB│guard│  stack ▼ │guard│  stack ▼ │…
//!
//! fresh ──take──▶ taken ──release: zero what was touched──▶ warm ──(too many)──▶ cold
//!                   ▲                                         │                    │
//!                   └───────── take, last released first ─────┴────────────────────┘
//! ```
//!
//! What a process really touched is asked of the kernel (`PAGEMAP_SCAN`, Linux 6.7); elsewhere the
//! pages are given back instead. A stack has a guard page without a mapping of its own
//! (`MADV_GUARD_INSTALL`, Linux 6.13); elsewhere the first few thousand stacks get a protected page and
//! the rest rely on the compiled stack check, which stops a guest half a stack earlier.
//!
//! Guests are compiled with an explicit check of every access against the *current* size of their memory
//! (`Engine` sees to it), so the whole slot may stay readable and writable.
//!
//! Here is who has which slot. What the kernel is told and asked about pages is in [`pages`], what slots are used as in
//! [`memories`] and [`stacks`].

mod memories;
mod pages;
mod stacks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use self::memories::{Memories, MemorySlot};
use self::pages::{discard, map_chunk, page_bytes};
pub(super) use self::pages::{give_back, has_space, touched};
pub(crate) use self::stacks::give_unused_stack_back;
use self::stacks::trim_stack;
pub(super) use self::stacks::{RestingStack, Stacks};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const TIB: usize = 1 << 40;

/// Size of one stack slot, guard page included.
pub(super) const STACK_SLOT_BYTES: usize = MIB;

/// Slot sizes of memories, smallest first, each with the address space it may take.
const CLASSES: [(usize, usize); 9] = [
    (64 * KIB, TIB),
    (256 * KIB, TIB),
    (MIB, 4 * TIB),
    (4 * MIB, 8 * TIB),
    (16 * MIB, 16 * TIB),
    (64 * MIB, 16 * TIB),
    (256 * MIB, 16 * TIB),
    (GIB, 16 * TIB),
    (4 * GIB, 16 * TIB),
];
/// The stacks are one more class, after those of the memories.
const STACKS: usize = CLASSES.len();
const STACK_SPACE: usize = 8 * TIB;

/// Free slots a thread keeps for itself, per class.
const LOCAL_SLOTS_MAX: usize = 64;
/// Slots moved between a thread and the shared list at once.
const BATCH: usize = 32;
/// Bytes of the shared free slots which keep their pages; beyond it pages go back to the kernel.
const WARM_TOTAL_BYTES_MAX: usize = 512 * MIB;

/// No slot could be had: the class has no room left, or the kernel gave no address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no address space left for another process")]
pub(crate) struct SlabFull;

/// A slot nobody has: where it is, and how many bytes of it keep their pages.
#[derive(Debug, Clone, Copy)]
struct Free {
    base: usize,
    warm: usize,
}

/// A free list, and the part of the newest chunk that was never handed out.
#[derive(Default)]
struct Shelf {
    free: Vec<Free>,
    fresh: Range<usize>,
    mapped: usize,
}

struct Slab {
    shelves: [Mutex<Shelf>; STACKS + 1],
    guards: AtomicUsize,
    /// Bytes that keep their pages, over all shared lists.
    warm: AtomicUsize,
}

static SLAB: Slab = Slab {
    shelves: [const {
        Mutex::new(Shelf {
            free: Vec::new(),
            fresh: 0..0,
            mapped: 0,
        })
    }; STACKS + 1],
    guards: AtomicUsize::new(0),
    warm: AtomicUsize::new(0),
};

/// The free slots of one thread; they go to the shared lists when the thread ends.
#[derive(Default)]
struct Local {
    free: [Vec<Free>; STACKS + 1],
    stack_releases: u32,
}

impl Drop for Local {
    fn drop(&mut self) {
        for (class, free) in self.free.iter_mut().enumerate() {
            SLAB.give_back(class, free, 0);
        }
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

fn slot_bytes(class: usize) -> usize {
    if class == STACKS {
        STACK_SLOT_BYTES
    } else {
        CLASSES[class].0
    }
}

impl Slab {
    fn take(&self, class: usize) -> Result<Slot, SlabFull> {
        let local = LOCAL.try_with(|local| local.borrow_mut().free[class].pop());
        let free = match local.ok().flatten() {
            Some(free) => free,
            None => self.refill(class)?,
        };
        Ok(Slot { class, free })
    }

    /// Gives a slot for the one of its class which this thread released last, if that still has pages: its bytes are in
    /// the caches of this core, and whoever took `slot` may have been on another one, long ago.
    fn exchange(&self, mut slot: Slot) -> Slot {
        // At the end of a thread there is nothing to give it for.
        let _ = LOCAL.try_with(
            |local| match local.borrow_mut().free[slot.class].last_mut() {
                Some(last) if last.warm > 0 => std::mem::swap(last, &mut slot.free),
                _ => {}
            },
        );
        slot
    }

    fn shelf(&self, class: usize) -> MutexGuard<'_, Shelf> {
        self.shelves[class]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One slot for the caller, some more for the caller's thread.
    fn refill(&self, class: usize) -> Result<Free, SlabFull> {
        let bytes = slot_bytes(class);
        let mut shelf = self.shelf(class);
        if shelf.free.is_empty() {
            if shelf.fresh.is_empty() {
                map_chunk(class, &mut shelf)?;
            }
            let base = shelf.fresh.start;
            shelf.fresh.start += bytes;
            drop(shelf);
            if class == STACKS {
                self.guard(base);
            }
            return Ok(Free { base, warm: 0 });
        }
        let keep = shelf.free.len().saturating_sub(BATCH);
        let mut batch = shelf.free.split_off(keep);
        drop(shelf);
        let warm = batch.iter().map(|free| free.warm).sum();
        self.warm.fetch_sub(warm, Ordering::Relaxed);
        let free = batch.pop().expect("the list was not empty");
        let rest = LOCAL.try_with(|local| local.borrow_mut().free[class].append(&mut batch));
        if rest.is_err() {
            self.give_back(class, &mut batch, 0);
        }
        Ok(free)
    }

    fn release(&self, class: usize, free: Free) {
        let kept = LOCAL.try_with(|local| {
            let list = &mut local.borrow_mut().free[class];
            list.push(free);
            if list.len() > LOCAL_SLOTS_MAX {
                self.give_back(class, list, LOCAL_SLOTS_MAX - BATCH);
            }
        });
        if kept.is_err() {
            self.give_back(class, &mut vec![free], 0);
        }
    }

    /// Moves all but `keep` slots, oldest first, to the shared list.
    fn give_back(&self, class: usize, list: &mut Vec<Free>, keep: usize) {
        let mut moved: Vec<Free> = list.drain(..list.len().saturating_sub(keep)).collect();
        for free in &mut moved {
            if class == STACKS && free.warm > 0 {
                free.warm = trim_stack(free.base);
            }
            let total = self.warm.fetch_add(free.warm, Ordering::Relaxed) + free.warm;
            if total > WARM_TOTAL_BYTES_MAX && free.warm > 0 {
                let skip = if class == STACKS { page_bytes() } else { 0 };
                // A memory slot is all zero here, so giving its pages back changes no byte; a
                // failure costs memory only.
                let _ = discard(free.base + skip, slot_bytes(class) - skip);
                self.warm.fetch_sub(free.warm, Ordering::Relaxed);
                free.warm = 0;
            }
        }
        if !moved.is_empty() {
            self.shelf(class).free.extend(moved);
        }
    }
}

/// A slot nobody else has. Released as it is when dropped: whoever writes to it wipes it first.
#[derive(Debug)]
struct Slot {
    class: usize,
    free: Free,
}

impl Slot {
    fn bytes(&self) -> usize {
        slot_bytes(self.class)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        SLAB.release(self.class, self.free);
    }
}
