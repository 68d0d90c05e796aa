//! Asking the control plane's admin port: one request over HTTP/1.1, bounded in time and size.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::{Duration, Instant};

use http::Uri;
use weft_proto::names::ports;

use super::status::Status;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// It waits itself up to 10 s for other replicas.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// 10,000 sidecars on each of a few replicas.
const MAX_ANSWER: u64 = 128 * 1024 * 1024;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    host: String,
    port: u16,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "{0}; in a cluster, run first: kubectl -n weft port-forward deploy/weft-control-plane 15190"
    )]
    Connect(io::Error),
    #[error("{0}")]
    Exchange(#[from] io::Error),
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the answer is no HTTP")]
    NotHttp,
    #[error("{status}: {body}")]
    Refused { status: String, body: String },
    #[error("the answer is not of a control plane of this version: {0}")]
    NotStatus(#[from] serde_json::Error),
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a URL such as http://127.0.0.1:15190".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_bare = uri.path() == "/" && uri.query().is_none();
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) if is_bare => Ok(Self {
                host: host.to_owned(),
                port: uri.port_u16().unwrap_or(ports::ADMIN),
            }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

/// The control plane's status.
pub(super) fn status(server: &Server) -> Result<Status, AskError> {
    let body = get(server, "/status")?;
    Ok(serde_json::from_slice(&body)?)
}

/// What there is at a path.
pub(crate) fn get(server: &Server, path: &str) -> Result<Vec<u8>, AskError> {
    exchange(server, "GET", path, "")
}

/// What is answered to being told so.
pub(crate) fn post(server: &Server, path: &str) -> Result<Vec<u8>, AskError> {
    exchange(server, "POST", path, "")
}

/// What is answered to something that is told in JSON.
pub(crate) fn tell(server: &Server, path: &str, body: &str) -> Result<Vec<u8>, AskError> {
    exchange(server, "POST", path, body)
}

/// `body` is JSON, or empty.
fn exchange(server: &Server, method: &str, path: &str, body: &str) -> Result<Vec<u8>, AskError> {
    let mut tcp = connect(server).map_err(AskError::Connect)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}:{}\r\n{}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        server.host,
        server.port,
        if body.is_empty() {
            ""
        } else {
            "content-type: application/json\r\n"
        },
        body.len(),
    );
    tcp.write_all(request.as_bytes())?;
    let answer = read_to_end(&mut tcp)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or(AskError::NotHttp)?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let line = head.lines().next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))
        .ok_or(AskError::NotHttp)?;
    let body = &answer[end + 4..];
    if !status.starts_with("200") {
        return Err(AskError::Refused {
            status: status.to_owned(),
            body: String::from_utf8_lossy(body).trim().to_owned(),
        });
    }
    Ok(body.to_vec())
}

fn connect(server: &Server) -> io::Result<TcpStream> {
    let host = server.host.trim_matches(['[', ']']);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, server.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read_to_end(tcp: &mut TcpStream) -> Result<Vec<u8>, AskError> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AskError::TimedOut);
        }
        tcp.set_read_timeout(Some(left))?;
        match tcp.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(AskError::TimedOut);
            }
            Err(error) => return Err(error.into()),
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::other("the answer is over-long").into());
        }
    }
}
