//! EndpointSlices, trimmed to what the mesh needs of them.

use std::net::IpAddr;

use super::event::{Trimmed, Urgency, name_of, port};
use crate::index::Name;

/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is kept of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    /// The service, of the slice's namespace.
    pub(super) service: String,
    /// Where each of the service's TCP ports is, by its name.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) who: Who,
    pub(super) ready: bool,
    /// It works, but is being removed.
    pub(super) serving_last: bool,
    /// Empty where it is unknown.
    pub(super) zone: String,
}

/// What stands behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A pod of the slice's namespace.
    Pod(String),
    /// Nobody says.
    Unsaid,
    /// A pod of another namespace, which no slice can speak for.
    Elsewhere,
}

impl Slice {
    /// `None` where it is of no service, or says names instead of addresses.
    pub(super) fn trim(
        slice: k8s_openapi::api::discovery::v1::EndpointSlice,
    ) -> (Name, Option<Self>) {
        let name = name_of(&slice.metadata);
        let labels = slice.metadata.labels.unwrap_or_default();
        let service = labels.get(SERVICE_NAME).filter(|name| !name.is_empty());
        let Some(service) = service.filter(|_| slice.address_type != "FQDN") else {
            return (name, None);
        };
        let ports = slice.ports.into_iter().flatten();
        let ports = ports
            .filter(|known| known.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|known| Some((known.name.unwrap_or_default(), port(known.port?)?)))
            .collect();
        let endpoints = slice.endpoints.into_iter();
        let endpoints = endpoints
            .filter_map(|endpoint| {
                // The meaning of further addresses is not defined.
                let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
                let conditions = endpoint.conditions.unwrap_or_default();
                let terminating = conditions.terminating == Some(true);
                let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
                let who = match endpoint.target_ref {
                    Some(target) if target.kind.as_deref() == Some("Pod") => {
                        let own = &name.namespace;
                        if target.namespace.is_none_or(|namespace| namespace == *own) {
                            Who::Pod(target.name.unwrap_or_default())
                        } else {
                            Who::Elsewhere
                        }
                    }
                    _ => Who::Unsaid,
                };
                Some(Endpoint {
                    ip: ip.to_canonical(),
                    who,
                    ready: conditions.ready.unwrap_or(true),
                    serving_last: terminating && serving,
                    zone: endpoint.zone.unwrap_or_default(),
                })
            })
            .collect();
        let trimmed = Self {
            service: service.clone(),
            ports,
            endpoints,
        };
        (name, Some(trimmed))
    }
}

impl Trimmed for Slice {
    /// Whatever takes an endpoint away is urgent; what only adds is not.
    fn change(&self, next: &Self) -> Urgency {
        let stays = |endpoint: &Endpoint| next.endpoints.contains(endpoint);
        let more = self.service == next.service
            && self.ports == next.ports
            && self.endpoints.iter().filter(|known| known.ready).all(stays);
        if more { Urgency::Soon } else { Urgency::Now }
    }
}
