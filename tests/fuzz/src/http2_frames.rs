//! Frames of an HTTP/2 client.
//!
//! Input: what follows the preface; then, behind three bytes `0xff` (which are in no frame's header), the
//! sizes of the pieces that it comes in.

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt as _, duplex};
use weft_proxy::bounds::{Bounds, ProcessLimits};
use weft_proxy::http::Version;
use weft_proxy::http::answer::answer;
use weft_proxy::http::body::ResponseBody;
use weft_proxy::http::client::BoxFuture;
use weft_proxy::http::server::{Excess, Handler, ServerOptions, serve};
use weft_proxy::net::closing;
use weft_proxy::outcome::{Failure, Origin, Outcome};

use crate::input::pieces;
use crate::parties::{QUIET, hear, run, write};

const SEPARATOR: &[u8] = b"\xff\xff\xff";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
const PIPE: usize = 256 * 1024;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// There are no more requests than heads, no more answers to pings than pings; what comes back is
/// whole frames that begin with settings; the connection ends when its client does.
pub fn target(data: &[u8]) {
    let (frames, sizes) = match data
        .windows(SEPARATOR.len())
        .position(|bytes| bytes == SEPARATOR)
    {
        Some(at) => (&data[..at], &data[at + SEPARATOR.len()..]),
        None => (data, &[][..]),
    };
    run(async {
        let counter = Arc::new(Counter::default());
        let (mut client, server) = duplex(PIPE);
        let (_open, closing) = closing::channel();
        let options = ServerOptions::within(&Bounds::uncounted(ProcessLimits::DEFAULT));
        let handler = Arc::clone(&counter);
        let task = tokio::spawn(serve(server, Version::Http2, handler, closing, options));
        let mut heard = Vec::new();
        write(&mut client, &[PREFACE]).await;
        write(&mut client, &pieces(frames, sizes)).await;
        if !hear(&mut client, &mut heard).await {
            let _ = client.shutdown().await;
            let _ = hear(&mut client, &mut heard).await;
        }
        drop(client);
        let ended = tokio::time::timeout(QUIET, task).await;
        assert!(
            matches!(ended, Ok(Ok(()))),
            "the connection goes on: {ended:?}"
        );

        let sent = kinds(frames).0;
        let (answered, is_whole) = kinds(&heard);
        assert!(is_whole, "a part of a frame: {heard:?}");
        assert!(answered.is_empty() || answered[0].0 == SETTINGS);
        let count = |frames: &[(u8, u8)], kind, acks: bool| {
            let is_one = |(found, flags): &&(u8, u8)| *found == kind && (flags & ACK != 0) == acks;
            frames.iter().filter(is_one).count()
        };
        assert!(count(&answered, PING, true) <= count(&sent, PING, false));
        assert!(count(&answered, SETTINGS, true) <= count(&sent, SETTINGS, false));
        let heads = sent.iter().filter(|(kind, _)| *kind == HEADERS).count();
        assert!(*counter.handled.lock() <= heads);
        assert_eq!(*counter.refused.lock(), 0);
    });
}

/// Kinds and flags of frames, and whether the last one is whole.
fn kinds(mut bytes: &[u8]) -> (Vec<(u8, u8)>, bool) {
    let mut kinds = Vec::new();
    while let Some([a, b, c, kind, flags, ..]) = bytes.get(..HEADER) {
        kinds.push((*kind, *flags));
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        match bytes.get(HEADER + length..) {
            Some(rest) => bytes = rest,
            None => return (kinds, false),
        }
    }
    (kinds, bytes.is_empty())
}

/// Reads the body and answers.
#[derive(Default)]
struct Counter {
    handled: Mutex<usize>,
    refused: Mutex<usize>,
}

impl Handler for Counter {
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        *self.handled.lock() += 1;
        Box::pin(async move {
            let body = request.into_body().collect().await;
            Response::new(ResponseBody::full(body.map(|_| "fine").unwrap_or_default()))
        })
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        *self.refused.lock() += 1;
        Box::pin(std::future::ready(answer(&failure, Origin::Inbound, false)))
    }

    fn turn_away(
        self: &Arc<Self>,
        _: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        self.refuse(excess.failure(Outcome::Shed))
    }
}
