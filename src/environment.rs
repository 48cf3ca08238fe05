//! Who lives here: the processes of one node, their limits, names and modules.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Refusal};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid, link};
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::Instant;

use crate::context::{not_clustered, unreachable};
use crate::hibernation::{Hibernating, Hibernation};
use crate::host::{Directories, Origin};
use crate::info::{Counters, Event, Happening, Output, OutputLine, ProcessInfo};
use crate::mailbox::Message;
use crate::modules::ModuleStore;
use crate::process::{About, Parked, Parking, Process, Shared, Signal, panic_text};
use crate::registry::{Named, Registry};
use crate::remote::{Pending, Remote};
use crate::scheduler::{LentThread, Scheduler};
use crate::sync::{AtomicUsize, Mutex, MutexGuard, fence};
use crate::table::{ByNumber, Table};
use crate::timers;
use crate::wasm::{self, Engine, EngineConfig, EngineError, Import, Module, ModuleError};
use crate::{Certificates, Context, SendError, SpawnError, Stdio};

/// What one environment may hold, and what happens at the bound.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Processes alive. One more is refused as full.
    pub processes_max: usize,
    /// Entries in one mailbox. One more ends its owner with [`ExitReason::MailboxFull`].
    pub mailbox_len_max: usize,
    /// Bytes in one mailbox, with 64 per entry. More ends its owner.
    pub mailbox_bytes_max: usize,
    /// Bytes of one message. A longer one is refused to its sender.
    pub message_bytes_max: usize,
    /// How long a process made for another node waits for its start. Then it ends, unrun.
    pub parked_max: Duration,
    /// Registered names of the default tenant, and as many of all others together, each of which has a tenth
    /// of them at the most. One more is refused.
    pub names_max: usize,
    /// Bytes of Wasm kept for running and shipping. Above it the one that was kept longest is dropped; processes that run it go on.
    pub modules_bytes_max: usize,
    /// Ends remembered for whoever asks later. The oldest is forgotten.
    pub ends_max: usize,
    /// Monitors that one process holds, of processes and of nodes. One more ends it.
    pub monitors_max: usize,
    /// Timers of one process that have not fired. One more ends it.
    pub timers_max: usize,
    /// Bytes of the messages that those hold, with 80 for each resource. One beyond it ends the process. A message of the
    /// largest size fits.
    pub timers_bytes_max: usize,
    /// Timers of all processes of the default tenant, those that have ended among them, that have not fired, and
    /// as many of all others together, each of which has a tenth of them at the most. Whoever sets one more ends.
    pub all_timers_max: usize,
    /// Bytes of the messages that those hold, shared in the same way. Whoever sets one beyond it ends. A message of the
    /// largest size fits into a tenth.
    pub all_timers_bytes_max: usize,
    /// Sockets that guests hold open. One more is an error for whoever opens it; a connection that is
    /// accepted beyond it is closed.
    pub sockets_max: usize,
    /// Directories that processes spawned from other nodes may be given, with all below them. Others
    /// are left out of what such a process sees.
    pub remote_preopens: Vec<PathBuf>,
    /// A guest that has waited for a message for so long, or up to twice as long, hibernates until one comes: what differs
    /// from the data of its module is packed, and the pages of its memory go back to the kernel. Where many do, some twelve
    /// thousand of them a second. None: no guest does. Only memories in slots are packed, of 64 MiB at the most of which
    /// 1 MiB was touched, and only if that saves half of it; the kernel must say what was touched (`PAGEMAP_SCAN`, Linux 6.7).
    pub hibernate_after: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            processes_max: 2_000_000,
            mailbox_len_max: 1_000_000,
            mailbox_bytes_max: 64 << 20,
            message_bytes_max: 64 << 20,
            parked_max: Duration::from_secs(30),
            names_max: 1_000_000,
            modules_bytes_max: 1 << 30,
            ends_max: 65_536,
            monitors_max: 100_000,
            timers_max: 100_000,
            timers_bytes_max: 65 << 20,
            all_timers_max: 1_000_000,
            all_timers_bytes_max: 650 << 20,
            sockets_max: 65_536,
            remote_preopens: Vec::new(),
            hibernate_after: Some(Duration::from_secs(5)),
        }
    }
}

/// How an environment is set up.
#[derive(Clone, Default)]
pub struct EnvironmentConfig {
    /// The node the pids name. Standalone by default.
    pub node: NodeId,
    /// What it may hold.
    pub limits: Limits,
    /// How guests are compiled.
    pub engine: EngineConfig,
    /// Where the standard streams of guests go.
    pub stdio: Stdio,
    /// Where output goes besides the subscribers of [`Environment::output`].
    pub output: Option<Output>,
    /// Makes certificates for guests that ask for them; without it, they cannot.
    pub certificates: Option<Arc<dyn Certificates>>,
}

impl fmt::Debug for EnvironmentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvironmentConfig")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

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

/// The processes of one node; cheap to clone.
#[derive(Clone)]
pub struct Environment(Arc<Inner>);

struct Inner {
    node: NodeId,
    limits: Limits,
    engine: Engine,
    scheduler: Scheduler,
    table: Table,
    next: AtomicU64,
    remote: OnceLock<Weak<dyn Remote>>,
    registry: Registry,
    modules: ModuleStore,
    events: broadcast::Sender<Event>,
    /// Made for the first who listens: it has its whole size from the beginning.
    lines: OnceLock<broadcast::Sender<OutputLine>>,
    stdio: Stdio,
    output: Option<Output>,
    /// One permit for each socket that guests may still open.
    sockets: Arc<Semaphore>,
    timers: Arc<timers::Room>,
    certificates: Option<Arc<dyn Certificates>>,
    /// Where the directories of processes lie.
    directories: Directories,
    /// A configuration that a process from elsewhere was asked with, and what it was given.
    last_allowed: Mutex<Option<(Arc<ProcessConfig>, Arc<ProcessConfig>)>>,
    parking: Parking,
    hibernation: Hibernation,
    ends: Mutex<Ends>,
    /// Wakes whoever counts all ends; whoever waits for one process is in `ends`.
    ended: Notify,
    counting: AtomicUsize,
    spawned: AtomicU64,
    normal: AtomicU64,
    abnormal: AtomicU64,
}

/// Looks after those that are parked. They have no tasks: if it ends with its runtime, nobody else ends them.
struct Watch(Option<Weak<Inner>>);

impl Watch {
    fn env(&self) -> Option<Environment> {
        self.0.as_ref()?.upgrade().map(Environment)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(env) = self.env() {
            env.give_up(&env.0.parking.take(), "the spawn was given up");
        }
    }
}

/// How processes ended, for whoever asks later.
#[derive(Default)]
struct Ends {
    reasons: HashMap<Pid, ExitReason, ByNumber>,
    order: VecDeque<Pid>,
    /// Whom somebody waits for. Held weakly: a waiter that gave up leaves nothing alive.
    awaited: HashMap<Pid, Weak<Notify>, ByNumber>,
}

impl Ends {
    /// What is notified once this process has ended.
    fn of(&mut self, pid: Pid) -> Arc<Notify> {
        if let Some(ended) = self.awaited.get(&pid).and_then(Weak::upgrade) {
            return ended;
        }
        if self.awaited.len() % 64 == 63 {
            self.awaited.retain(|_, ended| ended.strong_count() > 0);
        }
        let ended = Arc::new(Notify::new());
        self.awaited.insert(pid, Arc::downgrade(&ended));
        ended
    }
}

fn origin_of(parent: Option<&Arc<Shared>>) -> Origin {
    parent.map_or(Origin::Here, |parent| parent.about.origin)
}

/// Somebody who wants to be woken at every end, while it lives.
struct Counting<'a>(&'a AtomicUsize);

impl<'a> Counting<'a> {
    fn new(counting: &'a AtomicUsize) -> Self {
        counting.fetch_add(1, Ordering::Relaxed);
        Counting(counting)
    }

    /// Comes before each look at the table, and its counterpart in [`Environment::ended`] after each change
    /// of it: either the look finds the change, or whoever made it finds somebody to wake.
    fn before_a_look(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Environment({}, {} processes)",
            self.0.node,
            self.0.table.len()
        )
    }
}

impl Environment {
    /// Sets an environment up. Its timers and sockets are kept by the tokio runtime this is called in. Its
    /// processes run on as many threads of its own as that one has workers, or, if that one runs on
    /// its caller's thread, as its tasks; they are killed when it ends.
    ///
    /// # Errors
    ///
    /// [`EngineError`] if guests cannot be run on this machine.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new(config: EnvironmentConfig) -> Result<Self, EngineError> {
        let engine = Engine::new(config.engine.clone())?;
        Ok(Self::with_engine(config, engine))
    }

    /// As [`Environment::new`], with an engine that other environments may use as well; what `config`
    /// says of one is not looked at.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn with_engine(config: EnvironmentConfig, engine: Engine) -> Self {
        let env = Environment(Arc::new(Inner {
            node: config.node,
            engine,
            scheduler: Scheduler::new(tokio::runtime::Handle::current()),
            table: Table::new(),
            next: AtomicU64::new(1),
            remote: OnceLock::new(),
            registry: Registry::new(config.limits.names_max),
            modules: ModuleStore::new(config.limits.modules_bytes_max),
            events: broadcast::channel(4096).0,
            lines: OnceLock::new(),
            stdio: config.stdio,
            output: config.output,
            sockets: permits(config.limits.sockets_max),
            timers: timers::Room::new(&config.limits),
            certificates: config.certificates,
            directories: Directories::new(&config.limits.remote_preopens),
            limits: config.limits,
            last_allowed: Mutex::new(None),
            parking: Parking::default(),
            hibernation: Hibernation::default(),
            ends: Mutex::default(),
            ended: Notify::new(),
            counting: AtomicUsize::new(0),
            spawned: AtomicU64::new(0),
            normal: AtomicU64::new(0),
            abnormal: AtomicU64::new(0),
        }));
        let engine = env.0.engine.clone();
        env.0.scheduler.preempt_by(move || engine.preempt());
        let inner = Arc::downgrade(&env.0);
        env.0.scheduler.watch_runtime(move || {
            let all = inner.upgrade().map(|inner| inner.table.all());
            for shared in all.into_iter().flatten() {
                shared.condemn(ExitReason::Killed(None));
            }
        });
        env
    }

    /// The node its pids name.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// What it may hold.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The compiler and its clock.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Where the standard streams of guests go.
    pub fn stdio(&self) -> Stdio {
        self.0.stdio
    }

    pub(crate) fn certificates(&self) -> Option<&Arc<dyn Certificates>> {
        self.0.certificates.as_ref()
    }

    /// Names of processes, of each tenant its own.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The modules that can be run and shipped from here.
    pub fn modules(&self) -> &ModuleStore {
        &self.0.modules
    }

    /// Where the directories of processes lie.
    pub(crate) fn directories(&self) -> &Directories {
        &self.0.directories
    }

    /// A permit is a socket that a guest may open.
    pub(crate) fn sockets(&self) -> &Arc<Semaphore> {
        &self.0.sockets
    }

    /// Where timers have their places.
    pub(crate) fn timer_room(&self) -> &Arc<timers::Room> {
        &self.0.timers
    }

    /// Connects this environment to others. Only the first call counts; it comes before the first
    /// process.
    ///
    /// It is held weakly, since it knows the environment: whoever made it keeps it. Without it, other
    /// nodes are out of reach.
    pub fn set_remote(&self, remote: Weak<dyn Remote>) {
        // The first one stays.
        let _: Result<(), _> = self.0.remote.set(remote);
    }

    /// The way to other nodes.
    pub fn remote(&self) -> Option<Arc<dyn Remote>> {
        self.0.remote.get()?.upgrade()
    }

    /// Lends this thread to the processes that it wakes until the result is dropped, for about a tenth of a
    /// millisecond: for whoever brings messages from outside and then has nothing else to do. They run at the drop, or when
    /// [what was set aside](LentThread::set_aside) is run, and only if the threads of the environment are all idle. Nothing is lent to trusted guests, which do not give
    /// way.
    pub fn lend_thread(&self) -> Option<LentThread<'_>> {
        let gives_way = !self.engine().trusted();
        gives_way.then(|| self.0.scheduler.lend_thread())
    }

    /// Whether every thread that runs processes waits for something to run. `false` where they are tasks of a
    /// runtime of one thread.
    pub fn threads_are_idle(&self) -> bool {
        self.0.scheduler.is_idle()
    }

    /// What runs its processes.
    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.0.scheduler
    }

    // ---- spawning ----------------------------------------------------------------------------

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
        self.spawn_wasm_from(None, module, entry, params, options)
    }

    pub(crate) fn spawn_wasm_from(
        &self,
        parent: Option<&Arc<Shared>>,
        module: &Module,
        entry: &str,
        params: Vec<Param>,
        options: SpawnOptions,
    ) -> Result<Pid, SpawnError> {
        let start = reserve(module, entry, params, &options.config)?;
        self.grant(parent, &options.config);
        let shared = self.make(options, entry, Some(module.hash()), origin_of(parent))?;
        self.enter(parent, &shared);
        shared.start(wasm::run(start, Context::new(shared.clone())));
        Ok(shared.pid)
    }

    /// As [`Environment::spawn_wasm_from`], if nobody has this name, which is the child's before it runs.
    pub(crate) fn spawn_wasm_named(
        &self,
        parent: &Arc<Shared>,
        name: &str,
        module: &Module,
        entry: &str,
        params: Vec<Param>,
        options: SpawnOptions,
    ) -> Result<Named, SpawnError> {
        let start = reserve(module, entry, params, &options.config)?;
        self.grant(Some(parent), &options.config);
        let environ = options.environ;
        let mut child = None;
        let enter = || {
            let origin = origin_of(Some(parent));
            let shared = self.make(options, entry, Some(module.hash()), origin)?;
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

    /// Makes a process that another node asked for, with its halves in place. It does not run.
    ///
    /// # Errors
    ///
    /// Why not; nothing was made.
    pub fn park(
        &self,
        prepare: Prepare,
        module: &Module,
        epoch: u64,
        reference: u64,
    ) -> Result<Parked, Refusal> {
        let Prepare {
            environ,
            parent,
            entry,
            params,
            config,
            link,
            monitor,
            ..
        } = prepare;
        module
            .check_entry(&entry, &params)
            .map_err(|error| Refusal::NoFunction(error.to_string()))?;
        let config = self.allowed(config);
        let refused = |error: SpawnError| match error {
            SpawnError::Refused(refusal) => refusal,
            other => Refusal::Full(other.to_string()),
        };
        let start = reserve(module, &entry, params, &config).map_err(refused)?;
        let options = SpawnOptions {
            config,
            parent: Some(parent),
            link: None,
            environ,
            name: None,
        };
        let shared = self
            .make(options, &entry, Some(module.hash()), Origin::Elsewhere)
            .map_err(refused)?;
        {
            let mut core = shared.core();
            if link.is_some() {
                // The parent's end is told without a tag: the tag is the parent's.
                core.block.adopt(parent, None);
            }
            if let Some(watch) = monitor {
                core.block.adopt_watcher(parent, watch);
            }
        }
        let code = wasm::run(start, Context::new(shared.clone()));
        self.0.table.insert(shared.clone());
        self.happened(
            &shared,
            Happening::Spawned {
                name: shared.about.name.clone(),
                module: shared.about.module,
                parent: Some(parent),
                linked: link.is_some(),
            },
        );
        Ok(shared.park((parent.node(), epoch, reference), code))
    }

    /// Until when those wait that are parked.
    pub(crate) fn parking(&self) -> &Parking {
        &self.0.parking
    }

    /// Notes that a process is parked. If it still is after [`Limits::parked_max`], it is ended.
    pub(crate) fn note_parked(&self, pid: Pid) {
        // A time that no clock reaches is for ever.
        let Some(until) = Instant::now().checked_add(self.0.limits.parked_max) else {
            return;
        };
        if !self.0.parking.enter(pid, until) {
            return;
        }
        let mut watch = Watch(Some(Arc::downgrade(&self.0)));
        self.0.scheduler.runtime().spawn(async move {
            let mut next = Some(until);
            while let Some(until) = next {
                tokio::time::sleep_until(until).await;
                next = watch.env().and_then(|env| {
                    let (overdue, later) = env.0.parking.overdue(Instant::now());
                    env.give_up(&overdue, "parked for too long");
                    later
                });
            }
            // Nobody is left, and whoever comes next has a watch of its own.
            drop(watch.0.take());
        });
    }

    /// Whether guests hibernate here, which are looked at from now on.
    pub(crate) fn hibernates(&self) -> bool {
        let every = self.0.limits.hibernate_after;
        if let Some(every) = every
            && !self.0.hibernation.has_begun()
        {
            let inner = Arc::downgrade(&self.0);
            let part = move |number| Some(inner.upgrade()?.table.part(number));
            let runtime = self.0.scheduler.runtime();
            self.0.hibernation.begin(runtime, every, part);
        }
        every.is_some()
    }

    /// Counts a guest that hibernates.
    pub(crate) fn hibernating(&self) -> Hibernating {
        self.0.hibernation.count()
    }

    fn give_up(&self, parked: &[Pid], why: &str) {
        for shared in parked.iter().filter_map(|pid| self.0.table.find(*pid)) {
            shared.give_up(why);
        }
    }

    /// A configuration of another node without the directories that this one does not open for others.
    fn allowed(&self, asked: Arc<ProcessConfig>) -> Arc<ProcessConfig> {
        if asked.preopens.is_empty() {
            return asked;
        }
        // A parent spawns with one configuration many times.
        let known = {
            let last = self.last_allowed();
            let same = last.as_ref().filter(|(last, _)| Arc::ptr_eq(last, &asked));
            same.map(|(_, allowed)| allowed.clone())
        };
        let were_open = known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &asked));
        if were_open {
            // All were open to others. Whether they are still is asked again when one is opened.
            return asked;
        }
        // Another node's word does not open this machine's files. A file system may take its time, so nobody waits for this.
        let is_open = |dir: &&String| self.0.directories.is_open_to_others(dir);
        let open: Vec<String> = asked.preopens.iter().filter(is_open).cloned().collect();
        let allowed = match known {
            Some(known) if known.preopens == open => return known,
            _ if open == asked.preopens => asked.clone(),
            _ => Arc::new(ProcessConfig {
                preopens: open,
                ..ProcessConfig::clone(&asked)
            }),
        };
        *self.last_allowed() = Some((asked, allowed.clone()));
        allowed
    }

    fn last_allowed(&self) -> MutexGuard<'_, Option<(Arc<ProcessConfig>, Arc<ProcessConfig>)>> {
        let last = self.0.last_allowed.lock();
        last.unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the parent's half of a spawn on another node and lets the child run, in one step.
    ///
    /// `start` appends Start to the lane. The caller returns the pid to the parent on `true`; on
    /// `false` the parent has given up or the session is over, and nothing was entered.
    pub fn adopt(
        &self,
        parent: Pid,
        child: Pid,
        link: Option<Option<i64>>,
        reference: u64,
        start: impl FnOnce() -> bool,
    ) -> bool {
        let Some(shared) = self.0.table.find(parent) else {
            return false;
        };
        let mut core = shared.core();
        if core.block.ended().is_some() || !core.block.asked(child.node(), reference) {
            return false;
        }
        if !start() {
            return false;
        }
        if let Some(tag) = link {
            core.block.adopt(child, tag);
        }
        true
    }

    /// Takes room, a pid, and makes the process's control block.
    fn make(
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
        let local = self.0.next.fetch_add(1, Ordering::Relaxed);
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
        self.0.spawned.fetch_add(1, Ordering::Relaxed);
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

    // ---- signals -----------------------------------------------------------------------------

    /// Finds a process of this node and tenant.
    pub(crate) fn find(&self, environ: Environ, pid: Pid) -> Option<Arc<Shared>> {
        self.0
            .table
            .find(pid)
            .filter(|shared| shared.about.environ == environ)
    }

    /// Whether this process lives here. Whoever was told of its end gets `false`.
    pub fn exists(&self, pid: Pid) -> bool {
        self.tenant_of(pid).is_some()
    }

    /// Whose a process is, if it lives here.
    pub fn tenant_of(&self, pid: Pid) -> Option<Environ> {
        if pid.node() != self.0.node {
            return None;
        }
        let shared = self.0.table.find(pid)?;
        // It is told of before it leaves the table, so the table alone would be late.
        let lives = shared.core().block.ended().is_none();
        lives.then_some(shared.about.environ)
    }

    /// A handle on a process, wherever it lives.
    pub fn process(&self, pid: Pid) -> Arc<dyn Process> {
        Arc::new(Handle {
            env: self.clone(),
            pid,
        })
    }

    /// The sender of what no process sent.
    fn nobody(&self) -> Pid {
        Pid::new(self.0.node, Pid::LOCAL_MAX).expect("in range")
    }

    /// Sends a message in the name of the node.
    ///
    /// # Errors
    ///
    /// As for [`Context::send`].
    pub async fn send(&self, to: Pid, message: Message) -> Result<(), SendError> {
        self.send_as(Environ::default(), self.nobody(), to, message)
            .await
    }

    pub(crate) async fn send_as(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        message: Message,
    ) -> Result<(), SendError> {
        let (bytes, max) = (message.data.len(), self.0.limits.message_bytes_max);
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max });
        }
        let node = to.node();
        if node == self.0.node {
            if let Some(target) = self.find(environ, to)
                && target.receive_message(message)
            {
                tokio::task::yield_now().await;
            }
            return Ok(());
        }
        if !message.resources.is_empty() {
            return Err(SendError::Resources);
        }
        let down = |reason: &ExitReason| match unreachable(node, reason) {
            SpawnError::Unreachable { node, how } => SendError::Unreachable { node, how },
            other => SendError::Unreachable {
                node,
                how: other.to_string(),
            },
        };
        let remote = self.remote().ok_or_else(|| down(&not_clustered(node)))?;
        if !remote.is_ready_for(from, to, bytes) {
            let ready = remote.ready_for(from, to, bytes);
            ready.await.map_err(|reason| down(&reason))?;
        }
        remote.message(environ, from, to, &message)
    }

    /// Kills a process of this node. A process that is gone is silence.
    pub fn kill(&self, pid: Pid, by: Option<Pid>) {
        if let Some(shared) = self.0.table.find(pid) {
            shared.condemn(ExitReason::Killed(by));
        }
    }

    /// Hands a signal from another node to a process here. The answer for a process that is gone
    /// is returned; it must take the same lane.
    #[must_use]
    pub fn deliver(
        &self,
        environ: Environ,
        from: Pid,
        to: Pid,
        signal: link::Signal,
    ) -> Option<link::Signal> {
        match self.find(environ, to) {
            Some(shared) => {
                shared.deliver(from, signal);
                None
            }
            None => link::answer_for_nobody(&signal),
        }
    }

    /// Puts messages from another node into a mailbox here, in one step. A process that is gone is silence.
    pub fn deliver_messages(
        &self,
        environ: Environ,
        to: Pid,
        messages: impl IntoIterator<Item = Message>,
    ) {
        if let Some(shared) = self.find(environ, to) {
            shared.receive_messages(messages.into_iter());
        }
    }

    /// Tells one process that the session with `node` ended.
    pub fn session_lost(&self, local: Pid, node: NodeId, reason: &ExitReason) {
        if let Some(shared) = self.0.table.find(local) {
            shared.step(|core, effects| core.block.session_lost(node, reason, effects));
        }
    }

    // ---- ends --------------------------------------------------------------------------------

    pub(crate) fn ended(&self, shared: &Arc<Shared>, reason: ExitReason) {
        let awaited = {
            let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the same lock: whoever finds it gone finds out why.
            self.0.table.remove(shared.pid);
            if ends.order.len() >= self.0.limits.ends_max
                && let Some(oldest) = ends.order.pop_front()
            {
                ends.reasons.remove(&oldest);
            }
            ends.order.push_back(shared.pid);
            ends.reasons.insert(shared.pid, reason.clone());
            let awaited = !ends.awaited.is_empty();
            awaited.then(|| ends.awaited.remove(&shared.pid)).flatten()
        };
        if let Some(remote) = self.remote() {
            remote.ended(shared.pid);
        }
        let counter = if reason.is_normal() {
            &self.0.normal
        } else {
            &self.0.abnormal
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(ended) = awaited.and_then(|ended| ended.upgrade()) {
            ended.notify_waiters();
        }
        // Waking somebody at each end costs more than the rest of an end. Whoever counts says so before it
        // looks at the table, which this process has left above (`Counting::before_a_look`).
        fence(Ordering::SeqCst);
        if self.0.counting.load(Ordering::Relaxed) > 0 {
            self.0.ended.notify_waiters();
        }
        self.happened(
            shared,
            Happening::Ended {
                reason,
                name: shared.about.name.clone(),
                module: shared.about.module,
            },
        );
    }

    /// How a process of this node ended, if it did and that is not forgotten yet.
    pub fn end_of(&self, pid: Pid) -> Option<ExitReason> {
        let ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.reasons.get(&pid).cloned()
    }

    /// Waits until a process of this node has ended. [`ExitReason::NoProcess`] if it never was, or
    /// its end is forgotten.
    pub async fn wait(&self, pid: Pid) -> ExitReason {
        loop {
            let notify = {
                let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
                ends.of(pid)
            };
            let mut ended = std::pin::pin!(notify.notified());
            ended.as_mut().enable();
            // Not `exists`: an end is remembered when the process leaves the table, not before.
            let alive = pid.node() == self.0.node && self.0.table.find(pid).is_some();
            if let Some(reason) = self.end_of(pid) {
                return reason;
            }
            if !alive {
                return ExitReason::NoProcess;
            }
            ended.await;
        }
    }

    /// Kills every process and waits until all are gone.
    pub async fn shutdown(&self) {
        let counting = Counting::new(&self.0.counting);
        loop {
            let ended = self.0.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            counting.before_a_look();
            let all = self.0.table.all();
            if all.is_empty() {
                return;
            }
            for shared in all {
                shared.condemn(ExitReason::Killed(None));
            }
            ended.await;
        }
    }

    /// Waits until nobody lives here.
    pub async fn idle(&self) {
        let counting = Counting::new(&self.0.counting);
        loop {
            let ended = self.0.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            counting.before_a_look();
            if self.0.table.len() == 0 {
                return;
            }
            ended.await;
        }
    }

    // ---- looking -----------------------------------------------------------------------------

    /// Everything a guest may import here, by name: for tools that make or check modules.
    ///
    /// # Errors
    ///
    /// [`ModuleError`] if this machine cannot compile the empty module.
    pub fn imports(&self) -> Result<Vec<Import>, ModuleError> {
        let about = About {
            environ: Environ::default(),
            name: "".into(),
            module: None,
            parent: None,
            config: Arc::default(),
            origin: Origin::Here,
            started_at: SystemTime::UNIX_EPOCH,
            link: None,
        };
        // It is in no table and has no task: nobody can reach it.
        let shared = Shared::new(self.clone(), self.nobody(), about);
        wasm::imports(&self.0.engine, Context::new(shared))
    }

    /// Everybody who lives here, by pid.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        self.0
            .table
            .all()
            .iter()
            .map(|shared| shared.info())
            .collect()
    }

    /// One process that lives here.
    pub fn info(&self, pid: Pid) -> Option<ProcessInfo> {
        self.0.table.find(pid).map(|shared| shared.info())
    }

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        Counters {
            alive: self.0.table.len() as u64,
            hibernating: self.0.hibernation.asleep() as u64,
            spawned: self.0.spawned.load(Ordering::Relaxed),
            ended_normally: self.0.normal.load(Ordering::Relaxed),
            ended_abnormally: self.0.abnormal.load(Ordering::Relaxed),
        }
    }

    /// What happens from now on. Whoever falls 4 096 events behind is told how many it missed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// What guests write from now on, line by line. Bounded as [`Environment::events`].
    pub fn output(&self) -> broadcast::Receiver<OutputLine> {
        let lines = self.0.lines.get_or_init(|| broadcast::channel(4096).0);
        lines.subscribe()
    }

    pub(crate) fn happened(&self, shared: &Arc<Shared>, what: Happening) {
        if self.0.events.receiver_count() > 0 {
            let event = Event {
                at: SystemTime::now(),
                pid: shared.pid,
                what,
            };
            // Nobody may be listening any more.
            let _: Result<usize, _> = self.0.events.send(event);
        }
    }

    /// A guest said something to the operator.
    pub(crate) fn said(&self, pid: Pid, text: String) {
        if let Some(shared) = self.0.table.find(pid) {
            self.happened(&shared, Happening::Said { text });
        }
    }

    /// A guest wrote a line.
    pub(crate) fn wrote(&self, line: OutputLine) {
        if let Some(output) = &self.0.output {
            output(&line);
        }
        if let Some(lines) = self.0.lines.get() {
            // Nobody may be listening any more.
            let _: Result<usize, _> = lines.send(line);
        }
    }
}

/// So many permits, or as many as there can be.
fn permits(max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))
}

fn reserve(
    module: &Module,
    entry: &str,
    params: Vec<Param>,
    config: &ProcessConfig,
) -> Result<wasm::Start, SpawnError> {
    let reservation = module
        .reserve(config)
        .map_err(|error| SpawnError::Refused(Refusal::OutOfMemory(error.to_string())))?;
    Ok(wasm::Start {
        module: module.clone(),
        entry: entry.to_owned(),
        params,
        reservation,
    })
}

/// A handle on a process, wherever it lives.
#[derive(Debug)]
struct Handle {
    env: Environment,
    pid: Pid,
}

impl Process for Handle {
    fn pid(&self) -> Pid {
        self.pid
    }

    fn signal(&self, signal: Signal) -> Pending<'_, Result<(), SendError>> {
        Box::pin(async move {
            match signal {
                Signal::Message(message) => self.env.send(self.pid, message).await,
                Signal::Kill if self.pid.node() == self.env.node() => {
                    self.env.kill(self.pid, None);
                    Ok(())
                }
                Signal::Kill => {
                    let node = self.pid.node();
                    let down = |reason: ExitReason| SendError::Unreachable {
                        node,
                        how: reason.to_string(),
                    };
                    let remote = self.env.remote().ok_or_else(|| down(not_clustered(node)))?;
                    remote.ready(node).await.map_err(down)?;
                    let nobody = self.env.nobody();
                    remote
                        .signal(Environ::default(), nobody, self.pid, &link::Signal::Kill)
                        .map_err(down)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spawn_for_which_no_pid_is_left_takes_no_place() {
        let env = Environment::new(EnvironmentConfig::default()).unwrap();
        env.0.next.store(Pid::LOCAL_MAX, Ordering::Relaxed);
        let options = SpawnOptions::default();
        let refused = env.spawn_native("none", options, |_| std::future::pending());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("pids"), "{refused}");
        assert_eq!(env.counters().alive, 0);
    }

    #[tokio::test]
    async fn directories_of_others_are_judged_until_all_of_them_are_open() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-judged", std::process::id()));
        // What an earlier run has left.
        let _: Result<(), _> = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let limits = Limits {
            remote_preopens: vec![dir.clone()],
            ..Limits::default()
        };
        let env = Environment::new(EnvironmentConfig {
            limits,
            ..EnvironmentConfig::default()
        });
        let env = env.unwrap();
        let name = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let asked = Arc::new(ProcessConfig {
            preopens: vec![name("first"), name("later")],
            ..ProcessConfig::default()
        });
        std::fs::create_dir(dir.join("first")).unwrap();
        let some = env.allowed(asked.clone());
        assert_eq!(some.preopens, [name("first")]);
        // Of one configuration, made once.
        assert!(Arc::ptr_eq(&env.allowed(asked.clone()), &some));
        std::fs::create_dir(dir.join("later")).unwrap();
        assert!(Arc::ptr_eq(&env.allowed(asked.clone()), &asked));
        // From here on they are judged when they are opened.
        std::fs::remove_dir(dir.join("later")).unwrap();
        assert!(Arc::ptr_eq(&env.allowed(asked.clone()), &asked));
        let other = Arc::new(ProcessConfig::clone(&asked));
        assert_eq!(env.allowed(other).preopens, [name("first")]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_child_of_a_native_process_is_granted_what_was_missing() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-missing", std::process::id()));
        // What an earlier run has left.
        let _: Result<(), _> = std::fs::remove_dir_all(&dir);
        let name = dir.to_str().unwrap().to_owned();
        let env = Environment::new(EnvironmentConfig::default()).unwrap();
        let options = SpawnOptions {
            config: Arc::new(ProcessConfig {
                preopens: vec![name.clone()],
                ..ProcessConfig::default()
            }),
            ..SpawnOptions::default()
        };
        let (granted, is_granted) = tokio::sync::oneshot::channel();
        let parent = env.spawn_native("parent", options, |mut me| async move {
            let open = |me: &Context| {
                let directories = me.environment().directories();
                directories.open(&name, Origin::Here).is_ok()
            };
            let before = open(&me);
            std::fs::create_dir(&dir).unwrap();
            let child = me.spawn_native_link("child", None, |_| async { ExitReason::Normal });
            child.unwrap();
            granted.send((before, open(&me))).unwrap();
            std::fs::remove_dir(&dir).unwrap();
            ExitReason::Normal
        });
        parent.unwrap();
        assert_eq!(is_granted.await.unwrap(), (false, true));
    }
}
