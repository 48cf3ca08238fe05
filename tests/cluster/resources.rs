//! What a daemon holds of its machine, by the kernel's word and by its own.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tidelock_control::api::SessionInfo;

use crate::bench::{Cluster, Daemon};

/// How often a [`Gauge`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Resident memory of a process, in bytes; `None` once it is gone.
pub(crate) fn resident(process: nix::unistd::Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

impl Daemon {
    /// How many entries a folder of the process has in `/proc`.
    fn count(&self, folder: &str) -> u64 {
        let entries = fs::read_dir(format!("/proc/{}/{folder}", self.process()));
        entries.expect("the daemon runs").count() as u64
    }
}

/// The most resident memory that a daemon had while this looked.
pub(crate) struct Gauge {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gauge {
    pub(crate) fn on(daemon: &Daemon) -> Self {
        let process = daemon.process();
        let (most, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let thread = std::thread::spawn({
            let (most, stop) = (most.clone(), stop.clone());
            move || {
                while let Some(bytes) = resident(process) {
                    most.fetch_max(bytes, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::sleep(LOOK_EVERY); // between two looks
                }
            }
        });
        Gauge {
            most,
            stop,
            thread: Some(thread),
        }
    }

    /// The most so far, in bytes.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a look does not panic");
        }
    }
}

/// What a node holds at one moment. What is counted by the node itself was asked for last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Holds {
    pub(crate) resident: u64,
    pub(crate) fds: u64,
    threads: u64,
    tasks: u64,
    processes: u64,
    sessions: u64,
    /// Processes that the sessions would have to tell of their end.
    locals: u64,
}

impl Holds {
    /// What the kernel knows of any daemon.
    pub(crate) fn of_daemon(daemon: &Daemon) -> Self {
        Holds {
            resident: daemon.memory_bytes(),
            fds: daemon.count("fd"),
            threads: daemon.count("task"),
            ..Holds::default()
        }
    }

    pub(crate) fn of(cluster: &Cluster, name: &str) -> Self {
        let sessions: Vec<SessionInfo> = cluster.get(name, "/v1/sessions");
        let metric = |family| cluster.metric(name, family) as u64;
        Holds {
            tasks: metric("tidelock_tasks"),
            processes: metric("tidelock_processes"),
            sessions: sessions.len() as u64,
            locals: sessions.iter().map(|session| session.links).sum(),
            ..Holds::of_daemon(cluster.node(name))
        }
    }

    /// What has grown since `before` by more than is allowed, in words.
    pub(crate) fn grown(&self, before: &Holds) -> Vec<String> {
        let all = [
            (
                "resident bytes",
                before.resident,
                self.resident,
                RESIDENT_GROWTH_MAX,
            ),
            ("file descriptors", before.fds, self.fds, FDS_GROWTH_MAX),
            ("threads", before.threads, self.threads, THREADS_GROWTH_MAX),
            ("tasks", before.tasks, self.tasks, TASKS_GROWTH_MAX),
            ("sessions", before.sessions, self.sessions, 0),
        ];
        let grown = all.iter().filter(|(_, was, is, most)| *is > was + most);
        grown
            .map(|(what, was, is, most)| {
                format!("{what} grew from {was} to {is}, by more than {most}")
            })
            .collect()
    }
}

impl Holds {
    /// What is there at rest beyond so many processes, in words.
    pub(crate) fn left_over(&self, processes: u64) -> Vec<String> {
        let all = [
            ("processes", self.processes, processes),
            ("processes that sessions would tell", self.locals, 0),
        ];
        let left = all.iter().filter(|(_, is, due)| is > due);
        left.map(|(what, is, due)| format!("{is} {what} instead of {due}"))
            .collect()
    }
}

/// What a node may hold more than after its warm-up, at rest. In it are what is remembered for whoever
/// asks later (65 536 ends, 10 000 events, 10 000 lines, all full after some minutes), and pages that
/// the allocator and the slots of guests keep for reuse.
const RESIDENT_GROWTH_MAX: u64 = 128 << 20;
/// Idle connections of operators.
const FDS_GROWTH_MAX: u64 = 4;
/// Threads for blocking calls end ten seconds after their last one.
const THREADS_GROWTH_MAX: u64 = 4;
/// Connections of operators have some.
const TASKS_GROWTH_MAX: u64 = 8;

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} MiB, {} fds, {} threads, {} tasks, {} processes, {} sessions",
            self.resident >> 20,
            self.fds,
            self.threads,
            self.tasks,
            self.processes,
            self.sessions
        )
    }
}
