//! Both ends of a connection in one process, for this room's tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::Version;
use super::answer::answer;
use super::body::{RequestBody, ResponseBody, UpstreamBody};
use super::client::{BoxFuture, Connect, H1Pool, H2Pool, PoolOptions};
use super::floods::FloodBounds;
use super::server::{Excess, Handler, ServerOptions, serve};
use crate::net::closing::{self, Closing, ClosingSender};
use crate::outcome::{Failure, Origin, Outcome};

/// Bytes under way in one direction.
const PIPE: usize = 64 * 1024;

/// Hands the far end of each connection to the test.
pub(super) struct Pipes {
    accept: mpsc::UnboundedSender<DuplexStream>,
    made: Arc<AtomicUsize>,
    proof: bool,
    floods: FloodBounds,
}

/// The far ends.
pub(super) struct Accepted {
    pub(super) streams: mpsc::UnboundedReceiver<DuplexStream>,
    made: Arc<AtomicUsize>,
}

/// A connector and where its connections arrive. `proof`: the peer keeps the contract.
pub(super) fn pipes(proof: bool) -> (Pipes, Accepted) {
    let (accept, streams) = mpsc::unbounded_channel();
    let made = Arc::new(AtomicUsize::new(0));
    let pipes = Pipes {
        accept,
        made: Arc::clone(&made),
        proof,
        floods: FloodBounds::default(),
    };
    (pipes, Accepted { streams, made })
}

impl Accepted {
    pub(super) async fn next(&mut self) -> Peer {
        Peer(self.streams.recv().await.expect("the pool is there"))
    }

    pub(super) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Counts also once this is given away.
    pub(super) fn made_counter(&self) -> impl Fn() -> usize + use<> {
        let made = Arc::clone(&self.made);
        move || made.load(Ordering::Relaxed)
    }

    /// Serves all connections that come.
    pub(super) fn serve<H: Handler>(mut self, version: Version, handler: Arc<H>) -> ClosingSender {
        let (sender, closing) = closing::channel();
        tokio::spawn(async move {
            while let Some(stream) = self.streams.recv().await {
                let options = ServerOptions::default();
                let (handler, closing) = (Arc::clone(&handler), closing.clone());
                tokio::spawn(serve(stream, version, handler, closing, options));
            }
        });
        sender
    }
}

impl Connect for Pipes {
    type Io = DuplexStream;

    fn connect(&self) -> BoxFuture<Result<DuplexStream, Failure>> {
        let (near, far) = duplex(PIPE);
        self.made.fetch_add(1, Ordering::Relaxed);
        let sent = self.accept.send(far);
        Box::pin(async move {
            sent.map_err(|_| Failure::never(Outcome::ConnectRefused, "nobody listens"))?;
            Ok(near)
        })
    }

    fn clean_close_is_proof(&self) -> bool {
        self.proof
    }

    fn floods(&self) -> FloodBounds {
        self.floods.clone()
    }
}

/// The far end of a connection, played by hand.
pub(super) struct Peer(pub(super) DuplexStream);

impl Peer {
    /// Reads until `end` has come.
    pub(super) async fn read_until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        let mut byte = [0];
        while !all.ends_with(end.as_bytes()) {
            let read = self.0.read(&mut byte).await.expect("a pipe does not fail");
            assert_eq!(read, 1, "ended after {:?}", String::from_utf8_lossy(&all));
            all.push(byte[0]);
        }
        String::from_utf8(all).expect("ASCII")
    }

    pub(super) async fn read_head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    pub(super) async fn write(&mut self, bytes: &str) {
        self.0
            .write_all(bytes.as_bytes())
            .await
            .expect("an open pipe");
    }

    /// Whether the other side has ended cleanly, within `time`.
    pub(super) async fn ends_within(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(time, self.0.read(&mut byte)).await;
        matches!(read, Ok(Ok(0)))
    }
}

/// A handler made of a function.
pub(super) struct Answers<F>(pub(super) F);

impl<F, R> Handler for Answers<F>
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        Box::pin((self.0)(request))
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        Box::pin(std::future::ready(answer(&failure, Origin::Inbound, false)))
    }

    fn turn_away(
        self: &Arc<Self>,
        _: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        self.refuse(excess.failure(Outcome::Shed))
    }
}

pub(super) fn answers<F, R>(answer: F) -> Arc<Answers<F>>
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    Arc::new(Answers(answer))
}

pub(super) fn h1(proof: bool, options: PoolOptions) -> (H1Pool<Pipes>, Accepted) {
    let (pipes, accepted) = pipes(proof);
    (H1Pool::new(pipes, options), accepted)
}

pub(super) fn h2(options: PoolOptions) -> (H2Pool<Pipes>, Accepted) {
    let (pipes, accepted) = pipes(true);
    (H2Pool::new(pipes, options), accepted)
}

/// With what is borne of the far ends.
pub(super) fn h2_bounded(floods: FloodBounds) -> (H2Pool<Pipes>, Accepted) {
    let (pipes, accepted) = pipes(true);
    let pipes = Pipes { floods, ..pipes };
    (H2Pool::new(pipes, PoolOptions::MESH), accepted)
}

pub(super) fn request(method: &str, uri: &str, body: RequestBody) -> Request<RequestBody> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "peer")
        .body(body)
        .expect("a valid request")
}

pub(super) fn get(uri: &str) -> Request<RequestBody> {
    request("GET", uri, RequestBody::Empty)
}

pub(super) async fn whole(response: Response<UpstreamBody>) -> Bytes {
    let body = response.into_body().collect().await;
    body.expect("a whole body").to_bytes()
}

/// Serves `stream` and tells when it is done.
pub(super) fn serve_one<H: Handler>(
    version: Version,
    handler: Arc<H>,
    options: ServerOptions,
) -> (Peer, ClosingSender, tokio::task::JoinHandle<()>) {
    let (near, far) = duplex(PIPE);
    let (sender, closing): (ClosingSender, Closing) = closing::channel();
    let task = tokio::spawn(serve(far, version, handler, closing, options));
    (Peer(near), sender, task)
}
