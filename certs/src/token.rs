//! Join tokens: what an operator hands to a new node.
//!
//! ```text
//!   tl1.<SHA-256 of the authority's certificate, 64 digits>.<secret, 32 digits>
//! ```
//!
//! The first half lets the node know the authority before it says anything; the second lets the
//! authority know the node. Both travel by whatever way the operator trusts.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;

const VERSION: &str = "tl1";
const SECRET_BYTES: usize = 16;

/// A join token. `Display` writes it in full; `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    authority: [u8; 32],
    secret: String,
}

/// Text that is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token: {0}")]
pub struct TokenError(&'static str);

impl JoinToken {
    /// A fresh token of the authority with this certificate.
    #[must_use]
    pub fn generate(authority: &CertificateDer<'_>) -> Self {
        let mut secret = [0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut secret).expect("the system gives random bytes");
        Self {
            authority: crate::sha256(authority),
            secret: crate::to_hex(&secret),
        }
    }

    /// The secret half; only the authority is told, over a connection that [`crate::tls`] pinned.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The SHA-256 of the authority's certificate.
    #[must_use]
    pub fn authority(&self) -> [u8; 32] {
        self.authority
    }

    /// Whether `certificate` is the authority that this token is for.
    #[must_use]
    pub fn is_from(&self, certificate: &CertificateDer<'_>) -> bool {
        crate::sha256(certificate) == self.authority
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(VERSION) {
            return Err(TokenError("it does not begin with \"tl1.\""));
        }
        let (Some(authority), Some(secret), None) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError("it does not have three parts"));
        };
        let authority = crate::from_hex(authority)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(TokenError("its second part is not 64 hexadecimal digits"))?;
        if crate::from_hex(secret).is_none_or(|bytes| bytes.len() != SECRET_BYTES) {
            return Err(TokenError("its third part is not 32 hexadecimal digits"));
        }
        Ok(Self {
            authority,
            secret: secret.to_owned(),
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{VERSION}.{}.{}",
            crate::to_hex(&self.authority),
            self.secret
        )
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "JoinToken({VERSION}.{}.…)",
            crate::to_hex(&self.authority[..4])
        )
    }
}
