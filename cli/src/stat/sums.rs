//! What sidecars counted, put together by what a line is about.
//!
//! Of each thing one side counts: the view's own, or the other one where the first knows nothing of it.
//! Durations are kept by route and backend and not by caller: where a line has only some of the callers
//! of one, its durations are not known.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weft_proxy::telemetry::BOUNDS_MICROS;
use weft_proxy::telemetry::traffic::{Latency, Place, Row, Tcp};

use super::ask::{Answers, Failed, Sidecar, Which};
use super::quantile::{Quantile, quantile};
use super::{Side, View};
use crate::edges::seen::Replica;
use crate::order::Missing;

/// Outcomes of requests that did not get as far as a connection to a server.
const NEVER_SENT: [&str; 11] = [
    "bad_request",
    "circuit_open",
    "config_unavailable",
    "connect_refused",
    "connect_timeout",
    "fault_injected",
    "no_endpoints",
    "no_route",
    "overflow",
    "shed",
    "tls_failed",
];

/// The answer, for machines.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stat {
    #[serde(skip)]
    pub(super) view: View,
    /// What counts are of: the last so many seconds, at most; sidecars differ.
    pub(super) seconds: f64,
    /// The busiest first.
    pub(super) requests: Vec<Line>,
    /// Connections of bytes, the busiest first.
    pub(super) tcp: Vec<TcpLine>,
    /// Sidecars that answered.
    pub(super) sidecars: usize,
    /// Those that did not.
    pub(super) failed: Vec<Failed>,
    pub(super) not_connected: Vec<Missing>,
    pub(super) replicas: Vec<Replica>,
}

/// What a line is about; what is no part of it is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct About {
    /// A service account, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workload: Option<String>,
}

/// Requests.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    #[serde(flatten)]
    pub(super) about: About,
    /// Whose count this is: `client` or `server`.
    pub(super) side: &'static str,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) success_percent: Option<f64>,
    pub(super) per_second: f64,
    pub(super) p50: Option<Quantile>,
    pub(super) p95: Option<Quantile>,
    pub(super) p99: Option<Quantile>,
    /// Tries beyond the first one of a request; only clients' sidecars know them.
    pub(super) retries: u64,
    /// Of those that were sent.
    pub(super) mtls_percent: Option<f64>,
    /// Requests by outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// Requests by class of status.
    pub(super) statuses: BTreeMap<String, u64>,
    /// `None` where durations are not known.
    pub(super) latency: Option<Durations>,
}

/// Durations by bucket, not cumulated.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Durations {
    buckets: Vec<Bucket>,
    sum_millis: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bucket {
    /// `None` for the last one, which has no bound.
    up_to_millis: Option<f64>,
    count: u64,
}

/// Connections of bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcpLine {
    #[serde(flatten)]
    pub(super) about: About,
    /// Whose count this is: `client` or `server`.
    pub(super) side: &'static str,
    /// Open now.
    pub(super) open: u64,
    /// Over by now.
    pub(super) ended: u64,
    /// Bytes from the side that opened them.
    pub(super) read: u64,
    /// Bytes to it.
    pub(super) written: u64,
    pub(super) mtls_percent: Option<f64>,
    /// Those over, by outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
}

/// What adds up to a line.
#[derive(Default)]
struct Sum {
    requests: u64,
    failed: u64,
    /// Those that went over no connection, so that nothing protected them.
    unsent: u64,
    mutual: u64,
    per_second: f64,
    retries: u64,
    outcomes: BTreeMap<String, u64>,
    statuses: BTreeMap<String, u64>,
    latency: Latency,
    /// Durations of requests that the line has are kept together with others'.
    is_mixed: bool,
}

#[derive(Default)]
struct TcpSum {
    tcp: Tcp,
    mutual: u64,
}

/// Where requests went.
#[derive(Clone, Copy)]
struct To<'p> {
    service: &'p str,
    route: &'p str,
    backend: &'p str,
}

type Sums<T> = BTreeMap<(About, Side), T>;

/// What clients know by the name that servers count it under: where their requests go.
type Known = BTreeSet<About>;

impl Stat {
    /// Puts answers together.
    pub(super) fn of(view: View, which: &Which, answers: &Answers) -> Self {
        let (mut requests, mut tcp) = (Sums::default(), Sums::default());
        let mut known = Known::default();
        for sidecar in &answers.sidecars {
            for place in &sidecar.summary.places {
                add_place(view, which, sidecar, place, &mut requests);
                know(
                    view,
                    which,
                    sidecar,
                    &place.direction,
                    &place.backend,
                    &mut known,
                );
            }
            // Bytes have no routes.
            let all = sidecar.summary.tcp.iter();
            for own in all.filter(|_| view != View::Routes) {
                add_tcp(view, which, sidecar, own, &mut tcp);
                know(
                    view,
                    which,
                    sidecar,
                    &own.direction,
                    &own.backend,
                    &mut known,
                );
            }
        }
        let mut requests: Vec<Line> = one_side(view, requests, &known)
            .into_iter()
            .map(|((about, side), sum)| Line::of(about, side, sum))
            .collect();
        requests.retain(|line| line.requests > 0 || line.retries > 0);
        requests.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
        let mut tcp: Vec<TcpLine> = one_side(view, tcp, &known)
            .into_iter()
            .map(|((about, side), sum)| TcpLine::of(about, side, sum))
            .collect();
        tcp.sort_by_key(|line| std::cmp::Reverse(line.open + line.ended));
        let seconds = answers.sidecars.iter().map(|it| it.summary.seconds);
        Self {
            view,
            seconds: seconds.fold(0.0, f64::max),
            requests,
            tcp,
            sidecars: answers.sidecars.len(),
            failed: answers.failed(),
            not_connected: answers.told.not_connected.clone(),
            replicas: answers.told.replicas.clone(),
        }
    }
}

impl Line {
    fn of(about: About, side: Side, sum: Sum) -> Self {
        let latency = (!sum.is_mixed && sum.latency.count() > 0).then_some(&sum.latency);
        let of = |share| latency.and_then(|latency| quantile(latency, share));
        Self {
            about,
            side: side.as_str(),
            success_percent: percent(sum.requests - sum.failed, sum.requests),
            p50: of(0.5),
            p95: of(0.95),
            p99: of(0.99),
            mtls_percent: percent(sum.mutual, sum.requests - sum.unsent),
            latency: latency.map(Durations::of),
            requests: sum.requests,
            failed: sum.failed,
            per_second: sum.per_second,
            retries: sum.retries,
            outcomes: sum.outcomes,
            statuses: sum.statuses,
        }
    }
}

impl Durations {
    fn of(latency: &Latency) -> Self {
        let bounds = BOUNDS_MICROS.iter().map(|bound| Some(*bound as f64 / 1e3));
        let buckets = bounds.chain([None]).zip(latency.buckets);
        Self {
            buckets: buckets
                .map(|(up_to_millis, count)| Bucket {
                    up_to_millis,
                    count,
                })
                .collect(),
            sum_millis: latency.sum_micros as f64 / 1e3,
        }
    }
}

impl TcpLine {
    fn of(about: About, side: Side, sum: TcpSum) -> Self {
        let TcpSum { tcp, mutual } = sum;
        let ended = tcp.ended.values().sum();
        let outcomes = tcp.ended.into_iter();
        Self {
            about,
            side: side.as_str(),
            mtls_percent: percent(mutual, tcp.open + ended),
            open: tcp.open,
            ended,
            read: tcp.read,
            written: tcp.written,
            outcomes: outcomes
                .map(|(word, count)| (word.into_owned(), count))
                .collect(),
        }
    }
}

fn add_place(view: View, which: &Which, sidecar: &Sidecar, place: &Place, sums: &mut Sums<Sum>) {
    let Some(side) = wanted_side(which, &place.direction) else {
        return;
    };
    let mut abouts = BTreeSet::new();
    let mut is_part = false;
    for row in &place.rows {
        let from = caller(side, sidecar, &row.peer);
        let is_idle = row.requests() == 0;
        if !is_wanted(which, from) {
            is_part |= !is_idle;
            continue;
        }
        let about = About::of(view, sidecar, from, To::from(place));
        // One that is idle counts for which side a line is told from.
        let sum = sums.entry((about.clone(), side)).or_default();
        sum.add(row, sidecar.summary.seconds);
        if !is_idle {
            abouts.insert(about);
        }
    }
    if abouts.is_empty() && place.retries > 0 && side == Side::Client {
        // Retries of requests that are not over yet.
        let from = caller(side, sidecar, "");
        if is_wanted(which, from) {
            abouts.insert(About::of(view, sidecar, from, To::from(place)));
        }
    }
    is_part |= abouts.len() > 1;
    for about in abouts {
        let sum = sums.entry((about, side)).or_default();
        // A client's rows are all of one caller, so that this is added once.
        sum.retries += place.retries;
        match &place.latency {
            Some(latency) if !is_part => sum.latency.add(latency),
            _ => sum.is_mixed |= place.requests() > 0,
        }
    }
}

fn add_tcp(view: View, which: &Which, sidecar: &Sidecar, own: &Tcp, sums: &mut Sums<TcpSum>) {
    let Some(side) = wanted_side(which, &own.direction) else {
        return;
    };
    let from = caller(side, sidecar, &own.peer);
    if !is_wanted(which, from) {
        return;
    }
    let about = About::of(view, sidecar, from, To::from(own));
    let TcpSum { tcp, mutual } = sums.entry((about, side)).or_default();
    tcp.open += own.open;
    tcp.read += own.read;
    tcp.written += own.written;
    for (outcome, count) in &own.ended {
        *tcp.ended.entry(outcome.clone()).or_default() += count;
    }
    if own.tls == "mutual" {
        *mutual += own.connections();
    }
}

/// Notes that a client's requests go to a backend.
fn know(
    view: View,
    which: &Which,
    sidecar: &Sidecar,
    direction: &str,
    backend: &str,
    known: &mut Known,
) {
    let from = caller(Side::Client, sidecar, "");
    let is_client = wanted_side(which, direction) == Some(Side::Client);
    if is_client && is_wanted(which, from) {
        let to = To {
            service: backend,
            route: "",
            backend,
        };
        known.insert(About::of(view, sidecar, from, to).thing(view));
    }
}

/// Leaves one side of what both know. Of a service (and its routes, which either side may call by other
/// names) one side counts for the whole service. Servers count what a split sent them under the name of
/// the backend, and not of the service that clients address.
fn one_side<T>(view: View, sums: Sums<T>, backends: &Known) -> Sums<T> {
    let own = sums.keys().filter(|(_, side)| *side == view.side());
    let mut known: Known = own.map(|(about, _)| about.thing(view)).collect();
    if view.side() == Side::Client {
        known.extend(backends.iter().cloned());
    }
    let is_left = |about: &About, side| side == view.side() || !known.contains(&about.thing(view));
    sums.into_iter()
        .filter(|((about, side), _)| is_left(about, *side))
        .collect()
}

impl About {
    fn of(view: View, sidecar: &Sidecar, from: &str, to: To<'_>) -> Self {
        let mut about = Self::default();
        let service = to.service;
        match view {
            View::Services => about.service = Some(service.to_owned()),
            View::Backends => {
                about.service = Some(service.to_owned());
                about.backend = Some(to.backend.to_owned());
            }
            View::Workloads => about.workload = Some(sidecar.workload.clone()),
            View::Routes => {
                about.service = Some(service.to_owned());
                about.route = Some(to.route.to_owned());
            }
            View::Pairs => {
                about.from = Some(from.to_owned());
                about.service = Some(service.to_owned());
            }
        }
        about
    }

    /// What is told by one side as a whole.
    fn thing(&self, view: View) -> Self {
        match view {
            View::Services | View::Pairs | View::Workloads => self.clone(),
            View::Routes => Self {
                service: self.service.clone(),
                ..Self::default()
            },
            View::Backends => Self {
                backend: self.backend.clone(),
                ..Self::default()
            },
        }
    }
}

impl<'p> From<&'p Place> for To<'p> {
    fn from(place: &'p Place) -> Self {
        Self {
            service: &place.service,
            route: &place.route,
            backend: &place.backend,
        }
    }
}

impl<'p> From<&'p Tcp> for To<'p> {
    /// Bytes have no routes.
    fn from(tcp: &'p Tcp) -> Self {
        Self {
            service: &tcp.service,
            route: "",
            backend: &tcp.backend,
        }
    }
}

impl Sum {
    fn add(&mut self, row: &Row, seconds: f64) {
        let requests = row.requests();
        self.requests += requests;
        if seconds > 0.0 {
            self.per_second += requests as f64 / seconds;
        }
        if row.tls == "mutual" {
            self.mutual += requests;
        }
        for count in &row.counts {
            self.failed += count.3;
            if row.tls == "none" && NEVER_SENT.contains(&&*count.0) {
                self.unsent += count.2;
            }
            *self.outcomes.entry(count.0.to_string()).or_default() += count.2;
            *self.statuses.entry(count.1.to_string()).or_default() += count.2;
        }
    }
}

fn wanted_side(which: &Which, direction: &str) -> Option<Side> {
    let sides = [Side::Client, Side::Server].into_iter();
    let mut sides = sides.filter(|side| which.side.is_none_or(|wanted| wanted == *side));
    sides.find(|side| side.direction() == direction)
}

/// Who called: a client's sidecar is itself the caller.
fn caller<'s>(side: Side, sidecar: &'s Sidecar, peer: &'s str) -> &'s str {
    match side {
        Side::Client => &sidecar.summary.identity,
        Side::Server => peer,
    }
}

fn is_wanted(which: &Which, from: &str) -> bool {
    which.from.as_ref().is_none_or(|wanted| {
        let parts = from.split_once('/');
        parts == Some((&wanted.namespace, &wanted.name))
    })
}

fn percent(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 * 100.0 / all as f64)
}
