//! Who is believed in handshakes, and what they settle.
//!
//! TLS 1.3 only, both sides show a certificate, nothing is ever resumed: a resumed session would
//! carry an authentication on that the verifiers never saw (RFC 8446, section 2.2). The ALPN id says
//! what the connection carries, and both sides insist on one.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_proto::names::alpn;
use weft_proto::spiffe::SpiffeId;

use super::thin::{self, Thin};
use super::verify::{self, ClientVerifier, IdentityError, ServerVerifier, TrustRoots};
use crate::outcome::{Failure, Outcome};

/// What a connection between sidecars carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

impl Alpn {
    /// Every one, in the order in which a server prefers them.
    pub const ALL: [Self; 3] = [Self::Http2, Self::Http1, Self::Tcp];

    /// The id on the wire.
    pub const fn id(self) -> &'static [u8] {
        match self {
            Self::Http1 => alpn::HTTP1,
            Self::Http2 => alpn::HTTP2,
            Self::Tcp => alpn::TCP,
        }
    }

    /// What an id stands for.
    pub fn from_id(id: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.id() == id)
    }
}

/// The peer's own certificate.
type Leaf = Option<CertificateDer<'static>>;

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The peer agreed to no protocol of ours.
    #[error("no common protocol")]
    Alpn,
    /// The handshake itself failed: the peer is not of the mesh, or speaks no TLS, or left.
    #[error("handshake: {0}")]
    Handshake(#[from] std::io::Error),
    /// The peer's certificate, though it verified, names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer is somebody else.
    #[error("the peer is {found}, expected {expected}")]
    WrongPeer {
        /// Who was expected.
        expected: SpiffeId,
        /// Who it is.
        found: SpiffeId,
    },
}

impl Refusal {
    pub(crate) fn into_failure(self) -> Failure {
        let detail: Cow<'static, str> = match &self {
            Self::Alpn => "no common protocol".into(),
            Self::Handshake(_) => "TLS handshake failed".into(),
            Self::Identity(_) => "the peer's certificate names nobody".into(),
            Self::WrongPeer { .. } => self.to_string().into(),
        };
        Failure::never(Outcome::TlsFailed, detail).because(self)
    }
}

/// The TLS settings made of one certificate and one set of roots.
pub(super) struct Configs {
    server: Arc<ServerConfig>,
    /// In the order of [`Alpn::ALL`].
    clients: [Arc<ClientConfig>; 3],
}

impl Configs {
    pub(super) fn new(
        key: &Arc<CertifiedKey>,
        roots: &TrustRoots,
        trust_domain: &str,
    ) -> Result<Self, IdentityError> {
        let client = client_config(roots, trust_domain, Some(key))?;
        Ok(Self {
            server: Arc::new(server_config(key, roots, trust_domain)?),
            clients: Alpn::ALL.map(|alpn| {
                let mut config = client.clone();
                config.alpn_protocols = vec![alpn.id().to_vec()];
                // Records are protected without the library.
                config.enable_secret_extraction = true;
                Arc::new(config)
            }),
        })
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub(super) fn client(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let index = match alpn {
            Alpn::Http2 => 0,
            Alpn::Http1 => 1,
            Alpn::Tcp => 2,
        };
        Arc::clone(&self.clients[index])
    }
}

/// The one provider, passed to every builder. The fastest choices stand first: measured, AES-128-GCM
/// and X25519 cost least; the post-quantum group is understood where a peer prefers it.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::X25519MLKEM768,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}

/// A client that believes workloads of `trust_domain`, and shows `key` where there is one.
pub(super) fn client_config(
    roots: &TrustRoots,
    trust_domain: &str,
    key: Option<&Arc<CertifiedKey>>,
) -> Result<ClientConfig, IdentityError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(
            roots.clone(),
            trust_domain,
        )));
    let mut config = match key {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    // Peers are named by SPIFFE ids, not by host names.
    config.enable_sni = false;
    Ok(config)
}

fn server_config(
    key: &Arc<CertifiedKey>,
    roots: &TrustRoots,
    trust_domain: &str,
) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Config)?
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(roots, trust_domain)?))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = Alpn::ALL.map(|alpn| alpn.id().to_vec()).to_vec();
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Dials: the peer must be `expected` and agree to `alpn`.
pub(super) async fn connect<S>(
    config: Arc<ClientConfig>,
    io: S,
    expected: &SpiffeId,
    alpn: &[u8],
) -> Result<(Thin<S>, Leaf), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    thin::connect(config, name(), io, |session| {
        meant(session, expected, alpn)?;
        Ok(leaf(session))
    })
    .await
}

/// [`connect`] to who is no sidecar: the library speaks, with all that the other side may say.
pub(super) async fn connect_by_library<S>(
    config: Arc<ClientConfig>,
    io: S,
    expected: &SpiffeId,
    alpn: &[u8],
) -> Result<TlsStream<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsConnector::from(config).connect(name(), io).await?;
    meant(stream.get_ref().1, expected, alpn)?;
    Ok(stream)
}

pub(super) fn name() -> ServerName<'static> {
    ServerName::try_from("weft").expect("a valid host name, never sent")
}

/// Whether the server is who was meant, and speaks what was meant.
fn meant(session: &CommonState, expected: &SpiffeId, alpn: &[u8]) -> Result<(), Refusal> {
    let found = peer(session.peer_certificates())?;
    if found != *expected {
        return Err(Refusal::WrongPeer {
            expected: expected.clone(),
            found,
        });
    }
    if session.alpn_protocol() != Some(alpn) {
        return Err(Refusal::Alpn);
    }
    Ok(())
}

/// Answers: says who the peer is and what it wants to speak.
pub(super) async fn accept<S>(
    config: Arc<ServerConfig>,
    io: S,
) -> Result<(Thin<S>, Leaf, SpiffeId, Alpn), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (stream, (leaf, id, alpn)) = thin::accept(config, io, |session| {
        let id = peer(session.peer_certificates())?;
        let alpn = session
            .alpn_protocol()
            .and_then(Alpn::from_id)
            .ok_or(Refusal::Alpn)?;
        Ok::<_, Refusal>((leaf(session), id, alpn))
    })
    .await?;
    Ok((stream, leaf, id, alpn))
}

/// The peer's certificate, for what it says besides its name.
fn leaf(session: &CommonState) -> Leaf {
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    leaf.map(|leaf| leaf.clone().into_owned())
}

fn peer(chain: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, IdentityError> {
    let leaf = chain
        .and_then(<[_]>::first)
        .ok_or(IdentityError::NoCertificate)?;
    verify::spiffe_id(leaf)
}
