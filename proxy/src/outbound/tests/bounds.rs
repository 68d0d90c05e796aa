//! What the process bears of what the application asks for. Counts are the servers' own.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::*;
use crate::outcome::Outcome;
use crate::policy::Protocol;
use crate::testing::limit_hits;
use crate::testing::policies::{endpoint, retries, target};
use crate::testing::servers::Act;
use crate::testing::soon;

/// As long as a response's body takes that is still under way.
const AFTER: Duration = Duration::from_millis(300);

fn limits(change: impl FnOnce(&mut ProcessLimits)) -> ProcessLimits {
    let mut limits = ProcessLimits::DEFAULT;
    change(&mut limits);
    limits
}

#[tokio::test]
async fn requests_in_flight() {
    let server = Server::plain(|_, _| Act::slow(&[], AFTER)).await;
    let sidecar = Sidecar::bounded(limits(|limits| limits.requests = 1));
    sidecar.tell_endpoints("api", at(&[&server]));
    sidecar.tell(target("api", &["api"]));
    let (mut first, mut second) = (sidecar.http1().await, sidecar.http2().await);
    let (first, refused) = tokio::join!(first.get("/"), async {
        tokio::time::sleep(AFTER / 3).await;
        second.get("/").await
    });
    assert_eq!(first.status, 200);
    refused.assert_made_by("outbound", Outcome::Overflow);
    assert_eq!(refused.status, 503);
    assert_eq!(server.requests(), 1);
    assert_eq!(limit_hits(&sidecar.telemetry, "outbound_requests"), 1);
    assert_eq!(sidecar.requests(&[("outcome", "overflow")]), 1);
    assert_eq!(second.get("/").await.status, 200);
}

#[tokio::test]
async fn connections_to_servers() {
    let slow = Server::plain(|_, _| Act::slow(&[], AFTER)).await;
    let sidecar = Sidecar::bounded(limits(|limits| limits.upstream_connections = 1));
    sidecar.tell_endpoints("api", at(&[&slow]));
    sidecar.tell(target("api", &["api"]));
    let mut first = sidecar.http1().await;
    let (first, refused) = tokio::join!(first.get("/"), async {
        tokio::time::sleep(AFTER / 3).await;
        // Not before: a silent client's server is dialled, to hear whether it speaks first.
        sidecar.http1().await.get("/").await
    });
    assert_eq!(first.status, 200);
    refused.assert_made_by("outbound", Outcome::Overflow);
    assert_eq!((slow.requests(), slow.connections()), (1, 1));
    let hits = || limit_hits(&sidecar.telemetry, "outbound_upstream_connections");
    assert_eq!(hits(), 1);

    // An idle connection to one server makes room for another's.
    let other = Server::plain(|_, _| Act::ok("other")).await;
    sidecar.tell_endpoints("other", at(&[&other]));
    let elsewhere: SocketAddr = "10.2.0.9:80".parse().unwrap();
    let target = OutboundTarget::Service(Arc::new(target("other", &["other"])));
    sidecar.discovery.tell_outbound(elsewhere, target);
    let mut client = sidecar.dial(elsewhere).await.http1().await;
    client.get("/").await.assert_ok("other");
    assert_eq!(hits(), 2);
    assert_eq!(sidecar.outbound.shared().bounds.dials.taken(), 1);
}

#[tokio::test]
async fn connections_of_bytes() {
    let server = Server::plain(|_, _| Act::ok("")).await;
    let sidecar = Sidecar::bounded(limits(|limits| limits.upstream_connections = 1));
    sidecar.tell_endpoints("api", vec![endpoint(server.address, None)]);
    let mut policy = target("api", &["api"]);
    policy.protocol = Protocol::Opaque;
    sidecar.tell(policy);
    let kept = sidecar.dial(api()).await;
    let dials = &sidecar.outbound.shared().bounds.dials;
    crate::testing::until("the first connection", || dials.taken() == 1).await;
    let mut refused = sidecar.dial(api()).await;
    let mut heard = Vec::new();
    let _ = soon(refused.tcp.read_to_end(&mut heard)).await;
    assert!(heard.is_empty());
    soon(refused.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("outcome", "overflow")]), 1);
    let hits = limit_hits(&sidecar.telemetry, "outbound_upstream_connections");
    assert_eq!(hits, 1);
    drop(kept.tcp);
    soon(kept.served).await.unwrap();
    assert_eq!(dials.taken(), 0);
}

#[tokio::test]
async fn bodies_that_are_kept() {
    for (room, status, tries) in [(1024, 200, 2), (3, 503, 1)] {
        let server = Server::plain(|count, _| match count {
            1 => Act::status(503, ""),
            _ => Act::ok("ok"),
        })
        .await;
        let sidecar = Sidecar::bounded(limits(|limits| limits.body_buffer = room));
        sidecar.tell_endpoints("api", at(&[&server]));
        let mut policy = target("api", &["api"]);
        let mut retries = retries();
        retries.methods.push(::http::Method::POST);
        policy.routes[0].retries = Some(retries);
        sidecar.tell(policy);
        let answer = sidecar.http1().await.post("/", "body").await;
        assert_eq!(answer.status, status, "{room}");
        // Once for each body that found no room; the server got all of it either way.
        let hits = limit_hits(&sidecar.telemetry, "body_buffer");
        assert_eq!(hits, u64::from(status == 503), "{room}");
        let seen = server.seen();
        assert_eq!(seen.len(), tries, "{room}");
        assert!(seen.iter().all(|seen| seen.body == "body"), "{room}");
        assert_eq!(sidecar.outbound.shared().bounds.kept.taken(), 0, "{room}");
    }
}

#[tokio::test]
async fn heads_of_answers() {
    for (headers, status) in [(9, 200), (12, 502)] {
        for http2 in [false, true] {
            let server = Server::plain(move |_, _| {
                // The server's library adds a date and a length.
                let headers = vec![("x", "y"); headers - 2];
                Act::with(200, "ok", &headers)
            })
            .await;
            let sidecar = Sidecar::bounded(limits(|limits| limits.headers = 10));
            sidecar.tell_endpoints("api", at(&[&server]));
            sidecar.tell(target("api", &["api"]));
            let mut client = if http2 {
                sidecar.http2().await
            } else {
                sidecar.http1().await
            };
            let answer = client.get("/").await;
            assert_eq!(answer.status, status, "{headers}, {http2}");
            let hits = limit_hits(&sidecar.telemetry, "response_head");
            assert_eq!(hits, u64::from(status == 502), "{headers}, {http2}");
            if status == 502 {
                answer.assert_made_by("outbound", Outcome::Reset);
            }
        }
    }
}
