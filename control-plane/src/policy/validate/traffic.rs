//! The client-side stanzas' bounds.

use weft_proto::pattern::Pattern;

use super::fallback::check_fallback;
use super::fault::check_fault;
use super::findings::Findings;
use super::rate_limit;
use crate::policy::traffic::{
    BalancerPolicy, CircuitBreaker, ConsistentHash, CookieMatch, GrpcMatch, HeaderMatch,
    HeaderMatchType, LoadBalancer, Mirror, PathMatch, PathMatchType, Retries, Rule, RuleMatch,
    Split, SplitBackend, SplitMatch, Sticky, StickyType, Timeouts,
};

const MAX_ATTEMPTS: u32 = 10;
const MAX_STATUS_CODES: usize = 16;
const MAX_FAILURE_STATUS_CODES: usize = 32;
const MAX_BODY_LIMIT: u32 = 10 * 1024 * 1024;
const MAX_BACKENDS: usize = 8;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_SPLIT_MATCHES: usize = 4;
const MAX_COOKIES: usize = 4;
const MAX_RULES: usize = 16;
const MAX_RULE_MATCHES: usize = 8;
pub(super) const MAX_HEADERS: usize = 8;
const MAX_QUERY_PARAMS: usize = 8;
const MAX_QUERY_NAME: usize = 256;
const MAX_GRPC_NAME: usize = 256;
pub(super) const MAX_HEADER_VALUE: usize = 1024;

pub(super) fn check_timeouts(found: &mut Findings, path: &str, timeouts: &Timeouts) {
    if *timeouts == Timeouts::default() {
        found.add(path, "at least one timeout is required", "");
    }
    if let Some(connect) = timeouts.connect {
        found.lasting(&format!("{path}.connect"), connect, 10, 60_000);
    }
    // As the schema has it: a perTry of 0s means none, which is within every request timeout.
    if let (Some(request), Some(per_try)) = (timeouts.request, timeouts.per_try)
        && !request.is_zero()
        && per_try > request
    {
        found.add(
            format!("{path}.perTry"),
            "perTry cannot be longer than request",
            format!("use at most {request}"),
        );
    }
    if let (Some(connect), Some(per_try)) = (timeouts.connect, timeouts.per_try)
        && !per_try.is_zero()
        && connect > per_try
    {
        found.add(
            format!("{path}.connect"),
            "connect cannot be longer than perTry",
            format!("use at most {per_try}"),
        );
    }
}

pub(super) fn check_retries(found: &mut Findings, path: &str, retries: &Retries) {
    found.within(
        &format!("{path}.attempts"),
        retries.attempts,
        0..=MAX_ATTEMPTS,
    );
    found.distinct(
        &format!("{path}.conditions"),
        retries.conditions.iter(),
        "condition",
    );
    check_status_codes(
        found,
        &format!("{path}.statusCodes"),
        &retries.status_codes,
        MAX_STATUS_CODES,
    );
    found.distinct(
        &format!("{path}.grpcCodes"),
        retries.grpc_codes.iter(),
        "code",
    );
    found.distinct(&format!("{path}.methods"), retries.methods.iter(), "method");
    let backoff = &retries.backoff;
    found.lasting(&format!("{path}.backoff.base"), backoff.base, 1, 60_000);
    found.lasting(&format!("{path}.backoff.max"), backoff.max, 1, 300_000);
    if backoff.base > backoff.max {
        found.add(
            format!("{path}.backoff"),
            "base cannot exceed max",
            format!("max is {}", backoff.max),
        );
    }
    let budget = &retries.budget;
    found.within(&format!("{path}.budget.percent"), budget.percent, 0..=100);
    found.lasting(
        &format!("{path}.budget.interval"),
        budget.interval,
        1_000,
        3_600_000,
    );
    found.within(
        &format!("{path}.budget.minRetriesPerSecond"),
        budget.min_retries_per_second,
        0..=100_000,
    );
    found.within(
        &format!("{path}.bodyLimitBytes"),
        retries.body_limit_bytes,
        0..=MAX_BODY_LIMIT,
    );
}

pub(super) fn check_breaker(found: &mut Findings, breaker: &CircuitBreaker) {
    let path = "spec.circuitBreaker";
    if breaker.consecutive_failures.is_none()
        && breaker.error_rate.is_none()
        && breaker.limits.is_none()
    {
        found.add(
            path,
            "one of consecutiveFailures, errorRate or limits is required",
            "consecutiveFailures: {} takes the default threshold",
        );
    }
    if let Some(failures) = &breaker.consecutive_failures {
        found.within(
            "spec.circuitBreaker.consecutiveFailures.threshold",
            failures.threshold,
            1..=1_000,
        );
    }
    if let Some(rate) = &breaker.error_rate {
        let path = "spec.circuitBreaker.errorRate";
        found.within(
            &format!("{path}.thresholdPercent"),
            rate.threshold_percent,
            1..=100,
        );
        found.within(
            &format!("{path}.minRequests"),
            rate.min_requests,
            1..=1_000_000,
        );
        found.lasting(&format!("{path}.window"), rate.window, 1_000, 3_600_000);
    }
    if let Some(codes) = &breaker.failure_status_codes {
        let path = "spec.circuitBreaker.failureStatusCodes";
        check_status_codes(found, path, codes, MAX_FAILURE_STATUS_CODES);
        // The wire cannot tell an empty list from an absent one, and means every 5xx by it.
        if codes.is_empty() {
            found.add(
                path,
                "an empty list is not enforced by this version",
                "leave it out for every 5xx",
            );
        }
    }
    let (open, most) = (breaker.open_duration, breaker.max_open_duration);
    found.lasting("spec.circuitBreaker.openDuration", open, 100, 3_600_000);
    found.lasting("spec.circuitBreaker.maxOpenDuration", most, 100, 3_600_000);
    if open > most {
        found.add(
            "spec.circuitBreaker.openDuration",
            "openDuration cannot exceed maxOpenDuration",
            format!("maxOpenDuration is {most}"),
        );
    }
    let half_open = &breaker.half_open;
    found.within(
        "spec.circuitBreaker.halfOpen.maxRequests",
        half_open.max_requests,
        1..=1_000,
    );
    found.within(
        "spec.circuitBreaker.halfOpen.successThreshold",
        half_open.success_threshold,
        1..=1_000,
    );
    found.within(
        "spec.circuitBreaker.maxEjectionPercent",
        breaker.max_ejection_percent,
        1..=100,
    );
    let Some(limits) = &breaker.limits else {
        return;
    };
    let path = "spec.circuitBreaker.limits";
    let caps = [
        ("maxConnections", limits.max_connections, 1),
        ("maxPendingRequests", limits.max_pending_requests, 0),
        ("maxRequests", limits.max_requests, 1),
    ];
    if caps.iter().all(|(_, cap, _)| cap.is_none()) {
        found.add(path, "at least one limit is required", "");
    }
    for (name, cap, least) in caps {
        if let Some(cap) = cap {
            found.within(&format!("{path}.{name}"), cap, least..=1_000_000);
        }
    }
}

pub(super) fn check_balancer(found: &mut Findings, balancer: &LoadBalancer) {
    let by_hash = balancer.policy == BalancerPolicy::ConsistentHash;
    if by_hash != balancer.consistent_hash.is_some() {
        found.add(
            "spec.loadBalancer",
            "consistentHash is required exactly when policy is ConsistentHash",
            "",
        );
    }
    if let Some(key) = &balancer.consistent_hash {
        check_hash_key(found, "spec.loadBalancer.consistentHash", key);
    }
    if let Some(slow_start) = balancer.slow_start {
        found.lasting("spec.loadBalancer.slowStart", slow_start, 1_000, 900_000);
    }
}

fn check_hash_key(found: &mut Findings, path: &str, key: &ConsistentHash) {
    let ConsistentHash {
        header,
        cookie,
        source_ip,
    } = key;
    let given = [header.is_some(), cookie.is_some(), source_ip.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        let reason = "exactly one of header, cookie or sourceIP is required";
        found.add(path, reason, "");
    }
    for (field, name) in [("header", header), ("cookie", cookie)] {
        if let Some(name) = name {
            found.token(&format!("{path}.{field}"), name);
        }
    }
    if *source_ip == Some(false) {
        found.add(format!("{path}.sourceIP"), "must be true", "leave it out");
    }
}

pub(super) fn check_split(found: &mut Findings, path: &str, split: &Split) {
    let backends = format!("{path}.backends");
    if split.backends.is_empty() {
        if split.sticky.is_none() && split.mirror.is_none() {
            found.add(path, "backends, sticky or mirror is required", "");
        }
    } else if split.backends.iter().all(|backend| backend.weight == 0) {
        found.add(
            &backends,
            "at least one backend must have a weight above 0",
            "",
        );
    }
    found.at_most(&backends, split.backends.len(), MAX_BACKENDS);
    found.distinct(
        &backends,
        split.backends.iter().map(|backend| &backend.name),
        "map key (name)",
    );
    for (at, backend) in split.backends.iter().enumerate() {
        check_backend(found, &format!("{backends}[{at}]"), backend);
    }
    if let Some(sticky) = &split.sticky {
        check_sticky(found, &format!("{path}.sticky"), sticky);
    }
    if let Some(mirror) = &split.mirror {
        check_mirror(found, &format!("{path}.mirror"), mirror, &split.backends);
    }
}

fn check_mirror(found: &mut Findings, path: &str, mirror: &Mirror, backends: &[SplitBackend]) {
    found.label(&format!("{path}.name"), &mirror.name);
    if mirror.port == Some(0) {
        found.add(format!("{path}.port"), "0 is not between 1 and 65535", "");
    }
    found.within(&format!("{path}.percent"), mirror.percent, 0..=100);
    if backends
        .iter()
        .any(|backend| backend.name == mirror.name && backend.weight > 0)
    {
        found.add(
            path,
            "mirror must not name a backend that already receives weighted traffic",
            "",
        );
    }
}

fn check_backend(found: &mut Findings, path: &str, backend: &SplitBackend) {
    found.label(&format!("{path}.name"), &backend.name);
    if backend.port == Some(0) {
        found.add(format!("{path}.port"), "0 is not between 1 and 65535", "");
    }
    found.within(&format!("{path}.weight"), backend.weight, 0..=MAX_WEIGHT);
    let matches = format!("{path}.matches");
    found.at_most(&matches, backend.matches.len(), MAX_SPLIT_MATCHES);
    for (at, entry) in backend.matches.iter().enumerate() {
        let path = format!("{matches}[{at}]");
        if *entry == SplitMatch::default() {
            found.add(&path, "at least one header or cookie is required", "");
        }
        let headers = format!("{path}.headers");
        found.at_most(&headers, entry.headers.len(), MAX_HEADERS);
        found.distinct(
            &headers,
            entry.headers.iter().map(|header| &header.name),
            "map key (name)",
        );
        check_headers(found, &headers, &entry.headers);
        check_cookies(found, &format!("{path}.cookies"), &entry.cookies);
    }
}

fn check_cookies(found: &mut Findings, path: &str, cookies: &[CookieMatch]) {
    found.at_most(path, cookies.len(), MAX_COOKIES);
    found.distinct(
        path,
        cookies.iter().map(|cookie| &cookie.name),
        "map key (name)",
    );
    for (at, cookie) in cookies.iter().enumerate() {
        let path = format!("{path}[{at}]");
        found.token(&format!("{path}.name"), &cookie.name);
        let value = cookie.value.as_deref().unwrap_or_default();
        if value.chars().count() > MAX_HEADER_VALUE {
            let reason = format!("longer than {MAX_HEADER_VALUE} characters");
            found.add(format!("{path}.value"), reason, "");
        }
    }
}

fn check_sticky(found: &mut Findings, path: &str, sticky: &Sticky) {
    match (sticky.kind, &sticky.name) {
        (StickyType::ClientIdentity, Some(_)) => {
            found.add(
                format!("{path}.name"),
                "name is forbidden for ClientIdentity",
                "",
            );
        }
        (StickyType::Header, None) => {
            found.add(format!("{path}.name"), "name is required for Header", "");
        }
        (_, Some(name)) => found.token(&format!("{path}.name"), name),
        (StickyType::Cookie | StickyType::ClientIdentity, None) => {}
    }
}

pub(super) fn check_rules(found: &mut Findings, rules: &[Rule]) {
    found.at_most("spec.rules", rules.len(), MAX_RULES);
    found.distinct(
        "spec.rules",
        rules.iter().map(|rule| &rule.name),
        "map key (name)",
    );
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        found.label(&format!("{path}.name"), &rule.name);
        let matches = format!("{path}.matches");
        if rule.matches.is_empty() {
            found.add(
                &matches,
                "at least one match is required",
                "{} matches everything",
            );
        }
        found.at_most(&matches, rule.matches.len(), MAX_RULE_MATCHES);
        for (at, entry) in rule.matches.iter().enumerate() {
            check_match(found, &format!("{matches}[{at}]"), entry);
        }
        if let Some(timeouts) = &rule.timeouts {
            let path = format!("{path}.timeouts");
            check_timeouts(found, &path, timeouts);
            // Connections are shared by all routes to a backend.
            if timeouts.connect.is_some() {
                found.add(
                    format!("{path}.connect"),
                    "not enforced by this version",
                    "set spec.timeouts.connect: connections belong to the backend",
                );
            }
        }
        if let Some(retries) = &rule.retries {
            check_retries(found, &format!("{path}.retries"), retries);
        }
        if let Some(split) = &rule.split {
            check_split(found, &format!("{path}.split"), split);
        }
        if let Some(fault) = &rule.fault_injection {
            check_fault(found, &format!("{path}.faultInjection"), fault);
        }
        if let Some(fallback) = &rule.fallback {
            check_fallback(found, &format!("{path}.fallback"), fallback);
        }
        if let Some(limit) = &rule.rate_limit {
            rate_limit::check(found, &format!("{path}.rateLimit"), limit);
        }
    }
}

fn check_match(found: &mut Findings, path: &str, entry: &RuleMatch) {
    if let Some(PathMatch { kind, value }) = &entry.path {
        let path = format!("{path}.path");
        if *kind == PathMatchType::RegularExpression {
            check_pattern(found, &format!("{path}.value"), value);
        } else {
            found.path(&format!("{path}.value"), value);
        }
    }
    let headers = format!("{path}.headers");
    found.at_most(&headers, entry.headers.len(), MAX_HEADERS);
    found.distinct(
        &headers,
        entry.headers.iter().map(|header| &header.name),
        "map key (name)",
    );
    check_headers(found, &headers, &entry.headers);
    if entry.grpc.is_some() && (entry.path.is_some() || entry.method.is_some()) {
        found.add(path, "grpc is exclusive with path and method", "");
    }
    let query = format!("{path}.queryParams");
    found.at_most(&query, entry.query_params.len(), MAX_QUERY_PARAMS);
    found.distinct(
        &query,
        entry.query_params.iter().map(|param| &param.name),
        "map key (name)",
    );
    for (at, param) in entry.query_params.iter().enumerate() {
        let path = format!("{query}[{at}]");
        if param.name.is_empty() || param.name.chars().count() > MAX_QUERY_NAME {
            let reason = format!("empty or longer than {MAX_QUERY_NAME} characters");
            found.add(format!("{path}.name"), reason, "");
        }
        if param.value.chars().count() > MAX_HEADER_VALUE {
            let reason = format!("longer than {MAX_HEADER_VALUE} characters");
            found.add(format!("{path}.value"), reason, "");
        }
    }
    if let Some(grpc) = &entry.grpc {
        check_grpc(found, &format!("{path}.grpc"), grpc);
    }
}

/// `^[A-Za-z_][A-Za-z0-9_.]*$`, methods without the dot.
fn check_grpc(found: &mut Findings, path: &str, grpc: &GrpcMatch) {
    let is_name = |name: &str, dots: bool| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (dots && b == b'.');
        name.len() <= MAX_GRPC_NAME
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(inner)
    };
    if !is_name(&grpc.service, true) {
        let reason = format!("{:?} is not a gRPC service", grpc.service);
        found.add(format!("{path}.service"), reason, "write package.Service");
    }
    if let Some(method) = &grpc.method
        && !is_name(method, false)
    {
        let reason = format!("{method:?} is not a gRPC method");
        found.add(format!("{path}.method"), reason, "");
    }
}

fn check_pattern(found: &mut Findings, path: &str, value: &str) {
    if value.is_empty() || value.chars().count() > MAX_HEADER_VALUE {
        let reason = format!("empty or longer than {MAX_HEADER_VALUE} characters");
        found.add(path, reason, "");
    } else if let Err(why) = Pattern::new(value) {
        found.add(
            path,
            why.to_string(),
            "it must match in linear time: no look-around, no back-references",
        );
    }
}

pub(super) fn check_headers(found: &mut Findings, path: &str, headers: &[HeaderMatch]) {
    for (at, header) in headers.iter().enumerate() {
        let path = format!("{path}[{at}]");
        found.token(&format!("{path}.name"), &header.name);
        if (header.kind == HeaderMatchType::Present) == header.value.is_some() {
            found.add(
                format!("{path}.value"),
                "value is required unless type is Present, and forbidden when it is",
                "",
            );
        }
        if header
            .value
            .as_ref()
            .is_some_and(|value| value.len() > MAX_HEADER_VALUE)
        {
            found.add(
                format!("{path}.value"),
                format!("longer than {MAX_HEADER_VALUE} bytes"),
                "",
            );
        }
        let value = header.value.as_deref().unwrap_or_default();
        if header.kind == HeaderMatchType::RegularExpression && header.value.is_some() {
            check_pattern(found, &format!("{path}.value"), value);
        }
    }
}

fn check_status_codes(found: &mut Findings, path: &str, codes: &[u16], most: usize) {
    found.at_most(path, codes.len(), most);
    found.distinct(path, codes.iter(), "status code");
    for code in codes {
        found.within(path, u32::from(*code), 400..=599);
    }
}
