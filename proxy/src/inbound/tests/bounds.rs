//! What the process bears of what others ask of the application. Counts are the application's own.

use std::time::Duration;

use ::http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{MtlsMode, Probe};
use crate::testing::policies::inbound;
use crate::testing::servers::Act;
use crate::testing::{limit_hits, soon};

/// As long as a response's body takes that is still under way.
const AFTER: Duration = Duration::from_millis(300);

fn limits(change: impl FnOnce(&mut ProcessLimits)) -> ProcessLimits {
    let mut limits = ProcessLimits::DEFAULT;
    change(&mut limits);
    limits
}

fn bounded(app: &Server, limits: ProcessLimits) -> Sidecar {
    let sidecar = Sidecar::bounded(app.address, limits);
    let mut policy = inbound(MtlsMode::Permissive);
    policy.probes = vec![Probe {
        path: "/healthz".into(),
        method: Method::GET,
    }];
    sidecar.tell(policy);
    sidecar
}

#[tokio::test]
async fn requests_in_flight() {
    let app = Server::plain(|_, seen| match &*seen.path {
        "/slow" => Act::slow(&[], AFTER),
        _ => Act::ok("ok"),
    })
    .await;
    let sidecar = bounded(&app, limits(|limits| limits.requests = 1));
    let mut first = sidecar.http2_as("web").await;
    let (mut second, mut kubelet) = (
        sidecar.http1_as("web").await,
        sidecar.dial().await.http1().await,
    );
    let (first, refused) = tokio::join!(first.get("/slow"), async {
        tokio::time::sleep(AFTER / 3).await;
        let refused = second.get("/").await;
        // A busy workload is not taken for one that has failed.
        kubelet.get("/healthz").await.assert_ok("ok");
        refused
    });
    assert_eq!(first.status, 200);
    refused.assert_made_by("inbound", Outcome::Shed);
    assert_eq!(refused.status, 503);
    let paths: Vec<_> = app.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/slow", "/healthz"]);
    assert_eq!(limit_hits(&sidecar.telemetry, "inbound_requests"), 2);
    assert_eq!(sidecar.requests(&[("outcome", "shed")]), 1);
    second.get("/").await.assert_ok("ok");
}

#[tokio::test]
async fn grpc_callers_hear_of_it_too() {
    let app = Server::plain(|_, _| Act::slow(&[], AFTER)).await;
    let sidecar = bounded(&app, limits(|limits| limits.requests = 1));
    let (mut first, mut second) = (sidecar.http2_as("web").await, sidecar.http2_as("web").await);
    let (_, refused) = tokio::join!(first.get("/"), async {
        tokio::time::sleep(AFTER / 3).await;
        second.grpc("/a.B/C").await
    });
    assert_eq!(refused.status, 200);
    assert_eq!(refused.header("grpc-status"), Some("14"));
    assert_eq!(refused.header("x-weft-outcome"), Some("shed"));
    assert_eq!(app.requests(), 1);
}

#[tokio::test]
async fn connections_to_the_application() {
    let app = Server::plain(|_, _| Act::slow(&[], AFTER)).await;
    let sidecar = bounded(&app, limits(|limits| limits.upstream_connections = 1));
    let (mut first, mut second) = (sidecar.http1_as("web").await, sidecar.http1_as("web").await);
    let (first, refused) = tokio::join!(first.get("/"), async {
        tokio::time::sleep(AFTER / 3).await;
        second.get("/").await
    });
    assert_eq!(first.status, 200);
    refused.assert_made_by("inbound", Outcome::Overflow);
    assert_eq!((app.requests(), app.connections()), (1, 1));
    let hits = limit_hits(&sidecar.telemetry, "inbound_upstream_connections");
    assert_eq!(hits, 1);
}

#[tokio::test]
async fn a_port_of_the_application_has_its_share() {
    let app = Server::plain(|_, _| Act::slow(&[], AFTER)).await;
    let sidecar = bounded(&app, limits(|limits| limits.endpoint_connections = 1));
    let (mut first, mut second) = (sidecar.http1_as("web").await, sidecar.http1_as("web").await);
    let (first, second) = tokio::join!(first.get("/"), second.get("/"));
    // One waited for the other's connection.
    assert!(first.status == 200 && second.status == 200);
    assert_eq!(app.requests(), 2);
    let hits = limit_hits(&sidecar.telemetry, "inbound_endpoint_connections");
    assert_eq!(hits, 1);
}

#[tokio::test]
async fn times() {
    let app = Server::plain(|_, _| Act::ok("ok")).await;
    let sidecar = bounded(
        &app,
        limits(|limits| {
            limits.header_timeout = Duration::from_millis(100);
            limits.idle_timeout = Duration::from_millis(200);
        }),
    );
    let mut slow = sidecar.dial().await;
    slow.tcp
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n")
        .await
        .unwrap();
    let mut heard = String::new();
    soon(slow.tcp.read_to_string(&mut heard)).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    assert!(heard.contains("x-weft-origin: inbound\r\n"), "{heard}");
    assert_eq!(limit_hits(&sidecar.telemetry, "header_timeout"), 1);
    assert_eq!(app.requests(), 0);

    let mut idle = sidecar.dial().await;
    idle.tcp
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut heard = String::new();
    soon(idle.tcp.read_to_string(&mut heard)).await.unwrap();
    assert!(heard.ends_with("ok"), "{heard}");
    assert_eq!(limit_hits(&sidecar.telemetry, "idle_timeout"), 1);
    assert_eq!(limit_hits(&sidecar.telemetry, "header_timeout"), 1);

    // A sidecar's idle connection is left alone for longer.
    let mut mesh = sidecar.http1_as("web").await;
    mesh.get("/").await.assert_ok("ok");
    tokio::time::sleep(Duration::from_millis(400)).await;
    mesh.get("/").await.assert_ok("ok");
    assert_eq!(limit_hits(&sidecar.telemetry, "idle_timeout"), 1);
}
