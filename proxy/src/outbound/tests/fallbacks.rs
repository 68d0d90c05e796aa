//! What clients get where no server answered.

use std::time::Duration;

use ::bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{
    BreakerScope, FallbackAnswer, FallbackPolicy, FallbackTrigger, StaticResponse,
};
use crate::testing::clients::{Answer, request};
use crate::testing::policies::{breaker, endpoint, retries, target};
use crate::testing::servers::{Act, Refusing};

const SORRY: &str = "{\"success\":false}";

fn response(trigger: FallbackTrigger) -> FallbackPolicy {
    let json = HeaderValue::from_static("application/json");
    FallbackPolicy {
        triggers: vec![trigger],
        answer: FallbackAnswer::Response(StaticResponse {
            status: StatusCode::ACCEPTED,
            headers: HeaderMap::from_iter([
                (header::CONTENT_TYPE, json),
                (header::RETRY_AFTER, HeaderValue::from_static("5")),
            ]),
            body: Bytes::from_static(SORRY.as_bytes()),
        }),
    }
}

/// Falls back to `spare`.
fn backend(trigger: FallbackTrigger) -> FallbackPolicy {
    FallbackPolicy {
        triggers: vec![trigger],
        answer: FallbackAnswer::Backend(1),
    }
}

/// The service `api`; `spare` gets nothing by itself.
fn falling_back(policy: FallbackPolicy) -> ServiceTarget {
    let mut target = target("api", &["api", "spare"]);
    target.routes[0].fallback = Some(policy);
    target
}

#[track_caller]
fn assert_sorry(answer: &Answer, outcome: Outcome) {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.body, SORRY);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("x-weft-outcome"), Some(outcome.as_str()));
    assert_eq!(answer.header("x-weft-origin"), Some("outbound"));
    assert_eq!(answer.header("x-weft-fallback"), Some("true"));
}

#[tokio::test]
async fn an_open_breaker_is_answered_for() {
    let server = Server::plain(|_, _| Act::status(500, "sick")).await;
    let mut policy = falling_back(response(FallbackTrigger::CircuitOpen));
    policy.backends[0].circuit_breaker = Some(breaker(BreakerScope::Backend));
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (500, &b"sick"[..]));
    assert_eq!(answer.header("x-weft-fallback"), None);
    assert_sorry(&client.get("/").await, Outcome::CircuitOpen);
    let head = client.send(request(Method::HEAD, "/", &[], "")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (202, 0));
    assert_eq!(server.requests(), 1);
    client.leave().await;
    let labels = [("outcome", "circuit_open"), ("status", "202")];
    assert_eq!(sidecar.requests(&labels), 2);
}

#[tokio::test]
async fn grpc_callers_get_the_outcome_and_the_headers() {
    let policy = falling_back(response(FallbackTrigger::NoEndpoints));
    let sidecar = Sidecar::knowing(policy, at(&[]));
    let mut client = sidecar.http2().await;
    let answer = client.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("x-weft-fallback"), Some("true"));
    client.leave().await;
    let labels = [("outcome", "no_endpoints"), ("grpc_status", "14")];
    assert_eq!(sidecar.requests(&labels), 1);
}

#[tokio::test]
async fn only_its_own_triggers_use_it() {
    let policy = falling_back(response(FallbackTrigger::CircuitOpen));
    let sidecar = Sidecar::knowing(policy, at(&[]));
    let answer = sidecar.http1().await.get("/").await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
    assert_eq!(answer.header("x-weft-fallback"), None);
}

#[tokio::test]
async fn a_timeout_is_answered_after_the_deadline() {
    let server = Server::plain(|_, _| Act::Hang).await;
    let mut policy = falling_back(response(FallbackTrigger::Timeout));
    policy.routes[0].timeouts.request = Some(Duration::from_millis(100));
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    assert_sorry(
        &sidecar.http1().await.get("/").await,
        Outcome::RequestTimeout,
    );
}

#[tokio::test]
async fn spent_attempts_are_answered_for_and_what_is_not_retried_is_not() {
    let server = Server::plain(|_, _| Act::status(503, "busy")).await;
    let mut policy = falling_back(response(FallbackTrigger::RetriesExhausted));
    policy.routes[0].retries = Some(retries());
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    assert_sorry(&client.get("/").await, Outcome::Ok);
    assert_eq!(server.requests(), 3);
    let answer = client.post("/", "body").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"busy"[..]));
}

#[tokio::test]
async fn another_backend_gets_the_request_as_it_was() {
    let spare = Server::plain(|_, _| Act::ok("spare")).await;
    let policy = falling_back(backend(FallbackTrigger::NoEndpoints));
    let sidecar = Sidecar::knowing(policy, at(&[]));
    sidecar.tell_endpoints("spare", at(&[&spare]));
    let mut client = sidecar.http1().await;
    let large = vec![b'x'; 300_000];
    let answer = client.post("/orders", large.clone()).await;
    answer.assert_ok("spare");
    assert_eq!(answer.header("x-weft-fallback"), Some("true"));
    let seen = spare.seen();
    assert_eq!((seen.len(), &*seen[0].path), (1, "/orders"));
    assert_eq!(seen[0].body, large);
    client.leave().await;
    let labels = [("outcome", "no_endpoints"), ("status", "200")];
    assert_eq!(sidecar.requests(&labels), 1);
    assert_eq!(sidecar.requests(&[("backend", "shop/spare:80")]), 1);
}

#[tokio::test]
async fn another_backend_is_asked_when_all_tries_failed() {
    let refusing = Refusing::new();
    let spare = Server::plain(|_, _| Act::ok("spare")).await;
    let mut policy = falling_back(backend(FallbackTrigger::RetriesExhausted));
    policy.routes[0].retries = Some(retries());
    let sidecar = Sidecar::knowing(policy, vec![endpoint(refusing.address, None)]);
    sidecar.tell_endpoints("spare", at(&[&spare]));
    let mut client = sidecar.http1().await;
    // Beyond what is kept for retries, but never written.
    let answer = client.post("/", vec![b'x'; 4096]).await;
    answer.assert_ok("spare");
    assert_eq!(answer.header("x-weft-fallback"), Some("true"));
    assert_eq!(sidecar.retries("sent"), 2);
    assert_eq!(spare.seen()[0].body.len(), 4096);
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "connect_refused")]), 1);
}

#[tokio::test]
async fn where_the_fallback_fails_too_the_first_failure_stands() {
    let server = Server::plain(|_, _| Act::status(503, "busy")).await;
    let mut policy = falling_back(backend(FallbackTrigger::RetriesExhausted));
    policy.routes[0].retries = Some(retries());
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    sidecar.tell_endpoints("spare", at(&[]));
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"busy"[..]));
    assert_eq!(answer.header("x-weft-fallback"), None);
    client.leave().await;
    let labels = [("outcome", "ok"), ("backend", "shop/api:80")];
    assert_eq!(sidecar.requests(&labels), 1);
}
