//! HTTP/1.1: bytes made before, and as little as can be looked at.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{SIZES, Shape, connect};

/// What a head may have, at most.
const MAX_HEAD: usize = 8 * 1024;
const READ: usize = 64 * 1024;
/// Serves until it is dropped.
pub(in crate::bench) async fn serve(listener: TcpListener) {
    let answers: Rc<Vec<Vec<u8>>> = Rc::new(SIZES.iter().map(|size| answer(*size)).collect());
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Rc::clone(&answers);
        connections.spawn_local(async move {
            // The client tells what went wrong.
            let _ = answer_each(stream, &answers).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(size: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {size}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

async fn answer_each(mut stream: TcpStream, answers: &[Vec<u8>]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(MAX_HEAD);
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        // "GET /0", "GET /1"
        let which = usize::from(head[5].wrapping_sub(b'0'));
        let answer = answers.get(which).ok_or(io::ErrorKind::InvalidData)?;
        stream.write_all(answer).await?;
    }
}

/// A connection that asks, one request after the other.
pub(super) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    size: usize,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) async fn new(to: SocketAddr, shape: Shape) -> anyhow::Result<Self> {
        let which = shape.which()?;
        let request = format!(
            "GET /{which} HTTP/1.1\r\nhost: {to}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n"
        );
        Ok(Self {
            stream: connect(to).await?,
            request: request.into_bytes(),
            size: shape.size,
            buffer: vec![0; READ.min(MAX_HEAD + shape.size)],
        })
    }

    pub(super) async fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream
            .write_all(&self.request)
            .await
            .context("sending")?;
        let mut filled = 0;
        let body = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            anyhow::ensure!(read > 0, "the connection ended within an answer");
            filled += read;
            let known = &self.buffer[..filled];
            if let Some(at) = known.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            anyhow::ensure!(filled < MAX_HEAD, "an answer without an end of its head");
        };
        anyhow::ensure!(
            self.buffer.starts_with(b"HTTP/1.1 200 "),
            "not answered well: {}",
            String::from_utf8_lossy(&self.buffer[..filled.min(300)])
        );
        let mut left = (self.size + body)
            .checked_sub(filled)
            .context("more than was asked for")?;
        while left > 0 {
            let read = self.stream.read(&mut self.buffer[..]).await?;
            anyhow::ensure!(read > 0, "the connection ended within a body");
            left = left.checked_sub(read).context("more than was asked for")?;
        }
        Ok(())
    }

    /// The connection, which nothing is under way on.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
