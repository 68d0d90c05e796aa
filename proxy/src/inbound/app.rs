//! Connections to the own application: plaintext, at the address that the client dialled.
//!
//! One pool per worker, address and HTTP version. An application may close an idle connection at
//! any moment, so connections are not kept for long, and a request that must not be sent twice takes
//! one that was used just now, or a fresh one.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, Response};
use futures_util::future::Either;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::APP_CONNECT_LIMIT;
use crate::bounds::Bounds;
use crate::http::Version;
use crate::http::body::{RequestBody, UpstreamBody};
use crate::http::client::{
    BoxFuture, Connect, H1Pool, H2Pool, MAX_REPLACEMENTS, Outgoing, PoolOptions, SendOptions,
    TryError, tcp_peer_has_closed,
};
use crate::http::floods::FloodBounds;
use crate::http::kept::KeptHead;
use crate::net::{AppDialer, Io, Stream};
use crate::outcome::{Failure, Outcome};
use crate::worker::PerWorker;

/// Pools per worker. An application has few ports; what asks for more is a scanner.
const MAX_POOLS: usize = 1_024;
/// The oldest idle connection that a request takes which must not be sent twice.
const FRESH_ENOUGH: Duration = Duration::from_millis(500);

/// The pools of all workers.
type Pools = PerWorker<Mutex<HashMap<(SocketAddr, Version), AppPool>>>;

/// Connections to the application.
pub(crate) struct Apps {
    dialer: AppDialer,
    bounds: Arc<Bounds>,
    pools: Arc<Pools>,
    keep_case: bool,
    pools_dropped: Counter,
    floods: FloodBounds,
}

#[derive(Clone)]
enum AppPool {
    Http1(H1Pool<AppConnector>),
    Http2(H2Pool<AppConnector>),
}

struct AppConnector {
    dialer: AppDialer,
    bounds: Arc<Bounds>,
    address: SocketAddr,
    floods: FloodBounds,
}

impl Apps {
    /// No pool yet. `keep_case`: names of HTTP/1 headers are written as they were spelled.
    /// `pools_dropped` counts that there were too many; `floods` is what is borne of an application.
    pub(crate) fn new(
        dialer: AppDialer,
        bounds: Arc<Bounds>,
        keep_case: bool,
        pools_dropped: Counter,
        floods: FloodBounds,
    ) -> Self {
        let pools: Arc<Pools> = Arc::new(PerWorker::new(bounds.workers(), |_| Mutex::default()));
        let idle = Arc::downgrade(&pools);
        let reclaim = move || idle.upgrade().is_some_and(|pools| close_idle(&pools));
        bounds.dials.reclaim_with(reclaim);
        Self {
            dialer,
            bounds,
            pools,
            keep_case,
            pools_dropped,
            floods,
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
        request: &mut Outgoing<'_>,
    ) -> Result<Response<UpstreamBody>, TryError> {
        let pool = self.pool(address, version);
        let has_body = request.has_body();
        if has_body || version == Version::Http2 || !is_idempotent(&request.head().method) {
            let options = SendOptions {
                max_idle_age: Some(FRESH_ENOUGH),
                probe_before_write: true,
                ..SendOptions::default()
            };
            if has_body || version == Version::Http1 {
                return pool.send(request, &options).await;
            }
            return send_until_taken(&pool, request, &options).await;
        }
        let kept = pool.takes_heads().then(|| KeptHead::of(request.head()));
        match pool.send(request, &SendOptions::default()).await {
            Err(TryError {
                reused: true,
                failure,
                request: whole,
                ..
            }) if failure.outcome == Outcome::Reset => {
                let again = kept.map(|kept| kept.request(RequestBody::Empty));
                // Else it is still there.
                if let Some(again) = again.or(whole.map(|whole| *whole)) {
                    *request = Outgoing::new(again);
                }
                let fresh = SendOptions {
                    max_idle_age: Some(Duration::ZERO),
                    ..SendOptions::default()
                };
                pool.send(request, &fresh).await
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
                bounds: Arc::clone(&self.bounds),
                address,
                floods: self.floods.clone(),
            };
            let limits = &self.bounds.limits;
            let most = limits.endpoint_connections_of(self.bounds.workers());
            let options = PoolOptions {
                keep_case: self.keep_case,
                ..PoolOptions::PLAIN.of(most)
            };
            match version {
                Version::Http1 => AppPool::Http1(H1Pool::new(connector, options)),
                Version::Http2 => AppPool::Http2(H2Pool::new(connector, options)),
            }
        });
        pool.clone()
    }
}

/// Closes an idle connection of some worker; false where there is none.
fn close_idle(pools: &Pools) -> bool {
    pools.all().iter().any(|pools| {
        let pools: Vec<AppPool> = pools.lock().values().cloned().collect();
        pools.iter().any(AppPool::close_idle)
    })
}

/// Sends a request without a body, more than once only while it is [left out](TryError::left_out).
async fn send_until_taken(
    pool: &AppPool,
    request: &mut Outgoing<'_>,
    options: &SendOptions,
) -> Result<Response<UpstreamBody>, TryError> {
    let kept = KeptHead::of(request.head());
    let mut replaced = 0;
    loop {
        match pool.send(request, options).await {
            Err(error) if error.left_out() && replaced < MAX_REPLACEMENTS => {
                replaced += 1;
                *request = Outgoing::new(kept.request(RequestBody::Empty));
            }
            result => return result,
        }
    }
}

impl AppPool {
    /// Whether a request's head is gone once it was sent.
    fn takes_heads(&self) -> bool {
        match self {
            Self::Http1(pool) => pool.takes_heads(),
            Self::Http2(_) => true,
        }
    }

    fn close_idle(&self) -> bool {
        match self {
            Self::Http1(pool) => pool.close_idle(),
            Self::Http2(pool) => pool.close_idle(),
        }
    }

    fn send<'a>(
        &'a self,
        request: &'a mut Outgoing<'_>,
        options: &'a SendOptions,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, TryError>> + Send {
        match self {
            Self::Http1(pool) => Either::Left(pool.send_from(request, options)),
            Self::Http2(pool) => Either::Right(pool.send_from(request, options)),
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

    fn bounds(&self) -> Arc<Bounds> {
        Arc::clone(&self.bounds)
    }

    fn floods(&self) -> FloodBounds {
        self.floods.clone()
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
