//! A certificate authority and a control plane for tests, on loopback.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tower_service::Service;
use weft_proto::discovery as wire;
use weft_proto::discovery::discovery_server::{Discovery, DiscoveryServer};
use weft_proto::identity as id_wire;
use weft_proto::identity::identity_server::IdentityServer;
use weft_proto::spiffe::SpiffeId;

use super::control_plane::BoxFuture;
use super::{ControlPlane, Dial, Identity, verify};

pub(crate) fn spiffe(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account).unwrap()
}

pub(crate) fn control_plane_id() -> SpiffeId {
    SpiffeId::new("cluster.local", "weft", "control-plane").unwrap()
}

/// A root with one issuer below it.
pub(crate) struct Ca {
    root: CertificateDer<'static>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf with what it needs to be shown.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let authority = || {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority(), key()).unwrap();
        Self {
            root: root.der().clone(),
            issuer: CertifiedIssuer::signed_by(authority(), key(), &root).unwrap(),
        }
    }

    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.clone()]
    }

    /// What the control plane would put into a leaf for `uri`.
    pub(crate) fn params(uri: &str, life: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - Duration::from_secs(900)).into();
        params.not_after = (SystemTime::now() + life).into();
        params
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: vec![leaf.der().clone(), self.issuer.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        }
    }

    pub(crate) fn leaf(&self, id: &SpiffeId) -> Leaf {
        self.sign(&Self::params(id.as_str(), Duration::from_secs(3600)))
    }

    /// A workload with a certificate of this authority.
    pub(crate) fn identity(&self, id: &SpiffeId) -> Identity {
        let identity = Identity::new();
        let Leaf { chain, key } = self.leaf(id);
        identity
            .install(chain, key, self.roots(), SystemTime::now())
            .unwrap();
        identity
    }

    fn sign_request(&self, csr: &[u8], id: &SpiffeId, life: Duration) -> Vec<Vec<u8>> {
        let mut request = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        request.params = Self::params(id.as_str(), life);
        let leaf = request.signed_by(&self.issuer).unwrap();
        vec![leaf.der().to_vec(), self.issuer.der().to_vec()]
    }
}

/// Dials as any program does.
pub(crate) struct PlainDial;

impl Dial for PlainDial {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

/// A control plane that a test plays.
pub(crate) struct FakeControlPlane {
    pub(crate) address: SocketAddr,
    /// Streams as they are opened.
    pub(crate) streams: mpsc::UnboundedReceiver<FakeStream>,
    pub(crate) certify: Arc<CertifyScript>,
    bundle_file: tempfile::NamedTempFile,
    server: tokio::task::JoinHandle<()>,
}

/// What the fake certifies.
pub(crate) struct CertifyScript {
    pub(crate) ca: Ca,
    /// Who the token stands for, and for how long; `None` refuses.
    pub(crate) grant: Mutex<Option<(SpiffeId, Duration)>>,
    /// Tokens and public keys that were shown.
    pub(crate) seen: Mutex<Vec<(String, Vec<u8>)>>,
}

/// The server's side of one stream.
pub(crate) struct FakeStream {
    pub(crate) peer: SpiffeId,
    pub(crate) incoming: Streaming<wire::ClientMessage>,
    pub(crate) outgoing: mpsc::Sender<Result<wire::ServerMessage, Status>>,
}

impl FakeStream {
    pub(crate) async fn hear(&mut self) -> wire::client_message::Kind {
        let message = tokio::time::timeout(Duration::from_secs(10), self.incoming.message());
        message.await.unwrap().unwrap().unwrap().kind.unwrap()
    }

    pub(crate) async fn say(&self, kind: wire::server_message::Kind) {
        let message = wire::ServerMessage { kind: Some(kind) };
        self.outgoing.send(Ok(message)).await.unwrap();
    }
}

impl FakeControlPlane {
    /// Serves as `server_id` with a certificate of `ca`; the trust bundle file has `ca`'s root.
    pub(crate) async fn start(ca: Ca, server_id: &SpiffeId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bundle_file = tempfile::NamedTempFile::new().unwrap();
        for root in ca.roots() {
            let body = base64(&root);
            writeln!(
                bundle_file,
                "-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"
            )
            .unwrap();
        }
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config(&ca, server_id)));
        let certify = Arc::new(CertifyScript {
            ca,
            grant: Mutex::new(Some((spiffe("web"), Duration::from_secs(3600)))),
            seen: Mutex::default(),
        });
        let (opened, streams) = mpsc::unbounded_channel();
        let script = Arc::clone(&certify);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                let (opened, script) = (opened.clone(), Arc::clone(&script));
                connections.spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serve(tls, opened, script).await;
                    }
                });
            }
        });
        Self {
            address,
            streams,
            certify,
            bundle_file,
            server,
        }
    }

    /// How a sidecar would reach it, expecting `id`.
    pub(crate) fn reached_as(&self, id: SpiffeId) -> ControlPlane {
        ControlPlane::new(
            self.address.to_string(),
            id,
            self.bundle_file.path(),
            Arc::new(PlainDial),
        )
    }

    pub(crate) fn bundle_path(&self) -> &std::path::Path {
        self.bundle_file.path()
    }

    pub(crate) fn reached(&self) -> ControlPlane {
        self.reached_as(control_plane_id())
    }

    /// The next stream, with its hello taken.
    pub(crate) async fn stream(&mut self) -> (FakeStream, wire::Hello) {
        let next = tokio::time::timeout(Duration::from_secs(10), self.streams.recv());
        let mut stream = next.await.unwrap().unwrap();
        match stream.hear().await {
            wire::client_message::Kind::Hello(hello) => (stream, hello),
            other => panic!("{other:?} before hello"),
        }
    }
}

impl Drop for FakeControlPlane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn server_config(ca: &Ca, id: &SpiffeId) -> rustls::ServerConfig {
    let provider = super::tls::provider();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root.clone()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
    let Leaf { chain, key } = ca.leaf(id);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn serve(
    tls: tokio_rustls::server::TlsStream<TcpStream>,
    opened: mpsc::UnboundedSender<FakeStream>,
    script: Arc<CertifyScript>,
) {
    let peer = tls
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| verify::spiffe_id(&chain[0]).unwrap());
    let identity = IdentityServer::new(FakeIdentity(script));
    let discovery = DiscoveryServer::new(FakeDiscovery { peer, opened });
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut identity, mut discovery) = (identity.clone(), discovery.clone());
        async move {
            let response: Response<tonic::body::Body> =
                if request.uri().path().starts_with("/weft.identity") {
                    identity.call(request).await?
                } else {
                    discovery.call(request).await?
                };
            Ok::<_, Infallible>(response)
        }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), service)
        .await;
}

struct FakeIdentity(Arc<CertifyScript>);

#[tonic::async_trait]
impl id_wire::identity_server::Identity for FakeIdentity {
    async fn certify(
        &self,
        request: tonic::Request<id_wire::CertifyRequest>,
    ) -> Result<tonic::Response<id_wire::CertifyResponse>, Status> {
        let id_wire::CertifyRequest { token, csr } = request.into_inner();
        self.0.seen.lock().push((token, csr.clone()));
        let grant = self.0.grant.lock().clone();
        let (id, life) = grant.ok_or_else(|| Status::unauthenticated("unknown token"))?;
        Ok(tonic::Response::new(id_wire::CertifyResponse {
            chain: self.0.ca.sign_request(&csr, &id, life),
            not_after: None,
            roots: self.0.ca.roots().iter().map(|root| root.to_vec()).collect(),
            spiffe_id: id.to_string(),
        }))
    }
}

struct FakeDiscovery {
    peer: Option<SpiffeId>,
    opened: mpsc::UnboundedSender<FakeStream>,
}

#[tonic::async_trait]
impl Discovery for FakeDiscovery {
    type StreamStream = ReceiverStream<Result<wire::ServerMessage, Status>>;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<wire::ClientMessage>>,
    ) -> Result<tonic::Response<Self::StreamStream>, Status> {
        let peer = self
            .peer
            .clone()
            .ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let (outgoing, messages) = mpsc::channel(64);
        let stream = FakeStream {
            peer,
            incoming: request.into_inner(),
            outgoing,
        };
        self.opened
            .send(stream)
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(tonic::Response::new(ReceiverStream::new(messages)))
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        for place in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() {
                char::from(symbol)
            } else {
                '='
            });
        }
    }
    text
}
