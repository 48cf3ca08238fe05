//! Memories for tests of what is done with their pages.
//!
//! Tests of other files have a whole memory by them, of which they see the bytes and nothing else.

#![allow(unsafe_code, reason = "the bytes of a memory lie in its slot")]

use wasmtime::LinearMemory;

use super::memories::{MemorySlot, SlotMemory};
use super::pages::page_map;

pub(crate) struct Memory(SlotMemory);

pub(crate) fn memory(size: usize) -> Memory {
    Memory(slot_memory(size, size))
}

pub(super) fn slot_memory(size: usize, max: usize) -> SlotMemory {
    let slot = MemorySlot::take(size, max).unwrap().0;
    SlotMemory { slot, size }
}

impl Memory {
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // Sound because: the slot is this value's, and mapped for that size.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.size) }
    }
}

/// Whether this kernel says which pages were touched.
pub(crate) fn can_tell() -> bool {
    page_map().is_some()
}
