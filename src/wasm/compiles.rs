//! Compiling side by side: who may when, what was refused lately, and how much compiled code there is.
//!
//! ```text
//! process ─┬─▶ its tenant's turn ─┐
//! process ─┘                      ├─▶ first come, first served: two at a time
//! process ───▶ its tenant's turn ─┤
//! a peer's ──▶ its turn ──────────┘
//! ```
//!
//! Whoever has much to compile waits for itself first. So one tenant has one place in the queue of all, however many of
//! its processes compile or start modules that are compiled in another way for them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tidelock_proto::{Environ, ModuleHash, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ModuleError;
use crate::shares::share;

/// Modules compiled at the same time; further ones wait.
const COMPILES_MAX: usize = 2;
/// Refused modules that are remembered; beyond it the oldest is forgotten, and compiled again when it is asked for.
const REFUSED_MAX: usize = 1024;
/// How long a refused module is remembered.
const REFUSED_TIME: Duration = Duration::from_secs(300);
/// Compiled forms of modules that are in use on an engine; each takes two or three mappings of the 65 530 that a program
/// may have. Beyond it nothing more is compiled for guests and other nodes; the operator's modules are. What was compiled
/// for the processes of one tenant has a [`share`] of it, beyond which nothing more is compiled for those.
const LIVE_MAX: usize = 8_192;
/// Bytes of those, as Wasm and as native code. Beyond it as above.
const LIVE_BYTES_MAX: usize = 2 << 30;

/// For whom a module is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    /// For whoever runs the node, and embeds the runtime; also for a process that no other one asked for.
    Operator,
    /// For a process of this tenant.
    Tenant(Environ),
    /// For a spawn that another node asked for.
    Peer(NodeId),
}

impl Whose {
    /// Whose share it takes.
    fn tenant(self) -> Option<Environ> {
        match self {
            Whose::Tenant(tenant) => Some(tenant),
            Whose::Operator | Whose::Peer(_) => None,
        }
    }
}

/// Which of the ways in which a module is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Main,
    Dense,
    Fuelled,
}

/// The turn of one tenant or peer.
#[derive(Debug)]
pub(crate) struct OwnTurn {
    _one: Option<OwnedSemaphorePermit>,
}

/// The turn among all.
#[derive(Debug)]
pub(super) struct Turn {
    _own: OwnTurn,
    _one: OwnedSemaphorePermit,
}

/// What an engine knows of its compilations.
pub(super) struct Compiles {
    all: Arc<Semaphore>,
    /// Held by those who have the turn or wait for it.
    own: Mutex<HashMap<Whose, Weak<Semaphore>>>,
    refused: Mutex<Refused>,
    live: Arc<Mutex<Live>>,
}

impl Compiles {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(COMPILES_MAX)),
            own: Mutex::default(),
            refused: Mutex::default(),
            live: Arc::default(),
        }
    }

    /// Waits for the turn of one, which it has once at a time. The operator waits for nobody.
    pub(super) async fn own(&self, whose: Whose) -> OwnTurn {
        let one = match whose {
            Whose::Operator => None,
            Whose::Tenant(_) | Whose::Peer(_) => Some(acquired(self.semaphore(whose)).await),
        };
        OwnTurn { _one: one }
    }

    fn semaphore(&self, whose: Whose) -> Arc<Semaphore> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = own.get(&whose).and_then(Weak::upgrade) {
            return semaphore;
        }
        if own.len() % 64 == 63 {
            own.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(1));
        own.insert(whose, Arc::downgrade(&semaphore));
        semaphore
    }

    /// Waits for the turn among all.
    pub(super) async fn turn(&self, own: OwnTurn) -> Turn {
        Turn {
            _own: own,
            _one: acquired(self.all.clone()).await,
        }
    }

    /// What was found of a module a while ago, if it was refused.
    pub(super) fn recall(&self, hash: ModuleHash, form: Form) -> Result<(), ModuleError> {
        self.refused().recall(hash, form, Instant::now())
    }

    /// Remembers why a module is refused, if it will be again.
    pub(super) fn remember(&self, hash: ModuleHash, form: Form, error: &ModuleError) {
        match error {
            ModuleError::NotCompiled(_) | ModuleError::Full(_) => {}
            ModuleError::NotWasm(_)
            | ModuleError::TooLarge { .. }
            | ModuleError::UnknownImport { .. }
            | ModuleError::Invalid(_)
            | ModuleError::TooCostly(_) => {
                self.refused().remember(hash, form, error, Instant::now());
            }
        }
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to compile so many bytes of Wasm for guests and other nodes while too much is in use.
    pub(super) fn check_room(&self, whose: Whose, bytes: usize) -> Result<(), ModuleError> {
        if whose == Whose::Operator {
            return Ok(());
        }
        let live = locked(&self.live);
        live.all
            .check_room(bytes, (LIVE_MAX, LIVE_BYTES_MAX), "on this node")?;
        if let Some(tenant) = whose.tenant() {
            let own = live.by_tenant.get(&tenant).copied().unwrap_or_default();
            let max = (share(tenant, LIVE_MAX), share(tenant, LIVE_BYTES_MAX));
            own.check_room(bytes, max, "of this tenant")?;
        }
        Ok(())
    }

    /// Counts a compiled form of so many bytes until the result is dropped.
    pub(super) fn count(&self, whose: Whose, bytes: usize) -> Counted {
        let tenant = whose.tenant();
        let mut live = locked(&self.live);
        live.all.add(bytes);
        if let Some(tenant) = tenant {
            live.by_tenant.entry(tenant).or_default().add(bytes);
        }
        Counted {
            bytes,
            tenant,
            live: self.live.clone(),
        }
    }
}

fn locked(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn acquired(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.acquire_owned().await.expect("never closed")
}

/// Compiled forms that are in use.
#[derive(Debug, Default)]
struct Live {
    all: Used,
    /// What of that was compiled for processes of each tenant that has any. Whoever uses it, too, is not asked.
    by_tenant: HashMap<Environ, Used>,
}

/// How many forms, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    forms: usize,
    bytes: usize,
}

impl Used {
    fn add(&mut self, bytes: usize) {
        self.forms += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.forms -= 1;
        self.bytes -= bytes;
    }

    fn check_room(
        self,
        more: usize,
        (forms_max, bytes_max): (usize, usize),
        of: &str,
    ) -> Result<(), ModuleError> {
        let Used { forms, bytes } = self;
        if forms < forms_max && bytes.saturating_add(more) <= bytes_max {
            return Ok(());
        }
        Err(ModuleError::Full(format!(
            "{forms} are in use {of}, of {} MiB; at most {forms_max} and {} MiB may be",
            bytes >> 20,
            bytes_max >> 20
        )))
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: usize,
    tenant: Option<Environ>,
    live: Arc<Mutex<Live>>,
}

impl Counted {
    /// Its bytes, as Wasm and as native code.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut live = locked(&self.live);
        live.all.remove(self.bytes);
        if let Some(tenant) = self.tenant
            && let Some(own) = live.by_tenant.get_mut(&tenant)
        {
            own.remove(self.bytes);
            if own.forms == 0 {
                live.by_tenant.remove(&tenant);
            }
        }
    }
}

/// What was refused, oldest first.
#[derive(Default)]
struct Refused(VecDeque<(ModuleHash, Form, Instant, ModuleError)>);

impl Refused {
    fn recall(&mut self, hash: ModuleHash, form: Form, now: Instant) -> Result<(), ModuleError> {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= REFUSED_TIME;
        while self
            .0
            .front()
            .is_some_and(|(_, _, since, _)| is_over(*since))
        {
            self.0.pop_front();
        }
        let mut all = self.0.iter();
        match all.find(|(of, in_form, ..)| (*of, *in_form) == (hash, form)) {
            Some((.., error)) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn remember(&mut self, hash: ModuleHash, form: Form, error: &ModuleError, now: Instant) {
        if self.recall(hash, form, now).is_err() {
            return;
        }
        if self.0.len() == REFUSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((hash, form, now, error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    async fn queued(compiles: &Compiles, whose: Whose) -> Turn {
        let own = compiles.own(whose).await;
        compiles.turn(own).await
    }

    #[tokio::test]
    async fn a_tenant_waits_for_itself_before_it_waits_for_others() {
        let compiles = Compiles::new();
        let busy = [
            queued(&compiles, Whose::Operator).await,
            queued(&compiles, Whose::Operator).await,
        ];
        let [one, two] = [1, 2].map(|tenant| Whose::Tenant(Environ(tenant)));
        let mut first = pin!(queued(&compiles, one));
        let mut second = pin!(queued(&compiles, one));
        let mut other = pin!(queued(&compiles, two));
        assert!(poll!(first.as_mut()).is_pending());
        assert!(poll!(second.as_mut()).is_pending());
        assert!(poll!(other.as_mut()).is_pending());
        drop(busy);
        // Whoever came first, and then the other tenant.
        assert!(poll!(second.as_mut()).is_pending());
        let (first, other) = (first.await, other.await);
        assert!(poll!(second.as_mut()).is_pending());
        drop(other);
        assert!(poll!(second.as_mut()).is_pending(), "one at a time");
        drop(first);
        drop(second.await);
        let own = compiles.own.lock().unwrap();
        assert!(own.values().all(|semaphore| semaphore.strong_count() == 0));
    }

    #[test]
    fn a_refusal_is_remembered_for_a_while() {
        let hash = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            ModuleHash(hash)
        };
        let (mut refused, begun) = (Refused::default(), Instant::now());
        let error = ModuleError::Invalid("no".into());
        refused.remember(hash(0), Form::Main, &error, begun);
        assert_eq!(
            refused.recall(hash(0), Form::Main, begun),
            Err(error.clone())
        );
        assert_eq!(refused.recall(hash(0), Form::Dense, begun), Ok(()));
        assert_eq!(refused.recall(hash(1), Form::Main, begun), Ok(()));
        let later = begun + REFUSED_TIME;
        assert_eq!(refused.recall(hash(0), Form::Main, later), Ok(()));
        for n in 0..=REFUSED_MAX {
            refused.remember(hash(n), Form::Main, &error, later);
        }
        assert_eq!(refused.0.len(), REFUSED_MAX);
        assert_eq!(refused.recall(hash(0), Form::Main, later), Ok(()));
        assert!(refused.recall(hash(1), Form::Main, later).is_err());
    }

    #[test]
    fn compiled_code_in_use_has_an_end() {
        let compiles = Compiles::new();
        let tenant = Whose::Tenant(Environ(7));
        let count = |bytes| compiles.count(Whose::Operator, bytes);
        let mut forms: Vec<_> = (0..LIVE_MAX).map(|_| count(1)).collect();
        assert!(compiles.check_room(tenant, 8).is_err());
        assert_eq!(compiles.check_room(Whose::Operator, 8), Ok(()));
        forms.pop();
        assert_eq!(compiles.check_room(tenant, 8), Ok(()));
        forms.clear();
        let _large = count(LIVE_BYTES_MAX - 8);
        assert_eq!(compiles.check_room(tenant, 8), Ok(()));
        assert!(compiles.check_room(tenant, 9).is_err());
    }

    #[test]
    fn no_tenant_takes_the_compiled_code_of_another() {
        let compiles = Compiles::new();
        let [one, other] = [7, 8].map(|tenant| Whose::Tenant(Environ(tenant)));
        let default = Whose::Tenant(Environ::default());
        let max = share(Environ(7), LIVE_MAX);
        let mut forms: Vec<_> = (0..max).map(|_| compiles.count(one, 1)).collect();
        assert!(compiles.check_room(one, 8).is_err());
        for whose in [other, default, Whose::Peer(NodeId(7)), Whose::Operator] {
            assert_eq!(compiles.check_room(whose, 8), Ok(()), "{whose:?}");
        }
        forms.pop();
        assert_eq!(compiles.check_room(one, 8), Ok(()));
        forms.clear();
        assert!(locked(&compiles.live).by_tenant.is_empty());
        let bytes = share(Environ(7), LIVE_BYTES_MAX);
        let _large = compiles.count(one, bytes - 8);
        assert_eq!(compiles.check_room(one, 8), Ok(()));
        assert!(compiles.check_room(one, 9).is_err());
        // The default tenant has as much as there is.
        let _most = compiles.count(default, LIVE_BYTES_MAX - bytes);
        assert_eq!(compiles.check_room(default, 8), Ok(()));
    }
}
