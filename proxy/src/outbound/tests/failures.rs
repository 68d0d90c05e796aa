//! What becomes of a request: where it goes, and what is said where it goes nowhere.

use http::Method;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::outcome::Outcome;
use crate::policy::{BreakerScope, PathMatch, RouteMatch};
use crate::testing::clients::request;
use crate::testing::policies::{breaker, retries, target};
use crate::testing::servers::{Act, Refusing};
use crate::testing::soon;

#[tokio::test]
async fn a_request_goes_to_an_endpoint_of_its_service() {
    let servers = [
        Server::plain(|_, _| Act::ok("one")).await,
        Server::plain(|_, _| Act::ok("two")).await,
    ];
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&servers[0], &servers[1]]));
    let mut client = sidecar.http1().await;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        bodies.push(client.get("/cart").await.body);
    }
    bodies.sort();
    assert_eq!(bodies, ["one", "one", "two", "two"]);
    assert_eq!(servers[0].connections(), 1, "connections are used again");
    client.leave().await;
    let labels = [
        ("direction", "outbound"),
        ("service", "shop/api:80"),
        ("route", "default"),
        ("backend", "shop/api:80"),
        ("peer", "unknown"),
        ("method", "GET"),
        ("status", "200"),
        ("outcome", "ok"),
        ("tls", "none"),
    ];
    assert_eq!(sidecar.requests(&labels), 4);
    assert_eq!(sidecar.seats.settled(), 1);
}

#[tokio::test]
async fn http2_stays_http2() {
    let server = Server::plain(|_, _| Act::grpc(0)).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let mut client = sidecar.http2().await;
    let answer = client.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(server.seen()[0].version, http::Version::HTTP_2);
    assert_eq!(server.seen()[0].headers["te"], "trailers");
    client.leave().await;
    assert_eq!(
        sidecar.requests(&[("grpc_status", "0"), ("outcome", "ok")]),
        1
    );
    assert_eq!(sidecar.seats.settled(), 1);
}

#[tokio::test]
async fn what_no_route_matches_is_told_so() {
    let mut policy = target("api", &["api"]);
    policy.routes[0].matches = vec![RouteMatch {
        path: Some(PathMatch::Prefix("/cart".into())),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    }];
    let server = Server::plain(|_, _| Act::ok("")).await;
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    client.get("/cart/1").await.assert_ok("");
    let answer = client.get("/cartoon").await;
    answer.assert_made_by("outbound", Outcome::NoRoute);
    let mut client = sidecar.http2().await;
    let answer = client.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::NoRoute);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_backend_without_endpoints_is_told_from_one_that_is_not_known() {
    let sidecar = Sidecar::knowing(target("api", &["api"]), Vec::new());
    let answer = sidecar.http1().await.get("/").await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
    let answer = sidecar.http2().await.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let server = Server::plain(|_, _| Act::ok("")).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let mut client = sidecar.http1().await;
    let two_hosts = [("host", "other")];
    let answer = client.send(request(Method::GET, "/", &two_hosts, "")).await;
    answer.assert_made_by("outbound", Outcome::BadRequest);
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn every_failure_has_a_grpc_form() {
    let refusing = Refusing::new();
    let endpoints = vec![crate::testing::policies::endpoint(refusing.address, None)];
    let sidecar = Sidecar::knowing(target("api", &["api"]), endpoints);
    let answer = sidecar.http2().await.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::ConnectRefused);
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::ConnectRefused);
    client.leave().await;
    let labels = [("outcome", "connect_refused"), ("status", "503")];
    assert_eq!(sidecar.requests(&labels), 1);
    let labels = [("outcome", "connect_refused"), ("grpc_status", "14")];
    assert_eq!(sidecar.requests(&labels), 1);
}

#[tokio::test]
async fn headers_of_ours_are_neither_taken_nor_given_in_the_clear() {
    let server = Server::plain(|_, _| {
        let forged = [("x-weft-outcome", "shed"), ("x-weft-origin", "inbound")];
        Act::with(503, "mine", &forged)
    })
    .await;
    let mut policy = target("api", &["api"]);
    policy.routes[0].retries = Some(retries());
    policy.routes[0].timeouts.request = Some(std::time::Duration::from_secs(60));
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let forged = [("x-weft-attempt", "7"), ("x-weft-deadline-ms", "1")];
    let forged = request(Method::POST, "/", &forged, "");
    let mut client = sidecar.http1().await;
    let answer = client.send(forged).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"mine"[..]));
    assert_eq!(answer.header("x-weft-outcome"), None);
    assert_eq!(answer.header("x-weft-origin"), None);
    let seen = server.seen();
    // A forged "never processed" repeats no POST.
    assert_eq!(seen.len(), 1);
    let ours = |name: &&http::HeaderName| name.as_str().starts_with("x-weft-");
    assert_eq!(seen[0].headers.keys().find(ours), None);
    assert!(seen[0].headers.contains_key("x-request-id"));
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "ok"), ("status", "503")]), 1);
}

#[tokio::test]
async fn a_breaker_of_the_backend_fails_fast() {
    let server = Server::plain(|_, _| Act::status(500, "broken")).await;
    let mut policy = target("api", &["api"]);
    policy.backends[0].circuit_breaker = Some(breaker(BreakerScope::Backend));
    let sidecar = Sidecar::knowing(policy.clone(), at(&[&server]));
    let mut client = sidecar.http1().await;
    assert_eq!(client.get("/").await.body, "broken");
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::CircuitOpen);
    assert_eq!(server.requests(), 1);

    // State survives an update of anything but the breaker.
    policy.routes[0].timeouts.request = Some(std::time::Duration::from_secs(60));
    sidecar.tell(policy);
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::CircuitOpen);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let server = Server::plain(|_, _| Act::Hang).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let mut client = sidecar.http2().await;
    let call = request(Method::GET, "http://api/", &[], "");
    let reached = async {
        while server.requests() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = client.try_send(call) => panic!("{answer:?}"),
        () = soon(reached) => {}
    }
    client.leave().await;
    let gone = [("outcome", "client_gone"), ("status", "499")];
    assert_eq!(sidecar.requests(&gone), 1);
    assert_eq!(sidecar.requests(&[]), 1, "nothing is counted twice");
}

#[tokio::test]
async fn an_update_holds_for_the_next_request() {
    let servers = [
        Server::plain(|_, _| Act::ok("one")).await,
        Server::plain(|_, _| Act::ok("two")).await,
    ];
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&servers[0]]));
    let mut client = sidecar.http1().await;
    client.get("/").await.assert_ok("one");
    sidecar.tell_endpoints("api", at(&[&servers[1]]));
    client.get("/").await.assert_ok("two");
    sidecar
        .discovery
        .tell_outbound(api(), OutboundTarget::NotFound);
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::NoRoute);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_waited_for_and_then_refused() {
    let sidecar = Sidecar::new();
    let started = tokio::time::Instant::now();
    let mut link = sidecar.dial(api()).await;
    link.tcp
        .write_all(b"GET / HTTP/1.1\r\nhost: api\r\n")
        .await
        .unwrap();
    link.tcp
        .write_all(b"connection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let reading = tokio::io::AsyncReadExt::read_to_string(&mut link.tcp, &mut answer);
    reading.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("x-weft-outcome: config_unavailable\r\n"),
        "{answer}"
    );
    let waited = started.elapsed();
    assert!(waited >= crate::outbound::DISCOVERY_WAIT, "{waited:?}");
    assert!(waited < crate::outbound::DISCOVERY_WAIT * 2, "{waited:?}");
    assert_eq!(sidecar.requests(&[("outcome", "config_unavailable")]), 1);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_not_known_are_waited_for_and_then_refused() {
    let sidecar = Sidecar::new();
    sidecar.tell(target("api", &["api"]));
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::ConfigUnavailable);
}

#[tokio::test]
async fn what_becomes_known_in_time_is_served() {
    let server = Server::plain(|_, _| Act::ok("late")).await;
    let sidecar = Sidecar::new();
    let mut client = sidecar.http1().await;
    let (answer, ()) = tokio::join!(client.get("/"), async {
        tokio::task::yield_now().await;
        sidecar.tell(target("api", &["api"]));
        tokio::task::yield_now().await;
        sidecar.tell_endpoints("api", at(&[&server]));
    });
    answer.assert_ok("late");
}
