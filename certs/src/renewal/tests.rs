//! What counts as a renewal, and what does not.
//!
//! Method: a node that has shown a certificate of a minute; each case differs from a proper renewal in
//! exactly one thing, is otherwise signed as it should be, and the refusal must name it.

use std::time::Duration;

use tidelock_proto::{Environ, NodeId};

use super::*;
use crate::testing::{self, Odd};
use crate::ticket::Environments;
use crate::{Authority, Key, TicketError};

const NOW: UnixTime = at(1_800_000_000);
const NODE: NodeId = NodeId(7);
const US: NodeId = NodeId(3);

const fn at(second: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(second))
}

/// What the authority would give to node `id`, called `name`.
#[derive(Clone)]
struct Wish<'a> {
    authority: &'a Authority,
    key: Key,
    name: &'a str,
    id: NodeId,
    environments: Environments,
    life_s: u64,
    now: UnixTime,
}

impl Wish<'_> {
    fn identity(&self) -> Identity {
        let request = self.key.signing_request();
        let life = Duration::from_secs(self.life_s);
        let certificate = self
            .authority
            .issue_node(&request, self.name, life, self.now)
            .unwrap();
        let environments = self.environments.clone();
        let ticket = self
            .authority
            .issue_ticket(&certificate, self.id, environments)
            .unwrap();
        let authority = self.authority.certificate().clone();
        Identity::new(self.key.clone(), vec![certificate], authority, Some(ticket)).unwrap()
    }
}

fn sea() -> Authority {
    testing::authority("sea", NOW)
}

/// A node with a certificate of a minute.
fn wish(authority: &Authority) -> Wish<'_> {
    Wish {
        authority,
        key: Key::generate(),
        name: "web-0",
        id: NODE,
        environments: Environments::Only(vec![Environ(1), Environ(2)]),
        life_s: 60,
        now: NOW,
    }
}

fn binding() -> Binding {
    Binding {
        exporter: [5; 32],
        epoch: 4,
        from: NODE,
        to: US,
    }
}

/// Shows `later` with the proof its holder makes.
fn show(
    shown: &Shown,
    later: &Identity,
    authority: &Authority,
    now: UnixTime,
) -> Result<Shown, RenewalError> {
    let proof = prove(later, &binding());
    show_with(shown, later, &proof, authority, now)
}

fn show_with(
    shown: &Shown,
    later: &Identity,
    proof: &[u8],
    authority: &Authority,
    now: UnixTime,
) -> Result<Shown, RenewalError> {
    let renewal = Renewal {
        certificate: later.certificate(),
        ticket: later.ticket().unwrap_or_default(),
        proof,
    };
    shown.renewed(&renewal, &binding(), authority.certificate(), now)
}

#[test]
fn a_later_certificate_of_the_same_holder_moves_the_end_and_nothing_else() {
    let sea = sea();
    let wish = wish(&sea);
    let mut shown = Shown::of(&wish.identity()).unwrap();
    assert_eq!(shown.not_after_s(), NOW.as_secs() + 60);
    for minute in 1..4 {
        let now = at(NOW.as_secs() + minute * 60 - 20);
        let later = Wish {
            now,
            ..wish.clone()
        };
        let renewed = show(&shown, &later.identity(), &sea, now).unwrap();
        assert_eq!(renewed.not_after_s(), now.as_secs() + 60);
        let only_later = Ticket {
            not_before_s: renewed.ticket().not_before_s,
            not_after_s: renewed.ticket().not_after_s,
            ..shown.ticket().clone()
        };
        assert_eq!(renewed.ticket(), &only_later);
        shown = renewed;
    }
}

#[test]
fn a_renewal_that_is_wrong_in_one_thing_is_refused_for_it() {
    use RenewalError::{Certificate, Changed, NotLater, Ticket as Bad};
    let (sea, pirates) = (sea(), sea());
    let first = wish(&sea);
    let shown = Shown::of(&first.identity()).unwrap();
    let good = Wish {
        life_s: 90,
        ..first.clone()
    };
    assert!(show(&shown, &good.identity(), &sea, NOW).is_ok());

    let only = |list: &[u64]| Environments::Only(list.iter().copied().map(Environ).collect());
    let with = |change: &dyn Fn(&mut Wish<'_>)| {
        let mut wish = good.clone();
        change(&mut wish);
        wish.identity()
    };
    let ours = good.identity();
    // A certificate of theirs for our key goes with a ticket of ours.
    let theirs = Wish {
        authority: &pirates,
        ..good.clone()
    }
    .identity();
    let mixed = testing::with_ticket(&theirs, ours.ticket().map(<[u8]>::to_vec));
    let short = crate::Ticket {
        not_after_s: shown.not_after_s(),
        ..Shown::of(&ours).unwrap().ticket().clone()
    };
    let short = testing::with_ticket(&ours, Some(testing::sign_ticket(&sea, &short)));
    let cases = [
        ("another's", with(&|w| w.id = NodeId(8)), Changed("node id")),
        ("renamed", with(&|w| w.name = "web-1"), Changed("name")),
        (
            "another key",
            with(&|w| w.key = Key::generate()),
            Changed("key"),
        ),
        (
            "all tenants",
            with(&|w| w.environments = Environments::Any),
            Changed("environments"),
        ),
        (
            "one tenant more",
            with(&|w| w.environments = only(&[1, 2, 3])),
            Changed("environments"),
        ),
        (
            "one tenant less",
            with(&|w| w.environments = only(&[1])),
            Changed("environments"),
        ),
        ("no later", with(&|w| w.life_s = 60), NotLater),
        ("earlier", with(&|w| w.life_s = 59), NotLater),
        ("a ticket that ends before", short, NotLater),
        ("pirates'", theirs, Bad(TicketError::Signature)),
        (
            "without a ticket",
            testing::with_ticket(&ours, None),
            Bad(TicketError::Malformed),
        ),
        (
            "not valid yet",
            with(&|w| w.now = at(NOW.as_secs() + 7200)),
            RenewalError::Time("not valid yet"),
        ),
    ];
    for (what, later, why) in cases {
        assert_eq!(show(&shown, &later, &sea, NOW), Err(why), "{what}");
    }
    let Err(Certificate(why)) = show(&shown, &mixed, &sea, NOW) else {
        panic!("a certificate that the authority has not made");
    };
    assert!(why.contains("BadSignature"), "{why}");
    let later = at(NOW.as_secs() + 91);
    let expired = show(&shown, &ours, &sea, later).unwrap_err();
    assert_eq!(expired, RenewalError::Time("expired"));
    assert!(expired.is_about_time() && !NotLater.is_about_time());
}

#[test]
fn odd_certificates_are_no_renewals() {
    let sea = sea();
    let shown = Shown::of(&wish(&sea).identity()).unwrap();
    for odd in [
        Odd::WrongRole,
        Odd::TwoUris,
        Odd::NoUri,
        Odd::ForeignUri,
        Odd::OtherCluster,
        Odd::NoUsage,
        Odd::SelfSigned,
        Odd::OtherAuthority,
        Odd::Expired,
        Odd::NotYetValid,
        Odd::Nothing,
    ] {
        // The right name and id; the key is one of its own, or Nothing would be a renewal.
        let later = testing::node(&sea, NODE, "web-0", odd, NOW);
        let why = show(&shown, &later, &sea, NOW).unwrap_err();
        assert!(
            odd != Odd::Nothing || why == RenewalError::Changed("key"),
            "{why}"
        );
    }
    for bytes in [&b""[..], b"\x30", &[0x30; 4096]] {
        let renewal = Renewal {
            certificate: bytes,
            ticket: bytes,
            proof: bytes,
        };
        let why = shown.renewed(&renewal, &binding(), sea.certificate(), NOW);
        assert!(matches!(why, Err(RenewalError::Certificate(_))), "{why:?}");
    }
}

/// The key is right and everything is signed, but not for here.
#[test]
fn a_proof_is_good_in_one_direction_of_one_session() {
    let sea = sea();
    let first = wish(&sea);
    let shown = Shown::of(&first.identity()).unwrap();
    let later = Wish {
        life_s: 90,
        ..first.clone()
    }
    .identity();
    let other = |change: &dyn Fn(&mut Binding)| {
        let mut binding = binding();
        change(&mut binding);
        prove(&later, &binding)
    };
    let even_later = Wish {
        life_s: 120,
        ..first.clone()
    }
    .identity();
    let refused = [
        ("another connection's", other(&|b| b.exporter[31] ^= 1)),
        ("an earlier session's", other(&|b| b.epoch = 3)),
        (
            "the other direction's",
            other(&|b| (b.from, b.to) = (US, NODE)),
        ),
        ("one shown to somebody else", other(&|b| b.to = NodeId(9))),
        ("another node's", other(&|b| b.from = NodeId(8))),
        ("of another certificate", prove(&even_later, &binding())),
        ("by another key", {
            let stranger = Wish {
                key: Key::generate(),
                ..first.clone()
            };
            let message = message(&binding(), later.certificate(), later.ticket().unwrap());
            stranger.key.pair().sign(&message).unwrap()
        }),
        ("without its prefix", {
            let message = message(&binding(), later.certificate(), later.ticket().unwrap());
            first.key.pair().sign(&message[PREFIX.len()..]).unwrap()
        }),
        ("none", Vec::new()),
    ];
    for (what, proof) in refused {
        let shown = show_with(&shown, &later, &proof, &sea, NOW);
        assert_eq!(shown, Err(RenewalError::Proof), "{what}");
    }
    // Another ticket than the one that was signed, though it is as good.
    let ticket = Shown::of(&even_later).unwrap().ticket().clone();
    let mixed = testing::with_ticket(&later, Some(testing::sign_ticket(&sea, &ticket)));
    let proof = prove(&later, &binding());
    let shown_mixed = show_with(&shown, &mixed, &proof, &sea, NOW);
    assert_eq!(shown_mixed, Err(RenewalError::Proof));

    for place in 0..proof.len() {
        let mut damaged = proof.clone();
        damaged[place] ^= 1;
        let cut = &proof[..place];
        for proof in [damaged.as_slice(), cut] {
            let shown = show_with(&shown, &later, proof, &sea, NOW);
            assert_eq!(shown, Err(RenewalError::Proof), "byte {place}");
        }
    }
    assert!(show_with(&shown, &later, &proof, &sea, NOW).is_ok());
}
