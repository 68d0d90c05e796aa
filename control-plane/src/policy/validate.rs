//! Bounds, and what fields ask of each other. The bounds and messages are those of the resource's
//! schema, so that a cluster and a directory refuse the same things with the same words.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::ops::RangeInclusive;

use weft_proto::names;

use super::duration::PolicyDuration;
use super::spec::{
    Authorization, MtlsMode, NotEnforced, Principal, TargetKind, TargetRef, TrafficPolicy,
    TrafficPolicySpec,
};
use super::traffic::{
    BalancerPolicy, CircuitBreaker, HeaderMatch, HeaderMatchType, LoadBalancer, Locality,
    PathMatch, PathMatchType, Retries, Rule, RuleMatch, Split, SplitBackend, SplitMatch, Sticky,
    StickyType, Timeouts,
};

const MAX_TARGETS: usize = 16;
const MAX_ALLOW_ENTRIES: usize = 16;
const MAX_PRINCIPALS: usize = 16;
const MAX_ALLOW_PATHS: usize = 8;
const MAX_ATTEMPTS: u32 = 10;
const MAX_STATUS_CODES: usize = 16;
const MAX_FAILURE_STATUS_CODES: usize = 32;
const MAX_BODY_LIMIT: u32 = 10 * 1024 * 1024;
const MAX_BACKENDS: usize = 8;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_SPLIT_MATCHES: usize = 4;
const MAX_RULES: usize = 16;
const MAX_RULE_MATCHES: usize = 8;
const MAX_HEADERS: usize = 8;
const MAX_HEADER_NAME: usize = 256;
const MAX_VALUE: usize = 1024;
const MAX_SPIFFE_ID: usize = 512;
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as `spec.timeouts.perTry`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; empty when the reason says it already.
    pub mend: String,
}

impl TrafficPolicy {
    /// Everything that is wrong with a policy whose shape is right; nothing when it is good.
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Findings::default();
        if self.api_version != names::API_VERSION {
            found.add(
                "apiVersion",
                format!("{:?} is not known", self.api_version),
                format!("use {}", names::API_VERSION),
            );
        }
        if self.kind != names::TRAFFIC_POLICY_KIND {
            found.add("kind", format!("{:?} is not known", self.kind), "");
        }
        check_name(&mut found, "metadata.name", &self.metadata.name);
        check_label(&mut found, "metadata.namespace", &self.metadata.namespace);
        check_spec(&mut found, &self.spec);
        found.0
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, path: impl Into<String>, reason: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Violation {
            path: path.into(),
            reason: reason.into(),
            mend: mend.into(),
        });
    }

    fn not_enforced(&mut self, path: impl Into<String>) {
        self.add(
            path,
            "not enforced by this version",
            "leave it out, or wait for a version that enforces it",
        );
    }

    fn absent(&mut self, path: String, field: Option<NotEnforced>) {
        if field.is_some() {
            self.not_enforced(path);
        }
    }

    fn at_most(&mut self, path: &str, count: usize, most: usize) {
        if count > most {
            self.add(
                path,
                format!("{count} entries; at most {most} are allowed"),
                "",
            );
        }
    }

    fn within(&mut self, path: &str, value: u32, bounds: RangeInclusive<u32>) {
        if !bounds.contains(&value) {
            let (least, most) = bounds.into_inner();
            self.add(
                path,
                format!("{value} is not between {least} and {most}"),
                "",
            );
        }
    }

    fn lasting(&mut self, path: &str, value: PolicyDuration, least_ms: u64, most_ms: u64) {
        let (least, most) = (
            PolicyDuration::from_millis(least_ms),
            PolicyDuration::from_millis(most_ms),
        );
        if value < least {
            self.add(path, format!("must be at least {least}"), "");
        }
        if value > most {
            self.add(path, format!("must be at most {most}"), "");
        }
    }

    fn distinct<T: Hash + Eq>(&mut self, path: &str, items: impl Iterator<Item = T>, what: &str) {
        let mut seen = HashSet::new();
        for item in items {
            if !seen.insert(item) {
                self.add(path, format!("duplicate {what}"), "name each only once");
                return;
            }
        }
    }
}

fn check_spec(found: &mut Findings, spec: &TrafficPolicySpec) {
    let TrafficPolicySpec {
        target_refs,
        mtls,
        authorization,
        timeouts,
        retries,
        circuit_breaker,
        load_balancer,
        split,
        rules,
        rate_limit,
        fault_injection,
        fallback,
    } = spec;
    check_targets(found, target_refs);

    let some_stanza = mtls.is_some()
        || authorization.is_some()
        || timeouts.is_some()
        || retries.is_some()
        || circuit_breaker.is_some()
        || load_balancer.is_some()
        || split.is_some()
        || rules.is_some()
        || rate_limit.is_some()
        || fault_injection.is_some()
        || fallback.is_some();
    if !some_stanza {
        found.add("spec", "at least one policy stanza is required", "");
    }
    let for_namespace = target_refs
        .iter()
        .any(|target| target.kind == TargetKind::Namespace);
    if for_namespace && (split.is_some() || rules.is_some() || fallback.is_some()) {
        found.add(
            "spec",
            "split, rules and fallback cannot be set on a Namespace target",
            "target the services one by one",
        );
    }
    if split.is_some() && target_refs.len() != 1 {
        found.add(
            "spec.split",
            "split needs exactly one target",
            "write one policy per service",
        );
    }
    if authorization.is_some() && mtls.is_some_and(|mtls| mtls.mode == MtlsMode::Disabled) {
        found.add(
            "spec.authorization",
            "authorization needs mTLS",
            "use mtls mode Permissive or Strict: callers are known by their certificates",
        );
    }

    if let Some(authorization) = authorization {
        check_authorization(found, authorization);
    }
    if let Some(timeouts) = timeouts {
        check_timeouts(found, "spec.timeouts", timeouts);
    }
    if let Some(retries) = retries {
        check_retries(found, "spec.retries", retries);
    }
    if let Some(breaker) = circuit_breaker {
        check_breaker(found, breaker);
    }
    if let Some(balancer) = load_balancer {
        check_balancer(found, balancer);
    }
    if let Some(split) = split {
        check_split(found, "spec.split", split);
    }
    if let Some(rules) = rules {
        check_rules(found, rules);
    }
    found.absent("spec.rateLimit".into(), *rate_limit);
    found.absent("spec.faultInjection".into(), *fault_injection);
    found.absent("spec.fallback".into(), *fallback);
}

fn check_targets(found: &mut Findings, targets: &[TargetRef]) {
    if targets.is_empty() {
        found.add("spec.targetRefs", "at least one target is required", "");
    }
    found.at_most("spec.targetRefs", targets.len(), MAX_TARGETS);
    found.distinct(
        "spec.targetRefs",
        targets.iter().map(|t| (&t.group, t.kind, &t.name)),
        "map key (group, kind, name)",
    );
    for (at, target) in targets.iter().enumerate() {
        let path = format!("spec.targetRefs[{at}]");
        if !target.group.is_empty() {
            found.add(
                format!("{path}.group"),
                "only core Service and Namespace may be targeted",
                "leave group out",
            );
        }
        check_name(found, &format!("{path}.name"), &target.name);
        let Some(section) = &target.section_name else {
            continue;
        };
        let path = format!("{path}.sectionName");
        if target.kind != TargetKind::Service {
            found.add(path, "sectionName needs kind Service", "");
        } else {
            check_label(found, &path, section);
        }
    }
}

fn check_authorization(found: &mut Findings, authorization: &Authorization) {
    let path = "spec.authorization.allow";
    found.at_most(path, authorization.allow.len(), MAX_ALLOW_ENTRIES);
    for (at, entry) in authorization.allow.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let principals = format!("{path}.principals");
        if entry.principals.is_empty() {
            found.add(&principals, "at least one principal is required", "");
        }
        found.at_most(&principals, entry.principals.len(), MAX_PRINCIPALS);
        for (at, principal) in entry.principals.iter().enumerate() {
            check_principal(found, &format!("{principals}[{at}]"), principal);
        }
        found.distinct(&format!("{path}.methods"), entry.methods.iter(), "method");
        let paths = format!("{path}.paths");
        found.at_most(&paths, entry.paths.len(), MAX_ALLOW_PATHS);
        found.distinct(&paths, entry.paths.iter(), "path");
        for (at, prefix) in entry.paths.iter().enumerate() {
            check_path(found, &format!("{paths}[{at}]"), prefix);
        }
    }
}

fn check_principal(found: &mut Findings, path: &str, principal: &Principal) {
    if principal.service_account.is_some() == principal.spiffe_id.is_some() {
        found.add(
            path,
            "exactly one of serviceAccount or spiffeId is required",
            "",
        );
    }
    if let Some(account) = &principal.service_account {
        if let Some(namespace) = &account.namespace {
            check_label(
                found,
                &format!("{path}.serviceAccount.namespace"),
                namespace,
            );
        }
        if account.name != "*" {
            check_name(found, &format!("{path}.serviceAccount.name"), &account.name);
        }
    }
    if let Some(id) = &principal.spiffe_id
        && !is_spiffe_pattern(id)
    {
        found.add(
            format!("{path}.spiffeId"),
            format!("{id:?} does not match a SPIFFE id"),
            "write spiffe://TRUST-DOMAIN/PATH, where the path may end in /*",
        );
    }
}

fn check_timeouts(found: &mut Findings, path: &str, timeouts: &Timeouts) {
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

fn check_retries(found: &mut Findings, path: &str, retries: &Retries) {
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

fn check_breaker(found: &mut Findings, breaker: &CircuitBreaker) {
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
    // On the wire 0 means no cap, the opposite of what is meant here.
    if limits.max_pending_requests == Some(0) {
        found.not_enforced("spec.circuitBreaker.limits.maxPendingRequests: 0");
    }
}

fn check_balancer(found: &mut Findings, balancer: &LoadBalancer) {
    let by_hash = balancer.policy == BalancerPolicy::ConsistentHash;
    if by_hash != balancer.consistent_hash.is_some() {
        found.add(
            "spec.loadBalancer",
            "consistentHash is required exactly when policy is ConsistentHash",
            "",
        );
    }
    if by_hash {
        found.not_enforced("spec.loadBalancer.policy: ConsistentHash");
    }
    found.absent(
        "spec.loadBalancer.consistentHash".into(),
        balancer.consistent_hash,
    );
    found.absent("spec.loadBalancer.slowStart".into(), balancer.slow_start);
    if balancer.locality != Locality::Disabled {
        found.not_enforced("spec.loadBalancer.locality: PreferSameZone");
    }
}

fn check_split(found: &mut Findings, path: &str, split: &Split) {
    let backends = format!("{path}.backends");
    if split.backends.is_empty() {
        found.add(
            &backends,
            "a split without backends is not enforced by this version",
            "name the backends",
        );
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
    found.absent(format!("{path}.mirror"), split.mirror);
}

fn check_backend(found: &mut Findings, path: &str, backend: &SplitBackend) {
    check_label(found, &format!("{path}.name"), &backend.name);
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
        if entry.headers.len() > 1 {
            found.add(
                format!("{path}.headers"),
                "more than one header in an entry is not enforced by this version",
                "entries are alternatives: write one header in each, if any of them is enough",
            );
        }
        check_headers(found, &format!("{path}.headers"), &entry.headers);
        found.absent(format!("{path}.cookies"), entry.cookies);
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
        (_, Some(name)) => check_token(found, &format!("{path}.name"), name),
        (StickyType::Cookie | StickyType::ClientIdentity, None) => {}
    }
}

fn check_rules(found: &mut Findings, rules: &[Rule]) {
    found.at_most("spec.rules", rules.len(), MAX_RULES);
    found.distinct(
        "spec.rules",
        rules.iter().map(|rule| &rule.name),
        "map key (name)",
    );
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        check_label(found, &format!("{path}.name"), &rule.name);
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
        found.absent(format!("{path}.rateLimit"), rule.rate_limit);
        found.absent(format!("{path}.faultInjection"), rule.fault_injection);
        found.absent(format!("{path}.fallback"), rule.fallback);
    }
}

fn check_match(found: &mut Findings, path: &str, entry: &RuleMatch) {
    if let Some(PathMatch { kind, value }) = &entry.path {
        let path = format!("{path}.path");
        if *kind == PathMatchType::RegularExpression {
            found.not_enforced(format!("{path}.type: RegularExpression"));
        } else {
            check_path(found, &format!("{path}.value"), value);
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
    found.absent(format!("{path}.queryParams"), entry.query_params);
    found.absent(format!("{path}.grpc"), entry.grpc);
}

fn check_headers(found: &mut Findings, path: &str, headers: &[HeaderMatch]) {
    for (at, header) in headers.iter().enumerate() {
        let path = format!("{path}[{at}]");
        check_token(found, &format!("{path}.name"), &header.name);
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
            .is_some_and(|value| value.len() > MAX_VALUE)
        {
            found.add(
                format!("{path}.value"),
                format!("longer than {MAX_VALUE} bytes"),
                "",
            );
        }
        if header.kind != HeaderMatchType::Exact {
            found.not_enforced(format!("{path}.type: {:?}", header.kind));
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

fn check_path(found: &mut Findings, path: &str, value: &str) {
    if !value.starts_with('/') {
        found.add(path, "path must start with /", "");
    }
    if value.len() > MAX_VALUE {
        found.add(path, format!("longer than {MAX_VALUE} bytes"), "");
    }
}

fn check_token(found: &mut Findings, path: &str, name: &str) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > MAX_HEADER_NAME || !name.bytes().all(allowed) {
        found.add(path, format!("{name:?} is not a header or cookie name"), "");
    }
}

fn check_label(found: &mut Findings, path: &str, name: &str) {
    if !is_label(name) {
        found.add(
            path,
            format!("{name:?} is not a name"),
            "use up to 63 lower-case letters, digits and inner dashes",
        );
    }
}

fn check_name(found: &mut Findings, path: &str, name: &str) {
    let good = name.len() <= MAX_NAME && name.split('.').all(is_label);
    if !good {
        found.add(
            path,
            format!("{name:?} is not a name"),
            "use lower-case letters, digits, inner dashes and dots",
        );
    }
}

/// Whether a text is an RFC 1123 label, as namespaces and services are named.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/\*)?$`
fn is_spiffe_pattern(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    if text.len() > MAX_SPIFFE_ID {
        return false;
    }
    let rest = rest.strip_suffix("/*").unwrap_or(rest);
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !domain.is_empty()
        && domain.bytes().all(in_domain)
        && parts.all(|part| !part.is_empty() && part.bytes().all(in_path))
}
