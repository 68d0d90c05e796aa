//! An application that writes down every byte, and reads HTTP/1 in one way only.
//!
//! It has a reader of its own, so that nothing of the proxy's libraries stands in for it: a head to the
//! empty line, a body by `content-length` or chunks, and a note where a request is anything else. The
//! last part of a target says what to answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the application saw of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    /// The head as it came, without the empty line.
    pub(super) head: String,
    pub(super) body: String,
    /// Whether it came to its end.
    pub(super) whole: bool,
}

/// What came behind a 101, and all that no reader could understand.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) requests: Vec<Request>,
    pub(super) tunnelled: String,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Recorder {
    seen: Arc<Mutex<Seen>>,
    accepting: JoinHandle<()>,
}

impl Recorder {
    /// Answers everybody who connects.
    pub(super) fn start(listener: TcpListener) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let accepting = tokio::task::spawn_local({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let connection = Connection {
                        stream,
                        buffer: Vec::new(),
                        seen: Arc::clone(&seen),
                    };
                    // Ends when its peer does, in whatever way.
                    tokio::task::spawn_local(async move {
                        drop(connection.serve().await);
                    });
                }
            }
        });
        Self { seen, accepting }
    }

    /// What was seen since the last time.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Request {
    fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// A header's values, in order.
    pub(super) fn header<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        self.head.lines().skip(1).filter_map(move |line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// For a table: method, target, body; `…` where it broke off.
    pub(super) fn summary(&self) -> String {
        let line = self.line();
        let short = line.strip_suffix(" HTTP/1.1").unwrap_or(line);
        let end = if self.whole { "" } else { "…" };
        format!("{short} {}{end}", self.body).trim_end().to_owned()
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    seen: Arc<Mutex<Seen>>,
}

impl Connection {
    async fn serve(mut self) -> anyhow::Result<()> {
        while let Some(index) = self.head().await? {
            let request = self.seen.lock().requests[index].clone();
            let target = request.line().split(' ').nth(1).unwrap_or_default();
            let act = target.rsplit('/').next().unwrap_or_default().to_owned();
            if act == "early" {
                self.answer("200 OK", "content-length: 5\r\n", "early")
                    .await?;
            }
            if request.header("expect").next().is_some() && act == "refuse" {
                self.answer("417 Expectation Failed", "content-length: 0\r\n", "")
                    .await?;
                return Ok(());
            }
            self.body(index, &request).await?;
            match &*act {
                "early" => {}
                "101" => {
                    self.answer(
                        "101 Switching Protocols",
                        "connection: upgrade\r\nupgrade: x\r\n",
                        "",
                    )
                    .await?;
                    return self.tunnel().await;
                }
                "204" => self.answer("204 No Content", "", "").await?,
                "304" => {
                    self.answer("304 Not Modified", "etag: \"a\"\r\n", "")
                        .await?;
                }
                "old" => {
                    let old = b"HTTP/1.0 200 OK\r\n\r\nto the end";
                    self.stream.write_all(old).await?;
                    return Ok(());
                }
                "both" => {
                    let fields = "content-length: 5\r\ntransfer-encoding: chunked\r\n";
                    self.answer("200 OK", fields, "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
                        .await?;
                }
                "coded" => {
                    self.answer("200 OK", "transfer-encoding: gzip\r\n", "ok")
                        .await?;
                    return Ok(());
                }
                "two-lengths" => {
                    let fields = "content-length: 2\r\ncontent-length: 5\r\n";
                    self.answer("200 OK", fields, "ok123").await?;
                }
                "more" => {
                    let more = "okHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
                    self.answer("200 OK", "content-length: 2\r\n", more).await?;
                }
                "chunks" => {
                    let fields = "transfer-encoding: chunked\r\n";
                    self.answer("200 OK", fields, "2\r\nok\r\n0\r\n\r\n")
                        .await?;
                }
                "hop" => {
                    let fields = "content-length: 2\r\nconnection: keep-alive, x-hop\r\nx-hop: a\r\n\
                                  X-End: b\r\nkeep-alive: timeout=5\r\n";
                    self.answer("200 OK", fields, "ok").await?;
                }
                _ if request.line().starts_with("HEAD ") => {
                    self.answer("200 OK", "content-length: 2\r\n", "").await?;
                }
                _ => self.answer("200 OK", "content-length: 2\r\n", "ok").await?,
            }
        }
        Ok(())
    }

    async fn answer(&mut self, status: &str, fields: &str, body: &str) -> anyhow::Result<()> {
        let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n{body}");
        self.stream.write_all(text.as_bytes()).await?;
        Ok(())
    }

    /// Reads a head and writes it down: where.
    async fn head(&mut self) -> anyhow::Result<Option<usize>> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            if !self.more().await? {
                if !self.buffer.is_empty() {
                    let head = String::from_utf8_lossy(&self.buffer).into_owned();
                    let broken = Request {
                        head,
                        ..Request::default()
                    };
                    self.seen.lock().requests.push(broken);
                }
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut seen = self.seen.lock();
        seen.requests.push(Request {
            head,
            ..Request::default()
        });
        Ok(Some(seen.requests.len() - 1))
    }

    async fn body(&mut self, index: usize, request: &Request) -> anyhow::Result<()> {
        let lengths: Vec<_> = request.header("content-length").collect();
        let codings: Vec<_> = request.header("transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => {}
            ([length], []) => self.exactly(length.parse()?, index).await?,
            ([], ["chunked"]) => loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).context(line)?;
                self.exactly(size, index).await?;
                let end = self.line().await?;
                if size == 0 {
                    let mut trailer = end;
                    while !trailer.is_empty() {
                        self.note(index, &format!(" [{trailer}]"));
                        trailer = self.line().await?;
                    }
                    break;
                }
                anyhow::ensure!(end.is_empty(), "no end of a chunk");
            },
            _ => anyhow::bail!("two ways to read it"),
        }
        if let Some(request) = self.seen.lock().requests.get_mut(index) {
            request.whole = true;
        }
        Ok(())
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                break at;
            }
            anyhow::ensure!(self.more().await?, "broke off");
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 2);
        Ok(line)
    }

    async fn exactly(&mut self, length: usize, index: usize) -> anyhow::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.buffer.is_empty() {
                anyhow::ensure!(self.more().await?, "broke off");
            }
            let now = left.min(self.buffer.len());
            let part = String::from_utf8_lossy(&self.buffer[..now]).into_owned();
            self.note(index, &part);
            self.buffer.drain(..now);
            left -= now;
        }
        Ok(())
    }

    /// Cases are taken between two requests: one that is written to later is not there any more.
    fn note(&self, index: usize, part: &str) {
        if let Some(request) = self.seen.lock().requests.get_mut(index) {
            request.body.push_str(part);
        }
    }

    async fn tunnel(mut self) -> anyhow::Result<()> {
        loop {
            let part = std::mem::take(&mut self.buffer);
            self.stream.write_all(&part).await?;
            let text = String::from_utf8_lossy(&part).into_owned();
            self.seen.lock().tunnelled.push_str(&text);
            if !self.more().await? {
                return Ok(());
            }
        }
    }

    async fn more(&mut self) -> anyhow::Result<bool> {
        // A keep-alive limit beyond every case's time: connections that are left are the test's.
        let read = self.stream.read_buf(&mut self.buffer);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await??;
        self.seen.lock().bytes += read;
        Ok(read > 0)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}
