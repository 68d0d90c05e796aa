//! What stands for a cluster's DNS and for kube-proxy: a hosts file with the names of services, and a
//! listener at every service's address, on the node, which hands connections on to endpoints that are
//! ready. Sidecars find the control plane so, and pods the API server; what applications send to services
//! their sidecars take before it comes here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::Pod;
use crate::net;
use crate::pod::Forward;

/// Label on a slice with its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The API server's own service, namespace and name.
pub(super) const API_SERVICE: (&str, &str) = ("default", "kubernetes");
/// Bits of an address that stands alone.
const ALONE: u8 = 32;

/// Namespace, name and port of a service.
type Key = (String, String, u16);

/// Follows a cluster's services until it is dropped.
#[derive(Debug)]
pub(super) struct Services {
    table: Arc<Mutex<Table>>,
    node: Pod,
    _task: AbortOnDropHandle<()>,
}

type Table = BTreeMap<Key, Behind>;

/// What a service's port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Behind {
    /// Where it is; a headless one is nowhere.
    at: Option<SocketAddr>,
    ready: Vec<SocketAddr>,
}

impl Services {
    /// Begins. `api`: where the API server is, on the host; `hosts`: the file to keep.
    pub(super) fn start(
        client: &Client,
        node: Pod,
        api: SocketAddr,
        hosts: PathBuf,
    ) -> io::Result<Self> {
        write_hosts(&hosts, &BTreeMap::new())?;
        let table = Arc::default();
        let listeners = Listeners {
            node: node.clone(),
            api,
            table: Arc::clone(&table),
            addresses: BTreeSet::new(),
            open: BTreeMap::new(),
        };
        let following = follow(client.clone(), listeners, hosts);
        Ok(Self {
            table,
            node,
            _task: AbortOnDropHandle::new(tokio::spawn(following)),
        })
    }

    /// Hands what comes to a listener of the host on to a service's port.
    pub(super) fn expose(&self, listener: TcpListener, key: Key) -> Forward {
        let table = Arc::clone(&self.table);
        self.node.forward_to(listener, move || choose(&table, &key))
    }
}

async fn follow(client: Client, mut listeners: Listeners, hosts: PathBuf) {
    let (services, writer) = reflector::store::<Service>();
    let all = watcher(
        Api::<Service>::all(client.clone()),
        watcher::Config::default(),
    );
    let of_services = reflector(writer, all.default_backoff()).map(drop);
    let (slices, writer) = reflector::store::<EndpointSlice>();
    let all = watcher(
        Api::<EndpointSlice>::all(client),
        watcher::Config::default(),
    );
    let of_slices = reflector(writer, all.default_backoff()).map(drop);
    let mut changes = stream::select(of_services.boxed(), of_slices.boxed());
    while changes.next().await.is_some() {
        let table = table(&services.state(), &slices.state());
        if *listeners.table.lock() == table {
            continue;
        }
        if let Err(error) = write_hosts(&hosts, &table) {
            tracing::warn!("the hosts file could not be written: {error}");
        }
        listeners.table.lock().clone_from(&table);
        listeners.follow(&table);
    }
}

/// What is open on the node.
struct Listeners {
    node: Pod,
    api: SocketAddr,
    table: Arc<Mutex<Table>>,
    addresses: BTreeSet<Ipv4Addr>,
    open: BTreeMap<(Key, SocketAddr), Forward>,
}

impl Listeners {
    fn follow(&mut self, table: &Table) {
        self.open
            .retain(|(key, at), _| table.get(key).is_some_and(|it| it.at == Some(*at)));
        for (key, behind) in table {
            let Some(at) = behind.at else { continue };
            if self.open.contains_key(&(key.clone(), at)) {
                continue;
            }
            match self.listen(key, at) {
                Ok(forward) => drop(self.open.insert((key.clone(), at), forward)),
                Err(error) => tracing::warn!("service {}/{} at {at}: {error}", key.0, key.1),
            }
        }
    }

    fn listen(&mut self, key: &Key, at: SocketAddr) -> io::Result<Forward> {
        if let SocketAddr::V4(at) = at
            && self.addresses.insert(*at.ip())
        {
            let address = (*at.ip()).into();
            self.node
                .run(move || net::add_address("lo", address, ALONE))?;
        }
        if (&*key.0, &*key.1) == API_SERVICE {
            return self.node.forward_out(at, self.api);
        }
        let (table, key) = (Arc::clone(&self.table), key.clone());
        let listener = self.node.listen(at)?;
        Ok(self.node.forward_to(listener, move || choose(&table, &key)))
    }
}

fn choose(table: &Mutex<Table>, key: &Key) -> Option<SocketAddr> {
    let table = table.lock();
    let ready = &table.get(key)?.ready;
    ready.get(fastrand::usize(..ready.len().max(1))).copied()
}

fn table(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Table {
    let mut table = Table::new();
    for service in services {
        let (metadata, spec) = (&service.metadata, service.spec.as_ref());
        let name = metadata.name.clone().unwrap_or_default();
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let address = spec.and_then(|spec| spec.cluster_ip.as_ref());
        let address = address.and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let own = slices.iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            slice.metadata.namespace == metadata.namespace
                && labels.and_then(|labels| labels.get(SERVICE_NAME)) == Some(&name)
        });
        let own: Vec<_> = own.collect();
        for port in spec
            .and_then(|spec| spec.ports.as_ref())
            .into_iter()
            .flatten()
        {
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            let ready = own
                .iter()
                .flat_map(|slice| ready(slice, port.name.as_deref()));
            let behind = Behind {
                at: address.map(|address| (address, number).into()),
                ready: ready.collect(),
            };
            table.insert((namespace.clone(), name.clone(), number), behind);
        }
    }
    table
}

/// The endpoints of a slice that take traffic, at the port of this name.
fn ready(slice: &EndpointSlice, port: Option<&str>) -> Vec<SocketAddr> {
    let mut ports = slice.ports.iter().flatten();
    let named =
        ports.find(|known| known.name.as_deref().unwrap_or_default() == port.unwrap_or_default());
    let number = named.and_then(|port| u16::try_from(port.port?).ok());
    let Some(number) = number else {
        return Vec::new();
    };
    let endpoints = slice.endpoints.iter().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|it| it.ready) != Some(false)
    });
    let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let addresses = addresses.filter_map(|address| address.parse::<Ipv4Addr>().ok());
    addresses.map(|address| (address, number).into()).collect()
}

/// Writes over what there is, as containers have this very file: the new text and then its end, so that
/// whoever reads in between sees a whole beginning.
fn write_hosts(path: &Path, table: &Table) -> io::Result<()> {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    let mut named = BTreeSet::new();
    for ((namespace, name, _), behind) in table {
        if let Some(at) = behind.at
            && named.insert((namespace, name))
        {
            let host = format!("{name}.{namespace}");
            let _ = writeln!(
                text,
                "{} {host}.svc.cluster.local {host}.svc {host}",
                at.ip()
            );
        }
    }
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_port_leads_to_what_is_ready_behind_it() {
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [
                {"name": "http", "port": 80}, {"name": "admin", "port": 81},
            ]},
        });
        let headless = json!({
            "metadata": {"name": "all", "namespace": "shop"},
            "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
        });
        let endpoint = |ip: &str, conditions| json!({"addresses": [ip], "conditions": conditions});
        let slice = json!({
            "metadata": {"name": "x", "namespace": "shop", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                endpoint("10.42.0.2", json!({"ready": true})), endpoint("10.42.0.3", json!({})),
                endpoint("10.42.0.4", json!({"ready": false, "serving": true})),
            ],
        });
        let read = |value| Arc::new(serde_json::from_value(value).unwrap());
        let services = [read(service), read(headless)];
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let table = table(&services, &slices);
        let of = |name: &str, port| &table[&("shop".to_owned(), name.to_owned(), port)];
        let ready: Vec<_> = of("web", 80)
            .ready
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(ready, ["10.42.0.2:8080", "10.42.0.3:8080"]);
        assert_eq!(of("web", 80).at, Some(([10, 96, 0, 9], 80).into()));
        assert!(of("web", 81).ready.is_empty() && of("all", 80).at.is_none());

        let file = tempfile::NamedTempFile::new().unwrap();
        write_hosts(file.path(), &table).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.ends_with("10.96.0.9 web.shop.svc.cluster.local web.shop.svc web.shop\n"));
        write_hosts(file.path(), &Table::new()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(
            text.contains("localhost") && !text.contains("web"),
            "{text}"
        );
    }
}
