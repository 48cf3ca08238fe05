//! TLS configurations in which a connection means "this is that peer".
//!
//! | for | version, ALPN | the other side shows | accepted if |
//! | --- | --- | --- | --- |
//! | [`peer_config`], both ends of QUIC | 1.3, `tidelock/1` | a certificate, always | a node of our cluster |
//! | [`https_server_config`] | 1.3, `http/1.1` | a certificate or none | a node or operator of our cluster |
//! | [`https_client_config`] | 1.3, `http/1.1` | a certificate | the role (and name) asked for, our cluster |
//! | [`pinned_client_config`] | 1.3, `http/1.1` | a chain up to the token's authority | control |
//!
//! "Accepted" always includes: the chain ends at the authority, the time lies in the certificate's
//! period, exactly one `tidelock://` URI, the usages of its role. Host names are not looked at, since
//! nodes move and names do not.
//!
//! # What this module does not do
//!
//! Sessions are never resumed and nothing is sent before the handshake is done (no 0-RTT): a resumed
//! session would skip the check of a certificate that has run out meanwhile.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::identity::Identity;
use crate::names::{PeerError, PeerName, Role, peer_name};
use crate::token::JoinToken;

/// The ALPN protocol of node-to-node connections.
pub const PEER_ALPN: &[u8] = b"tidelock/1";

/// The server name to dial peers with. It is not checked, but QUIC wants one.
pub const SERVER_NAME: &str = "tidelock";

const HTTP_ALPN: &[u8] = b"http/1.1";

/// Longer chains than leaf and authority are nobody's.
const CHAIN_CERTIFICATES_MAX: usize = 4;

/// The two ends of node-to-node connections: for accepting, for dialling.
///
/// TLS 1.3 only, certificates on both sides, ALPN `tidelock/1`. When a handshake has succeeded, the
/// peer's chain begins with the certificate of a node of this cluster: [`peer_name`] says which. Its
/// node id is in the ticket, which the session checks.
///
/// # Errors
///
/// rustls, if `identity` holds an authority that is none.
pub fn peer_config(identity: &Identity) -> Result<(ServerConfig, ClientConfig), rustls::Error> {
    let mut server = server_config(identity, Verifier::clients(identity, &[Role::Node], true)?)?;
    let mut client = client_config(identity, Verifier::servers(identity, Role::Node, None)?)?;
    server.alpn_protocols = vec![PEER_ALPN.to_vec()];
    client.alpn_protocols = vec![PEER_ALPN.to_vec()];
    Ok((server, client))
}

/// Serves HTTPS as `identity`; clients may show a certificate of a node or an operator.
///
/// A client without a certificate is let in as nobody: handlers must ask who it is. A client with a
/// bad certificate is not let in. The authority's certificate is part of the chain sent, so that
/// joining nodes can pin it.
///
/// # Errors
///
/// As [`peer_config`].
pub fn https_server_config(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    let verifier = Verifier::clients(identity, &[Role::Node, Role::Operator], false)?;
    let mut server = server_config(identity, verifier)?;
    server.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(server)
}

/// Speaks HTTPS as `identity` to a server in `role`, called `name` if that is known.
///
/// # Errors
///
/// As [`peer_config`].
pub fn https_client_config(
    identity: &Identity,
    role: Role,
    name: Option<&str>,
) -> Result<ClientConfig, rustls::Error> {
    let mut client = client_config(identity, Verifier::servers(identity, role, name)?)?;
    client.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(client)
}

/// Speaks HTTPS as nobody to the control plane of the authority that `token` names.
///
/// # Errors
///
/// rustls, if it cannot be configured; does not happen with the built-in provider.
pub fn pinned_client_config(token: &JoinToken) -> Result<ClientConfig, rustls::Error> {
    let verifier = Verifier {
        trust: Trust::Pinned(token.clone()),
        cluster: None,
        roles: vec![Role::Control],
        name: None,
        required: true,
        clients: None,
    };
    let mut client = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(client)
}

fn server_config(identity: &Identity, verifier: Verifier) -> Result<ServerConfig, rustls::Error> {
    let mut chain = identity.chain().to_vec();
    chain.push(identity.authority().clone());
    let mut config = ServerConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, identity.tls_key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(identity: &Identity, verifier: Verifier) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain().to_vec(), identity.tls_key())?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Whom a verifier believes.
enum Trust {
    /// A known authority.
    Authority(Arc<RootCertStore>),
    /// The authority with this fingerprint, wherever it stands in the chain that is shown.
    Pinned(JoinToken),
}

/// Our conditions, on top of what webpki checks.
struct Verifier {
    trust: Trust,
    /// The cluster that the peer must belong to; `None` if only the authority is known.
    cluster: Option<String>,
    roles: Vec<Role>,
    name: Option<String>,
    /// Whether a client must show a certificate.
    required: bool,
    /// Checks chains of clients; `None` on the dialling side.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Verifier {
    fn clients(identity: &Identity, roles: &[Role], required: bool) -> Result<Self, rustls::Error> {
        let roots = roots(identity.authority())?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), crate::provider())
                .clear_root_hint_subjects()
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self {
            trust: Trust::Authority(roots),
            cluster: Some(identity.name().cluster.clone()),
            roles: roles.to_vec(),
            name: None,
            required,
            clients: Some(clients),
        })
    }

    fn servers(identity: &Identity, role: Role, name: Option<&str>) -> Result<Self, rustls::Error> {
        Ok(Self {
            trust: Trust::Authority(roots(identity.authority())?),
            cluster: Some(identity.name().cluster.clone()),
            roles: vec![role],
            name: name.map(str::to_owned),
            required: true,
            clients: None,
        })
    }

    /// Checks what webpki does not know about.
    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<PeerName, PeerError> {
        let peer = peer_name(certificate)?;
        if let Some(ours) = self.cluster.as_ref().filter(|ours| **ours != peer.cluster) {
            return Err(PeerError::Cluster {
                theirs: peer.cluster,
                ours: ours.clone(),
            });
        }
        if !self.roles.contains(&peer.role) {
            return Err(PeerError::Role(peer.role));
        }
        if let Some(expected) = self
            .name
            .as_ref()
            .filter(|expected| **expected != peer.name)
        {
            return Err(PeerError::Name {
                theirs: peer.name,
                expected: expected.clone(),
            });
        }
        Ok(peer)
    }

    fn roots_for(
        &self,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Arc<RootCertStore>, rustls::Error> {
        match &self.trust {
            Trust::Authority(roots) => Ok(Arc::clone(roots)),
            Trust::Pinned(token) => intermediates
                .iter()
                .find(|certificate| token.is_from(certificate))
                .ok_or_else(|| refused(PeerError::OtherAuthority))
                .and_then(roots),
        }
    }
}

/// Whether `certificate` is what [`peer_config`] takes from a peer, at `now`: a node's of `cluster`, made
/// by `authority` itself.
pub(crate) fn check_node(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
    cluster: &str,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let verifier = Verifier {
        trust: Trust::Authority(roots(authority)?),
        cluster: Some(cluster.to_owned()),
        roles: vec![Role::Node],
        name: None,
        required: true,
        clients: None,
    };
    let server = ServerName::try_from(SERVER_NAME).expect("it is a name");
    verifier.verify_server_cert(certificate, &[], &server, &[], now)?;
    Ok(())
}

fn roots(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn refused(error: PeerError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Refused(error)))).into()
}

/// Our reason within rustls's error, which prints it with `Debug`: so that says it in words, too.
struct Refused(PeerError);

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Refused {}

fn check_length(intermediates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    if intermediates.len() < CHAIN_CERTIFICATES_MAX {
        Ok(())
    } else {
        Err(refused(PeerError::Malformed))
    }
}

fn tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        check_length(intermediates)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &*self.roots_for(intermediates)?,
            intermediates,
            now,
            crate::provider().signature_verification_algorithms.all,
        )?;
        self.check_name(end_entity).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &crate::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crate::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_length(intermediates)?;
        let clients = self.clients.as_ref().expect("set on the accepting side");
        clients.verify_client_cert(end_entity, intermediates, now)?;
        self.check_name(end_entity).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("cluster", &self.cluster)
            .field("roles", &self.roles)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
