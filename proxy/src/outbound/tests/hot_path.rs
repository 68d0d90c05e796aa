//! What a small request costs: how often the kernel is asked to write, and what leaves at once.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::{Version, server};
use crate::identity::Alpn;
use crate::outbound::request::Requests;
use crate::testing::clients::request;
use crate::testing::policies::{endpoint, retries, target};
use crate::testing::servers::Act;

const HEADER: usize = 5;
const APPLICATION_DATA: u8 = 23;

/// Counts what goes through a connection.
#[derive(Default)]
struct Counts {
    writes: AtomicUsize,
    /// TLS records of application data that were read.
    records: AtomicUsize,
}

/// A connection that counts.
struct Counted {
    tcp: TcpStream,
    counts: Arc<Counts>,
    /// What was read of a record that is not whole yet.
    read: Vec<u8>,
}

impl Counted {
    fn new(tcp: TcpStream) -> (Self, Arc<Counts>) {
        let counts = Arc::<Counts>::default();
        let counted = Self {
            tcp,
            counts: Arc::clone(&counts),
            read: Vec::new(),
        };
        (counted, counts)
    }

    fn count_records(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
        while self.read.len() >= HEADER {
            let length = u16::from_be_bytes([self.read[3], self.read[4]]);
            let end = HEADER + usize::from(length);
            if self.read.len() < end {
                return;
            }
            if self.read[0] == APPLICATION_DATA {
                self.counts.records.fetch_add(1, Ordering::Relaxed);
            }
            self.read.drain(..end);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.count_records(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Everything that a route may have, so that nothing of it costs a write.
fn full_policy() -> ServiceTarget {
    let mut policy = target("api", &["api"]);
    policy.routes[0].retries = Some(retries());
    policy.routes[0].timeouts.request = Some(std::time::Duration::from_secs(60));
    policy.routes[0].timeouts.per_try = Some(std::time::Duration::from_secs(60));
    policy.routes[0].timeouts.idle = Some(std::time::Duration::from_secs(60));
    let breaker = crate::testing::policies::breaker(crate::policy::BreakerScope::Endpoint);
    policy.backends[0].circuit_breaker = Some(breaker);
    policy
}

/// A client whose sidecar counts what it writes to it.
async fn counted_client(sidecar: &Sidecar) -> (Http, Arc<Counts>) {
    let (tcp, accepted) = tcp_pair().await;
    let (counted, counts) = Counted::new(accepted);
    let outbound = Arc::clone(&sidecar.outbound);
    let options = outbound.shared().server_options();
    let destination = outbound.destinations().at(api());
    let closing = sidecar.closing.subscribe();
    let requests = Arc::new(Requests::new(outbound, destination, closing.clone()));
    let serving = server::serve(counted, Version::Http1, requests, closing, options);
    let client = Http::over(tcp, false, tokio::spawn(serving)).await;
    (client, counts)
}

#[tokio::test]
async fn a_response_leaves_in_one_write() {
    let server = Server::plain(|_, _| Act::ok("a small body")).await;
    let sidecar = Sidecar::knowing(full_policy(), at(&[&server]));
    let (mut client, counts) = counted_client(&sidecar).await;
    for count in 1..=5 {
        client.get("/").await.assert_ok("a small body");
        assert_eq!(counts.writes.load(Ordering::Relaxed), count);
    }
    for count in 6..=10 {
        client
            .post("/", vec![b'x'; 512])
            .await
            .assert_ok("a small body");
        assert_eq!(counts.writes.load(Ordering::Relaxed), count);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_request_leaves_in_one_record() {
    let sidecar = Sidecar::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let promised = endpoint(listener.local_addr().unwrap(), Some(spiffe("api")));
    sidecar.tell_endpoints("api", vec![promised]);
    sidecar.tell(full_policy());
    let identity = sidecar.identity("api");
    let (handed, counted) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (counted, counts) = Counted::new(listener.accept().await.unwrap().0);
        let (tls, _, alpn) = identity.accept(counted).await.unwrap();
        assert_eq!(alpn, Alpn::Http1);
        let _ = handed.send(counts);
        let echo = hyper::service::service_fn(|request| async {
            let body = http::Request::into_body(request);
            let whole: http_body_util::Collected<_> = hyper::body::Incoming::collect(body).await?;
            let body = http_body_util::Full::new(whole.to_bytes());
            Ok::<_, hyper::Error>(http::Response::new(body))
        });
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(TokioIo::new(tls), echo).await
    });
    let (mut client, written) = counted_client(&sidecar).await;
    client.post("/", vec![b'x'; 512]).await;
    let counts = counted.await.unwrap();
    let handshake_and_first = counts.records.load(Ordering::Relaxed);
    for count in 1..=5 {
        let post = request(http::Method::POST, "/", &[], vec![b'x'; 512]);
        let answer = client.send(post).await;
        assert_eq!(answer.body.len(), 512);
        let records = counts.records.load(Ordering::Relaxed) - handshake_and_first;
        assert_eq!(records, count, "head and body in one record");
        assert_eq!(written.writes.load(Ordering::Relaxed), count + 1);
    }
}
