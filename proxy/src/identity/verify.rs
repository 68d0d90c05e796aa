//! Whose certificate is believed.
//!
//! A peer is a workload of the mesh when its chain leads to one of the trust roots at this moment,
//! and its leaf carries exactly one URI name, a strict SPIFFE id of the own trust domain, is no CA
//! and may sign (X.509-SVID, sections 2 to 5). Both directions ask for the same; which workload of
//! the mesh it must be is compared by whoever dials.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weft_proto::spiffe::{SpiffeId, SpiffeIdError};

use super::tls::provider;
use super::x509;

/// Most trust roots that are held: a rotation needs two.
pub const MAX_ROOTS: usize = 32;

/// Why a certificate, a key or a set of roots is not believed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The chain leads nowhere, has expired, or its signatures do not hold.
    #[error("the chain does not verify: {0}")]
    Chain(#[source] rustls::Error),
    /// TLS settings cannot be made of it.
    #[error("TLS settings: {0}")]
    Config(#[source] rustls::Error),
    /// Another trust domain vouches for it.
    #[error("the trust domain is not {0}")]
    ForeignTrustDomain(Box<str>),
    /// The key cannot be used, or is not the leaf's.
    #[error("the key: {0}")]
    Key(#[source] rustls::Error),
    /// The chain is empty.
    #[error("no certificate")]
    NoCertificate,
    /// None, or too many.
    #[error("{0} trust roots, where 1 to {MAX_ROOTS} are allowed")]
    NumberOfRoots(usize),
    /// Not exactly one URI name.
    #[error("{0} URI names, where exactly one is allowed")]
    NumberOfUris(usize),
    /// The leaf may not sign handshakes.
    #[error("the leaf's key usage is not digitalSignature")]
    KeyUsage,
    /// A CA is no workload.
    #[error("the leaf is a CA")]
    LeafIsCa,
    /// A root that cannot be read.
    #[error("a trust root cannot be read: {0}")]
    Root(#[source] rustls::Error),
    /// The URI name is no SPIFFE id.
    #[error("the URI name: {0}")]
    SpiffeId(#[from] SpiffeIdError),
    /// A certificate that cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
}

/// Whom the mesh trusts; never empty. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustRoots {
    der: Arc<[CertificateDer<'static>]>,
    store: Arc<RootCertStore>,
}

impl TrustRoots {
    /// Reads the roots; all of them must be readable.
    pub fn new(der: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        if der.is_empty() || der.len() > MAX_ROOTS {
            return Err(IdentityError::NumberOfRoots(der.len()));
        }
        let mut store = RootCertStore::empty();
        for root in &der {
            store.add(root.clone()).map_err(IdentityError::Root)?;
        }
        Ok(Self {
            der: der.into(),
            store: Arc::new(store),
        })
    }

    /// The roots of both, each once.
    pub fn union(&self, others: &Self) -> Result<Self, IdentityError> {
        let mut der = self.der.to_vec();
        der.extend(
            others
                .der
                .iter()
                .filter(|root| !self.der.contains(root))
                .cloned(),
        );
        Self::new(der)
    }

    /// The roots as they came.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        &self.der
    }
}

impl PartialEq for TrustRoots {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

/// The SPIFFE id of a leaf, without a word about who vouches for it.
pub fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|_| IdentityError::Unreadable)?;
    let mut uris = parsed.valid_uri_names();
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(IdentityError::NumberOfUris(
            parsed.valid_uri_names().count(),
        ));
    };
    // `valid_uri_names` skips names that are not text; the count by tag leaves none out.
    let all = x509::Leaf::read(leaf)?.uri_names;
    if all != 1 {
        return Err(IdentityError::NumberOfUris(all));
    }
    Ok(uri.parse()?)
}

/// Verifies a chain as every handshake does: to the roots, at `now`, and by the rules of this module.
pub fn chain(
    roots: &TrustRoots,
    trust_domain: &str,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<SpiffeId, IdentityError> {
    let parsed = rustls::server::ParsedCertificate::try_from(leaf).map_err(IdentityError::Chain)?;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &roots.store,
        intermediates,
        now,
        provider().signature_verification_algorithms.all,
    )
    .map_err(IdentityError::Chain)?;
    workload(leaf, trust_domain)
}

/// The rules for a leaf whose chain has been verified.
fn workload(leaf: &CertificateDer<'_>, trust_domain: &str) -> Result<SpiffeId, IdentityError> {
    let read = x509::Leaf::read(leaf)?;
    if read.is_ca {
        return Err(IdentityError::LeafIsCa);
    }
    if !read.may_sign {
        return Err(IdentityError::KeyUsage);
    }
    let id = spiffe_id(leaf)?;
    if id.trust_domain() != trust_domain {
        return Err(IdentityError::ForeignTrustDomain(trust_domain.into()));
    }
    Ok(id)
}

/// Verifies servers. Accepts every workload of the trust domain: which one it must be is compared
/// when the handshake is done, before anything is sent.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: TrustRoots,
    trust_domain: Box<str>,
}

impl ServerVerifier {
    pub(super) fn new(roots: TrustRoots, trust_domain: &str) -> Self {
        Self {
            roots,
            trust_domain: trust_domain.into(),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        chain(
            &self.roots,
            &self.trust_domain,
            end_entity,
            intermediates,
            now,
        )
        .map_err(into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Verifies clients: rustls's own verifier, with the rules of this module on top.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: Box<str>,
}

impl ClientVerifier {
    pub(super) fn new(roots: &TrustRoots, trust_domain: &str) -> Result<Self, IdentityError> {
        let chain = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&roots.store),
            Arc::clone(provider()),
        )
        // Clients have one certificate: naming our roots to them costs bytes and says nothing.
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| IdentityError::Config(rustls::Error::General(error.to_string())))?;
        Ok(Self {
            chain,
            trust_domain: trust_domain.into(),
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        workload(end_entity, &self.trust_domain).map_err(into_rustls)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn into_rustls(error: IdentityError) -> rustls::Error {
    match error {
        IdentityError::Chain(error) => error,
        other => {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other))))
        }
    }
}
