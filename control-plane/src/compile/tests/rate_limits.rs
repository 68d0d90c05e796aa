use weft_proto::discovery::RateLimit;
use weft_proto::discovery::rate_limit::Key;

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
