//! The modules that can be run and shipped from here.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use tidelock_proto::ModuleHash;

use crate::wasm::Module;

/// Modules kept; above it the oldest is dropped. Half of what may be in use on an engine.
const MODULES_MAX: usize = 4_096;
/// What a module takes besides its bytes, as Wasm and as native code.
const MODULE_BYTES: usize = 64 << 10;

/// The modules that can be run and shipped from here, by content.
#[derive(Debug)]
pub struct ModuleStore {
    modules: Mutex<Stored>,
    bytes_max: usize,
}

#[derive(Default)]
struct Stored {
    /// With the bytes that each is counted as.
    by_hash: HashMap<ModuleHash, (Module, usize)>,
    /// Oldest use first.
    order: VecDeque<ModuleHash>,
    bytes: usize,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} modules, {} bytes", self.by_hash.len(), self.bytes)
    }
}

impl ModuleStore {
    pub(crate) fn new(bytes_max: usize) -> Self {
        ModuleStore {
            modules: Mutex::default(),
            bytes_max,
        }
    }

    /// Keeps a module. The oldest ones are dropped above `modules_bytes_max`, in which native code counts and 64 KiB
    /// for each, and above 4096 of them; processes that run them are not disturbed.
    pub fn keep(&self, module: &Module) {
        let mut stored = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = module.hash();
        if stored.by_hash.contains_key(&hash) {
            return;
        }
        let bytes = module.held_bytes() + MODULE_BYTES;
        stored.bytes += bytes;
        stored.by_hash.insert(hash, (module.clone(), bytes));
        stored.order.push_back(hash);
        while stored.order.len() > 1
            && (stored.bytes > self.bytes_max || stored.order.len() > MODULES_MAX)
        {
            let Some(oldest) = stored.order.pop_front() else {
                break;
            };
            if let Some((_, bytes)) = stored.by_hash.remove(&oldest) {
                stored.bytes -= bytes;
            }
        }
    }

    /// Finds a module by its content.
    pub fn find(&self, hash: &ModuleHash) -> Option<Module> {
        let stored = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stored.by_hash.get(hash);
        found.map(|(module, _)| module.clone())
    }

    /// Every module kept here.
    pub fn all(&self) -> Vec<Module> {
        let stored = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        stored
            .order
            .iter()
            .filter_map(|hash| stored.by_hash.get(hash))
            .map(|(module, _)| module.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, EngineConfig};

    #[test]
    fn small_modules_count_as_what_they_take() {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let module = |name: u32| {
            let text = format!(r#"(module (func (export "{name}")))"#);
            Module::compile_blocking(&engine, wat::parse_str(text).unwrap()).unwrap()
        };
        let modules: Vec<_> = (0..4).map(module).collect();
        let one = modules[0].held_bytes() + MODULE_BYTES;
        assert!(one > MODULE_BYTES + modules[0].bytes().len());
        let store = ModuleStore::new(3 * one + one / 2);
        for module in &modules {
            store.keep(module);
            store.keep(module);
        }
        assert_eq!(store.all(), modules[1..]);
        assert_eq!(store.find(&modules[0].hash()), None);
        assert_eq!(store.find(&modules[3].hash()).as_ref(), Some(&modules[3]));
    }
}
