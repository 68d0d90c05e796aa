//! Balancers that ask for what is never there to choose by.

use std::collections::{BTreeMap, BTreeSet};

use super::Severity;
use super::breaker::backends;
use super::found::{Found, Said};
use super::view::{Policy, View, place};
use crate::compile::is_opaque;
use crate::index::{Origin, Service, ServiceEndpoint, ServicePort};
use crate::policy::{BalancerPolicy, LoadBalancer, Locality};

/// Where one policy's balancer chooses.
struct Chooser<'a> {
    policy: &'a Policy,
    balancer: &'a LoadBalancer,
    /// Ports that clients address, and whether they carry bytes only.
    addressed: BTreeMap<String, bool>,
    /// Services whose endpoints are chosen among, with the zones of these.
    backends: BTreeMap<String, BTreeSet<String>>,
}

pub(super) fn check(found: &mut Found, view: &View<'_>) {
    let mut choosers: BTreeMap<Origin, Chooser<'_>> = BTreeMap::new();
    for service in view.model.services() {
        for port in &service.ports {
            for backend in backends(view, service, port) {
                let Some(policy) = choosing(view, (service, port), backend) else {
                    continue;
                };
                let Some(balancer) = &policy.object.spec.load_balancer else {
                    continue;
                };
                let chooser = choosers
                    .entry(policy.origin.clone())
                    .or_insert_with(|| Chooser {
                        policy,
                        balancer,
                        addressed: BTreeMap::new(),
                        backends: BTreeMap::new(),
                    });
                let opaque = is_opaque(view.model, port);
                chooser.addressed.insert(place(service, port), opaque);
                let name = format!("service {}", backend.0.name);
                chooser.backends.insert(name, zones(view, backend.0));
            }
        }
    }
    for chooser in choosers.values() {
        chooser.check_key(found);
        chooser.check_slow_start(found);
        chooser.check_zones(found);
    }
}

/// What acts somewhere is no mistake: a namespace's balancer holds for ports of all kinds.
impl Chooser<'_> {
    fn check_key(&self, found: &mut Found) {
        let Some(key) = &self.balancer.consistent_hash else {
            return;
        };
        let kind = match (&key.header, &key.cookie) {
            (Some(_), _) => "header",
            (None, Some(_)) => "cookie",
            (None, None) => return,
        };
        if !self.addressed.values().all(|opaque| *opaque) {
            return;
        }
        for place in self.addressed.keys() {
            found.add_at(
                self.policy,
                place.clone(),
                Said {
                    severity: Severity::Warning,
                    check: "hash-never-acts",
                    what: format!("no connection has a {kind} to hash"),
                    why: "the port carries bytes that are not looked into, so that every connection goes \
                          by chance"
                        .to_owned(),
                    mend: "use sourceIP, or say an appProtocol of HTTP".to_owned(),
                },
            );
        }
    }

    fn check_slow_start(&self, found: &mut Found) {
        let key = self.balancer.consistent_hash.as_ref();
        let has_always_a_key = self.balancer.policy == BalancerPolicy::ConsistentHash
            && key.is_some_and(|key| key.source_ip.is_some());
        if self.balancer.slow_start.is_none() || !has_always_a_key {
            return;
        }
        let said = Said {
            severity: Severity::Warning,
            check: "slow-start-never-acts",
            what: "slowStart can never act".to_owned(),
            why: "a key belongs to a new endpoint at once, and with sourceIP every request has one"
                .to_owned(),
            mend: "leave slowStart out, or use another policy".to_owned(),
        };
        found.add(self.policy, said);
    }

    fn check_zones(&self, found: &mut Found) {
        let all_alike = self.backends.values().all(|zones| zones.len() < 2);
        if self.balancer.locality != Locality::PreferSameZone || !all_alike {
            return;
        }
        for (name, zones) in &self.backends {
            let zone = zones.first().map_or("", String::as_str);
            let (check, what, mend) = if zone.is_empty() {
                (
                    "zones-unknown",
                    "PreferSameZone can never act: no endpoint has a zone".to_owned(),
                    "say the zone of every workload",
                )
            } else {
                (
                    "one-zone",
                    format!("PreferSameZone can never act: every endpoint is in zone {zone}"),
                    "add endpoints in other zones, or leave locality out",
                )
            };
            found.add_at(
                self.policy,
                name.clone(),
                Said {
                    severity: Severity::Warning,
                    check,
                    what,
                    why: "there is nothing to prefer where all endpoints are alike".to_owned(),
                    mend: mend.to_owned(),
                },
            );
        }
    }
}

/// The policy whose balancer chooses among a backend's endpoints: the backend's own, else that of the
/// service that is addressed.
fn choosing<'a>(
    view: &View<'a>,
    addressed: (&Service, &ServicePort),
    backend: (&Service, &ServicePort),
) -> Option<&'a Policy> {
    let own = view.model.own_policy(backend.0, backend.1).load_balancer;
    let own = own.filter(|_| backend.0.name != addressed.0.name);
    let (balancer, (service, port)) = match own {
        Some(balancer) => (balancer, backend),
        None => (
            view.model.policy(addressed.0, addressed.1).load_balancer?,
            addressed,
        ),
    };
    view.owner(service, port, &*balancer, |spec| {
        spec.load_balancer.as_ref()
    })
}

/// The zones of a service's endpoints; the empty one where it is unknown.
fn zones(view: &View<'_>, service: &Service) -> BTreeSet<String> {
    let namespace = &service.name.namespace;
    let endpoints = service.endpoints.iter();
    endpoints
        .filter_map(|endpoint| match endpoint {
            ServiceEndpoint::Address(foreign) => Some(foreign.zone.clone()),
            ServiceEndpoint::Workload(name) => {
                let workload = view.model.workload(namespace, name)?;
                Some(workload.zone.clone())
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::check::{Finding, check};
    use crate::source::files::read_texts;

    const MESH: &str = "
networks: [10.42.0.0/16]
workloads:
- {name: a-1, namespace: shop, addresses: [10.42.0.2], zone: a}
- {name: a-2, namespace: shop, addresses: [10.42.0.3], zone: a}
- {name: b-1, namespace: shop, addresses: [10.42.0.4], zone: b}
- {name: no-1, namespace: shop, addresses: [10.42.0.5]}
services:
- {name: both, namespace: shop, ports: [{name: http, port: 80}, {name: tcp, port: 81}],
   endpoints: [{workload: a-1}, {workload: b-1}]}
- {name: far, namespace: shop, ports: [{name: http, port: 80}],
   endpoints: [{workload: a-1}, {address: 203.0.113.9, zone: c}]}
- {name: here, namespace: shop, ports: [{name: http, port: 80}],
   endpoints: [{workload: a-1}, {workload: a-2}]}
- {name: none, namespace: shop, ports: [{name: http, port: 80}],
   endpoints: [{workload: no-1}, {address: 203.0.113.8}]}
- {name: raw, namespace: shop, ports: [{name: a, port: 5000, appProtocol: tcp}, {name: b, port: 3306}],
   endpoints: [{workload: a-1}, {workload: b-1}]}
";

    fn findings(target: &str, balancer: &str) -> Vec<Finding> {
        let policy = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: p, namespace: shop}}\n\
             spec: {{targetRefs: [{target}], loadBalancer: {balancer}}}\n"
        );
        check(read_texts(&[("mesh.yaml", MESH), ("p.yaml", &policy)])).findings
    }

    #[test]
    fn every_check_by_a_case_and_its_neighbour() {
        let by = |key: &str| format!("{{policy: ConsistentHash, consistentHash: {{{key}}}}}");
        let slow = |key: &str| {
            format!("{{policy: ConsistentHash, consistentHash: {{{key}}}, slowStart: 10s}}")
        };
        let zone = "{locality: PreferSameZone}".to_owned();
        let namespace = "kind: Namespace, name: shop";
        for (target, balancer, expected) in [
            ("name: raw", by("header: x-user"), Some("hash-never-acts")),
            ("name: raw", by("cookie: sid"), Some("hash-never-acts")),
            ("name: raw", by("sourceIP: true"), None),
            ("name: both", by("header: x-user"), None),
            (
                "name: both, sectionName: tcp",
                by("header: x-user"),
                Some("hash-never-acts"),
            ),
            (namespace, by("header: x-user"), None),
            (
                "name: both",
                slow("sourceIP: true"),
                Some("slow-start-never-acts"),
            ),
            ("name: both", slow("header: x-user"), None),
            ("name: none", zone.clone(), Some("zones-unknown")),
            ("name: here", zone.clone(), Some("one-zone")),
            ("name: both", zone.clone(), None),
            ("name: far", zone.clone(), None),
            (namespace, zone, None),
            ("name: here", "{policy: Random}".to_owned(), None),
        ] {
            let found = findings(&format!("{{{target}}}"), &balancer);
            let checks: Vec<_> = found.iter().map(|finding| finding.check).collect();
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(checks, expected, "{target} {balancer}");
        }
    }

    #[test]
    fn places_are_named() {
        let by_header = "{policy: ConsistentHash, consistentHash: {header: x-user}}";
        let found = findings("{name: raw}", by_header);
        assert_eq!(
            found[0].what,
            "no connection has a header to hash: service shop/raw port 3306, service shop/raw port 5000"
        );
    }
}
