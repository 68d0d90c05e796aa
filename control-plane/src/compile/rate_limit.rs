//! Rate limits of a workload's port.

use weft_proto::discovery as wire;
use weft_proto::discovery::rate_limit::Key;

use crate::index::{Model, Service, ServicePort};
use crate::policy::{RateLimit, RateLimitKey};

/// The limit of every service that leads to the port, or the namespace's where none does. Each counts
/// every request, so that of equal ones one is enough.
pub(super) fn compile(
    model: &Model,
    namespace: &str,
    services: &[(&Service, &ServicePort)],
) -> Vec<wire::RateLimit> {
    let mut limits = Vec::new();
    for (service, port) in services {
        if let Some(limit) = model.policy(service, port).rate_limit {
            let limit = rate_limit(&limit);
            if !limits.contains(&limit) {
                limits.push(limit);
            }
        }
    }
    if services.is_empty()
        && let Some(limit) = model.namespace_policy(namespace).rate_limit
    {
        limits.push(rate_limit(&limit));
    }
    limits
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
