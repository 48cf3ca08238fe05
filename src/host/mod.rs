//! What guests may call, one file per namespace of `docs/abi.md`.
//!
//! Promises:
//!
//! * Every pointer and length is checked against the memory's size at that moment. A wrong one traps, and
//!   the trap names the function and the argument.
//! * A trap ends the calling process and nothing else.
//! * A call that waits suspends its own process only; dropping the process's task while it waits loses no
//!   message and leaves no half-made link.
//! * Whatever an unmodified program of the Lunatic guest library imports is there.
//!
//! ```text
//! guest ──import──▶ thin function here ──▶ State: scratch message, tables of modules, configs, errors
//!                    checks, converts  └──▶ Context: send, receive, link, spawn (process.rs)
//! ```
//!
//! Functions that never wait are plain calls, about 4 ns; the others cost 30 ns more even when they are
//! ready at once, so sending and receiving have a form that does not wait (`mail.rs`).

mod certificates;
mod directories;
mod distributed;
mod error;
mod mail;
mod message;
mod metrics;
mod networking;
mod output;
mod process;
mod registry;
mod sqlite;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod tidelock;
mod timer;
mod trap;
mod version;
mod wasi;

use wasmtime::Error;

pub(crate) use directories::{Directories, Origin};
pub use metrics::{GuestMetrics, snapshot as guest_metrics};
pub use output::Stdio;
pub(crate) use state::State;

type Caller<'a> = wasmtime::Caller<'a, State>;
type Linker = wasmtime::Linker<State>;
type Result<T> = wasmtime::Result<T>;

/// The code of a call that ended by its timeout.
const TIMED_OUT: u32 = 9027;
/// What a receive that never waits answers when it would have to look at more than it does in one call.
const TOO_MANY: u32 = 9028;
/// Functions of a guest that its own calls call, inside each other: each takes a stack of its own. One more traps.
const DEPTH_MAX: u32 = 32;

/// Defines every import.
pub(crate) fn link(linker: &mut Linker) -> Result<()> {
    wasi::link(linker)?;
    process::link(linker)?;
    message::link(linker)?;
    timer::link(linker)?;
    registry::link(linker)?;
    error::link(linker)?;
    trap::link(linker)?;
    version::link(linker)?;
    metrics::link(linker)?;
    distributed::link(linker)?;
    networking::link(linker)?;
    certificates::link(linker)?;
    sqlite::link(linker)?;
    mail::link(linker)?;
    tidelock::link(linker)
}

/// Defines functions which answer at once.
macro_rules! sync {
    ($linker:ident, $space:literal; $($name:literal => $function:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $linker.func_wrap($space, $name, |caller: Caller<'_>, $($arg: $ty),*| {
            $function(Call::new(caller, concat!($space, "::", $name)), $($arg),*)
        })?;
    )*};
}

/// Defines functions which may suspend the process.
macro_rules! waits {
    ($linker:ident, $space:literal; $($name:literal => $function:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $linker.func_wrap_async($space, $name, |mut caller: Caller<'_>, ($($arg,)*): ($($ty,)*)| {
            // A guest that waits now and then is not one that only computes.
            caller.data_mut().busy_ticks = 0;
            Box::new($function(Call::new(caller, concat!($space, "::", $name)), $($arg),*))
        })?;
    )*};
}

pub(crate) use {sync, waits};

/// One call of one host function.
struct Call<'a> {
    caller: Caller<'a>,
    name: &'static str,
}

impl<'a> Call<'a> {
    fn new(caller: Caller<'a>, name: &'static str) -> Self {
        Self { caller, name }
    }

    fn state(&mut self) -> &mut State {
        self.caller.data_mut()
    }

    /// The error that ends the calling process, naming the function.
    fn trap(&self, text: impl std::fmt::Display) -> Error {
        trap_in(self.name, text)
    }

    /// The guest's memory, if it has one.
    fn memory(&mut self) -> Option<wasmtime::Memory> {
        self.caller.data().memory().or_else(|| {
            // In a start function, before the instance is known.
            let export = self.caller.get_export("memory");
            export.and_then(wasmtime::Extern::into_memory)
        })
    }

    /// The guest's memory and the state beside it.
    fn parts(&mut self) -> Result<(&mut [u8], &mut State)> {
        match self.memory() {
            Some(memory) => Ok(memory.data_and_store_mut(&mut self.caller)),
            None => Err(self.trap("the module has no export \"memory\"")),
        }
    }

    fn outside(&self, arg: &str, ptr: u32, len: u64) -> Error {
        outside(self.name, arg, ptr, len)
    }

    /// Bytes of the guest.
    fn bytes(&mut self, arg: &str, ptr: u32, len: u32) -> Result<&[u8]> {
        let name = self.name;
        let range = ptr as usize..ptr as usize + len as usize;
        let bytes = self.parts()?.0.get(range);
        bytes.ok_or_else(|| outside(name, arg, ptr, u64::from(len)))
    }

    /// UTF-8 text of the guest.
    fn text(&mut self, arg: &str, ptr: u32, len: u32) -> Result<String> {
        match std::str::from_utf8(self.bytes(arg, ptr, len)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.trap(format_args!("{arg}: not UTF-8"))),
        }
    }

    /// Writes bytes into the guest's memory.
    fn put(&mut self, arg: &str, ptr: u32, bytes: &[u8]) -> Result<()> {
        let range = ptr as usize..ptr as usize + bytes.len();
        match self.parts()?.0.get_mut(range) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(self.outside(arg, ptr, bytes.len() as u64)),
        }
    }

    /// Checks that an answer of `len` bytes will fit, before anything is done that it answers.
    fn room(&mut self, arg: &str, ptr: u32, len: u32) -> Result<()> {
        self.bytes(arg, ptr, len).map(drop)
    }

    fn put_u64(&mut self, arg: &str, ptr: u32, value: u64) -> Result<()> {
        self.put(arg, ptr, &value.to_le_bytes())
    }

    fn put_u32(&mut self, arg: &str, ptr: u32, value: u32) -> Result<()> {
        self.put(arg, ptr, &value.to_le_bytes())
    }

    /// Counts a function of the guest that this call is about to call, until [`Call::ascend`].
    fn descend(&mut self) -> Result<()> {
        if self.state().depth == DEPTH_MAX {
            return Err(self.trap(format_args!("more than {DEPTH_MAX} inside each other")));
        }
        self.state().depth += 1;
        Ok(())
    }

    fn ascend(&mut self) {
        self.state().depth -= 1;
    }

    /// Copies bytes into memory that the guest's `lunatic_alloc` gives, writes their length, and returns the
    /// pointer. The guest frees them.
    async fn give(&mut self, arg: &str, len_ptr: u32, bytes: &[u8]) -> Result<u32> {
        const ALLOC: &str = "lunatic_alloc";
        let len = u32::try_from(bytes.len()).map_err(|_| self.trap("more than 4 GiB"))?;
        self.room(arg, len_ptr, 4)?;
        let export = self.caller.get_export(ALLOC);
        let Some(export) = export.and_then(wasmtime::Extern::into_func) else {
            return Err(self.trap(format_args!(
                "the module has no exported function {ALLOC:?}"
            )));
        };
        let export = export
            .typed::<u32, u32>(&self.caller)
            .map_err(|_| self.trap(format_args!("{ALLOC:?} is not (i32) -> i32")))?;
        self.descend()?;
        let ptr = export.call_async(&mut self.caller, len).await;
        self.ascend();
        let ptr = ptr?;
        self.put("what lunatic_alloc gave", ptr, bytes)?;
        self.put_u32(arg, len_ptr, len)?;
        Ok(ptr)
    }

    /// Keeps an error for the guest and writes its id.
    fn put_error(&mut self, arg: &str, ptr: u32, text: impl ToString) -> Result<()> {
        let id = self
            .state()
            .errors
            .insert(tidelock_proto::bounded(text.to_string()));
        let id = id.map_err(|full| self.trap(full))?;
        self.put_u64(arg, ptr, id)
    }
}

/// The error that ends the process which calls this function.
fn trap_in(function: &str, text: impl std::fmt::Display) -> Error {
    Error::msg(format!("{function}: {text}"))
}

fn outside(function: &str, arg: &str, ptr: u32, len: u64) -> Error {
    trap_in(
        function,
        format_args!("{arg}: {len} bytes at {ptr} are outside of the memory"),
    )
}

/// The moment a timeout in milliseconds ends; None: never.
fn deadline(timeout_ms: u64) -> Option<tokio::time::Instant> {
    // So far ahead that timers overflow is never, too.
    if timeout_ms >= 1 << 45 {
        return None;
    }
    let timeout = std::time::Duration::from_millis(timeout_ms);
    tokio::time::Instant::now().checked_add(timeout)
}
