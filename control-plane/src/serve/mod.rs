//! The gRPC services and their streams, on one TLS listener, and the admin listener beside it.
//!
//! * `connection`: TLS, who is there, which service.
//! * `certify`: token and request in, certificate out.
//! * `discovery`: one stream from hello to end; `session` is its bookkeeping.
//! * `memo`: what is compiled and encoded, once for all streams.
//! * [`counts`]: how many sidecars run which policy.
//! * [`edges`]: who called whom, as sidecars report.
//! * [`replicas`]: the same over all replicas, and who is connected to which.
//! * [`streams`]: who is connected, what they acknowledged; commands to them.
//! * [`admin`]: health, metrics, status.
//!
//! A model is needed to begin: nothing is served before the source has synced once. When the process
//! is told to end, streams end with UNAVAILABLE, and their sidecars keep what they have.

pub mod admin;
mod certify;
mod codec;
mod connection;
pub mod counts;
mod discovery;
pub mod edges;
mod memo;
mod metrics;
pub mod replicas;
mod session;
pub mod streams;
mod tls;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::metrics::Metrics;
pub use self::tls::TlsError;

use self::certify::Certifier;
use self::connection::Services;
use self::discovery::Discovery;
use self::memo::Memo;
use self::replicas::{Exchange, Place, Replicas};
use self::streams::Streams;
use crate::identity::{Authority, TokenReviewer};
use crate::index::Model;

/// How long a discovery stream lives, give or take a fifth.
pub const DEFAULT_STREAM_LIFE: Duration = Duration::from_secs(30 * 60);

const MAX_CONNECTIONS: usize = 12_000;
/// After an accept that failed, for want of descriptors as a rule.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// How long streams and connections may take to end when the process does.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(700);
/// Renewing the own certificate: at least this far apart, and so soon again after a failure.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// The gRPC server.
pub struct Server {
    authority: Arc<Authority>,
    models: watch::Receiver<Arc<Model>>,
    metrics: Arc<Metrics>,
    services: Arc<Services>,
    replicas: Arc<Replicas>,
    tls: Arc<ArcSwap<ServerConfig>>,
    renew_after: Duration,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Server {
    /// Puts the services together. Fails where the control plane cannot certify itself.
    pub fn new(
        authority: Arc<Authority>,
        reviewer: Arc<dyn TokenReviewer>,
        models: watch::Receiver<Arc<Model>>,
        streams: Arc<Streams>,
        metrics: Arc<Metrics>,
        stream_life: Duration,
    ) -> Result<Self, TlsError> {
        let (config, renew_after) = tls::server_config(&authority)?;
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let certifier = Certifier {
            authority: authority.clone(),
            reviewer,
            models: models.clone(),
            metrics: metrics.clone(),
        };
        let memo = Arc::new(Memo::new(models.clone(), authority.bundle()));
        let replicas = Arc::new(Replicas::new(
            authority.clone(),
            models.clone(),
            memo.clone(),
            streams.clone(),
            metrics.clone(),
            tasks.clone(),
            shutdown.clone(),
        ));
        let discovery = Discovery {
            memo,
            models: models.clone(),
            bundle: authority.bundle(),
            streams,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            stream_life,
        };
        let services = Services {
            certifier: Arc::new(certifier),
            discovery,
            exchange: Arc::new(Exchange {
                replicas: replicas.clone(),
            }),
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            authority,
            models,
            metrics,
            services: Arc::new(services),
            replicas,
            tls: Arc::new(ArcSwap::new(config)),
            renew_after,
            tasks,
            shutdown,
        })
    }

    /// Makes it one of several replicas.
    pub fn among(self, place: Place) -> Self {
        self.replicas.take_place(place);
        self
    }

    /// Who is connected to this replica and others, and how many sidecars run which policy.
    pub fn replicas(&self) -> Arc<Replicas> {
        self.replicas.clone()
    }

    /// Serves until `end`, and then for less than a second to end streams properly.
    pub async fn run(self, listener: TcpListener, end: CancellationToken) {
        tokio::select! {
            () = self.accept(&listener) => {}
            () = self.renew() => {}
            () = self.measure() => {}
            () = self.replicas.run() => {}
            () = end.cancelled() => {}
        }
        drop(listener);
        self.shutdown.cancel();
        self.tasks.close();
        // Who has not ended by then is cut off with the process.
        let _ = timeout(SHUTDOWN_GRACE, self.tasks.wait()).await;
    }

    async fn accept(&self, listener: &TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let (tcp, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.metrics.connections_over_limit.increment(1);
                continue;
            };
            // Latency only: a connection without it works.
            let _ = tcp.set_nodelay(true);
            let (config, services) = (self.tls.load_full(), self.services.clone());
            self.tasks.spawn(async move {
                connection::serve(tcp, address, config, services).await;
                drop(place);
            });
        }
    }

    /// Renews the own certificate at half its life, and together with the client verifier whenever the
    /// authority signs with another issuer or trusts other roots.
    async fn renew(&self) {
        let mut authority = self.authority.changes();
        let mut pause = self.renew_after;
        loop {
            tokio::select! {
                () = sleep(pause.max(MIN_RENEWAL_INTERVAL)) => {}
                Ok(()) = authority.changed() => {}
            }
            match tls::server_config(&self.authority) {
                Ok((config, renew_after)) => {
                    self.tls.store(config);
                    pause = renew_after;
                }
                Err(error) => {
                    tracing::error!(%error, "renewing the own certificate failed");
                    pause = MIN_RENEWAL_INTERVAL;
                }
            }
        }
    }

    /// Keeps the model's gauges.
    async fn measure(&self) {
        let mut models = self.models.clone();
        loop {
            let model = models.borrow_and_update().clone();
            self.metrics.model_revision.set(model.revision() as f64);
            self.metrics
                .objects_refused
                .set(model.refusals().len() as f64);
            if model.trust_domain() != self.authority.trust_domain() {
                tracing::error!(
                    configured = model.trust_domain(),
                    in_force = self.authority.trust_domain(),
                    "the trust domain cannot change while the authority lives",
                );
            }
            if models.changed().await.is_err() {
                // The source has ended with the process; what is served stays as it is.
                std::future::pending::<()>().await;
            }
        }
    }
}
