//! Routes and grants: which version is in force, and what they mean together.

use serde_json::{Value, json};

use super::super::event::{Event, Urgency};
use super::super::store::{Change, Cluster};
use super::{applied, cluster, model, route_json, service_json};
use crate::index::{Model, Name};

fn shop() -> Cluster {
    cluster([
        service_json("web", "10.96.0.1"),
        service_json("other", "10.96.0.2"),
    ])
}

/// What has become of the references of `shop/all`, and where its requests go.
fn judged(model: &Model) -> (Vec<&'static str>, Vec<String>) {
    let judged = model.judged_routes();
    let route = judged.iter().find(|it| it.route.name == "all");
    let Some(route) = route else {
        return (Vec::new(), Vec::new());
    };
    let unresolved = route
        .verdicts
        .iter()
        .filter_map(|it| it.unresolved.as_ref());
    let rules = route.route.rules.iter();
    let backends = rules.flat_map(|rule| rule.backends.iter().map(|it| it.reference.name.clone()));
    (
        unresolved.map(|reason| reason.word).collect(),
        backends.collect(),
    )
}

fn bad() -> Value {
    let mut bad = route_json("all", "third");
    bad["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(-1);
    bad
}

#[test]
fn a_bad_route_is_refused_and_its_last_good_version_stays() {
    let mut shop = shop();
    shop.take(applied(bad()));
    let known = model(&shop);
    assert!(known.judged_routes().is_empty());
    let refusal = known.refusals()[0].to_string();
    assert!(
        refusal.starts_with("cluster: HTTPRoute shop/all: spec.rules[0]"),
        "{refusal}"
    );
    assert!(!refusal.contains("last good"), "{refusal}");

    shop.take(applied(route_json("all", "other")));
    assert!(model(&shop).refusals().is_empty());
    shop.take(applied(bad()));
    let known = model(&shop);
    assert_eq!(judged(&known).1, ["other"]);
    let refusal = known.refusals()[0].to_string();
    assert!(
        refusal.contains("its last good version stays in force"),
        "{refusal}"
    );

    // Another one of the same name is not what was good, and what is deleted is gone.
    let mut other = bad();
    other["metadata"]["uid"] = json!("2");
    shop.take(applied(other));
    assert!(model(&shop).judged_routes().is_empty());
    shop.take(Change::HttpRoute(Event::Deleted(Name::new("shop", "all"))));
    assert!(model(&shop).refusals().is_empty());
}

#[test]
fn grants_let_routes_refer_to_other_namespaces() {
    let mut far = service_json("far", "10.96.0.3");
    far["metadata"]["namespace"] = json!("bank");
    let mut route = route_json("all", "far");
    route["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!("bank");
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "shops", "namespace": "bank", "uid": "1"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute",
                           "namespace": "shop"}],
                 "to": [{"group": "", "kind": "Service"}]},
    });
    let mut shop = shop();
    shop.take(applied(far));
    shop.take(applied(route));
    assert_eq!(judged(&model(&shop)).0, ["RefNotPermitted"]);
    shop.take(applied(grant.clone()));
    assert!(judged(&model(&shop)).0.is_empty());

    let mut broken = grant;
    broken["spec"]["from"] = json!("everywhere");
    shop.take(applied(broken));
    let known = model(&shop);
    assert!(judged(&known).0.is_empty(), "the last good one stays");
    let refusal = known.refusals()[0].to_string();
    assert!(
        refusal.starts_with("cluster: ReferenceGrant bank/shops: "),
        "{refusal}"
    );
    shop.take(Change::Grant(Event::Deleted(Name::new("bank", "shops"))));
    assert_eq!(judged(&model(&shop)).0, ["RefNotPermitted"]);
}

#[test]
fn what_only_statuses_and_labels_say_is_no_change() {
    let mut shop = shop();
    shop.take(applied(route_json("all", "other")));
    let mut same = route_json("all", "other");
    same["status"] = json!({"parents": [{"controllerName": "x"}]});
    same["metadata"]["labels"] = json!({"a": "b"});
    same["metadata"]["resourceVersion"] = json!("9");
    assert_eq!(shop.take(applied(same)), Urgency::Nothing);
}

#[test]
fn a_kind_that_is_gone_takes_its_objects_away() {
    let mut shop = shop();
    shop.take(applied(route_json("all", "other")));
    assert_eq!(
        shop.take(Change::HttpRoute(Event::Forbidden)),
        Urgency::Nothing
    );
    assert_eq!(judged(&model(&shop)).1, ["other"]);
    assert_eq!(shop.take(Change::HttpRoute(Event::Absent)), Urgency::Now);
    assert!(model(&shop).judged_routes().is_empty());
    assert_eq!(
        shop.take(Change::HttpRoute(Event::Absent)),
        Urgency::Nothing
    );
}
