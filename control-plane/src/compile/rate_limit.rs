//! Rate limits of a workload's port.
//!
//! A rule's limit replaces its policy's for the requests that the rule is the first to match, in the
//! order in which clients' sidecars try the rules too. A rule without one inherits the policy's, and
//! shares its count.

use weft_proto::discovery as wire;
use weft_proto::discovery::rate_limit::Key;

use super::wire::{route_match, service_ref};
use crate::index::{Model, Service, ServicePort};
use crate::policy::{RateLimit, RateLimitKey, Rule};

/// The limits of a port.
#[derive(Default)]
pub(super) struct Limits {
    /// Of policies that count all requests alike.
    pub(super) plain: Vec<wire::RateLimit>,
    /// Of policies whose rules have limits of their own.
    pub(super) ruled: Vec<wire::RuledRateLimits>,
}

/// The limits of every service that leads to the port, or the namespace's where none does. Each counts
/// every request, so that of equal ones one is enough.
pub(super) fn compile(
    model: &Model,
    namespace: &str,
    services: &[(&Service, &ServicePort)],
) -> Limits {
    let mut limits = Limits::default();
    for (service, port) in services {
        let policy = model.policy(service, port);
        let own = policy.rate_limit.as_deref().map(rate_limit);
        let rules = rules(policy.rules.as_deref().unwrap_or_default());
        if rules.is_empty() {
            limits.add(own);
        } else {
            limits.add_ruled(wire::RuledRateLimits {
                service: Some(service_ref(&service.name, port.port)),
                rules,
                otherwise: own,
            });
        }
    }
    if services.is_empty() {
        // A namespace has no rules.
        let own = model.namespace_policy(namespace).rate_limit;
        limits.add(own.as_deref().map(rate_limit));
    }
    limits
}

impl Limits {
    fn add(&mut self, limit: Option<wire::RateLimit>) {
        let new = limit.filter(|limit| !self.plain.contains(limit));
        self.plain.extend(new);
    }

    fn add_ruled(&mut self, limits: wire::RuledRateLimits) {
        let counts_alike = |known: &wire::RuledRateLimits| {
            known.rules == limits.rules && known.otherwise == limits.otherwise
        };
        if !self.ruled.iter().any(counts_alike) {
            self.ruled.push(limits);
        }
    }
}

/// Whether rules say anything about limits.
pub(super) fn has_limit(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| rule.rate_limit.is_some())
}

/// The rules up to the last that has a limit: those behind it leave requests to the policy's, as no
/// match does.
fn rules(rules: &[Rule]) -> Vec<wire::RateLimitRule> {
    let last = rules.iter().rposition(|rule| rule.rate_limit.is_some());
    let deciding = last.map_or(&[][..], |last| &rules[..=last]);
    deciding
        .iter()
        .map(|rule| wire::RateLimitRule {
            name: rule.name.clone(),
            matches: rule.matches.iter().map(route_match).collect(),
            limit: rule.rate_limit.as_ref().map(rate_limit),
        })
        .collect()
}

fn rate_limit(limit: &RateLimit) -> wire::RateLimit {
    let key = match limit.key {
        RateLimitKey::Global => Key::Global(true),
        RateLimitKey::ClientIdentity => {
            let overrides = limit.overrides.iter().flatten();
            Key::ClientIdentity(wire::RateLimitByIdentity {
                overrides: overrides
                    .map(|known| wire::RateLimitOverride {
                        identity: known.identity.clone(),
                        rate: Some(rate(known.requests_per_second, limit.burst_of(known))),
                    })
                    .collect(),
            })
        }
        RateLimitKey::Header => Key::Header(
            limit
                .header
                .as_deref()
                .unwrap_or_default()
                .to_ascii_lowercase(),
        ),
    };
    wire::RateLimit {
        rate: Some(rate(limit.requests_per_second, limit.burst())),
        key: Some(key),
    }
}

fn rate(requests_per_second: u32, burst: u32) -> wire::Rate {
    wire::Rate {
        requests_per_second,
        burst,
    }
}
