//! Which session between two nodes is the one: dials, epochs, and who yields.
//!
//! Both nodes may dial at once, and a connection may die unnoticed on one side. Epochs decide: a
//! dial carries 1 + the highest epoch *known* for this pair, a Hello is accepted only above the
//! highest epoch ever *opened* here, and at equal epochs the dial of the smaller NodeId stays. So
//! an epoch is opened once, in increasing order, and nothing of an ended session acts in a later
//! one (P7).
//!
//! # What this module does not do
//!
//! It does not time dials out and does not know addresses.

use crate::NodeId;
use crate::switch::off;

/// What one node knows about its sessions with one other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    us: NodeId,
    peer: NodeId,
    /// The highest epoch dialled, opened, or told by Stale.
    known: u64,
    /// The highest epoch ever opened here.
    opened: u64,
    open: Option<u64>,
    dialling: Option<u64>,
}

/// The answer to a peer's Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Verdict {
    /// End the open session if there is one, give up the own dial if there is one, and only when
    /// all of that has been told, open this one and repeat its epoch.
    Accept,
    /// Refuse, and say which epoch is the highest known here.
    Stale(u64),
}

impl Pair {
    /// Two nodes that have never met.
    pub fn new(us: NodeId, peer: NodeId) -> Self {
        Pair {
            us,
            peer,
            known: 0,
            opened: 0,
            open: None,
            dialling: None,
        }
    }

    /// The epoch of the open session.
    pub fn open(&self) -> Option<u64> {
        self.open
    }

    /// The epoch of the dial under way.
    pub fn dialling(&self) -> Option<u64> {
        self.dialling
    }

    /// Begins to dial: the epoch to put into Hello. `None` if there is a session or a dial already.
    pub fn dial(&mut self) -> Option<u64> {
        if self.open.is_some() || self.dialling.is_some() {
            return None;
        }
        self.known = self.known.saturating_add(1);
        self.dialling = Some(self.known);
        self.dialling
    }

    /// The dial with `epoch` came to nothing.
    pub fn handle_dial_failed(&mut self, epoch: u64) {
        if self.dialling == Some(epoch) {
            self.dialling = None;
        }
    }

    /// The peer refused our dial and told the highest epoch it knows.
    pub fn handle_stale(&mut self, epoch: u64, known: u64) {
        if self.dialling == Some(epoch) {
            self.dialling = None;
            self.known = self.known.max(known);
        }
    }

    /// The peer repeated our dial's epoch. `true`: the session is open here too.
    #[must_use]
    pub fn handle_answer(&mut self, epoch: u64) -> bool {
        // The dial was given up for the peer's own; its connection is closed.
        if self.dialling != Some(epoch) || epoch <= self.opened {
            return false;
        }
        self.dialling = None;
        self.open_at(epoch);
        true
    }

    /// Judges a peer's Hello. On [`Verdict::Accept`] the caller ends the open session, then says
    /// [`Pair::handle_accepted`].
    pub fn handle_hello(&self, epoch: u64) -> Verdict {
        let ours_stays = self
            .dialling
            .is_some_and(|own| own > epoch || (own == epoch && self.us < self.peer));
        let ours_stays = match self.dialling {
            Some(own) if off("at a tie one dial yields") => own >= epoch,
            Some(own) if off("at a tie one dial stays") => own > epoch,
            Some(_) if off("a dial under way counts") => false,
            _ => ours_stays,
        };
        let stale = epoch <= self.opened && !off("an epoch is opened once");
        if stale || ours_stays {
            Verdict::Stale(self.known)
        } else {
            Verdict::Accept
        }
    }

    /// The session of an accepted Hello opens; a dial of our own is given up.
    pub fn handle_accepted(&mut self, epoch: u64) {
        debug_assert!(self.open.is_none(), "the open session ends first");
        if !off("an accepted Hello drops the own dial") {
            self.dialling = None;
        }
        self.open_at(epoch);
    }

    /// The session with `epoch` has ended, and everybody has been told.
    pub fn handle_ended(&mut self, epoch: u64) {
        if self.open == Some(epoch) {
            self.open = None;
        }
    }

    fn open_at(&mut self, epoch: u64) {
        self.open = Some(epoch);
        self.opened = self.opened.max(epoch);
        self.known = self.known.max(epoch);
    }
}
