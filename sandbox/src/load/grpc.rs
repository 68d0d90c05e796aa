//! The gRPC side of a call, over HTTP/2 as it is: framing, and what stands in the trailers.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::request::Builder;
use http::{HeaderMap, Method, StatusCode, header};
use prost::Message as _;

use crate::app::echo::echo_server::SERVICE_NAME;
use crate::app::echo::{EchoRequest, EchoResponse};

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// The path that calls go to.
pub(super) fn path() -> String {
    format!("/{SERVICE_NAME}/Unary")
}

/// The head of a call, but for what every request has.
pub(super) fn head(builder: Builder) -> Builder {
    builder
        .method(Method::POST)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
}

/// The body of a call with this payload.
pub(super) fn body(payload: Vec<u8>) -> Bytes {
    let message = EchoRequest {
        payload,
        ..EchoRequest::default()
    };
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).expect("loads send less than 4 GiB at once"));
    message
        .encode(&mut body)
        .expect("a buffer that grows has room");
    body.freeze()
}

/// Whether a call came to a good end; otherwise why not, in words.
pub(super) fn judge(
    status: StatusCode,
    head: &HeaderMap,
    answer: &[u8],
    trailers: Option<&HeaderMap>,
    payload: &[u8],
) -> Result<(), String> {
    if status != StatusCode::OK {
        return Err(format!("gRPC: HTTP status {status}"));
    }
    if head.contains_key("grpc-status") {
        return Err(format!("gRPC: status {} without a message", code(head)));
    }
    let Some(trailers) = trailers else {
        return Err("gRPC: no trailers".to_owned());
    };
    if code(trailers) != "0" {
        return Err(format!("gRPC: status {}", code(trailers)));
    }
    let message = match answer.split_at_checked(PREFIX) {
        Some(([0, length @ ..], message))
            if u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize
                == message.len() =>
        {
            message
        }
        _ => {
            return Err(format!(
                "gRPC: {} bytes that are not one message",
                answer.len()
            ));
        }
    };
    match EchoResponse::decode(message) {
        Ok(echo) if echo.payload == payload => Ok(()),
        Ok(_) => Err("gRPC: another payload came back".to_owned()),
        Err(error) => Err(format!("gRPC: {error}")),
    }
}

/// The status, and what is said about it.
fn code(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").unwrap_or("none");
    match text("grpc-message") {
        Some(message) => format!("{code} ({message})"),
        None => code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &[u8]) -> Vec<u8> {
        let message = EchoResponse {
            payload: payload.to_vec(),
            ..EchoResponse::default()
        }
        .encode_to_vec();
        let mut all = vec![0];
        all.extend_from_slice(&(message.len() as u32).to_be_bytes());
        all.extend_from_slice(&message);
        all
    }

    fn trailers(code: &'static str) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().expect("a number"));
        trailers
    }

    #[test]
    fn only_a_whole_echo_with_status_0_is_good() {
        let (ok, none) = (StatusCode::OK, HeaderMap::new());
        let good = answer(b"abc");
        let ended = trailers("0");
        let judged = |answer: &[u8], trailers: Option<&HeaderMap>| {
            judge(ok, &none, answer, trailers, b"abc")
        };
        assert_eq!(judged(&good, Some(&ended)), Ok(()));
        assert!(judged(&good, None).is_err());
        assert!(judged(&good, Some(&trailers("14"))).is_err());
        assert!(judged(&good, Some(&none)).is_err());
        assert!(judged(&good[..7], Some(&ended)).is_err());
        assert!(judged(&answer(b"abd"), Some(&ended)).is_err());
        assert!(judged(b"", Some(&ended)).is_err());
        let bad = judge(StatusCode::BAD_GATEWAY, &none, &good, Some(&ended), b"abc");
        assert!(bad.is_err());
        assert!(judge(ok, &trailers("0"), &good, Some(&ended), b"abc").is_err());
    }
}
