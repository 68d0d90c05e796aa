//! An application that speaks on one port whatever its client does, and writes down what it saw.
//!
//! It reads HTTP/1 by itself, so that nothing of the proxy's libraries stands in for it; HTTP/2 is the
//! h2 crate's. What is neither comes back as it came.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weft_sandbox::Pod;

/// How long a server that is asked not to read leaves a body alone.
pub(super) const NOT_READING: Duration = Duration::from_secs(3);
const READ: usize = 64 * 1024;

/// What a connection turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
    Tls,
    Bytes,
}

/// What was seen since the last time.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Of each connection that said anything.
    pub(super) spoken: Vec<Spoken>,
    /// HTTP/1 heads, and behind a chunked body its trailers, as they came.
    pub(super) heads: Vec<String>,
    /// HTTP/2 requests.
    pub(super) streams: usize,
    /// Trailers of HTTP/2 requests.
    pub(super) trailers: Vec<String>,
    /// Bytes of connections that speak neither.
    pub(super) bytes: Vec<u8>,
    /// Bytes of bodies.
    pub(super) body: usize,
}

impl Seen {
    /// Nothing else was spoken: on a new connection, or on one that was there.
    pub(super) fn only(&self, expected: Spoken) -> bool {
        self.spoken.iter().all(|spoken| *spoken == expected)
    }
}

/// Listens until dropped.
pub(super) struct Server {
    seen: Arc<Mutex<Seen>>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(super) fn start(pod: &Pod, port: u16) -> anyhow::Result<Self> {
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), port))?;
        let seen = Arc::<Mutex<Seen>>::default();
        let accepting = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = Arc::clone(&seen);
                    // Ends when its peer does, in whatever way.
                    tokio::spawn(async move { drop(connection(stream, &seen).await) });
                }
            }
        });
        Ok(Self { seen, accepting })
    }

    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock())
    }

    pub(super) fn body(&self) -> usize {
        self.seen.lock().body
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(mut stream: TcpStream, seen: &Arc<Mutex<Seen>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = vec![0; READ];
    let read = stream.read(&mut first).await?;
    first.truncate(read);
    if first.is_empty() {
        return Ok(());
    }
    let spoken = match &first[..] {
        bytes if bytes.starts_with(b"PRI * HTTP/2.0") => Spoken::Http2,
        bytes if bytes.starts_with(b"GET ") || bytes.starts_with(b"POST ") => Spoken::Http1,
        [22, 3, ..] => Spoken::Tls,
        _ => Spoken::Bytes,
    };
    seen.lock().spoken.push(spoken);
    match spoken {
        Spoken::Http1 => http1(stream, first, seen).await,
        Spoken::Http2 => http2(stream, first, seen).await,
        Spoken::Tls | Spoken::Bytes => bytes(stream, first, seen).await,
    }
}

/// Everything comes back.
async fn bytes(
    mut stream: TcpStream,
    mut heard: Vec<u8>,
    seen: &Mutex<Seen>,
) -> anyhow::Result<()> {
    while !heard.is_empty() {
        seen.lock().bytes.extend(&heard);
        stream.write_all(&heard).await?;
        heard.resize(READ, 0);
        let read = stream.read(&mut heard).await?;
        heard.truncate(read);
    }
    Ok(())
}

/// One request after the other; the target says what to answer.
async fn http1(
    mut stream: TcpStream,
    mut heard: Vec<u8>,
    seen: &Mutex<Seen>,
) -> anyhow::Result<()> {
    loop {
        let Some(mut head) = until(&mut stream, &mut heard, "\r\n\r\n").await? else {
            return Ok(());
        };
        let target = head.split(' ').nth(1).context("a target")?.to_owned();
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            let body = until(&mut stream, &mut heard, "\r\n0\r\n").await?;
            seen.lock().body += body.context("half a body")?.len();
            // The trailers, each with the end of its line, and an empty line.
            loop {
                let line = until(&mut stream, &mut heard, "\r\n").await?;
                let line = line.context("half of the trailers")?;
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
        } else if let Some((_, length)) = lower.split_once("content-length: ") {
            let length = length.split("\r\n").next().unwrap_or_default().parse()?;
            if target == "/wait" {
                tokio::time::sleep(NOT_READING).await;
            }
            skip(&mut stream, &mut heard, length, seen).await?;
        }
        seen.lock().heads.push(head);
        let answer = match &*target {
            "/hints" => {
                "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n\
                 HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            }
            "/trailers" => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                 2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"
            }
            "/names" => {
                "HTTP/1.1 200 OK\r\nX-One: 1\r\nSet-Cookie: a=1\r\nETag: \"x\"\r\n\
                 Set-Cookie: b=2\r\nx-two: 2\r\nContent-Length: 2\r\n\r\nok"
            }
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Takes what comes up to `end`, and with it; none where the connection ends before anything.
async fn until(
    stream: &mut TcpStream,
    heard: &mut Vec<u8>,
    end: &str,
) -> anyhow::Result<Option<String>> {
    loop {
        let at = heard
            .windows(end.len())
            .position(|part| part == end.as_bytes());
        if let Some(at) = at {
            let taken = heard.drain(..at + end.len()).collect();
            return Ok(Some(String::from_utf8(taken)?));
        }
        if stream.read_buf(heard).await? == 0 {
            anyhow::ensure!(heard.is_empty(), "broke off");
            return Ok(None);
        }
    }
}

async fn skip(
    stream: &mut TcpStream,
    heard: &mut Vec<u8>,
    length: usize,
    seen: &Mutex<Seen>,
) -> anyhow::Result<()> {
    let mut left = length;
    loop {
        let now = left.min(heard.len());
        heard.drain(..now);
        seen.lock().body += now;
        left -= now;
        if left == 0 {
            return Ok(());
        }
        anyhow::ensure!(stream.read_buf(heard).await? > 0, "half a body");
    }
}

async fn http2(stream: TcpStream, first: Vec<u8>, seen: &Arc<Mutex<Seen>>) -> anyhow::Result<()> {
    let (read, write) = stream.into_split();
    let whole = tokio::io::join(Cursor::new(first).chain(read), write);
    let mut connection = h2::server::handshake(whole).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let seen = Arc::clone(seen);
        // A stream that broke is one that the other side has ended.
        tokio::spawn(async move { drop(stream_of_http2(request, respond, &seen).await) });
    }
    Ok(())
}

/// The trailers of a request are those of its answer, too.
async fn stream_of_http2(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: &Mutex<Seen>,
) -> anyhow::Result<()> {
    seen.lock().streams += 1;
    if request.uri().path() == "/wait" {
        tokio::time::sleep(NOT_READING).await;
    }
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        seen.lock().body += data.len();
    }
    let trailers = body.trailers().await?;
    let mut answer = respond.send_response(Response::new(()), false)?;
    answer.send_data(Bytes::from_static(b"ok"), trailers.is_none())?;
    if let Some(trailers) = trailers {
        let told = trailers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        seen.lock().trailers.extend(told);
        answer.send_trailers(trailers)?;
    }
    Ok(())
}
