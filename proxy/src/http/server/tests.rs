use std::pin::Pin;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;

use super::service::Served;
use super::*;
use crate::http::body::RequestBody;
use crate::http::client::{PoolOptions, SendOptions};
use crate::http::headers::strip_hop_by_hop;
use crate::http::testing::{Peer, answers, h1, serve_one};
use crate::http::upgrade::{Bridged, bridge_upgrade};
use crate::resilience::deadline::Deadline;

mod bounds;
mod sent_away;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn ok() -> Arc<impl Handler> {
    answers(|_| async { Response::new(ResponseBody::full("ok")) })
}

fn just_below(limit: Duration) -> Duration {
    limit.saturating_sub(SECOND)
}

fn options() -> ServerOptions {
    ServerOptions::default()
}

#[tokio::test(start_paused = true)]
async fn announcing_closes_no_idle_connection() {
    let (mut peer, closing, task) = serve_one(Version::Http1, ok(), options());
    peer.write(GET).await;
    assert!(!peer.read_until("ok").await.contains("connection"));
    closing.advance(Phase::Announcing);
    assert!(!peer.ends_within(600 * SECOND).await);
    peer.write(GET).await;
    assert!(
        peer.read_until("ok")
            .await
            .contains("connection: close\r\n")
    );
    assert!(peer.ends_within(SECOND).await);
    drop(peer);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_a_request_under_way() {
    let (mut peer, closing, task) = serve_one(Version::Http1, ok(), options());
    peer.write(GET).await;
    peer.read_until("ok").await;
    closing.advance(Phase::Draining);
    tokio::time::sleep(SECOND * 9 / 10).await;
    peer.write(GET).await;
    assert!(
        peer.read_until("ok")
            .await
            .contains("connection: close\r\n")
    );
    assert!(peer.ends_within(SECOND).await);
    drop(peer);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_ends_idle_connections_cleanly() {
    for first in ["", GET] {
        let (mut peer, closing, task) = serve_one(Version::Http1, ok(), options());
        peer.write(first).await;
        if !first.is_empty() {
            peer.read_until("ok").await;
        }
        let start = Instant::now();
        closing.advance(Phase::Draining);
        assert!(peer.ends_within(2 * SECOND).await);
        assert!(start.elapsed() >= SECOND);
        // What comes too late is read, so that no reset overtakes the clean end.
        peer.write(GET).await;
        assert!(!task.is_finished());
        drop(peer);
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_is_in_flight() {
    let slow = answers(|_| async {
        tokio::time::sleep(20 * SECOND).await;
        Response::new(ResponseBody::full("ok"))
    });
    let (mut peer, closing, task) = serve_one(Version::Http1, slow, options());
    peer.write(GET).await;
    tokio::time::sleep(SECOND).await;
    closing.advance(Phase::Draining);
    assert!(
        peer.read_until("ok")
            .await
            .contains("connection: close\r\n")
    );
    assert!(peer.ends_within(SECOND).await);
    drop(peer);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn over_cuts() {
    let never = answers(|_| std::future::pending());
    for version in [Version::Http1, Version::Http2] {
        let (mut peer, closing, task) = serve_one(version, Arc::clone(&never), options());
        if version == Version::Http1 {
            peer.write(GET).await;
        }
        tokio::time::sleep(SECOND).await;
        closing.advance(Phase::Over);
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn heads_and_idleness_have_their_limits() {
    // Half a head, first or next.
    for first in ["", GET] {
        let (mut peer, _closing, task) = serve_one(Version::Http1, ok(), options());
        peer.write(first).await;
        if !first.is_empty() {
            peer.read_until("ok").await;
        }
        tokio::time::sleep(60 * SECOND).await;
        peer.write("GET / HT").await;
        tokio::time::sleep(just_below(options().head_timeout)).await;
        assert!(!task.is_finished());
        let answer = peer.read_until("in time\n").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(
            answer.contains("x-weft-outcome: bad_request\r\n"),
            "{answer}"
        );
        assert!(peer.ends_within(2 * SECOND).await);
        drop(peer);
        task.await.unwrap();
    }
    // Keep-alive far beyond any timeout for heads, then the limit.
    let (mut peer, _closing, task) = serve_one(Version::Http1, ok(), options());
    peer.write(GET).await;
    peer.read_until("ok").await;
    tokio::time::sleep(just_below(options().idle_limit)).await;
    peer.write(GET).await;
    peer.read_until("ok").await;
    tokio::time::sleep(just_below(options().idle_limit)).await;
    assert!(!task.is_finished());
    assert!(peer.ends_within(2 * SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn an_http2_head_that_never_ends_is_not_waited_for() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const WITHOUT_END: &[u8] = b"\0\0\0\x01\x01\0\0\0\x01";
    const A_PART: &[u8] = b"\0\0\x09\x01\x05\0\0\0\x01part";
    for begun in [WITHOUT_END, A_PART] {
        let (mut near, far) = duplex(1 << 16);
        let (_sender, closing) = crate::net::closing::channel();
        let mut task = tokio::spawn(serve(far, Version::Http2, ok(), closing, options()));
        near.write_all(PREFACE).await.unwrap();
        // Without a head there is no such limit.
        tokio::time::sleep(15 * SECOND).await;
        near.write_all(begun).await.unwrap();
        tokio::time::sleep(just_below(options().head_timeout)).await;
        assert!(!task.is_finished());
        let ended = tokio::time::timeout(2 * SECOND, &mut task).await;
        ended.expect("the head was waited for").unwrap();
    }
}

#[tokio::test]
async fn a_request_that_was_taken_is_never_answered_by_a_clean_close() {
    let (near, mut far) = duplex(64);
    let state = Arc::new(State::new(Version::Http1, options().bounds));
    let mut io = ServerIo::new(near, Arc::clone(&state), None);
    let (taken, _) = State::take_request(&state);
    drop(taken);
    let error = io.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    io.write_all(b"x").await.unwrap();
    let closing = tokio::spawn(async move { io.shutdown().await });
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"x");
    drop(far);
    closing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_may_half_close_after_its_request() {
    let slow = answers(|request| async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(ResponseBody::full(body))
    });
    let (mut peer, _closing, _task) = serve_one(Version::Http1, slow, options());
    peer.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody")
        .await;
    peer.0.shutdown().await.unwrap();
    assert!(
        peer.read_until("\r\n\r\nbody")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(peer.ends_within(SECOND).await);
}

#[tokio::test]
async fn where_no_client_half_closes_its_end_ends_the_exchange() {
    for head_first in [false, true] {
        let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
        let alive = Arc::new(parking_lot::Mutex::new(Some(alive)));
        let never = answers(move |_: Request<Incoming>| {
            let alive = alive.lock().take();
            async move {
                if !head_first {
                    let _alive = alive;
                    std::future::pending::<()>().await;
                }
                Response::new(ResponseBody::full("whole"))
            }
        });
        let options = ServerOptions {
            half_close: false,
            ..options()
        };
        let (mut peer, _closing, _task) = serve_one(Version::Http1, never, options);
        peer.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        if head_first {
            // What was answered is not touched.
            assert!(peer.read_until("whole").await.starts_with("HTTP/1.1 200"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        peer.0.shutdown().await.unwrap();
        assert!(peer.ends_within(SECOND).await);
        let gone = tokio::time::timeout(SECOND, dropped).await;
        assert!(gone.expect("the exchange goes on").is_err());
    }
}

/// A client, a server, a pool and a peer: one hop of a sidecar.
async fn hop() -> (Peer, crate::http::testing::Accepted) {
    let (pool, accepted) = h1(false, PoolOptions::MESH);
    let handler = answers(move |mut request: Request<Incoming>| {
        let pool = pool.clone();
        async move {
            let upgrading = crate::http::headers::upgrade_wanted(&request);
            let downstream = hyper::upgrade::on(&mut request);
            strip_hop_by_hop(request.headers_mut(), upgrading);
            let request = request.map(RequestBody::from);
            let mut response = pool.send(request, SendOptions::default()).await.unwrap();
            let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            strip_hop_by_hop(response.headers_mut(), upgraded);
            if upgraded {
                let upstream = crate::http::upgrade::Upstream::take(&mut response);
                let (sender, closing) = crate::net::closing::channel();
                tokio::spawn(async move {
                    let bridged =
                        bridge_upgrade(downstream, upstream, closing, Deadline::NONE).await;
                    assert_eq!(bridged, Bridged::Complete { up: 4, down: 4 });
                    drop(sender);
                });
            }
            response.map(ResponseBody::from)
        }
    });
    let (peer, closing, task) = serve_one(Version::Http1, handler, options());
    tokio::spawn(async move {
        let _ = task.await;
        drop(closing);
    });
    (peer, accepted)
}

#[tokio::test]
async fn responses_without_a_body_pass_as_they_are() {
    let (mut client, mut accepted) = hop().await;
    let mut upstream: Option<Peer> = None;
    for (method, answer, expected) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n",
            "content-length: 77\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "204 No Content\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n",
            "etag: x\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "content-length: 0\r\n",
        ),
    ] {
        client
            .write(&format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(accepted.next().await),
        };
        upstream.read_head().await;
        upstream.write(answer).await;
        let head = client.read_head().await;
        assert!(head.contains(expected), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert!(!head.contains("date"), "{head}");
    }
    assert_eq!(accepted.made(), 1);
}

#[tokio::test]
async fn chunks_stream_and_trailers_pass() {
    let (mut client, mut accepted) = hop().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n")
        .await;
    let mut upstream = accepted.next().await;
    assert!(upstream.read_head().await.contains("te: trailers"));
    upstream
        .write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n1\r\na\r\n")
        .await;
    client.read_until("1\r\na\r\n").await;
    upstream.write("1\r\nb\r\n0\r\nx-end: 1\r\n\r\n").await;
    client.read_until("1\r\nb\r\n0\r\nx-end: 1\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_expects_to_continue_is_told_to() {
    let (mut client, mut accepted) = hop().await;
    client
        .write("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    let mut upstream = accepted.next().await;
    assert!(upstream.read_head().await.contains("expect: 100-continue"));
    assert!(client.read_head().await.starts_with("HTTP/1.1 100"));
    client.write("body").await;
    upstream.read_until("body").await;
    upstream
        .write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_broken_body_is_never_finished() {
    let (mut client, mut accepted) = hop().await;
    client.write(GET).await;
    let mut upstream = accepted.next().await;
    upstream.read_head().await;
    upstream
        .write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        .await;
    client.read_until("1\r\na\r\n").await;
    drop(upstream);
    let mut rest = Vec::new();
    client.0.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn an_upgrade_is_bridged_with_half_closes() {
    let (mut client, mut accepted) = hop().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
        .await;
    let mut upstream = accepted.next().await;
    let head = upstream.read_head().await;
    assert!(
        head.contains("upgrade: echo") && head.contains("connection: upgrade"),
        "{head}"
    );
    // The first bytes of the new protocol come with the head.
    upstream
        .write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\ndo")
        .await;
    let head = client.read_until("\r\n\r\ndo").await;
    assert!(head.contains("upgrade: echo"), "{head}");
    client.write("up").await;
    upstream.read_until("up").await;
    upstream.write("wn").await;
    upstream.0.shutdown().await.unwrap();
    client.read_until("wn").await;
    assert!(client.ends_within(SECOND).await);
    client.write("up").await;
    upstream.read_until("up").await;
    client.0.shutdown().await.unwrap();
    assert!(upstream.ends_within(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn http2_is_told_to_leave_and_finishes() {
    let (near, far) = duplex(1 << 16);
    let (sender, closing) = crate::net::closing::channel();
    let slow = answers(|_| async {
        tokio::time::sleep(5 * SECOND).await;
        Response::new(ResponseBody::full("ok"))
    });
    let task = tokio::spawn(serve(far, Version::Http2, slow, closing, options()));
    let (mut client, mut connection) = h2::client::handshake(near).await.unwrap();
    let head = Request::get("http://a/").body(()).unwrap();
    let (response, _) = client.send_request(head, true).unwrap();
    let connection = tokio::spawn(async move { Pin::new(&mut connection).await });
    tokio::time::sleep(SECOND).await;
    sender.advance(Phase::Announcing);
    tokio::time::sleep(SECOND).await;
    assert!(client.clone().ready().await.is_err(), "no GOAWAY came");
    assert_eq!(response.await.unwrap().status(), 200);
    drop(client);
    connection.await.unwrap().unwrap();
    task.await.unwrap();
}

/// Its client is about to send the request that it came for.
#[tokio::test(start_paused = true)]
async fn http2_that_begins_while_draining_serves_what_it_came_for() {
    for phase in [Phase::Draining, Phase::Finishing] {
        let (near, far) = duplex(1 << 16);
        let (sender, closing) = crate::net::closing::channel();
        sender.advance(phase);
        let task = tokio::spawn(serve(far, Version::Http2, ok(), closing, options()));
        let (mut client, connection) = h2::client::handshake(near).await.unwrap();
        let connection = tokio::spawn(connection);
        tokio::time::sleep(SECOND / 2).await;
        client = client.ready().await.expect("sent away at once");
        let head = Request::get("http://a/").body(()).unwrap();
        let (response, _) = client.send_request(head, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        tokio::time::sleep(SECOND / 10).await;
        assert!(client.clone().ready().await.is_err(), "no GOAWAY came");
        drop(client);
        connection.await.unwrap().unwrap();
        task.await.unwrap();
    }
}

/// One that nobody uses is not waited for.
#[tokio::test(start_paused = true)]
async fn http2_that_begins_while_draining_and_stays_idle_ends() {
    let (near, far) = duplex(1 << 16);
    let (sender, closing) = crate::net::closing::channel();
    sender.advance(Phase::Draining);
    let task = tokio::spawn(serve(far, Version::Http2, ok(), closing, options()));
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    let connection = tokio::spawn(connection);
    let begin = Instant::now();
    connection.await.unwrap().unwrap();
    task.await.unwrap();
    assert!(
        (SECOND..2 * SECOND).contains(&begin.elapsed()),
        "{:?}",
        begin.elapsed()
    );
    drop(client);
}

#[test]
fn wrappers_forward_what_hyper_asks() {
    let state = Arc::new(State::new(Version::Http1, options().bounds));
    let served = |body| Served {
        body,
        _in_flight: State::take_request(&state).0,
    };
    assert_eq!(
        served(ResponseBody::full("abc")).size_hint().exact(),
        Some(3)
    );
    assert!(!served(ResponseBody::full("abc")).is_end_stream());
    assert!(served(ResponseBody::Empty).is_end_stream());
    assert_eq!(state.in_flight(), 0);
}

mod age;
mod farewell;
