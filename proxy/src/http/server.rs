//! One downstream connection.
use std::sync::Arc;
use std::time::Duration;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use super::Version;
use super::body::ResponseBody;
use super::client::BoxFuture;
use crate::net::closing::Closing;

/// Answers requests. Whatever goes wrong becomes a response here: a connection has no other way to
/// say it.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Dropped when the client gives it up.
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>>;
}

/// Times of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Without an exchange, the connection is closed after this.
    pub idle_limit: Duration,
    /// In phase Draining, how long an idle HTTP/1 connection still waits for a request that is on
    /// its way.
    pub linger: Duration,
    /// In phase Announcing, HTTP/2 peers get their GOAWAY and HTTP/1 responses say
    /// `connection: close`.
    pub announce: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_limit: Duration::from_secs(3_600),
            linger: Duration::from_secs(1),
            announce: true,
        }
    }
}

/// Serves one connection until it ends.
pub async fn serve<I, H>(io: I, version: Version, handler: Arc<H>, closing: Closing, options: ServerOptions)
where I: AsyncRead + AsyncWrite + Unpin + Send + 'static, H: Handler,
{ todo!() }
