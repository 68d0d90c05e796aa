use super::*;
use crate::compile::{Client, compile};
use crate::source::files::read_texts;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{AuthorityKey, InboundKey, ResourceKey, outbound, update};

const MESH: &str = r"
networks: [10.42.0.0/16]
defaults: {mtls: Permissive}
workloads:
- {name: a-1, namespace: demo, serviceAccount: a, addresses: [10.42.0.1]}
- {name: a-2, namespace: demo, serviceAccount: a, addresses: [10.42.0.2], meshed: false}
services:
- {name: a, namespace: demo, clusterIPs: [10.96.0.1], ports: [{name: http, port: 80, targetPort: 8080}], endpoints: [{workload: a-1}, {workload: a-2}, {address: 10.99.0.1}]}
- {name: b, namespace: demo, clusterIPs: [10.96.0.2], ports: [{name: http, port: 80, targetPort: 8080}], endpoints: [{workload: a-1}]}
- {name: a, namespace: other, clusterIPs: [10.96.0.3], ports: [{port: 80}]}
";

fn explainer(policies: &[(&str, &str, &str)]) -> Explainer {
    let texts = policies.iter().map(|(name, target, spec)| {
        format!(
            "---\n{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{namespace: demo, name: {name}}}, spec: {{targetRefs: [{target}], {spec}}}}}\n"
        )
    });
    let text: String = texts.collect();
    let read = read_texts(&[("mesh.yaml", MESH), ("p.yaml", &text)]);
    Explainer::new(read.objects)
}

fn explained(explainer: &Explainer, name: &str) -> Explained {
    let (service, ports) = find_service(explainer.model(), Some("demo"), name, None).unwrap();
    explainer.explain(service, ports[0], "demo")
}

fn resource(explainer: &Explainer, kind: Kind) -> update::Resource {
    let client = Client {
        namespace: "demo".to_owned(),
        service_account: "a".to_owned(),
        workload: "a-1".to_owned(),
        zone: String::new(),
    };
    compile(
        explainer.model(),
        &client,
        &ResourceKey { kind: Some(kind) },
    )
}

#[test]
fn every_stanza_has_one_line() {
    let explainer = explainer(&[]);
    let names: Vec<_> = explained(&explainer, "a")
        .stanzas
        .iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(
        names,
        [
            "mtls",
            "authorization",
            "timeouts",
            "connect",
            "retries",
            "circuitBreaker",
            "loadBalancer",
            "split",
            "rateLimit",
            "faultInjection",
            "fallback",
            "accessLog"
        ]
    );
    let mtls = &explained(&explainer, "a").stanzas[0];
    assert_eq!(mtls.from.to_string(), "mesh.yaml (defaults)");
}

#[test]
fn sources_are_those_of_the_values_in_force() {
    // Every level may have the stanza or not; whoever is innermost must be named, with its value.
    let levels = [
        ("ns", "{kind: Namespace, name: demo}", 9),
        ("svc", "{name: a}", 5),
        ("port", "{name: a, sectionName: http}", 2),
    ];
    for mask in 0..8_u32 {
        let present: Vec<_> = (0..3).filter(|at| mask & (1 << at) != 0).collect();
        let specs: Vec<_> = present
            .iter()
            .map(|&at| {
                let (name, target, seconds) = levels[at];
                (name, target, format!("timeouts: {{request: {seconds}s, connect: {seconds}s}}, retries: {{attempts: {seconds}}}"))
            })
            .collect();
        let specs: Vec<_> = specs
            .iter()
            .map(|(name, target, spec)| (*name, *target, &**spec))
            .collect();
        let explainer = explainer(&specs);
        let explained = explained(&explainer, "a");
        let innermost = present.last().map(|&at| levels[at]);
        for name in ["timeouts", "connect", "retries"] {
            let stanza = explained.stanzas.iter().find(|it| it.name == name).unwrap();
            let policy = match &stanza.from {
                Source::Policy(said) => Some(&*said.policy.name),
                _ => None,
            };
            assert_eq!(policy, innermost.map(|(name, ..)| name), "{mask} {name}");
            assert_eq!(stanza.instead_of.len(), present.len().saturating_sub(1));
        }
        let kind = Kind::Authority(AuthorityKey {
            authority: "a:80".to_owned(),
        });
        let update::Resource::Outbound(compiled) = resource(&explainer, kind) else {
            panic!("not found");
        };
        let Some(outbound::Target::Service(target)) = compiled.target else {
            panic!("no service");
        };
        let seconds = innermost.map_or(1, |(.., seconds)| seconds);
        assert_eq!(target.backends[0].connect_timeout.unwrap().seconds, seconds);
        let connect = &explained.backends[0].stanzas[0];
        assert_eq!(connect.value, Tree::Text(format!("{seconds}s")));
    }
}

#[test]
fn workloads_without_a_sidecar_enforce_nothing() {
    let explainer = explainer(&[("p", "{name: a}", "mtls: {mode: Strict}")]);
    let inbound = explained(&explainer, "a").inbound;
    assert_eq!(inbound.len(), 2);
    assert_eq!(inbound[0].workloads, ["demo/a-1"]);
    assert!(inbound[0].meshed && inbound[0].overlapping);
    assert_eq!(inbound[0].mtls.value.to_string(), "{mode: Strict}");
    assert_eq!(inbound[1].workloads, ["demo/a-2", "10.99.0.1"]);
    assert!(!inbound[1].meshed);
}

#[test]
fn lists_are_in_the_order_of_the_compilers() {
    let allow = |name| {
        format!(
            "authorization: {{allow: [{{principals: [{{serviceAccount: {{name: {name}}}}}]}}]}}"
        )
    };
    let (x, y) = (allow("web"), allow("ops"));
    for (of_a, of_b, count) in [(&x, &y, 2), (&x, &x, 1), (&y, &x, 2)] {
        let explainer = explainer(&[("p", "{name: a}", of_a), ("q", "{name: b}", of_b)]);
        let inbound = &explained(&explainer, "b").inbound[0];
        let update::Resource::Inbound(compiled) =
            resource(&explainer, Kind::Inbound(InboundKey { port: 8080 }))
        else {
            panic!("not found");
        };
        let lists = compiled.authorization.unwrap().lists;
        assert_eq!((lists.len(), inbound.authorization.len()), (count, count));
        for (list, enforced) in lists.iter().zip(&inbound.authorization) {
            let principal = &list.entries[0].principals[0];
            let name = principal.rsplit('/').next().unwrap();
            assert!(
                enforced
                    .value
                    .to_string()
                    .contains(&format!("name: {name}"))
            );
        }
        let sources: usize = inbound.authorization.iter().map(|it| it.from.len()).sum();
        assert_eq!(sources, 2);
    }
}

#[test]
fn problems_are_those_that_concern_the_service() {
    let explainer = explainer(&[
        ("old", "{name: a}", "timeouts: {request: 1s}"),
        ("young", "{name: a}", "timeouts: {request: 2s}"),
        ("broken", "{name: b}", "mtls: {mode: Strict}, bogus: 1"),
        ("lost", "{name: nobody}", "retries: {}"),
    ]);
    let objects = |name| {
        let problems = explained(&explainer, name).problems;
        problems
            .into_iter()
            .map(|problem| problem.object)
            .collect::<Vec<_>>()
    };
    assert_eq!(objects("a"), ["TrafficPolicy demo/young"]);
    assert_eq!(objects("b"), ["TrafficPolicy demo/broken"]);
    let mtls = &explained(&explainer, "b").stanzas[0];
    assert_eq!(
        mtls.from.to_string(),
        "policy demo/broken (service, refused)"
    );
}

#[test]
fn names_are_found_as_people_mean_them() {
    let explainer = explainer(&[]);
    let model = explainer.model();
    let found = |namespace, name| {
        find_service(model, namespace, name, None).map(|(it, _)| it.name.to_string())
    };
    assert_eq!(found(None, "b").unwrap(), "demo/b");
    assert_eq!(found(Some("other"), "a").unwrap(), "other/a");
    let error = found(None, "a").unwrap_err().to_string();
    assert_eq!(
        error,
        "service a is in several namespaces: demo, other; say which one with -n"
    );
    let error = find_workload(model, None, "a-3").unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no workload a-3; did you mean demo/a-1 or demo/a-2?"
    );
}

#[test]
fn trees_are_written_as_yaml_reads_them() {
    for text in [
        "a",
        "10s",
        "/orders",
        "",
        "*",
        "a: b",
        "text/plain; charset=utf-8",
        "x y",
        "[",
        "ü",
    ] {
        let line = Tree::Map(vec![(
            "k".to_owned(),
            Tree::List(vec![Tree::Text(text.to_owned())]),
        )]);
        let read: serde_json::Value = serde_saphyr::from_str(&line.to_string()).unwrap();
        assert_eq!(read, serde_json::json!({"k": [text]}), "{line}");
    }
}
