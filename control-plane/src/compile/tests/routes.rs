use weft_proto::discovery::path_match::Kind as Path;
use weft_proto::discovery::route_filters::Target as FilterTarget;

use super::*;

fn route(kind: &str, name: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rules}]}}}}\n"
    )
}

fn with(manifests: &[String]) -> Model {
    model_of(&[("mesh.yaml", MESH), ("p.yaml", &manifests.concat())])
}

fn refused<'a>(model: &'a Model, object: &str) -> Vec<&'a str> {
    let refusals = model.refusals().iter();
    let refusals = refusals.filter(|refusal| refusal.object == object);
    refusals.map(|refusal| refusal.reason.as_str()).collect()
}

fn of_namespace(model: &Model, namespace: &str) -> ServiceTarget {
    let client = Client {
        namespace: namespace.into(),
        ..web()
    };
    match ask(model, &client, outbound("10.96.0.10", 80)) {
        update::Resource::Outbound(Outbound {
            target: Some(Target::Service(target)),
        }) => target,
        other => panic!("no service: {other:?}"),
    }
}

fn names(target: &ServiceTarget) -> Vec<&str> {
    target
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect()
}

#[test]
fn a_route_has_matching_and_weights_and_policy_the_rest() {
    let model = with(&[
        route(
            "HTTPRoute",
            "r",
            "demo",
            "name: checkout, port: 80",
            "{matches: [{path: {value: /}}, {path: {type: Exact, value: /a}}], timeouts: {request: 0s, backendRequest: 200ms}, \
              backendRefs: [{name: checkout, port: 80, weight: 9}, {name: canary, port: 81, weight: 1}, {name: gone, port: 80, weight: 0}]}, \
             {name: other, matches: [{path: {value: /b}}, {path: {value: /bb}}], backendRefs: [{name: canary, port: 80}]}",
        ),
        policy(
            "p",
            "demo",
            "targetRefs: [{name: checkout}], timeouts: {request: 3s, idle: 5s}, \
            split: {backends: [{name: canary}], sticky: {type: Header, name: x-user}}, rules: [{name: mine, matches: [{}], retries: {attempts: 0}}]",
        ),
    ]);
    let target = to_service(&model, outbound("10.96.0.10", 80));
    // An exact path, the longest prefixes of one rule together, and then everything.
    assert_eq!(names(&target), ["r", "other", "r"]);
    assert_eq!(target.routes[1].matches.len(), 2);
    let first = &target.routes[0];
    let timeouts = first.timeouts.as_ref().unwrap();
    assert_eq!(timeouts.request, None);
    assert!(timeouts.per_try.is_some() && timeouts.idle.is_some());
    assert!(
        target.routes[1]
            .timeouts
            .as_ref()
            .unwrap()
            .request
            .is_some()
    );
    let split = first.split.as_ref().unwrap();
    let sides: Vec<_> = split
        .backends
        .iter()
        .map(|it| (it.weight, it.unusable.is_empty()))
        .collect();
    assert_eq!(sides, [(9, true), (1, true), (0, false)]);
    assert!(split.sticky.is_some());
    // Bytes go to the service itself.
    let bytes = &target.bytes.as_ref().unwrap().backends[0];
    assert_eq!(
        target.backends[bytes.backend as usize].service,
        Some(service("checkout", 80))
    );
    let said = refused(&model, "TrafficPolicy demo/p");
    assert!(
        said.iter().any(|it| it.starts_with(
            "Overridden: spec.rules and spec.split.backends of service demo/checkout port 80"
        )),
        "{said:?}"
    );
    assert!(
        refused(&model, "HTTPRoute demo/r")
            .iter()
            .any(|it| it.starts_with("BackendNotFound"))
    );
    // The other port has no route, and the pods' own addresses neither.
    assert_eq!(
        names(&to_service(&model, outbound("10.96.0.10", 9000))),
        ["mine", "default"]
    );
    let direct = to_endpoint(&model, outbound("10.42.0.8", 8080));
    assert_eq!(names(&direct.policy.unwrap()), ["mine", "default"]);
}

#[test]
fn consumers_have_their_own_and_grpc_goes_first() {
    let to = |name| format!("{{backendRefs: [{{name: {name}, namespace: demo, port: 80}}]}}");
    let model = with(&[
        route(
            "HTTPRoute",
            "producer",
            "demo",
            "name: checkout",
            &to("checkout"),
        ),
        route(
            "HTTPRoute",
            "consumer",
            "ops",
            "name: checkout, namespace: demo",
            &to("canary"),
        ),
        route(
            "HTTPRoute",
            "unlucky",
            "demo",
            "name: canary",
            &to("checkout"),
        ),
        route(
            "GRPCRoute",
            "grpc",
            "demo",
            "name: canary",
            "{matches: [{method: {service: a.B, method: C}}, {method: {method: C.D}}, {method: {type: RegularExpression, service: 'x.*'}}], \
              backendRefs: [{name: canary, port: 80}]}",
        ),
        route("HTTPRoute", "lost", "demo", "name: nobody", &to("checkout")),
        route(
            "HTTPRoute",
            "far",
            "demo",
            "name: checkout, port: 80",
            "{backendRefs: [{name: db, namespace: ops, port: 5432}]}",
        ),
    ]);
    assert_eq!(names(&of_namespace(&model, "demo")), ["far", "producer"]);
    assert_eq!(names(&of_namespace(&model, "ops")), ["consumer"]);
    assert!(
        refused(&model, "HTTPRoute demo/unlucky")[0].starts_with("Conflicted: GRPCRoute demo/grpc")
    );
    assert!(refused(&model, "HTTPRoute demo/lost")[0].starts_with("NoMatchingParent"));
    assert!(refused(&model, "HTTPRoute demo/far")[0].starts_with("RefNotPermitted"));
    assert_eq!(refused(&model, "HTTPRoute ops/consumer"), [""; 0]);

    let target = to_service(
        &model,
        Kind::Authority(AuthorityKey {
            authority: "canary:80".into(),
        }),
    );
    let matches = target.routes.iter().flat_map(|route| &route.matches);
    let paths: Vec<_> = matches
        .clone()
        .map(|it| it.path.clone().unwrap().kind.unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            Path::Exact("/a.B/C".into()),
            Path::Regex("/(?:x.*)/(?:[^/]+)".into()),
            Path::Regex(r"/[^/]+/C\.D".into()),
        ]
    );
    assert!(matches.clone().all(|it| it.grpc));
}

#[test]
fn filters_reach_the_wire_resolved() {
    let model = with(&[route(
        "HTTPRoute",
        "r",
        "demo",
        "name: checkout",
        "{matches: [{path: {value: /old/}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}, \
         {matches: [{path: {value: /tls}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}, \
         {matches: [{path: {value: /a}}, {path: {value: /bb}}], backendRefs: [{name: checkout, port: 80}], \
          filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}, {type: RequestMirror, requestMirror: {backendRef: {name: canary, port: 81}, percent: 5}}]}",
    )]);
    let target = to_service(&model, outbound("10.96.0.10", 9000));
    let [old, tls, long, short] = &*target.routes else {
        panic!("{:?}", names(&target))
    };
    let redirect =
        |route: &weft_proto::discovery::Route| match route.filters.clone().unwrap().target {
            Some(FilterTarget::Redirect(redirect)) => redirect,
            other => panic!("{other:?}"),
        };
    assert_eq!(
        (
            redirect(old).port,
            &*redirect(old).scheme,
            redirect(old).status
        ),
        (9000, "http", 302)
    );
    assert_eq!(redirect(tls).port, 443);
    // Matches that replace different prefixes are routes of their own.
    assert_ne!(long.filters, short.filters);
    let mirror = long.split.as_ref().unwrap().mirror.as_ref().unwrap();
    assert_eq!(
        target.backends[mirror.backend as usize].service,
        Some(service("canary", 81))
    );
    assert_eq!((mirror.share, mirror.out_of), (5, 100));
}
