//! A later certificate of a peer, shown in the middle of a session.
//!
//! A session may last as long as the certificate and the ticket its peer has shown. A renewal moves that
//! end and nothing else: it is the same node, by the same key, with the same rights, for longer. Whoever
//! shows it signs what names one session and one direction, so that nothing recorded elsewhere counts:
//!
//! ```text
//!   proof = ECDSA signature by the certificate's key over
//!           "tidelock renewal 1\0" · exporter (32) · epoch (8) · from (8) · to (8) ·
//!           SHA-256 of the certificate · SHA-256 of the ticket          (numbers big-endian)
//! ```
//!
//! The exporter is what both ends of one TLS connection, and nobody else, can compute (RFC 5705). The
//! prefix keeps a proof from ever being a TLS handshake or a signing request, which the same key signs.
//!
//! # What this module does not do
//!
//! It counts nothing: one check costs three signatures, and how often a peer may ask for one is the
//! caller's to bound. Ends that are not later are refused before any signature is looked at.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::SigningKey as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use tidelock_proto::NodeId;

use crate::identity::Identity;
use crate::names::{self, PeerError};
use crate::testing::USUAL_SIGNATURE_BYTES;
use crate::ticket::{self, Ticket, TicketError};
use crate::tls;

const PREFIX: &[u8] = b"tidelock renewal 1\0";

/// What a proof is good for: one direction of one session.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// What the two ends of the connection compute by TLS, and nobody else can.
    pub exporter: [u8; 32],
    /// The session's epoch.
    pub epoch: u64,
    /// Who renews.
    pub from: NodeId,
    /// Whom it shows it.
    pub to: NodeId,
}

impl fmt::Debug for Binding {
    /// Without the exporter, which is nobody else's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({} → {}, {})", self.from, self.to, self.epoch)
    }
}

/// Why a renewal does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenewalError {
    /// It ends no later than what was shown before.
    #[error("a renewed certificate ends later than the one before")]
    NotLater,
    /// It is about somebody else, or allows something else.
    #[error("a renewed certificate keeps its holder's {0}")]
    Changed(&'static str),
    /// The certificate is not valid yet, or no longer. If clocks are right, this does not happen.
    #[error("the renewed certificate is {0}; are the clocks of both nodes right?")]
    Time(&'static str),
    /// The authority did not give this certificate to a node.
    #[error("a renewed certificate is the authority's: {0}")]
    Certificate(String),
    /// The ticket does not count.
    #[error(transparent)]
    Ticket(TicketError),
    /// The proof was not made by the certificate's key for this session and this direction.
    #[error("a renewal is signed by the certificate's key, for this session and this direction")]
    Proof,
}

impl RenewalError {
    /// Whether clocks may be to blame, and not whoever sent it.
    #[must_use]
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::Time(_) | Self::Ticket(TicketError::Time { .. }))
    }
}

impl From<PeerError> for RenewalError {
    fn from(error: PeerError) -> Self {
        Self::Certificate(error.to_string())
    }
}

/// What one side of a session has shown the other: for whom it speaks, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    ticket: Ticket,
    not_after_s: u64,
}

impl Shown {
    /// What was shown in the handshake: a certificate that TLS has accepted, and a ticket that
    /// [`Ticket::verify`] has.
    ///
    /// # Errors
    ///
    /// [`PeerError`], if the bytes are no certificate.
    pub fn new(ticket: Ticket, certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (_, not_after_s) = names::validity(certificate)?;
        Ok(Self {
            not_after_s: not_after_s.min(ticket.not_after_s),
            ticket,
        })
    }

    /// What a node shows of itself. `None`: it has no ticket, or one that cannot be read.
    #[must_use]
    pub fn of(identity: &Identity) -> Option<Self> {
        let ticket = Ticket::read_unverified(identity.ticket()?).ok()?;
        Self::new(ticket, identity.certificate()).ok()
    }

    /// What the authority said.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The last second for which all of it is valid, since 1970.
    #[must_use]
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// Whether `later` is the same for longer. Whoever means to renew asks this first: a certificate with
    /// other rights is for a new session.
    ///
    /// # Errors
    ///
    /// [`RenewalError::NotLater`] or [`RenewalError::Changed`].
    pub fn check_later(&self, later: &Self) -> Result<(), RenewalError> {
        let (ours, theirs) = (&self.ticket, &later.ticket);
        let changed = [
            (ours.node != theirs.node, "node id"),
            (ours.cluster != theirs.cluster, "cluster"),
            (ours.name != theirs.name, "name"),
            (ours.key != theirs.key, "key"),
            (ours.environments != theirs.environments, "environments"),
        ];
        if let Some((_, what)) = changed.iter().find(|(changed, _)| *changed) {
            return Err(RenewalError::Changed(what));
        }
        if later.not_after_s <= self.not_after_s {
            return Err(RenewalError::NotLater);
        }
        Ok(())
    }

    /// Checks what the same peer shows later, and returns it.
    ///
    /// `authority` is the authority's certificate, not the peer's idea of it.
    ///
    /// # Errors
    ///
    /// [`RenewalError`]; what was shown before is still what counts.
    pub fn renewed(
        &self,
        later: &Renewal<'_>,
        binding: &Binding,
        authority: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Self, RenewalError> {
        let certificate = CertificateDer::from(later.certificate);
        let (from_s, to_s) = names::validity(&certificate)?;
        // The cheapest way to ask for work is the first that is refused.
        if to_s <= self.not_after_s {
            return Err(RenewalError::NotLater);
        }
        match now.as_secs() {
            now if now < from_s => return Err(RenewalError::Time("not valid yet")),
            now if now > to_s => return Err(RenewalError::Time("expired")),
            _ => {}
        }
        let ticket = Ticket::verify(later.ticket, authority, &certificate, now);
        let ticket = ticket.map_err(RenewalError::Ticket)?;
        let renewed = Self::new(ticket, &certificate)?;
        self.check_later(&renewed)?;
        tls::check_node(&certificate, authority, &renewed.ticket.cluster, now)
            .map_err(|error| RenewalError::Certificate(error.to_string()))?;
        let message = message(binding, later.certificate, later.ticket);
        match ticket::is_signed_by(&certificate, &message, later.proof) {
            Ok(true) => Ok(renewed),
            Ok(false) | Err(_) => Err(RenewalError::Proof),
        }
    }
}

/// What a peer shows in the middle of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal<'a> {
    /// The certificate.
    pub certificate: &'a [u8],
    /// The start ticket.
    pub ticket: &'a [u8],
    /// The proof, as [`prove`] makes it.
    pub proof: &'a [u8],
}

/// The proof that the holder of `identity` means to show it in the session of `binding`.
#[must_use]
pub fn prove(identity: &Identity, binding: &Binding) -> Vec<u8> {
    let ticket = identity.ticket().unwrap_or_default();
    let message = message(binding, identity.certificate(), ticket);
    let sign = || {
        let signed = identity.key().pair().sign(&message);
        signed.expect("signing with a key in memory succeeds")
    };
    let mut signed = sign();
    while ONE_LENGTH.load(Ordering::Relaxed) && signed.len() != USUAL_SIGNATURE_BYTES {
        signed = sign();
    }
    signed
}

/// See [`testing::make_proofs_of_one_length`](crate::testing::make_proofs_of_one_length).
pub(crate) static ONE_LENGTH: AtomicBool = AtomicBool::new(false);

fn message(binding: &Binding, certificate: &[u8], ticket: &[u8]) -> Vec<u8> {
    [
        PREFIX,
        &binding.exporter,
        &binding.epoch.to_be_bytes(),
        &binding.from.0.to_be_bytes(),
        &binding.to.0.to_be_bytes(),
        &crate::sha256(certificate),
        &crate::sha256(ticket),
    ]
    .concat()
}
