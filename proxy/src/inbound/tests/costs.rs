//! What a plain HTTP/1 request costs the server's sidecar, with authorization, and however many other
//! ports the sidecar knows.

use tokio::net::TcpListener;

use super::*;
use crate::policy::{AllowEntry, AllowList, MtlsMode, Principal};
use crate::testing::costs::{Calls, Cost, SENT_ON, Side, answer, instructions, others};
use crate::testing::policies::inbound;

/// The budget of one side, and what the runtime may add now and then, which is not per request.
const MAX_ALLOCATIONS: f64 = 15.05;

async fn serve(sidecar: Arc<Sidecar>, accepted: TcpStream) {
    let closing = sidecar.closing.subscribe();
    let (inbound, original) = (Arc::clone(&sidecar.inbound), Fixed(sidecar.app));
    inbound.connection(accepted, &original, closing).await;
}

/// Only `web` may call, by a rule with methods and paths.
fn policy() -> InboundPolicy {
    let mut policy = inbound(MtlsMode::Strict);
    policy.authorization = vec![AllowList {
        entries: vec![AllowEntry {
            principals: vec![Principal::Exact(spiffe("web").as_str().into())],
            methods: vec![http::Method::GET],
            paths: vec!["/cart".into()],
        }],
        audit: false,
    }];
    policy
}

/// The cost where the policies of `others` more ports are known.
async fn cost(others: u16) -> Cost {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let accepted = listener.accept().await.unwrap().0;
        accepted.set_nodelay(true).unwrap();
        answer(accepted).await;
    });
    let side = Side::start("server", move || Sidecar::untold(app), serve).await;
    for other in 0..others {
        side.sidecar.discovery.tell_inbound(1 + other, policy());
    }
    side.sidecar.tell(policy());
    let identity = side.sidecar.ca.identity(&spiffe("web"));
    let tcp = side.connect().await;
    let api = spiffe("api");
    let client = identity.connect(tcp, &api, Alpn::Http1);
    let cost = side.cost(soon(client).await.unwrap(), SENT_ON).await;
    let answered = side
        .sidecar
        .requests(&[("peer", "shop/web"), ("outcome", "ok")]);
    assert_eq!(answered as usize, cost.requests);
    cost
}

#[tokio::test]
async fn a_plain_request_allocates_little() {
    let cost = cost(0).await;
    println!("server's sidecar: {cost:?}");
    assert!(cost.allocations <= MAX_ALLOCATIONS, "{cost:?}");
}

#[tokio::test]
async fn what_else_the_sidecar_knows_costs_a_request_nothing() {
    let alone = cost(0).await.allocations;
    for others in [9, 99, 999] {
        let among = cost(others).await.allocations;
        println!("server's sidecar, {} ports: {among}", others + 1);
        assert!(
            among <= 1.05 * alone,
            "{among} among {others}, {alone} alone"
        );
    }
}

#[test]
fn a_plain_request_takes_two_reads_and_two_writes() {
    const REQUESTS: usize = 1_000;
    let test = "inbound::tests::costs::a_plain_request_allocates_little";
    if let Some(calls) = Calls::of(test, "server", REQUESTS) {
        println!("server's sidecar: {calls:?} for {REQUESTS} requests");
        calls.assert_two_each(REQUESTS);
    }
}

/// The request that is measured under valgrind: no bound of its own.
#[tokio::test]
async fn a_plain_request_among_others() {
    cost(others().try_into().unwrap()).await;
}

#[test]
fn what_else_the_sidecar_knows_costs_no_instructions() {
    let test = "inbound::tests::costs::a_plain_request_among_others";
    let Some(alone) = instructions(test, 0) else {
        return;
    };
    println!("server's sidecar: {alone:.0} instructions");
    let soak = std::env::var("WEFT_SOAK").is_ok_and(|value| value == "1");
    let others: &[usize] = if soak { &[9, 99, 999] } else { &[999] };
    for others in others {
        let among = instructions(test, *others).expect("it has just been run");
        println!("server's sidecar, {} ports: {among:.0}", others + 1);
        assert!(
            among <= 1.05 * alone,
            "{among} among {others}, {alone} alone"
        );
    }
}
