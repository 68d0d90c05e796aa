//! Counting requests: everything that can be resolved before a request comes is resolved before.
//!
//! A [`RequestScope`] holds the labels that do not change from request to request; recording in it
//! takes no lock, no `String` and no shared map. [`PeerScopes`] does the same where only the peer is
//! found out per request.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use metrics::Counter;

use super::labels::{MAX_PEERS, OTHER_PEER, OVERFLOW, Tls, method_index, method_word};
use super::table::Table;
use super::traffic::Count;
use super::{LatencyHistogram, Telemetry, families};
use crate::outcome::{Origin, Outcome};

/// Distinct (method, status, gRPC status, outcome) per scope; more are counted as `overflow`.
pub const MAX_CELLS: usize = 64;

/// The labels of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeLabels {
    /// Seen from the workload.
    pub direction: Origin,
    /// The service that the client addressed, as `namespace/name:port`.
    pub service: Arc<str>,
    /// The route's name.
    pub route: Arc<str>,
    /// The service that the request went to, as `namespace/name:port`.
    pub backend: Arc<str>,
    /// The other side, as `namespace/service-account`; `unknown` without a verified identity.
    pub peer: Arc<str>,
    /// How the bytes were protected on the mesh's side.
    pub tls: Tls,
}

/// Counts the requests of one set of labels. Shared by all workers.
pub struct RequestScope {
    telemetry: Arc<Telemetry>,
    labels: ScopeLabels,
    cells: Table<u64, Arc<Counted>>,
    latency: Option<Arc<LatencyHistogram>>,
}

/// Scopes that differ only in peer and TLS, as a route's backend has them.
pub struct PeerScopes {
    telemetry: Arc<Telemetry>,
    direction: Origin,
    service: Arc<str>,
    route: Arc<str>,
    backend: Arc<str>,
    /// By [`Tls`]; past the bound each has one more scope for all other peers.
    scopes: [Table<Arc<str>, Arc<RequestScope>>; Tls::COUNT],
}

impl RequestScope {
    pub(super) fn new(telemetry: Arc<Telemetry>, labels: ScopeLabels) -> Self {
        let latency = telemetry.recorder.histogram(
            &families::REQUEST_DURATION,
            &[
                ("direction", labels.direction.as_str()),
                ("workload", &telemetry.process.workload),
                ("namespace", &telemetry.process.namespace),
                ("service", &labels.service),
                ("route", &labels.route),
                ("backend", &labels.backend),
            ],
        );
        Self {
            telemetry,
            labels,
            cells: Table::new(MAX_CELLS),
            latency,
        }
    }

    /// Counts one request: one snapshot load, a scan of at most [`MAX_CELLS`] numbers, atomic adds;
    /// it allocates only when a combination comes for the first time. `status` is what the client got
    /// (499 where it went away first), `grpc_status` the code from header or trailer of a gRPC
    /// response.
    pub fn record(
        &self,
        method: &Method,
        status: u16,
        grpc_status: Option<u8>,
        outcome: Outcome,
        duration: Duration,
    ) {
        let cell = Cell {
            method: method_index(method),
            status,
            grpc_status,
            outcome,
        };
        let packed = cell.pack();
        self.cells.with(
            |key| *key == packed,
            |room| (packed, Arc::new(self.counted(room.then_some(cell)))),
            |counted| counted.add(),
        );
        if let Some(latency) = &self.latency {
            latency.record(duration);
        }
    }

    /// The labels that requests are counted under.
    pub fn labels(&self) -> &ScopeLabels {
        &self.labels
    }

    /// How long requests with these labels take, whoever the other side is; `None` past the bound.
    pub(super) fn latency(&self) -> Option<&Arc<LatencyHistogram>> {
        self.latency.as_ref()
    }

    /// What was counted for the first time after so many others, in that order.
    pub(super) fn counted_from(&self, seen: usize) -> Vec<Arc<Counted>> {
        self.cells.values_from(seen)
    }

    fn counted(&self, cell: Option<Cell>) -> Counted {
        Counted {
            cell,
            counter: self.counter(cell),
            count: AtomicU64::new(0),
        }
    }

    fn counter(&self, cell: Option<Cell>) -> Counter {
        if cell.is_none() {
            self.telemetry.limit("request_cells").increment(1);
        }
        let [method, status, grpc_status, outcome] = match cell {
            Some(cell) => cell.words(),
            None => [const { Cow::Borrowed(OVERFLOW) }; 4],
        };
        self.telemetry.recorder.counter(
            &families::REQUESTS,
            &[
                ("direction", self.labels.direction.as_str()),
                ("workload", &self.telemetry.process.workload),
                ("namespace", &self.telemetry.process.namespace),
                ("service", &self.labels.service),
                ("route", &self.labels.route),
                ("backend", &self.labels.backend),
                ("peer", &self.labels.peer),
                ("method", &method),
                ("status", &status),
                ("grpc_status", &grpc_status),
                ("outcome", &outcome),
                ("tls", self.labels.tls.as_str()),
            ],
        )
    }
}

impl PeerScopes {
    /// No scope yet: each is made when its peer first comes.
    pub fn new(
        telemetry: Arc<Telemetry>,
        direction: Origin,
        service: Arc<str>,
        route: Arc<str>,
        backend: Arc<str>,
    ) -> Self {
        Self {
            telemetry,
            direction,
            service,
            route,
            backend,
            scopes: std::array::from_fn(|_| Table::new(MAX_PEERS)),
        }
    }

    /// The labels `service`, `route` and `backend`.
    pub fn place(&self) -> [&Arc<str>; 3] {
        [&self.service, &self.route, &self.backend]
    }

    /// Calls `then` with the scope of this peer; past [`MAX_PEERS`] all share one.
    pub fn with<R>(&self, peer: &Arc<str>, tls: Tls, then: impl FnOnce(&RequestScope) -> R) -> R {
        self.scopes[tls as usize].with(
            |known| Arc::ptr_eq(known, peer) || known == peer,
            |room| {
                let label = if room {
                    Arc::clone(peer)
                } else {
                    OTHER_PEER.into()
                };
                let scope = self.telemetry.request_scope(ScopeLabels {
                    direction: self.direction,
                    service: Arc::clone(&self.service),
                    route: Arc::clone(&self.route),
                    backend: Arc::clone(&self.backend),
                    peer: label,
                    tls,
                });
                (Arc::clone(peer), scope)
            },
            |scope| then(scope),
        )
    }
}

/// Requests that ended alike. The metric's counter cannot be read, so that they are counted twice.
pub(super) struct Counted {
    /// `None` for those past the bound.
    cell: Option<Cell>,
    counter: Counter,
    count: AtomicU64,
}

impl Counted {
    fn add(&self) {
        self.counter.increment(1);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// So many of these. Nobody knows whether those past the bound failed.
    pub(super) fn to_summary(&self, count: u64) -> Count {
        let Some(cell) = self.cell else {
            return Count(OVERFLOW.into(), OVERFLOW.into(), count, 0);
        };
        let class = match cell.status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        };
        let failed = if cell.is_failure() { count } else { 0 };
        Count(cell.outcome.as_str().into(), class.into(), count, failed)
    }
}

/// What differs from request to request.
#[derive(Clone, Copy)]
struct Cell {
    method: u8,
    status: u16,
    grpc_status: Option<u8>,
    outcome: Outcome,
}

impl Cell {
    /// The labels `method`, `status`, `grpc_status` (empty where there is none) and `outcome`.
    fn words(self) -> [Cow<'static, str>; 4] {
        [
            method_word(self.method).into(),
            self.status.to_string().into(),
            self.grpc_status
                .map_or(Cow::Borrowed(""), |code| code.to_string().into()),
            self.outcome.as_str().into(),
        ]
    }

    /// As dashboards and alerts judge it: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and
    /// DATA_LOSS of gRPC.
    fn is_failure(self) -> bool {
        self.status / 100 == 5 || matches!(self.grpc_status, Some(2 | 4 | 13 | 14 | 15))
    }

    fn pack(self) -> u64 {
        let grpc = self.grpc_status.map_or(0, |code| 0x100 | u64::from(code));
        u64::from(self.status) << 32
            | grpc << 16
            | u64::from(self.method) << 8
            | u64::from(self.outcome as u8)
    }
}
