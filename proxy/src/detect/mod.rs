//! Which protocol a connection speaks, by its first bytes.
//!
//! Pure over bytes: [`classify`] says what is known so far and never changes its mind once it has
//! decided. Reading is in [`read_more`]; what was read is given back through [`Rewind`](crate::net::Rewind).
//! Silence is never a verdict: what a caller does about a silent client is its own affair.

#[cfg(test)]
mod tests;

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The client preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest request method that is still taken for HTTP/1; registered ones end at 17 bytes
/// (`UPDATEREDIRECTREF`, RFC 4437).
const MAX_METHOD_LEN: usize = 24;
/// How much of a request target is looked at before bytes that are no HTTP version decide nothing.
const MAX_REQUEST_LINE_LEN: usize = 16 * 1024;
/// How many bytes one read asks for.
const READ_LEN: usize = 4 * 1024;
/// First byte of a TLS record that carries a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What the first bytes of a client say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An HTTP/1.x request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// Not enough to tell.
    NeedMore,
    /// None of the others.
    Opaque,
    /// A TLS handshake.
    Tls,
}

/// What `bytes`, the first of a connection, say.
pub fn classify(bytes: &[u8]) -> Verdict {
    let Some(first) = bytes.first() else {
        return Verdict::NeedMore;
    };
    if *first == TLS_HANDSHAKE {
        return classify_tls(bytes);
    }
    let common = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..common] == HTTP2_PREFACE[..common] {
        return if common == HTTP2_PREFACE.len() {
            Verdict::Http2
        } else {
            Verdict::NeedMore
        };
    }
    classify_http1(bytes)
}

/// Reads once more into `buffer`; 0 means that the client has ended its direction.
pub async fn read_more<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    buffer.reserve(READ_LEN);
    reader.read_buf(buffer).await
}

/// Who speaks first, where the client has been silent.
#[derive(Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The client: its bytes are in its buffer; none where it only ended its direction.
    Client,
    /// The server, with these bytes; none where it only ended its direction.
    Server(BytesMut),
}

/// Waits for whoever speaks first: the client, into `heard`, or the server.
pub async fn first_speaker<C, S>(
    client: &mut C,
    heard: &mut BytesMut,
    server: &mut S,
) -> io::Result<Speaker>
where
    C: AsyncRead + Unpin,
    S: AsyncRead + Unpin,
{
    let mut greeting = BytesMut::new();
    tokio::select! {
        // A client that speaks is heard first: only a server that really comes first proves that
        // the protocol is one in which it does.
        biased;
        read = read_more(client, heard) => read.map(|_| Speaker::Client),
        read = read_more(server, &mut greeting) => read.map(|_| Speaker::Server(greeting)),
    }
}

/// A record header: handshake, major version 3, then the type of the first message: ClientHello.
fn classify_tls(bytes: &[u8]) -> Verdict {
    match bytes {
        [_, 3, minor, _, _, 1, ..] if *minor <= 4 => Verdict::Tls,
        [_] | [_, 3] => Verdict::NeedMore,
        [_, 3, minor] | [_, 3, minor, _] | [_, 3, minor, _, _] if *minor <= 4 => Verdict::NeedMore,
        _ => Verdict::Opaque,
    }
}

/// `METHOD SP target SP HTTP/1.` is HTTP/1; anything that cannot become it is not.
fn classify_http1(bytes: &[u8]) -> Verdict {
    let method_len = bytes.iter().take_while(|b| is_method_byte(**b)).count();
    if method_len > MAX_METHOD_LEN {
        return Verdict::Opaque;
    }
    if method_len == bytes.len() {
        return Verdict::NeedMore;
    }
    if method_len == 0 || bytes[method_len] != b' ' {
        return Verdict::Opaque;
    }
    let target = &bytes[method_len + 1..];
    let Some(target_len) = target.iter().position(|b| *b <= b' ') else {
        // A target may be long; a client that sends nothing but target bytes for this long is
        // refused by the HTTP server with the right answer (414, 431).
        return if bytes.len() > MAX_REQUEST_LINE_LEN {
            Verdict::Http1
        } else {
            Verdict::NeedMore
        };
    };
    if target_len == 0 || target[target_len] != b' ' {
        return Verdict::Opaque;
    }
    let version = &target[target_len + 1..];
    let common = version.len().min(b"HTTP/1.".len());
    if version[..common] != b"HTTP/1."[..common] {
        return Verdict::Opaque;
    }
    if common == b"HTTP/1.".len() {
        Verdict::Http1
    } else {
        Verdict::NeedMore
    }
}

/// Methods are tokens (RFC 9110 section 5.6.2); in practice upper case, `-` and `_`.
fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}
