//! The connection to the control plane.
//!
//! One HTTP/2 connection over TLS, made by hand so that the sidecar's own sockets can be marked and
//! the server is held to the same rules as every peer: it must prove the SPIFFE id that this process
//! was started with. Roots are those of the file that this process was started with, read again at
//! every attempt, and those that the mesh has told since.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;
use weft_proto::spiffe::SpiffeId;

use super::tls::{self, Refusal};
use super::verify::{IdentityError, TrustRoots};
use super::{Credentials, Identity};

/// Longest wait for one address to take a connection and prove itself.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time after which the control plane is asked for a sign of life.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to give one.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Large, because it also bounds how many small frames may wait to be read.
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
const ALPN: &[u8] = b"h2";
/// The authority of requests. Which server it is, TLS has settled.
const ORIGIN: &str = "https://control-plane.weft";

/// A future that is boxed because a trait returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes TCP connections that interception leaves alone.
pub trait Dial: Send + Sync {
    /// Connects to `address`.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// Where the control plane is and who it must be. Cheap to clone.
#[derive(Clone)]
pub struct ControlPlane(Arc<Settings>);

struct Settings {
    address: Box<str>,
    id: SpiffeId,
    bundle_file: PathBuf,
    dial: Arc<dyn Dial>,
}

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The trust bundle file cannot be used.
    #[error("trust bundle {}: {why}", path.display())]
    BundleFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No TCP connection.
    #[error("connecting to {address}: {source}")]
    Dial {
        /// The address that was tried.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// No HTTP/2.
    #[error("HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    /// No TLS settings.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The name leads to no address.
    #[error("resolving {address}: {source}")]
    Resolve {
        /// `host:port`.
        address: Box<str>,
        /// What happened.
        source: io::Error,
    },
    /// It took too long.
    #[error("no connection to {0} within {CONNECT_TIMEOUT:?}")]
    Timeout(SocketAddr),
    /// It is not the control plane.
    #[error("control plane at {address}: {why}")]
    Tls {
        /// The address that answered.
        address: SocketAddr,
        /// What TLS said.
        why: String,
    },
}

impl ControlPlane {
    /// The control plane at `address` (`host:port`), which must prove `id` by a chain to the roots
    /// in `bundle_file` (PEM) or in force.
    pub fn new(
        address: impl Into<Box<str>>,
        id: SpiffeId,
        bundle_file: impl Into<PathBuf>,
        dial: Arc<dyn Dial>,
    ) -> Self {
        Self(Arc::new(Settings {
            address: address.into(),
            id,
            bundle_file: bundle_file.into(),
            dial,
        }))
    }

    /// `host:port`, as configured.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Connects without showing a certificate. Roots that `identity` knows count too.
    pub(crate) async fn connect_anonymous(
        &self,
        identity: &Identity,
    ) -> Result<Channel, ConnectError> {
        let current = identity.current();
        self.connect(current.as_deref(), false).await
    }

    /// Connects as `credentials`.
    pub(crate) async fn connect_as(
        &self,
        credentials: &Credentials,
    ) -> Result<Channel, ConnectError> {
        self.connect(Some(credentials), true).await
    }

    async fn connect(
        &self,
        credentials: Option<&Credentials>,
        show_certificate: bool,
    ) -> Result<Channel, ConnectError> {
        let Settings { address, id, .. } = &*self.0;
        let roots = self.roots(credentials)?;
        let key = credentials
            .filter(|_| show_certificate)
            .map(Credentials::certified_key);
        let mut config = tls::client_config(&roots, id.trust_domain(), key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = Arc::new(config);

        let resolve_failed = |source| ConnectError::Resolve {
            address: address.clone(),
            source,
        };
        let addresses = tokio::net::lookup_host(&**address)
            .await
            .map_err(resolve_failed)?;
        let mut last = resolve_failed(io::ErrorKind::NotFound.into());
        for address in addresses {
            let attempt = timeout(CONNECT_TIMEOUT, self.connect_to(address, &config));
            match attempt.await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => last = error,
                Err(_) => last = ConnectError::Timeout(address),
            }
        }
        Err(last)
    }

    async fn connect_to(
        &self,
        address: SocketAddr,
        config: &Arc<rustls::ClientConfig>,
    ) -> Result<Channel, ConnectError> {
        let Settings { id, dial, .. } = &*self.0;
        let dial_failed = |source| ConnectError::Dial { address, source };
        let tcp = dial.dial(address).await.map_err(dial_failed)?;
        tcp.set_nodelay(true).map_err(dial_failed)?;
        let stream = tls::connect_by_library(Arc::clone(config), tcp, id, ALPN)
            .await
            .map_err(|refusal: Refusal| ConnectError::Tls {
                address,
                why: refusal.to_string(),
            })?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends when the last sender and stream are gone; its error reaches whoever uses them.
        tokio::spawn(connection);
        Ok(Channel(sender))
    }

    fn roots(&self, credentials: Option<&Credentials>) -> Result<TrustRoots, ConnectError> {
        let path = &self.0.bundle_file;
        let from_file = read_bundle(path).map_err(|why| ConnectError::BundleFile {
            path: path.clone(),
            why,
        });
        match (credentials, from_file) {
            (Some(credentials), Ok(roots)) => Ok(credentials.trust_roots().union(&roots)?),
            // Roots that the mesh told are enough.
            (Some(credentials), Err(_)) => Ok(credentials.trust_roots().clone()),
            (None, from_file) => from_file,
        }
    }
}

/// An HTTP/2 connection as tonic's clients use it. Cheap to clone; closed when the last is dropped.
#[derive(Clone)]
pub(crate) struct Channel(http2::SendRequest<tonic::body::Body>);

impl Channel {
    /// What generated clients want as the origin.
    pub(crate) fn origin() -> Uri {
        Uri::from_static(ORIGIN)
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn read_bundle(path: &Path) -> Result<TrustRoots, String> {
    let roots: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| error.to_string())?;
    TrustRoots::new(roots).map_err(|error| error.to_string())
}
