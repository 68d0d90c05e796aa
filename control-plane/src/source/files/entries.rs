//! Entries of `mesh.yaml` as objects of the model: what each of them must be by itself.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use weft_proto::names;
use weft_proto::spiffe::SpiffeId;

use crate::index::{
    ExplicitListener, ForeignEndpoint, MeshSettings, Name, Probe, Service, ServiceEndpoint,
    ServicePort, Workload, WorkloadPort,
};
use crate::policy::is_label;
use crate::source::mesh_file::{
    DEFAULT_SERVER_FIRST_PORTS, EndpointEntry, ListenerEntry, MAX_WEIGHT, MeshFile, ServiceEntry,
    WorkloadEntry,
};

/// Bytes of a zone's name.
const MAX_ZONE: usize = 63;

pub(super) fn settings(file: MeshFile) -> Result<MeshSettings, String> {
    let trust_domain = file
        .trust_domain
        .unwrap_or_else(|| names::DEFAULT_TRUST_DOMAIN.to_owned());
    SpiffeId::new(&trust_domain, "a", "a").map_err(|error| format!("trustDomain: {error}"))?;
    if file.networks.is_empty() {
        return Err("networks: at least one is required".to_owned());
    }
    let defaults = file.defaults.unwrap_or_default();
    Ok(MeshSettings {
        trust_domain,
        networks: file.networks,
        server_first_ports: file
            .server_first_ports
            .unwrap_or_else(|| DEFAULT_SERVER_FIRST_PORTS.to_vec()),
        minimum_mtls: defaults.mtls,
        default_authorization: defaults.authorization.unwrap_or_default(),
    })
}

pub(super) fn workload(entry: WorkloadEntry) -> Result<Workload, String> {
    check_label("name", &entry.name)?;
    check_label("namespace", &entry.namespace)?;
    SpiffeId::new("a", &entry.namespace, &entry.service_account)
        .map_err(|error| format!("serviceAccount: {error}"))?;
    if entry.addresses.is_empty() {
        return Err("addresses: at least one is required".to_owned());
    }
    let addresses = canonical(&entry.addresses);
    check_distinct("addresses", &addresses)?;
    check_ports(entry.ports.iter().map(|port| port.port))?;
    check_zone(&entry.zone)?;
    check_weight(entry.weight)?;
    let probes = entry.ports.iter().flat_map(|port| &port.probes);
    for probe in probes {
        if !probe.path.starts_with('/') {
            return Err(format!("probes: path {:?} must start with /", probe.path));
        }
    }
    Ok(Workload {
        owner: entry.name.clone(),
        name: Name::new(entry.namespace, entry.name),
        service_account: entry.service_account,
        addresses,
        meshed: entry.meshed,
        zone: entry.zone,
        weight: entry.weight,
        draining: entry.draining,
        // A process of no cluster ends its sidecar itself.
        ended: false,
        ports: entry
            .ports
            .into_iter()
            .map(|port| WorkloadPort {
                port: port.port,
                protocol: port.protocol,
                probes: port
                    .probes
                    .into_iter()
                    .map(|probe| Probe {
                        path: probe.path,
                        method: probe.method.to_ascii_uppercase(),
                    })
                    .collect(),
            })
            .collect(),
    })
}

pub(super) fn service(entry: ServiceEntry) -> Result<Service, String> {
    check_label("name", &entry.name)?;
    check_label("namespace", &entry.namespace)?;
    let cluster_ips = canonical(&entry.cluster_ips);
    check_distinct("clusterIPs", &cluster_ips)?;
    if entry.ports.is_empty() {
        return Err("ports: at least one is required".to_owned());
    }
    check_ports(entry.ports.iter().map(|port| port.port))?;
    if entry.ports.iter().any(|port| port.target_port == Some(0)) {
        return Err("ports: targetPort 0 is not between 1 and 65535".to_owned());
    }
    let named = entry.ports.iter().filter(|port| !port.name.is_empty());
    check_distinct(
        "ports: name",
        &named.map(|port| &port.name).collect::<Vec<_>>(),
    )?;
    let endpoints = entry
        .endpoints
        .into_iter()
        .map(endpoint)
        .collect::<Result<Vec<_>, _>>()?;
    let places = endpoints.iter().map(|endpoint| match endpoint {
        ServiceEndpoint::Workload(name) => Ok(name),
        ServiceEndpoint::Address(foreign) => Err(foreign.ip),
    });
    check_distinct("endpoints", &places.collect::<Vec<_>>())?;
    Ok(Service {
        name: Name::new(entry.namespace, entry.name),
        cluster_ips,
        ports: entry
            .ports
            .into_iter()
            .map(|port| ServicePort {
                name: port.name,
                port: port.port,
                target_port: port.target_port.unwrap_or(port.port),
                exceptions: Default::default(),
                app_protocol: port.app_protocol,
            })
            .collect(),
        endpoints,
        idle: Default::default(),
        last_resort: false,
    })
}

pub(super) fn listener(entry: &ListenerEntry) -> Result<ExplicitListener, String> {
    if !entry.listen.ip().is_loopback() || entry.listen.port() == 0 {
        return Err(format!(
            "listen: {} is no loopback address and port",
            entry.listen
        ));
    }
    Ok(ExplicitListener {
        workload: qualified("workload", &entry.workload)?,
        listen: entry.listen,
        service: qualified("service", &entry.service)?,
        port: entry.port,
    })
}

fn endpoint(entry: EndpointEntry) -> Result<ServiceEndpoint, String> {
    match (entry.workload, entry.address) {
        (Some(_), None) if entry.zone.is_some() || entry.weight.is_some() => {
            Err("endpoints: zone and weight of a workload belong into its own entry".to_owned())
        }
        (Some(name), None) => Ok(ServiceEndpoint::Workload(name)),
        (None, Some(ip)) => {
            let zone = entry.zone.unwrap_or_default();
            let weight = entry.weight.unwrap_or(1);
            check_zone(&zone)?;
            check_weight(weight)?;
            Ok(ServiceEndpoint::Address(ForeignEndpoint {
                ip: ip.to_canonical(),
                zone,
                weight,
            }))
        }
        _ => Err("endpoints: exactly one of workload or address is required".to_owned()),
    }
}

fn qualified(field: &str, text: &str) -> Result<Name, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => {
            Ok(Name::new(namespace, name))
        }
        _ => Err(format!("{field}: {text:?} is not namespace/name")),
    }
}

fn canonical(addresses: &[IpAddr]) -> Vec<IpAddr> {
    addresses.iter().map(IpAddr::to_canonical).collect()
}

fn check_label(field: &str, text: &str) -> Result<(), String> {
    if is_label(text) {
        return Ok(());
    }
    Err(format!(
        "{field}: {text:?} is not a name of up to 63 lower-case letters, digits and inner dashes"
    ))
}

fn check_ports(ports: impl Iterator<Item = u16>) -> Result<(), String> {
    let ports: Vec<_> = ports.collect();
    if ports.contains(&0) {
        return Err("ports: 0 is not between 1 and 65535".to_owned());
    }
    check_distinct("ports", &ports)
}

/// As sidecars take their own zone: another one could never be equal to it.
fn check_zone(zone: &str) -> Result<(), String> {
    let fits = zone.len() <= MAX_ZONE
        && zone
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(format!(
        "zone: {zone:?} is not a name of up to {MAX_ZONE} letters, digits, dashes, underscores and dots"
    ))
}

fn check_weight(weight: u32) -> Result<(), String> {
    if (1..=MAX_WEIGHT).contains(&weight) {
        return Ok(());
    }
    Err(format!(
        "weight: {weight} is not between 1 and {MAX_WEIGHT}; `draining: true` stops traffic"
    ))
}

fn check_distinct<T: Hash + Eq>(field: &str, items: &[T]) -> Result<(), String> {
    let mut seen = HashSet::new();
    if items.iter().all(|item| seen.insert(item)) {
        return Ok(());
    }
    Err(format!("{field}: something is there twice"))
}
