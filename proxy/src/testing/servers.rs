//! Servers that play what lies behind a sidecar, or another sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::identity::{Alpn, Identity};

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What a server does about a request.
pub(crate) enum Act {
    Answer(Response<BoxBody<Bytes, Infallible>>),
    /// Closes the connection.
    Cut,
    /// Says nothing for as long as the client waits.
    Hang,
}

/// Answers requests over HTTP/1 and HTTP/2, in the clear or as a workload of the mesh.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What a server does about a request; it is told how many came so far, this one counted.
type Script = dyn Fn(usize, &Seen) -> Act + Send + Sync;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    answer: Box<Script>,
    identity: Option<Identity>,
}

/// An address that refuses connections for as long as this lives.
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _bound: Socket,
}

impl Act {
    pub(crate) fn ok(text: &'static str) -> Self {
        Self::status(200, text)
    }

    pub(crate) fn status(status: u16, text: &'static str) -> Self {
        Self::with(status, text, &[])
    }

    pub(crate) fn with(status: u16, text: &'static str, headers: &[(&str, &str)]) -> Self {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        Self::Answer(response.body(body.boxed()).unwrap())
    }

    /// A head at once, and its body `after` that.
    pub(crate) fn slow(headers: &[(&str, &str)], after: std::time::Duration) -> Self {
        let mut response = Response::builder();
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let body = futures_util::stream::once(async move {
            tokio::time::sleep(after).await;
            Ok(Frame::data(Bytes::from_static(b"late")))
        });
        Self::Answer(
            response
                .body(StreamBody::new(Box::pin(body)).boxed())
                .unwrap(),
        )
    }

    /// A gRPC answer that is nothing but a head and trailers.
    pub(crate) fn grpc_trailers(trailers: &[(&'static str, &'static str)]) -> Self {
        let trailers = trailers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let trailers: HeaderMap = trailers.collect();
        let body = Full::new(Bytes::new()).with_trailers(std::future::ready(Some(Ok(trailers))));
        let response = Response::builder().header("content-type", "application/grpc");
        Self::Answer(response.body(body.boxed()).unwrap())
    }

    /// A gRPC answer with its status in the trailers.
    pub(crate) fn grpc(code: u8) -> Self {
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), u16::from(code).into())]);
        let body = Full::new(Bytes::from_static(b"\0\0\0\0\0"))
            .with_trailers(std::future::ready(Some(Ok(trailers))));
        let response = Response::builder().header("content-type", "application/grpc");
        Self::Answer(response.body(body.boxed()).unwrap())
    }
}

impl Server {
    /// In the clear.
    pub(crate) async fn plain(
        answer: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start("127.0.0.1:0", None, answer).await
    }

    /// Behind mesh TLS, as `identity`.
    pub(crate) async fn mesh(
        identity: Identity,
        answer: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start("127.0.0.1:0", Some(identity), answer).await
    }

    pub(crate) async fn start(
        at: &str,
        identity: Option<Identity>,
        answer: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            answer: Box::new(answer),
            identity,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// How many connections came.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        Self {
            address: socket.local_addr().unwrap().as_socket().unwrap(),
            _bound: socket,
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(connection(tcp, Arc::clone(&shared)));
    }
}

async fn connection(tcp: TcpStream, shared: Arc<Shared>) {
    let Some(identity) = &shared.identity else {
        let mut start = [0; 3];
        let read = tcp.peek(&mut start).await.unwrap_or(0);
        return serve(tcp, start[..read] == *b"PRI", Arc::clone(&shared)).await;
    };
    if let Ok((tls, _, alpn)) = identity.accept(tcp).await {
        serve(tls, alpn == Alpn::Http2, Arc::clone(&shared)).await;
    }
}

async fn serve<I>(io: I, http2: bool, shared: Arc<Shared>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    // How a connection ends is what tests look at from its other side.
    if http2 {
        let builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    } else {
        let builder = http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method,
        path: head.uri.path().to_owned(),
        version: head.version,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    };
    let nth = {
        let mut all = shared.seen.lock();
        all.push(seen.clone());
        all.len()
    };
    match (shared.answer)(nth, &seen) {
        Act::Answer(response) => Ok(response),
        Act::Cut => Err("cut".into()),
        Act::Hang => std::future::pending().await,
    }
}
