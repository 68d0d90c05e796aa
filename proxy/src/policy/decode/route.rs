//! Routes: which requests they are for, and what happens to those.

use http::HeaderValue;
use weft_proto::discovery as wire;
use weft_proto::pattern::Pattern;

use super::fields::{
    at, duration, each, header_name, known, method, missing, optional, path, positive, refuse,
    required, status,
};
use super::{Decoded, access_log, fallback, fault, filters, split};
use crate::policy::{
    BudgetPolicy, HeaderMatch, PathMatch, QueryMatch, RetryPolicy, Route, RouteMatch, Timeouts,
    ValueMatch,
};

pub(super) fn decode(message: &wire::Route, backends: usize) -> Decoded<Route> {
    let split = message.split.as_ref().ok_or(missing("split"))?;
    Ok(Route {
        name: message.name.as_str().into(),
        matches: each("matches", &message.matches, route_match)?,
        timeouts: optional("timeouts", message.timeouts.as_ref(), timeouts)?.unwrap_or_default(),
        retries: optional("retries", message.retries.as_ref(), retries)?,
        split: split::decode(split, backends).map_err(at("split"))?,
        fault: optional("fault", message.fault.as_ref(), fault::decode)?,
        fallback: optional("fallback", message.fallback.as_ref(), |fallback| {
            fallback::decode(fallback, backends)
        })?,
        filters: optional("filters", message.filters.as_ref(), filters::decode)?.map(Box::new),
        access_log: optional(
            "access_log",
            message.access_log.as_ref(),
            access_log::decode,
        )?,
    })
}

pub(super) fn route_match(message: &wire::RouteMatch) -> Decoded<RouteMatch> {
    use wire::path_match::Kind;
    let path_match = |it: &wire::PathMatch| match it.kind.as_ref().ok_or(missing("kind"))? {
        Kind::Exact(text) => Ok(PathMatch::Exact(path(text)?)),
        Kind::Prefix(text) => Ok(PathMatch::Prefix(path(text)?)),
        Kind::Regex(text) => Ok(PathMatch::Regex(pattern(text).map_err(at("regex"))?)),
    };
    Ok(RouteMatch {
        path: optional("path", message.path.as_ref(), path_match)?,
        method: match message.method.as_str() {
            "" => None,
            text => Some(method(text)?),
        },
        headers: each("headers", &message.headers, header_match)?,
        query: each("query", &message.query, |it| {
            if it.name.is_empty() {
                return Err(missing("name"));
            }
            Ok(QueryMatch {
                name: it.name.as_str().into(),
                value: it.value.as_str().into(),
                pattern: if it.regex {
                    Some(pattern(&it.value).map_err(at("value"))?)
                } else {
                    None
                },
            })
        })?,
        grpc: message.grpc,
    })
}

pub(super) fn header_match(message: &wire::HeaderMatch) -> Decoded<HeaderMatch> {
    use wire::HeaderMatchKind as Kind;
    let value = HeaderValue::from_str(&message.value);
    let value = value.map_err(|_| refuse("value", "not a header value"));
    Ok(HeaderMatch {
        name: header_name(&message.name)?,
        value: match known("kind", message.kind)? {
            Kind::Exact => ValueMatch::Exact(value?),
            Kind::Prefix => ValueMatch::Prefix(value?.as_bytes().into()),
            Kind::Regex => ValueMatch::Regex(pattern(&message.value).map_err(at("value"))?),
            Kind::Present => ValueMatch::Present,
        },
    })
}

fn pattern(text: &str) -> Decoded<Pattern> {
    Pattern::new(text).map_err(|why| refuse("", why.to_string()))
}

fn timeouts(message: &wire::Timeouts) -> Decoded<Timeouts> {
    Ok(Timeouts {
        request: optional("request", message.request.as_ref(), positive)?,
        per_try: optional("per_try", message.per_try.as_ref(), positive)?,
        idle: optional("idle", message.idle.as_ref(), positive)?,
        stream: optional("stream", message.stream.as_ref(), positive)?,
    })
}

fn retries(message: &wire::Retries) -> Decoded<RetryPolicy> {
    use wire::RetryCondition as Condition;
    let conditions = each("conditions", &message.conditions, |&value| {
        match known("", value)? {
            Condition::Unspecified => Err(refuse("", "unspecified")),
            condition => Ok(condition),
        }
    })?;
    let backoff = message.backoff.as_ref().ok_or(missing("backoff"))?;
    let budget = message.budget.as_ref().ok_or(missing("budget"))?;
    Ok(RetryPolicy {
        attempts: message.attempts,
        on_connect_failure: conditions.contains(&Condition::ConnectFailure),
        on_refused_stream: conditions.contains(&Condition::RefusedStream),
        on_reset: conditions.contains(&Condition::Reset),
        on_per_try_timeout: conditions.contains(&Condition::PerTryTimeout),
        status_codes: each("status_codes", &message.status_codes, |&it| status(it))?,
        grpc_codes: each("grpc_codes", &message.grpc_codes, |&code| {
            const LAST: u32 = 16;
            u8::try_from(code)
                .ok()
                .filter(|_| code <= LAST)
                .ok_or_else(|| refuse("", "not a gRPC status"))
        })?,
        methods: each("methods", &message.methods, |text| method(text))?,
        backoff_base: required("backoff.base", backoff.base.as_ref(), duration)?,
        backoff_max: required("backoff.max", backoff.max.as_ref(), duration)?,
        budget: BudgetPolicy {
            percent: budget.percent,
            interval: required("budget.interval", budget.interval.as_ref(), positive)?,
            min_retries_per_second: budget.min_retries_per_second,
        },
        body_limit_bytes: message.body_limit_bytes as usize,
        honor_retry_after: message.honor_retry_after,
    })
}
