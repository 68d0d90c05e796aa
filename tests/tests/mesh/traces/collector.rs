//! An OTLP/gRPC collector in a pod, and what it has heard.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};
use weft_proto::otlp;
use weft_proto::otlp::any_value::Value;
use weft_proto::otlp::trace_service_server::{TraceService, TraceServiceServer};
use weft_sandbox::Pod;

use crate::common::wait_for;

/// A span's longest way from its end to the collector; the rest is the machine's.
const ARRIVAL: Duration = Duration::from_secs(15);

/// Listens until dropped.
pub(super) struct Collector {
    heard: Arc<Mutex<Vec<Span>>>,
    task: tokio::task::JoinHandle<()>,
}

/// A span, and the process that it came from.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) told: otlp::Span,
    resource: Vec<otlp::KeyValue>,
}

#[derive(Clone)]
struct Listening(Arc<Mutex<Vec<Span>>>);

impl Collector {
    pub(super) fn start(pod: &Pod, port: u16) -> anyhow::Result<Self> {
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), port))?;
        let heard = Arc::default();
        let service = TraceServiceServer::new(Listening(Arc::clone(&heard)));
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let service = service.clone();
                let serve = service_fn(move |request| {
                    tower_service::Service::call(&mut service.clone(), request)
                });
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(tcp), serve));
            }
        });
        Ok(Self { heard, task })
    }

    /// The spans of a trace, as soon as there are so many; waits a moment longer for more.
    pub(super) async fn trace(&self, id: &str, spans: usize) -> anyhow::Result<Vec<Span>> {
        let of_trace = || {
            let heard = self.heard.lock();
            let mine = heard.iter().filter(|span| hex(&span.told.trace_id) == id);
            mine.cloned().collect::<Vec<_>>()
        };
        wait_for("the trace's spans", ARRIVAL, async || {
            Ok((of_trace().len() >= spans).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(of_trace())
    }

    /// All spans so far.
    pub(super) fn spans(&self) -> Vec<Span> {
        self.heard.lock().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Span {
    /// Its id, in hex.
    pub(super) fn id(&self) -> String {
        hex(&self.told.span_id)
    }

    /// Its parent's, in hex; empty where it has none.
    pub(super) fn parent(&self) -> String {
        hex(&self.told.parent_span_id)
    }

    /// An attribute of its own, or of its process; empty where there is none.
    pub(super) fn get(&self, key: &str) -> String {
        let mut all = self.told.attributes.iter().chain(&self.resource);
        let found = all.find(|one| one.key == key);
        let value = found.and_then(|one| one.value.clone()?.value);
        match value {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(word)) => word.to_string(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            None => String::new(),
        }
    }
}

#[tonic::async_trait]
impl TraceService for Listening {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        let mut heard = self.0.lock();
        for process in request.into_inner().resource_spans {
            let resource = process.resource.unwrap_or_default().attributes;
            let spans = process.scope_spans.into_iter().flat_map(|it| it.spans);
            heard.extend(spans.map(|told| Span {
                told,
                resource: resource.clone(),
            }));
        }
        Ok(Response::new(otlp::ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
