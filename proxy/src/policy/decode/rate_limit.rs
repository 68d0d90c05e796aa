//! Rate limits from the wire.

#[cfg(test)]
mod tests;

use std::num::NonZeroU32;

use weft_proto::discovery as wire;

use super::fields::{at, each, header_name, missing, optional, refuse, required};
use super::route::route_match;
use super::{Decoded, service_ref};
use crate::policy::{
    Rate, RateLimitKey, RateLimitOverride, RateLimitPolicy, RateLimitRule, RuledRateLimits,
};

/// The most that a limiter counts exactly.
const MAX_RATE: u32 = 10_000_000;

pub(super) fn decode(message: &wire::RateLimit) -> Decoded<RateLimitPolicy> {
    use wire::rate_limit::Key;
    Ok(RateLimitPolicy {
        rate: required("rate", message.rate.as_ref(), |it| rate(*it))?,
        key: match message.key.as_ref().ok_or(missing("key"))? {
            Key::Global(true) => RateLimitKey::Global,
            Key::Global(false) => return Err(refuse("global", "false")),
            Key::ClientIdentity(by) => RateLimitKey::ClientIdentity(
                each("overrides", &by.overrides, an_override).map_err(at("client_identity"))?,
            ),
            Key::Header(name) => RateLimitKey::Header(header_name(name).map_err(at("header"))?),
        },
    })
}

pub(super) fn ruled(message: &wire::RuledRateLimits) -> Decoded<RuledRateLimits> {
    if message.rules.iter().all(|rule| rule.limit.is_none()) {
        return Err(refuse("rules", "none of them has a limit"));
    }
    Ok(RuledRateLimits {
        service: required("service", message.service.as_ref(), service_ref)?,
        rules: each("rules", &message.rules, rule)?,
        otherwise: optional("otherwise", message.otherwise.as_ref(), decode)?,
    })
}

fn rule(message: &wire::RateLimitRule) -> Decoded<RateLimitRule> {
    if message.name.is_empty() {
        return Err(missing("name"));
    }
    if message.matches.is_empty() {
        return Err(missing("matches"));
    }
    Ok(RateLimitRule {
        name: message.name.as_str().into(),
        matches: each("matches", &message.matches, route_match)?,
        limit: optional("limit", message.limit.as_ref(), decode)?,
    })
}

fn an_override(message: &wire::RateLimitOverride) -> Decoded<RateLimitOverride> {
    if message.identity.is_empty() {
        return Err(missing("identity"));
    }
    Ok(RateLimitOverride {
        identity: message.identity.as_str().into(),
        rate: required("rate", message.rate.as_ref(), |it| rate(*it))?,
    })
}

fn rate(message: wire::Rate) -> Decoded<Rate> {
    let bounded = |place: &str, value: u32| {
        NonZeroU32::new(value)
            .filter(|_| value <= MAX_RATE)
            .ok_or_else(|| refuse(place, "not from 1 to 10,000,000"))
    };
    Ok(Rate {
        per_second: bounded("requests_per_second", message.requests_per_second)?,
        burst: bounded("burst", message.burst)?,
    })
}
