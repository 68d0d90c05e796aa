//! What policies' statuses say: a table, and what holds for all of them.

use proptest::prelude::*;

use super::super::policy::{Counted, Next, Subject, is_counted, status};
use crate::index::{Model, Name, Overlap};
use crate::policy::{
    AncestorRef, AncestorStatus, Condition, ConditionStatus, ProxyCounts, TrafficPolicyStatus,
};
use crate::serve::counts::Count;
use crate::source::files::model_of;

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-01T00:01:00Z";
const CONTROLLER: &str = weft_proto::names::cluster::CONTROLLER;

const MESH: &str = r"
networks: [10.42.0.0/16]
workloads:
- {name: a-1, namespace: demo, addresses: [10.42.0.1]}
services:
- {name: a, namespace: demo, clusterIPs: [10.96.0.1], ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: 9090}], endpoints: [{workload: a-1}]}
- {name: b, namespace: demo, clusterIPs: [10.96.0.2], ports: [{name: http, port: 80, targetPort: 8080}], endpoints: [{workload: a-1}]}
- {name: c, namespace: demo, clusterIPs: [10.96.0.3], ports: [{name: http, port: 80}]}
";

const ROUTE: &str = r"---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {namespace: demo, name: r}, spec: {parentRefs: [{kind: Service, group: '', name: c}], rules: [{backendRefs: [{name: b, port: 80}]}]}}
";

fn policy(name: &str, targets: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{namespace: demo, name: {name}, generation: 4}}, spec: {{targetRefs: [{targets}], {spec}}}}}\n"
    )
}

fn model(manifests: &[String]) -> Model {
    model_of(&[("mesh.yaml", MESH), ("p.yaml", &manifests.concat())])
}

fn count(acknowledged: u32, total: u32) -> Count {
    Count {
        generation: Some(4),
        acknowledged,
        total,
        refused: Vec::new(),
    }
}

fn next(
    model: &Model,
    name: &str,
    counted: Counted<'_>,
    before: &TrafficPolicyStatus,
) -> Option<Next> {
    let judged = model.judged_policies().iter();
    let mut judged = judged.filter(|it| it.name == Name::new("demo", name));
    let judged = judged.next().unwrap();
    let overlaps: Vec<Vec<Overlap>> = judged
        .targets
        .iter()
        .map(|it| model.overlaps("demo", it))
        .collect();
    let subject = Subject {
        generation: judged.generation.unwrap(),
        refused: None,
        judged: Some(judged),
        overlaps: &overlaps,
    };
    status(&subject, counted, before, NOW)
}

fn first(model: &Model, name: &str, counted: Counted<'_>) -> TrafficPolicyStatus {
    let next = next(model, name, counted, &TrafficPolicyStatus::default()).unwrap();
    assert!(next.at_once);
    next.status
}

/// `Accepted=True Accepted: why`, one by one.
fn lines(conditions: &[Condition]) -> Vec<String> {
    let conditions = conditions.iter();
    conditions
        .map(|it| {
            assert_eq!(it.observed_generation, Some(4), "{}", it.kind);
            format!("{}={:?} {}: {}", it.kind, it.status, it.reason, it.message)
        })
        .collect()
}

const ACCEPTED: &str = "Accepted=True Accepted: it holds as it is written";
const RESOLVED: &str = "ResolvedRefs=True ResolvedRefs: every service that it names is there";
const RUNNING: &str = "Programmed=True Programmed: 12/12 sidecars run generation 4";

#[test]
fn conditions_say_what_has_become_of_a_policy() {
    let a = "{name: a}";
    let c = "{name: c}";
    let timeouts = "timeouts: {request: 1s}";
    // Manifests, the policy that is asked for, and its conditions under 12 of 12 sidecars.
    let cases: Vec<(&str, Vec<String>, [&str; 3])> = vec![
        (
            "fine",
            vec![policy("x", a, timeouts)],
            [ACCEPTED, RESOLVED, RUNNING],
        ),
        (
            "no such service",
            vec![policy("x", "{name: nobody}", timeouts)],
            [
                "Accepted=False TargetNotFound: there is no service demo/nobody",
                RESOLVED,
                "Programmed=False TargetNotFound: nothing of it is in force",
            ],
        ),
        (
            "no such port",
            vec![policy("x", "{name: a, sectionName: grpc}", timeouts)],
            [
                "Accepted=False TargetNotFound: service demo/a has no port named grpc",
                RESOLVED,
                "Programmed=False TargetNotFound: nothing of it is in force",
            ],
        ),
        (
            "one of two targets is not there",
            vec![policy("x", "{name: a}, {name: nobody}", timeouts)],
            [
                "Accepted=False TargetNotFound: at 1 of 2 targets: there is no service demo/nobody",
                RESOLVED,
                "Programmed=True PartiallyProgrammed: 12/12 sidecars run generation 4, of all targets together; not all of it is accepted",
            ],
        ),
        (
            "an older one has the stanza",
            vec![
                policy("older", c, timeouts),
                policy("x", c, "timeouts: {request: 2s}, retries: {}"),
            ],
            [
                "Accepted=False Conflicted: demo/older is older and has timeouts for service demo/c too",
                RESOLVED,
                "Programmed=False Conflicted: nothing of it is in force",
            ],
        ),
        (
            "what it closes holds all the same",
            vec![
                policy("older", c, timeouts),
                policy("x", c, "timeouts: {request: 2s}, mtls: {mode: Strict}"),
            ],
            [
                "Accepted=False Conflicted: demo/older is older and has timeouts for service demo/c too; its mtls holds all the same",
                RESOLVED,
                "Programmed=True PartiallyProgrammed: 12/12 sidecars run generation 4; not all of it is accepted",
            ],
        ),
        (
            "weaker than its namespace",
            vec![
                policy(
                    "ns",
                    "{kind: Namespace, name: demo}",
                    "mtls: {mode: Strict}",
                ),
                policy("x", c, "mtls: {mode: Permissive}"),
            ],
            [
                "Accepted=False WeakerThanNamespace: spec.mtls.mode Permissive is weaker than Strict",
                RESOLVED,
                "Programmed=False WeakerThanNamespace: nothing of it is in force",
            ],
        ),
        (
            "a backend is not there",
            vec![policy(
                "x",
                c,
                "split: {backends: [{name: b, weight: 1}, {name: nobody, weight: 1}]}",
            )],
            [
                ACCEPTED,
                "ResolvedRefs=False BackendNotFound: there is no service demo/nobody: it has no endpoints",
                RUNNING,
            ],
        ),
        (
            "mirror and fallback are looked for too",
            vec![policy(
                "x",
                c,
                "split: {mirror: {name: shadow, percent: 1}}, fallback: {triggers: [NoEndpoints], backend: {name: spare}}",
            )],
            [
                ACCEPTED,
                "ResolvedRefs=False BackendNotFound: there is no service demo/shadow, demo/spare: it has no endpoints",
                RUNNING,
            ],
        ),
        (
            "a route has all of it",
            vec![
                policy("x", c, "split: {backends: [{name: b, weight: 1}]}"),
                ROUTE.to_owned(),
            ],
            [
                ACCEPTED,
                RESOLVED,
                "Programmed=False Overridden: spec.split.backends of service c port 80 not in force: HTTPRoute demo/r has matching and weights there",
            ],
        ),
        (
            "a route has a part of it",
            vec![
                policy(
                    "x",
                    c,
                    "timeouts: {request: 1s}, split: {backends: [{name: b, weight: 1}]}",
                ),
                ROUTE.to_owned(),
            ],
            [
                ACCEPTED,
                RESOLVED,
                "Programmed=True PartiallyProgrammed: 12/12 sidecars run generation 4; spec.split.backends of service c port 80 not in force: HTTPRoute demo/r has matching and weights there",
            ],
        ),
        (
            "stickiness holds for a route's weights",
            vec![
                policy(
                    "x",
                    c,
                    "split: {backends: [{name: b, weight: 1}], sticky: {type: ClientIdentity}}",
                ),
                ROUTE.to_owned(),
            ],
            [
                ACCEPTED,
                RESOLVED,
                "Programmed=True PartiallyProgrammed: 12/12 sidecars run generation 4; spec.split.backends of service c port 80 not in force: HTTPRoute demo/r has matching and weights there",
            ],
        ),
    ];
    for (what, manifests, expected) in cases {
        let model = model(&manifests);
        let count = count(12, 12);
        let status = first(&model, "x", Counted::Sidecars(&count));
        assert_eq!(lines(&status.conditions), expected, "{what}");
        assert_eq!(
            status.proxies,
            Some(ProxyCounts {
                acknowledged: 12,
                total: 12
            })
        );
    }
}

#[test]
fn a_mesh_has_a_minimum() {
    let mesh = format!("{MESH}\ndefaults: {{mtls: Strict}}\n");
    let manifest = policy(
        "x",
        "{kind: Namespace, name: demo}",
        "mtls: {mode: Permissive}",
    );
    let model = model_of(&[("mesh.yaml", &mesh), ("p.yaml", &manifest)]);
    let status = first(&model, "x", Counted::Nobody);
    assert_eq!(
        lines(&status.conditions)[0],
        "Accepted=False WeakerThanMesh: spec.mtls.mode Permissive is weaker than Strict"
    );
    assert_eq!(status.ancestors[0].ancestor_ref.kind, "Namespace");
}

#[test]
fn sidecars_are_counted() {
    let model = model(&[policy("x", "{name: c}", "timeouts: {request: 1s}")]);
    let refused = Count {
        refused: vec![(Name::new("demo", "web-1"), "unknown field".to_owned())],
        ..count(11, 12)
    };
    let older = Count {
        generation: Some(3),
        ..count(12, 12)
    };
    let (all, some) = (count(12, 12), count(9, 12));
    for (counted, expected, proxies) in [
        (
            Counted::NotYet,
            "Programmed=False Reconciling: no sidecar has confirmed generation 4 yet",
            None,
        ),
        (
            Counted::Nobody,
            "Programmed=Unknown NoSidecars: no connected sidecar holds anything of it; whoever comes gets it",
            Some((0, 0)),
        ),
        (
            Counted::Sidecars(&some),
            "Programmed=False Reconciling: 9/12 sidecars run generation 4",
            Some((9, 12)),
        ),
        (
            Counted::Sidecars(&older),
            "Programmed=False Reconciling: 0/12 sidecars run generation 4",
            Some((0, 12)),
        ),
        (
            Counted::Sidecars(&refused),
            "Programmed=False Refused: 11/12 sidecars run generation 4; demo/web-1 refused it: unknown field",
            Some((11, 12)),
        ),
        (Counted::Sidecars(&all), RUNNING, Some((12, 12))),
    ] {
        let status = first(&model, "x", counted);
        assert_eq!(lines(&status.conditions)[2], expected);
        let proxies = proxies.map(|(acknowledged, total)| ProxyCounts {
            acknowledged,
            total,
        });
        assert_eq!(status.proxies, proxies);
    }
}

#[test]
fn ports_behind_several_services_overlap() {
    let model = model(&[
        policy("x", "{name: a}", "rateLimit: {requestsPerSecond: 1}"),
        policy("outbound", "{name: b}", "timeouts: {request: 1s}"),
        policy(
            "admin",
            "{name: a, sectionName: admin}",
            "rateLimit: {requestsPerSecond: 1}",
        ),
    ]);
    let status = first(&model, "x", Counted::NotYet);
    let expected = "weft.dev/Overlapping=True Overlapping: workload port 8080 is also behind service demo/b: \
                    the strictest mtls holds there, every authorization has to allow a request, every \
                    rateLimit counts it, and the accessLog holds that logs most";
    assert_eq!(lines(&status.conditions)[3], expected);
    assert_eq!(lines(&status.ancestors[0].conditions)[3], expected);
    for other in ["outbound", "admin"] {
        let status = first(&model, other, Counted::NotYet);
        assert_eq!(status.conditions.len(), 3, "{other}");
    }
}

#[test]
fn what_could_not_be_read_names_what_is_in_force_instead() {
    let model = model(&[policy("x", "{name: c}", "timeouts: {request: 1s}")]);
    let good = &model.judged_policies()[0];
    for (judged, accepted) in [
        (
            Some(good),
            "Accepted=False Invalid: spec.retries: no; generation 4 stays in force",
        ),
        (
            None,
            "Accepted=False Invalid: spec.retries: no; no good version of it is known: what it has \
             authorization for is denied, what it has mtls for is Strict, and nothing else of it is in force",
        ),
    ] {
        let subject = Subject {
            generation: 5,
            refused: Some("spec.retries: no"),
            judged,
            overlaps: &[],
        };
        let count = count(12, 12);
        let next = status(
            &subject,
            Counted::Sidecars(&count),
            &TrafficPolicyStatus::default(),
            NOW,
        );
        let status = next.unwrap().status;
        let mut conditions = status.conditions.clone();
        for condition in &mut conditions {
            assert_eq!(condition.observed_generation.replace(4), Some(5));
        }
        assert_eq!(
            lines(&conditions),
            [
                accepted,
                "ResolvedRefs=Unknown Invalid: this generation could not be read",
                "Programmed=False Invalid: generation 5 is not in force",
            ]
        );
        assert_eq!(status.ancestors.len(), usize::from(judged.is_some()));
        assert_eq!(
            status.proxies,
            Some(ProxyCounts {
                acknowledged: 0,
                total: 12
            })
        );
    }
}

#[test]
fn ancestors_are_the_targets_each_by_itself() {
    let model = model(&[policy(
        "x",
        "{name: a, sectionName: http}, {name: nobody}",
        "retries: {}",
    )]);
    let status = first(&model, "x", Counted::NotYet);
    let [a, nobody] = &*status.ancestors else {
        panic!("{:?}", status.ancestors);
    };
    let reference = |name: &str, section: Option<&str>| AncestorRef {
        group: String::new(),
        kind: "Service".to_owned(),
        namespace: Some("demo".to_owned()),
        name: name.to_owned(),
        section_name: section.map(str::to_owned),
    };
    assert_eq!(a.ancestor_ref, reference("a", Some("http")));
    assert_eq!(a.controller_name, CONTROLLER);
    assert_eq!(lines(&a.conditions)[0], ACCEPTED);
    assert_eq!(nobody.ancestor_ref, reference("nobody", None));
    assert_eq!(
        lines(&nobody.conditions)[0],
        "Accepted=False TargetNotFound: there is no service demo/nobody"
    );
}

fn foreign() -> (Condition, AncestorStatus) {
    let condition = Condition {
        kind: "example.com/Audited".to_owned(),
        status: ConditionStatus::True,
        reason: "Audited".to_owned(),
        message: String::new(),
        observed_generation: Some(99),
        last_transition_time: THEN.to_owned(),
    };
    let ancestor = AncestorStatus {
        ancestor_ref: AncestorRef {
            group: String::new(),
            kind: "Service".to_owned(),
            namespace: None,
            name: "elsewhere".to_owned(),
            section_name: None,
        },
        controller_name: "example.com/other".to_owned(),
        conditions: vec![condition.clone()],
    };
    (condition, ancestor)
}

#[test]
fn what_others_say_stays_and_newer_things_are_not_overwritten() {
    let model = model(&[policy("x", "{name: c}", "retries: {}")]);
    let (condition, ancestor) = foreign();
    let before = TrafficPolicyStatus {
        conditions: vec![condition.clone()],
        ancestors: vec![ancestor.clone()],
        proxies: None,
    };
    let after = next(&model, "x", Counted::Nobody, &before).unwrap().status;
    assert!(after.conditions.contains(&condition) && after.conditions.len() == 4);
    assert!(after.ancestors.contains(&ancestor) && after.ancestors.len() == 2);

    // In whatever order others put it.
    let mut turned = after.clone();
    turned.conditions.reverse();
    turned.ancestors.reverse();
    assert_eq!(next(&model, "x", Counted::Nobody, &turned), None);

    let mut newer = after.clone();
    newer.conditions[0].observed_generation = Some(5);
    assert_eq!(next(&model, "x", Counted::NotYet, &newer), None);

    // A target that is left is ours to take away.
    let mut left = after;
    left.ancestors[1].ancestor_ref.name = "left".to_owned();
    let after = next(&model, "x", Counted::Nobody, &left).unwrap();
    assert!(after.at_once);
    let names: Vec<_> = after
        .status
        .ancestors
        .iter()
        .map(|it| &*it.ancestor_ref.name)
        .collect();
    assert_eq!(names, ["elsewhere", "c"]);
}

#[test]
fn a_condition_is_as_old_as_its_status() {
    let model = model(&[policy("x", "{name: c}", "retries: {}")]);
    let mut before = first(&model, "x", Counted::NotYet);
    assert!(is_counted(&before, 4) && !is_counted(&before, 5));
    for condition in &mut before.conditions {
        condition.last_transition_time = THEN.to_owned();
    }
    let some = count(9, 12);
    let still = next(&model, "x", Counted::Sidecars(&some), &before).unwrap();
    assert!(!still.at_once);
    let times: Vec<_> = still
        .status
        .conditions
        .iter()
        .map(|it| &*it.last_transition_time)
        .collect();
    assert_eq!(times, [THEN, THEN, THEN]);
    let all = count(12, 12);
    let done = next(&model, "x", Counted::Sidecars(&all), &still.status).unwrap();
    assert!(!done.at_once);
    let times: Vec<_> = done
        .status
        .conditions
        .iter()
        .map(|it| &*it.last_transition_time)
        .collect();
    assert_eq!(times, [THEN, THEN, NOW]);
}

#[test]
fn a_status_stays_within_its_bounds() {
    let long = "x".repeat(63);
    let backends: Vec<_> = (0..8)
        .map(|at| format!("{{name: {}{at}, weight: 1}}", &long[2..]))
        .collect();
    let spec = format!("split: {{backends: [{}]}}", backends.join(", "));
    let model = model(&[policy("x", "{name: c}", &spec)]);
    let (_, other) = foreign();
    let before = TrafficPolicyStatus {
        ancestors: vec![other; 16],
        ..TrafficPolicyStatus::default()
    };
    let refused = Count {
        refused: vec![(Name::new("demo", "web-1"), "é".repeat(3000)); 3],
        ..count(0, 3)
    };
    let status = next(&model, "x", Counted::Sidecars(&refused), &before)
        .unwrap()
        .status;
    assert_eq!(status.ancestors.len(), 16);
    for condition in &status.conditions {
        assert!(
            condition.message.len() <= 1024,
            "{}",
            condition.message.len()
        );
    }
    assert!(
        status.conditions[1]
            .message
            .ends_with("and 3 more: it has no endpoints")
    );
}

fn any_spec() -> impl Strategy<Value = (Vec<String>, Option<(u32, u32, bool)>)> {
    let stanza = prop::sample::select(vec![
        "timeouts: {request: 1s}",
        "mtls: {mode: Strict}",
        "rateLimit: {requestsPerSecond: 1}",
        "split: {backends: [{name: nobody, weight: 1}]}",
        "retries: {}, split: {mirror: {name: b, percent: 1}}",
    ]);
    let target = prop::sample::select(vec![
        "{name: a}",
        "{name: b, sectionName: http}",
        "{name: c}",
        "{name: nobody}",
    ]);
    let policies = prop::collection::vec((target, stanza), 1..5);
    let counted = prop::option::of((0_u32..5, 0_u32..5, any::<bool>()));
    (policies, any::<bool>(), counted).prop_map(|(policies, routed, counted)| {
        let policies = policies.into_iter().enumerate();
        let mut manifests: Vec<_> = policies
            .map(|(at, (target, stanza))| policy(&format!("p{at}"), target, stanza))
            .collect();
        if routed {
            manifests.push(ROUTE.to_owned());
        }
        (manifests, counted)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_written_twice((manifests, counted) in any_spec(), noise in any::<bool>()) {
        let model = model(&manifests);
        let sidecars = counted.map(|(acknowledged, total, refused)| Count {
            refused: refused.then(|| (Name::new("demo", "w"), "no".to_owned())).into_iter().collect(),
            ..count(acknowledged.min(total), total)
        });
        let counted = sidecars.as_ref().map_or(Counted::Nobody, Counted::Sidecars);
        let mut before = TrafficPolicyStatus::default();
        if noise {
            let (condition, ancestor) = foreign();
            before.conditions.push(condition);
            before.ancestors.push(ancestor);
        }
        for judged in model.judged_policies() {
            let name = &judged.name.name;
            let written = next(&model, name, counted, &before).unwrap();
            prop_assert!(written.at_once);
            prop_assert_eq!(next(&model, name, counted, &written.status), None);
            // And over the API server, as JSON.
            let json = serde_json::to_value(&written.status).unwrap();
            let read: TrafficPolicyStatus = serde_json::from_value(json).unwrap();
            prop_assert_eq!(next(&model, name, counted, &read), None);
            // Counts alone are never urgent.
            let other = next(&model, name, Counted::NotYet, &written.status);
            prop_assert!(other.is_none_or(|other| !other.at_once));
        }
    }
}
