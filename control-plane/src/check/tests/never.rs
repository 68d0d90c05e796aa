//! What can never act, and that every kind of finding is whole.

use super::*;

/// The backend's own breaker decides, and one route that can bring the trigger about is enough.
#[test]
fn a_fallback_acts_where_some_backend_fails_fast() {
    let split = "split: {backends: [{name: one}, {name: bare}]}";
    let backend = "circuitBreaker: {scope: Backend, consecutiveFailures: {}}";
    let endpoint = "circuitBreaker: {consecutiveFailures: {}}";
    let addressed = |more: &str| {
        policy(
            "p",
            "{name: a, sectionName: http}",
            &format!("{FALLBACK}, {more}"),
        )
    };
    let own = |stanzas: &str| policy("q", "{name: bare}", stanzas);
    let found = |policies: String| {
        let found = brief(&findings(MESH, &policies));
        found.iter().any(|it| it == "warning circuit-open")
    };
    assert!(found(addressed(split)));
    assert!(!found(addressed(split) + &own(backend)));
    assert!(!found(
        addressed(&format!("{split}, {backend}")) + &own(endpoint)
    ));
    let both = own(endpoint) + &policy("r", "{name: one}", endpoint);
    assert!(found(addressed(&format!("{split}, {backend}")) + &both));
    // A rule that has no fallback of its own has the port's.
    let rule = format!("rules: [{{name: r, matches: [{{method: GET}}], {split}}}]");
    assert!(!found(addressed(&rule) + &own(backend)));
    // Beside a file with the breaker in it, this one says nothing about there being one.
    let alone = |text: &str| brief(&check(read_texts(&[("p.yaml", text)])).findings);
    assert_eq!(alone(&addressed("retries: {}")), NONE);
    assert_eq!(alone(&addressed(endpoint)), ["warning circuit-open"]);
}

/// By trying: with as many failures as there can be without a row of them, at every length.
#[test]
fn an_error_rate_that_can_act_is_told_from_one_that_cannot() {
    let by_trying = |least: u32, percent: u32, row: u32| {
        (least..400).any(|n| {
            let failures = (1..=n).filter(|at| at % row != 0).count();
            failures * 100 >= (percent * n) as usize
        })
    };
    for row in 1..12 {
        for percent in 1..=100 {
            for least in [1, 2, row, row + 1, 2 * row, 3 * row - 1, 3 * row, 50] {
                let acts = alone::acts_from(least, percent, row);
                assert_eq!(
                    acts,
                    by_trying(least, percent, row),
                    "{least} {percent} {row}"
                );
            }
        }
    }
}

/// Every kind of finding says where, what, why and how to mend it.
#[test]
fn every_finding_is_whole() {
    let quotes = "{name: quotes}";
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        (
            "{name: nobody}",
            "retries: {}",
            "not in force as it is written",
            "TargetNotFound: there is no service shop/nobody",
            "correct the name, or add what is missing",
        ),
        (
            "{name: a, sectionName: grpc}",
            "retries: {}",
            "not in force as it is written",
            "TargetNotFound: service shop/a has no port named grpc",
            "correct the name, or add what is missing",
        ),
        (
            "{name: one}",
            "split: {backends: [{name: nobody}]}",
            "not in force as it is written",
            "BackendNotFound: there is no service shop/nobody",
            "correct the name, or add the service",
        ),
        (
            "{name: one}",
            "split: {backends: [{name: a, port: 82}]}",
            "backend a has no port 82: service shop/one port 80",
            "requests that go there find no endpoint",
            "set port on the backend; it has 80, 81",
        ),
        (
            "{name: one}",
            "timeouts: {request: 1s, perTry: 1s}",
            "perTry 1s is no shorter than request 1s: service shop/one port 80",
            "none of the 2 retries can follow it",
            "make perTry shorter than request",
        ),
        (
            "{name: a}",
            "timeouts: {request: 1s, perTry: 2s}",
            "not in force as it is written",
            "perTry",
            "lower perTry",
        ),
        (
            "{name: a}",
            "circuitBreaker: {consecutiveFailures: {}, maxEjectionPercent: 33}",
            "maxEjectionPercent 33 is less than one endpoint: service shop/a has 3 endpoints",
            "never a second",
            "raise maxEjectionPercent",
        ),
        (
            "{name: one}",
            "circuitBreaker: {consecutiveFailures: {}}",
            "circuitBreaker of scope Endpoint can never open: service shop/one has 1 endpoint",
            "the last endpoint of a backend is never ejected",
            "use scope: Backend, or add endpoints",
        ),
        (
            "{name: a}",
            "circuitBreaker: {consecutiveFailures: {threshold: 5}, errorRate: {thresholdPercent: 90, minRequests: 20}}",
            "errorRate of 90 % with minRequests 20 can never trip the breaker",
            "without 5 in a row, by which consecutiveFailures trips it before",
            "use minRequests of at most 4, or a lower thresholdPercent",
        ),
        (
            "{name: one}",
            FALLBACK,
            "the fallback trigger CircuitOpen can never come about: service shop/one port 80",
            "no circuitBreaker with a trigger holds there",
            "use scope: Backend",
        ),
        (
            "{name: one}",
            "split: {backends: [{name: a, weight: 0}, {name: bare, weight: 0}]}",
            "not in force as it is written",
            "weight",
            "",
        ),
        (
            quotes,
            "timeouts: {request: 1s}",
            "the request timeout of 1s holds for a stream's beginning only: service shop/quotes port 80",
            "cuts off one whose answer begins later",
            "bound streams with timeouts.stream and idle",
        ),
        (
            "{name: a}",
            "retries: {methods: [GET, POST]}",
            "spec.retries: methods has POST",
            "repeating it does it twice",
            "send Idempotency-Key",
        ),
    ];
    for (target, stanzas, what, why, mend) in cases {
        // Behind a comment and a policy about something else, so that the line means something.
        let before = format!(
            "# about it\n{}",
            policy("q", "{name: bare}", "loadBalancer: {policy: Random}")
        );
        let found = findings(MESH, &(before + &policy("p", target, stanzas)));
        assert_eq!(found.len(), 1, "{stanzas}: {found:#?}");
        let found = &found[0];
        let place = (found.file.as_str(), found.line, found.object.as_str());
        // What one field says wrong stands at its own line.
        let line = if found.why.starts_with("spec.") {
            11
        } else {
            8
        };
        assert_eq!(place, ("p.yaml", line, "TrafficPolicy shop/p"), "{stanzas}");
        assert_eq!(found.what, *what, "{stanzas}");
        assert!(found.why.contains(why), "{stanzas}: {}", found.why);
        assert!(found.mend.contains(mend), "{stanzas}: {}", found.mend);
    }
}
