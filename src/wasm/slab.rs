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

#![allow(unsafe_code, reason = "memory for guests comes from mmap")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType, StackCreator, StackMemory};

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
/// Bytes of one free memory slot which keep their pages.
const WARM_BYTES_MAX: usize = 128 * KIB;
/// Stretches of one memory whose pages are given back one by one; with one more, so is all that follows it, at once.
const DISCARDS_MAX: usize = 32;
/// Bytes at the top of a free stack which keep their pages.
const WARM_STACK_BYTES: usize = 64 * KIB;
/// Every how many releases a stack is looked at for pages below `WARM_STACK_BYTES`. One that a thread does not keep for
/// itself is looked at in any case.
const STACK_TRIM_EVERY: u32 = 16;
/// Stacks which get a guard page by `mprotect`, two mappings each, where the kernel has no light guards.
const MPROTECT_GUARDS_MAX: usize = 4096;

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
    static OFFER: Cell<Option<Slot>> = const { Cell::new(None) };
    /// The first stack that was made for the calls which this thread runs.
    static MADE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn slot_bytes(class: usize) -> usize {
    if class == STACKS {
        STACK_SLOT_BYTES
    } else {
        CLASSES[class].0
    }
}

fn page_bytes() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // Worth it because: the guard must be one page of this machine.
        // Sound because: sysconf only reads.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(4096)
    })
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

    /// Makes the lowest page of a new stack slot fault.
    fn guard(&self, base: usize) {
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

/// Maps address space for more slots of one class.
fn map_chunk(class: usize, shelf: &mut Shelf) -> Result<(), SlabFull> {
    let bytes = slot_bytes(class);
    let space = if class == STACKS {
        STACK_SPACE
    } else {
        CLASSES[class].1
    };
    let many = (64 * bytes).max(256 * MIB);
    for chunk in [many, bytes] {
        if shelf.mapped + chunk > space {
            continue;
        }
        // One mapping holds the slots of thousands of processes.
        let Some(base) = map(chunk, libc::PROT_READ | libc::PROT_WRITE) else {
            continue;
        };
        // Worth it because: a huge page would cost 2 MiB per small process, and a core dump should
        // not hold what guests know.
        // Sound because: advice on the mapping made above; a refusal costs density only.
        unsafe {
            libc::madvise(base, chunk, libc::MADV_NOHUGEPAGE);
            libc::madvise(base, chunk, libc::MADV_DONTDUMP);
        }
        shelf.mapped += chunk;
        shelf.fresh = base as usize..base as usize + chunk;
        return Ok(());
    }
    Err(SlabFull)
}

/// Address space of this program's own, at an address the kernel chose. None: there is not so much.
fn map(bytes: usize, protection: libc::c_int) -> Option<*mut libc::c_void> {
    // Worth it because: memory for guests comes from the kernel, and is given back to it page by page.
    // Sound because: a fresh anonymous private mapping overlaps nothing that is in use.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    (base != libc::MAP_FAILED).then_some(base)
}

/// Whether the kernel would give this program so much address space now. What wasmtime maps by itself is refused when
/// it is too late to do without.
pub(super) fn has_space(bytes: usize) -> bool {
    // Sound because: the mapping that was just made, which nobody has seen.
    map(bytes, libc::PROT_NONE).is_some_and(|base| unsafe { libc::munmap(base, bytes) == 0 })
}

/// Gives pages back; they read as zero afterwards. False when the kernel refused (locked memory).
fn discard(start: usize, len: usize) -> bool {
    #[cfg(test)]
    tests::DISCARDS.set(tests::DISCARDS.get() + 1);
    // Worth it because: only the kernel can take pages back.
    // Sound because: callers pass page-aligned parts of a slot which they own.
    unsafe { libc::madvise(start as *mut _, len, libc::MADV_DONTNEED) == 0 }
}

fn fill_zero(start: usize, len: usize) {
    // Worth it because: zeroing a touched page in place is cheaper than faulting a new one in.
    // Sound because: callers pass a mapped, writable part of a slot which they own.
    unsafe { std::ptr::write_bytes(start as *mut u8, 0, len) };
}

// ---- what was touched ----------------------------------------------------------------------------------

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// `struct pm_scan_arg` of the kernel.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// Calls `f` with every stretch of touched pages in a range, in memory or swapped out, until it says that it has seen
/// enough. False when the kernel cannot say; `f` may have seen some of them.
fn scan(fd: RawFd, start: usize, len: usize, f: impl FnMut(PageRegion) -> ControlFlow<()>) -> bool {
    scan_some(fd, start, len, 0, f)
}

/// As [`scan`]; `f` hears of so many touched pages at the most before the kernel looks further. 0: of any number.
fn scan_some(
    fd: RawFd,
    start: usize,
    len: usize,
    max_pages: u64,
    mut f: impl FnMut(PageRegion) -> ControlFlow<()>,
) -> bool {
    const PAGEMAP_SCAN: u64 = 0xC060_6610;
    let mut regions = [PageRegion::default(); 32];
    let end = (start + len) as u64;
    let mut at = start as u64;
    while at < end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: 0,
            start: at,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages,
            // Neither the shared zero page …
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            // … nor a hole; a page in swap still has its bytes.
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        };
        // Worth it because: a process touches a few pages of a large slot; zeroing all of it costs
        // ten times the spawn.
        // Sound because: the kernel writes at most `vec_len` regions and the argument itself.
        let found = unsafe { libc::ioctl(fd, PAGEMAP_SCAN as _, &mut arg) };
        let Ok(found) = usize::try_from(found) else {
            return false;
        };
        for &region in &regions[..found.min(regions.len())] {
            if f(region).is_break() {
                return true;
            }
        }
        if arg.walk_end <= at {
            return false;
        }
        at = arg.walk_end;
    }
    true
}

/// The open page map, if this kernel can scan it.
fn page_map() -> Option<RawFd> {
    static FD: OnceLock<Option<RawFd>> = OnceLock::new();
    *FD.get_or_init(|| {
        // Worth it because: see `scan`.
        // Sound because: a constant path; the descriptor stays open for the life of the program.
        let fd = unsafe {
            libc::open(
                c"/proc/self/pagemap".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        (fd >= 0 && scan_works(fd)).then_some(fd)
    })
}

/// Touches one page of three and expects the kernel to name exactly that one: a kernel or sandbox which answers
/// wrongly must be noticed before any process relies on it.
fn scan_works(fd: RawFd) -> bool {
    let page = page_bytes();
    let len = 3 * page;
    let Some(base) = map(len, libc::PROT_READ | libc::PROT_WRITE) else {
        return false;
    };
    let start = base as usize;
    // Sound because: the second of three mapped pages.
    unsafe { ((start + page) as *mut u8).write_volatile(1) };
    let mut seen = Vec::new();
    let told = scan(fd, start, len, |r| {
        seen.push((r.start as usize, r.end as usize));
        ControlFlow::Continue(())
    });
    // Sound because: the mapping made above, not used afterwards.
    unsafe { libc::munmap(base, len) };
    told && seen == [(start + page, start + 2 * page)]
}

/// Makes `len` bytes at `start` read as zero, keeping few pages; how many bytes keep theirs.
fn wipe(start: usize, len: usize, map: Option<RawFd>) -> usize {
    if len == 0 {
        return 0;
    }
    let (mut kept, mut discards) = (0, 0);
    let told = map.is_some_and(|fd| {
        let mut failed = false;
        let told = scan(fd, start, len, |region| {
            let (at, bytes) = (region.start as usize, (region.end - region.start) as usize);
            let swapped = region.categories & PAGE_IS_PRESENT == 0;
            if !swapped && kept + bytes <= WARM_BYTES_MAX {
                kept += bytes;
                fill_zero(at, bytes);
                return ControlFlow::Continue(());
            }
            discards += 1;
            let is_last = discards > DISCARDS_MAX;
            failed |= !discard(at, if is_last { start + len - at } else { bytes });
            match is_last || failed {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        told && !failed
    });
    if !told {
        kept = 0;
        if !discard(start, len) {
            fill_zero(start, len);
        }
    }
    kept
}

// ---- slots ---------------------------------------------------------------------------------------------

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

/// Room for the memory of one process, taken before the process runs.
#[derive(Debug)]
pub(super) struct MemorySlot(Slot);

impl MemorySlot {
    /// Takes a slot which holds `min` bytes and, if there is address space for it, `max` bytes.
    ///
    /// When the class for `max` is used up a smaller one is given, so that one more process can
    /// start; its memory then stops growing earlier.
    pub(super) fn take(min: usize, max: usize) -> Result<Self, SlabFull> {
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
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Gives the slot to the next memory made by this thread, which the caller causes at once: this one, or one like it.
    pub(super) fn offer(self) {
        OFFER.set(Some(SLAB.exchange(self.0)));
    }
}

/// Names each stretch of a memory that has pages of its own, until `f` has seen enough: whether all were named. They are
/// not if some lie in swap, where they take no memory, or the kernel cannot say. It looks no further than it has to, to find
/// one page more than `max` bytes have.
pub(super) fn touched(memory: &[u8], max: usize, mut f: impl FnMut(Range<usize>) -> bool) -> bool {
    let start = memory.as_ptr() as usize;
    let Some(fd) = page_map().filter(|_| start.is_multiple_of(page_bytes())) else {
        return false;
    };
    let mut all = true;
    let pages = (max / page_bytes() + 1) as u64;
    let told = scan_some(fd, start, memory.len(), pages, |region| {
        let stretch = region.start as usize - start..region.end as usize - start;
        all = region.categories & PAGE_IS_PRESENT != 0 && f(stretch);
        match all {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    told && all
}

/// Gives whole pages of a memory in a slot back: they read as zero from here on. False when the kernel refused; then they
/// are as they were.
pub(super) fn give_back(pages: &mut [u8]) -> bool {
    let (start, page) = (pages.as_ptr() as usize, page_bytes());
    start.is_multiple_of(page) && pages.len().is_multiple_of(page) && discard(start, pages.len())
}

/// Makes linear memories in slots.
pub(super) struct Memories;

struct SlotMemory {
    slot: Slot,
    size: usize,
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

/// Makes the stacks of suspended guests in slots.
pub(super) struct Stacks;

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
pub(super) struct RestingStack {
    base: usize,
}

impl RestingStack {
    /// Runs the first calls of a store to their end, and notes the stack that was made for them, if any was.
    ///
    /// They are pinned by the caller: what a future is given by value it holds twice, from before it was begun and since.
    pub(super) async fn of<T>(mut calls: Pin<&mut impl Future<Output = T>>) -> (T, Option<Self>) {
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
    pub(super) fn give_pages_back(self) {
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
fn trim_stack(base: usize) -> usize {
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

/// Memories for tests of what is done with their pages.
#[cfg(test)]
pub(crate) mod testing {
    use super::{MemorySlot, SlotMemory, page_map};
    use wasmtime::LinearMemory;

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
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::testing::slot_memory as memory;
    use super::*;

    thread_local! {
        /// How often this thread gave pages back.
        pub(super) static DISCARDS: Cell<usize> = const { Cell::new(0) };
    }

    #[expect(clippy::mut_from_ref, reason = "each test owns its memories")]
    fn bytes(memory: &SlotMemory) -> &mut [u8] {
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_capacity()) }
    }

    #[test]
    fn no_byte_passes_from_owner_to_owner() {
        for (round, size) in [64 * KIB, 3 * 64 * KIB, MIB, 9 * MIB]
            .into_iter()
            .enumerate()
        {
            for touch in [1, 7, 40, size / 4096] {
                let memory = memory(size, size);
                let step = (size / touch).max(1);
                for at in (0..size).step_by(step) {
                    bytes(&memory)[at] = 0xA5;
                }
                bytes(&memory)[size - 1] = round as u8 + 1;
                let base = memory.slot.free.base;
                drop(memory);
                let next = self::memory(64 * KIB, size);
                assert_eq!(next.slot.free.base, base, "last released, first taken");
                assert!(
                    bytes(&next).iter().all(|&b| b == 0),
                    "a byte leaked in round {round}"
                );
            }
        }
    }

    #[test]
    fn a_memory_is_made_where_the_last_one_of_its_thread_was() {
        if page_map().is_none() {
            // A free slot has no pages then, and none is better than another.
            return;
        }
        let offered = || {
            let slot = OFFER.take().expect("it was offered");
            SlotMemory { slot, size: MIB }
        };
        // Taken ahead, as for processes that wait for their turn.
        let ahead: Vec<_> = (0..3)
            .map(|_| MemorySlot::take(MIB, MIB).unwrap())
            .collect();
        let first = memory(MIB, MIB);
        let base = first.slot.free.base;
        bytes(&first)[0] = 1;
        drop(first);
        for slot in ahead {
            slot.offer();
            let memory = offered();
            assert_eq!(memory.slot.free.base, base);
            assert_eq!(bytes(&memory)[0], 0);
            bytes(&memory)[0] = 1;
        }
        // Nothing was written: there is nothing to be had from it, and the one that was taken serves.
        let mut untouched = MemorySlot::take(64 * KIB, 64 * KIB).unwrap();
        untouched.0.free.warm = 0;
        let taken = MemorySlot::take(64 * KIB, 64 * KIB).unwrap();
        let base = taken.0.free.base;
        drop(untouched);
        taken.offer();
        assert_eq!(OFFER.take().expect("it was offered").free.base, base);
    }

    #[test]
    fn wiping_needs_no_page_map() {
        let memory = memory(MIB, MIB);
        bytes(&memory)[..MIB].fill(1);
        wipe(memory.slot.free.base, MIB, None);
        assert!(bytes(&memory)[..MIB].iter().all(|&b| b == 0));
        bytes(&memory)[..MIB].fill(1);
        // A descriptor which is no page map: the scan fails and the fall-back does the work.
        wipe(memory.slot.free.base, MIB, Some(-1));
        assert!(bytes(&memory)[..MIB].iter().all(|&b| b == 0));
    }

    #[test]
    fn scattered_pages_beyond_one_scan_are_wiped() {
        let memory = memory(4 * MIB, 4 * MIB);
        // 512 separate stretches: far more than one call reports.
        for at in (0..4 * MIB).step_by(2 * page_bytes()) {
            bytes(&memory)[at] = 1;
        }
        let before = DISCARDS.get();
        wipe(memory.slot.free.base, 4 * MIB, page_map());
        assert!(bytes(&memory).iter().all(|&b| b == 0));
        let discards = DISCARDS.get() - before;
        assert!(discards <= DISCARDS_MAX + 1, "{discards} calls");
    }

    /// Pages that were touched in a range.
    fn pages(fd: RawFd, start: usize, len: usize) -> usize {
        let mut pages = 0;
        assert!(scan(fd, start, len, |region| {
            pages += (region.end - region.start) as usize / page_bytes();
            ControlFlow::Continue(())
        }));
        pages
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let all: Vec<SlotMemory> = (0..200).map(|_| memory(64 * KIB, 64 * KIB)).collect();
        for (i, memory) in all.iter().enumerate() {
            bytes(memory).fill(i as u8 + 1);
        }
        for (i, memory) in all.iter().enumerate() {
            assert!(bytes(memory).iter().all(|&b| b == i as u8 + 1));
        }
    }

    #[test]
    fn classes_follow_the_maximum() {
        assert_eq!(MemorySlot::take(0, 1).unwrap().bytes(), 64 * KIB);
        assert_eq!(
            MemorySlot::take(0, 64 * KIB + 1).unwrap().bytes(),
            256 * KIB
        );
        assert_eq!(MemorySlot::take(5, usize::MAX).unwrap().bytes(), 4 * GIB);
        assert!(MemorySlot::take(5 * GIB, usize::MAX).is_err());
    }

    #[test]
    fn a_stack_that_rests_keeps_no_page_and_is_still_a_stack() {
        let Some(fd) = page_map() else {
            return;
        };
        let calls = async {
            let make = || Stacks.new_stack(MIB, false).unwrap();
            let (first, inside) = (make(), make());
            tokio::task::yield_now().await;
            (first, [inside, make()])
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let ((first, inside), resting) = runtime.block_on(RestingStack::of(pin!(calls)));
        let touched = |stack: &dyn StackMemory| pages(fd, stack.range().start, stack.range().len());
        let write = |stack: &dyn StackMemory| {
            let last = (stack.top() as usize - 8) as *mut u64;
            unsafe { last.write_volatile(7) };
        };
        write(&*first);
        inside.iter().for_each(|stack| write(&**stack));
        let others = || [touched(&*inside[0]), touched(&*inside[1])];
        let before = others();
        assert!(touched(&*first) >= 1 && before.iter().all(|pages| *pages >= 1));
        resting.expect("one was made").give_pages_back();
        assert_eq!((touched(&*first), others()), (0, before));
        write(&*first);
        assert_eq!(touched(&*first), 1);
    }

    #[tokio::test]
    async fn a_stack_keeps_no_page_below_what_is_in_use() {
        let Some(fd) = page_map() else {
            return;
        };
        let mut config = wasmtime::Config::new();
        config.with_host_stack(std::sync::Arc::new(Stacks));
        config.async_stack_size(STACK_SLOT_BYTES - (16 << 10));
        let engine = wasmtime::Engine::new(&config).unwrap();
        let mut linker = wasmtime::Linker::new(&engine);
        let defined = linker.func_wrap_async("host", "waits", move |_, (gives,): (u32,)| {
            Box::new(async move {
                if gives == 1 {
                    give_unused_stack_back();
                }
                tokio::task::yield_now().await;
                let base = MADE.get().expect("it runs on one");
                let len = STACK_SLOT_BYTES - page_bytes();
                u32::try_from(pages(fd, base + page_bytes(), len)).unwrap()
            })
        });
        defined.unwrap();
        let text = r#"(module
            (import "host" "waits" (func $waits (param i32) (result i32)))
            (func $deep (param i32) (result i32)
                (if (result i32) (local.get 0)
                    (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
                    (else (i32.const 0))))
            (func (export "run") (param $gives i32) (result i32)
                (local $sum i32)
                (local.set $sum (call $deep (i32.const 3000)))
                (i32.add (i32.sub (local.get $sum) (i32.const 3000)) (call $waits (local.get $gives)))))"#;
        let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = linker.instantiate_async(&mut store, &module).await.unwrap();
        let run = instance.get_typed_func::<u32, u32>(&mut store, "run");
        let run = run.unwrap();
        let calls = async {
            let kept = run.call_async(&mut store, 0).await.unwrap();
            (kept, run.call_async(&mut store, 1).await.unwrap())
        };
        let ((kept, given), _) = RestingStack::of(pin!(calls)).await;
        assert!(kept > 10, "{kept}");
        assert!(given < 10, "{given} of {kept}");
        // Not on a stack of a store.
        give_unused_stack_back();
    }

    #[test]
    fn slots_released_by_a_thread_that_ended_are_used_again() {
        let base = std::thread::spawn(|| memory(16 * MIB, 16 * MIB).slot.free.base)
            .join()
            .unwrap();
        let found = (0..100)
            .map(|_| memory(16 * MIB, 16 * MIB))
            .collect::<Vec<_>>();
        assert!(found.iter().any(|memory| memory.slot.free.base == base));
    }

    #[test]
    fn a_stack_for_other_threads_keeps_no_deep_page_and_the_rest_is_counted() {
        let Some(fd) = page_map() else {
            return;
        };
        let slab = Slab {
            shelves: std::array::from_fn(|_| Mutex::default()),
            guards: AtomicUsize::new(0),
            warm: AtomicUsize::new(0),
        };
        let stack = SLAB.take(STACKS).unwrap();
        let (start, len) = (stack.free.base + page_bytes(), MIB - page_bytes());
        fill_zero(start, len);
        let free = Free {
            base: stack.free.base,
            warm: WARM_STACK_BYTES / 4,
        };
        slab.give_back(STACKS, &mut vec![free], 0);
        assert_eq!(pages(fd, start, len) * page_bytes(), WARM_STACK_BYTES);
        assert_eq!(slab.warm.load(Ordering::Relaxed), WARM_STACK_BYTES);
    }

    #[test]
    fn stacks_are_writable_above_their_guard() {
        let stack = Stacks.new_stack(MIB, false).unwrap();
        let range = stack.range();
        assert_eq!(range.end, stack.top() as usize);
        assert_eq!(stack.guard_range().end as usize, range.start);
        fill_zero(range.start, range.len());
        trim_stack(range.start - page_bytes());
        fill_zero(range.end - 64, 64);
    }
}
