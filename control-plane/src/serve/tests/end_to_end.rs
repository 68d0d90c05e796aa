//! The services over real TLS and HTTP/2 on loopback.

use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{
    Ack, Command, CommandReply, ConfigDump, Held, Hello, Nack, Subscribe, client_message, command,
    server_message,
};
use weft_proto::identity::CertifyResponse;

use super::harness::{
    Credentials, DOMAIN, Mesh, Stream, cart, credentials, csr, endpoints_of, hello, network,
    private_key, trust_bundle, workload,
};
use crate::identity::Authority;
use crate::index::Name;
use crate::serve::admin::Admin;
use crate::serve::admin::access::Gate;
use crate::serve::connection;
use crate::serve::tls::server_config;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn say_hello(workload: &str) -> client_message::Kind {
    client_message::Kind::Hello(hello(workload))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_sidecar_joins_and_is_told() {
    let mesh = Mesh::start().await;
    let key = KeyPair::generate().unwrap();
    let certified = mesh.certify(&mesh.token("web-1"), csr(&key)).await.unwrap();
    assert_eq!(certified.spiffe_id, "spiffe://mesh.test/ns/shop/sa/web");
    assert_eq!(certified.roots.len(), 1);
    let expires = SystemTime::try_from(certified.not_after.unwrap()).unwrap();
    assert!(expires > SystemTime::now() + DAY - Duration::from_secs(60));

    let credentials = Credentials {
        chain: certified
            .chain
            .into_iter()
            .map(CertificateDer::from)
            .collect(),
        key: private_key(&key),
    };
    let connection = mesh.connect(Some(credentials)).await.unwrap();
    let mut stream = Stream::open(connection, say_hello("web-1")).await.unwrap();
    let Ok(Some(server_message::Kind::HelloReply(reply))) = stream.next().await else {
        panic!("no greeting");
    };
    assert_eq!(reply.trust_domain, DOMAIN);
    assert_eq!(reply.networks, ["10.0.0.0/8"]);

    stream.subscribe(trust_bundle()).await;
    let update = stream.update().await;
    assert_eq!(update.key, Some(trust_bundle()));
    let Some(Resource::TrustBundle(bundle)) = update.resource else {
        panic!("no bundle");
    };
    assert_eq!(bundle.roots, certified.roots);
    let version = update.version.clone().unwrap();
    assert_eq!(version.content_hash.len(), 16);
    assert!(version.created_at.is_some());

    let acks = || mesh.streams.snapshot().remove(0).acks;
    let ack = Ack {
        key: update.key.clone(),
        version: update.version.clone(),
    };
    stream.say(client_message::Kind::Ack(ack)).await;
    until("acknowledged", || {
        acks().iter().any(|(_, ack)| ack.refused.is_none())
    })
    .await;
    let nack = Nack {
        key: update.key,
        version: update.version,
        reason: "not to my taste".to_owned(),
    };
    stream.say(client_message::Kind::Nack(nack)).await;
    until("refused", || {
        acks()[0].1.refused.as_deref() == Some("not to my taste")
    })
    .await;
    assert_eq!(
        mesh.streams.snapshot()[0].workload,
        Name::new("shop", "web-1")
    );

    drop(stream);
    until("gone", || mesh.streams.snapshot().is_empty()).await;
}

#[tokio::test]
async fn changes_of_endpoints_travel_as_deltas() {
    let mut mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    stream.subscribe(endpoints_of("cart")).await;
    let Some(Resource::Endpoints(full)) = stream.update().await.resource else {
        panic!("the first version is whole");
    };
    assert_eq!(full.endpoints.len(), 3);

    mesh.change(|objects| {
        let endpoints = &mut objects.services[0].object.endpoints;
        endpoints.remove(0);
        endpoints.push(cart(4));
    });
    let Some(Resource::EndpointsDelta(delta)) = stream.update().await.resource else {
        panic!("a small change is a delta");
    };
    assert_eq!((delta.upsert.len(), delta.remove.len()), (1, 1));
    assert_eq!(delta.remove[0].ip, [10, 0, 0, 11]);
    assert_eq!(delta.upsert[0].workload, "cart-4");
}

#[tokio::test]
async fn a_change_reaches_every_stream() {
    const STREAMS: usize = 100;
    let mut mesh = Mesh::start().await;
    let mut streams = Vec::new();
    for index in 0..STREAMS {
        let name = format!("many-{index}");
        mesh.change(|objects| {
            let mut new = workload(&name, "web", 0);
            new.object.addresses = vec![[10, 1, 0, index as u8].into()];
            objects.workloads.push(new);
        });
        let (mut stream, _) = mesh.stream(hello(&name)).await.unwrap();
        stream.subscribe(endpoints_of("cart")).await;
        stream.update().await;
        streams.push(stream);
    }
    assert_eq!(mesh.streams.snapshot().len(), STREAMS);

    mesh.change(|objects| drop(objects.services[0].object.endpoints.pop()));
    for stream in &mut streams {
        let update = stream.update().await;
        assert!(matches!(update.resource, Some(Resource::EndpointsDelta(_))));
    }
}

#[tokio::test]
async fn what_is_held_is_not_sent_again() {
    let mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    stream.subscribe(endpoints_of("cart")).await;
    let update = stream.update().await;
    drop(stream);

    let held = Held {
        key: update.key,
        version: update.version,
    };
    let reconnecting = Hello {
        held: vec![held],
        ..hello("web-1")
    };
    let (mut stream, _) = mesh.stream(reconnecting).await.unwrap();
    stream.subscribe(endpoints_of("cart")).await;
    stream.subscribe(trust_bundle()).await;
    assert_eq!(stream.update().await.key, Some(trust_bundle()));
}

#[tokio::test]
async fn an_unchanged_resource_is_not_sent_on_a_new_model() {
    let mut mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    stream.subscribe(endpoints_of("cart")).await;
    stream.update().await;
    mesh.change(|objects| objects.workloads.push(workload("new", "new", 77)));
    stream.subscribe(trust_bundle()).await;
    assert_eq!(stream.update().await.key, Some(trust_bundle()));
}

#[tokio::test]
async fn a_changed_greeting_is_said_again() {
    let mut mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    mesh.change(|objects| objects.settings.networks.push(network("fd00::/8")));
    let Ok(Some(server_message::Kind::HelloReply(reply))) = stream.next().await else {
        panic!("no greeting");
    };
    assert_eq!(reply.networks.len(), 2);
}

#[tokio::test]
async fn a_stream_needs_a_certificate() {
    let mesh = Mesh::start().await;
    let connection = mesh.connect(None).await.unwrap();
    let refused = Stream::open(connection, say_hello("web-1"))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_workload_must_be_the_certificates() {
    let mesh = Mesh::start().await;
    for (workload, why) in [
        ("cart-1", "does not run as service account web"),
        ("nobody", "the mesh has no workload shop/nobody"),
    ] {
        let status = mesh.stream(hello(workload)).await.err().unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(why), "{}", status.message());
    }
}

#[tokio::test]
async fn a_workload_may_come_a_moment_after_its_process() {
    let mut mesh = Mesh::start().await;
    let token = mesh.token("late");
    let csr = csr(&KeyPair::generate().unwrap());
    let connection = mesh.connect(Some(mesh.credentials("web", SystemTime::now())));
    let connection = connection.await.unwrap();
    let mut stream = Stream::open(connection, say_hello("late")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    mesh.change(|objects| objects.workloads.push(workload("late", "web", 78)));
    let greeting = stream.next().await;
    assert!(matches!(
        greeting,
        Ok(Some(server_message::Kind::HelloReply(_)))
    ));
    assert_eq!(
        mesh.certify(&token, csr).await.unwrap().spiffe_id,
        "spiffe://mesh.test/ns/shop/sa/web"
    );
}

#[tokio::test]
async fn a_workload_that_became_somebody_else_is_put_out() {
    let mut mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    mesh.change(|objects| "other".clone_into(&mut objects.workloads[0].object.service_account));
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_workload_that_left_may_drain() {
    let mut mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    mesh.change(|objects| drop(objects.workloads.remove(0)));
    stream.subscribe(trust_bundle()).await;
    stream.update().await;
}

#[tokio::test]
async fn other_authorities_and_old_certificates_are_refused() {
    let mesh = Mesh::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Authority::open(elsewhere.path(), DOMAIN, DAY, SystemTime::now()).unwrap();
    let foreign = credentials(&stranger, "web", SystemTime::now());
    let expired = mesh.credentials("web", SystemTime::now() - 2 * DAY);
    for refused in [foreign, expired] {
        // With TLS 1.3 a client learns of it after its own handshake is done.
        let Ok(connection) = mesh.connect(Some(refused)).await else {
            continue;
        };
        let stream = Stream::open(connection, say_hello("web-1")).await;
        let Ok(mut stream) = stream else { continue };
        assert!(stream.next().await.is_err());
    }
    until("both are counted", || {
        mesh.metrics.render().contains("what=\"handshake\"} 2")
    })
    .await;
    assert!(mesh.streams.snapshot().is_empty());
}

#[tokio::test]
async fn bad_requests_for_certificates_are_refused() {
    let mesh = Mesh::start().await;
    let good = csr(&KeyPair::generate().unwrap());
    let token = mesh.token("web-1");
    let code = |result: Result<CertifyResponse, Status>| result.err().map(|status| status.code());
    let forged = token.replace("web-1", "cart-1");
    assert_eq!(
        code(mesh.certify("", good.clone()).await),
        Some(Code::Unauthenticated)
    );
    assert_eq!(
        code(mesh.certify(&forged, good.clone()).await),
        Some(Code::Unauthenticated)
    );
    let unknown = mesh.token("nobody");
    assert_eq!(
        code(mesh.certify(&unknown, good.clone()).await),
        Some(Code::Unavailable)
    );

    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(
        code(mesh.certify(&token, csr(&p384)).await),
        Some(Code::InvalidArgument)
    );
    assert_eq!(
        code(mesh.certify(&token, vec![1, 2, 3]).await),
        Some(Code::InvalidArgument)
    );
    assert_eq!(code(mesh.certify(&token, good).await), None);
    let metrics = mesh.metrics.render();
    assert!(metrics.contains("weft_control_plane_certificates_total{result=\"refused\"} 5"));
    assert!(metrics.contains("weft_control_plane_certificates_total{result=\"issued\"} 1"));
}

#[tokio::test]
async fn a_stream_begins_with_one_hello() {
    let mesh = Mesh::start().await;
    let own = || mesh.credentials("web", SystemTime::now());
    let connection = mesh.connect(Some(own())).await.unwrap();
    let subscribe = Subscribe {
        key: Some(trust_bundle()),
    };
    let first = client_message::Kind::Subscribe(subscribe);
    let mut stream = Stream::open(connection, first).await.unwrap();
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);

    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    stream.say(say_hello("web-1")).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_ends_of_age_with_its_connection() {
    let mesh = Mesh::start_with(DAY, Duration::from_millis(300)).await;
    let own = mesh.credentials("web", SystemTime::now());
    let connection = mesh.connect(Some(own)).await.unwrap();
    let requests = connection.requests.clone();
    let mut stream = Stream::open(connection, say_hello("web-1")).await.unwrap();
    assert_eq!(stream.end().await.code(), Code::Unavailable);
    until("the connection is closed", || requests.is_closed()).await;
}

#[tokio::test]
async fn many_small_messages_are_no_attack() {
    const COUNT: usize = 30_000;
    let mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    let ack = || Ack {
        key: Some(trust_bundle()),
        version: None,
    };
    for _ in 0..COUNT {
        stream.say(client_message::Kind::Ack(ack())).await;
    }
    stream.subscribe(trust_bundle()).await;
    stream.update().await;
    let all = format!("answer=\"ack\"}} {COUNT}");
    until("all are heard", || mesh.metrics.render().contains(&all)).await;
}

#[tokio::test]
async fn commands_reach_their_sidecar() {
    let mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    let sidecar = async {
        let Ok(Some(server_message::Kind::Command(command))) = stream.next().await else {
            panic!("no command");
        };
        let reply = CommandReply {
            id: command.id,
            error: String::new(),
            payload: "{\"a\":1}".to_owned(),
        };
        stream.say(client_message::Kind::CommandReply(reply)).await;
    };
    let name = Name::new("shop", "web-1");
    let dump = Command {
        id: 0,
        kind: Some(command::Kind::ConfigDump(ConfigDump {})),
    };
    let (reply, ()) = tokio::join!(mesh.streams.command(&name, dump), sidecar);
    assert_eq!(reply.unwrap().payload, "{\"a\":1}");
}

#[tokio::test]
async fn the_end_comes_within_a_second_and_is_said() {
    let mut mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    // Neither a connection without requests nor one without TLS holds it up.
    let _idle = mesh.connect(None).await.unwrap();
    let _silent = TcpStream::connect(mesh.address).await.unwrap();
    mesh.end.cancel();
    assert_eq!(stream.end().await.code(), Code::Unavailable);
    let ended = tokio::time::timeout(Duration::from_secs(1), &mut mesh.server).await;
    ended.expect("within a second").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_handshake_is_cut_off() {
    let mesh = Mesh::start().await;
    let (mut silent, accepted) = tokio::io::duplex(1024);
    let config = server_config(&mesh.authority).unwrap().0;
    let begin = Instant::now();
    connection::serve(accepted, mesh.address, config, mesh.services.clone()).await;
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_own_certificate_is_renewed() {
    let mesh = Mesh::start_with(Duration::from_secs(2), DAY).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The client checks the server's certificate against its clock.
    mesh.connect(None).await.unwrap();
}

#[tokio::test]
async fn admin_pages_say_how_it_is() {
    let mesh = Mesh::start().await;
    let (mut stream, _) = mesh.stream(hello("web-1")).await.unwrap();
    stream.subscribe(trust_bundle()).await;
    let update = stream.update().await;
    let ack = Ack {
        key: update.key,
        version: update.version,
    };
    stream.say(client_message::Kind::Ack(ack)).await;
    until("acknowledged", || {
        !mesh.streams.snapshot()[0].acks.is_empty()
    })
    .await;

    let (synced, models) = watch::channel(None);
    let (serving, replicas) = watch::channel(None);
    let end = CancellationToken::new();
    let admin = Admin {
        progress: Default::default(),
        models,
        streams: mesh.streams.clone(),
        metrics: mesh.metrics.clone(),
        replicas,
        gate: Gate::Loopback,
        keeper: watch::channel(None).1,
        log: None,
        end: end.clone(),
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.run(listener));
    let page = |path: &'static str| async move {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", "admin")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let (head, body) = requests.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    };

    assert_eq!(page("/live").await.0, 200);
    assert_eq!(page("/ready").await.0, 503);
    assert_eq!(page("/health").await.0, 503);
    synced.send_replace(Some(mesh.models.subscribe()));
    assert_eq!(page("/ready").await.0, 200);
    assert!(page("/health").await.1.contains("\"status\": \"ok\""));
    assert_eq!(page("/nothing").await.0, 404);
    let (_, metrics) = page("/metrics").await;
    assert!(
        metrics.contains("weft_control_plane_streams 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("weft_control_plane_updates_sent_total 1"),
        "{metrics}"
    );

    let (code, status) = page("/status").await;
    assert_eq!(code, 200);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["trustDomain"], DOMAIN);
    assert_eq!(status["workloads"][0]["name"], "web-1");
    assert_eq!(
        status["workloads"][0]["resources"][0]["resource"],
        "trust-bundle"
    );
    assert_eq!(status["proxies"].as_array().unwrap().len(), 0);
    assert!(status["notConnected"].is_null());

    serving.send_replace(Some(mesh.replicas.clone()));
    let (_, status) = page("/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let proxy = &status["proxies"][0];
    assert_eq!(proxy["name"], "web-1");
    assert_eq!(
        (&proxy["resources"], &proxy["behind"]),
        (&1.into(), &0.into())
    );
    let age = proxy["updatedSeconds"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(proxy["behindSeconds"].is_null());
    assert_eq!(status["replicas"][0]["modelRevision"], 1);
    // Everybody but web-1.
    assert_eq!(status["notConnected"].as_array().unwrap().len(), 4);
}
