//! Checks objects against each other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::Model;
use super::attach::Attached;
use super::changes::{History, Inputs};
use super::judged::Judgement;
use super::objects::{
    ExplicitListener, Name, Objects, Origin, Refusal, Service, ServiceEndpoint, Sourced, Workload,
};
use super::routes::{self, Routes};

/// What is the same as in the model `before` is shared with it.
pub(super) fn build(objects: Objects, revision: u64, before: Option<&Model>) -> Model {
    let inputs = Inputs::of(&objects);
    let Objects {
        settings,
        listeners,
        workloads,
        services,
        policies,
        broken,
        routes,
        grants,
        mut refusals,
    } = objects;

    let known = before.map(|before| &before.services);
    let services = shared(services, known, |service| &service.name);
    let known = before.map(|before| &before.workloads);
    let workloads = shared(workloads, known, |workload| &workload.name);
    let mut addresses = Addresses::default();
    let services = keep(services, &mut refusals, |service| {
        addresses.claim(&Owner::Service(Arc::clone(service)), &service.cluster_ips)
    });
    let workloads = keep(workloads, &mut refusals, |workload| {
        addresses.claim(&Owner::Workload(Arc::clone(workload)), &workload.addresses)
    });
    drop(addresses);

    let mut services_of_workload: HashMap<Name, Vec<Arc<Service>>> = HashMap::new();
    let mut services_of_address: HashMap<IpAddr, Vec<Arc<Service>>> = HashMap::new();
    for (origin, service) in services.values() {
        for endpoint in &service.endpoints {
            match endpoint {
                ServiceEndpoint::Workload(name) => {
                    let name = Name::new(&*service.name.namespace, &**name);
                    if !workloads.contains_key(&name) {
                        refusals.push(Refusal {
                            mend: "correct the name, or add the workload".to_owned(),
                            ..refusal(
                                origin,
                                format!("Service {}", service.name),
                                format!("there is no workload {name}: this endpoint is withheld"),
                            )
                        });
                        continue;
                    }
                    services_of_workload
                        .entry(name)
                        .or_default()
                        .push(Arc::clone(service));
                }
                ServiceEndpoint::Address(foreign) => services_of_address
                    .entry(foreign.ip)
                    .or_default()
                    .push(Arc::clone(service)),
            }
        }
    }
    let service_by_ip = services
        .values()
        .flat_map(|(_, service)| {
            service
                .cluster_ips
                .iter()
                .map(|ip| (*ip, Arc::clone(service)))
        })
        .collect();
    let workload_by_ip = workloads
        .values()
        .flat_map(|(_, workload)| {
            workload
                .addresses
                .iter()
                .map(|ip| (*ip, Arc::clone(workload)))
        })
        .collect();
    let services = without_origins(services);
    let workloads = without_origins(workloads);
    let listeners = check_listeners(listeners, &services, &workloads, &mut refusals);
    let routes = Routes::attach(routes, grants, &services, &mut refusals);
    let mut judgement = Judgement::of(&policies, &services);
    routes::overridden(&policies, &routes, &services, &mut judgement, &mut refusals);
    let policies = Attached::attach(
        policies,
        &broken,
        settings.minimum_mtls,
        &services,
        &mut judgement,
        &mut refusals,
    );
    refusals.sort();

    Model {
        revision,
        settings,
        workloads,
        services,
        workload_by_ip,
        service_by_ip,
        services_of_workload,
        services_of_address,
        listeners,
        policies,
        judged: judgement.into_verdicts(),
        routes,
        refusals,
        inputs,
        history: History::default(),
    }
}

/// Which addresses are taken, and by whom.
#[derive(Default)]
struct Addresses(HashMap<IpAddr, Owner>);

#[derive(Clone)]
enum Owner {
    Service(Arc<Service>),
    Workload(Arc<Workload>),
}

impl Addresses {
    /// Takes all of `wanted` for `who`, or none.
    fn claim(&mut self, who: &Owner, wanted: &[IpAddr]) -> Result<(), String> {
        for ip in wanted {
            if let Some(owner) = self.0.get(ip) {
                return Err(format!("{ip} belongs to {owner} already"));
            }
        }
        for ip in wanted {
            self.0.insert(*ip, who.clone());
        }
        Ok(())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "service {}", service.name),
            Self::Workload(workload) => write!(f, "workload {}", workload.name),
        }
    }
}

trait Named {
    const KIND: &'static str;
    fn name(&self) -> &Name;
}

impl Named for Service {
    const KIND: &'static str = "Service";
    fn name(&self) -> &Name {
        &self.name
    }
}

impl Named for Workload {
    const KIND: &'static str = "Workload";
    fn name(&self) -> &Name {
        &self.name
    }
}

/// Each object with its origin, as it is known already where nothing of it is different.
fn shared<T: PartialEq>(
    objects: Vec<Sourced<T>>,
    known: Option<&BTreeMap<Name, Arc<T>>>,
    name: impl Fn(&T) -> &Name,
) -> Vec<Sourced<Arc<T>>> {
    // Most sources have their objects in the order of their names.
    let mut next = known.into_iter().flatten().peekable();
    let mut known = |name: &Name| {
        while next.next_if(|(next, _)| *next < name).is_some() {}
        match next.peek() {
            Some((next, object)) if *next == name => Some(*object),
            _ => known?.get(name),
        }
    };
    let share = |Sourced { origin, object }| {
        let known = known(name(&object));
        let object = match known.filter(|known| ***known == object) {
            Some(known) => Arc::clone(known),
            None => Arc::new(object),
        };
        Sourced { origin, object }
    };
    objects.into_iter().map(share).collect()
}

/// Those that pass the check, by name.
fn keep<T: Named>(
    objects: Vec<Sourced<Arc<T>>>,
    refusals: &mut Vec<Refusal>,
    mut check: impl FnMut(&Arc<T>) -> Result<(), String>,
) -> BTreeMap<Name, (Origin, Arc<T>)> {
    let mut kept = Vec::with_capacity(objects.len());
    for Sourced { origin, object } in objects {
        match check(&object) {
            Ok(()) => kept.push((object.name().clone(), (origin, object))),
            Err(reason) => refusals.push(refusal(
                &origin,
                format!("{} {}", T::KIND, object.name()),
                reason,
            )),
        }
    }
    kept.into_iter().collect()
}

fn without_origins<T>(objects: BTreeMap<Name, (Origin, Arc<T>)>) -> BTreeMap<Name, Arc<T>> {
    objects
        .into_iter()
        .map(|(name, (_, object))| (name, object))
        .collect()
}

fn check_listeners(
    listeners: Vec<Sourced<ExplicitListener>>,
    services: &BTreeMap<Name, Arc<Service>>,
    workloads: &BTreeMap<Name, Arc<Workload>>,
    refusals: &mut Vec<Refusal>,
) -> HashMap<Name, Vec<ExplicitListener>> {
    let mut checked: HashMap<Name, Vec<ExplicitListener>> = HashMap::new();
    for Sourced {
        origin,
        object: listener,
    } in listeners
    {
        let own = checked.entry(listener.workload.clone()).or_default();
        let problem = match services.get(&listener.service) {
            _ if !workloads.contains_key(&listener.workload) => {
                Some(format!("there is no workload {}", listener.workload))
            }
            _ if own.iter().any(|known| known.listen == listener.listen) => {
                Some("another listener of this workload has the address already".to_owned())
            }
            None => Some(format!("there is no service {}", listener.service)),
            Some(service) if service.port(listener.port).is_none() => Some(format!(
                "service {} has no port {}",
                listener.service, listener.port
            )),
            Some(service) if service.cluster_ips.is_empty() => Some(format!(
                "service {} has no cluster IP that a connection could mean",
                listener.service
            )),
            Some(_) => None,
        };
        match problem {
            None => own.push(listener),
            Some(reason) => refusals.push(refusal(
                &origin,
                format!("ExplicitListener {} {}", listener.workload, listener.listen),
                reason,
            )),
        }
    }
    checked
}

fn refusal(origin: &Origin, object: String, reason: String) -> Refusal {
    Refusal {
        file: origin.file.to_string(),
        line: origin.line,
        object,
        reason,
        mend: String::new(),
    }
}
