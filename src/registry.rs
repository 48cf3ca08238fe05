//! Names of processes.

use std::collections::HashMap;
use std::sync::PoisonError;

use tidelock_proto::Environ;

use crate::sync::RwLock;

/// One tenant of those that share a bound has at most such a part of it.
const SHARE: usize = 10;

/// Names of processes, shared by all processes of one tenant and by nobody else.
///
/// The default tenant has at most `names_max` of them. All others together have as many, and each of those at most
/// a tenth: no tenant takes the names of another.
#[derive(Debug)]
pub struct Registry {
    names: RwLock<Names>,
    max: usize,
    exclusive: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Names {
    by_tenant: HashMap<Environ, HashMap<String, (u64, u64)>>,
    /// How many are not the default tenant's.
    others: usize,
}

impl Registry {
    pub(crate) fn new(max: usize) -> Self {
        Registry {
            names: RwLock::default(),
            max,
            exclusive: tokio::sync::Mutex::new(()),
        }
    }

    /// Gives `name` to a process, whoever of this tenant had it before. `false`: there are as many as there may be.
    #[must_use]
    pub fn put(&self, environ: Environ, name: &str, node: u64, process: u64) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let Names { by_tenant, others } = &mut *names;
        let own = by_tenant.get_mut(&environ);
        let count = own.as_ref().map_or(0, |own| own.len());
        if let Some(place) = own.and_then(|own| own.get_mut(name)) {
            *place = (node, process);
            return true;
        }
        let is_default = environ == Environ::default();
        let has_room = if is_default {
            count < self.max
        } else {
            count < self.max.div_ceil(SHARE) && *others < self.max
        };
        if has_room {
            let own = by_tenant.entry(environ).or_default();
            own.insert(name.to_owned(), (node, process));
            *others += usize::from(!is_default);
        }
        has_room
    }

    /// Who of this tenant has `name`: node and process.
    pub fn find(&self, environ: Environ, name: &str) -> Option<(u64, u64)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.by_tenant.get(&environ)?.get(name).copied()
    }

    /// Takes a name of this tenant away.
    pub fn remove(&self, environ: Environ, name: &str) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let Names { by_tenant, others } = &mut *names;
        let Some(own) = by_tenant.get_mut(&environ) else {
            return;
        };
        if own.remove(name).is_none() {
            return;
        }
        if own.is_empty() {
            by_tenant.remove(&environ);
        }
        *others -= usize::from(environ != Environ::default());
    }

    /// Holds off every other look-up-or-spawn until dropped.
    pub async fn exclusive(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.exclusive.lock().await
    }
}
