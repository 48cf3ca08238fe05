//! Erlang's process model for WebAssembly: everything a process needs to live on one machine.
//!
//! An [`Environment`] holds processes. A process is a sandboxed Wasm instance or a Rust future; it
//! shares nothing, has a mailbox, may be linked to and monitored by others, and dies alone. Whoever
//! is linked to it is told exactly once. Processes on other machines are reached through the same
//! calls by the same pids: the environment does not know what a network is, it knows [`Remote`].
//!
//! # Examples
//!
//! Two native processes, linked:
//!
//! ```
//! use tidelock::{Environment, EnvironmentConfig, ExitReason, Filter, Received, SpawnOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let env = Environment::new(EnvironmentConfig::default())?;
//! let parent = env.spawn_native("parent", SpawnOptions::default(), |mut me| async move {
//!     me.set_die_when_link_dies(false);
//!     let child = me
//!         .spawn_native_link("child", Some(7), |_me| async { ExitReason::Exit(3) })
//!         .expect("there is room");
//!     match me.receive(Filter::Any, None).await {
//!         Some(Received::LinkDied { pid, tag: Some(7), reason: ExitReason::Exit(3) }) => {
//!             assert_eq!(pid, child);
//!             ExitReason::Normal
//!         }
//!         other => ExitReason::Fault(format!("{other:?}")),
//!     }
//! })?;
//! assert_eq!(env.wait(parent).await, ExitReason::Normal);
//! # Ok(()) }
//! ```
//!
//! A guest, compiled from its text form:
//!
//! ```
//! use tidelock::{Environment, EnvironmentConfig, ExitReason, Module, SpawnOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let env = Environment::new(EnvironmentConfig::default())?;
//! let bytes = wat::parse_str(r#"(module (func (export "_start") unreachable))"#)?;
//! let module = Module::compile(env.engine(), bytes).await?;
//! let pid = env.spawn_wasm(&module, "_start", vec![], SpawnOptions::default())?;
//! assert!(matches!(env.wait(pid).await, ExitReason::Trap(_)));
//! # Ok(()) }
//! ```

mod certificates;
mod context;
mod environment;
mod hibernation;
mod host;
mod info;
mod mailbox;
mod modules;
mod process;
mod registry;
mod remote;
#[cfg_attr(
    feature = "loom",
    allow(dead_code, reason = "there, processes are threads of the model")
)]
mod scheduler;
mod shares;
mod sync;
mod table;
mod timers;
mod wasm;

pub use certificates::{CertificatePair, Certificates};
pub use context::{Context, SpawnRequest};
pub use environment::{Environment, EnvironmentConfig, Limits, SpawnOptions};
pub use host::{GuestMetrics, Stdio, guest_metrics};
pub use info::{Counters, Event, Happening, Output, OutputLine, ProcessInfo, Stream};
pub use mailbox::{Filter, MAILBOX_ENTRY_BYTES, Mark, Message, Received};
pub use modules::ModuleStore;
pub use process::{Parked, Process, Signal};
pub use registry::Registry;
pub use remote::{Pending, Remote, SpawnAnswer};
pub use scheduler::{LentThread, SetAside};
pub use tidelock_proto::link::{LinkForm, LinkOutcome, Signal as LinkSignal};
pub use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Refusal};
pub use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid};
pub use wasm::{
    Compiler, Engine, EngineConfig, EngineError, EntryError, Import, Module, ModuleError, Profile,
    compile_apart,
};

/// Something a message carries besides bytes, within one node: a module, a socket.
pub type Resource = std::sync::Arc<dyn std::any::Any + Send + Sync>;

/// Why a process was not made. It did not and will not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The node cannot be reached, or the session to it ended first. A retry elsewhere can help.
    #[error("node {node} is unreachable: {how}")]
    Unreachable {
        /// The node that was asked.
        node: NodeId,
        /// How that was noticed.
        how: String,
    },
    /// The node was asked and said no; the text says whose move it is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer within the deadline. The request was withdrawn.
    #[error("no answer within the deadline")]
    TimedOut,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The target's node cannot be reached. Whether earlier messages arrived is for links to tell.
    #[error("node {node} is unreachable: {how}")]
    Unreachable {
        /// The node that was asked.
        node: NodeId,
        /// How that was noticed.
        how: String,
    },
    /// The message is above `message_bytes_max`. Retrying cannot help.
    #[error("message of {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Modules and sockets do not travel to other nodes. Retrying cannot help.
    #[error("a message with resources cannot leave its node")]
    Resources,
}

/// Why two processes are not linked. No half of the link remains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The other process is gone, for this reason.
    #[error("{0}")]
    Ended(ExitReason),
    /// No answer within the deadline. The request was withdrawn.
    #[error("no answer within the deadline")]
    TimedOut,
}

/// No answer within the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within the deadline")]
pub struct TimedOut;
