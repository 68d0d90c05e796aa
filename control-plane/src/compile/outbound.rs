//! What a destination means for its clients.
//!
//! Route-level stanzas come from the service that the client addressed; connection-level ones
//! (connect, circuitBreaker, loadBalancer) from the backend's own policy, else from the addressed
//! service's.

use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::discovery::fallback::Answer;
use weft_proto::discovery::{
    AuthorityAlias, Backend, Endpoint, EndpointTarget, Fallback, Outbound, Protocol, Retries,
    Route, ServiceRef, ServiceTarget, Split, Timeouts, WeightedBackend, outbound,
};

use super::authority::{self, Authority};
use super::{Client, endpoints, fallback, fault, mirror, protocol, wire};
use crate::index::{Destination, Model, Name, Service, ServicePort, Stanzas, Workload};
use crate::policy;

/// The route that every target ends with.
const DEFAULT_ROUTE: &str = "default";

/// What a connection to an address means.
pub(super) fn by_address(
    model: &Model,
    client: &Client,
    ip: IpAddr,
    port: u16,
) -> Option<Outbound> {
    match model.destination(ip)? {
        Destination::Service(service) => {
            let port = service.port(port)?;
            Some(to_service(model, service, port))
        }
        Destination::Workload(workload) => to_workload(model, client, workload, ip, port),
        Destination::Address(ip) => to_foreign(model, client, ip, port),
    }
}

/// What the authority of a request means.
pub(super) fn by_authority(model: &Model, client: &Client, text: &str) -> Option<Outbound> {
    match authority::parse(text)? {
        Authority::Address(ip, port) => by_address(model, client, ip, port),
        Authority::Host(host, port) => {
            let service = authority::service(model, &client.namespace, host)?;
            let port = service.port(port)?;
            Some(to_service(model, service, port))
        }
    }
}

fn to_service(model: &Model, service: &Service, port: &ServicePort) -> Outbound {
    let target = TargetBuilder::of_service(model, service, port).build(protocol::of_port(port));
    Outbound {
        target: Some(outbound::Target::Service(target)),
    }
}

fn to_workload(
    model: &Model,
    client: &Client,
    workload: &Workload,
    ip: IpAddr,
    port: u16,
) -> Option<Outbound> {
    let backed: Vec<_> = model.backed_by_workload(workload, port).collect();
    let said = workload.port(port).map_or(Protocol::Unspecified, |port| {
        protocol::of_app_protocol(&port.protocol)
    });
    let endpoint = endpoints::of_workload(model, workload, ip, port)?;
    Some(to_endpoint(
        model,
        client,
        &Direct {
            endpoint,
            backed,
            name: &workload.name,
            port,
            said,
        },
    ))
}

fn to_foreign(model: &Model, client: &Client, ip: IpAddr, port: u16) -> Option<Outbound> {
    let backed: Vec<_> = model.backed_by_address(ip, port).collect();
    let namespace = &backed.first()?.0.name.namespace;
    Some(to_endpoint(
        model,
        client,
        &Direct {
            endpoint: endpoints::foreign(ip, port, namespace),
            name: &Name::new(&**namespace, ip.to_string()),
            backed,
            port,
            said: Protocol::Unspecified,
        },
    ))
}

/// An endpoint that is dialled by its own address.
struct Direct<'a> {
    endpoint: Endpoint,
    /// The service ports that lead here.
    backed: Vec<(&'a Service, &'a ServicePort)>,
    /// What it is called where no single service is.
    name: &'a Name,
    port: u16,
    /// What the endpoint itself says about its bytes.
    said: Protocol,
}

fn to_endpoint(model: &Model, client: &Client, direct: &Direct<'_>) -> Outbound {
    let aliases = direct
        .backed
        .iter()
        .map(|(service, port)| AuthorityAlias {
            service: Some(wire::service_ref(&service.name, port.port)),
            authorities: authority::spellings(service, port, &client.namespace),
        })
        .collect();
    let spoken = protocol::agreed(
        direct
            .backed
            .iter()
            .map(|(_, port)| protocol::of_port(port)),
    );
    let protocol = if direct.backed.is_empty() {
        direct.said
    } else {
        spoken
    };

    let only_service = match direct.backed.as_slice() {
        [(first, port), rest @ ..] if rest.iter().all(|(other, _)| other.name == first.name) => {
            Some((first, port))
        }
        _ => None,
    };
    let builder = match only_service {
        Some((service, port)) => TargetBuilder::of_service(model, service, port).pinned(),
        None => TargetBuilder::of_namespace(model, direct.name, direct.port),
    };
    Outbound {
        target: Some(outbound::Target::Endpoint(EndpointTarget {
            endpoint: Some(direct.endpoint.clone()),
            aliases,
            policy: Some(builder.build(protocol)),
        })),
    }
}

struct TargetBuilder<'a> {
    model: &'a Model,
    addressed: ServiceRef,
    policy: Stanzas,
    backends: Vec<Backend>,
}

impl<'a> TargetBuilder<'a> {
    fn of_service(model: &'a Model, service: &Service, port: &ServicePort) -> Self {
        Self {
            model,
            addressed: wire::service_ref(&service.name, port.port),
            policy: model.policy(service, port),
            backends: Vec::new(),
        }
    }

    fn of_namespace(model: &'a Model, name: &Name, port: u16) -> Self {
        Self {
            model,
            addressed: wire::service_ref(name, port),
            policy: model.namespace_policy(&name.namespace),
            backends: Vec::new(),
        }
    }

    /// Takes every split out, and every fallback to another backend: there is one endpoint only.
    fn pinned(mut self) -> Self {
        let is_elsewhere = |fallback: &policy::Fallback| fallback.backend.is_some();
        self.policy.split = None;
        self.policy.fallback = self.policy.fallback.filter(|it| !is_elsewhere(it));
        if let Some(rules) = &self.policy.rules {
            let mut rules = rules.to_vec();
            for rule in &mut rules {
                rule.split = None;
                rule.fallback = rule.fallback.take().filter(|it| !is_elsewhere(it));
            }
            self.policy.rules = Some(rules.into());
        }
        self
    }

    fn build(mut self, protocol: Protocol) -> ServiceTarget {
        let rules = self.policy.rules.clone();
        let mut routes: Vec<_> = rules
            .iter()
            .flat_map(|rules| rules.iter())
            .map(|rule| self.route(&rule.name, Some(rule)))
            .collect();
        routes.push(self.route(DEFAULT_ROUTE, None));
        ServiceTarget {
            service: Some(self.addressed),
            protocol: protocol.into(),
            routes,
            backends: self.backends,
        }
    }

    fn route(&mut self, name: &str, rule: Option<&policy::Rule>) -> Route {
        let timeouts = rule
            .and_then(|rule| rule.timeouts.as_ref())
            .or(self.policy.timeouts.as_deref());
        let retries = rule
            .and_then(|rule| rule.retries.as_ref())
            .or(self.policy.retries.as_deref());
        let (timeouts, retries) = (wire::timeouts(timeouts), wire::retries(retries));
        let fault = rule
            .and_then(|rule| rule.fault_injection.as_ref())
            .or(self.policy.fault_injection.as_deref())
            .map(fault::fault);
        let inherited_fallback = self.policy.fallback.clone();
        let fallback = rule
            .and_then(|rule| rule.fallback.as_ref())
            .or(inherited_fallback.as_deref());
        let inherited = self.policy.split.clone();
        let split = rule
            .and_then(|rule| rule.split.as_ref())
            .or(inherited.as_deref());
        Route {
            name: name.to_owned(),
            matches: rule.map_or_else(Vec::new, |rule| {
                rule.matches.iter().map(wire::route_match).collect()
            }),
            split: Some(self.split(split, &timeouts, retries.as_ref())),
            timeouts: Some(timeouts),
            retries,
            fault,
            fallback: fallback.map(|fallback| self.fallback(fallback)),
        }
    }

    /// The service itself takes what a policy names no backends for.
    fn split(
        &mut self,
        split: Option<&policy::Split>,
        timeouts: &Timeouts,
        retries: Option<&Retries>,
    ) -> Split {
        let sides = split.map_or(&[][..], |split| &split.backends);
        let mut backends: Vec<_> = sides
            .iter()
            .map(|side| WeightedBackend {
                backend: self.backend(self.neighbour(&side.name, side.port)),
                weight: side.weight,
                forced: side.matches.iter().map(wire::split_match).collect(),
            })
            .collect();
        if backends.is_empty() {
            backends.push(WeightedBackend {
                backend: self.backend(self.addressed.clone()),
                weight: 1,
                forced: Vec::new(),
            });
        }
        let Some(split) = split else {
            return Split {
                backends,
                ..Split::default()
            };
        };
        Split {
            backends,
            sticky: split.sticky.as_ref().map(wire::sticky),
            when_empty: wire::when_empty(split.when_empty).into(),
            mirror: split.mirror.as_ref().map(|mirror| {
                let backend = self.backend(self.neighbour(&mirror.name, mirror.port));
                mirror::mirror(mirror, backend, timeouts, retries)
            }),
        }
    }

    /// A service of the addressed one's namespace, on the addressed port's number unless said.
    fn neighbour(&self, name: &str, port: Option<u16>) -> ServiceRef {
        ServiceRef {
            namespace: self.addressed.namespace.clone(),
            name: name.to_owned(),
            port: port.map_or(self.addressed.port, u32::from),
        }
    }

    fn fallback(&mut self, fallback: &policy::Fallback) -> Fallback {
        let answer = match (&fallback.response, &fallback.backend) {
            (_, Some(backend)) => {
                let backend = self.neighbour(&backend.name, backend.port);
                Some(Answer::Backend(self.backend(backend)))
            }
            (response, None) => response
                .as_ref()
                .map(|response| Answer::Response(fallback::response(response))),
        };
        Fallback {
            triggers: fallback
                .triggers
                .iter()
                .map(|trigger| fallback::trigger(*trigger).into())
                .collect(),
            answer,
        }
    }

    /// The backend's place in the list, where it is put when it is new.
    fn backend(&mut self, service: ServiceRef) -> u32 {
        let known = self
            .backends
            .iter()
            .position(|backend| backend.service.as_ref() == Some(&service));
        let place = known.unwrap_or_else(|| {
            let backend = self.connection_level(service);
            self.backends.push(backend);
            self.backends.len() - 1
        });
        place as u32
    }

    fn connection_level(&self, service: ServiceRef) -> Backend {
        let own = if service == self.addressed {
            Stanzas::default()
        } else {
            self.own_policy(&service).unwrap_or_default()
        };
        let connect = |timeouts: &Option<Arc<policy::Timeouts>>| timeouts.as_ref()?.connect;
        let connect = connect(&own.timeouts).or_else(|| connect(&self.policy.timeouts));
        let breaker = own
            .circuit_breaker
            .or_else(|| self.policy.circuit_breaker.clone());
        let balancer = own
            .load_balancer
            .or_else(|| self.policy.load_balancer.clone());
        Backend {
            service: Some(service),
            connect_timeout: Some(wire::connect_timeout(connect)),
            circuit_breaker: breaker.as_deref().map(wire::circuit_breaker),
            load_balancer: Some(wire::load_balancer(balancer.as_deref())),
        }
    }

    fn own_policy(&self, backend: &ServiceRef) -> Option<Stanzas> {
        let service = self.model.service(&backend.namespace, &backend.name)?;
        let port = service.port(u16::try_from(backend.port).ok()?)?;
        Some(self.model.own_policy(service, port))
    }
}
