//! Where the other replicas are: the endpoints of their headless service, as the model has them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use weft_proto::names::{cluster::REPLICAS_SERVICE, ports};

use super::{MAX_PEERS, Place};
use crate::index::{EndpointName, Model, ServiceEndpoint};

/// The other replicas' addresses, at most [`MAX_PEERS`]; and how many there are beyond that. Those that
/// are not ready may have sidecars all the same.
pub(super) fn peers(model: &Model, place: &Place) -> (BTreeSet<SocketAddr>, usize) {
    let mut all = BTreeSet::new();
    let Some(service) = model.service(&place.namespace, REPLICAS_SERVICE) else {
        return (all, 0);
    };
    let port = service.port(ports::CONTROL_PLANE).or(service.ports.first());
    for endpoint in &service.endpoints {
        let (name, ip) = match endpoint {
            ServiceEndpoint::Address(known) => {
                let own = known.ip == place.ip;
                (EndpointName::Address(known.ip), (!own).then_some(known.ip))
            }
            ServiceEndpoint::Workload(name) => {
                let ip = model
                    .workload(&place.namespace, name)
                    .and_then(|workload| other(&workload.addresses, place.ip));
                (EndpointName::Workload(name.clone()), ip)
            }
        };
        let target = port.map_or(Some(ports::CONTROL_PLANE), |port| port.target_of(&name));
        if let (Some(ip), Some(port)) = (ip, target) {
            all.insert(SocketAddr::new(ip, port));
        }
    }
    let beyond = all.len().saturating_sub(MAX_PEERS);
    (all.into_iter().take(MAX_PEERS).collect(), beyond)
}

/// An address of somebody else, of the own family if there is one.
fn other(addresses: &[IpAddr], own: IpAddr) -> Option<IpAddr> {
    if addresses.contains(&own) {
        return None;
    }
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == own.is_ipv4();
    addresses
        .iter()
        .find(same_family)
        .or(addresses.first())
        .copied()
}
