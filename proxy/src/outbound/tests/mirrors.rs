//! Copies of requests, and that nobody is in their way or they in anybody's.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::policy::MirrorPolicy;
use crate::testing::policies::target;
use crate::testing::servers::Act;
use crate::testing::soon;

/// A service, and who gets copies.
struct Mirrored {
    sidecar: Sidecar,
    api: Server,
    shadow: Server,
}

impl Mirrored {
    async fn new(max_in_flight: usize, shadow: fn() -> Act) -> Self {
        let api = Server::plain(|_, _| Act::ok("api")).await;
        let shadow = Server::plain(move |_, _| shadow()).await;
        let mut policy = target("api", &["api", "shadow"]);
        policy.routes[0].split.backends.truncate(1);
        policy.routes[0].split.mirror = Some(MirrorPolicy {
            backend: 1,
            share: 100,
            out_of: 100,
            calls: false,
            body_limit_bytes: 1024,
            max_in_flight,
            timeout: Duration::from_secs(5),
        });
        let sidecar = Sidecar::knowing(policy, at(&[&api]));
        sidecar.tell_endpoints("shadow", at(&[&shadow]));
        Self {
            sidecar,
            api,
            shadow,
        }
    }

    fn copies(&self, result: &str) -> u64 {
        let labels = [("result", result)];
        count(
            &self.sidecar.telemetry,
            "weft_mirrored_requests_total",
            &labels,
        )
    }
}

async fn until(reached: impl Fn() -> bool) {
    soon(async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_still_comes_takes_no_place() {
    let mesh = Mirrored::new(1, || Act::ok("shadow")).await;
    let mut slow = mesh.sidecar.dial(api()).await;
    let begun = b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 10\r\n\r\nfirst";
    slow.tcp.write_all(begun).await.unwrap();
    until(|| mesh.api.connections() == 1).await;

    let mut quick = mesh.sidecar.http1().await;
    for copied in 1..=3 {
        quick.get("/").await.assert_ok("api");
        until(|| mesh.copies("answered") == copied).await;
    }
    slow.tcp.write_all(b" last").await.unwrap();
    until(|| mesh.copies("answered") == 4).await;
    let copies = mesh.shadow.seen();
    assert_eq!(&*copies[3].body, b"first last");
    assert_eq!(mesh.copies("dropped"), 0);
}

#[tokio::test]
async fn as_many_are_on_their_way_as_may() {
    let mesh = Mirrored::new(2, || Act::Hang).await;
    let mut client = mesh.sidecar.http1().await;
    for _ in 0..5 {
        client.post("/", "an order").await.assert_ok("api");
    }
    until(|| mesh.copies("dropped") == 3).await;
    until(|| mesh.shadow.requests() == 2).await;
    assert_eq!(mesh.api.requests(), 5);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_copied() {
    let mesh = Mirrored::new(1, || Act::ok("shadow")).await;
    let mut slow = mesh.sidecar.dial(api()).await;
    let begun = b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 10\r\n\r\nfirst";
    slow.tcp.write_all(begun).await.unwrap();
    until(|| mesh.api.connections() == 1).await;
    drop(slow.tcp);
    until(|| mesh.copies("incomplete") == 1).await;
    assert_eq!((mesh.shadow.connections(), mesh.shadow.requests()), (0, 0));
}
