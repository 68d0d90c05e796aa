//! From the wire to the types of this process.
//!
//! What breaks the wire's rules is refused whole, with the place and the reason: the last good
//! version stays in force, and the control plane hears why. Nothing is guessed and nothing is
//! defaulted, since a sidecar that fills in for a newer control plane would enforce something that
//! nobody wrote. Enum values that this version does not know are refused for the same reason.
//!
//! The ways in are here; each part of a message has a file of its own, and `fields` is what all of them
//! ask of single fields.

mod access_log;
mod backend;
mod balancer;
mod fallback;
mod fault;
mod fields;
mod filters;
mod inbound;
mod rate_limit;
mod route;
mod service;
mod split;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use weft_proto::discovery as wire;

use super::{EndpointInfo, ExplicitListener, InboundPolicy, MeshInfo, OutboundTarget, ServiceRef};
use fields::{at, each, missing, parse, port, refuse};

pub(crate) use fields::known;

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct DecodeError {
    /// Where, as `routes[2].split`.
    place: String,
    why: Cow<'static, str>,
}

impl DecodeError {
    fn within(self, outer: &str) -> Self {
        let place = match self.place.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        Self { place, ..self }
    }
}

type Decoded<T> = Result<T, DecodeError>;

/// A change of a set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsDelta {
    /// New or changed.
    pub upsert: Vec<EndpointInfo>,
    /// Gone.
    pub remove: Vec<SocketAddr>,
}

/// What holds for the whole sidecar.
pub fn mesh_info(reply: &wire::HelloReply) -> Decoded<MeshInfo> {
    if reply.trust_domain.is_empty() {
        return Err(missing("trust_domain"));
    }
    Ok(MeshInfo {
        trust_domain: reply.trust_domain.as_str().into(),
        networks: each("networks", &reply.networks, |text| parse(text))?,
        explicit_listeners: each(
            "explicit_listeners",
            &reply.explicit_listeners,
            |listener| {
                Ok(ExplicitListener {
                    address: parse(&listener.address).map_err(at("address"))?,
                    destination: address(&listener.ip, listener.port)?,
                })
            },
        )?,
        server_first_ports: each("server_first_ports", &reply.server_first_ports, |&number| {
            port(number)
        })?,
        zone: reply.zone.as_str().into(),
    })
}

/// What a destination means.
pub fn outbound(message: &wire::Outbound) -> Decoded<OutboundTarget> {
    use wire::outbound::Target;
    match message.target.as_ref().ok_or(missing("target"))? {
        Target::Service(service) => {
            let service = service::service_target(service).map_err(at("service"))?;
            Ok(OutboundTarget::Service(Arc::new(service)))
        }
        Target::Endpoint(endpoint) => {
            let target = service::endpoint_target(endpoint).map_err(at("endpoint"))?;
            Ok(OutboundTarget::Endpoint(target))
        }
    }
}

/// A whole set of endpoints.
pub fn endpoints(message: &wire::Endpoints) -> Decoded<Vec<EndpointInfo>> {
    each("endpoints", &message.endpoints, service::endpoint)
}

/// A change of a set of endpoints.
pub fn endpoints_delta(message: &wire::EndpointsDelta) -> Decoded<EndpointsDelta> {
    Ok(EndpointsDelta {
        upsert: each("upsert", &message.upsert, service::endpoint)?,
        remove: each("remove", &message.remove, socket_address)?,
    })
}

/// How the own workload is served on a port.
pub fn inbound(message: &wire::Inbound) -> Decoded<InboundPolicy> {
    inbound::decode(message)
}

/// A service port, which must have a namespace, a name and a port.
pub fn service_ref(message: &wire::ServiceRef) -> Decoded<ServiceRef> {
    if message.namespace.is_empty() {
        return Err(missing("namespace"));
    }
    if message.name.is_empty() {
        return Err(missing("name"));
    }
    Ok(ServiceRef {
        namespace: message.namespace.as_str().into(),
        name: message.name.as_str().into(),
        port: port(message.port)?,
    })
}

/// An address with a port.
pub fn socket_address(message: &wire::SocketAddress) -> Decoded<SocketAddr> {
    address(&message.ip, message.port)
}

/// An address of 4 or 16 bytes and a port from 1. IPv4 in IPv6's clothes is IPv4.
pub fn address(ip: &[u8], number: u32) -> Decoded<SocketAddr> {
    let ip = match ip.len() {
        4 => <[u8; 4]>::try_from(ip)
            .ok()
            .map(Ipv4Addr::from)
            .map(IpAddr::V4),
        16 => <[u8; 16]>::try_from(ip)
            .ok()
            .map(Ipv6Addr::from)
            .map(IpAddr::V6),
        _ => None,
    };
    let ip = ip.ok_or_else(|| refuse("ip", "neither 4 nor 16 bytes"))?;
    Ok(SocketAddr::new(ip.to_canonical(), port(number)?))
}
