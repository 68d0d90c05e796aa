//! The rows: what is sent, what is answered, what the application sees.

use super::case::{Case, answered, but, cut, misdirected, refused, served};

/// The rows of the reference, its names first, and what smuggles elsewhere.
pub(super) const CASES: &[Case] = &[
    // Lengths and codings.
    refused(
        "content-length and transfer-encoding (CL.TE)",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 44\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\nx: y\r\n\r\n",
        "400",
    ),
    refused(
        "transfer-encoding and content-length (TE.CL)",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n2a\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\nx: yyyyy\r\n0\r\n\r\n",
        "400",
    ),
    refused(
        "the same content-length twice",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        "400",
    ),
    refused(
        "two content-lengths",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "400",
    ),
    refused(
        "content-length: +2",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: +2\r\n\r\nab",
        "400",
    ),
    refused(
        "content-length: 2, 2",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2, 2\r\n\r\nab",
        "400",
    ),
    refused(
        "content-length: 0x2",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 0x2\r\n\r\nab",
        "",
    ),
    refused(
        "content-length beyond 64 bits",
        "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 18446744073709551618\r\n\r\nab",
        "",
    ),
    refused(
        "transfer-encoding : chunked",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    refused(
        "a vertical tab before chunked",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    answered(
        "transfer-encoding: xchunked",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        &[501],
        "501",
    ),
    answered(
        "transfer-encoding: chunked, identity",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        &[501],
        "501",
    ),
    answered(
        "transfer-encoding: gzip, chunked",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        &[501],
        "501",
    ),
    answered(
        "two transfer-encodings (TE.TE)",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n",
        &[501],
        "",
    ),
    refused(
        "the same transfer-encoding twice",
        "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "",
    ),
    refused(
        "HTTP/1.0 with transfer-encoding (CVE-2026-2835)",
        "POST /a HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    refused(
        "HTTP/1.0 with content-length and transfer-encoding (CVE-2026-2835)",
        "POST /a HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    refused(
        "CONNECT with a content-length",
        "CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\ncontent-length: 34\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    refused(
        "CONNECT with transfer-encoding",
        "CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "",
    ),
    // Chunks. The head has gone on when they come.
    cut(
        "a chunk of size 0x2",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
        "400",
    ),
    cut(
        "a chunk of size +2",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n+2\r\nab\r\n0\r\n\r\n",
        "",
    ),
    cut(
        "a chunk's size after a space",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n 2\r\nab\r\n0\r\n\r\n",
        "",
    ),
    cut(
        "a chunk's size beyond 64 bits",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n10000000000000002\r\nab\r\n0\r\n\r\n",
        "",
    ),
    cut(
        "a chunk with a bare LF",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\nab\n0\n\n",
        "400",
    ),
    cut(
        "a chunk extension with a bare LF",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2;a\nx\r\nab\r\n0\r\n\r\n",
        "",
    ),
    cut(
        "a chunk longer than its size",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        "",
    ),
    cut(
        "a trailer with a bare LF",
        "POST /cut HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\nz: a\r\n\r\n",
        "",
    ),
    but(
        served(
            "chunk extensions",
            "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2;x=\"y\"\r\nab\r\n0\r\n\r\n",
            &["POST /a ab"],
            "200",
        ),
        "they mean something to one connection only, and end there",
    ),
    but(
        served(
            "trailers that would be headers",
            "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntrailer: x, host, content-length\r\n\r\n2\r\nab\r\n0\r\nx: y\r\nhost: other\r\ncontent-length: 9\r\n\r\n",
            &["POST /a ab [x: y]"],
            "",
        ),
        "what frames or routes is no trailer (RFC 9110, 6.5.1)",
    ),
    // Heads.
    refused(
        "NUL in a value",
        "GET /a HTTP/1.1\r\nhost: h\r\nx: a\0b\r\n\r\n",
        "400",
    ),
    refused(
        "a space in the path",
        "GET /a b HTTP/1.1\r\nhost: h\r\n\r\n",
        "400",
    ),
    misdirected("no host", "GET /a HTTP/1.1\r\n\r\n", "400"),
    answered(
        "more than 100 headers",
        "GET /a HTTP/1.1\r\nhost: h\r\n{many}\r\n",
        &[431],
        "431",
    ),
    answered(
        "a head of 70 KB",
        "GET /a HTTP/1.1\r\nhost: h\r\n{long}\r\n",
        &[431],
        "431",
    ),
    but(
        misdirected(
            "two hosts",
            "GET /a HTTP/1.1\r\nhost: h\r\nhost: i\r\n\r\n",
            "200, `host: h,i`",
        ),
        "which of the two is meant, the application would guess",
    ),
    but(
        misdirected(
            "the same host twice",
            "GET /a HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n",
            "",
        ),
        "RFC 9112, 3.2",
    ),
    but(
        misdirected(
            "a target and a host that differ",
            "GET http://i/a HTTP/1.1\r\nhost: h\r\n\r\n",
            "200, the target's",
        ),
        "an application that looks at `Host` would be asked for another host than policy saw",
    ),
    but(
        refused(
            "a header over two lines",
            "GET /a HTTP/1.1\r\nhost: h\r\nx: a\r\n b\r\n\r\n",
            "200, joined",
        ),
        "deprecated (RFC 9112, 5.2), and read in more than one way",
    ),
    but(
        refused(
            "lines that end in LF alone",
            "GET /a HTTP/1.1\nhost: h\n\n",
            "200",
        ),
        "readers differ in what they take for a line",
    ),
    refused(
        "one line that ends in LF alone",
        "GET /a HTTP/1.1\r\nhost: h\r\nx: y\nz: a\r\n\r\n",
        "",
    ),
    refused(
        "a bare CR",
        "GET /a HTTP/1.1\r\nhost: h\r\nx: y\rz: a\r\n\r\n",
        "",
    ),
    refused(
        "white space before a colon",
        "GET /a HTTP/1.1\r\nhost: h\r\nx : y\r\n\r\n",
        "",
    ),
    refused(
        "white space before the first header",
        "GET /a HTTP/1.1\r\n host: h\r\n\r\n",
        "",
    ),
    refused(
        "a header without colon",
        "GET /a HTTP/1.1\r\nhost: h\r\nx\r\n\r\n",
        "",
    ),
    refused(
        "a header's name that is no token",
        "GET /a HTTP/1.1\r\nhost: h\r\nx(y): z\r\n\r\n",
        "",
    ),
    refused(
        "a method that is no token",
        "G(T /a HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    refused(
        "two spaces before the target",
        "GET  /a HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    refused("no version", "GET /a\r\n\r\n", ""),
    refused(
        "HTTP/2.0 in a request line",
        "GET /a HTTP/2.0\r\nhost: h\r\n\r\n",
        "",
    ),
    refused("HTTP/1.2", "GET /a HTTP/1.2\r\nhost: h\r\n\r\n", ""),
    refused(
        "a fragment in the target",
        "GET /a#b HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    refused(
        "a target without slash",
        "GET a HTTP/1.1\r\nhost: h\r\n\r\n",
        "",
    ),
    misdirected(
        "a host that is none",
        "GET /a HTTP/1.1\r\nhost: a b\r\n\r\n",
        "",
    ),
    served(
        "a GET with a body",
        "GET /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab",
        &["GET /a ab"],
        "200",
    ),
    served(
        "a header with an underscore",
        "GET /a HTTP/1.1\r\nhost: h\r\nx_y: z\r\n\r\n",
        &["GET /a"],
        "200",
    ),
    served(
        "a target in absolute form",
        "GET http://h/a HTTP/1.1\r\nhost: h\r\n\r\n",
        &["GET http://h/a"],
        "200",
    ),
    served(
        "dots in the path",
        "GET /b/../a HTTP/1.1\r\nhost: h\r\n\r\n",
        &["GET /b/../a"],
        "200",
    ),
    served(
        "a method in lower case",
        "get /a HTTP/1.1\r\nhost: h\r\n\r\n",
        &["get /a"],
        "",
    ),
    served(
        "OPTIONS *",
        "OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n",
        &["OPTIONS *"],
        "",
    ),
    // Several on one connection.
    Case {
        name: "two in one packet",
        sent: "GET /a HTTP/1.1\r\nhost: h\r\n\r\nPOST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab",
        answers: &[200, 200],
        open: true,
        seen: &["GET /a", "POST /b ab"],
        envoy: "200, 200",
        why: "answers in order",
    },
    Case {
        name: "a good and a bad one in one packet",
        sent: "GET /a HTTP/1.1\r\nhost: h\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\nx : y\r\n\r\nGET /c HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[200, 400],
        open: false,
        seen: &["GET /a"],
        envoy: "",
        why: "nothing behind a refused one is read",
    },
    Case {
        name: "a line end too many between two",
        sent: "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab\r\nGET /b HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[200, 200],
        open: true,
        seen: &["POST /a ab", "GET /b"],
        envoy: "",
        why: "RFC 9112, 2.2",
    },
    Case {
        name: "one behind connection: close",
        sent: "GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[200],
        open: false,
        seen: &["GET /a"],
        envoy: "",
        why: "",
    },
    // Leaving HTTP.
    Case {
        name: "bytes behind an upgrade that is not granted (CVE-2026-2833)",
        sent: "GET /a HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[200, 200],
        open: true,
        seen: &["GET /a", "GET /b"],
        envoy: "",
        why: "they are a request like every other",
    },
    Case {
        name: "a bad request behind an upgrade that is not granted (CVE-2026-2833)",
        sent: "GET /a HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\nx : y\r\n\r\n",
        answers: &[200, 400],
        open: false,
        seen: &["GET /a"],
        envoy: "",
        why: "",
    },
    but(
        served(
            "upgrade: h2c",
            "GET /a HTTP/1.1\r\nhost: h\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
            &[],
            "200, ignored",
        ),
        "the application never sees the wish",
    ),
    // Versions and forms of old.
    Case {
        name: "HTTP/1.0",
        sent: "GET /a HTTP/1.0\r\nhost: h\r\n\r\n",
        answers: &[200],
        open: false,
        seen: &["GET /a"],
        envoy: "426 until enabled",
        why: "an application may have such clients",
    },
    Case {
        name: "HTTP/1.0 without host",
        sent: "GET /a HTTP/1.0\r\n\r\n",
        answers: &[200],
        open: false,
        seen: &["GET /a"],
        envoy: "",
        why: "",
    },
    Case {
        name: "HTTP/1.0 with connection: keep-alive",
        sent: "GET /a HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n",
        answers: &[200],
        open: true,
        seen: &["GET /a"],
        envoy: "",
        why: "",
    },
    Case {
        name: "HEAD",
        sent: "HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[200],
        open: true,
        seen: &["HEAD /a"],
        envoy: "",
        why: "",
    },
    Case {
        name: "204",
        sent: "GET /204 HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[204],
        open: true,
        seen: &["GET /204"],
        envoy: "",
        why: "",
    },
    Case {
        name: "304",
        sent: "GET /304 HTTP/1.1\r\nhost: h\r\n\r\n",
        answers: &[304],
        open: true,
        seen: &["GET /304"],
        envoy: "",
        why: "",
    },
];
