//! Properties and simulations of the decisions.

mod balance;
mod balancer;
mod breaker;
mod budget;
mod cookie;
mod deadline;
mod ejection;
mod fallback;
mod fault;
mod layout;
mod limiter;
mod limits;
mod retry;
mod ring;
mod route;
mod simulation;
mod split;
mod stickiness;
mod survival;
mod trace;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::balance::Candidate;
use super::health::EndpointHealth;
use super::layout::Layout;
use crate::policy::{
    BreakerPolicy, BreakerScope, BudgetPolicy, EndpointInfo, RetryPolicy, ServiceRef,
};

/// Without zones and keys.
static WHOLE: LazyLock<Layout> = LazyLock::new(Layout::default);

/// A breaker of scope Endpoint as in the demo.
fn breaker_policy() -> BreakerPolicy {
    BreakerPolicy {
        scope: BreakerScope::Endpoint,
        consecutive_failures: Some(5),
        error_rate: None,
        failure_status_codes: Vec::new(),
        open_duration: Duration::from_secs(2),
        max_open_duration: Duration::from_secs(60),
        half_open_max_requests: 1,
        half_open_success_threshold: 3,
        max_ejection_percent: 50,
        limits: None,
    }
}

fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        on_connect_failure: true,
        on_refused_stream: true,
        on_reset: false,
        on_per_try_timeout: false,
        status_codes: vec![500, 502, 503, 504],
        grpc_codes: vec![14],
        methods: vec![http::Method::GET, http::Method::HEAD],
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        budget: BudgetPolicy {
            percent: 20,
            interval: Duration::from_secs(10),
            min_retries_per_second: 10,
        },
        body_limit_bytes: 65_536,
        honor_retry_after: true,
    }
}

fn endpoint(number: u16, weight: u32) -> EndpointInfo {
    EndpointInfo {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, number)),
        identity: None,
        namespace: Arc::from("shop"),
        workload: Arc::from("checkout"),
        zone: Arc::from(""),
        weight,
    }
}

fn endpoints(count: u16) -> Vec<EndpointInfo> {
    (1..=count).map(|number| endpoint(number, 1)).collect()
}

fn service(name: &str) -> ServiceRef {
    ServiceRef {
        namespace: Arc::from("shop"),
        name: Arc::from(name),
        port: 80,
    }
}

struct Side {
    health: Arc<EndpointHealth>,
    weight: u32,
}

impl Candidate for Side {
    fn health(&self) -> &Arc<EndpointHealth> {
        &self.health
    }

    fn weight(&self) -> u32 {
        self.weight
    }
}

fn sides(healths: Vec<Arc<EndpointHealth>>) -> Vec<Side> {
    let side = |health| Side { health, weight: 1 };
    healths.into_iter().map(side).collect()
}
