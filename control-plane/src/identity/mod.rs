//! The certificate authority and the tokens that it believes.
//!
//! A workload shows a token; [`TokenReviewer`] says whose it is; [`Authority`] signs the key of its
//! request with that identity, and with nothing else that the request says. Root and issuer are made
//! at first start in a state directory, once: state that is broken, foreign or half lost is refused
//! with what to do about it, never replaced, because a new root would cut off every running sidecar.
//!
//! Secrets stay in files with mode 0600 in a directory with mode 0700, never appear in logs, and are
//! overwritten in memory where they are let go of; [`private`] says how far that goes. In a cluster both
//! are elsewhere: its part is in `cluster::authority` and `cluster::review`.

mod authority;
mod csr;
mod document;
mod given;
mod make;
mod pair;
mod private;
pub mod rotation;
mod signer;
mod state;
pub mod tokens;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

pub use self::authority::{
    Authority, BadAuthority, DEFAULT_LEAF_LIFETIME, MIN_LEAF_LIFETIME, Stand, Weighed,
};
pub use self::csr::{CsrError, WorkloadKey};
pub use self::document::{BeginError, Document, Underway};
pub use self::given::GivenText;
#[cfg(feature = "kubernetes")]
pub(crate) use self::make::{BACKDATING, serial, set_validity};
pub use self::make::{Lifetimes, due_at};
pub use self::pair::{Fingerprint, Pair, validity};
#[cfg(feature = "kubernetes")]
pub(crate) use self::private::PrivateKey;
pub use self::signer::{IssueError, Leaf};
pub use self::state::{Directory, StateError, TRUST_BUNDLE_FILE};

/// The label of a certificate in PEM (RFC 7468).
const CERTIFICATE: &str = "CERTIFICATE";

/// Whom the mesh trusts. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// DER roots, at least one.
    pub roots: Arc<[CertificateDer<'static>]>,
}

impl TrustBundle {
    /// Reads PEM: what stands between its certificates is skipped. `None` where there is none.
    pub fn from_pem(text: &[u8]) -> Option<Self> {
        let certificates: Result<Vec<_>, pem::Error> =
            CertificateDer::pem_slice_iter(text).collect();
        let roots: Arc<[_]> = certificates.ok()?.into();
        (!roots.is_empty()).then_some(Self { roots })
    }

    /// As sidecars boot from it.
    pub fn to_pem(&self) -> String {
        self.roots
            .iter()
            .map(|root| private::section(CERTIFICATE, root).to_string())
            .collect()
    }
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
    // Never grown: it may be secret.
    let text = String::with_capacity(2 * bytes.len());
    bytes.iter().fold(text, |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}
