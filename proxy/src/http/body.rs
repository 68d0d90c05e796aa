//! The body types of both directions.
//!
//! Each is one enum, so that no body is boxed on the way, and each forwards `is_end_stream` and
//! `size_hint`: hyper reads from them whether a message needs a body at all, keeps its
//! content-length and ends its stream with the last frame.
//!
//! A [`BodyError`] carries the reset reason of the other side in its source chain, where hyper
//! looks for it: a stream that was reset with a code upstream is reset with that code downstream,
//! and the other way round.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::replay::{ReplayBody, WholeBody};

pub use upstream::{Ending, ExchangeEnd, ExchangeObserver, Progress, UpstreamBody};

mod upstream;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection or stream that it came over broke.
    #[error("the peer broke off: {0}")]
    Peer(#[source] hyper::Error),
    /// The exchange's whole time is over.
    #[error("the deadline passed")]
    Deadline(#[source] h2::Error),
    /// Nothing moved for too long.
    #[error("nothing moved for too long")]
    Idle(#[source] h2::Error),
    /// Its caller may not have it any more.
    #[error("authorization was revoked")]
    Revoked(#[source] h2::Error),
    /// A later try reads this body now.
    #[error("another try took over")]
    Superseded(#[source] h2::Error),
    /// The HTTP/2 stream was reset before its end, without an error.
    #[error("the peer ended the stream before its end")]
    Cut(#[source] h2::Error),
    /// A source that is not a connection failed.
    #[error("{0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BodyError {
    pub(super) fn deadline() -> Self {
        Self::Deadline(h2::Reason::CANCEL.into())
    }

    pub(super) fn revoked() -> Self {
        Self::Revoked(h2::Reason::CANCEL.into())
    }

    pub(super) fn idle() -> Self {
        Self::Idle(h2::Reason::CANCEL.into())
    }

    /// For a body of HTTP/2 that is over and did not end: hyper takes a reset with NO_ERROR for an end.
    /// Passing that on as one would make a part look like the whole.
    pub(in crate::http) fn cut() -> Self {
        Self::Cut(h2::Reason::NO_ERROR.into())
    }

    pub(super) fn superseded() -> Self {
        Self::Superseded(h2::Reason::CANCEL.into())
    }

    /// The HTTP/2 reset code in the source chain, where there is one.
    pub fn reset_reason(&self) -> Option<h2::Reason> {
        reset_reason(self)
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        Self::Peer(error)
    }
}

impl From<std::convert::Infallible> for BodyError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// The HTTP/2 error in a source chain.
pub fn h2_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e h2::Error> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<h2::Error>())
}

/// The HTTP/2 reset code in a source chain.
pub fn reset_reason(error: &(dyn std::error::Error + 'static)) -> Option<h2::Reason> {
    h2_error(error).and_then(h2::Error::reason)
}

/// What goes upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// As it comes from downstream.
    Incoming(Incoming),
    /// As it comes from downstream, kept for another try.
    Replay(ReplayBody),
    /// In one piece.
    Full(Option<Bytes>),
    /// A copy of another request's.
    Whole(WholeBody),
    /// None.
    Empty,
}

impl RequestBody {
    /// A body in one piece; none where there are no bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Self::Empty;
        }
        Self::Full(Some(bytes))
    }

    /// Of a body of HTTP/2 that is over: whether the client reset it before its end.
    pub(in crate::http) fn is_cut(&self) -> bool {
        match self {
            Self::Incoming(body) => !body.is_end_stream(),
            Self::Replay(body) => body.is_cut(),
            Self::Full(_) | Self::Whole(_) | Self::Empty => false,
        }
    }
}

impl From<Incoming> for RequestBody {
    fn from(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Incoming(incoming)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Replay(body) => Pin::new(body).poll_frame(cx),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
            Self::Full(bytes) => bytes.is_none(),
            Self::Whole(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
            Self::Full(bytes) => full_size(bytes.as_ref()),
            Self::Whole(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// What goes downstream.
#[derive(Debug)]
pub enum ResponseBody {
    /// As it comes from upstream.
    Upstream(UpstreamBody),
    /// In one piece.
    Full(Option<Bytes>),
    /// None.
    Empty,
}

impl ResponseBody {
    /// A body in one piece; none where there are no bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Self::Empty;
        }
        Self::Full(Some(bytes))
    }
}

impl From<UpstreamBody> for ResponseBody {
    fn from(body: UpstreamBody) -> Self {
        Self::Upstream(body)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body) => body.is_end_stream(),
            Self::Full(bytes) => bytes.is_none(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.size_hint(),
            Self::Full(bytes) => full_size(bytes.as_ref()),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

fn full_size(bytes: Option<&Bytes>) -> SizeHint {
    SizeHint::with_exact(bytes.map_or(0, |bytes| bytes.len() as u64))
}

#[cfg(test)]
mod tests;
