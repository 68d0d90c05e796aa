//! What the guard clears, the library takes as the same requests.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, server::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// A request as the library hands it over: its line, and its body where that came whole.
type Taken = (String, Option<Vec<u8>>);

/// What the library makes of `bytes`, without any guard. 101 is never the answer.
async fn library(bytes: &[u8]) -> (Vec<Taken>, Vec<u8>) {
    let (near, mut far) = duplex(1 << 16);
    let taken = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let taken = Arc::clone(&taken);
        move |request: Request<Incoming>| {
            let taken = Arc::clone(&taken);
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = request.into_body().collect().await;
                let body = body.ok().map(|body| body.to_bytes().to_vec());
                taken.lock().push((line, body));
                // CONNECT would leave HTTP with a success.
                let mut response = Response::new(Full::new(Bytes::new()));
                *response.status_mut() = http::StatusCode::NOT_FOUND;
                Ok::<_, Infallible>(response)
            }
        }
    });
    let serving = tokio::spawn(
        http1::Builder::new()
            .half_close(true)
            .max_header_size(MAX_HEAD)
            .serve_connection(TokioIo::new(near), service),
    );
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let mut answers = Vec::new();
    far.read_to_end(&mut answers).await.unwrap();
    let _ = serving.await;
    let taken = taken.lock().clone();
    (taken, answers)
}

#[test]
fn targets_as_the_library_takes_them() {
    let mut differ = Vec::new();
    for before in ["", "a?"] {
        for byte in 0x21..=0x7e_u8 {
            let target = format!("/{before}{}b", char::from(byte));
            let text = format!("GET {target} HTTP/1.1\r\n\r\n");
            // Fragments the library cuts off.
            let taken = PathAndQuery::try_from(&*target).is_ok() && byte != b'#';
            if refused(&text).is_none() != taken {
                differ.push(target);
            }
        }
    }
    assert!(differ.is_empty(), "{differ:?}");
    for broken in [
        &b"GET /\xff HTTP/1.1\r\n\r\n"[..],
        b"GET /?\x80 HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(
            scan(broken, []).verdict,
            Verdict::Refused(Violation::Target)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever of a stream is cleared, the library reads as exactly as many requests as the guard
    /// counted, and finds nothing wrong with them. A request that asks to close the connection is the
    /// last for the library, so those are left out here.
    #[test]
    fn counts_are_the_same(bytes in stream()) {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        prop_assume!(!text.contains("close") && !text.contains("http/1.0"));
        let end = scan(&bytes, []);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (taken, answers) = runtime.block_on(library(&bytes[..end.cleared]));
        let shown = String::from_utf8_lossy(&bytes[..end.cleared]).into_owned();
        prop_assert_eq!(taken.len() as u64, end.heads, "{:?}", shown);
        let broken = taken.iter().filter(|(_, body)| body.is_none()).count();
        prop_assert!(broken <= 1, "{:?}", shown);
        let bad = b"HTTP/1.1 400";
        prop_assert!(!answers.windows(bad.len()).any(|part| part == bad), "{:?}", shown);
    }
}
