//! Names of resources.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use weft_proto::discovery as wire;
use weft_proto::discovery::resource_key::Kind;

use crate::policy::{ServiceRef, decode};

/// Names a resource that the control plane keeps up to date.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Authority(Box<str>),
    Endpoints(ServiceRef),
    /// 0 is the namespace's default.
    Inbound(u16),
    Outbound(SocketAddr),
    TrustBundle,
}

impl Key {
    pub(super) fn to_wire(&self) -> wire::ResourceKey {
        let kind = match self {
            Self::Authority(authority) => Kind::Authority(wire::AuthorityKey {
                authority: authority.to_string(),
            }),
            Self::Endpoints(service) => Kind::Endpoints(wire::EndpointsKey {
                service: Some(service_to_wire(service)),
            }),
            Self::Inbound(port) => Kind::Inbound(wire::InboundKey {
                port: u32::from(*port),
            }),
            Self::Outbound(address) => Kind::Outbound(wire::OutboundKey {
                ip: ip_to_wire(address.ip()),
                port: u32::from(address.port()),
            }),
            Self::TrustBundle => Kind::TrustBundle(wire::TrustBundleKey {}),
        };
        wire::ResourceKey { kind: Some(kind) }
    }

    /// `None` for what no sidecar asks for.
    pub(super) fn from_wire(key: &wire::ResourceKey) -> Option<Self> {
        Some(match key.kind.as_ref()? {
            Kind::Authority(key) => Self::Authority(key.authority.as_str().into()),
            Kind::Endpoints(key) => {
                Self::Endpoints(decode::service_ref(key.service.as_ref()?).ok()?)
            }
            Kind::Inbound(key) => Self::Inbound(u16::try_from(key.port).ok()?),
            Kind::Outbound(key) => Self::Outbound(decode::address(&key.ip, key.port).ok()?),
            Kind::TrustBundle(_) => Self::TrustBundle,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(authority) => write!(f, "authority {authority}"),
            Self::Endpoints(service) => write!(f, "endpoints {service}"),
            Self::Inbound(port) => write!(f, "inbound {port}"),
            Self::Outbound(address) => write!(f, "outbound {address}"),
            Self::TrustBundle => f.write_str("trust bundle"),
        }
    }
}

fn service_to_wire(service: &ServiceRef) -> wire::ServiceRef {
    wire::ServiceRef {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        port: u32::from(service.port),
    }
}

fn ip_to_wire(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
