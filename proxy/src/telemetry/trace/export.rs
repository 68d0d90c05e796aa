//! Spans on their way to a collector: a bounded queue, batches, OTLP over gRPC.
//!
//! Promises:
//!
//! * Whoever puts a span into the queue never waits: where there is no room it is dropped, and counted.
//! * A collector that is away, slow or broken costs nothing but spans: a batch is tried again after waits
//!   that grow, for a minute; then it is given up and counted, and the next one's turn has come.
//! * What a collector has refused for good is not sent again, but counted.
//!
//! Everything but [`Queue::put`] runs where [`Exporter::run`] does: on no data thread. Connections are
//! made past the redirect, in plaintext.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use weft_proto::otlp;
use weft_proto::otlp::trace_service_client::TraceServiceClient;

use super::Endpoint;
use super::channel::Channel;
use super::encode;
use super::span::Ended;
use crate::net::Dialer;
use crate::resilience::backoff;
use crate::telemetry::{Telemetry, families};

/// Spans that wait; at some 2 KiB each at most, this is what tracing may cost in memory.
pub const QUEUE: usize = 2_048;
/// Spans that are sent at once.
pub const MAX_BATCH: usize = 512;
/// How long a span waits for others to be sent with.
const LINGER: Duration = Duration::from_millis(500);
/// How long one export may take, connecting included.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long one address may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The waits between the tries of a batch.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(15);
/// After this time a batch is old, and given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Where spans wait.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<Ended>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    dropped: CounterOf,
}

/// What became of spans.
#[derive(Clone)]
struct CounterOf(Counter);

/// Sends what is in the queue.
pub struct Exporter {
    spans: mpsc::Receiver<Ended>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    endpoint: Endpoint,
    dialer: Dialer,
    resource: otlp::Resource,
    channel: Option<Channel>,
    counters: Counters,
    /// The last export came to nothing.
    failing: bool,
}

struct Counters {
    exported: CounterOf,
    refused: CounterOf,
    unsent: CounterOf,
}

/// Why an export came to nothing.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    #[error("the collector said {0:?}: {1}")]
    Said(tonic::Code, String),
    #[error("no answer within {EXPORT_LIMIT:?}")]
    Timeout,
}

impl Queue {
    /// Takes a span, or counts that there is no room for it. Never waits.
    pub(super) fn put(&self, span: Ended) {
        if self.spans.try_send(span).is_err() {
            self.dropped.add(1);
        }
    }

    /// Asks for everything that waits to be sent now, and waits until that was tried once.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.flushes.send(done).await.is_ok() {
            // An exporter that has ended flushes nothing any more.
            let _ = flushed.await;
        }
    }
}

impl CounterOf {
    fn new(telemetry: &Telemetry, result: &'static str) -> Self {
        let counter = telemetry.counter(&families::TRACE_SPANS, &[("result", result)]);
        Self(counter)
    }

    fn add(&self, spans: usize) {
        self.0.increment(spans as u64);
    }
}

impl std::fmt::Debug for CounterOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl Exporter {
    /// An empty queue, and what sends it to `endpoint`. `service` is the `service.name` of its spans.
    pub(super) fn new(
        endpoint: Endpoint,
        service: Option<&str>,
        telemetry: &Telemetry,
        dialer: Dialer,
    ) -> (Arc<Queue>, Self) {
        let (spans, waiting) = mpsc::channel(QUEUE);
        let (flushes, asked) = mpsc::channel(1);
        let queue = Queue {
            spans,
            flushes,
            dropped: CounterOf::new(telemetry, "dropped"),
        };
        let process = telemetry.process();
        let workload = &*process.workload;
        let resource = otlp::Resource {
            attributes: vec![
                encode::text("service.name", service.unwrap_or(workload)),
                encode::text("service.namespace", &*process.namespace),
                encode::text("service.instance.id", workload),
                encode::text("k8s.namespace.name", &*process.namespace),
                encode::text("k8s.pod.name", workload),
            ],
        };
        let exporter = Self {
            spans: waiting,
            flushes: asked,
            endpoint,
            dialer,
            resource,
            channel: None,
            counters: Counters {
                exported: CounterOf::new(telemetry, "exported"),
                refused: CounterOf::new(telemetry, "refused"),
                unsent: CounterOf::new(telemetry, "unsent"),
            },
            failing: false,
        };
        (Arc::new(queue), exporter)
    }

    /// Sends spans for as long as somebody may put some into the queue.
    pub async fn run(mut self) {
        loop {
            let mut batch = Vec::new();
            let flush = tokio::select! {
                taken = self.spans.recv_many(&mut batch, MAX_BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    self.fill(&mut batch).await
                }
                Some(done) = self.flushes.recv() => Some(done),
            };
            match flush {
                None => self.deliver(batch).await,
                Some(done) => self.flush(batch, done).await,
            }
        }
    }

    /// Waits for more spans for a while; ends at once where everything is to be sent now.
    async fn fill(&mut self, batch: &mut Vec<Ended>) -> Option<oneshot::Sender<()>> {
        let until = Instant::now() + LINGER;
        while batch.len() < MAX_BATCH {
            let room = MAX_BATCH - batch.len();
            tokio::select! {
                taken = self.spans.recv_many(batch, room) => if taken == 0 {
                    return None;
                },
                () = tokio::time::sleep_until(until) => return None,
                Some(done) = self.flushes.recv() => return Some(done),
            }
        }
        None
    }

    /// Sends `batch` and everything that waits behind it; what does not arrive is not tried again.
    async fn flush(&mut self, mut batch: Vec<Ended>, done: oneshot::Sender<()>) {
        loop {
            while batch.len() < MAX_BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            let (request, spans) = self.request(&batch);
            if !self.try_once(request, spans).await {
                self.counters.unsent.add(spans);
                break;
            }
            batch.clear();
        }
        // Nobody waits any more: then nobody needs to know.
        let _ = done.send(());
    }

    /// Sends a batch, again and again until it is old.
    async fn deliver(&mut self, batch: Vec<Ended>) {
        let (request, spans) = self.request(&batch);
        drop(batch);
        let until = Instant::now() + GIVE_UP;
        let mut failures = 0;
        while !self.try_once(request.clone(), spans).await {
            let mut rng = fastrand::Rng::new();
            let wait = backoff::delay(FIRST_WAIT, MAX_WAIT, failures, &mut rng);
            failures += 1;
            let flush = if Instant::now() + wait > until {
                None
            } else {
                tokio::select! {
                    () = sleep(wait) => continue,
                    Some(done) = self.flushes.recv() => Some(done),
                }
            };
            // Once more where the end has come, then whatever waits behind it.
            let arrived = flush.is_some() && self.try_once(request, spans).await;
            if !arrived {
                self.counters.unsent.add(spans);
            }
            if let Some(done) = flush {
                self.flush(Vec::new(), done).await;
            }
            return;
        }
    }

    /// Whether the collector has taken or refused a batch: either way it is done with. Counts it then.
    async fn try_once(&mut self, request: otlp::ExportTraceServiceRequest, spans: usize) -> bool {
        let export = timeout(EXPORT_LIMIT, self.export(request));
        let error = match export.await {
            Ok(Ok(rejected)) => {
                let rejected = rejected.min(spans);
                self.counters.exported.add(spans - rejected);
                self.counters.refused.add(rejected);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(collector = %self.endpoint, "spans are exported again");
                }
                return true;
            }
            Ok(Err(error)) => error,
            Err(_) => ExportError::Timeout,
        };
        let is_final = matches!(&error, ExportError::Said(code, _) if !may_be_repeated(*code));
        // Once per outage: what goes on is in the metric.
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                collector = %self.endpoint,
                %error,
                "spans cannot be exported; is WEFT_TRACE_ENDPOINT an OTLP/gRPC receiver?"
            );
        }
        if is_final {
            self.counters.refused.add(spans);
        } else {
            self.channel = None;
        }
        is_final
    }

    /// One export. Answers how many spans the collector did not want.
    async fn export(
        &mut self,
        request: otlp::ExportTraceServiceRequest,
    ) -> Result<usize, ExportError> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => self.channel.insert(self.connect().await?).clone(),
        };
        let mut client = TraceServiceClient::with_origin(channel, self.endpoint.origin());
        let response = client
            .export(request)
            .await
            .map_err(|status| ExportError::Said(status.code(), status.message().to_owned()))?;
        let partial = response.into_inner().partial_success;
        let rejected = partial.map_or(0, |partial| partial.rejected_spans);
        Ok(usize::try_from(rejected).unwrap_or(0))
    }

    async fn connect(&self) -> Result<Channel, ExportError> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in self.endpoint.resolve().await? {
            match self.dial(address).await {
                Ok(channel) => return Ok(channel),
                Err(ExportError::Connect(error)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last.into())
    }

    async fn dial(&self, address: SocketAddr) -> Result<Channel, ExportError> {
        let tcp = timeout(CONNECT_LIMIT, self.dialer.dial(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Channel::over(tcp).await?)
    }

    fn request(&self, batch: &[Ended]) -> (otlp::ExportTraceServiceRequest, usize) {
        let spans: Vec<_> = batch.iter().map(encode::span).collect();
        let count = spans.len();
        let scope = otlp::InstrumentationScope {
            name: "weft-proxy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let request = otlp::ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![otlp::ScopeSpans {
                    scope: Some(scope),
                    spans,
                }],
            }],
        };
        (request, count)
    }
}

/// The codes after which OTLP lets a client try again (OTLP/gRPC, "Failures").
fn may_be_repeated(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // What tonic calls a connection that broke.
            | Code::Unknown
    )
}
