//! Policies that tests start from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use weft_proto::spiffe::SpiffeId;

use crate::policy::{
    BackendPolicy, BalancerPolicy, BreakerPolicy, BreakerScope, BudgetPolicy, EndpointInfo,
    InboundPolicy, MeshInfo, MtlsMode, Protocol, RetryPolicy, Route, ServiceRef, ServiceTarget,
    Split, Timeouts, WeightedBackend,
};

/// A mesh of the addresses 10.0.0.0/8; loopback lies outside.
pub(crate) fn mesh() -> MeshInfo {
    MeshInfo {
        trust_domain: "cluster.local".into(),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        explicit_listeners: Vec::new(),
        server_first_ports: vec![3306],
        zone: Arc::from(""),
    }
}

pub(crate) fn service(name: &str) -> ServiceRef {
    ServiceRef {
        namespace: "shop".into(),
        name: name.into(),
        port: 80,
    }
}

/// A service of these backends, the first with all the weight.
pub(crate) fn target(name: &str, backends: &[&str]) -> ServiceTarget {
    let weighted = |(index, _): (usize, _)| side(index, u32::from(index == 0));
    ServiceTarget {
        service: service(name),
        protocol: Protocol::Detect,
        routes: vec![route(
            "default",
            backends.iter().enumerate().map(weighted).collect(),
        )],
        backends: backends.iter().map(|name| backend(name)).collect(),
        bytes: None,
        access_log: None,
    }
}

pub(crate) fn side(backend: usize, weight: u32) -> WeightedBackend {
    WeightedBackend::plain(backend, weight)
}

/// Matches everything; no limit, no retry.
pub(crate) fn route(name: &str, backends: Vec<WeightedBackend>) -> Route {
    Route {
        name: name.into(),
        matches: Vec::new(),
        timeouts: Timeouts::default(),
        retries: None,
        split: Split {
            backends,
            sticky: None,
            next_when_empty: false,
            mirror: None,
        },
        fault: None,
        fallback: None,
        filters: None,
        access_log: None,
    }
}

/// Endpoints in turn; no breaker.
pub(crate) fn backend(name: &str) -> BackendPolicy {
    BackendPolicy {
        service: service(name),
        connect_timeout: Duration::from_secs(5),
        circuit_breaker: None,
        balancer: BalancerPolicy::RoundRobin.into(),
    }
}

/// Two retries, at once, of what can be repeated: GET, and 503. Its budget is never exhausted.
pub(crate) fn retries() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        on_connect_failure: true,
        on_refused_stream: true,
        on_reset: true,
        on_per_try_timeout: true,
        status_codes: vec![503],
        grpc_codes: vec![14],
        methods: vec![Method::GET],
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(1),
        budget: BudgetPolicy {
            percent: 1000,
            interval: Duration::from_secs(10),
            min_retries_per_second: 100,
        },
        body_limit_bytes: 1024,
        honor_retry_after: false,
    }
}

/// Opens at the first failure, for a long time.
pub(crate) fn breaker(scope: BreakerScope) -> BreakerPolicy {
    BreakerPolicy {
        scope,
        consecutive_failures: Some(1),
        error_rate: None,
        failure_status_codes: Vec::new(),
        open_duration: Duration::from_secs(600),
        max_open_duration: Duration::from_secs(600),
        half_open_max_requests: 1,
        half_open_success_threshold: 1,
        max_ejection_percent: 50,
        limits: None,
    }
}

/// An endpoint that proves to be `identity`, where there is one.
pub(crate) fn endpoint(address: SocketAddr, identity: Option<SpiffeId>) -> EndpointInfo {
    EndpointInfo {
        address,
        identity,
        namespace: "shop".into(),
        workload: "server".into(),
        zone: Arc::from(""),
        weight: 1,
    }
}

/// Takes everybody and everything.
pub(crate) fn inbound(mtls: MtlsMode) -> InboundPolicy {
    InboundPolicy {
        mtls,
        protocol: Protocol::Detect,
        authorization: Vec::new(),
        rate_limits: Vec::new(),
        ruled_rate_limits: Vec::new(),
        probes: Vec::new(),
        terminating: false,
        application_ended: false,
        access_logs: Vec::new(),
        services: vec![service("api")],
    }
}
