//! Calls that an application makes to answer one: `call=ADDRESS:PORT/PATH?QUERY`.
//!
//! The answer is the other's. What concerns the whole chain of calls is passed on, as applications have
//! to for traces to be whole; nothing else is.

use ::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weft_proto::names::headers as names;

/// What is passed on.
const PASSED_ON: [&str; 9] = [
    names::REQUEST_ID,
    names::TRACEPARENT,
    names::TRACESTATE,
    names::B3,
    names::B3_TRACE_ID,
    names::B3_SPAN_ID,
    names::B3_PARENT_SPAN_ID,
    names::B3_SAMPLED,
    names::B3_FLAGS,
];

/// What a query says itself, and whom it asks to be called. Everything behind `call=` is part of the
/// latter, so that it has to be the query's last.
pub(super) fn split(query: &str) -> (&str, Option<&str>) {
    let mut at = 0;
    for pair in query.split('&') {
        if let Some(begin) = pair.strip_prefix("call=") {
            let target = at + pair.len() - begin.len();
            return (&query[..at], Some(&query[target..]));
        }
        at += pair.len() + 1;
    }
    (query, None)
}

/// Makes the call, over a connection of its own.
pub(super) async fn make(target: &str, headers: &HeaderMap) -> anyhow::Result<(StatusCode, Bytes)> {
    let (address, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let path = if path.is_empty() { "/" } else { path };
    let mut request = Request::get(path)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    for name in PASSED_ON {
        for value in headers.get_all(name) {
            request.headers_mut().append(name, value.clone());
        }
    }
    let tcp = TcpStream::connect(address).await?;
    let (mut send, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let response = send.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn calls_nest() {
        let query = "delay_ms=1&call=10.0.0.1:80/a?status=500&call=10.0.0.2:80/b";
        let called = "10.0.0.1:80/a?status=500&call=10.0.0.2:80/b";
        assert_eq!(split(query), ("delay_ms=1&", Some(called)));
        let (_, rest) = called.split_once('?').unwrap_or_default();
        assert_eq!(split(rest), ("status=500&", Some("10.0.0.2:80/b")));
        assert_eq!(split("recall=1&bytes=2"), ("recall=1&bytes=2", None));
    }
}
