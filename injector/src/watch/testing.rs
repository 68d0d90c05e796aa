//! An API server that has one answer to everything.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::Value;

/// A client of one that answers with this.
pub(crate) fn answering(code: u16, answer: &Value) -> Client {
    let code = StatusCode::from_u16(code).expect("a code");
    Client::new(Answering(code, answer.to_string().into_bytes()), "default")
}

struct Answering(StatusCode, Vec<u8>);

impl tower_service::Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut response = Response::new(Body::from(self.1.clone()));
        *response.status_mut() = self.0;
        ready(Ok(response))
    }
}
