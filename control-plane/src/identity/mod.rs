//! The certificate authority and the tokens that it believes.
//!
//! A workload shows a token; [`TokenReviewer`] says whose it is; [`Authority`] signs the key of its
//! request with that identity, and with nothing else that the request says. Root and issuer are made
//! at first start in a state directory, once: state that is broken, foreign or half lost is refused
//! with what to do about it, never replaced, because a new root would cut off every running sidecar.
//!
//! Secrets stay in files with mode 0600 in a directory with mode 0700, and never appear in logs.

mod authority;
mod csr;
mod state;
pub mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;

pub use self::authority::{Authority, DEFAULT_LEAF_LIFETIME, IssueError, Leaf, MIN_LEAF_LIFETIME};
pub use self::csr::{CsrError, WorkloadKey};
pub use self::state::{StateError, TRUST_BUNDLE_FILE};

/// Whom the mesh trusts. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// DER roots, at least one.
    pub roots: Arc<[CertificateDer<'static>]>,
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The namespace.
    pub namespace: String,
    /// What the SPIFFE id names besides the namespace.
    pub service_account: String,
    /// The workload's name inside its namespace.
    pub workload: String,
}

/// Says whose a token is.
pub trait TokenReviewer: Send + Sync + 'static {
    /// Looks at a token. May wait for a disk or a network.
    fn review<'a>(&'a self, token: &'a str)
    -> BoxFuture<'a, Result<WorkloadIdentity, ReviewError>>;
}

/// Why a token gives no identity.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It proves nothing. Why is for the log, not for the caller.
    #[error("the token is not valid: {0}")]
    Invalid(&'static str),
    /// It is good, but its workload is not in the mesh (yet).
    #[error("workload {namespace}/{workload} is not part of the mesh (yet)")]
    UnknownWorkload {
        /// The workload's namespace.
        namespace: String,
        /// The workload's name.
        workload: String,
    },
    /// It could not be looked at; another try may succeed.
    #[error("the token cannot be reviewed now: {0}")]
    Unavailable(String),
}

/// Bytes as lower-case digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}
