//! Backends: how they are connected to, and what stops traffic to them.

use weft_proto::discovery as wire;

use super::fields::{
    at_least_one, each, known, missing, non_zero, optional, percent, positive, refuse, required,
    status,
};
use super::{Decoded, balancer, service_ref};
use crate::policy::{BackendPolicy, BreakerPolicy, BreakerScope, ErrorRate, Limits};

pub(super) fn decode(message: &wire::Backend) -> Decoded<BackendPolicy> {
    Ok(BackendPolicy {
        service: required("service", message.service.as_ref(), service_ref)?,
        connect_timeout: required(
            "connect_timeout",
            message.connect_timeout.as_ref(),
            positive,
        )?,
        circuit_breaker: optional(
            "circuit_breaker",
            message.circuit_breaker.as_ref(),
            circuit_breaker,
        )?,
        balancer: required(
            "load_balancer",
            message.load_balancer.as_ref(),
            balancer::decode,
        )?,
    })
}

fn circuit_breaker(message: &wire::CircuitBreaker) -> Decoded<BreakerPolicy> {
    Ok(BreakerPolicy {
        scope: match known("scope", message.scope)? {
            wire::BreakerScope::Endpoint => BreakerScope::Endpoint,
            wire::BreakerScope::Backend => BreakerScope::Backend,
        },
        consecutive_failures: non_zero(message.consecutive_failures),
        error_rate: optional("error_rate", message.error_rate.as_ref(), |rate| {
            if !(1..=100).contains(&rate.threshold_percent) {
                return Err(refuse("threshold_percent", "not from 1 to 100"));
            }
            Ok(ErrorRate {
                threshold_percent: rate.threshold_percent,
                min_requests: rate.min_requests,
                window: required("window", rate.window.as_ref(), positive)?,
            })
        })?,
        failure_status_codes: each(
            "failure_status_codes",
            &message.failure_status_codes,
            |&it| status(it),
        )?,
        open_duration: required("open_duration", message.open_duration.as_ref(), positive)?,
        max_open_duration: required(
            "max_open_duration",
            message.max_open_duration.as_ref(),
            positive,
        )?,
        half_open_max_requests: at_least_one(
            "half_open_max_requests",
            message.half_open_max_requests,
        )?,
        half_open_success_threshold: at_least_one(
            "half_open_success_threshold",
            message.half_open_success_threshold,
        )?,
        max_ejection_percent: percent("max_ejection_percent", message.max_ejection_percent)?,
        limits: optional("limits", message.limits.as_ref(), limits)?,
    })
}

fn limits(message: &wire::Limits) -> Decoded<Limits> {
    let cap = |place, value: Option<u32>| value.map(|value| at_least_one(place, value)).transpose();
    Ok(Limits {
        max_connections: cap("max_connections", message.max_connections)?,
        max_pending_requests: message
            .max_pending_requests
            .ok_or_else(|| missing("max_pending_requests"))?,
        max_requests: cap("max_requests", message.max_requests)?,
    })
}
