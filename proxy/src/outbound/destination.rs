//! What intercepted destinations mean, compiled for use.
//!
//! Discovery says what a destination means; this keeps the compiled form of it up to date. A
//! request works with one [`Service`] from beginning to end; an update replaces the whole, while
//! [backends](super::backend) and their endpoints live on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::RwLock;

use super::Shared;
use super::backend::{Backend, Backends};
use crate::discovery::Watched;
use crate::exchange::Account;
use crate::inbound::UNKNOWN;
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::{EndpointTarget, OutboundTarget, ServiceRef, ServiceTarget};
use crate::resilience::split;
use crate::telemetry::{MirrorCounters, PeerScopes, RetryCounters, Tls};

/// Destinations that are remembered; beyond, those that nobody uses are forgotten.
const MAX_DESTINATIONS: usize = 10_000;

/// All destinations that were asked for, by address and by authority.
pub(crate) struct Destinations {
    shared: Arc<Shared>,
    backends: Backends,
    by_address: RwLock<HashMap<SocketAddr, Arc<Destination>>>,
    by_authority: RwLock<HashMap<Box<str>, Arc<Destination>>>,
}

/// One destination.
pub(crate) struct Destination {
    watched: Watched<OutboundTarget>,
    current: ArcSwapOption<Target>,
    server_speaks_first: AtomicBool,
}

/// What a destination means now.
pub(crate) enum Target {
    /// One workload's own address.
    Endpoint {
        /// Its policy, with this endpoint as the only one.
        service: Arc<Service>,
        /// Authorities that mean a service which it backs.
        aliases: Vec<(ServiceRef, Vec<Box<str>>)>,
    },
    /// Nothing that the mesh knows: passes as it is.
    NotFound,
    /// A service.
    Service(Arc<Service>),
}

/// A service port, compiled.
pub(crate) struct Service {
    /// `namespace/name:port`.
    pub(crate) label: Arc<str>,
    /// What discovery said.
    pub(crate) target: Arc<ServiceTarget>,
    /// As in the target.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// As in the target.
    routes: Vec<RouteScopes>,
    /// For what fails before it has a route.
    unrouted: Arc<PeerScopes>,
    unknown_peer: Arc<str>,
}

/// A route's metrics.
struct RouteScopes {
    /// For what fails before it has a backend.
    unsplit: Arc<PeerScopes>,
    /// As in the target's backends.
    backends: Vec<(Arc<PeerScopes>, RetryCounters)>,
    mirror: Option<MirrorCounters>,
}

impl Destinations {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            backends: Backends::new(Arc::clone(&shared)),
            shared,
            by_address: RwLock::default(),
            by_authority: RwLock::default(),
        })
    }

    /// The destination at `address`. The first call asks discovery for it.
    pub(crate) fn at(self: &Arc<Self>, address: SocketAddr) -> Arc<Destination> {
        if let Some(known) = self.by_address.read().get(&address) {
            return Arc::clone(known);
        }
        self.learn(&self.by_address, address, || {
            self.shared.discovery.outbound(address)
        })
    }

    /// The destination that an authority means.
    pub(crate) fn named(self: &Arc<Self>, authority: &str) -> Arc<Destination> {
        if let Some(known) = self.by_authority.read().get(authority) {
            return Arc::clone(known);
        }
        self.learn(&self.by_authority, authority.into(), || {
            self.shared.discovery.authority(authority)
        })
    }

    /// All backends, for people and metrics.
    pub(crate) fn backends(&self) -> &Backends {
        &self.backends
    }

    fn learn<K: Eq + std::hash::Hash>(
        self: &Arc<Self>,
        map: &RwLock<HashMap<K, Arc<Destination>>>,
        key: K,
        watch: impl FnOnce() -> Watched<OutboundTarget>,
    ) -> Arc<Destination> {
        let mut map = map.write();
        if let Some(known) = map.get(&key) {
            return Arc::clone(known);
        }
        if map.len() >= MAX_DESTINATIONS {
            self.shared.limits.destinations.increment(1);
            map.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        let destination = Arc::new(Destination {
            watched: watch(),
            current: ArcSwapOption::empty(),
            server_speaks_first: AtomicBool::new(false),
        });
        let weak: Weak<Destination> = Arc::downgrade(&destination);
        let destinations = Arc::downgrade(self);
        destination.watched.on_change(Box::new(move |target| {
            if let (Some(destination), Some(destinations)) =
                (weak.upgrade(), destinations.upgrade())
            {
                destination
                    .current
                    .store(Some(Arc::new(destinations.compile(target))));
            }
        }));
        map.insert(key, Arc::clone(&destination));
        destination
    }

    fn compile(&self, target: &OutboundTarget) -> Target {
        match target {
            OutboundTarget::Endpoint(endpoint) => Target::Endpoint {
                service: Arc::new(self.compile_endpoint(endpoint)),
                aliases: endpoint.aliases.clone(),
            },
            OutboundTarget::NotFound => Target::NotFound,
            OutboundTarget::Service(service) => {
                let backends = service.backends.iter();
                let backends =
                    backends.map(|policy| self.backends.of_service(&service.service, policy));
                Target::Service(Arc::new(self.compile_service(service, backends.collect())))
            }
        }
    }

    /// The policy of a workload's address: all its backends are this endpoint alone.
    fn compile_endpoint(&self, target: &EndpointTarget) -> Service {
        let backends = target.policy.backends.iter();
        let backends = backends.map(|policy| self.backends.of_endpoint(&target.endpoint, policy));
        self.compile_service(&target.policy, backends.collect())
    }

    fn compile_service(&self, target: &Arc<ServiceTarget>, backends: Vec<Arc<Backend>>) -> Service {
        let telemetry = &self.shared.telemetry;
        let label: Arc<str> = target.service.to_string().into();
        let scopes = |route: &Arc<str>, backend: &Arc<str>| {
            Arc::new(PeerScopes::new(
                Arc::clone(telemetry),
                Origin::Outbound,
                Arc::clone(&label),
                Arc::clone(route),
                Arc::clone(backend),
            ))
        };
        let none: Arc<str> = "".into();
        let routes = target.routes.iter().map(|route| RouteScopes {
            unsplit: scopes(&route.name, &none),
            backends: backends
                .iter()
                .map(|backend| {
                    let retries = telemetry.retry_counters(&label, &route.name, &backend.label);
                    (scopes(&route.name, &backend.label), retries)
                })
                .collect(),
            mirror: route
                .split
                .mirror
                .map(|mirror| telemetry.mirror_counters(&label, &backends[mirror.backend].label)),
        });
        Service {
            routes: routes.collect(),
            unrouted: scopes(&none, &none),
            unknown_peer: UNKNOWN.into(),
            target: Arc::clone(target),
            backends,
            label,
        }
    }
}

impl Destination {
    /// What it means now; `None` before discovery has said so.
    pub(crate) fn target(&self) -> Option<Arc<Target>> {
        self.current.load_full()
    }

    /// What it means, waiting for discovery where it has not said so yet.
    pub(crate) async fn known(&self, within: std::time::Duration) -> Result<Arc<Target>, Failure> {
        if let Some(target) = self.target() {
            return Ok(target);
        }
        let told = self.watched.ready(within).await;
        // The listener that compiles is told before anybody who waits.
        told.and_then(|_| self.target()).ok_or_else(|| {
            Failure::never(
                Outcome::ConfigUnavailable,
                "nothing is known of this destination and the control plane cannot be asked",
            )
        })
    }

    /// Whether a server was seen to speak first here.
    pub(crate) fn server_speaks_first(&self) -> bool {
        self.server_speaks_first.load(Ordering::Relaxed)
    }

    /// The server spoke first.
    pub(crate) fn remember_server_first(&self) {
        self.server_speaks_first.store(true, Ordering::Relaxed);
    }
}

impl Service {
    /// What a request is counted under before it has a route.
    pub(crate) fn account(&self) -> Account {
        self.account_of(&self.unrouted)
    }

    /// What a request is counted under before it has a backend.
    pub(crate) fn route_account(&self, route: usize) -> Account {
        self.account_of(&self.routes[route].unsplit)
    }

    /// The metrics of a route's requests to a backend.
    pub(crate) fn backend_scopes(&self, route: usize, backend: usize) -> &Arc<PeerScopes> {
        &self.routes[route].backends[backend].0
    }

    /// The counters of a route's retries to a backend.
    pub(crate) fn retry_counters(&self, route: usize, backend: usize) -> &RetryCounters {
        &self.routes[route].backends[backend].1
    }

    /// The counters of the copies of a route's requests.
    pub(crate) fn mirror_counters(&self, route: usize) -> Option<&MirrorCounters> {
        self.routes[route].mirror.as_ref()
    }

    /// The backend of a connection that is bytes to us: by weight, of the target's own split for bytes,
    /// else of the last route, which matches everything.
    pub(crate) fn backend_for_bytes(&self) -> Result<Arc<Backend>, Failure> {
        let no_route = || Failure::never(Outcome::NoRoute, "the destination has no route");
        let of_last = || self.target.routes.last().map(|route| &route.split);
        let split = self.target.bytes.as_ref().or_else(of_last);
        let split = split.ok_or_else(no_route)?;
        let side = split::choose(&split.backends, fastrand::u64(..)).ok_or_else(|| {
            Failure::never(
                Outcome::NoEndpoints,
                "every backend of this split has weight 0",
            )
        })?;
        let side = &split.backends[side];
        if side.unusable.is_some() {
            return Err(no_route());
        }
        Ok(Arc::clone(&self.backends[side.backend]))
    }

    fn account_of(&self, scopes: &Arc<PeerScopes>) -> Account {
        Account {
            scopes: Arc::clone(scopes),
            peer: Arc::clone(&self.unknown_peer),
            tls: Tls::None,
        }
    }
}
