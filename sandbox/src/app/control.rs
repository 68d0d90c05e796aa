//! The control port: its server, and the client that tests use.
//!
//! `GET /ready`, `GET /stats`, `DELETE /stats`, `PUT /behavior`, `PUT /kafka` (its cluster), `POST /stop-accepting` (closes the
//! listeners, connections live on), `POST /finish` (closes the listeners, announces the end on
//! connections and finishes what is in flight; the process stays).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ::http::{Method, Request, Response, StatusCode};
use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;

use super::server::Shared;
use super::{Behavior, Stats, kafka};
use crate::Pod;

/// Bytes that a command may have.
const MAX_BODY: usize = 64 * 1024;

/// The control port of an application in a pod.
#[derive(Clone, Debug)]
pub struct Control {
    pod: Pod,
    port: u16,
}

impl Control {
    /// The application in `pod` whose control listener has `port`.
    pub fn new(pod: Pod, port: u16) -> Self {
        Self { pod, port }
    }

    /// Whether it listens on all its ports.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.ask(Method::GET, "/ready", Bytes::new()).await?;
        Ok(())
    }

    /// What it has seen.
    pub async fn stats(&self) -> anyhow::Result<Stats> {
        let body = self.ask(Method::GET, "/stats", Bytes::new()).await?;
        serde_json::from_slice(&body).context("reading stats")
    }

    /// Forgets what it has seen, but for what is in flight.
    pub async fn reset_stats(&self) -> anyhow::Result<()> {
        self.ask(Method::DELETE, "/stats", Bytes::new()).await?;
        Ok(())
    }

    /// Tells it what to do from now on.
    pub async fn behave(&self, behavior: &Behavior) -> anyhow::Result<()> {
        let body = serde_json::to_vec(behavior)?;
        self.ask(Method::PUT, "/behavior", body.into()).await?;
        Ok(())
    }

    /// Tells a broker of Kafka of its cluster.
    pub async fn be_broker(&self, cluster: &kafka::Cluster) -> anyhow::Result<()> {
        let body = serde_json::to_vec(cluster)?;
        self.ask(Method::PUT, "/kafka", body.into()).await?;
        Ok(())
    }

    /// Closes its listeners; connections live on.
    pub async fn stop_accepting(&self) -> anyhow::Result<()> {
        self.ask(Method::POST, "/stop-accepting", Bytes::new())
            .await?;
        Ok(())
    }

    /// Closes its listeners, announces the end on its connections and finishes what is in flight.
    pub async fn finish(&self) -> anyhow::Result<()> {
        self.ask(Method::POST, "/finish", Bytes::new()).await?;
        Ok(())
    }

    async fn ask(&self, method: Method, target: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let answer = self.pod.send(to, method, target, body).await?;
        if answer.status != StatusCode::OK {
            anyhow::bail!("{target}: {}: {}", answer.status, answer.text());
        }
        Ok(answer.body)
    }
}

/// Answers one command.
pub(super) async fn handle(
    app: Arc<Shared>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!(error))?
        .to_bytes();
    let (status, answer) = match (&head.method, head.uri.path()) {
        (&Method::GET, "/ready") => (StatusCode::OK, Vec::new()),
        (&Method::GET, "/stats") => (StatusCode::OK, serde_json::to_vec(&*app.stats.lock())?),
        (&Method::DELETE, "/stats") => {
            let mut stats = app.stats.lock();
            *stats = Stats {
                in_flight: stats.in_flight,
                most_in_flight: stats.in_flight,
                open_connections: stats.open_connections,
                most_connections: stats.open_connections,
                ..Stats::default()
            };
            (StatusCode::OK, Vec::new())
        }
        (&Method::PUT, "/behavior") => match serde_json::from_slice(&body) {
            Ok(behavior) => {
                *app.behavior.lock() = behavior;
                (StatusCode::OK, Vec::new())
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string().into_bytes()),
        },
        (&Method::PUT, "/kafka") => match serde_json::from_slice(&body) {
            Ok(cluster) => {
                app.kafka.set_cluster(cluster);
                (StatusCode::OK, Vec::new())
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string().into_bytes()),
        },
        (&Method::POST, "/stop-accepting") => {
            app.stop_accepting().await;
            (StatusCode::OK, Vec::new())
        }
        (&Method::POST, "/finish") => {
            app.stop_accepting().await;
            app.finish.cancel();
            (StatusCode::OK, Vec::new())
        }
        _ => (StatusCode::NOT_FOUND, b"no such command\n".to_vec()),
    };
    Ok(Response::builder()
        .status(status)
        .body(Full::new(answer.into()))?)
}
