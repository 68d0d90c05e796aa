use std::cmp::Ordering;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::status::{
    CONTROLLER, Reason, RouteParentStatus, RouteStatus, Verdict, of_refused, status,
};
use super::*;
use crate::policy::{ConditionStatus, HeaderMatchType};

#[allow(clippy::needless_pass_by_value)] // What `json!` makes is used once.
fn read(kind: RouteKind, spec: Value) -> Result<Route, Vec<String>> {
    let manifest = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind.as_str(),
        "metadata": {"name": "r", "namespace": "shop", "generation": 3, "labels": {"a": "b"}},
        "spec": spec,
        "status": {"parents": []},
    });
    Route::read(kind, &manifest).map_err(|violations| {
        let violations = violations.into_iter();
        violations
            .map(|it| format!("{}: {}", it.path, it.reason))
            .collect()
    })
}

fn http(spec: Value) -> Result<Route, Vec<String>> {
    read(RouteKind::Http, spec)
}

#[allow(clippy::needless_pass_by_value)] // What `json!` makes is used once.
fn rule(rule: Value) -> Result<Route, Vec<String>> {
    http(json!({"rules": [rule]}))
}

#[test]
fn what_is_not_said_is_what_the_api_says() {
    let route = http(json!({"parentRefs": [
        {"kind": "Service", "group": "", "name": "a"},
        {"kind": "Service", "group": "core", "name": "b", "namespace": "other", "port": 80, "extra": 1},
        {"name": "gateway"},
    ]}))
    .unwrap();
    let parents: Vec<_> = route
        .parents
        .iter()
        .map(|it| (&*it.namespace, &*it.name, it.port))
        .collect();
    assert_eq!(parents, [("shop", "a", None), ("other", "b", Some(80))]);
    assert_eq!(route.parents[1].written["extra"], 1);
    assert_eq!(route.generation, Some(3));
    let [only] = &*route.rules else {
        panic!("{:?}", route.rules)
    };
    assert_eq!(only.matches, [RouteMatch::default()]);

    let route =
        rule(json!({"backendRefs": [{"name": "v1", "port": 80}], "sessionPersistence": {}}))
            .unwrap();
    let backend = &route.rules[0].backends[0];
    assert_eq!((backend.weight, &*backend.reference.namespace), (1, "shop"));
    assert_eq!(route.rules[0].ignored, ["spec.rules[0].sessionPersistence"]);
    assert!(read(RouteKind::Grpc, json!({})).unwrap().rules.is_empty());
}

#[test]
fn bad_values_are_refused_at_their_field() {
    let filter = |filter: Value| json!({"filters": [filter]});
    let edits = |name: &str| {
        filter(
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": [name]}}),
        )
    };
    for (given, place) in [
        (
            json!({"matches": [{"path": {"value": "a"}}]}),
            "matches[0].path.value",
        ),
        (
            json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}),
            "matches[0].path",
        ),
        (
            json!({"matches": [{"path": {"type": "Suffix", "value": "/"}}]}),
            "matches[0]",
        ),
        (json!({"matches": [{"method": "FETCH"}]}), "matches[0]"),
        (
            json!({"matches": [{"headers": [{"name": "a b", "value": "c"}]}]}),
            "matches[0].headers",
        ),
        (
            json!({"backendRefs": [{"name": "v1"}]}),
            "backendRefs[0].port",
        ),
        (
            json!({"backendRefs": [{"name": "v1", "port": 80, "weight": 1_000_001}]}),
            "backendRefs[0].weight",
        ),
        (json!({"timeouts": {"request": "soon"}}), ""),
        (
            json!({"timeouts": {"request": "1s", "backendRequest": "2s"}}),
            "timeouts.backendRequest",
        ),
        (json!({"retry": {"attempts": 11}}), "retry.attempts"),
        (
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 200}})),
            "filters[0].requestRedirect.statusCode",
        ),
        (filter(json!({"type": "RequestRedirect"})), "filters[0]"),
        (
            filter(
                json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replacePrefixMatch": "/"}}}),
            ),
            "filters[0].path",
        ),
        (edits("x-weft-outcome"), "filters[0]"),
        (edits("Connection"), "filters[0]"),
        (edits("Host"), "filters[0]"),
        (
            json!({
                "matches": [{"path": {"type": "Exact", "value": "/a"}}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}],
            }),
            "filters",
        ),
    ] {
        let found = rule(given.clone()).expect_err(&given.to_string());
        let place = format!("spec.rules[0].{place}");
        let place = place.trim_end_matches('.');
        assert!(
            found.iter().any(|it| it.starts_with(place)),
            "{given}: {found:?}"
        );
    }
}

#[test]
fn what_cannot_be_done_is_kept_in_its_rule() {
    for filter in ["CORS", "ExternalAuth", "ExtensionRef"] {
        let route = rule(json!({"filters": [{"type": filter}]})).unwrap();
        assert_eq!(
            route.rules[0].unsupported,
            [format!("spec.rules[0].filters[0]: filter {filter}")]
        );
    }
    let of_backend =
        json!({"backendRefs": [{"name": "a", "port": 1, "filters": [{"type": "RequestMirror"}]}]});
    let route = rule(of_backend).unwrap();
    assert!(route.rules[0].backends[0].unsupported.is_some());
    let mirror = |part: Value| {
        let mut mirror = json!({"backendRef": {"name": "m", "port": 80}});
        mirror
            .as_object_mut()
            .unwrap()
            .extend(part.as_object().unwrap().clone());
        let route =
            rule(json!({"filters": [{"type": "RequestMirror", "requestMirror": mirror}]})).unwrap();
        let rule = route.rules.into_iter().next().unwrap();
        (
            rule.filters.mirror.map(|it| (it.share, it.out_of)),
            rule.unsupported.len(),
        )
    };
    assert_eq!(mirror(json!({})), (Some((100, 100)), 0));
    assert_eq!(mirror(json!({"percent": 10})), (Some((10, 100)), 0));
    assert_eq!(
        mirror(json!({"fraction": {"numerator": 1, "denominator": 4}})),
        (Some((1, 4)), 0)
    );
    assert_eq!(
        mirror(json!({"fraction": {"numerator": 1, "denominator": 1000}})),
        (Some((1, 1000)), 0)
    );
}

#[test]
fn grants_are_for_kinds_and_namespaces() {
    let grant = ReferenceGrant::read(&json!({
        "metadata": {"name": "g", "namespace": "ops"},
        "spec": {
            "from": [{"group": GROUP, "kind": "HTTPRoute", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Service", "name": "a"}],
        },
    }))
    .unwrap();
    let route = http(json!({})).unwrap();
    let to = |namespace: &str, name: &str| BackendRef {
        group: "core".into(),
        kind: "Service".into(),
        namespace: namespace.into(),
        name: name.into(),
        port: Some(80),
    };
    assert!(grant.permits(&route, &to("ops", "a")));
    assert!(!grant.permits(&route, &to("ops", "b")));
    assert!(!grant.permits(&route, &to("elsewhere", "a")));
    let grpc = read(RouteKind::Grpc, json!({})).unwrap();
    assert!(!grant.permits(&grpc, &to("ops", "a")));
}

/// The API's words, one by one.
fn reference(a: &RouteMatch, b: &RouteMatch) -> Ordering {
    let rank = |it: &RouteMatch| match it.path {
        RoutePath::Exact(_) => 0,
        RoutePath::Regex(_) => 1,
        RoutePath::Prefix(_) | RoutePath::Grpc { .. } => 2,
    };
    let lengths = |it: &RouteMatch| match &it.path {
        RoutePath::Exact(path) | RoutePath::Regex(path) => (path.len(), 0),
        RoutePath::Prefix(path) => (path.trim_end_matches('/').len(), 0),
        RoutePath::Grpc {
            service, method, ..
        } => {
            let length = |part: &Option<String>| part.as_deref().unwrap_or_default().len();
            (length(service), length(method))
        }
    };
    rank(a)
        .cmp(&rank(b))
        .then(lengths(b).cmp(&lengths(a)))
        .then(b.method.is_some().cmp(&a.method.is_some()))
        .then(b.headers.len().cmp(&a.headers.len()))
        .then(b.query.len().cmp(&a.query.len()))
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let text = "/[a-c]{0,3}/?";
    let path = prop_oneof![
        text.prop_map(RoutePath::Exact),
        text.prop_map(RoutePath::Prefix),
        text.prop_map(RoutePath::Regex),
        (
            prop::option::of("[a-c]{1,3}"),
            prop::option::of("[a-c]{1,3}")
        )
            .prop_map(|(service, method)| {
                RoutePath::Grpc {
                    service,
                    method,
                    regex: false,
                }
            }),
    ];
    (path, any::<bool>(), 0..3_usize, 0..3_usize).prop_map(|(path, method, headers, query)| {
        RouteMatch {
            path,
            method: method.then_some(Method::Get),
            headers: (0..headers)
                .map(|at| HeaderMatch {
                    name: format!("h{at}"),
                    kind: HeaderMatchType::Exact,
                    value: Some("v".into()),
                })
                .collect(),
            query: (0..query)
                .map(|at| RouteQuery {
                    name: format!("q{at}"),
                    value: "v".into(),
                    regex: false,
                })
                .collect(),
        }
    })
}

fn any_routes() -> impl Strategy<Value = Vec<Arc<Route>>> {
    let rules = prop::collection::vec(prop::collection::vec(any_match(), 1..4), 0..4);
    let created = prop::option::of("202[0-3]-01-01T00:00:00Z");
    prop::collection::vec((rules, created, "[a-c]"), 0..4).prop_map(|routes| {
        let routes = routes.into_iter().map(|(rules, created, name)| {
            Arc::new(Route {
                kind: RouteKind::Http,
                namespace: "shop".into(),
                name,
                creation_timestamp: created,
                generation: None,
                parents: Vec::new(),
                rules: rules
                    .into_iter()
                    .map(|matches| RouteRule {
                        matches,
                        ..RouteRule::default()
                    })
                    .collect(),
            })
        });
        routes.collect()
    })
}

proptest! {
    /// The order is total, keeps every match once, and agrees with the naive reading pair by pair.
    #[test]
    fn precedence_is_the_apis(routes in any_routes()) {
        let all = ordered(&routes);
        let count: usize = routes.iter().flat_map(|it| &it.rules).map(|it| it.matches.len()).sum();
        let distinct: std::collections::BTreeSet<_> = all.iter().copied().collect();
        prop_assert_eq!((all.len(), distinct.len()), (count, count));
        let entry = |at: &MatchRef| &routes[at.route].rules[at.rule].matches[at.entry];
        for (index, first) in all.iter().enumerate() {
            for second in &all[index + 1..] {
                let wanted = reference(entry(first), entry(second))
                    .then_with(|| routes[first.route].age().cmp(&routes[second.route].age()))
                    .then(first.cmp(second));
                prop_assert_eq!(wanted, Ordering::Less, "{:?} before {:?}", first, second);
            }
        }
    }
}

const NOW: &str = "2026-01-02T00:00:00Z";
const BEFORE: &str = "2026-01-01T00:00:00Z";

/// As Flagger writes it.
fn attached() -> Route {
    http(json!({"parentRefs": [
        {"group": "core", "kind": "Service", "name": "podinfo", "namespace": "shop", "port": 9898},
    ]}))
    .unwrap()
}

fn of<'a>(status: &'a RouteStatus, kind: &str) -> &'a crate::policy::Condition {
    let mut conditions = status.parents.iter().flat_map(|it| &it.conditions);
    conditions.find(|it| it.kind == kind).unwrap()
}

#[test]
fn statuses_copy_the_parent_and_observe_the_generation() {
    let route = attached();
    let fine = status(
        &route,
        &[Verdict::default()],
        &RouteStatus::default(),
        BEFORE,
    )
    .unwrap();
    let [entry] = &*fine.parents else {
        panic!("{fine:?}")
    };
    assert_eq!(entry.controller_name, CONTROLLER);
    assert_eq!(
        entry.parent_ref,
        json!({"group": "core", "kind": "Service", "name": "podinfo", "namespace": "shop", "port": 9898})
    );
    for kind in ["Accepted", "ResolvedRefs"] {
        let condition = of(&fine, kind);
        assert_eq!(condition.status, ConditionStatus::True);
        assert_eq!(condition.reason, kind);
        assert_eq!(condition.observed_generation, Some(3));
    }
    // The same again is not written.
    assert_eq!(status(&route, &[Verdict::default()], &fine, NOW), None);

    let missing = Verdict {
        unresolved: Some(Reason::new("BackendNotFound", "there is no service a")),
        ..Verdict::default()
    };
    let broken = status(&route, &[missing], &fine, NOW).unwrap();
    let refs = of(&broken, "ResolvedRefs");
    assert_eq!(
        (refs.status, &*refs.reason),
        (ConditionStatus::False, "BackendNotFound")
    );
    assert_eq!(refs.last_transition_time, NOW);
    assert_eq!(of(&broken, "Accepted").last_transition_time, BEFORE);
}

#[test]
fn others_entries_stay_and_newer_ones_are_not_overwritten() {
    let route = attached();
    let other = RouteParentStatus {
        parent_ref: json!({"name": "gateway"}),
        controller_name: "example.org/gateway".into(),
        conditions: Vec::new(),
    };
    let before = RouteStatus {
        parents: vec![other.clone()],
    };
    let after = status(&route, &[Verdict::default()], &before, NOW).unwrap();
    assert_eq!(after.parents.len(), 2);
    assert!(after.parents.contains(&other));

    let mut newer = after.clone();
    for condition in newer.parents.iter_mut().flat_map(|it| &mut it.conditions) {
        condition.observed_generation = Some(4);
    }
    assert_eq!(status(&route, &[Verdict::default()], &newer, NOW), None);

    // A parent that is gone takes its entry along.
    let without = Route {
        parents: Vec::new(),
        ..route
    };
    assert_eq!(status(&without, &[], &after, NOW), Some(before));
}

#[test]
fn what_could_not_be_read_is_said_at_every_parent() {
    let manifest = json!({
        "metadata": {"name": "r", "namespace": "shop", "generation": 7},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "a"}, {"name": "gateway"}],
            "rules": [{"matches": [{"path": {"value": "a"}}]}],
        },
    });
    let violations = Route::read(RouteKind::Http, &manifest).unwrap_err();
    let status = of_refused(&manifest, &violations, false, &RouteStatus::default(), NOW).unwrap();
    assert_eq!(status.parents.len(), 1);
    let accepted = of(&status, "Accepted");
    assert_eq!(
        (accepted.status, &*accepted.reason),
        (ConditionStatus::False, "UnsupportedValue")
    );
    assert_eq!(accepted.observed_generation, Some(7));
    assert!(
        accepted
            .message
            .contains("spec.rules[0].matches[0].path.value")
    );
}
