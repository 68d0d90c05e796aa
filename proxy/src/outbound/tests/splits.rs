//! Which backend a request goes to.

use http::{HeaderValue, Method};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{HeaderMatch, SplitMatch, Sticky, ValueMatch};
use crate::testing::clients::{Answer, request};
use crate::testing::policies::{side, target};
use crate::testing::servers::Act;

const SIDES: [&str; 2] = ["stable", "canary"];

/// Two backends, each of which answers with its name.
struct Canary {
    sidecar: Sidecar,
    servers: [Server; 2],
}

impl Canary {
    async fn new(weights: [u32; 2], sticky: Option<Sticky>) -> Self {
        Self::with(weights, sticky, |_| {}).await
    }

    async fn with(
        weights: [u32; 2],
        sticky: Option<Sticky>,
        change: impl FnOnce(&mut ServiceTarget),
    ) -> Self {
        let servers = [
            Server::plain(|_, _| Act::ok(SIDES[0])).await,
            Server::plain(|_, _| Act::ok(SIDES[1])).await,
        ];
        let mut policy = target("api", &SIDES);
        policy.routes[0].split.backends = vec![side(0, weights[0]), side(1, weights[1])];
        policy.routes[0].split.sticky = sticky;
        change(&mut policy);
        let sidecar = Sidecar::knowing(policy, at(&[&servers[0]]));
        sidecar.tell_endpoints(SIDES[1], at(&[&servers[1]]));
        Self { sidecar, servers }
    }

    async fn get(&self, headers: &[(&str, &str)]) -> Answer {
        let mut client = self.sidecar.http1().await;
        client.send(request(Method::GET, "/", headers, "")).await
    }
}

#[tokio::test]
async fn weight_0_gets_nothing() {
    let canary = Canary::new([0, 1], None).await;
    for _ in 0..10 {
        canary.get(&[]).await.assert_ok("canary");
    }
    let canary = Canary::new([0, 0], None).await;
    let answer = canary.get(&[]).await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
}

#[tokio::test]
async fn a_header_keeps_its_side() {
    let header = Sticky::Header("x-user".parse().unwrap());
    let canary = Canary::new([1, 1], Some(header)).await;
    let mut sides = std::collections::BTreeSet::new();
    for user in ["ann", "bob", "cid", "dee", "eve", "fay", "guy", "hal"] {
        let first = canary.get(&[("x-user", user)]).await.body;
        let again = canary.get(&[("x-user", user)]).await.body;
        assert_eq!(first, again, "{user}");
        sides.insert(first);
    }
    assert_eq!(sides.len(), 2, "users are on both sides");
}

#[tokio::test]
async fn the_caller_keeps_its_side() {
    let canary = Canary::new([1, 1], Some(Sticky::ClientIdentity)).await;
    let first = canary.get(&[]).await.body;
    for _ in 0..8 {
        assert_eq!(canary.get(&[]).await.body, first);
    }
}

#[tokio::test]
async fn a_cookie_is_set_once_and_keeps_its_side() {
    let cookie = Sticky::Cookie {
        name: "weft-canary".into(),
        ttl: Some(std::time::Duration::from_secs(86_400)),
    };
    let canary = Canary::new([1, 1], Some(cookie)).await;
    for _ in 0..8 {
        let first = canary.get(&[("cookie", "other=1")]).await;
        let set = first.header("set-cookie").unwrap();
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert!(pair.starts_with("weft-canary="), "{set}");
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Max-Age=86400");
        let cookie = format!("other=1; {pair}");
        for _ in 0..2 {
            let again = canary.get(&[("cookie", &cookie)]).await;
            assert_eq!(again.header("set-cookie"), None);
            assert_eq!(again.body, first.body);
        }
    }
}

#[tokio::test]
async fn a_match_forces_a_side_even_without_weight() {
    let canary = Canary::with([1, 0], None, |policy| {
        policy.routes[0].split.backends[1].forced = vec![SplitMatch {
            headers: vec![HeaderMatch {
                name: "x-canary".parse().unwrap(),
                value: ValueMatch::Exact(HeaderValue::from_static("always")),
            }],
            cookies: Vec::new(),
        }];
    })
    .await;
    canary.get(&[]).await.assert_ok("stable");
    canary
        .get(&[("x-canary", "never")])
        .await
        .assert_ok("stable");
    canary
        .get(&[("x-canary", "always")])
        .await
        .assert_ok("canary");
    let labels = [("service", "shop/api:80"), ("backend", "shop/canary:80")];
    assert_eq!(canary.sidecar.requests(&labels), 1);
}

#[tokio::test]
async fn an_empty_side_fails_or_is_passed_over_as_policy_says() {
    let canary = Canary::new([0, 1], None).await;
    canary.get(&[]).await.assert_ok("canary");
    canary.sidecar.tell_endpoints(SIDES[1], Vec::new());
    let answer = canary.get(&[]).await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
    assert_eq!(canary.servers[0].requests(), 0);

    let canary = Canary::with([1, 1], None, |policy| {
        policy.routes[0].split.next_when_empty = true;
    })
    .await;
    canary.sidecar.tell_endpoints(SIDES[1], Vec::new());
    for _ in 0..16 {
        canary.get(&[]).await.assert_ok("stable");
    }
    canary.sidecar.tell_endpoints(SIDES[0], Vec::new());
    let answer = canary.get(&[]).await;
    answer.assert_made_by("outbound", Outcome::NoEndpoints);
}

/// Nothing is known of a side yet, and then that it is empty: no request falls into the gap.
#[tokio::test]
async fn a_side_that_turns_out_to_be_empty_is_passed_over() {
    let server = Server::plain(|_, _| Act::ok("stable")).await;
    let mut policy = target("api", &SIDES);
    // All but a millionth of the requests.
    policy.routes[0].split.backends = vec![side(0, 1), side(1, 1_000_000)];
    policy.routes[0].split.next_when_empty = true;
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    let request = tokio::spawn(async move { client.get("/").await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!request.is_finished(), "the side was not waited for");
    sidecar.tell_endpoints(SIDES[1], Vec::new());
    request.await.unwrap().assert_ok("stable");
}
