//! Whatever the order in which the watches get a word in, the model is the same.

use proptest::prelude::*;
use serde_json::json;

use super::super::store::{Change, Cluster};
use super::{applied, pod_json, policy_json, route_json, service_json, settings, slice_json};

/// Each watch's own changes, in its own order.
fn watches() -> Vec<Vec<Change>> {
    let both = [("web-1", "10.0.0.1", true), ("web-2", "10.0.0.2", true)];
    let retries = |attempts: i32| {
        let targets = json!([{"kind": "Service", "name": "web"}]);
        policy_json(
            "p",
            &json!({"targetRefs": targets, "retries": {"attempts": attempts}}),
        )
    };
    let of = |objects: Vec<serde_json::Value>| objects.into_iter().map(applied).collect();
    vec![
        of(vec![
            service_json("web", "10.96.0.1"),
            service_json("db", "None"),
        ]),
        of(vec![
            slice_json("a", "web", 8080, &both[..1]),
            slice_json("b", "web", 9090, &both[1..]),
            slice_json("a", "web", 8080, &both),
            slice_json("c", "db", 5432, &both),
        ]),
        of(vec![
            pod_json("web-1", "10.0.0.1"),
            pod_json("web-2", "10.0.0.9"),
            pod_json("web-2", "10.0.0.2"),
        ]),
        of(vec![retries(2), retries(-1)]),
        of(vec![
            route_json("all", "db"),
            route_json("more", "db"),
            unreadable(),
        ]),
    ]
}

fn unreadable() -> serde_json::Value {
    let mut route = route_json("all", "db");
    route["spec"]["rules"] = json!("none");
    route
}

fn model_of(order: &[usize]) -> String {
    let mut watches: Vec<_> = watches().into_iter().map(Vec::into_iter).collect();
    let mut cluster = Cluster::default();
    for watch in order
        .iter()
        .map(|index| index % watches.len())
        .collect::<Vec<_>>()
    {
        if let Some(change) = watches[watch].next() {
            cluster.take(change);
        }
    }
    for change in watches.into_iter().flatten() {
        cluster.take(change);
    }
    format!("{:#?}", cluster.objects(&settings()))
}

proptest! {
    #[test]
    fn the_order_of_watches_does_not_matter(order in prop::collection::vec(0_usize..5, 0..28)) {
        prop_assert_eq!(model_of(&order), model_of(&[]));
    }
}
