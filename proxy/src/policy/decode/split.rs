//! Splits: the sides, what keeps a user on one, and who gets copies.

use weft_proto::discovery as wire;

use super::Decoded;
use super::fields::{
    at, at_least_one, backend_index, cookie_name, each, header_name, known, missing, optional,
    positive, refuse, required,
};
use super::filters::header_edits;
use super::route::header_match;
use crate::policy::{CookieMatch, MirrorPolicy, Split, SplitMatch, Sticky, WeightedBackend};

pub(super) fn decode(message: &wire::Split, backends: usize) -> Decoded<Split> {
    if message.backends.is_empty() {
        return Err(missing("backends"));
    }
    Ok(Split {
        backends: each("backends", &message.backends, |side| {
            let unusable = !side.unusable.is_empty();
            let edits = |place, edits: &Option<wire::HeaderEdits>| {
                let edits = optional(place, edits.as_ref(), header_edits)?;
                Ok(edits.map(Box::new))
            };
            Ok(WeightedBackend {
                backend: if unusable {
                    side.backend as usize
                } else {
                    backend_index("backend", side.backend, backends)?
                },
                weight: side.weight,
                forced: each("forced", &side.forced, split_match)?,
                request_headers: edits("request_headers", &side.request_headers)?,
                response_headers: edits("response_headers", &side.response_headers)?,
                unusable: unusable.then(|| side.unusable.as_str().into()),
            })
        })?,
        sticky: optional("sticky", message.sticky.as_ref(), sticky)?,
        next_when_empty: match known("when_empty", message.when_empty)? {
            wire::WhenEmpty::Fail => false,
            wire::WhenEmpty::NextBackend => true,
        },
        mirror: optional("mirror", message.mirror.as_ref(), |it| mirror(it, backends))?,
    })
}

fn split_match(message: &wire::SplitMatch) -> Decoded<SplitMatch> {
    if message.headers.is_empty() && message.cookies.is_empty() {
        return Err(missing("headers or cookies"));
    }
    Ok(SplitMatch {
        headers: each("headers", &message.headers, header_match)?,
        cookies: each("cookies", &message.cookies, |cookie| {
            Ok(CookieMatch {
                name: cookie_name(&cookie.name).map_err(at("name"))?,
                value: cookie.value.as_deref().map(Into::into),
            })
        })?,
    })
}

fn mirror(message: &wire::Mirror, backends: usize) -> Decoded<MirrorPolicy> {
    const HUNDRED: u32 = 100;
    let out_of = match message.out_of {
        0 => HUNDRED,
        out_of => out_of,
    };
    if message.share > out_of {
        return Err(refuse("share", "more than everything"));
    }
    Ok(MirrorPolicy {
        backend: backend_index("backend", message.backend, backends)?,
        share: message.share,
        out_of,
        calls: message.calls,
        body_limit_bytes: message.body_limit_bytes as usize,
        max_in_flight: at_least_one("max_in_flight", message.max_in_flight)? as usize,
        timeout: required("timeout", message.timeout.as_ref(), positive)?,
    })
}

fn sticky(message: &wire::Sticky) -> Decoded<Sticky> {
    use wire::sticky::Kind;
    match message.kind.as_ref().ok_or(missing("kind"))? {
        Kind::ClientIdentity(true) => Ok(Sticky::ClientIdentity),
        Kind::ClientIdentity(false) => Err(refuse("client_identity", "false")),
        Kind::Header(name) => Ok(Sticky::Header(header_name(name).map_err(at("header"))?)),
        Kind::Cookie(cookie) => Ok(Sticky::Cookie {
            name: cookie_name(&cookie.name).map_err(at("cookie.name"))?,
            ttl: optional("cookie.ttl", cookie.ttl.as_ref(), positive)?,
        }),
    }
}
