//! Who shares a compiled resource, and which changes of the model may be changes of it: what `resource`
//! reads, said once more. Both err on one side only: too many contents, too many changes.

use std::net::IpAddr;

use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{AuthorityKey, EndpointsKey, OutboundKey, ResourceKey};

use super::authority::{self, Authority};
use super::{Client, read_ip};
use crate::index::{Destination, Model, Since};

/// Whose the content of a resource is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Everybody's.
    Everybody,
    /// Each namespace has its own.
    Namespace(String),
    /// Each workload has its own.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name.
        workload: String,
    },
}

/// Who gets the same content as `client` in the same model: all whose audience is the same. A workload has
/// one service account, which a stream's beginning has checked.
pub fn audience(model: &Model, client: &Client, key: &ResourceKey) -> Audience {
    let namespace = || Audience::Namespace(client.namespace.clone());
    match &key.kind {
        Some(Kind::TrustBundle(_) | Kind::Endpoints(_)) | None => Audience::Everybody,
        // There may be routes for some clients only.
        Some(Kind::Outbound(_) | Kind::Authority(_)) if model.has_routes() => namespace(),
        Some(Kind::Outbound(OutboundKey { ip, .. })) => match read_ip(ip) {
            Some(ip) if is_own_address(model, ip) => namespace(),
            _ => Audience::Everybody,
        },
        Some(Kind::Authority(AuthorityKey { authority })) => match authority::parse(authority) {
            // Short names are of the client's namespace.
            Some(Authority::Host(host, _)) if !host.contains('.') => namespace(),
            Some(Authority::Address(ip, _)) if is_own_address(model, ip) => namespace(),
            _ => Audience::Everybody,
        },
        Some(Kind::Inbound(_)) => Audience::Workload {
            namespace: client.namespace.clone(),
            workload: client.workload.clone(),
        },
    }
}

/// Whether the content of a resource may be another than it was, by the newest model and what is
/// different in it. The trust bundle is no part of the model.
pub fn may_differ(model: &Model, since: Since<'_>, client: &Client, key: &ResourceKey) -> bool {
    if since.nothing() {
        return false;
    }
    if since.everything() {
        return true;
    }
    match &key.kind {
        None | Some(Kind::TrustBundle(_)) => false,
        Some(Kind::Outbound(OutboundKey { ip, .. })) => {
            read_ip(ip).is_some_and(|ip| address_may_differ(model, since, ip))
        }
        Some(Kind::Authority(AuthorityKey { authority })) => match authority::parse(authority) {
            None => false,
            Some(Authority::Address(ip, _)) => address_may_differ(model, since, ip),
            Some(Authority::Host(host, _)) => {
                let named = authority::named(&client.namespace, host);
                named.is_some_and(|(namespace, _)| since.namespace(namespace))
            }
        },
        Some(Kind::Endpoints(EndpointsKey { service })) => service.as_ref().is_some_and(|key| {
            since.service(&key.namespace, &key.name) || since.namespace(&key.namespace)
        }),
        Some(Kind::Inbound(_)) => {
            since.workload(&client.namespace, &client.workload)
                || since.namespace(&client.namespace)
        }
    }
}

/// Whether an address is not a service's: it comes with names of services, short ones among them.
fn is_own_address(model: &Model, ip: IpAddr) -> bool {
    !matches!(model.destination(ip), None | Some(Destination::Service(_)))
}

fn address_may_differ(model: &Model, since: Since<'_>, ip: IpAddr) -> bool {
    since.address(ip)
        || match model.destination(ip) {
            None => false,
            Some(Destination::Service(service)) => since.namespace(&service.name.namespace),
            Some(Destination::Workload(workload)) => since.namespace(&workload.name.namespace),
            Some(Destination::Address(ip)) => {
                let mut namespaces = model.namespaces_of_address(ip);
                namespaces.any(|namespace| since.namespace(namespace))
            }
        }
}
