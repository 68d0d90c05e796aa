mod filters;
mod inbound;
mod refused;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use weft_proto::discovery as wire;

use crate::policy::{
    Limits, MirrorPolicy, OutboundTarget, Protocol, ServiceTarget, Sticky, decode,
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

fn log(percent: u32) -> wire::AccessLog {
    wire::AccessLog {
        percent,
        fields: vec![wire::AccessLogField::Path.into()],
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
                    share: 10,
                    body_limit_bytes: 65536,
                    max_in_flight: 64,
                    timeout: Some(duration(15_000)),
                    out_of: 0,
                    calls: true,
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
            access_log: Some(log(10)),
        }],
        bytes: None,
        access_log: Some(log(0)),
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

fn decode_target(target: wire::ServiceTarget) -> Result<ServiceTarget, String> {
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
    let percent = |log: &Option<std::sync::Arc<crate::policy::AccessLog>>| {
        log.as_ref().map(|log| log.percent)
    };
    assert_eq!(percent(&route.access_log), Some(10));
    assert_eq!(percent(&decoded.access_log), Some(0));
    let retries = route.retries.as_ref().unwrap();
    assert!(retries.on_reset && !retries.on_connect_failure);
    assert_eq!(retries.budget.interval, Duration::from_secs(10));
    assert!(route.split.next_when_empty);
    assert_eq!(
        route.split.mirror,
        Some(MirrorPolicy {
            backend: 0,
            share: 10,
            out_of: 100,
            calls: true,
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
