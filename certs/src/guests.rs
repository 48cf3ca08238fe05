//! Certificates for guests that are an authority themselves: nothing of a cluster's own trust.
//!
//! `lunatic::distributed` lets a program make a server's certificate and sign requests with a key that the
//! program has. A root to try that with is made when a node is first asked for it, and forgotten with it;
//! nobody but guests of that node ever trusts it.

use std::sync::OnceLock;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::UnixTime;

use crate::authority::{
    DEFAULT_LIFETIME, REQUEST_BYTES_MAX, common_name, generate_key, period, serial_number,
};

/// No certificate, key or request of a guest is longer.
pub const INPUT_BYTES_MAX: usize = REQUEST_BYTES_MAX;

/// How long a root lives.
const ROOT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The names of a server's certificate: the first one is what Lunatic's nodes ask for.
const SERVER_NAMES: [&str; 2] = ["ctrl.lunatic.cloud", "localhost"];

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// What was given is not what it should be. Nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct GuestCertError {
    what: &'static str,
    why: String,
}

/// Makes certificates for guests.
#[derive(Default)]
pub struct GuestCertificates {
    root: OnceLock<Pair>,
}

impl GuestCertificates {
    /// A root to try things with: the same one for the life of this value.
    pub fn test_root(&self, now: UnixTime) -> Pair {
        let root = self.root.get_or_init(|| {
            let key = generate_key();
            let mut params = CertificateParams::default();
            (params.not_before, params.not_after) = period(now, ROOT_LIFETIME, u64::MAX);
            params.serial_number = Some(serial_number());
            params.distinguished_name = common_name("Test root of a Tidelock node");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key);
            Pair {
                certificate: certificate.expect("the parameters are well-formed").pem(),
                key: key.serialize_pem(),
            }
        });
        root.clone()
    }

    /// A server's certificate with a new key, signed with the given root.
    ///
    /// # Errors
    ///
    /// The root's certificate or key cannot be read.
    pub fn server(&self, root: &Pair, now: UnixTime) -> Result<Pair, GuestCertError> {
        let issuer = issuer(root)?;
        let names = SERVER_NAMES.map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("these are names");
        (params.not_before, params.not_after) = period(now, DEFAULT_LIFETIME, u64::MAX);
        params.serial_number = Some(serial_number());
        params.distinguished_name = common_name("Control server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = generate_key();
        let certificate = params
            .signed_by(&key, &issuer)
            .map_err(wrong("the root's key"))?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Signs a request with the given root. The names are those of the request; it cannot become a root.
    ///
    /// # Errors
    ///
    /// The root's certificate or key, or the request, cannot be read.
    pub fn sign(
        &self,
        root: &Pair,
        request: &str,
        now: UnixTime,
    ) -> Result<String, GuestCertError> {
        let issuer = issuer(root)?;
        check_size("the signing request", request)?;
        let mut request = CertificateSigningRequestParams::from_pem(request)
            .map_err(wrong("the signing request"))?;
        let params = &mut request.params;
        (params.not_before, params.not_after) = period(now, DEFAULT_LIFETIME, u64::MAX);
        params.serial_number = Some(serial_number());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let certificate = request.signed_by(&issuer);
        Ok(certificate.map_err(wrong("the signing request"))?.pem())
    }
}

fn issuer(root: &Pair) -> Result<Issuer<'static, KeyPair>, GuestCertError> {
    check_size("the root's certificate", &root.certificate)?;
    check_size("the root's key", &root.key)?;
    let key = KeyPair::from_pem(&root.key).map_err(wrong("the root's key"))?;
    Issuer::from_ca_cert_pem(&root.certificate, key).map_err(wrong("the root's certificate"))
}

fn check_size(what: &'static str, text: &str) -> Result<(), GuestCertError> {
    if text.len() > INPUT_BYTES_MAX {
        let why = format!("more than {INPUT_BYTES_MAX} bytes");
        return Err(GuestCertError { what, why });
    }
    Ok(())
}

fn wrong(what: &'static str) -> impl Fn(rcgen::Error) -> GuestCertError {
    move |error| GuestCertError {
        what,
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};

    use super::*;

    fn trusts(root: &Pair, certificate: &str, name: &str) -> bool {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut store = RootCertStore::empty();
        store.add(der(&root.certificate)).unwrap();
        let provider = crate::provider();
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(store.into(), provider)
                .build()
                .unwrap();
        use rustls::client::danger::ServerCertVerifier as _;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(&der(certificate), &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    fn request(name: &str) -> String {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let request = params.serialize_request(&generate_key()).unwrap();
        request.pem().unwrap()
    }

    #[test]
    fn a_root_signs_servers_and_nodes_and_each_node_has_its_own() {
        let now = UnixTime::now();
        let (here, there) = (GuestCertificates::default(), GuestCertificates::default());
        let root = here.test_root(now);
        assert_eq!(root.certificate, here.test_root(now).certificate);
        assert_ne!(root.key, there.test_root(now).key);
        let server = here.server(&root, now).unwrap();
        assert!(trusts(&root, &server.certificate, "ctrl.lunatic.cloud"));
        assert!(!trusts(
            &there.test_root(now),
            &server.certificate,
            "ctrl.lunatic.cloud"
        ));
        let signed = here.sign(&root, &request("a.example"), now).unwrap();
        assert!(trusts(&root, &signed, "a.example") && !trusts(&root, &signed, "b.example"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let now = UnixTime::now();
        let certificates = GuestCertificates::default();
        let root = certificates.test_root(now);
        let other = |certificate: &str, key: &str| Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let told = |root: &Pair, request: &str| {
            let error = certificates.sign(root, request, now).unwrap_err();
            error.to_string()
        };
        let (cert, key) = (&root.certificate, &root.key);
        assert!(told(&other("x", key), "").starts_with("the root's certificate: "));
        assert!(told(&other(cert, "x"), "").starts_with("the root's key: "));
        assert!(told(&root, "x").starts_with("the signing request: "));
        assert!(told(&root, &"x".repeat(INPUT_BYTES_MAX + 1)).contains("more than"));
    }
}
