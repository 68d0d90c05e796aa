//! What may be different between a model and one before it, so that nobody looks at what is not.
//!
//! A step never says less than what differs: it may name too much, and where it cannot tell it names
//! everything. Nobody is told less for having slept: steps are kept for a while, and whoever has seen an
//! older model than they go back to finds that everything may be different.
//!
//! Who depends on what:
//! * A service's endpoints depend on its workloads, on the services that lead to the same ones, and on
//!   its namespace's policies.
//! * What a workload serves depends on the services that lead to it, and on its namespace's policies.
//! * What an address means depends on who has it, and on the policies of that one's namespace.
//! * Gateway API routes tie namespaces together: where there are any, a change of a policy, or of a
//!   service's ports or addresses, may be of everything.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{BrokenPolicy, Model, Name, Objects, Service, ServiceEndpoint, Sourced, Workload};
use crate::policy::TrafficPolicy;
use crate::route::{ReferenceGrant, Route};

/// Steps that a model remembers.
const MAX_STEPS: usize = 64;

/// What a model was made of and keeps in no other form, to be compared with the next one's.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    policies: Vec<Arc<TrafficPolicy>>,
    broken: Vec<BrokenPolicy>,
    routes: Vec<Arc<Route>>,
    grants: Vec<Arc<ReferenceGrant>>,
}

/// The way to a model from those before it, the oldest step first.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Vec<Step>);

#[derive(Clone, Debug)]
struct Step {
    /// The revision that it leads away from.
    from: u64,
    changes: Arc<Changes>,
}

/// What may differ between two neighbouring models. Lists are sorted.
#[derive(Debug, Default)]
struct Changes {
    everything: bool,
    services: Vec<Name>,
    workloads: Vec<Name>,
    addresses: Vec<IpAddr>,
    namespaces: Vec<String>,
}

/// What may be different since an earlier model.
#[derive(Clone, Copy, Debug)]
pub struct Since<'m> {
    /// `None`: everything.
    steps: Option<&'m [Step]>,
}

impl Since<'_> {
    /// Whether anything may be different.
    pub fn everything(self) -> bool {
        self.steps
            .is_none_or(|steps| steps.iter().any(|step| step.changes.everything))
    }

    /// Whether nothing is different.
    pub fn nothing(self) -> bool {
        self.steps.is_some_and(<[Step]>::is_empty)
    }

    /// Whether the endpoints of a service may be.
    pub fn service(self, namespace: &str, name: &str) -> bool {
        self.any(|changes| has(&changes.services, namespace, name))
    }

    /// Whether a workload may be, or what it serves.
    pub fn workload(self, namespace: &str, name: &str) -> bool {
        self.any(|changes| has(&changes.workloads, namespace, name))
    }

    /// Whether what an address means may be.
    pub fn address(self, ip: IpAddr) -> bool {
        self.any(|changes| changes.addresses.binary_search(&ip).is_ok())
    }

    /// Whether what holds for a whole namespace may be: its policies, and which services it has.
    pub fn namespace(self, namespace: &str) -> bool {
        self.any(|changes| {
            let known = &changes.namespaces;
            known
                .binary_search_by(|known| known.as_str().cmp(namespace))
                .is_ok()
        })
    }

    fn any(self, is_meant: impl Fn(&Changes) -> bool) -> bool {
        let is_meant = |step: &Step| step.changes.everything || is_meant(&step.changes);
        self.steps.is_none_or(|steps| steps.iter().any(is_meant))
    }
}

impl Model {
    /// What may be different since the model of a revision. Everything, where that is not one of the
    /// last models before this one.
    pub fn since(&self, revision: u64) -> Since<'_> {
        if revision == self.revision {
            return Since { steps: Some(&[]) };
        }
        let History(steps) = &self.history;
        let first = steps.iter().position(|step| step.from == revision);
        Since {
            steps: first.map(|first| &steps[first..]),
        }
    }

    /// Whether there are any Gateway API routes, attached or not.
    pub fn has_routes(&self) -> bool {
        !self.inputs.routes.is_empty()
    }

    /// Remembers which way led here from the model before.
    pub(super) fn follows(&mut self, before: &Self) {
        let History(steps) = &before.history;
        let oldest = (steps.len() + 1).saturating_sub(MAX_STEPS);
        let mut steps = steps[oldest..].to_vec();
        steps.push(Step {
            from: before.revision,
            changes: Arc::new(Changes::between(before, self)),
        });
        self.history = History(steps);
    }
}

impl Inputs {
    pub(super) fn of(objects: &Objects) -> Self {
        fn all<T>(objects: &[Sourced<Arc<T>>]) -> Vec<Arc<T>> {
            let objects = objects.iter();
            objects.map(|it| Arc::clone(&it.object)).collect()
        }
        Self {
            policies: all(&objects.policies),
            broken: objects.broken.clone(),
            routes: all(&objects.routes),
            grants: all(&objects.grants),
        }
    }

    /// The namespaces whose policies are not the same.
    fn other_policies<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let by_namespace = |inputs: &'a Self| {
            let mut all: BTreeMap<&str, (Vec<&Arc<TrafficPolicy>>, Vec<&BrokenPolicy>)> =
                BTreeMap::new();
            for policy in &inputs.policies {
                let namespace = policy.metadata.namespace.as_str();
                all.entry(namespace).or_default().0.push(policy);
            }
            for broken in &inputs.broken {
                let namespace = broken.name.namespace.as_str();
                all.entry(namespace).or_default().1.push(broken);
            }
            all
        };
        let (one, mut two) = (by_namespace(self), by_namespace(other));
        let mut differing = Vec::new();
        for (namespace, (policies, broken)) in one {
            let same = two.remove(namespace).is_some_and(|(others, also)| {
                let same = |(one, two): (&&Arc<TrafficPolicy>, &&Arc<TrafficPolicy>)| {
                    Arc::ptr_eq(one, two) || one == two
                };
                policies.len() == others.len()
                    && policies.iter().zip(&others).all(same)
                    && broken == also
            });
            if !same {
                differing.push(namespace);
            }
        }
        differing.into_iter().chain(two.into_keys())
    }
}

impl Changes {
    fn between(before: &Model, after: &Model) -> Self {
        let mut changes = Self::default();
        let (old, new) = (&before.inputs, &after.inputs);
        if before.settings != after.settings
            || !same(&old.routes, &new.routes)
            || !same(&old.grants, &new.grants)
            || before.listeners != after.listeners
        {
            return Self::everything();
        }
        // Routes lead to services of other namespaces, and listeners stand for them.
        let are_tied = !new.routes.is_empty() || !after.listeners.is_empty();

        let namespaces = old.other_policies(new).map(str::to_owned);
        changes.namespaces = namespaces.collect();
        for (old, new) in differing(&before.services, &after.services) {
            match (old, new) {
                (Some(old), Some(new)) if has_same_shape(old, new) => {
                    changes.service([old, new], [before, after]);
                }
                _ => {
                    for service in [old, new].into_iter().flatten() {
                        changes.add_service(service, [before, after]);
                        let namespace = &service.name.namespace;
                        changes.namespaces.push(namespace.clone());
                    }
                }
            }
        }
        if are_tied && !changes.namespaces.is_empty() {
            return Self::everything();
        }
        for (old, new) in differing(&before.workloads, &after.workloads) {
            for (model, workload) in [(before, old), (after, new)] {
                if let Some(workload) = workload {
                    changes.add_workload(workload, model);
                }
            }
        }
        changes.sort();
        changes
    }

    fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// A service that leads elsewhere.
    fn service(&mut self, [old, new]: [&Service; 2], models: [&Model; 2]) {
        if old.endpoints == new.endpoints && old.ports == new.ports {
            // Who gets traffic at the moment is all that is different.
            self.services.push(new.name.clone());
            return;
        }
        for service in [old, new] {
            self.add_service(service, models);
        }
    }

    /// A service and all that depend on which workloads it leads to.
    fn add_service(&mut self, service: &Service, models: [&Model; 2]) {
        self.services.push(service.name.clone());
        self.addresses.extend(&service.cluster_ips);
        for endpoint in &service.endpoints {
            match endpoint {
                ServiceEndpoint::Address(foreign) => self.addresses.push(foreign.ip),
                ServiceEndpoint::Workload(name) => {
                    let namespace = &service.name.namespace;
                    for model in models {
                        if let Some(workload) = model.workload(namespace, name) {
                            self.add_workload(workload, model);
                        }
                    }
                }
            }
        }
    }

    /// A workload and all services that lead to it.
    fn add_workload(&mut self, workload: &Workload, model: &Model) {
        self.workloads.push(workload.name.clone());
        self.addresses.extend(&workload.addresses);
        let services = model.services_of_workload.get(&workload.name);
        let services = services.into_iter().flatten();
        self.services.extend(services.map(|it| it.name.clone()));
    }

    fn sort(&mut self) {
        fn sorted<T: Ord>(list: &mut Vec<T>) {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
        }
        sorted(&mut self.services);
        sorted(&mut self.workloads);
        sorted(&mut self.addresses);
        sorted(&mut self.namespaces);
    }
}

/// Objects that are not the same in both, with both.
fn differing<'a, T: PartialEq>(
    before: &'a BTreeMap<Name, Arc<T>>,
    after: &'a BTreeMap<Name, Arc<T>>,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let mut found = Vec::new();
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let old = before.next_if(|_| order.is_le()).map(|(_, old)| old);
        let new = after.next_if(|_| order.is_ge()).map(|(_, new)| new);
        let is_same = match (old, new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
            _ => false,
        };
        if !is_same {
            found.push((old.map(|old| &**old), new.map(|new| &**new)));
        }
    }
}

/// Whether two versions of a service are addressed alike.
fn has_same_shape(old: &Service, new: &Service) -> bool {
    let said = |service: &Service| -> Vec<_> {
        let ports = service.ports.iter();
        ports
            .map(|port| (port.name.clone(), port.port, port.app_protocol.clone()))
            .collect()
    };
    old.cluster_ips == new.cluster_ips && said(old) == said(new)
}

fn same<T: PartialEq>(one: &[Arc<T>], two: &[Arc<T>]) -> bool {
    let is_same = |(one, two): (&Arc<T>, &Arc<T>)| Arc::ptr_eq(one, two) || one == two;
    one.len() == two.len() && one.iter().zip(two).all(is_same)
}

fn has(sorted: &[Name], namespace: &str, name: &str) -> bool {
    let order = |known: &Name| (&*known.namespace, &*known.name).cmp(&(namespace, name));
    sorted.binary_search_by(order).is_ok()
}
