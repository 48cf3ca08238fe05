//! What the host keeps for one guest: the scratch message and the tables behind its ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidelock_proto::spawn::ProcessConfig;
use tidelock_proto::{ExitReason, NodeId, Pid};
use wasmtime::{Memory, TypedFunc};
use wasmtime_wasi::p1::WasiP1Ctx;

use super::networking::Sockets;
use super::sqlite::Sqlite;
use crate::hibernation::Hibernating;
use crate::wasm::{Limits, Module};
use crate::{Context, Environment, Resource};

/// Entries of one table; a call that would exceed it traps.
const TABLE_MAX: usize = 65_536;

/// Modules that a process holds; `compile_module` answers an error beyond it, and taking one out of a message traps.
const MODULES_MAX: usize = 256;
/// Bytes of those, as Wasm. Beyond it as above.
const MODULES_BYTES_MAX: usize = 256 << 20;

/// Bytes that a message may keep and not fill, on top of as many as it has.
const SPARE_BYTES_MAX: usize = 64;

/// The data of a guest's store.
///
/// Its fields are in this order: of a process that has waited for long nothing is in a cache, so what its messages need
/// is together, on the fewest cache lines.
#[repr(C)]
pub(crate) struct State {
    pub(super) context: Context,
    memory: Option<Memory>,
    pub(super) message_bytes_max: usize,
    /// Ticks in a row this guest computed through without waiting for anything.
    pub(crate) busy_ticks: u32,
    /// Functions of the guest that its own calls are calling, inside each other.
    pub(super) depth: u32,
    /// The scratch slot: the outgoing message, or the last received one.
    pub(super) held: Option<Held>,
    /// What is called with each message once the entry has returned.
    pub(crate) handler: Option<Handler>,
    module: Module,
    pub(crate) limits: Limits,
    instantiated: bool,
    pub(super) modules: Modules,
    /// Shared with the processes that were spawned with them.
    pub(super) configs: Table<Arc<ProcessConfig>>,
    /// Bytes of the texts of all of them.
    pub(super) configs_bytes: usize,
    pub(super) errors: Table<String>,
    /// Answers of node look-ups not yet copied.
    pub(super) lookups: Table<Vec<u64>>,
    /// Most processes never open one.
    sockets: Option<Box<Sockets>>,
    pub(super) wasi: Option<Box<WasiP1Ctx>>,
    pub(super) sqlite: Option<Box<Sqlite>>,
}

impl State {
    pub(crate) fn new(module: Module, context: Context, limits: Limits) -> Self {
        Self {
            message_bytes_max: context.environment().limits().message_bytes_max,
            context,
            limits,
            module,
            memory: None,
            instantiated: false,
            held: None,
            handler: None,
            modules: Modules(Table::new()),
            configs: Table::new(),
            configs_bytes: 0,
            errors: Table::new(),
            lookups: Table::new(),
            sockets: None,
            wasi: None,
            sqlite: None,
            depth: 0,
            busy_ticks: 0,
        }
    }

    /// Where its process lives.
    pub(crate) fn environment(&self) -> &Environment {
        self.context.environment()
    }

    /// Its memory is packed: takes note of that, and counts it.
    pub(crate) fn sleeps(&self) -> Hibernating {
        self.context.sleeps();
        self.environment().hibernating()
    }

    /// The module this process runs.
    pub(crate) fn module(&self) -> &Module {
        &self.module
    }

    /// Tells that the start section is over.
    pub(crate) fn instantiated(&mut self, memory: Option<Memory>) {
        self.memory = memory;
        self.instantiated = true;
    }

    /// Tells whoever looks how much memory the guest has.
    pub(crate) fn note_memory(&self, bytes: usize) {
        self.context.note_memory(bytes);
    }

    /// Whether the start section is over.
    pub(crate) fn is_instantiated(&self) -> bool {
        self.instantiated
    }

    pub(crate) fn memory(&self) -> Option<Memory> {
        self.memory
    }

    /// The tables of sockets.
    pub(super) fn sockets(&mut self) -> &mut Sockets {
        self.sockets.get_or_insert_default()
    }
}

/// A function of the guest, and what it is called with besides the kind of what was received.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) export: TypedFunc<(u32, u32, u64), u32>,
    pub(crate) function: u32,
    pub(crate) state: u64,
}

/// What is in the scratch slot.
pub(super) enum Held {
    Data(Data),
    /// A linked process ended.
    LinkDied {
        pid: Pid,
        tag: Option<i64>,
        reason: ExitReason,
    },
    /// A watched process ended.
    Down {
        pid: Pid,
        reference: u64,
        reason: ExitReason,
    },
    /// A watched node was lost.
    NodeDown {
        node: NodeId,
        reference: u64,
        reason: ExitReason,
    },
}

/// A message of bytes and resources, being written or read.
pub(super) struct Data {
    pub(super) tag: Option<i64>,
    pub(super) body: Body,
    pub(super) read: usize,
    /// Taken resources leave a hole, so that the index of the others stays.
    pub(super) resources: Vec<Option<Resource>>,
}

/// Received bytes are shared with whoever sent them until somebody appends.
pub(super) enum Body {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Body {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }

    pub(super) fn as_mut(&mut self) -> &mut Vec<u8> {
        if let Body::Shared(bytes) = self {
            *self = Body::Own(std::mem::take(bytes).into());
        }
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(_) => unreachable!("made an own one above"),
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            // What nobody counts is not kept: a guest says how much room it wants, and need not fill it.
            Body::Own(bytes) if bytes.capacity() / 2 > bytes.len() + SPARE_BYTES_MAX => {
                Bytes::copy_from_slice(&bytes)
            }
            Body::Own(bytes) => bytes.into(),
            Body::Shared(bytes) => bytes,
        }
    }
}

/// Things of one kind by id. Ids count up from 0 and are never used again.
pub(super) struct Table<T>(Option<Box<Entries<T>>>);

/// Most processes never have one.
struct Entries<T> {
    next: u64,
    by_id: BTreeMap<u64, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// Keeps a thing; the text of the error says that there are too many.
    pub(super) fn insert(&mut self, entry: T) -> Result<u64, String> {
        let entries = self.0.get_or_insert_with(|| {
            Box::new(Entries {
                next: 0,
                by_id: BTreeMap::new(),
            })
        });
        if entries.by_id.len() >= TABLE_MAX {
            return Err(format!("more than {TABLE_MAX} ids of one kind"));
        }
        let id = entries.next;
        entries.next += 1;
        entries.by_id.insert(id, entry);
        Ok(id)
    }

    pub(super) fn get(&self, id: u64) -> Option<&T> {
        self.0.as_ref()?.by_id.get(&id)
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|entries| entries.by_id.values())
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.0.as_mut()?.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        self.0.as_mut()?.by_id.remove(&id)
    }
}

/// The modules that a process compiled or was sent, by id. There are few, so each look counts them.
pub(super) struct Modules(Table<Module>);

impl Modules {
    /// Whether one more of so many bytes may be held; the text of the error says that there are too many.
    pub(super) fn check_room(&self, bytes: usize) -> Result<(), String> {
        let held: usize = self.0.all().map(|module| module.bytes().len()).sum();
        if self.0.all().count() < MODULES_MAX && held + bytes <= MODULES_BYTES_MAX {
            return Ok(());
        }
        Err(format!(
            "a process holds at most {MODULES_MAX}, of {} MiB; drop those that are not needed",
            MODULES_BYTES_MAX >> 20
        ))
    }

    pub(super) fn insert(&mut self, module: Module) -> Result<u64, String> {
        self.check_room(module.bytes().len())?;
        self.0.insert(module)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Module> {
        self.0.get(id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Module> {
        self.0.remove(id)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_messages_need_is_together() {
        let end = offset_of!(State, held) + size_of::<Option<Held>>();
        for needed in [
            offset_of!(State, context),
            offset_of!(State, memory),
            offset_of!(State, message_bytes_max),
            offset_of!(State, busy_ticks),
        ] {
            assert!(needed < offset_of!(State, held));
        }
        assert!(end <= 3 * 64, "{end} bytes");
        assert!(offset_of!(State, limits) >= end);
    }

    #[test]
    fn room_that_was_asked_for_and_not_used_does_not_travel() {
        let kept = |length: usize, room: usize| {
            let mut bytes = Vec::with_capacity(room);
            bytes.resize(length, 7);
            let bytes = Body::Own(bytes).into_bytes();
            assert_eq!(bytes.len(), length);
            bytes.try_into_mut().map_or(0, |bytes| bytes.capacity())
        };
        assert!(kept(1, 64 << 10) < 100, "{}", kept(1, 64 << 10));
        assert!(kept(1000, 64 << 10) < 1100);
        assert!(kept(1000, 2000) >= 2000, "a vector that grew is not copied");
    }
}
