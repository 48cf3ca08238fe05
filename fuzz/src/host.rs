//! Where the guests of a search run.

use std::time::Duration;

use tidelock::{Environment, EnvironmentConfig, ExitReason, Pid};
use tokio::runtime::Runtime;

/// A process that was killed and does not end by then hangs.
const HANG: Duration = Duration::from_secs(30);

/// An environment and its threads.
pub struct Host {
    pub runtime: Runtime,
    pub env: Environment,
}

impl Host {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // One more than a call that never comes back would take.
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        let env = Environment::new(EnvironmentConfig::default()).expect("an engine");
        drop(inside);
        Host { runtime, env }
    }

    /// Waits for the end of a process, and kills it after `patience`. Panics, naming `what`, if it then goes
    /// on, or if the host was at fault.
    pub async fn end(&self, pid: Pid, patience: Duration, what: &str) -> ExitReason {
        let end = tokio::time::timeout(patience, self.env.wait(pid)).await;
        let reason = match end {
            Ok(reason) => reason,
            Err(_) => {
                self.env.kill(pid, None);
                let end = tokio::time::timeout(HANG, self.env.wait(pid)).await;
                end.unwrap_or_else(|_| panic!("{what} hangs"))
            }
        };
        if let ExitReason::Fault(text) = reason {
            panic!("{what}: {text}");
        }
        reason
    }
}
