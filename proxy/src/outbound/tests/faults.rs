//! Failures that policy asks for. Delays are short here; a deadline proves that they take its time.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{
    AbortStatus, BreakerScope, FaultAbort, FaultDelay, FaultPolicy, HeaderMatch, ValueMatch,
};
use crate::testing::clients::request;
use crate::testing::policies::{breaker, retries, target};
use crate::testing::servers::Act;

const DELAY: Duration = Duration::from_millis(100);

fn aborting(status: AbortStatus) -> FaultPolicy {
    FaultPolicy {
        headers: Vec::new(),
        delay: None,
        abort: Some(FaultAbort {
            status,
            percent: 100,
        }),
    }
}

fn delaying() -> FaultPolicy {
    FaultPolicy {
        headers: Vec::new(),
        delay: Some(FaultDelay {
            duration: DELAY,
            percent: 100,
        }),
        abort: None,
    }
}

fn faulty(fault: FaultPolicy) -> ServiceTarget {
    let mut target = target("api", &["api"]);
    target.routes[0].fault = Some(fault);
    target
}

#[tokio::test]
async fn an_abort_reaches_no_server_no_retry_and_no_breaker() {
    let server = Server::plain(|_, _| Act::ok("fine")).await;
    let mut policy = faulty(aborting(AbortStatus::Http(StatusCode::SERVICE_UNAVAILABLE)));
    policy.routes[0].retries = Some(retries());
    policy.backends[0].circuit_breaker = Some(breaker(BreakerScope::Backend));
    let sidecar = Sidecar::knowing(policy.clone(), at(&[&server]));
    let mut client = sidecar.http1().await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        answer.assert_made_by("outbound", Outcome::FaultInjected);
    }
    assert_eq!((server.requests(), sidecar.retries("sent")), (0, 0));
    client.leave().await;
    let labels = [("outcome", "fault_injected"), ("status", "503")];
    assert_eq!(sidecar.requests(&labels), 3);

    policy.routes[0].fault = None;
    sidecar.tell(policy);
    sidecar.http1().await.get("/").await.assert_ok("fine");
}

#[tokio::test]
async fn an_abort_says_what_was_configured() {
    let sidecar = Sidecar::knowing(faulty(aborting(AbortStatus::Grpc(10))), at(&[]));
    let mut client = sidecar.http2().await;
    let answer = client.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.header("grpc-status"), Some("10"));
    assert_eq!(answer.header("x-weft-outcome"), Some("fault_injected"));
    client.leave().await;
    let labels = [("outcome", "fault_injected"), ("grpc_status", "10")];
    assert_eq!(sidecar.requests(&labels), 1);

    for (code, has_body) in [(418, true), (204, false), (304, false)] {
        let status = StatusCode::from_u16(code).unwrap();
        sidecar.tell(faulty(aborting(AbortStatus::Http(status))));
        for mut client in [sidecar.http1().await, sidecar.http2().await] {
            let answer = client
                .send(request(Method::GET, "http://api/", &[("host", "api")], ""))
                .await;
            assert_eq!(answer.status, status);
            assert_eq!(!answer.body.is_empty(), has_body, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_delay_is_part_of_the_requests_time() {
    let server = Server::plain(|_, _| Act::ok("fine")).await;
    let mut policy = faulty(delaying());
    let sidecar = Sidecar::knowing(policy.clone(), at(&[&server]));
    let begun = Instant::now();
    sidecar.http1().await.get("/").await.assert_ok("fine");
    assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());

    policy.routes[0].timeouts.request = Some(DELAY / 4);
    sidecar.tell(policy);
    let answer = sidecar.http1().await.get("/").await;
    answer.assert_made_by("outbound", Outcome::RequestTimeout);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn only_requests_with_the_headers_fail() {
    let server = Server::plain(|_, _| Act::ok("fine")).await;
    let mut fault = aborting(AbortStatus::Http(StatusCode::SERVICE_UNAVAILABLE));
    fault.headers = vec![HeaderMatch {
        name: HeaderName::from_static("x-chaos"),
        value: ValueMatch::Exact(HeaderValue::from_static("1")),
    }];
    let sidecar = Sidecar::knowing(faulty(fault), at(&[&server]));
    let mut client = sidecar.http1().await;
    client.get("/").await.assert_ok("fine");
    let chaos = request(Method::GET, "/", &[("x-chaos", "1")], "");
    let answer = client.send(chaos).await;
    answer.assert_made_by("outbound", Outcome::FaultInjected);
    assert_eq!(server.requests(), 1);
}
