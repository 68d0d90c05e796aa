//! What clients get where no server answered.

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use weft_proto::discovery as wire;
use weft_proto::discovery::fallback::Answer;
use weft_proto::names::headers as names;

use super::decode::{DecodeError, each, header_name, known, missing, refuse};

/// Stands in for an answer that did not come.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackPolicy {
    /// When it is used; at least one. Without `Timeout` where another backend is asked.
    pub triggers: Vec<FallbackTrigger>,
    /// What it is.
    pub answer: FallbackAnswer,
}

/// When a fallback is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackTrigger {
    /// `circuit_open`.
    CircuitOpen,
    /// `no_endpoints`.
    NoEndpoints,
    /// `overflow` and `shed`, of either sidecar.
    Overload,
    /// The last try would have been repeated, but attempts or budget were spent.
    RetriesExhausted,
    /// `request_timeout` and `try_timeout`.
    Timeout,
}

/// What a fallback is.
#[derive(Clone, Debug, PartialEq)]
pub enum FallbackAnswer {
    /// Another of the target's backends, by index.
    Backend(usize),
    /// The sidecar answers itself.
    Response(StaticResponse),
}

/// An answer that is ready to be given.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// All of them, the content type among them.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl FallbackPolicy {
    /// Whether it asks another backend, for which the request must be kept.
    pub fn asks_a_backend(&self) -> bool {
        matches!(self.answer, FallbackAnswer::Backend(_))
    }

    pub(super) fn decode(message: &wire::Fallback, backends: usize) -> Result<Self, DecodeError> {
        let triggers = each("triggers", &message.triggers, |&value| trigger(value))?;
        if triggers.is_empty() {
            return Err(missing("triggers"));
        }
        let answer = match message.answer.as_ref().ok_or(missing("answer"))? {
            Answer::Response(response) => FallbackAnswer::Response(static_response(response)?),
            Answer::Backend(_) if triggers.contains(&FallbackTrigger::Timeout) => {
                return Err(refuse("backend", "after a timeout"));
            }
            Answer::Backend(index) if (*index as usize) < backends => {
                FallbackAnswer::Backend(*index as usize)
            }
            Answer::Backend(_) => return Err(refuse("backend", "no such backend")),
        };
        Ok(Self { triggers, answer })
    }
}

fn trigger(value: i32) -> Result<FallbackTrigger, DecodeError> {
    use wire::FallbackTrigger as Trigger;
    Ok(match known("", value)? {
        Trigger::Unspecified => return Err(refuse("", "unspecified")),
        Trigger::CircuitOpen => FallbackTrigger::CircuitOpen,
        Trigger::NoEndpoints => FallbackTrigger::NoEndpoints,
        Trigger::Timeout => FallbackTrigger::Timeout,
        Trigger::RetriesExhausted => FallbackTrigger::RetriesExhausted,
        Trigger::Overload => FallbackTrigger::Overload,
    })
}

/// Whether a header belongs to the connection, to the message's framing, or to the mesh.
fn is_our_business(name: &HeaderName) -> bool {
    let framing = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    framing.contains(name)
        || ["keep-alive", "proxy-connection", "trailers"].contains(&name.as_str())
        || name.as_str().starts_with(names::PREFIX)
}

fn static_response(message: &wire::StaticResponse) -> Result<StaticResponse, DecodeError> {
    const FINAL: std::ops::RangeInclusive<u16> = 200..=599;
    let status = u16::try_from(message.status)
        .ok()
        .filter(|code| FINAL.contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| refuse("response.status", "not from 200 to 599"))?;
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| refuse("response", "not a header value"))
    };
    let mut headers = HeaderMap::with_capacity(message.headers.len() + 1);
    headers.insert(CONTENT_TYPE, value(&message.content_type)?);
    for header in &message.headers {
        let name = header_name(&header.name)?;
        if is_our_business(&name) {
            return Err(refuse("response.headers", "one of the connection's own"));
        }
        headers.insert(name, value(&header.value)?);
    }
    Ok(StaticResponse {
        status,
        headers,
        body: Bytes::copy_from_slice(&message.body),
    })
}
