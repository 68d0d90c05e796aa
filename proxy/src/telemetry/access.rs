//! The access log: lines about requests, as policies ask for them.
//!
//! A line is written when an exchange is over, whatever the log's level is. Whatever failed has one; of
//! the rest a share is chosen by the request id alone, so that all sidecars on a request's way choose the
//! same, and a caller that makes up ids can hide nothing but successes. Copies of requests have none, as
//! they are not counted among the requests. Where the log is not read, lines are lost and counted
//! (`weft_limit_hits_total{limit="access_log"}`), and no request waits.
//!
//! A line never holds a header but the user agent and the request id, and a query only where a policy
//! chooses it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ::http::{HeaderValue, Version};
use metrics::Counter;
use weft_proto::logs::{AccessLine, AccessLines};

use super::record::{Asked, Record};
use super::trace::span::End;
use crate::outcome::{Origin, Outcome};
use crate::policy::{AccessLog, InboundAccessLog, LogField};
use crate::resilience::route;

/// From this status on an answer is a failure of its server.
const FIRST_SERVER_ERROR: u16 = 500;

/// Where lines go.
pub(super) struct Sink {
    lines: AccessLines,
    lost: Counter,
}

/// What one exchange's line is made by.
pub(super) struct Wanted {
    pub(super) policy: Arc<AccessLog>,
    pub(super) sink: Arc<Sink>,
}

impl Sink {
    pub(super) fn new(lines: AccessLines, lost: Counter) -> Self {
        Self { lines, lost }
    }
}

impl Wanted {
    /// Writes the line, where there is to be one.
    pub(super) fn offer(&self, record: &Record) {
        if !is_chosen(&self.policy, &record.end) {
            return;
        }
        let mut line = self.sink.lines.begin();
        for field in &self.policy.fields {
            say(&mut line, *field, record);
        }
        if !line.end() {
            self.sink.lost.increment(1);
        }
    }
}

/// Of the access logs of a port's services the one that logs most of such a request; of equal ones the first.
/// A request that was not read matches no rule.
pub fn most<'p>(
    logs: &'p [InboundAccessLog],
    asked: Option<Asked<'_>>,
) -> Option<&'p Arc<AccessLog>> {
    let of = |log: &'p InboundAccessLog| {
        let rule = asked.and_then(|asked| {
            let uri = asked.uri?;
            let (path, query) = (uri.path(), uri.query());
            log.rules.iter().find(|rule| {
                route::matches_any(&rule.matches, asked.method, path, query, asked.headers)
            })
        });
        rule.map_or(&log.otherwise, |rule| &rule.log).as_ref()
    };
    // Of equal ones this takes the last.
    let all = logs.iter().rev().filter_map(of);
    all.max_by_key(|log| log.percent)
}

fn is_chosen(policy: &AccessLog, end: &End) -> bool {
    if end.is_copy {
        return false;
    }
    has_failed(end) || share_of(end.request_id.as_ref()) < policy.percent
}

/// Not as it should be, whoever is to blame.
fn has_failed(end: &End) -> bool {
    end.outcome != Outcome::Ok
        || end.status >= FIRST_SERVER_ERROR
        || end.grpc_status.is_some_and(|code| code != 0)
}

/// A number below 100 that is the same for the same id, and by chance without one. It need not withstand
/// anybody: see the module.
fn share_of(request_id: Option<&HeaderValue>) -> u32 {
    let Some(id) = request_id else {
        return fastrand::u32(..100);
    };
    // FNV-1a, and the finish of MurmurHash3, so that alike ids come apart.
    let mut hash = id
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    (hash % 100) as u32
}

/// What is not known is left out.
fn say(line: &mut AccessLine<'_>, field: LogField, record: &Record) {
    let name = field.name();
    let end = &record.end;
    let mut text = |value: &str| {
        if !value.is_empty() {
            line.text(name, value);
        }
    };
    let (path, query) = match record.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*record.path, None),
    };
    match field {
        LogField::RequestId => text(&ascii(end.request_id.as_ref())),
        LogField::TraceId => {
            if let Some(id) = record.trace_id {
                text(&id.to_string());
            }
        }
        LogField::Direction => text(record.direction.as_str()),
        LogField::Method => text(record.method.as_str()),
        LogField::Authority => text(&record.authority),
        LogField::Path => text(path),
        LogField::Query => text(query.unwrap_or_default()),
        LogField::Protocol => text(protocol(record.version)),
        LogField::Status => line.number(name, end.status.into()),
        LogField::GrpcStatus => {
            if let Some(code) = end.grpc_status {
                line.number(name, code.into());
            }
        }
        LogField::Outcome => text(end.outcome.as_str()),
        LogField::DurationMs => {
            let micros = u64::try_from(end.elapsed.as_micros()).unwrap_or(u64::MAX);
            line.thousandths(name, micros);
        }
        LogField::Tries if record.direction == Origin::Outbound => {
            let tries = match record.endpoint {
                Some(_) => u64::from(record.retries) + 1,
                None => 0,
            };
            line.number(name, tries);
        }
        LogField::Tries => {}
        LogField::Destination => text(&end.service),
        LogField::Route => text(&end.route),
        LogField::Backend => text(&end.backend),
        LogField::Endpoint => {
            if let Some(address) = record.endpoint {
                text(&address.to_string());
            }
        }
        LogField::Peer => text(&end.peer),
        LogField::Tls => text(end.tls.as_str()),
        LogField::UserAgent => text(record.user_agent.as_deref().unwrap_or_default()),
        LogField::Fallback => line.flag(name, record.is_fallback),
    }
}

fn ascii(value: Option<&HeaderValue>) -> String {
    let bytes = value.map_or(&[][..], HeaderValue::as_bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "",
    }
}
