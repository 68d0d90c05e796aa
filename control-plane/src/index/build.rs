//! Checks objects against each other.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Model;
use super::attach::Attached;
use super::judged::Judgement;
use super::objects::{
    ExplicitListener, Name, Objects, Origin, Refusal, Service, ServiceEndpoint, Sourced, Workload,
};
use super::routes::{self, Routes};

pub(super) fn build(objects: Objects, revision: u64) -> Model {
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

    let mut addresses = Addresses::default();
    let services = keep(services, &mut refusals, |service: &Service| {
        addresses.claim(&format!("service {}", service.name), &service.cluster_ips)
    });
    let workloads = keep(workloads, &mut refusals, |workload: &Workload| {
        addresses.claim(&format!("workload {}", workload.name), &workload.addresses)
    });
    let services = by_name(services, |service| &service.name);
    let workloads = by_name(workloads, |workload| &workload.name);

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
    }
}

/// Which addresses are taken, and by whom.
#[derive(Default)]
struct Addresses(HashMap<IpAddr, String>);

impl Addresses {
    /// Takes all of `wanted` for `who`, or none.
    fn claim(&mut self, who: &str, wanted: &[IpAddr]) -> Result<(), String> {
        for ip in wanted {
            if let Some(owner) = self.0.get(ip) {
                return Err(format!("{ip} belongs to {owner} already"));
            }
        }
        for ip in wanted {
            self.0.insert(*ip, who.to_owned());
        }
        Ok(())
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

fn keep<T: Named>(
    objects: Vec<Sourced<T>>,
    refusals: &mut Vec<Refusal>,
    mut check: impl FnMut(&T) -> Result<(), String>,
) -> Vec<Sourced<T>> {
    let mut kept = Vec::with_capacity(objects.len());
    for sourced in objects {
        match check(&sourced.object) {
            Ok(()) => kept.push(sourced),
            Err(reason) => refusals.push(refusal(
                &sourced.origin,
                format!("{} {}", T::KIND, sourced.object.name()),
                reason,
            )),
        }
    }
    kept
}

fn by_name<T>(
    objects: Vec<Sourced<T>>,
    name: impl Fn(&T) -> &Name,
) -> BTreeMap<Name, (Origin, Arc<T>)> {
    objects
        .into_iter()
        .map(|Sourced { origin, object }| (name(&object).clone(), (origin, Arc::new(object))))
        .collect()
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
