//! Gives the runtime what `tidelock-certs` makes for guests. The two know nothing of each other.

use tidelock::{CertificatePair, Certificates};
use tidelock_certs::UnixTime;
use tidelock_certs::guests::{GuestCertificates, INPUT_BYTES_MAX, Pair};

/// The certificates of the guests of one node. Its test root lives as long as it does.
#[derive(Default)]
pub struct ForGuests(GuestCertificates);

impl Certificates for ForGuests {
    fn input_bytes_max(&self) -> usize {
        INPUT_BYTES_MAX
    }

    fn test_root(&self) -> CertificatePair {
        outward(self.0.test_root(UnixTime::now()))
    }

    fn server(&self, root: &CertificatePair) -> Result<CertificatePair, String> {
        let server = self.0.server(&inward(root), UnixTime::now());
        server.map(outward).map_err(|error| error.to_string())
    }

    fn sign(&self, root: &CertificatePair, request: &str) -> Result<String, String> {
        let signed = self.0.sign(&inward(root), request, UnixTime::now());
        signed.map_err(|error| error.to_string())
    }
}

fn outward(Pair { certificate, key }: Pair) -> CertificatePair {
    CertificatePair { certificate, key }
}

fn inward(pair: &CertificatePair) -> Pair {
    Pair {
        certificate: pair.certificate.clone(),
        key: pair.key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever makes them refuses above the bound that guests are told.
    #[test]
    fn one_bound_is_told_and_kept() {
        let certificates = ForGuests::default();
        let root = certificates.test_root();
        let max = certificates.input_bytes_max();
        let told = |bytes: usize| certificates.sign(&root, &"x".repeat(bytes)).unwrap_err();
        let too_long = format!("more than {max} bytes");
        assert!(told(max + 1).contains(&too_long), "{}", told(max + 1));
        assert!(!told(max).contains(&too_long), "{}", told(max));
    }
}
