//! What a sidecar answers when it is asked for its traffic; `weft stat` reads the same types.
//!
//! In JSON, one place with one row takes about 400 bytes where names are 40 long. What a later version
//! adds is ignored by an earlier one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::telemetry::{BOUNDS_MICROS, HistogramSnapshot, OVERFLOW};

/// Rows of requests, and of connections of bytes, that one answer has; what is less busy is summed.
pub const MAX_ROWS: usize = 500;

/// One sidecar's traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Another one after each start.
    pub run: u64,
    /// Who the sidecar proves to be, as `namespace/service-account`; empty before its first certificate.
    pub identity: String,
    /// Since it started.
    pub up_seconds: f64,
    /// What the counts are of: the last so many seconds.
    pub seconds: f64,
    /// Requests, the busiest first.
    pub places: Vec<Place>,
    /// Connections of bytes, the busiest first.
    pub tcp: Vec<Tcp>,
}

/// Requests that came or went one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// `inbound` or `outbound`, seen from the workload.
    pub direction: Cow<'static, str>,
    /// The service that the client addressed, as `namespace/name:port`.
    pub service: String,
    /// The route's name.
    pub route: String,
    /// The service that the requests went to, as `namespace/name:port`.
    pub backend: String,
    /// Tries that were made beyond the first one of a request.
    pub retries: u64,
    /// How long they took, over all rows; `None` where nobody kept it.
    pub latency: Option<Latency>,
    /// By the other side.
    pub rows: Vec<Row>,
}

/// Durations, in the buckets of `weft_request_duration_seconds`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Not cumulated; the last is everything over the last bound.
    pub buckets: [u64; BOUNDS_MICROS.len() + 1],
    /// All of them together.
    pub sum_micros: u64,
}

/// Requests with one other side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The other side, as `namespace/service-account`; `unknown` without a verified identity.
    pub peer: String,
    /// `mutual`, `none` or `local`.
    pub tls: Cow<'static, str>,
    /// By outcome and class of status.
    pub counts: Vec<Count>,
}

/// Requests that ended alike: outcome, class of status (`2xx`), how many, and how many of them failed.
/// A failure is what the dashboards take for one: a 5xx, or gRPC's UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
/// UNAVAILABLE or DATA_LOSS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count(
    pub Cow<'static, str>,
    pub Cow<'static, str>,
    pub u64,
    pub u64,
);

/// Connections of bytes with one other side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    /// `inbound` or `outbound`, seen from the workload.
    pub direction: Cow<'static, str>,
    /// The service that the client addressed, as `namespace/name:port`.
    pub service: String,
    /// The service that they went to, as `namespace/name:port`.
    pub backend: String,
    /// The other side, as `namespace/service-account`; `unknown` without a verified identity.
    pub peer: String,
    /// `mutual`, `none` or `local`.
    pub tls: Cow<'static, str>,
    /// Open at this moment.
    pub open: u64,
    /// Bytes that came from the side that opened them.
    pub read: u64,
    /// Bytes that went to it.
    pub written: u64,
    /// How many ended, by outcome.
    pub ended: BTreeMap<Cow<'static, str>, u64>,
}

impl Summary {
    /// Sorts by how busy, and sums what is beyond [`MAX_ROWS`] in places called `overflow`, one for
    /// each direction (and protection, of connections).
    pub(super) fn bound(&mut self) {
        self.places
            .sort_by_key(|it| std::cmp::Reverse(it.requests()));
        let mut rows = 0;
        let fits = self.places.iter().take_while(|place| {
            rows += place.rows.len();
            rows <= MAX_ROWS
        });
        let mut rest: BTreeMap<_, Place> = BTreeMap::new();
        for place in self.places.split_off(fits.count()) {
            let sum = rest.entry(place.direction.clone()).or_default();
            sum.swallow(place);
        }
        self.places.extend(rest.into_values());

        self.tcp
            .sort_by_key(|it| std::cmp::Reverse(it.connections()));
        let mut rest: BTreeMap<_, Tcp> = BTreeMap::new();
        for tcp in self.tcp.split_off(self.tcp.len().min(MAX_ROWS)) {
            let sum = rest.entry((tcp.direction.clone(), tcp.tls.clone()));
            sum.or_default().swallow(tcp);
        }
        self.tcp.extend(rest.into_values());
    }
}

impl Place {
    /// Requests of all rows.
    pub fn requests(&self) -> u64 {
        self.rows.iter().map(Row::requests).sum()
    }

    /// Adds another one, whose names are lost.
    fn swallow(&mut self, other: Self) {
        self.direction = other.direction;
        for name in [&mut self.service, &mut self.route, &mut self.backend] {
            OVERFLOW.clone_into(name);
        }
        self.retries += other.retries;
        if let Some(latency) = other.latency {
            self.latency.get_or_insert_default().add(&latency);
        }
        for row in other.rows {
            let known = self.rows.iter_mut().find(|it| it.tls == row.tls);
            match known {
                Some(known) => row.counts.into_iter().for_each(|it| known.add(it)),
                None => self.rows.push(Row {
                    peer: OVERFLOW.to_owned(),
                    ..row
                }),
            }
        }
    }
}

impl Latency {
    /// Adds other durations.
    pub fn add(&mut self, other: &Self) {
        for (all, one) in self.buckets.iter_mut().zip(other.buckets) {
            *all += one;
        }
        self.sum_micros += other.sum_micros;
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl From<HistogramSnapshot> for Latency {
    fn from(snapshot: HistogramSnapshot) -> Self {
        Self {
            buckets: snapshot.buckets,
            sum_micros: snapshot.sum_micros,
        }
    }
}

impl Row {
    /// All of them.
    pub fn requests(&self) -> u64 {
        self.counts.iter().map(|count| count.2).sum()
    }

    /// Adds requests that ended alike.
    pub(super) fn add(&mut self, count: Count) {
        let known = self.counts.iter_mut();
        let known = known.rev().find(|it| it.0 == count.0 && it.1 == count.1);
        match known {
            Some(known) => {
                known.2 += count.2;
                known.3 += count.3;
            }
            None => self.counts.push(count),
        }
    }
}

impl Tcp {
    /// Connections that ended, and those that are open.
    pub fn connections(&self) -> u64 {
        self.open + self.ended.values().sum::<u64>()
    }

    /// Adds another one, whose names are lost.
    fn swallow(&mut self, other: Self) {
        for name in [&mut self.service, &mut self.backend, &mut self.peer] {
            OVERFLOW.clone_into(name);
        }
        (self.direction, self.tls) = (other.direction.clone(), other.tls.clone());
        self.add(other);
    }

    /// Adds the counts of another one.
    pub(super) fn add(&mut self, other: Self) {
        self.open += other.open;
        self.read += other.read;
        self.written += other.written;
        for (outcome, count) in other.ended {
            *self.ended.entry(outcome).or_default() += count;
        }
    }
}
