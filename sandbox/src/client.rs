//! Single requests and connections out of a pod. Nothing here retries or reconnects.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::Pod;
use crate::app::echo::echo_client::EchoClient;

/// How long a single request may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, where it is there and readable.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `x-weft-outcome` header.
    pub fn outcome(&self) -> Option<&str> {
        self.header(weft_proto::names::headers::OUTCOME)
    }

    /// Which application answered: the `x-served-by` header.
    pub fn served_by(&self) -> Option<&str> {
        self.header(crate::app::SERVED_BY)
    }
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub struct Http1 {
    send: http1::SendRequest<Full<Bytes>>,
}

/// One HTTP/2 connection with prior knowledge. Cheap to clone: clones share the connection.
#[derive(Clone, Debug)]
pub struct Http2 {
    send: http2::SendRequest<Full<Bytes>>,
}

impl Http1 {
    /// Connects.
    pub async fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = pod.connect(to).await?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { send })
    }

    /// Sends the request when the connection is free and reads the whole answer.
    pub async fn request(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        self.send.ready().await?;
        let response = self.send.send_request(request).await?;
        read(response).await
    }

    /// Whether the connection has been closed.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }
}

impl Http2 {
    /// Connects.
    pub async fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = pod.connect(to).await?;
        let (send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { send })
    }

    /// Sends the request and reads the whole answer.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let mut send = self.send.clone();
        send.ready().await?;
        let response = send.send_request(request).await?;
        read(response).await
    }

    /// Whether the connection has been closed.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }
}

impl Pod {
    /// GETs over a new HTTP/1.1 connection. `target` is an absolute path.
    pub async fn get(&self, to: SocketAddr, target: &str) -> anyhow::Result<Answer> {
        self.send(to, Method::GET, target, Bytes::new()).await
    }

    /// POSTs over a new HTTP/1.1 connection.
    pub async fn post(
        &self,
        to: SocketAddr,
        target: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        self.send(to, Method::POST, target, body.into()).await
    }

    /// GETs from a listener on the pod's own loopback, such as the sidecar's admin port.
    pub async fn get_local(&self, port: u16, target: &str) -> anyhow::Result<Answer> {
        self.get((Ipv4Addr::LOCALHOST, port).into(), target).await
    }

    /// GETs from the admin listener on the pod's own loopback, with a token where there is one.
    pub async fn get_admin(&self, target: &str, token: Option<&str>) -> anyhow::Result<Answer> {
        let to = (Ipv4Addr::LOCALHOST, weft_proto::names::ports::ADMIN).into();
        self.send_as(to, Method::GET, target, token, Bytes::new())
            .await
    }

    /// One request over a new HTTP/1.1 connection, within [`PATIENCE`].
    pub async fn send(
        &self,
        to: SocketAddr,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.send_as(to, method, target, None, body).await
    }

    /// [`Self::send`] with a bearer token, where there is one.
    pub async fn send_as(
        &self,
        to: SocketAddr,
        method: Method,
        target: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(target)
            .header(http::header::HOST, to.to_string());
        if let Some(token) = token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let mut connection = Http1::connect(self, to).await?;
            connection.request(request).await
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PATIENCE:?}")))
            .with_context(|| format!("{method} http://{to}{target} from pod {}", self.name()))
    }

    /// A client of the echo service over one HTTP/2 connection. `authority` as in a URL.
    pub async fn echo_client(
        &self,
        to: SocketAddr,
        authority: &str,
    ) -> anyhow::Result<EchoClient<GrpcConnection>> {
        let connection = GrpcConnection::connect(self, to).await?;
        let origin = format!("http://{authority}").parse()?;
        Ok(EchoClient::with_origin(connection, origin))
    }
}

/// One HTTP/2 connection, as tonic's clients take it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GrpcConnection {
    send: http2::SendRequest<tonic::body::Body>,
}

impl GrpcConnection {
    /// Connects.
    pub async fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = pod.connect(to).await?;
        let (send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { send })
    }
}

impl tower_service::Service<Request<tonic::body::Body>> for GrpcConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}

async fn read(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}
