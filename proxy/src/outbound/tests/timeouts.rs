//! Limits in time. They are short here; what waits for ever proves that they were kept.

use std::time::Duration;

use http::Method;

use super::*;
use crate::outcome::Outcome;
use crate::policy::Timeouts;
use crate::resilience::deadline::parse_grpc_timeout;
use crate::testing::clients::request;
use crate::testing::policies::{retries, target};
use crate::testing::servers::Act;

const SHORT: Duration = Duration::from_millis(100);

fn timing(timeouts: Timeouts) -> ServiceTarget {
    let mut target = target("api", &["api"]);
    target.routes[0].timeouts = timeouts;
    target
}

#[tokio::test]
async fn a_request_ends_at_its_deadline() {
    let server = Server::plain(|_, _| Act::Hang).await;
    let mut policy = timing(Timeouts {
        request: Some(SHORT),
        ..Timeouts::default()
    });
    policy.routes[0].retries = Some(retries());
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    answer.assert_made_by("outbound", Outcome::RequestTimeout);
    assert_eq!(server.requests(), 1, "no time is left for another try");
    client.leave().await;
    let labels = [("outcome", "request_timeout"), ("status", "504")];
    assert_eq!(sidecar.requests(&labels), 1);

    let answer = sidecar.http2().await.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::RequestTimeout);
}

#[tokio::test]
async fn the_deadline_covers_all_tries_and_their_waits() {
    let server = Server::plain(|_, _| Act::status(503, "busy")).await;
    let mut policy = timing(Timeouts {
        request: Some(SHORT * 3),
        ..Timeouts::default()
    });
    let mut patient = retries();
    patient.attempts = 1_000;
    patient.budget.percent = 1_000_000;
    (patient.backoff_base, patient.backoff_max) = (SHORT, SHORT);
    policy.routes[0].retries = Some(patient);
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let started = std::time::Instant::now();
    let answer = sidecar.http1().await.get("/").await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(server.requests() > 1);
    if answer.status == 504 {
        // Rarely the time is over in the middle of a try.
        answer.assert_made_by("outbound", Outcome::RequestTimeout);
        return;
    }
    // A wait that would not end in time is not begun: the last answer is passed on.
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"busy"[..]));
    assert_eq!(sidecar.retries("deadline"), 1);
}

#[tokio::test]
async fn the_last_try_has_its_time_too() {
    let server = Server::plain(|_, _| Act::Hang).await;
    let mut policy = timing(Timeouts {
        per_try: Some(SHORT),
        ..Timeouts::default()
    });
    policy.routes[0].retries = Some(retries());
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let answer = sidecar.http1().await.get("/").await;
    answer.assert_made_by("outbound", Outcome::TryTimeout);
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn what_nobody_accepts_is_given_up() {
    // A listener whose queue is full drops what comes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _queued = tokio::net::TcpStream::connect(address).await.unwrap();

    let mut policy = target("api", &["api"]);
    policy.backends[0].connect_timeout = SHORT;
    let endpoints = vec![crate::testing::policies::endpoint(address, None)];
    let sidecar = Sidecar::knowing(policy, endpoints);
    let answer = sidecar.http1().await.get("/").await;
    answer.assert_made_by("outbound", Outcome::ConnectTimeout);
}

#[tokio::test]
async fn a_stream_has_a_deadline_for_its_head_only() {
    let slow = |_: usize, seen: &crate::testing::servers::Seen| {
        if seen.path == "/watch" {
            Act::slow(&[("content-type", "text/event-stream")], SHORT * 4)
        } else {
            Act::slow(&[], SHORT * 4)
        }
    };
    let server = Server::plain(slow).await;
    let policy = timing(Timeouts {
        request: Some(SHORT * 2),
        ..Timeouts::default()
    });
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    client.get("/watch").await.assert_ok("late");

    let whole = request(Method::GET, "/", &[], "");
    client.try_send(whole).await.unwrap_err();
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "ok")]), 1);
    assert_eq!(sidecar.requests(&[("outcome", "request_timeout")]), 1);
}

#[tokio::test]
async fn an_exchange_in_which_nothing_moves_ends() {
    let server = Server::plain(|_, _| Act::slow(&[], Duration::from_secs(600))).await;
    let policy = timing(Timeouts {
        idle: Some(SHORT),
        ..Timeouts::default()
    });
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let mut client = sidecar.http1().await;
    let call = request(Method::GET, "/", &[], "");
    client.try_send(call).await.unwrap_err();
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "idle_timeout")]), 1);
}

#[tokio::test]
async fn a_grpc_clients_own_limit_is_kept_and_passed_on_less_the_time_that_is_gone() {
    let server = Server::plain(|count, _| match count {
        1 => Act::grpc(0),
        _ => Act::Hang,
    })
    .await;
    let sidecar = Sidecar::knowing(timing(Timeouts::default()), at(&[&server]));
    let mut client = sidecar.http2().await;
    let call = |limit| {
        let headers = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", limit),
        ];
        request(
            Method::POST,
            "http://api/shop.Cart/Get",
            &headers,
            &b"\0\0\0\0\0"[..],
        )
    };
    client.send(call("60S")).await;
    let told = server.seen()[0].headers["grpc-timeout"].clone();
    let told = parse_grpc_timeout(told.as_bytes()).unwrap();
    assert!(
        told < Duration::from_secs(60) && told > Duration::from_secs(50),
        "{told:?}"
    );

    let answer = client.send(call("100m")).await;
    answer.assert_made_by("outbound", Outcome::RequestTimeout);
}
