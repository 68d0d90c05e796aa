use weft_proto::discovery::rate_limit::Key;
use weft_proto::discovery::{RateLimit, RuledRateLimits};

use super::*;

fn limits(policies: &[String], port: u32) -> Vec<RateLimit> {
    let model = mesh(policies);
    inbound(&model, "both-1", "both", port).unwrap().rate_limits
}

fn limit(name: &str, target: &str, stanza: &str) -> String {
    let spec = format!("targetRefs: [{{{target}}}], rateLimit: {{{stanza}}}");
    policy(name, "demo", &spec)
}

fn rate(limit: &RateLimit) -> (u32, u32) {
    let rate = limit.rate.unwrap();
    (rate.requests_per_second, rate.burst)
}

#[test]
fn every_service_of_a_port_has_its_limit() {
    let checkout = limit("a", "name: checkout", "requestsPerSecond: 500, burst: 900");
    let canary = limit(
        "b",
        "name: canary",
        "requestsPerSecond: 10, key: Header, header: X-User",
    );
    let both = limits(&[checkout.clone(), canary], 8080);
    // In the order of the services' names; the canary's two ports have one and the same.
    assert_eq!(both.len(), 2);
    assert_eq!(rate(&both[0]), (10, 10));
    assert_eq!(both[0].key, Some(Key::Header("x-user".into())));
    assert_eq!(rate(&both[1]), (500, 900));
    assert_eq!(both[1].key, Some(Key::Global(true)));

    // What a namespace says holds for its services that say nothing, and for what none leads to.
    let namespace = limit("n", "kind: Namespace, name: demo", "requestsPerSecond: 7");
    let both = limits(&[checkout, namespace.clone()], 8080);
    let rates: Vec<_> = both.iter().map(rate).collect();
    assert_eq!(rates, [(7, 7), (500, 900)]);
    let alone = limits(std::slice::from_ref(&namespace), 7000);
    assert_eq!(alone.len(), 1);
    assert_eq!(limits(&[namespace], 0), alone);
    assert_eq!(limits(&[], 8080), []);
}

#[test]
fn the_rate_of_one_caller_keeps_the_bursts_proportion() {
    let both = limits(
        &[limit(
            "a",
            "name: checkout",
            "requestsPerSecond: 500, burst: 1000, key: ClientIdentity, overrides:
             [{identity: spiffe://weft.local/ns/demo/sa/batch, requestsPerSecond: 50},
              {identity: spiffe://weft.local/ns/demo/sa/huge, requestsPerSecond: 9000000}]",
        )],
        8080,
    );
    let Some(Key::ClientIdentity(by)) = &both[0].key else {
        panic!("{both:?}");
    };
    let of = |at: usize| {
        let rate = by.overrides[at].rate.unwrap();
        (rate.requests_per_second, rate.burst)
    };
    assert_eq!(of(0), (50, 100));
    assert_eq!(
        by.overrides[0].identity,
        "spiffe://weft.local/ns/demo/sa/batch"
    );
    assert_eq!(of(1), (9_000_000, 10_000_000));
}

fn ruled(policies: &[String]) -> (Vec<RateLimit>, Vec<RuledRateLimits>) {
    let model = mesh(policies);
    let inbound = inbound(&model, "both-1", "both", 8080).unwrap();
    (inbound.rate_limits, inbound.ruled_rate_limits)
}

#[test]
fn a_rules_limit_replaces_its_policys() {
    let rules = "rules: [
        {name: cheap, matches: [{path: {value: /cheap}}, {method: HEAD}], retries: {attempts: 0}},
        {name: dear, matches: [{path: {value: /dear}}], rateLimit: {requestsPerSecond: 3, key: ClientIdentity}},
        {name: last, matches: [{}], timeouts: {request: 1s}}]";
    let checkout = |stanzas: &str| {
        let spec = format!("targetRefs: [{{name: checkout}}], {stanzas}");
        policy("a", "demo", &spec)
    };
    let canary = limit("b", "name: canary", "requestsPerSecond: 10");
    let own = "rateLimit: {requestsPerSecond: 500, burst: 900}";
    let (plain, limits) = ruled(&[checkout(&format!("{own}, {rules}")), canary]);
    // A policy without such a rule counts all alike, beside the other.
    assert_eq!(plain.iter().map(rate).collect::<Vec<_>>(), [(10, 10)]);
    let [limits] = &*limits else {
        panic!("{limits:?}");
    };
    assert_eq!(limits.service, Some(service("checkout", 80)));
    assert_eq!(limits.otherwise.as_ref().map(rate), Some((500, 900)));
    // What stands behind the last rule with a limit decides nothing.
    let [cheap, dear] = &*limits.rules else {
        panic!("{:?}", limits.rules);
    };
    assert_eq!((cheap.name.as_str(), cheap.limit.as_ref()), ("cheap", None));
    let own = dear.limit.as_ref().unwrap();
    assert_eq!((dear.name.as_str(), rate(own)), ("dear", (3, 3)));
    assert!(matches!(own.key, Some(Key::ClientIdentity(_))));

    // The server tells requests apart by what the client tells them apart by.
    let model = mesh(&[checkout(rules)]);
    let routes = to_service(&model, outbound("10.96.0.10", 80)).routes;
    for (route, rule) in routes.iter().zip(&limits.rules) {
        assert_eq!((&route.name, &route.matches), (&rule.name, &rule.matches));
    }

    // Without a limit of the policy's own the rest passes.
    let (plain, limits) = ruled(&[checkout(rules)]);
    assert_eq!((plain, &limits[0].otherwise), (Vec::new(), &None));
}

#[test]
fn equal_limits_by_rules_are_one_and_an_inherited_limit_is_what_holds_otherwise() {
    // Two ports of one service lead to the same port of the workload.
    let rules = "rules: [{name: r, matches: [{}], rateLimit: {requestsPerSecond: 1}}]";
    let spec = format!("targetRefs: [{{name: canary}}], {rules}");
    let canary = policy("a", "demo", &spec);
    let namespace = limit("n", "kind: Namespace, name: demo", "requestsPerSecond: 7");
    let (plain, limits) = ruled(&[canary, namespace]);
    assert_eq!(limits.len(), 1);
    assert_eq!(limits[0].otherwise.as_ref().map(rate), Some((7, 7)));
    // The other service's limit is the namespace's.
    assert_eq!(plain.iter().map(rate).collect::<Vec<_>>(), [(7, 7)]);
}
