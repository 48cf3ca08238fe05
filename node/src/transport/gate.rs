//! How many handshakes are under way at once, and whose.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock;

/// Handshakes under way of addresses that may be forged. Above it an address must prove itself first.
const HANDSHAKES_UNPROVEN_MAX: usize = 64;
/// Handshakes under way of one address that has proven itself. More are ignored; whoever means it knocks
/// again in a moment.
const HANDSHAKES_OF_ADDRESS_MAX: usize = 64;
/// Handshakes under way of all such addresses. Above it, one more takes the place of the oldest of whoever
/// has most.
pub(super) const HANDSHAKES_MAX: usize = 1_024;

/// How many handshakes are under way, and whose.
///
/// Who sends from forged addresses can have some, and then costs an answer each that nobody keeps: what
/// proves an address is in the answer. Who has an address has his share of the rest, for as long as a
/// handshake may take, and the share is the smaller the more addresses there are. So a peer gets in, whatever
/// they do, unless they have about as many addresses as there are places.
#[derive(Debug, Default)]
pub(super) struct Gate {
    unproven: usize,
    /// The handshakes under way of each address that has proven itself, the oldest first.
    proven: BTreeMap<IpAddr, VecDeque<Arc<Place>>>,
    proven_in_all: usize,
}

/// One handshake of an address that has proven itself.
#[derive(Debug, Default)]
struct Place {
    displaced: Notify,
}

impl Gate {
    fn enter_unproven(&mut self) -> bool {
        let enters = self.unproven < HANDSHAKES_UNPROVEN_MAX;
        self.unproven += usize::from(enters);
        enters
    }

    fn enter(&mut self, source: IpAddr) -> Option<Arc<Place>> {
        let count = self.proven.get(&source).map_or(0, VecDeque::len);
        if count >= HANDSHAKES_OF_ADDRESS_MAX
            || (self.proven_in_all >= HANDSHAKES_MAX && !self.displace_for(count))
        {
            return None;
        }
        let place = Arc::<Place>::default();
        let places = self.proven.entry(source).or_default();
        places.push_back(place.clone());
        self.proven_in_all += 1;
        Some(place)
    }

    /// Gives the oldest handshake up of whoever has most; `false` if that is nobody with more than somebody
    /// with `count` and one more would have.
    fn displace_for(&mut self, count: usize) -> bool {
        let fullest = self.proven.iter().max_by_key(|(_, places)| places.len());
        let Some((address, places)) = fullest.filter(|(_, places)| places.len() > count + 1) else {
            return false;
        };
        let (address, oldest) = (*address, places.front().cloned());
        if let Some(oldest) = oldest {
            oldest.displaced.notify_one();
            self.leave(address, &oldest);
        }
        true
    }

    /// Gives a place back; harmless if somebody else has taken it.
    fn leave(&mut self, source: IpAddr, place: &Arc<Place>) {
        let Entry::Occupied(mut entry) = self.proven.entry(source) else {
            return;
        };
        let places = entry.get_mut();
        if let Some(at) = places.iter().position(|other| Arc::ptr_eq(other, place)) {
            places.remove(at);
            self.proven_in_all -= 1;
        }
        if places.is_empty() {
            entry.remove();
        }
    }
}

/// The place of one handshake in the gate, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Mutex<Gate>>,
    /// `None`: the address may be forged.
    place: Option<(IpAddr, Arc<Place>)>,
}

impl Pass {
    pub(super) fn get(gate: &Arc<Mutex<Gate>>, source: IpAddr, proven: bool) -> Option<Pass> {
        // Whoever has one address of IPv6 has at least 2⁶⁴ of them.
        let source = match source {
            IpAddr::V6(addr) => (addr.to_bits() >> 64 << 64).to_be_bytes().into(),
            v4 => v4,
        };
        let place = match proven {
            true => Some((source, lock(gate).enter(source)?)),
            false => lock(gate).enter_unproven().then_some(None)?,
        };
        let gate = gate.clone();
        Some(Pass { gate, place })
    }

    /// Waits until somebody else has taken the place. Dropping the future loses nothing.
    pub(super) async fn displaced(&self) {
        match &self.place {
            Some((_, place)) => place.displaced.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut gate = lock(&self.gate);
        match &self.place {
            Some((source, place)) => gate.leave(*source, place),
            None => gate.unproven -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// As many passes as an address gets of these.
    fn passes(gate: &Arc<Mutex<Gate>>, address: u32, wanted: usize) -> Vec<Pass> {
        let source = Ipv4Addr::from(address).into();
        let get = |_| Pass::get(gate, source, true);
        (0..wanted).filter_map(get).collect()
    }

    fn is_displaced(pass: &Pass) -> bool {
        let mut waits = std::pin::pin!(pass.displaced());
        let mut context = Context::from_waker(Waker::noop());
        waits.as_mut().poll(&mut context) == Poll::Ready(())
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let gate = Arc::default();
        let first = passes(&gate, 1, 100);
        assert_eq!(first.len(), HANDSHAKES_OF_ADDRESS_MAX);
        drop(first);
        assert_eq!(passes(&gate, 1, 1).len(), 1, "places are given back");
        assert_eq!(lock(&gate).proven_in_all, 0);
    }

    #[test]
    fn whoever_has_most_makes_room_and_the_oldest_goes_first() {
        let gate = Arc::default();
        let all: Vec<Vec<Pass>> = (1..=16).map(|from| passes(&gate, from, 64)).collect();
        assert_eq!(lock(&gate).proven_in_all, HANDSHAKES_MAX);
        let newcomer = passes(&gate, 99, 70);
        // As many as everybody has then.
        assert_eq!(newcomer.len(), HANDSHAKES_MAX / 17);
        assert_eq!(lock(&gate).proven_in_all, HANDSHAKES_MAX);
        for passes in &all {
            let gone = passes.iter().position(|pass| !is_displaced(pass));
            let gone = gone.expect("some are left");
            assert!((3..=4).contains(&gone), "{gone} displaced");
            assert!(!passes[gone..].iter().any(is_displaced));
        }
        assert!(!newcomer.iter().any(is_displaced));
        drop((all, newcomer));
        assert_eq!(lock(&gate).proven_in_all, 0);
    }

    #[test]
    fn as_many_addresses_as_places_keep_others_out() {
        let gate = Arc::default();
        let max = u32::try_from(HANDSHAKES_MAX).expect("few");
        let all: Vec<Vec<Pass>> = (0..max).map(|from| passes(&gate, from, 1)).collect();
        assert!(passes(&gate, max, 1).is_empty());
        assert!(!all.iter().flatten().any(is_displaced));
    }
}
