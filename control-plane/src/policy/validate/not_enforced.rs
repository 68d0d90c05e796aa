//! Fields that Weft's resource has and this version does not enforce: asking for one is refused.

use super::findings::Findings;
use crate::policy::spec::TrafficPolicySpec;
use crate::policy::traffic::Split;

pub(super) fn check(found: &mut Findings, spec: &TrafficPolicySpec) {
    if let Some(breaker) = &spec.circuit_breaker
        && breaker.limits.is_some()
    {
        found.not_enforced("spec.circuitBreaker.limits");
    }
    if let Some(split) = &spec.split {
        check_split(found, "spec.split", split);
    }
    for (at, rule) in spec.rules.iter().flatten().enumerate() {
        let path = format!("spec.rules[{at}]");
        if let Some(split) = &rule.split {
            check_split(found, &format!("{path}.split"), split);
        }
        if rule.rate_limit.is_some() {
            found.not_enforced(format!("{path}.rateLimit"));
        }
    }
}

fn check_split(found: &mut Findings, path: &str, split: &Split) {
    if split.backends.is_empty() {
        found.add(
            format!("{path}.backends"),
            "a split without backends is not enforced by this version",
            "name the backends",
        );
    }
    if split.mirror.is_some() {
        found.not_enforced(format!("{path}.mirror"));
    }
    for (at, backend) in split.backends.iter().enumerate() {
        for (nth, entry) in backend.matches.iter().enumerate() {
            let path = format!("{path}.backends[{at}].matches[{nth}]");
            if entry.headers.len() > 1 {
                found.not_enforced(format!("{path}.headers: more than one in an entry"));
            }
            if !entry.cookies.is_empty() {
                found.not_enforced(format!("{path}.cookies"));
            }
        }
    }
}
