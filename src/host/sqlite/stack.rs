//! How deep the thread of a database may go: the end of its stack is the end of the node.
//!
//! SQLite looks at a query by calling itself, for each query within it and each view it names. Its limits bound each of these
//! by itself and not their product. So the stack itself is watched at two places that lie on every such way down: where
//! SQLite asks for memory, and where it asks whether a statement may do what it says (`permit` in `connection.rs`). Beyond
//! [`DEEP_BYTES`] the one has none and the other refuses; the statement fails, and the database goes on.
//!
//! What walks a tree that is already made asks for nothing. No tree is deeper than what made it could go, though, and
//! [`STACK_BYTES`] leaves such walks sixteen times what making it took: what stands for a view's column is put in place of it
//! by calls of some hundred bytes for each level, and compiled by calls of a few times that.

#![allow(
    unsafe_code,
    reason = "SQLite is told in C which allocator it has; whose two functions only refuse or pass on"
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

thread_local! {
    /// An address at the beginning of this thread's stack, if it is watched.
    static BEGINNING: Cell<Option<usize>> = const { Cell::new(None) };
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
}

/// Whether the watched stack of this thread is nearer to its end than it should come.
pub(super) fn is_deep() -> bool {
    // Stacks grow downwards wherever this runs; `abs_diff` does not mind.
    BEGINNING
        .get()
        .is_some_and(|beginning| beginning.abs_diff(here()) > DEEP_BYTES)
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
