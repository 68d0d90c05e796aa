//! Balancers, zones and weights.

use weft_proto::discovery::BalancerPolicy;
use weft_proto::discovery::hash_key::Kind as Key;

use super::*;

fn balancer(stanza: &str) -> weft_proto::discovery::LoadBalancer {
    let spec = format!("targetRefs: [{{name: checkout}}], loadBalancer: {stanza}");
    let model = mesh(&[policy("p", "demo", &spec)]);
    let target = to_service(&model, outbound("fd96::10", 80));
    target.backends[0].load_balancer.clone().unwrap()
}

#[test]
fn every_value_reaches_the_wire() {
    for (stanza, policy) in [
        ("{}", BalancerPolicy::PeakEwma),
        ("{policy: PeakEWMA}", BalancerPolicy::PeakEwma),
        ("{policy: LeastRequest}", BalancerPolicy::LeastRequest),
        ("{policy: RoundRobin}", BalancerPolicy::RoundRobin),
        ("{policy: Random}", BalancerPolicy::Random),
    ] {
        let compiled = balancer(stanza);
        assert_eq!(compiled.policy(), policy);
        assert!(compiled.hash_key.is_none() && compiled.slow_start.is_none());
        assert!(!compiled.prefer_same_zone);
    }
    for (key, expected) in [
        ("header: X-User", Key::Header("x-user".into())),
        ("cookie: Sid", Key::Cookie("Sid".into())),
        ("sourceIP: true", Key::SourceIp(true)),
    ] {
        let compiled = balancer(&format!(
            "{{policy: ConsistentHash, consistentHash: {{{key}}}}}"
        ));
        assert_eq!(compiled.policy(), BalancerPolicy::ConsistentHash);
        assert_eq!(compiled.hash_key.unwrap().kind, Some(expected));
    }
    let compiled = balancer("{slowStart: 30s, locality: PreferSameZone}");
    assert_eq!(millis(compiled.slow_start.as_ref()), Some(30_000));
    assert!(compiled.prefer_same_zone);
}

#[test]
fn endpoints_have_their_zones_and_weights() {
    let mesh = "
networks: [10.42.0.0/16]
workloads: [{name: a, namespace: demo, addresses: [10.42.0.5], zone: a, weight: 7}]
services:
- {name: s, namespace: demo, ports: [{port: 80}],
   endpoints: [{workload: a}, {address: 203.0.113.9, zone: b, weight: 3}, {address: 203.0.113.10}]}
";
    let model = model_of(&[("mesh.yaml", mesh)]);
    assert_eq!(model.refusals(), &[]);
    let all = endpoints(&model, "s", 80).endpoints;
    let known = all.iter().map(|one| (&*one.zone, one.weight));
    assert_eq!(known.collect::<Vec<_>>(), [("a", 7), ("b", 3), ("", 1)]);
}
