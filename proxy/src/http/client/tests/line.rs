//! What a connection that its exchange drives does besides the exchange.

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::*;
use super::upload;
use crate::http::Version;
use crate::http::body::UpstreamBody;
use crate::http::server::ServerOptions;
use crate::http::testing::{Peer, answers, get, h1, request, serve_one, whole};
use crate::http::upgrade::Upstream;
use crate::outcome::Processed;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const SOON: Duration = Duration::from_secs(5);

type Pool = H1Pool<crate::http::testing::Pipes>;
type Sent = tokio::task::JoinHandle<Result<http::Response<UpstreamBody>, TryError>>;

fn send(pool: &Pool, request: Request<RequestBody>) -> Sent {
    let pool = pool.clone();
    tokio::spawn(async move { pool.send(request, SendOptions::default()).await })
}

/// A request whose body has begun, its client, and the peer that has read what came of it.
async fn begun(pool: &Pool, peers: &mut crate::http::testing::Accepted) -> (Sent, Peer, Peer) {
    let (incoming, client) = upload("content-length: 10", "begun").await;
    let sent = send(pool, request("POST", "/", incoming.into()));
    let mut peer = peers.next().await;
    peer.read_until("begun").await;
    (sent, client, peer)
}

/// Until `pool` has no connection.
async fn is_empty(pool: &Pool) -> bool {
    let empty = async {
        while pool.stats() != PoolStats::default() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, empty).await.is_ok()
}

#[tokio::test]
async fn a_request_goes_on_while_nobody_reads_its_answer() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (sent, mut client, mut peer) = begun(&pool, &mut peers).await;
    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        .await;
    let response = sent.await.unwrap().unwrap();
    client.write("ended").await;
    let rest = tokio::time::timeout(SOON, peer.read_until("ended")).await;
    assert_eq!(rest.unwrap(), "ended");
    peer.write("ok").await;
    assert_eq!(whole(response).await, "ok");
    assert_eq!(pool.stats().idle, 1, "it serves the next one");
    let next = send(&pool, get("/next"));
    assert!(peer.read_head().await.starts_with("GET /next"));
    peer.write(OK).await;
    assert_eq!(whole(next.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn an_answer_may_end_before_its_request() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (sent, mut client, mut peer) = begun(&pool, &mut peers).await;
    peer.write(OK).await;
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
    assert_eq!(pool.stats().idle, 0, "the request has not ended");
    client.write("ended").await;
    peer.read_until("ended").await;
    let back = async {
        while pool.stats().idle == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, back).await.unwrap();
}

#[tokio::test]
async fn who_gives_up_an_answer_ends_its_request() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (sent, _client, mut peer) = begun(&pool, &mut peers).await;
    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        .await;
    drop(sent.await.unwrap().unwrap());
    assert!(peer.ends_within(SOON).await);
    assert!(is_empty(&pool).await);
}

#[tokio::test]
async fn a_request_that_breaks_off_ends_its_answer() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (sent, client, mut peer) = begun(&pool, &mut peers).await;
    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
        .await;
    let mut body = sent.await.unwrap().unwrap().into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "o"
    );
    drop(client);
    let frame = tokio::time::timeout(SOON, body.frame()).await.unwrap();
    assert!(frame.unwrap().is_err());
    assert!(peer.ends_within(SOON).await);
}

#[tokio::test]
async fn a_refusal_of_what_is_not_read_is_an_answer() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    // More than the pipe takes.
    let long = Bytes::from(vec![b'x'; 1 << 20]);
    let sent = send(&pool, request("POST", "/", RequestBody::full(long)));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        .await;
    drop(peer);
    let response = tokio::time::timeout(SOON, sent)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(whole(response).await, "no");
    assert!(is_empty(&pool).await);
}

#[tokio::test]
async fn a_peer_that_takes_no_more_and_says_nothing_has_perhaps_processed_it() {
    let (pool, mut peers) = h1(true, PoolOptions::MESH);
    let long = Bytes::from(vec![b'x'; 1 << 20]);
    let sent = send(&pool, request("POST", "/", RequestBody::full(long)));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("H").await;
    drop(peer);
    let error = sent.await.unwrap().unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::Reset);
    assert_eq!(error.failure.processed, Processed::Maybe);
    assert!(error.request.is_none());
}

#[tokio::test]
async fn idle_connections_are_watched() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    for last_words in ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let both = [send(&pool, get("/1")), send(&pool, get("/2"))];
        let mut ends = Vec::new();
        for _ in &both {
            let mut peer = peers.next().await;
            peer.read_head().await;
            peer.write(OK).await;
            ends.push(peer);
        }
        for sent in both {
            assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
        }
        assert_eq!(pool.stats().idle, 2);
        let mut left = ends.pop().unwrap();
        left.write(last_words).await;
        if last_words.is_empty() {
            drop(left);
        }
        let one = async {
            while pool.stats().connections > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, one).await.unwrap();
        drop(ends);
        assert!(is_empty(&pool).await);
    }
}

#[tokio::test]
async fn who_watches_ends_with_the_pool() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write(OK).await;
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
    let tasks = tokio::runtime::Handle::current().metrics();
    assert_eq!(tasks.num_alive_tasks(), 1);
    drop(pool);
    let none = async {
        while tasks.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, none).await.unwrap();
    assert!(peer.ends_within(SOON).await);
}

#[tokio::test]
async fn what_follows_a_change_of_protocol_is_handed_over_whole() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nfirst words")
        .await;
    let mut response = sent.await.unwrap().unwrap();
    let Upstream::Tunnel(mut tunnel) = Upstream::take(&mut response) else {
        panic!("no tunnel");
    };
    assert_eq!(pool.stats().connections, 1, "it counts until it ends");
    let mut read = [0; 11];
    tunnel.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"first words");
    tunnel.write_all(b"answer").await.unwrap();
    assert_eq!(peer.read_until("answer").await, "answer");
    drop(tunnel);
    assert!(is_empty(&pool).await);
}

#[tokio::test]
async fn what_nobody_takes_over_is_closed() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
    drop(sent.await.unwrap().unwrap());
    assert!(peer.ends_within(SOON).await);
    assert!(is_empty(&pool).await);
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_and_one_in_chunks() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    let response = sent.await.unwrap().unwrap();
    peer.write("2\r\nde\r\n0\r\nx: y\r\n\r\n").await;
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x"], "y");
    assert_eq!(collected.to_bytes(), "abcde");
    assert_eq!(pool.stats().idle, 1);
    let sent = send(&pool, get("/"));
    peer.read_head().await;
    peer.write("HTTP/1.1 200 OK\r\n\r\nabc").await;
    drop(peer);
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "abc");
    assert!(is_empty(&pool).await);
}

#[tokio::test]
async fn bytes_behind_an_answer_end_its_connection() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write(&format!(
        "{OK}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother"
    ))
    .await;
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
    let next = send(&pool, get("/"));
    let mut fresh = peers.next().await;
    fresh.read_head().await;
    fresh.write(OK).await;
    assert_eq!(whole(next.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_none() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1_001);
    peer.write(&flood).await;
    let error = sent.await.unwrap().unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::Reset);
}

#[tokio::test]
async fn names_are_written_as_they_were_spelled_where_that_is_asked_for() {
    let options = PoolOptions {
        keep_case: true,
        ..PoolOptions::MESH
    };
    let (pool, mut peers) = h1(false, options);
    let handler = answers(move |request: Request<hyper::body::Incoming>| {
        let pool = pool.clone();
        async move {
            let sent = pool.send(request.map(Into::into), SendOptions::default());
            sent.await.unwrap().map(Into::into)
        }
    });
    let options = ServerOptions {
        keep_case: true,
        ..ServerOptions::default()
    };
    let (mut client, _closing, _serving) = serve_one(Version::Http1, handler, options);
    let mut peer = None;
    for _ in 0..2 {
        client
            .write("POST / HTTP/1.1\r\nHost: a\r\nX-SpelledSo: 1\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        let peer = match &mut peer {
            Some(peer) => peer,
            none => none.insert(peers.next().await),
        };
        let head = peer.read_until("hi").await;
        assert!(head.contains("\r\nX-SpelledSo: 1\r\n"), "{head}");
        peer.write("HTTP/1.1 200 OK\r\nX-AnswerSo: 1\r\nContent-Length: 2\r\n\r\nok")
            .await;
        let answer = client.read_until("ok").await;
        assert!(answer.contains("\r\nX-AnswerSo: 1\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_head_without_an_end_is_given_up() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("HTTP/1.1 200 OK\r\na: ").await;
    let endless = "b".repeat(ProcessLimits::DEFAULT.header_bytes);
    peer.write(&endless).await;
    let error = tokio::time::timeout(SOON, sent)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::Reset);
    assert!(error.failure.to_string().contains("more bytes"), "{error}");
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let sent = send(&pool, get("/"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    for byte in format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}").chars() {
        peer.write(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
}
