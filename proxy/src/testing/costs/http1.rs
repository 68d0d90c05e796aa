//! A client and a server of HTTP/1 that write each message at once.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Ask, BODY, Headers};

/// Asks over one connection.
pub(super) struct Client<I> {
    io: I,
    request: Vec<u8>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    /// What a client library sends, and `more`.
    pub(super) fn new(io: I, more: Headers<'_>) -> Self {
        let mut request = "GET /cart/items?page=2 HTTP/1.1\r\nhost: api\r\n\
            user-agent: costs/1.0\r\naccept: */*\r\n"
            .to_owned();
        for (name, value) in more {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.push_str("\r\n");
        let request = request.into_bytes();
        Self { io, request }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Ask for Client<I> {
    async fn ask(&mut self) {
        self.io.write_all(&self.request).await.unwrap();
        self.io.flush().await.unwrap();
        let mut read = Vec::with_capacity(4 * BODY);
        loop {
            let more = self.io.read_buf(&mut read).await.unwrap();
            assert_ne!(more, 0, "cut off: {}", String::from_utf8_lossy(&read));
            let head = read.windows(4).position(|end| end == b"\r\n\r\n");
            if head.is_some_and(|head| read.len() == head + 4 + BODY) {
                break;
            }
        }
        assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

/// Answers every request on `io`.
pub(super) async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Mon, 02 Mar 2026 08:00:00 GMT\r\n\
         content-length: {BODY}\r\n\r\n"
    )
    .into_bytes();
    response.resize(response.len() + BODY, b'x');
    let mut read = Vec::new();
    while let Ok(1..) = io.read_buf(&mut read).await {
        if read.ends_with(b"\r\n\r\n") {
            read.clear();
            io.write_all(&response).await.unwrap();
            io.flush().await.unwrap();
        }
    }
}
