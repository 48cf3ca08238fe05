//! Processes made for another node: they do not run before it says so, and do not wait for that for ever.
//!
//! Most are started within a round trip, so nothing is done for one that waits: it has no task, no timer and no place
//! in a run queue. Its code lies in its core. Whoever takes it out, under the core's lock, decides what becomes of it:
//!
//! * the start makes the task that any process has ([`Parked::run`]);
//! * whoever brings a verdict (a kill, a link's death, a full mailbox), gives the spawn up (drops [`Parked`]) or finds
//!   that it has waited for too long ([`Parking`]) drops the code, and a task ends the process.
//!
//! So it is started once or ended once, whatever comes at the same time. Whoever changes its core takes the code out in
//! the same step if the process must end: while there is code, there is no verdict, and no notice that is not settled.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use tidelock_proto::{ExitReason, NodeId, Pid};
use tokio::time::Instant;

use super::{Core, Shared, wake};
use crate::sync::{Mutex, MutexGuard, spawn};

/// The code of a process that is parked.
pub(super) struct Unrun {
    shared: Arc<Shared>,
    code: Pin<Box<dyn Future<Output = ExitReason> + Send>>,
}

impl Unrun {
    fn start(self) {
        let Unrun { shared, code } = self;
        shared.env.parking().leave(shared.pid);
        shared.begin(code);
    }

    /// Ends the process, for the reason that it was condemned for.
    pub(super) fn end(self) {
        let Unrun { shared, code } = self;
        shared.env.parking().leave(shared.pid);
        drop(code);
        // By a task, as any process: whoever found out has other things to do.
        let end = EndUnrun(shared.clone());
        spawn(shared.env.scheduler(), async move { drop(end) });
    }
}

/// Ends a process that never ran, when it is dropped: also with a task that never runs.
struct EndUnrun(Arc<Shared>);

impl Drop for EndUnrun {
    fn drop(&mut self) {
        let reason = self.0.core().verdict.clone();
        self.0.finish(reason.unwrap_or(ExitReason::Killed(None)));
    }
}

impl Core {
    /// The code of a parked process that must end. There is no task that would look.
    pub(super) fn doomed(&mut self) -> Option<Unrun> {
        self.unrun.as_ref()?;
        self.settle();
        self.verdict.as_ref()?;
        self.unrun.take()
    }
}

impl Shared {
    /// As [`Shared::start`], when the other node says so; until then the process is parked.
    pub(crate) fn park<F>(self: &Arc<Self>, key: (NodeId, u64, u64), code: F) -> Parked
    where
        F: Future<Output = ExitReason> + Send + 'static,
    {
        let mut core = self.core();
        core.parked = Some(key);
        core.unrun = Some(Unrun {
            shared: self.clone(),
            code: Box::pin(code),
        });
        drop(core);
        // The code first: whoever finds that its time is over takes that.
        self.env.note_parked(self.pid);
        // Others can find it already, so it may have been killed.
        wake(self.core());
        Parked {
            shared: self.clone(),
            waits: true,
        }
    }

    /// Ends the process if it is still parked.
    pub(crate) fn give_up(&self, why: &str) {
        let mut core = self.core();
        if core.unrun.is_some() {
            core.condemn(ExitReason::NotStarted(why.into()));
            wake(core);
        }
    }
}

/// A process made for another node. Dropping it ends the process, unrun.
#[must_use]
pub struct Parked {
    shared: Arc<Shared>,
    /// It was not told to run.
    waits: bool,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parked({})", self.shared.pid)
    }
}

impl Parked {
    /// Which process.
    pub fn pid(&self) -> Pid {
        self.shared.pid
    }

    /// Runs `announce` in one step with the process's block: either the process is parked and
    /// announced, or it has ended and nobody is told of it.
    pub fn announce(&self, announce: impl FnOnce(Pid) -> bool) -> bool {
        let core = self.shared.core();
        core.block.ended().is_none() && announce(self.shared.pid)
    }

    /// Lets it run.
    pub fn run(mut self) {
        self.waits = false;
        let unrun = {
            let mut core = self.shared.core();
            core.parked = None;
            core.unrun.take()
        };
        // Without it, it has ended meanwhile, or is about to; its links know.
        if let Some(unrun) = unrun {
            unrun.start();
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if self.waits {
            self.shared.give_up("the spawn was given up");
        }
    }
}

/// Until when the parked processes of an environment wait. One task looks after all of them; it is there as long as
/// somebody waits, and for as long as one may wait after that.
#[derive(Default)]
pub(crate) struct Parking(Mutex<Places>);

#[derive(Default)]
struct Places {
    /// Pids grow, so the first has waited for longest, but for what several threads do at the same time.
    until: BTreeMap<Pid, Instant>,
    is_watched: bool,
}

impl Parking {
    /// Notes one more. `true`: nobody looks after them, and the caller has somebody do so.
    pub(crate) fn enter(&self, pid: Pid, until: Instant) -> bool {
        let mut places = self.places();
        places.until.insert(pid, until);
        !std::mem::replace(&mut places.is_watched, true)
    }

    /// It is parked no more.
    fn leave(&self, pid: Pid) {
        self.places().until.remove(&pid);
    }

    /// Takes those that have waited for too long, and says when to look again; `None`: nobody is left, and nobody looks
    /// after the next one.
    pub(crate) fn overdue(&self, now: Instant) -> (Vec<Pid>, Option<Instant>) {
        let mut places = self.places();
        let mut overdue = Vec::new();
        while let Some(first) = places.until.first_entry()
            && *first.get() <= now
        {
            overdue.push(first.remove_entry().0);
        }
        let next = places.until.first_key_value().map(|(_, until)| *until);
        places.is_watched = next.is_some();
        (overdue, next)
    }

    /// Takes all of them. Nobody looks after the next one.
    pub(crate) fn take(&self) -> Vec<Pid> {
        let places = std::mem::take(&mut *self.places());
        places.until.into_keys().collect()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidelock_proto::link::Signal;
    use tidelock_proto::spawn::Prepare;
    use tidelock_proto::{Environ, bounded};

    use super::*;
    use crate::{Environment, EnvironmentConfig, Limits, Message, Module, ProcessConfig};

    const PARKED_MAX: Duration = Duration::from_secs(10);

    /// An environment, and a module whose process ends at once, or fails at once.
    struct Host {
        env: Environment,
        module: Module,
    }

    impl Host {
        fn new() -> Self {
            Self::with(PARKED_MAX)
        }

        fn with(parked_max: Duration) -> Self {
            let limits = Limits {
                parked_max,
                ..Limits::default()
            };
            let env = Environment::new(EnvironmentConfig {
                limits,
                ..EnvironmentConfig::default()
            });
            let env = env.unwrap();
            let text = r#"(module (func (export "ends")) (func (export "fails") unreachable))"#;
            let bytes = wat::parse_str(text).unwrap();
            let module = Module::compile_blocking(env.engine(), bytes).unwrap();
            Host { env, module }
        }

        fn park(&self, entry: &str, reference: u64) -> Parked {
            let prepare = Prepare {
                environ: Environ::default(),
                parent: parent(),
                module: self.module.hash(),
                entry: entry.into(),
                params: Vec::new(),
                config: Arc::new(ProcessConfig::default()),
                link: Some(None),
                monitor: None,
            };
            let module = self.module.clone();
            self.env.park(prepare, module, 1, reference).unwrap()
        }

        fn waiting(&self) -> usize {
            self.env.parking().places().until.len()
        }
    }

    fn parent() -> Pid {
        Pid::new(NodeId(2), 1).unwrap()
    }

    #[tokio::test]
    async fn a_parked_child_is_no_task_until_it_is_started() {
        let host = Host::new();
        let tasks = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let before = tasks();
        let parked: Vec<_> = (1..=100).map(|number| host.park("ends", number)).collect();
        assert!(tasks() <= before + 1, "one looks after all of them");
        assert_eq!(host.waiting(), 100);
        let pids: Vec<_> = parked.iter().map(Parked::pid).collect();
        for child in parked {
            assert!(host.env.info(child.pid()).unwrap().parked);
            child.run();
        }
        assert_eq!(host.waiting(), 0);
        for pid in pids {
            assert_eq!(host.env.wait(pid).await, ExitReason::Normal);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_is_parked_for_too_long_ends_unrun() {
        let host = Host::new();
        let too_long = ExitReason::NotStarted("parked for too long".into());
        let first = host.park("fails", 1);
        tokio::time::advance(PARKED_MAX / 2).await;
        let second = host.park("ends", 2);
        let begun = Instant::now();
        assert_eq!(host.env.wait(first.pid()).await, too_long);
        let (waited, least) = (begun.elapsed(), PARKED_MAX / 2);
        let in_time = least..least + Duration::from_millis(10);
        assert!(in_time.contains(&waited), "{waited:?}");
        // Nobody waits for its start any more.
        first.run();
        assert_eq!(host.env.end_of(second.pid()), None, "it has time left");
        let pid = second.pid();
        second.run();
        assert_eq!(host.env.wait(pid).await, ExitReason::Normal);
        // With somebody who looks after them already, and without.
        for reference in 3..6 {
            let child = host.park("fails", reference);
            assert_eq!(host.env.wait(child.pid()).await, too_long);
            assert_eq!(host.waiting(), 0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_child_whose_time_is_over_at_once_ends_unrun() {
        let host = Host::with(Duration::ZERO);
        for number in 1..=500 {
            let child = host.park("fails", number);
            let reason = ExitReason::NotStarted("parked for too long".into());
            assert_eq!(host.env.wait(child.pid()).await, reason);
        }
    }

    #[test]
    fn a_runtime_that_ends_ends_the_parked() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.unwrap();
        let (host, child) = runtime.block_on(async {
            let host = Host::new();
            let child = host.park("fails", 1);
            // Its watch has begun.
            tokio::task::yield_now().await;
            (host, child)
        });
        drop(runtime);
        let reason = ExitReason::NotStarted("the spawn was given up".into());
        assert_eq!(host.env.end_of(child.pid()), Some(reason));
        assert_eq!(host.waiting(), 0);
    }

    #[tokio::test]
    async fn whatever_ends_a_parked_child_ends_it_unrun() {
        let host = Host::new();
        let env = &host.env;
        let exit = |reason| Signal::Exit { reason };
        let failed = ExitReason::Exit(3);
        let why = bounded(failed.to_string());
        let died = ExitReason::LinkDied { pid: parent(), why };

        let given_up = host.park("fails", 1);
        let pid = given_up.pid();
        drop(given_up);
        let reason = ExitReason::NotStarted("the spawn was given up".into());
        assert_eq!(env.wait(pid).await, reason);

        let killed = host.park("fails", 2);
        env.kill(killed.pid(), None);
        assert_eq!(env.wait(killed.pid()).await, ExitReason::Killed(None));
        killed.run();

        let linked = host.park("fails", 3);
        let answer = env.deliver(Environ::default(), parent(), linked.pid(), exit(failed));
        assert_eq!(answer, None);
        assert_eq!(env.wait(linked.pid()).await, died);

        // What says nothing about an end is none.
        let other = host.park("ends", 4);
        let pid = other.pid();
        let normal = exit(ExitReason::Normal);
        assert_eq!(env.deliver(Environ::default(), parent(), pid, normal), None);
        env.send(pid, Message::default()).await.unwrap();
        let info = env.info(pid).unwrap();
        assert_eq!((info.parked, info.queued), (true, 1));
        other.run();
        assert_eq!(env.wait(pid).await, ExitReason::Normal);

        let _left = host.park("fails", 5);
        env.shutdown().await;
        assert_eq!(host.waiting(), 0);
    }
}
