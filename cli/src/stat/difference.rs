//! What passed between two answers of a sidecar.

use std::collections::HashMap;

use weft_proxy::telemetry::OVERFLOW;
use weft_proxy::telemetry::traffic::{Count, Latency, Place, Row, Summary, Tcp};

/// What passed since `before`, which is an answer of the same sidecar, or of one that ran in its place.
/// Both count from the sidecar's start.
///
/// Rows in which nothing passed stay. What an answer sums for want of room may move between its rows: what
/// comes out of the sum is left out for once, as nobody knows how much of it is new.
pub(super) fn since(before: &Summary, now: &Summary) -> Summary {
    if before.run != now.run {
        // It started after that, and counted all of this since.
        return now.clone();
    }
    let places: HashMap<_, &Place> = before.places.iter().map(|it| (place_key(it), it)).collect();
    let is_cut = |direction: &str| {
        let mut places = before.places.iter();
        places.any(|it| it.service == OVERFLOW && it.direction == direction)
    };
    let new = now
        .places
        .iter()
        .filter_map(|place| match places.get(&place_key(place)) {
            Some(before) => Some(place_since(before, place)),
            None if is_cut(&place.direction) => None,
            None => Some(place.clone()),
        });
    let connections: HashMap<_, &Tcp> = before.tcp.iter().map(|it| (tcp_key(it), it)).collect();
    let is_cut_tcp = before.tcp.iter().any(|it| it.service == OVERFLOW);
    let new_tcp = now
        .tcp
        .iter()
        .filter_map(|tcp| match connections.get(&tcp_key(tcp)) {
            Some(before) => Some(tcp_since(before, tcp)),
            None if is_cut_tcp => None,
            None => Some(tcp.clone()),
        });
    Summary {
        seconds: (now.up_seconds - before.up_seconds).max(0.0),
        places: new.collect(),
        tcp: new_tcp.collect(),
        ..now.clone()
    }
}

fn place_key(place: &Place) -> [&str; 4] {
    [
        &place.direction,
        &place.service,
        &place.route,
        &place.backend,
    ]
}

fn tcp_key(tcp: &Tcp) -> [&str; 5] {
    [
        &tcp.direction,
        &tcp.service,
        &tcp.backend,
        &tcp.peer,
        &tcp.tls,
    ]
}

fn place_since(before: &Place, now: &Place) -> Place {
    let row_before = |row: &Row| {
        let mut rows = before.rows.iter();
        rows.find(|it| it.peer == row.peer && it.tls == row.tls)
    };
    Place {
        retries: now.retries.saturating_sub(before.retries),
        latency: now.latency.as_ref().map(|latency| {
            let nothing = Latency::default();
            latency_since(before.latency.as_ref().unwrap_or(&nothing), latency)
        }),
        rows: now
            .rows
            .iter()
            .map(|row| row_since(row_before(row), row))
            .collect(),
        ..now.clone()
    }
}

fn latency_since(before: &Latency, now: &Latency) -> Latency {
    let mut latency = now.clone();
    for (count, before) in latency.buckets.iter_mut().zip(before.buckets) {
        *count = count.saturating_sub(before);
    }
    latency.sum_micros = now.sum_micros.saturating_sub(before.sum_micros);
    latency
}

fn row_since(before: Option<&Row>, now: &Row) -> Row {
    let counts = now.counts.iter().map(|count| {
        let mut known = before.into_iter().flat_map(|row| &row.counts);
        let known = known.find(|it| it.0 == count.0 && it.1 == count.1);
        let (requests, failed) = known.map_or((0, 0), |it| (it.2, it.3));
        Count(
            count.0.clone(),
            count.1.clone(),
            count.2.saturating_sub(requests),
            count.3.saturating_sub(failed),
        )
    });
    Row {
        counts: counts.filter(|count| count.2 > 0).collect(),
        ..now.clone()
    }
}

fn tcp_since(before: &Tcp, now: &Tcp) -> Tcp {
    let mut tcp = now.clone();
    tcp.read = now.read.saturating_sub(before.read);
    tcp.written = now.written.saturating_sub(before.written);
    for (outcome, count) in &mut tcp.ended {
        *count = count.saturating_sub(before.ended.get(outcome).copied().unwrap_or(0));
    }
    tcp.ended.retain(|_, count| *count > 0);
    tcp
}
