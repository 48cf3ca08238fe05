//! Who is who in a cluster: keys, the authority, certificates, start tickets and join tokens.
//!
//! ```text
//!   join token ──────▶ pins the authority, lets one node in
//!   authority  ──────▶ certificate   tidelock://<cluster>/node/<name>    "this key is that name"
//!              ──────▶ start ticket  n7 = <name> = this key              "this start is that id"
//! ```
//!
//! # What it promises
//!
//! * **A peer is what its certificate names.** A connection made with the configurations of [`tls`]
//!   exists only between holders of certificates of one authority, in the roles both sides accept.
//!   Host names and addresses play no part.
//! * **Names are given, not asked for.** Of a signing request only the public key is used, and only
//!   after the request proved that its sender holds the private half.
//! * **A ticket is worthless to anybody else.** It names the key it belongs to.
//! * **A renewal is worthless anywhere else.** Its proof names one session and one direction.
//! * **Private keys stay where they were made**, in files that only their owner can read.
//!
//! # What this crate does not do
//!
//! It reads no clock: whoever issues or checks says what time it is (TLS itself asks rustls). It
//! opens no socket. It keeps no list of revoked certificates: lifetimes are short instead, and whom
//! control has removed gets no new certificate.

pub mod authority;
pub mod files;
pub mod guests;
pub mod identity;
pub mod names;
pub mod renewal;
pub mod testing;
#[cfg(test)]
mod tests;
pub mod ticket;
pub mod tls;
pub mod token;

pub use authority::{Authority, AuthorityError, RequestError};
pub use identity::{Identity, IdentityError, Key};
pub use names::{
    NameError, PeerError, PeerName, Role, check_name, key_fingerprint, peer_name, validity,
};
pub use renewal::{Binding, Renewal, RenewalError, Shown};
pub use rustls;
pub use rustls::pki_types::{CertificateDer, UnixTime};
pub use ticket::{Environments, Ticket, TicketError};
pub use tls::{SERVER_NAME, peer_config};
pub use token::{JoinToken, TokenError};

use std::sync::Arc;

/// The one cryptography provider, so that no process-wide default is needed.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<rustls::crypto::CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// The SHA-256 of a certificate: what a join token knows its authority by.
#[must_use]
pub fn certificate_fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    sha256(certificate)
}

/// Bytes as lower-case hexadecimal digits, the form tickets and fingerprints travel in.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
    }
    text
}

/// Reads what [`to_hex`] wrote; `None` if `text` is anything else, upper-case digits included.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}
