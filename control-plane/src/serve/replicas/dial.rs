//! A connection to another replica: TLS with the control plane's own identity on both sides, HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use weft_proto::replica::replicas_client::ReplicasClient;
use weft_proto::spiffe::SpiffeId;

use super::wire::MAX_MESSAGE;
use crate::identity::{Authority, IssueError};
use crate::serve::tls::{ALPN, peer_identity};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How to ask a peer.
pub(super) type Client = ReplicasClient<Connection>;

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("not within 5 s")]
    TimedOut,
    #[error("connecting: {0}")]
    Connect(#[source] std::io::Error),
    #[error("TLS: {0}")]
    Handshake(#[source] std::io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the own certificate: {0}")]
    Own(#[from] IssueError),
    #[error("HTTP/2: {0}")]
    Http(#[from] hyper::Error),
}

/// One HTTP/2 connection as tonic wants it; it ends when nobody has it any more.
#[derive(Clone)]
pub(super) struct Connection {
    requests: SendRequest<Body>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

/// Connects, within 5 s.
pub(super) async fn dial(authority: &Authority, peer: SocketAddr) -> Result<Client, DialError> {
    let connecting = timeout(CONNECT_TIMEOUT, connect(authority, peer));
    let connection = connecting.await.map_err(|_| DialError::TimedOut)??;
    let origin = http::Uri::from_static("https://control-plane");
    Ok(ReplicasClient::with_origin(connection, origin).max_decoding_message_size(MAX_MESSAGE))
}

async fn connect(authority: &Authority, peer: SocketAddr) -> Result<Connection, DialError> {
    let config = client_config(authority)?;
    let tcp = TcpStream::connect(peer).await.map_err(DialError::Connect)?;
    // Latency only: a connection without it works.
    let _ = tcp.set_nodelay(true);
    let name = ServerName::IpAddress(peer.ip().into());
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(DialError::Handshake)?;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .handshake(TokioIo::new(tls))
        .await?;
    let driver = tokio::spawn(async move {
        // However it ends, those who ask hear of it.
        let _ = connection.await;
    });
    Ok(Connection {
        requests,
        _driver: Arc::new(AbortOnDropHandle::new(driver)),
    })
}

fn client_config(authority: &Authority) -> Result<ClientConfig, DialError> {
    let (leaf, key) = authority.issue_own(SystemTime::now())?;
    let own = leaf.chain.first();
    let mut roots = RootCertStore::empty();
    for root in authority.bundle().borrow().roots.iter() {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = ReplicaVerifier {
        roots,
        wanted: own.and_then(|own| peer_identity(own, authority.trust_domain()).ok()),
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(leaf.chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Wants a certificate of the mesh that names the control plane.
#[derive(Debug)]
struct ReplicaVerifier {
    roots: RootCertStore,
    /// What the own certificate says; where that is nothing, nobody is believed.
    wanted: Option<SpiffeId>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ReplicaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let wanted = self.wanted.as_ref();
        let is_replica = wanted.is_some_and(|wanted| {
            let id = peer_identity(end_entity, wanted.trust_domain());
            id.is_ok_and(|id| id == *wanted)
        });
        if is_replica {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
