//! Fallbacks whose trigger can never come about.

use std::sync::Arc;

use super::Severity;
use super::breaker::{in_force, sides};
use super::found::{Found, Said};
use super::view::{Policy, View, place};
use crate::index::{Service, ServicePort, Stanzas};
use crate::policy::{BreakerScope, CircuitBreaker, Fallback, FallbackTrigger, Rule};

pub(super) fn check(found: &mut Found, view: &View<'_>) {
    for service in view.model.services() {
        for port in &service.ports {
            let policy = view.model.policy(service, port);
            let addressed = (service, port);
            let rules = policy.rules.as_deref().unwrap_or_default();
            for rule in rules {
                if let Some(fallback) = &rule.fallback {
                    let owner = view.owner(service, port, rules, |spec| spec.rules.as_deref());
                    let breakers = breakers(view, addressed, &policy, Some(rule));
                    judge(found, view, addressed, fallback, owner, &breakers);
                }
            }
            let Some(fallback) = policy.fallback.as_deref() else {
                continue;
            };
            let owner = view.owner(service, port, fallback, |spec| spec.fallback.as_ref());
            // It holds for the rules too that have none of their own.
            let routes = rules.iter().filter(|rule| rule.fallback.is_none());
            let breakers: Vec<_> = routes
                .map(Some)
                .chain([None])
                .flat_map(|rule| breakers(view, addressed, &policy, rule))
                .collect();
            judge(found, view, addressed, fallback, owner, &breakers);
        }
    }
}

fn judge(
    found: &mut Found,
    view: &View<'_>,
    (service, port): (&Service, &ServicePort),
    fallback: &Fallback,
    owner: Option<&Policy>,
    breakers: &[Arc<CircuitBreaker>],
) {
    let fails_fast = |breaker: &Arc<CircuitBreaker>| breaker.scope == BreakerScope::Backend;
    // Without a mesh the breaker may be in a file that is not looked at.
    let unknown = breakers.is_empty() && !view.has_mesh;
    let waits = fallback.triggers.contains(&FallbackTrigger::CircuitOpen);
    let Some(owner) = owner.filter(|_| waits && !unknown && !breakers.iter().any(fails_fast))
    else {
        return;
    };
    let why = if breakers.is_empty() {
        "no circuitBreaker with a trigger holds there"
    } else {
        "scope Endpoint takes endpoints out and never the last one, so it refuses no request; only \
         people who force every endpoint open bring it about"
    };
    found.add_at(
        owner,
        place(service, port),
        Said {
            severity: Severity::Warning,
            check: "circuit-open",
            what: "the fallback trigger CircuitOpen can never come about".to_owned(),
            why: why.to_owned(),
            mend: "use scope: Backend in the circuitBreaker, or leave CircuitOpen out".to_owned(),
        },
    );
}

/// The breakers that watch the backends of a route.
fn breakers(
    view: &View<'_>,
    addressed: (&Service, &ServicePort),
    policy: &Stanzas,
    rule: Option<&Rule>,
) -> Vec<Arc<CircuitBreaker>> {
    let own = rule.and_then(|rule| rule.split.as_ref());
    let breaker = |backend| Some(in_force(view, addressed, backend)?.0);
    match own.or(policy.split.as_deref()) {
        None => breaker(addressed).into_iter().collect(),
        Some(split) => sides(view, addressed.0, addressed.1, split)
            .filter_map(breaker)
            .collect(),
    }
}
