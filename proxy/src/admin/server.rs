//! Connections of the admin endpoint.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{AdminState, routes};
use crate::telemetry::Telemetry;

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 64;
/// From a connection's being idle to a whole request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From a request head to its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request body.
pub const MAX_BODY: usize = 4_096;
/// After this long a connection takes no further request. Nobody may hold a place for ever.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// From then on to the connection's being cut.
pub const CONNECTION_GRACE: Duration = Duration::from_secs(30);
/// After an accept that failed, which under pressure (no file descriptors) repeats at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers on the admin port. Cheap to clone.
#[derive(Clone)]
pub struct AdminServer {
    state: Arc<dyn AdminState>,
    telemetry: Arc<Telemetry>,
    full: metrics::Counter,
    places: Arc<Semaphore>,
}

impl AdminServer {
    /// A server for `state`, with its places counted on its own.
    pub fn new(state: Arc<dyn AdminState>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            state,
            full: telemetry.limit("admin_connections"),
            telemetry,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }

    /// Accepts for ever; ends when the future is dropped. Connections go on as tasks of the
    /// runtime, and end with it.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.accepted(stream, peer),
                Err(error) => {
                    tracing::warn!(error = %error, "the admin listener could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accepted<IO>(&self, io: IO, peer: SocketAddr)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.full.increment(1);
            return;
        };
        let server = self.clone();
        let connection = async move {
            let _place = place;
            if let Err(error) = server.serve_connection(io, peer).await {
                tracing::debug!(peer = %peer, error = %error, "an admin connection ended early");
            }
        };
        tokio::spawn(self.telemetry.supervise("admin connection", connection));
    }

    /// Answers on one connection until it ends.
    pub async fn serve_connection<IO>(&self, io: IO, peer: SocketAddr) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|request| self.answer(peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .half_close(true)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        if let Ok(ended) = tokio::time::timeout(CONNECTION_LIFE, connection.as_mut()).await {
            return ended.map_err(io::Error::other);
        }
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(CONNECTION_GRACE, connection)
            .await?
            .map_err(io::Error::other)
    }

    async fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let answer = routes::answer(&*self.state, peer.ip(), request);
        Ok(tokio::time::timeout(REQUEST_TIMEOUT, answer)
            .await
            .unwrap_or_else(|_| routes::timed_out()))
    }
}
