//! A connection out of a pod that is read piece by piece, with bounds.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::Pod;

/// Longest line, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    /// Connects out of the pod, within this time.
    pub(super) async fn connect(
        pod: &Pod,
        to: SocketAddr,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let connecting = tokio::time::timeout(patience, pod.connect(to)).await;
        let stream = connecting
            .with_context(|| format!("connecting to {to}: not within {patience:?}"))?
            .with_context(|| format!("connecting to {to}"))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(super) async fn byte(&mut self) -> io::Result<u8> {
        self.stream.read_u8().await
    }

    pub(super) async fn u32(&mut self) -> io::Result<u32> {
        self.stream.read_u32().await
    }

    /// So many bytes, where that is not more than `most`.
    pub(super) async fn bytes(&mut self, length: usize, most: usize) -> anyhow::Result<Vec<u8>> {
        anyhow::ensure!(length <= most, "{length} bytes at once are too many");
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// A line, without its end.
    pub(super) async fn line(&mut self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_LINE as u64);
        limited.read_until(b'\n', &mut bytes).await?;
        anyhow::ensure!(
            bytes.pop() == Some(b'\n'),
            "the connection was closed, or a line is too long"
        );
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
