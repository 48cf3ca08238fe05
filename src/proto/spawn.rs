//! Spawning a process on another node, in three messages.
//!
//! ```text
//!   parent's node                         child's node
//!   -------------                         ------------
//!   Asked      ── Prepare ─────────────▶  Preparing   checks, reserves; no code runs
//!   Answered   ◀──────────── Prepared ──  Parked      child's halves in its block
//!   (adopts)   ── Start ───────────────▶  over        the child runs
//!
//!   Cancelled  ── Cancel ──────────────▶  over        never made, or ended unrun
//!   over       ◀─────────── Cancelled ──
//! ```
//!
//! # Guarantees
//!
//! * **S1 — no unlinked instruction (P3).** The child runs after `Start`, which follows the parent's
//!   half in the lane.
//! * **S2 — a failed spawn never ran (P4).** Whoever was answered with an error has sent `Cancel` or
//!   got `Refused`, and neither is followed by `Start`.
//!
//! The machine ends at `Start`. From the child's making its half, and from `Prepared` the parent's
//! half, live in their [`crate::link::Block`]s, which alone report ends: two owners of one link
//! would tell twice. Erlang's spawn needs two messages; the third is possible because a Wasm
//! process can exist without having run.
//!
//! # What this module does not do
//!
//! It holds no deadline and no process. What follows from the end of the session is for
//! [`crate::session::Session::end`] to list.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Environ, ModuleHash, Pid, bounded};

/// A parameter of an entry function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Param {
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A vector of 128 bits.
    V128(u128),
}

/// What a process may do and use. A child never gets more than its parent has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// Command-line arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Host directories the process sees, under the same name.
    pub preopens: Vec<String>,
    /// Bytes of linear memory; growing beyond fails.
    pub memory_bytes_max: u64,
    /// Units of 100 000 instructions; at the end the process ends. `None`: no limit.
    pub fuel_max: Option<u64>,
    /// May compile modules.
    pub can_compile_modules: bool,
    /// May create configurations.
    pub can_create_configs: bool,
    /// May spawn processes.
    pub can_spawn_processes: bool,
}

impl ProcessConfig {
    /// Whether it is no longer than what names it: without words, variables and directories.
    pub fn is_short(&self) -> bool {
        self.args.is_empty() && self.env.is_empty() && self.preopens.is_empty()
    }

    /// Bytes of its words, variables and directories.
    pub fn text_bytes(&self) -> usize {
        let variables = self.env.iter().flat_map(|(name, value)| [name, value]);
        let texts = self.args.iter().chain(&self.preopens).chain(variables);
        texts.map(|text| ProcessConfig::bytes_of(text)).sum()
    }

    /// What one of them counts.
    pub fn bytes_of(text: &str) -> usize {
        size_of::<String>() + text.len()
    }
}

impl Default for ProcessConfig {
    /// A first process: everything but files, without a limit of its own.
    fn default() -> Self {
        ProcessConfig {
            args: Vec::new(),
            env: Vec::new(),
            preopens: Vec::new(),
            memory_bytes_max: u64::from(u32::MAX),
            fuel_max: None,
            can_compile_modules: true,
            can_create_configs: true,
            can_spawn_processes: true,
        }
    }
}

/// The request for a process, as the parent's node makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prepare {
    /// The tenant of parent and child.
    pub environ: Environ,
    /// Who asks.
    pub parent: Pid,
    /// The code, by content.
    pub module: ModuleHash,
    /// The exported function to run.
    pub entry: String,
    /// Its arguments.
    pub params: Vec<Param>,
    /// What the child may do and use.
    #[serde(with = "shared")]
    pub config: Arc<ProcessConfig>,
    /// `Some(tag)`: linked to the parent; `tag` is what the *parent's* LinkDied carries.
    pub link: Option<Option<i64>>,
    /// `Some(reference)`: monitored by the parent.
    pub monitor: Option<u64>,
}

impl Prepare {
    /// About as many bytes as keeping it takes.
    pub fn bytes(&self) -> usize {
        let params = self.params.len() * size_of::<Param>();
        size_of::<Prepare>() + self.entry.len() + params + self.config.text_bytes()
    }
}

/// A [`Prepare`] whose configuration a slot of the session holds, since protocol 3.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// As in [`Prepare`].
    pub environ: Environ,
    /// As in [`Prepare`].
    pub parent: Pid,
    /// As in [`Prepare`].
    pub module: ModuleHash,
    /// As in [`Prepare`].
    pub entry: String,
    /// As in [`Prepare`].
    pub params: Vec<Param>,
    /// Which of the configurations that the peer has told.
    pub slot: u8,
    /// As in [`Prepare`].
    pub link: Option<Option<i64>>,
    /// As in [`Prepare`].
    pub monitor: Option<u64>,
}

impl Prepare {
    pub(crate) fn into_request(self, slot: u8) -> Request {
        Request {
            environ: self.environ,
            parent: self.parent,
            module: self.module,
            entry: self.entry,
            params: self.params,
            slot,
            link: self.link,
            monitor: self.monitor,
        }
    }
}

impl Request {
    pub(crate) fn into_prepare(self, config: Arc<ProcessConfig>) -> Prepare {
        Prepare {
            environ: self.environ,
            parent: self.parent,
            module: self.module,
            entry: self.entry,
            params: self.params,
            config,
            link: self.link,
            monitor: self.monitor,
        }
    }
}

/// A configuration that many processes have, as the bytes of one.
pub(crate) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::ProcessConfig;

    pub(crate) fn serialize<S: Serializer>(
        config: &Arc<ProcessConfig>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        config.as_ref().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<ProcessConfig>, D::Error> {
        ProcessConfig::deserialize(deserializer).map(Arc::new)
    }
}

/// Why a node will not make a process: whose move it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody it can ask holds the module. Deploy it first.
    #[error("no such module: {0}")]
    NoModule(String),
    /// The module is not valid here. Its author has to mend it.
    #[error("module cannot run here: {0}")]
    BadModule(String),
    /// No such export, or not with these parameters. The caller has to mend it.
    #[error("no such function: {0}")]
    NoFunction(String),
    /// The node is at a limit. Retry elsewhere.
    #[error("node is full: {0}")]
    Full(String),
    /// The parent, or its tenant, may not do this there.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// Memory could not be reserved. Retry elsewhere.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The node is leaving. Retry elsewhere.
    #[error("node is draining")]
    Draining,
}

impl Refusal {
    /// The same refusal with its text within [`crate::TEXT_BYTES_MAX`].
    pub fn bounded(self) -> Self {
        match self {
            Refusal::NoModule(text) => Refusal::NoModule(bounded(text)),
            Refusal::BadModule(text) => Refusal::BadModule(bounded(text)),
            Refusal::NoFunction(text) => Refusal::NoFunction(bounded(text)),
            Refusal::Full(text) => Refusal::Full(bounded(text)),
            Refusal::NotPermitted(text) => Refusal::NotPermitted(bounded(text)),
            Refusal::OutOfMemory(text) => Refusal::OutOfMemory(bounded(text)),
            Refusal::Draining => Refusal::Draining,
        }
    }
}

/// The asking side of one spawn, until its outcome is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asking {
    /// `Prepare` is out. The parent is suspended inside `spawn`.
    Asked,
    /// `Prepared` has come and `Start` is not out: the spawn can still be given up.
    Answered,
    /// `Cancel` is out; the tombstone waits for `Cancelled` and absorbs what crosses it.
    Cancelled,
}

/// The hosting side of one spawn, until the child runs or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hosting {
    /// The child is being checked and made. Nobody else knows of it.
    Preparing,
    /// The child exists with its halves, and has not run.
    Parked,
    /// `Start` has come, and the child has not run yet.
    Starting,
    /// The child ended while parked. Absorbs the `Start` or `Cancel` that is still to come.
    Ended,
}

/// What the asking side is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The child exists and is parked.
    Prepared,
    /// The child was not made.
    Refused,
    /// The request was given up, and nothing of it is left.
    Cancelled,
}

/// What the asking side does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum AskingStep {
    /// Enter the parent's half, send `Start`, return the pid. `Start` ends the machine.
    Adopt,
    /// Return the refusal. The machine is over.
    Fail,
    /// Nothing to do; the tombstone stays.
    Stay,
    /// Nothing to do. The machine is over.
    Forget,
}

/// What the hosting side does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum HostingStep {
    /// Run the child, which ends the machine, unless the child ends first.
    Run,
    /// End the parked child, unrun, if it has not ended, and let go of it. The machine is over.
    End,
    /// What is being made is dropped when it is ready. The machine is over.
    Drop,
}

impl Asking {
    /// Handles the child's node's answer.
    ///
    /// # Errors
    ///
    /// The rule that was broken; nothing changes.
    pub fn handle(self, answer: Answer) -> Result<AskingStep, &'static str> {
        match (self, answer) {
            (Asking::Asked, Answer::Prepared) => Ok(AskingStep::Adopt),
            (Asking::Asked, Answer::Refused) => Ok(AskingStep::Fail),
            // The answer crossed our Cancel, whose own answer is still to come.
            (Asking::Cancelled, Answer::Prepared | Answer::Refused) => Ok(AskingStep::Stay),
            (Asking::Cancelled, Answer::Cancelled) => Ok(AskingStep::Forget),
            (Asking::Answered, Answer::Prepared | Answer::Refused) => {
                Err("a spawn is answered once")
            }
            (Asking::Asked | Asking::Answered, Answer::Cancelled) => {
                Err("Cancelled answers a Cancel")
            }
        }
    }
}

impl Hosting {
    /// Handles `Start`.
    ///
    /// # Errors
    ///
    /// The rule that was broken; nothing changes.
    pub fn handle_start(self) -> Result<HostingStep, &'static str> {
        match self {
            Hosting::Parked => Ok(HostingStep::Run),
            // Our Exit or Down is on its way to whoever must know.
            Hosting::Ended => Ok(HostingStep::End),
            Hosting::Preparing => Err("Start follows Prepared"),
            Hosting::Starting => Err("Start comes once"),
        }
    }

    /// Handles `Cancel`, which is always answered by `Cancelled`.
    pub fn handle_cancel(self) -> HostingStep {
        match self {
            Hosting::Parked | Hosting::Starting | Hosting::Ended => HostingStep::End,
            Hosting::Preparing => HostingStep::Drop,
        }
    }
}
