//! Keys and zones, as policy and discovery change them.

use http::{HeaderName, Method};

use super::*;
use crate::policy::{Balancer, BalancerPolicy, HashKey, MeshInfo};
use crate::testing::clients::request;
use crate::testing::policies::target;
use crate::testing::servers::Act;

const NAMES: [&str; 3] = ["one", "two", "three"];

async fn servers() -> [Server; 3] {
    [
        Server::plain(|_, _| Act::ok(NAMES[0])).await,
        Server::plain(|_, _| Act::ok(NAMES[1])).await,
        Server::plain(|_, _| Act::ok(NAMES[2])).await,
    ]
}

fn by(balancer: impl Into<Balancer>) -> ServiceTarget {
    let mut policy = target("api", &["api"]);
    policy.backends[0].balancer = balancer.into();
    policy
}

fn by_key(key: HashKey) -> ServiceTarget {
    by(BalancerPolicy::ConsistentHash(key))
}

/// Who answers so many requests with these headers.
async fn answers(client: &mut Http, headers: &[(&str, &str)], count: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let answer = client.send(request(Method::GET, "/", headers, "")).await;
        answers.push(String::from_utf8(answer.body.to_vec()).unwrap());
    }
    answers
}

fn distinct(mut answers: Vec<String>) -> usize {
    answers.sort();
    answers.dedup();
    answers.len()
}

/// A policy that begins to hash arranges the endpoints that are known already, and they keep their
/// connections.
#[tokio::test]
async fn a_policy_that_hashes_holds_at_once() {
    let servers = servers().await;
    let all = at(&[&servers[0], &servers[1], &servers[2]]);
    let sidecar = Sidecar::knowing(by(BalancerPolicy::RoundRobin), all.clone());
    let mut client = sidecar.http1().await;
    let key = [("x-user", "anna"), ("cookie", "a=1; sid=7")];
    assert_eq!(distinct(answers(&mut client, &key, 9).await), 3);

    for hashed in [
        HashKey::Header(HeaderName::from_static("x-user")),
        HashKey::Cookie("sid".into()),
        HashKey::SourceIp,
    ] {
        sidecar.tell(by_key(hashed));
        let before = answers(&mut client, &key, 9).await;
        assert_eq!(distinct(before.clone()), 1);
        // In whatever order discovery lists them.
        sidecar.tell_endpoints("api", all.iter().rev().cloned().collect());
        assert_eq!(answers(&mut client, &key, 9).await, before);
    }
    let connections: usize = servers.iter().map(Server::connections).sum();
    assert_eq!(connections, 3, "what was connected stays so");
}

#[tokio::test]
async fn what_says_nothing_is_no_key() {
    let servers = servers().await;
    let all = at(&[&servers[0], &servers[1], &servers[2]]);
    let by_header = by_key(HashKey::Header(HeaderName::from_static("x-user")));
    let sidecar = Sidecar::knowing(by_header, all);
    let mut client = sidecar.http1().await;
    for headers in [&[][..], &[("x-user", "")], &[("x-users", "anna")]] {
        assert_eq!(distinct(answers(&mut client, headers, 60).await), 3);
    }
    sidecar.tell(by_key(HashKey::Cookie("sid".into())));
    for headers in [&[][..], &[("cookie", "sid=")], &[("cookie", "sids=7")]] {
        assert_eq!(distinct(answers(&mut client, headers, 60).await), 3);
    }
}

/// The zone that the control plane tells of, where the process was told none.
#[tokio::test]
async fn the_own_zone_is_preferred() {
    let servers = servers().await;
    let mut all = at(&[&servers[0], &servers[1], &servers[2]]);
    for (endpoint, zone) in all.iter_mut().zip(["a", "b", "a"]) {
        endpoint.zone = zone.into();
    }
    let near = Balancer {
        prefer_same_zone: true,
        ..BalancerPolicy::RoundRobin.into()
    };
    let sidecar = Sidecar::new();
    sidecar.discovery.tell_mesh(MeshInfo {
        zone: "b".into(),
        ..mesh()
    });
    sidecar.tell_endpoints("api", all.clone());
    sidecar.tell(by(near.clone()));
    let mut client = sidecar.http1().await;
    assert_eq!(answers(&mut client, &[], 6).await, ["two"; 6]);

    // It moves; the next set is arranged so.
    sidecar.discovery.tell_mesh(MeshInfo {
        zone: "a".into(),
        ..mesh()
    });
    sidecar.tell_endpoints("api", all.iter().rev().cloned().collect());
    let answers = answers(&mut client, &[], 6).await;
    let of_a = ["one", "three"].map(|name| answers.iter().filter(|it| **it == name).count());
    assert_eq!(of_a, [3, 3]);
}
