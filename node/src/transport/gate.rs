//! How many handshakes are under way at once, and whose.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::lock;

/// Handshakes under way of addresses that may be forged. Above it an address must prove itself first.
const HANDSHAKES_UNPROVEN_MAX: usize = 64;
/// Handshakes under way of one address that has proven itself. More are ignored; whoever means it knocks
/// again in a moment.
const HANDSHAKES_OF_ADDRESS_MAX: usize = 64;
/// Handshakes under way of all such addresses. More are ignored.
pub(super) const HANDSHAKES_MAX: usize = 1_024;

/// How many handshakes are under way, and whose.
///
/// Who sends from forged addresses can have some, and then costs an answer each that nobody keeps: what
/// proves an address is in the answer. Who has an address has his share of the rest, for as long as a
/// handshake may take. So a peer gets in, whatever they do.
#[derive(Debug, Default)]
pub(super) struct Gate {
    unproven: usize,
    proven: HashMap<IpAddr, usize>,
    proven_in_all: usize,
}

impl Gate {
    fn enter(&mut self, source: Option<IpAddr>) -> bool {
        let Some(source) = source else {
            let enters = self.unproven < HANDSHAKES_UNPROVEN_MAX;
            self.unproven += usize::from(enters);
            return enters;
        };
        let count = self.proven.get(&source).copied().unwrap_or(0);
        let enters = count < HANDSHAKES_OF_ADDRESS_MAX && self.proven_in_all < HANDSHAKES_MAX;
        if enters {
            self.proven.insert(source, count + 1);
            self.proven_in_all += 1;
        }
        enters
    }

    fn leave(&mut self, source: Option<IpAddr>) {
        let Some(source) = source else {
            self.unproven -= 1;
            return;
        };
        self.proven_in_all -= 1;
        if let Entry::Occupied(mut entry) = self.proven.entry(source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// The place of one handshake in the gate, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Mutex<Gate>>,
    /// `None`: the address may be forged.
    source: Option<IpAddr>,
}

impl Pass {
    pub(super) fn get(gate: &Arc<Mutex<Gate>>, source: IpAddr, proven: bool) -> Option<Pass> {
        // Whoever has one address of IPv6 has at least 2⁶⁴ of them.
        let source = proven.then(|| match source {
            IpAddr::V6(addr) => (addr.to_bits() >> 64 << 64).to_be_bytes().into(),
            v4 => v4,
        });
        let gate = gate.clone();
        let enters = lock(&gate).enter(source);
        // A pass that was made and not given would give a place back that was never taken.
        enters.then(|| Pass { gate, source })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        lock(&self.gate).leave(self.source);
    }
}
