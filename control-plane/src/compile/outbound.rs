//! What a destination means for its clients.
//!
//! Route-level stanzas come from the service that the client addressed; connection-level ones
//! (connect, circuitBreaker, loadBalancer) from the backend's own policy, else from the addressed
//! service's. Where Gateway API routes are attached, matching and weights are theirs, and the service's
//! policy supplies the rest.

use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::discovery::fallback::Answer;
use weft_proto::discovery::{
    AccessLog, AuthorityAlias, Backend, Endpoint, EndpointTarget, Fallback, Outbound, Protocol,
    Retries, Route, ServiceRef, ServiceTarget, Split, Timeouts, WeightedBackend, WhenEmpty,
    outbound,
};

use super::authority::{self, Authority};
use super::{Client, access_log, endpoints, fallback, fault, mirror, protocol, routes, wire};
use crate::index::{Destination, Model, Name, Service, ServicePort, Stanzas, Workload};
use crate::policy;
use crate::route::{self, RoutePath, RouteRule};

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
            Some(to_service(model, client, service, port))
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
            Some(to_service(model, client, service, port))
        }
    }
}

fn to_service(model: &Model, client: &Client, service: &Service, port: &ServicePort) -> Outbound {
    let routes = model.routes(service, port, &client.namespace);
    let builder = TargetBuilder::of_service(model, service, port);
    let target = builder.build(protocol::of_port(port), routes);
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

    let builder = match only_service(&direct.backed) {
        Some((service, port)) => TargetBuilder::of_service(model, service, port).pinned(),
        None => TargetBuilder::of_namespace(model, direct.name, direct.port),
    };
    Outbound {
        target: Some(outbound::Target::Endpoint(EndpointTarget {
            endpoint: Some(direct.endpoint.clone()),
            aliases,
            // A route is attached to what its Service's own addresses mean, and to nothing else.
            policy: Some(builder.build(protocol, &[])),
        })),
    }
}

/// The one service whose policy an endpoint has that is dialled by its own address.
pub(super) fn only_service<'s, 'm>(
    backed: &'s [(&'m Service, &'m ServicePort)],
) -> Option<&'s (&'m Service, &'m ServicePort)> {
    let (first, rest) = backed.split_first()?;
    let is_one = rest.iter().all(|(other, _)| other.name == first.0.name);
    is_one.then_some(first)
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

    fn build(mut self, protocol: Protocol, attached: &[Arc<route::Route>]) -> ServiceTarget {
        if !attached.is_empty() {
            return self.build_attached(protocol, attached);
        }
        let rules = self.policy.rules.clone();
        let mut routes: Vec<_> = rules
            .iter()
            .flat_map(|rules| rules.iter())
            .map(|rule| self.route(&rule.name, Some(rule)))
            .collect();
        routes.push(self.route(DEFAULT_ROUTE, None));
        let access_log = self.access_log(None);
        ServiceTarget {
            service: Some(self.addressed),
            protocol: protocol.into(),
            routes,
            backends: self.backends,
            bytes: None,
            access_log,
        }
    }

    /// Routes have matching and weights; what none of them matches has no route.
    fn build_attached(
        mut self,
        protocol: Protocol,
        attached: &[Arc<route::Route>],
    ) -> ServiceTarget {
        let mut routes: Vec<Route> = Vec::new();
        let mut last = None;
        for at in route::ordered(attached) {
            let route = &attached[at.route];
            let rule = &route.rules[at.rule];
            let entry = &rule.matches[at.entry];
            let prefix = match &entry.path {
                RoutePath::Prefix(prefix) if rule.filters.edit_prefix() => prefix.as_str(),
                _ => "",
            };
            // Neighbours of one rule are one route.
            let this = Some((at.route, at.rule, prefix));
            if last == this
                && let Some(route) = routes.last_mut()
            {
                route.matches.push(routes::route_match(entry));
                continue;
            }
            last = this;
            routes.push(Route {
                matches: vec![routes::route_match(entry)],
                ..self.attached_route(route, rule, prefix)
            });
        }
        let bytes = Split {
            backends: vec![WeightedBackend {
                backend: self.backend(self.addressed.clone()),
                weight: 1,
                ..WeightedBackend::default()
            }],
            ..Split::default()
        };
        let access_log = self.access_log(None);
        ServiceTarget {
            service: Some(self.addressed),
            protocol: protocol.into(),
            routes,
            backends: self.backends,
            bytes: Some(bytes),
            access_log,
        }
    }

    /// A rule of a Gateway API route, with what policy says beside it.
    fn attached_route(&mut self, route: &route::Route, rule: &RouteRule, prefix: &str) -> Route {
        let of_policy = wire::timeouts(self.policy.timeouts.as_deref());
        let timeouts = Timeouts {
            request: routes::limit(rule.request_timeout, of_policy.request),
            per_try: routes::limit(rule.backend_timeout, of_policy.per_try),
            ..of_policy
        };
        let of_policy = self.policy.retries.as_deref();
        let retries = match &rule.retry {
            None => wire::retries(of_policy),
            Some(retry) => wire::retries(Some(&routes::retries(retry, of_policy))),
        };
        let fallback = self.policy.fallback.clone();
        Route {
            name: rule.name.as_ref().unwrap_or(&route.name).clone(),
            matches: Vec::new(),
            split: Some(self.attached_split(route, rule, &timeouts, retries.as_ref())),
            timeouts: Some(timeouts),
            retries,
            fault: self.policy.fault_injection.as_deref().map(fault::fault),
            fallback: fallback.as_deref().map(|fallback| self.fallback(fallback)),
            filters: routes::filters(&rule.filters, prefix, self.addressed.port),
            access_log: self.access_log(None),
        }
    }

    /// The route's weights, with what keeps users on their side from policy. A side that leads nowhere
    /// keeps its share.
    fn attached_split(
        &mut self,
        route: &route::Route,
        rule: &RouteRule,
        timeouts: &Timeouts,
        retries: Option<&Retries>,
    ) -> Split {
        let parent = self.addressed.namespace.clone();
        let mut backends: Vec<_> = rule
            .backends
            .iter()
            .map(|side| {
                let resolved = match &side.unsupported {
                    Some(what) => Err(what.clone()),
                    None => self
                        .model
                        .resolve(route, &side.reference, &parent)
                        .map_err(|reason| reason.message),
                };
                let (backend, unusable) = match resolved {
                    Ok((name, port)) => (self.backend(wire::service_ref(&name, port)), None),
                    Err(why) => (0, Some(why)),
                };
                WeightedBackend {
                    backend,
                    weight: side.weight,
                    forced: Vec::new(),
                    request_headers: routes::header_edits(&side.request_headers),
                    response_headers: routes::header_edits(&side.response_headers),
                    unusable: unusable.unwrap_or_default(),
                }
            })
            .collect();
        let nowhere = match rule.unsupported.first() {
            Some(what) => Some(format!("{what} is not supported")),
            None if rule.filters.redirect.is_some() => Some("redirected".to_owned()),
            None if backends.iter().all(|side| side.weight == 0) => {
                Some(format!("{route} has no backend with a weight for it"))
            }
            None => None,
        };
        if let Some(why) = nowhere {
            backends = vec![WeightedBackend {
                weight: 1,
                unusable: why,
                ..WeightedBackend::default()
            }];
        }
        let inherited = self.policy.split.clone();
        let of_policy = inherited.as_deref();
        let own_mirror = rule.filters.mirror.as_ref().map(|mirror| {
            let resolved = self.model.resolve(route, &mirror.reference, &parent);
            let share = (mirror.share, mirror.out_of);
            resolved.map(|(name, port)| (self.backend(wire::service_ref(&name, port)), share))
        });
        let of_policy_mirror = of_policy.and_then(|split| split.mirror.as_ref());
        let mirror = match (own_mirror, of_policy_mirror) {
            (Some(own), _) => own.ok(),
            (None, Some(mirror)) => {
                let backend = self.backend(self.neighbour(&mirror.name, mirror.port));
                Some((backend, (mirror.percent, mirror::HUNDRED)))
            }
            (None, None) => None,
        };
        Split {
            backends,
            sticky: of_policy
                .and_then(|split| split.sticky.as_ref())
                .map(wire::sticky),
            when_empty: of_policy
                .map_or(WhenEmpty::Fail, |split| wire::when_empty(split.when_empty))
                .into(),
            mirror: mirror.map(|(backend, share)| weft_proto::discovery::Mirror {
                calls: route.kind == route::RouteKind::Grpc,
                ..mirror::mirror(share, backend, timeouts, retries)
            }),
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
            filters: None,
            access_log: self.access_log(rule),
        }
    }

    /// A rule's own, else the policy's.
    fn access_log(&self, rule: Option<&policy::Rule>) -> Option<AccessLog> {
        let own = rule.and_then(|rule| rule.access_log.as_ref());
        own.or(self.policy.access_log.as_deref())
            .and_then(access_log::wire)
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
                ..WeightedBackend::default()
            })
            .collect();
        if backends.is_empty() {
            backends.push(WeightedBackend {
                backend: self.backend(self.addressed.clone()),
                weight: 1,
                ..WeightedBackend::default()
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
                mirror::mirror(
                    (mirror.percent, mirror::HUNDRED),
                    backend,
                    timeouts,
                    retries,
                )
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
