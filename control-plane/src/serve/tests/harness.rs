//! A server on loopback with a model that the test changes, and a sidecar's side of the wire.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipnet::IpNet;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::{Status, Streaming};
use weft_proto::discovery::discovery_client::DiscoveryClient;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{
    ClientMessage, EndpointsKey, Hello, HelloReply, ResourceKey, ServerMessage, ServiceRef,
    Subscribe, TrustBundleKey, Update, client_message, server_message,
};
use weft_proto::identity::identity_client::IdentityClient;
use weft_proto::identity::{CertifyRequest, CertifyResponse};
use weft_proto::spiffe::SpiffeId;

use crate::identity::tokens::{JoinTokenReviewer, JoinTokens};
use crate::identity::{Authority, TRUST_BUNDLE_FILE, WorkloadKey};
use crate::index::{
    MeshSettings, Model, Name, Objects, Origin, Service as MeshService, ServiceEndpoint,
    ServicePort, Sourced, Workload,
};
use crate::serve::connection::Services;
use crate::serve::replicas::{Place, Replicas};
use crate::serve::streams::Streams;
use crate::serve::{Metrics, Server};

pub(super) const DOMAIN: &str = "mesh.test";
const SOON: Duration = Duration::from_secs(5);

/// A running server with everything that a test looks at.
pub(super) struct Mesh {
    state: Arc<TempDir>,
    objects: Objects,
    revision: u64,
    pub(super) models: watch::Sender<Arc<Model>>,
    pub(super) authority: Arc<Authority>,
    pub(super) streams: Arc<Streams>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) address: SocketAddr,
    pub(super) end: CancellationToken,
    pub(super) services: Arc<Services>,
    pub(super) replicas: Arc<Replicas>,
    pub(super) server: JoinHandle<()>,
}

/// A certificate with its key.
pub(super) struct Credentials {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// A sidecar's open stream.
pub(super) struct Stream {
    pub(super) say: mpsc::Sender<ClientMessage>,
    pub(super) hear: Streaming<ServerMessage>,
}

impl Mesh {
    pub(super) async fn start() -> Self {
        Self::start_with(Duration::from_secs(24 * 3600), Duration::from_secs(1800)).await
    }

    pub(super) async fn start_with(leaf_lifetime: Duration, stream_life: Duration) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self::start_at(state, objects(), listener, leaf_lifetime, stream_life, None)
    }

    /// One of several replicas with the same state.
    pub(super) fn start_replica(
        state: Arc<TempDir>,
        objects: Objects,
        listener: TcpListener,
        place: Place,
    ) -> Self {
        let (leaf_lifetime, stream_life) =
            (Duration::from_secs(24 * 3600), Duration::from_secs(1800));
        Self::start_at(
            state,
            objects,
            listener,
            leaf_lifetime,
            stream_life,
            Some(place),
        )
    }

    fn start_at(
        state: Arc<TempDir>,
        objects: Objects,
        listener: TcpListener,
        leaf_lifetime: Duration,
        stream_life: Duration,
        place: Option<Place>,
    ) -> Self {
        let now = SystemTime::now();
        let authority = Authority::open(state.path(), DOMAIN, leaf_lifetime, now).unwrap();
        let authority = Arc::new(authority);
        let (sender, models) = watch::channel(Arc::new(Model::build(objects.clone(), 1)));
        let tokens = JoinTokens::open(state.path()).unwrap();
        let accounts = {
            let models = models.clone();
            move |namespace: &str, workload: &str| {
                let model = models.borrow();
                model
                    .workload(namespace, workload)
                    .map(|w| w.service_account.clone())
            }
        };
        let metrics = Arc::new(Metrics::new());
        let streams = Arc::new(Streams::new(metrics.clone()));
        let server = Server::new(
            authority.clone(),
            Arc::new(JoinTokenReviewer::new(tokens, Box::new(accounts))),
            models,
            streams.clone(),
            metrics.clone(),
            stream_life,
        )
        .unwrap();
        let server = match place {
            Some(place) => server.among(place),
            None => server,
        };
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        Self {
            state,
            objects,
            revision: 1,
            models: sender,
            authority,
            streams,
            metrics,
            address,
            end: end.clone(),
            services: server.services.clone(),
            replicas: server.replicas(),
            server: tokio::spawn(server.run(listener, end)),
        }
    }

    /// The state directory.
    pub(super) fn state(&self) -> &std::path::Path {
        self.state.path()
    }

    pub(super) fn token(&self, workload: &str) -> String {
        let tokens = JoinTokens::open(self.state.path()).unwrap();
        tokens.issue("shop", workload).unwrap().to_string()
    }

    /// Changes the model, as the source does.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.objects);
        self.revision += 1;
        let model = Model::build(self.objects.clone(), self.revision);
        self.models.send_replace(Arc::new(model));
    }

    /// A certificate without asking for it over the wire.
    pub(super) fn credentials(&self, account: &str, at: SystemTime) -> Credentials {
        credentials(&self.authority, account, at)
    }

    pub(super) async fn connect(
        &self,
        credentials: Option<Credentials>,
    ) -> Result<Connection, String> {
        let bundle = self.state.path().join(TRUST_BUNDLE_FILE);
        let root = CertificateDer::from_pem_file(bundle).unwrap();
        connect(self.address, root, credentials).await
    }

    pub(super) async fn certify(
        &self,
        token: &str,
        csr: Vec<u8>,
    ) -> Result<CertifyResponse, Status> {
        let connection = self.connect(None).await.unwrap();
        let mut client = IdentityClient::with_origin(connection, origin());
        let request = CertifyRequest {
            token: token.to_owned(),
            csr,
        };
        client
            .certify(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// A stream of workload `web-1`, up to the server's greeting.
    pub(super) async fn stream(&self, hello: Hello) -> Result<(Stream, HelloReply), Status> {
        self.stream_as("web", hello).await
    }

    /// A stream of any workload, up to the server's greeting.
    pub(super) async fn stream_as(
        &self,
        account: &str,
        hello: Hello,
    ) -> Result<(Stream, HelloReply), Status> {
        let credentials = self.credentials(account, SystemTime::now());
        let connection = self.connect(Some(credentials)).await.unwrap();
        let mut stream = Stream::open(connection, client_message::Kind::Hello(hello)).await?;
        match stream.next().await? {
            Some(server_message::Kind::HelloReply(reply)) => Ok((stream, reply)),
            other => panic!("not a greeting: {other:?}"),
        }
    }
}

impl Stream {
    pub(super) async fn open(
        connection: Connection,
        first: client_message::Kind,
    ) -> Result<Self, Status> {
        let (say, messages) = mpsc::channel(16);
        say.send(ClientMessage { kind: Some(first) }).await.unwrap();
        let mut client = DiscoveryClient::with_origin(connection, origin());
        let hear = client
            .stream(ReceiverStream::new(messages))
            .await?
            .into_inner();
        Ok(Self { say, hear })
    }

    pub(super) async fn say(&self, kind: client_message::Kind) {
        self.say
            .send(ClientMessage { kind: Some(kind) })
            .await
            .unwrap();
    }

    pub(super) async fn subscribe(&self, key: ResourceKey) {
        let subscribe = Subscribe { key: Some(key) };
        self.say(client_message::Kind::Subscribe(subscribe)).await;
    }

    pub(super) async fn next(&mut self) -> Result<Option<server_message::Kind>, Status> {
        let message = tokio::time::timeout(SOON, self.hear.message()).await;
        let message = message.expect("an answer within 5 s")?;
        Ok(message.and_then(|message| message.kind))
    }

    pub(super) async fn update(&mut self) -> Update {
        match self.next().await.unwrap() {
            Some(server_message::Kind::Update(update)) => update,
            other => panic!("not an update: {other:?}"),
        }
    }

    /// Why the stream ended.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a status"),
                Err(status) => return status,
            }
        }
    }
}

/// One HTTP/2 connection as tonic wants it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) requests: SendRequest<Body>,
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

/// A client that believes the control plane by `root`, and has these credentials or none.
pub(super) fn client_config(
    root: CertificateDer<'static>,
    credentials: Option<Credentials>,
) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let verifier = ControlPlaneVerifier {
        roots,
        provider: provider.clone(),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credentials {
        Some(own) => config.with_client_auth_cert(own.chain, own.key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn connect(
    address: SocketAddr,
    root: CertificateDer<'static>,
    credentials: Option<Credentials>,
) -> Result<Connection, String> {
    let config = client_config(root, credentials);
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let name = ServerName::try_from("control-plane").unwrap();
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|e| e.to_string())?;
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(Connection { requests })
}

/// Wants a certificate of the mesh that names the control plane.
#[derive(Debug)]
struct ControlPlaneVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ControlPlaneVerifier {
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
        let certificate = webpki::EndEntityCert::try_from(end_entity).unwrap();
        let names: Vec<_> = certificate.valid_uri_names().collect();
        assert_eq!(names, ["spiffe://mesh.test/ns/weft/sa/control-plane"]);
        Ok(ServerCertVerified::assertion())
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

pub(super) fn credentials(authority: &Authority, account: &str, at: SystemTime) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let id = SpiffeId::new(DOMAIN, "shop", account).unwrap();
    let workload = WorkloadKey::from_csr(&csr(&key)).unwrap();
    let leaf = authority.issue(&id, &workload, at).unwrap();
    Credentials {
        chain: leaf.chain,
        key: private_key(&key),
    }
}

pub(super) fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

pub(super) fn csr(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key).unwrap();
    request.der().to_vec()
}

pub(super) fn hello(workload: &str) -> Hello {
    Hello {
        workload: workload.to_owned(),
        zone: "a".to_owned(),
        proxy_version: "0.1.0".to_owned(),
        held: Vec::new(),
    }
}

pub(super) fn trust_bundle() -> ResourceKey {
    ResourceKey {
        kind: Some(Kind::TrustBundle(TrustBundleKey {})),
    }
}

pub(super) fn endpoints_of(name: &str) -> ResourceKey {
    let service = ServiceRef {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        port: 80,
    };
    let service = Some(service);
    ResourceKey {
        kind: Some(Kind::Endpoints(EndpointsKey { service })),
    }
}

pub(super) fn origin() -> http::Uri {
    http::Uri::from_static("https://control-plane")
}

/// Workloads `web-1` of account `web` and `cart-1` to `cart-4` of account `cart`, and a service
/// `cart` with three endpoints.
pub(super) fn objects() -> Objects {
    let mut workloads = vec![workload("web-1", "web", 1)];
    workloads.extend((1..=4).map(|index| workload(&format!("cart-{index}"), "cart", 10 + index)));
    let service = MeshService {
        name: Name::new("shop", "cart"),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".to_owned(),
            port: 80,
            target_port: 8080,
            exceptions: Default::default(),
            app_protocol: String::new(),
        }],
        endpoints: (1..=3).map(cart).collect(),
        idle: Default::default(),
        last_resort: false,
    };
    Objects {
        settings: MeshSettings {
            trust_domain: DOMAIN.to_owned(),
            networks: vec![network("10.0.0.0/8")],
            server_first_ports: Vec::new(),
            minimum_mtls: None,
            default_authorization: crate::policy::DefaultAuthorization::AllowAll,
        },
        listeners: Vec::new(),
        workloads,
        services: vec![sourced(service)],
        policies: Vec::new(),
        broken: Vec::new(),
        routes: Vec::new(),
        grants: Vec::new(),
        refusals: Vec::new(),
    }
}

pub(super) fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn cart(index: u8) -> ServiceEndpoint {
    ServiceEndpoint::Workload(format!("cart-{index}"))
}

pub(super) fn workload(name: &str, account: &str, last: u8) -> Sourced<Workload> {
    sourced(Workload {
        name: Name::new("shop", name),
        owner: name.to_owned(),
        service_account: account.to_owned(),
        addresses: vec![[10, 0, 0, last].into()],
        meshed: true,
        zone: "a".to_owned(),
        weight: 1,
        draining: false,
        ended: false,
        ports: Vec::new(),
    })
}

pub(super) fn sourced<T>(object: T) -> Sourced<T> {
    let file: PathBuf = "mesh.yaml".into();
    Sourced {
        origin: Origin {
            file: file.to_string_lossy().into(),
            line: 1,
        },
        object,
    }
}
