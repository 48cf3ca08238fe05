//! What a certificate says about its holder, and what a name may look like.
//!
//! A certificate of a cluster carries exactly one URI,
//! `tidelock://<cluster>/<role>[/<name>]`, and the extended key usages of that role. Anything else
//! is refused by name, so that the log of the refusing side explains itself.

use std::fmt;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const NAME_BYTES_MAX: usize = 63;
const SCHEME: &str = "tidelock://";

/// A name that cannot be used for a cluster, a node or an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name: 1 to 63 of a-z 0-9 . _ - are allowed, beginning and ending with a letter \
     or digit"
)]
pub struct NameError(String);

/// Checks that `name` can stand in a certificate, a file name and a shell command.
///
/// # Errors
///
/// [`NameError`] with the name, shortened.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let outer = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(outer)
        && bytes.last().is_some_and(outer)
        && bytes.iter().copied().all(inner);
    if good {
        Ok(())
    } else {
        Err(NameError(name.chars().take(80).collect()))
    }
}

/// What the holder of a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs processes and talks to other nodes.
    Node,
    /// Keeps the cluster's books.
    Control,
    /// A person or a script that looks and acts.
    Operator,
}

impl Role {
    /// Whether holders accept connections.
    pub(crate) fn serves(self) -> bool {
        matches!(self, Self::Node | Self::Control)
    }

    /// Whether holders make connections.
    pub(crate) fn dials(self) -> bool {
        matches!(self, Self::Node | Self::Operator)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Control => "control",
            Self::Operator => "operator",
        })
    }
}

/// The holder of a certificate, as the authority named it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerName {
    /// The cluster it belongs to.
    pub cluster: String,
    /// What it may do.
    pub role: Role,
    /// Its name within the role; empty for control.
    pub name: String,
}

impl PeerName {
    /// The URI a certificate carries for this holder.
    #[must_use]
    pub fn uri(&self) -> String {
        match self.role {
            Role::Control => format!("{SCHEME}{}/control", self.cluster),
            role => format!("{SCHEME}{}/{role}/{}", self.cluster, self.name),
        }
    }

    /// Reads what [`PeerName::uri`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let cluster = parts.next()?.to_owned();
        let (role, named) = match parts.next()? {
            "node" => (Role::Node, true),
            "operator" => (Role::Operator, true),
            "control" => (Role::Control, false),
            _ => return None,
        };
        let name = if named {
            parts.next()?.to_owned()
        } else {
            String::new()
        };
        let good = parts.next().is_none()
            && check_name(&cluster).is_ok()
            && (!named || check_name(&name).is_ok());
        good.then_some(Self {
            cluster,
            role,
            name,
        })
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

/// Why a certificate does not name somebody this side talks to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The bytes are no certificate.
    #[error("the peer's certificate cannot be read")]
    Malformed,
    /// There is no URI, two of them, or one that is not ours.
    #[error("the peer's certificate must carry exactly one tidelock:// URI, it carries {0}")]
    Uri(String),
    /// The certificate lacks a usage that its role must have.
    #[error("the peer's certificate for role {role} lacks the extended key usage {usage}")]
    Usage {
        /// The role it names.
        role: Role,
        /// What is missing.
        usage: &'static str,
    },
    /// The certificate belongs to another cluster.
    #[error("the peer belongs to cluster {theirs:?}, this side to {ours:?}")]
    Cluster {
        /// The peer's.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Somebody else answered than the one who was called.
    #[error("the peer is called {theirs:?}, {expected:?} was expected")]
    Name {
        /// The peer's.
        theirs: String,
        /// Whom we meant.
        expected: String,
    },
    /// The chain does not lead to the authority that the join token names.
    #[error("the server does not belong to the authority that the join token names")]
    OtherAuthority,
    /// The role is not one that this side talks to here.
    #[error("the peer's certificate is for role {0}, which is not accepted here")]
    Role(Role),
}

/// Reads who `certificate` was issued to.
///
/// The signature is *not* checked: use it on certificates that TLS has accepted.
///
/// # Errors
///
/// [`PeerError`], as far as it does not depend on who asks.
pub fn peer_name(certificate: &CertificateDer<'_>) -> Result<PeerName, PeerError> {
    let certificate = parse(certificate)?;
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| PeerError::Malformed)?;
    let uris: Vec<&str> = san
        .iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(PeerError::Uri(uris.len().to_string()));
    };
    let peer = PeerName::from_uri(uri)
        .ok_or_else(|| PeerError::Uri(format!("{:?}", uri.chars().take(80).collect::<String>())))?;

    let usage = certificate
        .extended_key_usage()
        .map_err(|_| PeerError::Malformed)?;
    let usage = usage.map(|usage| usage.value);
    let lacks = |usage| PeerError::Usage {
        role: peer.role,
        usage,
    };
    if peer.role.serves() && !usage.is_some_and(|usage| usage.server_auth) {
        return Err(lacks("serverAuth"));
    }
    if peer.role.dials() && !usage.is_some_and(|usage| usage.client_auth) {
        return Err(lacks("clientAuth"));
    }
    Ok(peer)
}

/// The SHA-256 of a certificate's public key (its SubjectPublicKeyInfo): the name of the key itself.
///
/// # Errors
///
/// [`PeerError::Malformed`] if the bytes are no certificate.
pub fn key_fingerprint(certificate: &CertificateDer<'_>) -> Result<[u8; 32], PeerError> {
    Ok(crate::sha256(parse(certificate)?.public_key().raw))
}

pub(crate) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(certificate.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(PeerError::Malformed),
    }
}

/// When a certificate starts and stops to be valid, in seconds since 1970.
///
/// # Errors
///
/// [`PeerError::Malformed`] if the bytes are no certificate.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(u64, u64), PeerError> {
    let parsed = parse(certificate)?;
    let seconds = |time: x509_parser::time::ASN1Time| time.timestamp().max(0).unsigned_abs();
    Ok((
        seconds(parsed.validity().not_before),
        seconds(parsed.validity().not_after),
    ))
}
