//! Policies that are refused alone.

use serde_json::{Value, json};

use super::super::event::{Event, Urgency};
use super::super::store::{Change, Cluster};
use super::{applied, cluster, model, pod_json, policy, policy_json, service_json, slice_json};
use crate::index::Model;

fn good() -> Value {
    policy_json("web", &spec("Strict", &json!(2)))
}

fn bad() -> Value {
    policy_json("web", &spec("Strict", &json!(-1)))
}

fn spec(mode: &str, attempts: &Value) -> Value {
    json!({"targetRefs": [{"kind": "Service", "name": "web"}], "mtls": {"mode": mode},
           "retries": {"attempts": attempts}})
}

fn shop() -> Cluster {
    cluster([
        service_json("web", "10.96.0.1"),
        pod_json("web-1", "10.0.0.1"),
        slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", true)]),
    ])
}

fn retries(model: &Model) -> Option<u32> {
    let service = model.service("shop", "web").unwrap();
    let stanzas = model.policy(service, &service.ports[0]);
    stanzas.retries.as_ref().map(|retries| retries.attempts)
}

fn strict(model: &Model) -> bool {
    let service = model.service("shop", "web").unwrap();
    model.policy(service, &service.ports[0]).mtls == Some(crate::policy::MtlsMode::Strict)
}

#[test]
fn the_last_good_version_stays() {
    let mut shop = shop();
    shop.take(applied(good()));
    assert_eq!(retries(&model(&shop)), Some(2));
    assert_eq!(shop.take(applied(bad())), Urgency::Now);
    let known = model(&shop);
    assert_eq!(retries(&known), Some(2));
    let refusal = known.refusals()[0].to_string();
    assert!(
        refusal.starts_with("cluster: TrafficPolicy shop/web: "),
        "{refusal}"
    );
    assert!(
        refusal.contains("its last good version stays in force"),
        "{refusal}"
    );

    // Over a list that is made anew, too.
    let (name, object) = policy(bad());
    for event in [
        Event::Restarted,
        Event::Listed(name, object),
        Event::Complete,
    ] {
        shop.take(Change::Policy(event));
    }
    assert_eq!(retries(&model(&shop)), Some(2));

    // Another one of the same name is not what was good.
    let mut other = bad();
    other["metadata"]["uid"] = json!("2");
    shop.take(applied(other));
    let known = model(&shop);
    assert_eq!((retries(&known), strict(&known)), (None, true));
}

#[test]
fn without_a_good_version_it_closes_what_it_was_meant_to_close() {
    let mut shop = shop();
    shop.take(applied(bad()));
    let known = model(&shop);
    assert_eq!((retries(&known), strict(&known)), (None, true));
    let refusal = known.refusals()[0].to_string();
    assert!(
        refusal.contains("mTLS is Strict until this is mended"),
        "{refusal}"
    );
    shop.take(Change::Policy(Event::Deleted(crate::index::Name::new(
        "shop", "web",
    ))));
    assert!(!strict(&model(&shop)));
}

#[test]
fn the_older_of_two_wins() {
    let mut older = policy_json("z", &spec("Strict", &json!(1)));
    older["metadata"]["creationTimestamp"] = json!("2026-11-19T10:00:00Z");
    let younger = policy_json("a", &spec("Strict", &json!(3)));
    let mut shop = shop();
    shop.take(applied(younger));
    shop.take(applied(older));
    assert_eq!(retries(&model(&shop)), Some(1));
}
