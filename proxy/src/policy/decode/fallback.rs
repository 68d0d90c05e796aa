//! What clients get where no server answered, from the wire.

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_proto::discovery as wire;
use weft_proto::discovery::fallback::Answer;
use weft_proto::names::headers as names;

use super::Decoded;
use super::fields::{backend_index, each, final_status, header_name, known, missing, refuse};
use crate::policy::{FallbackAnswer, FallbackPolicy, FallbackTrigger, StaticResponse};

pub(super) fn decode(message: &wire::Fallback, backends: usize) -> Decoded<FallbackPolicy> {
    let triggers = each("triggers", &message.triggers, |&value| trigger(value))?;
    if triggers.is_empty() {
        return Err(missing("triggers"));
    }
    let answer = match message.answer.as_ref().ok_or(missing("answer"))? {
        Answer::Response(response) => FallbackAnswer::Response(static_response(response)?),
        Answer::Backend(_) if triggers.contains(&FallbackTrigger::Timeout) => {
            return Err(refuse("backend", "after a timeout"));
        }
        Answer::Backend(index) => {
            FallbackAnswer::Backend(backend_index("backend", *index, backends)?)
        }
    };
    Ok(FallbackPolicy { triggers, answer })
}

fn trigger(value: i32) -> Decoded<FallbackTrigger> {
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

fn static_response(message: &wire::StaticResponse) -> Decoded<StaticResponse> {
    let status = final_status("response.status", message.status)?;
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
