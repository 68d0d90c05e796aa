//! What a plain HTTP/1 request and an idle connection cost the client's sidecar, with everything on that a route may have, and
//! however much of the mesh the sidecar knows.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::policy::{BreakerScope, Protocol};
use crate::testing::costs::{Calls, Cost, PLAIN, Side, answer, instructions, others};
use crate::testing::policies::{breaker, endpoint, retries, target};

/// The budget of one side, and what the runtime may add now and then, which is not per request.
const MAX_ALLOCATIONS: f64 = 15.05;

/// What an idle connection may keep of the heap, which resident memory is some more than.
const MAX_IDLE_BYTES: f64 = 5_900.0;
const MAX_IDLE_HTTP1: f64 = 2_800.0;

async fn serve(sidecar: Arc<Sidecar>, accepted: TcpStream) {
    let closing = sidecar.closing.subscribe();
    let outbound = Arc::clone(&sidecar.outbound);
    outbound.connection(accepted, &Fixed(api()), closing).await;
}

/// Timeouts, retries and a breaker.
fn policy(name: &str) -> ServiceTarget {
    let mut policy = target(name, &[name]);
    let route = &mut policy.routes[0];
    route.retries = Some(retries());
    route.timeouts.request = Some(Duration::from_secs(60));
    route.timeouts.per_try = Some(Duration::from_secs(60));
    policy.backends[0].circuit_breaker = Some(breaker(BreakerScope::Endpoint));
    policy
}

/// The cost where `others` more services are known, each with a route of its own.
async fn cost(others: usize) -> Cost {
    let side = Side::start("client", Sidecar::new, serve).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = endpoint(listener.local_addr().unwrap(), Some(spiffe("api")));
    let identity = side.sidecar.identity("api");
    tokio::spawn(async move {
        let accepted = listener.accept().await.unwrap().0;
        accepted.set_nodelay(true).unwrap();
        answer(identity.accept(accepted).await.unwrap().0).await;
    });
    for other in 0..others {
        let name = format!("other-{other}");
        let address = SocketAddr::from(([10, 97, (other >> 8) as u8, other as u8], 80));
        let service = OutboundTarget::Service(Arc::new(policy(&name)));
        side.sidecar.discovery.tell_outbound(address, service);
        let away = endpoint(SocketAddr::from(([10, 1, 0, 1], 80)), None);
        side.sidecar.tell_endpoints(&name, vec![away]);
    }
    side.sidecar.tell_endpoints("api", vec![server]);
    side.sidecar.tell(policy("api"));
    let cost = side.cost(side.connect().await, PLAIN).await;
    let answered = side
        .sidecar
        .requests(&[("tls", "mutual"), ("outcome", "ok")]);
    assert_eq!(answered as usize, cost.requests);
    cost
}

#[tokio::test]
async fn a_plain_request_allocates_little() {
    let cost = cost(0).await;
    println!("client's sidecar: {cost:?}");
    assert!(cost.allocations <= MAX_ALLOCATIONS, "{cost:?}");
}

#[tokio::test]
async fn what_else_the_sidecar_knows_costs_a_request_nothing() {
    let alone = cost(0).await.allocations;
    for others in [9, 99, 999] {
        let among = cost(others).await.allocations;
        println!("client's sidecar, {} services: {among}", others + 1);
        assert!(
            among <= 1.05 * alone,
            "{among} among {others}, {alone} alone"
        );
    }
}

#[test]
fn a_plain_request_takes_two_reads_and_two_writes() {
    const REQUESTS: usize = 1_000;
    let test = "outbound::tests::costs::a_plain_request_allocates_little";
    if let Some(calls) = Calls::of(test, "client", REQUESTS) {
        println!("client's sidecar: {calls:?} for {REQUESTS} requests");
        calls.assert_two_each(REQUESTS);
    }
}

/// The request that is measured under valgrind: no bound of its own.
#[tokio::test]
async fn a_plain_request_among_others() {
    cost(others()).await;
}

#[test]
fn what_else_the_sidecar_knows_costs_no_instructions() {
    let test = "outbound::tests::costs::a_plain_request_among_others";
    let Some(alone) = instructions(test, 0) else {
        return;
    };
    println!("client's sidecar: {alone:.0} instructions");
    let soak = std::env::var("WEFT_SOAK").is_ok_and(|value| value == "1");
    let others: &[usize] = if soak { &[9, 99, 999] } else { &[999] };
    for others in others {
        let among = instructions(test, *others).expect("it has just been run");
        println!("client's sidecar, {} services: {among:.0}", others + 1);
        assert!(
            among <= 1.05 * alone,
            "{among} among {others}, {alone} alone"
        );
    }
}

/// Bytes that an idle connection of the application's keeps, which carries HTTP/1 or, `opaque`, bytes: the
/// sidecar's own, and the TLS to the server's sidecar where each has one.
async fn idle_bytes(opaque: bool) -> f64 {
    let side = Side::start("client", Sidecar::new, serve).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = endpoint(listener.local_addr().unwrap(), Some(spiffe("api")));
    let identity = side.sidecar.identity("api");
    tokio::spawn(async move {
        while let Ok((accepted, _)) = listener.accept().await {
            let identity = identity.clone();
            tokio::spawn(async move {
                accepted.set_nodelay(true).unwrap();
                answer(identity.accept(accepted).await.unwrap().0).await;
            });
        }
    });
    side.sidecar.tell_endpoints("api", vec![server]);
    let mut policy = policy("api");
    if opaque {
        policy.protocol = Protocol::Opaque;
    }
    side.sidecar.tell(policy);
    side.idle_bytes(PLAIN).await
}

#[tokio::test]
async fn idle_bytes_keep_little() {
    let kept = idle_bytes(true).await;
    println!("client's sidecar, bytes: {kept}");
    assert!(kept <= MAX_IDLE_BYTES, "{kept}");
}

#[tokio::test]
async fn an_idle_http1_connection_keeps_little() {
    let kept = idle_bytes(false).await;
    println!("client's sidecar, HTTP/1: {kept}");
    assert!(kept <= MAX_IDLE_HTTP1, "{kept}");
}
