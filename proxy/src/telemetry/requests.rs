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

use super::labels::{MAX_PEERS, OTHER_PEER, OVERFLOW, Tls, method_index, method_word};
use super::table::Table;
use super::traffic::Count;
use super::{LabelValue, LatencyHistogram, Telemetry, families};
use crate::outcome::{Origin, Outcome};

/// Distinct (method, status, gRPC status, outcome) per scope; more are counted as `overflow`.
pub const MAX_CELLS: usize = 64;
/// The same where requests have a further label from a header.
pub const MAX_CELLS_BY_HEADER: usize = 1_024;

/// Series of requests of a process, of all scopes together; past them a scope counts what is new to it as
/// `overflow`, which is one more series for each.
pub const MAX_REQUEST_SERIES: usize = 10_000;

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
    /// By the value of the further label, where there is one.
    by_value: Option<Table<LabelValue, Option<Arc<LatencyHistogram>>>>,
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
        let has_more = telemetry.header_label.get().is_some();
        let cells = if has_more {
            MAX_CELLS_BY_HEADER
        } else {
            MAX_CELLS
        };
        Self {
            telemetry,
            labels,
            cells: Table::new(cells),
            latency,
            by_value: has_more.then(|| Table::new(MAX_CELLS_BY_HEADER)),
        }
    }

    /// Counts one request: one snapshot load, a scan of at most [`MAX_CELLS`] numbers (with a further label
    /// from a header, of [`MAX_CELLS_BY_HEADER`]), atomic adds;
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
        let value = LabelValue::default();
        self.record_of(value, method, status, grpc_status, outcome, duration);
    }

    /// The same for a request with this value of the further label.
    pub(crate) fn record_of(
        &self,
        value: LabelValue,
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
            value,
        };
        let packed = cell.pack();
        // Several threads may find the same last room: the bound is a little above what it says then.
        let series = &self.telemetry.request_series;
        self.cells.with_room(
            || series.load(Ordering::Relaxed) < MAX_REQUEST_SERIES,
            |key| *key == packed,
            |room| {
                series.fetch_add(1, Ordering::Relaxed);
                (packed, Arc::new(self.counted(room.then_some(cell))))
            },
            |counted| counted.add(),
        );
        if let Some(latency) = &self.latency {
            latency.record(duration);
        }
        if let Some(by_value) = &self.by_value {
            by_value.with(
                |known| *known == value,
                |room| (value, room.then(|| self.latency_of(value)).flatten()),
                |latency| {
                    if let Some(latency) = latency {
                        latency.record(duration);
                    }
                },
            );
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
            count: self.number(cell),
        }
    }

    fn number(&self, cell: Option<Cell>) -> Arc<AtomicU64> {
        if cell.is_none() {
            self.telemetry.limit("request_cells").increment(1);
        }
        let [method, status, grpc_status, outcome] = match cell {
            Some(cell) => cell.words(),
            None => [const { Cow::Borrowed(OVERFLOW) }; 4],
        };
        let further = self.telemetry.header_label.get().map(|label| {
            let value = match cell {
                Some(cell) => label.text(cell.value),
                None => OVERFLOW.into(),
            };
            (label.label(), value)
        });
        let further = further.as_ref().map(|(label, value)| (*label, &**value));
        self.telemetry.recorder.number(
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
            further,
        )
    }

    /// One histogram for all routes and backends of a service.
    fn latency_of(&self, value: LabelValue) -> Option<Arc<LatencyHistogram>> {
        let label = self.telemetry.header_label.get()?;
        let value = label.text(value);
        let found = self.telemetry.recorder.histogram_with(
            &families::HEADER_REQUEST_DURATION,
            &[
                ("direction", self.labels.direction.as_str()),
                ("workload", &self.telemetry.process.workload),
                ("namespace", &self.telemetry.process.namespace),
                ("service", &self.labels.service),
            ],
            Some((label.label(), &*value)),
        );
        if found.is_none() {
            self.telemetry.limit("histograms").increment(1);
        }
        found
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

    /// Where what is counted here is counted at last.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Seen from the workload.
    pub fn direction(&self) -> Origin {
        self.direction
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

/// Requests that ended alike.
pub(super) struct Counted {
    /// `None` for those past the bound.
    cell: Option<Cell>,
    /// The metric's.
    count: Arc<AtomicU64>,
}

impl Counted {
    fn add(&self) {
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
    value: LabelValue,
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
        u64::from(self.value.number()) << 48
            | u64::from(self.status) << 32
            | grpc << 16
            | u64::from(self.method) << 8
            | u64::from(self.outcome as u8)
    }
}
