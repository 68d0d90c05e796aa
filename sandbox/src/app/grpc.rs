//! The gRPC echo service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::echo::{EchoRequest, EchoResponse, echo_server};
use super::server::Shared;

/// Bytes that ClientStream collects.
const MAX_COLLECTED: usize = 64 * 1024 * 1024;

/// Header of an answer to Unary: the headers that the server saw, as JSON, name and value of each in order.
pub const SEEN: &str = "x-app-seen";

type Answers = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[derive(Debug)]
pub(super) struct Echo {
    app: Arc<Shared>,
}

impl Echo {
    pub(super) fn new(app: Arc<Shared>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl echo_server::Echo for Echo {
    type ServerStreamStream = Answers;
    type BidiStream = Answers;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let seen = headers_of(request.metadata());
        let mut response = Response::new(answer(&self.app, request.get_ref(), 0).await?);
        if let Ok(seen) = seen.parse() {
            response.metadata_mut().insert(SEEN, seen);
        }
        Ok(response)
    }

    async fn server_stream(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Answers>, Status> {
        let app = Arc::clone(&self.app);
        let request = Arc::new(request.into_inner());
        let repeat = request.repeat;
        let answers = futures_util::stream::iter(0..repeat).then(move |sequence| {
            let (app, request) = (Arc::clone(&app), Arc::clone(&request));
            async move { answer(&app, &request, sequence).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        let mut requests = request.into_inner();
        let mut all = EchoRequest::default();
        let mut payload = Vec::new();
        let mut count = 0;
        while let Some(request) = requests.message().await? {
            if payload.len() + request.payload.len() > MAX_COLLECTED {
                return Err(Status::resource_exhausted("more than 64 MiB in one stream"));
            }
            payload.extend_from_slice(&request.payload);
            all.delay_ms = request.delay_ms;
            all.fail_code = request.fail_code;
            count += 1;
        }
        all.payload = payload;
        Ok(Response::new(answer(&self.app, &all, count).await?))
    }

    async fn bidi(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let app = Arc::clone(&self.app);
        let answers = request
            .into_inner()
            .enumerate()
            .then(move |(sequence, request)| {
                let app = Arc::clone(&app);
                async move { answer(&app, &request?, sequence as u32).await }
            });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn headers_of(metadata: &MetadataMap) -> String {
    let headers = metadata.clone().into_headers();
    let headers = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    serde_json::json!(headers.collect::<Vec<_>>()).to_string()
}

async fn answer(
    app: &Shared,
    request: &EchoRequest,
    sequence: u32,
) -> Result<EchoResponse, Status> {
    if request.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
    }
    if request.fail_code != 0 {
        return Err(Status::new(Code::from(request.fail_code), "told to fail"));
    }
    Ok(EchoResponse {
        payload: request.payload.clone(),
        served_by: app.name.clone(),
        version: app.version.clone(),
        sequence,
    })
}
