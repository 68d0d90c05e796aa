//! A client that does the same again and again, as a service with its pool of connections does: it keeps a
//! connection, and after an error connects again, following a pause.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{Counts, amqp, nats, postgres, redis};
use crate::Pod;

/// How long what is done may take; longer is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is done, over a connection that is kept.
pub trait Work: Send + Sync + 'static {
    /// The connection.
    type Connection: Send;

    /// Connects.
    fn connect(&self) -> impl Future<Output = anyhow::Result<Self::Connection>> + Send;

    /// Does it once; `number` is another one every time. What was done is its name in [`Counts::messages`].
    fn act(
        &self,
        connection: &mut Self::Connection,
        number: u64,
    ) -> impl Future<Output = anyhow::Result<String>> + Send;
}

/// A client in the background. Ends when dropped.
#[derive(Debug)]
pub struct Steady {
    counts: Counts,
    task: JoinHandle<()>,
}

impl Steady {
    /// Starts one that does `work` once in `every`, and connects again after `pause`. What takes longer than
    /// 5 s is an error too.
    pub fn start(work: impl Work, every: Duration, pause: Duration) -> Self {
        let counts = Counts::default();
        let seen = counts.clone();
        let task = tokio::spawn(async move {
            let mut number = 0;
            loop {
                let error = match run(&work, &seen, every, &mut number).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                seen.loses(&error);
                tokio::time::sleep(pause).await;
            }
        });
        Self { counts, task }
    }

    /// Ends it; nothing is done any more when this returns, but for what a server still has of it.
    pub async fn stop(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::time::sleep(super::POLL).await;
        }
    }

    /// What it has lived through: what was done is what was confirmed.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    work: &impl Work,
    counts: &Counts,
    every: Duration,
    number: &mut u64,
) -> anyhow::Result<std::convert::Infallible> {
    let mut connection = within(work.connect()).await?;
    counts.connects();
    loop {
        let begin = Instant::now();
        *number += 1;
        let done = within(work.act(&mut connection, *number)).await?;
        counts.does(&done);
        tokio::time::sleep(every.saturating_sub(begin.elapsed())).await;
    }
}

async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => anyhow::bail!("not within {PATIENCE:?}"),
    }
}

/// Who works, and where.
#[derive(Clone, Debug)]
pub struct At {
    pod: Pod,
    to: SocketAddr,
    name: String,
}

impl At {
    /// In this pod, with the server at `to`, on the table, keys, queue or subject of this name.
    pub fn new(pod: &Pod, to: SocketAddr, name: &str) -> Self {
        Self {
            pod: pod.clone(),
            to,
            name: name.to_owned(),
        }
    }
}

/// Rows that are inserted into a table of PostgreSQL with one column `id`, which is made where there is none.
#[derive(Clone, Debug)]
pub struct Inserts(pub At);

impl Work for Inserts {
    type Connection = postgres::Connection;

    async fn connect(&self) -> anyhow::Result<Self::Connection> {
        let At { pod, to, name } = &self.0;
        let mut connection = postgres::Connection::connect(pod, *to, PATIENCE).await?;
        let table = format!("create table if not exists {name} (id bigint)");
        connection.ask(&table).await?;
        Ok(connection)
    }

    async fn act(&self, connection: &mut Self::Connection, id: u64) -> anyhow::Result<String> {
        let insert = format!("insert into {} values ({id})", self.0.name);
        connection.ask(&insert).await?;
        Ok(id.to_string())
    }
}

/// Keys `NAME:1`, `NAME:2` and so on that are set in Redis.
#[derive(Clone, Debug)]
pub struct Sets(pub At);

impl Work for Sets {
    type Connection = redis::Connection;

    async fn connect(&self) -> anyhow::Result<Self::Connection> {
        redis::Connection::connect(&self.0.pod, self.0.to, PATIENCE).await
    }

    async fn act(&self, connection: &mut Self::Connection, number: u64) -> anyhow::Result<String> {
        let key = format!("{}:{number}", self.0.name);
        connection.call(&["set", &key, "1"]).await?;
        Ok(key)
    }
}

/// Messages `1`, `2` and so on that are published to a queue of RabbitMQ and confirmed.
#[derive(Clone, Debug)]
pub struct Queues(pub At);

impl Work for Queues {
    type Connection = amqp::Connection;

    async fn connect(&self) -> anyhow::Result<Self::Connection> {
        let mut connection = amqp::Connection::connect(&self.0.pod, self.0.to).await?;
        connection.declare(&self.0.name).await?;
        Ok(connection)
    }

    async fn act(&self, connection: &mut Self::Connection, number: u64) -> anyhow::Result<String> {
        let message = number.to_string();
        connection.publish(&self.0.name, &message).await?;
        Ok(message)
    }
}

/// Messages `1`, `2` and so on that are published to a subject of NATS, which has taken them.
#[derive(Clone, Debug)]
pub struct Subjects(pub At);

impl Work for Subjects {
    type Connection = nats::Connection;

    async fn connect(&self) -> anyhow::Result<Self::Connection> {
        nats::Connection::connect(&self.0.pod, self.0.to).await
    }

    async fn act(&self, connection: &mut Self::Connection, number: u64) -> anyhow::Result<String> {
        let message = number.to_string();
        connection.publish(&self.0.name, &message).await?;
        Ok(message)
    }
}
