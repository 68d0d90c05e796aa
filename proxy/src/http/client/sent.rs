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
}

impl SentBody {
    pub(super) fn new(inner: RequestBody, progress: Option<Arc<Progress>>) -> Self {
        Self { inner, progress }
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
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
