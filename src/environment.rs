//! Who lives here: the processes of one node, their limits, names and modules.
//!
//! Here is what an environment is made of, and what can be seen of it. How processes are made is in [`spawn`], who is
//! told something in [`signals`], what other nodes ask for and tell in [`elsewhere`], how processes end in [`ends`].

mod elsewhere;
mod ends;
mod limits;
mod signals;
mod spawn;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use tidelock_proto::spawn::ProcessConfig;
use tidelock_proto::{Environ, ExitReason, NodeId, Pid};
use tokio::sync::{Notify, Semaphore, broadcast};

use self::ends::Ends;
pub use self::limits::Limits;
pub use self::spawn::SpawnOptions;
use crate::hibernation::{Hibernating, Hibernation};
use crate::host::{Directories, Origin};
use crate::info::{Counters, Event, Happening, Output, OutputLine, ProcessInfo};
use crate::modules::ModuleStore;
use crate::process::{About, Parking, Shared};
use crate::registry::Registry;
use crate::remote::Remote;
use crate::scheduler::{LentThread, Scheduler};
use crate::sync::{AtomicUsize, Mutex};
use crate::table::Table;
use crate::timers;
use crate::wasm::{self, Engine, EngineConfig, EngineError, Import, ModuleError};
use crate::{Certificates, Context, Stdio};

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

/// The processes of one node; cheap to clone.
#[derive(Clone)]
pub struct Environment(Arc<Inner>);

struct Inner {
    node: NodeId,
    limits: Limits,
    engine: Engine,
    scheduler: Scheduler,
    table: Table,
    made: Made,
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
    over: Over,
}

/// Changed by each beginning. As with the table's count, what is looked at by all cores lies on other cache lines.
#[repr(align(128))]
struct Made {
    /// The number of the next process.
    next: AtomicU64,
    /// How many were made.
    spawned: AtomicU64,
}

/// Changed by each end; likewise.
#[derive(Default)]
#[repr(align(128))]
struct Over {
    normal: AtomicU64,
    abnormal: AtomicU64,
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
            made: Made {
                next: AtomicU64::new(1),
                spawned: AtomicU64::new(0),
            },
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
            over: Over::default(),
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
            spawned: self.0.made.spawned.load(Ordering::Relaxed),
            ended_normally: self.0.over.normal.load(Ordering::Relaxed),
            ended_abnormally: self.0.over.abnormal.load(Ordering::Relaxed),
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
            let at = match &what {
                Happening::Spawned { .. } => shared.about.started_at,
                _ => SystemTime::now(),
            };
            let event = Event {
                at,
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
