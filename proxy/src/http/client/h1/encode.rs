//! A request as HTTP/1.1 writes it: its head, and how its body is framed (RFC 9112, 3 and 6).
//!
//! Promises:
//! * What is written can be read in one way only: one `content-length`, or `transfer-encoding` that ends
//!   in `chunked`, or no body.
//! * A body that is shorter or longer than the head said is an error, and nothing of it that would be read
//!   as the next request is written.

use std::io::{self, ErrorKind, Write};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use http_body::Body;

use super::super::Outgoing;
use crate::http::body::BodyError;
use crate::http::spare;

/// Bytes of data that are copied behind the head, or behind the chunk before, to leave with it.
const SHORT: usize = 4 * 1024;
/// Names that mean something for framing, routing or credentials: no trailer field has them (RFC 9110,
/// 6.5.1).
const NO_TRAILERS: [HeaderName; 14] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
];

/// What of a request is still to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A head that was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) framing: Framing,
    /// The connection takes no request after this one.
    pub(super) is_last: bool,
}

/// Bytes that wait to be written: a piece that is copied together, and a long one behind it.
#[derive(Debug, Default)]
pub(super) struct Out {
    short: Vec<u8>,
    /// How far of `short` is written.
    at: usize,
    long: Bytes,
    /// Behind `long`: the end of its chunk.
    ends_chunk: bool,
}

/// Writes the head of `request`.
pub(super) fn head(request: &Outgoing<'_>, out: &mut Out) -> Result<Written, BodyError> {
    let out = &mut out.short;
    let (head, extra) = request.parts();
    let headers = &head.headers;
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    target(&head.uri, out);
    out.extend_from_slice(b" HTTP/1.1\r\n");

    let has_body = request.has_body();
    let is_chunked = has_body && headers.contains_key(header::TRANSFER_ENCODING);
    let mut ends_in_chunked = false;
    let mut length = None;
    let mut is_last = false;
    for (name, value) in headers {
        if *name == header::TRANSFER_ENCODING {
            if !has_body {
                continue;
            }
            ends_in_chunked = is_last_token(value, b"chunked");
        } else if *name == header::CONTENT_LENGTH {
            // Both would be two readings (RFC 9112, 6.2).
            if is_chunked {
                continue;
            }
            if length.is_some() {
                return Err(misframed("the request has more than one length"));
            }
            length = Some(number(value)?);
        } else if *name == header::CONNECTION {
            is_last |= is_last_token(value, b"close");
        } else if extra.iter().any(|(set, _)| set == name) {
            continue;
        }
        field(name, value, out);
    }
    for (name, value) in extra {
        field(name, value, out);
    }
    let framing = if is_chunked {
        if !ends_in_chunked {
            chunked(out);
        }
        Framing::Chunked
    } else if let Some(length) = length {
        Framing::Length(length)
    } else if !has_body {
        Framing::Length(0)
    } else if let Some(length) = request.body.size_hint().exact() {
        let _ = write!(out, "content-length: {length}\r\n");
        Framing::Length(length)
    } else if head.method == Method::CONNECT {
        Framing::Length(0)
    } else {
        chunked(out);
        Framing::Chunked
    };
    out.extend_from_slice(b"\r\n");
    Ok(Written { framing, is_last })
}

impl Framing {
    /// Writes `data` of the body.
    pub(super) fn data(&mut self, data: Bytes, out: &mut Out) -> Result<(), BodyError> {
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Self::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| misframed("the body is longer than its length"))?;
                out.push(data, false);
            }
            Self::Chunked => {
                let _ = write!(out.short, "{:x}\r\n", data.len());
                out.push(data, true);
            }
        }
        Ok(())
    }

    /// Writes the end of a body. Of `trailers`, those that the head announced.
    pub(super) fn end(
        self,
        headers: &HeaderMap,
        trailers: Option<&HeaderMap>,
        out: &mut Out,
    ) -> Result<(), BodyError> {
        match self {
            Self::Length(0) => Ok(()),
            Self::Length(_) => Err(misframed("the body is shorter than its length")),
            Self::Chunked => {
                let out = &mut out.short;
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if !NO_TRAILERS.contains(name) && is_announced(headers, name) {
                        field(name, value, out);
                    }
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

impl Out {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            short: spare::to_write(),
            ..Self::default()
        }
    }

    /// Whether all is written.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.short.len() && self.long.is_empty()
    }

    /// Whether more is worth being gathered before it is written.
    pub(super) fn is_short(&self) -> bool {
        self.long.is_empty() && self.short.len() - self.at < SHORT
    }

    /// What is to be written first, and what behind it.
    pub(super) fn pieces(&self) -> [io::IoSlice<'_>; 2] {
        [
            io::IoSlice::new(&self.short[self.at..]),
            io::IoSlice::new(&self.long),
        ]
    }

    /// So many bytes of it are written.
    pub(super) fn advance(&mut self, written: usize) {
        let short = written.min(self.short.len() - self.at);
        self.at += short;
        let long = (written - short).min(self.long.len());
        let _ = self.long.split_to(long);
        if !self.is_empty() {
            return;
        }
        self.short.clear();
        self.at = 0;
        self.long = Bytes::new();
        if std::mem::take(&mut self.ends_chunk) {
            self.short.extend_from_slice(b"\r\n");
        }
    }

    /// All of it is written.
    pub(super) fn let_go(self) {
        spare::give_written(self.short);
    }

    fn push(&mut self, data: Bytes, ends_chunk: bool) {
        if data.len() > SHORT {
            self.long = data;
            self.ends_chunk = ends_chunk;
            return;
        }
        self.short.extend_from_slice(&data);
        if ends_chunk {
            self.short.extend_from_slice(b"\r\n");
        }
    }
}

/// The request's target: in origin form but for CONNECT, and where the client used another.
fn target(uri: &Uri, out: &mut Vec<u8>) {
    if uri.authority().is_none() {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        out.extend_from_slice(path.as_bytes());
    } else {
        let _ = write!(out, "{uri}");
    }
}

fn field(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn chunked(out: &mut Vec<u8>) {
    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
}

fn is_last_token(value: &HeaderValue, token: &[u8]) -> bool {
    let last = value.as_bytes().rsplit(|byte| *byte == b',').next();
    last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(token))
}

fn is_announced(headers: &HeaderMap, name: &HeaderName) -> bool {
    let announced = headers.get_all(header::TRAILER).iter();
    announced
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| {
            token
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
}

fn number(value: &HeaderValue) -> Result<u64, BodyError> {
    let digits = value.as_bytes();
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| misframed("the request's length is no number"))
}

fn misframed(detail: &'static str) -> BodyError {
    BodyError::Other(io::Error::new(ErrorKind::InvalidData, detail).into())
}

#[cfg(test)]
mod tests;
