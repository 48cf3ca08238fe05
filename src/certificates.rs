//! What an environment knows of certificates: one trait.

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct CertificatePair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificatePair(…)")
    }
}

/// Makes certificates for guests that are an authority themselves.
///
/// The runtime has no part in who is who, so whoever sets an environment up brings this along. It is
/// called on a thread for blocking work. An error says what of the input is wrong.
pub trait Certificates: Send + Sync + 'static {
    /// Bytes of one certificate, key or request at the most; a longer one is refused before it is copied.
    fn input_bytes_max(&self) -> usize;

    /// A root to try things with, made when first asked for. It is the same until this value is dropped.
    fn test_root(&self) -> CertificatePair;

    /// A server's certificate, signed with the given root.
    ///
    /// # Errors
    ///
    /// The root cannot be used.
    fn server(&self, root: &CertificatePair) -> Result<CertificatePair, String>;

    /// The certificate for a signing request, signed with the given root.
    ///
    /// # Errors
    ///
    /// The root or the request cannot be used.
    fn sign(&self, root: &CertificatePair, request: &str) -> Result<String, String>;
}
