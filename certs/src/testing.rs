//! Odd certificates for tests: expired, not yet valid, misnamed, of another authority.
//!
//! Real daemons are tested against impostors, so this is an ordinary module. It gives nobody any
//! power: whoever calls it already holds an [`Authority`], or makes a worthless one.

use std::time::Duration;

use rcgen::PublicKeyData as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use tidelock_proto::NodeId;

use crate::authority::{self, Authority, DEFAULT_LIFETIME};
use crate::identity::{Identity, Key};
use crate::names::{PeerName, Role};
use crate::ticket::{Environments, Ticket};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Odd {
    /// Nothing: a certificate as the authority would issue it.
    Nothing,
    /// It ran out an hour ago.
    Expired,
    /// It begins in a day.
    NotYetValid,
    /// It names an operator, with a node's usages.
    WrongRole,
    /// It carries a second `tidelock://` URI, of another node.
    TwoUris,
    /// It carries no URI at all, only a DNS name.
    NoUri,
    /// It carries a URI of another scheme.
    ForeignUri,
    /// It names another cluster.
    OtherCluster,
    /// It has no extended key usages.
    NoUsage,
    /// It is signed by its own key.
    SelfSigned,
    /// It is signed by a fresh authority of the same name.
    OtherAuthority,
}

/// An authority in memory.
///
/// # Panics
///
/// If `cluster` is not a name.
#[must_use]
pub fn authority(cluster: &str, now: UnixTime) -> Authority {
    Authority::create(cluster, now).expect("the test gives a proper name")
}

/// Every second ECDSA signature with P-256 has this length, in DER; most others have one more or one less.
pub const USUAL_SIGNATURE_BYTES: usize = 71;

/// From now on each proof of a renewal that this program makes has [the usual length](USUAL_SIGNATURE_BYTES).
///
/// How long a signature is follows from a random number. A simulation whose seeds are to decide everything makes the
/// same steps only if it sends as many bytes.
pub fn make_proofs_of_one_length() {
    crate::renewal::ONE_LENGTH.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// A node's identity, ticket included, that is odd in one way.
///
/// The ticket fits the certificate, so that only the oddity can be the reason for a refusal.
///
/// # Panics
///
/// If `name` is not a name.
#[must_use]
pub fn node(authority: &Authority, node: NodeId, name: &str, odd: Odd, now: UnixTime) -> Identity {
    crate::check_name(name).expect("the test gives a proper name");
    let other;
    let issuer = if odd == Odd::OtherAuthority {
        other = self::authority(authority.cluster(), now);
        &other
    } else {
        authority
    };

    let peer = PeerName {
        cluster: issuer.cluster().to_owned(),
        role: Role::Node,
        name: name.to_owned(),
    };
    let mut params = authority::leaf_params(&peer);
    let shifted = |back: Duration, forth: Duration| {
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).saturating_sub(back) + forth)
    };
    let (start, lifetime) = match odd {
        Odd::Expired => (
            shifted(2 * DAY, Duration::ZERO),
            2 * DAY - Duration::from_secs(3600),
        ),
        Odd::NotYetValid => (
            shifted(Duration::ZERO, DAY + Duration::from_secs(3600)),
            DAY,
        ),
        _ => (now, DEFAULT_LIFETIME),
    };
    (params.not_before, params.not_after) = authority::period(start, lifetime, u64::MAX);

    let named = |peer: PeerName| vec![authority::uri(&peer.uri())];
    match odd {
        Odd::WrongRole => {
            params.subject_alt_names = named(PeerName {
                role: Role::Operator,
                ..peer.clone()
            });
        }
        Odd::TwoUris => {
            let second = PeerName {
                name: "somebody-else".to_owned(),
                ..peer.clone()
            };
            params.subject_alt_names.extend(named(second));
        }
        Odd::NoUri => {
            let name = "localhost".try_into().expect("ASCII");
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        }
        Odd::ForeignUri => {
            params.subject_alt_names = vec![authority::uri("spiffe://cluster/node/one")];
        }
        Odd::OtherCluster => {
            let cluster = format!("not-{}", peer.cluster);
            params.subject_alt_names = named(PeerName {
                cluster,
                ..peer.clone()
            });
        }
        Odd::NoUsage => params.extended_key_usages.clear(),
        Odd::Nothing | Odd::Expired | Odd::NotYetValid | Odd::SelfSigned | Odd::OtherAuthority => {}
    }

    let key = Key::generate();
    let certificate = if odd == Odd::SelfSigned {
        params
            .self_signed(key.pair())
            .expect("the parameters are well-formed")
            .der()
            .clone()
    } else {
        let public = rcgen::SubjectPublicKeyInfo::from_der(&key.pair().subject_public_key_info())
            .expect("our own encoding");
        issuer.issue_params(params, &public)
    };
    let ticket = Ticket {
        node,
        name: peer.name.clone(),
        cluster: peer.cluster.clone(),
        key: crate::key_fingerprint(&certificate).expect("our own encoding"),
        environments: Environments::Any,
        not_before_s: now.as_secs().saturating_sub(DAY.as_secs()),
        not_after_s: now.as_secs() + DAY.as_secs(),
    };
    let chain = vec![certificate];
    let ticket = Some(issuer.sign_ticket(&ticket));
    Identity::assemble_odd(key, chain, issuer.certificate().clone(), ticket, peer)
}

/// The same identity with another ticket: for showing tickets to peers whom they do not fit.
#[must_use]
pub fn with_ticket(identity: &Identity, ticket: Option<Vec<u8>>) -> Identity {
    Identity::assemble_odd(
        identity.key().clone(),
        identity.chain().to_vec(),
        identity.authority().clone(),
        ticket,
        identity.name().clone(),
    )
}

/// The same identity that trusts another authority: so that an impostor does not refuse first.
#[must_use]
pub fn trusting(identity: &Identity, authority: &CertificateDer<'static>) -> Identity {
    Identity::assemble_odd(
        identity.key().clone(),
        identity.chain().to_vec(),
        authority.clone(),
        identity.ticket().map(<[u8]>::to_vec),
        identity.name().clone(),
    )
}

/// A ticket with any content, properly signed.
#[must_use]
pub fn sign_ticket(authority: &Authority, ticket: &Ticket) -> Vec<u8> {
    authority.sign_ticket(ticket)
}

/// What an ordinary TLS server needs, which is no node of any cluster: three PEM texts.
#[derive(Debug, Clone)]
pub struct WebServer {
    /// The certificate of an authority that nobody else knows.
    pub authority: String,
    /// The server's certificate, issued by it.
    pub certificate: String,
    /// The key that goes with the certificate.
    pub key: String,
}

/// Makes a TLS server that may be called by these names or addresses.
///
/// # Panics
///
/// If one of `hosts` is no name.
#[must_use]
pub fn web_server(hosts: &[&str]) -> WebServer {
    let key = || rcgen::KeyPair::generate().expect("there is randomness");
    let (authority_key, server_key) = (key(), key());
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params
        .self_signed(&authority_key)
        .expect("the parameters are well-formed");
    let issuer = rcgen::Issuer::new(params, authority_key);
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let server = rcgen::CertificateParams::new(hosts).expect("the test gives proper names");
    let certificate = server
        .signed_by(&server_key, &issuer)
        .expect("the parameters are well-formed");
    WebServer {
        authority: authority.pem(),
        certificate: certificate.pem(),
        key: server_key.serialize_pem(),
    }
}
