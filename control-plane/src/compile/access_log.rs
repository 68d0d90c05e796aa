//! `accessLog` as wire messages.
//!
//! At clients a rule's replaces its policy's, as every stanza's does. At servers the same rules tell
//! requests apart; of several services that lead to a port, the sidecar takes for each request the one
//! that logs most.

use weft_proto::discovery as wire;
use weft_proto::discovery::AccessLogField as Field;

use super::wire::route_match;
use crate::index::{Model, Service, ServicePort};
use crate::policy::{AccessLog, AccessLogField, AccessLogMode, Rule};

/// Nothing where there is to be no line at all.
pub(super) fn wire(log: &AccessLog) -> Option<wire::AccessLog> {
    let percent = match log.mode {
        AccessLogMode::All => log.percent,
        AccessLogMode::Failures => 0,
        AccessLogMode::Disabled => return None,
    };
    Some(wire::AccessLog {
        percent,
        fields: log
            .fields
            .iter()
            .map(|field| known(*field).into())
            .collect(),
    })
}

/// Those of every service that leads to the port, or the namespace's where none does.
pub(super) fn inbound(
    model: &Model,
    namespace: &str,
    services: &[(&Service, &ServicePort)],
) -> Vec<wire::InboundAccessLog> {
    let mut logs: Vec<wire::InboundAccessLog> = Vec::new();
    let mut add = |own: Option<&AccessLog>, of_rules: &[Rule]| {
        let log = wire::InboundAccessLog {
            rules: rules(of_rules, own),
            otherwise: own.and_then(wire),
        };
        let says = log.otherwise.is_some() || !log.rules.is_empty();
        if says && !logs.contains(&log) {
            logs.push(log);
        }
    };
    for (service, port) in services {
        let policy = model.policy(service, port);
        add(
            policy.access_log.as_deref(),
            policy.rules.as_deref().unwrap_or_default(),
        );
    }
    if services.is_empty() {
        // A namespace has no rules.
        add(model.namespace_policy(namespace).access_log.as_deref(), &[]);
    }
    logs
}

/// Whether rules say anything about lines.
pub(super) fn has_log(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| rule.access_log.is_some())
}

/// The rules up to the last that says something: those behind it leave requests to the policy's, as no
/// match does.
fn rules(rules: &[Rule], otherwise: Option<&AccessLog>) -> Vec<wire::AccessLogRule> {
    let last = rules.iter().rposition(|rule| rule.access_log.is_some());
    let deciding = last.map_or(&[][..], |last| &rules[..=last]);
    deciding
        .iter()
        .map(|rule| wire::AccessLogRule {
            matches: rule.matches.iter().map(route_match).collect(),
            log: rule.access_log.as_ref().or(otherwise).and_then(wire),
        })
        .collect()
}

fn known(field: AccessLogField) -> Field {
    match field {
        AccessLogField::RequestId => Field::RequestId,
        AccessLogField::TraceId => Field::TraceId,
        AccessLogField::Direction => Field::Direction,
        AccessLogField::Method => Field::Method,
        AccessLogField::Authority => Field::Authority,
        AccessLogField::Path => Field::Path,
        AccessLogField::Query => Field::Query,
        AccessLogField::Protocol => Field::Protocol,
        AccessLogField::Status => Field::Status,
        AccessLogField::GrpcStatus => Field::GrpcStatus,
        AccessLogField::Outcome => Field::Outcome,
        AccessLogField::DurationMs => Field::DurationMs,
        AccessLogField::Tries => Field::Tries,
        AccessLogField::Destination => Field::Destination,
        AccessLogField::Route => Field::Route,
        AccessLogField::Backend => Field::Backend,
        AccessLogField::Endpoint => Field::Endpoint,
        AccessLogField::Peer => Field::Peer,
        AccessLogField::Tls => Field::Tls,
        AccessLogField::UserAgent => Field::UserAgent,
        AccessLogField::Fallback => Field::Fallback,
    }
}
