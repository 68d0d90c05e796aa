//! How many requests the application is asked to take.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderName, Method};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{
    MtlsMode, PathMatch, Probe, Rate, RateLimitKey, RateLimitOverride, RateLimitPolicy,
    RateLimitRule, RouteMatch, RuledRateLimits,
};
use crate::testing::clients::{Answer, request};
use crate::testing::policies::{inbound, service};
use crate::testing::servers::Act;
use crate::testing::stop_clock;

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

/// A rule for paths that begin so.
fn rule(name: &str, prefix: &str, limit: Option<RateLimitPolicy>) -> RateLimitRule {
    RateLimitRule {
        name: name.into(),
        matches: vec![RouteMatch {
            path: Some(PathMatch::Prefix(prefix.into())),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        }],
        limit,
    }
}

/// One of a service's policies; `burst` of what its rules leave to it.
fn ruled<const N: usize>(
    name: &str,
    rules: [RateLimitRule; N],
    burst: Option<u32>,
) -> RuledRateLimits {
    RuledRateLimits {
        service: service(name),
        rules: rules.into(),
        otherwise: burst.map(global),
    }
}

fn global(burst: u32) -> RateLimitPolicy {
    limit(burst, RateLimitKey::Global)
}

fn limited_by<const N: usize>(policies: [RuledRateLimits; N]) -> InboundPolicy {
    let mut policy = inbound(MtlsMode::Permissive);
    policy.ruled_rate_limits = policies.into();
    policy
}

/// Sends until a request is over the rate: how many were not.
async fn passes(client: &mut Http, path: &str) -> usize {
    for passed in 0..100 {
        let answer = client.get(path).await;
        if answer.status == 429 {
            assert_limited(&answer);
            return passed;
        }
        answer.assert_ok("app");
    }
    panic!("there is no limit on {path}");
}

fn by_header() -> RateLimitKey {
    RateLimitKey::Header(HeaderName::from_static("x-user"))
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

#[tokio::test]
async fn the_first_rule_that_matches_decides_which_limit_counts() {
    let _stopped = stop_clock();
    let app = app().await;
    let sidecar = Sidecar::before(
        &app,
        limited_by([ruled(
            "api",
            [
                rule("export", "/orders/export", Some(global(1))),
                rule("free", "/orders/list", None),
                rule("orders", "/orders", Some(global(3))),
            ],
            Some(5),
        )]),
    );
    let mut client = sidecar.http1_as("web").await;
    // Counted apart: none of them takes from another, whatever comes first.
    assert_eq!(passes(&mut client, "/orders").await, 3);
    assert_eq!(passes(&mut client, "/orders/export/all").await, 1);
    // A rule without a limit inherits the policy's, and its count, with what no rule matches.
    client.get("/orders/list?page=2").await.assert_ok("app");
    client.get("/").await.assert_ok("app");
    assert_eq!(passes(&mut client, "/orders/list").await, 3);
    assert_limited(&client.get("/").await);
    assert_eq!(app.requests(), 9);
    // gRPC calls and other connections are told apart just so.
    let mut other = sidecar.http2_as("job").await;
    let answer = other.grpc("/orders/export").await;
    answer.assert_made_by("inbound", Outcome::RateLimited);
    tokio::time::advance(Duration::from_secs(1)).await;
    other.get("/orders/export").await.assert_ok("app");
    client.get("/orders").await.assert_ok("app");
    assert_eq!(app.requests(), 11);
}

#[tokio::test]
async fn a_rule_may_be_the_only_limit_and_may_tell_callers_apart() {
    let _stopped = stop_clock();
    let app = app().await;
    let own = limit(2, RateLimitKey::ClientIdentity(Vec::new()));
    let policy = ruled("api", [rule("a", "/a", Some(own))], None);
    let sidecar = Sidecar::before(&app, limited_by([policy]));
    for account in ["web", "job"] {
        let mut client = sidecar.http1_as(account).await;
        for _ in 0..5 {
            client.get("/b").await.assert_ok("app");
        }
        assert_eq!(passes(&mut client, "/a").await, 2);
    }
    assert_eq!(app.requests(), 14);
}

#[tokio::test]
async fn of_every_policy_the_limit_that_applies_must_admit() {
    let _stopped = stop_clock();
    let app = app().await;
    let mut policy = limited_by([
        ruled("api", [rule("a", "/a", Some(global(4)))], Some(9)),
        ruled("canary", [rule("ab", "/a/b", Some(global(2)))], None),
    ]);
    policy.rate_limits = vec![global(7)];
    let sidecar = Sidecar::before(&app, policy);
    let mut client = sidecar.http1_as("web").await;
    // The canary's rule is the tightest, and its refusals cost the others nothing.
    assert_eq!(passes(&mut client, "/a/b").await, 2);
    for _ in 0..5 {
        assert_limited(&client.get("/a/b").await);
    }
    assert_eq!(passes(&mut client, "/a/c").await, 2);
    // What is left of the one for all.
    assert_eq!(passes(&mut client, "/z").await, 3);
    assert_eq!(app.requests(), 7);
}

#[tokio::test]
async fn a_rules_counts_survive_updates_in_which_its_limit_is_the_same() {
    let _stopped = stop_clock();
    let app = app().await;
    let sidecar = Sidecar::before(
        &app,
        limited_by([
            ruled("api", [rule("a", "/a", Some(global(2)))], Some(2)),
            ruled("canary", [rule("a", "/c", Some(global(2)))], None),
        ]),
    );
    let mut client = sidecar.http1_as("web").await;
    // The canary's rule and what the other policy has for the rest both count these.
    client.get("/a").await.assert_ok("app");
    assert_eq!(passes(&mut client, "/c").await, 2);
    // Another order, another rule before, other matches: the same counts, each for its own.
    sidecar.tell(limited_by([
        ruled("canary", [rule("a", "/c", Some(global(2)))], None),
        ruled(
            "api",
            [
                rule("b", "/b", Some(global(2))),
                rule("a", "/a2", Some(global(2))),
            ],
            Some(2),
        ),
    ]));
    assert_limited(&client.get("/c").await);
    assert_limited(&client.get("/z").await);
    assert_eq!(passes(&mut client, "/b").await, 2);
    assert_eq!(passes(&mut client, "/a2").await, 1);
    assert_eq!(app.requests(), 6);
}

#[tokio::test]
async fn a_rule_of_another_name_service_or_rate_begins_anew() {
    let _stopped = stop_clock();
    let app = app().await;
    let told = |name: &str, called: &str, burst: u32| {
        limited_by([ruled(name, [rule(called, "/a", Some(global(burst)))], None)])
    };
    let sidecar = Sidecar::before(&app, told("api", "a", 2));
    let mut client = sidecar.http1_as("web").await;
    assert_eq!(passes(&mut client, "/a").await, 2);
    sidecar.tell(told("api", "a", 2));
    assert_eq!(passes(&mut client, "/a").await, 0);
    for (name, called, burst) in [("api", "b", 2), ("canary", "b", 2), ("canary", "b", 1)] {
        sidecar.tell(told(name, called, burst));
        assert_eq!(passes(&mut client, "/a").await, burst as usize);
    }
}

#[tokio::test]
async fn a_policys_own_count_goes_on_when_its_rules_get_limits_and_when_they_lose_them() {
    let _stopped = stop_clock();
    let app = app().await;
    let sidecar = Sidecar::before(&app, limited([global(4)]));
    let mut client = sidecar.http1_as("web").await;
    client.get("/").await.assert_ok("app");
    let rules = [rule("a", "/a", Some(global(1)))];
    sidecar.tell(limited_by([ruled("api", rules, Some(4))]));
    assert_eq!(passes(&mut client, "/a").await, 1);
    client.get("/").await.assert_ok("app");
    sidecar.tell(limited([global(4)]));
    assert_eq!(passes(&mut client, "/a").await, 2);
    assert_eq!(app.requests(), 5);
}
