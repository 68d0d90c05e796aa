//! Turns the model into what one sidecar is to know: pure, (model, who asks, what) → wire message.
//!
//! Every value on the wire is resolved: what no policy says is the mesh default, which is spelled
//! here. `Endpoints` are always whole; whoever serves them makes deltas. Nothing here fails: a key
//! that means nothing is `NotFound`.

mod access_log;
mod affected;
mod authority;
mod endpoints;
mod fallback;
mod fault;
mod inbound;
mod mirror;
mod outbound;
mod protocol;
mod rate_limit;
mod routes;
mod sources;
#[cfg(test)]
mod tests;
mod wire;

use std::net::IpAddr;

use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{
    AuthorityKey, EndpointsKey, ExplicitListener, HelloReply, NotFound, OutboundKey, Protocol,
    ResourceKey, update,
};

use crate::index::{Model, ServicePort};
pub use affected::{Audience, audience, may_differ};
pub(crate) use authority::spellings;
pub use sources::sources;
pub(crate) use wire::allow_list;
pub use wire::{DEFAULT_CONNECT, default_retries};

/// Who asks: from its certificate (namespace, service account) and its hello (workload, zone).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The namespace that the certificate proves.
    pub namespace: String,
    /// The service account that the certificate proves.
    pub service_account: String,
    /// The workload's name, which the caller must have checked against the two above.
    pub workload: String,
    /// The zone; empty when unknown.
    pub zone: String,
}

/// What `key` means for `client`. `NotFound` for the trust bundle, which is no part of the model.
pub fn compile(model: &Model, client: &Client, key: &ResourceKey) -> update::Resource {
    resource(model, client, key).unwrap_or(update::Resource::NotFound(NotFound {}))
}

/// What holds for the client's whole sidecar.
pub fn hello(model: &Model, client: &Client) -> HelloReply {
    let listeners = model.listeners(&client.namespace, &client.workload);
    HelloReply {
        trust_domain: model.trust_domain().to_owned(),
        networks: model.networks().iter().map(ToString::to_string).collect(),
        explicit_listeners: listeners
            .iter()
            .filter_map(|listener| {
                let name = &listener.service;
                let service = model.service(&name.namespace, &name.name)?;
                Some(ExplicitListener {
                    address: listener.listen.to_string(),
                    ip: wire::ip_bytes(*service.cluster_ips.first()?),
                    port: u32::from(listener.port),
                })
            })
            .collect(),
        server_first_ports: model
            .server_first_ports()
            .iter()
            .map(|port| u32::from(*port))
            .collect(),
        zone: model
            .workload(&client.namespace, &client.workload)
            .map_or_else(String::new, |workload| workload.zone.clone()),
    }
}

/// Whether connections to a service port are bytes to sidecars, whatever comes over them.
pub(crate) fn is_opaque(model: &Model, port: &ServicePort) -> bool {
    match protocol::of_port(port) {
        Protocol::Opaque => true,
        Protocol::Unspecified => model.server_first_ports().contains(&port.port),
        Protocol::Http1 | Protocol::Http2 => false,
    }
}

fn resource(model: &Model, client: &Client, key: &ResourceKey) -> Option<update::Resource> {
    match key.kind.as_ref()? {
        Kind::Outbound(OutboundKey { ip, port }) => {
            let (ip, port) = (read_ip(ip)?, read_port(*port)?);
            outbound::by_address(model, client, ip, port).map(update::Resource::Outbound)
        }
        Kind::Authority(AuthorityKey { authority }) => {
            outbound::by_authority(model, client, authority).map(update::Resource::Outbound)
        }
        Kind::Endpoints(EndpointsKey { service }) => {
            let key = service.as_ref()?;
            let service = model.service(&key.namespace, &key.name)?;
            let port = service.port(read_port(key.port)?)?;
            let endpoints = endpoints::of_service(model, service, port);
            Some(update::Resource::Endpoints(endpoints))
        }
        Kind::Inbound(key) => {
            let port = u16::try_from(key.port).ok()?;
            inbound::compile(model, client, port).map(update::Resource::Inbound)
        }
        Kind::TrustBundle(_) => None,
    }
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(ip.to_canonical())
}

fn read_port(port: u32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}
