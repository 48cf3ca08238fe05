//! Slots as linear memories: taken before a process runs, made a memory when it starts, zero when they come back.
//!
//! wasmtime asks for a memory while an instance is made, without saying for whom; so the slot that was taken for it is
//! offered by the thread that makes the instance (`OFFER`).

#![allow(unsafe_code, reason = "wasmtime's traits for memories are unsafe")]

use std::cell::Cell;

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::pages::{page_bytes, page_map, wipe};
use super::{CLASSES, SLAB, SlabFull, Slot};

thread_local! {
    pub(super) static OFFER: Cell<Option<Slot>> = const { Cell::new(None) };
}

/// Room for the memory of one process, taken before the process runs.
#[derive(Debug)]
pub(in crate::wasm) struct MemorySlot(pub(super) Slot);

impl MemorySlot {
    /// Takes a slot which holds `min` bytes and, if there is address space for it, `max` bytes.
    ///
    /// When the class for `max` is used up a smaller one is given, so that one more process can
    /// start; its memory then stops growing earlier.
    pub(in crate::wasm) fn take(min: usize, max: usize) -> Result<Self, SlabFull> {
        let largest = CLASSES.len() - 1;
        let wanted = CLASSES
            .iter()
            .position(|&(bytes, _)| bytes >= max)
            .unwrap_or(largest);
        for class in (0..=wanted).rev() {
            if CLASSES[class].0 < min {
                break;
            }
            if let Ok(slot) = SLAB.take(class) {
                return Ok(Self(slot));
            }
        }
        Err(SlabFull)
    }

    /// Bytes the memory can grow to.
    pub(in crate::wasm) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Gives the slot to the next memory made by this thread, which the caller causes at once: this one, or one like it.
    pub(in crate::wasm) fn offer(self) {
        OFFER.set(Some(SLAB.exchange(self.0)));
    }
}

/// Makes linear memories in slots.
pub(in crate::wasm) struct Memories;

pub(super) struct SlotMemory {
    pub(super) slot: Slot,
    pub(super) size: usize,
}

impl Drop for SlotMemory {
    fn drop(&mut self) {
        // A memory never shrinks, and compiled code checks every access against its size, so nothing
        // above `size` was ever written.
        let len = self.size.next_multiple_of(page_bytes());
        self.slot.free.warm = wipe(self.slot.free.base, len, page_map());
    }
}

// Worth it because: this is how wasmtime takes memory from elsewhere.
// Sound because: the slot is mapped, readable, writable and zero for its whole size, never moves, and
// belongs to this value alone until drop, which runs after the instance is gone.
unsafe impl LinearMemory for SlotMemory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.slot.bytes()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > self.slot.bytes() {
            return Err(wasmtime::Error::msg("the memory's slot is full"));
        }
        self.size = self.size.max(new_size);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.free.base as *mut u8
    }
}

// Worth it because: as above.
// Sound because: a request for reserved or guarded space, which slots do not have, is refused.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved.unwrap_or(0) != 0 || guard != 0 {
            return Err("slots have neither reserved nor guarded space".into());
        }
        let slot = match OFFER.take().filter(|slot| slot.bytes() >= minimum) {
            Some(slot) => slot,
            None => {
                let max = maximum.unwrap_or(usize::MAX);
                MemorySlot::take(minimum, max)
                    .map_err(|full| full.to_string())?
                    .0
            }
        };
        Ok(Box::new(SlotMemory {
            slot,
            size: minimum,
        }))
    }
}
