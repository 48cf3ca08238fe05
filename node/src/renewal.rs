//! How long a session may last: what its two sides have shown each other, and what they show later.
//!
//! A session ends when the certificate its peer showed runs out. A node that has a later one shows it in
//! each of its sessions, in the order of the lane; what is checked is told in [`tidelock_certs::renewal`].
//! One that is good moves the end of the session, and nothing else. One that is not ends the session.
//!
//! # Bounds
//!
//! A check costs three signatures, on the session's own task. So a peer has [`RENEWALS_MAX`] of them, and
//! gets one back each second: more end the session. Control dates certificates by the second, so a node that
//! renews without a pause stays within that, too.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidelock::NodeId;
use tidelock_certs::{
    Binding, CertificateDer, Identity, Renewal, RenewalError, Shown, UnixTime, renewal,
};
use tidelock_proto::session::{Over, SessionError};
use tidelock_proto::switch::off;
use tidelock_proto::wire::Renew;
use tokio::time::Instant;

use crate::live::Live;
use crate::lock;
use crate::transport::{Connection, TransportError};

/// Renewals that a peer may show at once.
const RENEWALS_MAX: u32 = 4;
/// How long until it may show one more.
const RENEWAL_EVERY: Duration = Duration::from_secs(1);
/// No timer runs longer.
const SESSION_TIME_MAX: Duration = Duration::from_secs(86_400 * 365);

/// What the two sides of a session have shown each other.
pub(crate) struct Certificates {
    us: NodeId,
    /// The peer's stable name, which does not change.
    pub(crate) name: String,
    /// The fingerprint of its key, which does not change either.
    pub(crate) key: [u8; 32],
    /// Whose certificates count here.
    authority: CertificateDer<'static>,
    /// What the peer knows of this node. Held while a later one is appended to the lane, so that each that is
    /// shown ends later than the one before.
    ours: Mutex<Option<Shown>>,
    theirs: Mutex<Theirs>,
}

struct Theirs {
    shown: Shown,
    /// When that runs out, by the session's own clock.
    expires_at: Instant,
    allowance: Allowance,
}

impl Certificates {
    /// `theirs` is what the peer has shown in the handshake of `connection`.
    pub(crate) fn new(us: NodeId, theirs: Shown, connection: &Connection) -> Self {
        Certificates {
            us,
            name: theirs.ticket().name.clone(),
            key: theirs.ticket().key,
            authority: connection.shown().authority().clone(),
            ours: Mutex::new(Shown::of(connection.shown())),
            theirs: Mutex::new(Theirs {
                expires_at: end_of(&theirs, connection.today()),
                shown: theirs,
                allowance: Allowance::new(Instant::now()),
            }),
        }
    }

    /// When the session ends, unless the peer renews its certificate before.
    pub(crate) fn expires_at(&self) -> Instant {
        if off("a session ends with its certificate") {
            return Instant::now() + SESSION_TIME_MAX;
        }
        lock(&self.theirs).expires_at
    }

    /// The same by the wall clock.
    pub(crate) fn not_after(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(lock(&self.theirs).shown.not_after_s())
    }
}

/// The second of `notAfter` is one of the certificate's (RFC 5280, section 4.1.2.5): TLS lets sessions begin
/// in it, so it must not end them.
fn end_of(shown: &Shown, today: UnixTime) -> Instant {
    let last = u64::from(!off("the last second of a certificate counts"));
    let left = (shown.not_after_s() + last).saturating_sub(today.as_secs());
    Instant::now() + Duration::from_secs(left).min(SESSION_TIME_MAX)
}

impl Live {
    /// Shows the peer `identity` if it is later than what the peer knows of this node.
    ///
    /// One with other rights is not shown: the session ends with the one before, and the next begins with it.
    pub(crate) fn show(&self, identity: &Identity) {
        let (peer, epoch) = (self.peer, self.epoch);
        let mut ours = lock(&self.certificates.ours);
        let (Some(before), Some(later)) = (ours.as_ref(), Shown::of(identity)) else {
            return;
        };
        match before.check_later(&later) {
            Ok(()) => {}
            Err(RenewalError::NotLater) => return,
            Err(why) => {
                tracing::warn!(%peer, epoch, %why, "the session ends with the earlier certificate");
                return;
            }
        }
        let shown = self
            .proven(identity)
            .map(|renew| self.with(|session| session.renew(renew)));
        match shown {
            Some(Ok(true)) => *ours = Some(later),
            Some(Ok(false)) => {
                tracing::info!(%peer, epoch, "it speaks a protocol without renewals");
            }
            // The session is over, or about to be.
            Some(Err(Over)) | None => {}
        }
    }

    fn proven(&self, identity: &Identity) -> Option<Renew> {
        let binding = self.binding(self.certificates.us, self.peer).ok()?;
        let renew = Renew {
            certificate: identity.certificate().to_vec(),
            ticket: identity.ticket()?.to_vec(),
            proof: renewal::prove(identity, &binding),
        };
        // The authority makes none that is longer.
        renew.is_bounded().then_some(renew)
    }

    /// Takes in what the peer shows. From then on [`Certificates::expires_at`] is later.
    ///
    /// # Errors
    ///
    /// The session must be ended with this error; what the peer showed before still counts.
    pub(crate) fn renewed(&self, renew: &Renew) -> Result<(), SessionError> {
        let mut theirs = lock(&self.certificates.theirs);
        if !theirs.allowance.take(Instant::now()) {
            return Err(SessionError::Misbehaved(format!(
                "a certificate is renewed {RENEWALS_MAX} times at once, and once a second, at the most"
            )));
        }
        let binding = self.binding(self.peer, self.certificates.us);
        let binding = binding.map_err(|error| SessionError::Lost(error.to_string()))?;
        let renewal = Renewal {
            certificate: &renew.certificate,
            ticket: &renew.ticket,
            proof: &renew.proof,
        };
        let authority = &self.certificates.authority;
        let today = self.connection.today();
        let renewed = theirs.shown.renewed(&renewal, &binding, authority, today);
        theirs.shown = renewed.map_err(refused)?;
        if !off("a renewal moves the end of the session") {
            theirs.expires_at = end_of(&theirs.shown, today);
        }
        let (peer, epoch) = (self.peer, self.epoch);
        tracing::info!(%peer, epoch, "the peer has renewed its certificate");
        Ok(())
    }

    fn binding(&self, from: NodeId, to: NodeId) -> Result<Binding, TransportError> {
        Ok(Binding {
            exporter: self.connection.exporter()?,
            epoch: self.epoch,
            from,
            to,
        })
    }
}

/// A clock may be wrong on either side; anything else no correct peer shows.
fn refused(error: RenewalError) -> SessionError {
    if error.is_about_time() {
        SessionError::Lost(error.to_string())
    } else {
        SessionError::Misbehaved(error.to_string())
    }
}

/// How many renewals the peer may still show.
struct Allowance {
    left: u32,
    /// Since when one more is on its way.
    since: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Allowance {
            left: RENEWALS_MAX,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.since);
        let back = passed.as_secs() / RENEWAL_EVERY.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.since += RENEWAL_EVERY * back;
        self.left = self.left.saturating_add(back).min(RENEWALS_MAX);
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_renewals_is_bounded_and_a_node_that_renews_each_second_is_not_held_up() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut allowance = Allowance::new(begin);
        let count = |allowance: &mut Allowance, now| (0..9).filter(|_| allowance.take(now)).count();
        assert_eq!(count(&mut allowance, at(0)), 4);
        assert_eq!(count(&mut allowance, at(999)), 0);
        assert_eq!(count(&mut allowance, at(1_000)), 1);
        assert_eq!(count(&mut allowance, at(3_500)), 2);
        // What is left of a second is not lost.
        assert_eq!(count(&mut allowance, at(4_000)), 1);
        assert_eq!(count(&mut allowance, at(3_600_000)), 4);
        let mut steady = Allowance::new(begin);
        assert!((0..100).all(|second| steady.take(at(second * 1_000))));
    }
}
