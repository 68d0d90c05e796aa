use weft_proto::discovery::{AccessLog, AccessLogField as Field, InboundAccessLog};

use super::*;

fn own(name: &str, target: &str, stanzas: &str) -> String {
    let spec = format!("targetRefs: [{{{target}}}], {stanzas}");
    policy(name, "demo", &spec)
}

fn logs(policies: &[String], port: u32) -> Vec<InboundAccessLog> {
    let model = mesh(policies);
    inbound(&model, "both-1", "both", port).unwrap().access_logs
}

fn percent(log: Option<&AccessLog>) -> Option<u32> {
    log.map(|log| log.percent)
}

#[test]
fn at_clients_a_rule_stands_before_the_service_and_that_before_the_namespace() {
    let of = |policies: &[String]| {
        let model = mesh(policies);
        let target = to_service(&model, outbound("fd96::10", 80));
        let routes = target.routes.iter();
        let routes: Vec<_> = routes.map(|it| percent(it.access_log.as_ref())).collect();
        (routes, percent(target.access_log.as_ref()))
    };
    assert_eq!(of(&[]), (vec![None], None));
    let namespace = own(
        "n",
        "kind: Namespace, name: demo",
        "accessLog: {mode: Failures}",
    );
    assert_eq!(
        of(std::slice::from_ref(&namespace)),
        (vec![Some(0)], Some(0))
    );
    let checkout = own(
        "p",
        "name: checkout",
        "accessLog: {mode: All, percent: 7}, rules: [
         {name: silent, matches: [{}], accessLog: {mode: Disabled}},
         {name: all, matches: [{}], accessLog: {mode: All}},
         {name: inherits, matches: [{}], timeouts: {request: 1s}}]",
    );
    let expected = (vec![None, Some(100), Some(7), Some(7)], Some(7));
    assert_eq!(of(&[namespace, checkout]), expected);
}

#[test]
fn fields_keep_their_order_and_the_usual_ones_show_no_query() {
    let of = |stanza: &str| {
        let model = mesh(&[own("p", "name: checkout", stanza)]);
        let target = to_service(&model, outbound("fd96::10", 80));
        let log = target.access_log.unwrap();
        log.fields().collect::<Vec<_>>()
    };
    let chosen = of("accessLog: {mode: All, fields: [userAgent, query, durationMs]}");
    assert_eq!(chosen, [Field::UserAgent, Field::Query, Field::DurationMs]);
    let usual = of("accessLog: {mode: All}");
    assert_eq!(usual.len(), 16);
    assert!(usual.contains(&Field::RequestId) && usual.contains(&Field::Path));
    assert!(!usual.contains(&Field::Query) && !usual.contains(&Field::UserAgent));
}

#[test]
fn at_servers_every_service_of_the_port_has_a_say_with_its_rules() {
    let checkout = own(
        "a",
        "name: checkout",
        "accessLog: {mode: Failures}, rules: [
         {name: first, matches: [{method: GET}], timeouts: {request: 1s}},
         {name: orders, matches: [{path: {value: /orders}}], accessLog: {mode: All, percent: 30}},
         {name: last, matches: [{}], retries: {attempts: 0}}]",
    );
    let canary = own("b", "name: canary", "accessLog: {mode: All, percent: 5}");
    let both = logs(&[checkout.clone(), canary], 8080);
    // In the order of the services' names; the canary's two ports have one and the same.
    let [of_canary, of_checkout] = &*both else {
        panic!("{both:?}")
    };
    assert_eq!(percent(of_canary.otherwise.as_ref()), Some(5));
    assert_eq!(of_canary.rules, []);
    assert_eq!(percent(of_checkout.otherwise.as_ref()), Some(0));
    // What stands behind the last rule with a stanza decides nothing; what stands before it inherits.
    let rules = of_checkout.rules.iter();
    let rules: Vec<_> = rules.map(|rule| percent(rule.log.as_ref())).collect();
    assert_eq!(rules, [Some(0), Some(30)]);
    // The server tells requests apart by what the client tells them apart by.
    let model = mesh(&[checkout]);
    let routes = to_service(&model, outbound("10.96.0.10", 80)).routes;
    for (route, rule) in routes.iter().zip(&of_checkout.rules) {
        assert_eq!(route.matches, rule.matches);
    }
}

#[test]
fn a_port_behind_no_service_has_its_namespaces_and_silence_is_nothing() {
    let namespace = own("n", "kind: Namespace, name: demo", "accessLog: {mode: All}");
    let alone = logs(std::slice::from_ref(&namespace), 7000);
    assert_eq!(alone.len(), 1);
    assert_eq!(percent(alone[0].otherwise.as_ref()), Some(100));
    assert_eq!(logs(&[namespace], 8080), alone);
    let silent = own(
        "s",
        "kind: Namespace, name: demo",
        "accessLog: {mode: Disabled}",
    );
    assert_eq!(logs(&[silent], 8080), []);
    assert_eq!(logs(&[], 8080), []);
}
