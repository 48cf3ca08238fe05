//! What a daemon holds of its machine, by the kernel's word and by its own.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bench::Daemon;

/// How often a [`Gauge`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Resident memory of a process, in bytes; `None` once it is gone.
fn resident(process: nix::unistd::Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

impl Daemon {
    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        resident(self.process()).expect("the daemon runs")
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
