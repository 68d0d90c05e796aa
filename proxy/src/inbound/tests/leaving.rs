//! Applications that end HTTP/2 connections with requests still on their way.

use std::sync::atomic::{AtomicUsize, Ordering};

use ::bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::http::client::MAX_REPLACEMENTS;
use crate::outcome::Outcome;
use crate::policy::MtlsMode;
use crate::resilience::attempt::{self, TryResult};
use crate::testing::clients::request;
use crate::testing::policies::inbound;

/// SETTINGS without a setting.
const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// GOAWAY: no stream was begun, and nothing is wrong.
const GOAWAY: &[u8] = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
/// The preface of a client.
const PREFACE_LEN: usize = 24;
/// The type of a frame stands in its fourth byte.
const HEADERS: u8 = 1;

/// Takes no request on its first connections.
struct Leaving {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Leaving {
    async fn new(without: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if counted.fetch_add(1, Ordering::Relaxed) < without {
                    tokio::spawn(leave(tcp));
                } else {
                    tokio::spawn(serve(tcp));
                }
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Leaves as soon as there is a request.
async fn leave(mut tcp: TcpStream) -> std::io::Result<()> {
    tcp.write_all(SETTINGS).await?;
    let mut preface = [0; PREFACE_LEN];
    tcp.read_exact(&mut preface).await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut rest = vec![0; length as usize];
        tcp.read_exact(&mut rest).await?;
        if head[3] == HEADERS {
            break;
        }
    }
    tcp.write_all(GOAWAY).await?;
    // Until the client has read it.
    tcp.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn serve(tcp: TcpStream) -> hyper::Result<()> {
    let answer = service_fn(async |_| {
        let body = Full::new(Bytes::from_static(b"taken"));
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tcp), answer)
        .await
}

#[tokio::test]
async fn what_was_left_out_goes_over_another_connection() {
    for method in [Method::GET, Method::POST] {
        let app = Leaving::new(MAX_REPLACEMENTS).await;
        let sidecar = Sidecar::new(app.address, inbound(MtlsMode::Permissive));
        let mut client = sidecar.dial().await.http2().await;
        let answer = client.send(request(method, "/", &[], "")).await;
        answer.assert_ok("taken");
        assert_eq!(app.connections(), MAX_REPLACEMENTS + 1);
        assert_eq!(sidecar.requests(&[("outcome", "ok")]), 1);
    }
}

#[tokio::test]
async fn not_for_ever() {
    let app = Leaving::new(usize::MAX).await;
    let sidecar = Sidecar::new(app.address, inbound(MtlsMode::Permissive));
    let mut client = sidecar.dial().await.http2().await;
    let answer = client.get("/").await;
    answer.assert_made_by("inbound", Outcome::ConnectRefused);
    assert_eq!(app.connections(), MAX_REPLACEMENTS + 1);
}

/// But the caller's sidecar is told so that it sends the request again, whatever its method: see
/// `outbound::tests::mesh::what_was_not_handed_to_the_application_is_tried_elsewhere_for_every_method`.
#[tokio::test]
async fn a_body_is_never_sent_in_part() {
    let app = Leaving::new(1).await;
    let sidecar = Sidecar::new(app.address, inbound(MtlsMode::Permissive));
    let mut client = sidecar.dial().await.http2().await;
    let answer = client.post("/", "body").await;
    answer.assert_made_by("inbound", Outcome::ConnectRefused);
    assert_eq!(app.connections(), 1);
    let heard = attempt::Answer {
        inbound: Some(Outcome::ConnectRefused),
        ..attempt::Answer::plain(answer.status)
    };
    assert!(TryResult::Answered(heard).never_processed());
}
