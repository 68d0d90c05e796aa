//! The control plane's TLS: 1.3 only, no resumption (a resumed session would skip the check of the
//! client's certificate), client certificates optional, because whoever asks for their first one
//! has none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use weft_proto::spiffe::{SpiffeId, SpiffeIdError};
use zeroize::Zeroize;

use crate::identity::{Authority, IssueError};

/// The only protocol.
pub(super) const ALPN: &[u8] = b"h2";

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No own certificate.
    #[error("the control plane's own certificate: {0}")]
    Issue(#[from] IssueError),
    /// rustls refused a part.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The bundle has no usable root.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Why a client certificate names no workload of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PeerError {
    #[error("the client certificate cannot be read")]
    Unreadable,
    #[error("the client certificate has not exactly one URI name")]
    NotOneName,
    #[error("the client certificate's name: {0}")]
    BadName(#[from] SpiffeIdError),
    #[error("the client certificate is of another trust domain")]
    OtherTrustDomain,
}

/// A configuration with a fresh certificate of the control plane itself, and how long to use it.
pub(super) fn server_config(
    authority: &Authority,
) -> Result<(Arc<ServerConfig>, Duration), TlsError> {
    let now = SystemTime::now();
    let (leaf, mut key) = authority.issue_own(now)?;
    // From here on the key is inside of the TLS library only.
    let signing = any_supported_type(&key);
    key.zeroize();
    let life = leaf.not_after.duration_since(now).unwrap_or_default();

    let mut roots = RootCertStore::empty();
    for root in authority.bundle().borrow().roots.iter() {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let own = CertifiedKey::new(leaf.chain, signing?);
    own.keys_match()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((Arc::new(config), life / 2))
}

/// Whom a verified client certificate names.
pub(super) fn peer_identity(
    certificate: &CertificateDer<'_>,
    trust_domain: &str,
) -> Result<SpiffeId, PeerError> {
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| PeerError::Unreadable)?;
    let mut names = certificate.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(PeerError::NotOneName);
    };
    let id: SpiffeId = name.parse()?;
    if id.trust_domain() != trust_domain {
        return Err(PeerError::OtherTrustDomain);
    }
    Ok(id)
}
