//! Names of processes.

use std::collections::HashMap;
use std::sync::PoisonError;

use tidelock_proto::Environ;

use crate::shares;
use crate::sync::RwLock;

/// Names of processes, shared by all processes of one tenant and by nobody else.
///
/// The default tenant has at most `names_max` of them. All others together have as many, and each of those at most
/// a tenth: no tenant takes the names of another.
#[derive(Debug)]
pub struct Registry {
    names: RwLock<Names>,
    max: usize,
}

/// Who has a name after [`Registry::get_or_put`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Somebody who had it before: node and process.
    Before(u64, u64),
    /// Whoever was made for it.
    Now(u64, u64),
    /// Nobody: there are as many names as there may be, and nothing was made.
    Nobody,
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
        }
    }

    /// Gives `name` to a process, whoever of this tenant had it before. `false`: there are as many as there may be.
    #[must_use]
    pub fn put(&self, environ: Environ, name: &str, node: u64, process: u64) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let own = names.by_tenant.get_mut(&environ);
        if let Some(place) = own.and_then(|own| own.get_mut(name)) {
            *place = (node, process);
            return true;
        }
        let has_room = names.has_room(environ, self.max);
        if has_room {
            names.add(environ, name, (node, process));
        }
        has_room
    }

    /// Who of this tenant has `name`; if nobody has, whoever `make` makes has it from the moment on that others can find it.
    /// Nobody else's name is taken away, and nothing is made when there is no room for one more.
    ///
    /// `make` must not look at names.
    pub(crate) fn get_or_put<E>(
        &self,
        environ: Environ,
        name: &str,
        make: impl FnOnce() -> Result<(u64, u64), E>,
    ) -> Result<Named, E> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let own = names.by_tenant.get(&environ);
        if let Some(&(node, process)) = own.and_then(|own| own.get(name)) {
            return Ok(Named::Before(node, process));
        }
        if !names.has_room(environ, self.max) {
            return Ok(Named::Nobody);
        }
        let (node, process) = make()?;
        names.add(environ, name, (node, process));
        Ok(Named::Now(node, process))
    }

    /// Who of this tenant has `name`: node and process.
    pub fn find(&self, environ: Environ, name: &str) -> Option<(u64, u64)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.by_tenant.get(&environ)?.get(name).copied()
    }

    /// Whom `name` stands for, of each tenant that has it: node and process.
    pub fn holders(&self, name: &str) -> Vec<(Environ, (u64, u64))> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let of_each = names.by_tenant.iter();
        let holders = of_each.filter_map(|(environ, own)| Some((*environ, *own.get(name)?)));
        holders.collect()
    }

    /// What a process is called: of several names the first in their order. It takes as long as its tenant has names.
    pub fn name_of(&self, environ: Environ, node: u64, process: u64) -> Option<String> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let own = names.by_tenant.get(&environ)?.iter();
        let called = own.filter(|(_, place)| **place == (node, process));
        called.map(|(name, _)| name).min().cloned()
    }

    /// What the processes of a node are called, by tenant and process: of several names the first in their order.
    /// It takes as long as there are names.
    pub fn names_of(&self, node: u64) -> HashMap<(Environ, u64), String> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let mut first: HashMap<(Environ, u64), &String> = HashMap::new();
        for (environ, own) in &names.by_tenant {
            for (name, (at, process)) in own {
                if *at == node {
                    let called = first.entry((*environ, *process)).or_insert(name);
                    *called = (*called).min(name);
                }
            }
        }
        let called = first.into_iter();
        called.map(|(whom, name)| (whom, name.clone())).collect()
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
}

impl Names {
    /// Whether this tenant may have one more.
    fn has_room(&self, environ: Environ, max: usize) -> bool {
        let count = self.by_tenant.get(&environ).map_or(0, HashMap::len);
        shares::fits(environ, (count, self.others), 1, max).is_ok()
    }

    /// Adds a name that this tenant has not.
    fn add(&mut self, environ: Environ, name: &str, place: (u64, u64)) {
        let own = self.by_tenant.entry(environ).or_default();
        own.insert(name.to_owned(), place);
        self.others += usize::from(environ != Environ::default());
    }
}
