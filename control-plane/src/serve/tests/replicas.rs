//! Replicas that tell each other what they count, over their own TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::Code;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{
    Ack, Edge, EdgeTls, Held, Nack, OutboundKey, Report, ResourceKey, Update, client_message,
};
use weft_proto::names::{cluster::REPLICAS_SERVICE, ports};
use weft_proto::replica::replicas_client::ReplicasClient;
use weft_proto::replica::{CountsRequest, EdgesRequest, OrderRequest, ProxiesRequest, Proxy};

use super::harness::{Credentials, Mesh, Stream, hello, objects, origin, sourced};
use crate::index::{
    EndpointName, ForeignEndpoint, Name, Objects, Service, ServiceEndpoint, ServicePort, Sourced,
};
use crate::policy::TrafficPolicy;
use crate::serve::counts::Count;
use crate::serve::replicas::Place;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where two replicas are.
pub(super) struct Places {
    state: Arc<TempDir>,
    objects: Objects,
    addresses: [SocketAddr; 2],
}

impl Places {
    pub(super) async fn new() -> (Self, [TcpListener; 2]) {
        let first = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let second = TcpListener::bind(("127.0.0.2", 0)).await.unwrap();
        let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
        let mut objects = objects();
        objects.policies.push(tries(3, 1));
        objects.services.push(sourced(headless(addresses)));
        let places = Self {
            state: Arc::new(tempfile::tempdir().unwrap()),
            objects,
            addresses,
        };
        (places, [first, second])
    }

    pub(super) fn start(&self, at: usize, listener: TcpListener) -> Mesh {
        let place = Place {
            name: format!("replica-{at}"),
            ip: self.addresses[at].ip(),
            namespace: "weft".to_owned(),
        };
        Mesh::start_replica(self.state.clone(), self.objects.clone(), listener, place)
    }
}

fn headless(addresses: [SocketAddr; 2]) -> Service {
    let exceptions = addresses.map(|at| (EndpointName::Address(at.ip()), Some(at.port())));
    let endpoint = |ip: IpAddr| {
        ServiceEndpoint::Address(ForeignEndpoint {
            ip,
            zone: String::new(),
            weight: 1,
        })
    };
    Service {
        name: Name::new("weft", REPLICAS_SERVICE),
        cluster_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "grpc".to_owned(),
            port: ports::CONTROL_PLANE,
            target_port: ports::CONTROL_PLANE,
            exceptions: exceptions.into(),
            app_protocol: String::new(),
        }],
        endpoints: addresses.map(|at| endpoint(at.ip())).into(),
        idle: Default::default(),
        last_resort: false,
    }
}

/// A policy for clients of service `cart`.
fn tries(generation: i64, attempts: u32) -> Sourced<Arc<TrafficPolicy>> {
    let policy = TrafficPolicy::read(json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "tries", "namespace": "shop", "generation": generation},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "cart"}],
            "retries": {"attempts": attempts},
        },
    }));
    sourced(Arc::new(policy.unwrap()))
}

fn cart() -> ResourceKey {
    let ip = vec![10, 96, 0, 1];
    ResourceKey {
        kind: Some(Kind::Outbound(OutboundKey { ip, port: 80 })),
    }
}

/// A sidecar that takes what service `cart` means.
async fn sidecar(mesh: &Mesh, account: &str, workload: &str) -> (Stream, Update) {
    let (mut stream, _) = mesh.stream_as(account, hello(workload)).await.unwrap();
    stream.subscribe(cart()).await;
    let update = stream.update().await;
    confirm(&stream, &update).await;
    (stream, update)
}

async fn confirm(stream: &Stream, update: &Update) {
    let (key, version) = (update.key.clone(), update.version.clone());
    let ack = Ack { key, version };
    stream.say(client_message::Kind::Ack(ack)).await;
}

async fn wait_for(mesh: &Mesh, what: &str, wanted: impl Fn(&Count) -> bool) -> Count {
    let mut counts = mesh.replicas.counts();
    let found = counts.wait_for(|counts| {
        let known = counts.get(&Name::new("shop", "tries"));
        wanted(known.unwrap_or(&Count::default()))
    });
    let found = timeout(PATIENCE, found).await;
    let Ok(found) = found else {
        panic!("{what}: {:?}", mesh.replicas.counts().borrow());
    };
    let found = found.unwrap().clone();
    let count = found.get(&Name::new("shop", "tries"));
    count.cloned().unwrap_or_default()
}

fn is(acknowledged: u32, total: u32) -> impl Fn(&Count) -> bool {
    move |count| (count.acknowledged, count.total) == (acknowledged, total)
}

/// The sidecars of all replicas, when there are so many.
async fn all_proxies(mesh: &Mesh, wanted: usize) -> Vec<(String, Proxy)> {
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = mesh.replicas.ask_all().await;
        let answers = asked.into_iter().filter_map(|asked| asked.answer.ok());
        let all: Vec<_> = answers
            .flat_map(|answer| {
                let name = answer.replica;
                let proxies = answer.proxies.into_iter();
                proxies.map(move |proxy| (name.clone(), proxy))
            })
            .collect();
        if all.len() == wanted {
            return all;
        }
        assert!(Instant::now() < until, "not {wanted}: {all:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn replicas_add_up_what_they_count() {
    let (places, [first, second]) = Places::new().await;
    let mut a = places.start(0, first);
    let b = places.start(1, second);
    let (mut web, _) = sidecar(&a, "web", "web-1").await;
    let (_one, update) = sidecar(&b, "cart", "cart-1").await;
    for mesh in [&a, &b] {
        let count = wait_for(mesh, "both count", is(2, 2)).await;
        assert_eq!(count.generation, Some(3));
    }
    let mut all = all_proxies(&a, 2).await;
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let [(at_a, proxy_a), (at_b, proxy_b)] = &all[..] else {
        panic!("not two: {all:?}");
    };
    assert_eq!((&**at_a, &*proxy_a.workload), ("replica-0", "web-1"));
    assert_eq!((&**at_b, &*proxy_b.workload), ("replica-1", "cart-1"));
    assert_eq!((proxy_b.resources, proxy_b.behind), (1, 0));
    assert_eq!(&*proxy_b.service_account, "cart");
    assert_eq!(proxy_b.source_revision, 1);
    let made = update.version.unwrap().created_at;
    assert_eq!(proxy_b.updated_at, made);

    // The other replica's sidecars confirm what is not the newest here.
    a.change(|objects| objects.policies = vec![tries(4, 2)]);
    let count = wait_for(&a, "nobody has the newest", is(0, 2)).await;
    assert_eq!(count.generation, Some(4));
    let update = web.update().await;
    confirm(&web, &update).await;
    wait_for(&a, "the own one has", is(1, 2)).await;
    let count = wait_for(&b, "at the other one, the other way round", is(1, 2)).await;
    assert_eq!(count.generation, Some(3));

    // One that is gone counts no more, and again when it is back.
    let address = b.address;
    b.end.cancel();
    b.server.await.unwrap();
    wait_for(&a, "the other one is gone", is(1, 1)).await;
    let rendered = a.metrics.render();
    assert!(
        rendered.contains("weft_control_plane_replicas_heard 0"),
        "{rendered}"
    );
    assert!(rendered.contains("weft_control_plane_replicas_lost_total 1"));
    let asked = a.replicas.ask_all().await;
    assert_eq!(asked[1].address, Some(address));
    assert!(asked[1].answer.is_err());
    let listener = TcpListener::bind(address).await.unwrap();
    let b = places.start(1, listener);
    // Asked at once, before it is listened to again.
    let answer = a.replicas.ask_all().await.remove(1).answer;
    assert_eq!(answer.unwrap().replica, "replica-1");
    let (_one, _) = sidecar(&b, "cart", "cart-1").await;
    wait_for(&a, "it is back", is(1, 2)).await;
}

#[tokio::test]
async fn a_workload_that_moves_counts_once() {
    let (places, [first, second]) = Places::new().await;
    let (a, b) = (places.start(0, first), places.start(1, second));
    let (_before, _) = sidecar(&a, "web", "web-1").await;
    let (_other, _) = sidecar(&a, "cart", "cart-1").await;
    wait_for(&b, "two at the first", is(2, 2)).await;
    // Its former stream has not ended yet.
    let (now, _) = sidecar(&b, "web", "web-1").await;
    sleep(Duration::from_secs(3)).await;
    for mesh in [&a, &b] {
        wait_for(mesh, "still two", is(2, 2)).await;
    }
    assert_eq!(a.streams.snapshot().len() + b.streams.snapshot().len(), 3);
    drop(now);
    wait_for(&a, "the former counts again", is(2, 2)).await;
    let gone = timeout(PATIENCE, async {
        while !b.streams.snapshot().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.unwrap();
    sleep(Duration::from_secs(2)).await;
    wait_for(&a, "and goes on to", is(2, 2)).await;
}

#[tokio::test]
async fn what_a_sidecar_refuses_or_brings_is_known() {
    let mut mesh = Mesh::start().await;
    mesh.change(|objects| objects.policies = vec![tries(1, 1)]);
    let (mut web, first) = sidecar(&mesh, "web", "web-1").await;
    wait_for(&mesh, "confirmed", is(1, 1)).await;

    mesh.change(|objects| objects.policies = vec![tries(2, 2)]);
    let Update { key, version, .. } = web.update().await;
    let reason = "not for me".to_owned();
    let nack = Nack {
        key,
        version,
        reason,
    };
    web.say(client_message::Kind::Nack(nack)).await;
    let count = wait_for(&mesh, "refused", |count| !count.refused.is_empty()).await;
    assert_eq!((count.acknowledged, count.total), (0, 1));
    let refused = (Name::new("shop", "web-1"), "not for me".to_owned());
    assert_eq!(count.refused, [refused]);
    let (_, proxy) = all_proxies(&mesh, 1).await.remove(0);
    assert_eq!(proxy.behind, 1);
    assert!(proxy.behind_since.is_some());
    let (count, since) = mesh.replicas.behind();
    assert_eq!((count, since.is_some()), (1, true));
    assert_eq!(proxy.refused[0].resource, "outbound 10.96.0.1:80");
    assert_eq!(proxy.refused[0].reason, "not for me");
    // What it refuses is not in force.
    assert_eq!(
        proxy.source_revision,
        first.version.as_ref().unwrap().source_revision
    );

    // A refusal of what is not the newest any more is nobody's business.
    mesh.change(|objects| objects.policies = vec![tries(3, 3)]);
    let newest = web.update().await;
    let count = wait_for(&mesh, "no refusal", |count| count.refused.is_empty()).await;
    assert_eq!((count.acknowledged, count.total), (0, 1));
    confirm(&web, &newest).await;
    wait_for(&mesh, "confirmed again", is(1, 1)).await;
    assert_eq!(mesh.replicas.behind(), (0, None));
    drop(web);
    wait_for(&mesh, "gone", is(0, 0)).await;

    // Who comes with the newest version is told nothing and has confirmed it all the same.
    let mut hello = hello("web-1");
    hello.held = vec![Held {
        key: Some(cart()),
        version: newest.version,
    }];
    let (web, _) = mesh.stream(hello).await.unwrap();
    web.subscribe(cart()).await;
    wait_for(&mesh, "brought along", is(1, 1)).await;
}

/// Each replica has one end of an edge and a half of the sidecars; asked is either, and both say the same.
#[tokio::test]
async fn either_replica_knows_all_edges() {
    let (places, [first, second]) = Places::new().await;
    let (a, b) = (places.start(0, first), places.start(1, second));
    let (web, _) = sidecar(&a, "web", "web-1").await;
    let (cart, _) = sidecar(&b, "cart", "cart-1").await;
    let edge = |requests| Edge {
        service: "shop/cart:80".to_owned(),
        tls: EdgeTls::Mesh.into(),
        connections: 1,
        requests,
        ..Edge::default()
    };
    let report = |edges| Report {
        run: 1,
        edges,
        ..Report::default()
    };
    let outbound = Edge {
        outbound: true,
        peer: "shop/cart".to_owned(),
        ..edge(5)
    };
    let inbound = Edge {
        port: 8080,
        peer: "shop/web".to_owned(),
        ..edge(4)
    };
    let plain = Edge {
        port: 8080,
        address: vec![10, 0, 0, 12],
        tls: EdgeTls::Plaintext.into(),
        ..edge(3)
    };
    let say = client_message::Kind::Report(report(vec![outbound]));
    web.say(say).await;
    let say = client_message::Kind::Report(report(vec![inbound, plain]));
    cart.say(say).await;
    for mesh in [&a, &b] {
        let until = Instant::now() + PATIENCE;
        loop {
            let edges = mesh.replicas.ask_edges().await;
            let rows = edges.merged.rows.iter();
            let rows: Vec<_> = rows
                .map(|row| (row.from.name(), row.tls, row.requests))
                .collect();
            let wanted = [
                ("shop/cart-2", EdgeTls::Plaintext, 3),
                ("shop/web", EdgeTls::Mesh, 4),
            ];
            if rows == wanted && edges.merged.watchers.len() == 2 {
                let names: Vec<_> = edges
                    .targets
                    .iter()
                    .map(|it| it.service.as_deref())
                    .collect();
                assert_eq!(names, [None, Some("cart")]);
                assert_eq!(edges.targets[1].silent, 2);
                break;
            }
            assert!(Instant::now() < until, "{rows:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    // One that cannot be asked is said to be so.
    b.end.cancel();
    b.server.await.unwrap();
    let edges = a.replicas.ask_edges().await;
    assert!(edges.asked[1].answer.is_err());
    assert_eq!(edges.merged.watchers.len(), 1);
}

/// Whoever is at a replica's address is believed only with the control plane's own certificate.
#[tokio::test]
async fn only_replicas_are_listened_to() {
    let (places, [first, second]) = Places::new().await;
    let a = places.start(0, first);
    let Credentials { chain, key } = a.credentials("web", SystemTime::now());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    // By whom listens to it, and by whom asks it.
    let accepting = async {
        for _ in 0..2 {
            let (tcp, _) = timeout(PATIENCE, second.accept()).await.unwrap().unwrap();
            let refused = acceptor.accept(tcp).await.map(drop).unwrap_err();
            let refused = refused.to_string();
            assert!(refused.contains("BadCertificate"), "{refused}");
        }
    };
    let (mut asked, ()) = tokio::join!(a.replicas.ask_all(), accepting);
    let why = asked.remove(1).answer.map(drop).unwrap_err();
    assert!(why.contains("certificate"), "{why}");
}

#[tokio::test]
async fn only_replicas_are_told() {
    let mesh = Mesh::start().await;
    let credentials = mesh.credentials("web", SystemTime::now());
    for credentials in [Some(credentials), None] {
        let connection = mesh.connect(credentials).await.unwrap();
        let mut client = ReplicasClient::with_origin(connection, origin());
        let refused = client.counts(CountsRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let refused = client.proxies(ProxiesRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let refused = client.edges(EdgesRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let refused = client.order(OrderRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let rendered = mesh.metrics.render();
    let counted = "weft_control_plane_refusals_total{what=\"replica\"} 8";
    assert!(rendered.contains(counted), "{rendered}");
}
