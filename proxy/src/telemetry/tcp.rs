//! Counting opaque connections and their bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge};

use super::labels::Tls;
use super::table::Table;
use super::{Telemetry, families};
use crate::outcome::{Origin, Outcome};

/// The labels of a TCP scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpLabels {
    /// Seen from the workload.
    pub direction: Origin,
    /// The service that the client addressed, as `namespace/name:port`.
    pub service: Arc<str>,
    /// The service that the connection went to, as `namespace/name:port`.
    pub backend: Arc<str>,
    /// The other side, as `namespace/service-account`; `unknown` without a verified identity.
    pub peer: Arc<str>,
    /// How the bytes were protected on the mesh's side.
    pub tls: Tls,
    /// The host that the client asked for by TLS of the application's own, lower case.
    pub sni: Option<Arc<str>>,
}

/// Counts the opaque connections of one set of labels. Shared by all workers.
pub struct TcpScope {
    telemetry: Arc<Telemetry>,
    labels: TcpLabels,
    ended: Table<Outcome, Ended>,
    open: Gauge,
    read: Counter,
    written: Counter,
    /// The same of this scope alone: scopes that differ in `tls` and `sni` share the metrics'.
    open_now: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// Connections that ended alike.
#[derive(Clone)]
struct Ended {
    outcome: Outcome,
    /// The metric's.
    count: Arc<AtomicU64>,
}

/// One open connection. Counted as open until it is dropped.
pub struct TcpConnection {
    scope: Arc<TcpScope>,
    outcome: Outcome,
}

impl TcpScope {
    pub(super) fn new(telemetry: Arc<Telemetry>, labels: TcpLabels) -> Self {
        let bytes = |family| {
            telemetry.recorder.counter(
                family,
                &[
                    ("direction", labels.direction.as_str()),
                    ("workload", &telemetry.process.workload),
                    ("namespace", &telemetry.process.namespace),
                    ("service", &labels.service),
                    ("backend", &labels.backend),
                    ("peer", &labels.peer),
                ],
            )
        };
        Self {
            open: telemetry.recorder.gauge(
                &families::TCP_OPEN,
                &[("direction", labels.direction.as_str())],
            ),
            read: bytes(&families::TCP_READ),
            written: bytes(&families::TCP_WRITE),
            ended: Table::new(Outcome::ALL.len()),
            open_now: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            telemetry,
            labels,
        }
    }

    /// A connection has been opened. It counts as `reset` unless its end is told.
    pub fn open(self: &Arc<Self>) -> TcpConnection {
        self.open.increment(1.0);
        self.open_now.fetch_add(1, Ordering::Relaxed);
        TcpConnection {
            scope: Arc::clone(self),
            outcome: Outcome::Reset,
        }
    }

    /// The labels that connections are counted under.
    pub(super) fn labels(&self) -> &TcpLabels {
        &self.labels
    }

    /// Connections that are open.
    pub(super) fn open_now(&self) -> u64 {
        self.open_now.load(Ordering::Relaxed)
    }

    /// Bytes that were read and written.
    pub(super) fn bytes(&self) -> [u64; 2] {
        [&self.bytes_read, &self.bytes_written].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// What ended for the first time after so many other outcomes, in that order.
    pub(super) fn ended_from(&self, seen: usize) -> Vec<(Outcome, Arc<AtomicU64>)> {
        let ended = self.ended.values_from(seen).into_iter();
        ended.map(|ended| (ended.outcome, ended.count)).collect()
    }

    fn ended(&self, outcome: Outcome) {
        self.ended.with(
            |known| *known == outcome,
            |_| {
                let labels = [
                    ("direction", self.labels.direction.as_str()),
                    ("workload", &self.telemetry.process.workload),
                    ("namespace", &self.telemetry.process.namespace),
                    ("service", &self.labels.service),
                    ("backend", &self.labels.backend),
                    ("peer", &self.labels.peer),
                    ("outcome", outcome.as_str()),
                    ("tls", self.labels.tls.as_str()),
                    // Left out where there is none.
                    ("sni", self.labels.sni.as_deref().unwrap_or_default()),
                ];
                let labels = match self.labels.sni {
                    Some(_) => &labels[..],
                    None => &labels[..labels.len() - 1],
                };
                let recorder = &self.telemetry.recorder;
                let ended = Ended {
                    outcome,
                    count: recorder.number(&families::TCP_CONNECTIONS, labels, None),
                };
                (outcome, ended)
            },
            |ended| {
                ended.count.fetch_add(1, Ordering::Relaxed);
            },
        );
    }
}

impl TcpConnection {
    /// Bytes came from the peer that opened the connection.
    pub fn read(&self, bytes: u64) {
        self.scope.read.increment(bytes);
        self.scope.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes went to the peer that opened the connection.
    pub fn wrote(&self, bytes: u64) {
        self.scope.written.increment(bytes);
        let written = &self.scope.bytes_written;
        written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The connection is over.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.scope.open.decrement(1.0);
        self.scope.ended(self.outcome);
        self.scope.open_now.fetch_sub(1, Ordering::Relaxed);
    }
}
