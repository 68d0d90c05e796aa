//! The body of a response, read from its connection by whoever reads the body.
//!
//! Where the request's body has not ended when the response begins, a task of its own goes on with it:
//! a client may send all before it reads. Both then share the connection under a lock that is held for a
//! poll only; whoever ends last gives the connection back. A request that goes on when its response has
//! ended has [`UPLOAD_GRACE`]: nobody answers it any more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

use super::super::UPLOAD_GRACE;
use super::connection::{Connection, give_back};
use super::decode::Framing;
use super::line::Broken;
use crate::http::body::{BodyError, Progress, RequestBody};

/// The body of a response.
#[derive(Debug)]
pub(in crate::http) struct LineBody {
    source: Source,
    framing: Framing,
}

#[derive(Debug)]
enum Source {
    /// It has ended.
    None,
    /// The request has ended.
    Alone(Box<Connection>),
    /// The request goes on.
    Shared(Arc<Shared>),
}

impl LineBody {
    /// Of a response over `connection`, to a request that has ended.
    pub(super) fn new(connection: Box<Connection>, framing: Framing) -> Self {
        Self {
            source: Source::Alone(connection),
            framing,
        }
    }

    /// Of a response to a request that goes on.
    pub(super) fn beside(
        request: Request<RequestBody>,
        progress: Option<Arc<Progress>>,
        connection: Box<Connection>,
        framing: Framing,
    ) -> Self {
        let shared = Arc::new(Shared::new(connection));
        tokio::spawn(Arc::clone(&shared).upload(request, progress));
        Self {
            source: Source::Shared(shared),
            framing,
        }
    }

    /// Of a response without one, whose connection is somebody else's.
    pub(super) fn none() -> Self {
        Self {
            source: Source::None,
            framing: Framing::Length(0),
        }
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let framing = &mut self.framing;
        let polled = match &mut self.source {
            Source::None => return Poll::Ready(None),
            Source::Alone(connection) => connection.poll_body(cx, framing),
            Source::Shared(shared) => shared.poll_body(cx, framing),
        };
        polled.map(|frame| frame.map_err(peer).transpose())
    }

    pub(in crate::http) fn is_end_stream(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunked) => chunked.has_ended(),
            Framing::Close => false,
        }
    }

    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        match &self.framing {
            Framing::Length(left) => SizeHint::with_exact(*left),
            Framing::Chunked(chunked) if chunked.has_ended() => SizeHint::with_exact(0),
            Framing::Chunked(_) | Framing::Close => SizeHint::default(),
        }
    }

    /// The response has ended as it should.
    pub(in crate::http) fn give_back(&mut self) {
        match std::mem::replace(&mut self.source, Source::None) {
            Source::None => {}
            Source::Alone(connection) => give_back(connection),
            Source::Shared(shared) => shared.body_ended(Ended::Whole),
        }
    }

    /// The response will never end as it should.
    pub(in crate::http) fn abandon(&mut self) {
        if let Source::Shared(shared) = std::mem::replace(&mut self.source, Source::None) {
            shared.body_ended(Ended::GivenUp);
        }
    }
}

impl Drop for LineBody {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A connection over which a request and its response both go on.
#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Gone once either side has broken, or both have ended.
    connection: Option<Box<Connection>>,
    body: Option<Ended>,
    request_broke: Option<Broken>,
    uploading: Option<Waker>,
    reading: Option<Waker>,
}

/// How a response's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    GivenUp,
}

impl Shared {
    fn new(connection: Box<Connection>) -> Self {
        Self(Mutex::new(State {
            connection: Some(connection),
            body: None,
            request_broke: None,
            uploading: None,
            reading: None,
        }))
    }

    /// Goes on with the request, to its end or that of its connection.
    async fn upload(
        self: Arc<Self>,
        mut request: Request<RequestBody>,
        progress: Option<Arc<Progress>>,
    ) {
        let mut grace = None;
        std::future::poll_fn(|cx| {
            self.poll_upload(cx, &mut request, progress.as_ref(), &mut grace)
        })
        .await;
    }

    fn poll_upload(
        &self,
        cx: &mut Context<'_>,
        request: &mut Request<RequestBody>,
        progress: Option<&Arc<Progress>>,
        grace: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<()> {
        let mut state = self.0.lock();
        let body = state.body;
        // What is dropped here is dropped after the lock.
        let Some(connection) = state
            .connection
            .as_mut()
            .filter(|_| body != Some(Ended::GivenUp))
        else {
            let dropped = state.connection.take();
            drop(state);
            drop(dropped);
            return Poll::Ready(());
        };
        let given_back = match connection.poll_upload(cx, request, progress) {
            Poll::Ready(Ok(())) if body.is_none() => return Poll::Ready(()),
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(broken)) => {
                state.request_broke = Some(broken);
                false
            }
            Poll::Pending => {
                state.uploading = Some(cx.waker().clone());
                if body.is_none() || !is_over(cx, grace, UPLOAD_GRACE) {
                    return Poll::Pending;
                }
                false
            }
        };
        let connection = state.connection.take();
        let reading = state.reading.take();
        drop(state);
        if let Some(connection) = connection.filter(|_| given_back) {
            give_back(connection);
        }
        if let Some(reading) = reading {
            reading.wake();
        }
        Poll::Ready(())
    }

    fn poll_body(
        &self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        let mut state = self.0.lock();
        let Some(connection) = &mut state.connection else {
            return Poll::Ready(Err(state.request_broke.take().unwrap_or(Broken::Closed)));
        };
        let polled = connection.poll_body(cx, framing);
        if polled.is_pending() {
            state.reading = Some(cx.waker().clone());
        }
        polled
    }

    fn body_ended(&self, ended: Ended) {
        let mut state = self.0.lock();
        state.body = Some(ended);
        let has_uploaded =
            (state.connection.as_ref()).is_some_and(|connection| connection.is_uploaded());
        let connection = if has_uploaded || ended == Ended::GivenUp {
            state.connection.take()
        } else {
            None
        };
        let uploading = state.uploading.take();
        drop(state);
        if let Some(connection) = connection.filter(|_| ended == Ended::Whole) {
            give_back(connection);
        }
        if let Some(uploading) = uploading {
            uploading.wake();
        }
    }
}

/// Whether `grace` has passed since this was first asked.
fn is_over(cx: &mut Context<'_>, grace: &mut Option<Pin<Box<Sleep>>>, time: Duration) -> bool {
    let grace = grace.get_or_insert_with(|| Box::pin(sleep(time)));
    grace.as_mut().poll(cx).is_ready()
}

/// What breaks a response off.
fn peer(broken: Broken) -> BodyError {
    match broken {
        Broken::Request(error) => error,
        broken => BodyError::Other(broken.into()),
    }
}
