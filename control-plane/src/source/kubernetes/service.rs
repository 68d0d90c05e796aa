//! Services, trimmed to what the mesh needs of them.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::event::{Trimmed, name_of, port};
use crate::index::Name;

/// What is kept of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// None for a headless one.
    pub(super) cluster_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub(super) ports: Vec<Port>,
    /// Its endpoints get traffic before they are ready.
    pub(super) publish_not_ready: bool,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) number: u16,
    /// What endpoints listen on, where it is a number: what slices say goes before it.
    pub(super) target: Option<u16>,
    pub(super) app_protocol: String,
}

impl Service {
    /// `None` for an ExternalName, which is another word for a host outside: its traffic passes.
    pub(super) fn trim(service: k8s_openapi::api::core::v1::Service) -> (Name, Option<Self>) {
        let name = name_of(&service.metadata);
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return (name, None);
        }
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        // A headless one's word is `None`, which is no address.
        for ip in spec
            .cluster_ips
            .into_iter()
            .flatten()
            .chain(spec.cluster_ip)
        {
            if let Ok(ip) = ip.parse::<IpAddr>()
                && !cluster_ips.contains(&ip.to_canonical())
            {
                cluster_ips.push(ip.to_canonical());
            }
        }
        let tcp = |protocol: Option<&str>| protocol.unwrap_or("TCP") == "TCP";
        let ports = spec.ports.into_iter().flatten();
        let ports = ports
            .filter(|port| tcp(port.protocol.as_deref()))
            .filter_map(|known| {
                let number = port(known.port)?;
                let target = match known.target_port {
                    None | Some(IntOrString::Int(0)) => Some(number),
                    Some(IntOrString::Int(target)) => Some(port(target)?),
                    Some(IntOrString::String(_)) => None,
                };
                Some(Port {
                    name: known.name.unwrap_or_default(),
                    number,
                    target,
                    app_protocol: known.app_protocol.unwrap_or_default(),
                })
            })
            .collect();
        let trimmed = Self {
            cluster_ips,
            ports,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        };
        (name, Some(trimmed))
    }
}

impl Trimmed for Service {}
