//! HTTP requests: counted, scripted, answered.

use std::io;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service as _;
use weft_proto::names::headers::MIRROR;

use super::behavior::{Failure, Fate};
use super::call;
use super::echo::echo_server::{EchoServer, SERVICE_NAME};
use super::grpc::Echo;
use super::keep_alive::{Busy, Life};
use super::server::Shared;
use super::stats::Hasher;
use super::{ID, SERVED_BY, VERSION};

/// Bytes that `bytes=` may ask for.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// Pieces that `chunks=` may ask for.
const MAX_CHUNKS: usize = 100_000;
/// Length of the pieces of a long answer.
const PIECE: usize = 16 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// The JSON answer: who answered, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Name of the application.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The request's method.
    pub method: String,
    /// Its path and query.
    pub target: String,
    /// Its host or authority.
    pub authority: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// Its headers, in order; what is no UTF-8 is replaced.
    pub headers: Vec<(String, String)>,
    /// Length of its body.
    pub body_length: u64,
    /// [`super::body_hash`] of its body.
    pub body_hash: String,
}

/// What one request asks for itself, in its query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Script {
    status: Option<u16>,
    delay_ms: u64,
    bytes: Option<usize>,
    chunks: Option<usize>,
    every_ms: u64,
}

/// The request's connection ends without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("told not to answer")]
    Broken,
    /// What the stream is reset with stands in the source.
    #[error("told to refuse")]
    Refused(#[source] h2::Error),
}

/// Answers one request.
pub(super) async fn handle(
    app: Arc<Shared>,
    io: IoHandle,
    life: Arc<Life>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Unanswered> {
    let mut counted = Counted::begin(Arc::clone(&app), &life, &request);
    let version = request.version();
    let (fate, failure) = {
        let mut behavior = app.behavior.lock();
        let fate = behavior.fate(|| fastrand::f64() * 100.0);
        (fate, behavior.failure.clone())
    };
    let is_grpc = request
        .uri()
        .path()
        .strip_prefix('/')
        .is_some_and(|path| path.starts_with(SERVICE_NAME));
    let (status, after) = match fate {
        Fate::Answer { status, after } => (status, after),
        Fate::Refuse => {
            counted.complete = true;
            return Err(Unanswered::Refused(h2::Reason::REFUSED_STREAM.into()));
        }
        Fate::Close | Fate::Reset | Fate::Hang => {
            counted.read_body(request.into_body()).await;
            match fate {
                Fate::Reset => io.reset(),
                Fate::Hang => std::future::pending().await,
                _ => {}
            }
            counted.complete = true;
            return Err(Unanswered::Broken);
        }
    };
    let wants_body = request.method() != Method::HEAD;
    let mut response = if is_grpc {
        wait(after).await;
        answer_grpc(&app, status, &failure, request).await
    } else if request.uri().path() == "/echo" {
        wait(after).await;
        answer_echo(&app, status, request)
    } else {
        answer_seen(&app, &mut counted, status, after, request).await
    };
    let headers = response.headers_mut();
    // Names come from the command line: what no header can carry is left out.
    if let (Ok(name), Ok(version)) = (app.name.parse(), app.version.parse()) {
        headers.insert(SERVED_BY, name);
        headers.insert(VERSION, version);
    }
    if version < Version::HTTP_2 {
        if app.finish.is_cancelled() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if let Some(announced) = app.keep_alive.filter(|it| it.announced) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            let seconds = announced.limit.as_secs();
            if let Ok(value) = format!("timeout={seconds}").parse() {
                headers.insert(KEEP_ALIVE, value);
            }
        }
    }
    if status != 200 && !is_grpc {
        add(headers, &failure.headers);
    }
    counted.status = response.status().as_u16();
    counted.complete = !wants_body;
    Ok(response.map(|body| CountedBody { body, counted }.boxed_unsync()))
}

async fn answer_grpc(
    app: &Arc<Shared>,
    status: u16,
    failure: &Failure,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    if status != 200 {
        let code = tonic::Code::from(failure.grpc_code);
        let answer = tonic::Status::new(code, format!("told to fail with {status}"));
        let mut response = answer.into_http();
        add(response.headers_mut(), &failure.headers);
        if failure.in_trailers {
            let mut trailers = std::mem::take(response.headers_mut());
            if let Some(kind) = trailers.remove(header::CONTENT_TYPE) {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            let frame = futures_util::stream::iter([Ok(Frame::trailers(trailers))]);
            return response.map(|_: AnswerBody| StreamBody::new(frame).boxed_unsync());
        }
        return response;
    }
    let mut service = EchoServer::new(Echo::new(Arc::clone(app)));
    match service.call(request).await {
        Ok(response) => response.map(|body| body.map_err(BoxError::from).boxed_unsync()),
        Err(never) => match never {},
    }
}

fn answer_echo(app: &Arc<Shared>, status: u16, request: Request<Incoming>) -> Response<AnswerBody> {
    let app = Arc::clone(app);
    let (head, body) = request.into_parts();
    let body = HashedBody {
        body,
        hasher: Hasher::default(),
        app: Some(app),
    };
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        let kind = kind.clone();
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

/// Adds headers, but those that none can be.
fn add(headers: &mut HeaderMap, more: &[(String, String)]) {
    for (name, value) in more {
        if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// A sleep of no time would still last until the timer's next tick.
async fn wait(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

async fn answer_seen(
    app: &Shared,
    counted: &mut Counted,
    status: u16,
    after: Duration,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let (head, body) = request.into_parts();
    let (script, called) = call::split(head.uri.query().unwrap_or_default());
    let script = Script::of(script);
    let hasher = counted.read_body(body).await;
    wait(after + Duration::from_millis(script.delay_ms)).await;
    if let Some(target) = called {
        let answer = call::make(target, &head.headers).await;
        let (status, body) = answer.unwrap_or_else(|error| {
            let why = format!("calling {target}: {error:#}");
            (StatusCode::BAD_GATEWAY, why.into())
        });
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        return response;
    }
    let status = script.status.unwrap_or(status);
    let builder = Response::builder().status(StatusCode::from_u16(status).unwrap_or_default());
    let (kind, body) = match (script.chunks, script.bytes) {
        (Some(chunks), _) => ("text/plain", chunked(chunks, script.every_ms)),
        (None, Some(bytes)) => ("application/octet-stream", filled(bytes)),
        (None, None) => {
            let seen = Seen {
                name: app.name.clone(),
                version: app.version.clone(),
                method: head.method.to_string(),
                target: head
                    .uri
                    .path_and_query()
                    .map_or_else(String::new, |target| target.as_str().to_owned()),
                authority: authority(&head.uri, &head.headers),
                protocol: format!("{:?}", head.version),
                headers: head
                    .headers
                    .iter()
                    .map(|(name, value)| {
                        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                        (name.to_string(), value)
                    })
                    .collect(),
                body_length: hasher.length,
                body_hash: hasher.to_string(),
            };
            let json = serde_json::to_vec(&seen).expect("strings and numbers only");
            ("application/json", full(json))
        }
    };
    builder
        .header(header::CONTENT_TYPE, kind)
        .body(body)
        .expect("all parts are valid")
}

/// The authority that a request names; empty where it names none.
fn authority(uri: &Uri, headers: &HeaderMap) -> String {
    match (uri.authority(), headers.get(header::HOST)) {
        (Some(authority), _) => authority.to_string(),
        (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        (None, None) => String::new(),
    }
}

impl Script {
    /// Reads a query; what is not understood is ignored, because tests send queries of their own.
    fn of(query: &str) -> Self {
        let mut script = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "status" => script.status = value.parse().ok(),
                "delay_ms" => script.delay_ms = value.parse().unwrap_or(0),
                "bytes" => script.bytes = value.parse().ok().map(|n: usize| n.min(MAX_ANSWER)),
                "chunks" => script.chunks = value.parse().ok().map(|n: usize| n.min(MAX_CHUNKS)),
                "every_ms" => script.every_ms = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        script
    }
}

/// A request that is in the stats; leaves `in_flight` when dropped.
#[derive(Debug)]
struct Counted {
    app: Arc<Shared>,
    _busy: Busy,
    /// What it was answered with; 0 for nothing.
    status: u16,
    /// Nothing of its answer is missing any more.
    complete: bool,
}

impl Counted {
    fn begin(app: Arc<Shared>, life: &Arc<Life>, request: &Request<Incoming>) -> Self {
        let (busy, rested) = life.begin(request.version() == Version::HTTP_2);
        let route = format!("{} {}", request.method(), request.uri().path());
        let id = request
            .headers()
            .get(ID)
            .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        let headers = request.headers();
        let is_copy = headers.get(MIRROR).is_some_and(|it| it == "true");
        let copy_of = is_copy.then(|| authority(request.uri(), headers));
        {
            let mut stats = app.stats.lock();
            stats.began(route, id);
            if let Some(authority) = copy_of {
                stats.copied(authority);
            }
            if let Some(rested) = rested {
                stats.used_again(rested);
            }
        }
        Self {
            app,
            _busy: busy,
            status: 0,
            complete: false,
        }
    }

    /// Reads the body to its end, and counts it only then.
    async fn read_body(&self, mut body: Incoming) -> Hasher {
        let mut hasher = Hasher::default();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return hasher;
            };
            if let Some(data) = frame.data_ref() {
                hasher.update(data);
            }
        }
        self.app.stats.lock().body_ended(hasher);
        hasher
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cancelled = !self.complete;
        self.app.stats.lock().ended(self.status, cancelled);
    }
}

/// An answer's body, which keeps its request in flight.
struct CountedBody {
    body: AnswerBody,
    counted: Counted,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        // After trailers nobody asks again.
        let last = frame.as_ref().is_none_or(|frame| {
            frame.as_ref().is_ok_and(Frame::is_trailers) || self.body.is_end_stream()
        });
        self.counted.complete |= last;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        // Of an empty body not even the first frame is asked for.
        self.counted.complete |= self.body.is_end_stream();
    }
}

/// A request's body on its way back, hashed as it passes.
struct HashedBody {
    body: Incoming,
    hasher: Hasher,
    /// Taken when the end was counted.
    app: Option<Arc<Shared>>,
}

impl Body for HashedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.hasher.update(data);
                }
            }
            Some(Err(_)) => {}
            None => {
                let hasher = self.hasher;
                if let Some(app) = self.app.take() {
                    app.stats.lock().body_ended(hasher);
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }
}

fn full(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of `length` bytes, made piece by piece.
fn filled(length: usize) -> AnswerBody {
    let piece = Bytes::from(vec![b'w'; PIECE.min(length)]);
    let pieces = (0..length.div_ceil(PIECE)).map(move |index| {
        let rest = length - index * PIECE;
        Ok(Frame::data(piece.slice(..PIECE.min(rest))))
    });
    StreamBody::new(tokio_stream::iter(pieces)).boxed_unsync()
}

/// A body in numbered lines, one every `every_ms`.
fn chunked(chunks: usize, every_ms: u64) -> AnswerBody {
    let lines = futures_util::stream::unfold(0, move |index| async move {
        if index == chunks {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        let line = format!("chunk {index}\n");
        Some((Ok(Frame::data(Bytes::from(line))), index + 1))
    });
    StreamBody::new(lines).boxed_unsync()
}

/// A connection that can be reset instead of closed.
#[derive(Debug)]
pub(super) struct AbortableIo {
    stream: TcpStream,
    handle: IoHandle,
    app: Arc<Shared>,
}

/// Says how a connection is to end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct IoHandle(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    reset: AtomicBool,
    at_rest: AtomicBool,
}

impl IoHandle {
    /// The connection's end will be a reset.
    pub(super) fn reset(&self) {
        self.0.reset.store(true, Ordering::Relaxed);
    }

    /// The connection ends because it rests; a request that has come by then is counted, unread.
    pub(super) fn closes_at_rest(&self) {
        self.0.at_rest.store(true, Ordering::Relaxed);
    }

    fn is_reset(&self) -> bool {
        self.0.reset.load(Ordering::Relaxed)
    }
}

impl AbortableIo {
    pub(super) fn new(stream: TcpStream, app: Arc<Shared>) -> Self {
        Self {
            stream,
            handle: IoHandle::default(),
            app,
        }
    }

    pub(super) fn handle(&self) -> IoHandle {
        self.handle.clone()
    }
}

impl Drop for AbortableIo {
    fn drop(&mut self) {
        if self.handle.is_reset() {
            // A close that lingers for no time is a reset (socket(7)).
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        if self.handle.0.at_rest.load(Ordering::Relaxed) {
            let mut byte = [0_u8];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let unread = recv(&self.stream, &mut byte, flags);
            if unread.is_ok_and(|(length, _)| length > 0) {
                self.app.stats.lock().closed_over_requests += 1;
            }
        }
    }
}

impl AsyncRead for AbortableIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AbortableIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.handle.is_reset() {
            // A FIN before the reset would look like an orderly end.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
