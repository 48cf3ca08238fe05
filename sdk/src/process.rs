//! Spawning processes and learning of their end.

use std::fmt;
use std::time::Duration;

use crate::message::milliseconds;
use crate::sys::TIMED_OUT;
use crate::{NodeId, Pid, sys};

/// The process that asks.
pub fn me() -> Pid {
    Pid::from_raw(sys::process_id()).expect("a running process has a pid")
}

/// Starts a function of this program in a new process on this node.
///
/// # Errors
///
/// As for [`Spawn::start`].
pub fn spawn(entry: fn(u64), argument: u64) -> Result<Pid, SpawnError> {
    Spawn::new().start(entry, argument)
}

/// Starts a function of this program in a new process on this node, linked to this one.
///
/// `tag` marks the [`LinkDied`](crate::LinkDied) that this process may get; 0 is none.
///
/// # Errors
///
/// As for [`Spawn::start`].
pub fn spawn_link(tag: i64, entry: fn(u64), argument: u64) -> Result<Pid, SpawnError> {
    Spawn::new().linked(tag).start(entry, argument)
}

/// Starts a function of this program in a new process on a node, linked to this one.
///
/// # Errors
///
/// As for [`Spawn::start`].
pub fn spawn_on(node: NodeId, tag: i64, entry: fn(u64), argument: u64) -> Result<Pid, SpawnError> {
    Spawn::new().on(node).linked(tag).start(entry, argument)
}

/// How a process is to be started. Without further words: here, unlinked, within 10 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spawn {
    node: u64,
    link: i64,
    timeout: Option<Duration>,
}

impl Default for Spawn {
    fn default() -> Self {
        Self::new()
    }
}

impl Spawn {
    /// Starts on this node, not linked, and gives up after 10 seconds.
    pub fn new() -> Self {
        Self {
            node: 0,
            link: -1,
            timeout: Some(Duration::from_secs(10)),
        }
    }

    /// Starts on a node, which may be this one.
    pub fn on(mut self, node: NodeId) -> Self {
        self.node = node.0;
        self
    }

    /// Links the new process to this one before it runs.
    ///
    /// `tag` marks the [`LinkDied`](crate::LinkDied) that this process may get; 0 is none.
    ///
    /// # Panics
    ///
    /// If the tag is -1, which the host reads as "no link".
    pub fn linked(mut self, tag: i64) -> Self {
        assert_ne!(tag, -1, "-1 cannot be the tag of a link");
        self.link = tag;
        self
    }

    /// Gives up after a time. `None` never does.
    pub fn within(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts `entry(argument)` in a new process of the same module.
    ///
    /// The new process has its own memory: nothing but the argument gets across, and statics
    /// have their first values. If a link was asked for, both ends hold it when this
    /// returns.
    ///
    /// # Errors
    ///
    /// On every error the process has not run and will not.
    pub fn start(self, entry: fn(u64), argument: u64) -> Result<Pid, SpawnError> {
        sys::spawn_by_index(
            self.node,
            self.link,
            entry,
            argument,
            milliseconds(self.timeout),
        )
        .map(|raw| Pid::from_raw(raw).expect("a spawned process has a pid"))
        .map_err(|(code, text)| SpawnError::new(code, text))
    }

    /// Starts an exported function of this module that takes no parameters.
    ///
    /// # Errors
    ///
    /// As for [`Spawn::start`]; [`SpawnError::NoFunction`] if there is no such export.
    pub fn start_export(self, name: &str) -> Result<Pid, SpawnError> {
        sys::spawn_export(self.node, self.link, name, &[], milliseconds(self.timeout))
            .map(|raw| Pid::from_raw(raw).expect("a spawned process has a pid"))
            .map_err(|(code, text)| SpawnError::new(code, text))
    }
}

/// A process was not started. Each variant holds the words of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// The node is unknown or cannot be reached. Another one may do.
    Unreachable(String),
    /// Nobody has the module.
    NoModule(String),
    /// The module has no such function, or it takes other parameters.
    NoFunction(String),
    /// The node runs as many processes as it may. Another one may do.
    Full(String),
    /// This process may not spawn.
    NotPermitted(String),
    /// The node has no memory left for it.
    OutOfMemory(String),
    /// No answer within the time. The process will not run.
    TimedOut(String),
    /// Something this crate has no name for.
    Other(i32, String),
}

impl SpawnError {
    fn new(code: i32, text: String) -> Self {
        match code {
            1 => Self::Unreachable(text),
            2 => Self::NoModule(text),
            3 => Self::NoFunction(text),
            4 => Self::Full(text),
            5 => Self::NotPermitted(text),
            6 => Self::OutOfMemory(text),
            TIMED_OUT => Self::TimedOut(text),
            other => Self::Other(other, text),
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) => write!(f, "node unreachable: {text}"),
            Self::NoModule(text) => write!(f, "no such module: {text}"),
            Self::NoFunction(text) => write!(f, "no such function: {text}"),
            Self::Full(text) => write!(f, "node full: {text}"),
            Self::NotPermitted(text) => write!(f, "not permitted: {text}"),
            Self::OutOfMemory(text) => write!(f, "out of memory: {text}"),
            Self::TimedOut(text) => write!(f, "timed out: {text}"),
            Self::Other(code, text) => write!(f, "error {code}: {text}"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// Links this process and another, wherever it is.
///
/// Returns once both ends hold the link. Linking twice is linking once; the later tag counts.
/// `None` waits for ever.
///
/// # Errors
///
/// No link remains in either case, and no message follows.
pub fn link(pid: Pid, tag: i64, timeout: Option<Duration>) -> Result<(), LinkError> {
    match sys::link(pid.raw(), tag, milliseconds(timeout)) {
        Ok(()) => Ok(()),
        Err((TIMED_OUT, _)) => Err(LinkError::TimedOut),
        Err((_, reason)) => Err(LinkError::Ended(reason)),
    }
}

/// A link was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError {
    /// The other process has ended, or never was. Holds the reason, if known.
    Ended(String),
    /// No answer within the time.
    TimedOut,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(reason) => write!(f, "process has ended: {reason}"),
            Self::TimedOut => f.write_str("no answer within the time"),
        }
    }
}

impl std::error::Error for LinkError {}

/// No answer within the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer within the time")
    }
}

impl std::error::Error for TimedOut {}

/// Removes a link. Nothing happens if there is none.
///
/// Once this returns, no end of `pid` reaches this process through the removed link.
///
/// # Errors
///
/// [`TimedOut`] if the other side has not confirmed within the time.
pub fn unlink(pid: Pid, timeout: Option<Duration>) -> Result<(), TimedOut> {
    if sys::unlink(pid.raw(), milliseconds(timeout)) == TIMED_OUT {
        Err(TimedOut)
    } else {
        Ok(())
    }
}

/// One monitor, as named in the message that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Monitor(pub(crate) u64);

impl Monitor {
    /// The number in [`Down::reference`](crate::Down) and [`NodeDown::reference`](crate::NodeDown).
    pub fn reference(self) -> u64 {
        self.0
    }
}

/// Asks for one [`Received::Down`](crate::Received::Down) when a process ends, for whatever
/// reason.
///
/// Each call is a monitor of its own. A process that has ended yields its message at once. It
/// waits while the way to another node is congested. A process that holds 100 000 monitors, of
/// processes and nodes, ends of one more.
pub fn monitor(pid: Pid) -> Monitor {
    Monitor(sys::monitor(pid.raw()))
}

/// Removes one monitor, of a process or a node.
pub fn demonitor(monitor: Monitor) {
    sys::demonitor(monitor.0);
}

/// Ends a process, wherever it is. Those linked to it learn of a failure.
///
/// Does not wait for it to end. Nothing happens if it has ended.
pub fn kill(pid: Pid) {
    sys::kill(pid.raw());
}

/// Whether a process runs. Asks its node if that is another one; `false` if that is gone.
pub fn exists(pid: Pid) -> bool {
    sys::exists(pid.raw())
}

/// Says whether this process ends when a linked one fails: `true` at the start.
///
/// After `false` such an end is a [`Received::LinkDied`](crate::Received::LinkDied) instead.
pub fn die_when_link_dies(die: bool) {
    sys::die_when_link_dies(die);
}

/// Suspends this process for a time.
pub fn sleep(time: Duration) {
    sys::sleep(milliseconds(Some(time)));
}

/// Writes a line to the events of this node, where `tidelock events` shows it.
pub fn log(text: &str) {
    sys::log(text);
}
