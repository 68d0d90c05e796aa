//! A collector of spans.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};
use tower_service::Service as _;
use weft_proto::otlp;
use weft_proto::otlp::trace_service_server::{TraceService, TraceServiceServer};

/// What it answers to the export of this number, from 1.
type Script = dyn Fn(usize) -> Result<i64, Status> + Send + Sync;

/// Listens on loopback until the test's runtime ends.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<otlp::ExportTraceServiceRequest>>>,
}

struct Scripted {
    heard: Arc<Mutex<Vec<otlp::ExportTraceServiceRequest>>>,
    script: Box<Script>,
}

impl Collector {
    /// Takes everything.
    pub(crate) async fn start() -> Self {
        Self::scripted(|_| Ok(0)).await
    }

    /// Takes all but as many spans as `script` says, or fails.
    pub(crate) async fn scripted(
        script: impl Fn(usize) -> Result<i64, Status> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::default();
        let service = TraceServiceServer::new(Scripted {
            heard: Arc::clone(&heard),
            script: Box::new(script),
        });
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let service = service.clone();
                let serve = service_fn(move |request| service.clone().call(request));
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), serve);
                tokio::spawn(connection);
            }
        });
        Self { address, heard }
    }

    /// All exports, also those that it failed.
    pub(crate) fn exports(&self) -> Vec<otlp::ExportTraceServiceRequest> {
        self.heard.lock().clone()
    }

    /// The spans of all exports.
    pub(crate) fn spans(&self) -> Vec<otlp::Span> {
        let exports = self.exports().into_iter();
        exports
            .flat_map(|export| export.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }
}

#[tonic::async_trait]
impl TraceService for Scripted {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        let nth = {
            let mut heard = self.heard.lock();
            heard.push(request.into_inner());
            heard.len()
        };
        let rejected_spans = (self.script)(nth)?;
        let partial_success = (rejected_spans > 0).then(|| otlp::ExportTracePartialSuccess {
            rejected_spans,
            error_message: "too many".to_owned(),
        });
        Ok(Response::new(otlp::ExportTraceServiceResponse {
            partial_success,
        }))
    }
}
