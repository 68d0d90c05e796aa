//! A client that sends bytes as they are and reads answers one by one.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::Pod;

/// What an answer or an end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = pod.connect(to).await?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends; a peer that has closed already shows when it is read.
    pub(super) async fn send(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes()).await;
    }

    pub(super) async fn half_close(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// The next answer; none where the connection ended first. `head`: to a HEAD.
    pub(super) async fn answer(&mut self, head: bool) -> anyhow::Result<Option<Answer>> {
        let answer = tokio::time::timeout(PATIENCE, self.read(head));
        answer.await.context("no answer")?
    }

    /// Whether the peer ends the connection, with nothing more said.
    pub(super) async fn is_closed(&mut self) -> anyhow::Result<bool> {
        anyhow::ensure!(self.buffer.is_empty(), "more: {:?}", self.text());
        Ok(tokio::time::timeout(PATIENCE, self.more())
            .await
            .is_ok_and(|more| !more))
    }

    /// Bytes behind a 101.
    pub(super) async fn exactly(&mut self, length: usize) -> anyhow::Result<String> {
        tokio::time::timeout(PATIENCE, async {
            while self.buffer.len() < length {
                anyhow::ensure!(self.more().await, "ended after {:?}", self.text());
            }
            let rest = self.buffer.split_off(length);
            let text = self.text();
            self.buffer = rest;
            Ok(text)
        })
        .await
        .context("too few bytes")?
    }

    async fn read(&mut self, to_head: bool) -> anyhow::Result<Option<Answer>> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                anyhow::ensure!(self.buffer.is_empty(), "half an answer: {:?}", self.text());
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.with_context(|| head.clone())?;
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
        };
        if to_head || status < 200 || status == 204 || status == 304 {
            return Ok(Some(answer));
        }
        if let Some(length) = answer.header("content-length") {
            let length = length.parse()?;
            while self.buffer.len() < length {
                anyhow::ensure!(self.more().await, "half a body");
            }
            answer.body = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
            self.buffer.drain(..length);
        } else if answer.header("transfer-encoding") == Some("chunked") {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"0\r\n\r\n") {
                    break at + 5;
                }
                anyhow::ensure!(self.more().await, "half a body: {:?}", self.text());
            };
            answer.body = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end);
        } else {
            while self.more().await {}
            answer.body = self.text();
            self.buffer.clear();
        }
        Ok(Some(answer))
    }

    /// Whether there was more; a reset is an end.
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}
