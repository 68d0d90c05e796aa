//! When tries begin and requests end, to the millisecond: time passes only where a test lets it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use tokio::time::{Instant, advance};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{RetryPolicy, Timeouts};
use crate::resilience::backoff;
use crate::testing::clients::{Answer, Http};
use crate::testing::policies::{retries, target};
use crate::testing::servers::Act;
use crate::testing::{hold_clock, settle, until};

const REQUEST: Duration = Duration::from_secs(1);
const PER_TRY: Duration = Duration::from_millis(400);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Three retries, because a try took too long and for nothing else.
fn patient(backoff_base: Duration) -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        on_connect_failure: false,
        on_refused_stream: false,
        on_reset: false,
        status_codes: Vec::new(),
        grpc_codes: Vec::new(),
        methods: vec![Method::GET, Method::POST],
        backoff_base,
        backoff_max: backoff_base * 10,
        ..retries()
    }
}

/// A server that never answers behind such a policy, and when it was asked.
async fn sleeping(retries: RetryPolicy) -> (Server, Sidecar, Arc<Mutex<Vec<Instant>>>) {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&begun);
    let server = Server::plain(move |_, _| {
        seen.lock().push(Instant::now());
        Act::Hang
    })
    .await;
    let mut policy = target("api", &["api"]);
    policy.routes[0].timeouts = Timeouts {
        request: Some(REQUEST),
        per_try: Some(PER_TRY),
        ..Timeouts::default()
    };
    policy.routes[0].retries = Some(retries);
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    (server, sidecar, begun)
}

/// A call under way, and what came of it when.
fn call(mut client: Http, grpc: bool) -> tokio::task::JoinHandle<(Instant, Answer)> {
    tokio::spawn(async move {
        let answer = if grpc {
            client.grpc("/shop.Cart/Get").await
        } else {
            client.get("/").await
        };
        (Instant::now(), answer)
    })
}

#[tokio::test(start_paused = true)]
async fn tries_begin_and_the_request_ends_exactly_when_policy_says() {
    let _held = hold_clock();
    for grpc in [false, true] {
        let (server, sidecar, begun) = sleeping(patient(Duration::ZERO)).await;
        let client = if grpc {
            sidecar.http2().await
        } else {
            sidecar.http1().await
        };
        let start = Instant::now();
        let called = call(client, grpc);
        for tries in 1..=3 {
            until("a try", || server.requests() == tries).await;
            // Nothing happens until the very millisecond.
            let end = (start + REQUEST).min(Instant::now() + PER_TRY);
            advance(end - MILLISECOND - Instant::now()).await;
            settle().await;
            assert_eq!(server.requests(), tries);
            assert!(!called.is_finished());
            advance(MILLISECOND).await;
        }
        until("the answer", || called.is_finished()).await;
        let (ended, answer) = called.await.unwrap();
        answer.assert_made_by("outbound", Outcome::RequestTimeout);
        assert_eq!(answer.status, if grpc { 200 } else { 504 });
        assert_eq!(ended - start, REQUEST);
        let begun: Vec<_> = begun.lock().iter().map(|at| *at - start).collect();
        assert_eq!(begun, [Duration::ZERO, PER_TRY, PER_TRY * 2]);
        assert_eq!(sidecar.retries("sent"), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_backoff_lies_between_tries_and_within_the_requests_time() {
    let _held = hold_clock();
    let base = Duration::from_millis(50);
    let mut waits = Vec::new();
    for seed in 0..4 {
        let (server, sidecar, begun) = sleeping(patient(base)).await;
        let client = sidecar.http1().await;
        fastrand::seed(seed);
        let start = Instant::now();
        let called = call(client, false);
        until("a try", || server.requests() == 1).await;
        while start.elapsed() < REQUEST {
            assert!(!called.is_finished());
            advance(MILLISECOND).await;
            settle().await;
            // A try that has begun reaches the server before time goes on.
            let sent = sidecar.retries("sent") as usize;
            until("a try", || server.requests() == 1 + sent).await;
        }
        until("the answer", || called.is_finished()).await;
        let (ended, answer) = called.await.unwrap();
        answer.assert_made_by("outbound", Outcome::RequestTimeout);
        assert_eq!(ended - start, REQUEST);
        let begun = begun.lock().clone();
        assert_eq!(begun.len(), 3);
        for (retry, pair) in begun.windows(2).enumerate() {
            let wait = (pair[1] - pair[0]).checked_sub(PER_TRY).unwrap();
            // The runtime's timers round up to the next millisecond.
            let longest = backoff::bound(base, base * 10, retry as u32) + MILLISECOND;
            assert!(wait <= longest, "{wait:?} before retry {retry}");
            waits.push(wait);
        }
    }
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 3, "hardly random: {waits:?}");
}
