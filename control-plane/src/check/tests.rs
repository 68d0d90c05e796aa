mod cases;
mod never;

use std::fs;

use super::*;
use crate::source::files::{model_of, read_once, read_texts};

const MESH: &str = "
networks: [10.42.0.0/16]
workloads:
- {name: web-1, namespace: shop, addresses: [10.42.0.1]}
- {name: a-1, namespace: shop, addresses: [10.42.0.2]}
- {name: a-2, namespace: shop, addresses: [10.42.0.3]}
- {name: a-3, namespace: shop, addresses: [10.42.0.4]}
- {name: bare-1, namespace: shop, addresses: [10.42.0.5], meshed: false}
- {name: old-1, namespace: legacy, addresses: [10.42.0.6], meshed: false}
services:
- {name: a, namespace: shop, ports: [{name: http, port: 80}, {name: admin, port: 81}],
   endpoints: [{workload: a-1}, {workload: a-2}, {workload: a-3}]}
- {name: one, namespace: shop, ports: [{name: http, port: 80}], endpoints: [{workload: web-1}]}
- {name: bare, namespace: shop, ports: [{name: http, port: 80}],
   endpoints: [{workload: bare-1}, {address: 203.0.113.9}]}
- {name: quotes, namespace: shop, ports: [{name: api, port: 80, appProtocol: grpc}],
   endpoints: [{workload: a-1}, {workload: a-2}]}
- {name: mixed, namespace: shop, ports: [{name: h2c-api, port: 80}, {name: http, port: 81}],
   endpoints: [{workload: a-1}, {workload: bare-1}]}
";

fn policy(name: &str, target: &str, stanzas: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\n\
         metadata: {{name: \"{name}\", namespace: shop}}\n\
         spec: {{targetRefs: [{target}], {stanzas}}}\n"
    )
}

fn findings(mesh: &str, policies: &str) -> Vec<Finding> {
    check(read_texts(&[("mesh.yaml", mesh), ("p.yaml", policies)])).findings
}

/// `severity check`, of one policy beside the mesh.
fn of(target: &str, stanzas: &str) -> Vec<String> {
    brief(&findings(MESH, &policy("p", target, stanzas)))
}

fn brief(findings: &[Finding]) -> Vec<String> {
    let findings = findings.iter();
    findings
        .map(|finding| {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            format!("{severity} {}", finding.check)
        })
        .collect()
}

const NONE: &[&str] = &[];
const FALLBACK: &str = "fallback: {triggers: [CircuitOpen], response: {}}";

#[test]
fn what_comes_from_two_policies_is_found_where_it_is_said() {
    // perTry and request from the namespace, the retries from the service.
    let namespace = "{kind: Namespace, name: shop}";
    let policies = policy("times", namespace, "timeouts: {request: 1s}")
        + &policy(
            "again",
            "{name: one}",
            "retries: {conditions: [PerTryTimeout]}",
        );
    let found = findings(MESH, &policies);
    let found: Vec<_> = found.iter().filter(|it| it.check != "streams").collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (found[0].object.as_str(), found[0].line, found[0].check),
        ("TrafficPolicy shop/again", 7, "per-try-timeout")
    );
    assert!(found[0].what.ends_with(": service shop/one port 80"));

    // The service's own stanza stands before its namespace's.
    let policies = policy("times", namespace, "timeouts: {request: 1s, perTry: 1s}")
        + &policy("a", "{name: a}", "timeouts: {request: 1s}")
        + &policy("off", namespace, "retries: {attempts: 0}");
    let found = findings(MESH, &policies);
    assert!(found.iter().all(|it| it.check == "streams"), "{found:#?}");

    // The backend's own connect timeout, and the request's limit from whom the client addressed.
    let policies = policy(
        "one",
        "{name: one}",
        "timeouts: {request: 1s}, split: {backends: [{name: a}]}",
    ) + &policy("a", "{name: a}", "timeouts: {connect: 5s}");
    let found = findings(MESH, &policies);
    assert_eq!(brief(&found), ["warning connect"]);
    assert_eq!(found[0].object, "TrafficPolicy shop/a");

    // A breaker that only watches the one endpoint behind another service.
    let policies = policy(
        "a",
        "{name: a}",
        "circuitBreaker: {consecutiveFailures: {}}, split: {backends: [{name: one, port: 80}]}",
    );
    assert_eq!(
        brief(&findings(MESH, &policies)),
        ["warning breaker-never-acts"]
    );
}

#[test]
fn conflicts_and_weakening_are_told_in_the_control_planes_words() {
    let policies = policy("first", "{name: a}", "timeouts: {request: 1s}")
        + &policy("second", "{name: a}", "timeouts: {request: 2s}")
        + &policy(
            "strict",
            "{kind: Namespace, name: shop}",
            "mtls: {mode: Strict}",
        )
        + &policy("weak", "{name: a}", "mtls: {mode: Permissive}");
    let found = findings(MESH, &policies);
    let places: Vec<_> = found.iter().map(|it| (it.file.as_str(), it.line)).collect();
    assert_eq!(places, [("p.yaml", 7), ("p.yaml", 17)]);
    assert!(found.iter().all(|it| !it.mend.is_empty()), "{found:#?}");
    let whys: Vec<_> = found.iter().map(|it| it.why.as_str()).collect();
    assert_eq!(
        whys,
        [
            "Conflicted: shop/first is older and has timeouts for service shop/a too",
            "WeakerThanNamespace: spec.mtls.mode Permissive is weaker than Strict",
        ]
    );
    let mesh = format!("defaults: {{mtls: Strict}}{MESH}");
    let weak = policy(
        "p",
        "{kind: Namespace, name: shop}",
        "mtls: {mode: Disabled}",
    );
    let found = findings(&mesh, &weak);
    assert!(found[0].why.starts_with("WeakerThanMesh"), "{found:#?}");
}

#[test]
fn nobody_to_act_on() {
    let in_namespace = |namespace: &str, stanzas: &str| {
        let target = format!("{{kind: Namespace, name: {namespace}}}");
        let policy = policy("p", &target, stanzas);
        let namespaced = format!("namespace: {namespace}}}");
        brief(&findings(
            MESH,
            &policy.replace("namespace: shop}", &namespaced),
        ))
    };
    let times = "timeouts: {request: 1s}";
    assert_eq!(in_namespace("empty", times), ["warning targets-nothing"]);
    assert_eq!(in_namespace("legacy", times), NONE);
    assert_eq!(
        in_namespace("legacy", "mtls: {mode: Strict}"),
        ["warning no-server"]
    );

    let mesh = |meshed: bool| {
        format!(
            "networks: [10.42.0.0/16]\nservices: [{{name: a, namespace: shop, ports: [{{port: 80}}]}}]\n\
             workloads: [{{name: w, addresses: [10.42.0.1], meshed: {meshed}}}]\n"
        )
    };
    // A rate limit needs no client's sidecar, in a rule neither.
    let limits = "rules: [{name: r, matches: [{}], rateLimit: {requestsPerSecond: 1}}]";
    let limits = policy("p", "{name: a}", limits);
    assert_eq!(brief(&findings(&mesh(false), &limits)), NONE);
    let policy = policy("p", "{name: a}", times);
    assert_eq!(brief(&findings(&mesh(true), &policy)), NONE);
    assert_eq!(
        brief(&findings(&mesh(false), &policy)),
        ["warning no-client"]
    );
}

#[test]
fn without_a_mesh_only_what_can_be_said() {
    let alone = |policies: &str| brief(&check(read_texts(&[("p.yaml", policies)])).findings);
    let sound = policy(
        "p",
        "{name: x, sectionName: w}",
        "timeouts: {request: 1s}, mtls: {mode: Strict}",
    ) + &policy(
        "q",
        "{name: z}",
        "circuitBreaker: {consecutiveFailures: {}}, split: {backends: [{name: v, port: 7}]}",
    );
    assert_eq!(alone(&sound), NONE);
    let unsound = policy(
        "p",
        "{name: x, sectionName: w}",
        "timeouts: {request: 1s, perTry: 1s}",
    ) + &policy("q", "{name: x, sectionName: w}", "timeouts: {request: 2s}")
        + &policy("r", "{name: x}", "retries: {methods: [POST]}");
    assert_eq!(
        alone(&unsound),
        ["warning per-try", "error refused", "warning not-idempotent"]
    );
    // What a route is attached to and leads to is there as well.
    let routed = |rule: &str| {
        policy(
            "p",
            "{name: x}",
            "timeouts: {request: 1s}, split: {sticky: {}}",
        ) + &format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {{name: r, namespace: shop}}\n\
                 spec: {{parentRefs: [{{group: '', kind: Service, name: x, port: 80}}], rules: [{{{rule}}}]}}\n"
        )
    };
    let backends = "backendRefs: [{name: a, port: 80}, {name: b, port: 81}]";
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: c, port: 82}}}";
    assert_eq!(
        alone(&routed(&format!("{backends}, filters: [{mirror}]"))),
        NONE
    );
    let foreign = "backendRefs: [{name: a, namespace: other, port: 80}]";
    assert_eq!(
        alone(&routed(foreign)),
        ["error refused"],
        "there is no ReferenceGrant"
    );
    // A mesh file that cannot be read says nothing about what there is.
    let found = findings("services: [", &sound);
    assert_eq!(brief(&found), ["error refused"]);
    assert_eq!(
        (found[0].file.as_str(), found[0].object.as_str()),
        ("mesh.yaml", "YAML document")
    );
}

#[test]
fn stickiness_acts_on_the_weights_of_a_route() {
    let sticky = policy("p", "{name: one}", "split: {sticky: {}}");
    let route = |parent: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: r, namespace: shop}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {parent}, port: 80}}], \
             rules: [{{backendRefs: [{{name: one, port: 80}}, {{name: a, port: 80}}]}}]}}\n"
        )
    };
    let attached = findings(MESH, &(sticky.clone() + &route("one")));
    assert_eq!(brief(&attached), NONE, "{attached:#?}");
    let elsewhere = findings(MESH, &(sticky + &route("a")));
    assert_eq!(brief(&elsewhere), ["warning sticky-without-weights"]);
}

/// Places are named up to three; the rest is counted.
#[test]
fn many_places_are_one_finding() {
    let mesh = MESH.replace("appProtocol: grpc}", "appProtocol: grpc}, {name: b, port: 82, appProtocol: grpc}, {name: c, port: 83, appProtocol: h2c}");
    let namespace = "{kind: Namespace, name: shop}";
    let found = findings(&mesh, &policy("p", namespace, "timeouts: {request: 1s}"));
    assert_eq!(brief(&found), ["warning streams"]);
    assert!(
        found[0].what.ends_with(
            ": service shop/mixed port 80, service shop/quotes port 80, service shop/quotes port 82 and 1 more"
        ),
        "{}",
        found[0].what
    );
}

/// The samples of the resource's schema, each by itself in a directory: what the control plane
/// refuses is refused here with the same words at the same place, and nothing else is.
#[test]
fn samples_get_the_control_planes_own_verdict() {
    const SAMPLES: &str = include_str!("../policy/testdata/samples.yaml");
    let dir = tempfile::tempdir().unwrap();
    let mesh = "networks: [10.42.0.0/16]\n";
    fs::write(dir.path().join("mesh.yaml"), mesh).unwrap();
    let file = dir.path().join("sample.yaml");
    let (mut refused, mut accepted) = (0, 0);
    for sample in SAMPLES.split("\n---\n") {
        // A marker of the samples, and no part of them.
        let text = match sample.strip_prefix("{x-want: ") {
            Some(rest) => format!("{{apiVersion{}", rest.split_once(", apiVersion").unwrap().1),
            None => sample.to_owned(),
        };
        fs::write(&file, &text).unwrap();
        let report = check(read_once(&[dir.path().to_owned()]).unwrap());
        let prefix = format!("{}/", dir.path().display());
        let here: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| finding.check == "refused")
            .map(|finding| {
                let file = finding.file.strip_prefix(&prefix).unwrap_or(&finding.file);
                (
                    file,
                    finding.line,
                    &*finding.object,
                    &*finding.why,
                    &*finding.mend,
                )
            })
            .collect();
        let model = model_of(&[("mesh.yaml", mesh), ("sample.yaml", &text)]);
        let there: Vec<_> = model
            .refusals()
            .iter()
            .map(|it| (&*it.file, it.line, &*it.object, &*it.reason, &*it.mend))
            .collect();
        assert_eq!(here, there, "{text}");

        // By itself, where no service can be missing, only what is wrong with the policy is left.
        let alone = check(read_once(std::slice::from_ref(&file)).unwrap());
        let violated = there
            .iter()
            .any(|(_, _, _, reason, _)| !reason.contains("there is no service"));
        assert_eq!(alone.count(Severity::Error) > 0, violated, "{text}");
        if violated {
            refused += 1;
        } else {
            accepted += 1;
        }
    }
    assert!(refused > 10 && accepted > 0, "{refused} and {accepted}");
}

#[test]
fn paths_that_cannot_be_read_are_no_findings() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        read_once(&[dir.path().to_owned()]).is_err(),
        "nothing in it"
    );
    assert!(read_once(&[dir.path().join("none.yaml")]).is_err());

    // A file that several paths lead to is read once.
    let file = dir.path().join("p.yaml");
    fs::write(&file, policy("p", "{name: a}", "timeouts: {request: 1s}")).unwrap();
    let paths = [file.clone(), file, dir.path().join(".")];
    let report = check(read_once(&paths).unwrap());
    assert_eq!(
        (report.policies, report.findings.len()),
        (1, 0),
        "{report:#?}"
    );
}
