//! A response as HTTP/1 says it: its head, and where its body ends (RFC 9112, 4, 6 and 7).
//!
//! Promises:
//! * A response that could be read in two ways is none: two lengths, a length beside a transfer coding, a
//!   coding other than `chunked`.
//! * Heads, the lines between chunks, and trailers are bounded.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use crate::bounds::ProcessLimits;
use crate::http::chunked::Chunks;
use crate::http::{headers, settings, spare};

/// Bytes of a line that says a chunk's size, with its extensions.
const MAX_CHUNK_LINE: usize = 4 * 1024;

/// Why what came is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::http::client) enum Malformed {
    #[error("the answer was not HTTP")]
    Syntax,
    #[error("the answer could be read in two ways: its length and its transfer-encoding")]
    TwoReadings,
    #[error("the head of the answer has more bytes than it may have")]
    Bytes,
    #[error("the answer has more headers than there may be")]
    Fields,
    #[error("the body of the answer breaks its framing")]
    Chunk,
}

/// What comes behind a head.
#[derive(Debug)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// Whatever comes until the connection ends.
    Close,
}

/// A response's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection takes no request after this one.
    pub(super) is_last: bool,
    /// What follows is not HTTP any more.
    pub(super) switches: bool,
}

/// What was found of a head.
#[derive(Debug)]
pub(super) enum Found {
    /// It is not whole.
    More,
    /// One that says that another will follow (RFC 9110, 15.2).
    Interim,
    Head(Head),
}

/// Whether a head may end in `bytes`, of which the first `tried` are known to have no end of one.
pub(super) fn may_be_whole(bytes: &[u8], tried: usize) -> bool {
    if tried == 0 {
        return !bytes.is_empty();
    }
    // The empty line may have begun before.
    let rest = &bytes[tried.saturating_sub(3).min(bytes.len())..];
    rest.windows(2).any(|two| two == b"\n\n") || rest.windows(3).any(|three| three == b"\n\r\n")
}

/// Reads a head from the beginning of `bytes`, and takes it away. `method` is the request's.
pub(super) fn head(
    bytes: &mut BytesMut,
    method: &Method,
    limits: &ProcessLimits,
) -> Result<Found, Malformed> {
    const FEW: usize = settings::LIBRARY_HEADERS as usize;
    let most = usize::from(limits.headers);
    let read = if most <= FEW {
        let mut few = [const { MaybeUninit::uninit() }; FEW];
        read(bytes, &mut few[..most])
    } else {
        read(bytes, &mut vec![MaybeUninit::uninit(); most])
    };
    let Some(head) = read? else {
        return Ok(Found::More);
    };
    let text = bytes.split_to(head.len).freeze();
    if head.len > limits.header_bytes {
        return Err(Malformed::Bytes);
    }
    let status = StatusCode::from_u16(head.status).map_err(|_| Malformed::Syntax)?;
    let switches = status == StatusCode::SWITCHING_PROTOCOLS
        || (*method == Method::CONNECT && status.is_success());
    if status.is_informational() && !switches {
        return Ok(Found::Interim);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = head.version;
    *response.headers_mut() = spare::fields();
    fields(&text, &head.fields, response.headers_mut())?;
    if let Some(said) = reason(&text, &head, status) {
        response.extensions_mut().insert(said);
    }
    // Told before anybody takes away what concerns this connection only. One of HTTP/1.0 is not kept: a
    // proxy does not know what lies behind it (RFC 9112, C.2.2).
    let is_last = head.version == Version::HTTP_10 || says_close(response.headers());
    if !headers::frame_once(response.headers_mut()) {
        return Err(Malformed::TwoReadings);
    }
    let framing = if switches || has_no_body(method, status) {
        Framing::Length(0)
    } else {
        framing(&response)?
    };
    Ok(Found::Head(Head {
        is_last: is_last || matches!(framing, Framing::Close),
        response,
        framing,
        switches,
    }))
}

/// Where the parts of a head stand in its text.
struct Parsed {
    len: usize,
    version: Version,
    status: u16,
    reason: Range,
    fields: SmallVec<[(Range, Range); 16]>,
}

/// Where a part of a text stands: from, to.
type Range = (u32, u32);

fn read<'b>(
    text: &'b [u8],
    room: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<Parsed>, Malformed> {
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, text, room) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::Fields),
        Err(_) => return Err(Malformed::Syntax),
    };
    let place = |part: &[u8]| {
        let from = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr()) as u32;
        (from, from + part.len() as u32)
    };
    Ok(Some(Parsed {
        len,
        version: if parsed.version == Some(1) {
            Version::HTTP_11
        } else {
            Version::HTTP_10
        },
        status: parsed.code.ok_or(Malformed::Syntax)?,
        reason: parsed.reason.map_or((0, 0), |reason| {
            // An empty one may stand nowhere.
            if reason.is_empty() {
                (0, 0)
            } else {
                place(reason.as_bytes())
            }
        }),
        fields: (parsed.headers.iter())
            .map(|field| {
                let value = if field.value.is_empty() {
                    (0, 0)
                } else {
                    place(field.value)
                };
                (place(field.name.as_bytes()), value)
            })
            .collect(),
    }))
}

fn part(text: &Bytes, (from, to): Range) -> Bytes {
    text.slice(from as usize..to as usize)
}

fn fields(
    text: &Bytes,
    places: &[(Range, Range)],
    headers: &mut HeaderMap,
) -> Result<(), Malformed> {
    headers.reserve(places.len());
    for (name, value) in places {
        let name = &text[name.0 as usize..name.1 as usize];
        let name = HeaderName::from_bytes(name).map_err(|_| Malformed::Syntax)?;
        let value = HeaderValue::from_maybe_shared(part(text, *value));
        headers.append(name, value.map_err(|_| Malformed::Syntax)?);
    }
    Ok(())
}

/// What stands for the status, where it is not the usual.
fn reason(text: &Bytes, head: &Parsed, status: StatusCode) -> Option<ReasonPhrase> {
    let said = &text[head.reason.0 as usize..head.reason.1 as usize];
    if said == status.canonical_reason().unwrap_or_default().as_bytes() {
        return None;
    }
    ReasonPhrase::try_from(Bytes::copy_from_slice(said)).ok()
}

fn says_close(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::CONNECTION).iter();
    said.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Whether no body follows, whatever the head says (RFC 9112, 6.3).
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Of a response whose framing can be read in one way.
fn framing(response: &Response<()>) -> Result<Framing, Malformed> {
    let headers = response.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // HTTP/1.0 knows no chunks (RFC 9112, 6.1).
        if response.version() == Version::HTTP_10 {
            return Err(Malformed::TwoReadings);
        }
        return Ok(Framing::Chunked(Chunked::default()));
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(Framing::Close);
    };
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length.map(Framing::Length).ok_or(Malformed::TwoReadings)
}

/// A body in chunks.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    chunks: Chunks,
    /// Bytes since the last one of data, trailers aside.
    line: usize,
    trailers: Vec<u8>,
    has_ended: bool,
}

/// What was found of a body in chunks.
#[derive(Debug)]
pub(super) enum Piece {
    /// Nothing without more bytes.
    More,
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

impl Chunked {
    /// Reads on from the beginning of `bytes`, and takes what it has read away.
    pub(super) fn read(
        &mut self,
        bytes: &mut BytesMut,
        limits: &ProcessLimits,
    ) -> Result<Piece, Malformed> {
        if self.has_ended {
            return Ok(Piece::End);
        }
        while let Some(byte) = bytes.first().copied() {
            if self.chunks.data_left() > 0 {
                self.line = 0;
                let len = self.chunks.take_data(bytes.len());
                return Ok(Piece::Data(bytes.split_to(len).freeze()));
            }
            if self.chunks.is_in_trailers() {
                self.trailers.push(byte);
            } else {
                self.line += 1;
            }
            let is_end = self.chunks.frame(byte).map_err(|_| Malformed::Chunk)?;
            bytes.advance(1);
            if self.line > MAX_CHUNK_LINE || self.trailers.len() > limits.header_bytes {
                return Err(Malformed::Chunk);
            }
            if is_end {
                self.has_ended = true;
                return self.trailers(limits);
            }
        }
        Ok(Piece::More)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn trailers(&mut self, limits: &ProcessLimits) -> Result<Piece, Malformed> {
        let text = Bytes::from(std::mem::take(&mut self.trailers));
        if text.len() <= 2 {
            return Ok(Piece::End);
        }
        let mut room = vec![httparse::EMPTY_HEADER; usize::from(limits.headers)];
        let Ok(httparse::Status::Complete((_, found))) = httparse::parse_headers(&text, &mut room)
        else {
            return Err(Malformed::Chunk);
        };
        let mut trailers = HeaderMap::with_capacity(found.len());
        for field in found {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(Malformed::Chunk);
            };
            trailers.append(name, value);
        }
        Ok(Piece::Trailers(trailers))
    }
}

#[cfg(test)]
mod tests;
