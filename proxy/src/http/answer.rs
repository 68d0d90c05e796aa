//! Responses that a sidecar makes itself.
use std::time::Duration;
use http::{HeaderMap, Response};
use super::body::ResponseBody;
use super::Version;
use crate::outcome::{Failure, Origin, Outcome};

/// Makes the response that says `failure`.
pub fn answer(failure: &Failure, origin: Origin, request_is_grpc: bool, version: Version) -> Response<ResponseBody> { todo!() }
/// The same with `Retry-After`.
pub fn answer_later(failure: &Failure, origin: Origin, request_is_grpc: bool, version: Version, after: Duration) -> Response<ResponseBody> { todo!() }
/// What a sidecar said in a response that it made itself.
pub fn read_answer(headers: &HeaderMap) -> Option<(Outcome, Origin)> { todo!() }
