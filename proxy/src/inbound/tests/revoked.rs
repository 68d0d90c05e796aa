//! Policy that is tightened under connections of a caller who keeps something.

use ::bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;

use super::*;
use crate::policy::{AllowEntry, AllowList, MtlsMode, Principal};
use crate::testing::clients::request;
use crate::testing::policies::inbound;
use crate::testing::servers::Act;

/// Longer than all that is to be cut may take, and shorter than patience.
const LATE: Duration = Duration::from_millis(600);

/// Allows `web` what is below these paths; everything where there is none.
fn web_may(paths: &[&str]) -> InboundPolicy {
    let mut policy = inbound(MtlsMode::Strict);
    policy.authorization = vec![AllowList {
        entries: vec![AllowEntry {
            principals: vec![Principal::Exact(spiffe("web").as_str().into())],
            methods: Vec::new(),
            paths: paths.iter().map(|path| (*path).into()).collect(),
        }],
        audit: false,
    }];
    policy
}

/// Never answers `/held`, begins an answer of `/events` at once and ends it late, as of `/kept`.
async fn app() -> Server {
    Server::plain(|_, seen| match &*seen.path {
        "/held" => Act::Hang,
        "/events" | "/kept" => Act::slow(&[], LATE),
        _ => Act::ok("app"),
    })
    .await
}

/// What became of a request: its status, and its body where that was whole.
type End = (StatusCode, Option<Bytes>);

async fn get(mut sender: http2::SendRequest<Full<Bytes>>, path: &'static str) -> End {
    let asked = sender.send_request(request(Method::GET, &format!("http://api{path}"), &[], ""));
    let (head, body) = soon(asked).await.unwrap().into_parts();
    let body = soon(body.collect()).await;
    (
        head.status,
        body.ok().map(http_body_util::Collected::to_bytes),
    )
}

#[tokio::test]
async fn of_one_connection_only_that_ends_which_was_revoked() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, web_may(&[]));
    let (tls, served) = sidecar.dial_as("web", Alpn::Http2).await;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .unwrap();
    tokio::spawn(connection);
    let flying = ["/held", "/events", "/kept"].map(|path| tokio::spawn(get(sender.clone(), path)));
    soon(async {
        while app.requests() < flying.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The head of what is under way.
        tokio::time::sleep(LATE / 10).await;
    })
    .await;
    sidecar.tell(web_may(&["/kept", "/new"]));
    let mut ends = Vec::new();
    for end in flying {
        ends.push(soon(end).await.unwrap());
    }
    // One that waits is answered, one that has begun is broken off, and the third is whole.
    assert_eq!(ends[0].0, StatusCode::FORBIDDEN);
    assert_eq!(ends[1], (StatusCode::OK, None));
    assert_eq!(ends[2], (StatusCode::OK, Some("late".into())));
    // The connection outlives them.
    let new = get(sender.clone(), "/new").await;
    assert_eq!(new, (StatusCode::OK, Some("app".into())));
    drop(sender);
    soon(served).await.unwrap();
    assert_eq!(sidecar.requests(&[("outcome", "unauthorized")]), 2);
    assert_eq!(sidecar.requests(&[("outcome", "ok")]), 2);
}

/// Policy is told on a thread of its own, at any moment: a request is refused, or it is cut. None is forgotten by an
/// application that never answers.
#[tokio::test]
async fn a_request_that_begins_while_policy_changes_is_refused_or_cut() {
    const TIMES: usize = 100;
    let app = app().await;
    let sidecar = Sidecar::before(&app, web_may(&[]));
    for http2 in [false, true] {
        for _ in 0..TIMES / 2 {
            sidecar.tell(web_may(&[]));
            let mut client = if http2 {
                sidecar.http2_as("web").await
            } else {
                sidecar.http1_as("web").await
            };
            client.get("/warm").await.assert_ok("app");
            let (discovery, port) = (sidecar.discovery.clone(), sidecar.app.port());
            // From before it is written to after it waits for the application.
            let moment = || Duration::from_micros(fastrand::u64(..500));
            let telling = std::thread::spawn(move || {
                std::thread::sleep(moment());
                discovery.tell_inbound(port, web_may(&["/warm"]));
            });
            std::thread::sleep(moment());
            let answer = client.get("http://api/held").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            telling.join().unwrap();
        }
    }
    let revoked = soon(async {
        loop {
            let revoked = sidecar.requests(&[("outcome", "unauthorized")]) as usize;
            if revoked == TIMES {
                return revoked;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(revoked.await, TIMES);
    let handed_on = app
        .seen()
        .iter()
        .filter(|seen| seen.path == "/held")
        .count();
    println!("{handed_on} of {TIMES} were cut, the others refused");
}
