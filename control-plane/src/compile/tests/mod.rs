mod access_logs;
mod balancers;
mod destinations;
mod rate_limits;
mod routes;
mod rules;
mod sources;

use proptest::prelude::*;
use weft_proto::discovery::outbound::Target;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::sticky;
use weft_proto::discovery::{
    BalancerPolicy, BreakerScope, EndpointTarget, Endpoints, Inbound, InboundKey, MtlsMode,
    Outbound, Protocol, RetryCondition, ServiceRef, ServiceTarget, TrustBundleKey, WhenEmpty,
    path_match,
};

use super::*;
use crate::source::files::model_of;

const MESH: &str = r#"
trustDomain: weft.local
networks: [10.42.0.0/16, "fd42::/64"]
workloads:
- {name: web-1, namespace: demo, serviceAccount: web, addresses: [10.42.0.5, "fd42::5"]}
- {name: both-1, namespace: demo, serviceAccount: both, addresses: [10.42.0.6, "fd42::6"], zone: b,
   ports: [{port: 8080, probes: [{path: /healthz}]}, {port: 7000, protocol: tcp}]}
- {name: checkout-1, namespace: demo, serviceAccount: checkout, addresses: ["fd42::7", 10.42.0.7]}
- {name: checkout-2, namespace: demo, serviceAccount: checkout, addresses: [10.42.0.8], draining: true}
- {name: legacy-1, namespace: demo, addresses: [10.42.0.9], meshed: false}
- {name: other-1, namespace: ops, addresses: [10.42.0.10]}
services:
- {name: checkout, namespace: demo, clusterIPs: [10.96.0.10, "fd96::10"],
   ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: grpc-api, port: 9000}, {name: tcp-raw, port: 9001}],
   endpoints: [{workload: checkout-1}, {workload: checkout-2}, {workload: legacy-1}, {workload: both-1}, {workload: gone}, {address: 203.0.113.9}]}
- {name: canary, namespace: demo, clusterIPs: ["fd96::11"],
   ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http1}, {name: alt, port: 81, targetPort: 8080}],
   endpoints: [{workload: both-1}, {workload: checkout-1}]}
- {name: only, namespace: ops, ports: [{port: 5000, targetPort: 5001}], endpoints: [{workload: other-1}, {address: 10.42.9.9}]}
- {name: db, namespace: ops, clusterIPs: [10.96.0.20], ports: [{name: postgres, port: 5432}]}
explicitListeners:
- {workload: demo/web-1, listen: "127.0.0.1:18080", service: demo/checkout, port: 80}
"#;

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: \"{name}\", namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

fn mesh(policies: &[String]) -> Model {
    let model = model_of(&[("mesh.yaml", MESH), ("p.yaml", &policies.concat())]);
    let reasons: Vec<_> = model.refusals().iter().map(ToString::to_string).collect();
    // But an endpoint's workload and a split's backend that are not there.
    let unexpected = reasons
        .iter()
        .filter(|reason| !reason.contains("there is no"));
    assert_eq!(unexpected.count(), 0, "{reasons:?}");
    model
}

fn client(workload: &str, account: &str) -> Client {
    Client {
        namespace: "demo".into(),
        service_account: account.into(),
        workload: workload.into(),
        zone: String::new(),
    }
}

fn web() -> Client {
    client("web-1", "web")
}

fn ask(model: &Model, client: &Client, kind: Kind) -> update::Resource {
    compile(model, client, &ResourceKey { kind: Some(kind) })
}

fn outbound(ip: &str, port: u32) -> Kind {
    let ip: IpAddr = ip.parse().unwrap();
    let ip = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Kind::Outbound(OutboundKey { ip, port })
}

fn service(name: &str, port: u32) -> ServiceRef {
    let namespace = if name == "only" || name == "db" {
        "ops"
    } else {
        "demo"
    };
    ServiceRef {
        namespace: namespace.into(),
        name: name.into(),
        port,
    }
}

fn to_service(model: &Model, kind: Kind) -> ServiceTarget {
    match ask(model, &web(), kind) {
        update::Resource::Outbound(Outbound {
            target: Some(Target::Service(target)),
        }) => target,
        other => panic!("no service: {other:?}"),
    }
}

fn to_endpoint(model: &Model, kind: Kind) -> EndpointTarget {
    match ask(model, &web(), kind) {
        update::Resource::Outbound(Outbound {
            target: Some(Target::Endpoint(target)),
        }) => target,
        other => panic!("no endpoint: {other:?}"),
    }
}

fn endpoints(model: &Model, name: &str, port: u32) -> Endpoints {
    let key = EndpointsKey {
        service: Some(service(name, port)),
    };
    match ask(model, &web(), Kind::Endpoints(key)) {
        update::Resource::Endpoints(endpoints) => endpoints,
        other => panic!("no endpoints: {other:?}"),
    }
}

fn inbound(model: &Model, workload: &str, account: &str, port: u32) -> Option<Inbound> {
    match ask(
        model,
        &client(workload, account),
        Kind::Inbound(InboundKey { port }),
    ) {
        update::Resource::Inbound(inbound) => Some(inbound),
        _ => None,
    }
}

fn authority(text: &str) -> Kind {
    Kind::Authority(AuthorityKey {
        authority: text.into(),
    })
}

fn millis(duration: Option<&prost_types::Duration>) -> Option<i64> {
    duration.map(|d| d.seconds * 1_000 + i64::from(d.nanos) / 1_000_000)
}

#[test]
fn the_mesh_default_is_spelled_out() {
    let model = mesh(&[]);
    let target = to_service(&model, outbound("10.96.0.10", 80));
    assert_eq!(target.service, Some(service("checkout", 80)));
    assert_eq!(target.protocol(), Protocol::Unspecified);
    let [route] = target.routes.as_slice() else {
        panic!("one route")
    };
    assert_eq!((&*route.name, route.matches.len()), ("default", 0));
    assert_eq!(
        route.timeouts,
        Some(weft_proto::discovery::Timeouts::default())
    );
    let retries = route.retries.as_ref().unwrap();
    assert_eq!(retries.attempts, 2);
    assert_eq!(
        retries.conditions().collect::<Vec<_>>(),
        [
            RetryCondition::ConnectFailure,
            RetryCondition::RefusedStream
        ]
    );
    assert!(
        retries.status_codes.is_empty()
            && retries.grpc_codes.is_empty()
            && retries.methods.is_empty()
    );
    let backoff = retries.backoff.as_ref().unwrap();
    assert_eq!(
        (millis(backoff.base.as_ref()), millis(backoff.max.as_ref())),
        (Some(25), Some(250))
    );
    let budget = retries.budget.as_ref().unwrap();
    assert_eq!(
        (
            budget.percent,
            millis(budget.interval.as_ref()),
            budget.min_retries_per_second
        ),
        (20, Some(10_000), 10)
    );
    let split = route.split.as_ref().unwrap();
    assert_eq!(
        (
            split.backends.len(),
            split.backends[0].backend,
            split.backends[0].weight
        ),
        (1, 0, 1)
    );
    let [backend] = target.backends.as_slice() else {
        panic!("one backend")
    };
    assert_eq!(backend.service, target.service);
    assert_eq!(millis(backend.connect_timeout.as_ref()), Some(1_000));
    assert!(backend.circuit_breaker.is_none());
    assert_eq!(
        backend.load_balancer.as_ref().unwrap().policy(),
        BalancerPolicy::PeakEwma
    );
}

#[test]
fn a_rules_fault_stands_before_the_services_and_that_before_the_namespaces() {
    use weft_proto::discovery::fault_abort::Status;
    let abort = |model: &Model| -> Vec<_> {
        let target = to_service(model, outbound("fd96::10", 80));
        let status = |fault: &weft_proto::discovery::Fault| fault.abort.as_ref()?.status;
        let routes = target.routes.iter();
        routes.map(|route| status(route.fault.as_ref()?)).collect()
    };
    let namespace = policy(
        "n",
        "demo",
        "targetRefs: [{kind: Namespace, name: demo}], faultInjection: {abort: {httpStatus: 500}}",
    );
    let own = policy(
        "p",
        "demo",
        "targetRefs: [{name: checkout}], faultInjection: {abort: {grpcCode: ABORTED, percent: 7}},
         rules: [{name: r, matches: [{}], faultInjection: {headers: [{name: X-Chaos, value: '1'}], delay: {duration: 200ms, percent: 5}}}]",
    );
    let inherited = abort(&mesh(std::slice::from_ref(&namespace)));
    assert_eq!(inherited, [Some(Status::HttpStatus(500))]);
    let model = mesh(&[namespace, own]);
    assert_eq!(abort(&model), [None, Some(Status::GrpcCode(10))]);
    let target = to_service(&model, outbound("fd96::10", 80));
    let fault = target.routes[0].fault.as_ref().unwrap();
    assert_eq!(fault.headers[0].name, "x-chaos");
    let delay = fault.delay.as_ref().unwrap();
    assert_eq!(
        (millis(delay.duration.as_ref()), delay.percent),
        (Some(200), 5)
    );
    assert_eq!(
        target.routes[1]
            .fault
            .as_ref()
            .unwrap()
            .abort
            .unwrap()
            .percent,
        7
    );
}

#[test]
fn fallbacks_name_their_backend_or_carry_their_answer() {
    use weft_proto::discovery::FallbackTrigger as Trigger;
    use weft_proto::discovery::fallback::Answer;
    let model = mesh(&[policy(
        "p",
        "demo",
        "targetRefs: [{name: checkout}],
         fallback: {triggers: [RetriesExhausted, Overload], backend: {name: canary, port: 81}},
         rules: [{name: r, matches: [{}], fallback: {response: {body: later, headers: [{name: Retry-After, value: '5'}]}}}]",
    )]);
    let target = to_service(&model, outbound("fd96::10", 80));
    let [rule, default] = target.routes.as_slice() else {
        panic!("two routes")
    };
    let of_rule = rule.fallback.as_ref().unwrap();
    let triggers: Vec<_> = of_rule.triggers().collect();
    assert_eq!(triggers, [Trigger::CircuitOpen, Trigger::NoEndpoints]);
    let Some(Answer::Response(response)) = &of_rule.answer else {
        panic!("a response")
    };
    assert_eq!(
        (response.status, response.body.as_slice()),
        (503, &b"later"[..])
    );
    assert_eq!(response.content_type, "text/plain; charset=utf-8");
    assert_eq!(response.headers[0].name, "retry-after");

    let of_default = default.fallback.as_ref().unwrap();
    let triggers: Vec<_> = of_default.triggers().collect();
    assert_eq!(triggers, [Trigger::RetriesExhausted, Trigger::Overload]);
    let Some(Answer::Backend(index)) = of_default.answer else {
        panic!("a backend")
    };
    let backend = target.backends[index as usize].service.as_ref().unwrap();
    assert_eq!((&*backend.name, backend.port), ("canary", 81));
    let sides = &default.split.as_ref().unwrap().backends;
    assert!(sides.iter().all(|side| side.backend != index));
}

#[test]
fn every_stanza_reaches_the_wire() {
    let model = mesh(&[
        policy("p", "demo", "targetRefs: [{name: checkout, sectionName: http}],
            timeouts: {request: 3s, perTry: 1s, connect: 250ms, idle: 0s, stream: 1h},
            retries: {attempts: 1, conditions: [Reset, PerTryTimeout], grpcCodes: [UNAVAILABLE, ABORTED], bodyLimitBytes: 7, retryAfter: Ignore},
            circuitBreaker: {scope: Backend, consecutiveFailures: {}, errorRate: {minRequests: 5}, failureStatusCodes: [503], limits: {maxRequests: 100}},
            loadBalancer: {policy: LeastRequest},
            split: {backends: [{name: checkout, weight: 90}, {name: canary, port: 81, weight: 10, matches: [{headers: [{name: X-Canary, value: always}]}]}], sticky: {ttl: 24h}, whenEmpty: NextBackend},
            rules: [{name: orders, matches: [{path: {value: /orders/}, method: POST, headers: [{name: X-A, value: b}]}, {path: {}}, {path: {type: Exact, value: /x/}}], retries: {attempts: 0}}]"),
        policy("c", "demo", "targetRefs: [{name: canary}], timeouts: {request: 9s, connect: 2s}, loadBalancer: {policy: Random}"),
    ]);
    let target = to_service(&model, outbound("fd96::10", 80));
    let [orders, default] = target.routes.as_slice() else {
        panic!("two routes")
    };

    assert_eq!(orders.name, "orders");
    assert!(orders.retries.is_none());
    assert_eq!(orders.timeouts, default.timeouts);
    assert_eq!(orders.split, default.split);
    let kinds: Vec<_> = orders
        .matches
        .iter()
        .map(|m| m.path.clone().and_then(|p| p.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            Some(path_match::Kind::Prefix("/orders".into())),
            None,
            Some(path_match::Kind::Exact("/x/".into()))
        ]
    );
    assert_eq!(
        (
            &*orders.matches[0].method,
            &*orders.matches[0].headers[0].name
        ),
        ("POST", "x-a")
    );

    assert_eq!((&*default.name, default.matches.len()), ("default", 0));
    let timeouts = default.timeouts.as_ref().unwrap();
    assert_eq!(millis(timeouts.request.as_ref()), Some(3_000));
    assert_eq!(millis(timeouts.per_try.as_ref()), Some(1_000));
    assert_eq!(millis(timeouts.stream.as_ref()), Some(3_600_000));
    assert_eq!(timeouts.idle, None);
    let retries = default.retries.as_ref().unwrap();
    assert_eq!(
        retries.conditions().collect::<Vec<_>>(),
        [RetryCondition::Reset, RetryCondition::PerTryTimeout]
    );
    assert_eq!(
        (
            retries.status_codes.as_slice(),
            retries.grpc_codes.as_slice()
        ),
        ([502, 503, 504].as_slice(), [14, 10].as_slice())
    );
    assert_eq!(
        (
            retries.methods.len(),
            retries.body_limit_bytes,
            retries.honor_retry_after
        ),
        (3, 7, false)
    );

    let split = default.split.as_ref().unwrap();
    let weights: Vec<_> = split
        .backends
        .iter()
        .map(|b| (b.backend, b.weight, b.forced.len()))
        .collect();
    assert_eq!(weights, [(0, 90, 0), (1, 10, 1)]);
    assert_eq!(split.backends[1].forced[0].headers[0].name, "x-canary");
    assert_eq!(split.when_empty(), WhenEmpty::NextBackend);
    let Some(sticky::Kind::Cookie(cookie)) = split.sticky.clone().and_then(|s| s.kind) else {
        panic!("a cookie")
    };
    assert_eq!(
        (&*cookie.name, millis(cookie.ttl.as_ref())),
        ("weft-canary", Some(86_400_000))
    );

    // Connection-level stanzas: the backend's own, else those of the addressed service.
    let [own, canary] = target.backends.as_slice() else {
        panic!("two backends")
    };
    assert_eq!(canary.service, Some(service("canary", 81)));
    assert_eq!(millis(own.connect_timeout.as_ref()), Some(250));
    assert_eq!(millis(canary.connect_timeout.as_ref()), Some(2_000));
    assert_eq!(
        own.load_balancer.as_ref().unwrap().policy(),
        BalancerPolicy::LeastRequest
    );
    assert_eq!(
        canary.load_balancer.as_ref().unwrap().policy(),
        BalancerPolicy::Random
    );
    assert_eq!(own.circuit_breaker, canary.circuit_breaker);
    let breaker = own.circuit_breaker.as_ref().unwrap();
    assert_eq!(
        (
            breaker.scope(),
            breaker.consecutive_failures,
            breaker.failure_status_codes.as_slice()
        ),
        (BreakerScope::Backend, 7, [503].as_slice())
    );
    assert_eq!(breaker.error_rate.as_ref().unwrap().min_requests, 5);
    let limits = breaker.limits.as_ref().unwrap();
    assert_eq!(
        (
            limits.max_requests,
            limits.max_connections,
            limits.max_pending_requests
        ),
        // The queue has a bound also where policy says none.
        (Some(100), None, Some(1_024))
    );

    // Another port of the service is not concerned.
    assert_eq!(
        to_service(&model, outbound("fd96::10", 9000)).routes.len(),
        1
    );
}

#[test]
fn a_sidecar_is_greeted() {
    let model = mesh(&[]);
    let reply = hello(&model, &web());
    assert_eq!(reply.trust_domain, "weft.local");
    assert_eq!(reply.networks, ["10.42.0.0/16", "fd42::/64"]);
    assert_eq!(reply.server_first_ports, [21, 22, 25, 110, 143, 587, 3306]);
    assert_eq!(reply.zone, "");
    assert_eq!(hello(&model, &client("both-1", "both")).zone, "b");
    assert_eq!(hello(&model, &client("gone", "both")).zone, "");
    assert_eq!(reply.explicit_listeners.len(), 1);
    assert_eq!(reply.explicit_listeners[0].address, "127.0.0.1:18080");
    assert_eq!(
        reply.explicit_listeners[0].ip.as_slice(),
        [10, 96, 0, 10].as_slice()
    );
    assert!(
        hello(&model, &client("both-1", "both"))
            .explicit_listeners
            .is_empty()
    );
}

fn any_key() -> impl Strategy<Value = ResourceKey> {
    let ip = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        prop_oneof![Just(5_u8), Just(6), Just(10)].prop_map(|last| vec![10, 42, 0, last]),
        Just(vec![10, 96, 0, 10]),
    ];
    let port = prop_oneof![any::<u32>(), Just(0), Just(80), Just(8080)];
    let name = prop_oneof![
        ".{0,12}",
        Just("checkout".to_owned()),
        Just("demo".to_owned())
    ];
    prop_oneof![
        (ip, port.clone()).prop_map(|(ip, port)| Some(Kind::Outbound(OutboundKey { ip, port }))),
        "([a-z.:\\[\\]0-9]{0,30}|.{0,300}|checkout.{0,9})"
            .prop_map(|authority| Some(Kind::Authority(AuthorityKey { authority }))),
        (name.clone(), name, port.clone()).prop_map(|(namespace, name, port)| {
            let service = Some(ServiceRef {
                namespace,
                name,
                port,
            });
            Some(Kind::Endpoints(EndpointsKey { service }))
        }),
        port.prop_map(|port| Some(Kind::Inbound(InboundKey { port }))),
        Just(Some(Kind::Endpoints(EndpointsKey { service: None }))),
        Just(Some(Kind::TrustBundle(TrustBundleKey {}))),
        Just(None),
    ]
    .prop_map(|kind| ResourceKey { kind })
}

proptest! {
    /// No key makes the compiler panic, and what it makes is always complete: a route that matches
    /// everything last, every split within the list of backends.
    #[test]
    fn every_key_has_a_complete_answer(key in any_key()) {
        let model = mesh(&[policy("c", "demo", "targetRefs: [{name: checkout}], split: {backends: [{name: canary}, {name: unknown}]}")]);
        let target = match compile(&model, &web(), &key) {
            update::Resource::Outbound(Outbound { target: Some(Target::Service(target)) }) => target,
            update::Resource::Outbound(Outbound { target: Some(Target::Endpoint(target)) }) => {
                prop_assert!(target.endpoint.is_some());
                target.policy.expect("a policy")
            }
            _ => return Ok(()),
        };
        let last = target.routes.last().expect("a route");
        prop_assert!(last.matches.is_empty() && last.name == "default");
        for route in &target.routes {
            let split = route.split.as_ref().expect("a split");
            prop_assert!(!split.backends.is_empty());
            prop_assert!(split.backends.iter().all(|b| (b.backend as usize) < target.backends.len()));
            prop_assert!(route.timeouts.is_some());
        }
        prop_assert!(target.backends.iter().all(|b| b.connect_timeout.is_some() && b.load_balancer.is_some()));
    }
}
