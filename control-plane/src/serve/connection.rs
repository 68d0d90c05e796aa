//! One connection: TLS, who is there, HTTP/2, and which service a request is for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use weft_proto::discovery::discovery_server;
use weft_proto::identity::identity_server::{self, IdentityServer};
use weft_proto::replica::replicas_server::{self, ReplicasServer};
use weft_proto::spiffe::SpiffeId;

use super::certify::Certifier;
use super::codec::StreamCodec;
use super::discovery::Discovery;
use super::replicas::Exchange;
use super::tls::{ALPN, peer_identity};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever shows no certificate is here for one request, and must not hold a place for longer.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Also h2's budget for small frames, which a discovery stream is full of.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
/// A sidecar needs one stream and now and then a certificate.
const MAX_STREAMS_PER_CONNECTION: u32 = 16;
const MAX_HEADER_LIST: u32 = 16 * 1024;
const MAX_SEND_BUFFER: usize = 256 * 1024;
/// A hello with 10,000 held versions has about 2 MiB.
const MAX_DISCOVERY_MESSAGE: usize = 8 * 1024 * 1024;
const MAX_CERTIFY_MESSAGE: usize = 64 * 1024;
/// What replicas ask each other is empty.
const MAX_REPLICA_QUESTION: usize = 4 * 1024;

/// Who is at the other end; an extension of every request.
#[derive(Clone)]
pub(super) struct Peer {
    /// As its certificate proves; `None` without one.
    pub(super) identity: Option<SpiffeId>,
    /// Asks the connection to end when its streams have ended.
    pub(super) retire: CancellationToken,
}

/// What connections lead to.
pub(super) struct Services {
    pub(super) certifier: Arc<Certifier>,
    pub(super) discovery: Discovery,
    pub(super) exchange: Arc<Exchange>,
    /// Ends connections gracefully.
    pub(super) shutdown: CancellationToken,
}

/// Serves a connection to its end.
pub(super) async fn serve<I>(
    io: I,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    services: Arc<Services>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let accepting = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io));
    let handshake = match accepting.await {
        Ok(Ok(tls)) => identify(&tls, &services).map(|identity| (tls, identity)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("not finished within 5 s".to_owned()),
    };
    let (tls, identity) = match handshake {
        Ok(done) => done,
        Err(reason) => {
            services.certifier.metrics.handshakes_failed.increment(1);
            tracing::debug!(%address, reason, "TLS handshake failed");
            return;
        }
    };

    let anonymous = identity.is_none();
    let retire = CancellationToken::new();
    let peer = Peer {
        identity,
        retire: retire.clone(),
    };
    let shutdown = services.shutdown.clone();
    let router = hyper::service::service_fn(move |request| route(&services, &peer, request));
    let mut connection = pin!(http().serve_connection(TokioIo::new(tls), router));
    let result = tokio::select! {
        result = &mut connection => result,
        () = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = retire.cancelled() => {}
                () = sleep(ANONYMOUS_LIFE), if anonymous => {}
            }
        } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
    }
}

fn identify<I>(tls: &TlsStream<I>, services: &Services) -> Result<Option<SpiffeId>, String> {
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(ALPN) {
        return Err("ALPN is not h2".to_owned());
    }
    let trust_domain = services.certifier.authority.trust_domain();
    session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| peer_identity(leaf, trust_domain))
        .transpose()
        .map_err(|error| error.to_string())
}

fn http() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER);
    builder
}

fn route(
    services: &Services,
    peer: &Peer,
    mut request: http::Request<Incoming>,
) -> BoxFuture<http::Response<Body>, Infallible> {
    request.extensions_mut().insert(peer.clone());
    let path = request.uri().path();
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    match service {
        Some((discovery_server::SERVICE_NAME, "Stream")) => {
            let discovery = services.discovery.clone();
            Box::pin(async move {
                let mut grpc = tonic::server::Grpc::new(StreamCodec)
                    .max_decoding_message_size(MAX_DISCOVERY_MESSAGE);
                Ok(grpc.streaming(discovery, request).await)
            })
        }
        Some((identity_server::SERVICE_NAME, _)) => {
            IdentityServer::from_arc(services.certifier.clone())
                .max_decoding_message_size(MAX_CERTIFY_MESSAGE)
                .call(request)
        }
        Some((replicas_server::SERVICE_NAME, _)) => {
            ReplicasServer::from_arc(services.exchange.clone())
                .max_decoding_message_size(MAX_REPLICA_QUESTION)
                .call(request)
        }
        _ => {
            let status = Status::unimplemented("no such method");
            Box::pin(async move { Ok(status.into_http()) })
        }
    }
}
