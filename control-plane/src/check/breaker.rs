//! Breakers that the number of endpoints keeps from acting as they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Severity;
use super::found::{Found, Said};
use super::view::{Policy, View};
use crate::index::{Name, Origin, Service, ServicePort};
use crate::policy::{BreakerScope, CircuitBreaker, Split};

/// The backends that one policy's breaker watches, with how many endpoints each has.
struct Watched<'a> {
    policy: &'a Policy,
    percent: u32,
    endpoints: BTreeMap<Name, usize>,
}

pub(super) fn check(found: &mut Found, view: &View<'_>) {
    let mut breakers: BTreeMap<Origin, Watched<'_>> = BTreeMap::new();
    for service in view.model.services() {
        for port in &service.ports {
            for (backend, backend_port) in backends(view, service, port) {
                let addressed = (service, port);
                let Some((policy, percent)) = ejecting(view, addressed, (backend, backend_port))
                else {
                    continue;
                };
                let watched = breakers
                    .entry(policy.origin.clone())
                    .or_insert_with(|| Watched {
                        policy,
                        percent,
                        endpoints: BTreeMap::new(),
                    });
                let count = view.endpoints(backend).len();
                watched.endpoints.insert(backend.name.clone(), count);
            }
        }
    }
    for watched in breakers.values() {
        judge(found, watched);
    }
}

/// A breaker that acts somewhere is no mistake: a namespace's holds for small services as well.
fn judge(found: &mut Found, watched: &Watched<'_>) {
    let Watched {
        policy,
        percent,
        endpoints,
    } = watched;
    // The cap of the sidecar: the share, rounded down, but one where there are two endpoints.
    let rounds_to_none = |count: usize| count * *percent as usize / 100 == 0;
    let said = if endpoints.values().all(|count| *count < 2) {
        Said {
            severity: Severity::Warning,
            check: "breaker-never-acts",
            what: "circuitBreaker of scope Endpoint can never open".to_owned(),
            why: "the last endpoint of a backend is never ejected, and there are fewer than two"
                .to_owned(),
            mend: "use scope: Backend, or add endpoints".to_owned(),
        }
    } else if endpoints
        .values()
        .all(|count| *count < 2 || rounds_to_none(*count))
    {
        Said {
            severity: Severity::Warning,
            check: "ejection-cap",
            what: format!("maxEjectionPercent {percent} is less than one endpoint"),
            why: "one may be ejected all the same, and never a second: the share does not act"
                .to_owned(),
            mend: "raise maxEjectionPercent until it means whole endpoints".to_owned(),
        }
    } else {
        return;
    };
    for (name, count) in endpoints {
        let place = match count {
            1 => format!("service {name} has 1 endpoint"),
            count => format!("service {name} has {count} endpoints"),
        };
        found.add_at(policy, place, said.clone());
    }
}

/// The policy whose breaker ejects a backend's endpoints, and the share that it may eject.
fn ejecting<'a>(
    view: &View<'a>,
    addressed: (&Service, &ServicePort),
    backend: (&Service, &ServicePort),
) -> Option<(&'a Policy, u32)> {
    let (breaker, (service, port)) = in_force(view, addressed, backend)?;
    if breaker.scope != BreakerScope::Endpoint {
        return None;
    }
    let policy = view.owner(service, port, &*breaker, |spec| {
        spec.circuit_breaker.as_ref()
    })?;
    Some((policy, breaker.max_ejection_percent))
}

/// The breaker that watches a backend and can trip, and whose it is: the backend's own, else that of
/// the service that is addressed.
pub(super) fn in_force<'b>(
    view: &View<'_>,
    addressed: (&'b Service, &'b ServicePort),
    backend: (&'b Service, &'b ServicePort),
) -> Option<(Arc<CircuitBreaker>, (&'b Service, &'b ServicePort))> {
    let own = view.model.own_policy(backend.0, backend.1).circuit_breaker;
    let own = own.filter(|_| backend.0.name != addressed.0.name);
    let (breaker, whose) = if let Some(breaker) = own {
        (breaker, backend)
    } else {
        let policy = view.model.policy(addressed.0, addressed.1);
        (policy.circuit_breaker?, addressed)
    };
    trips(&breaker).then_some((breaker, whose))
}

/// A breaker may be there for its limits alone.
fn trips(breaker: &CircuitBreaker) -> bool {
    breaker.consecutive_failures.is_some() || breaker.error_rate.is_some()
}

/// Everywhere that requests to a service port go.
pub(super) fn backends<'a>(
    view: &View<'a>,
    service: &'a Service,
    port: &'a ServicePort,
) -> Vec<(&'a Service, &'a ServicePort)> {
    let policy = view.model.policy(service, port);
    let rules = policy.rules.as_deref().unwrap_or_default();
    let of_rules = rules.iter().filter_map(|rule| rule.split.as_ref());
    let mut backends: Vec<_> = of_rules
        .chain(policy.split.as_deref())
        .flat_map(|split| sides(view, service, port, split))
        .collect();
    let elsewhere = |split: &Split| !split.backends.is_empty();
    if !policy.split.as_deref().is_some_and(elsewhere) {
        backends.push((service, port));
    }
    backends
}

/// The service ports that a split names and that are there.
pub(super) fn sides<'a>(
    view: &View<'a>,
    service: &Service,
    port: &ServicePort,
    split: &Split,
) -> impl Iterator<Item = (&'a Service, &'a ServicePort)> {
    let found: Vec<_> = split
        .backends
        .iter()
        .filter_map(|side| {
            let model = view.model;
            let backend = model.service(&service.name.namespace, &side.name)?;
            Some((backend, backend.port(side.port.unwrap_or(port.port))?))
        })
        .collect();
    found.into_iter()
}
