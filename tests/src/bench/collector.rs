//! A collector of spans that takes all and keeps none.

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};
use weft_proto::otlp::trace_service_server::{TraceService, TraceServiceServer};
use weft_proto::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse};

/// Listens until it is dropped.
pub(super) async fn collect(listener: TcpListener) {
    let service = TraceServiceServer::new(Forgetful);
    while let Ok((tcp, _)) = listener.accept().await {
        let service = service.clone();
        let serve =
            service_fn(move |request| tower_service::Service::call(&mut service.clone(), request));
        let server = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(tcp), serve));
    }
}

struct Forgetful;

#[tonic::async_trait]
impl TraceService for Forgetful {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
