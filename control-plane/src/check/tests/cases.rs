//! Each check by cases of one policy beside the mesh.

use super::*;

/// Every check finds what it is there for, and leaves alone what is next to it.
#[test]
fn every_check_by_a_case_and_its_neighbour() {
    let breaker = |rest: &str| format!("circuitBreaker: {{consecutiveFailures: {{}}{rest}}}");
    let cases: &[(&str, &str, &[&str])] = &[
        // Names.
        (
            "name: nobody",
            "timeouts: {request: 1s}",
            &["error refused"],
        ),
        (
            "name: a, sectionName: grpc",
            "timeouts: {request: 1s}",
            &["error refused"],
        ),
        (
            "name: a, sectionName: http",
            "timeouts: {request: 1s}",
            NONE,
        ),
        (
            "kind: Namespace, name: other",
            "timeouts: {request: 1s}",
            &["error refused"],
        ),
        (
            "name: one",
            "split: {backends: [{name: nobody}]}",
            &["error refused"],
        ),
        (
            "name: one",
            "split: {backends: [{name: a}, {name: bare}]}",
            NONE,
        ),
        (
            "name: one",
            "split: {backends: [{name: a, port: 82}]}",
            &["error missing-port"],
        ),
        (
            "name: one",
            "split: {backends: [{name: a, port: 81}]}",
            NONE,
        ),
        // Port 81 of a leads to port 81 of one, which is not there.
        (
            "name: a",
            "split: {backends: [{name: one}]}",
            &["error missing-port"],
        ),
        (
            "name: a",
            "split: {backends: [{name: one, port: 80}]}",
            NONE,
        ),
        (
            "name: one",
            "rules: [{name: r, matches: [{}], split: {backends: [{name: a, port: 9}]}}]",
            &["error missing-port"],
        ),
        (
            "name: one",
            "split: {mirror: {name: a, port: 9}}",
            &["error missing-port"],
        ),
        (
            "name: one",
            "split: {mirror: {name: nobody}}",
            &["error refused"],
        ),
        ("name: one", "split: {mirror: {name: a}}", NONE),
        (
            "name: one",
            "fallback: {triggers: [NoEndpoints], backend: {name: a, port: 9}}",
            &["error missing-port"],
        ),
        (
            "name: one",
            "fallback: {triggers: [NoEndpoints], backend: {name: nobody}}",
            &["error refused"],
        ),
        // Splits that can do nothing.
        (
            "name: quotes",
            "split: {mirror: {name: a}}",
            &["warning mirror"],
        ),
        (
            "name: one",
            "split: {sticky: {}}",
            &["warning sticky-without-weights"],
        ),
        // Bounds, as the control plane has them.
        (
            "name: a",
            "timeouts: {request: 1s, perTry: 2s}",
            &["error refused"],
        ),
        (
            "name: one",
            "split: {backends: [{name: a, weight: 0}]}",
            &["error refused"],
        ),
        (
            "name: a",
            "rules: [{name: r, matches: [{method: GET}], retries: {}}, {name: r, matches: [{}], retries: {}}]",
            &["error refused"],
        ),
        // Times that keep others from running out.
        (
            "name: a",
            "timeouts: {request: 1s, perTry: 1s}",
            &["warning per-try"],
        ),
        (
            "name: a",
            "timeouts: {request: 1s, perTry: 1s}, retries: {attempts: 0}",
            NONE,
        ),
        ("name: a", "timeouts: {request: 1s, perTry: 400ms}", NONE),
        ("name: a", "timeouts: {request: 0s, perTry: 1s}", NONE),
        (
            "name: a",
            "rules: [{name: r, matches: [{}], timeouts: {request: 1s, perTry: 1s}}]",
            &["warning per-try"],
        ),
        (
            "name: a",
            "timeouts: {request: 1s, connect: 2s}",
            &["warning connect"],
        ),
        ("name: a", "timeouts: {request: 1s, connect: 1s}", NONE),
        (
            "name: a",
            "timeouts: {connect: 2s}, rules: [{name: r, matches: [{}], timeouts: {request: 1s}}]",
            &["warning connect"],
        ),
        (
            "name: a",
            "timeouts: {request: 1s}, retries: {conditions: [PerTryTimeout]}",
            &["warning per-try-timeout"],
        ),
        (
            "name: a",
            "timeouts: {request: 1s, perTry: 300ms}, retries: {conditions: [PerTryTimeout]}",
            NONE,
        ),
        // Streams.
        (
            "name: quotes",
            "timeouts: {request: 1s}",
            &["warning streams"],
        ),
        (
            "name: mixed",
            "timeouts: {request: 1s}",
            &["warning streams"],
        ),
        (
            "name: mixed, sectionName: http",
            "timeouts: {request: 1s}",
            NONE,
        ),
        ("name: quotes", "timeouts: {request: 0s, stream: 1h}", NONE),
        (
            "name: quotes",
            "rules: [{name: unary, matches: [{path: {value: /shop.Quotes/Get}}], timeouts: {request: 1s}}]",
            NONE,
        ),
        (
            "name: a",
            "rules: [{name: r, matches: [{headers: [{name: Accept, value: text/event-stream}]}], timeouts: {request: 1s}}]",
            &["warning streams"],
        ),
        (
            "name: a",
            "timeouts: {request: 1s}, rules: [{name: r, matches: [{queryParams: [{name: watch, value: 'true'}]}], retries: {}}]",
            &["warning streams"],
        ),
        (
            "name: a",
            "timeouts: {request: 1s}, rules: [{name: r, matches: [{queryParams: [{name: watch, value: 'true'}]}], timeouts: {stream: 1h}}]",
            NONE,
        ),
        (
            "name: a",
            "rules: [{name: r, matches: [{method: CONNECT}, {method: GET}], timeouts: {request: 1s}}]",
            NONE,
        ),
        // Retries.
        (
            "name: a",
            "retries: {methods: [GET, POST]}",
            &["warning not-idempotent"],
        ),
        ("name: a", "retries: {methods: [GET, PUT, DELETE]}", NONE),
        (
            "name: a",
            "rules: [{name: r, matches: [{}], retries: {methods: [PATCH, CONNECT]}}]",
            &["warning not-idempotent"],
        ),
        (
            "name: a",
            "retries: {attempts: 0, statusCodes: [503]}",
            &["warning retries-off"],
        ),
        (
            "name: a",
            "retries: {attempts: 0, methods: [POST]}",
            &["warning retries-off"],
        ),
        ("name: a", "retries: {attempts: 0}", NONE),
        // Breakers.
        ("name: one", &breaker(""), &["warning breaker-never-acts"]),
        ("name: one", &breaker(", scope: Backend"), NONE),
        ("name: a", &breaker(""), NONE),
        (
            "name: a",
            &breaker(", maxEjectionPercent: 33"),
            &["warning ejection-cap"],
        ),
        ("name: a", &breaker(", maxEjectionPercent: 34"), NONE),
        (
            "name: a",
            "circuitBreaker: {consecutiveFailures: {threshold: 5}, errorRate: {thresholdPercent: 90, minRequests: 5}}",
            &["warning error-rate"],
        ),
        (
            "name: a",
            "circuitBreaker: {consecutiveFailures: {threshold: 5}, errorRate: {thresholdPercent: 90, minRequests: 4}}",
            NONE,
        ),
        (
            "name: a",
            "circuitBreaker: {consecutiveFailures: {threshold: 5}, errorRate: {thresholdPercent: 80, minRequests: 20}}",
            NONE,
        ),
        (
            "name: a",
            "circuitBreaker: {consecutiveFailures: {threshold: 1}, errorRate: {thresholdPercent: 1, minRequests: 1}}",
            &["warning error-rate"],
        ),
        (
            "name: a",
            "circuitBreaker: {errorRate: {thresholdPercent: 100}}",
            NONE,
        ),
        // Fallbacks.
        ("name: a", FALLBACK, &["warning circuit-open"]),
        (
            "name: a",
            &format!("{FALLBACK}, {}", breaker("")),
            &["warning circuit-open"],
        ),
        (
            "name: a",
            &format!("{FALLBACK}, {}", breaker(", scope: Backend")),
            NONE,
        ),
        (
            "name: a",
            "fallback: {triggers: [NoEndpoints], response: {}}",
            NONE,
        ),
        (
            "name: a, sectionName: http",
            &format!(
                "{}, rules: [{{name: r, matches: [{{}}], {FALLBACK}}}]",
                breaker("")
            ),
            &["warning circuit-open"],
        ),
        (
            "name: a",
            "circuitBreaker: {limits: {maxPendingRequests: 9}}",
            &["warning queue-without-cap"],
        ),
        // Limits alone are no breaker.
        (
            "name: one",
            "circuitBreaker: {limits: {maxRequests: 9}}",
            NONE,
        ),
        // It acts for other services of the namespace.
        ("kind: Namespace, name: shop", &breaker(""), NONE),
        // Servers without sidecars.
        ("name: bare", "mtls: {mode: Strict}", &["warning no-server"]),
        ("name: bare", "mtls: {mode: Disabled}", NONE),
        (
            "name: bare",
            "rateLimit: {requestsPerSecond: 1}",
            &["warning no-server"],
        ),
        (
            "name: bare",
            "rules: [{name: r, matches: [{}], rateLimit: {requestsPerSecond: 1}}]",
            &["warning no-server"],
        ),
        (
            "name: a",
            "rules: [{name: r, matches: [{}], rateLimit: {requestsPerSecond: 1}}]",
            NONE,
        ),
        // A limit that another rule keeps from ever counting anything.
        (
            "name: a",
            "rules: [{name: all, matches: [{}], retries: {attempts: 0}},
                     {name: r, matches: [{method: GET}], rateLimit: {requestsPerSecond: 1}}]",
            &["warning shadowed-rule"],
        ),
        (
            "name: bare",
            "authorization: {allow: []}",
            &["warning no-server"],
        ),
        ("name: mixed", "mtls: {mode: Strict}", NONE),
        ("kind: Namespace, name: shop", "mtls: {mode: Strict}", NONE),
    ];
    for (target, stanzas, expected) in cases {
        let target = format!("{{{target}}}");
        assert_eq!(of(&target, stanzas), *expected, "{target} {stanzas}");
    }
}

#[test]
fn a_rule_within_those_above_is_dead() {
    let rules = |matches: &[&str]| {
        let rules: Vec<_> = matches
            .iter()
            .enumerate()
            .map(|(at, matches)| format!("{{name: r{at}, matches: [{matches}], retries: {{}}}}"))
            .collect();
        of("{name: a}", &format!("rules: [{}]", rules.join(", ")))
    };
    let header = "headers: [{name: x-a, value: b}]";
    let with_header = format!("{{{header}}}");
    let more = format!("{{method: GET, {header}}}");
    for (matches, dead) in [
        (&["{}", "{method: GET}"][..], true),
        (&["{method: GET}", "{}"], false),
        (&["{path: {value: /}}", "{path: {value: /a}}"], true),
        (&["{path: {value: /a}}", "{path: {value: /a/b/}}"], true),
        (
            &["{path: {value: /a/}}", "{path: {type: Exact, value: /a}}"],
            true,
        ),
        (&["{path: {value: /a}}", "{path: {value: /ab}}"], false),
        (&["{path: {value: /a}}", "{}"], false),
        (
            &["{path: {type: Exact, value: /a}}", "{path: {value: /a}}"],
            false,
        ),
        (
            &[
                "{path: {type: Exact, value: /a}}",
                "{path: {type: Exact, value: /a}}",
            ],
            true,
        ),
        (&["{method: GET}", "{method: POST}"], false),
        (&[&with_header, &more], true),
        (&[&more, &with_header], false),
        // Each by another one.
        (
            &[
                "{method: GET}",
                "{method: PUT}",
                "{method: GET}, {method: PUT}",
            ],
            true,
        ),
        (&["{method: GET}", "{method: GET}, {method: PUT}"], false),
    ] {
        let expected: &[&str] = if dead {
            &["warning shadowed-rule"]
        } else {
            NONE
        };
        assert_eq!(rules(matches), expected, "{matches:?}");
    }
}
