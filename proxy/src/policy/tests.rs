use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use weft_proto::discovery as wire;

use super::{
    Limits, MirrorPolicy, MtlsMode, OutboundTarget, Principal, Protocol, RateLimitKey, Sticky,
    decode,
};

fn duration(millis: u64) -> prost_types::Duration {
    Duration::from_millis(millis).try_into().unwrap()
}

fn cart() -> wire::ServiceRef {
    wire::ServiceRef {
        namespace: "shop".into(),
        name: "cart".into(),
        port: 80,
    }
}

fn target() -> wire::ServiceTarget {
    wire::ServiceTarget {
        service: Some(cart()),
        protocol: wire::Protocol::Unspecified.into(),
        routes: vec![wire::Route {
            name: "default".into(),
            matches: vec![wire::RouteMatch {
                path: Some(wire::PathMatch {
                    kind: Some(wire::path_match::Kind::Prefix("/a".into())),
                }),
                method: "GET".into(),
                headers: vec![wire::HeaderMatch {
                    name: "x-canary".into(),
                    value: "always".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            timeouts: Some(wire::Timeouts {
                request: Some(duration(3000)),
                ..Default::default()
            }),
            retries: Some(wire::Retries {
                attempts: 2,
                conditions: vec![wire::RetryCondition::Reset.into()],
                status_codes: vec![503],
                grpc_codes: vec![14],
                methods: vec!["GET".into()],
                backoff: Some(wire::Backoff {
                    base: Some(duration(25)),
                    max: Some(duration(250)),
                }),
                budget: Some(wire::RetryBudget {
                    percent: 20,
                    interval: Some(duration(10_000)),
                    min_retries_per_second: 10,
                }),
                body_limit_bytes: 65536,
                honor_retry_after: true,
            }),
            split: Some(wire::Split {
                backends: vec![wire::WeightedBackend {
                    backend: 0,
                    weight: 1,
                    forced: vec![wire::SplitMatch {
                        headers: vec![],
                        cookies: vec![wire::CookieMatch {
                            name: "beta".into(),
                            value: None,
                        }],
                    }],
                    ..Default::default()
                }],
                sticky: Some(wire::Sticky {
                    kind: Some(wire::sticky::Kind::Cookie(wire::StickyCookie {
                        name: "weft-canary".into(),
                        ttl: None,
                    })),
                }),
                when_empty: wire::WhenEmpty::NextBackend.into(),
                mirror: Some(wire::Mirror {
                    backend: 0,
                    percent: 10,
                    body_limit_bytes: 65536,
                    max_in_flight: 64,
                    timeout: Some(duration(15_000)),
                }),
            }),
            fault: Some(wire::Fault {
                headers: vec![],
                delay: Some(wire::FaultDelay {
                    duration: Some(duration(200)),
                    percent: 5,
                }),
                abort: Some(wire::FaultAbort {
                    status: Some(wire::fault_abort::Status::HttpStatus(503)),
                    percent: 1,
                }),
            }),
            fallback: Some(wire::Fallback {
                triggers: vec![wire::FallbackTrigger::Timeout.into()],
                answer: Some(wire::fallback::Answer::Response(wire::StaticResponse {
                    status: 503,
                    content_type: "text/plain".into(),
                    body: b"later".to_vec(),
                    headers: vec![wire::Header {
                        name: "retry-after".into(),
                        value: "5".into(),
                    }],
                })),
            }),
            filters: None,
        }],
        bytes: None,
        backends: vec![wire::Backend {
            service: Some(cart()),
            connect_timeout: Some(duration(1000)),
            circuit_breaker: Some(wire::CircuitBreaker {
                consecutive_failures: 5,
                open_duration: Some(duration(30_000)),
                max_open_duration: Some(duration(60_000)),
                half_open_max_requests: 1,
                half_open_success_threshold: 3,
                max_ejection_percent: 50,
                limits: Some(wire::Limits {
                    max_requests: Some(7),
                    max_pending_requests: Some(0),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            load_balancer: Some(wire::LoadBalancer::default()),
        }],
    }
}

fn decode_target(target: wire::ServiceTarget) -> Result<super::ServiceTarget, String> {
    let message = wire::Outbound {
        target: Some(wire::outbound::Target::Service(target)),
    };
    match decode::outbound(&message).map_err(|error| error.to_string())? {
        OutboundTarget::Service(target) => Ok(target.as_ref().clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_comes_through_whole() {
    let decoded = decode_target(target()).unwrap();
    assert_eq!(decoded.service.to_string(), "shop/cart:80");
    assert_eq!(decoded.protocol, Protocol::Detect);
    let route = &decoded.routes[0];
    assert_eq!(route.timeouts.request, Some(Duration::from_secs(3)));
    assert_eq!(route.timeouts.idle, None);
    let retries = route.retries.as_ref().unwrap();
    assert!(retries.on_reset && !retries.on_connect_failure);
    assert_eq!(retries.budget.interval, Duration::from_secs(10));
    assert!(route.split.next_when_empty);
    assert_eq!(
        route.split.mirror,
        Some(MirrorPolicy {
            backend: 0,
            percent: 10,
            body_limit_bytes: 65_536,
            max_in_flight: 64,
            timeout: Duration::from_secs(15),
        })
    );
    let forced = &route.split.backends[0].forced;
    assert_eq!(&*forced[0].cookies[0].name, "beta");
    assert!(matches!(
        &route.split.sticky,
        Some(Sticky::Cookie { ttl: None, .. })
    ));
    let breaker = decoded.backends[0].circuit_breaker.as_ref().unwrap();
    assert_eq!(breaker.consecutive_failures, Some(5));
    let limits = breaker.limits.unwrap();
    let expected = Limits {
        max_connections: None,
        max_pending_requests: 0,
        max_requests: Some(7),
    };
    assert_eq!(limits, expected);
}

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
        ("service.routes[0].split.mirror.percent: over 100", |it| {
            mirror(it).percent = 101;
        }),
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

fn endpoint(ip: &[u8], port: u32) -> wire::Endpoint {
    wire::Endpoint {
        address: Some(wire::SocketAddress {
            ip: ip.to_vec(),
            port,
        }),
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/cart".into(),
        workload: "cart-1".into(),
        namespace: "shop".into(),
        weight: 1,
        ..Default::default()
    }
}

#[test]
fn endpoints() {
    let decode = |endpoint| {
        decode::endpoints(&wire::Endpoints {
            endpoints: vec![endpoint],
        })
        .map_err(|error| error.to_string())
    };
    let good = decode(endpoint(&[10, 0, 0, 1], 80)).unwrap();
    assert_eq!(good[0].address, "10.0.0.1:80".parse().unwrap());
    let mapped = endpoint(
        &"::ffff:10.0.0.1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
        80,
    );
    assert_eq!(decode(mapped).unwrap()[0].address, good[0].address);

    let refused = |endpoint, reason: &str| assert_eq!(decode(endpoint).unwrap_err(), reason);
    refused(
        endpoint(&[1, 2, 3], 80),
        "endpoints[0].address.ip: neither 4 nor 16 bytes",
    );
    refused(
        endpoint(&[1, 2, 3, 4], 65536),
        "endpoints[0].address.port: not from 1 to 65535",
    );
    let mut weightless = endpoint(&[1, 2, 3, 4], 80);
    weightless.weight = 0;
    refused(
        weightless,
        "endpoints[0].weight: 0, where at least 1 is needed",
    );
    let mut nobody = endpoint(&[1, 2, 3, 4], 80);
    nobody.spiffe_id = "spiffe://".into();
    assert!(
        decode(nobody)
            .unwrap_err()
            .starts_with("endpoints[0].spiffe_id")
    );
}

#[test]
fn an_endpoint_target_may_belong_to_no_service() {
    let mut policy = target();
    policy.service = None;
    let message = wire::Outbound {
        target: Some(wire::outbound::Target::Endpoint(wire::EndpointTarget {
            endpoint: Some(endpoint(&[10, 0, 0, 1], 8080)),
            aliases: vec![wire::AuthorityAlias {
                service: Some(cart()),
                authorities: vec!["cart.shop:80".into(), "cart.shop".into()],
            }],
            policy: Some(policy),
        })),
    };
    let OutboundTarget::Endpoint(target) = decode::outbound(&message).unwrap() else {
        panic!("not an endpoint");
    };
    assert_eq!(target.policy.service.to_string(), "shop/:8080");
    assert_eq!(target.aliases[0].1.len(), 2);
}

#[test]
fn inbound() {
    let mut message = wire::Inbound {
        mtls: wire::MtlsMode::Strict.into(),
        authorization: Some(wire::Authorization {
            lists: vec![wire::AllowList {
                entries: vec![wire::AllowEntry {
                    principals: vec!["spiffe://a/ns/b/*".into(), "spiffe://a/ns/b/sa/c".into()],
                    methods: vec!["GET".into()],
                    paths: vec!["/cart".into()],
                }],
                audit: false,
            }],
        }),
        probes: vec![wire::Probe {
            path: "/health".into(),
            method: "GET".into(),
        }],
        ..Default::default()
    };
    let policy = decode::inbound(&message).unwrap();
    assert_eq!(policy.mtls, MtlsMode::Strict);
    assert_eq!(
        policy.authorization[0].entries[0].principals,
        [
            Principal::Prefix("spiffe://a/ns/b/".into()),
            Principal::Exact("spiffe://a/ns/b/sa/c".into())
        ]
    );

    assert_eq!(policy.rate_limits, []);

    message.authorization.as_mut().unwrap().lists.clear();
    let error = decode::inbound(&message).unwrap_err().to_string();
    assert_eq!(error, "authorization: no list");
    message.authorization = None;
    message.mtls = 0;
    assert_eq!(
        decode::inbound(&message).unwrap_err().to_string(),
        "mtls: missing"
    );
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
        let message = wire::Outbound {
            target: Some(wire::outbound::Target::Service(target)),
        };
        let decoded = decode::outbound(&message).map_err(|error| error.to_string())?;
        let OutboundTarget::Service(target) = decoded else {
            panic!("no service");
        };
        Ok(target.routes[0].matches[0].clone())
    };
    let good: super::RouteMatch = decoded(query("a")).unwrap();
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
        let error: String = decoded(rule).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn rate_limits() {
    use wire::rate_limit::Key;
    let rate = |requests_per_second, burst| wire::Rate {
        requests_per_second,
        burst,
    };
    let by_identity = |identity: &str, burst| {
        Key::ClientIdentity(wire::RateLimitByIdentity {
            overrides: vec![wire::RateLimitOverride {
                identity: identity.into(),
                rate: Some(rate(1, burst)),
            }],
        })
    };
    let decoded = |rate, key| {
        decode::inbound(&wire::Inbound {
            mtls: wire::MtlsMode::Strict.into(),
            rate_limits: vec![wire::RateLimit {
                rate: Some(rate),
                key,
            }],
            ..Default::default()
        })
        .map_err(|error| error.to_string())
    };
    let policy = decoded(rate(10, 20), Some(by_identity("spiffe://a/b", 5))).unwrap();
    let limit = &policy.rate_limits[0];
    assert_eq!(
        (limit.rate.per_second.get(), limit.rate.burst.get()),
        (10, 20)
    );
    let RateLimitKey::ClientIdentity(overrides) = &limit.key else {
        panic!("{limit:?}");
    };
    assert_eq!(overrides[0].rate.burst.get(), 5);

    let bound = "not from 1 to 10,000,000";
    for (rate, key, reason) in [
        (rate(10, 10), None, "key: missing".to_owned()),
        (
            rate(10, 10),
            Some(Key::Global(false)),
            "global: false".to_owned(),
        ),
        (
            rate(10, 10),
            Some(Key::Header("X".into())),
            "header.name: not a header name in lower case".to_owned(),
        ),
        (
            rate(0, 10),
            Some(Key::Global(true)),
            format!("rate.requests_per_second: {bound}"),
        ),
        (
            rate(10, 10_000_001),
            Some(Key::Global(true)),
            format!("rate.burst: {bound}"),
        ),
        (
            rate(10, 10),
            Some(by_identity("a", 0)),
            format!("client_identity.overrides[0].rate.burst: {bound}"),
        ),
        (
            rate(10, 10),
            Some(by_identity("", 1)),
            "client_identity.overrides[0].identity: missing".to_owned(),
        ),
    ] {
        let error = decoded(rate, key).unwrap_err();
        assert_eq!(error, format!("rate_limits[0].{reason}"));
    }
}

#[test]
fn the_meshs_networks() {
    let mut reply = wire::HelloReply {
        trust_domain: "cluster.local".into(),
        networks: vec!["10.0.0.0/8".into(), "fd00::/8".into()],
        explicit_listeners: vec![wire::ExplicitListener {
            address: "127.0.0.1:18080".into(),
            ip: vec![10, 1, 0, 1],
            port: 80,
        }],
        server_first_ports: vec![3306],
        zone: "b".into(),
    };
    let info = decode::mesh_info(&reply).unwrap();
    assert_eq!(&*info.zone, "b");
    let inside = |text: &str| info.contains(text.parse::<IpAddr>().unwrap());
    assert!(inside("10.9.8.7") && inside("::ffff:10.9.8.7") && inside("fd00::1"));
    assert!(!inside("192.0.2.1") && !inside("2001:db8::1"));
    let destination: SocketAddr = "10.1.0.1:80".parse().unwrap();
    assert_eq!(info.explicit_listeners[0].destination, destination);

    reply.networks.push("10.0.0.0/33".into());
    let error = decode::mesh_info(&reply).unwrap_err().to_string();
    assert!(error.starts_with("networks[2]: "), "{error}");
}

/// Decodes bytes as every message, and what comes out as the types of this process.
fn survive(bytes: &[u8]) {
    if let Ok(message) = wire::Outbound::decode(bytes) {
        let _ = decode::outbound(&message);
    }
    if let Ok(message) = wire::Endpoints::decode(bytes) {
        let _ = decode::endpoints(&message);
    }
    if let Ok(message) = wire::EndpointsDelta::decode(bytes) {
        let _ = decode::endpoints_delta(&message);
    }
    if let Ok(message) = wire::Inbound::decode(bytes) {
        let _ = decode::inbound(&message);
    }
    if let Ok(message) = wire::HelloReply::decode(bytes) {
        let _ = decode::mesh_info(&message);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survive(&bytes);
    }

    #[test]
    fn damaged_messages_are_survived(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        more in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let message = wire::Outbound {
            target: Some(wire::outbound::Target::Service(target())),
        };
        let mut bytes = message.encode_to_vec();
        for (at, byte) in more.into_iter().chain([(at, byte)]) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survive(&bytes);
    }
}

fn first_route(message: &mut wire::ServiceTarget) -> &mut wire::Route {
    &mut message.routes[0]
}

#[test]
fn filters_touch_no_header_of_the_connection() {
    let edits = |name: &str| wire::HeaderEdits {
        remove: vec![name.into()],
        ..Default::default()
    };
    for (name, allowed) in [
        ("x-user", true),
        ("X-User", false),
        ("x-weft-outcome", false),
        ("connection", false),
        ("content-length", false),
        ("host", false),
    ] {
        let mut by_route = target();
        first_route(&mut by_route).filters = Some(wire::RouteFilters {
            request_headers: Some(edits(name)),
            ..Default::default()
        });
        assert_eq!(decode_target(by_route).is_ok(), allowed, "{name}");

        let mut by_side = target();
        let split = first_route(&mut by_side).split.as_mut().unwrap();
        split.backends[0].response_headers = Some(edits(name));
        assert_eq!(decode_target(by_side).is_ok(), allowed, "{name}");
    }
}

#[test]
fn redirects_are_whole() {
    let redirect = |change: &dyn Fn(&mut wire::Redirect)| {
        let mut redirect = wire::Redirect {
            scheme: "https".into(),
            host: "example.org".into(),
            port: 443,
            path: None,
            status: 302,
        };
        change(&mut redirect);
        let mut target = target();
        first_route(&mut target).filters = Some(wire::RouteFilters {
            target: Some(wire::route_filters::Target::Redirect(redirect)),
            ..Default::default()
        });
        decode_target(target).err()
    };
    assert_eq!(redirect(&|_| {}), None);
    let bad = |change: &dyn Fn(&mut wire::Redirect)| redirect(change).unwrap_or_default();
    assert!(bad(&|it| it.port = 0).contains("filters.redirect.port"));
    assert!(bad(&|it| it.scheme = "ftp".into()).contains("filters.redirect.scheme"));
    assert!(bad(&|it| it.status = 200).contains("filters.redirect.status"));
    assert!(bad(&|it| it.host = "a b".into()).contains("filters.redirect.host"));
}

#[test]
fn a_side_that_leads_nowhere_has_no_backend_and_bytes_make_routes_optional() {
    let mut message = target();
    let split = first_route(&mut message).split.as_mut().unwrap();
    split.backends[0].backend = 7;
    assert!(decode_target(message.clone()).is_err());
    let split = first_route(&mut message).split.as_mut().unwrap();
    split.backends[0].unusable = "there is no service a".into();
    assert!(decode_target(message).is_ok());

    let mut message = target();
    let bytes = message.routes.remove(0).split;
    assert!(decode_target(message.clone()).is_err());
    message.bytes = bytes;
    assert!(decode_target(message).is_ok());
}
