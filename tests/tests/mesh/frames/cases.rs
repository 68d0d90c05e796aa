//! What is malformed, and what only looks so.

mod framing;

use weft_tests::frames::{block, flag, frame, headers, kind};

/// One row.
pub(super) struct Case {
    /// As in `docs/http2.md`.
    pub(super) name: &'static str,
    /// What the reference proxy does.
    pub(super) reference: &'static str,
    /// What is sent behind the preface and the settings.
    pub(super) frames: Vec<u8>,
    /// The stream whose end is meant, where it is not the connection's.
    pub(super) stream: u32,
    /// How it ends.
    pub(super) end: &'static str,
    /// Requests that the application sees.
    pub(super) seen: u64,
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "api");
const PATH: (&str, &str) = (":path", "/case");
/// A GET that nothing is wrong with.
const GET: [(&str, &str); 4] = [METHOD, SCHEME, AUTHORITY, PATH];

const DROPPED: &str = "connection dropped";
const UNTESTED: &str = "not in the table";
const PROTOCOL_ERROR: &str = "RST_STREAM PROTOCOL_ERROR";
const OF_CONNECTION: &str = "GOAWAY PROTOCOL_ERROR";
const FRAME_SIZE: &str = "GOAWAY FRAME_SIZE_ERROR";

/// In the order of the page.
pub(super) fn all() -> Vec<Case> {
    let mut all = heads();
    all.extend(bodies());
    all.extend(connects());
    all.extend(framing::framing());
    all
}

fn case(
    name: &'static str,
    reference: &'static str,
    frames: Vec<u8>,
    end: &'static str,
    seen: u64,
) -> Case {
    Case {
        name,
        reference,
        frames,
        stream: 1,
        end,
        seen,
    }
}

/// A GET with these headers behind its own.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    headers(1, true, &[&GET, more].concat())
}

/// A POST whose head does not end it.
fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let head = [(":method", "POST"), SCHEME, AUTHORITY, PATH];
    headers(1, false, &[&head, more].concat())
}

fn data(end: bool, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), 1, bytes)
}

fn heads() -> Vec<Case> {
    let long = "M".repeat(5_000);
    let long_method = headers(1, true, &[(":method", &long), SCHEME, AUTHORITY, PATH]);
    let huge = "v".repeat(4_000);
    let mut huge_head = block(&GET);
    for _ in 0..20 {
        huge_head.extend(block(&[("x-huge", &huge)]));
    }
    let pieces: Vec<_> = huge_head.chunks(16_000).collect();
    let mut oversized = frame(kind::HEADERS, flag::END_STREAM, 1, pieces[0]);
    for (index, piece) in pieces.iter().enumerate().skip(1) {
        let last = if index + 1 == pieces.len() {
            flag::END_HEADERS
        } else {
            0
        };
        oversized.extend(frame(kind::CONTINUATION, last, 1, piece));
    }
    vec![
        case("a plain request", "200", with(&[]), "200", 1),
        case("te: trailers", "200", with(&[("te", "trailers")]), "200", 1),
        case(
            "te: gzip",
            DROPPED,
            with(&[("te", "gzip")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "connection header",
            DROPPED,
            with(&[("connection", "close")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "transfer-encoding header",
            DROPPED,
            with(&[("transfer-encoding", "chunked")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "keep-alive header",
            UNTESTED,
            with(&[("keep-alive", "1")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "proxy-connection header",
            UNTESTED,
            with(&[("proxy-connection", "close")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "upgrade header",
            UNTESTED,
            with(&[("upgrade", "websocket")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "uppercase name",
            DROPPED,
            with(&[("X-Upper", "a")]),
            OF_CONNECTION,
            0,
        ),
        case(
            "CRLF in a value",
            DROPPED,
            with(&[("x-split", "a\r\nx-b: c")]),
            OF_CONNECTION,
            0,
        ),
        case(
            "NUL in a value",
            UNTESTED,
            with(&[("x-nul", "a\0b")]),
            OF_CONNECTION,
            0,
        ),
        case(
            "colon in a name",
            DROPPED,
            with(&[("x:y", "a")]),
            OF_CONNECTION,
            0,
        ),
        case("empty name", UNTESTED, with(&[("", "a")]), OF_CONNECTION, 0),
        case(
            "duplicate :path",
            DROPPED,
            with(&[(":path", "/other")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "missing :path",
            DROPPED,
            headers(1, true, &[METHOD, SCHEME, AUTHORITY]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "empty :path",
            UNTESTED,
            headers(1, true, &[METHOD, SCHEME, AUTHORITY, (":path", "")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "space in :path",
            DROPPED,
            headers(1, true, &[METHOD, SCHEME, AUTHORITY, (":path", "/a b")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "missing :method",
            UNTESTED,
            headers(1, true, &[SCHEME, AUTHORITY, PATH]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "missing :scheme",
            UNTESTED,
            headers(1, true, &[METHOD, AUTHORITY, PATH]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "duplicate :method",
            UNTESTED,
            with(&[METHOD]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "unknown pseudo header",
            UNTESTED,
            with(&[(":weft", "1")]),
            OF_CONNECTION,
            0,
        ),
        case(
            "a response's pseudo header",
            UNTESTED,
            with(&[(":status", "200")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "pseudo header behind others",
            UNTESTED,
            headers(
                1,
                true,
                &[METHOD, SCHEME, AUTHORITY, ("x-first", "1"), PATH],
            ),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "no :authority, no host",
            UNTESTED,
            headers(1, true, &[METHOD, SCHEME, PATH]),
            "400",
            0,
        ),
        case(
            "host equal to :authority",
            "200",
            with(&[("host", "api")]),
            "200",
            1,
        ),
        case(
            "host != :authority",
            "200, :authority wins",
            with(&[("host", "elsewhere")]),
            "400",
            0,
        ),
        case(
            "two host headers",
            UNTESTED,
            with(&[("host", "api"), ("host", "api")]),
            "400",
            0,
        ),
        case(
            ":method of 5 KB",
            "reset by the HTTP/1 codec",
            long_method,
            "200",
            1,
        ),
        case("head of 80 KB", DROPPED, oversized, "431", 0),
    ]
}

fn bodies() -> Vec<Case> {
    let trailers = |more: &[(&str, &str)]| {
        let mut frames = post(&[]);
        frames.extend(data(false, b"body"));
        frames.extend(headers(1, true, more));
        frames
    };
    let posted = |more: &[(&str, &str)], body: &[u8]| {
        let mut frames = post(more);
        frames.extend(data(true, body));
        frames
    };
    let mut after_end = with(&[]);
    after_end.extend(data(true, b"more"));
    let mut no_end = post(&[]);
    no_end.extend(headers(1, false, &[("x-trailer", "1")]));
    vec![
        case(
            "a body of its content-length",
            "200",
            posted(&[("content-length", "4")], b"body"),
            "200",
            1,
        ),
        case(
            "more DATA than content-length",
            PROTOCOL_ERROR,
            posted(&[("content-length", "3")], b"body"),
            PROTOCOL_ERROR,
            1,
        ),
        case(
            "less DATA than content-length",
            PROTOCOL_ERROR,
            posted(&[("content-length", "5")], b"body"),
            PROTOCOL_ERROR,
            1,
        ),
        case(
            "content-length and no body",
            PROTOCOL_ERROR,
            with(&[("content-length", "5")]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "differing content-lengths",
            UNTESTED,
            posted(&[("content-length", "4"), ("content-length", "5")], b"body"),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "repeated content-length",
            UNTESTED,
            posted(&[("content-length", "4"), ("content-length", "4")], b"body"),
            "400",
            0,
        ),
        case(
            "content-length: +4",
            UNTESTED,
            posted(&[("content-length", "+4")], b"body"),
            PROTOCOL_ERROR,
            0,
        ),
        case("trailers", "200", trailers(&[("x-trailer", "1")]), "200", 1),
        case(
            "pseudo header in trailers",
            UNTESTED,
            trailers(&[(":path", "/other")]),
            "200",
            1,
        ),
        case(
            "connection header in trailers",
            UNTESTED,
            trailers(&[("connection", "close")]),
            PROTOCOL_ERROR,
            1,
        ),
        case(
            "trailers that do not end the stream",
            UNTESTED,
            no_end,
            PROTOCOL_ERROR,
            1,
        ),
        case(
            "DATA behind the end of the stream",
            UNTESTED,
            after_end,
            OF_CONNECTION,
            1,
        ),
    ]
}

fn connects() -> Vec<Case> {
    let connect = (":method", "CONNECT");
    vec![
        case(
            "CONNECT",
            "404",
            headers(1, false, &[connect, AUTHORITY]),
            "200",
            1,
        ),
        case(
            "CONNECT with :path",
            UNTESTED,
            headers(1, false, &[connect, SCHEME, AUTHORITY, PATH]),
            PROTOCOL_ERROR,
            0,
        ),
        case(
            "extended CONNECT",
            UNTESTED,
            headers(
                1,
                false,
                &[connect, SCHEME, AUTHORITY, PATH, (":protocol", "websocket")],
            ),
            "501",
            0,
        ),
        case(
            ":protocol without CONNECT",
            UNTESTED,
            with(&[(":protocol", "websocket")]),
            PROTOCOL_ERROR,
            0,
        ),
    ]
}
