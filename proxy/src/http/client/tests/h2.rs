use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::h2::Reason;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;

use super::super::*;
use crate::http::Version;
use crate::http::body::{Ending, ExchangeEnd, ResponseBody, reset_reason};
use crate::http::testing::{Accepted, answers, get, h2, request, whole};
use crate::net::closing::Phase;
use crate::outcome::{Outcome, Processed};

fn url(path: &str) -> String {
    format!("http://peer{path}")
}

/// A peer played with the h2 crate: `answer` gets each stream.
fn play<F>(mut accepted: Accepted, streams: u32, answer: F)
where
    F: Fn(usize, ::h2::server::SendResponse<Bytes>) + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let count = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Some(stream) = accepted.streams.recv().await {
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            tokio::spawn(async move {
                let mut connection = ::h2::server::Builder::new()
                    .max_concurrent_streams(streams)
                    .handshake::<_, Bytes>(stream)
                    .await
                    .expect("a preface");
                while let Some(Ok((_, respond))) = connection.accept().await {
                    answer(count.fetch_add(1, Ordering::Relaxed), respond);
                }
            });
        }
    });
}

#[tokio::test]
async fn one_connection_carries_all() {
    let (pool, accepted) = h2(PoolOptions::MESH);
    let _closing = accepted.serve(
        Version::Http2,
        answers(|request| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(ResponseBody::full(body))
        }),
    );
    let sent = (0..50).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let request = request("POST", &url("/"), RequestBody::full("body"));
            let response = pool.send(request, SendOptions::default()).await.unwrap();
            assert_eq!(whole(response).await, "body");
        })
    });
    for sent in sent.collect::<Vec<_>>() {
        sent.await.unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.connections, stats.streams, stats.pending), (1, 0, 0));
}

#[tokio::test]
async fn further_connections_only_when_the_peer_allows_no_more_streams() {
    let (pool, accepted) = h2(PoolOptions::MESH);
    let held = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let hold = Arc::clone(&held);
    play(accepted, 2, move |_, respond| hold.lock().push(respond));
    // The first tells what the peer allows.
    for in_flight in 1..=8 {
        let pool = pool.clone();
        tokio::spawn(async move { pool.send(get(&url("/")), SendOptions::default()).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(pool_connections(&held), in_flight);
    }
    assert_eq!(pool.stats().connections, 4);
    assert_eq!(pool.stats().streams, 8);
}

fn pool_connections<T>(held: &parking_lot::Mutex<Vec<T>>) -> usize {
    held.lock().len()
}

#[tokio::test]
async fn refused_streams_were_never_processed() {
    for (reason, processed) in [
        (Reason::REFUSED_STREAM, Processed::Never),
        (Reason::CANCEL, Processed::Maybe),
        (Reason::INTERNAL_ERROR, Processed::Maybe),
    ] {
        let (pool, accepted) = h2(PoolOptions::MESH);
        play(accepted, 100, move |_, mut respond| {
            respond.send_reset(reason);
        });
        let error = pool
            .send(get(&url("/")), SendOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.failure.outcome, Outcome::Reset);
        assert_eq!(error.failure.processed, processed, "{reason:?}");
        assert_eq!(reset_reason(&error.failure), Some(reason));
        assert_eq!(pool.stats().connections, 1);
    }
}

#[tokio::test]
async fn streams_above_a_goaway_were_never_processed() {
    let (pool, mut accepted) = h2(PoolOptions::MESH);
    let sending = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.send(get(&url("/")), SendOptions::default()).await })
    };
    let mut peer = accepted.next().await;
    peer.read_until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // SETTINGS, then GOAWAY with last stream 0 and NO_ERROR, once the request was read.
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let goaway = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut space = [0; 4_096];
    assert!(
        tokio::io::AsyncReadExt::read(&mut peer.0, &mut space)
            .await
            .unwrap()
            > 0
    );
    tokio::io::AsyncWriteExt::write_all(&mut peer.0, settings)
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut peer.0, goaway)
        .await
        .unwrap();
    let error = sending.await.unwrap().unwrap_err();
    assert_eq!(error.failure.processed, Processed::Never);
    assert_eq!(pool.stats().connections, 0, "it takes no more streams");
}

#[tokio::test]
async fn a_connection_that_ends_gracefully_loses_nothing() {
    let (pool, accepted) = h2(PoolOptions::MESH);
    let gate = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&gate);
    let closing = accepted.serve(
        Version::Http2,
        answers(move |request| {
            let held = Arc::clone(&held);
            async move {
                if request.uri().path() == "/held" {
                    held.notified().await;
                }
                Response::new(ResponseBody::full("ok"))
            }
        }),
    );
    let first = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.send(get(&url("/held")), SendOptions::default()).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    closing.advance(Phase::Announcing);
    for _ in 0..20 {
        // A stream that crosses the last GOAWAY was provably not processed: that is for the stack
        // to send again.
        let response = loop {
            match pool.send(get(&url("/")), SendOptions::default()).await {
                Ok(response) => break response,
                Err(error) => assert_eq!(error.failure.processed, Processed::Never),
            }
        };
        assert_eq!(whole(response).await, "ok");
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    assert_eq!(whole(first.await.unwrap().unwrap()).await, "ok");
    let stats = pool.stats();
    assert_eq!(stats.connections, 1, "the new one, which was meant");
}

#[tokio::test]
async fn reset_codes_pass_both_ways_and_so_do_trailers() {
    // Upstream: a peer that answers the first stream with trailers and resets the second.
    let (upstream, accepted) = h2(PoolOptions::MESH);
    play(accepted, 100, |count, mut respond| {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream
            .send_data(Bytes::from_static(b"data"), false)
            .unwrap();
        if count == 0 {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("14"));
            stream.send_trailers(trailers).unwrap();
        } else if count == 1 {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            });
        } else {
            // Whoever resets this one is heard.
            tokio::spawn(async move {
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                assert_eq!(reason.unwrap(), Reason::CANCEL);
            });
        }
    });
    let ends = Arc::new(parking_lot::Mutex::new(Vec::<ExchangeEnd>::new()));
    let told = Arc::clone(&ends);
    let proxy = answers(move |request: Request<hyper::body::Incoming>| {
        let (upstream, told) = (upstream.clone(), Arc::clone(&told));
        async move {
            let request = request.map(RequestBody::from);
            let sent = upstream
                .send(request, SendOptions::default())
                .await
                .unwrap();
            sent.map(|mut body| {
                body.observe(move |end| told.lock().push(end));
                ResponseBody::from(body)
            })
        }
    });
    let (client, accepted) = h2(PoolOptions::MESH);
    let _closing = accepted.serve(Version::Http2, proxy);

    let first = client
        .send(get(&url("/")), SendOptions::default())
        .await
        .unwrap();
    let first = first.into_body().collect().await.unwrap();
    assert_eq!(first.trailers().unwrap()["grpc-status"], "14");
    assert_eq!(first.to_bytes(), "data");
    let end = ends.lock().pop().unwrap();
    assert_eq!(
        (end.ending, end.grpc_status, end.bytes),
        (Ending::Complete, Some(14), 4)
    );

    let second = client
        .send(get(&url("/")), SendOptions::default())
        .await
        .unwrap();
    let error = second.into_body().collect().await.unwrap_err();
    assert_eq!(error.reset_reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(
        ends.lock().pop().unwrap().ending,
        Ending::Failed(Outcome::Reset)
    );

    let third = client
        .send(get(&url("/")), SendOptions::default())
        .await
        .unwrap();
    drop(third);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ends.lock().pop().unwrap().ending, Ending::Dropped);
}

#[tokio::test]
async fn a_reset_request_resets_upstream_with_its_code() {
    let (upstream, mut accepted) = h2(PoolOptions::MESH);
    let (heard, hears) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let stream = accepted.streams.recv().await.unwrap();
        let mut connection = ::h2::server::handshake(stream).await.unwrap();
        let (request, _respond): (_, ::h2::server::SendResponse<Bytes>) =
            connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let mut body = request.into_body();
        while let Some(frame) = body.data().await {
            if let Err(error) = frame {
                let _ = heard.send(error.reason());
                return;
            }
        }
    });
    let proxy = answers(move |request: Request<hyper::body::Incoming>| {
        let upstream = upstream.clone();
        async move {
            let request = request.map(RequestBody::from);
            let _ = upstream.send(request, SendOptions::default()).await;
            std::future::pending().await
        }
    });
    let (near, far) = tokio::io::duplex(1 << 16);
    let (_sender, closing) = crate::net::closing::channel();
    tokio::spawn(crate::http::server::serve(
        far,
        Version::Http2,
        proxy,
        closing,
        crate::http::server::ServerOptions::default(),
    ));
    let (mut client, connection) = ::h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    let head = Request::post(url("/")).body(()).unwrap();
    let (_response, mut body) = client.send_request(head, false).unwrap();
    body.send_data(Bytes::from_static(b"begun"), false).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    body.send_reset(Reason::HTTP_1_1_REQUIRED);
    let heard = tokio::time::timeout(Duration::from_secs(2), hears).await;
    assert!(heard.is_ok(), "the upstream stream was not reset");
}

#[tokio::test]
async fn connecting_is_done_once_for_all_and_failing_is_told_to_all() {
    let (pool, accepted) = h2(PoolOptions::MESH);
    drop(accepted);
    let sent: Vec<_> = (0..5)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.send(get(&url("/")), SendOptions::default()).await })
        })
        .collect();
    for sent in sent {
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!(error.failure.outcome, Outcome::ConnectRefused);
        assert!(error.request.is_some());
    }
}

#[tokio::test]
async fn many_small_messages_and_a_slow_reader() {
    const STREAMS: usize = 1_000;
    const MESSAGES: usize = 20;
    let (pool, accepted) = h2(PoolOptions::MESH);
    let _closing = accepted.serve(
        Version::Http2,
        answers(|request| async move {
            // Slow to begin with: the messages pile up.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(ResponseBody::full(body.len().to_string()))
        }),
    );
    let sent: Vec<_> = (0..STREAMS)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let (mut give, body) = small_messages().await;
                let request = request("POST", &url("/"), body);
                let feed = tokio::spawn(async move {
                    for _ in 0..MESSAGES {
                        give.send_data(Bytes::from_static(b"12345"), false).unwrap();
                        tokio::task::yield_now().await;
                    }
                    give.send_data(Bytes::new(), true).unwrap();
                });
                let response = pool.send(request, SendOptions::default()).await.unwrap();
                assert_eq!(whole(response).await, (5 * MESSAGES).to_string());
                feed.await.unwrap();
            })
        })
        .collect();
    for sent in sent {
        sent.await.unwrap();
    }
    assert_eq!(pool.stats().streams, 0);
}

/// A request body that is fed by hand: it comes over a connection of its own.
async fn small_messages() -> (::h2::SendStream<Bytes>, RequestBody) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (give, mut take) = tokio::sync::mpsc::channel(1);
    let handler = answers(move |request: Request<hyper::body::Incoming>| {
        let give = give.clone();
        async move {
            let _ = give.send(request.into_body()).await;
            std::future::pending().await
        }
    });
    let (sender, closing) = crate::net::closing::channel();
    tokio::spawn(async move {
        let options = crate::http::server::ServerOptions::default();
        crate::http::server::serve(far, Version::Http2, handler, closing, options).await;
        drop(sender);
    });
    let (mut client, connection) = ::h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    let head = Request::post(url("/")).body(()).unwrap();
    let (response, body) = client.send_request(head, false).unwrap();
    tokio::spawn(response);
    (body, take.recv().await.unwrap().into())
}

#[tokio::test]
async fn a_client_that_breaks_off_costs_a_stream_and_no_connection() {
    let (pool, accepted) = h2(PoolOptions::MESH);
    play(accepted, 100, |_, respond| {
        // Held for as long as the stream is there.
        tokio::spawn(async move {
            let mut respond = respond;
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        });
    });
    let (incoming, client) = super::upload("content-length: 100", "begun").await;
    let sent = {
        let pool = pool.clone();
        let request = request("POST", &url("/"), incoming.into());
        tokio::spawn(async move { pool.send(request, SendOptions::default()).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(client);
    let error = sent.await.unwrap().unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::ClientGone);
    assert_eq!(error.failure.processed, Processed::Maybe);
    assert_eq!(pool.stats().connections, 1);
    assert_eq!(pool.stats().streams, 0);
}
