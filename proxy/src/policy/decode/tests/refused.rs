//! What breaks the rules is refused, with its place.

use super::*;

/// Spoils a good target in one place.
type Spoil = fn(&mut wire::ServiceTarget);

#[test]
fn what_breaks_the_rules_is_refused_with_its_place() {
    fn retries(target: &mut wire::ServiceTarget) -> &mut wire::Retries {
        target.routes[0].retries.as_mut().unwrap()
    }
    fn split(target: &mut wire::ServiceTarget) -> &mut wire::Split {
        target.routes[0].split.as_mut().unwrap()
    }
    fn breaker(target: &mut wire::ServiceTarget) -> &mut wire::CircuitBreaker {
        target.backends[0].circuit_breaker.as_mut().unwrap()
    }
    fn abort(target: &mut wire::ServiceTarget) -> &mut wire::FaultAbort {
        let fault = target.routes[0].fault.as_mut().unwrap();
        fault.abort.as_mut().unwrap()
    }
    fn fallback(target: &mut wire::ServiceTarget) -> &mut wire::Fallback {
        target.routes[0].fallback.as_mut().unwrap()
    }
    fn fallback_header(target: &mut wire::ServiceTarget, name: &str) {
        let Some(wire::fallback::Answer::Response(response)) = &mut fallback(target).answer else {
            panic!("a response")
        };
        response.headers[0].name = name.into();
    }
    fn mirror(target: &mut wire::ServiceTarget) -> &mut wire::Mirror {
        let split = target.routes[0].split.as_mut().unwrap();
        split.mirror.as_mut().unwrap()
    }
    fn forced(target: &mut wire::ServiceTarget) -> &mut wire::SplitMatch {
        &mut target.routes[0].split.as_mut().unwrap().backends[0].forced[0]
    }
    let cases: [(&str, Spoil); 40] = [
        (
            "service.routes[0].split.mirror.backend: no such backend",
            |it| {
                mirror(it).backend = 1;
            },
        ),
        (
            "service.routes[0].split.mirror.share: more than everything",
            |it| {
                mirror(it).share = 101;
            },
        ),
        (
            "service.routes[0].split.mirror.max_in_flight: 0, where at least 1 is needed",
            |it| {
                mirror(it).max_in_flight = 0;
            },
        ),
        (
            "service.routes[0].split.backends[0].forced[0].headers or cookies: missing",
            |it| forced(it).cookies.clear(),
        ),
        (
            "service.routes[0].split.backends[0].forced[0].cookies[0].name: not a cookie name",
            |it| forced(it).cookies[0].name = "a b".into(),
        ),
        (
            "service.backends[0].circuit_breaker.limits.max_requests: 0, where at least 1 is needed",
            |it| {
                breaker(it).limits.as_mut().unwrap().max_requests = Some(0);
            },
        ),
        (
            "service.backends[0].circuit_breaker.limits.max_pending_requests: missing",
            |it| {
                breaker(it).limits.as_mut().unwrap().max_pending_requests = None;
            },
        ),
        ("service.routes[0].fallback.triggers: missing", |it| {
            fallback(it).triggers.clear();
        }),
        (
            "service.routes[0].fallback.triggers[0]: unspecified",
            |it| {
                fallback(it).triggers[0] = 0;
            },
        ),
        (
            "service.routes[0].fallback.backend: after a timeout",
            |it| {
                fallback(it).answer = Some(wire::fallback::Answer::Backend(0));
            },
        ),
        (
            "service.routes[0].fallback.backend: no such backend",
            |it| {
                fallback(it).triggers = vec![wire::FallbackTrigger::Overload.into()];
                fallback(it).answer = Some(wire::fallback::Answer::Backend(1));
            },
        ),
        (
            "service.routes[0].fallback.response.headers: one of the connection's own",
            |it| fallback_header(it, "content-length"),
        ),
        (
            "service.routes[0].fallback.response.headers: one of the connection's own",
            |it| fallback_header(it, "x-weft-outcome"),
        ),
        ("service.service: missing", |it| it.service = None),
        ("service.service.port: not from 1 to 65535", |it| {
            it.service.as_mut().unwrap().port = 0;
        }),
        ("service.protocol: unknown value 9", |it| it.protocol = 9),
        ("service.routes: missing", |it| it.routes.clear()),
        ("service.routes[0].split: missing", |it| {
            it.routes[0].split = None;
        }),
        ("service.routes[0].split.backends: missing", |it| {
            split(it).backends.clear();
        }),
        (
            "service.routes[0].split.backends[0].backend: no such backend",
            |it| split(it).backends[0].backend = 1,
        ),
        (
            "service.routes[0].split.when_empty: unknown value 5",
            |it| {
                split(it).when_empty = 5;
            },
        ),
        ("service.routes[0].split.sticky.kind: missing", |it| {
            split(it).sticky = Some(wire::Sticky { kind: None });
        }),
        ("service.routes[0].matches[0].method: not a method", |it| {
            it.routes[0].matches[0].method = "GE T".into();
        }),
        (
            "service.routes[0].matches[0].headers[0].name: not a header name in lower case",
            |it| it.routes[0].matches[0].headers[0].name = "X-Canary".into(),
        ),
        (
            "service.routes[0].matches[0].headers[0].value: not a header value",
            |it| it.routes[0].matches[0].headers[0].value = "a\nb".into(),
        ),
        (
            "service.routes[0].timeouts.request: a duration of zero",
            |it| it.routes[0].timeouts.as_mut().unwrap().request = Some(duration(0)),
        ),
        (
            "service.routes[0].timeouts.request: a duration out of range",
            |it| {
                it.routes[0].timeouts.as_mut().unwrap().request = Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                });
            },
        ),
        ("service.routes[0].retries.budget: missing", |it| {
            retries(it).budget = None;
        }),
        ("service.routes[0].retries.budget.interval: missing", |it| {
            retries(it).budget.as_mut().unwrap().interval = None;
        }),
        (
            "service.routes[0].retries.conditions[0]: unspecified",
            |it| {
                retries(it).conditions[0] = 0;
            },
        ),
        (
            "service.routes[0].retries.conditions[0]: unknown value 77",
            |it| {
                retries(it).conditions[0] = 77;
            },
        ),
        (
            "service.routes[0].retries.grpc_codes[0]: not a gRPC status",
            |it| {
                retries(it).grpc_codes[0] = 17;
            },
        ),
        ("service.backends[0].connect_timeout: missing", |it| {
            it.backends[0].connect_timeout = None;
        }),
        ("service.backends[0].load_balancer: missing", |it| {
            it.backends[0].load_balancer = None;
        }),
        (
            "service.backends[0].circuit_breaker.open_duration: missing",
            |it| {
                breaker(it).open_duration = None;
            },
        ),
        (
            "service.backends[0].circuit_breaker.half_open_max_requests: 0, where at least 1 is needed",
            |it| breaker(it).half_open_max_requests = 0,
        ),
        (
            "service.backends[0].circuit_breaker.max_ejection_percent: over 100",
            |it| breaker(it).max_ejection_percent = 101,
        ),
        (
            "service.routes[0].fault.abort.http_status: not from 200 to 599",
            |it| abort(it).status = Some(wire::fault_abort::Status::HttpStatus(199)),
        ),
        (
            "service.routes[0].fault.abort.grpc_code: not from 1 to 16",
            |it| abort(it).status = Some(wire::fault_abort::Status::GrpcCode(0)),
        ),
        ("service.routes[0].fault.abort.percent: over 100", |it| {
            abort(it).percent = 101;
        }),
    ];
    for (reason, spoil) in cases {
        let mut spoiled = target();
        spoil(&mut spoiled);
        assert_eq!(decode_target(spoiled).unwrap_err(), reason);
    }
}

#[test]
fn matches_are_refused_where_they_could_not_be_made() {
    use wire::HeaderMatchKind as Kind;
    let header = |kind: i32, value: &str| wire::RouteMatch {
        headers: vec![wire::HeaderMatch {
            name: "x".into(),
            value: value.into(),
            kind,
        }],
        ..Default::default()
    };
    let path = |regex: &str| wire::RouteMatch {
        path: Some(wire::PathMatch {
            kind: Some(wire::path_match::Kind::Regex(regex.into())),
        }),
        ..Default::default()
    };
    let query = |name: &str| wire::RouteMatch {
        query: vec![wire::QueryMatch {
            regex: false,
            name: name.into(),
            value: String::new(),
        }],
        grpc: true,
        ..Default::default()
    };
    let decoded = |rule| {
        let mut target = target();
        target.routes[0].matches = vec![rule];
        decode_target(target).map(|target| target.routes[0].matches[0].clone())
    };
    let good = decoded(query("a")).unwrap();
    assert!(good.grpc);
    assert_eq!(&*good.query[0].name, "a");
    assert!(decoded(path("/a[0-9]")).is_ok());
    assert!(decoded(header(Kind::Regex.into(), "a|b")).is_ok());
    assert!(decoded(header(Kind::Present.into(), "")).is_ok());
    for (rule, reason) in [
        (path("/a("), "path.regex: not a regular expression"),
        (
            header(Kind::Regex.into(), "("),
            "headers[0].value: not a regular expression",
        ),
        (header(Kind::Prefix.into(), "\n"), "headers[0].value"),
        (header(9, "a"), "headers[0].kind: unknown value 9"),
        (query(""), "query[0].name: missing"),
    ] {
        let error = decoded(rule).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}
