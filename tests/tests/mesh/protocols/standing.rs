//! Clients that send more than a server that does not read takes.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use tokio::io::AsyncWriteExt as _;
use weft_sandbox::Pod;

use super::server::NOT_READING;
use super::{LONG, PATIENCE, connect2, until};

const BLOCK: usize = 64 * 1024;

/// How much was sent before nothing more could be, for half of the time in which nobody reads.
struct Standing {
    sent: usize,
    at: Option<usize>,
}

impl Standing {
    /// Sends by `send`, and notes where that came to a stand.
    async fn wait<T>(
        &mut self,
        sending: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut sending = std::pin::pin!(sending);
        if let Ok(sent) = tokio::time::timeout(NOT_READING / 2, &mut sending).await {
            return sent;
        }
        self.at.get_or_insert(self.sent);
        tokio::time::timeout(PATIENCE, sending)
            .await
            .context("stands for good")?
    }
}

/// Where a client of HTTP/1 came to a stand; afterwards it sends all.
pub(super) async fn long_http1(pod: &Pod, to: SocketAddr) -> anyhow::Result<usize> {
    let mut stream = pod.connect(to).await?;
    let head = format!("POST /wait HTTP/1.1\r\nhost: h\r\ncontent-length: {LONG}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut standing = Standing { sent: 0, at: None };
    let block = vec![7; BLOCK];
    while standing.sent < LONG {
        let writing = async { Ok(stream.write_all(&block).await?) };
        standing.wait(writing).await?;
        standing.sent += BLOCK;
    }
    until(&mut stream, "\r\n\r\nok").await?;
    standing.at.context("it never came to a stand")
}

/// The same over HTTP/2. The other stream of the connection is answered meanwhile.
pub(super) async fn long_http2(pod: &Pod, to: SocketAddr) -> anyhow::Result<usize> {
    let client = connect2(pod, to).await?;
    let mut client = client.ready().await?;
    let post = Request::post("http://own/wait").body(())?;
    let (answer, mut body) = client.send_request(post, false)?;
    let mut standing = Standing { sent: 0, at: None };
    let mut other = None;
    while standing.sent < LONG {
        body.reserve_capacity(BLOCK);
        let room = async {
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
            Ok(room.context("the stream ended")??)
        };
        let room = standing.wait(room).await?;
        let now = room.min(LONG - standing.sent);
        body.send_data(Bytes::from(vec![7; now]), false)?;
        standing.sent += now;
        if other.is_none() {
            client = client.ready().await?;
            let get = Request::get("http://own/").body(())?;
            let (answer, _) = client.send_request(get, true)?;
            other = Some(tokio::time::timeout(NOT_READING / 2, answer).await??);
        }
    }
    body.send_data(Bytes::new(), true)?;
    ensure!(answer.await?.status() == 200);
    ensure!(other.context("the other stream")?.status() == 200);
    standing.at.context("it never came to a stand")
}
