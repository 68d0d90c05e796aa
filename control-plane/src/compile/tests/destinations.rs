//! What addresses, names and ports mean.

use super::*;

#[test]
fn authorities_name_services() {
    let model = mesh(&[]);
    for text in [
        "checkout",
        "checkout:80",
        "checkout.demo",
        "checkout.demo:80",
        "checkout.demo.svc",
        "checkout.demo.svc.cluster.local",
        "checkout.demo.svc.cluster.local.:80",
        "10.96.0.10",
        "[fd96::10]:80",
        "[fd96::10]",
        "[::ffff:10.96.0.10]:80",
    ] {
        assert_eq!(
            to_service(&model, authority(text)).service,
            Some(service("checkout", 80)),
            "{text}"
        );
    }
    assert_eq!(
        to_service(&model, authority("db.ops:5432")).protocol(),
        Protocol::Opaque
    );
    for text in [
        "",
        ":80",
        "db",
        "db:5432",
        "checkout:",
        "checkout:0",
        "checkout:81",
        "checkout:+80",
        "checkout:80:80",
        "checkout.ops",
        "checkout.demo.pod",
        "checkout.demo.cluster.local",
        "[fd96::10",
        "[10.96.0.10]",
        "example.com",
        "a.checkout.demo.svc.cluster.local",
    ] {
        let answer = ask(&model, &web(), authority(text));
        assert!(
            matches!(answer, update::Resource::NotFound(_)),
            "{text}: {answer:?}"
        );
    }
}

#[test]
fn an_address_of_a_workload_is_dialled_directly() {
    let split = "split: {backends: [{name: checkout}, {name: canary}]}";
    let model = mesh(&[
        policy(
            "o",
            "ops",
            "targetRefs: [{name: only}], timeouts: {request: 2s}, split: {backends: [{name: db}]},
            rules: [{name: r, matches: [{}], split: {backends: [{name: db, weight: 3}]}}]",
        ),
        policy(
            "c",
            "demo",
            &format!("targetRefs: [{{name: checkout}}], timeouts: {{request: 5s}}, {split}"),
        ),
        policy(
            "n",
            "demo",
            "targetRefs: [{kind: Namespace, name: demo}], timeouts: {request: 7s}",
        ),
    ]);

    // One service backs it: that one's policy, without any split.
    let target = to_endpoint(&model, outbound("10.42.0.10", 5001));
    assert_eq!(
        target.endpoint.as_ref().unwrap().spiffe_id,
        "spiffe://weft.local/ns/ops/sa/default"
    );
    let inner = target.policy.unwrap();
    assert_eq!(inner.service, Some(service("only", 5000)));
    assert_eq!(inner.routes.len(), 2);
    assert_eq!(inner.backends.len(), 1);
    assert!(
        inner
            .routes
            .iter()
            .all(|route| route.split.as_ref().unwrap().backends.len() == 1)
    );
    assert_eq!(
        millis(inner.routes[0].timeouts.as_ref().unwrap().request.as_ref()),
        Some(2_000)
    );
    assert_eq!(
        target.aliases[0].authorities,
        [
            "only.ops:5000",
            "only.ops.svc:5000",
            "only.ops.svc.cluster.local:5000"
        ]
    );

    // Two services: the namespace's policy, and both by their names.
    for ip in ["10.42.0.6", "fd42::6", "::ffff:10.42.0.6"] {
        let target = to_endpoint(&model, outbound(ip, 8080));
        let aliases: Vec<_> = target
            .aliases
            .iter()
            .map(|a| a.service.clone().unwrap())
            .collect();
        assert_eq!(
            aliases,
            [
                service("canary", 80),
                service("canary", 81),
                service("checkout", 80)
            ]
        );
        assert_eq!(
            target.aliases[2].authorities[..3],
            ["checkout:80", "checkout", "checkout.demo:80"]
        );
        let inner = target.policy.unwrap();
        assert_eq!(
            inner.service,
            Some(ServiceRef {
                namespace: "demo".into(),
                name: "both-1".into(),
                port: 8080
            })
        );
        assert_eq!(
            millis(inner.routes[0].timeouts.as_ref().unwrap().request.as_ref()),
            Some(7_000)
        );
    }
    // No service: the workload's own word on the protocol.
    let target = to_endpoint(&model, outbound("10.42.0.6", 7000));
    assert_eq!(
        (target.aliases.len(), target.policy.unwrap().protocol()),
        (0, Protocol::Opaque)
    );
    // An address without a workload.
    let target = to_endpoint(&model, outbound("10.42.9.9", 5001));
    assert_eq!(target.policy.unwrap().service, Some(service("only", 5000)));

    for (ip, port) in [
        ("10.42.77.77", 80),
        ("10.96.0.10", 81),
        ("10.42.9.9", 1),
        ("10.42.0.6", 0),
        ("10.42.0.6", 70_000),
    ] {
        assert!(
            matches!(
                ask(&model, &web(), outbound(ip, port)),
                update::Resource::NotFound(_)
            ),
            "{ip} {port}"
        );
    }
}

#[test]
fn inbound_is_what_all_services_of_a_port_agree_to() {
    let allow = |name: &str| {
        format!(
            "authorization: {{allow: [{{principals: [{name}], methods: [GET], paths: [/, /a/]}}]}}"
        )
    };
    let model = mesh(&[
        policy(
            "a",
            "demo",
            &format!(
                "targetRefs: [{{name: checkout}}], mtls: {{mode: Permissive}}, {}",
                allow("{serviceAccount: {name: web}}")
            ),
        ),
        policy(
            "b",
            "demo",
            &format!(
                "targetRefs: [{{name: canary}}], mtls: {{mode: Strict}}, {}",
                allow("{serviceAccount: {namespace: ops, name: '*'}}, {spiffeId: 'spiffe://x/y'}")
            ),
        ),
        policy(
            "n",
            "ops",
            "targetRefs: [{kind: Namespace, name: ops}], authorization: {mode: Audit, allow: []}",
        ),
    ]);
    let both = inbound(&model, "both-1", "both", 8080).unwrap();
    assert_eq!(both.mtls(), MtlsMode::Strict);
    // checkout says "http", which is found out; canary's word stands alone.
    assert_eq!(both.protocol(), Protocol::Http1);
    assert_eq!(
        both.services,
        [
            service("canary", 80),
            service("canary", 81),
            service("checkout", 80)
        ]
    );
    assert_eq!(both.probes.len(), 1);
    assert!(!both.terminating);
    let lists = both.authorization.unwrap().lists;
    assert_eq!(lists.len(), 2);
    assert_eq!(
        lists[0].entries[0].principals,
        ["spiffe://weft.local/ns/ops/sa/*", "spiffe://x/y"]
    );
    assert_eq!(
        lists[1].entries[0].principals,
        ["spiffe://weft.local/ns/demo/sa/web"]
    );
    assert_eq!(lists[1].entries[0].paths, ["/", "/a"]);
    assert!(!lists[0].audit);

    assert_eq!(
        inbound(&model, "checkout-1", "checkout", 9000)
            .unwrap()
            .protocol(),
        Protocol::Http2
    );
    assert_eq!(
        inbound(&model, "checkout-1", "checkout", 9001)
            .unwrap()
            .protocol(),
        Protocol::Opaque
    );
    assert!(
        inbound(&model, "checkout-2", "checkout", 8080)
            .unwrap()
            .terminating
    );

    // Ports that nobody declares, and the namespace's policy as such.
    let rest = inbound(&model, "both-1", "both", 0).unwrap();
    assert_eq!(
        (rest.mtls(), rest.authorization, rest.services.len()),
        (MtlsMode::Permissive, None, 0)
    );
    let mut ops = client("other-1", "default");
    ops.namespace = "ops".into();
    let update::Resource::Inbound(ops) =
        ask(&model, &ops, Kind::Inbound(InboundKey { port: 5001 }))
    else {
        panic!()
    };
    assert!(ops.authorization.unwrap().lists[0].audit);

    // What no policy speaks of is the mesh's default.
    let file = format!("defaults: {{authorization: SameNamespace}}\n{MESH}");
    let model = model_of(&[("mesh.yaml", &file)]);
    let rest = inbound(&model, "both-1", "both", 0).unwrap();
    let lists = rest.authorization.unwrap().lists;
    let principals = &lists[0].entries[0].principals;
    assert_eq!(*principals, ["spiffe://weft.local/ns/demo/sa/*"]);

    // Somebody else's workload.
    assert_eq!(inbound(&model, "both-1", "web", 8080), None);
    assert_eq!(inbound(&model, "gone", "web", 8080), None);
}

#[test]
fn endpoints_are_all_that_may_get_traffic() {
    let model = mesh(&[]);
    let all = endpoints(&model, "checkout", 80);
    let known: Vec<_> = all
        .endpoints
        .iter()
        .map(|e| (&*e.workload, &*e.spiffe_id, &*e.zone))
        .collect();
    assert_eq!(
        known,
        [
            ("both-1", "spiffe://weft.local/ns/demo/sa/both", "b"),
            ("checkout-1", "spiffe://weft.local/ns/demo/sa/checkout", ""),
            ("legacy-1", "", ""),
            ("", "", ""),
        ]
    );
    assert!(
        all.endpoints
            .iter()
            .all(|e| e.weight == 1 && e.namespace == "demo")
    );
    let address = all.endpoints[1].address.as_ref().unwrap();
    assert_eq!(
        (address.ip.as_ref(), address.port),
        ([10, 42, 0, 7].as_slice(), 8080)
    );
    // The service's own family.
    let v6 = endpoints(&model, "canary", 80);
    assert!(
        v6.endpoints
            .iter()
            .all(|e| e.address.as_ref().unwrap().ip.len() == 16)
    );
    assert_eq!(endpoints(&model, "db", 5432).endpoints, []);
    let unknown = Kind::Endpoints(EndpointsKey {
        service: Some(service("db", 1)),
    });
    assert!(matches!(
        ask(&model, &web(), unknown),
        update::Resource::NotFound(_)
    ));

    // Where plaintext is what clients are promised there is no identity, but the strictest service
    // that leads to a port decides.
    let model = mesh(&[policy(
        "p",
        "demo",
        "targetRefs: [{name: checkout}], mtls: {mode: Disabled}",
    )]);
    assert!(
        endpoints(&model, "checkout", 80)
            .endpoints
            .iter()
            .all(|e| e.spiffe_id.is_empty())
    );
    let model = mesh(&[
        policy(
            "p",
            "demo",
            "targetRefs: [{name: checkout}], mtls: {mode: Disabled}",
        ),
        policy(
            "q",
            "demo",
            "targetRefs: [{name: canary}], mtls: {mode: Strict}",
        ),
    ]);
    let promised = |e: &&weft_proto::discovery::Endpoint| !e.spiffe_id.is_empty();
    assert_eq!(
        endpoints(&model, "checkout", 80)
            .endpoints
            .iter()
            .filter(promised)
            .count(),
        2
    );
    assert_eq!(
        endpoints(&model, "checkout", 9000)
            .endpoints
            .iter()
            .filter(promised)
            .count(),
        0
    );
}
