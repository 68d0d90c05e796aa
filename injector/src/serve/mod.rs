//! The HTTPS listener: TLS 1.3, HTTP/1 and HTTP/2, one page.
//!
//! Everything is bounded: connections, requests at once, what a request may bring and how long anything
//! may take, so that whoever reaches the port cannot keep the API server from it for long. What is over a
//! limit is refused and counted.
//!
//! When it ends, connections are told to go elsewhere, and requests that are under way are answered.

mod call;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Events;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::watch::namespaces::Namespaces;

/// How long requests that are under way, and connections, may take to end.
pub const GRACE: Duration = Duration::from_secs(6);

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
const MAX_CONNECTIONS: usize = 256;
const MAX_STREAMS_PER_CONNECTION: u32 = 64;
/// Requests that are read and answered at once; others wait for their turn.
const MAX_REQUESTS: usize = 32;
const MAX_HEADER_LIST: u32 = 16 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From one request's end to the next one's head, in HTTP/1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Whoever asks nothing must not hold a place.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// API servers make another connection then, perhaps to another replica. Up to a quarter less by chance.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What answers are made of.
pub struct Server {
    settings: Settings,
    namespaces: Arc<Namespaces>,
    events: Events,
    metrics: Arc<Metrics>,
    turns: Semaphore,
}

/// TLS with whatever certificate there is at the time of a handshake. No session is resumed: the API
/// server is to see the certificate that is there now.
pub fn tls(
    certificates: Arc<dyn ResolvesServerCert>,
    provider: Arc<CryptoProvider>,
) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config).into())
}

impl Server {
    /// Of these parts.
    pub fn new(
        settings: Settings,
        namespaces: Arc<Namespaces>,
        events: Events,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            settings,
            namespaces,
            events,
            metrics,
            turns: Semaphore::new(MAX_REQUESTS),
        }
    }

    /// Serves until `end`, then what is under way for up to [`GRACE`].
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        tls: TlsAcceptor,
        end: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = end.cancelled() => break,
            };
            let Ok((tcp, _)) = accepted else {
                sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.metrics.connections_over_limit.increment(1);
                continue;
            };
            let (server, tls, end) = (Arc::clone(&self), tls.clone(), end.clone());
            connections.spawn(async move {
                server.connection(tcp, tls, end).await;
                drop(place);
            });
        }
        drop(listener);
        connections.close();
        // Who has not ended by then is cut off with the process.
        let _ = timeout(GRACE, connections.wait()).await;
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, tls: TlsAcceptor, end: CancellationToken) {
        // Without it answers are late, and that is all.
        let _ = tcp.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp)).await {
            Ok(Ok(stream)) => stream,
            failed => {
                self.metrics.handshakes_failed.increment(1);
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%error, "a handshake failed");
                }
                return;
            }
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
            .max_header_list_size(MAX_HEADER_LIST)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let builder = if is_http2 {
            builder.http2_only()
        } else {
            builder.http1_only()
        };

        let has_asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&has_asked);
        let service = service_fn(move |request| {
            asks.store(true, Ordering::Relaxed);
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut first = pin!(sleep(FIRST_REQUEST));
        let life = CONNECTION_LIFE.mul_f64(1.0 - fastrand::f64() / 4.0);
        let mut life = pin!(async {
            tokio::select! {
                () = sleep(life) => {}
                () = end.cancelled() => {}
            }
        });
        let (mut waits_for_first, mut goes_on) = (true, true);
        let mut last = pin!(sleep(Duration::MAX));
        loop {
            tokio::select! {
                // However it ends: the API server knows by itself.
                _ = connection.as_mut() => return,
                () = first.as_mut(), if waits_for_first => {
                    if !has_asked.load(Ordering::Relaxed) {
                        return;
                    }
                    waits_for_first = false;
                }
                () = life.as_mut(), if goes_on => {
                    connection.as_mut().graceful_shutdown();
                    goes_on = false;
                    last.set(sleep(GRACE));
                }
                () = last.as_mut(), if !goes_on => return,
            }
        }
    }
}
