//! Start tickets: the authority's word that a key is a node id.
//!
//! A certificate names a node for as long as it lives; a ticket names one *start* of it. Peers check
//! it offline, so sessions open while control is away.
//!
//! ```text
//!   ticket bytes = length of body (2, big-endian) · body (JSON) · ECDSA signature over
//!                  "tidelock start ticket 1\0" · body
//! ```
//!
//! The prefix keeps a ticket from ever being a certificate, which the same key signs.
//!
//! # What this module does not do
//!
//! It does not know which ids are current: a peer that meets a larger id under the same name ends
//! its sessions with smaller ones.

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use tidelock_proto::{Environ, NodeId};

use crate::names::{self, PeerError, Role};

/// No ticket is longer. Checked before anything is parsed.
pub const TICKET_BYTES_MAX: usize = 4096;

const PREFIX: &[u8] = b"tidelock start ticket 1\0";

/// Which tenants' processes a node may speak for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environments {
    /// All of them.
    Any,
    /// These and no others; at most 64.
    Only(Vec<Environ>),
}

impl Environments {
    /// Whether `environment` is one of them.
    #[must_use]
    pub fn contains(&self, environment: Environ) -> bool {
        match self {
            Self::Any => true,
            Self::Only(list) => list.contains(&environment),
        }
    }
}

/// What the authority says about one start of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The id of this start.
    pub node: NodeId,
    /// The node's stable name, as in its certificate.
    pub name: String,
    /// The cluster, as in its certificate.
    pub cluster: String,
    /// The key it belongs to: [`key_fingerprint`](crate::key_fingerprint) of the certificate.
    pub key: [u8; 32],
    /// Tenants it may speak for.
    pub environments: Environments,
    /// First second of validity, since 1970.
    pub not_before_s: u64,
    /// Last second of validity, since 1970.
    pub not_after_s: u64,
}

/// Why a ticket does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The bytes are no ticket.
    #[error("the start ticket cannot be read")]
    Malformed,
    /// The authority did not sign it.
    #[error("the start ticket is not signed by this cluster's authority")]
    Signature,
    /// It is for another key, name or cluster than the certificate it came with.
    #[error("the start ticket belongs to another {0} than the certificate")]
    NotTheirs(&'static str),
    /// It is not valid yet, or no longer. If clocks are right, a renewal helps.
    #[error("the start ticket of {node} is {how}")]
    Time {
        /// Whom it names.
        node: NodeId,
        /// "expired" or "not valid yet".
        how: &'static str,
    },
    /// The certificate it came with is unusable.
    #[error(transparent)]
    Certificate(#[from] PeerError),
}

impl Ticket {
    /// Checks a ticket that came with `certificate`, which TLS has accepted.
    ///
    /// Returns what the authority said. `authority` is the authority's certificate, not the peer's
    /// idea of it.
    ///
    /// # Errors
    ///
    /// [`TicketError`], sorted by what is wrong. Only [`TicketError::Time`] can go away by itself.
    pub fn verify(
        signed: &[u8],
        authority: &CertificateDer<'_>,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Self, TicketError> {
        let (body, signature) = split(signed)?;
        check_signature(authority, body, signature)?;
        let ticket: Self = serde_json::from_slice(body).map_err(|_| TicketError::Malformed)?;

        let peer = names::peer_name(certificate)?;
        if peer.role != Role::Node {
            return Err(PeerError::Role(peer.role).into());
        }
        if ticket.cluster != peer.cluster {
            return Err(TicketError::NotTheirs("cluster"));
        }
        if ticket.name != peer.name {
            return Err(TicketError::NotTheirs("name"));
        }
        if ticket.key != names::key_fingerprint(certificate)? {
            return Err(TicketError::NotTheirs("key"));
        }
        let how = match now.as_secs() {
            now if now < ticket.not_before_s => "not valid yet",
            now if now > ticket.not_after_s => "expired",
            _ => return Ok(ticket),
        };
        Err(TicketError::Time {
            node: ticket.node,
            how,
        })
    }

    /// Reads a ticket without checking anything: for showing one's own.
    ///
    /// # Errors
    ///
    /// [`TicketError::Malformed`].
    pub fn read_unverified(signed: &[u8]) -> Result<Self, TicketError> {
        let (body, _) = split(signed)?;
        serde_json::from_slice(body).map_err(|_| TicketError::Malformed)
    }

    /// The bytes that are signed.
    pub(crate) fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a ticket is plain data")
    }
}

/// What the authority signs for `body`.
pub(crate) fn signed_part(body: &[u8]) -> Vec<u8> {
    [PREFIX, body].concat()
}

/// Joins body and signature to what travels.
pub(crate) fn assemble(body: &[u8], signature: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("names and environments are bounded");
    [&length.to_be_bytes()[..], body, signature].concat()
}

fn split(signed: &[u8]) -> Result<(&[u8], &[u8]), TicketError> {
    if signed.len() > TICKET_BYTES_MAX {
        return Err(TicketError::Malformed);
    }
    let (length, rest) = signed
        .split_first_chunk::<2>()
        .ok_or(TicketError::Malformed)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or(TicketError::Malformed)
}

fn check_signature(
    authority: &CertificateDer<'_>,
    body: &[u8],
    signature: &[u8],
) -> Result<(), TicketError> {
    if is_signed_by(authority, &signed_part(body), signature)? {
        Ok(())
    } else {
        Err(TicketError::Signature)
    }
}

/// Whether the key of `certificate` made this ECDSA P-256 signature over `message`.
pub(crate) fn is_signed_by(
    certificate: &CertificateDer<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<bool, PeerError> {
    let parsed = names::parse(certificate)?;
    let key = &parsed.public_key().subject_public_key.data;
    let algorithms = crate::provider().signature_verification_algorithms;
    Ok(algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256)
        .flat_map(|(_, algorithms)| *algorithms)
        .any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok()))
}
