//! Who gets a connection, a certificate, a ticket — and who does not.
//!
//! Method: real TLS handshakes between two configurations, in memory; certificates made on the spot.
//! Each impostor differs from an accepted peer in exactly one thing, and the refusal must name it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection, quic,
};
use tidelock_proto::{Environ, NodeId};

use crate::authority::{DEFAULT_LIFETIME, REQUEST_BYTES_MAX};
use crate::testing::{self, Odd};
use crate::ticket::{Environments, Ticket, TicketError};
use crate::tls::{https_client_config, https_server_config, pinned_client_config};
use crate::{
    Authority, AuthorityError, Identity, IdentityError, JoinToken, Key, PeerError, PeerName,
    RequestError, Role, check_name, key_fingerprint, peer_config, peer_name,
};

/// TLS reads the real clock, so everything happens now.
fn now() -> UnixTime {
    UnixTime::now()
}

fn node(authority: &Authority, name: &str, odd: Odd) -> Identity {
    testing::node(authority, NodeId(1), name, odd, now())
}

fn issued(authority: &Authority, role: Role, name: &str) -> Identity {
    authority
        .issue_identity(role, name, &[], DEFAULT_LIFETIME, now())
        .unwrap()
}

/// Lets both ends talk until they agree or one gives up; what each of them says.
fn shake(server: ServerConfig, client: ClientConfig) -> (Verdict, Verdict) {
    let name = ServerName::try_from(crate::SERVER_NAME).unwrap();
    let mut client = Connection::Client(ClientConnection::new(Arc::new(client), name).unwrap());
    let mut server = Connection::Server(ServerConnection::new(Arc::new(server)).unwrap());
    let (mut client_says, mut server_says) = (Ok(()), Ok(()));
    for _ in 0..10 {
        pass(&mut client, &mut server, &mut server_says);
        pass(&mut server, &mut client, &mut client_says);
    }
    let verdict = |connection: &Connection, says: Result<(), rustls::Error>| match says {
        Ok(()) if connection.is_handshaking() => Err("still waiting".to_owned()),
        Ok(()) => Ok(connection.peer_certificates().map_or_else(
            || "nobody".to_owned(),
            |chain| peer_name(&chain[0]).unwrap().name,
        )),
        Err(error) => Err(error.to_string()),
    };
    (verdict(&server, server_says), verdict(&client, client_says))
}

type Verdict = Result<String, String>;

fn pass(from: &mut Connection, to: &mut Connection, says: &mut Result<(), rustls::Error>) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() && says.is_ok() {
        to.read_tls(&mut rest).unwrap();
        *says = to.process_new_packets().map(|_| ());
    }
}

#[test]
fn two_nodes_of_a_cluster_know_each_other() {
    let authority = testing::authority("sea", now());
    let (server, _) = peer_config(&node(&authority, "one", Odd::Nothing)).unwrap();
    let (_, client) = peer_config(&node(&authority, "two", Odd::Nothing)).unwrap();
    assert_eq!(server.alpn_protocols, [b"tidelock/1"]);
    let (server_says, client_says) = shake(server, client);
    assert_eq!(server_says, Ok("two".to_owned()));
    assert_eq!(client_says, Ok("one".to_owned()));
}

/// Each impostor against an honest peer, in both directions; the text must name the reason.
#[test]
fn impostors_are_refused_in_both_directions() {
    let cases = [
        (Odd::Expired, "expired"),
        (Odd::NotYetValid, "not valid yet"),
        (Odd::WrongRole, "role operator"),
        (Odd::TwoUris, "exactly one tidelock:// URI, it carries 2"),
        (Odd::NoUri, "exactly one tidelock:// URI, it carries 0"),
        (Odd::ForeignUri, "spiffe://"),
        (Odd::OtherCluster, "\"not-sea\""),
        (Odd::NoUsage, "extended key usage"),
        (Odd::SelfSigned, "UnknownIssuer"),
        (Odd::OtherAuthority, "BadSignature"),
    ];
    let authority = testing::authority("sea", now());
    let honest = node(&authority, "honest", Odd::Nothing);
    for (odd, reason) in cases {
        // The impostor itself would trust the honest peer, so only one side can refuse.
        let impostor = node(&authority, "impostor", odd);
        let impostor = testing::trusting(&impostor, authority.certificate());

        let (server, _) = peer_config(&honest).unwrap();
        let (_, client) = peer_config(&impostor).unwrap();
        let (server_says, _) = shake(server, client);
        let text = server_says.expect_err(&format!("{odd:?} got in"));
        assert!(text.contains(reason), "{odd:?} dialling: {text}");

        let (server, _) = peer_config(&impostor).unwrap();
        let (_, client) = peer_config(&honest).unwrap();
        let (_, client_says) = shake(server, client);
        let text = client_says.expect_err(&format!("{odd:?} was believed"));
        assert!(text.contains(reason), "{odd:?} answering: {text}");
    }
}

#[test]
fn operators_and_control_are_no_peers() {
    let authority = testing::authority("sea", now());
    let honest = node(&authority, "honest", Odd::Nothing);
    for role in [Role::Operator, Role::Control] {
        let (_, client) = peer_config(&issued(&authority, role, "eve")).unwrap();
        let (server_says, _) = shake(peer_config(&honest).unwrap().0, client);
        assert!(server_says.is_err(), "{role} got in");
    }
}

#[test]
fn a_peer_without_certificate_is_refused() {
    let authority = testing::authority("sea", now());
    let honest = node(&authority, "honest", Odd::Nothing);
    let mut client = https_client_config(&honest, Role::Node, None).unwrap();
    client.alpn_protocols = vec![b"tidelock/1".to_vec()];
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (server_says, _) = shake(peer_config(&honest).unwrap().0, client);
    assert!(server_says.unwrap_err().contains("no certificates"));
}

/// A handshake as QUIC makes it; whether the client had keys for data that comes before its end, and how it went.
fn shake_quic(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (bool, Option<HandshakeKind>) {
    let name = ServerName::try_from(crate::SERVER_NAME).unwrap();
    let client = quic::ClientConnection::new(client.clone(), quic::Version::V1, name, vec![1]);
    let server = quic::ServerConnection::new(server.clone(), quic::Version::V1, vec![1]);
    let mut client = quic::Connection::Client(client.unwrap());
    let mut server = quic::Connection::Server(server.unwrap());
    let mut early = false;
    for _ in 0..10 {
        pass_quic(&mut client, &mut server);
        early |= client.zero_rtt_keys().is_some();
        pass_quic(&mut server, &mut client);
        early |= server.zero_rtt_keys().is_some();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (early, server.handshake_kind())
}

fn pass_quic(from: &mut quic::Connection, to: &mut quic::Connection) {
    loop {
        // What it writes before it changes keys is read before, too.
        let mut bytes = Vec::new();
        let changes = from.write_hs(&mut bytes).is_some();
        if !bytes.is_empty() {
            to.read_hs(&bytes).unwrap();
        }
        if !changes && bytes.is_empty() {
            break;
        }
    }
}

/// Also of somebody who was here before, keeps whatever could be resumed, and is in a hurry.
#[test]
fn nothing_is_taken_before_the_handshake_is_over() {
    let authority = testing::authority("sea", now());
    let (server, _) = peer_config(&node(&authority, "one", Odd::Nothing)).unwrap();
    let (_, mut client) = peer_config(&node(&authority, "two", Odd::Nothing)).unwrap();
    client.enable_early_data = true;
    client.resumption = Resumption::in_memory_sessions(8);
    let (server, client) = (Arc::new(server), Arc::new(client));
    for _ in 0..3 {
        // A whole handshake: whoever comes back shows its certificate again.
        let went = shake_quic(&server, &client);
        assert_eq!(went, (false, Some(HandshakeKind::Full)));
    }
}

#[test]
fn another_protocol_is_refused() {
    let authority = testing::authority("sea", now());
    let honest = node(&authority, "honest", Odd::Nothing);
    let (server, mut client) = peer_config(&honest).unwrap();
    client.alpn_protocols = vec![b"tidelock/9".to_vec()];
    assert!(shake(server, client).0.is_err());
}

#[test]
fn https_lets_nobody_in_as_nobody_but_no_impostor() {
    let authority = testing::authority("sea", now());
    let control = issued(&authority, Role::Control, "");
    let server = || https_server_config(&control).unwrap();
    let client = |identity: &Identity| https_client_config(identity, Role::Control, None).unwrap();

    let operator = issued(&authority, Role::Operator, "ann");
    assert_eq!(shake(server(), client(&operator)).0, Ok("ann".to_owned()));
    let honest = node(&authority, "one", Odd::Nothing);
    assert_eq!(shake(server(), client(&honest)).0, Ok("one".to_owned()));

    let mut nobody = client(&operator);
    nobody.client_auth_cert_resolver = Arc::new(NoCertificate);
    assert_eq!(shake(server(), nobody).0, Ok("nobody".to_owned()));

    let stranger = node(&authority, "one", Odd::OtherAuthority);
    let stranger = testing::trusting(&stranger, authority.certificate());
    assert!(shake(server(), client(&stranger)).0.is_err());
}

#[test]
fn a_node_cannot_pose_as_control_nor_as_another_node() {
    let authority = testing::authority("sea", now());
    let operator = issued(&authority, Role::Operator, "ann");
    let server = || https_server_config(&node(&authority, "one", Odd::Nothing)).unwrap();

    let to_control = https_client_config(&operator, Role::Control, None).unwrap();
    assert!(
        shake(server(), to_control)
            .1
            .unwrap_err()
            .contains("role node")
    );
    let to_two = https_client_config(&operator, Role::Node, Some("two")).unwrap();
    assert!(
        shake(server(), to_two)
            .1
            .unwrap_err()
            .contains("called \"one\"")
    );
    let to_one = https_client_config(&operator, Role::Node, Some("one")).unwrap();
    assert_eq!(shake(server(), to_one).1, Ok("one".to_owned()));
}

#[test]
fn a_token_pins_its_authority() {
    let authority = testing::authority("sea", now());
    let server = || https_server_config(&issued(&authority, Role::Control, "")).unwrap();
    let pinned = |of: &Authority| pinned_client_config(&JoinToken::generate(of.certificate()));

    let (server_says, client_says) = shake(server(), pinned(&authority).unwrap());
    assert_eq!(server_says, Ok("nobody".to_owned()));
    assert_eq!(client_says, Ok(String::new()));

    let other = testing::authority("sea", now());
    let text = shake(server(), pinned(&other).unwrap()).1.unwrap_err();
    assert!(text.contains("the join token names"), "{text}");

    // A node of the right authority is still not its control plane.
    let server = https_server_config(&node(&authority, "one", Odd::Nothing)).unwrap();
    assert!(
        shake(server, pinned(&authority).unwrap())
            .1
            .unwrap_err()
            .contains("role node")
    );

    // An impostor that adds the right authority's certificate to its chain.
    let impostor = testing::node(&authority, NodeId(1), "one", Odd::SelfSigned, now());
    let impostor = testing::trusting(&impostor, authority.certificate());
    let server = https_server_config(&impostor).unwrap();
    assert!(
        shake(server, pinned(&authority).unwrap())
            .1
            .unwrap_err()
            .contains("UnknownIssuer")
    );
}

#[test]
fn only_the_key_of_a_request_counts() {
    let authority = testing::authority("sea", now());
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(vec!["victim.example".to_owned()]).unwrap();
    wish.subject_alt_names.push(SanType::URI(
        "tidelock://sea/node/victim".try_into().unwrap(),
    ));
    wish.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let request = wish.serialize_request(&key).unwrap().pem().unwrap();

    let certificate = authority
        .issue_node(&request, "one", DEFAULT_LIFETIME, now())
        .unwrap();
    let peer = PeerName {
        cluster: "sea".into(),
        role: Role::Node,
        name: "one".into(),
    };
    assert_eq!(peer_name(&certificate), Ok(peer));
    let parsed = crate::names::parse(&certificate).unwrap();
    assert!(!parsed.is_ca());
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
    assert!(
        !parsed
            .extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .code_signing
    );
}

#[test]
fn bad_requests_are_refused() {
    let authority = testing::authority("sea", now());
    let issue = |pem: &str| authority.issue_node(pem, "one", DEFAULT_LIFETIME, now());
    let good = Key::generate().signing_request();
    assert!(issue(&good).is_ok());

    assert_eq!(issue("").unwrap_err(), RequestError::Malformed);
    assert_eq!(
        issue(&good.replace("REQUEST", "FESTIVAL")),
        Err(RequestError::Malformed)
    );
    let long = " ".repeat(REQUEST_BYTES_MAX + 1);
    assert_eq!(
        issue(&long),
        Err(RequestError::TooLarge(REQUEST_BYTES_MAX + 1))
    );
    assert!(matches!(
        authority.issue_node(&good, "../one", DEFAULT_LIFETIME, now()),
        Err(RequestError::Name(_))
    ));

    let with_key = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap()
    };
    assert_eq!(
        issue(&with_key(&rcgen::PKCS_ED25519)),
        Err(RequestError::Key)
    );
    assert_eq!(
        issue(&with_key(&rcgen::PKCS_RSA_SHA256)),
        Err(RequestError::Key)
    );
    assert_eq!(
        issue(&with_key(&rcgen::PKCS_ECDSA_P384_SHA384)),
        Err(RequestError::Key)
    );

    // Somebody else's public key, signed with one's own: flip each byte of the signature's tail.
    let der = pem::parse(&good).unwrap().into_contents();
    for position in der.len() - 8..der.len() {
        let mut forged = der.clone();
        forged[position] ^= 1;
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", forged));
        assert_eq!(
            issue(&forged),
            Err(RequestError::Signature),
            "byte {position}"
        );
    }
    // Nothing that is cut short may be read.
    for length in 0..der.len() {
        let cut = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", &der[..length]));
        assert!(issue(&cut).is_err(), "{length} bytes were enough");
    }
}

#[test]
fn a_ticket_is_checked_against_certificate_and_time() {
    let authority = testing::authority("sea", now());
    let issue = |name: &str| {
        let request = Key::generate().signing_request();
        authority
            .issue_node(&request, name, DEFAULT_LIFETIME, now())
            .unwrap()
    };
    let certificate = issue("one");
    let signed = authority
        .issue_ticket(&certificate, NodeId(7), Environments::Any)
        .unwrap();
    let verify = |signed: &[u8], certificate: &CertificateDer<'_>, now| {
        Ticket::verify(signed, authority.certificate(), certificate, now)
    };

    let ticket = verify(&signed, &certificate, now()).unwrap();
    assert_eq!((ticket.node, ticket.name.as_str()), (NodeId(7), "one"));
    assert!(ticket.environments.contains(Environ(5)));

    let shift =
        |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + seconds));
    let expired = TicketError::Time {
        node: NodeId(7),
        how: "expired",
    };
    let last_day = DEFAULT_LIFETIME.as_secs() - 60;
    assert!(verify(&signed, &certificate, shift(last_day)).is_ok());
    assert_eq!(
        verify(&signed, &certificate, shift(last_day + 120)),
        Err(expired)
    );
    let early = UnixTime::since_unix_epoch(Duration::from_secs(1000));
    let not_yet = TicketError::Time {
        node: NodeId(7),
        how: "not valid yet",
    };
    assert_eq!(verify(&signed, &certificate, early), Err(not_yet));

    // Another node's ticket; the ticket of an earlier key of the same node.
    assert_eq!(
        verify(&signed, &issue("two"), now()),
        Err(TicketError::NotTheirs("name"))
    );
    assert_eq!(
        verify(&signed, &issue("one"), now()),
        Err(TicketError::NotTheirs("key"))
    );
    let other = Ticket {
        cluster: "lake".to_owned(),
        ..ticket.clone()
    };
    let other = testing::sign_ticket(&authority, &other);
    assert_eq!(
        verify(&other, &certificate, now()),
        Err(TicketError::NotTheirs("cluster"))
    );

    // Another authority's word.
    let impostor = testing::authority("sea", now());
    let forged = impostor
        .issue_ticket(&certificate, NodeId(9), Environments::Any)
        .unwrap();
    assert_eq!(
        verify(&forged, &certificate, now()),
        Err(TicketError::Signature)
    );

    // An operator has no ticket, and cannot use one.
    let operator = issued(&authority, Role::Operator, "one");
    let refused = PeerError::Role(Role::Operator);
    assert_eq!(
        authority.issue_ticket(operator.certificate(), NodeId(1), Environments::Any),
        Err(refused.clone())
    );
    assert_eq!(
        verify(&signed, operator.certificate(), now()),
        Err(TicketError::Certificate(refused))
    );
}

#[test]
fn no_changed_byte_of_a_ticket_goes_unnoticed() {
    let authority = testing::authority("sea", now());
    let identity = node(&authority, "one", Odd::Nothing);
    let signed = identity.ticket().unwrap();
    let verify = |signed: &[u8]| {
        Ticket::verify(
            signed,
            authority.certificate(),
            identity.certificate(),
            now(),
        )
    };
    assert!(verify(signed).is_ok());
    for position in 0..signed.len() {
        let mut changed = signed.to_vec();
        changed[position] ^= 0x10;
        assert!(verify(&changed).is_err(), "byte {position}");
        assert!(verify(&signed[..position]).is_err(), "cut at {position}");
    }
    assert!(verify(&[signed, &[0]].concat()).is_err(), "a byte too many");
    assert_eq!(verify(&vec![0; 5000]), Err(TicketError::Malformed));
}

#[test]
fn tokens_print_and_parse_back() {
    let authority = testing::authority("sea", now());
    let token = JoinToken::generate(authority.certificate());
    let text = token.to_string();
    assert_eq!(text.parse(), Ok(token.clone()));
    assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
    assert!(token.is_from(authority.certificate()));
    assert!(!token.is_from(testing::authority("sea", now()).certificate()));
    assert!(
        !format!("{token:?}").contains(token.secret()),
        "Debug shows the secret"
    );
    assert_ne!(JoinToken::generate(authority.certificate()), token);

    let (head, secret) = text.rsplit_once('.').unwrap();
    let bad = [
        String::new(),
        "tl1".to_owned(),
        head.to_owned(),
        text.replace("tl1", "tl2"),
        text.to_uppercase(),
        format!("{text}."),
        format!("{text}00"),
        format!("{head}.{}", &secret[1..]),
        format!("{head}.{}", secret.replace(&secret[..1], "g")),
        format!("tl1.{secret}.{secret}"),
    ];
    for bad in bad {
        assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
    }
}

#[test]
fn an_authority_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("deep/authority");
    let first = Authority::open(&state, "sea", now()).unwrap();
    let identity = node(&first, "one", Odd::Nothing);
    let second = Authority::open(&state, "sea", now()).unwrap();
    assert_eq!(first.certificate(), second.certificate());

    // What the first issued and what the second issues go together.
    let (server, _) = peer_config(&identity).unwrap();
    let (_, client) = peer_config(&node(&second, "two", Odd::Nothing)).unwrap();
    assert_eq!(shake(server, client).0, Ok("two".to_owned()));

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode();
        assert_eq!(mode("authority.pem") & 0o777, 0o600);
        assert_eq!(
            fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
    assert_eq!(
        fs::read_dir(&state).unwrap().count(),
        2,
        "temporary files were left"
    );

    let other = Authority::open(&state, "lake", now())
        .unwrap_err()
        .to_string();
    assert!(
        other.contains("cluster \"lake\"") && other.contains("tidelock://sea/"),
        "{other}"
    );
    fs::write(state.join("authority.pem"), "torn").unwrap();
    let torn = Authority::open(&state, "sea", now());
    assert!(matches!(torn, Err(AuthorityError::Unusable { .. })));
    assert_eq!(
        fs::read(state.join("authority.pem")).unwrap(),
        b"torn",
        "it was overwritten"
    );
}

#[test]
fn a_certificate_is_renewed_after_two_thirds_however_short_its_life() {
    let (authority, now) = (testing::authority("sea", now()), now());
    for life in [6, 60, 3600, 7200, 30 * 24 * 3600] {
        let lifetime = Duration::from_secs(life);
        let identity = authority.issue_identity(Role::Node, "web-0", &[], lifetime, now);
        let identity = identity.unwrap();
        let renew_at = identity.renew_at().as_secs();
        assert_eq!(renew_at, now.as_secs() + life * 2 / 3, "of {life} s");
        let is_due =
            |second| identity.is_due(UnixTime::since_unix_epoch(Duration::from_secs(second)));
        assert!(!is_due(renew_at - 1) && is_due(renew_at));
        // Made by a clock that was ahead: nobody believes it yet.
        let from = now.as_secs() - 3600;
        assert!(!is_due(from) && is_due(from - 1));
    }
}

#[test]
fn an_identity_survives_a_restart_and_notices_a_mix() {
    let dir = tempfile::tempdir().unwrap();
    let authority = testing::authority("sea", now());
    let one = node(&authority, "one", Odd::Nothing);
    one.save(dir.path()).unwrap();
    let loaded = Identity::load(dir.path()).unwrap();
    assert_eq!(loaded.chain(), one.chain());
    assert_eq!(loaded.authority(), one.authority());
    assert_eq!(loaded.ticket(), one.ticket());
    assert_eq!(loaded.tls_key(), one.tls_key());
    assert!(loaded.renew_at() > now() && loaded.renew_at() < loaded.not_after());

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.path().join("key.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // A crash between two files: another key, the old certificate.
    let key = dir.path().join("key.pem");
    let kept = fs::read(&key).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    node(&authority, "one", Odd::Nothing)
        .save(elsewhere.path())
        .unwrap();
    fs::copy(elsewhere.path().join("key.pem"), &key).unwrap();
    assert!(matches!(
        Identity::load(dir.path()),
        Err(IdentityError::OtherKey)
    ));
    fs::write(&key, kept).unwrap();

    // An identity without a ticket leaves none behind.
    issued(&authority, Role::Operator, "ann")
        .save(dir.path())
        .unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap().ticket(), None);
}

#[test]
fn a_renewed_certificate_keeps_its_key() {
    let authority = testing::authority("sea", now());
    let old = issued(&authority, Role::Node, "one");
    let request = old.key().signing_request();
    let new = authority
        .issue_node(&request, "one", DEFAULT_LIFETIME, now())
        .unwrap();
    assert_ne!(&new, old.certificate(), "serial numbers differ");
    assert_eq!(key_fingerprint(&new), key_fingerprint(old.certificate()));
}

#[test]
fn nothing_outlives_the_authority() {
    let authority = testing::authority("sea", now());
    let lifetime = Duration::from_secs(u64::MAX / 4);
    let identity = authority
        .issue_identity(Role::Node, "one", &[], lifetime, now())
        .unwrap();
    let (_, authority_ends) = crate::names::validity(authority.certificate()).unwrap();
    assert_eq!(identity.not_after().as_secs(), authority_ends);
}

#[test]
fn names_are_plain() {
    for good in ["a", "n1", "web-0", "rack.7_b", &"x".repeat(63)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "A",
        "-a",
        "a-",
        ".",
        "..",
        "a/b",
        "a b",
        "a\0",
        "ä",
        "a%2f",
        "a\n",
        &"x".repeat(64),
    ] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    for bad in [
        "tidelock://sea",
        "tidelock://sea/node",
        "tidelock://sea/node/",
        "tidelock://sea/node/a/b",
        "tidelock://sea/control/a",
        "tidelock://sea/authority",
        "tidelock:///node/a",
        "https://sea/node/a",
        "TIDELOCK://sea/node/a",
    ] {
        assert_eq!(PeerName::from_uri(bad), None, "{bad}");
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
