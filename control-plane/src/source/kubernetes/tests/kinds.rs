//! Kinds that come and go, and what is told beside models.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::super::observed::StatusKind;
use super::server::{
    GRANTS, GRPC_ROUTES, HTTP_ROUTES, LONG, NAMESPACES, PODS, POLICIES, Running, Server, scraped,
};
use super::{pod_json, policy_json, route_json, sent};
use crate::index::{Model, Name};
use crate::route::status::{RouteStatus, of_refused};

/// Which services a route of `shop/web` leads to; none where there is no route.
fn routed(model: &Model) -> Vec<String> {
    let service = model.service("shop", "web").unwrap();
    let routes = model.routes_of_anybody(service, &service.ports[0]);
    let backends = routes.flat_map(|route| route.rules.iter().flat_map(|rule| &rule.backends));
    backends
        .map(|backend| backend.reference.name.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn kinds_come_and_go_with_their_definitions() {
    let server = Server::with_web();
    server.uninstall(POLICIES);
    let began = Instant::now();
    let mut running = Running::start(server.clone()).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "nothing was waited for"
    );
    assert!(running.progress.missing().is_empty());
    for kind in ["TrafficPolicy", "HTTPRoute", "GRPCRoute", "ReferenceGrant"] {
        let watch = running.watch(kind);
        assert!(watch.absent && watch.trouble.is_none(), "{watch:?}");
        assert!(watch.synced && watch.errors == 0, "{watch:?}");
    }
    let served = r#"weft_control_plane_source_served{kind="TrafficPolicy"} 0"#;
    assert!(scraped(&running.progress).contains(served));

    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let took = running
        .until("a route", |model| routed(model) == ["other"])
        .await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let strict = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
                        "mtls": {"mode": "Disabled"}});
    server.install(POLICIES);
    server.put(POLICIES, policy_json("plain", &strict));
    running
        .until("a policy", |model| {
            sent(model, "web") == ["10.0.0.1:8080 -"]
        })
        .await;
    assert!(!running.watch("TrafficPolicy").absent);
    let served = r#"weft_control_plane_source_served{kind="TrafficPolicy"} 1"#;
    assert!(scraped(&running.progress).contains(served));
    let route = Name::new("shop", "all");
    let observed = Arc::clone(&running.following.observed);
    assert!(observed.find(StatusKind::HttpRoute, &route).is_some());

    server.uninstall(HTTP_ROUTES);
    let took = running
        .until("no route", |model| routed(model).is_empty())
        .await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(observed.find(StatusKind::HttpRoute, &route).is_none());
    assert!(running.watch("HTTPRoute").absent);
    assert_eq!(running.now(), ["10.0.0.1:8080 -"], "the policy stays");

    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "third"));
    running
        .until("a route again", |model| routed(model) == ["third"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn one_odd_answer_takes_nothing_away() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let running = Running::start(server.clone()).await;
    let before = running.revision();
    assert_eq!(routed(&running.models.borrow()), ["other"]);

    // Found nowhere, but discovery has it; then a server without any kinds; then none that answers.
    let kinds = std::mem::take(&mut server.0.lock().kinds);
    let asked_before = running.watch("HTTPRoute").errors;
    sleep(LONG).await;
    assert!(running.watch("HTTPRoute").errors > asked_before + 1);
    server.cut(true);
    sleep(LONG).await;
    assert_eq!(running.revision(), before);
    assert_eq!(routed(&running.models.borrow()), ["other"]);
    let trouble = running.watch("HTTPRoute").trouble.unwrap();
    assert!(trouble.contains("which kinds it has"), "{trouble}");

    server.0.lock().kinds = kinds;
    server.cut(false);
    sleep(LONG).await;
    assert_eq!(running.watch("HTTPRoute").trouble, None);
    assert_eq!(running.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn routes_that_may_not_be_read_do_not_block_the_start() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.install(GRPC_ROUTES);
    server.install(GRANTS);
    server.0.lock().forbidden = vec![HTTP_ROUTES, GRANTS];
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let mut running = Running::start(server.clone()).await;
    assert!(routed(&running.models.borrow()).is_empty());
    for kind in ["HTTPRoute", "ReferenceGrant"] {
        let watch = running.watch(kind);
        let trouble = watch.trouble.unwrap();
        assert!(
            !watch.synced && trouble.contains("may not list"),
            "{trouble}"
        );
        let down = format!(r#"weft_control_plane_source_up{{kind="{kind}"}} 0"#);
        assert!(scraped(&running.progress).contains(&down));
    }
    assert!(running.watch("GRPCRoute").synced);

    server.0.lock().forbidden.clear();
    running
        .until("a route", |model| routed(model) == ["other"])
        .await;
    sleep(LONG).await;
    assert!(running.watch("ReferenceGrant").synced);

    // What was read before stays where it may not be read any longer.
    let before = running.revision();
    server.0.lock().forbidden = vec![HTTP_ROUTES];
    server.forget();
    server.cut(false);
    sleep(LONG).await;
    assert!(running.watch("HTTPRoute").trouble.is_some());
    assert_eq!(running.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn a_status_is_observed_and_makes_no_model() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let plain = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
                        "mtls": {"mode": "Disabled"}});
    let mut policy = policy_json("plain", &plain);
    policy["metadata"]["generation"] = json!(3);
    server.put(POLICIES, policy.clone());
    let mut running = Running::start(server.clone()).await;
    let before = running.revision();
    let observed = Arc::clone(&running.following.observed);
    let (route, plain) = (Name::new("shop", "all"), Name::new("shop", "plain"));
    let seen = observed.find(StatusKind::TrafficPolicy, &plain).unwrap();
    assert_eq!((&*seen.uid, seen.generation), ("1", 3));
    assert_eq!(seen.status, json!({"conditions": []}));
    let seen = observed.find(StatusKind::HttpRoute, &route).unwrap();
    assert_eq!(seen.status, Value::Null);

    let mut changes = observed.changes();
    let mut with_status = route_json("all", "other");
    with_status["status"] = json!({"parents": [{"controllerName": "other"}]});
    server.put(HTTP_ROUTES, with_status.clone());
    policy["status"]["conditions"] = json!([{"type": "Accepted"}]);
    server.put(POLICIES, policy);
    sleep(LONG).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(running.revision(), before);
    let newer = observed.find(StatusKind::HttpRoute, &route).unwrap();
    assert_eq!(newer.status, with_status["status"]);
    assert_ne!(newer.resource_version, seen.resource_version);

    // A lost watch keeps them, a list that is made anew has not what is gone.
    server.cut(true);
    sleep(LONG).await;
    assert_eq!(observed.all(StatusKind::HttpRoute).len(), 1);
    server.put(HTTP_ROUTES, route_json("more", "third"));
    server.delete(HTTP_ROUTES, "all");
    server.forget();
    server.cut(false);
    running
        .until("the other", |model| routed(model) == ["third"])
        .await;
    let names: Vec<_> = observed.all(StatusKind::HttpRoute);
    let names: Vec<_> = names.iter().map(|(name, _)| &*name.name).collect();
    assert_eq!(names, ["more"]);
    server.delete(POLICIES, "plain");
    running.next().await;
    assert!(observed.all(StatusKind::TrafficPolicy).is_empty());
    assert!(changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn readings_say_what_a_model_was_made_of() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let mut running = Running::start(server.clone()).await;
    let mut readings = running.following.readings.clone();
    let key = (StatusKind::HttpRoute, Name::new("shop", "all"));
    let first = readings.borrow_and_update().clone();
    assert_eq!(first.revision, running.revision());
    assert_eq!(first.objects[&key].generation, 1);
    assert_eq!(first.objects[&key].refused, None);

    let mut bad = route_json("all", "third");
    bad["metadata"]["generation"] = json!(2);
    bad["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(-1);
    server.put(HTTP_ROUTES, bad.clone());
    running.next().await;
    timeout(LONG, readings.changed()).await.unwrap().unwrap();
    let second = readings.borrow_and_update().clone();
    assert_eq!(second.revision, running.revision());
    let reading = &second.objects[&key];
    assert_eq!((reading.generation, reading.last_good_stays), (2, true));
    let refused = reading.refused.as_ref().unwrap();
    assert_eq!(routed(&running.models.borrow()), ["other"]);

    let before = RouteStatus::default();
    let said = of_refused(
        &refused.manifest,
        &refused.violations,
        reading.last_good_stays,
        &before,
        "2026-11-21T10:00:00Z",
    );
    let said = said.unwrap();
    assert_eq!(said.parents.len(), 1);
    assert_eq!(said.parents[0].parent_ref, bad["spec"]["parentRefs"][0]);
    let accepted = &said.parents[0].conditions[0];
    assert_eq!(accepted.observed_generation, Some(2));
    assert!(
        accepted.message.contains("spec.rules[0]"),
        "{}",
        accepted.message
    );
}

#[tokio::test(start_paused = true)]
async fn namespaces_that_want_sidecars_are_known() {
    let namespace = |name: &str, label: Option<&str>, ending: bool| {
        let ending = ending.then_some("2026-11-21T10:00:00Z");
        let labels = label.map(|label| json!({"weft.dev/inject": label}));
        json!({"metadata": {"name": name, "labels": labels, "deletionTimestamp": ending}})
    };
    let server = Server::with_web();
    for object in [
        namespace("shop", Some("enabled"), false),
        namespace("off", Some("disabled"), false),
        namespace("plain", None, false),
        namespace("ending", Some("enabled"), true),
    ] {
        server.put(NAMESPACES, object);
    }
    let running = Running::start(server.clone()).await;
    let before = running.revision();
    let mut injected = running.following.injected.clone();
    let names = |known: &BTreeSet<String>| known.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&injected.borrow_and_update()), "shop");

    server.put(NAMESPACES, namespace("plain", Some("enabled"), false));
    timeout(LONG, injected.changed()).await.unwrap().unwrap();
    assert_eq!(names(&injected.borrow_and_update()), "plain shop");
    server.put(NAMESPACES, namespace("shop", Some("enabled"), true));
    timeout(LONG, injected.changed()).await.unwrap().unwrap();
    assert_eq!(names(&injected.borrow_and_update()), "plain");
    server.put(NAMESPACES, namespace("off", None, false));
    server.cut(true);
    sleep(LONG).await;
    assert!(!injected.has_changed().unwrap());
    assert_eq!(running.revision(), before, "no part of the model");
}

#[tokio::test(start_paused = true)]
async fn namespaces_where_a_pod_has_a_sidecar_are_told() {
    let in_ = |mut pod: Value, namespace: &str| {
        pod["metadata"]["namespace"] = json!(namespace);
        pod
    };
    let mut waiting = in_(pod_json("waiting", "10.0.0.8"), "lone");
    waiting["status"] = json!({"phase": "Pending"});
    let mut plain = in_(pod_json("plain", "10.0.0.9"), "plain");
    plain["spec"]["initContainers"] = json!([]);
    let ending =
        json!({"metadata": {"name": "ending", "deletionTimestamp": "2026-11-21T10:00:00Z"}});
    let server = Server::with_web();
    for pod in [
        waiting.clone(),
        plain,
        in_(pod_json("late", "10.0.1.1"), "ending"),
    ] {
        server.put(PODS, pod);
    }
    server.put(NAMESPACES, ending);
    let running = Running::start(server.clone()).await;
    let mut injected = running.following.injected.clone();
    let names = |known: &BTreeSet<String>| known.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&injected.borrow_and_update()), "lone shop");

    // As long as there is any: it runs, another one comes, the first one goes.
    waiting["status"] = json!({"phase": "Running"});
    server.put(PODS, waiting.clone());
    let mut second = in_(pod_json("second", "10.0.0.10"), "lone");
    server.put(PODS, second.clone());
    server.delete(PODS, "waiting");
    sleep(LONG).await;
    assert!(!injected.has_changed().unwrap());

    // Until the last one has ended, or gone; and a label keeps it.
    second["status"]["phase"] = json!("Succeeded");
    server.put(PODS, second);
    timeout(LONG, injected.changed()).await.unwrap().unwrap();
    assert_eq!(names(&injected.borrow_and_update()), "shop");
    server.put(PODS, waiting);
    timeout(LONG, injected.changed()).await.unwrap().unwrap();
    assert_eq!(names(&injected.borrow_and_update()), "lone shop");
    let label = json!({"weft.dev/inject": "enabled"});
    server.put(
        NAMESPACES,
        json!({"metadata": {"name": "lone", "labels": label}}),
    );
    server.delete(PODS, "waiting");
    sleep(LONG).await;
    assert!(!injected.has_changed().unwrap());
}
