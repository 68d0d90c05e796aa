//! What edits of policy and other sets of endpoints leave as it is, through the whole stack.

use std::time::Duration;

use super::*;
use crate::outcome::Outcome;
use crate::policy::{BalancerPolicy, BreakerPolicy, BreakerScope};
use crate::testing::policies::{breaker, target};
use crate::testing::servers::Act;

fn broken_by(breaker: BreakerPolicy) -> ServiceTarget {
    let mut policy = target("api", &["api"]);
    policy.backends[0].circuit_breaker = Some(breaker);
    policy
}

/// Two servers, the first of which fails, and its endpoint's breaker open.
async fn ejected(policy: &ServiceTarget) -> (Sidecar, [Server; 2], Http) {
    let servers = [
        Server::plain(|_, _| Act::status(500, "broken")).await,
        Server::plain(|_, _| Act::ok("fine")).await,
    ];
    let sidecar = Sidecar::knowing(policy.clone(), at(&[&servers[0], &servers[1]]));
    let mut client = sidecar.http1().await;
    while servers[0].requests() == 0 {
        client.get("/").await;
    }
    client.get("/").await.assert_ok("fine");
    client.get("/").await.assert_ok("fine");
    assert_eq!(servers[0].requests(), 1);
    (sidecar, servers, client)
}

#[tokio::test]
async fn an_open_endpoint_stays_open_through_every_other_edit() {
    let mut policy = broken_by(breaker(BreakerScope::Endpoint));
    let (sidecar, servers, mut client) = ejected(&policy).await;
    let third = Server::plain(|_, _| Act::ok("fine")).await;

    policy.routes[0].timeouts.request = Some(Duration::from_secs(60));
    policy.routes[0].retries = Some(crate::testing::policies::retries());
    policy.backends[0].connect_timeout = Duration::from_secs(7);
    policy.backends[0].balancer = BalancerPolicy::PeakEwma.into();
    sidecar.tell(policy.clone());
    let mut endpoints = at(&[&third, &servers[1], &servers[0]]);
    endpoints[2].weight = 100;
    endpoints[2].zone = "elsewhere".into();
    sidecar.tell_endpoints("api", endpoints);
    for _ in 0..20 {
        client.get("/").await.assert_ok("fine");
    }
    assert_eq!(servers[0].requests(), 1, "it is still passed over");

    // Its own stanza changes: it is asked again.
    policy.routes[0].retries = None;
    policy.backends[0].balancer = BalancerPolicy::RoundRobin.into();
    let changed = BreakerPolicy {
        consecutive_failures: Some(3),
        ..breaker(BreakerScope::Endpoint)
    };
    policy.backends[0].circuit_breaker = Some(changed);
    sidecar.tell(policy);
    for _ in 0..20 {
        client.get("/").await;
    }
    assert_eq!(servers[0].requests(), 1 + 3, "until the new threshold");
}

#[tokio::test]
async fn failures_that_were_counted_stay_counted() {
    let server = Server::plain(|_, _| Act::status(500, "broken")).await;
    let mut policy = broken_by(BreakerPolicy {
        consecutive_failures: Some(4),
        ..breaker(BreakerScope::Backend)
    });
    let sidecar = Sidecar::knowing(policy.clone(), at(&[&server]));
    let mut client = sidecar.http1().await;
    for round in 1..=4 {
        assert_eq!(client.get("/").await.body, "broken");
        policy.routes[0].timeouts.request = Some(Duration::from_secs(60 + round));
        sidecar.tell(policy.clone());
        sidecar.tell_endpoints("api", at(&[&server]));
    }
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::CircuitOpen);
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn the_faster_endpoint_is_still_known_after_an_edit() {
    // One answers at once, the other takes its time: by latency, all but a few go to the first.
    let slow = Duration::from_millis(60);
    let servers = [
        Server::plain(|_, _| Act::ok("fast")).await,
        Server::plain(move |_, _| {
            std::thread::sleep(slow);
            Act::ok("slow")
        })
        .await,
    ];
    let mut policy = target("api", &["api"]);
    policy.backends[0].balancer = BalancerPolicy::PeakEwma.into();
    let sidecar = Sidecar::knowing(policy.clone(), at(&[&servers[0], &servers[1]]));
    let mut client = sidecar.http1().await;
    while servers[0].requests() == 0 || servers[1].requests() == 0 {
        client.get("/").await;
    }
    let before = servers[1].requests();
    for round in 1..=20 {
        policy.routes[0].timeouts.request = Some(Duration::from_secs(60 + round));
        sidecar.tell(policy.clone());
        sidecar.tell_endpoints("api", at(&[&servers[1], &servers[0]]));
        client.get("/").await.assert_ok("fast");
    }
    assert_eq!(servers[1].requests(), before);
}
