//! The services that policies and routes speak of, where nobody says what the mesh is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::index::{Name, Origin, Service, ServicePort, Sourced};
use crate::policy::{TargetKind, TrafficPolicy};
use crate::route::Route;

/// What is said of one service.
struct Spoken {
    /// Who spoke of it first.
    origin: Origin,
    /// Names of ports.
    names: BTreeSet<String>,
    /// Numbers of ports.
    numbers: BTreeSet<u16>,
}

/// Every service that is spoken of.
#[derive(Default)]
struct All(BTreeMap<Name, Spoken>);

/// Every service that a policy targets or sends requests to, or that a route is attached to or leads to, with
/// the ports that are named. Nobody says which name goes with which number, so that each is a port of its own.
pub(super) fn services(
    policies: &[Sourced<Arc<TrafficPolicy>>],
    routes: &[Sourced<Arc<Route>>],
) -> Vec<Sourced<Service>> {
    let mut all = All::default();
    for Sourced { origin, object } in policies {
        let namespace = &object.metadata.namespace;
        for target in &object.spec.target_refs {
            if target.kind == TargetKind::Service {
                let spoken = all.of(origin, namespace, &target.name);
                spoken.names.extend(target.section_name.clone());
            }
        }
        for backend in object.spec.named_services() {
            all.of(origin, namespace, backend);
        }
    }
    for Sourced { origin, object } in routes {
        for parent in &object.parents {
            let spoken = all.of(origin, &parent.namespace, &parent.name);
            spoken.names.extend(parent.section_name.clone());
            spoken.numbers.extend(parent.port);
        }
        for rule in &object.rules {
            let mirrors = rule.filters.mirror.iter().map(|mirror| &mirror.reference);
            let backends = rule.backends.iter().map(|backend| &backend.reference);
            for backend in backends.chain(mirrors).filter(|it| it.is_service()) {
                let spoken = all.of(origin, &backend.namespace, &backend.name);
                spoken.numbers.extend(backend.port);
            }
        }
    }
    all.into_services()
}

impl All {
    fn of(&mut self, origin: &Origin, namespace: &str, name: &str) -> &mut Spoken {
        let entry = self.0.entry(Name::new(namespace, name));
        entry.or_insert_with(|| Spoken {
            origin: origin.clone(),
            names: BTreeSet::new(),
            numbers: BTreeSet::new(),
        })
    }

    fn into_services(self) -> Vec<Sourced<Service>> {
        let spoken = self.0.into_iter();
        spoken
            .map(|(name, spoken)| {
                let object = Service {
                    name,
                    cluster_ips: Vec::new(),
                    ports: ports(&spoken),
                    endpoints: Vec::new(),
                    idle: Default::default(),
                    last_resort: false,
                };
                Sourced {
                    origin: spoken.origin,
                    object,
                }
            })
            .collect()
    }
}

/// Ports with these numbers, and with these names under numbers that are free; one where there are none.
fn ports(spoken: &Spoken) -> Vec<ServicePort> {
    let port = |name: String, port: u16| ServicePort {
        name,
        port,
        target_port: port,
        exceptions: Default::default(),
        app_protocol: String::new(),
    };
    let free = (1..).filter(|number| !spoken.numbers.contains(number));
    let unnamed = spoken.numbers.is_empty().then(String::new);
    let numbered = spoken.numbers.iter().map(|number| (String::new(), *number));
    let named = unnamed.into_iter().chain(spoken.names.iter().cloned());
    let all = numbered.chain(named.zip(free));
    all.map(|(name, number)| port(name, number)).collect()
}
