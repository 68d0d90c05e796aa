//! What the process bears, on single connections.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;
use hyper_util::rt::TokioExecutor;

use super::*;
use crate::bounds::ProcessLimits;
use crate::outcome::Origin;
use crate::testing::{limit_hits, telemetry};

/// Options within `change` of the usual limits.
fn within(change: impl FnOnce(&mut ProcessLimits)) -> ServerOptions {
    let mut limits = ProcessLimits::DEFAULT;
    change(&mut limits);
    ServerOptions::within(&Bounds::uncounted(limits))
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_there_may_be_are_turned_away() {
    for version in [Version::Http1, Version::Http2] {
        let options = within(|limits| limits.requests = 1);
        let bounds = Arc::clone(&options.bounds);
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&seen);
        let slow = answers(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(SECOND).await;
                Response::new(ResponseBody::full("ok"))
            }
        });
        let (first, second) = (
            exchange(version, Arc::clone(&slow), options.clone()),
            exchange(version, Arc::clone(&slow), options.clone()),
        );
        let (first, second) = tokio::join!(first, second);
        let mut statuses = [first, second].map(|status| status.as_u16());
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 503], "{version:?}");
        assert_eq!(seen.load(Ordering::Relaxed), 1, "{version:?}");
        // Both have left: there is room again.
        assert_eq!(bounds.requests.in_flight(), 0, "{version:?}");
        let third = exchange(version, slow, options).await;
        assert_eq!(third, StatusCode::OK, "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn heads_that_are_too_big_are_turned_away() {
    for (headers, bytes, expected) in [(10, 1, 200), (11, 1, 431), (2, 7_900, 200), (2, 9_000, 431)]
    {
        for version in [Version::Http1, Version::Http2] {
            let options = within(|limits| (limits.headers, limits.header_bytes) = (10, 8 << 10));
            let seen = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&seen);
            let handler = answers(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                async { Response::new(ResponseBody::Empty) }
            });
            let mut request = Request::new(RequestBody::Empty);
            *request.uri_mut() = "http://a/".parse().unwrap();
            // HTTP/2 has no host among its headers.
            let own = if version == Version::Http1 {
                headers - 1
            } else {
                headers
            };
            if version == Version::Http1 {
                *request.uri_mut() = "/".parse().unwrap();
                request
                    .headers_mut()
                    .insert("host", HeaderValue::from_static("a"));
            }
            for _ in 1..own {
                request
                    .headers_mut()
                    .append("x", HeaderValue::from_static("y"));
            }
            let long = HeaderValue::try_from("y".repeat(bytes)).unwrap();
            request.headers_mut().append("x", long);
            let status = exchange_of(version, handler, options, request).await;
            let case = format!("{version:?}, {headers} headers, {bytes} bytes");
            assert_eq!(status.as_u16(), expected, "{case}");
            assert_eq!(
                seen.load(Ordering::Relaxed),
                usize::from(expected == 200),
                "{case}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_may_begin_with_the_end_of_the_request_before_it() {
    let options = within(|limits| limits.header_timeout = SECOND);
    let (mut peer, _closing, _task) = serve_one(Version::Http1, ok(), options);
    peer.write(&format!("{GET}GET / HT")).await;
    peer.read_until("ok").await;
    let answer = peer.read_until("in time\n").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_the_answer_to_a_slow_head_is_cut() {
    // The peer reads nothing: neither the first answer nor the 408.
    let big = answers(|_| async { Response::new(ResponseBody::full(vec![b'x'; 1 << 20])) });
    let options = within(|limits| limits.header_timeout = SECOND);
    let (mut peer, _closing, task) = serve_one(Version::Http1, big, options);
    peer.write(&format!("{GET}GET / HT")).await;
    tokio::time::timeout(60 * SECOND, task)
        .await
        .expect("it is cut")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_http2_head_that_never_ends_is_counted() {
    const BEGUN: &[u8] =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x09\x01\x05\0\0\0\x01part";
    let telemetry = telemetry();
    let bounds = Bounds::new(ProcessLimits::DEFAULT, Origin::Inbound, 1, &telemetry);
    let (mut near, far) = duplex(1 << 16);
    let (_sender, closing) = crate::net::closing::channel();
    let options = ServerOptions::within(&bounds);
    let task = tokio::spawn(serve(far, Version::Http2, ok(), closing, options));
    near.write_all(BEGUN).await.unwrap();
    task.await.unwrap();
    assert_eq!(limit_hits(&telemetry, "header_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_counts_when_it_has_all_the_streams_it_may() {
    let telemetry = telemetry();
    let limits = ProcessLimits {
        http2_streams: 2,
        ..ProcessLimits::DEFAULT
    };
    let bounds = Bounds::new(limits, Origin::Inbound, 1, &telemetry);
    let state = Arc::new(State::new(Version::Http2, bounds));
    let one = State::take_request(&state);
    assert_eq!(limit_hits(&telemetry, "http2_streams"), 0);
    let two = State::take_request(&state);
    assert_eq!(limit_hits(&telemetry, "http2_streams"), 1);
    drop((one, two));
}

/// The status of one request over a connection of its own.
async fn exchange<H: Handler>(
    version: Version,
    handler: Arc<H>,
    options: ServerOptions,
) -> StatusCode {
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = "http://a/".parse().unwrap();
    if version == Version::Http1 {
        *request.uri_mut() = "/".parse().unwrap();
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static("a"));
    }
    exchange_of(version, handler, options, request).await
}

async fn exchange_of<H: Handler>(
    version: Version,
    handler: Arc<H>,
    options: ServerOptions,
    request: Request<RequestBody>,
) -> StatusCode {
    let (near, _closing, _task) = serve_one(version, handler, options);
    let io = TokioIo::new(near.0);
    let response = match version {
        Version::Http1 => {
            let client = hyper::client::conn::http1::handshake(io);
            let (mut sender, connection) = client.await.unwrap();
            tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            let status = response.status();
            response.into_body().collect().await.unwrap();
            status
        }
        Version::Http2 => {
            let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
            let (mut sender, connection) = client.await.unwrap();
            tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            let status = response.status();
            response.into_body().collect().await.unwrap();
            status
        }
    };
    // Until both ends are done with it.
    tokio::time::sleep(SECOND / 100).await;
    response
}
