use proptest::prelude::*;

use super::*;

const SAMPLES: &str = include_str!("testdata/samples.yaml");

fn read(yaml: &str) -> Result<TrafficPolicy, String> {
    let manifest = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    TrafficPolicy::read(manifest).map_err(|violations| {
        let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}

fn policy(spec: &str) -> Result<TrafficPolicy, String> {
    read(&format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: p}}, spec: {{{spec}}}}}"
    ))
}

#[test]
fn durations_are_strict() {
    for (text, millis) in [
        ("0s", 0),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("1h1m1s1ms", 3_661_001),
        ("99999s", 99_999_000),
        ("1s1s", 2_000),
        ("5m", 300_000),
    ] {
        let parsed: PolicyDuration = text.parse().unwrap();
        assert_eq!(parsed, PolicyDuration::from_millis(millis), "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "-1s",
        "+1s",
        "1.5s",
        "1 s",
        " 1s",
        "1s ",
        "100000s",
        "1d",
        "1us",
        "1S",
        "1h1h1h1h1h",
        "١s",
        "1s1",
        "ms",
    ] {
        let error = text.parse::<PolicyDuration>().unwrap_err().to_string();
        assert!(error.contains("does not match"), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn durations_print_as_what_reads_the_same(text in "([0-9]{1,4}(h|m|s|ms)){1,4}") {
        let parsed: PolicyDuration = text.parse().unwrap();
        if let Ok(again) = parsed.to_string().parse::<PolicyDuration>() {
            prop_assert_eq!(again, parsed);
        } else {
            // Sums may outgrow five digits of the unit that they are printed in.
            prop_assert!(parsed > PolicyDuration::from_millis(99_999_000));
        }
    }

    #[test]
    fn no_text_makes_duration_parsing_panic(text in "\\PC{0,30}") {
        let _ = text.parse::<PolicyDuration>();
    }
}

/// Every sample of the resource's schema is accepted, or refused for the reason that it names.
#[test]
fn samples_of_the_schema() {
    let mut seen = 0;
    for sample in SAMPLES.split("\n---\n") {
        seen += 1;
        let want = sample
            .lines()
            .find_map(|line| line.strip_prefix("{x-want: "))
            .map(|rest| rest.split(", apiVersion").next().unwrap());
        let text = match want {
            Some(want) => sample.replacen(&format!("x-want: {want}, "), "", 1),
            None => sample.to_owned(),
        };
        let outcome = read(&text);
        let acceptable: &[&str] = match want {
            None => {
                outcome.unwrap();
                continue;
            }
            Some("Additional properties") => {
                &["Additional properties", "unknown field \"timeout\""]
            }
            Some(want) => &[want],
        };
        let error = outcome.expect_err(sample);
        for reason in acceptable {
            assert!(
                error.contains(reason),
                "{sample}\nwanted {reason}\ngot {error}"
            );
        }
    }
    assert_eq!(seen, 20);
}

#[test]
fn defaults_are_those_of_the_schema() {
    let read = policy(
        "targetRefs: [{name: a}], retries: {}, circuitBreaker: {consecutiveFailures: {}, errorRate: {}},
         loadBalancer: {}, split: {backends: [{name: b}], sticky: {}}",
    )
    .unwrap();
    let spec = read.spec;
    assert_eq!(read.metadata.namespace, "default");
    assert_eq!(spec.target_refs[0].kind, TargetKind::Service);
    let retries = spec.retries.unwrap();
    assert_eq!((retries.attempts, retries.body_limit_bytes), (2, 65_536));
    assert_eq!(retries.status_codes, [502, 503, 504]);
    assert_eq!(
        retries.methods,
        [Method::Get, Method::Head, Method::Options]
    );
    assert_eq!(
        retries.budget,
        Budget {
            percent: 20,
            interval: PolicyDuration::from_millis(10_000),
            min_retries_per_second: 10
        }
    );
    let breaker = spec.circuit_breaker.unwrap();
    assert_eq!(breaker.consecutive_failures.unwrap().threshold, 7);
    assert_eq!(breaker.open_duration, PolicyDuration::from_millis(5_000));
    assert_eq!(
        breaker.max_open_duration,
        PolicyDuration::from_millis(60_000)
    );
    assert_eq!(
        breaker.half_open,
        HalfOpen {
            max_requests: 1,
            success_threshold: 1
        }
    );
    assert_eq!(breaker.max_ejection_percent, 50);
    assert_eq!(spec.load_balancer.unwrap().policy, BalancerPolicy::PeakEwma);
    assert_eq!(spec.split.unwrap().backends[0].weight, 1);
}

#[test]
fn violations_name_their_field() {
    let mut wrong = String::new();
    for (spec, path) in [
        (
            "targetRefs: [], retries: {}",
            "spec.targetRefs: at least one",
        ),
        (
            "targetRefs: [{name: A}], retries: {}",
            "spec.targetRefs[0].name",
        ),
        (
            "targetRefs: [{name: a, group: apps}], retries: {}",
            "spec.targetRefs[0].group",
        ),
        (
            "targetRefs: [{name: a}, {name: a}], retries: {}",
            "spec.targetRefs[1]: duplicate map key (group, kind, name)",
        ),
        (
            "targetRefs: [{kind: Namespace, name: a, sectionName: h}], retries: {}",
            "sectionName needs kind Service",
        ),
        (
            "targetRefs: [{name: a}], retries: {attempts: 11}",
            "spec.retries.attempts: 11 is not between 0 and 10",
        ),
        (
            "targetRefs: [{name: a}], retries: {statusCodes: [200]}",
            "spec.retries.statusCodes",
        ),
        (
            "targetRefs: [{name: a}], retries: {methods: [GET, GET]}",
            "spec.retries.methods[1]: duplicate entry",
        ),
        (
            "targetRefs: [{name: a}], retries: {methods: [FETCH]}",
            "FETCH",
        ),
        (
            "targetRefs: [{name: a}], retries: {backoff: {base: 1s}}",
            "spec.retries.backoff: base cannot exceed max",
        ),
        (
            "targetRefs: [{name: a}], retries: {budget: {interval: 10ms}}",
            "spec.retries.budget.interval: must be at least 1s",
        ),
        (
            "targetRefs: [{name: a}], timeouts: {}",
            "spec.timeouts: at least one",
        ),
        (
            "targetRefs: [{name: a}], timeouts: {connect: 5ms}",
            "spec.timeouts.connect: must be at least",
        ),
        (
            "targetRefs: [{name: a}], timeouts: {connect: 2s, perTry: 1s}",
            "connect cannot be longer than perTry",
        ),
        (
            "targetRefs: [{name: a}], circuitBreaker: {limits: {}}",
            "spec.circuitBreaker.limits: at least one",
        ),
        (
            "targetRefs: [{name: a}], circuitBreaker: {consecutiveFailures: {threshold: 0}}",
            "consecutiveFailures.threshold",
        ),
        (
            "targetRefs: [{name: a}], split: {backends: [{name: b}], sticky: {type: Header}}",
            "spec.split.sticky.name: name is required",
        ),
        (
            "targetRefs: [{name: a}], split: {backends: [{name: b, weight: 1000001}]}",
            "spec.split.backends[0].weight",
        ),
        (
            "targetRefs: [{name: a}], split: {backends: [{name: b, matches: [{headers: [{name: x, type: RegularExpression, value: '('}]}]}]}",
            "headers[0].value: not a regular expression",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{path: {value: orders}}]}]",
            "spec.rules[0].matches[0].path.value: path must start",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{path: {type: RegularExpression, value: '/a('}}]}]",
            "matches[0].path.value: not a regular expression",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: []}]",
            "spec.rules[0].matches: at least one",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{queryParams: [{name: a, value: x}, {name: a, value: z}]}]}]",
            "queryParams[1]: duplicate map key (name)",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{grpc: {service: a/B}}]}]",
            "grpc.service: \"a/B\" does not match",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{}], timeouts: {connect: 1s}}]",
            "rules[0].timeouts.connect: connect cannot be set in a rule",
        ),
        (
            "targetRefs: [{name: a}], faultInjection: {headers: [{name: x, value: z}]}",
            "spec.faultInjection: delay or abort is required",
        ),
        (
            "targetRefs: [{name: a}], faultInjection: {delay: {duration: 6m}}",
            "spec.faultInjection.delay.duration: must be at most 5m",
        ),
        (
            "targetRefs: [{name: a}], faultInjection: {delay: {duration: 0s}}",
            "spec.faultInjection.delay.duration: must be at least",
        ),
        (
            "targetRefs: [{name: a}], faultInjection: {delay: {duration: 1s, percent: 101}}",
            "spec.faultInjection.delay.percent: 101 is not",
        ),
        (
            "targetRefs: [{name: a}], faultInjection: {abort: {httpStatus: 503, grpcCode: ABORTED}}",
            "spec.faultInjection.abort: exactly one of httpStatus or grpcCode",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{}], faultInjection: {abort: {httpStatus: 199}}}]",
            "spec.rules[0].faultInjection.abort.httpStatus: 199 is not",
        ),
        (
            "targetRefs: [{name: a}], accessLog: {}",
            "spec.accessLog.mode: is required",
        ),
        (
            "targetRefs: [{name: a}], accessLog: {mode: All, percent: 101}",
            "spec.accessLog.percent: 101 is not between 0 and 100",
        ),
        (
            "targetRefs: [{name: a}], accessLog: {mode: Failures, percent: 10}",
            "spec.accessLog.percent: percent needs mode All",
        ),
        (
            "targetRefs: [{name: a}], accessLog: {mode: All, fields: []}",
            "spec.accessLog.fields: at least one",
        ),
        (
            "targetRefs: [{name: a}], accessLog: {mode: All, fields: [path, path]}",
            "spec.accessLog.fields[1]: duplicate",
        ),
        (
            "targetRefs: [{name: a}], accessLog: {mode: All, fields: [authorization]}",
            "spec.accessLog.fields[0]: ",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{}], accessLog: {mode: Failures, percent: 1}}]",
            "spec.rules[0].accessLog.percent: percent needs mode All",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {}",
            "requestsPerSecond",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 0}",
            "spec.rateLimit.requestsPerSecond: 0 is not between 1 and 10000000",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 10, burst: 9}",
            "spec.rateLimit.burst: burst cannot be below requestsPerSecond",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 10, header: x-user}",
            "spec.rateLimit.header: header is required exactly when key is Header",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 10, key: Header, header: 'x user'}",
            "spec.rateLimit.header: \"x user\" does not match",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 10, overrides: []}",
            "spec.rateLimit.overrides: overrides need key ClientIdentity",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 10, key: ClientIdentity, overrides: [{identity: x, requestsPerSecond: 1}, {identity: x, requestsPerSecond: 2}]}",
            "spec.rateLimit.overrides[1]: duplicate map key (identity)",
        ),
        (
            "targetRefs: [{name: a}], rateLimit: {requestsPerSecond: 10, key: ClientIdentity, overrides: [{identity: '', requestsPerSecond: 0}]}",
            "spec.rateLimit.overrides[0].identity: at least one character",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{}], rateLimit: {requestsPerSecond: 0}}]",
            "spec.rules[0].rateLimit.requestsPerSecond: 0 is not between 1 and 10000000",
        ),
        (
            "targetRefs: [{kind: Namespace, name: a}], fallback: {response: {}}",
            "cannot be set on a Namespace",
        ),
        (
            "targetRefs: [{name: a}], loadBalancer: {policy: ConsistentHash, consistentHash: {sourceIP: false}}",
            "spec.loadBalancer.consistentHash.sourceIP: must be true",
        ),
        (
            "targetRefs: [{name: a}], loadBalancer: {policy: ConsistentHash, consistentHash: {cookie: a, header: b}}",
            "spec.loadBalancer.consistentHash: exactly one of cookie, header, sourceIP",
        ),
        (
            "targetRefs: [{name: a}], circuitBreaker: {errorRate: {}, failureStatusCodes: []}",
            "spec.circuitBreaker.failureStatusCodes: at least one",
        ),
        (
            "targetRefs: [{name: a}], split: {whenEmpty: Fail}",
            "spec.split: backends, sticky or mirror is required",
        ),
        (
            "targetRefs: [{name: a}], split: {backends: []}",
            "spec.split.backends: at least one",
        ),
        (
            "targetRefs: [{name: a}], split: {backends: [{name: b, matches: [{}]}]}",
            "spec.split.backends[0].matches[0]: at least one of cookies, headers",
        ),
        (
            "targetRefs: [{name: a}], split: {backends: [{name: b, matches: [{headers: []}]}]}",
            "spec.split.backends[0].matches[0].headers: at least one",
        ),
        (
            "targetRefs: [{name: a}], faultInjection: {headers: [{name: x, value: y}], abort: {httpStatus: 500}}",
            "spec.faultInjection.headers[0].value: must be a text, not true",
        ),
        (
            "targetRefs: [{name: a}], fallback: {triggers: [], response: {}}",
            "spec.fallback.triggers: at least one",
        ),
        (
            "targetRefs: [{name: a}], fallback: {triggers: [Timeout, CircuitOpen], backend: {name: b}}",
            "spec.fallback.triggers: after a Timeout only a response",
        ),
        (
            "targetRefs: [{name: a}], fallback: {response: {}, backend: {name: b}}",
            "spec.fallback: exactly one of response or backend",
        ),
        (
            "targetRefs: [{name: a}], fallback: {backend: {name: b, port: 0}}",
            "spec.fallback.backend.port: 0 is not",
        ),
        (
            "targetRefs: [{name: a}], fallback: {response: {status: 101}}",
            "spec.fallback.response.status: 101 is not",
        ),
        (
            "targetRefs: [{name: a}], fallback: {response: {headers: [{name: Content-Length, value: '1'}]}}",
            "headers[0].name: name cannot be a header",
        ),
        (
            "targetRefs: [{name: a}], rules: [{name: r, matches: [{}], fallback: {response: {contentType: \"a\\nb\"}}}]",
            "spec.rules[0].fallback.response.contentType: \"a\\nb\" does not match",
        ),
        ("targetRefs: [{name: a}], authorization: {}", "allow"),
        (
            "targetRefs: [{name: a}], authorization: {allow: [{principals: []}]}",
            "principals: at least one",
        ),
        (
            "targetRefs: [{name: a}], authorization: {allow: [{principals: [{}]}]}",
            "exactly one of serviceAccount or spiffeId",
        ),
        (
            "targetRefs: [{name: a}], authorization: {allow: [{principals: [{spiffeId: 'spiffe://a/*/b'}]}]}",
            "spiffeId: \"spiffe://a/*/b\" does not match ^spiffe://",
        ),
        (
            "targetRefs: [{name: a}], authorization: {allow: [{principals: [{serviceAccount: {name: '*'}}], paths: [x]}]}",
            "paths[0]: \"x\" does not match ^(/|",
        ),
        (
            "targetRefs: [{name: a}], authorization: {allow: [{principals: [{serviceAccount: {name: '*'}}], paths: [/a, /a/../b]}]}",
            "paths[1]: \"/a/../b\" does not match",
        ),
        (
            "targetRefs: [{name: a}], authorization: {allow: [{principals: [{serviceAccount: {name: '*'}}], paths: [//a]}]}",
            "paths[0]: \"//a\" does not match",
        ),
        (
            "targetRefs: [{name: a}], authorization: {forServices: Default, allow: []}",
            "forServices needs targets of kind Namespace",
        ),
    ] {
        let error = policy(spec).expect_err(spec);
        if !error.contains(path) {
            wrong = format!("{wrong}{spec}\nwanted {path}\ngot {error}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
