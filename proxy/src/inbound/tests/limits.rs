//! How many requests the application is asked to take.

use std::num::NonZeroU32;
use std::sync::mpsc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{MtlsMode, Probe, Rate, RateLimitKey, RateLimitOverride, RateLimitPolicy};
use crate::testing::clients::{Answer, request};
use crate::testing::policies::inbound;
use crate::testing::servers::Act;

/// One per second in the long run.
fn rate(burst: u32) -> Rate {
    Rate {
        per_second: NonZeroU32::MIN,
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

fn limit(burst: u32, key: RateLimitKey) -> RateLimitPolicy {
    RateLimitPolicy {
        rate: rate(burst),
        key,
    }
}

fn limited<const N: usize>(limits: [RateLimitPolicy; N]) -> InboundPolicy {
    let mut policy = inbound(MtlsMode::Permissive);
    policy.rate_limits = limits.into();
    policy
}

fn by_header() -> RateLimitKey {
    RateLimitKey::Header(HeaderName::from_static("x-user"))
}

/// Until it is dropped, limiters see no time pass, while everything else goes on: the runtime does not
/// advance a paused clock of its own accord as long as a blocking task runs.
fn stop_clock() -> mpsc::Sender<()> {
    let (running, ended) = mpsc::channel();
    tokio::time::pause();
    tokio::task::spawn_blocking(move || ended.recv());
    running
}

async fn app() -> Server {
    Server::plain(|_, seen| match seen.headers.get("content-type") {
        Some(_) => Act::grpc(0),
        None => Act::ok("app"),
    })
    .await
}

async fn get_as(client: &mut Http, user: &str) -> Answer {
    let call = request(Method::GET, "/", &[("x-user", user)], "");
    client.send(call).await
}

fn assert_limited(answer: &Answer) {
    answer.assert_made_by("inbound", Outcome::RateLimited);
    assert_eq!(answer.status, 429);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn all_callers_share_a_global_limit() {
    let _stopped = stop_clock();
    let app = app().await;
    let sidecar = Sidecar::before(&app, limited([limit(3, RateLimitKey::Global)]));
    let mut web = sidecar.http1_as("web").await;
    let mut job = sidecar.http2_as("job").await;
    let mut plain = sidecar.dial().await.http1().await;
    web.get("/").await.assert_ok("app");
    job.get("/").await.assert_ok("app");
    plain.get("/").await.assert_ok("app");
    for client in [&mut web, &mut plain] {
        assert_limited(&client.get("/").await);
    }
    // gRPC hears it in its own words, trailers only.
    let answer = job.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["grpc-status"], "8");
    answer.assert_made_by("inbound", Outcome::RateLimited);
    assert_eq!(app.requests(), 3);
    // What it says about when is true.
    tokio::time::advance(Duration::from_secs(1)).await;
    web.get("/").await.assert_ok("app");
    assert_limited(&plain.get("/").await);
    for client in [web, job, plain] {
        client.leave().await;
    }
    assert_eq!(sidecar.requests(&[("outcome", "rate_limited")]), 4);
}

#[tokio::test]
async fn callers_are_told_apart_by_what_they_proved() {
    let _stopped = stop_clock();
    let app = app().await;
    let key = RateLimitKey::ClientIdentity(vec![RateLimitOverride {
        identity: spiffe("batch").as_str().into(),
        rate: rate(1),
    }]);
    let sidecar = Sidecar::before(&app, limited([limit(2, key)]));
    for (account, passes) in [("web", 2), ("job", 2), ("batch", 1)] {
        // Over two connections: it is the caller that counts.
        for _ in 0..passes {
            let mut client = sidecar.http1_as(account).await;
            client.get("/").await.assert_ok("app");
        }
        let mut client = sidecar.http1_as(account).await;
        assert_limited(&client.get("/").await);
    }
    // Those who proved nothing are one caller, whatever they say.
    let mut one = sidecar.dial().await.http1().await;
    let mut other = sidecar.dial().await.http1().await;
    get_as(&mut one, "a").await.assert_ok("app");
    get_as(&mut other, "b").await.assert_ok("app");
    assert_limited(&get_as(&mut one, "c").await);
    assert_eq!(app.requests(), 7);
}

#[tokio::test]
async fn requests_are_told_apart_by_a_header() {
    let _stopped = stop_clock();
    let app = app().await;
    let sidecar = Sidecar::before(&app, limited([limit(1, by_header())]));
    let mut client = sidecar.http1_as("web").await;
    get_as(&mut client, "ann").await.assert_ok("app");
    get_as(&mut client, "bob").await.assert_ok("app");
    client.get("/").await.assert_ok("app");
    assert_limited(&get_as(&mut client, "ann").await);
    assert_limited(&client.get("/").await);
    assert_eq!(app.requests(), 3);
}

#[tokio::test]
async fn every_limit_must_admit_and_a_refusal_costs_the_others_nothing() {
    let _stopped = stop_clock();
    let app = app().await;
    let both = [limit(2, RateLimitKey::Global), limit(1, by_header())];
    let sidecar = Sidecar::before(&app, limited(both));
    let mut client = sidecar.http1_as("web").await;
    get_as(&mut client, "ann").await.assert_ok("app");
    for _ in 0..5 {
        assert_limited(&get_as(&mut client, "ann").await);
    }
    get_as(&mut client, "bob").await.assert_ok("app");
    assert_limited(&get_as(&mut client, "eve").await);
    assert_eq!(app.requests(), 2);
}

#[tokio::test]
async fn counts_survive_updates_in_which_the_limit_is_the_same() {
    let _stopped = stop_clock();
    let app = app().await;
    let global = || limit(2, RateLimitKey::Global);
    let sidecar = Sidecar::before(&app, limited([global()]));
    let mut client = sidecar.http1_as("web").await;
    client.get("/").await.assert_ok("app");
    // Something else is changed, and another limit comes before this one.
    let mut policy = limited([limit(100, by_header()), global()]);
    policy.terminating = false;
    policy.mtls = MtlsMode::Strict;
    sidecar.tell(policy);
    client.get("/").await.assert_ok("app");
    assert_limited(&client.get("/").await);
    // A new connection finds the same counts.
    let mut again = sidecar.http1_as("web").await;
    assert_limited(&again.get("/").await);
    // Without the limit everything passes; another one begins anew.
    sidecar.tell(limited([]));
    client.get("/").await.assert_ok("app");
    sidecar.tell(limited([limit(1, RateLimitKey::Global)]));
    client.get("/").await.assert_ok("app");
    assert_limited(&client.get("/").await);
}

#[tokio::test]
async fn only_what_is_allowed_is_counted_and_probes_are_not() {
    let _stopped = stop_clock();
    let app = app().await;
    let mut policy = limited([limit(1, RateLimitKey::Global)]);
    policy.mtls = MtlsMode::Strict;
    policy.probes = vec![Probe {
        path: "/health".into(),
        method: Method::GET,
    }];
    let sidecar = Sidecar::before(&app, policy);
    let mut plain = sidecar.dial().await.http1().await;
    for _ in 0..5 {
        plain.get("/health").await.assert_ok("app");
        plain
            .get("/")
            .await
            .assert_made_by("inbound", Outcome::MtlsRequired);
    }
    let mut client = sidecar.http1_as("web").await;
    client.get("/health").await.assert_ok("app");
    assert_limited(&client.get("/health").await);
}
