//! The authority of one cluster: it holds the key that everybody trusts, and issues names.
//!
//! On disk it is one file, `authority.pem` (key and certificate, readable by its owner only), so a
//! crash leaves the whole authority or none. `ca.pem` beside it is a copy of the certificate for
//! handing out.
//!
//! Keys are ECDSA P-256 throughout: small, fast, and supported by everything. A signing request with
//! any other key is refused.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
    SerialNumber, SigningKey as _, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::files;
use crate::identity::{Identity, Key};
use crate::names::{self, NameError, PeerName, Role, check_name};
use crate::ticket::{self, Environments, Ticket};

/// No signing request is longer. Ours have about 400 bytes.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// How long an authority lives.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY_S);
/// How long a node's, operator's or control's certificate lives unless configured otherwise.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(30 * DAY_S);

const DAY_S: u64 = 24 * 60 * 60;
/// Certificates and tickets begin this long before they are made, for clocks that are behind.
pub(crate) const BACKDATED_S: u64 = 60 * 60;
const FILE: &str = "authority.pem";
const CERTIFICATE_FILE: &str = "ca.pem";
const AUTHORITY_PATH: &str = "authority";

/// An authority could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The file system said no.
    #[error("{path}: {error}")]
    Io {
        /// Which file or directory.
        path: String,
        /// What it said.
        error: io::Error,
    },
    /// The cluster's name cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What is on disk is not an authority, or not this cluster's.
    #[error("{path} does not hold the authority of cluster {cluster:?}: {reason}")]
    Unusable {
        /// Which file.
        path: String,
        /// Whose authority was expected.
        cluster: String,
        /// What is there instead.
        reason: String,
    },
}

/// A certificate was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request is larger than [`REQUEST_BYTES_MAX`].
    #[error("the signing request has {0} bytes, {REQUEST_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// The bytes are no PKCS #10 request.
    #[error("the signing request cannot be read")]
    Malformed,
    /// Its sender does not hold the private key.
    #[error("the signing request is not signed by its own key")]
    Signature,
    /// The key is not ECDSA P-256.
    #[error("the signing request's key is not ECDSA P-256")]
    Key,
    /// The name to be issued cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A host name cannot stand in a certificate.
    #[error("{0:?} is not a host name")]
    Host(String),
}

/// The authority of a cluster.
pub struct Authority {
    cluster: String,
    certificate: CertificateDer<'static>,
    /// When the certificate ends; nothing it signs lives longer.
    not_after_s: u64,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority that exists in memory only.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Name`].
    pub fn create(cluster: &str, now: UnixTime) -> Result<Self, AuthorityError> {
        check_name(cluster)?;
        let key = generate_key();
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = period(now, AUTHORITY_LIFETIME, u64::MAX);
        params.serial_number = Some(serial_number());
        params.distinguished_name = common_name(&format!("Tidelock authority of {cluster}"));
        params.subject_alt_names = vec![uri(&authority_uri(cluster))];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .expect("the parameters are well-formed");
        Ok(Self::assemble(cluster, certificate.der().clone(), key)
            .expect("what was just made is an authority"))
    }

    /// Whether an authority is kept in `dir`, usable or not.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn is_kept(dir: &Path) -> io::Result<bool> {
        dir.join(FILE).try_exists()
    }

    /// Reads the authority kept in `dir`; makes and keeps one if there is none.
    ///
    /// Creates `dir` if needed. The key's file has mode 0600.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`]. An unusable file is left as it is: the cluster's trust may depend on it.
    pub fn open(dir: &Path, cluster: &str, now: UnixTime) -> Result<Self, AuthorityError> {
        check_name(cluster)?;
        files::create_private_dir(dir).map_err(|error| io_error(dir, error))?;
        let path = dir.join(FILE);
        let authority = match fs::read(&path) {
            Ok(bytes) => {
                Self::from_pem(cluster, &bytes).map_err(|reason| AuthorityError::Unusable {
                    path: path.display().to_string(),
                    cluster: cluster.to_owned(),
                    reason,
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let authority = Self::create(cluster, now)?;
                let key = authority.issuer.key().serialize_pem();
                let pem = format!("{key}{}", authority.certificate_pem());
                files::replace(&path, pem.as_bytes(), files::SECRET)
                    .map_err(|error| io_error(&path, error))?;
                authority
            }
            Err(error) => return Err(io_error(&path, error)),
        };
        let copy = dir.join(CERTIFICATE_FILE);
        files::replace(&copy, authority.certificate_pem().as_bytes(), files::PUBLIC)
            .map_err(|error| io_error(&copy, error))?;
        Ok(authority)
    }

    /// The cluster it speaks for.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        crate::identity::to_pem(&self.certificate)
    }

    /// Issues a certificate for the key of `request` in the name of node `name`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing was issued.
    pub fn issue_node(
        &self,
        request: &str,
        name: &str,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, RequestError> {
        self.issue(
            &read_request(request)?,
            self.peer(Role::Node, name)?,
            &[],
            lifetime,
            now,
        )
    }

    /// Issues a certificate for the key of `request` in the name of operator `name`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing was issued.
    pub fn issue_operator(
        &self,
        request: &str,
        name: &str,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, RequestError> {
        self.issue(
            &read_request(request)?,
            self.peer(Role::Operator, name)?,
            &[],
            lifetime,
            now,
        )
    }

    /// Issues a certificate for the key of `request` in the name of control.
    ///
    /// `hosts` are names and addresses for tools that check those; our own clients look at the role.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing was issued.
    pub fn issue_control(
        &self,
        request: &str,
        hosts: &[String],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, RequestError> {
        self.issue(
            &read_request(request)?,
            self.peer(Role::Control, "")?,
            hosts,
            lifetime,
            now,
        )
    }

    /// Makes a key and issues its certificate in one go: for control itself, the first operator, and
    /// tests. Nodes make their keys themselves.
    ///
    /// # Errors
    ///
    /// [`RequestError::Name`] or [`RequestError::Host`].
    pub fn issue_identity(
        &self,
        role: Role,
        name: &str,
        hosts: &[String],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Identity, RequestError> {
        let key = Key::generate();
        let public = read_request(&key.signing_request())?;
        let certificate = self.issue(&public, self.peer(role, name)?, hosts, lifetime, now)?;
        Ok(
            Identity::new(key, vec![certificate], self.certificate.clone(), None)
                .expect("the certificate was issued for this key"),
        )
    }

    /// Issues the start ticket for `certificate`, which this authority has issued to a node.
    ///
    /// The ticket lives exactly as long as the certificate.
    ///
    /// # Errors
    ///
    /// [`PeerError`](crate::PeerError) if the certificate is not a node's.
    pub fn issue_ticket(
        &self,
        certificate: &CertificateDer<'_>,
        node: tidelock_proto::NodeId,
        environments: Environments,
    ) -> Result<Vec<u8>, crate::PeerError> {
        let peer = names::peer_name(certificate)?;
        if peer.role != Role::Node {
            return Err(crate::PeerError::Role(peer.role));
        }
        let (not_before_s, not_after_s) = names::validity(certificate)?;
        Ok(self.sign_ticket(&Ticket {
            node,
            name: peer.name,
            cluster: peer.cluster,
            key: names::key_fingerprint(certificate)?,
            environments,
            not_before_s,
            not_after_s,
        }))
    }

    /// Signs any ticket. Private to the crate: only tests need odd ones.
    pub(crate) fn sign_ticket(&self, ticket: &Ticket) -> Vec<u8> {
        let body = ticket.to_body();
        let signature = self
            .issuer
            .key()
            .sign(&ticket::signed_part(&body))
            .expect("signing with a key in memory succeeds");
        ticket::assemble(&body, &signature)
    }

    /// Issues anything at all. Private to the crate: only tests need odd certificates.
    pub(crate) fn issue_params(
        &self,
        mut params: CertificateParams,
        public: &SubjectPublicKeyInfo,
    ) -> CertificateDer<'static> {
        params.serial_number = Some(serial_number());
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(public, &self.issuer)
            .expect("the parameters are well-formed");
        certificate.der().clone()
    }

    fn peer(&self, role: Role, name: &str) -> Result<PeerName, NameError> {
        if role != Role::Control {
            check_name(name)?;
        }
        Ok(PeerName {
            cluster: self.cluster.clone(),
            role,
            name: name.to_owned(),
        })
    }

    fn issue(
        &self,
        public: &SubjectPublicKeyInfo,
        peer: PeerName,
        hosts: &[String],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, RequestError> {
        let mut params = leaf_params(&peer);
        (params.not_before, params.not_after) = period(now, lifetime, self.not_after_s);
        for host in hosts {
            let san = match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => host_name(host).ok_or_else(|| RequestError::Host(host.clone()))?,
            };
            params.subject_alt_names.push(san);
        }
        Ok(self.issue_params(params, public))
    }

    fn from_pem(cluster: &str, pem: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "no private key in it")?;
        let key = KeyPair::try_from(&key).map_err(|_| "its private key is of another kind")?;
        let certificate =
            CertificateDer::from_pem_slice(pem).map_err(|_| "no certificate in it")?;
        Self::assemble(cluster, certificate, key)
    }

    fn assemble(
        cluster: &str,
        certificate: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Self, String> {
        let unreadable = |_| "its certificate cannot be read".to_owned();
        let parsed = names::parse(&certificate).map_err(unreadable)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("its certificate belongs to another key".to_owned());
        }
        let theirs = x509_uris(&parsed);
        if theirs != [authority_uri(cluster)] {
            return Err(format!("its certificate says {}", theirs.join(", ")));
        }
        let (_, not_after_s) = names::validity(&certificate).map_err(unreadable)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| "its certificate is not an authority's".to_owned())?;
        Ok(Self {
            cluster: cluster.to_owned(),
            certificate,
            not_after_s,
            issuer,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// Takes the public key out of a signing request, and nothing else.
fn read_request(pem: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    if pem.len() > REQUEST_BYTES_MAX {
        return Err(RequestError::TooLarge(pem.len()));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| RequestError::Malformed)?;
    let request = match X509CertificationRequest::from_der(&der) {
        Ok(([], request)) => request,
        _ => return Err(RequestError::Malformed),
    };
    // The key's kind first: it decides which signatures can be right at all.
    let spki = &request.certification_request_info.subject_pki;
    let public = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| RequestError::Key)?;
    let point = &spki.subject_public_key.data;
    if *public.algorithm() != PKCS_ECDSA_P256_SHA256 || point.len() != 65 || point[0] != 4 {
        return Err(RequestError::Key);
    }
    request
        .verify_signature()
        .map_err(|_| RequestError::Signature)?;
    Ok(public)
}

/// A certificate for `peer`, validity aside.
pub(crate) fn leaf_params(peer: &PeerName) -> CertificateParams {
    let mut params = CertificateParams::default();
    let shown = if peer.name.is_empty() {
        "control"
    } else {
        &peer.name
    };
    params.distinguished_name = common_name(shown);
    params.subject_alt_names = vec![uri(&peer.uri())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if peer.role.serves() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if peer.role.dials() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params
}

pub(crate) fn generate_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes")
}

pub(crate) fn uri(uri: &str) -> SanType {
    SanType::URI(Ia5String::try_from(uri).expect("names are ASCII"))
}

/// First and last moment of a certificate made at `now`.
pub(crate) fn period(
    now: UnixTime,
    lifetime: Duration,
    not_after_s: u64,
) -> (time::OffsetDateTime, time::OffsetDateTime) {
    // The year 9999 is as far as certificates reach.
    const END_S: u64 = 253_402_300_799;
    let moment = |seconds: u64| {
        let seconds = i64::try_from(seconds.min(END_S)).expect("the year 9999 fits");
        time::OffsetDateTime::from_unix_timestamp(seconds).expect("years up to 9999 are valid")
    };
    let end = now
        .as_secs()
        .saturating_add(lifetime.as_secs())
        .min(not_after_s);
    (
        moment(now.as_secs().saturating_sub(BACKDATED_S)),
        moment(end),
    )
}

fn authority_uri(cluster: &str) -> String {
    format!("tidelock://{cluster}/{AUTHORITY_PATH}")
}

fn x509_uris(certificate: &x509_parser::prelude::X509Certificate<'_>) -> Vec<String> {
    let san = certificate.subject_alternative_name().ok().flatten();
    san.iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| match name {
            x509_parser::prelude::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect()
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn host_name(host: &str) -> Option<SanType> {
    rustls::pki_types::DnsName::try_from(host).ok()?;
    Ia5String::try_from(host).ok().map(SanType::DnsName)
}

pub(crate) fn serial_number() -> SerialNumber {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    // Positive and without a leading zero byte, whatever the reader is strict about.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn io_error(path: &Path, error: io::Error) -> AuthorityError {
    AuthorityError::Io {
        path: path.display().to_string(),
        error,
    }
}
