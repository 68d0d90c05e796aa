//! What the library calls for each request: the last bounds before a handler, and what is counted as in
//! flight.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::time::Instant;

use super::state::{InFlight, State};
use super::{Excess, Handler};
use crate::bounds::Bounds;
use crate::http::body::{BodyError, ResponseBody};
use crate::http::client::BoxFuture;
use crate::worker;

/// The service that hyper sees.
pub(super) struct Serving<H> {
    pub(super) handler: Arc<H>,
    pub(super) state: Arc<State>,
    pub(super) http1: bool,
    /// When HTTP/1 peers are told to come over another connection.
    pub(super) replace_at: Option<Instant>,
}

impl<H: Handler> Service<Request<Incoming>> for Serving<H> {
    type Response = Response<Served>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let (in_flight, fits) = State::take_request(&self.state);
        let connect = *request.method() == Method::CONNECT;
        let Bounds { limits, hits, .. } = &**self.state.bounds();
        let response = if let Some(violation) = self.state.refuses() {
            if let Some(excess) = violation.excess() {
                hits.head(excess);
            }
            self.handler.refuse(violation.failure())
        } else if !fits {
            hits.requests.increment(1);
            self.handler.turn_away(request, Excess::Requests)
        } else if !self.http1
            && let Some(excess) = limits.request_excess(&request)
        {
            hits.head(excess);
            self.handler.turn_away(request, Excess::Head(excess))
        } else {
            self.handler.handle(request)
        };
        Answering {
            response,
            in_flight: Some(in_flight),
            http1: self.http1,
            replace_at: self.replace_at,
            connect,
        }
    }
}

/// A response being made.
pub(super) struct Answering {
    response: BoxFuture<Response<ResponseBody>>,
    in_flight: Option<InFlight>,
    http1: bool,
    replace_at: Option<Instant>,
    connect: bool,
}

impl Future for Answering {
    type Output = Result<Response<Served>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.response.as_mut().poll(cx));
        let in_flight = self
            .in_flight
            .take()
            .expect("polled once after it is ready");
        if self.http1 {
            let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || (self.connect && response.status().is_success());
            if upgrades {
                in_flight.state().upgraded();
            } else if in_flight.state().closing_is_announced()
                || self.replace_at.is_some_and(|at| Instant::now() >= at)
                || worker::sends_away()
            {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
        }
        Poll::Ready(Ok(response.map(|body| Served {
            body,
            _in_flight: in_flight,
        })))
    }
}

/// A response body that is counted as an exchange in flight until it is dropped.
pub(super) struct Served {
    pub(super) body: ResponseBody,
    pub(super) _in_flight: InFlight,
}

impl Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
