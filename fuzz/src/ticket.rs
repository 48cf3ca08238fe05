//! Start tickets and the certificates they come with.
//!
//! Keys are made anew in every process, so the input does not hold a ticket: it says what is done to
//! one.

use std::sync::LazyLock;
use std::time::Duration;

use tidelock_certs::authority::Authority;
use tidelock_certs::testing::{self, Odd};
use tidelock_certs::ticket::TICKET_BYTES_MAX;
use tidelock_certs::{
    CertificateDer, Environments, Identity, Ticket, TicketError, UnixTime, peer_name, validity,
};
use tidelock_proto::{Environ, NodeId};

use super::input::Input;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

struct Cluster {
    authority: Authority,
    node: Identity,
    other: Identity,
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let authority = testing::authority("sea", NOW);
    Cluster {
        node: testing::node(&authority, NodeId(7), "web-0", Odd::Nothing, NOW),
        other: testing::node(&authority, NodeId(8), "web-1", Odd::Nothing, NOW),
        authority,
    }
});

fn verify(ticket: &[u8], certificate: &CertificateDer<'_>) -> Result<Ticket, TicketError> {
    Ticket::verify(ticket, CLUSTER.authority.certificate(), certificate, NOW)
}

/// Takes `data` for a ticket, a change of a good one, a certificate, or what a ticket says.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let original = CLUSTER.node.ticket().expect("nodes have one");
    let certificate = CLUSTER.node.certificate();
    match input.byte() % 5 {
        0 => {
            assert!(verify(input.0, certificate).is_err(), "nobody signed it");
            read(input.0);
        }
        1 => {
            let damaged = input.damage(original);
            read(&damaged);
            match verify(&damaged, certificate) {
                Ok(_) => assert_eq!(damaged, original, "only the original counts"),
                Err(_) => assert_ne!(damaged, original, "the original counts"),
            }
            assert!(verify(&damaged, CLUSTER.other.certificate()).is_err());
        }
        2 => {
            let damaged = CertificateDer::from(input.damage(certificate));
            if verify(original, &damaged).is_ok() {
                // Its signature is for TLS to check; what was compared must be as it was.
                assert_eq!(peer_name(&damaged), peer_name(certificate));
            }
        }
        3 => {
            let certificate = CertificateDer::from(input.0.to_vec());
            assert!(verify(original, &certificate).is_err());
            let _ = (peer_name(&certificate), validity(&certificate));
        }
        _ => signed(&mut input),
    }
}

/// Reading shows what is there, and never more than a ticket may hold.
fn read(bytes: &[u8]) {
    if Ticket::read_unverified(bytes).is_ok() {
        assert!(bytes.len() <= TICKET_BYTES_MAX);
    }
}

/// A ticket that the authority did sign counts for nobody but whom it names, and in its time.
fn signed(input: &mut Input<'_>) {
    let good = Ticket::read_unverified(CLUSTER.node.ticket().expect("nodes have one"))
        .expect("it is the authority's");
    let changed = input.byte();
    let is = |bit: u8| changed & 1 << bit != 0;
    let mut ticket = good.clone();
    if is(0) {
        ticket.name = input.text();
    }
    if is(1) {
        ticket.cluster = input.text();
    }
    if is(2) {
        let at = usize::from(input.byte() % 32);
        ticket.key[at] ^= input.byte();
    }
    if is(3) {
        ticket.not_before_s = input.number();
    }
    if is(4) {
        ticket.not_after_s = input.number();
    }
    if is(5) {
        ticket.node = NodeId(input.number());
    }
    if is(6) {
        let count = input.byte() % 65;
        let list = (0..count).map(|_| Environ(input.number())).collect();
        ticket.environments = Environments::Only(list);
    }
    let bytes = testing::sign_ticket(&CLUSTER.authority, &ticket);
    let fits = ticket.name == good.name
        && ticket.cluster == good.cluster
        && ticket.key == good.key
        && (ticket.not_before_s..=ticket.not_after_s).contains(&NOW.as_secs())
        && bytes.len() <= TICKET_BYTES_MAX;
    match verify(&bytes, CLUSTER.node.certificate()) {
        Ok(said) => assert!(fits && said == ticket, "{ticket:?}"),
        Err(error) => assert!(!fits, "{ticket:?}: {error}"),
    }
}
