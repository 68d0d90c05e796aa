//! The response body as it comes from upstream, with everything that hangs on its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::BodyError;
use crate::http::client::{Lease, LineBody};
use crate::http::cuts::Cuttable;
use crate::http::deadline::Alarm;
use crate::outcome::Outcome;
use crate::resilience::deadline::Deadline;

/// How a response body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its last byte, or its trailers.
    Complete,
    /// Broken off from upstream (`reset`), or by a limit of ours (`request_timeout`,
    /// `idle_timeout`).
    Failed(Outcome),
    /// Nobody wanted the rest: the client went away.
    Dropped,
}

/// What there is to say when a response body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeEnd {
    /// How it ended.
    pub ending: Ending,
    /// `grpc-status` of the trailers. Of a trailers-only response it is in the head, not here.
    pub grpc_status: Option<u16>,
    /// Bytes of body that went downstream.
    pub bytes: u64,
}

/// Is told the end of a response body, exactly once. What it holds (permits, timers) is released
/// with it.
pub trait ExchangeObserver: Send {
    /// The body has ended.
    fn ended(self: Box<Self>, end: ExchangeEnd);
}

impl<F: FnOnce(ExchangeEnd) + Send> ExchangeObserver for F {
    fn ended(self: Box<Self>, end: ExchangeEnd) {
        (*self)(end);
    }
}

/// When a byte of an exchange last moved, either way. Shared by its request and response bodies.
#[derive(Debug)]
pub struct Progress {
    base: Instant,
    /// Milliseconds since `base`.
    last: AtomicU64,
}

impl Progress {
    /// Begins now.
    pub fn new() -> Self {
        Self {
            base: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Something moved.
    pub fn touch(&self) {
        let millis = self.base.elapsed().as_millis();
        self.last.store(millis as u64, Ordering::Relaxed);
    }

    /// When something last moved, to the millisecond.
    pub fn last(&self) -> Instant {
        self.base + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// Who reads a body.
enum Received {
    /// The HTTP library.
    Library(Incoming),
    /// The exchange, from its HTTP/1 connection.
    Line(LineBody),
}

impl Received {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Library(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Line(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Library(body) => body.is_end_stream(),
            Self::Line(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Library(body) => body.size_hint(),
            Self::Line(body) => body.size_hint(),
        }
    }

    fn give_back(&mut self) {
        if let Self::Line(body) = self {
            body.give_back();
        }
    }

    fn abandon(&mut self) {
        if let Self::Line(body) = self {
            body.abandon();
        }
    }
}

/// The response body as it comes from upstream. When it has ended its connection goes back to the
/// pool and its observer is told.
pub struct UpstreamBody {
    inner: Received,
    /// A frame that was read before its turn.
    ahead: Option<Box<Result<Frame<Bytes>, BodyError>>>,
    lease: Lease,
    http2: bool,
    observer: Option<Box<dyn ExchangeObserver>>,
    progress: Option<Arc<Progress>>,
    deadline: Deadline,
    idle: Option<Duration>,
    last_frame: Option<Instant>,
    alarm: Alarm,
    bytes: u64,
    grpc_status: Option<u16>,
    ended: bool,
    /// Who may end it, and the outcome then.
    cut: Option<(Cuttable, Outcome)>,
}

impl UpstreamBody {
    pub(in crate::http) fn new(
        inner: Incoming,
        lease: Lease,
        progress: Option<Arc<Progress>>,
    ) -> Self {
        Self::received(Received::Library(inner), lease, progress)
    }

    /// One that its exchange reads.
    pub(in crate::http) fn of_line(inner: LineBody, progress: Option<Arc<Progress>>) -> Self {
        Self::received(Received::Line(inner), Lease::None, progress)
    }

    fn received(inner: Received, lease: Lease, progress: Option<Arc<Progress>>) -> Self {
        let mut body = Self {
            inner,
            ahead: None,
            http2: matches!(lease, Lease::H2(_)),
            lease,
            observer: None,
            progress,
            deadline: Deadline::NONE,
            idle: None,
            last_frame: None,
            alarm: Alarm::default(),
            bytes: 0,
            grpc_status: None,
            ended: false,
            cut: None,
        };
        if body.inner.is_end_stream() {
            body.inner.give_back();
            body.lease.give_back();
        }
        body
    }

    /// Tells `observer` when the body has ended. A body has one observer: an earlier one is dropped
    /// untold.
    pub fn observe(&mut self, observer: impl ExchangeObserver + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// Ends the body with an error at `deadline`, or when nothing has moved for `idle`: neither a
    /// frame of this body nor, where [`Progress`] is shared, one of the request's.
    ///
    /// Time is only looked at while this body waits for its peer. While the client reads nothing,
    /// that is the server's connection to notice.
    pub fn limit(&mut self, deadline: Deadline, idle: Option<Duration>) {
        self.deadline = deadline;
        self.idle = idle;
        self.last_frame = idle.map(|_| Instant::now());
    }

    /// Ends the body with an error, and its exchange with `outcome`, when the exchange is cut.
    pub fn end_when_cut(&mut self, exchange: Cuttable, outcome: Outcome) {
        self.cut = Some((exchange, outcome));
    }

    /// Waits for the first frame, which still comes in its turn: the trailers, where they are all that
    /// comes. To be called before the body is read.
    pub async fn trailers_ahead(&mut self) -> Option<&HeaderMap> {
        if self.ahead.is_none() && !self.inner.is_end_stream() {
            let ahead = poll_fn(|cx| self.inner.poll_frame(cx)).await;
            self.ahead = ahead.map(Box::new);
        }
        let frame = self.ahead.as_ref()?.as_ref().as_ref().ok()?;
        frame.trailers_ref()
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<(BodyError, Outcome)> {
        let moved = self.progress.as_ref().map(|progress| progress.last());
        let idle = moved.max(self.last_frame).map_or(Deadline::NONE, |last| {
            Deadline::after(last.into_std(), self.idle)
        });
        let first = self.deadline.min(idle);
        let Some(at) = first.instant() else {
            return Poll::Pending;
        };
        if self.alarm.poll_at(cx, Instant::from_std(at)).is_pending() {
            return Poll::Pending;
        }
        if self.deadline == first {
            return Poll::Ready((BodyError::deadline(), Outcome::RequestTimeout));
        }
        Poll::Ready((BodyError::idle(), Outcome::IdleTimeout))
    }

    fn moved(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_ref() {
            self.grpc_status = grpc_status(trailers);
        }
        if self.idle.is_some() {
            self.last_frame = Some(Instant::now());
        }
        self.alarm.disarm();
    }

    fn finish(&mut self, ending: Ending) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.cut = None;
        self.alarm.disarm();
        if ending == Ending::Complete {
            self.inner.give_back();
            self.lease.give_back();
        } else {
            self.inner.abandon();
            self.lease.abandon();
        }
        if let Some(observer) = self.observer.take() {
            observer.ended(ExchangeEnd {
                ending,
                grpc_status: self.grpc_status,
                bytes: self.bytes,
            });
        }
    }
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamBody")
            .field("bytes", &self.bytes)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some((exchange, outcome)) = &this.cut
            && exchange.poll_cut(cx).is_ready()
        {
            let outcome = *outcome;
            this.finish(Ending::Failed(outcome));
            return Poll::Ready(Some(Err(BodyError::revoked())));
        }
        let polled = match this.ahead.take() {
            Some(ahead) => Poll::Ready(Some(*ahead)),
            None => this.inner.poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.moved(&frame);
                // hyper does not ask again after the last frame: this is the end.
                if frame.is_trailers() || this.inner.is_end_stream() {
                    this.finish(Ending::Complete);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.finish(Ending::Failed(Outcome::Reset));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) if this.http2 && !this.inner.is_end_stream() => {
                this.finish(Ending::Failed(Outcome::Reset));
                Poll::Ready(Some(Err(BodyError::cut())))
            }
            Poll::Ready(None) => {
                this.finish(Ending::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_limits(cx) {
                Poll::Ready((error, outcome)) => {
                    this.finish(Ending::Failed(outcome));
                    Poll::Ready(Some(Err(error)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.ahead.is_none() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended {
            return SizeHint::with_exact(0);
        }
        let mut hint = self.inner.size_hint();
        if let Some(Ok(ahead)) = self.ahead.as_deref()
            && let Some(data) = ahead.data_ref()
        {
            let (lower, more) = (hint.lower(), data.len() as u64);
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + more);
            }
            hint.set_lower(lower + more);
        }
        hint
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        let ending = if self.inner.is_end_stream() {
            Ending::Complete
        } else {
            Ending::Dropped
        };
        self.finish(ending);
    }
}

fn grpc_status(trailers: &HeaderMap) -> Option<u16> {
    trailers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
