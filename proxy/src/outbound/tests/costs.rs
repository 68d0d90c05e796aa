//! What a plain HTTP/1 request, a gRPC call and an idle connection cost the client's sidecar, with everything
//! on that a route may have, and however much of the mesh the sidecar knows.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::policy::{BreakerScope, Protocol};
use crate::testing::costs::{
    Cost, Kind, Side, answer, assert_same_among_others, assert_same_instructions_among_others,
    assert_two_reads_and_two_writes, others,
};
use crate::testing::policies::{breaker, endpoint, retries, target};
use crate::worker::Seat;

/// The budget of one side, and what the runtime may add now and then, which is not per request.
const MAX_ALLOCATIONS: f64 = 5.05;
/// Of a gRPC call, nearly all of them the HTTP/2 library's: what is measured, so that it does not grow.
const MAX_ALLOCATIONS_OF_CALL: f64 = 37.05;

/// What an idle connection may keep of the heap, which resident memory is some more than.
const MAX_IDLE_BYTES: f64 = 4_600.0;
const MAX_IDLE_HTTP1: f64 = 2_800.0;

async fn serve(sidecar: Arc<Sidecar>, accepted: TcpStream) {
    let closing = sidecar.closing.subscribe();
    let outbound = Arc::clone(&sidecar.outbound);
    outbound
        .connection(accepted, &Fixed(api()), &Seat::only(), closing)
        .await;
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
async fn cost(kind: Kind, others: u16) -> Cost {
    let side = Side::start("client", Sidecar::new, serve).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = endpoint(listener.local_addr().unwrap(), Some(spiffe("api")));
    let identity = side.sidecar.identity("api");
    tokio::spawn(async move {
        let accepted = listener.accept().await.unwrap().0;
        accepted.set_nodelay(true).unwrap();
        answer(identity.accept(accepted).await.unwrap().0, kind).await;
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
    let cost = side.cost(side.connect().await, kind, &[]).await;
    let answered = side
        .sidecar
        .requests(&[("tls", "mutual"), ("outcome", "ok")]);
    assert_eq!(answered as usize, cost.requests);
    cost
}

#[tokio::test]
async fn a_plain_request_allocates_little() {
    let cost = cost(Kind::Plain, 0).await;
    println!("client's sidecar: {cost:?}");
    assert!(cost.allocations <= MAX_ALLOCATIONS, "{cost:?}");
}

#[tokio::test]
async fn a_grpc_call_allocates_little() {
    let cost = cost(Kind::Call, 0).await;
    println!("client's sidecar: {cost:?}");
    assert!(cost.allocations <= MAX_ALLOCATIONS_OF_CALL, "{cost:?}");
}

#[tokio::test]
async fn what_else_the_sidecar_knows_costs_a_request_nothing() {
    assert_same_among_others(async |others| cost(Kind::Plain, others).await).await;
}

#[test]
fn a_plain_request_takes_two_reads_and_two_writes() {
    let test = "outbound::tests::costs::a_plain_request_allocates_little";
    assert_two_reads_and_two_writes(test, "client", Kind::Plain);
}

#[test]
fn a_grpc_call_takes_two_reads_and_two_writes() {
    let test = "outbound::tests::costs::a_grpc_call_allocates_little";
    assert_two_reads_and_two_writes(test, "client", Kind::Call);
}

/// The request that is measured under valgrind: no bound of its own.
#[tokio::test]
async fn a_plain_request_among_others() {
    cost(Kind::Plain, others()).await;
}

#[test]
fn what_else_the_sidecar_knows_costs_no_instructions() {
    let test = "outbound::tests::costs::a_plain_request_among_others";
    assert_same_instructions_among_others(test);
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
                answer(identity.accept(accepted).await.unwrap().0, Kind::Plain).await;
            });
        }
    });
    side.sidecar.tell_endpoints("api", vec![server]);
    let mut policy = policy("api");
    if opaque {
        policy.protocol = Protocol::Opaque;
    }
    side.sidecar.tell(policy);
    side.idle_bytes().await
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
