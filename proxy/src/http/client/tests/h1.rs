use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use super::upload;
use crate::http::Version;
use crate::http::body::{Ending, ExchangeEnd, ResponseBody, UpstreamBody};
use crate::http::testing::{Peer, answers, get, h1, pipes, request, whole};
use crate::outcome::{Outcome, Processed};
use crate::resilience::deadline::Deadline;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn post() -> Request<RequestBody> {
    request("POST", "/", RequestBody::full("body"))
}

fn send(
    pool: &H1Pool<crate::http::testing::Pipes>,
    request: Request<RequestBody>,
) -> tokio::task::JoinHandle<Result<http::Response<UpstreamBody>, TryError>> {
    let pool = pool.clone();
    tokio::spawn(async move { pool.send(request, SendOptions::default()).await })
}

/// Until what was set off has settled.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_last_one_used_is_used_next() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (first, second) = (send(&pool, get("/1")), send(&pool, get("/2")));
    let (mut one, mut two) = (peers.next().await, peers.next().await);
    one.read_head().await;
    two.read_head().await;
    two.write(OK).await;
    assert_eq!(whole(second.await.unwrap().unwrap()).await, "ok");
    one.write(OK).await;
    assert_eq!(whole(first.await.unwrap().unwrap()).await, "ok");
    assert_eq!(pool.stats().idle, 2);
    for _ in 0..3 {
        let third = send(&pool, get("/3"));
        assert!(one.read_head().await.starts_with("GET /3"));
        one.write(OK).await;
        assert_eq!(whole(third.await.unwrap().unwrap()).await, "ok");
    }
    assert_eq!(peers.made(), 2);
}

#[tokio::test]
async fn a_connection_comes_back_when_its_body_has_ended() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let first = send(&pool, get("/"));
    let mut one = peers.next().await;
    one.read_head().await;
    one.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
        .await;
    let mut body = first.await.unwrap().unwrap().into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "o"
    );
    assert_eq!(pool.stats().idle, 0);
    one.write("k").await;
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "k"
    );
    // hyper does not ask a body of known length for its end.
    assert_eq!(pool.stats().idle, 1);
}

#[tokio::test]
async fn a_body_that_is_given_up_closes_its_connection() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let first = send(&pool, get("/"));
    let mut one = peers.next().await;
    one.read_head().await;
    one.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\no")
        .await;
    drop(first.await.unwrap().unwrap());
    assert!(one.ends_within(Duration::from_secs(1)).await);
    assert_eq!(pool.stats(), PoolStats::default());
}

#[tokio::test]
async fn a_response_given_up_closes_its_connection() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let first = send(&pool, get("/"));
    let mut one = peers.next().await;
    one.read_head().await;
    first.abort();
    assert!(one.ends_within(Duration::from_secs(1)).await);
}

#[tokio::test]
async fn a_dead_idle_connection_is_replaced_silently() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    for round in 1..=3 {
        let sent = send(&pool, post());
        let mut peer = peers.next().await;
        peer.read_until("body").await;
        peer.write(OK).await;
        assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
        drop(peer);
        assert_eq!(peers.made(), round);
    }
}

async fn after(reply: &str, proof: bool, reused: bool) -> TryError {
    let (pool, mut peers) = h1(proof, PoolOptions::MESH);
    let mut peer: Option<Peer> = None;
    if reused {
        let sent = send(&pool, get("/"));
        let mut accepted = peers.next().await;
        accepted.read_head().await;
        accepted.write(OK).await;
        whole(sent.await.unwrap().unwrap()).await;
        peer = Some(accepted);
    }
    let sent = send(&pool, post());
    let mut peer = match peer {
        Some(peer) => peer,
        None => peers.next().await,
    };
    peer.read_until("body").await;
    peer.write(reply).await;
    drop(peer);
    sent.await.unwrap().expect_err("no response came")
}

#[tokio::test]
async fn a_clean_close_without_an_answer_is_proof_from_a_sidecar_only() {
    for reused in [false, true] {
        let error = after("", true, reused).await;
        assert_eq!(error.failure.outcome, Outcome::Reset);
        assert_eq!(error.failure.processed, Processed::Never);
        assert!(error.request.is_none());
        assert_eq!(
            after("", false, reused).await.failure.processed,
            Processed::Maybe
        );
    }
}

#[tokio::test]
async fn one_byte_of_an_answer_is_no_proof() {
    let error = after("H", true, true).await;
    assert_eq!(error.failure.processed, Processed::Maybe);
    let error = after("HTTP/1.1 100 Continue\r\n\r\n", true, true).await;
    assert_eq!(error.failure.processed, Processed::Maybe);
}

/// Each connection is closed before a byte can be written to it.
struct Left;

impl Connect for Left {
    type Io = tokio::io::DuplexStream;

    fn connect(&self) -> BoxFuture<Result<Self::Io, Failure>> {
        let (near, _) = tokio::io::duplex(64);
        Box::pin(async move { Ok(near) })
    }
}

#[tokio::test]
async fn a_request_that_no_connection_took_comes_back_whole() {
    let pool = H1Pool::new(Left, PoolOptions::MESH);
    let error = pool.send(post(), SendOptions::default()).await.unwrap_err();
    assert_eq!(error.failure.processed, Processed::Never);
    let whole = error.request.expect("nothing was written").into_body();
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "body");
    let (pipes, peers) = pipes(false);
    let pool = H1Pool::new(pipes, PoolOptions::MESH);
    drop(peers);
    let error = pool.send(post(), SendOptions::default()).await.unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::ConnectRefused);
    let whole = error.request.expect("nothing was written").into_body();
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "body");
}

#[tokio::test]
async fn waiting_is_bounded_and_first_come_first_served() {
    let options = PoolOptions {
        max_connections: 1,
        max_pending: 1,
        ..PoolOptions::MESH
    };
    let (pool, mut peers) = h1(false, options);
    let first = send(&pool, get("/1"));
    let mut peer = peers.next().await;
    peer.read_head().await;
    let second = send(&pool, get("/2"));
    settle().await;
    assert_eq!(pool.stats().pending, 1);
    let error = pool
        .send(get("/3"), SendOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::Overflow);
    assert_eq!(error.failure.processed, Processed::Never);
    assert!(error.request.is_some());
    peer.write(OK).await;
    whole(first.await.unwrap().unwrap()).await;
    assert!(peer.read_head().await.starts_with("GET /2"));
    // A connection that ends lets the next one be made.
    let fourth = send(&pool, get("/4"));
    settle().await;
    drop(peer);
    assert!(second.await.unwrap().is_err());
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write(OK).await;
    whole(fourth.await.unwrap().unwrap()).await;
    assert_eq!(pool.stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_age() {
    let (pool, peers) = h1(false, PoolOptions::PLAIN);
    let made = |pool: &H1Pool<_>| pool.stats().connections;
    let _closing = peers.serve(
        Version::Http1,
        answers(|_| async { http::Response::new(ResponseBody::full("ok")) }),
    );
    let fresh = SendOptions {
        max_idle_age: Some(Duration::from_millis(500)),
        ..SendOptions::default()
    };
    whole(pool.send(post(), fresh.clone()).await.unwrap()).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    whole(pool.send(post(), fresh.clone()).await.unwrap()).await;
    assert_eq!(made(&pool), 1);
    tokio::time::sleep(Duration::from_millis(600)).await;
    whole(pool.send(post(), fresh).await.unwrap()).await;
    assert_eq!(made(&pool), 2);
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    whole(pool.send(get("/"), SendOptions::default()).await.unwrap()).await;
    assert_eq!(pool.stats().idle, 1, "the older one is over its limit");
    tokio::time::sleep(Duration::from_secs(3)).await;
    pool.sweep();
    settle().await;
    assert_eq!(pool.stats(), PoolStats::default());
}

#[tokio::test(start_paused = true)]
async fn what_the_peer_announces_is_believed() {
    let (pool, peers) = h1(false, PoolOptions::MESH);
    let _closing = peers.serve(
        Version::Http1,
        answers(|_| async {
            let mut response = http::Response::new(ResponseBody::Empty);
            let value = HeaderValue::from_static("timeout=5, max=100");
            response.headers_mut().insert("keep-alive", value);
            response
        }),
    );
    pool.send(get("/"), SendOptions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4_100)).await;
    pool.sweep();
    assert_eq!(pool.stats().idle, 0);
}

#[tokio::test]
async fn a_request_without_its_end_does_not_hold_a_connection() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (incoming, _client) = upload("content-length: 100", "begun").await;
    let sent = send(&pool, request("POST", "/", incoming.into()));
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write(OK).await;
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
    assert_eq!(pool.stats().connections, 1);
    tokio::time::sleep(UPLOAD_GRACE + Duration::from_millis(200)).await;
    assert_eq!(pool.stats(), PoolStats::default());
}

#[tokio::test]
async fn a_client_that_breaks_off_is_not_the_peers_fault() {
    let (pool, mut peers) = h1(true, PoolOptions::MESH);
    let (incoming, client) = upload("content-length: 100", "begun").await;
    let sent = send(&pool, request("POST", "/", incoming.into()));
    let mut peer = peers.next().await;
    peer.read_until("begun").await;
    drop(client);
    let error = sent.await.unwrap().unwrap_err();
    assert_eq!(error.failure.outcome, Outcome::ClientGone);
    assert_eq!(error.failure.processed, Processed::Maybe);
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_it() {
    let (pool, mut peers) = h1(false, PoolOptions::MESH);
    let (incoming, mut client) = upload("transfer-encoding: chunked", "5\r\nbegun\r\n").await;
    let sent = send(&pool, request("GET", "/", incoming.into()));
    let mut peer = peers.next().await;
    assert!(
        peer.read_head()
            .await
            .contains("transfer-encoding: chunked")
    );
    peer.read_until("5\r\nbegun\r\n").await;
    client.write("0\r\n\r\n").await;
    peer.read_until("0\r\n\r\n").await;
    peer.write(OK).await;
    assert_eq!(whole(sent.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn the_end_is_told_once() {
    let ends = Arc::new(Mutex::new(Vec::<ExchangeEnd>::new()));
    for (rest, read, expected) in [
        ("k", true, Ending::Complete),
        ("", true, Ending::Failed(Outcome::Reset)),
        ("", false, Ending::Dropped),
    ] {
        let (pool, mut peers) = h1(false, PoolOptions::MESH);
        let sent = send(&pool, get("/"));
        let mut peer = peers.next().await;
        peer.read_head().await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
            .await;
        let mut body = sent.await.unwrap().unwrap().into_body();
        let told = Arc::clone(&ends);
        body.observe(move |end| told.lock().push(end));
        body.frame().await.unwrap().unwrap();
        peer.write(rest).await;
        drop(peer);
        if read {
            while let Some(Ok(_)) = body.frame().await {}
        }
        drop(body);
        let end = ends.lock().pop().expect("told");
        assert_eq!(end.ending, expected);
        assert_eq!(end.bytes, 1 + rest.len() as u64);
        assert!(ends.lock().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_ends_at_its_deadline_and_when_nothing_moves() {
    for (deadline, idle, outcome) in [
        (Some(3), Some(9), Outcome::RequestTimeout),
        (Some(9), Some(3), Outcome::IdleTimeout),
    ] {
        let seconds = |seconds| Duration::from_secs(seconds);
        let (pool, mut peers) = h1(false, PoolOptions::MESH);
        let progress = Arc::new(Progress::new());
        let options = SendOptions {
            progress: Some(Arc::clone(&progress)),
            ..SendOptions::default()
        };
        let sent = {
            let pool = pool.clone();
            tokio::spawn(async move { pool.send(get("/"), options).await })
        };
        let mut peer = peers.next().await;
        peer.read_head().await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
            .await;
        let mut body = sent.await.unwrap().unwrap().into_body();
        let start = Instant::now();
        let deadline = Deadline::after(start.into_std(), deadline.map(seconds));
        body.limit(deadline, idle.map(seconds));
        let ended = Arc::new(Mutex::new(None));
        let told = Arc::clone(&ended);
        body.observe(move |end: ExchangeEnd| *told.lock() = Some(end.ending));
        body.frame().await.unwrap().unwrap();
        if outcome == Outcome::IdleTimeout {
            // Bytes of the request count too.
            tokio::time::sleep(seconds(2)).await;
            progress.touch();
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.reset_reason(), Some(::h2::Reason::CANCEL));
        let expected = if outcome == Outcome::IdleTimeout {
            5
        } else {
            3
        };
        assert_eq!(start.elapsed().as_secs(), expected);
        assert_eq!(*ended.lock(), Some(Ending::Failed(outcome)));
        assert!(body.frame().await.is_none());
        drop(body);
        assert!(peer.ends_within(seconds(1)).await);
    }
}

struct Tcp(std::net::SocketAddr);

impl Connect for Tcp {
    type Io = TcpStream;

    fn connect(&self) -> BoxFuture<Result<TcpStream, Failure>> {
        let addr = self.0;
        Box::pin(async move {
            TcpStream::connect(addr)
                .await
                .map_err(|error| Failure::never(Outcome::ConnectRefused, "refused").because(error))
        })
    }

    fn check_before_reuse(&self) -> bool {
        true
    }

    fn peer_has_closed(io: &TcpStream) -> bool {
        tcp_peer_has_closed(io)
    }
}

#[tokio::test]
async fn the_kernel_knows_of_a_close_before_the_runtime() {
    // The peer lives on another thread, so that this runtime can be kept from looking.
    let (told_address, address) = std::sync::mpsc::channel();
    let peer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told_address.send(listener.local_addr().unwrap()).unwrap();
            let mut requests = 0;
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut space = [0; 1_024];
                while stream.read(&mut space).await.unwrap() == 0 {}
                requests += 1;
                stream.write_all(OK.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            requests
        })
    });
    let pool = H1Pool::new(Tcp(address.recv().unwrap()), PoolOptions::PLAIN);
    let options = SendOptions {
        probe_before_write: true,
        ..SendOptions::default()
    };
    assert_eq!(
        whole(pool.send(post(), options.clone()).await.unwrap()).await,
        "ok"
    );
    assert_eq!(pool.stats().idle, 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(whole(pool.send(post(), options).await.unwrap()).await, "ok");
    assert_eq!(peer.join().unwrap(), 2);
}

#[test]
fn wrappers_forward_what_hyper_asks() {
    use http_body::Body;
    let full = SentBody::new(RequestBody::full("abc"), None);
    assert_eq!(full.size_hint().exact(), Some(3));
    assert!(!full.is_end_stream());
    let empty = SentBody::new(RequestBody::full(Bytes::new()), None);
    assert!(empty.is_end_stream());
    assert_eq!(empty.size_hint().exact(), Some(0));
}

#[tokio::test]
async fn many_wait_for_few_connections_and_none_is_forgotten() {
    let options = PoolOptions {
        max_connections: 4,
        ..PoolOptions::MESH
    };
    let (pool, peers) = h1(true, options);
    let _closing = peers.serve(
        Version::Http1,
        answers(|request| async move {
            let mut response = http::Response::new(ResponseBody::full("ok"));
            if request.uri().path() == "/last" {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert("connection", close);
            }
            response
        }),
    );
    let sent: Vec<_> = (0..50_usize)
        .map(|task| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for round in 0..40 {
                    let path = if (task + round) % 10 == 0 {
                        "/last"
                    } else {
                        "/"
                    };
                    let sending = pool.send(get(path), SendOptions::default());
                    if (task + round) % 13 == 0 {
                        // One that gives up while it waits takes nothing with it.
                        let _ = tokio::time::timeout(Duration::from_micros(50), sending).await;
                        continue;
                    }
                    assert_eq!(whole(sending.await.unwrap()).await, "ok");
                }
            })
        })
        .collect();
    let all = async {
        for sent in sent {
            sent.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .unwrap();
    assert!(pool.stats().connections <= 4);
    assert_eq!(pool.stats().pending, 0);
}
