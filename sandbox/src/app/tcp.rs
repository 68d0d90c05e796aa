//! Bytes that come back.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::server::Shared;

const CHUNK: usize = 64 * 1024;

/// Sends back everything until the peer ends its side, then ends this one.
pub(super) async fn echo(
    app: &Shared,
    mut stream: TcpStream,
    greeting: Option<String>,
) -> io::Result<()> {
    if let Some(greeting) = greeting {
        stream.write_all(greeting.as_bytes()).await?;
    }
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&chunk[..length]).await?;
        app.stats.lock().echoed += length as u64;
    }
}
