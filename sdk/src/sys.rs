//! The imports, and one safe function for each.
//!
//! This is the only file with `unsafe` in it. Every import that takes an address gets it
//! from a reference that lives across the call, with the length that belongs to it, or the spare
//! room of a vector, which is counted as filled only as far as the host has written it; the
//! host checks both against the memory and traps otherwise. No import keeps an address.

#![allow(unsafe_code, reason = "calls of imports are unsafe by nature")]

use std::io::Write;
use std::string::FromUtf8Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::waits::Waits;

mod process {
    #[link(wasm_import_module = "lunatic::process")]
    unsafe extern "C" {
        pub(super) safe fn process_id() -> u64;
        pub(super) safe fn sleep_ms(milliseconds: i64);
        pub(super) safe fn die_when_link_dies(die: u32);
        pub(super) safe fn kill(pid: u64);
        pub(super) safe fn exists(pid: u64) -> u32;
    }
}

mod message {
    #[link(wasm_import_module = "lunatic::message")]
    unsafe extern "C" {
        pub(super) safe fn create_data(tag: i64, capacity: u64);
        pub(super) fn write_data(data: *const u8, length: usize) -> usize;
        pub(super) safe fn get_tag() -> i64;
        pub(super) safe fn send(pid: u64) -> u32;
    }
}

mod timer {
    #[link(wasm_import_module = "lunatic::timer")]
    unsafe extern "C" {
        pub(super) safe fn send_after(pid: u64, delay: i64) -> u64;
        pub(super) safe fn cancel_timer(timer: u64) -> u32;
    }
}

mod registry {
    #[link(wasm_import_module = "lunatic::registry")]
    unsafe extern "C" {
        pub(super) fn put(name: *const u8, length: usize, node: u64, pid: u64);
        pub(super) fn get(name: *const u8, length: usize, node: *mut u64, pid: *mut u64) -> u32;
        pub(super) fn remove(name: *const u8, length: usize);
    }
}

mod error {
    #[link(wasm_import_module = "lunatic::error")]
    unsafe extern "C" {
        pub(super) safe fn string_size(error: u64) -> usize;
        pub(super) fn to_string(error: u64, text: *mut u8);
        pub(super) safe fn drop(error: u64);
    }
}

mod distributed {
    #[link(wasm_import_module = "lunatic::distributed")]
    unsafe extern "C" {
        pub(super) safe fn nodes_count() -> u32;
        pub(super) fn get_nodes(nodes: *mut u64, length: usize) -> u32;
        pub(super) safe fn node_id() -> u64;
        pub(super) safe fn module_id() -> u64;
    }
}

mod tidelock {
    use super::Found;

    #[link(wasm_import_module = "tidelock")]
    unsafe extern "C" {
        #[allow(clippy::too_many_arguments)]
        pub(super) fn spawn(
            node: u64,
            link: i64,
            config: i64,
            module: i64,
            name: *const u8,
            name_length: usize,
            parameters: *const u8,
            parameters_length: usize,
            timeout: i64,
            id: *mut u64,
        ) -> i32;
        pub(super) fn link(pid: u64, tag: i64, timeout: i64, error: *mut u64) -> i32;
        pub(super) safe fn unlink(pid: u64, timeout: i64) -> i32;
        pub(super) safe fn monitor(pid: u64) -> u64;
        pub(super) safe fn demonitor(reference: u64);
        pub(super) safe fn monitor_node(node: u64) -> u64;
        pub(super) safe fn died_pid() -> u64;
        pub(super) safe fn died_ref() -> u64;
        pub(super) fn exit_reason(text: *mut u8, length: usize) -> usize;
        pub(super) safe fn exit_code() -> i32;
        pub(super) fn log(text: *const u8, length: usize);
        pub(super) fn handle(name: *const u8, length: usize, function: usize, state: u64);
        pub(super) fn try_send(pid: u64, tag: i64, data: *const u8, length: usize) -> i32;
        pub(super) fn try_receive(
            tags: *const i64,
            tags_length: usize,
            data: *mut u8,
            length: usize,
            found: *mut Found,
        ) -> i32;
        pub(super) fn receive(
            tags: *const i64,
            tags_length: usize,
            timeout: i64,
            data: *mut u8,
            length: usize,
            found: *mut Found,
        ) -> i32;
        #[allow(clippy::too_many_arguments)]
        pub(super) fn request(
            pid: u64,
            tag: i64,
            data: *const u8,
            length: usize,
            reply_tag: i64,
            timeout: i64,
            reply: *mut u8,
            reply_length: usize,
            found: *mut Found,
        ) -> i32;
        pub(super) fn take_data(data: *mut u8, length: usize, found: *mut Found);
    }
}

/// No error was stored: the host writes ids counted from 0.
const NO_ERROR: u64 = u64::MAX;

/// An exported function and its name, as the host starts it for [`spawn_by_index`].
const TRAMPOLINE: &str = "_tidelock_spawn_by_index";

/// The first function of a spawned process: calls the function at an index of the table.
#[unsafe(export_name = "_tidelock_spawn_by_index")]
extern "C" fn spawn_trampoline(index: usize, argument: u64) {
    // SAFETY: `spawn_by_index` alone names this export and passes an index that was a
    // `fn(u64)` of this same module, and equal modules have equal tables. Whoever names it by
    // hand with another index gets a trap from the check that Wasm makes at indirect calls.
    let entry = unsafe { std::mem::transmute::<usize, fn(u64)>(index) };
    entry(argument);
    // `main` would do this on its way out; this process does not pass there. A broken
    // stdout is no failure of the process.
    let _ = std::io::stdout().flush();
}

/// Starts a function of this module in a new process. `Err` holds the host's code and words.
pub(crate) fn spawn_by_index(
    node: u64,
    link: i64,
    entry: fn(u64),
    argument: u64,
    timeout: i64,
) -> Result<u64, (i32, String)> {
    let index = entry as usize;
    let mut parameters = [0; 34];
    parameters[0] = 0x7f;
    parameters[1..5].copy_from_slice(&(index as u32).to_le_bytes());
    parameters[17] = 0x7e;
    parameters[18..26].copy_from_slice(&argument.to_le_bytes());
    spawn_export(node, link, TRAMPOLINE, &parameters, timeout)
}

/// Starts an export of this module; `parameters` are records of 17 bytes, as the host reads them.
pub(crate) fn spawn_export(
    node: u64,
    link: i64,
    name: &str,
    parameters: &[u8],
    timeout: i64,
) -> Result<u64, (i32, String)> {
    let mut id = NO_ERROR;
    // SAFETY: see the module.
    let code = unsafe {
        tidelock::spawn(
            node,
            link,
            -1,
            -1,
            name.as_ptr(),
            name.len(),
            parameters.as_ptr(),
            parameters.len(),
            timeout,
            &mut id,
        )
    };
    if code == 0 {
        Ok(id)
    } else {
        Err((code, take_error(id)))
    }
}

/// The export that the host calls with each message for [`handle`].
const HANDLER: &str = "_tidelock_handle";

/// Takes the kind of what is in the slot; `false` is its last word.
type Handler = Box<dyn FnMut(i32) -> bool>;

/// Calls the handler at an address; other than 0 is its last word. The second number is not needed here.
#[unsafe(export_name = "_tidelock_handle")]
extern "C" fn handle_trampoline(kind: i32, _: usize, address: u64) -> i32 {
    let handler = std::ptr::with_exposed_provenance_mut::<Handler>(address as usize);
    // SAFETY: `handle` alone names this export, with the address of a box that it has leaked. Nobody else
    // has it: a process does one thing after the other, and a handler is not called while it runs.
    let goes_on = unsafe { (*handler)(kind) };
    if !goes_on {
        // SAFETY: as above; the host calls no more after this answer.
        drop(unsafe { Box::from_raw(handler) });
        // As at the end of a spawned process's function.
        let _ = std::io::stdout().flush();
    }
    i32::from(!goes_on)
}

/// From the return of the process's first function on, the host calls `handler` with the kind of each
/// thing it puts into the slot, until the answer is `false`.
pub(crate) fn handle(handler: impl FnMut(i32) -> bool + 'static) {
    let handler: Box<Handler> = Box::new(Box::new(handler));
    let address = Box::into_raw(handler).expose_provenance() as u64;
    // SAFETY: see the module.
    unsafe { tidelock::handle(HANDLER.as_ptr(), HANDLER.len(), 0, address) };
}

/// Links. `Err` holds the host's code and words.
pub(crate) fn link(pid: u64, tag: i64, timeout: i64) -> Result<(), (i32, String)> {
    let mut error = NO_ERROR;
    // SAFETY: see the module.
    match unsafe { tidelock::link(pid, tag, timeout, &mut error) } {
        0 => Ok(()),
        code => Err((code, take_error(error))),
    }
}

/// Takes the words of an error and lets the host forget it.
fn take_error(id: u64) -> String {
    if id == NO_ERROR {
        return String::new();
    }
    let mut text = vec![0; error::string_size(id)];
    // SAFETY: see the module; the host writes `string_size` bytes.
    unsafe { error::to_string(id, text.as_mut_ptr()) };
    error::drop(id);
    String::from_utf8_lossy(&text).into_owned()
}

/// Puts a message in the slot, ready to be sent.
pub(crate) fn write_message(tag: i64, bytes: &[u8]) {
    message::create_data(tag, bytes.len() as u64);
    // SAFETY: see the module.
    unsafe { message::write_data(bytes.as_ptr(), bytes.len()) };
}

/// Sends. Most messages need one call; the others wait, in the slot.
pub(crate) fn send(pid: u64, tag: i64, bytes: &[u8]) {
    // SAFETY: see the module.
    if unsafe { tidelock::try_send(pid, tag, bytes.as_ptr(), bytes.len()) } != 0 {
        write_message(tag, bytes);
        message::send(pid);
    }
}

/// What the host says of a received message.
#[repr(C)]
#[derive(Default)]
struct Found {
    tag: i64,
    size: u64,
}

/// What the host answers when a time limit passed.
pub(crate) const TIMED_OUT: i32 = 9027;

/// What it answers when more waits than one call that never waits looks at.
const TOO_MANY: i32 = 9028;
/// More bytes than these are never set aside for a message that has not come yet.
const ROOM_MAX: usize = 4 << 10;

/// How large the last message was. One of the same size comes with one call, into a vector that fits it.
static ROOM: AtomicUsize = AtomicUsize::new(0);

/// The kind of what was received, and the tag and the bytes if it is 0. Of another kind, the slot holds it.
pub(crate) type Kind = (i32, i64, Vec<u8>);

/// Has a host function receive into a vector, which it is told the place and the room of.
fn into_vector(receive: impl FnOnce(*mut u8, usize, *mut Found) -> i32) -> Kind {
    let mut bytes = Vec::with_capacity(ROOM.load(Ordering::Relaxed));
    let mut found = Found::default();
    let kind = receive(bytes.as_mut_ptr(), bytes.capacity(), &mut found);
    if kind == 0 {
        filled(&mut bytes, &mut found);
    }
    (kind, found.tag, bytes)
}

/// Whether receives look first, or wait at once.
static WAITS: Waits = Waits::new();

/// Receives.
pub(crate) fn receive(tags: &[i64], timeout: i64) -> Kind {
    into_vector(|data, room, found| {
        let (tags, length) = (tags.as_ptr(), tags.len());
        if timeout == 0 || WAITS.looks_first() {
            // SAFETY: see the module.
            let kind = unsafe { tidelock::try_receive(tags, length, data, room, found) };
            match kind {
                TIMED_OUT if timeout != 0 => WAITS.found_nothing(),
                TOO_MANY => {}
                kind => {
                    if kind != TIMED_OUT {
                        WAITS.found_something();
                    }
                    return kind;
                }
            }
        }
        // SAFETY: see the module.
        unsafe { tidelock::receive(tags, length, timeout, data, room, found) }
    })
}

/// Sends, and receives the answer.
pub(crate) fn request(pid: u64, tag: i64, bytes: &[u8], reply_tag: i64, timeout: i64) -> Kind {
    into_vector(|data, room, found| {
        let (sent, length) = (bytes.as_ptr(), bytes.len());
        // SAFETY: see the module.
        unsafe {
            tidelock::request(
                pid, tag, sent, length, reply_tag, timeout, data, room, found,
            )
        }
    })
}

/// The tag and the bytes of the received message in the slot.
pub(crate) fn take_message() -> (i64, Vec<u8>) {
    let (_, tag, bytes) = into_vector(|data, room, found| {
        // SAFETY: see the module.
        unsafe { tidelock::take_data(data, room, found) };
        0
    });
    (tag, bytes)
}

/// Makes the vector what was found: the host has written all of it, or left it in the slot for want of room.
fn filled(bytes: &mut Vec<u8>, found: &mut Found) {
    if found.size as usize > bytes.capacity() {
        bytes.reserve_exact(found.size as usize);
        // SAFETY: see the module. There is room now, so nothing stays in the slot.
        unsafe { tidelock::take_data(bytes.as_mut_ptr(), bytes.capacity(), found) };
    }
    let size = found.size as usize;
    // SAFETY: the host has written so many bytes; what it has not written is not looked at.
    unsafe { bytes.set_len(size) };
    if bytes.capacity() / 4 > size {
        bytes.shrink_to_fit();
    }
    ROOM.store(size.min(ROOM_MAX), Ordering::Relaxed);
}

pub(crate) fn tag() -> i64 {
    message::get_tag()
}

pub(crate) fn send_after(pid: u64, delay: i64) -> u64 {
    timer::send_after(pid, delay)
}

pub(crate) fn cancel_timer(timer: u64) -> bool {
    timer::cancel_timer(timer) == 1
}

pub(crate) fn process_id() -> u64 {
    process::process_id()
}

pub(crate) fn sleep(milliseconds: i64) {
    process::sleep_ms(milliseconds);
}

pub(crate) fn die_when_link_dies(die: bool) {
    process::die_when_link_dies(u32::from(die));
}

pub(crate) fn kill(pid: u64) {
    process::kill(pid);
}

pub(crate) fn exists(pid: u64) -> bool {
    process::exists(pid) == 1
}

pub(crate) fn registry_put(name: &str, node: u64, pid: u64) {
    // SAFETY: see the module.
    unsafe { registry::put(name.as_ptr(), name.len(), node, pid) };
}

pub(crate) fn registry_get(name: &str) -> Option<u64> {
    let (mut node, mut pid) = (0, 0);
    // SAFETY: see the module.
    let found = unsafe { registry::get(name.as_ptr(), name.len(), &mut node, &mut pid) };
    (found == 0).then_some(pid)
}

pub(crate) fn registry_remove(name: &str) {
    // SAFETY: see the module.
    unsafe { registry::remove(name.as_ptr(), name.len()) };
}

pub(crate) fn nodes_count() -> u32 {
    distributed::nodes_count()
}

/// Fills `nodes` as far as there are any; returns how many were written.
pub(crate) fn get_nodes(nodes: &mut [u64]) -> u32 {
    // SAFETY: see the module; the host counts in ids, not bytes.
    unsafe { distributed::get_nodes(nodes.as_mut_ptr(), nodes.len()) }
}

pub(crate) fn node_id() -> u64 {
    distributed::node_id()
}

pub(crate) fn module_id() -> u64 {
    distributed::module_id()
}

pub(crate) fn unlink(pid: u64, timeout: i64) -> i32 {
    tidelock::unlink(pid, timeout)
}

pub(crate) fn monitor(pid: u64) -> u64 {
    tidelock::monitor(pid)
}

pub(crate) fn demonitor(reference: u64) {
    tidelock::demonitor(reference);
}

pub(crate) fn monitor_node(node: u64) -> u64 {
    tidelock::monitor_node(node)
}

pub(crate) fn died_pid() -> u64 {
    tidelock::died_pid()
}

pub(crate) fn died_reference() -> u64 {
    tidelock::died_ref()
}

pub(crate) fn exit_code() -> i32 {
    tidelock::exit_code()
}

/// The reason of the message in the slot, as text.
pub(crate) fn exit_reason() -> String {
    // Most reasons are a few words.
    let mut text = Vec::with_capacity(64);
    loop {
        // SAFETY: see the module; the host writes no more bytes than there is room for, and says how many there are.
        let length = unsafe { tidelock::exit_reason(text.as_mut_ptr(), text.capacity()) };
        if length > text.capacity() {
            text.reserve_exact(length);
            continue;
        }
        // SAFETY: the host has written so many bytes.
        unsafe { text.set_len(length) };
        let lossy = |error: FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
        return String::from_utf8(text).unwrap_or_else(lossy);
    }
}

pub(crate) fn log(text: &str) {
    // SAFETY: see the module.
    unsafe { tidelock::log(text.as_ptr(), text.len()) };
}

/// Says what this program is compiled for: `dense` for a million processes, `compute` for speed.
///
/// Once in a program, anywhere at the top of a file. A program that says nothing is `dense`, unless it cannot
/// start processes. In a `compute` one no access of memory is compared with the memory's size; each process takes
/// mappings of its own and 4 GiB of address space, and 30 µs to be made. The operator's choice comes first.
///
/// ```
/// tidelock_guest::profile!(compute);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! profile {
    (dense) => {
        $crate::profile!(@ 5, b"dense");
    };
    (compute) => {
        $crate::profile!(@ 7, b"compute");
    };
    (@ $length:literal, $name:literal) => {
        const _: () = {
            #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "tidelock.profile"))]
            #[used]
            static PROFILE: [u8; $length] = *$name;
        };
    };
}
