//! Why a call gave no result, sorted by whose move it is.

use std::time::Duration;

use crate::api::{ErrorBody, codes};

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Control cannot be reached. The call had no effect, or may have had none.
    #[error("control unreachable at {control}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        control: String,
        /// What the network said.
        reason: String,
    },
    /// Control was reached and did not answer in time. The call may have had its effect.
    #[error("control at {control} did not answer within {limit:?}")]
    TimedOut {
        /// Where it is.
        control: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Whoever answers is not the control plane that was meant, or does not believe who we are.
    #[error("no trust between us and {control}: {reason}")]
    NotTrusted {
        /// Where it is.
        control: String,
        /// Who refused what.
        reason: String,
    },
    /// Control said no.
    #[error("{} [{}]", .body.message, .body.code)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why, and what may help.
        body: ErrorBody,
    },
    /// The answer makes no sense: another program, or another version.
    #[error("control at {control} answered something else than expected: {reason}")]
    Answer {
        /// Where it is.
        control: String,
        /// What was wrong with it.
        reason: String,
    },
    /// What was passed in cannot be used.
    #[error("{0}")]
    Usage(String),
}

impl ClientError {
    /// The exit code a command ends with because of this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::TimedOut { .. } => 6,
            Self::Usage(_) => 2,
            Self::NotTrusted { .. } => 5,
            Self::Answer { .. } => 1,
            Self::Refused { status, .. } => match status {
                404 => 4,
                403 | 409 | 410 | 413 | 422 | 429 | 507 => 5,
                _ => 1,
            },
        }
    }

    /// The stable code, if control gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { body, .. } => Some(&body.code),
            _ => None,
        }
    }

    /// Whether this node's id is spent: it must join again to get another.
    #[must_use]
    pub fn is_node_gone(&self) -> bool {
        self.code() == Some(codes::NODE_GONE)
    }

    /// Whether the same call may succeed later without anybody doing anything.
    ///
    /// A fault of control itself, a damaged module and a cluster that holds as many modules as it may do not
    /// pass.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            // 502 and 504 are of whatever stands between.
            Self::Refused { status, .. } => matches!(status, 429 | 502..=504),
            Self::NotTrusted { .. } | Self::Answer { .. } | Self::Usage(_) => false,
        }
    }
}

/// What TLS found wrong, if the error comes from there.
pub(super) fn tls_reason(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        // An io::Error hides what it was made from behind `get_ref`.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_pass_is_not_called_temporary() {
        let is_temporary = |status| {
            let body = ErrorBody {
                code: codes::STORE.to_owned(),
                message: "no".to_owned(),
                next: Vec::new(),
                newest: None,
            };
            ClientError::Refused { status, body }.is_temporary()
        };
        for status in [429, 502, 503, 504] {
            assert!(is_temporary(status), "{status}");
        }
        for status in [400, 403, 404, 409, 410, 413, 422, 500, 507] {
            assert!(!is_temporary(status), "{status}");
        }
    }
}
