//! Which routes hold for which clients of a service port, and what has become of the others.
//!
//! For a client, consumer routes of its own namespace stand instead of the producers'. Where routes of
//! both kinds meet on a port, `GRPCRoute` has it, and no `HTTPRoute` is heard there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::judged::{Judgement, Overridden};
use super::objects::{Name, Origin, Refusal, Service, Sourced};
use super::{Model, ServicePort};
use crate::route::status::{Reason, Verdict};
use crate::route::{BackendRef, ParentRef, ReferenceGrant, Route, RouteKind};

/// All routes by the ports that they are attached to.
#[derive(Debug, Default)]
pub(super) struct Routes {
    attached: HashMap<Place, Vec<Arc<Route>>>,
    grants: Vec<Arc<ReferenceGrant>>,
    verdicts: Vec<Judged>,
}

/// A route with a verdict for each of its parents.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The route.
    pub route: Arc<Route>,
    /// As its parents.
    pub verdicts: Vec<Verdict>,
}

/// A service port, and whose clients are meant: everybody's, or one namespace's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    service: Name,
    port: u16,
    consumers: Option<String>,
}

impl Routes {
    /// Attaches every route that fits, and names the others in `refusals`.
    pub(super) fn attach(
        routes: Vec<Sourced<Arc<Route>>>,
        grants: Vec<Sourced<Arc<ReferenceGrant>>>,
        services: &BTreeMap<Name, Arc<Service>>,
        refusals: &mut Vec<Refusal>,
    ) -> Self {
        let grants: Vec<_> = grants.into_iter().map(|grant| grant.object).collect();
        let mut wanted: BTreeMap<Place, Vec<Arc<Route>>> = BTreeMap::new();
        for Sourced { object: route, .. } in &routes {
            let places = route.parents.iter().flat_map(|parent| {
                let found = places(route, parent, services);
                found.unwrap_or_default()
            });
            // One that two parents of a route lead to is one.
            for place in places.collect::<BTreeSet<_>>() {
                wanted.entry(place).or_default().push(Arc::clone(route));
            }
        }
        let mut attached = HashMap::new();
        for (place, mut routes) in wanted {
            let first = routes.iter().map(|route| route.kind).min();
            routes.retain(|route| Some(route.kind) == first);
            routes.sort_by(|a, b| a.age().cmp(&b.age()));
            attached.insert(place, routes);
        }
        let mut all = Self {
            attached,
            grants,
            verdicts: Vec::new(),
        };
        for Sourced { origin, object } in routes {
            let judged = all.judge(object, services);
            for verdict in &judged.verdicts {
                refuse(refusals, &origin, &judged.route, verdict);
            }
            all.verdicts.push(judged);
        }
        all
    }

    fn judge(&self, route: Arc<Route>, services: &BTreeMap<Name, Arc<Service>>) -> Judged {
        let verdicts = route.parents.iter();
        let verdicts = verdicts.map(|parent| {
            let about = |found: Vec<String>| {
                (!found.is_empty()).then(|| Reason::new("UnsupportedValue", found.join("; ")))
            };
            let unsupported: Vec<_> = unsupported(&route).collect();
            let all = !route.rules.is_empty()
                && route.rules.iter().all(|rule| !rule.unsupported.is_empty());
            let unsupported = about(unsupported);
            let (rejected, partly) = match (self.rejected(&route, parent, services), all) {
                (None, true) => (unsupported, None),
                (rejected, _) => (rejected, unsupported),
            };
            let ignored = route.rules.iter().flat_map(|rule| rule.ignored.clone());
            Verdict {
                rejected,
                unresolved: self.unresolved(&route, parent, services),
                partly: partly.map(|reason| Reason {
                    message: format!("Dropped Rule: {}", reason.message),
                    ..reason
                }),
                ignored: about(ignored.collect()),
            }
        });
        let verdicts = verdicts.collect();
        Judged { route, verdicts }
    }

    fn rejected(
        &self,
        route: &Arc<Route>,
        parent: &ParentRef,
        services: &BTreeMap<Name, Arc<Service>>,
    ) -> Option<Reason> {
        let places = match places(route, parent, services) {
            Ok(places) => places,
            Err(why) => return Some(Reason::new("NoMatchingParent", why)),
        };
        let holds = |place: &Place| {
            let there = self.attached.get(place);
            there.is_some_and(|routes| routes.iter().any(|known| Arc::ptr_eq(known, route)))
        };
        if places.is_empty() || places.iter().any(holds) {
            return None;
        }
        let winner = places
            .iter()
            .find_map(|place| self.attached.get(place)?.first());
        let winner = winner.map_or_else(String::new, ToString::to_string);
        let why = format!("{winner} is attached there, and a GRPCRoute goes before an HTTPRoute");
        Some(Reason::new("Conflicted", why))
    }

    fn unresolved(
        &self,
        route: &Route,
        parent: &ParentRef,
        services: &BTreeMap<Name, Arc<Service>>,
    ) -> Option<Reason> {
        let rules = route.rules.iter();
        let mut references = rules.flat_map(|rule| {
            let mirror = rule.filters.mirror.iter().map(|mirror| &mirror.reference);
            let backends = rule.backends.iter().map(|backend| &backend.reference);
            backends.chain(mirror)
        });
        references.find_map(|reference| {
            let service = |name: &Name| services.get(name).map(|service| &**service);
            self.resolve(route, reference, &parent.namespace, service)
                .err()
        })
    }

    /// The service port that a reference leads to.
    fn resolve<'a>(
        &self,
        route: &Route,
        reference: &BackendRef,
        parent_namespace: &str,
        service: impl FnOnce(&Name) -> Option<&'a Service>,
    ) -> Result<(Name, u16), Reason> {
        if !reference.is_service() {
            let why = format!("{reference} is no Service");
            return Err(Reason::new("InvalidKind", why));
        }
        // Who is attached to a Service of another namespace already speaks to that namespace.
        let near = [&*route.namespace, parent_namespace].contains(&&*reference.namespace);
        if !near
            && !self
                .grants
                .iter()
                .any(|grant| grant.permits(route, reference))
        {
            let why = format!("no ReferenceGrant lets {route} refer to {reference}");
            return Err(Reason::new("RefNotPermitted", why));
        }
        let name = Name::new(&*reference.namespace, &*reference.name);
        let port = reference.port.unwrap_or(0);
        match service(&name) {
            None => {
                let why = format!("there is no service {name}");
                Err(Reason::new("BackendNotFound", why))
            }
            Some(service) if service.port(port).is_none() => {
                let why = format!("service {name} has no port {port}");
                Err(Reason::new("BackendNotFound", why))
            }
            Some(_) => Ok((name, port)),
        }
    }
}

impl Model {
    /// The routes that hold for clients of a namespace at a service port, the oldest first; none where
    /// none is attached. All are of one kind.
    pub fn routes(
        &self,
        service: &Service,
        port: &ServicePort,
        client_namespace: &str,
    ) -> &[Arc<Route>] {
        let place = |consumers| Place {
            service: service.name.clone(),
            port: port.port,
            consumers,
        };
        let attached = &self.routes.attached;
        let own = attached.get(&place(Some(client_namespace.to_owned())));
        own.or_else(|| attached.get(&place(None)))
            .map_or(&[], Vec::as_slice)
    }

    /// Every route that is attached to a service port, for whatever clients.
    pub fn routes_of_anybody(
        &self,
        service: &Service,
        port: &ServicePort,
    ) -> impl Iterator<Item = &Arc<Route>> {
        let (name, port) = (service.name.clone(), port.port);
        let attached = self.routes.attached.iter();
        attached
            .filter(move |(place, _)| place.service == name && place.port == port)
            .flat_map(|(_, routes)| routes)
    }

    /// The service port that a reference of a route leads to, where the route is attached to a service of
    /// `parent_namespace`.
    ///
    /// # Errors
    /// Why requests cannot be sent there.
    pub fn resolve(
        &self,
        route: &Route,
        reference: &BackendRef,
        parent_namespace: &str,
    ) -> Result<(Name, u16), Reason> {
        self.routes
            .resolve(route, reference, parent_namespace, |name| {
                self.service(&name.namespace, &name.name)
            })
    }

    /// Every route with what has become of it at each parent.
    pub fn judged_routes(&self) -> &[Judged] {
        &self.routes.verdicts
    }
}

/// The ports that a parent means.
fn places(
    route: &Route,
    parent: &ParentRef,
    services: &BTreeMap<Name, Arc<Service>>,
) -> Result<Vec<Place>, String> {
    let name = Name::new(&*parent.namespace, &*parent.name);
    let service = services.get(&name);
    let service = service.ok_or_else(|| format!("there is no service {name}"))?;
    let consumers = (!route.is_producer_of(parent)).then(|| route.namespace.clone());
    let meant = |port: &&ServicePort| {
        let number = parent.port.is_none_or(|wanted| wanted == port.port);
        let section = parent.section_name.as_ref();
        number && section.is_none_or(|wanted| *wanted == port.name)
    };
    let ports: Vec<_> = service.ports.iter().filter(meant).collect();
    if ports.is_empty() && (parent.port.is_some() || parent.section_name.is_some()) {
        return Err(format!("service {name} has no such port"));
    }
    let ports = ports.into_iter();
    Ok(ports
        .map(|port| Place {
            service: name.clone(),
            port: port.port,
            consumers: consumers.clone(),
        })
        .collect())
}

fn unsupported(route: &Route) -> impl Iterator<Item = String> {
    route.rules.iter().flat_map(|rule| {
        let backends = rule.backends.iter();
        let backends = backends.filter_map(|backend| backend.unsupported.clone());
        rule.unsupported.iter().cloned().chain(backends)
    })
}

fn refuse(refusals: &mut Vec<Refusal>, origin: &Origin, route: &Route, verdict: &Verdict) {
    let Verdict {
        rejected,
        unresolved,
        partly,
        ignored,
    } = verdict;
    let found = [
        (rejected, "", "correct the route, or add what is missing"),
        (
            unresolved,
            "; its share of requests is answered 500",
            "correct the reference, or add what is missing",
        ),
        (
            partly,
            "; what it is asked for is answered 500",
            "leave it out",
        ),
        (
            ignored,
            "; it is left undone",
            "use split.sticky of a TrafficPolicy",
        ),
    ];
    for (reason, consequence, mend) in found {
        let Some(reason) = reason else { continue };
        let refusal = Refusal {
            file: origin.file.to_string(),
            line: origin.line,
            object: route.to_string(),
            reason: format!("{}: {}{consequence}", reason.word, reason.message),
            mend: mend.to_owned(),
        };
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
}

/// Says which parts of policies are not in force because a route stands there.
pub(super) fn overridden(
    policies: &[Sourced<Arc<crate::policy::TrafficPolicy>>],
    model_routes: &Routes,
    services: &BTreeMap<Name, Arc<Service>>,
    judgement: &mut Judgement,
    refusals: &mut Vec<Refusal>,
) {
    for Sourced { origin, object } in policies {
        let metadata = &object.metadata;
        let mut parts = Vec::new();
        if object
            .spec
            .rules
            .as_ref()
            .is_some_and(|rules| !rules.is_empty())
        {
            parts.push("spec.rules");
        }
        if object
            .spec
            .split
            .as_ref()
            .is_some_and(|split| !split.backends.is_empty())
        {
            parts.push("spec.split.backends");
        }
        if parts.is_empty() {
            continue;
        }
        for target in &object.spec.target_refs {
            let name = Name::new(&*metadata.namespace, &*target.name);
            let Some(service) = services.get(&name) else {
                continue;
            };
            let ports = service.ports.iter();
            let ports = ports.filter(|port| {
                let section = target.section_name.as_ref();
                section.is_none_or(|section| *section == port.name)
            });
            for port in ports {
                let place = Place {
                    service: name.clone(),
                    port: port.port,
                    consumers: None,
                };
                let Some(route) = model_routes.attached.get(&place).and_then(|it| it.first())
                else {
                    continue;
                };
                let policy = Name::new(&*metadata.namespace, &*metadata.name);
                let what = Overridden {
                    parts: parts.clone(),
                    port: port.port,
                    by: route.to_string(),
                };
                judgement.overridden(&policy, target, what);
                refusals.push(Refusal {
                    file: origin.file.to_string(),
                    line: origin.line,
                    object: format!("TrafficPolicy {}/{}", metadata.namespace, metadata.name),
                    reason: format!(
                        "Overridden: {} of service {name} port {} is not in force: {route} has \
                         matching and weights there",
                        parts.join(" and "),
                        port.port
                    ),
                    mend: "say it in the route, or remove the route".to_owned(),
                });
            }
        }
    }
}

/// Kinds in the order in which they take a port; the first one has it.
const _: () = assert!((RouteKind::Grpc as u8) < (RouteKind::Http as u8));
