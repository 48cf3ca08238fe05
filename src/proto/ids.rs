//! Names of nodes, processes and modules.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's incarnation: handed out once by control, increasing, never again.
///
/// A node that restarts is a new `NodeId`, so nothing said about the old one can be mistaken for
/// the new one. `0` is *standalone*: it never appears on the wire.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The node that is not part of a cluster.
    pub const STANDALONE: NodeId = NodeId(0);
    /// The largest id that fits into a [`Pid`] (23 bits).
    pub const MAX: NodeId = NodeId((1 << 23) - 1);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A process, unique over all nodes and all time.
///
/// One `u64`: bits 40–62 the [`NodeId`], bits 0–39 a local number from 1 that is never used
/// again, bit 63 zero. Guests see the raw number and treat it as opaque, so every call that takes
/// a process id reaches remote processes too. `0` is nobody and is not a `Pid`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Pid(u64);

impl From<Pid> for u64 {
    fn from(pid: Pid) -> u64 {
        pid.raw()
    }
}

impl TryFrom<u64> for Pid {
    type Error = ParseIdError;

    fn try_from(raw: u64) -> Result<Self, Self::Error> {
        Pid::from_raw(raw).ok_or_else(|| parse_error(&raw.to_string(), "a process"))
    }
}

impl Pid {
    /// The largest local number (40 bits).
    pub const LOCAL_MAX: u64 = (1 << 40) - 1;

    /// Names process number `local` of `node`; `None` outside the ranges above.
    pub fn new(node: NodeId, local: u64) -> Option<Pid> {
        (node <= NodeId::MAX && local > 0 && local <= Self::LOCAL_MAX)
            .then_some(Pid(node.0 << 40 | local))
    }

    /// Reads the number a guest or a frame holds; `None` if no process can have it.
    pub fn from_raw(raw: u64) -> Option<Pid> {
        (raw >> 63 == 0 && raw & Self::LOCAL_MAX != 0).then_some(Pid(raw))
    }

    /// The number guests see.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// The node this process lives on.
    pub fn node(self) -> NodeId {
        NodeId(self.0 >> 40)
    }

    /// The number within its node.
    pub fn local(self) -> u64 {
        self.0 & Self::LOCAL_MAX
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}.{}", self.0 >> 40, self.local())
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that does not name a node, a process or a module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

fn parse_error(text: &str, expected: &'static str) -> ParseIdError {
    ParseIdError {
        text: text.chars().take(80).collect(),
        expected,
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix('n')
            .unwrap_or(text)
            .parse()
            .ok()
            .map(NodeId)
            .filter(|node| *node <= NodeId::MAX)
            .ok_or_else(|| parse_error(text, "a node (like n3)"))
    }
}

impl FromStr for Pid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pid = match text.split_once('.') {
            Some((node, local)) => node
                .parse::<NodeId>()
                .ok()
                .zip(local.parse().ok())
                .and_then(|(node, local)| Pid::new(node, local)),
            None => text.parse().ok().and_then(Pid::from_raw),
        };
        pid.ok_or_else(|| parse_error(text, "a process (like n3.42)"))
    }
}

/// A module's content: the BLAKE3 hash of its Wasm bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModuleHash(pub [u8; 32]);

impl ModuleHash {
    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.0[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// What guests know the module as: the first eight bytes, little-endian.
    pub fn module_id(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight bytes"))
    }
}

impl fmt::Display for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("b3:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ModuleHash {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || parse_error(text, "a module hash (b3: and 64 hexadecimal digits)");
        let hex = text.strip_prefix("b3:").unwrap_or(text);
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(ModuleHash(hash))
    }
}

/// A tenant: processes of different environments do not know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Environ(pub u64);

impl Default for Environ {
    /// The one environment of a cluster without tenants.
    fn default() -> Self {
        Environ(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_print_and_parse_back() {
        let pid = Pid::new(NodeId(3), 42).unwrap();
        assert_eq!(pid.to_string(), "n3.42");
        assert_eq!("n3.42".parse(), Ok(pid));
        assert_eq!(pid.raw().to_string().parse(), Ok(pid));
        assert_eq!((pid.node(), pid.local()), (NodeId(3), 42));
        for bad in [
            "",
            "n",
            "n3.",
            "n3.0",
            "n9999999.1",
            ".1",
            "0",
            "n1.1.1",
            "-1",
        ] {
            assert!(bad.parse::<Pid>().is_err(), "{bad}");
        }
        assert_eq!(Pid::from_raw(1 << 63 | 1), None);
        assert_eq!(Pid::new(NodeId(1), Pid::LOCAL_MAX + 1), None);
    }

    #[test]
    fn hashes_print_and_parse_back() {
        let hash = ModuleHash(std::array::from_fn(|i| i as u8));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("b3:00".parse::<ModuleHash>().is_err());
        assert!(
            format!("b3:{}", "é".repeat(32))
                .parse::<ModuleHash>()
                .is_err()
        );
    }

    #[test]
    fn ids_end_where_their_bits_do() {
        assert_eq!(NodeId::MAX.0, 8_388_607);
        assert_eq!(Pid::LOCAL_MAX, 1_099_511_627_775);
        let last = Pid::new(NodeId::MAX, Pid::LOCAL_MAX).unwrap();
        assert_eq!(last.raw(), u64::MAX >> 1);
        assert_eq!(Pid::from_raw(last.raw()), Some(last));
        assert_eq!(Pid::try_from(last.raw()), Ok(last));
        assert_eq!(u64::from(last), last.raw());
        assert_eq!((last.node(), last.local()), (NodeId::MAX, Pid::LOCAL_MAX));
        let first = Pid::new(NodeId::STANDALONE, 1).unwrap();
        assert_eq!(first.raw(), 1);
        assert_eq!(Pid::new(NodeId(8_388_608), 1), None);
        assert_eq!(Pid::new(NodeId(1), 0), None);
        for nobody in [0, 1 << 40, 1 << 63, 1 << 63 | 1] {
            assert_eq!(Pid::from_raw(nobody), None, "{nobody}");
            let error = Pid::try_from(nobody).unwrap_err().to_string();
            assert!(error.contains(&nobody.to_string()), "{error}");
        }
        assert_eq!("n8388607".parse(), Ok(NodeId::MAX));
        assert_eq!("7".parse(), Ok(NodeId(7)));
        assert!("n8388608".parse::<NodeId>().is_err());
    }

    #[test]
    fn a_hash_has_two_short_names() {
        let mut hash = ModuleHash([0; 32]);
        hash.0[..8].copy_from_slice(&[0xab, 0x01, 0xff, 0x20, 5, 6, 7, 8]);
        assert_eq!(hash.short(), "ab01ff20");
        assert_eq!(hash.module_id(), 0x0807_0605_20ff_01ab);
        let bare = hash.to_string().replace("b3:", "");
        assert_eq!(bare.parse(), Ok(hash));
        assert!(bare[1..].parse::<ModuleHash>().is_err());
        assert!(bare.replacen('a', "g", 1).parse::<ModuleHash>().is_err());
        assert_eq!(Environ::default(), Environ(1));
    }
}
