//! What routes change of requests and responses.

use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode};
use weft_proto::discovery as wire;
use weft_proto::names::headers as names;

use super::Decoded;
use super::fields::{at, each, header_name, missing, optional, refuse};
use crate::policy::{HeaderEdits, PathEdit, Redirect, Rewrite, RouteFilters};

pub(super) fn decode(message: &wire::RouteFilters) -> Decoded<RouteFilters> {
    use wire::route_filters::Target;
    let (redirect, rewrite) = match &message.target {
        None => (None, None),
        Some(Target::Redirect(it)) => (Some(redirect(it).map_err(at("redirect"))?), None),
        Some(Target::Rewrite(it)) => (None, Some(rewrite(it).map_err(at("rewrite"))?)),
    };
    let (requests, responses) = (&message.request_headers, &message.response_headers);
    Ok(RouteFilters {
        request_headers: optional("request_headers", requests.as_ref(), header_edits)?,
        response_headers: optional("response_headers", responses.as_ref(), header_edits)?,
        redirect,
        rewrite,
    })
}

pub(super) fn header_edits(message: &wire::HeaderEdits) -> Decoded<HeaderEdits> {
    let header = |header: &wire::Header| {
        let value = HeaderValue::from_str(&header.value);
        let value = value.map_err(|_| refuse("value", "not a header value"))?;
        Ok((editable(&header.name)?, value))
    };
    Ok(HeaderEdits {
        set: each("set", &message.set, header)?,
        add: each("add", &message.add, header)?,
        remove: each("remove", &message.remove, |name| editable(name))?,
    })
}

fn redirect(message: &wire::Redirect) -> Decoded<Redirect> {
    let https = match message.scheme.as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(refuse("scheme", "neither http nor https")),
    };
    let port = u16::try_from(message.port).ok().filter(|port| *port != 0);
    let status = match message.status {
        301 | 302 | 303 | 307 | 308 => message.status as u16,
        _ => return Err(refuse("status", "not a redirect's")),
    };
    let host = match message.host.as_str() {
        "" => None,
        text => Some(host(text)?.as_str().into()),
    };
    Ok(Redirect {
        https,
        host,
        port: port.ok_or_else(|| refuse("port", "not from 1 to 65535"))?,
        path: optional("path", message.path.as_ref(), path_edit)?,
        status: StatusCode::from_u16(status).map_err(|_| refuse("status", "not a status"))?,
    })
}

fn rewrite(message: &wire::Rewrite) -> Decoded<Rewrite> {
    let host = match message.host.as_str() {
        "" => None,
        text => {
            let authority = host(text)?;
            let value = HeaderValue::from_str(authority.as_str());
            let value = value.map_err(|_| refuse("host", "not a host"))?;
            Some((authority, value))
        }
    };
    Ok(Rewrite {
        host,
        path: optional("path", message.path.as_ref(), path_edit)?,
    })
}

fn host(text: &str) -> Decoded<Authority> {
    let host = text.parse::<Authority>().ok();
    let host = host.filter(|host| !host.as_str().contains('@'));
    host.ok_or_else(|| refuse("host", "not a host"))
}

fn path_edit(message: &wire::PathEdit) -> Decoded<PathEdit> {
    use wire::path_edit::Kind;
    match message.kind.as_ref().ok_or(missing("kind"))? {
        Kind::Full(full) => Ok(PathEdit::Full(path("full", full)?)),
        Kind::Prefix(edit) => Ok(PathEdit::Prefix {
            prefix: path("prefix.prefix", &edit.prefix)?,
            replacement: match edit.replacement.as_str() {
                "" => "".into(),
                text => path("prefix.replacement", text)?,
            },
        }),
    }
}

fn path(place: &str, text: &str) -> Decoded<Box<str>> {
    let fits = |b: u8| b.is_ascii_graphic() && !b"?#".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(fits) {
        return Err(refuse(place, "not a path"));
    }
    Ok(text.into())
}

/// A header that a route may touch.
fn editable(name: &str) -> Decoded<HeaderName> {
    if name.starts_with(names::PREFIX) || names::UNTOUCHABLE.contains(&name) {
        return Err(refuse("name", "a header that no route may touch"));
    }
    header_name(name)
}
