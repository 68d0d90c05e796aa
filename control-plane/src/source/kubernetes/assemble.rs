//! What is held of the cluster as objects of the model.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::names;

use super::manifest::{Bad, Grant, HeldRoute, Policy};
use super::service::{Port, Service};
use super::slice::{Endpoint, Slice, Who};
use super::store::Cluster;
use crate::index::{
    self, EndpointName, ForeignEndpoint, MeshSettings, Name, Objects, Origin, Refusal,
    ServiceEndpoint, ServicePort, Sourced, Workload,
};
use crate::route::{ReferenceGrant, RouteKind};
use crate::source::closed;

/// Where objects of a cluster stand, for people.
const CLUSTER: &str = "cluster";
/// What an endpoint weighs.
const WEIGHT: u32 = 1;

pub(super) fn objects(cluster: &Cluster, settings: &MeshSettings) -> Objects {
    let origin = Origin {
        file: CLUSTER.into(),
        line: 0,
    };
    let mut objects = Objects {
        settings: settings.clone(),
        listeners: Vec::new(),
        workloads: Vec::with_capacity(cluster.pods.held.len()),
        services: Vec::with_capacity(cluster.services.held.len()),
        policies: Vec::new(),
        broken: Vec::new(),
        routes: Vec::new(),
        grants: Vec::new(),
        refusals: Vec::new(),
    };
    let owners = Owners::of(cluster);
    let mut slices: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
    for (name, slice) in &cluster.slices.held {
        let service = (&*name.namespace, &*slice.service);
        slices.entry(service).or_default().push(slice);
    }
    let mut zones = vec![""; cluster.pods.held.len()];
    for (name, service) in &cluster.services.held {
        let slices = slices.get(&(&*name.namespace, &*name.name));
        let slices = slices.map_or(&[][..], Vec::as_slice);
        let behind = Behind::of(name, slices, &owners, &mut zones, &mut objects.refusals);
        objects.services.push(Sourced {
            origin: origin.clone(),
            object: behind.into_service(name, service),
        });
    }
    for ((name, pod), (at, zone)) in cluster.pods.held.iter().zip(zones.into_iter().enumerate()) {
        let addresses = pod.addresses.iter().copied();
        let addresses: Vec<_> = addresses
            .filter(|ip| owners.of.get(ip).is_some_and(|owner| owner.at == at))
            .collect();
        if addresses.is_empty() {
            continue;
        }
        let object = Workload {
            name: name.clone(),
            owner: pod.owner.clone(),
            service_account: pod.service_account.clone(),
            addresses,
            meshed: pod.meshed,
            zone: zone.to_owned(),
            weight: WEIGHT,
            draining: pod.terminating,
            ended: pod.ended,
            ports: pod.ports.clone(),
        };
        objects.workloads.push(Sourced {
            origin: origin.clone(),
            object,
        });
    }
    for (name, policy) in &cluster.policies.held {
        add_policy(name, policy, &origin, &mut objects);
    }
    for (kind, routes) in [
        (RouteKind::Grpc, &cluster.grpc_routes.held),
        (RouteKind::Http, &cluster.http_routes.held),
    ] {
        for (name, route) in routes {
            add_route(kind, name, route, &origin, &mut objects);
        }
    }
    for (name, grant) in &cluster.grants.held {
        add_grant(name, grant, &origin, &mut objects);
    }
    objects
}

/// Whose an address is: of pods that claim the same, the youngest's, as the others have ended and
/// nobody has said so yet.
struct Owners<'a> {
    of: HashMap<IpAddr, Owner<'a>>,
    cluster: &'a Cluster,
}

#[derive(Clone, Copy)]
struct Owner<'a> {
    name: &'a Name,
    created: i64,
    /// Its place among all pods.
    at: usize,
}

impl<'a> Owners<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let mut of = HashMap::with_capacity(cluster.pods.held.len());
        for (at, (name, pod)) in cluster.pods.held.iter().enumerate() {
            let claims = Owner {
                name,
                created: pod.created,
                at,
            };
            for ip in &pod.addresses {
                let owner = of.entry(*ip).or_insert(claims);
                if claims.created > owner.created {
                    *owner = claims;
                }
            }
        }
        Self { of, cluster }
    }

    /// What an endpoint of a service in `namespace` is; `Err` with the reason where it is nothing
    /// that traffic may go to, which is empty where that will pass by itself.
    fn resolve(
        &self,
        namespace: &str,
        endpoint: &Endpoint,
    ) -> Result<(EndpointName, Option<Owner<'a>>), String> {
        let owner = self.of.get(&endpoint.ip).copied();
        let is = |owner: Owner<'_>, pod: &str| {
            owner.name.name == pod && owner.name.namespace == namespace
        };
        match (&endpoint.who, owner) {
            (Who::Pod(pod), Some(owner)) if is(owner, pod) => {
                Ok((EndpointName::Workload(pod.clone()), Some(owner)))
            }
            (Who::Pod(pod), owner) => {
                let pod = self.cluster.pods.held.get(&Name::new(namespace, &**pod));
                if owner.is_none() && pod.is_some_and(|pod| pod.host_network) {
                    return Ok((EndpointName::Address(endpoint.ip), None));
                }
                Err(String::new())
            }
            (Who::Unsaid, Some(owner)) if owner.name.namespace == namespace => {
                let pod = owner.name.name.clone();
                Ok((EndpointName::Workload(pod), Some(owner)))
            }
            (Who::Unsaid, None) => Ok((EndpointName::Address(endpoint.ip), None)),
            (Who::Unsaid, Some(owner)) => Err(format!(
                "endpoint {} is pod {}, of another namespace: it is withheld",
                endpoint.ip, owner.name
            )),
            (Who::Elsewhere, _) => Err(format!(
                "endpoint {} is said to be a pod of another namespace: it is withheld",
                endpoint.ip
            )),
        }
    }
}

/// What stands behind one service, merged over its slices.
#[derive(Default)]
struct Behind<'a>(BTreeMap<EndpointName, Merged<'a>>);

struct Merged<'a> {
    ready: bool,
    serving_last: bool,
    zone: &'a str,
    /// By the service port's name; the first slice that says so wins.
    ports: Vec<&'a (String, u16)>,
}

impl<'a> Behind<'a> {
    fn of(
        name: &Name,
        slices: &[&'a Slice],
        owners: &Owners<'a>,
        zones: &mut [&'a str],
        refusals: &mut Vec<Refusal>,
    ) -> Self {
        let mut merged = Self::default();
        for slice in slices {
            for endpoint in &slice.endpoints {
                let (who, owner) = match owners.resolve(&name.namespace, endpoint) {
                    Ok(who) => who,
                    Err(reason) if reason.is_empty() => continue,
                    Err(reason) => {
                        let mend = "name services of that namespace by their own names";
                        refusals.push(refusal(format!("Service {name}"), reason, mend));
                        continue;
                    }
                };
                if let Some(owner) = owner
                    && zones[owner.at].is_empty()
                {
                    zones[owner.at] = &endpoint.zone;
                }
                merged.add(who, slice, endpoint);
            }
        }
        merged
    }

    fn add(&mut self, who: EndpointName, slice: &'a Slice, endpoint: &'a Endpoint) {
        let known = match self.0.entry(who) {
            Entry::Vacant(vacant) => {
                vacant.insert(Merged {
                    ready: endpoint.ready,
                    serving_last: endpoint.serving_last,
                    zone: &endpoint.zone,
                    ports: slice.ports.iter().collect(),
                });
                return;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        known.ready |= endpoint.ready;
        known.serving_last |= endpoint.serving_last;
        if known.zone.is_empty() {
            known.zone = &endpoint.zone;
        }
        for port in &slice.ports {
            if !known.ports.iter().any(|(name, _)| *name == port.0) {
                known.ports.push(port);
            }
        }
    }

    fn into_service(self, name: &Name, service: &Service) -> index::Service {
        let any = |has: fn(&Merged<'_>) -> bool| self.0.values().any(has);
        let last_resort = !service.publish_not_ready
            && !any(|known| known.ready)
            && any(|known| known.serving_last);
        let wanted = |known: &Merged<'_>| {
            known.ready || service.publish_not_ready || (last_resort && known.serving_last)
        };
        let ports = service.ports.iter().map(|port| self.port(port)).collect();
        let mut endpoints = Vec::with_capacity(self.0.len());
        let mut idle = BTreeSet::new();
        for (who, known) in self.0 {
            match who {
                EndpointName::Workload(pod) => {
                    if !wanted(&known) {
                        idle.insert(pod.clone());
                    }
                    endpoints.push(ServiceEndpoint::Workload(pod));
                }
                EndpointName::Address(_) if !wanted(&known) => {}
                EndpointName::Address(ip) => {
                    endpoints.push(ServiceEndpoint::Address(ForeignEndpoint {
                        ip,
                        zone: known.zone.to_owned(),
                        weight: WEIGHT,
                    }));
                }
            }
        }
        index::Service {
            name: name.clone(),
            cluster_ips: service.cluster_ips.clone(),
            ports,
            endpoints,
            idle,
            last_resort,
        }
    }

    /// The port with what most endpoints listen on, and those that do not.
    fn port(&self, port: &Port) -> ServicePort {
        let target = |known: &Merged<'_>| {
            let mut ports = known.ports.iter();
            ports
                .find(|(name, _)| *name == port.name)
                .map(|(_, to)| *to)
        };
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        for to in self.0.values().filter_map(target) {
            *counts.entry(to).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let most = most
            .map(|(to, _)| to)
            .or(port.target)
            .unwrap_or(port.number);
        let exceptions = self.0.iter().filter_map(|(who, known)| {
            let to = target(known);
            (to != Some(most)).then(|| (who.clone(), to))
        });
        ServicePort {
            name: port.name.clone(),
            port: port.number,
            target_port: most,
            exceptions: exceptions.collect(),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

fn add_policy(name: &Name, policy: &Policy, origin: &Origin, objects: &mut Objects) {
    if let Some(good) = &policy.good {
        objects.policies.push(Sourced {
            origin: origin.clone(),
            object: Arc::clone(good),
        });
    }
    let Some(bad) = &policy.bad else {
        return;
    };
    let consequence = if policy.good.is_some() {
        closed::LAST_GOOD_STAYS.to_owned()
    } else {
        objects.broken.extend(bad.instead.clone());
        closed::consequence(bad.instead.as_ref(), bad.aimless)
    };
    refuse(names::TRAFFIC_POLICY_KIND, name, bad, &consequence, objects);
}

fn add_route(
    kind: RouteKind,
    name: &Name,
    route: &HeldRoute,
    origin: &Origin,
    objects: &mut Objects,
) {
    if let Some(good) = &route.good {
        objects.routes.push(Sourced {
            origin: origin.clone(),
            object: Arc::clone(good),
        });
    }
    let Some(bad) = &route.bad else { return };
    refuse(
        kind.as_str(),
        name,
        bad,
        stays(route.good.is_some()),
        objects,
    );
}

fn add_grant(name: &Name, grant: &Grant, origin: &Origin, objects: &mut Objects) {
    if let Some(good) = &grant.good {
        objects.grants.push(Sourced {
            origin: origin.clone(),
            object: Arc::clone(good),
        });
    }
    let Some(bad) = &grant.bad else { return };
    let consequence = stays(grant.good.is_some());
    refuse(ReferenceGrant::KIND, name, bad, consequence, objects);
}

fn stays(is_good_known: bool) -> &'static str {
    if is_good_known {
        closed::LAST_GOOD_STAYS
    } else {
        ""
    }
}

fn refuse(kind: &str, name: &Name, bad: &Bad, consequence: &str, objects: &mut Objects) {
    for violation in &bad.refused.violations {
        let reason = format!("{violation}{consequence}");
        let object = format!("{kind} {name}");
        objects
            .refusals
            .push(refusal(object, reason, &violation.mend));
    }
}

fn refusal(object: String, reason: String, mend: &str) -> Refusal {
    Refusal {
        file: CLUSTER.to_owned(),
        line: 0,
        object,
        reason,
        mend: mend.to_owned(),
    }
}
