//! Responses that a sidecar makes itself.
//!
//! Each says its outcome in `x-weft-outcome` and which sidecar made it in `x-weft-origin`. HTTP
//! callers get one sentence of plain text, gRPC callers a trailers-only response. Nothing of the
//! peer's bytes and no secret is in it: a [`Failure`]'s detail promises that.

use std::fmt::Write;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use weft_proto::names::headers as names;

use super::body::ResponseBody;
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::StaticResponse;

const OUTCOME: HeaderName = HeaderName::from_static(names::OUTCOME);
const ORIGIN: HeaderName = HeaderName::from_static(names::ORIGIN);
const FALLBACK: HeaderName = HeaderName::from_static(names::FALLBACK);
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What a `rate_limited` answer says where nobody knows better.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Bytes of a sentence; the rest is cut off.
const MAX_SENTENCE: usize = 512;

/// Makes the response that says `failure`, with `Retry-After` where the failure knows it; a
/// `rate_limited` that does not says 1.
pub fn answer(failure: &Failure, origin: Origin, request_is_grpc: bool) -> Response<ResponseBody> {
    let by_default = (failure.outcome == Outcome::RateLimited).then_some(DEFAULT_RETRY_AFTER);
    let after = failure.retry_after.or(by_default);
    answer_later(failure, origin, request_is_grpc, after)
}

/// Makes the response that says `failure`, and `Retry-After` where `after` is given, in full seconds
/// rounded up.
pub fn answer_later(
    failure: &Failure,
    origin: Origin,
    request_is_grpc: bool,
    after: Option<Duration>,
) -> Response<ResponseBody> {
    let sentence = sentence(failure);
    let mut response = if request_is_grpc {
        trailers_only(failure.grpc_code(), &sentence)
    } else {
        plain(failure.http_status(), sentence)
    };
    let headers = response.headers_mut();
    headers.insert(OUTCOME, HeaderValue::from_static(failure.outcome.as_str()));
    headers.insert(ORIGIN, HeaderValue::from_static(origin.as_str()));
    if let Some(after) = after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// Makes the response that stands in for `failure`: `response`, whose body `wants_body` may leave out
/// (HEAD). gRPC callers get the failure's own trailers-only response, with the same headers but the
/// content type.
pub fn answer_fallback(
    failure: &Failure,
    response: &StaticResponse,
    origin: Origin,
    request_is_grpc: bool,
    wants_body: bool,
) -> Response<ResponseBody> {
    let mut answer = if request_is_grpc {
        let mut answer = trailers_only(failure.grpc_code(), &sentence(failure));
        let headers = response.headers.iter();
        let others = headers.filter(|(name, _)| *name != header::CONTENT_TYPE);
        for (name, value) in others {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
        answer
    } else {
        let has_body = wants_body && may_have_body(response.status);
        let body = if has_body {
            ResponseBody::full(response.body.clone())
        } else {
            ResponseBody::Empty
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = response.status;
        *answer.headers_mut() = response.headers.clone();
        answer
    };
    let headers = answer.headers_mut();
    headers.insert(OUTCOME, HeaderValue::from_static(failure.outcome.as_str()));
    headers.insert(ORIGIN, HeaderValue::from_static(origin.as_str()));
    mark_fallback(headers);
    answer
}

/// Says of a response that a fallback made it.
pub fn mark_fallback(headers: &mut HeaderMap) {
    headers.insert(FALLBACK, HeaderValue::from_static("true"));
}

/// What a sidecar said in a response that it made itself. To be believed only where the peer's mesh
/// identity was verified.
pub fn read_answer(headers: &HeaderMap) -> Option<(Outcome, Origin)> {
    let outcome = Outcome::from_word(headers.get(OUTCOME)?.as_bytes())?;
    let origin = headers.get(ORIGIN)?.as_bytes();
    let origin = [Origin::Inbound, Origin::Outbound]
        .into_iter()
        .find(|known| known.as_str().as_bytes() == origin)?;
    Some((outcome, origin))
}

fn plain(status: StatusCode, mut sentence: String) -> Response<ResponseBody> {
    if !may_have_body(status) {
        let mut response = Response::new(ResponseBody::Empty);
        *response.status_mut() = status;
        return response;
    }
    sentence.push('\n');
    let mut response = Response::new(ResponseBody::full(sentence));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn trailers_only(code: u8, sentence: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(sentence)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// Whether a response with this status may have a body at all (RFC 9110, section 15).
fn may_have_body(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    )
}

fn sentence(failure: &Failure) -> String {
    let mut sentence = format!("weft: {}: {}", failure.outcome, failure.detail);
    if sentence.len() > MAX_SENTENCE {
        let end = (0..=MAX_SENTENCE)
            .rev()
            .find(|end| sentence.is_char_boundary(*end));
        sentence.truncate(end.unwrap_or(0));
    }
    sentence
}

/// As the gRPC protocol wants its messages: printable ASCII but `%` stays, all else is `%XX`.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes everything");
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
