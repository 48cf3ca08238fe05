//! The bounds of an environment: how much of each thing it may hold.
//!
//! Each says what happens at it. What is counted is counted where it is held.

use std::path::PathBuf;
use std::time::Duration;

/// What one environment may hold, and what happens at the bound.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Processes alive. One more is refused as full.
    pub processes_max: usize,
    /// Entries in one mailbox. One more ends its owner with
    /// [`ExitReason::MailboxFull`](crate::ExitReason::MailboxFull).
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
