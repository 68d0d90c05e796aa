//! NATS, and small clients of it. Its servers speak first.
//!
//! The protocol is that of the NATS documentation, "Client Protocol": lines of text, and messages with
//! their length. A [`Subscriber`] reconnects as client libraries do, after a pause (2 s are usual), and
//! misses what is published meanwhile: NATS keeps nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::wire::Wire;
use super::{Counts, Server, command};
use crate::Pod;

/// Its port.
pub const PORT: u16 = 4222;
/// Where it tells of itself; not through the mesh.
pub const MONITOR: u16 = 8222;
/// What it takes to start one.
pub const NEEDS: [&str; 1] = ["nats-server"];

/// Longest message that clients take, in bytes: the server's own default.
const MAX_MESSAGE: usize = 1 << 20;
/// How long a client waits for the server's word.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct Nats {
    server: Server,
}

impl Nats {
    /// Starts one in the pod, with its log in the mesh's directory `dir`.
    ///
    /// # Errors
    /// Where it does not become ready: what it said.
    pub async fn start(pod: &Pod, dir: &Path) -> anyhow::Result<Self> {
        let at = match pod.place() {
            None => "0.0.0.0".to_owned(),
            Some(_) => pod.app_address().to_string(),
        };
        let home = dir.to_owned();
        let make = move || {
            let mut nats = command("nats-server", &home);
            nats.args(["--port", &PORT.to_string(), "--addr", &at]);
            nats.args(["--http_port", &MONITOR.to_string()]);
            nats
        };
        let name = format!("nats-{}", pod.name());
        let server = Server::start(&name, pod, dir, PORT, make).await?;
        Ok(Self { server })
    }

    /// Its process, its log.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Ends it at once, SIGKILL.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts it again, and waits until it accepts connections.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.server.start_again().await
    }

    /// What it says of itself since its start, such as `in_msgs`, `out_msgs`, `total_connections`.
    pub async fn counts(&self) -> anyhow::Result<Value> {
        let answer = self.server.pod().get_local(MONITOR, "/varz").await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

/// A connection of a client. After an error it is of no more use.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
}

impl Connection {
    /// Connects out of the pod and agrees with the server.
    ///
    /// # Errors
    /// Where nobody answers in time.
    pub async fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let wire = Wire::connect(pod, to, PATIENCE).await?;
        let mut this = Self { wire };
        let hello = tokio::time::timeout(PATIENCE, this.wire.line()).await;
        let hello = hello.context("NATS has not said anything")??;
        anyhow::ensure!(hello.starts_with("INFO "), "not NATS: {hello}");
        this.wire
            .send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\"}\r\n")
            .await?;
        this.flush().await?;
        Ok(this)
    }

    /// Publishes a message, and waits until the server has taken it.
    pub async fn publish(&mut self, subject: &str, payload: &str) -> anyhow::Result<()> {
        let message = format!("PUB {subject} {}\r\n{payload}\r\n", payload.len());
        self.wire.send(message.as_bytes()).await?;
        self.flush().await
    }

    /// Subscribes to a subject, in a group where one is named: each message goes to one of a group.
    pub async fn subscribe(&mut self, subject: &str, group: Option<&str>) -> anyhow::Result<()> {
        let group = group.map_or_else(String::new, |group| format!("{group} "));
        let message = format!("SUB {subject} {group}1\r\n");
        self.wire.send(message.as_bytes()).await?;
        self.flush().await
    }

    /// The next message, however long it takes.
    pub async fn next(&mut self) -> anyhow::Result<String> {
        loop {
            let line = self.wire.line().await?;
            if let Some(head) = line.strip_prefix("MSG ") {
                return self.payload(head).await;
            }
            self.obey(&line).await?;
        }
    }

    /// The server has read everything that was sent before.
    async fn flush(&mut self) -> anyhow::Result<()> {
        self.wire.send(b"PING\r\n").await?;
        let answered = async {
            loop {
                let line = self.wire.line().await?;
                if line == "PONG" {
                    return Ok(());
                }
                self.obey(&line).await?;
            }
        };
        tokio::time::timeout(PATIENCE, answered)
            .await
            .context("NATS has not answered")?
    }

    async fn obey(&mut self, line: &str) -> anyhow::Result<()> {
        if line == "PING" {
            self.wire.send(b"PONG\r\n").await?;
        }
        anyhow::ensure!(!line.starts_with("-ERR"), "NATS: {line}");
        Ok(())
    }

    async fn payload(&mut self, head: &str) -> anyhow::Result<String> {
        let length = head.rsplit(' ').next().unwrap_or_default().parse()?;
        let bytes = self.wire.bytes(length, MAX_MESSAGE).await?;
        self.wire.line().await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A subscriber in the background, which connects again after a pause. Ends when dropped.
#[derive(Debug)]
pub struct Subscriber {
    counts: Counts,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Starts one of a subject and a group, if one is named; it has subscribed when its counts say that it
    /// is connected.
    pub fn start(
        pod: &Pod,
        to: SocketAddr,
        subject: &str,
        group: Option<&str>,
        pause: Duration,
    ) -> Self {
        let counts = Counts::default();
        let (pod, subject, seen) = (pod.clone(), subject.to_owned(), counts.clone());
        let group = group.map(str::to_owned);
        let task = tokio::spawn(async move {
            loop {
                let error = match listen(&pod, to, &subject, group.as_deref(), &seen).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                seen.loses(&error);
                tokio::time::sleep(pause).await;
            }
        });
        Self { counts, task }
    }

    /// What it has lived through, and every message with how often it came.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    pod: &Pod,
    to: SocketAddr,
    subject: &str,
    group: Option<&str>,
    counts: &Counts,
) -> anyhow::Result<std::convert::Infallible> {
    let mut connection = Connection::connect(pod, to).await?;
    connection.subscribe(subject, group).await?;
    counts.connects();
    loop {
        counts.does(&connection.next().await?);
    }
}
