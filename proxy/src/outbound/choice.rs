//! What a request's split looks at: pure, so that whoever explains a split says what it does.

use ::http::HeaderMap;

use crate::http::headers;
use crate::policy::{Split, Sticky};
use crate::resilience::route;

/// The position of the side that a request is forced to.
pub fn forced(split: &Split, headers: &HeaderMap) -> Option<usize> {
    split.backends.iter().position(|side| {
        side.matches
            .iter()
            .any(|rule| route::matches_header(rule, headers))
    })
}

/// The key whose hash chooses the side, for a request of `workload`'s; `None` where it carries none.
pub fn key<'r>(sticky: &Sticky, headers: &'r HeaderMap, workload: &'r str) -> Option<&'r [u8]> {
    Some(match sticky {
        Sticky::ClientIdentity => workload.as_bytes(),
        Sticky::Header(name) => headers.get(name)?.as_bytes(),
        Sticky::Cookie { name, .. } => headers::cookie(headers, name)?.as_bytes(),
    })
}
