//! Slots as the stacks of suspended guests: their guard, and what of them keeps its pages.
//!
//! A stack is deep once and shallow for long. What lies deeper than it is likely to need again goes back to the kernel:
//! of a free one, of one that rests between two calls, and of one whose guest waits.

#![allow(unsafe_code, reason = "guard pages, and wasmtime's traits")]

use std::cell::Cell;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use wasmtime::{StackCreator, StackMemory};

use super::pages::{discard, page_bytes, page_map, scan};
use super::{KIB, LOCAL, SLAB, STACK_SLOT_BYTES, STACKS, Slab, Slot};

/// Bytes at the top of a free stack which keep their pages.
pub(super) const WARM_STACK_BYTES: usize = 64 * KIB;
/// Every how many releases a stack is looked at for pages below `WARM_STACK_BYTES`. One that a thread does not keep for
/// itself is looked at in any case.
const STACK_TRIM_EVERY: u32 = 16;
/// Stacks which get a guard page by `mprotect`, two mappings each, where the kernel has no light guards.
const MPROTECT_GUARDS_MAX: usize = 4096;

thread_local! {
    /// The first stack that was made for the calls which this thread runs.
    pub(super) static MADE: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Slab {
    /// Makes the lowest page of a new stack slot fault.
    pub(super) fn guard(&self, base: usize) {
        const MADV_GUARD_INSTALL: libc::c_int = 102;
        static LIGHT: OnceLock<bool> = OnceLock::new();
        let install = || {
            // Worth it because: an overflow of host code on this stack ends the node instead of
            // writing into the neighbour's stack.
            // Sound because: the page is the lowest of a slot nobody uses yet.
            unsafe { libc::madvise(base as *mut _, page_bytes(), MADV_GUARD_INSTALL) == 0 }
        };
        let mut tried = false;
        let light = *LIGHT.get_or_init(|| {
            tried = true;
            install()
        });
        if light {
            if !tried {
                install();
            }
        } else if self.guards.fetch_add(1, Ordering::Relaxed) < MPROTECT_GUARDS_MAX {
            // Worth it and sound because: as above.
            unsafe { libc::mprotect(base as *mut _, page_bytes(), libc::PROT_NONE) };
        }
    }
}

/// Makes the stacks of suspended guests in slots.
pub(in crate::wasm) struct Stacks;

struct SlotStack(Slot);

impl Drop for SlotStack {
    fn drop(&mut self) {
        let look = LOCAL.try_with(|local| {
            let count = &mut local.borrow_mut().stack_releases;
            *count = count.wrapping_add(1);
            *count % STACK_TRIM_EVERY == 0
        });
        self.0.free.warm = WARM_STACK_BYTES / 4;
        if look.unwrap_or(true) {
            self.0.free.warm = trim_stack(self.0.free.base);
        }
    }
}

/// The stack that a store keeps for its next call, while no call is under way.
///
/// The first call of a store makes it. A call inside of a call has another one, which is gone before the first comes
/// back; the first one's goes back to the store, for as long as that lives (`last_fiber_stack` in wasmtime).
#[derive(Debug, Clone, Copy)]
pub(in crate::wasm) struct RestingStack {
    base: usize,
}

impl RestingStack {
    /// Runs the first calls of a store to their end, and notes the stack that was made for them, if any was.
    ///
    /// They are pinned by the caller: what a future is given by value it holds twice, from before it was begun and since.
    pub(in crate::wasm) async fn of<T>(
        mut calls: Pin<&mut impl Future<Output = T>>,
    ) -> (T, Option<Self>) {
        let mut made = None;
        let ended = std::future::poll_fn(|context| {
            // Whatever else this thread runs, it is not in here.
            MADE.set(made);
            let polled = calls.as_mut().poll(context);
            made = MADE.take();
            polled
        });
        let ended = ended.await;
        (ended, made.map(|base| Self { base }))
    }

    /// Gives its pages back to the kernel. The store must live, and no call of it be under way.
    pub(in crate::wasm) fn give_pages_back(self) {
        let start = self.base + page_bytes();
        // A refusal costs density only.
        let _ = discard(start, STACK_SLOT_BYTES - page_bytes());
    }
}

/// Bytes below a place in a function's frame that the rest of it may take, and whatever it calls to give pages back.
const UNDERFOOT: usize = 512;

/// Gives the pages back that lie below what is in use of the stack which the caller runs on, if that is the first of a
/// [store that rests](RestingStack::of): what a process did once, such as to start, was deeper than where it waits.
#[inline(never)]
pub(crate) fn give_unused_stack_back() {
    let here = 0u8;
    let here = std::ptr::from_ref(std::hint::black_box(&here)) as usize;
    let Some(base) = MADE
        .get()
        .filter(|base| (*base..base + STACK_SLOT_BYTES).contains(&here))
    else {
        return;
    };
    let start = base + page_bytes();
    let end = here.saturating_sub(UNDERFOOT) / page_bytes() * page_bytes();
    if start < end {
        // Nothing lives below the frame of the innermost function. A refusal costs density only.
        let _ = discard(start, end - start);
    }
}

/// Gives the deep part of a free stack back if it was ever used. How many bytes of the rest have pages.
pub(super) fn trim_stack(base: usize) -> usize {
    let start = base + page_bytes();
    let end = base + STACK_SLOT_BYTES;
    let deep = end - WARM_STACK_BYTES;
    let (mut touched, mut warm) = (false, 0);
    let told = page_map().is_some_and(|fd| {
        scan(fd, start, end - start, |region| {
            touched |= (region.start as usize) < deep;
            warm += (region.end as usize).saturating_sub(deep.max(region.start as usize));
            ControlFlow::Continue(())
        })
    });
    if touched || !told {
        discard(start, deep - start);
    }
    if told { warm } else { WARM_STACK_BYTES }
}

// Worth it because: this is how wasmtime takes stacks from elsewhere.
// Sound because: top and range lie in one slot, page-aligned, owned by this value alone until drop,
// which runs after the fiber on it has ended; the lowest page is left out as guard.
unsafe impl StackMemory for SlotStack {
    fn top(&self) -> *mut u8 {
        (self.0.free.base + STACK_SLOT_BYTES) as *mut u8
    }

    fn range(&self) -> Range<usize> {
        self.0.free.base + page_bytes()..self.0.free.base + STACK_SLOT_BYTES
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.0.free.base as *mut u8..(self.0.free.base + page_bytes()) as *mut u8
    }
}

// Worth it because: as above.
// Sound because: a larger stack than a slot holds is refused. A stack may hold bytes of an earlier
// one: only host code and compiled code see it, and neither reads what it did not write.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        if size > STACK_SLOT_BYTES {
            return Err(wasmtime::Error::msg("a stack larger than a slot"));
        }
        let slot = SLAB
            .take(STACKS)
            .map_err(|full| wasmtime::Error::msg(full.to_string()))?;
        MADE.set(MADE.get().or(Some(slot.free.base)));
        Ok(Box::new(SlotStack(slot)))
    }
}
