//! Which tries are repeated, and where they go.

use std::time::Duration;

use http::Method;

use super::*;
use crate::policy::{BreakerScope, RetryPolicy};
use crate::testing::clients::request;
use crate::testing::policies::{breaker, endpoint, retries, target};
use crate::testing::servers::{Act, Refusing, Seen};

/// A service whose requests are retried as `policy` says.
fn retrying(policy: RetryPolicy) -> ServiceTarget {
    let mut target = target("api", &["api"]);
    target.routes[0].retries = Some(policy);
    target
}

/// 503 first, then an answer.
fn recovers(nth: usize, _: &Seen) -> Act {
    if nth == 1 {
        Act::status(503, "not yet")
    } else {
        Act::ok("fine")
    }
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_for_every_method() {
    let server = Server::plain(|_, _| Act::ok("fine")).await;
    let refusing = Refusing::new();
    let mut endpoints = at(&[&server]);
    endpoints.push(endpoint(refusing.address, None));
    let sidecar = Sidecar::knowing(retrying(retries()), endpoints);
    let mut client = sidecar.http1().await;
    for _ in 0..2 {
        // In turn: one of two meets the endpoint that refuses. The body is beyond what is kept.
        client.post("/", vec![b'x'; 4096]).await.assert_ok("fine");
    }
    assert_eq!(sidecar.retries("sent"), 1);
    assert_eq!(server.requests(), 2);
    assert!(server.seen().iter().all(|seen| seen.body.len() == 4096));
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "ok")]), 2);
}

#[tokio::test]
async fn a_status_is_retried_for_listed_methods_only() {
    let server = Server::plain(recovers).await;
    let sidecar = Sidecar::knowing(retrying(retries()), at(&[&server]));
    let mut client = sidecar.http1().await;
    client.get("/").await.assert_ok("fine");
    assert_eq!(server.requests(), 2);
    assert_eq!(sidecar.retries("sent"), 1);
    client.leave().await;
    assert_eq!(sidecar.requests(&[]), 1, "one request, however many tries");

    let server = Server::plain(recovers).await;
    sidecar.tell_endpoints("api", at(&[&server]));
    let answer = sidecar.http1().await.post("/", "body").await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (503, &b"not yet"[..])
    );
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_idempotency_key_makes_a_post_repeatable() {
    let server = Server::plain(recovers).await;
    let sidecar = Sidecar::knowing(retrying(retries()), at(&[&server]));
    let key = [("idempotency-key", "1")];
    let answer = sidecar
        .http1()
        .await
        .send(request(Method::POST, "/", &key, "body"))
        .await;
    answer.assert_ok("fine");
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    let whole = |seen: &Seen| seen.method == Method::POST && seen.body == "body";
    assert!(seen.iter().all(whole), "{seen:?}");
}

#[tokio::test]
async fn bodies_are_repeated_up_to_the_limit() {
    let key = [("idempotency-key", "1")];
    for (len, tries) in [(1024, 2), (1025, 1)] {
        let server = Server::plain(recovers).await;
        let sidecar = Sidecar::knowing(retrying(retries()), at(&[&server]));
        let post = request(Method::POST, "/", &key, vec![b'x'; len]);
        let answer = sidecar.http1().await.send(post).await;
        assert_eq!(answer.status == 200, tries == 2);
        assert_eq!(server.requests(), tries);
        assert!(server.seen().iter().all(|seen| seen.body.len() == len));
        let given_up = sidecar.retries("not_replayable");
        assert_eq!(given_up, u64::from(tries == 1));
    }
}

#[tokio::test]
async fn a_broken_connection_repeats_what_is_idempotent() {
    let cut_first = |nth: usize, _: &_| if nth == 1 { Act::Cut } else { Act::ok("fine") };
    let server = Server::plain(cut_first).await;
    let sidecar = Sidecar::knowing(retrying(retries()), at(&[&server]));
    sidecar.http1().await.get("/").await.assert_ok("fine");

    let server = Server::plain(cut_first).await;
    sidecar.tell_endpoints("api", at(&[&server]));
    let answer = sidecar.http1().await.post("/", "body").await;
    answer.assert_made_by("outbound", crate::outcome::Outcome::Reset);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn the_budget_ends_retrying_and_the_last_answer_is_passed_on() {
    let mut policy = retries();
    policy.attempts = 10;
    policy.budget.percent = 0;
    policy.budget.min_retries_per_second = 0;
    let server = Server::plain(|_, _| Act::status(503, "overloaded")).await;
    let sidecar = Sidecar::knowing(retrying(policy), at(&[&server]));
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (503, &b"overloaded"[..])
    );
    assert_eq!(server.requests(), 1);
    assert_eq!(sidecar.retries("budget_exhausted"), 1);
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "ok"), ("status", "503")]), 1);
}

#[tokio::test]
async fn attempts_end_retrying() {
    let server = Server::plain(|_, _| Act::status(503, "overloaded")).await;
    let sidecar = Sidecar::knowing(retrying(retries()), at(&[&server]));
    let answer = sidecar.http1().await.get("/").await;
    assert_eq!(answer.body, "overloaded");
    assert_eq!(server.requests(), 3);
    assert_eq!(sidecar.retries("sent"), 2);
}

#[tokio::test]
async fn a_grpc_code_is_retried_as_policy_lists_it() {
    let trailers_only = |nth: usize, _: &_| match nth {
        1 => Act::with(
            200,
            "",
            &[("content-type", "application/grpc"), ("grpc-status", "14")],
        ),
        _ => Act::grpc(0),
    };
    let server = Server::plain(trailers_only).await;
    let sidecar = Sidecar::knowing(retrying(retries()), at(&[&server]));
    let answer = sidecar.http2().await.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_try_that_takes_too_long_goes_elsewhere() {
    let servers = [
        Server::plain(|_, _| Act::Hang).await,
        Server::plain(|_, _| Act::ok("fine")).await,
    ];
    let mut policy = retrying(retries());
    policy.routes[0].timeouts.per_try = Some(Duration::from_millis(200));
    let sidecar = Sidecar::knowing(policy, at(&[&servers[0], &servers[1]]));
    let mut client = sidecar.http1().await;
    for _ in 0..2 {
        client.get("/").await.assert_ok("fine");
    }
    let slow = servers[0].requests();
    assert!(slow >= 1 && servers[1].requests() == 2, "{slow}");

    // A POST may have been processed.
    sidecar.tell_endpoints("api", at(&[&servers[0]]));
    let answer = sidecar.http1().await.post("/", "body").await;
    answer.assert_made_by("outbound", crate::outcome::Outcome::TryTimeout);
    assert_eq!(servers[0].requests(), slow + 1);
}

#[tokio::test]
async fn an_open_endpoint_is_passed_over() {
    let servers = [
        Server::plain(|_, _| Act::status(500, "broken")).await,
        Server::plain(|_, _| Act::ok("fine")).await,
    ];
    let mut policy = target("api", &["api"]);
    policy.backends[0].circuit_breaker = Some(breaker(BreakerScope::Endpoint));
    let sidecar = Sidecar::knowing(policy, at(&[&servers[0], &servers[1]]));
    let mut client = sidecar.http1().await;
    for _ in 0..10 {
        client.get("/").await;
    }
    assert_eq!((servers[0].requests(), servers[1].requests()), (1, 9));

    // People have the last word.
    let all = crate::admin::BreakerTarget::All;
    let met = sidecar
        .outbound
        .act_on_breakers(&all, crate::admin::BreakerAction::ForceOpen);
    assert!(met >= 2, "{met}");
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", crate::outcome::Outcome::CircuitOpen);
}

#[tokio::test]
async fn a_failed_probe_is_answered_by_a_free_try() {
    let servers = [
        Server::plain(|_, _| Act::status(500, "broken")).await,
        Server::plain(|_, _| Act::ok("fine")).await,
    ];
    // No retries at all: what follows a probe is free.
    let mut policy = target("api", &["api"]);
    let mut breaker = breaker(BreakerScope::Endpoint);
    breaker.open_duration = Duration::from_millis(50);
    breaker.max_open_duration = Duration::from_secs(600);
    policy.backends[0].circuit_breaker = Some(breaker);
    let sidecar = Sidecar::knowing(policy, at(&[&servers[0], &servers[1]]));
    let mut client = sidecar.http1().await;
    while servers[0].requests() == 0 {
        client.get("/").await;
    }
    // Longer than the open period with its jitter.
    tokio::time::sleep(Duration::from_millis(70)).await;
    client.get("/").await.assert_ok("fine");
    assert_eq!(servers[0].requests(), 2, "the probe was made");
    client.get("/").await.assert_ok("fine");
    assert_eq!(servers[0].requests(), 2, "and its failure opened again");
    client.leave().await;
    let broken = [("status", "500")];
    assert_eq!(sidecar.requests(&broken), 1, "the first failure only");
}

#[tokio::test]
async fn a_grpc_status_in_trailers_is_a_reason_to_try_again() {
    for (first, tries, status) in [
        (&[("grpc-status", "14")][..], 2, "0"),
        (&[("grpc-status", "13")], 1, "13"),
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")],
            1,
            "14",
        ),
        (&[("grpc-status", "0")], 1, "0"),
    ] {
        let server = Server::plain(move |count, _| match count {
            1 => Act::grpc_trailers(first),
            _ => Act::grpc(0),
        })
        .await;
        let mut policy = target("api", &["api"]);
        policy.routes[0].retries = Some(retries());
        let sidecar = Sidecar::knowing(policy, at(&[&server]));
        let mut client = sidecar.http2().await;
        let answer = client.grpc("/shop.Cart/Get").await;
        assert_eq!(server.requests(), tries, "{first:?}");
        assert_eq!(answer.trailers["grpc-status"], status, "{first:?}");
        assert_eq!(answer.body.len(), if tries == 2 { 5 } else { 0 });
        client.leave().await;
        assert_eq!(sidecar.retries("sent"), tries as u64 - 1);
    }
}

#[tokio::test]
async fn a_grpc_stream_whose_first_message_is_late_is_passed_on() {
    let late = Duration::from_millis(200);
    let headers = [("content-type", "application/grpc")];
    let server = Server::plain(move |_, _| Act::slow(&headers, late)).await;
    let mut policy = target("api", &["api"]);
    policy.routes[0].retries = Some(retries());
    // Its head is in time, and nothing else is asked of it.
    policy.routes[0].timeouts.per_try = Some(late / 2);
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let answer = sidecar.http2().await.grpc("/shop.Cart/Watch").await;
    assert_eq!((&*answer.body, server.requests()), (&b"late"[..], 1));
}
