//! The name of a process.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::NodeId;

const NODE_SHIFT: u32 = 40;
const LOCAL_MASK: u64 = (1 << NODE_SHIFT) - 1;

/// The name of a process, unique in its cluster and never used again.
///
/// It prints as `n3.42`: process 42 of node 3. A process of a program that runs without a
/// cluster is on node 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(NonZeroU64);

impl Pid {
    /// Makes a pid of the number [`Pid::raw`] gave. `None` for 0, which names nobody.
    pub fn from_raw(raw: u64) -> Option<Self> {
        NonZeroU64::new(raw).map(Self)
    }

    /// The pid as a number, for passing it in messages and as the argument of a spawn.
    pub fn raw(self) -> u64 {
        self.0.get()
    }

    /// The node this process lives on.
    pub fn node(self) -> NodeId {
        NodeId(self.raw() >> NODE_SHIFT)
    }

    /// The number of this process on its node.
    pub fn local(self) -> u64 {
        self.raw() & LOCAL_MASK
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node(), self.local())
    }
}

/// A text is not a pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsePidError;

impl fmt::Display for ParsePidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pid looks like n3.42")
    }
}

impl std::error::Error for ParsePidError {}

impl FromStr for Pid {
    type Err = ParsePidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (node, local) = text
            .strip_prefix('n')
            .and_then(|rest| rest.split_once('.'))
            .ok_or(ParsePidError)?;
        let node: u64 = node.parse().map_err(|_| ParsePidError)?;
        let local: u64 = local.parse().map_err(|_| ParsePidError)?;
        if node >= 1 << 23 || local > LOCAL_MASK {
            return Err(ParsePidError);
        }
        Self::from_raw(node << NODE_SHIFT | local).ok_or(ParsePidError)
    }
}
