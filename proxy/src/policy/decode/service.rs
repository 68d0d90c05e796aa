//! Services and endpoints, as clients see them.

use std::sync::Arc;

use weft_proto::discovery as wire;
use weft_proto::spiffe::SpiffeId;

use super::fields::{at, at_least_one, each, missing, optional, protocol, refuse, required};
use super::{Decoded, access_log, backend, route, service_ref, socket_address, split};
use crate::policy::{EndpointInfo, EndpointTarget, ServiceRef, ServiceTarget};

pub(super) fn service_target(message: &wire::ServiceTarget) -> Decoded<ServiceTarget> {
    let service = message.service.as_ref().ok_or(missing("service"))?;
    let service = service_ref(service).map_err(at("service"))?;
    target_of(service, message)
}

fn target_of(service: ServiceRef, message: &wire::ServiceTarget) -> Decoded<ServiceTarget> {
    // Where routes are only about requests there may be none: no request has one then.
    if message.routes.is_empty() && message.bytes.is_none() {
        return Err(missing("routes"));
    }
    let backends = message.backends.len();
    Ok(ServiceTarget {
        service,
        protocol: protocol(message.protocol)?,
        routes: each("routes", &message.routes, |it| route::decode(it, backends))?,
        backends: each("backends", &message.backends, backend::decode)?,
        bytes: optional("bytes", message.bytes.as_ref(), |it| {
            split::decode(it, backends)
        })?,
        access_log: optional(
            "access_log",
            message.access_log.as_ref(),
            access_log::decode,
        )?,
    })
}

pub(super) fn endpoint_target(message: &wire::EndpointTarget) -> Decoded<EndpointTarget> {
    let of = message.endpoint.as_ref().ok_or(missing("endpoint"))?;
    let endpoint = endpoint(of).map_err(at("endpoint"))?;
    let policy = message.policy.as_ref().ok_or(missing("policy"))?;
    // A namespace's policy belongs to no service: its name stays empty, its port is the endpoint's.
    let service = match policy.service.as_ref() {
        Some(service) if !service.name.is_empty() => {
            service_ref(service).map_err(at("policy.service"))?
        }
        _ => ServiceRef {
            namespace: Arc::clone(&endpoint.namespace),
            name: "".into(),
            port: endpoint.address.port(),
        },
    };
    Ok(EndpointTarget {
        aliases: each("aliases", &message.aliases, alias)?,
        policy: Arc::new(target_of(service, policy).map_err(at("policy"))?),
        endpoint,
    })
}

fn alias(message: &wire::AuthorityAlias) -> Decoded<(ServiceRef, Vec<Box<str>>)> {
    let service = message.service.as_ref().ok_or(missing("service"))?;
    let service = service_ref(service).map_err(at("service"))?;
    let authorities = each("authorities", &message.authorities, |text| {
        let plain = !text.is_empty() && !text.bytes().any(|b| b.is_ascii_uppercase());
        if plain {
            Ok(text.as_str().into())
        } else {
            Err(refuse("", "empty or not lower case"))
        }
    })?;
    Ok((service, authorities))
}

pub(super) fn endpoint(message: &wire::Endpoint) -> Decoded<EndpointInfo> {
    let identity = match message.spiffe_id.as_str() {
        "" => None,
        text => Some(
            text.parse::<SpiffeId>()
                .map_err(|why| refuse("spiffe_id", why.to_string()))?,
        ),
    };
    Ok(EndpointInfo {
        address: required("address", message.address.as_ref(), socket_address)?,
        identity,
        namespace: message.namespace.as_str().into(),
        workload: message.workload.as_str().into(),
        zone: message.zone.as_str().into(),
        weight: at_least_one("weight", message.weight)?,
    })
}
