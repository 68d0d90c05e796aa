//! Asking the control plane's admin port: one request over HTTP/1.1, bounded in time and size. Where a
//! token is wanted, it is asked once more with one: what is answered 401 has had no effect.

mod token;

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use http::Uri;
use weft_proto::names::{env, ports};

use self::token::{TokenError, Tokens, Wanted};
use super::status::Status;
use crate::cluster::ClusterArgs;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// It waits itself up to 10 s for other replicas.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// 10,000 sidecars on each of a few replicas.
const MAX_ANSWER: u64 = 128 * 1024 * 1024;

/// Whom to ask, and as whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct Server {
    /// The control plane's admin port.
    #[arg(
        long = "server",
        value_name = "URL",
        default_value = "http://127.0.0.1:15190"
    )]
    url: Url,
    /// A file with a token to ask with, instead of WEFT_ADMIN_TOKEN_FILE, or of one that the cluster
    /// gives where one is wanted.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The kubeconfig of the cluster that gives tokens, instead of what KUBECONFIG says, or
    /// ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, instead of its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    #[arg(skip)]
    tokens: Tokens,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
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
    #[error("{0}")]
    Token(#[from] TokenError),
}

/// What was answered.
struct Answer {
    /// Code and phrase.
    status: String,
    /// For what a token is wanted.
    wanted: Option<Wanted>,
    body: Vec<u8>,
    from_loopback: bool,
}

impl Server {
    /// The same, with tokens of this file or of this cluster.
    pub(crate) fn with_tokens_of(
        mut self,
        token_file: Option<PathBuf>,
        cluster: &ClusterArgs,
    ) -> Self {
        self.token_file = token_file;
        self.kubeconfig.clone_from(&cluster.kubeconfig);
        self.context.clone_from(&cluster.context);
        self
    }

    /// A token that was given, if any was.
    fn given_token(&self) -> Result<Option<String>, TokenError> {
        let variable = || {
            let file = std::env::var_os(env::ADMIN_TOKEN_FILE)?;
            (!file.is_empty()).then(|| PathBuf::from(file))
        };
        let file = self.token_file.clone().or_else(variable);
        file.map(|file| token::read(&file)).transpose()
    }

    /// A token of the cluster.
    fn borrowed_token(&self, wanted: &Wanted) -> Result<String, TokenError> {
        let cluster = ClusterArgs {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        };
        self.tokens.borrow(wanted, &cluster)
    }
}

/// With tokens of wherever the environment says.
impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self {
            url: text.parse()?,
            token_file: None,
            kubeconfig: None,
            context: None,
            tokens: Tokens::default(),
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.url.host, self.url.port)
    }
}

impl FromStr for Url {
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
    let given = server.given_token()?;
    let mut answer = ask(server, method, path, body, given.as_deref())?;
    // A borrowed one may have ended since: then there is another try with a new one.
    for _ in 0..2 {
        let Some(wanted) = answer.wanted.take().filter(|_| given.is_none()) else {
            break;
        };
        if !answer.from_loopback {
            return Err(TokenError::NotLoopback.into());
        }
        let token = server.borrowed_token(&wanted)?;
        answer = ask(server, method, path, body, Some(&token))?;
        if answer.wanted.is_some() {
            server.tokens.forget(&wanted);
        }
    }
    if !answer.status.starts_with("200") {
        return Err(AskError::Refused {
            status: answer.status,
            body: String::from_utf8_lossy(&answer.body).trim().to_owned(),
        });
    }
    Ok(answer.body)
}

fn ask(
    server: &Server,
    method: &str,
    path: &str,
    body: &str,
    token: Option<&str>,
) -> Result<Answer, AskError> {
    let mut tcp = connect(&server.url).map_err(AskError::Connect)?;
    let from_loopback = tcp.peer_addr()?.ip().to_canonical().is_loopback();
    let token = token.map_or_else(String::new, |it| format!("authorization: Bearer {it}\r\n"));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}:{}\r\n{token}{}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        server.url.host,
        server.url.port,
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
    let challenge = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("www-authenticate")
            .then_some(value)
    });
    let challenge = challenge.filter(|_| status.starts_with("401"));
    Ok(Answer {
        status: status.to_owned(),
        wanted: challenge.and_then(Wanted::of),
        body: answer[end + 4..].to_vec(),
        from_loopback,
    })
}

fn connect(url: &Url) -> io::Result<TcpStream> {
    let host = url.host.trim_matches(['[', ']']);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, url.port).to_socket_addrs()? {
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
