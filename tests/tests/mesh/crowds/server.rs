//! A server of the tests' own, on a thread of its own: long answers that differ in every block, over
//! HTTP/1, HTTP/2 and as bytes, and a judge of long requests. It counts what it has handed out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weft_sandbox::Pod;

/// No two blocks of this length are alike.
const BLOCK: usize = 16 * 1024;

/// Streams that it takes on one connection.
const STREAMS: u32 = 2_000;

/// What the server has seen and handed out.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests, and connections of bytes.
    pub(super) begun: AtomicU64,
    /// Answers of which every byte was handed out, and requests of which every byte was right.
    pub(super) done: AtomicU64,
    /// Bytes handed out.
    pub(super) bytes: AtomicU64,
}

impl Counts {
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Serves in a pod, for as long as the process lives: HTTP on one port (`GET /LENGTH/SEED`,
/// `POST /LENGTH/SEED`), and on the other bytes, where the client says `LENGTH` and `SEED` in eight
/// bytes each.
pub(super) async fn start(pod: &Pod, http: u16, bytes: u16) -> anyhow::Result<Arc<Counts>> {
    let counts = Arc::new(Counts::default());
    let (told, ready) = tokio::sync::oneshot::channel();
    let (in_pod, counted) = (pod.clone(), Arc::clone(&counts));
    drop(pod.spawn_runtime(move || async move {
        let listen = |port| in_pod.listen(SocketAddr::new(in_pod.v4().into(), port));
        let both = listen(http).and_then(|http| Ok((http, listen(bytes)?)));
        let (http, bytes) = match both {
            Ok(both) => both,
            Err(error) => {
                let _ = told.send(Err(error));
                return;
            }
        };
        let _ = told.send(Ok(()));
        let for_bytes = accept(bytes, |stream| {
            let counts = Arc::clone(&counted);
            async move {
                // What broke is the client's to tell.
                let _ = serve_bytes(stream, &counts).await;
            }
        });
        let for_http = accept(http, |stream| serve_http(stream, Arc::clone(&counted)));
        tokio::join!(for_bytes, for_http);
    }));
    ready.await.context("the server's thread")??;
    Ok(counts)
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream));
    }
}

async fn serve_bytes(mut stream: TcpStream, counts: &Counts) -> anyhow::Result<()> {
    let (length, seed) = (stream.read_u64().await?, stream.read_u64().await?);
    counts.begun.fetch_add(1, Ordering::Relaxed);
    let mut pattern = Pattern::new(length, seed);
    while let Some(part) = pattern.next_block() {
        stream.write_all(&part).await?;
        counts.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    counts.done.fetch_add(1, Ordering::Relaxed);
    stream.shutdown().await?;
    Ok(())
}

async fn serve_http(stream: TcpStream, counts: Arc<Counts>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&counts)));
    let mut server = auto::Builder::new(TokioExecutor::new());
    // A sidecar makes four connections at most: what finds no stream on them would wait.
    server.http2().max_concurrent_streams(STREAMS);
    // What broke is the client's to tell.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    counts: Arc<Counts>,
) -> Result<Response<Either<Long, Full<Bytes>>>, Infallible> {
    counts.begun.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    let mut numbers = path.split('/').skip(1).map_while(|part| part.parse().ok());
    let (Some(length), Some(seed)) = (numbers.next(), numbers.next()) else {
        let mut refused = Response::new(Either::Right(Full::default()));
        *refused.status_mut() = StatusCode::NOT_FOUND;
        return Ok(refused);
    };
    if request.method() == http::Method::GET {
        let pattern = Pattern::new(length, seed);
        return Ok(Response::new(Either::Left(Long { pattern, counts })));
    }
    let mut judge = Judge::new(length, seed);
    let mut body = request.into_body();
    let mut verdict = "broken";
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref()
            && judge.take(data).is_err()
        {
            verdict = "wrong";
            break;
        }
    }
    if judge.is_done() {
        counts.done.fetch_add(1, Ordering::Relaxed);
        verdict = "right";
    }
    Ok(Response::new(Either::Right(Full::from(verdict))))
}

/// A long answer.
struct Long {
    pattern: Pattern,
    counts: Arc<Counts>,
}

impl Body for Long {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(block) = self.pattern.next_block() else {
            return Poll::Ready(None);
        };
        self.counts
            .bytes
            .fetch_add(block.len() as u64, Ordering::Relaxed);
        if self.pattern.left == 0 {
            self.counts.done.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(Frame::data(block))))
    }

    fn is_end_stream(&self) -> bool {
        self.pattern.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.pattern.left)
    }
}

/// Bytes of which no two blocks are alike, by a seed.
pub(super) struct Pattern {
    block: BytesMut,
    index: u64,
    seed: u64,
    left: u64,
}

impl Pattern {
    pub(super) fn new(length: u64, seed: u64) -> Self {
        let mut block = BytesMut::zeroed(BLOCK);
        fastrand::Rng::with_seed(7).fill(&mut block);
        Self {
            block,
            index: 0,
            seed,
            left: length,
        }
    }

    /// The next block, the last one shorter; none at the end.
    pub(super) fn next_block(&mut self) -> Option<Bytes> {
        let length = self.left.min(BLOCK as u64);
        if length == 0 {
            return None;
        }
        let stamp = [self.seed.to_be_bytes(), self.index.to_be_bytes()].concat();
        self.block[..stamp.len()].copy_from_slice(&stamp);
        self.index += 1;
        self.left -= length;
        Some(Bytes::copy_from_slice(&self.block[..length as usize]))
    }
}

/// Compares with a [`Pattern`] what comes in any pieces.
pub(super) struct Judge {
    pattern: Pattern,
    expected: Bytes,
}

impl Judge {
    pub(super) fn new(length: u64, seed: u64) -> Self {
        Self {
            pattern: Pattern::new(length, seed),
            expected: Bytes::new(),
        }
    }

    /// An error where these are not the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.expected.is_empty() {
                let next = self.pattern.next_block();
                self.expected = next.context("more bytes than there are")?;
            }
            let (these, rest) = bytes.split_at(bytes.len().min(self.expected.len()));
            let expected = self.expected.split_to(these.len());
            anyhow::ensure!(
                expected == these,
                "wrong bytes in block {}",
                self.pattern.index
            );
            bytes = rest;
        }
        Ok(())
    }

    /// Whether all were taken.
    pub(super) fn is_done(&self) -> bool {
        self.expected.is_empty() && self.pattern.left == 0
    }
}
