//! Clients that play the application, or another sidecar.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::soon;
use crate::outcome::Outcome;

/// A connection into a sidecar.
pub(crate) struct Link {
    pub(crate) tcp: TcpStream,
    /// Ends when the sidecar is done with the connection.
    pub(crate) served: JoinHandle<()>,
}

/// An HTTP client on one connection.
pub(crate) struct Http {
    sender: Sender,
    served: JoinHandle<()>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Link {
    pub(crate) async fn http1(self) -> Http {
        Http::over(self.tcp, false, self.served).await
    }

    pub(crate) async fn http2(self) -> Http {
        Http::over(self.tcp, true, self.served).await
    }
}

impl Http {
    pub(crate) async fn over<I>(io: I, http2: bool, served: JoinHandle<()>) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(io);
        let sender = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Self { sender, served }
    }

    /// Sends a request and reads its whole response.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        soon(self.try_send(request)).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, hyper::Error> {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], "")).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::POST, path, &[], body)).await
    }

    /// A gRPC call (over HTTP/2).
    pub(crate) async fn grpc(&mut self, path: &str) -> Answer {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let body = &b"\0\0\0\0\0"[..];
        self.send(request(
            Method::POST,
            &format!("http://api{path}"),
            &headers,
            body,
        ))
        .await
    }

    /// Leaves, and waits until the sidecar is done: then everything is counted.
    pub(crate) async fn leave(self) {
        drop(self.sender);
        soon(self.served).await.unwrap();
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that a sidecar made this answer.
    #[track_caller]
    pub(crate) fn assert_made_by(&self, origin: &str, outcome: Outcome) {
        assert_eq!(
            self.header("x-weft-outcome"),
            Some(outcome.as_str()),
            "{self:?}"
        );
        assert_eq!(self.header("x-weft-origin"), Some(origin));
        if self.header("grpc-status").is_some() {
            assert_eq!(self.status, StatusCode::OK);
            let code = outcome.grpc_code().to_string();
            assert_eq!(self.header("grpc-status"), Some(&*code));
            assert!(self.body.is_empty() && self.trailers.is_empty());
            let message = self.header("grpc-message").unwrap();
            assert!(message.contains(outcome.as_str()), "{message}");
        } else {
            assert_eq!(self.status, outcome.http_status());
            let text = String::from_utf8_lossy(&self.body);
            assert!(text.contains(outcome.as_str()), "{text}");
        }
    }

    /// Asserts that the application made this answer.
    #[track_caller]
    pub(crate) fn assert_ok(&self, body: &str) {
        assert_eq!(
            (self.status, &*self.body),
            (StatusCode::OK, body.as_bytes()),
            "{self:?}"
        );
        assert_eq!(self.header("x-weft-outcome"), None);
    }
}

pub(crate) fn request(
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    if target.starts_with('/') {
        request = request.header("host", "api");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}
