//! Access logs from the wire.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use weft_proto::discovery as wire;
use weft_proto::discovery::AccessLogField as Wire;

use super::Decoded;
use super::fields::{each, known, missing, optional, percent, refuse};
use super::route::route_match;
use crate::policy::{AccessLog, AccessLogRule, InboundAccessLog, LogField};

pub(super) fn decode(message: &wire::AccessLog) -> Decoded<Arc<AccessLog>> {
    if message.fields.is_empty() {
        return Err(missing("fields"));
    }
    let fields = each("fields", &message.fields, |&value| field(value))?;
    for (at, field) in fields.iter().enumerate() {
        if fields[..at].contains(field) {
            return Err(refuse("fields", format!("{} twice", field.name())));
        }
    }
    Ok(Arc::new(AccessLog {
        percent: percent("percent", message.percent)?,
        fields,
    }))
}

pub(super) fn inbound(message: &wire::InboundAccessLog) -> Decoded<InboundAccessLog> {
    Ok(InboundAccessLog {
        rules: each("rules", &message.rules, |rule| {
            if rule.matches.is_empty() {
                return Err(missing("matches"));
            }
            Ok(AccessLogRule {
                matches: each("matches", &rule.matches, route_match)?,
                log: optional("log", rule.log.as_ref(), decode)?,
            })
        })?,
        otherwise: optional("otherwise", message.otherwise.as_ref(), decode)?,
    })
}

fn field(value: i32) -> Decoded<LogField> {
    Ok(match known("", value)? {
        Wire::Unspecified => return Err(refuse("", "unspecified")),
        Wire::RequestId => LogField::RequestId,
        Wire::TraceId => LogField::TraceId,
        Wire::Direction => LogField::Direction,
        Wire::Method => LogField::Method,
        Wire::Authority => LogField::Authority,
        Wire::Path => LogField::Path,
        Wire::Query => LogField::Query,
        Wire::Protocol => LogField::Protocol,
        Wire::Status => LogField::Status,
        Wire::GrpcStatus => LogField::GrpcStatus,
        Wire::Outcome => LogField::Outcome,
        Wire::DurationMs => LogField::DurationMs,
        Wire::Tries => LogField::Tries,
        Wire::Destination => LogField::Destination,
        Wire::Route => LogField::Route,
        Wire::Backend => LogField::Backend,
        Wire::Endpoint => LogField::Endpoint,
        Wire::Peer => LogField::Peer,
        Wire::Tls => LogField::Tls,
        Wire::UserAgent => LogField::UserAgent,
        Wire::Fallback => LogField::Fallback,
    })
}
