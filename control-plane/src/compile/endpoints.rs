//! The endpoints of a service port, and their identities.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_proto::discovery::{Endpoint, Endpoints};
use weft_proto::spiffe::SpiffeId;

use super::wire;
use crate::index::{EndpointName, Model, Service, ServiceEndpoint, ServicePort, Workload};
use crate::policy::MtlsMode;

/// What an address weighs that nothing is known of.
const WEIGHT: u32 = 1;

/// Everything behind a service port but what is not ready or draining: removal is what stops new
/// traffic. What is draining gets traffic where there is nothing else.
pub(super) fn of_service(model: &Model, service: &Service, port: &ServicePort) -> Endpoints {
    let namespace = &service.name.namespace;
    let mut endpoints = BTreeMap::new();
    for endpoint in &service.endpoints {
        let (ip, endpoint) = match endpoint {
            ServiceEndpoint::Address(known) => {
                let target = port.target_of(&EndpointName::Address(known.ip));
                let endpoint = target.map(|port| Endpoint {
                    zone: known.zone.clone(),
                    weight: known.weight,
                    ..foreign(known.ip, port, namespace)
                });
                (known.ip, endpoint)
            }
            ServiceEndpoint::Workload(name) => {
                let Some(workload) = model.workload(namespace, name) else {
                    continue;
                };
                let Some(ip) = address(service, workload) else {
                    continue;
                };
                let closing = workload.draining && !service.last_resort;
                let wanted = !closing && !service.idle.contains(name);
                let target = port.target_of(&EndpointName::Workload(name.clone()));
                let target = target.filter(|_| wanted);
                let endpoint = target.and_then(|port| of_workload(model, workload, ip, port));
                (ip, endpoint)
            }
        };
        if let Some(endpoint) = endpoint {
            endpoints.insert(ip, endpoint);
        }
    }
    Endpoints {
        endpoints: endpoints.into_values().collect(),
    }
}

/// One address of a workload. `None` when it should have an identity and no such id can be written:
/// such an endpoint is withheld, never sent without one.
pub(super) fn of_workload(
    model: &Model,
    workload: &Workload,
    ip: IpAddr,
    port: u16,
) -> Option<Endpoint> {
    let promised = workload.meshed && model.inbound_mtls(workload, port) != MtlsMode::Disabled;
    let spiffe_id = if promised {
        let namespace = &workload.name.namespace;
        SpiffeId::new(model.trust_domain(), namespace, &workload.service_account)
            .ok()?
            .to_string()
    } else {
        String::new()
    };
    Some(Endpoint {
        address: Some(wire::socket_address(ip, port)),
        spiffe_id,
        workload: workload.name.name.clone(),
        zone: workload.zone.clone(),
        weight: workload.weight,
        namespace: workload.name.namespace.clone(),
    })
}

/// An address without a workload.
pub(super) fn foreign(ip: IpAddr, port: u16, namespace: &str) -> Endpoint {
    Endpoint {
        address: Some(wire::socket_address(ip, port)),
        weight: WEIGHT,
        namespace: namespace.to_owned(),
        ..Endpoint::default()
    }
}

/// A workload is one endpoint however many addresses it has: the first of the family that the
/// service's first cluster IP has, else its first.
fn address(service: &Service, workload: &Workload) -> Option<IpAddr> {
    let wanted = service.cluster_ips.first();
    let same_family = wanted.and_then(|wanted| {
        let mut addresses = workload.addresses.iter();
        addresses.find(|ip| ip.is_ipv4() == wanted.is_ipv4())
    });
    same_family.or(workload.addresses.first()).copied()
}
