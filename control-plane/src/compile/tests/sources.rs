//! Which policies a resource is made from.

use std::collections::BTreeSet;

use super::*;
use crate::index::Name;

/// Where a policy of the property can be attached: one each, so that none is in another one's way.
const TARGETS: [&str; 6] = [
    "{kind: Namespace, name: demo}",
    "{kind: Service, name: checkout}",
    "{kind: Service, name: checkout, sectionName: http}",
    "{kind: Service, name: canary}",
    "{kind: Service, name: canary, sectionName: http}",
    "{kind: Service, name: checkout, sectionName: grpc-api}",
];

/// Stanzas of which each has two contents. Security only tightens, whichever are chosen.
const STANZAS: [[&str; 2]; 9] = [
    ["mtls: {mode: Strict}", "mtls: {mode: Strict}"],
    [
        "authorization: {mode: Enforce, allow: []}",
        "authorization: {mode: Enforce, allow: []}",
    ],
    [
        "timeouts: {request: 3s}",
        "timeouts: {request: 2s, connect: 300ms}",
    ],
    ["retries: {attempts: 1}", "retries: {attempts: 3}"],
    [
        "circuitBreaker: {consecutiveFailures: {threshold: 5}}",
        "circuitBreaker: {consecutiveFailures: {threshold: 6}}",
    ],
    [
        "loadBalancer: {policy: RoundRobin}",
        "loadBalancer: {policy: Random}",
    ],
    [
        "rateLimit: {requestsPerSecond: 5}",
        "rateLimit: {requestsPerSecond: 6}",
    ],
    [
        "faultInjection: {abort: {httpStatus: 503, percent: 1}}",
        "faultInjection: {abort: {httpStatus: 503, percent: 2}}",
    ],
    ["accessLog: {mode: All}", "accessLog: {mode: Failures}"],
];

/// The same for what a namespace cannot have.
const OF_SERVICES: [[&str; 2]; 3] = [
    [
        "split: {backends: [{name: checkout, weight: 1}, {name: canary, weight: 2}]}",
        "split: {backends: [{name: checkout, weight: 3}, {name: canary, weight: 2}]}",
    ],
    [
        "fallback: {triggers: [NoEndpoints], backend: {name: canary}}",
        "fallback: {triggers: [NoEndpoints], response: {status: 503}}",
    ],
    [
        "rules: [{name: a, matches: [{method: GET}], timeouts: {request: 1s}, accessLog: {mode: Failures}}]",
        "rules: [{name: a, matches: [{method: GET}], rateLimit: {requestsPerSecond: 1}}]",
    ],
];

/// Of each stanza: absent, or one of its contents.
type Choice = Vec<Option<bool>>;

fn any_choice() -> impl Strategy<Value = Choice> {
    let one = prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(Some)];
    prop::collection::vec(one, STANZAS.len() + OF_SERVICES.len())
}

fn written(target: usize, choice: &Choice) -> Option<String> {
    let all = STANZAS.iter().chain(&OF_SERVICES);
    let possible = if target == 0 {
        STANZAS.len()
    } else {
        usize::MAX
    };
    let stanzas: Vec<&str> = all
        .zip(choice)
        .take(possible)
        .filter_map(|(contents, chosen)| chosen.map(|second| contents[usize::from(second)]))
        .collect();
    (!stanzas.is_empty()).then(|| {
        let spec = format!("targetRefs: [{}], {}", TARGETS[target], stanzas.join(", "));
        policy(&format!("p{target}"), "demo", &spec)
    })
}

fn model_with(choices: &[Choice]) -> Model {
    let policies: Vec<_> = choices
        .iter()
        .enumerate()
        .filter_map(|(target, choice)| written(target, choice))
        .collect();
    mesh(&policies)
}

/// Who asks for what.
fn questions() -> Vec<(Client, Kind)> {
    let web = web();
    let outbounds = [
        outbound("10.96.0.10", 80),
        outbound("10.96.0.10", 9000),
        outbound("10.96.0.10", 9001),
        outbound("fd96::11", 80),
        outbound("10.42.0.6", 8080),
        outbound("10.42.0.7", 8080),
        outbound("10.42.0.8", 8080),
        outbound("10.42.0.6", 7000),
        outbound("203.0.113.9", 8080),
        authority("checkout"),
        authority("canary:81"),
        authority("nobody"),
    ];
    let both = client("both-1", "both");
    let ports = [8080, 7000, 9000].map(|port| Kind::Inbound(InboundKey { port }));
    let mut all: Vec<_> = outbounds.map(|kind| (web.clone(), kind)).into();
    all.extend(ports.map(|kind| (both.clone(), kind)));
    all
}

fn sources_of(model: &Model, client: &Client, kind: &Kind) -> BTreeSet<Name> {
    let kind = Some(kind.clone());
    sources(model, client, &ResourceKey { kind })
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<Name> {
    names.map(|name| Name::new("demo", name)).into()
}

/// Without the identity, which is no policy's of the client's side.
fn without_identity(mut resource: update::Resource) -> update::Resource {
    if let update::Resource::Outbound(outbound) = &mut resource
        && let Some(Target::Endpoint(target)) = &mut outbound.target
        && let Some(endpoint) = &mut target.endpoint
    {
        endpoint.spiffe_id.clear();
    }
    resource
}

#[test]
fn each_side_counts_what_it_enforces() {
    let model = mesh(&[
        policy(
            "whole",
            "demo",
            "targetRefs: [{kind: Namespace, name: demo}], mtls: {mode: Strict}, retries: {attempts: 1}",
        ),
        policy(
            "limits",
            "demo",
            "targetRefs: [{kind: Service, name: checkout}], rateLimit: {requestsPerSecond: 5}",
        ),
        policy(
            "closed",
            "demo",
            "targetRefs: [{kind: Service, name: checkout}], mtls: {mode: Strict}",
        ),
        policy(
            "tries",
            "demo",
            "targetRefs: [{kind: Service, name: checkout, sectionName: http}], retries: {attempts: 0}",
        ),
        policy(
            "canary",
            "demo",
            "targetRefs: [{kind: Service, name: canary}], retries: {attempts: 0}, \
             circuitBreaker: {consecutiveFailures: {threshold: 3}}",
        ),
        policy(
            "split",
            "demo",
            "targetRefs: [{kind: Service, name: checkout, sectionName: http}], \
             split: {backends: [{name: checkout, weight: 1}, {name: canary, weight: 1}]}",
        ),
    ]);
    let of = |kind| sources_of(&model, &web(), &kind);
    // Of the backend, what it says of connections counts.
    let http = of(outbound("10.96.0.10", 80));
    assert_eq!(http, names(["tries", "split", "canary"]));
    assert_eq!(of(authority("checkout")), http);
    assert_eq!(of(outbound("10.96.0.10", 9000)), names(["whole"]));
    // Where the address is chosen, nothing is split.
    assert_eq!(of(outbound("fd42::7", 9000)), names(["whole"]));
    let kind = Kind::Inbound(InboundKey { port: 8080 });
    let both = sources_of(&model, &client("both-1", "both"), &kind);
    assert_eq!(both, names(["whole", "limits", "closed"]));
    let stranger = sources_of(&model, &client("both-1", "web"), &kind);
    assert_eq!(stranger, names([]));
    let bundle = of(Kind::TrustBundle(TrustBundleKey {}));
    assert_eq!(bundle, names([]));
}

proptest! {
    #[test]
    fn who_changes_a_resource_is_one_of_its_sources(
        mut choices in prop::collection::vec(any_choice(), TARGETS.len()),
        changed in 0..TARGETS.len(),
        other in any_choice(),
    ) {
        let before = model_with(&choices);
        choices[changed] = other;
        let after = model_with(&choices);
        let name = Name::new("demo", format!("p{changed}"));
        for (client, kind) in questions() {
            let was = without_identity(ask(&before, &client, kind.clone()));
            let is = without_identity(ask(&after, &client, kind.clone()));
            if was != is {
                let known = sources_of(&before, &client, &kind).contains(&name)
                    || sources_of(&after, &client, &kind).contains(&name);
                prop_assert!(known, "{name} changed {kind:?}");
            }
        }
    }
}
