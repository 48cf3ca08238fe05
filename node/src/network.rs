//! The threads of sessions and sockets.
//!
//! Guests that compute keep the other threads busy, thousands of them for seconds. A session that
//! had to queue behind them would lose its lease. Apart from them, the system shares the cores out.
//!
//! Large messages have a thread of their own. It gives way to the others: what it encrypts and copies takes
//! milliseconds, and what they have to do is over in microseconds and somebody waits for it. It is not
//! starved by busy guests either: they leave it its share.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// How much the thread of bulk gives way, as `nice` counts it: beside one that does not it gets a tenth
/// of a core, on an idle core all of it.
#[cfg(target_os = "linux")]
const BULK_NICE: i32 = 10;

/// Both threads; they end when it is dropped.
pub(crate) struct Network(Option<[Runtime; 2]>);

impl Network {
    pub(crate) fn new() -> io::Result<Self> {
        let signals = thread("tidelock-net").build()?;
        let bulk = thread("tidelock-bulk").on_thread_start(give_way).build()?;
        Ok(Network(Some([signals, bulk])))
    }

    /// Where sessions and sockets run.
    pub(crate) fn signals(&self) -> &Handle {
        self.runtimes()[0].handle()
    }

    /// Where connections for bulk are driven.
    pub(crate) fn bulk(&self) -> &Handle {
        self.runtimes()[1].handle()
    }

    fn runtimes(&self) -> &[Runtime; 2] {
        self.0.as_ref().expect("taken by drop only")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // May happen on a thread of another runtime, which must not block.
        for runtime in self.0.take().into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

fn thread(name: &str) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).thread_name(name).enable_all();
    builder
}

/// Only Linux knows how important a single thread is; elsewhere bulk is as important as the rest.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, BULK_NICE) {
        tracing::debug!(%error, "the thread of bulk is as important as the others");
    }
}
