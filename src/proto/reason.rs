//! Why a process ended.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Pid};

/// The longest text kept with a reason, in bytes. Longer texts are cut.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Why a process ended, as told to its links, monitors and operators.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitReason {
    /// Its code returned, or it exited with code 0.
    Normal,
    /// It exited with another code.
    Exit(i32),
    /// Its code trapped; the text says how.
    Trap(String),
    /// It was killed, by this process if one is named.
    Killed(Option<Pid>),
    /// A process it was linked to ended, for this reason.
    LinkDied {
        /// Who ended.
        pid: Pid,
        /// Why, in words.
        why: String,
    },
    /// The session to its node ended. A verdict, not a fact: the process may live.
    NodeDown {
        /// The node that cannot be reached.
        node: NodeId,
        /// How that was noticed.
        how: String,
    },
    /// There is no such process (any more).
    NoProcess,
    /// Its mailbox held as much as it may.
    MailboxFull,
    /// Another limit was reached; the text names it.
    Limit(String),
    /// The runtime failed while working for it. A bug of ours.
    Fault(String),
    /// It never ran: cancelled, refused, or its entry function does not exist.
    NotStarted(String),
}

impl ExitReason {
    /// Whether links ignore this end.
    pub fn is_normal(&self) -> bool {
        matches!(self, ExitReason::Normal)
    }

    /// The exit code a shell shows for it.
    pub fn exit_code(&self) -> i32 {
        match self {
            ExitReason::Normal => 0,
            ExitReason::Exit(code) => *code,
            ExitReason::Killed(_) => 137,
            ExitReason::NodeDown { .. } => 255,
            ExitReason::NoProcess => 254,
            ExitReason::Trap(_)
            | ExitReason::LinkDied { .. }
            | ExitReason::MailboxFull
            | ExitReason::Limit(_)
            | ExitReason::Fault(_)
            | ExitReason::NotStarted(_) => 101,
        }
    }

    /// Bytes of its text, which are kept beside it.
    pub fn text_bytes(&self) -> usize {
        match self {
            ExitReason::Trap(text)
            | ExitReason::Limit(text)
            | ExitReason::Fault(text)
            | ExitReason::NotStarted(text)
            | ExitReason::LinkDied { why: text, .. }
            | ExitReason::NodeDown { how: text, .. } => text.len(),
            ExitReason::Normal
            | ExitReason::Exit(_)
            | ExitReason::Killed(_)
            | ExitReason::NoProcess
            | ExitReason::MailboxFull => 0,
        }
    }

    /// The same reason with every text within [`TEXT_BYTES_MAX`].
    pub fn bounded(self) -> Self {
        self.within(TEXT_BYTES_MAX)
    }

    /// The same reason with every text within so many bytes; what is cut keeps its `…`.
    pub(crate) fn within(self, bytes_max: usize) -> Self {
        let bounded = |text| cut(text, bytes_max);
        match self {
            ExitReason::Trap(text) => ExitReason::Trap(bounded(text)),
            ExitReason::LinkDied { pid, why } => ExitReason::LinkDied {
                pid,
                why: bounded(why),
            },
            ExitReason::NodeDown { node, how } => ExitReason::NodeDown {
                node,
                how: bounded(how),
            },
            ExitReason::Limit(text) => ExitReason::Limit(bounded(text)),
            ExitReason::Fault(text) => ExitReason::Fault(bounded(text)),
            ExitReason::NotStarted(text) => ExitReason::NotStarted(bounded(text)),
            other @ (ExitReason::Normal
            | ExitReason::Exit(_)
            | ExitReason::Killed(_)
            | ExitReason::NoProcess
            | ExitReason::MailboxFull) => other,
        }
    }
}

/// Cuts `text` to at most [`TEXT_BYTES_MAX`] bytes, at a character.
pub fn bounded(text: String) -> String {
    cut(text, TEXT_BYTES_MAX)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let mut end = bytes_max.saturating_sub("…".len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Normal => f.write_str("normal"),
            ExitReason::Exit(code) => write!(f, "exit code {code}"),
            ExitReason::Trap(text) => write!(f, "trap: {text}"),
            ExitReason::Killed(None) => f.write_str("killed"),
            ExitReason::Killed(Some(by)) => write!(f, "killed by {by}"),
            ExitReason::LinkDied { pid, why } => write!(f, "linked process {pid} ended: {why}"),
            ExitReason::NodeDown { node, how } => write!(f, "node {node} down: {how}"),
            ExitReason::NoProcess => f.write_str("no such process"),
            ExitReason::MailboxFull => f.write_str("mailbox full"),
            ExitReason::Limit(text) => write!(f, "limit: {text}"),
            ExitReason::Fault(text) => write!(f, "runtime fault: {text}"),
            ExitReason::NotStarted(text) => write!(f, "never started: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_normal_is_normal_and_a_shell_sees_which() {
        let text = String::new;
        let node = NodeId(2);
        let pid = Pid::new(node, 1).unwrap();
        for (reason, code) in [
            (ExitReason::Normal, 0),
            (ExitReason::Exit(0), 0),
            (ExitReason::Exit(-7), -7),
            (ExitReason::Killed(None), 137),
            (ExitReason::Killed(Some(pid)), 137),
            (ExitReason::NodeDown { node, how: text() }, 255),
            (ExitReason::NoProcess, 254),
            (ExitReason::Trap(text()), 101),
            (ExitReason::LinkDied { pid, why: text() }, 101),
            (ExitReason::MailboxFull, 101),
            (ExitReason::Limit(text()), 101),
            (ExitReason::Fault(text()), 101),
            (ExitReason::NotStarted(text()), 101),
        ] {
            assert_eq!(reason.exit_code(), code, "{reason}");
            assert_eq!(reason.is_normal(), reason == ExitReason::Normal, "{reason}");
            assert_eq!(reason.clone().bounded(), reason);
        }
    }

    #[test]
    fn a_text_is_cut_at_a_character_and_says_so() {
        assert_eq!(bounded("a".repeat(1024)), "a".repeat(1024));
        assert_eq!(bounded("a".repeat(1025)), "a".repeat(1021) + "…");
        // 1021 lies within the 511th é.
        assert_eq!(bounded("é".repeat(513)), "é".repeat(510) + "…");
        assert_eq!(bounded("🌊".repeat(257)), "🌊".repeat(255) + "…");
        let long = ExitReason::Fault("a".repeat(1025)).bounded();
        assert_eq!(long, ExitReason::Fault("a".repeat(1021) + "…"));
        for (bytes_max, left) in [(9, "longer…"), (10, "longer …"), (4, "l…"), (0, "…")] {
            let cut = ExitReason::Limit("longer éé".into()).within(bytes_max);
            assert_eq!(cut, ExitReason::Limit(left.into()), "{bytes_max}");
        }
    }
}
