//! Redis, with `redis-cli` and `redis-benchmark`, and a small client that keeps a connection.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::wire::Wire;
use super::{Server, command, succeed};
use crate::Pod;

/// Its port.
pub const PORT: u16 = 6379;
/// What it takes to start one and to ask it.
pub const NEEDS: [&str; 3] = ["redis-server", "redis-cli", "redis-benchmark"];

/// Longest value that [`Connection`] takes, in bytes.
const MAX_VALUE: usize = 16 << 20;
/// Most elements of an array that [`Connection`] takes.
const MAX_ELEMENTS: usize = 100_000;
/// Arrays inside of arrays.
const MAX_DEPTH: usize = 8;

/// A running server. What it is told it writes to its log of commands before it answers, so that it has it
/// again when it is killed and started again.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    dir: PathBuf,
}

impl Redis {
    /// Starts one in the pod, with its data in the mesh's directory `dir`.
    ///
    /// # Errors
    /// Where it does not become ready: what it said.
    pub async fn start(pod: &Pod, dir: &Path) -> anyhow::Result<Self> {
        let name = format!("redis-{}", pod.name());
        let data = dir.join(&name);
        fs::create_dir(&data).with_context(|| format!("making {}", data.display()))?;
        let bind = match pod.place() {
            None => "*".to_owned(),
            Some(_) => pod.app_address().to_string(),
        };
        let make = move || {
            let mut redis = command("redis-server", &data);
            redis.args(["--port", &PORT.to_string(), "--bind", &bind]);
            redis.args(["--protected-mode", "no", "--save", ""]);
            redis.args(["--appendonly", "yes", "--appendfsync", "no", "--dir"]);
            redis.arg(&data);
            redis
        };
        let server = Server::start(&name, pod, dir, PORT, make).await?;
        let dir = dir.to_owned();
        let redis = Self { server, dir };
        redis.answers().await?;
        Ok(redis)
    }

    /// Its process, its log.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Ends it at once, SIGKILL.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts it again with what it had, and waits until it answers.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.server.start_again().await?;
        self.answers().await
    }

    /// Runs a command in the server's own pod, past the mesh; what `redis-cli` printed.
    pub async fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let pod = self.server.pod();
        let mut cli = client("redis-cli", pod, &self.dir, self.server.own_address())?;
        cli.args(words);
        Ok(succeed(pod, cli).await?.trim_end().to_owned())
    }

    /// While it still reads its data it says so instead of answering.
    async fn answers(&self) -> anyhow::Result<()> {
        self.server
            .becomes("answers", async || {
                let asked = self.ask(&["ping"]).await;
                Ok(asked.is_ok_and(|answer| answer == "PONG"))
            })
            .await
    }
}

/// `redis-cli` or `redis-benchmark` for the server at `to` as the pod sees it, to add arguments to.
pub fn client(program: &str, pod: &Pod, dir: &Path, to: SocketAddr) -> anyhow::Result<Command> {
    let to = pod.route(to)?;
    let mut command = command(program, dir);
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
    Ok(command)
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A word, such as `OK`.
    Word(String),
    /// A number.
    Number(i64),
    /// A value; what is no UTF-8 is replaced.
    Value(String),
    /// No value.
    Nothing,
    /// Several.
    Array(Vec<Self>),
}

/// A connection of a client that keeps it. Speaks RESP2 (Redis documentation, "Redis serialization protocol
/// specification"). After an error of the connection it is of no more use.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    patience: Duration,
}

impl Connection {
    /// Connects out of the pod. Each answer may take as long as the connection may.
    ///
    /// # Errors
    /// Where nobody accepts in time.
    pub async fn connect(pod: &Pod, to: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let wire = Wire::connect(pod, to, patience).await?;
        Ok(Self { wire, patience })
    }

    /// Runs a command.
    ///
    /// # Errors
    /// What the server says against it, or what became of the connection.
    pub async fn call(&mut self, words: &[&str]) -> anyhow::Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            let _ = write!(request, "${}\r\n{word}\r\n", word.len());
        }
        self.wire.send(request.as_bytes()).await?;
        let patience = self.patience;
        tokio::time::timeout(patience, read_reply(&mut self.wire, MAX_DEPTH))
            .await
            .with_context(|| format!("Redis has not answered within {patience:?}"))?
    }
}

async fn read_reply(wire: &mut Wire, depth: usize) -> anyhow::Result<Reply> {
    let line = wire.line().await?;
    let (kind, rest) = line.split_at_checked(1).context("an empty line")?;
    match kind {
        "+" => Ok(Reply::Word(rest.to_owned())),
        "-" => anyhow::bail!("Redis: {rest}"),
        ":" => Ok(Reply::Number(rest.parse()?)),
        "$" | "*" if rest == "-1" => Ok(Reply::Nothing),
        "$" => {
            let bytes = wire.bytes(rest.parse()?, MAX_VALUE).await?;
            wire.line().await?;
            Ok(Reply::Value(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => {
            let count: usize = rest.parse()?;
            anyhow::ensure!(count <= MAX_ELEMENTS && depth > 0, "an array of {count}");
            let mut elements = Vec::new();
            for _ in 0..count {
                elements.push(Box::pin(read_reply(wire, depth - 1)).await?);
            }
            Ok(Reply::Array(elements))
        }
        _ => anyhow::bail!("not RESP: {line}"),
    }
}
