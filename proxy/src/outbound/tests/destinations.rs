//! What an original destination means.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::names::sentinel;

use super::*;
use crate::policy::{EndpointTarget, Protocol};
use crate::testing::policies::{endpoint, target};
use crate::testing::servers::Act;
use crate::testing::soon;
use crate::worker::Seat;

/// A workload's own address, as clients dial it.
const POD: &str = "10.1.0.7:8080";

/// A destination that is one endpoint of `api`, under a policy of its own.
fn workload(endpoint: EndpointInfo) -> EndpointTarget {
    EndpointTarget {
        endpoint,
        aliases: vec![(service("api"), vec!["api".into(), "api:80".into()])],
        policy: Arc::new(target("headless", &["headless"])),
    }
}

#[tokio::test]
async fn outside_of_the_mesh_everything_passes_as_it_is() {
    let server = Server::plain(|_, _| Act::ok("outside")).await;
    let sidecar = Sidecar::new();
    let mut client = sidecar.dial(server.address).await.http1().await;
    let forged = [("x-weft-attempt", "7")];
    let get = crate::testing::clients::request(http::Method::GET, "/", &forged, "");
    client.send(get).await.assert_ok("outside");
    client.leave().await;
    let seen = server.seen();
    assert_eq!(
        seen[0].headers["x-weft-attempt"], "7",
        "bytes are not looked into"
    );
    assert!(!seen[0].headers.contains_key("x-request-id"));
    assert_eq!(sidecar.requests(&[]), 0);
    let labels = [
        ("direction", "outbound"),
        ("service", "unknown"),
        ("outcome", "ok"),
    ];
    assert_eq!(sidecar.connections(&labels), 1);
}

#[tokio::test]
async fn what_the_mesh_does_not_know_passes_as_it_is() {
    // Inside the mesh's networks, as the mesh says it.
    let server = Server::plain(|_, _| Act::ok("unknown")).await;
    let sidecar = Sidecar::new();
    let mut mesh = mesh();
    mesh.networks.push("127.0.0.1/32".parse().unwrap());
    sidecar.discovery.tell_mesh(mesh);
    let not_found = OutboundTarget::NotFound;
    sidecar.discovery.tell_outbound(server.address, not_found);
    let mut client = sidecar.dial(server.address).await.http1().await;
    client.get("/").await.assert_ok("unknown");
}

#[tokio::test]
async fn a_connection_without_a_redirect_is_closed() {
    let sidecar = Sidecar::new();
    let (mut tcp, accepted) = tcp_pair().await;
    let closing = sidecar.closing.subscribe();
    let original = crate::net::Redirected;
    let outbound = Arc::clone(&sidecar.outbound);
    soon(outbound.connection(accepted, &original, &Seat::only(), closing)).await;
    assert_eq!(soon(tcp.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn the_sentinel_is_greeted() {
    let sidecar = Sidecar::new();
    for address in [sentinel::V4, sentinel::V6] {
        let mut link = sidecar.dial(address).await;
        let mut heard = Vec::new();
        soon(link.tcp.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, crate::outbound::SENTINEL_GREETING);
    }
}

#[tokio::test]
async fn the_workload_itself_is_dialled_in_the_clear() {
    let server = Server::start("127.0.0.2:0", None, |_, _| Act::ok("myself")).await;
    let promised = endpoint(server.address, Some(spiffe("web")));
    let sidecar = Sidecar::knowing(target("api", &["api"]), vec![promised]);
    let mut client = sidecar.http1().await;
    client.get("/").await.assert_ok("myself");
    client.leave().await;
    assert_eq!(sidecar.requests(&[("tls", "local"), ("outcome", "ok")]), 1);
    let seen = &server.seen()[0];
    assert!(!seen.headers.contains_key("x-weft-deadline-ms"));
}

#[tokio::test]
async fn a_workloads_address_means_the_service_that_the_request_names() {
    let own = Server::plain(|_, _| Act::ok("this one")).await;
    let other = Server::plain(|_, _| Act::ok("any")).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&other]));
    let pod: SocketAddr = POD.parse().unwrap();
    let meaning = OutboundTarget::Endpoint(workload(endpoint(own.address, None)));
    sidecar.discovery.tell_outbound(pod, meaning);
    let named = OutboundTarget::Service(Arc::new(target("api", &["api"])));
    sidecar.discovery.tell_authority("api", named);

    let mut client = sidecar.dial(pod).await.http1().await;
    for (host, expected) in [
        ("api", "any"),
        ("API", "any"),
        ("other", "this one"),
        (POD, "this one"),
    ] {
        let get = http::Request::get("/").header("host", host);
        let get = get.body(http_body_util::Full::default()).unwrap();
        client.send(get).await.assert_ok(expected);
    }
    client.leave().await;
    assert_eq!(sidecar.requests(&[("service", "shop/headless:80")]), 2);
    assert_eq!(sidecar.requests(&[("service", "shop/api:80")]), 2);
}

#[tokio::test]
async fn bytes_to_a_workloads_address_go_there() {
    let own = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::new();
    let pod: SocketAddr = POD.parse().unwrap();
    let mut meaning = workload(endpoint(own.local_addr().unwrap(), None));
    let mut policy = target("headless", &["headless"]);
    policy.protocol = Protocol::Opaque;
    meaning.policy = Arc::new(policy);
    sidecar
        .discovery
        .tell_outbound(pod, OutboundTarget::Endpoint(meaning));
    let mut link = sidecar.dial(pod).await;
    let (mut server, _) = soon(own.accept()).await.unwrap();
    link.tcp.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    soon(server.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"ping");
}
