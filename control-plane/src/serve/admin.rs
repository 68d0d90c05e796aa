//! The admin listener: health and metrics for everybody; status, edges, rotations and commands to
//! sidecars for whom [`access`] lets in. The status of one replica has the sidecars of all, and says which
//! replica did not answer.

pub mod access;
mod command;
mod edges;
mod proxies;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{ResourceKey, ServiceRef};
use weft_proto::logs::LogControl;

use self::access::{Gate, Verb};
use super::metrics::Metrics;
use super::replicas::Replicas;
use super::streams::{Acknowledgement, ConnectedWorkload, Streams};
use crate::identity::hex;
use crate::index::Model;
use crate::source::progress::Progress;

const MAX_CONNECTIONS: usize = 64;
/// A connection is for a few requests: scrapers come back.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// What a rotation is asked for with; behind it, of what.
const ROTATE: &str = "/identity/rotate/";
/// The level of this process's log; behind it and a slash, the one that it is to be.
const LOG_LEVEL: &str = "/log-level";
const NOT_SERVING: &str = "this replica does not serve yet\n";
const NO_LOG: &str = "the log is another program's\n";
const NOT_YET: &str = "the authority is not there yet\n";

type Request = http::Request<Incoming>;

/// What the admin listener shows.
pub struct Admin {
    /// The model that is served; `None` until the source has synced.
    pub models: watch::Receiver<Option<watch::Receiver<Arc<Model>>>>,
    /// How the source is doing.
    pub progress: Progress,
    /// Who is connected.
    pub streams: Arc<Streams>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// This replica and the others; `None` until it serves.
    pub replicas: watch::Receiver<Option<Arc<Replicas>>>,
    /// Who is let in.
    pub gate: Gate,
    /// Who keeps the authority; `None` until it serves.
    pub keeper: watch::Receiver<Option<Arc<dyn Trusted>>>,
    /// The level of this process's log; `None` where the log is another program's.
    pub log: Option<LogControl>,
    /// Set when the process is about to end: not ready any more.
    pub end: CancellationToken,
}

/// The authority, as the admin listener shows it and hands requests to it.
pub trait Trusted: Send + Sync {
    /// Where it stands.
    fn status(&self) -> Value;
    /// Begins a rotation of what is named so. What was done, or the code and the words of a refusal.
    fn rotate<'a>(&'a self, kind: &'a str) -> BoxFuture<'a, Result<String, (StatusCode, String)>>;
}

impl Admin {
    /// Serves until the process ends.
    pub async fn run(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = admin.end.cancelled() => return,
            };
            let Ok((tcp, peer)) = accepted else {
                sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            // Over the limit: closed at once, which a scraper sees as a failed scrape.
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                // However it ends, there is nobody to tell.
                let _ = timeout(CONNECTION_LIFE, admin.serve(tcp, peer)).await;
                drop(place);
            });
        }
    }

    async fn serve(&self, tcp: TcpStream, peer: SocketAddr) -> Result<(), hyper::Error> {
        let service = service_fn(|request: Request| async move {
            if request.uri().path() == command::PATH {
                return Ok::<_, Infallible>(self.command(peer, request).await);
            }
            let (method, path) = (request.method(), request.uri().path());
            Ok(self.answer(peer, method, path, request.headers()).await)
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(tcp), service)
            .await
    }

    async fn answer(
        &self,
        peer: SocketAddr,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Response<Full<Bytes>> {
        if let Some(verb) = Verb::of(method, path)
            && let Err(refusal) = self.gate.admit(peer, headers, verb, path).await
        {
            return *refusal;
        }
        if let (&Method::POST, Some(kind)) = (method, path.strip_prefix(ROTATE)) {
            return self.rotate(kind).await;
        }
        let level = path.strip_prefix(LOG_LEVEL);
        if let (&Method::POST, Some(level)) = (method, level.and_then(|it| it.strip_prefix('/'))) {
            return self.set_log_level(level);
        }
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match path {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" if self.is_ready() => text(StatusCode::OK, "ready\n"),
            "/ready" => {
                let mut lines = vec!["not ready".to_owned()];
                let missing = self.progress.missing().into_iter();
                lines.extend(missing.map(|kind| format!("not listed yet: {kind}")));
                let permissions = self.progress.permissions().into_iter();
                let missing = permissions.filter(|(_, granted)| !granted);
                lines.extend(missing.map(|(permission, _)| format!("not allowed: {permission}")));
                let body = lines.join("\n") + "\n";
                respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", body)
            }
            "/health" => self.health(),
            "/metrics" => {
                self.metrics.observe(&self.progress);
                let replicas = self.replicas.borrow().clone();
                if let Some(replicas) = replicas {
                    // It looks at everything that every sidecar holds: nobody's stream waits for that.
                    let looked = spawn_blocking(move || replicas.behind()).await;
                    if let Ok((count, since)) = looked {
                        self.metrics.observe_behind(count, since);
                    }
                }
                let content_type = "text/plain; version=0.0.4";
                respond(StatusCode::OK, content_type, self.metrics.render())
            }
            "/status" => json_response(StatusCode::OK, &self.status().await),
            "/identity" => self.identity(),
            "/edges" => self.edges().await,
            LOG_LEVEL => match &self.log {
                Some(log) => respond(StatusCode::OK, "text/plain", format!("{}\n", log.level())),
                None => text(StatusCode::NOT_FOUND, NO_LOG),
            },
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    fn identity(&self) -> Response<Full<Bytes>> {
        let keeper = self.keeper.borrow().clone();
        match keeper {
            Some(keeper) => json_response(StatusCode::OK, &keeper.status()),
            None => text(StatusCode::SERVICE_UNAVAILABLE, NOT_YET),
        }
    }

    async fn edges(&self) -> Response<Full<Bytes>> {
        let replicas = self.replicas.borrow().clone();
        let Some(replicas) = replicas else {
            return text(StatusCode::SERVICE_UNAVAILABLE, NOT_SERVING);
        };
        let edges = replicas.ask_edges().await;
        json_response(StatusCode::OK, &edges::describe(&edges))
    }

    fn set_log_level(&self, level: &str) -> Response<Full<Bytes>> {
        let Some(log) = &self.log else {
            return text(StatusCode::NOT_FOUND, NO_LOG);
        };
        match log.set_level(level) {
            Ok(before) => {
                let now = log.level();
                tracing::info!(%before, %now, "the log level has changed");
                respond(StatusCode::OK, "text/plain", format!("{now}\n"))
            }
            Err(error) => respond(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
        }
    }

    async fn rotate(&self, kind: &str) -> Response<Full<Bytes>> {
        let keeper = self.keeper.borrow().clone();
        let Some(keeper) = keeper else {
            return text(StatusCode::SERVICE_UNAVAILABLE, NOT_YET);
        };
        match keeper.rotate(kind).await {
            Ok(done) => respond(StatusCode::OK, "text/plain", done + "\n"),
            Err((code, why)) => respond(code, "text/plain", why + "\n"),
        }
    }

    async fn command(&self, peer: SocketAddr, request: Request) -> Response<Full<Bytes>> {
        if let Err(refusal) = self.gate.lets_in(peer) {
            return *refusal;
        }
        // What it is decides who may: it is read first, and is short.
        let headers = request.headers().clone();
        let order = match command::read(request).await {
            Ok(order) => order,
            Err((code, why)) => return respond(code, "text/plain", why + "\n"),
        };
        let (verb, what) = command::verb(&order);
        if let Err(refusal) = self.gate.admit(peer, &headers, verb, &what).await {
            return *refusal;
        }
        let replicas = self.replicas.borrow().clone();
        let (Some(replicas), Some(model)) = (replicas, self.model()) else {
            return text(StatusCode::SERVICE_UNAVAILABLE, NOT_SERVING);
        };
        let orders = replicas.order(&order).await;
        json_response(StatusCode::OK, &command::describe(&orders, &model, &order))
    }

    fn is_ready(&self) -> bool {
        self.model().is_some() && !self.end.is_cancelled()
    }

    fn model(&self) -> Option<Arc<Model>> {
        let models = self.models.borrow();
        models.as_ref().map(|model| model.borrow().clone())
    }

    fn health(&self) -> Response<Full<Bytes>> {
        let ready = self.is_ready();
        let model = self.model();
        let code = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_response(
            code,
            &json!({
                "status": if ready { "ok" } else { "unavailable" },
                "version": env!("CARGO_PKG_VERSION"),
                "modelRevision": model.as_ref().map(|model| model.revision()),
                "objectsRefused": model.as_ref().map(|model| model.refusals().len()),
            }),
        )
    }

    async fn status(&self) -> Value {
        let model = self.model();
        let refused: Vec<Value> = model
            .iter()
            .flat_map(|model| model.refusals())
            .map(|refusal| {
                json!({
                    "file": refusal.file,
                    "line": refusal.line,
                    "object": refusal.object,
                    "reason": refusal.reason,
                    "mend": refusal.mend,
                })
            })
            .collect();
        let workloads: Vec<Value> = self.streams.snapshot().iter().map(workload).collect();
        let replicas = self.replicas.borrow().clone();
        let asked = match replicas {
            Some(replicas) => replicas.ask_all().await,
            None => Vec::new(),
        };
        let proxies = proxies::newest(&asked);
        let not_connected = model
            .as_deref()
            .map(|model| proxies::not_connected(model, &asked, &proxies));
        let now = SystemTime::now();
        json!({
            "trustDomain": model.as_ref().map(|model| model.trust_domain()),
            "modelRevision": model.as_ref().map(|model| model.revision()),
            "refused": refused,
            "workloads": workloads,
            "replicas": asked.iter().map(proxies::replica).collect::<Value>(),
            "proxies": proxies.iter().map(|proxy| proxy.describe(now)).collect::<Value>(),
            "notConnected": not_connected,
        })
    }
}

fn workload(connected: &ConnectedWorkload) -> Value {
    let since = connected
        .since
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut resources: Vec<(String, &Acknowledgement)> = connected
        .acks
        .iter()
        .map(|(key, ack)| (describe(key), ack))
        .collect();
    resources.sort_by(|a, b| a.0.cmp(&b.0));
    let resources: Vec<Value> = resources
        .into_iter()
        .map(|(resource, ack)| {
            json!({
                "resource": resource,
                "contentHash": hex(&ack.version.content_hash),
                "sourceRevision": ack.version.source_revision,
                "refused": ack.refused,
            })
        })
        .collect();
    json!({
        "namespace": connected.workload.namespace,
        "name": connected.workload.name,
        "serviceAccount": connected.service_account,
        "zone": connected.zone,
        "proxyVersion": connected.proxy_version,
        "connectedSince": since.as_secs(),
        "resources": resources,
    })
}

/// A resource's key for people.
pub(super) fn describe(key: &ResourceKey) -> String {
    match &key.kind {
        Some(Kind::Outbound(key)) => format!("outbound {}", address(&key.ip, key.port)),
        Some(Kind::Authority(key)) => format!("authority {}", key.authority),
        Some(Kind::Endpoints(key)) => {
            let ServiceRef {
                namespace,
                name,
                port,
            } = key.service.clone().unwrap_or_default();
            format!("endpoints {namespace}/{name}:{port}")
        }
        Some(Kind::Inbound(key)) => format!("inbound {}", key.port),
        Some(Kind::TrustBundle(_)) => "trust-bundle".to_owned(),
        None => "unknown".to_owned(),
    }
}

fn address(ip: &[u8], port: u32) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(ip) {
        format!("{}:{port}", std::net::Ipv4Addr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(ip) {
        format!("[{}]:{port}", std::net::Ipv6Addr::from(v6))
    } else {
        format!("{}:{port}", hex(ip))
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain", text.to_owned())
}

fn respond(status: StatusCode, content_type: &str, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::from(body)))
        .expect("a content type of ours is a header value")
}
