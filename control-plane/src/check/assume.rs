//! The services that policies speak of, where nobody says what the mesh is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::index::{Name, Origin, Service, ServicePort, Sourced};
use crate::policy::{TargetKind, TrafficPolicy};

/// Every service that a policy targets or sends requests to, with the ports that are named.
pub(super) fn services(policies: &[Sourced<Arc<TrafficPolicy>>]) -> Vec<Sourced<Service>> {
    let mut known: BTreeMap<Name, (Origin, BTreeSet<String>)> = BTreeMap::new();
    for Sourced { origin, object } in policies {
        let namespace = &object.metadata.namespace;
        let mut name = |service: &str, section: Option<&String>| {
            let (_, ports) = known
                .entry(Name::new(&**namespace, service))
                .or_insert_with(|| (origin.clone(), BTreeSet::from([String::new()])));
            ports.extend(section.cloned());
        };
        for target in &object.spec.target_refs {
            if target.kind == TargetKind::Service {
                name(&target.name, target.section_name.as_ref());
            }
        }
        for backend in object.spec.named_services() {
            name(backend, None);
        }
    }
    let services = known.into_iter();
    services
        .map(|(name, (origin, ports))| Sourced {
            origin,
            object: Service {
                name,
                cluster_ips: Vec::new(),
                ports: (1..)
                    .zip(ports)
                    .map(|(port, name)| ServicePort {
                        name,
                        port,
                        target_port: port,
                        exceptions: Default::default(),
                        app_protocol: String::new(),
                    })
                    .collect(),
                endpoints: Vec::new(),
                idle: Default::default(),
                last_resort: false,
            },
        })
        .collect()
}
