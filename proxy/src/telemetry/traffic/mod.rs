//! Sums of this sidecar's traffic for people who ask: since its start, or of the last minute.
//!
//! The numbers are those of the metrics, read where they are counted: after quiescence they agree
//! exactly. A window is the difference to what was read before: everything is read every
//! [`SNAPSHOT_EVERY`] and the last [`KEPT`] readings are kept, eight bytes for each number.
//!
//! Invariants: never more readings than [`KEPT`], and no more numbers than there are labels; numbers
//! only grow, and each keeps its place in every later reading. A scope (2,000 of requests and as many
//! of connections at most) has one number for each way in which requests ended, 64 at most and few as a
//! rule; a place (service, route, backend) has 19 more. With 2,000 places and four ways each, a reading
//! is 370 KB and all seven are 2.6 MB; a sidecar with 20 places needs a hundredth of that.

mod summary;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

pub use summary::{Count, Latency, MAX_ROWS, Place, Row, Summary, Tcp};

use super::requests::Counted;
use super::{
    BOUNDS_MICROS, HistogramSnapshot, LatencyHistogram, RequestScope, TcpScope, Telemetry,
};
use crate::outcome::{Origin, Outcome};

/// How often everything is read.
pub const SNAPSHOT_EVERY: Duration = Duration::from_secs(10);
/// Readings that are kept, the newest: a whole minute.
pub const KEPT: usize = 7;

const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// What somebody wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficQuery {
    /// Only what came, or only what went.
    pub direction: Option<Origin>,
    /// Only services of this namespace.
    pub namespace: Option<String>,
    /// Only this service, as `namespace/name` or `namespace/name:port`.
    pub service: Option<String>,
    /// About the last so much time, as near as there is a reading; since the start without.
    pub window: Option<Duration>,
}

/// Handles that were made and are not read yet.
#[derive(Default)]
pub(super) struct Fresh {
    pub(super) requests: Vec<Arc<RequestScope>>,
    pub(super) tcp: Vec<Arc<TcpScope>>,
    pub(super) retries: Vec<(RetryLabels, Arc<AtomicU64>)>,
}

/// Service, route and backend of retries.
pub(super) type RetryLabels = (Arc<str>, Arc<str>, Arc<str>);

/// Everything that is read, and what was read before.
pub(super) struct Traffic {
    run: u64,
    begun: Instant,
    /// In the order of their numbers.
    readings: Vec<Reading>,
    places: Vec<PlaceLabels>,
    place_numbers: HashMap<PlaceLabels, usize>,
    /// Places whose durations are read.
    timed: Vec<bool>,
    requests: Vec<Requests>,
    tcp: Vec<Connections>,
    /// The oldest first. At the start nothing was there, which is a reading too.
    past: VecDeque<Past>,
}

/// One thing that is read.
enum Reading {
    /// The buckets of a place, and the sum.
    Latency(usize, Arc<LatencyHistogram>),
    /// Of a place.
    Retries(usize, Arc<AtomicU64>),
    /// Of one of `requests`.
    Requests(usize, Arc<Counted>),
    /// Read and written by one of `tcp`.
    Bytes(usize),
    /// Of one of `tcp`.
    Ended(usize, Outcome, Arc<AtomicU64>),
}

struct Requests {
    scope: Arc<RequestScope>,
    place: usize,
    /// Ways of ending that are read.
    seen: usize,
}

struct Connections {
    scope: Arc<TcpScope>,
    /// Outcomes that are read.
    seen: usize,
}

struct Past {
    at: Instant,
    numbers: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct PlaceLabels {
    direction: Origin,
    service: Arc<str>,
    route: Arc<str>,
    backend: Arc<str>,
}

/// Reads everything from time to time, for as long as it is polled.
pub async fn watch(telemetry: Arc<Telemetry>) {
    let mut ticks = interval(SNAPSHOT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is at once, when nothing has been counted.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        telemetry.remember_traffic();
    }
}

impl Traffic {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        let nothing = Past {
            at: begun,
            numbers: Vec::new(),
        };
        Self {
            // What JSON's readers hold exactly.
            run: fastrand::u64(..1 << 53),
            begun,
            readings: Vec::new(),
            places: Vec::new(),
            place_numbers: HashMap::new(),
            timed: Vec::new(),
            requests: Vec::new(),
            tcp: Vec::new(),
            past: VecDeque::from([nothing]),
        }
    }

    /// Reads new handles too from now on.
    pub(super) fn meet(&mut self, fresh: Fresh) {
        for ((service, route, backend), sent) in fresh.retries {
            let place = self.place(PlaceLabels {
                direction: Origin::Outbound,
                service,
                route,
                backend,
            });
            self.readings.push(Reading::Retries(place, sent));
        }
        for scope in fresh.requests {
            let labels = scope.labels();
            let place = self.place(PlaceLabels {
                direction: labels.direction,
                service: Arc::clone(&labels.service),
                route: Arc::clone(&labels.route),
                backend: Arc::clone(&labels.backend),
            });
            let latency = scope.latency().filter(|_| !self.timed[place]);
            if let Some(latency) = latency {
                self.timed[place] = true;
                let reading = Reading::Latency(place, Arc::clone(latency));
                self.readings.push(reading);
            }
            self.requests.push(Requests {
                scope,
                place,
                seen: 0,
            });
        }
        for scope in fresh.tcp {
            self.readings.push(Reading::Bytes(self.tcp.len()));
            self.tcp.push(Connections { scope, seen: 0 });
        }
    }

    /// Keeps what is there now.
    pub(super) fn remember(&mut self, at: Instant) {
        let numbers = self.read();
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(Past { at, numbers });
    }

    /// What is asked for. Who it is told by is the caller's to add.
    pub(super) fn summary(&mut self, query: &TrafficQuery, now: Instant) -> Summary {
        let mut numbers = self.read();
        let since = match query.window.and_then(|window| self.nearest(window, now)) {
            None => self.begun,
            Some(past) => {
                for (number, before) in numbers.iter_mut().zip(&past.numbers) {
                    *number = number.saturating_sub(*before);
                }
                past.at
            }
        };
        let seconds = |since| now.saturating_duration_since(since).as_secs_f64();
        let (places, tcp) = self.sums(&numbers, query);
        let mut summary = Summary {
            run: self.run,
            identity: String::new(),
            up_seconds: seconds(self.begun),
            seconds: seconds(since),
            places,
            tcp,
        };
        summary.bound();
        summary
    }

    fn nearest(&self, window: Duration, now: Instant) -> Option<&Past> {
        let distance = |past: &&Past| now.saturating_duration_since(past.at).abs_diff(window);
        self.past.iter().min_by_key(distance)
    }

    fn place(&mut self, labels: PlaceLabels) -> usize {
        if let Some(known) = self.place_numbers.get(&labels) {
            return *known;
        }
        let number = self.places.len();
        self.places.push(labels.clone());
        self.timed.push(false);
        self.place_numbers.insert(labels, number);
        number
    }

    /// Everything as it is now. What was never counted before comes last.
    fn read(&mut self) -> Vec<u64> {
        for (number, requests) in self.requests.iter_mut().enumerate() {
            for counted in requests.scope.counted_from(requests.seen) {
                requests.seen += 1;
                self.readings.push(Reading::Requests(number, counted));
            }
        }
        for (number, connections) in self.tcp.iter_mut().enumerate() {
            for (outcome, count) in connections.scope.ended_from(connections.seen) {
                connections.seen += 1;
                self.readings.push(Reading::Ended(number, outcome, count));
            }
        }
        let mut numbers = Vec::with_capacity(self.readings.iter().map(Reading::width).sum());
        for reading in &self.readings {
            match reading {
                Reading::Latency(_, histogram) => {
                    let HistogramSnapshot {
                        buckets,
                        sum_micros,
                    } = histogram.snapshot();
                    numbers.extend(buckets);
                    numbers.push(sum_micros);
                }
                Reading::Requests(_, counted) => numbers.push(counted.count()),
                Reading::Retries(_, count) | Reading::Ended(_, _, count) => {
                    numbers.push(count.load(Ordering::Relaxed));
                }
                Reading::Bytes(number) => numbers.extend(self.tcp[*number].scope.bytes()),
            }
        }
        numbers
    }

    fn sums(&self, numbers: &[u64], query: &TrafficQuery) -> (Vec<Place>, Vec<Tcp>) {
        let mut places: Vec<Place> = self.places.iter().map(PlaceLabels::to_place).collect();
        let mut rows: Vec<Row> = self.requests.iter().map(Requests::to_row).collect();
        let mut tcp: Vec<Tcp> = self.tcp.iter().map(Connections::to_tcp).collect();
        let mut rest = numbers;
        for reading in &self.readings {
            let (own, others) = rest.split_at(reading.width());
            rest = others;
            match (reading, own) {
                (Reading::Latency(place, _), [buckets @ .., sum]) => {
                    let mut latency = Latency {
                        sum_micros: *sum,
                        ..Latency::default()
                    };
                    latency.buckets.copy_from_slice(buckets);
                    places[*place].latency = Some(latency);
                }
                (Reading::Retries(place, _), [sent]) => places[*place].retries += sent,
                (Reading::Requests(row, counted), [count]) if *count > 0 => {
                    rows[*row].add(counted.to_summary(*count));
                }
                (Reading::Bytes(row), [read, written]) => {
                    (tcp[*row].read, tcp[*row].written) = (*read, *written);
                }
                (Reading::Ended(row, outcome, _), [count]) if *count > 0 => {
                    let outcome = Cow::Borrowed(outcome.as_str());
                    tcp[*row].ended.insert(outcome, *count);
                }
                // None of these.
                _ => {}
            }
        }
        for (row, requests) in rows.into_iter().zip(&self.requests) {
            if !row.counts.is_empty() {
                places[requests.place].rows.push(row);
            }
        }
        places.retain(|place| {
            let is_wanted = query.wants(&place.direction, &place.service);
            is_wanted && (!place.rows.is_empty() || place.retries > 0)
        });
        tcp.retain(|tcp| query.wants(&tcp.direction, &tcp.service) && tcp.connections() > 0);
        (places, without_server_names(tcp))
    }
}

impl TrafficQuery {
    fn wants(&self, direction: &str, service: &str) -> bool {
        let is_direction = self.direction.is_none_or(|it| it.as_str() == direction);
        let is_namespace = self.namespace.as_deref().is_none_or(|wanted| {
            let namespace = service.split_once('/').map(|(namespace, _)| namespace);
            namespace == Some(wanted)
        });
        let is_service = self.service.as_deref().is_none_or(|wanted| {
            let rest = service.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        is_direction && is_namespace && is_service
    }
}

impl Reading {
    /// Numbers that it is.
    fn width(&self) -> usize {
        match self {
            Self::Latency(..) => BUCKETS + 1,
            Self::Bytes(_) => 2,
            Self::Retries(..) | Self::Requests(..) | Self::Ended(..) => 1,
        }
    }
}

impl PlaceLabels {
    fn to_place(&self) -> Place {
        Place {
            direction: Cow::Borrowed(self.direction.as_str()),
            service: self.service.to_string(),
            route: self.route.to_string(),
            backend: self.backend.to_string(),
            ..Place::default()
        }
    }
}

impl Requests {
    fn to_row(&self) -> Row {
        let labels = self.scope.labels();
        Row {
            peer: labels.peer.to_string(),
            tls: Cow::Borrowed(labels.tls.as_str()),
            counts: Vec::new(),
        }
    }
}

impl Connections {
    fn to_tcp(&self) -> Tcp {
        let labels = self.scope.labels();
        Tcp {
            direction: Cow::Borrowed(labels.direction.as_str()),
            service: labels.service.to_string(),
            backend: labels.backend.to_string(),
            peer: labels.peer.to_string(),
            tls: Cow::Borrowed(labels.tls.as_str()),
            open: self.scope.open_now(),
            ..Tcp::default()
        }
    }
}

/// Connections that differ only in the name that was asked for are one row.
fn without_server_names(all: Vec<Tcp>) -> Vec<Tcp> {
    let mut merged: BTreeMap<_, Tcp> = BTreeMap::new();
    for tcp in all {
        let names = (tcp.service.clone(), tcp.backend.clone(), tcp.peer.clone());
        match merged.entry((names, tcp.direction.clone(), tcp.tls.clone())) {
            std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().add(tcp),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(tcp);
            }
        }
    }
    merged.into_values().collect()
}
