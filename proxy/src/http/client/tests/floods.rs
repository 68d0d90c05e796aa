use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use metrics::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::*;
use crate::http::Version;
use crate::http::body::ResponseBody;
use crate::http::floods::FloodLimits;
use crate::http::testing::{Accepted, answers, get, h2_bounded, whole};
use crate::outcome::{Outcome, Processed};

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// `:status: 200` from the static table, in HEADERS that do not end their stream.
const OK: [u8; 10] = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
/// The longest flood that is sent.
const MOST: usize = 200_000;

/// A name, what is sent first and then again and again, and how the request ends.
type Case<'a> = (&'a str, &'a [u8], &'a [u8], Option<Outcome>);

fn bounds() -> (FloodBounds, Arc<AtomicU64>) {
    let hits = Arc::new(AtomicU64::new(0));
    let bounds = FloodBounds {
        limits: FloodLimits::default(),
        hits: Counter::from_arc(Arc::clone(&hits)),
    };
    (bounds, hits)
}

/// Greets, waits for a request, says `first` and then `part` again and again. How often, when the
/// connection ended.
async fn flood(stream: DuplexStream, first: Vec<u8>, part: Vec<u8>) -> usize {
    let (mut read, mut write) = tokio::io::split(stream);
    let (heard, request) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut heard = Some(heard);
        let mut bytes = [0; 4_096];
        let mut all: Vec<u8> = Vec::new();
        while let Ok(read @ 1..) = read.read(&mut bytes).await {
            all.extend(&bytes[..read]);
            // HEADERS that end stream 1.
            let end: [u8; 6] = [1, 5, 0, 0, 0, 1];
            if all.windows(end.len()).any(|window| window == end)
                && let Some(heard) = heard.take()
            {
                let _ = heard.send(());
            }
        }
    });
    write.write_all(&SETTINGS).await.unwrap();
    request.await.unwrap();
    write.write_all(&first).await.unwrap();
    for sent in 0..MOST {
        if write.write_all(&part).await.is_err() {
            return sent;
        }
    }
    MOST
}

/// Sends one request to a server that floods, and one after it to a server that does not.
async fn outcome(first: &[u8], part: &[u8]) -> (Result<(), Option<Outcome>>, usize, u64) {
    let (bounds, hits) = bounds();
    let (pool, mut accepted) = h2_bounded(bounds);
    let (first, part) = (first.to_vec(), part.to_vec());
    let flooding = tokio::spawn(async move {
        let stream = accepted.streams.recv().await.unwrap();
        (flood(stream, first, part).await, accepted)
    });
    let sent = pool.send(get("http://peer/"), SendOptions::default()).await;
    let ended = match sent {
        Ok(response) => response
            .into_body()
            .collect()
            .await
            .map(drop)
            .map_err(|_| None),
        Err(error) => {
            assert_eq!(
                error.failure.processed,
                Processed::Maybe,
                "the server had it"
            );
            Err(Some(error.failure.outcome))
        }
    };
    let (sent, accepted) = tokio::time::timeout(Duration::from_secs(20), flooding)
        .await
        .expect("the flood goes on")
        .unwrap();
    served_next(&pool, accepted).await;
    (ended, sent, hits.load(Ordering::Relaxed))
}

/// Whoever comes next gets a connection of its own.
async fn served_next(pool: &H2Pool<crate::http::testing::Pipes>, accepted: Accepted) {
    let answer = answers(|_| async { http::Response::new(ResponseBody::full("served")) });
    let _closing = accepted.serve(Version::Http2, answer);
    let next = pool.send(get("http://peer/"), SendOptions::default()).await;
    assert_eq!(whole(next.unwrap()).await, "served");
    assert_eq!(pool.stats().connections, 1);
}

#[tokio::test]
async fn a_server_that_floods_is_cut_and_the_request_was_reset() {
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let empty = [0, 0, 0, 0, 0, 0, 0, 0, 1];
    let window = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    // `:status: 103` as a literal: an interim answer.
    let interim = [0, 0, 5, 1, 4, 0, 0, 0, 1, 0x08, 3, b'1', b'0', b'3'];
    assert_eq!(interim.len(), 9 + 5);
    let cases: [Case; 5] = [
        ("PING", &[], &ping, Some(Outcome::Reset)),
        ("SETTINGS", &[], &SETTINGS, Some(Outcome::Reset)),
        ("WINDOW_UPDATE", &[], &window, Some(Outcome::Reset)),
        ("interim answers", &[], &interim, Some(Outcome::Reset)),
        // In the middle of an answer.
        ("empty DATA", &OK, &empty, None),
    ];
    for (name, first, part, outcome_of_it) in cases {
        let (ended, sent, hits) = outcome(first, part).await;
        assert_eq!(ended, Err(outcome_of_it), "{name}");
        // What the pipe holds is under way.
        assert!(sent < 2_000 + 2 * 64 * 1024 / part.len(), "{name}: {sent}");
        assert_eq!(hits, 1, "{name}");
    }
}

/// What the library ends itself is counted too.
#[tokio::test]
async fn a_head_in_endless_pieces_is_a_flood() {
    let begun = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88];
    let mut piece = vec![0, 4, 0, 9, 0, 0, 0, 0, 1];
    // One field: a name of one letter, and a value of 1,018 bytes.
    piece.extend([0, 1, b'x', 0x7f, 0xfb, 6]);
    piece.resize(9 + 1_024, b'v');
    let (ended, sent, hits) = outcome(&begun, &piece).await;
    assert_eq!(ended, Err(Some(Outcome::Reset)));
    assert!(sent < 1_000, "{sent}");
    assert_eq!(hits, 1);
}

/// A server may refuse each request, and say a few words to each.
#[tokio::test]
async fn a_server_that_refuses_everything_is_no_flood() {
    const REQUESTS: usize = 5_000;
    let (mut bounds, hits) = bounds();
    bounds.limits = FloodLimits {
        frames: 2,
        resets: 1,
    };
    let (pool, mut accepted) = h2_bounded(bounds);
    tokio::spawn(async move {
        let stream = accepted.streams.recv().await.unwrap();
        let mut connection = ::h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let _: &mut ::h2::server::SendResponse<bytes::Bytes> = &mut respond;
            respond.send_reset(::h2::Reason::REFUSED_STREAM);
        }
    });
    for _ in 0..REQUESTS {
        let error = pool
            .send(get("http://peer/"), SendOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.failure.processed, Processed::Never);
    }
    assert_eq!(pool.stats().connections, 1);
    assert_eq!(hits.load(Ordering::Relaxed), 0);
}
