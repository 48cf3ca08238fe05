//! Gives the runtime what `tidelock-certs` makes for guests. The two know nothing of each other.

use tidelock::{CertificatePair, Certificates};
use tidelock_certs::UnixTime;
use tidelock_certs::guests::{GuestCertificates, Pair};

/// The certificates of the guests of one node. Its test root lives as long as it does.
#[derive(Default)]
pub struct ForGuests(GuestCertificates);

impl Certificates for ForGuests {
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
