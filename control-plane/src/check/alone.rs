//! What a policy by itself shows.

use super::Severity;
use super::found::{Found, Said};
use super::view::Policy;
use crate::policy::{CircuitBreaker, Method, PathMatch, PathMatchType, Retries, Rule, RuleMatch};

/// Methods whose repetition does a thing twice (RFC 9110, 9.2.2; PATCH: RFC 5789, 2).
const NOT_IDEMPOTENT: [Method; 3] = [Method::Post, Method::Patch, Method::Connect];

pub(super) fn check(found: &mut Found, policy: &Policy) {
    let spec = &policy.object.spec;
    let rules = spec.rules.as_deref().unwrap_or_default();
    if let Some(retries) = &spec.retries {
        check_retries(found, policy, "spec.retries", retries);
    }
    for rule in rules {
        if let Some(retries) = &rule.retries {
            let path = format!("retries of rule {}", rule.name);
            check_retries(found, policy, &path, retries);
        }
    }
    check_limits(found, policy, spec.circuit_breaker.as_ref());
    check_rules(found, policy, rules);
    if let Some(breaker) = &spec.circuit_breaker {
        check_error_rate(found, policy, breaker);
    }
}

/// A share of failures that cannot be reached before as many in a row as trip the breaker already.
fn check_error_rate(found: &mut Found, policy: &Policy, breaker: &CircuitBreaker) {
    let (Some(row), Some(rate)) = (&breaker.consecutive_failures, &breaker.error_rate) else {
        return;
    };
    let acts_from = |least| acts_from(least, rate.threshold_percent, row.threshold);
    if acts_from(rate.min_requests) {
        return;
    }
    let lower = (1..rate.min_requests.min(row.threshold))
        .rev()
        .find(|least| acts_from(*least));
    let mend = match lower {
        Some(least) => format!("use minRequests of at most {least}, or a lower thresholdPercent"),
        None => "use a lower thresholdPercent, or leave errorRate out".to_owned(),
    };
    found.add(
        policy,
        Said {
            severity: Severity::Warning,
            check: "error-rate",
            what: format!(
                "errorRate of {} % with minRequests {} can never trip the breaker",
                rate.threshold_percent, rate.min_requests
            ),
            why: format!(
                "among so many requests there cannot be that many failures without {} in a row, by \
                 which consecutiveFailures trips it before",
                row.threshold
            ),
            mend,
        },
    );
}

/// Whether among `least` or more requests a share of `percent` can fail without `row` failures in a
/// row. Of `n` requests at most `n - n / row` can; the share is highest just before a multiple of
/// `row`, and the highest of these is the first one.
pub(super) fn acts_from(least: u32, percent: u32, row: u32) -> bool {
    let (least, percent, row) = (u64::from(least), u64::from(percent), u64::from(row));
    (least..least + row).any(|n| (n - n / row) * 100 >= percent * n)
}

/// A queue for what is never capped.
fn check_limits(found: &mut Found, policy: &Policy, breaker: Option<&CircuitBreaker>) {
    let Some(limits) = breaker.and_then(|breaker| breaker.limits.as_ref()) else {
        return;
    };
    if limits.max_requests.is_none() && limits.max_connections.is_none() {
        found.add(
            policy,
            Said {
                severity: Severity::Warning,
                check: "queue-without-cap",
                what: "circuitBreaker.limits has maxPendingRequests alone".to_owned(),
                why: "requests wait only where maxRequests or maxConnections is reached".to_owned(),
                mend: "cap requests or connections, or leave limits out".to_owned(),
            },
        );
    }
}

fn check_retries(found: &mut Found, policy: &Policy, path: &str, retries: &Retries) {
    if retries.attempts == 0 {
        let off = Retries {
            attempts: 0,
            ..Retries::default()
        };
        if *retries != off {
            found.add(
                policy,
                Said {
                    severity: Severity::Warning,
                    check: "retries-off",
                    what: format!("{path}: attempts is 0, and other fields are set"),
                    why: "nothing is ever repeated, so the other fields do nothing".to_owned(),
                    mend: "leave the other fields out, or raise attempts".to_owned(),
                },
            );
        }
        return;
    }
    let risky: Vec<_> = retries
        .methods
        .iter()
        .filter(|method| NOT_IDEMPOTENT.contains(method))
        .map(|method| method.as_str())
        .collect();
    if !risky.is_empty() {
        found.add(
            policy,
            Said {
                severity: Severity::Warning,
                check: "not-idempotent",
                what: format!("{path}: methods has {}", risky.join(", ")),
                why: "a try that failed may have been processed; repeating it does it twice"
                    .to_owned(),
                mend: "leave them out, and let clients that want a retry send Idempotency-Key"
                    .to_owned(),
            },
        );
    }
}

/// The first rule that matches wins: one is dead when each of its matches is within one above.
fn check_rules(found: &mut Found, policy: &Policy, rules: &[Rule]) {
    for (at, rule) in rules.iter().enumerate() {
        let winner = |entry: &RuleMatch| {
            let above = rules[..at].iter();
            above
                .clone()
                .find(|above| above.matches.iter().any(|wider| covers(wider, entry)))
        };
        let winners: Option<Vec<&Rule>> = rule.matches.iter().map(winner).collect();
        let Some(mut winners) = winners else {
            continue;
        };
        winners.dedup_by_key(|winner| &winner.name);
        let names: Vec<_> = winners.iter().map(|winner| winner.name.as_str()).collect();
        found.add(
            policy,
            Said {
                severity: Severity::Warning,
                check: "shadowed-rule",
                what: format!("rule {} can never match", rule.name),
                why: format!(
                    "rules are tried in order, and all that it matches is taken by {} before",
                    names.join(", ")
                ),
                mend: format!("move it above {}, or take it out", names[0]),
            },
        );
    }
}

/// Whether all that `entry` matches is matched by `wider`. Errs towards no.
fn covers(wider: &RuleMatch, entry: &RuleMatch) -> bool {
    // Whatever else it asks for is not compared.
    let rest = RuleMatch {
        path: None,
        method: None,
        headers: Vec::new(),
        ..wider.clone()
    };
    let headers = wider.headers.iter().all(|wanted| {
        entry.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case(&wanted.name)
                && (header.kind, &header.value) == (wanted.kind, &wanted.value)
        })
    });
    rest == RuleMatch::default()
        && headers
        && (wider.method.is_none() || wider.method == entry.method)
        && covers_path(wider.path.as_ref(), entry.path.as_ref())
}

fn covers_path(wider: Option<&PathMatch>, entry: Option<&PathMatch>) -> bool {
    let Some(wider) = wider else {
        return true;
    };
    if wider.kind != PathMatchType::PathPrefix {
        return Some(wider) == entry;
    }
    let prefix = wider.value.trim_end_matches('/');
    if prefix.is_empty() {
        return true;
    }
    entry.is_some_and(|entry| {
        let rest = entry.value.strip_prefix(prefix);
        entry.kind != PathMatchType::RegularExpression
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
