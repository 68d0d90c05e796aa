//! Looking only at what may differ comes to the same as looking at everything, whatever happens to
//! services, workloads, policies and routes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use prost::Message;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{
    AuthorityKey, EndpointsKey, InboundKey, OutboundKey, ResourceKey, ServerMessage, ServiceRef,
    server_message,
};

use super::harness::{network, objects as empty};
use crate::compile::{Client, audience, compile, hello, may_differ};
use crate::identity::TrustBundle;
use crate::index::{
    BrokenPolicy, EndpointName, ExplicitListener, ForeignEndpoint, Model, Name, Objects, Origin,
    Service, ServiceEndpoint, ServicePort, Sourced, Workload,
};
use crate::policy::{TargetKind, TargetRef, TrafficPolicy};
use crate::route::{ReferenceGrant, Route, RouteKind};
use crate::serve::memo::Memo;
use crate::serve::session::{Session, Step};

const NAMESPACES: [&str; 2] = ["a", "b"];
const SERVICES: u8 = 3;
const WORKLOADS: u8 = 3;
/// Few, so that objects claim each other's.
const ADDRESSES: u8 = 8;

/// What is done to one object, which has a place in its list.
#[derive(Clone, Debug)]
enum Edit {
    Service(usize, u8, Option<ServiceSpec>),
    Workload(usize, u8, Option<WorkloadSpec>),
    Policy(usize, usize, bool),
    Route(usize, bool),
    Broken(usize, bool),
    Grant(bool),
    Listener(bool),
    Network(bool),
}

#[derive(Clone, Debug)]
struct ServiceSpec {
    ip: Option<u8>,
    ports: u8,
    workloads: u8,
    foreign: Option<u8>,
    idle: u8,
    exception: bool,
    last_resort: bool,
}

#[derive(Clone, Debug)]
struct WorkloadSpec {
    ip: u8,
    meshed: bool,
    draining: bool,
    ended: bool,
    account: bool,
    zone: bool,
}

/// Everything that there is at a time.
#[derive(Clone, Debug, Default)]
struct World {
    services: HashMap<(usize, u8), ServiceSpec>,
    workloads: HashMap<(usize, u8), WorkloadSpec>,
    policies: HashMap<(usize, usize), Arc<TrafficPolicy>>,
    routes: HashMap<usize, Arc<Route>>,
    broken: [bool; 2],
    grant: bool,
    listener: bool,
    network: bool,
}

fn service() -> impl Strategy<Value = ServiceSpec> {
    let ip = prop::option::weighted(0.8, 0..ADDRESSES);
    let foreign = prop::option::weighted(0.3, 0..ADDRESSES);
    let flags = (any::<bool>(), any::<bool>());
    (ip, 0u8..3, 0u8..8, foreign, 0u8..8, flags).prop_map(
        |(ip, ports, workloads, foreign, idle, (exception, last_resort))| ServiceSpec {
            ip,
            ports,
            workloads,
            foreign,
            idle,
            exception,
            last_resort,
        },
    )
}

fn workload() -> impl Strategy<Value = WorkloadSpec> {
    let flags = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    (0..ADDRESSES, flags).prop_map(
        |(ip, (meshed, draining, ended, account, zone))| WorkloadSpec {
            ip,
            meshed,
            draining,
            ended,
            account,
            zone,
        },
    )
}

fn edit() -> impl Strategy<Value = Edit> {
    let namespace = || 0..NAMESPACES.len();
    prop_oneof![
        4 => (namespace(), 0..SERVICES, prop::option::weighted(0.9, service()))
            .prop_map(|(namespace, index, spec)| Edit::Service(namespace, index, spec)),
        4 => (namespace(), 0..WORKLOADS, prop::option::weighted(0.9, workload()))
            .prop_map(|(namespace, index, spec)| Edit::Workload(namespace, index, spec)),
        3 => (namespace(), 0..policies("a").len(), any::<bool>())
            .prop_map(|(namespace, index, is_there)| Edit::Policy(namespace, index, is_there)),
        1 => (0..routes().len(), any::<bool>()).prop_map(|(index, there)| Edit::Route(index, there)),
        1 => (namespace(), any::<bool>()).prop_map(|(index, there)| Edit::Broken(index, there)),
        1 => any::<bool>().prop_map(Edit::Grant),
        1 => any::<bool>().prop_map(Edit::Listener),
        1 => any::<bool>().prop_map(Edit::Network),
    ]
}

fn policies(namespace: &str) -> Vec<Arc<TrafficPolicy>> {
    let own = json!({"kind": "Namespace", "name": namespace});
    let of = |name: &str| json!({"kind": "Service", "name": name});
    let specs = [
        json!({"targetRefs": [own], "timeouts": {"request": "9s"}}),
        json!({"targetRefs": [own], "mtls": {"mode": "Strict"}}),
        json!({"targetRefs": [own], "rateLimit": {"requestsPerSecond": 5}}),
        json!({"targetRefs": [of("s0")], "timeouts": {"request": "3s", "connect": "2s"}}),
        json!({"targetRefs": [of("s1")], "mtls": {"mode": "Disabled"}}),
        json!({"targetRefs": [of("s1")], "circuitBreaker": {"consecutiveFailures": {"threshold": 3}}}),
        json!({"targetRefs": [of("s0")], "split": {"backends": [
            {"name": "s1", "weight": 1}, {"name": "s2", "weight": 2, "port": 81}]}}),
        json!({"targetRefs": [{"kind": "Service", "name": "s2", "sectionName": "http"}],
               "loadBalancer": {"policy": "Random"}}),
        json!({"targetRefs": [of("s2")], "fallback": {"triggers": ["NoEndpoints"],
               "backend": {"name": "s1"}}}),
        json!({"targetRefs": [of("s2")], "authorization": {"mode": "Enforce", "allow": [
            {"principals": [{"serviceAccount": {"name": "web"}}]}]}}),
    ];
    let read = |(index, spec): (usize, &Value)| {
        let manifest = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": format!("p{index}"), "namespace": namespace}, "spec": spec,
        });
        Arc::new(TrafficPolicy::read(manifest).unwrap())
    };
    specs.iter().enumerate().map(read).collect()
}

fn routes() -> Vec<Arc<Route>> {
    let route = |namespace: &str, name: &str, parent: &str, backend: (&str, &str)| {
        let manifest = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "s0", "namespace": parent}],
                "rules": [{"backendRefs": [
                    {"name": backend.1, "namespace": backend.0, "port": 80, "weight": 3}]}],
            },
        });
        Arc::new(Route::read(RouteKind::Http, &manifest).unwrap())
    };
    vec![
        route("a", "producer", "a", ("b", "s1")),
        route("b", "consumer", "a", ("b", "s2")),
        route("b", "own", "b", ("a", "s1")),
    ]
}

fn ip(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, index).into()
}

fn sourced<T>(object: T) -> Sourced<T> {
    let origin = Origin {
        file: "a".into(),
        line: 0,
    };
    Sourced { origin, object }
}

impl World {
    fn take(&mut self, edit: Edit) {
        fn set<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        match edit {
            Edit::Service(namespace, index, spec) => {
                set(&mut self.services, (namespace, index), spec);
            }
            Edit::Workload(namespace, index, spec) => {
                set(&mut self.workloads, (namespace, index), spec);
            }
            Edit::Policy(namespace, index, is_there) => {
                let policy = is_there.then(|| policies(NAMESPACES[namespace]).swap_remove(index));
                set(&mut self.policies, (namespace, index), policy);
            }
            Edit::Route(index, is_there) => {
                let route = is_there.then(|| routes().swap_remove(index));
                set(&mut self.routes, index, route);
            }
            Edit::Broken(namespace, is_there) => self.broken[namespace] = is_there,
            Edit::Grant(is_there) => self.grant = is_there,
            Edit::Listener(is_there) => self.listener = is_there,
            Edit::Network(is_there) => self.network = is_there,
        }
    }

    fn objects(&self) -> Objects {
        let mut objects = Objects {
            services: Vec::new(),
            workloads: Vec::new(),
            ..empty()
        };
        for (index, namespace) in NAMESPACES.into_iter().enumerate() {
            let services = (0..SERVICES).filter_map(|service| {
                let spec = self.services.get(&(index, service))?;
                Some(sourced(spec.service(namespace, service)))
            });
            objects.services.extend(services);
            let workloads = (0..WORKLOADS).filter_map(|workload| {
                let spec = self.workloads.get(&(index, workload))?;
                Some(sourced(spec.workload(namespace, workload)))
            });
            objects.workloads.extend(workloads);
            let policies = (0..).take(policies(namespace).len());
            let policies = policies.filter_map(|policy| self.policies.get(&(index, policy)));
            let policies = policies.map(|policy| sourced(Arc::clone(policy)));
            objects.policies.extend(policies);
            if self.broken[index] {
                objects.broken.push(BrokenPolicy {
                    name: Name::new(namespace, "broken"),
                    targets: vec![TargetRef {
                        group: String::new(),
                        kind: TargetKind::Service,
                        name: "s0".to_owned(),
                        section_name: None,
                    }],
                    deny: true,
                    strict: true,
                });
            }
        }
        let routes = (0..routes().len()).filter_map(|route| self.routes.get(&route));
        objects
            .routes
            .extend(routes.map(|route| sourced(Arc::clone(route))));
        if self.grant {
            let grant = json!({
                "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
                "metadata": {"name": "grant", "namespace": "b"},
                "spec": {
                    "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute",
                              "namespace": "a"}],
                    "to": [{"group": "", "kind": "Service"}],
                },
            });
            let grant = ReferenceGrant::read(&grant).unwrap();
            objects.grants.push(sourced(Arc::new(grant)));
        }
        if self.listener {
            objects.listeners.push(sourced(ExplicitListener {
                workload: Name::new("a", "w0"),
                listen: ([127, 0, 0, 1], 18080).into(),
                service: Name::new("b", "s1"),
                port: 80,
            }));
        }
        if self.network {
            objects.settings.networks.push(network("10.1.0.0/16"));
        }
        objects
    }
}

impl ServiceSpec {
    fn service(&self, namespace: &str, index: u8) -> Service {
        let has = |mask: u8| (0..WORKLOADS).filter(move |index| mask & (1 << index) != 0);
        let name = |index: u8| format!("w{index}");
        let exceptions = self.exception.then(|| {
            let to = (self.ports != 1).then_some(9090);
            (EndpointName::Workload(name(0)), to)
        });
        let port = |name: &str, port: u16| ServicePort {
            name: name.to_owned(),
            port,
            target_port: 8080,
            exceptions: exceptions.clone().into_iter().collect(),
            app_protocol: if self.ports == 2 { "tcp" } else { "" }.to_owned(),
        };
        let mut ports = vec![port("http", 80)];
        if self.ports > 0 {
            ports.push(port("more", 81));
        }
        let workloads = has(self.workloads).map(|index| ServiceEndpoint::Workload(name(index)));
        let foreign = self.foreign.map(|index| {
            ServiceEndpoint::Address(ForeignEndpoint {
                ip: ip(index),
                zone: String::new(),
                weight: 1,
            })
        });
        Service {
            name: Name::new(namespace, format!("s{index}")),
            cluster_ips: self.ip.map(ip).into_iter().collect(),
            ports,
            endpoints: workloads.chain(foreign).collect(),
            idle: has(self.idle & self.workloads).map(name).collect(),
            last_resort: self.last_resort,
        }
    }
}

impl WorkloadSpec {
    fn workload(&self, namespace: &str, index: u8) -> Workload {
        Workload {
            name: Name::new(namespace, format!("w{index}")),
            owner: "w".to_owned(),
            service_account: if self.account { "web" } else { "other" }.to_owned(),
            addresses: vec![ip(self.ip)],
            meshed: self.meshed,
            zone: if self.zone { "z" } else { "" }.to_owned(),
            weight: 1,
            draining: self.draining,
            ended: self.ended,
            ports: Vec::new(),
        }
    }
}

fn clients() -> Vec<Client> {
    let client = |namespace: &str, workload: &str, zone: &str| Client {
        namespace: namespace.to_owned(),
        service_account: "web".to_owned(),
        workload: workload.to_owned(),
        zone: zone.to_owned(),
    };
    vec![
        client("a", "w0", ""),
        client("a", "w1", "z"),
        client("b", "w0", ""),
    ]
}

fn keys() -> Vec<ResourceKey> {
    let mut kinds = Vec::new();
    for index in 0..ADDRESSES {
        for port in [80, 8080] {
            let IpAddr::V4(ip) = ip(index) else { continue };
            let ip = ip.octets().to_vec();
            kinds.push(Kind::Outbound(OutboundKey { ip, port }));
        }
    }
    for service in 0..SERVICES {
        let authority = |authority: String| Kind::Authority(AuthorityKey { authority });
        kinds.push(authority(format!("s{service}:80")));
        kinds.push(authority(format!("10.0.0.{service}:80")));
        for namespace in NAMESPACES {
            kinds.push(authority(format!("s{service}.{namespace}.svc:81")));
            for port in [80, 81] {
                let service = Some(ServiceRef {
                    namespace: namespace.to_owned(),
                    name: format!("s{service}"),
                    port,
                });
                kinds.push(Kind::Endpoints(EndpointsKey { service }));
            }
        }
    }
    kinds.extend([0, 8080, 9090].map(|port| Kind::Inbound(InboundKey { port })));
    let kinds = kinds.into_iter();
    kinds.map(|kind| ResourceKey { kind: Some(kind) }).collect()
}

/// What a sidecar has that applies what it is sent.
#[derive(Default)]
struct Sidecar(HashMap<ResourceKey, Resource>);

impl Sidecar {
    fn apply(&mut self, message: &[u8]) {
        let message = ServerMessage::decode(message).unwrap();
        let Some(server_message::Kind::Update(update)) = message.kind else {
            panic!("not an update: {message:?}");
        };
        let key = update.key.unwrap();
        let resource = match update.resource.unwrap() {
            Resource::EndpointsDelta(delta) => {
                let Some(Resource::Endpoints(known)) = self.0.get(&key) else {
                    panic!("a delta builds on endpoints");
                };
                let mut known = known.clone();
                known.endpoints.retain(|endpoint| {
                    let address = endpoint.address.as_ref();
                    let is_new =
                        |new: &weft_proto::discovery::Endpoint| new.address.as_ref() == address;
                    !delta.upsert.iter().any(is_new)
                        && !delta.remove.iter().any(|gone| Some(gone) == address)
                });
                known.endpoints.extend(delta.upsert);
                let place = |it: &weft_proto::discovery::Endpoint| {
                    it.address.clone().map(|it| (it.ip, it.port))
                };
                known.endpoints.sort_by_key(place);
                Resource::Endpoints(known)
            }
            resource => resource,
        };
        self.0.insert(key, resource);
    }
}

struct Stream {
    client: Client,
    revision: u64,
    session: Session,
    sidecar: Sidecar,
}

impl Stream {
    fn hear(&mut self, model: &Model) {
        let since = model.since(self.revision);
        self.revision = model.revision();
        let client = &self.client;
        self.session
            .touch_changed(|key| may_differ(model, since, client, key));
    }

    /// Sends at most so many messages.
    fn send(&mut self, memo: &Memo, most: usize) {
        let now = Instant::now();
        let client = &self.client;
        for _ in 0..most {
            match self.session.next(now, |key| memo.resource(client, key)) {
                Step::Send(message) => self.sidecar.apply(&message),
                Step::More => {}
                Step::Idle => return,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_not_looked_at_is_the_same(
        start in prop::collection::vec(edit(), 8..24),
        edits in prop::collection::vec((edit(), prop::collection::vec(0usize..60, 3)), 1..8),
    ) {
        let mut world = World::default();
        for edit in start {
            world.take(edit);
        }
        let first = Arc::new(Model::build(world.objects(), 1));
        let sender = watch::Sender::new(Arc::clone(&first));
        let roots = vec![CertificateDer::from(vec![1])].into();
        let bundle = watch::Sender::new(TrustBundle { roots });
        let memo = Memo::new(sender.subscribe(), bundle.subscribe());
        let keys = keys();
        let mut streams: Vec<Stream> = Vec::new();
        for client in clients() {
            let mut session = Session::new(Vec::new(), Instant::now()).unwrap();
            for key in &keys {
                session.subscribe(key.clone()).unwrap();
            }
            let mut stream = Stream {
                client,
                revision: 1,
                session,
                sidecar: Sidecar::default(),
            };
            stream.send(&memo, usize::MAX);
            streams.push(stream);
        }

        let mut models = vec![first];
        for (revision, (edit, sent)) in (2..).zip(edits) {
            world.take(edit);
            let before = models.last().unwrap();
            let model = Arc::new(Model::build_after(before, world.objects(), revision));
            sender.send_replace(Arc::clone(&model));
            // Some hear of it, and are told a part of it.
            for (stream, sent) in streams.iter_mut().zip(sent) {
                if sent > 0 {
                    stream.hear(&model);
                    stream.send(&memo, sent);
                }
            }
            models.push(model);
        }

        let newest = models.last().unwrap();
        for client in clients() {
            for model in &models {
                let since = newest.since(model.revision());
                if !since.everything() && !since.workload(&client.namespace, &client.workload) {
                    prop_assert_eq!(hello(model, &client), hello(newest, &client));
                }
                for key in &keys {
                    let is_same = compile(model, &client, key) == compile(newest, &client, key);
                    prop_assert!(
                        is_same || may_differ(newest, since, &client, key),
                        "{:?} differs for {:?} since {}", key, client, model.revision()
                    );
                }
            }
            for other in clients() {
                let is_shared = |key: &&ResourceKey| {
                    audience(newest, &client, key) == audience(newest, &other, key)
                };
                for key in keys.iter().filter(is_shared) {
                    prop_assert_eq!(compile(newest, &client, key), compile(newest, &other, key));
                }
            }
        }
        for stream in &mut streams {
            stream.hear(newest);
            stream.send(&memo, usize::MAX);
            for key in &keys {
                let wanted = compile(newest, &stream.client, key);
                prop_assert_eq!(stream.sidecar.0.get(key), Some(&wanted));
            }
        }
    }
}

/// A mesh of both namespaces, with policies and without routes.
fn world() -> World {
    let mut world = World::default();
    for namespace in 0..NAMESPACES.len() {
        for index in 0..SERVICES {
            let ip = 3 * namespace as u8 + index;
            let spec = ServiceSpec {
                ip: None,
                ports: 1,
                workloads: 1 << index,
                foreign: None,
                idle: 0,
                exception: false,
                last_resort: false,
            };
            world.take(Edit::Service(namespace, index, Some(spec)));
            let spec = WorkloadSpec {
                ip,
                meshed: true,
                draining: false,
                ended: false,
                account: true,
                zone: false,
            };
            world.take(Edit::Workload(namespace, index, Some(spec)));
        }
        world.take(Edit::Policy(namespace, 0, true));
    }
    world
}

/// The keys that may differ for `a/w0` after a change.
fn touched(change: impl FnOnce(&mut World)) -> Vec<String> {
    let mut world = world();
    let before = Model::build(world.objects(), 1);
    change(&mut world);
    let after = Model::build_after(&before, world.objects(), 2);
    let client = &clients()[0];
    let keys = keys().into_iter();
    let keys = keys.filter(|key| may_differ(&after, after.since(1), client, key));
    keys.map(|key| match key.kind.unwrap() {
        Kind::Outbound(key) => format!("10.0.0.{}:{}", key.ip[3], key.port),
        Kind::Authority(key) => key.authority,
        Kind::Endpoints(key) => {
            let service = key.service.unwrap();
            format!("{}/{}:{}", service.namespace, service.name, service.port)
        }
        Kind::Inbound(key) => format!("own port {}", key.port),
        Kind::TrustBundle(_) => String::new(),
    })
    .collect()
}

#[test]
fn a_change_is_looked_at_where_it_matters_and_nowhere_else() {
    assert_eq!(touched(|_| {}), [""; 0]);
    let readiness = touched(|world| world.services.get_mut(&(1, 1)).unwrap().idle = 2);
    assert_eq!(readiness, ["b/s1:80", "b/s1:81"]);
    let draining = touched(|world| world.workloads.get_mut(&(1, 2)).unwrap().draining = true);
    assert_eq!(
        draining,
        ["10.0.0.5:80", "10.0.0.5:8080", "b/s2:80", "b/s2:81"]
    );
    let own = touched(|world| world.workloads.get_mut(&(0, 0)).unwrap().draining = true);
    assert!(own.contains(&"own port 8080".to_owned()), "{own:?}");
    let ended = touched(|world| world.workloads.get_mut(&(0, 0)).unwrap().ended = true);
    assert!(ended.contains(&"own port 0".to_owned()), "{ended:?}");
    let policy = touched(|world| world.take(Edit::Policy(1, 3, true)));
    assert!(policy.contains(&"s0.b.svc:81".to_owned()), "{policy:?}");
    assert!(
        !policy
            .iter()
            .any(|key| key.contains("a/") || key.contains(".a."))
    );
    let everything = touched(|world| world.take(Edit::Network(true)));
    assert!(everything.len() > 40, "{everything:?}");
}

#[test]
fn whoever_has_slept_for_long_looks_at_everything() {
    let mut world = world();
    let mut models = vec![Model::build(world.objects(), 1)];
    for revision in 2..100 {
        let idle = (revision % 2) as u8 * 2;
        world.services.get_mut(&(0, 1)).unwrap().idle = idle;
        let next = Model::build_after(models.last().unwrap(), world.objects(), revision);
        models.push(next);
    }
    let newest = models.last().unwrap();
    assert!(newest.since(1).everything());
    assert!(!newest.since(80).everything());
    assert!(newest.since(80).service("a", "s1"));
    assert!(!newest.since(80).service("a", "s0"));
    assert!(newest.since(99).nothing());
    // A model that this one does not follow.
    assert!(newest.since(1_000).everything());
}
