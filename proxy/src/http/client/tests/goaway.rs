//! Servers that say again and again that a connection ends, as they do to balance loads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::h2::RecvStream;
use ::h2::server::SendResponse;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Response};
use hyper::body::Incoming;

use super::super::*;
use crate::http::Version;
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::server::{Handler, ServerOptions};
use crate::http::testing::{Accepted, Pipes, answers, h2, serve_one};
use crate::outcome::Processed;

/// Callers at once, each with one stream after the other.
const CALLERS: usize = 32;
const STREAMS_EACH: usize = 24;
/// Messages of a stream, each of which is answered before the next.
const MESSAGES: usize = 6;
/// Streams of a connection until it is told to end.
const STREAMS_PER_CONNECTION: usize = 5;
/// Longer than what leaves in one write.
const LONG: usize = 40 * 1024;

/// Says back what comes, and with the end of it a status.
async fn echo(mut said: RecvStream, mut respond: SendResponse<Bytes>) {
    let mut back = respond.send_response(Response::new(()), false).unwrap();
    while let Some(message) = said.data().await {
        let message = message.unwrap();
        let flow = said.flow_control();
        flow.release_capacity(message.len()).unwrap();
        back.send_data(message, false).unwrap();
    }
    let status = [("grpc-status".parse().unwrap(), 0.into())];
    back.send_trailers(HeaderMap::from_iter(status)).unwrap();
}

/// A server whose connections end gracefully (RFC 9113, 6.8): first with the highest stream there can be,
/// and when the client knows, with the last one that was taken. Counts those that have ended.
fn serve_briefly(mut accepted: Accepted) -> Arc<AtomicUsize> {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    tokio::spawn(async move {
        while let Some(stream) = accepted.streams.recv().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = ::h2::server::handshake(stream).await.unwrap();
                let mut taken = 0;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    taken += 1;
                    if taken == STREAMS_PER_CONNECTION {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(echo(request.into_body(), respond));
                }
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    ended
}

/// Sends on what comes to `pool`. What was never processed is sent again, as the stack does.
fn proxy(pool: H2Pool<Pipes>) -> Arc<impl Handler> {
    answers(move |request: Request<Incoming>| {
        let pool = pool.clone();
        async move {
            let mut request = request.map(RequestBody::from);
            loop {
                match pool.send(request, SendOptions::default()).await {
                    Ok(response) => return response.map(ResponseBody::from),
                    Err(error) => {
                        assert_eq!(error.failure.processed, Processed::Never);
                        request = *error.request.expect("nothing of it was sent");
                    }
                }
            }
        }
    })
}

/// One stream, on which `caller` and the server speak in turn.
async fn speak(client: ::h2::client::SendRequest<Bytes>, caller: usize) {
    let mut client = client.ready().await.unwrap();
    let head = Request::post("http://peer/").body(()).unwrap();
    let (response, mut say) = client.send_request(head, false).unwrap();
    let mut heard = response.await.unwrap().into_body();
    for number in 0..MESSAGES {
        let is_long = (caller + number).is_multiple_of(8);
        let message = vec![b'x'; if is_long { LONG } else { 5 + caller }];
        let mut left = message.len();
        say.send_data(message.into(), false).unwrap();
        while left > 0 {
            let part = heard.data().await.expect("the rest comes").unwrap();
            heard.flow_control().release_capacity(part.len()).unwrap();
            left -= part.len();
        }
    }
    say.send_data(Bytes::new(), true).unwrap();
    assert!(heard.data().await.is_none());
    let trailers = heard.trailers().await.unwrap().expect("a status");
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn streams_outlive_what_ends_their_connection() {
    let (pool, accepted) = h2(PoolOptions::MESH);
    let made = accepted.made_counter();
    let ended = serve_briefly(accepted);
    let options = ServerOptions::default();
    let (near, _closing, _served) = serve_one(Version::Http2, proxy(pool.clone()), options);
    let (client, connection) = ::h2::client::handshake(near.0).await.unwrap();
    tokio::spawn(connection);
    let callers = (0..CALLERS).map(|caller| {
        let client = client.clone();
        async move {
            for _ in 0..STREAMS_EACH {
                speak(client.clone(), caller).await;
            }
        }
    });
    let all = tokio::time::timeout(Duration::from_secs(20), join_all(callers)).await;
    assert!(all.is_ok(), "stands still after {} connections", made());
    assert!(made() > CALLERS, "{} connections", made());
    // And so do the connections, but for one that may take more streams.
    let all = async {
        while made() - ended.load(Ordering::Relaxed) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(5), all).await;
    assert!(all.is_ok(), "{ended:?} of {} have ended", made());
}
