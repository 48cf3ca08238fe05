//! The modules that can be run and shipped from here.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use tidelock_proto::ModuleHash;

use crate::wasm::Module;

/// The modules that can be run and shipped from here, by content.
#[derive(Debug)]
pub struct ModuleStore {
    modules: Mutex<Stored>,
    bytes_max: usize,
}

#[derive(Default)]
struct Stored {
    by_hash: HashMap<ModuleHash, Module>,
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

    /// Keeps a module. The oldest ones are dropped above `modules_bytes_max`; processes that run
    /// them are not disturbed.
    pub fn keep(&self, module: &Module) {
        let mut stored = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = module.hash();
        if stored.by_hash.contains_key(&hash) {
            return;
        }
        stored.bytes += module.bytes().len();
        stored.by_hash.insert(hash, module.clone());
        stored.order.push_back(hash);
        while stored.bytes > self.bytes_max && stored.order.len() > 1 {
            let Some(oldest) = stored.order.pop_front() else {
                break;
            };
            if let Some(dropped) = stored.by_hash.remove(&oldest) {
                stored.bytes -= dropped.bytes().len();
            }
        }
    }

    /// Finds a module by its content.
    pub fn find(&self, hash: &ModuleHash) -> Option<Module> {
        let stored = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        stored.by_hash.get(hash).cloned()
    }

    /// Every module kept here.
    pub fn all(&self) -> Vec<Module> {
        let stored = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        stored
            .order
            .iter()
            .filter_map(|hash| stored.by_hash.get(hash).cloned())
            .collect()
    }
}
