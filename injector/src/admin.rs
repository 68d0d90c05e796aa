//! The admin listener: health and metrics, for everybody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::certificate::Serving;
use crate::metrics::Metrics;
use crate::watch::Progress;

const MAX_CONNECTIONS: usize = 64;
/// A connection is for a few requests: scrapers come back.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What the admin listener shows.
pub struct Admin {
    /// What is served with.
    pub serving: Arc<Serving>,
    /// How the watches are doing.
    pub progress: Progress,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Set when the process is about to end: not ready any more.
    pub leaving: CancellationToken,
}

impl Admin {
    /// Serves for ever.
    pub async fn run(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok((tcp, _)) = listener.accept().await else {
                sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            // Over the limit: closed at once, which a scraper sees as a failed scrape.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let admin = Arc::clone(&admin);
            tokio::spawn(async move {
                // However it ends, there is nobody to tell.
                let _ = timeout(CONNECTION_LIFE, admin.serve(tcp)).await;
                drop(place);
            });
        }
    }

    async fn serve(&self, tcp: TcpStream) -> Result<(), hyper::Error> {
        let service = service_fn(|request: http::Request<Incoming>| async move {
            Ok::<_, Infallible>(self.answer(request.method(), request.uri().path()))
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(tcp), service)
            .await
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if method != Method::GET && method != Method::HEAD {
            return respond(
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "GET only\n".to_owned(),
            );
        }
        match path {
            "/live" => respond(StatusCode::OK, TEXT, "live\n".to_owned()),
            "/ready" => {
                let missing = self.missing();
                if missing.is_empty() {
                    return respond(StatusCode::OK, TEXT, "ready\n".to_owned());
                }
                let body = format!("not ready\n{}\n", missing.join("\n"));
                respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
            }
            "/metrics" => {
                self.metrics.observe(&self.progress);
                let is_ready = self.missing().is_empty();
                self.metrics.is_ready.set(f64::from(u8::from(is_ready)));
                let content_type = "text/plain; version=0.0.4";
                respond(StatusCode::OK, content_type, self.metrics.render())
            }
            _ => respond(StatusCode::NOT_FOUND, TEXT, "no such page\n".to_owned()),
        }
    }

    /// What is missing before the API server can have pods patched here.
    fn missing(&self) -> Vec<String> {
        if self.leaving.is_cancelled() {
            return vec!["it is about to end".to_owned()];
        }
        let mut missing = self.progress.missing();
        // What is not known yet is not missing in the cluster.
        if missing.is_empty() {
            missing = self.serving.missing(SystemTime::now());
        }
        missing
    }
}

fn respond(status: StatusCode, content_type: &str, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::from(body)))
        .expect("a content type of ours is a header value")
}
