//! Counting opaque connections and their bytes.

use std::sync::Arc;

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
    ended: Table<Outcome, Counter>,
    open: Gauge,
    read: Counter,
    written: Counter,
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
            telemetry,
            labels,
        }
    }

    /// A connection has been opened. It counts as `reset` unless its end is told.
    pub fn open(self: &Arc<Self>) -> TcpConnection {
        self.open.increment(1.0);
        TcpConnection {
            scope: Arc::clone(self),
            outcome: Outcome::Reset,
        }
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
                (
                    outcome,
                    recorder.counter(&families::TCP_CONNECTIONS, labels),
                )
            },
            |counter| counter.increment(1),
        );
    }
}

impl TcpConnection {
    /// Bytes came from the peer that opened the connection.
    pub fn read(&self, bytes: u64) {
        self.scope.read.increment(bytes);
    }

    /// Bytes went to the peer that opened the connection.
    pub fn wrote(&self, bytes: u64) {
        self.scope.written.increment(bytes);
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
    }
}
