//! An HTTP/2 server of the tests' own, which does to its streams what their paths say, and counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use weft_sandbox::Pod;

/// A gRPC message of five bytes: not compressed, its length, the bytes.
pub(super) const MESSAGE: &[u8] = b"\0\0\0\0\x05weft!";
/// After so many requests on a connection of [`Server::leaving`] it is left.
const LEFT_AFTER: usize = 20;

/// What the server has seen and done.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Connections that were accepted.
    pub(super) connections: usize,
    /// Connections that are over.
    pub(super) closed: usize,
    /// Requests that came.
    pub(super) requests: usize,
    /// Streams at work now.
    pub(super) streams: usize,
    /// The most streams at work at once.
    pub(super) most_streams: usize,
    /// Messages that were handed to the connection.
    pub(super) messages: usize,
    /// Codes that clients have reset streams with.
    pub(super) resets: Vec<Reason>,
}

/// Listens until dropped.
pub(super) struct Server {
    counts: Arc<Mutex<Counts>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves in a pod.
    pub(super) fn start(pod: &Pod, port: u16) -> anyhow::Result<Self> {
        Self::serve(pod, port, usize::MAX)
    }

    /// Ends each of its connections by GOAWAY after some requests.
    pub(super) fn leaving(pod: &Pod, port: u16) -> anyhow::Result<Self> {
        Self::serve(pod, port, LEFT_AFTER)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    fn serve(pod: &Pod, port: u16, leave_after: usize) -> anyhow::Result<Self> {
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), port))?;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let task = tokio::spawn(accept(listener, Arc::clone(&counts), leave_after));
        Ok(Self { counts, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, counts: Arc<Mutex<Counts>>, leave_after: usize) {
    while let Ok((stream, _)) = listener.accept().await {
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            counts.lock().connections += 1;
            // How it ended is in the counts of its streams.
            let _ = connection(stream, &counts, leave_after).await;
            counts.lock().closed += 1;
        });
    }
}

async fn connection(
    stream: TcpStream,
    counts: &Arc<Mutex<Counts>>,
    leave_after: usize,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(2_000)
        .initial_connection_window_size(16 << 20)
        .enable_connect_protocol()
        .handshake(stream)
        .await?;
    let mut requests = 0;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        requests += 1;
        if requests == leave_after {
            connection.graceful_shutdown();
        }
        let counts = Arc::clone(counts);
        tokio::spawn(async move {
            {
                let mut counts = counts.lock();
                counts.requests += 1;
                counts.streams += 1;
                counts.most_streams = counts.most_streams.max(counts.streams);
            }
            // A stream that broke is one that the other side has ended.
            let _ = answer(request, respond, &counts).await;
            counts.lock().streams -= 1;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    counts: &Mutex<Counts>,
) -> anyhow::Result<()> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let number = |at: usize| parts.get(at).and_then(|text| text.parse::<u32>().ok());
    let head = || {
        Response::builder()
            .header("content-type", "application/grpc")
            .body(())
    };
    match parts[0] {
        // So many messages, one every so many milliseconds.
        "messages" => {
            let mut send = respond.send_response(head()?, false)?;
            let (count, pause) = (number(1).unwrap_or(0), number(2).unwrap_or(0));
            for _ in 0..count {
                send_message(&mut send).await?;
                counts.lock().messages += 1;
                if pause > 0 {
                    tokio::time::sleep(Duration::from_millis(pause.into())).await;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            send.send_trailers(trailers)?;
        }
        // Begins an answer and resets it with a code.
        "reset" => {
            let mut send = respond.send_response(head()?, false)?;
            send_message(&mut send).await?;
            // The head is there before.
            tokio::time::sleep(Duration::from_millis(50)).await;
            send.send_reset(number(1).unwrap_or(0).into());
        }
        // Begins an answer and waits to be reset.
        "hold" => {
            let mut send = respond.send_response(head()?, false)?;
            let reason = std::future::poll_fn(|cx| send.poll_reset(cx)).await?;
            counts.lock().resets.push(reason);
        }
        // Bytes both ways, of extended CONNECT too.
        "tunnel" => {
            anyhow::ensure!(request.extensions().get::<h2::ext::Protocol>().is_some());
            let mut send = respond.send_response(Response::new(()), false)?;
            let mut body = request.into_body();
            while let Some(bytes) = body.data().await {
                let bytes = bytes?;
                body.flow_control().release_capacity(bytes.len())?;
                send.send_data(bytes, false)?;
            }
            send.send_data(Bytes::new(), true)?;
        }
        _ => {
            let mut send = respond.send_response(head()?, false)?;
            send.send_data(Bytes::from_static(b"ok"), true)?;
        }
    }
    Ok(())
}

/// Waits for room in the windows, so that nothing waits here that the other side does not want.
async fn send_message(send: &mut SendStream<Bytes>) -> anyhow::Result<()> {
    let mut rest = BytesMut::from(MESSAGE).freeze();
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let room = loop {
            let room = send.capacity();
            if room > 0 {
                break room;
            }
            match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(room) => room?,
                None => anyhow::bail!("the stream is closed"),
            };
        };
        let part = rest.split_to(room.min(rest.len()));
        send.send_data(part, false)?;
    }
    Ok(())
}
