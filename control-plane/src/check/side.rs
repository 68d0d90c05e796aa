//! Policies that nobody is there to act on or to enforce.

use super::Severity;
use super::found::{Found, Said};
use super::view::{Policy, View};
use crate::policy::{MtlsMode, Rule, TargetKind, TargetRef, TrafficPolicySpec};

pub(super) fn check(found: &mut Found, view: &View<'_>, policy: &Policy) {
    if !view.has_mesh {
        return;
    }
    let spec = &policy.object.spec;
    for target in &spec.target_refs {
        check_target(found, view, policy, target);
    }
    let mut workloads = view.model.workloads().peekable();
    let nobody_calls = workloads.peek().is_some() && workloads.all(|workload| !workload.meshed);
    if nobody_calls && has_client_side(spec) {
        found.add(
            policy,
            Said {
                severity: Severity::Warning,
                check: "no-client",
                what: "no workload has a sidecar that could enforce it as a client".to_owned(),
                why: "timeouts, retries, breakers, balancing, splits, faults and rules act in the sidecar of \
                      the caller, and every workload says meshed: false"
                    .to_owned(),
                mend: "mesh the workloads that call".to_owned(),
            },
        );
    }
}

fn check_target(found: &mut Found, view: &View<'_>, policy: &Policy, target: &TargetRef) {
    let namespace = &policy.object.metadata.namespace;
    let (place, meshed): (_, Vec<bool>) = match target.kind {
        TargetKind::Namespace if target.name != *namespace => return,
        TargetKind::Namespace => {
            let workloads = view.model.workloads();
            let own = workloads.filter(|workload| workload.name.namespace == *namespace);
            let meshed: Vec<_> = own.map(|workload| workload.meshed).collect();
            let mut services = view.model.services();
            let has_service = services.any(|service| service.name.namespace == *namespace);
            if meshed.is_empty() && !has_service {
                let said = Said {
                    severity: Severity::Warning,
                    check: "targets-nothing",
                    what: format!("it targets nothing: namespace {namespace} is empty"),
                    why: "there is no service and no workload in it".to_owned(),
                    mend: "correct the namespace, or take the policy out".to_owned(),
                };
                found.add(policy, said);
                return;
            }
            (format!("namespace {namespace}"), meshed)
        }
        TargetKind::Service => match view.model.service(namespace, &target.name) {
            None => return,
            Some(service) => (format!("service {}", service.name), view.endpoints(service)),
        },
    };
    let stanzas = server_side(&policy.object.spec);
    if !stanzas.is_empty() && !meshed.is_empty() && meshed.iter().all(|meshed| !meshed) {
        found.add_at(
            policy,
            place,
            Said {
                severity: Severity::Warning,
                check: "no-server",
                what: format!("nobody enforces {}", stanzas.join(" and ")),
                why: "it acts in the sidecar of the server, and no endpoint has one".to_owned(),
                mend: "mesh the workloads behind it, or take the stanza out".to_owned(),
            },
        );
    }
}

/// Stanzas that only a server's sidecar can enforce. To accept plaintext needs nobody.
fn server_side(spec: &TrafficPolicySpec) -> Vec<&'static str> {
    let closes = |mode| mode != MtlsMode::Disabled;
    let stanzas = [
        ("mtls", spec.mtls.is_some_and(|mtls| closes(mtls.mode))),
        ("authorization", spec.authorization.is_some()),
        ("rateLimit", has_rate_limit(spec)),
    ];
    let present = stanzas.into_iter().filter(|(_, present)| *present);
    present.map(|(name, _)| name).collect()
}

fn has_rate_limit(spec: &TrafficPolicySpec) -> bool {
    let mut rules = spec.rules.iter().flatten();
    spec.rate_limit.is_some() || rules.any(|rule| rule.rate_limit.is_some())
}

/// Rules act in the sidecar of the caller, but for those that say nothing but a rate limit. An access log
/// has the sidecars of servers too.
fn has_client_side(spec: &TrafficPolicySpec) -> bool {
    spec.timeouts.is_some()
        || spec.retries.is_some()
        || spec.circuit_breaker.is_some()
        || spec.load_balancer.is_some()
        || spec.split.is_some()
        || spec.fault_injection.is_some()
        || spec.fallback.is_some()
        || spec.rules.iter().flatten().any(|rule| !only_limits(rule))
}

fn only_limits(rule: &Rule) -> bool {
    rule.rate_limit.is_some()
        && rule.timeouts.is_none()
        && rule.retries.is_none()
        && rule.split.is_none()
        && rule.fault_injection.is_none()
        && rule.fallback.is_none()
        && rule.access_log.is_none()
}
