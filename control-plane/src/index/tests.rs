use super::publisher::next_revision;
use super::*;
use crate::policy::PolicyDuration;
use crate::source::files::model_of;

const MESH: &str = r"
networks: [10.42.0.0/16]
workloads:
- {name: a-1, namespace: demo, addresses: [10.42.0.1]}
services:
- {name: a, namespace: demo, clusterIPs: [10.96.0.1], ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: 9090}], endpoints: [{workload: a-1}]}
- {name: b, namespace: demo, clusterIPs: [10.96.0.2], ports: [{name: http, port: 80, targetPort: 8080}], endpoints: [{workload: a-1}]}
";

const NAMESPACE: &str = "{kind: Namespace, name: demo}";

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{namespace: demo, {name}}}, spec: {{targetRefs: [{target}], {spec}}}}}\n"
    )
}

fn mesh(policies: &[String]) -> Model {
    model_of(&[("mesh.yaml", MESH), ("p.yaml", &policies.concat())])
}

fn of(model: &Model, service: &str, port: usize) -> Stanzas {
    let service = model.service("demo", service).unwrap();
    model.policy(service, &service.ports[port])
}

fn request_ms(stanzas: &Stanzas) -> Option<PolicyDuration> {
    stanzas.timeouts.as_ref()?.request
}

fn reasons(model: &Model) -> Vec<&str> {
    let refusals = model.refusals().iter();
    refusals.map(|refusal| refusal.reason.as_str()).collect()
}

#[test]
fn one_whole_stanza_is_inherited_at_a_time() {
    let model = mesh(&[
        policy(
            "name: ns",
            NAMESPACE,
            "timeouts: {request: 9s, idle: 9s}, retries: {attempts: 9}",
        ),
        policy("name: svc", "{name: a}", "timeouts: {request: 2s}"),
        policy(
            "name: port",
            "{name: a, sectionName: admin}",
            "timeouts: {request: 1s}, loadBalancer: {policy: Random}",
        ),
    ]);
    assert_eq!(reasons(&model), [""; 0]);
    assert_eq!(
        request_ms(&of(&model, "b", 0)),
        Some(PolicyDuration::from_millis(9_000))
    );
    assert_eq!(
        request_ms(&of(&model, "a", 0)),
        Some(PolicyDuration::from_millis(2_000))
    );
    assert_eq!(of(&model, "a", 0).timeouts.unwrap().idle, None);
    assert_eq!(
        request_ms(&of(&model, "a", 1)),
        Some(PolicyDuration::from_millis(1_000))
    );
    for (service, port) in [("a", 0), ("a", 1), ("b", 0)] {
        assert_eq!(of(&model, service, port).retries.unwrap().attempts, 9);
    }
    assert!(of(&model, "a", 0).load_balancer.is_none());
    assert!(of(&model, "a", 1).load_balancer.is_some());
}

#[test]
fn disjoint_policies_combine_and_the_older_wins_otherwise() {
    let model = mesh(&[
        policy("name: x", "{name: a}", "timeouts: {request: 1s}"),
        policy("name: 'y'", "{name: a}", "retries: {attempts: 1}"),
    ]);
    assert_eq!(reasons(&model), [""; 0]);
    assert!(request_ms(&of(&model, "a", 0)).is_some() && of(&model, "a", 0).retries.is_some());

    let model = mesh(&[
        policy(
            "name: x",
            "{name: a}",
            "timeouts: {request: 1s}, retries: {attempts: 1}",
        ),
        policy(
            "name: 'y'",
            "{name: a}",
            "timeouts: {request: 2s}, loadBalancer: {}, mtls: {mode: Strict}",
        ),
    ]);
    assert_eq!(
        reasons(&model),
        ["Conflicted: demo/x is older and has timeouts for service demo/a too"]
    );
    assert_eq!(model.refusals()[0].line, 4);
    let stanzas = of(&model, "a", 0);
    assert_eq!(
        request_ms(&stanzas),
        Some(PolicyDuration::from_millis(1_000))
    );
    assert!(stanzas.load_balancer.is_none());
    // What only closes stays closed.
    assert_eq!(stanzas.mtls, Some(MtlsMode::Strict));

    let model = mesh(&[
        policy("name: x", "{name: a}", "timeouts: {request: 1s}"),
        policy(
            "name: 'y', creationTimestamp: '2026-01-02T00:00:00Z'",
            "{name: a}",
            "timeouts: {request: 2s}",
        ),
        policy(
            "name: z, creationTimestamp: '2026-01-01T00:00:00Z'",
            "{name: a}",
            "timeouts: {request: 3s}",
        ),
    ]);
    assert_eq!(
        request_ms(&of(&model, "a", 0)),
        Some(PolicyDuration::from_millis(3_000))
    );
    assert!(
        reasons(&model)
            .iter()
            .all(|reason| reason.starts_with("Conflicted: demo/z"))
    );
    assert_eq!(reasons(&model).len(), 2);
}

#[test]
fn mtls_only_tightens() {
    let strict = policy("name: ns", NAMESPACE, "mtls: {mode: Strict}");
    let model = mesh(&[
        strict,
        policy(
            "name: p",
            "{name: a}",
            "mtls: {mode: Permissive}, timeouts: {request: 1s}",
        ),
    ]);
    assert!(reasons(&model)[0].starts_with("WeakerThanNamespace: spec.mtls.mode Permissive"));
    assert_eq!(of(&model, "a", 0).mtls, Some(MtlsMode::Strict));
    assert_eq!(request_ms(&of(&model, "a", 0)), None);

    let minimum = format!("defaults: {{mtls: Permissive}}{MESH}");
    let model = model_of(&[
        ("mesh.yaml", &minimum),
        (
            "p.yaml",
            &policy("name: ns", NAMESPACE, "mtls: {mode: Disabled}"),
        ),
    ]);
    assert!(reasons(&model)[0].starts_with("WeakerThanMesh"));
    let workload = model.workload("demo", "a-1").unwrap();
    assert_eq!(model.inbound_mtls(workload, 8080), MtlsMode::Permissive);

    // The strictest of all services that lead to a port.
    let model = mesh(&[
        policy("name: a", "{name: a}", "mtls: {mode: Disabled}"),
        policy("name: b", "{name: b}", "mtls: {mode: Strict}"),
    ]);
    let workload = model.workload("demo", "a-1").unwrap();
    assert_eq!(model.inbound_mtls(workload, 8080), MtlsMode::Strict);
    assert_eq!(model.inbound_mtls(workload, 9090), MtlsMode::Disabled);
    assert_eq!(model.inbound_mtls(workload, 1), MtlsMode::Permissive);
}

#[test]
fn authorization_only_tightens() {
    let outer = "authorization: {allow: [{principals: [{serviceAccount: {name: '*'}}], methods: [GET, POST], paths: [/api]}]}";
    for (inner, fits) in [
        ("allow: []", true),
        (
            "allow: [{principals: [{serviceAccount: {name: web}}], methods: [GET], paths: [/api/v1]}]",
            true,
        ),
        (
            "allow: [{principals: [{serviceAccount: {namespace: demo, name: web}}], methods: [GET], paths: [/api]}]",
            true,
        ),
        (
            "allow: [{principals: [{serviceAccount: {namespace: ops, name: web}}], methods: [GET], paths: [/api]}]",
            false,
        ),
        (
            "allow: [{principals: [{spiffeId: 'spiffe://x/y'}], methods: [GET], paths: [/api]}]",
            false,
        ),
        (
            "allow: [{principals: [{serviceAccount: {name: web}}], paths: [/api]}]",
            false,
        ),
        (
            "allow: [{principals: [{serviceAccount: {name: web}}], methods: [DELETE], paths: [/api]}]",
            false,
        ),
        (
            "allow: [{principals: [{serviceAccount: {name: web}}], methods: [GET], paths: [/apis]}]",
            false,
        ),
        (
            "allow: [{principals: [{serviceAccount: {name: web}}], methods: [GET]}]",
            false,
        ),
        ("mode: Audit, allow: []", false),
    ] {
        let model = mesh(&[
            policy("name: ns", NAMESPACE, outer),
            policy(
                "name: p",
                "{name: a}",
                &format!("authorization: {{{inner}}}"),
            ),
        ]);
        assert_eq!(
            model.refusals().is_empty(),
            fits,
            "{inner}: {:?}",
            model.refusals()
        );
        if !fits {
            assert!(reasons(&model)[0].starts_with("WeakerThanNamespace: spec.authorization"));
            assert_eq!(
                of(&model, "a", 0).authorization.unwrap().allow[0]
                    .methods
                    .len(),
                2
            );
        }
    }
}

#[test]
fn targets_that_are_not_there_are_named() {
    let model = mesh(&[
        policy("name: p", "{name: c}", "retries: {}"),
        policy("name: q", "{name: a, sectionName: grpc}", "retries: {}"),
        policy("name: r", "{kind: Namespace, name: other}", "retries: {}"),
        policy(
            "name: s",
            "{name: a}",
            "split: {backends: [{name: b}, {name: c}]}",
        ),
    ]);
    assert_eq!(
        reasons(&model),
        [
            "TargetNotFound: there is no service demo/c",
            "TargetNotFound: service demo/a has no port named grpc",
            "TargetNotFound: namespace other is not the policy's own",
            "BackendNotFound: there is no service demo/c; it has no endpoints",
        ]
    );
}

#[test]
fn an_address_has_one_owner() {
    let model = model_of(&[(
        "mesh.yaml",
        r#"
networks: [10.0.0.0/8]
workloads:
- {name: a-1, addresses: [10.42.0.1]}
- {name: a-2, addresses: [10.42.0.2, "::ffff:10.42.0.1"]}
services:
- {name: a, clusterIPs: [10.96.0.1], ports: [{port: 80}], endpoints: [{workload: a-1}, {workload: a-2}]}
- {name: b, clusterIPs: [10.96.0.1], ports: [{port: 81}]}
"#,
    )]);
    let objects: Vec<_> = model
        .refusals()
        .iter()
        .map(|r| (r.line, &*r.object))
        .collect();
    assert_eq!(
        objects,
        [
            (5, "Workload default/a-2"),
            (7, "Service default/a"),
            (8, "Service default/b")
        ]
    );
    assert!(model.workload("default", "a-2").is_none());
    assert!(model.service("default", "b").is_none());
}

#[test]
fn revisions_rise_whatever_the_clock_does() {
    assert_eq!(next_revision(0, 500), 500);
    assert_eq!(next_revision(500, 400), 501);
    assert_eq!(next_revision(u64::MAX, 1), u64::MAX);
}

/// Both at once: neither hides the other.
#[test]
fn a_policy_may_be_weaker_in_two_ways() {
    let allow = |account: &str| {
        format!(
            "authorization: {{allow: [{{principals: [{{serviceAccount: {{name: {account}}}}}]}}]}}"
        )
    };
    let model = mesh(&[
        policy(
            "name: ns",
            NAMESPACE,
            &format!("mtls: {{mode: Strict}}, {}", allow("web")),
        ),
        policy(
            "name: svc",
            "{name: a}",
            &format!("mtls: {{mode: Permissive}}, {}", allow("'*'")),
        ),
    ]);
    let reasons = reasons(&model);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(
        reasons
            .iter()
            .all(|it| it.starts_with("WeakerThanNamespace: "))
    );
    let stanzas = of(&model, "a", 0);
    assert_eq!(stanzas.mtls, Some(MtlsMode::Strict));
    assert_eq!(stanzas.authorization, of(&model, "b", 0).authorization);
}

/// A bad policy without a last good version closes what it is for, whatever others say there; where
/// an inner level has a stanza of its own, that holds, as it would beside the good one.
#[test]
fn bad_policies_close_what_they_are_for() {
    const WEB: &str = "authorization: {allow: [{principals: [{serviceAccount: {name: web}}]}]}";
    const OPEN: &str = "mtls: {mode: Permissive}";
    // By service port: whether anybody is allowed, and the mode.
    let closed = |target: &str, others: &[String]| {
        let bad = format!("{WEB}, {OPEN}, timeouts: {{request: soon}}, retries: {{}}");
        let model = mesh(&[&[policy("name: bad", target, &bad)], others].concat());
        [("a", 0), ("a", 1), ("b", 0)].map(|(service, port)| {
            let stanzas = of(&model, service, port);
            assert!(stanzas.retries.is_none(), "{target}");
            let authorization = stanzas.authorization;
            let denied = authorization.is_some_and(|it| it.allow.is_empty());
            (denied, stanzas.mtls == Some(MtlsMode::Strict))
        })
    };
    let (shut, open) = ((true, true), (false, false));
    assert_eq!(
        closed("{name: a, sectionName: admin}", &[]),
        [open, shut, open]
    );
    assert_eq!(closed("{name: a}", &[]), [shut, shut, open]);
    assert_eq!(closed("{name: a}, {name: b}", &[]), [shut; 3]);
    assert_eq!(closed(NAMESPACE, &[]), [shut; 3]);
    // As far as a target can be read.
    assert_eq!(
        closed("{name: a, sectionName: [admin]}", &[]),
        [shut, shut, open]
    );
    assert_eq!(closed("{kind: namespace, name: demo}", &[]), [shut; 3]);
    assert_eq!(closed("{kind: service, name: b}", &[]), [open, open, shut]);
    assert_eq!(closed("{nam: a}, {name: b}", &[]), [open, open, shut]);

    let good = |target: &str| [policy("name: good", target, &format!("{WEB}, {OPEN}"))];
    assert_eq!(closed("{name: a}", &good("{name: a}")), [shut, shut, open]);
    assert_eq!(closed(NAMESPACE, &good(NAMESPACE)), [shut; 3]);
    // Weaker than what the bad one makes of the namespace.
    assert_eq!(closed(NAMESPACE, &good("{name: a}")), [shut; 3]);
    assert_eq!(
        closed("{name: a}", &good("{name: a, sectionName: admin}")),
        [shut, open, open]
    );
}

/// What a namespace says may be no more than a default: then a service's own holds instead, wider or
/// not. A policy of it that could not be understood stays a ceiling.
#[test]
fn a_namespace_may_leave_the_word_to_its_services() {
    const WEB: &str = "authorization: {allow: [{principals: [{serviceAccount: {name: web}}]}]}";
    let allowed = |stanzas: Stanzas| stanzas.authorization.map(|it| it.allow.len());
    for (said, a) in [
        ("forServices: Default, ", Some(1)),
        ("forServices: Ceiling, ", Some(0)),
        ("", Some(0)),
        ("forServices: Default, mode: Sometimes, ", Some(0)),
    ] {
        let deny = format!("authorization: {{{said}allow: []}}");
        let model = mesh(&[
            policy("name: ns", NAMESPACE, &deny),
            policy("name: svc", "{name: a}", WEB),
        ]);
        assert_eq!(
            allowed(of(&model, "a", 0)),
            a,
            "{said}: {:?}",
            reasons(&model)
        );
        assert_eq!(allowed(of(&model, "b", 0)), Some(0), "{said}");
        assert_eq!(reasons(&model).is_empty(), a == Some(1), "{said}");
    }
}

#[test]
fn a_mesh_may_have_a_default() {
    let default = |who: &str| {
        let mesh = format!("defaults: {{authorization: {who}}}{MESH}");
        let authorization = model_of(&[("mesh.yaml", &mesh)]).default_authorization();
        authorization.map(|it| it.allow.len())
    };
    assert_eq!(default("AllowAll"), None);
    assert_eq!(default("Authenticated"), Some(1));
    assert_eq!(default("SameNamespace"), Some(1));
    assert_eq!(default("DenyAll"), Some(0));
    assert_eq!(mesh(&[]).default_authorization(), None);
}
