//! What a plain HTTP/1 request and a gRPC call cost the server's sidecar, with authorization, and however
//! many other ports the sidecar knows.

use tokio::net::TcpListener;

use super::*;
use crate::policy::{AllowEntry, AllowList, MtlsMode, Principal};
use crate::testing::costs::{
    Cost, Kind, SENT_ON, Side, answer, assert_same_among_others,
    assert_same_instructions_among_others, assert_two_reads_and_two_writes, others,
};
use crate::testing::policies::inbound;
use crate::worker::Seat;

/// The budget of one side, and what the runtime may add now and then, which is not per request.
const MAX_ALLOCATIONS: f64 = 7.05;
/// Of a gRPC call, nearly all of them the HTTP/2 library's: what is measured, so that it does not grow.
const MAX_ALLOCATIONS_OF_CALL: f64 = 31.05;

async fn serve(sidecar: Arc<Sidecar>, accepted: TcpStream) {
    let closing = sidecar.closing.subscribe();
    let (inbound, original) = (Arc::clone(&sidecar.inbound), Fixed(sidecar.app));
    inbound
        .connection(accepted, &original, &Seat::only(), closing)
        .await;
}

/// Only `web` may call, by a rule with methods and paths.
fn policy() -> InboundPolicy {
    let mut policy = inbound(MtlsMode::Strict);
    policy.authorization = vec![AllowList {
        entries: vec![AllowEntry {
            principals: vec![Principal::Exact(spiffe("web").as_str().into())],
            methods: vec![http::Method::GET, http::Method::POST],
            paths: vec!["/cart".into()],
        }],
        audit: false,
    }];
    policy
}

/// The cost where the policies of `others` more ports are known.
async fn cost(kind: Kind, others: u16) -> Cost {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let accepted = listener.accept().await.unwrap().0;
        accepted.set_nodelay(true).unwrap();
        answer(accepted, kind).await;
    });
    let side = Side::start("server", move || Sidecar::untold(app), serve).await;
    for other in 0..others {
        side.sidecar.discovery.tell_inbound(1 + other, policy());
    }
    side.sidecar.tell(policy());
    let identity = side.sidecar.ca.identity(&spiffe("web"));
    let tcp = side.connect().await;
    let api = spiffe("api");
    let alpn = match kind {
        Kind::Plain => Alpn::Http1,
        Kind::Call => Alpn::Http2,
    };
    let client = soon(identity.connect(tcp, &api, alpn)).await.unwrap();
    let cost = side.cost(client, kind, SENT_ON).await;
    let answered = side
        .sidecar
        .requests(&[("peer", "shop/web"), ("outcome", "ok")]);
    assert_eq!(answered as usize, cost.requests);
    cost
}

#[tokio::test]
async fn a_plain_request_allocates_little() {
    let cost = cost(Kind::Plain, 0).await;
    println!("server's sidecar: {cost:?}");
    assert!(cost.allocations <= MAX_ALLOCATIONS, "{cost:?}");
}

#[tokio::test]
async fn a_grpc_call_allocates_little() {
    let cost = cost(Kind::Call, 0).await;
    println!("server's sidecar: {cost:?}");
    assert!(cost.allocations <= MAX_ALLOCATIONS_OF_CALL, "{cost:?}");
}

#[tokio::test]
async fn what_else_the_sidecar_knows_costs_a_request_nothing() {
    assert_same_among_others(async |others| cost(Kind::Plain, others).await).await;
}

#[test]
fn a_plain_request_takes_two_reads_and_two_writes() {
    let test = "inbound::tests::costs::a_plain_request_allocates_little";
    assert_two_reads_and_two_writes(test, "server", Kind::Plain);
}

#[test]
fn a_grpc_call_takes_two_reads_and_two_writes() {
    let test = "inbound::tests::costs::a_grpc_call_allocates_little";
    assert_two_reads_and_two_writes(test, "server", Kind::Call);
}

/// The request that is measured under valgrind: no bound of its own.
#[tokio::test]
async fn a_plain_request_among_others() {
    cost(Kind::Plain, others()).await;
}

#[test]
fn what_else_the_sidecar_knows_costs_no_instructions() {
    let test = "inbound::tests::costs::a_plain_request_among_others";
    assert_same_instructions_among_others(test);
}
