//! Connections to the own application: plaintext, at the address that the client dialled.
//!
//! One pool per worker, address and HTTP version. An application may close an idle connection at
//! any moment, so connections are not kept for long, and a request that must not be sent twice takes
//! one that was used just now, or a fresh one.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ::http::{Method, Request, Response};
use http_body::Body as _;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::APP_CONNECT_LIMIT;
use crate::http::Version;
use crate::http::body::{RequestBody, UpstreamBody};
use crate::http::client::{
    BoxFuture, Connect, H1Pool, H2Pool, MAX_REPLACEMENTS, PoolOptions, SendOptions, TryError,
    tcp_peer_has_closed,
};
use crate::net::{AppDialer, Io, Stream};
use crate::outcome::{Failure, Outcome};
use crate::worker::PerWorker;

/// Pools per worker. An application has few ports; what asks for more is a scanner.
const MAX_POOLS: usize = 1_024;
/// The oldest idle connection that a request takes which must not be sent twice.
const FRESH_ENOUGH: Duration = Duration::from_millis(500);

/// The pools of all workers.
pub(crate) struct Apps {
    dialer: AppDialer,
    pools: PerWorker<Mutex<HashMap<(SocketAddr, Version), AppPool>>>,
    pools_dropped: Counter,
}

#[derive(Clone)]
enum AppPool {
    Http1(H1Pool<AppConnector>),
    Http2(H2Pool<AppConnector>),
}

struct AppConnector {
    dialer: AppDialer,
    address: SocketAddr,
}

impl Apps {
    /// No pool yet. `pools_dropped` counts that there were too many.
    pub(crate) fn new(dialer: AppDialer, workers: usize, pools_dropped: Counter) -> Self {
        let pools = PerWorker::new(workers, |_| Mutex::default());
        Self {
            dialer,
            pools,
            pools_dropped,
        }
    }

    /// Closes connections of this worker that have been idle for too long.
    pub(crate) fn sweep(&self) {
        let pools: Vec<AppPool> = self.pools.here().lock().values().cloned().collect();
        for pool in pools {
            match pool {
                AppPool::Http1(pool) => pool.sweep(),
                AppPool::Http2(pool) => pool.sweep(),
            }
        }
    }

    /// Sends a request to the application.
    ///
    /// What may be sent twice, and has no body, is sent once more where a connection that was kept
    /// open broke under it: the application closed it as idle, or it would break again. What an
    /// application leaves out when it ends an HTTP/2 connection, as some do after so many requests, goes
    /// over another one, unless it has a body, of which a part may be gone.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        version: Version,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, TryError> {
        let pool = self.pool(address, version);
        let has_body = !request.body().is_end_stream();
        if has_body || version == Version::Http2 || !is_idempotent(request.method()) {
            let options = SendOptions {
                max_idle_age: Some(FRESH_ENOUGH),
                probe_before_write: true,
                ..SendOptions::default()
            };
            if has_body || version == Version::Http1 {
                return pool.send(request, options).await;
            }
            return send_until_taken(&pool, request, &options).await;
        }
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head.clone(), body);
        match pool.send(request, SendOptions::default()).await {
            Err(TryError {
                reused: true,
                failure,
                ..
            }) if failure.outcome == Outcome::Reset => {
                let again = Request::from_parts(head, RequestBody::Empty);
                let fresh = SendOptions {
                    max_idle_age: Some(Duration::ZERO),
                    ..SendOptions::default()
                };
                pool.send(again, fresh).await
            }
            result => result,
        }
    }

    fn pool(&self, address: SocketAddr, version: Version) -> AppPool {
        let mut pools = self.pools.here().lock();
        if pools.len() >= MAX_POOLS && !pools.contains_key(&(address, version)) {
            self.pools_dropped.increment(1);
            pools.clear();
        }
        let pool = pools.entry((address, version)).or_insert_with(|| {
            let connector = AppConnector {
                dialer: self.dialer.clone(),
                address,
            };
            match version {
                Version::Http1 => AppPool::Http1(H1Pool::new(connector, PoolOptions::PLAIN)),
                Version::Http2 => AppPool::Http2(H2Pool::new(connector, PoolOptions::PLAIN)),
            }
        });
        pool.clone()
    }
}

/// Sends a request without a body, more than once only while it is [left out](TryError::left_out).
async fn send_until_taken(
    pool: &AppPool,
    request: Request<RequestBody>,
    options: &SendOptions,
) -> Result<Response<UpstreamBody>, TryError> {
    let (head, _) = request.into_parts();
    let request = || Request::from_parts(head.clone(), RequestBody::Empty);
    for _ in 0..MAX_REPLACEMENTS {
        match pool.send(request(), options.clone()).await {
            Err(error) if error.left_out() => {}
            result => return result,
        }
    }
    pool.send(request(), options.clone()).await
}

impl AppPool {
    async fn send(
        &self,
        request: Request<RequestBody>,
        options: SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        match self {
            Self::Http1(pool) => pool.send(request, options).await,
            Self::Http2(pool) => pool.send(request, options).await,
        }
    }
}

impl Connect for AppConnector {
    type Io = Io;

    fn connect(&self) -> BoxFuture<Result<Io, Failure>> {
        let (dialer, address) = (self.dialer.clone(), self.address);
        Box::pin(async move {
            let connection = dial(&dialer, address, APP_CONNECT_LIMIT).await?;
            Ok(connection.into())
        })
    }

    fn check_before_reuse(&self) -> bool {
        true
    }

    fn peer_has_closed(io: &Io) -> bool {
        match io.inner() {
            Stream::Tcp(tcp) => tcp_peer_has_closed(tcp.inner()),
            _ => false,
        }
    }
}

/// Connects to the application.
pub(crate) async fn dial(
    dialer: &AppDialer,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let late = || {
        Failure::never(
            Outcome::ConnectTimeout,
            "the application took no connection",
        )
    };
    let dialled = timeout(limit, dialer.dial(address))
        .await
        .map_err(|_| late())?;
    dialled.map_err(refused)
}

/// Methods whose repetition does no harm (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

fn refused(error: io::Error) -> Failure {
    let detail = match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens on the application's port",
        _ => "the application could not be reached",
    };
    Failure::not_connected(error, detail)
}
