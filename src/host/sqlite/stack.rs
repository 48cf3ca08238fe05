//! How deep the thread of a database may go: the end of its stack is the end of the node.
//!
//! SQLite looks at a query by calling itself, for each query within it and each view it names. Its limits bound each of these
//! by itself and not their product. So the stack itself is watched at two places that lie on every such way down: where
//! SQLite asks for memory, and where it asks whether a statement may do what it says (`permit` in `bounds.rs`). Beyond
//! [`DEEP_BYTES`] the one has none and the other refuses; the statement fails, and the database goes on.
//!
//! What walks a tree that is already made asks for nothing. No tree is deeper than what made it could go, though, and
//! [`STACK_BYTES`] leaves such walks sixteen times what making it took: what stands for a view's column is put in place of it
//! by calls of some hundred bytes for each level, and compiled by calls of a few times that.
//!
//! A page that was touched once stays with its thread, and no bound on SQLite's memory counts it. So after each request
//! that went deep the thread gives the pages of its stack back, but for the first few ([`give_back`]). Between two requests
//! that leaves each thread 256 KiB at the most: sixteen times [`SHALLOW_BYTES`]. Elsewhere than on Linux they stay.

#![allow(
    unsafe_code,
    reason = "SQLite is told in C which allocator it has, whose two functions only refuse or pass on; and the kernel is told \
              which pages of a stack are free"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi;

/// Bytes of a thread's stack: address space, of which the pages that a statement needs are taken.
pub(super) const STACK_BYTES: usize = 32 << 20;
/// Bytes of the stack beyond which SQLite gets no memory and no permission.
const DEEP_BYTES: usize = 2 << 20;
/// Bytes of the stack that were seen in use, up to which nothing is given back.
const SHALLOW_BYTES: usize = 16 << 10;
/// Bytes below whoever gives pages back that stay: most statements need no more.
#[cfg(target_os = "linux")]
const KEPT_BYTES: usize = 64 << 10;

thread_local! {
    /// An address at the beginning of this thread's stack, if it is watched.
    static BEGINNING: Cell<Option<usize>> = const { Cell::new(None) };
    /// How many bytes of it were seen in use since pages were given back.
    static DEEPEST: Cell<usize> = const { Cell::new(0) };
}

/// An address in the frame of a call, or near it.
#[inline(never)]
fn here() -> usize {
    let place = 0_u8;
    black_box(ptr::from_ref(&place)).addr()
}

/// From here on, this thread's stack is watched.
pub(super) fn watch() {
    BEGINNING.set(Some(here()));
    #[cfg(target_os = "linux")]
    pages::find();
}

/// Whether the watched stack of this thread is nearer to its end than it should come.
pub(super) fn is_deep() -> bool {
    let Some(beginning) = BEGINNING.get() else {
        return false;
    };
    // Stacks grow downwards wherever this runs; `abs_diff` does not mind.
    let depth = beginning.abs_diff(here());
    DEEPEST.set(DEEPEST.get().max(depth));
    depth > DEEP_BYTES
}

/// Gives the pages of this thread's watched stack back to the kernel if it was seen deep, but for the first few.
pub(super) fn give_back() {
    if DEEPEST.replace(0) > SHALLOW_BYTES {
        #[cfg(target_os = "linux")]
        pages::give_back();
    }
}

/// Where the stack of a thread ends, and its pages.
#[cfg(target_os = "linux")]
mod pages {
    use std::cell::Cell;
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::{KEPT_BYTES, here};

    thread_local! {
        /// The lowest page of this thread's stack, if it is known.
        static LOWEST: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Notes where this thread's stack ends.
    pub(super) fn find() {
        LOWEST.set(lowest());
    }

    fn lowest() -> Option<usize> {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: it fills the place it is given, or answers that it has not.
        let code =
            unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) };
        if code != 0 {
            return None;
        }
        let (mut end, mut bytes, mut guard) = (ptr::null_mut(), 0, 0);
        // SAFETY: these read what was filled above, each writes to the places it is given, and the last one ends it.
        let codes = unsafe {
            [
                libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut end, &raw mut bytes),
                libc::pthread_attr_getguardsize(attributes.as_ptr(), &raw mut guard),
                libc::pthread_attr_destroy(attributes.as_mut_ptr()),
            ]
        };
        // Some versions count the guard in.
        let lowest = (end.addr() + guard).next_multiple_of(rustix::param::page_size());
        let is_mine = (lowest..end.addr() + bytes).contains(&here());
        (codes == [0; 3] && is_mine).then_some(lowest)
    }

    pub(super) fn give_back() {
        let Some(lowest) = LOWEST.get() else {
            return;
        };
        let page = rustix::param::page_size();
        let kept = here().saturating_sub(KEPT_BYTES) / page * page;
        if lowest < kept {
            let start = ptr::without_provenance_mut(lowest);
            // SAFETY: whole pages of this thread's own stack, above its guard and well below all frames there are. What
            // they hold was left behind by calls that are over; whoever is called next finds zeros in its place.
            unsafe { libc::madvise(start, kept - lowest, libc::MADV_DONTNEED) };
            // Pages that are locked in memory the kernel does not take; they stay.
        }
    }

    /// Bytes of this thread's stack below an address that have a page.
    #[cfg(test)]
    pub(super) fn resident_bytes(beginning: usize) -> usize {
        let page = rustix::param::page_size();
        let lowest = LOWEST.get().expect("the stack is watched");
        let bytes = beginning / page * page - lowest;
        let mut pages = vec![0_u8; bytes / page];
        let start = ptr::without_provenance_mut(lowest);
        // SAFETY: it writes a byte for each of these pages, all of which are there, and looks at none.
        let code = unsafe { libc::mincore(start, bytes, pages.as_mut_ptr()) };
        assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
        page * pages.iter().filter(|page| **page & 1 == 1).count()
    }
}

/// Bytes of this thread's watched stack that have a page.
#[cfg(all(test, target_os = "linux"))]
pub(super) fn resident_bytes() -> usize {
    pages::resident_bytes(BEGINNING.get().expect("the stack is watched"))
}

type Alloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// SQLite's own allocator.
static OWN: OnceLock<(Alloc, Realloc)> = OnceLock::new();

extern "C" fn alloc(bytes: c_int) -> *mut c_void {
    match OWN.get() {
        // SAFETY: SQLite's own function, called as SQLite called this one in its place.
        Some((alloc, _)) if !is_deep() => unsafe { alloc(bytes) },
        _ => ptr::null_mut(),
    }
}

unsafe extern "C" fn realloc(block: *mut c_void, bytes: c_int) -> *mut c_void {
    match OWN.get() {
        // SAFETY: as above; `block` comes from the same allocator, since this one only refuses.
        Some((_, realloc)) if !is_deep() => unsafe { realloc(block, bytes) },
        _ => ptr::null_mut(),
    }
}

/// Lets SQLite ask [`is_deep`] before it takes memory. Has an effect before the program's first connection; what comes
/// later changes nothing.
///
/// # Errors
///
/// What SQLite says. It is as it was.
pub(super) fn install() -> Result<(), String> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        let done = |what: &str, code: c_int| match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(format!("SQLite does not let its memory be {what}: {code}")),
        };
        let mut methods = ffi::sqlite3_mem_methods {
            xMalloc: None,
            xFree: None,
            xRealloc: None,
            xSize: None,
            xRoundup: None,
            xInit: None,
            xShutdown: None,
            pAppData: ptr::null_mut(),
        };
        let asked = &raw mut methods;
        // SAFETY: this option takes a pointer to such a struct and fills it. No other thread uses SQLite before this is
        // done: `open` is the only way to it, and waits here.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, asked) };
        done("asked for", code)?;
        let (Some(own_alloc), Some(own_realloc)) = (methods.xMalloc, methods.xRealloc) else {
            return Err("SQLite has no allocator".to_owned());
        };
        // Nobody else sets it.
        OWN.get_or_init(|| (own_alloc, own_realloc));
        methods.xMalloc = Some(alloc);
        methods.xRealloc = Some(realloc);
        // SAFETY: this option takes a pointer to such a struct and copies it. The functions live as long as the program, keep
        // what SQLite demands of them, and differ from its own in that they may refuse, which each may do at any time.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods) };
        done("watched", code)
    })
    .clone()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;

    use super::*;

    /// Uses so many bytes of the stack, and has that seen.
    #[inline(never)]
    fn go_down(bytes: usize) -> usize {
        let frame = black_box([1_u8; 4096]);
        let below = match bytes.checked_sub(frame.len()) {
            Some(rest) => go_down(rest),
            None => usize::from(is_deep()),
        };
        // Not before the calls below are over.
        below + usize::from(black_box(&frame)[0])
    }

    #[test]
    fn pages_that_were_deep_are_given_back_and_the_first_ones_stay() {
        let bytes = 1 << 20;
        let goes_deep = move || {
            watch();
            go_down(bytes);
            let deep = resident_bytes();
            give_back();
            let rest = resident_bytes();
            // It goes there as before.
            go_down(bytes);
            (deep, rest, resident_bytes())
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let (deep, rest, again) = thread.spawn(goes_deep).unwrap().join().unwrap();
        assert!(deep >= bytes && again >= bytes, "{deep}, {again}");
        assert!((KEPT_BYTES / 2..=2 * KEPT_BYTES).contains(&rest), "{rest}");
    }

    #[test]
    fn nothing_is_given_back_by_who_was_not_seen_deep() {
        let goes_deep = || {
            go_down(1 << 20);
            watch();
            let before = resident_bytes();
            is_deep();
            give_back();
            (before, resident_bytes())
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let (before, after) = thread.spawn(goes_deep).unwrap().join().unwrap();
        assert_eq!(before, after);
    }
}
