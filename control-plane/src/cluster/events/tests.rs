use serde_json::json;

use super::*;
use crate::policy::ConditionStatus::{False, True, Unknown};

fn condition(kind: &str, status: ConditionStatus, reason: &str, message: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(1),
        last_transition_time: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn policy(conditions: &[Condition]) -> TrafficPolicyStatus {
    TrafficPolicyStatus {
        conditions: conditions.to_vec(),
        ..TrafficPolicyStatus::default()
    }
}

fn told(before: &[Condition], after: &[Condition]) -> Vec<String> {
    let news = of_policy(&policy(before), &policy(after)).into_iter();
    news.map(|news| {
        let kind = if news.warning { "Warning" } else { "Normal" };
        format!("{kind} {}: {}", news.reason, news.note)
    })
    .collect()
}

#[test]
fn what_goes_wrong_and_is_mended_is_news() {
    let fine = [condition("Accepted", True, "Accepted", "fine")];
    let bad = [condition("Accepted", False, "Conflicted", "x is older")];
    let worse = [condition("Accepted", False, "Invalid", "no")];
    let none = Vec::<String>::new();
    assert_eq!(told(&[], &fine), none);
    assert_eq!(told(&[], &bad), ["Warning Conflicted: x is older"]);
    assert_eq!(told(&fine, &bad), ["Warning Conflicted: x is older"]);
    assert_eq!(told(&bad, &bad), none);
    assert_eq!(told(&bad, &worse), ["Warning Invalid: no"]);
    assert_eq!(told(&bad, &fine), ["Normal Accepted: fine"]);
}

#[test]
fn of_sidecars_only_refusals_are_news() {
    let programmed = |status, reason| [condition("Programmed", status, reason, "why")];
    let none = Vec::<String>::new();
    assert_eq!(told(&[], &programmed(False, "Reconciling")), none);
    assert_eq!(
        told(
            &programmed(False, "Reconciling"),
            &programmed(True, "Programmed")
        ),
        none
    );
    assert_eq!(told(&[], &programmed(False, "Overridden")), none);
    let refused = programmed(False, "Refused");
    assert_eq!(
        told(&programmed(True, "Programmed"), &refused),
        ["Warning Refused: why"]
    );
    assert_eq!(
        told(&refused, &programmed(True, "Programmed")),
        ["Normal Programmed: why"]
    );
    assert_eq!(told(&refused, &programmed(Unknown, "NoSidecars")), none);
    assert_eq!(told(&refused, &programmed(False, "Reconciling")), none);
}

#[test]
fn routes_are_told_of_once_over_their_parents() {
    let parent = |name: &str, controller: &str| {
        serde_json::from_value(json!({
            "parentRef": {"name": name},
            "controllerName": controller,
            "conditions": [condition("ResolvedRefs", False, "BackendNotFound", "there is no service b")],
        }))
        .unwrap()
    };
    let after = RouteStatus {
        parents: vec![
            parent("a", CONTROLLER),
            parent("b", CONTROLLER),
            parent("c", "example.com/x"),
        ],
    };
    let news = of_route(&RouteStatus::default(), &after);
    assert_eq!(news.len(), 1);
    assert!(news[0].warning && news[0].reason == "BackendNotFound");
    assert_eq!(of_route(&after, &after), []);
}

#[test]
fn the_same_is_not_said_again_for_a_while_and_all_is_limited() {
    let start = Instant::now();
    let mut gate = Gate::new(start);
    assert!(gate.takes("a", "Invalid", start));
    assert!(!gate.takes("a", "Invalid", start + QUIET / 2));
    assert!(gate.takes("a", "Conflicted", start));
    assert!(gate.takes("b", "Invalid", start));
    assert!(gate.takes("a", "Invalid", start + QUIET));

    let mut gate = Gate::new(start);
    let mut taken = |from: usize, at: Instant| {
        let objects = (from..from + 1000).map(|at| at.to_string());
        objects.filter(|uid| gate.takes(uid, "Invalid", at)).count()
    };
    assert_eq!(taken(0, start), 50);
    assert_eq!(taken(10_000, start + Duration::from_secs(2)), 10);
}

#[test]
fn an_event_is_whole_and_within_bounds() {
    let regarding = Regarding {
        api_version: "weft.dev/v1alpha1".to_owned(),
        kind: "TrafficPolicy".to_owned(),
        name: Name::new("shop", "x".repeat(253)),
        uid: "u".to_owned(),
    };
    let news = News {
        warning: true,
        reason: "Invalid".to_owned(),
        note: "é".repeat(2000),
    };
    let event = event(
        &regarding,
        news,
        "weft-control-plane-0",
        7,
        Timestamp::now(),
    );
    let name = event.metadata.name.as_deref().unwrap();
    assert!(
        name.len() <= 253 && name.ends_with(".0000000000000007"),
        "{name}"
    );
    assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
    assert!(
        event
            .message
            .as_ref()
            .is_some_and(|note| note.len() <= 1024)
    );
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.involved_object.uid.as_deref(), Some("u"));
    assert!(event.first_timestamp.is_some() && event.first_timestamp == event.last_timestamp);
}
