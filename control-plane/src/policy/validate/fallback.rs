//! The bounds of `fallback`.

use weft_proto::names;

use super::findings::Findings;
use super::traffic::{MAX_HEADER_VALUE, MAX_HEADERS};
use crate::policy::fallback::{Fallback, FallbackResponse, FallbackTrigger};

const MAX_TRIGGERS: usize = 5;
const MAX_CONTENT_TYPE: usize = 128;
const MAX_BODY: usize = 4096;
/// Headers that belong to a connection or to the framing of a message: the sidecar's own business.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn check_fallback(found: &mut Findings, path: &str, fallback: &Fallback) {
    let triggers = format!("{path}.triggers");
    if fallback.triggers.is_empty() {
        found.add(&triggers, "at least one trigger is required", "");
    }
    found.at_most(&triggers, fallback.triggers.len(), MAX_TRIGGERS);
    found.distinct(&triggers, fallback.triggers.iter(), "trigger");
    if fallback.response.is_some() == fallback.backend.is_some() {
        found.add(
            path,
            "exactly one of response or backend is required",
            "response: {} answers 503",
        );
    }
    if fallback.triggers.contains(&FallbackTrigger::Timeout) && fallback.backend.is_some() {
        found.add(
            triggers,
            "after a Timeout only a response can follow",
            "leave Timeout out: no time is left to ask another backend",
        );
    }
    if let Some(backend) = &fallback.backend {
        found.label(&format!("{path}.backend.name"), &backend.name);
        if backend.port == Some(0) {
            found.add(
                format!("{path}.backend.port"),
                "0 is not between 1 and 65535",
                "",
            );
        }
    }
    if let Some(response) = &fallback.response {
        check_response(found, &format!("{path}.response"), response);
    }
}

fn check_response(found: &mut Findings, path: &str, response: &FallbackResponse) {
    found.within(&format!("{path}.status"), response.status.into(), 200..=599);
    let content_type = format!("{path}.contentType");
    check_value(
        found,
        &content_type,
        &response.content_type,
        MAX_CONTENT_TYPE,
    );
    if response.body.len() > MAX_BODY {
        found.add(
            format!("{path}.body"),
            format!("longer than {MAX_BODY} bytes"),
            "",
        );
    }
    let headers = format!("{path}.headers");
    found.at_most(&headers, response.headers.len(), MAX_HEADERS);
    found.distinct(
        &headers,
        response.headers.iter().map(|header| &header.name),
        "map key (name)",
    );
    for (at, header) in response.headers.iter().enumerate() {
        let path = format!("{headers}[{at}]");
        found.token(&format!("{path}.name"), &header.name);
        let name = header.name.to_ascii_lowercase();
        if OWN_HEADERS.contains(&&*name) || name.starts_with(names::headers::PREFIX) {
            found.add(
                format!("{path}.name"),
                format!("{name} is set by the sidecar itself"),
                "leave it out",
            );
        }
        check_value(
            found,
            &format!("{path}.value"),
            &header.value,
            MAX_HEADER_VALUE,
        );
    }
}

fn check_value(found: &mut Findings, path: &str, value: &str, most: usize) {
    if value.len() > most {
        found.add(path, format!("longer than {most} bytes"), "");
    }
    if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        found.add(
            path,
            "has control characters, which no header can carry",
            "",
        );
    }
}
