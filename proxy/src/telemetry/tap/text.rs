//! Records as JSON, as `weft tap` reads them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Version;
use serde::Serialize;

use super::session::{Settings, Tally};
use crate::telemetry::record::Record;
use crate::telemetry::redact;

/// One answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    /// When the session was opened, in microseconds since 1970: another one is another session, which
    /// begins to count anew.
    opened: u64,
    /// Records that were told, in this answer and all before.
    handed: u64,
    /// Dropped, because there were more than the rate allows.
    over_rate: u64,
    /// Dropped, because there was no room until the next poll.
    no_room: u64,
    records: Vec<Line<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    direction: &'static str,
    http_version: &'static str,
    method: &'a str,
    authority: &'a str,
    path: std::borrow::Cow<'a, str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    trace_id: Option<String>,
    service: &'a str,
    route: &'a str,
    backend: &'a str,
    endpoint: Option<String>,
    peer: &'a str,
    tls: &'static str,
    status: u16,
    grpc_status: Option<u8>,
    outcome: &'static str,
    duration_seconds: f64,
    retries: u32,
    response_bytes: Option<u64>,
    fallback: bool,
    copy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<(&'a str, &'a str)>>,
}

pub(super) fn batch(
    opened: SystemTime,
    tally: Tally,
    records: &VecDeque<Arc<Record>>,
    settings: &Settings,
) -> String {
    let opened = opened.duration_since(UNIX_EPOCH).unwrap_or_default();
    let batch = Batch {
        opened: opened.as_micros() as u64,
        handed: tally.handed,
        over_rate: tally.over_rate,
        no_room: tally.no_room,
        records: records.iter().map(|it| line(it, settings)).collect(),
    };
    serde_json::to_string(&batch).expect("plain values")
}

fn line<'r>(record: &'r Record, settings: &Settings) -> Line<'r> {
    let end = &record.end;
    let mut text = String::with_capacity(24);
    // A string takes whatever is written.
    let _ = weft_proto::logs::write_rfc3339(&mut text, record.began);
    let headers = record.headers.as_ref().filter(|_| settings.headers);
    Line {
        time: text,
        direction: record.direction.as_str(),
        http_version: version(record.version),
        method: record.method.as_str(),
        authority: &record.authority,
        path: if settings.show_query {
            (&*record.path).into()
        } else {
            redact::query(&record.path)
        },
        user_agent: record.user_agent.as_deref(),
        request_id: end.request_id.as_ref().and_then(|id| id.to_str().ok()),
        trace_id: record.trace_id.map(|id| id.to_string()),
        service: &end.service,
        route: &end.route,
        backend: &end.backend,
        endpoint: record.endpoint.map(|address| address.to_string()),
        peer: &end.peer,
        tls: end.tls.as_str(),
        status: end.status,
        grpc_status: end.grpc_status,
        outcome: end.outcome.as_str(),
        duration_seconds: end.elapsed.as_secs_f64(),
        retries: record.retries,
        response_bytes: record.response_bytes,
        fallback: record.is_fallback,
        copy: end.is_copy,
        headers: headers.map(|all| all.iter().map(|(k, v)| (k.as_str(), &**v)).collect()),
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}
