//! A request body on its way to a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http::body::{BodyError, Progress, RequestBody};

/// A request body on its way to a connection; tells each frame to the exchange's progress.
#[derive(Debug)]
pub(super) struct SentBody {
    inner: RequestBody,
    progress: Option<Arc<Progress>>,
    http2: bool,
}

impl SentBody {
    pub(super) fn new(inner: RequestBody, progress: Option<Arc<Progress>>) -> Self {
        Self {
            inner,
            progress,
            http2: false,
        }
    }

    /// One that came over HTTP/2, as it goes.
    pub(super) fn of_http2(inner: RequestBody, progress: Option<Arc<Progress>>) -> Self {
        Self {
            http2: true,
            ..Self::new(inner, progress)
        }
    }

    pub(super) fn into_inner(self) -> RequestBody {
        self.inner
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(_))), Some(progress)) = (&polled, &this.progress) {
            progress.touch();
        }
        if matches!(polled, Poll::Ready(None)) && this.http2 && this.inner.is_cut() {
            return Poll::Ready(Some(Err(BodyError::cut())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
