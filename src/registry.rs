//! Names of processes.

use std::collections::HashMap;
use std::sync::PoisonError;

use crate::sync::RwLock;

/// Names of processes, shared by all processes of an environment.
#[derive(Debug)]
pub struct Registry {
    names: RwLock<HashMap<String, (u64, u64)>>,
    max: usize,
    exclusive: tokio::sync::Mutex<()>,
}

impl Registry {
    pub(crate) fn new(max: usize) -> Self {
        Registry {
            names: RwLock::default(),
            max,
            exclusive: tokio::sync::Mutex::new(()),
        }
    }

    /// Gives `name` to a process, whoever had it before. `false`: there are `names_max` names.
    #[must_use]
    pub fn put(&self, name: &str, node: u64, process: u64) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= self.max && !names.contains_key(name) {
            return false;
        }
        names.insert(name.to_owned(), (node, process));
        true
    }

    /// Who has `name`: node and process.
    pub fn find(&self, name: &str) -> Option<(u64, u64)> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
    }

    /// Takes a name away.
    pub fn remove(&self, name: &str) {
        self.names
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// Holds off every other look-up-or-spawn until dropped.
    pub async fn exclusive(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.exclusive.lock().await
    }
}
