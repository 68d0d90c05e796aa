//! Bounds, and what fields ask of each other. The bounds and messages are those of the resource's
//! schema, so that a cluster and a directory refuse the same things with the same words.

mod fallback;
mod fault;
mod findings;
mod not_enforced;
mod rate_limit;
mod traffic;

use std::fmt;

use weft_proto::names;

use super::spec::{
    Authorization, MtlsMode, Principal, TargetKind, TargetRef, TrafficPolicy, TrafficPolicySpec,
};
use findings::Findings;
pub(crate) use findings::is_label;

const MAX_TARGETS: usize = 16;
const MAX_ALLOW_ENTRIES: usize = 16;
const MAX_PRINCIPALS: usize = 16;
const MAX_ALLOW_PATHS: usize = 8;
const MAX_SPIFFE_ID: usize = 512;

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
        found.name("metadata.name", &self.metadata.name);
        found.label("metadata.namespace", &self.metadata.namespace);
        check_spec(&mut found, &self.spec);
        found.0
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
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
        traffic::check_timeouts(found, "spec.timeouts", timeouts);
    }
    if let Some(retries) = retries {
        traffic::check_retries(found, "spec.retries", retries);
    }
    if let Some(breaker) = circuit_breaker {
        traffic::check_breaker(found, breaker);
    }
    if let Some(balancer) = load_balancer {
        traffic::check_balancer(found, balancer);
    }
    if let Some(split) = split {
        traffic::check_split(found, "spec.split", split);
    }
    if let Some(rules) = rules {
        traffic::check_rules(found, rules);
    }
    if let Some(fault) = fault_injection {
        fault::check_fault(found, "spec.faultInjection", fault);
    }
    if let Some(fallback) = fallback {
        fallback::check_fallback(found, "spec.fallback", fallback);
    }
    if let Some(limit) = rate_limit {
        rate_limit::check(found, "spec.rateLimit", limit);
    }
    not_enforced::check(found, spec);
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
        found.name(&format!("{path}.name"), &target.name);
        let Some(section) = &target.section_name else {
            continue;
        };
        let path = format!("{path}.sectionName");
        if target.kind == TargetKind::Service {
            found.label(&path, section);
        } else {
            found.add(path, "sectionName needs kind Service", "");
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
            found.path(&format!("{paths}[{at}]"), prefix);
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
            found.label(&format!("{path}.serviceAccount.namespace"), namespace);
        }
        if account.name != "*" {
            found.name(&format!("{path}.serviceAccount.name"), &account.name);
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
