//! What somebody needs to prove who they are: key, certificate, authority, and a node's ticket.

use std::path::Path;
use std::time::Duration;
use std::{fmt, fs, io};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::names::{self, PeerError, PeerName};
use crate::ticket::TICKET_BYTES_MAX;
use crate::{authority, files};

const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "cert.pem";
const AUTHORITY_FILE: &str = "ca.pem";
const TICKET_FILE: &str = "ticket";
/// More than the files of an identity take together.
const ROOM_BYTES: usize = 16 << 10;

/// An identity could not be put together, read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file system said no.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: String,
        /// What it said.
        error: io::Error,
    },
    /// A part is not what it should be.
    #[error("{0} cannot be read")]
    Malformed(String),
    /// The certificate is for another key.
    #[error("the certificate belongs to another key")]
    OtherKey,
    /// The certificate names nobody.
    #[error(transparent)]
    Certificate(#[from] PeerError),
}

/// A private key, made here and never sent anywhere.
pub struct Key(KeyPair);

impl Key {
    /// Makes a key.
    #[must_use]
    pub fn generate() -> Self {
        Self(authority::generate_key())
    }

    /// The signing request for this key (PKCS #10, PEM). It asks for no name: the authority decides.
    #[must_use]
    pub fn signing_request(&self) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.0)
            .expect("the parameters are well-formed");
        request.pem().expect("a request can be written as PEM")
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        let der = PrivateKeyDer::try_from(self.0.serialized_der()).expect("our own encoding");
        Self(KeyPair::try_from(&der).expect("our own encoding"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Key, certificate chain and authority, and for nodes the start ticket.
#[derive(Clone)]
pub struct Identity {
    key: Key,
    chain: Vec<CertificateDer<'static>>,
    authority: CertificateDer<'static>,
    ticket: Option<Vec<u8>>,
    name: PeerName,
}

impl Identity {
    /// Puts an identity together and checks that its parts belong to each other.
    ///
    /// `chain` begins with the certificate of `key`.
    ///
    /// # Errors
    ///
    /// [`IdentityError::OtherKey`] or [`IdentityError::Certificate`].
    pub fn new(
        key: Key,
        chain: Vec<CertificateDer<'static>>,
        authority: CertificateDer<'static>,
        ticket: Option<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        let own = chain.first().ok_or(PeerError::Malformed)?;
        if names::parse(own)?.public_key().raw != key.0.subject_public_key_info() {
            return Err(IdentityError::OtherKey);
        }
        let name = names::peer_name(own)?;
        Ok(Self {
            key,
            chain,
            authority,
            ticket,
            name,
        })
    }

    /// Puts together what [`Identity::new`] may refuse; for tests that need an impostor.
    pub(crate) fn assemble_odd(
        key: Key,
        chain: Vec<CertificateDer<'static>>,
        authority: CertificateDer<'static>,
        ticket: Option<Vec<u8>>,
        name: PeerName,
    ) -> Self {
        Self {
            key,
            chain,
            authority,
            ticket,
            name,
        }
    }

    /// The same from PEM texts, as the control plane sends them.
    ///
    /// # Errors
    ///
    /// As [`Identity::new`], and [`IdentityError::Malformed`].
    pub fn from_pem(
        key: Key,
        chain: &str,
        authority: &str,
        ticket: Option<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        Self::new(
            key,
            read_chain(chain.as_bytes(), "the certificate")?,
            read_certificate(authority.as_bytes(), "the authority's certificate")?,
            ticket,
        )
    }

    /// Who this is.
    #[must_use]
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The certificate chain, own certificate first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The start ticket of a node.
    #[must_use]
    pub fn ticket(&self) -> Option<&[u8]> {
        self.ticket.as_deref()
    }

    /// When the certificate runs out.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        let (_, not_after_s) =
            names::validity(self.certificate()).expect("checked when put together");
        UnixTime::since_unix_epoch(Duration::from_secs(not_after_s))
    }

    /// When to ask for a new certificate: after two thirds of its life.
    ///
    /// Its life begins when it was made, which is later than the first second it is good for: one that
    /// lives for an hour would be due from the start, and renewed without end.
    #[must_use]
    pub fn renew_at(&self) -> UnixTime {
        let (from, to) = names::validity(self.certificate()).expect("checked when put together");
        let made = from.saturating_add(authority::BACKDATED_S).min(to);
        let at = made + (to - made) * 2 / 3;
        UnixTime::since_unix_epoch(Duration::from_secs(at))
    }

    /// Whether to ask for a new certificate: at [`Identity::renew_at`], and also if this one is not good yet.
    /// Then it was made by a clock that was ahead, and is made again once the clock is right.
    #[must_use]
    pub fn is_due(&self, now: UnixTime) -> bool {
        let (from, _) = names::validity(self.certificate()).expect("checked when put together");
        now >= self.renew_at() || now.as_secs() < from
    }

    /// The key in the form that rustls takes.
    #[must_use]
    pub fn tls_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.0.serialize_der()).expect("our own encoding")
    }

    /// Whether an identity could be kept in `dir`: for whoever is about to get one that cannot be got again.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`]; what was there is as it was.
    pub fn check_room(dir: &Path) -> Result<(), IdentityError> {
        files::create_private_dir(dir).map_err(|error| io_error(dir, error))?;
        let path = dir.join("room");
        files::replace(&path, &[0; ROOM_BYTES], files::SECRET)
            .and_then(|()| fs::remove_file(&path))
            .map_err(|error| io_error(dir, error))
    }

    /// Keeps the identity in `dir`: `key.pem` (mode 0600), `cert.pem`, `ca.pem`, and `ticket` if there
    /// is one.
    ///
    /// Each file is replaced in one step, the certificate last. A crash in between is noticed by
    /// [`Identity::load`]. It waits for the disk several times: nothing that must go on may call it on
    /// its own thread.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Io`].
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        files::create_private_dir(dir).map_err(|error| io_error(dir, error))?;
        let put = |name: &str, bytes: &[u8], mode| {
            let path = dir.join(name);
            files::replace(&path, bytes, mode).map_err(|error| io_error(&path, error))
        };
        put(
            KEY_FILE,
            self.key.0.serialize_pem().as_bytes(),
            files::SECRET,
        )?;
        put(
            AUTHORITY_FILE,
            to_pem(&self.authority).as_bytes(),
            files::PUBLIC,
        )?;
        match &self.ticket {
            Some(ticket) => put(TICKET_FILE, ticket, files::PUBLIC)?,
            // One of an earlier identity would be taken for ours.
            None => match fs::remove_file(dir.join(TICKET_FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(&dir.join(TICKET_FILE), error));
                }
                _ => {}
            },
        }
        let chain: String = self.chain.iter().map(to_pem).collect();
        put(CERTIFICATE_FILE, chain.as_bytes(), files::PUBLIC)
    }

    /// Reads what [`Identity::save`] kept.
    ///
    /// # Errors
    ///
    /// [`IdentityError`], naming the file at fault.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            let shown = path.display().to_string();
            fs::read(&path)
                .map(|bytes| (bytes, shown))
                .map_err(|error| io_error(&path, error))
        };
        let (key, shown) = read(KEY_FILE)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .ok()
            .and_then(|key| KeyPair::try_from(&key).ok())
            .ok_or(IdentityError::Malformed(shown))?;
        let (chain, shown) = read(CERTIFICATE_FILE)?;
        let chain = read_chain(&chain, &shown)?;
        let (authority, shown) = read(AUTHORITY_FILE)?;
        let authority = read_certificate(&authority, &shown)?;
        let ticket = match read(TICKET_FILE) {
            Ok((ticket, _)) if ticket.len() <= TICKET_BYTES_MAX => Some(ticket),
            Ok((_, shown)) => return Err(IdentityError::Malformed(shown)),
            Err(IdentityError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Self::new(Key(key), chain, authority, ticket)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.name)
    }
}

/// Writes a certificate as PEM.
#[must_use]
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.to_vec()), config)
}

/// Reads one certificate from PEM.
///
/// # Errors
///
/// [`IdentityError::Malformed`] with `what`.
pub fn read_certificate(pem: &[u8], what: &str) -> Result<CertificateDer<'static>, IdentityError> {
    let certificate = CertificateDer::from_pem_slice(pem)
        .map_err(|_| IdentityError::Malformed(what.to_owned()))?;
    names::parse(&certificate).map_err(|_| IdentityError::Malformed(what.to_owned()))?;
    Ok(certificate)
}

fn read_chain(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| IdentityError::Malformed(what.to_owned()))
}

fn io_error(path: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io {
        path: path.display().to_string(),
        error,
    }
}
