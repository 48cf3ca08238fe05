//! How processes of this node are made: what is said of one, its room and pid, its place in the table.
//!
//! A native process is a future, a guest a function of a module. Those that other nodes ask for take the same room,
//! but are parked first (`elsewhere`).

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tidelock_proto::spawn::{Param, ProcessConfig, Refusal};
use tidelock_proto::{Environ, ExitReason, ModuleHash, Pid};

use super::Environment;
use crate::host::Origin;
use crate::info::Happening;
use crate::process::{About, Shared, panic_text};
use crate::registry::Named;
use crate::wasm::{self, Module};
use crate::{Context, SpawnError};

/// How a process is spawned.
#[derive(Debug, Clone, Default)]
pub struct SpawnOptions {
    /// What it may do and use.
    pub config: Arc<ProcessConfig>,
    /// Who is named as its parent.
    pub parent: Option<Pid>,
    /// Linked to the parent; set by [`Context::spawn`].
    pub(crate) link: Option<Option<i64>>,
    /// Its tenant.
    pub environ: Environ,
    /// What people see; the entry function if `None`.
    pub name: Option<String>,
}

impl Environment {
    /// Spawns a Rust future as a process.
    ///
    /// It must not block: it is polled on threads that all processes share, now and then on the one that brings the
    /// messages of other nodes.
    ///
    /// # Errors
    ///
    /// [`SpawnError::Refused`] if the environment is full.
    pub fn spawn_native<F, C>(
        &self,
        name: &str,
        options: SpawnOptions,
        code: F,
    ) -> Result<Pid, SpawnError>
    where
        F: FnOnce(Context) -> C,
        C: Future<Output = ExitReason> + Send + 'static,
    {
        let options = SpawnOptions {
            name: Some(name.to_owned()),
            ..options
        };
        self.spawn_native_from(None, options, code)
    }

    pub(crate) fn spawn_native_from<F, C>(
        &self,
        parent: Option<&Arc<Shared>>,
        options: SpawnOptions,
        code: F,
    ) -> Result<Pid, SpawnError>
    where
        F: FnOnce(Context) -> C,
        C: Future<Output = ExitReason> + Send + 'static,
    {
        self.grant(parent, &options.config);
        let shared = self.make(options, "native", None, origin_of(parent))?;
        self.enter(parent, &shared);
        // It is known from here on, so a panic is its end, and told like any other.
        let context = Context::new(shared.clone());
        match catch_unwind(AssertUnwindSafe(|| code(context))) {
            Ok(code) => shared.start(code),
            Err(panic) => shared.finish(ExitReason::Fault(panic_text(&*panic))),
        }
        Ok(shared.pid)
    }

    /// Spawns a guest: `entry` of `module`, which runs with `params`.
    ///
    /// A function that does not exist is the process's own failure, as in Lunatic: it ends with
    /// [`ExitReason::NotStarted`] at once.
    ///
    /// # Errors
    ///
    /// [`SpawnError::Refused`] if the environment is full or has no memory for it.
    pub fn spawn_wasm(
        &self,
        module: &Module,
        entry: &str,
        params: Vec<Param>,
        options: SpawnOptions,
    ) -> Result<Pid, SpawnError> {
        self.spawn_wasm_from(None, module.clone(), entry.to_owned(), params, options)
    }

    pub(crate) fn spawn_wasm_from(
        &self,
        parent: Option<&Arc<Shared>>,
        module: Module,
        entry: String,
        params: Vec<Param>,
        options: SpawnOptions,
    ) -> Result<Pid, SpawnError> {
        let start = reserve(module, entry, params, &options.config)?;
        self.grant(parent, &options.config);
        let module = Some(start.module.hash());
        let shared = self.make(options, &start.entry, module, origin_of(parent))?;
        self.enter(parent, &shared);
        shared.start(wasm::run(start, Context::new(shared.clone())));
        Ok(shared.pid)
    }

    /// As [`Environment::spawn_wasm_from`], if nobody has this name, which is the child's before it runs.
    pub(crate) fn spawn_wasm_named(
        &self,
        parent: &Arc<Shared>,
        name: &str,
        module: Module,
        entry: String,
        params: Vec<Param>,
        options: SpawnOptions,
    ) -> Result<Named, SpawnError> {
        let start = reserve(module, entry, params, &options.config)?;
        self.grant(Some(parent), &options.config);
        let environ = options.environ;
        let mut child = None;
        let enter = || {
            let origin = origin_of(Some(parent));
            let module = Some(start.module.hash());
            let shared = self.make(options, &start.entry, module, origin)?;
            self.enter(Some(parent), &shared);
            let pid = shared.pid;
            child = Some(shared);
            Ok::<_, SpawnError>((pid.node().0, pid.raw()))
        };
        let named = self.0.registry.get_or_put(environ, name, enter)?;
        if let Some(shared) = child {
            shared.start(wasm::run(start, Context::new(shared.clone())));
        }
        Ok(named)
    }

    /// Notes where the directories of a new process lie. A guest's child has none that the guest has not, and with the guest's own
    /// configuration it holds nothing that the guest does not hold.
    fn grant(&self, parent: Option<&Arc<Shared>>, config: &Arc<ProcessConfig>) {
        match parent {
            Some(parent) if parent.about.module.is_some() => {
                if !Arc::ptr_eq(&parent.about.config, config) {
                    self.0.directories.hold(config);
                }
            }
            _ => self.0.directories.grant(config),
        }
    }

    /// Takes room, a pid, and makes the process's control block.
    pub(super) fn make(
        &self,
        options: SpawnOptions,
        entry: &str,
        module: Option<ModuleHash>,
        origin: Origin,
    ) -> Result<Arc<Shared>, SpawnError> {
        let max = self.0.limits.processes_max;
        let full = || Refusal::Full(format!("{max} processes (processes_max)"));
        if !self.0.table.reserve(max) {
            return Err(full().into());
        }
        let local = self.0.made.next.fetch_add(1, Ordering::Relaxed);
        // 2^40 - 1 is the node itself.
        let pid = Pid::new(self.0.node, local).filter(|pid| pid.local() < Pid::LOCAL_MAX);
        let Some(pid) = pid else {
            self.0.table.give_back();
            return Err(Refusal::Full("all pids of this start are used up".into()).into());
        };
        let name = options.name.map_or_else(|| entry.into(), Into::into);
        let about = About {
            environ: options.environ,
            name,
            module,
            parent: options.parent,
            config: options.config,
            origin,
            started_at: SystemTime::now(),
            link: options.link,
        };
        self.0.made.spawned.fetch_add(1, Ordering::Relaxed);
        Ok(Shared::new(self.clone(), pid, about))
    }

    /// Puts both halves of the link in place, if there is one, and enters the child.
    fn enter(&self, parent: Option<&Arc<Shared>>, child: &Arc<Shared>) {
        if let (Some(parent), Some(tag)) = (parent, child.about.link) {
            child.core().block.adopt(parent.pid, None);
            parent.core().block.adopt(child.pid, tag);
        }
        self.0.table.insert(child.clone());
        self.happened(
            child,
            Happening::Spawned {
                name: child.about.name.clone(),
                module: child.about.module,
                parent: child.about.parent,
                linked: parent.is_some() && child.about.link.is_some(),
            },
        );
    }
}

fn origin_of(parent: Option<&Arc<Shared>>) -> Origin {
    parent.map_or(Origin::Here, |parent| parent.about.origin)
}

pub(super) fn reserve(
    module: Module,
    entry: String,
    params: Vec<Param>,
    config: &ProcessConfig,
) -> Result<wasm::Start, SpawnError> {
    let reservation = module
        .reserve(config)
        .map_err(|error| SpawnError::Refused(Refusal::OutOfMemory(error.to_string())))?;
    Ok(wasm::Start {
        module,
        entry,
        params,
        reservation,
    })
}
