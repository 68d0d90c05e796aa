//! A server that answers only when it is told to, and counts what it works on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::policy::EndpointInfo;
use crate::testing::policies::endpoint;
use crate::testing::soon;

/// A server that answers a request only when it is let through.
pub(super) struct Gated {
    address: SocketAddr,
    seen: Arc<Counts>,
    accepting: JoinHandle<()>,
}

struct Counts {
    gate: Semaphore,
    now: AtomicUsize,
    most: AtomicUsize,
    connections: AtomicUsize,
    paths: Mutex<Vec<String>>,
}

impl Gated {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Counts {
            gate: Semaphore::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            paths: Mutex::default(),
        });
        let counts = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counts.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(tcp, Arc::clone(&counts)));
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    pub(super) fn endpoint(&self) -> EndpointInfo {
        endpoint(self.address, None)
    }

    pub(super) fn let_through(&self, requests: usize) {
        self.seen.gate.add_permits(requests);
    }

    pub(super) fn now(&self) -> usize {
        self.seen.now.load(Ordering::SeqCst)
    }

    pub(super) fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.seen.paths.lock().clone()
    }

    pub(super) async fn working_on(&self, requests: usize) {
        soon(async {
            while self.now() != requests {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(tcp: TcpStream, seen: Arc<Counts>) {
    let mut start = [0; 3];
    let read = tcp.peek(&mut start).await.unwrap_or(0);
    let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
    if start[..read] == *b"PRI" {
        let builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
    } else {
        let builder = http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
    }
}

/// Counts one down, also where its client leaves.
struct Working(Arc<Counts>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Counts>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    seen.paths.lock().push(request.uri().path().to_owned());
    let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most.fetch_max(now, Ordering::SeqCst);
    let working = Working(Arc::clone(&seen));
    request.into_body().collect().await?;
    seen.gate.acquire().await.expect("never closed").forget();
    drop(working);
    Ok(Response::new(Full::new(Bytes::from_static(b"fine"))))
}
