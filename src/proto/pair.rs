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

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: NodeId = NodeId(1);
    const LARGE: NodeId = NodeId(2);

    #[test]
    fn one_dial_at_a_time_and_each_with_a_higher_epoch() {
        let mut pair = Pair::new(SMALL, LARGE);
        assert_eq!((pair.open(), pair.dialling()), (None, None));
        assert_eq!((pair.dial(), pair.dialling()), (Some(1), Some(1)));
        assert_eq!(pair.dial(), None);
        pair.handle_dial_failed(7);
        assert_eq!(pair.dialling(), Some(1), "that was another dial");
        pair.handle_dial_failed(1);
        assert_eq!(pair.dial(), Some(2));
        pair.handle_stale(1, 50);
        assert_eq!(pair.dialling(), Some(2), "that was another dial");
        pair.handle_stale(2, 9);
        assert_eq!(pair.dial(), Some(10));
        assert!(!pair.handle_answer(9), "nobody dialled that");
        assert!(pair.handle_answer(10) && !pair.handle_answer(10));
        assert_eq!((pair.open(), pair.dialling()), (Some(10), None));
        assert_eq!(pair.dial(), None, "a session is open");
        pair.handle_ended(9);
        assert_eq!(pair.open(), Some(10), "that was another session");
        pair.handle_ended(10);
        assert_eq!((pair.open(), pair.dial()), (None, Some(11)));
    }

    #[test]
    fn an_epoch_is_accepted_once_and_upwards() {
        let mut pair = Pair::new(SMALL, LARGE);
        assert_eq!(pair.handle_hello(0), Verdict::Stale(0));
        assert_eq!(pair.handle_hello(5), Verdict::Accept);
        pair.handle_accepted(5);
        assert_eq!(pair.open(), Some(5));
        for old in [4, 5] {
            assert_eq!(pair.handle_hello(old), Verdict::Stale(5));
        }
        assert_eq!(pair.handle_hello(6), Verdict::Accept);
        pair.handle_ended(5);
        assert_eq!(pair.handle_hello(5), Verdict::Stale(5), "not even later");
    }

    #[test]
    fn of_two_dials_that_cross_one_stays() {
        for (us, peer, ours_stays) in [(SMALL, LARGE, true), (LARGE, SMALL, false)] {
            let mut pair = Pair::new(us, peer);
            assert_eq!(pair.dial(), Some(1));
            pair.handle_dial_failed(1);
            assert_eq!(pair.dial(), Some(2));
            assert_eq!(pair.handle_hello(1), Verdict::Stale(2), "ours is higher");
            assert_eq!(pair.handle_hello(3), Verdict::Accept, "theirs is higher");
            let tie = pair.handle_hello(2);
            assert_eq!(tie == Verdict::Stale(2), ours_stays, "{us} dials {peer}");
            // The dial that yields is given up, and its answer comes too late.
            pair.handle_accepted(3);
            assert_eq!((pair.open(), pair.dialling()), (Some(3), None));
            assert!(!pair.handle_answer(2));
        }
    }

    #[test]
    fn nothing_that_is_told_lowers_an_epoch() {
        let mut pair = Pair::new(SMALL, LARGE);
        pair.handle_accepted(8);
        pair.handle_ended(8);
        assert_eq!(pair.dial(), Some(9));
        pair.handle_stale(9, 3);
        assert_eq!(pair.dial(), Some(10));
    }
}
