//! Who leads.

use std::time::{Duration, Instant};

use crate::common::*;
use weft_tests::apiserver::Outage;

#[tokio::test]
async fn the_lease_goes_to_the_next_after_an_end_and_after_a_kill() {
    let server = server().await;
    let path = format!("{LEASES}/weft-control-plane");
    let first = candidate(&server, "cp-1").await;
    leads(&first.leading).await;
    let second = candidate(&server, "cp-2").await;
    let lease = at(&server, &path).await.unwrap();
    assert!(holder(&lease).starts_with("cp-1_"), "{lease}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 3);
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    // It is renewed, and nobody else takes it.
    tokio::time::sleep(LEASE * 2).await;
    assert!(*first.leading.borrow() && !*second.leading.borrow());
    assert!(holder(&at(&server, &path).await.unwrap()).starts_with("cp-1_"));

    // An orderly end: at the next look, long before the lease would have run out.
    first.end.cancel();
    first.task.await.unwrap();
    assert!(!*first.leading.borrow());
    let given_back = Instant::now();
    leads(&second.leading).await;
    let took = given_back.elapsed();
    assert!(took < LEASE / 2, "{took:?}");

    // A kill: when it has run out, and not before.
    let third = candidate(&server, "cp-3").await;
    tokio::time::sleep(LEASE / 3).await;
    second.task.abort();
    let _ = second.task.await;
    let killed = Instant::now();
    assert!(!*second.leading.borrow(), "who is gone leads no longer");
    leads(&third.leading).await;
    let took = killed.elapsed();
    // It had been renewed at most one retry, with some slack, before.
    assert!(took > LEASE / 2 && took < LEASE * 3, "{took:?}");
    let lease = at(&server, &path).await.unwrap();
    assert!(holder(&lease).starts_with("cp-3_"), "{lease}");
    assert_eq!(lease["spec"]["leaseTransitions"], 3);
    third.end.cancel();
    third.task.await.unwrap();
    assert_eq!(holder(&at(&server, &path).await.unwrap()), "", "given back");
    server.stop().await;
}

/// At whichever moment it ends: also while it waits for the answer that makes it the leader.
#[tokio::test]
async fn whoever_ends_leaves_no_lease_behind() {
    let server = server().await;
    let path = format!("{LEASES}/weft-control-plane");
    let mut written = 0;
    for step in 0..60 {
        let one = candidate(&server, "cp-1").await;
        tokio::time::sleep(Duration::from_micros(step * 250)).await;
        one.end.cancel();
        one.task.await.unwrap();
        let lease = at(&server, &path).await;
        let holder = lease.as_ref().map(holder).unwrap_or_default();
        assert_eq!(holder, "", "after {step} steps");
        written = lease.map_or(0, |it| it["spec"]["leaseTransitions"].as_u64().unwrap());
    }
    assert!(written > 0, "nobody ever led");
    server.stop().await;
}

#[tokio::test]
async fn nobody_leads_past_its_deadline_without_the_api_server() {
    for outage in [Outage::Hang, Outage::Away, Outage::Failing(500)] {
        let server = server().await;
        let one = candidate(&server, "cp-1").await;
        let two = candidate(&server, "cp-2").await;
        let both = async || *one.leading.borrow() || *two.leading.borrow();
        until("one leads", both).await;
        server.set_outage(outage);
        let since = Instant::now();
        until("nobody leads", async || !both().await).await;
        let took = since.elapsed();
        assert!(took < LEASE, "{outage:?}: before another one may: {took:?}");
        server.set_outage(Outage::None);
        let since = Instant::now();
        while since.elapsed() < LEASE * 2 {
            assert!(!(*one.leading.borrow() && *two.leading.borrow()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until("one leads again", both).await;
        server.stop().await;
    }
}
