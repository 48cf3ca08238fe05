//! What the kernel is told and asked about pages: to map some, to take some back, which ones were touched.
//!
//! Whoever calls owns the slot that the pages are of. The guard of a stack is no page of anybody's: see `stacks`.

#![allow(unsafe_code, reason = "pages come from the kernel")]

use std::ops::{ControlFlow, Range};
use std::os::fd::RawFd;
use std::sync::OnceLock;

use super::{CLASSES, KIB, MIB, STACK_SPACE, STACKS, Shelf, SlabFull, slot_bytes};

/// Bytes of one free memory slot which keep their pages.
const WARM_BYTES_MAX: usize = 128 * KIB;
/// Stretches of one memory whose pages are given back one by one; with one more, so is all that follows it, at once.
pub(super) const DISCARDS_MAX: usize = 32;

pub(super) fn page_bytes() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // Worth it because: the guard must be one page of this machine.
        // Sound because: sysconf only reads.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(4096)
    })
}

/// Maps address space for more slots of one class.
pub(super) fn map_chunk(class: usize, shelf: &mut Shelf) -> Result<(), SlabFull> {
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
pub(in crate::wasm) fn has_space(bytes: usize) -> bool {
    // Sound because: the mapping that was just made, which nobody has seen.
    map(bytes, libc::PROT_NONE).is_some_and(|base| unsafe { libc::munmap(base, bytes) == 0 })
}

/// Gives pages back; they read as zero afterwards. False when the kernel refused (locked memory).
pub(super) fn discard(start: usize, len: usize) -> bool {
    #[cfg(test)]
    super::tests::DISCARDS.set(super::tests::DISCARDS.get() + 1);
    // Worth it because: only the kernel can take pages back.
    // Sound because: callers pass page-aligned parts of a slot which they own.
    unsafe { libc::madvise(start as *mut _, len, libc::MADV_DONTNEED) == 0 }
}

pub(super) fn fill_zero(start: usize, len: usize) {
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
pub(super) struct PageRegion {
    pub(super) start: u64,
    pub(super) end: u64,
    categories: u64,
}

/// Calls `f` with every stretch of touched pages in a range, in memory or swapped out, until it says that it has seen
/// enough. False when the kernel cannot say; `f` may have seen some of them.
pub(super) fn scan(
    fd: RawFd,
    start: usize,
    len: usize,
    f: impl FnMut(PageRegion) -> ControlFlow<()>,
) -> bool {
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
pub(super) fn page_map() -> Option<RawFd> {
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
pub(super) fn wipe(start: usize, len: usize, map: Option<RawFd>) -> usize {
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

/// Names each stretch of a memory that has pages of its own, until `f` has seen enough: whether all were named. They are
/// not if some lie in swap, where they take no memory, or the kernel cannot say. It looks no further than it has to, to find
/// one page more than `max` bytes have.
pub(in crate::wasm) fn touched(
    memory: &[u8],
    max: usize,
    mut f: impl FnMut(Range<usize>) -> bool,
) -> bool {
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
pub(in crate::wasm) fn give_back(pages: &mut [u8]) -> bool {
    let (start, page) = (pages.as_ptr() as usize, page_bytes());
    start.is_multiple_of(page) && pages.len().is_multiple_of(page) && discard(start, pages.len())
}
