//! The parts of `fallback` as wire messages.

use weft_proto::discovery as wire;

use crate::policy::{FallbackResponse, FallbackTrigger};

pub(super) fn trigger(trigger: FallbackTrigger) -> wire::FallbackTrigger {
    match trigger {
        FallbackTrigger::CircuitOpen => wire::FallbackTrigger::CircuitOpen,
        FallbackTrigger::NoEndpoints => wire::FallbackTrigger::NoEndpoints,
        FallbackTrigger::Timeout => wire::FallbackTrigger::Timeout,
        FallbackTrigger::RetriesExhausted => wire::FallbackTrigger::RetriesExhausted,
        FallbackTrigger::Overload => wire::FallbackTrigger::Overload,
    }
}

pub(super) fn response(response: &FallbackResponse) -> wire::StaticResponse {
    wire::StaticResponse {
        status: u32::from(response.status),
        content_type: response.content_type.clone(),
        body: response.body.clone().into_bytes(),
        headers: response
            .headers
            .iter()
            .map(|header| wire::Header {
                name: header.name.to_ascii_lowercase(),
                value: header.value.clone(),
            })
            .collect(),
    }
}
