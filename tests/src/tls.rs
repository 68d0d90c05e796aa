//! TLS endpoints whose identity a test makes up: what impostors and intruders would bring.
//!
//! They verify nothing of their peer: whether a connection comes about is the sidecar's decision
//! alone.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_control_plane::identity::{Authority, DEFAULT_LEAF_LIFETIME, WorkloadKey};
use weft_proto::spiffe::SpiffeId;

/// How long a peer may take to answer or to close, before a test calls it silent.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// A certificate chain with its key. Nothing checks that they fit each other: a liar's do not.
#[derive(Clone)]
pub struct Credentials(Arc<CertifiedKey>);

impl Credentials {
    /// Signed by the authority in `state` at the time `at`: long ago makes one that has expired.
    pub fn issued(state: &Path, id: &SpiffeId, at: SystemTime) -> anyhow::Result<Self> {
        let authority = Authority::open(
            state,
            id.trust_domain(),
            DEFAULT_LEAF_LIFETIME,
            SystemTime::now(),
        )?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let leaf = authority.issue(id, &WorkloadKey::from_csr(request.der())?, at)?;
        let chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
        Ok(Self::of(chain, key.serialize_der()))
    }

    /// What somebody else issued: certificates in DER, leaf first, and the key in PKCS#8.
    pub fn of(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Self {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key that a test has made");
        Self::signing(chain, key)
    }

    /// Certificates in DER, leaf first, and whatever signs the handshakes.
    pub fn signing(chain: Vec<Vec<u8>>, key: Arc<dyn SigningKey>) -> Self {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self(Arc::new(CertifiedKey::new(chain, key)))
    }

    /// A chain of the mesh itself, good now.
    pub fn good(state: &Path, id: &SpiffeId) -> anyhow::Result<Self> {
        Self::issued(state, id, SystemTime::now())
    }

    /// A chain of the mesh itself that expired a day ago.
    pub fn expired(state: &Path, id: &SpiffeId) -> anyhow::Result<Self> {
        Self::issued(state, id, SystemTime::now() - 2 * DEFAULT_LEAF_LIFETIME)
    }

    /// A chain of an authority that the mesh knows nothing of. `id` may claim any trust domain.
    pub fn foreign(id: &SpiffeId) -> anyhow::Result<Self> {
        let state = tempfile::tempdir()?;
        Self::good(state.path(), id)
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.0)))
    }
}

/// What such a client is made of, for tests that want it otherwise.
pub fn client_config(
    credentials: Option<&Credentials>,
    alpn: &[&[u8]],
) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAnyServer::default()));
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(credentials.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    Ok(config)
}

/// What such a server is made of.
pub fn server_config(credentials: &Credentials, alpn: &[&[u8]]) -> anyhow::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(credentials.resolver());
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    Ok(config)
}

/// A TLS client over `stream`, with or without a certificate, offering these protocols. An error
/// where the handshake fails; with TLS 1.3 a server's refusal of the certificate shows only at the
/// first read.
pub async fn connect(
    stream: TcpStream,
    credentials: Option<&Credentials>,
    alpn: &[&[u8]],
) -> anyhow::Result<client::TlsStream<TcpStream>> {
    let config = client_config(credentials, alpn)?;
    let name = ServerName::try_from("intruder.invalid").expect("a DNS name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = tokio::time::timeout(PATIENCE, connecting)
        .await
        .context("the peer leaves the handshake unanswered")??;
    Ok(stream)
}

/// The server's side of TLS over `stream`, which takes any client. An error where the handshake
/// fails.
pub async fn accept(
    stream: TcpStream,
    credentials: &Credentials,
    alpn: &[&[u8]],
) -> anyhow::Result<server::TlsStream<TcpStream>> {
    let config = server_config(credentials, alpn)?;
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let stream = tokio::time::timeout(PATIENCE, accepting)
        .await
        .context("the peer leaves the handshake unanswered")??;
    Ok(stream)
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer ended it, in order or by a reset or alert, after these bytes.
    Closed(Vec<u8>),
    /// It is still open after [`PATIENCE`], with these bytes.
    Open(Vec<u8>),
}

impl End {
    /// What came, as text.
    pub fn text(&self) -> String {
        let (Self::Closed(bytes) | Self::Open(bytes)) = self;
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// Reads until the peer ends the connection, or patience does.
pub async fn read_to_end<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> End {
    let mut bytes = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while let Ok(1..) = stream
            .read(&mut chunk)
            .await
            .inspect(|length| bytes.extend_from_slice(&chunk[..*length]))
        {}
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(()) => End::Closed(bytes),
        Err(_) => End::Open(bytes),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes any certificate; only the handshake's own signature must fit.
#[derive(Debug)]
struct TakesAnyServer(WebPkiSupportedAlgorithms);

impl Default for TakesAnyServer {
    fn default() -> Self {
        Self(provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for TakesAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
