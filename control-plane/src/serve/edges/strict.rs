//! What would be refused if what is `Permissive` were `Strict`.
//!
//! A service is asked about as a whole: `Permissive` where a workload behind it with a sidecar takes
//! plaintext because nobody said otherwise. Workloads that no service leads to are asked about together,
//! per namespace. A workload without a sidecar enforces nothing, and is not asked about.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_proto::discovery::EdgeTls;
use weft_proto::replica::Watcher;

use super::merge::{End, Merged, services};
use super::tls_of;
use crate::index::{EndpointName, Model, Name, Service, ServiceEndpoint, Workload};
use crate::policy::MtlsMode;

/// Callers of one target that are listed; those in plaintext first.
pub(super) const MAX_CALLERS: usize = 1_000;
/// Workloads that are named of those that said nothing.
const MAX_SILENT: usize = 3;

/// A service that is Permissive, or the workloads of a namespace behind none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name; `None` for workloads behind no service.
    pub service: Option<String>,
    /// Its workloads with a sidecar.
    pub workloads: usize,
    /// How many of them have not reported, or are not connected.
    pub silent: usize,
    /// Some of these, by name.
    pub silent_names: Vec<String>,
    /// For how long all that report have been watching.
    pub watched_seconds: u64,
    /// Who came; what is exempt or refused already is left out.
    pub callers: Vec<Caller>,
}

/// Somebody who came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// Who.
    pub from: End,
    /// How.
    pub tls: EdgeTls,
    /// Seconds since the last time.
    pub last_seconds: u64,
}

/// A service, or a namespace's workloads behind none.
type Place = (String, Option<String>);

/// Everything that is Permissive, by name.
pub fn targets(model: &Model, merged: &Merged) -> Vec<Target> {
    let connected: HashMap<(&str, &str), &Watcher> = merged
        .watchers
        .iter()
        .filter(|watcher| watcher.gone_seconds.is_none())
        .map(|watcher| ((&*watcher.namespace, &*watcher.workload), watcher))
        .collect();
    let mut callers = callers(model, merged);
    let places = places(model).into_iter();
    places
        .map(|((namespace, service), workloads)| {
            let mut target = Target {
                callers: callers
                    .remove(&(namespace.clone(), service.clone()))
                    .unwrap_or_default(),
                namespace,
                service,
                workloads: workloads.len(),
                silent: 0,
                silent_names: Vec::new(),
                watched_seconds: u64::MAX,
            };
            for name in workloads {
                if let Some(watcher) = connected.get(&(&*target.namespace, name)) {
                    let watched = target.watched_seconds.min(watcher.watched_seconds);
                    target.watched_seconds = watched;
                    continue;
                }
                target.silent += 1;
                if target.silent_names.len() < MAX_SILENT {
                    target.silent_names.push(name.to_owned());
                }
            }
            if target.silent == target.workloads {
                target.watched_seconds = 0;
            }
            target
        })
        .collect()
}

/// What is Permissive, with its workloads that have a sidecar.
fn places(model: &Model) -> BTreeMap<Place, BTreeSet<&str>> {
    let mut places: BTreeMap<Place, BTreeSet<&str>> = BTreeMap::new();
    let mut behind: BTreeSet<&Name> = BTreeSet::new();
    for service in model.services() {
        let meshed = workloads(model, service);
        behind.extend(meshed.iter().map(|workload| &workload.name));
        let is_permissive = meshed.iter().any(|workload| {
            let endpoint = EndpointName::Workload(workload.name.name.clone());
            let ports = service.ports.iter();
            let mut ports = ports.filter_map(|port| port.target_of(&endpoint));
            ports.any(|port| model.inbound_mtls(workload, port) == MtlsMode::Permissive)
        });
        if is_permissive {
            let Name { namespace, name } = service.name.clone();
            let names = meshed.iter().map(|workload| &*workload.name.name);
            places.insert((namespace, Some(name)), names.collect());
        }
    }
    let alone = model.workloads().filter(|workload| {
        is_watching(workload)
            && !behind.contains(&workload.name)
            // No service leads to port 0: the namespace's own mode.
            && model.inbound_mtls(workload, 0) == MtlsMode::Permissive
    });
    for workload in alone {
        let place = (workload.name.namespace.clone(), None);
        places.entry(place).or_default().insert(&workload.name.name);
    }
    places
}

/// The workloads of a service that have a sidecar.
fn workloads<'m>(model: &'m Model, service: &Service) -> Vec<&'m Workload> {
    let endpoints = service
        .endpoints
        .iter()
        .filter_map(|endpoint| match endpoint {
            ServiceEndpoint::Workload(name) => Some(name),
            ServiceEndpoint::Address(_) => None,
        });
    let names: BTreeSet<&String> = endpoints.chain(&service.idle).collect();
    let namespace = &service.name.namespace;
    names
        .into_iter()
        .filter_map(|name| model.workload(namespace, name))
        .filter(|workload| is_watching(workload))
        .collect()
}

fn is_watching(workload: &Workload) -> bool {
    workload.meshed && !workload.draining && !workload.ended
}

/// Who came where, as servers saw it.
fn callers(model: &Model, merged: &Merged) -> HashMap<Place, Vec<Caller>> {
    let mut found: HashMap<Place, BTreeMap<(End, EdgeTls), u64>> = HashMap::new();
    for watcher in &merged.watchers {
        for edge in watcher.edges.iter().filter(|edge| !edge.outbound) {
            let tls = tls_of(edge);
            if matches!(tls, EdgeTls::Exempt | EdgeTls::Refused) {
                continue;
            }
            let services = services(model, watcher, edge).into_iter();
            let services: BTreeSet<Name> = services.map(|(service, _)| service).collect();
            let services = services.into_iter();
            let mut places: Vec<Place> = services
                .map(|Name { namespace, name }| (namespace, Some(name)))
                .collect();
            if places.is_empty() {
                places.push((watcher.namespace.clone(), None));
            }
            for place in places {
                let callers = found.entry(place).or_default();
                let last = callers.entry((End::of(edge), tls)).or_insert(u64::MAX);
                *last = edge.last_seconds.min(*last);
            }
        }
    }
    let listed = |callers: BTreeMap<(End, EdgeTls), u64>| {
        let callers = callers.into_iter();
        let mut callers: Vec<_> = callers
            .map(|((from, tls), last_seconds)| Caller {
                from,
                tls,
                last_seconds,
            })
            .collect();
        callers.sort_by_key(|caller| (!super::is_plain(caller.tls), caller.last_seconds));
        callers.truncate(MAX_CALLERS);
        callers
    };
    let found = found.into_iter();
    found
        .map(|(place, callers)| (place, listed(callers)))
        .collect()
}
