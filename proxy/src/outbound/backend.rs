//! Backends: a service port as the destination of routes, with its endpoints and their state.
//!
//! A backend outlives every update: policy and endpoint set are replaced inside it, while breakers,
//! budget, latencies and warm connections stay. There is one per (service addressed, service behind
//! the route), because the breaker's policy may come from either.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::mirror::Slots;
use super::{DISCOVERY_WAIT, Shared};
use crate::discovery::Watched;
use crate::outcome::{Failure, Outcome};
use crate::policy::{BackendPolicy, EndpointInfo, HashKey, ServiceRef};
use crate::resilience::attempt::{TryResult, TryVerdict};
use crate::resilience::balance::{self, PickKind, PickRequest, ProbeEligibility};
use crate::resilience::budget::Budget;
use crate::resilience::group::{BackendPermit, Group};
use crate::resilience::health::Permit;
use crate::resilience::layout::Layout;
use crate::resilience::limits::Place;
use crate::resilience::{cookie, ring};

/// Backends that are remembered; beyond, those that no service uses any more are forgotten.
const MAX_BACKENDS: usize = 10_000;

/// All backends.
pub(crate) struct Backends {
    shared: Arc<Shared>,
    known: Mutex<HashMap<Key, Arc<Backend>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The service that clients address; the endpoint's address where they dial that.
    owner: Owner,
    service: ServiceRef,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Owner {
    Address(SocketAddr),
    Service(ServiceRef),
}

/// One backend.
pub(crate) struct Backend {
    /// `namespace/name:port`.
    pub(crate) label: Arc<str>,
    /// Whose routes lead here: a service as above, or an endpoint's address.
    pub(crate) owner: Arc<str>,
    /// What retrying may cost.
    pub(crate) budget: Budget,
    /// Breakers and balancing.
    pub(crate) group: Arc<Group>,
    /// Copies of requests that are on their way here.
    pub(crate) copies: Slots,
    policy: ArcSwap<BackendPolicy>,
    /// The connect timeout in microseconds, as endpoints read it.
    connect_limit: Arc<AtomicU64>,
    /// What discovery says of the endpoints; kept so that the subscription lives.
    watched: Watched<Vec<EndpointInfo>>,
    /// `None` before discovery has said anything.
    endpoints: ArcSwapOption<EndpointSet>,
    /// Held while the set is replaced, so that policy and discovery do not undo each other's.
    replacing: Mutex<()>,
    /// Where on every ring what comes from this workload is.
    source: u64,
}

/// The endpoints of a backend, arranged as its policy wants them.
#[derive(Default)]
pub(crate) struct EndpointSet {
    list: Vec<Arc<Endpoint>>,
    layout: Layout,
}

/// What a request tells of itself, for choosing an endpoint.
pub(crate) enum Caller<'a> {
    /// A connection that is bytes to us.
    Bytes,
    /// A request with these headers.
    Headers(&'a HeaderMap),
}

/// An endpoint for one try, with the breakers' permits.
pub(crate) struct Chosen {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) kind: PickKind,
    pub(crate) permits: Permits,
}

/// The permits of one try: its endpoint's, and its backend's.
pub(crate) struct Permits {
    endpoint: Permit,
    backend: BackendPermit,
    /// Among the tries in flight, where they are capped.
    pub(crate) place: Option<Place>,
}

impl Backends {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            known: Mutex::default(),
        }
    }

    /// The backend of a route of `owner`, under `policy` from now on.
    pub(crate) fn of_service(&self, owner: &ServiceRef, policy: &BackendPolicy) -> Arc<Backend> {
        let owner = Owner::Service(owner.clone());
        self.find(owner, policy, || {
            self.shared.discovery.endpoints(&policy.service)
        })
    }

    /// The backend that is one endpoint alone.
    pub(crate) fn of_endpoint(&self, only: &EndpointInfo, policy: &BackendPolicy) -> Arc<Backend> {
        let backend = self.find(Owner::Address(only.address), policy, || {
            Watched::fixed(vec![only.clone()])
        });
        // The address may have got another identity since.
        backend.set_endpoints(std::slice::from_ref(only), &self.shared);
        backend
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Backend>> {
        self.known.lock().values().cloned().collect()
    }

    fn find(
        &self,
        owner: Owner,
        policy: &BackendPolicy,
        watch: impl FnOnce() -> Watched<Vec<EndpointInfo>>,
    ) -> Arc<Backend> {
        let key = Key {
            owner,
            service: policy.service.clone(),
        };
        let mut known = self.known.lock();
        if let Some(backend) = known.get(&key) {
            backend.set_policy(policy, &self.shared);
            return Arc::clone(backend);
        }
        if known.len() >= MAX_BACKENDS {
            self.shared.limits.backends.increment(1);
            known.retain(|_, backend| Arc::strong_count(backend) > 1);
        }
        let owner = match &key.owner {
            Owner::Address(address) => address.to_string().into(),
            Owner::Service(service) => service.to_string().into(),
        };
        let backend = Backend::new(owner, policy, watch(), &self.shared);
        // Before anybody else can have it: whoever waits for endpoints relies on being told last.
        backend.follow(&self.shared);
        known.insert(key, Arc::clone(&backend));
        backend
    }
}

impl Backend {
    fn new(
        owner: Arc<str>,
        policy: &BackendPolicy,
        watched: Watched<Vec<EndpointInfo>>,
        shared: &Shared,
    ) -> Arc<Self> {
        let now = Instant::now().into_std();
        Arc::new(Self {
            owner,
            label: policy.service.to_string().into(),
            budget: Budget::new(now),
            group: Group::new(now, policy.circuit_breaker.clone(), policy.balancer.clone()),
            connect_limit: Arc::new(AtomicU64::new(micros(policy.connect_timeout))),
            copies: Slots::default(),
            policy: ArcSwap::from_pointee(policy.clone()),
            watched,
            endpoints: ArcSwapOption::empty(),
            replacing: Mutex::default(),
            source: ring::point(shared.workload.as_bytes()),
        })
    }

    /// An endpoint for the next try: another than those in `tried`, where there is one.
    ///
    /// `circuit_open`: the backend's breaker says no, or people forced every endpoint's open.
    /// `no_endpoints`: there is none. `config_unavailable`: nobody could be asked.
    pub(crate) async fn choose(
        &self,
        caller: Caller<'_>,
        probe: ProbeEligibility,
        tried: &[Arc<Endpoint>],
        closed_only: bool,
    ) -> Result<Chosen, Failure> {
        let set = self.endpoints().await?;
        let EndpointSet {
            list: endpoints,
            layout,
        } = &*set;
        if endpoints.is_empty() {
            return Err(Failure::never(
                Outcome::NoEndpoints,
                "the backend has no endpoint",
            ));
        }
        let now = Instant::now().into_std();
        let entered = self.group.enter(now);
        let backend = entered
            .map_err(|_| Failure::never(Outcome::CircuitOpen, "the backend's breaker is open"))?;

        let position = |one: &Arc<Endpoint>| endpoints.iter().position(|e| Arc::ptr_eq(e, one));
        let tried: SmallVec<[usize; 4]> = tried.iter().filter_map(position).collect();
        let mut request = PickRequest {
            now,
            probe,
            closed_only,
            tried: &tried,
            layout,
            point: self.point(layout, &caller),
        };
        let mut rng = fastrand::Rng::new();
        let mut pick = balance::pick(&self.group, endpoints, &request, &mut rng);
        if pick.is_none() && closed_only {
            // None is closed: what there is, is better than nothing.
            request.closed_only = false;
            request.probe = ProbeEligibility::No;
            pick = balance::pick(&self.group, endpoints, &request, &mut rng);
        }
        let pick = pick.ok_or_else(|| {
            Failure::never(
                Outcome::CircuitOpen,
                "every endpoint's breaker is forced open",
            )
        })?;
        Ok(Chosen {
            endpoint: Arc::clone(&endpoints[pick.index]),
            kind: pick.kind,
            permits: Permits {
                endpoint: pick.permit,
                backend,
                place: None,
            },
        })
    }

    /// Closes an idle connection to some endpoint; false where there is none.
    pub(crate) fn close_idle(&self) -> bool {
        let endpoints = self.known_endpoints();
        endpoints.iter().any(|endpoint| endpoint.close_idle())
    }

    /// How long a connection may take to come about.
    pub(crate) fn connect_limit(&self) -> Duration {
        Duration::from_micros(self.connect_limit.load(Ordering::Relaxed))
    }

    /// Whether the backend is known to have no endpoint.
    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints
            .load()
            .as_ref()
            .is_some_and(|set| set.list.is_empty())
    }

    /// Whether discovery has said anything about its endpoints.
    pub(crate) fn is_known(&self) -> bool {
        self.endpoints.load().is_some()
    }

    /// The endpoints now; none before discovery has said anything.
    pub(crate) fn known_endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full().unwrap_or_default()
    }

    /// What the breaker makes of a try.
    pub(crate) fn verdict(&self, result: &TryResult) -> TryVerdict {
        result.verdict(self.policy.load().circuit_breaker.as_ref())
    }

    /// Where on every ring the request's key is, if the policy hashes one and the request has it.
    fn point(&self, layout: &Layout, caller: &Caller<'_>) -> Option<u64> {
        let key = match (layout.key()?, caller) {
            (HashKey::SourceIp, _) => return Some(self.source),
            (_, Caller::Bytes) => return None,
            (HashKey::Header(name), Caller::Headers(headers)) => headers.get(name)?.as_bytes(),
            (HashKey::Cookie(name), Caller::Headers(headers)) => {
                cookie::find(headers, name)?.as_bytes()
            }
        };
        // What says nothing is no key: everybody's nothing is the same.
        (!key.is_empty()).then(|| ring::point(key))
    }

    /// The endpoints, waited for where discovery has said nothing yet: `config_unavailable` where it
    /// does not in time.
    pub(crate) async fn endpoints(&self) -> Result<Arc<EndpointSet>, Failure> {
        if let Some(endpoints) = self.endpoints.load_full() {
            return Ok(endpoints);
        }
        let told = self.watched.ready(DISCOVERY_WAIT).await;
        // The listener that keeps the set is told before anybody who waits.
        told.and_then(|_| self.endpoints.load_full())
            .ok_or_else(|| {
                Failure::never(
                    Outcome::ConfigUnavailable,
                    "the endpoints are not known and the control plane cannot be asked",
                )
            })
    }

    fn set_policy(&self, policy: &BackendPolicy, shared: &Arc<Shared>) {
        let now = Instant::now().into_std();
        self.connect_limit
            .store(micros(policy.connect_timeout), Ordering::Relaxed);
        self.group
            .set_policy(now, policy.circuit_breaker.clone(), policy.balancer.clone());
        let before = self.policy.swap(Arc::new(policy.clone()));
        if before.balancer == policy.balancer {
            return;
        }
        let replacing = self.replacing.lock();
        if let Some(set) = self.endpoints.load_full() {
            let infos = set.list.iter().map(|endpoint| endpoint.info().clone());
            self.replace(infos.collect(), shared, &replacing);
        }
    }

    /// Keeps the endpoint set as discovery says.
    fn follow(self: &Arc<Self>, shared: &Arc<Shared>) {
        let backend: Weak<Self> = Arc::downgrade(self);
        let shared = Arc::clone(shared);
        self.watched.on_change(Box::new(move |infos| {
            if let Some(backend) = backend.upgrade() {
                backend.set_endpoints(infos, &shared);
            }
        }));
    }

    /// Takes a new set. What stays keeps its state and its connections.
    fn set_endpoints(&self, infos: &[EndpointInfo], shared: &Arc<Shared>) {
        let replacing = self.replacing.lock();
        self.replace(infos.to_vec(), shared, &replacing);
    }

    fn replace(
        &self,
        mut infos: Vec<EndpointInfo>,
        shared: &Arc<Shared>,
        _replacing: &MutexGuard<'_, ()>,
    ) {
        let zone = shared.zone();
        let layout = Layout::arrange(&self.policy.load().balancer, &zone, &mut infos);
        let now = Instant::now().into_std();
        let healths = self.group.set_endpoints(now, &infos);
        let before = self.known_endpoints();
        let before: HashMap<SocketAddr, &Arc<Endpoint>> = before
            .iter()
            .map(|endpoint| (endpoint.info().address, endpoint))
            .collect();
        let endpoints =
            infos
                .iter()
                .zip(healths)
                .map(|(info, health)| match before.get(&info.address) {
                    Some(known) if known.info() == info => Arc::clone(known),
                    _ => {
                        let limit = Arc::clone(&self.connect_limit);
                        let caps = Arc::clone(self.group.limits());
                        Arc::new(Endpoint::new(
                            info.clone(),
                            health,
                            limit,
                            caps,
                            &self.label,
                            shared,
                        ))
                    }
                });
        self.endpoints.store(Some(Arc::new(EndpointSet {
            list: endpoints.collect(),
            layout,
        })));
    }
}

impl EndpointSet {
    /// All of them.
    pub(crate) fn as_slice(&self) -> &[Arc<Endpoint>] {
        &self.list
    }

    /// One after the other.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Arc<Endpoint>> {
        self.list.iter()
    }
}

impl Permits {
    /// The try's result, `latency` after the endpoint was chosen.
    pub(crate) fn observe(&mut self, latency: Duration, verdict: TryVerdict) {
        let now = Instant::now().into_std();
        let mut rng = fastrand::Rng::new();
        self.backend.observe(now, verdict, &mut rng);
        if let Some(transition) = self.endpoint.observe(now, latency, verdict, &mut rng) {
            tracing::info!(
                endpoint = %self.endpoint.health().address(),
                from = transition.from.as_str(),
                to = transition.to.as_str(),
                "circuit breaker"
            );
        }
    }

    /// The response's head came; the verdict comes with its trailers.
    pub(crate) fn head_received(&mut self, latency: Duration) {
        self.endpoint
            .head_received(Instant::now().into_std(), latency);
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
