//! Connections of pools that become too old.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::super::*;
use crate::http::Version;
use crate::http::body::ResponseBody;
use crate::http::server::Handler;
use crate::http::testing::{answers, get, h1, h2, whole};
use crate::net::age::AgeCap;

const SECOND: Duration = Duration::from_secs(1);
/// Well above its jitter.
const AGE: Duration = Duration::from_secs(100);
const PAST: Duration = Duration::from_secs(111);
const URL: &str = "http://peer/";

fn aging() -> PoolOptions {
    PoolOptions {
        idle_limit: Duration::from_secs(10_000),
        max_age: AgeCap::about(AGE),
        ..PoolOptions::MESH
    }
}

/// Answers after a second.
fn slow() -> Arc<impl Handler> {
    answers(|_| async {
        sleep(SECOND).await;
        Response::new(ResponseBody::full("ok"))
    })
}

#[tokio::test(start_paused = true)]
async fn an_old_http1_connection_is_not_used_again() {
    let (pool, peers) = h1(true, aging());
    let made = peers.made_counter();
    let _closing = peers.serve(Version::Http1, slow());
    let ask = async || {
        let response = pool.send(get("/"), SendOptions::default()).await;
        assert_eq!(whole(response.unwrap()).await, "ok");
    };
    for _ in 0..80 {
        ask().await;
    }
    assert_eq!(made(), 1, "replaced too early");
    sleep(PAST).await;
    ask().await;
    assert_eq!(made(), 2);
    assert_eq!(pool.stats().connections, 1, "the old one is still there");
    // Nor is it kept where nobody asks for anything.
    sleep(PAST).await;
    pool.sweep();
    sleep(SECOND).await;
    assert_eq!(pool.stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn an_http1_exchange_outlives_its_connections_age() {
    let (pool, mut peers) = h1(true, aging());
    let sending = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.send(get("/"), SendOptions::default()).await })
    };
    let mut peer = peers.next().await;
    peer.read_head().await;
    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nho")
        .await;
    sleep(2 * PAST).await;
    peer.write("me").await;
    assert_eq!(whole(sending.await.unwrap().unwrap()).await, "home");
    assert!(peer.ends_within(SECOND).await);
    assert_eq!(pool.stats(), PoolStats::default());
}

/// Who waits for a connection that turns out to be too old gets the one that is made instead.
#[tokio::test(start_paused = true)]
async fn who_waits_for_an_old_http1_connection_gets_a_new_one() {
    let options = PoolOptions {
        max_connections: 1,
        ..aging()
    };
    let (pool, mut peers) = h1(true, options);
    let send = |target: &'static str| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.send(get(target), SendOptions::default()).await })
    };
    let first = send("/1");
    let mut peer = peers.next().await;
    peer.read_head().await;
    let second = send("/2");
    sleep(PAST).await;
    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await;
    assert_eq!(whole(first.await.unwrap().unwrap()).await, "ok");
    let mut peer = peers.next().await;
    assert!(peer.read_head().await.starts_with("GET /2 "));
    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await;
    assert_eq!(whole(second.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn an_old_http2_connection_is_replaced_under_streams() {
    let (pool, peers) = h2(aging());
    let made = peers.made_counter();
    let long = answers(|request| async move {
        sleep(if request.uri().path() == "/long" {
            3 * PAST
        } else {
            SECOND
        })
        .await;
        Response::new(ResponseBody::full("ok"))
    });
    let _closing = peers.serve(Version::Http2, long);
    let ask = async || {
        let response = pool.send(get(URL), SendOptions::default()).await;
        assert_eq!(whole(response.unwrap()).await, "ok");
    };
    ask().await;
    let long = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let sent = pool.send(get("http://peer/long"), SendOptions::default());
            whole(sent.await.unwrap()).await
        })
    };
    for _ in 0..80 {
        ask().await;
    }
    assert_eq!(made(), 1, "replaced too early");
    sleep(PAST).await;
    // This one still goes over the old connection, while the new one is made.
    ask().await;
    assert_eq!(made(), 2);
    ask().await;
    assert_eq!(made(), 2, "replaced twice");
    assert_eq!(pool.stats().streams, 0, "the old one is still picked");
    assert_eq!(long.await.unwrap(), "ok");
}

/// Where there is no other connection, the old one serves on, and another try is made later.
#[tokio::test(start_paused = true)]
async fn an_old_http2_connection_that_cannot_be_replaced_serves_on() {
    let (pool, mut peers) = h2(aging());
    let made = peers.made_counter();
    let peer = peers.next();
    let first = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.send(get(URL), SendOptions::default()).await })
    };
    let (_sender, closing) = crate::net::closing::channel();
    let served = crate::http::server::serve(
        peer.await.0,
        Version::Http2,
        slow(),
        closing,
        crate::http::server::ServerOptions::default(),
    );
    tokio::spawn(served);
    assert_eq!(whole(first.await.unwrap().unwrap()).await, "ok");
    // From now on nobody accepts.
    drop(peers);
    sleep(PAST).await;
    for _ in 0..20 {
        let response = pool.send(get(URL), SendOptions::default()).await;
        assert_eq!(whole(response.unwrap()).await, "ok");
    }
    // One at first, and one every five seconds, not one per request.
    assert!((5..=7).contains(&made()), "{} tries", made() - 1);
    assert_eq!(pool.stats().connections, 1);
}

/// A bound that several pools share, and that is full.
#[derive(Debug, Default)]
struct OneAtATime(Mutex<bool>);

impl Room for OneAtATime {
    fn take(self: Arc<Self>) -> Option<Token> {
        let is_taken = std::mem::replace(&mut *self.0.lock(), true);
        (!is_taken).then(|| Box::new(()) as Token)
    }

    fn eased(&self) {}
}

struct Narrow(crate::http::testing::Pipes, Arc<OneAtATime>);

impl Connect for Narrow {
    type Io = tokio::io::DuplexStream;

    fn connect(&self) -> BoxFuture<Result<Self::Io, Failure>> {
        self.0.connect()
    }

    fn room(&self) -> Option<Arc<dyn Room>> {
        let room = Arc::clone(&self.1);
        Some(room)
    }
}

#[tokio::test(start_paused = true)]
async fn without_room_for_another_an_old_http2_connection_serves_on() {
    let (pipes, peers) = crate::http::testing::pipes(true);
    let made = peers.made_counter();
    let _closing = peers.serve(Version::Http2, slow());
    let pool = H2Pool::new(Narrow(pipes, Arc::default()), aging());
    for _ in 0..3 {
        let response = pool.send(get(URL), SendOptions::default()).await;
        assert_eq!(whole(response.unwrap()).await, "ok");
        sleep(PAST).await;
    }
    assert_eq!(made(), 1);
}

/// Connections that end at a moment, as those that stand on certificates do.
struct Ending(crate::http::testing::Pipes);

impl Connect for Ending {
    type Io = tokio::io::DuplexStream;

    fn connect(&self) -> BoxFuture<Result<Self::Io, Failure>> {
        self.0.connect()
    }

    fn ends_at(_io: &Self::Io) -> Option<Instant> {
        Some(Instant::now() + AGE)
    }
}

/// What a connection stands on ends before its age does: it is replaced before that.
#[tokio::test(start_paused = true)]
async fn connections_are_replaced_before_what_they_stand_on_ends() {
    let ageless = PoolOptions {
        max_age: AgeCap::OFF,
        ..aging()
    };
    let (pipes, peers) = crate::http::testing::pipes(true);
    let made = peers.made_counter();
    let _closing = peers.serve(Version::Http1, slow());
    let http1 = H1Pool::new(Ending(pipes), ageless);
    let (pipes, peers) = crate::http::testing::pipes(true);
    let made2 = peers.made_counter();
    let _closing2 = peers.serve(Version::Http2, slow());
    let http2 = H2Pool::new(Ending(pipes), ageless);
    for (at, expected) in [(0, 1), (75, 1), (91, 2), (93, 2)] {
        let start = Instant::now();
        if at == 91 {
            // The one that finds out still goes over the old connection, where streams may.
            let response = http2.send(get(URL), SendOptions::default()).await;
            assert_eq!(whole(response.unwrap()).await, "ok");
        }
        for answer in [
            http1.send(get("/"), SendOptions::default()).await,
            http2.send(get(URL), SendOptions::default()).await,
        ] {
            assert_eq!(whole(answer.unwrap()).await, "ok");
        }
        assert_eq!((made(), made2()), (expected, expected), "after {at} s");
        let next = match at {
            0 => 75,
            75 => 91,
            _ => 93,
        };
        sleep(Duration::from_secs(next - at).saturating_sub(start.elapsed())).await;
    }
}

/// Where there is no other one, it serves to the end and not beyond.
#[tokio::test(start_paused = true)]
async fn no_stream_is_opened_once_what_the_connection_stands_on_has_ended() {
    let (pipes, mut peers) = crate::http::testing::pipes(true);
    let pool = H2Pool::new(Ending(pipes), aging());
    let send = async || {
        let sent = pool.send(get(URL), SendOptions::default()).await;
        sent.map_err(|error| error.failure.outcome)
    };
    let (_sender, closing) = crate::net::closing::channel();
    let serving = async {
        let peer = peers.next().await.0;
        let options = crate::http::server::ServerOptions::default();
        let served = crate::http::server::serve(peer, Version::Http2, slow(), closing, options);
        tokio::spawn(served);
    };
    let (answer, ()) = tokio::join!(send(), serving);
    assert_eq!(whole(answer.unwrap()).await, "ok");
    drop(peers);
    sleep(Duration::from_secs(95)).await;
    assert_eq!(whole(send().await.unwrap()).await, "ok");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(send().await.map(drop), Err(Outcome::ConnectRefused));
}
