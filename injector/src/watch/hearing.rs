//! A watch that is established says nothing until something changes, which may be never. That it works is
//! known from the API server's answer to its request.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;

use super::progress::Progress;

/// A client whose good answers mean that a kind can be listed and watched.
pub(super) fn hearing(client: Client, kind: &'static str, progress: Progress) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = Hearing {
        client,
        kind,
        progress,
    };
    Client::new(service, namespace)
}

struct Hearing {
    client: Client,
    kind: &'static str,
    progress: Progress,
}

impl tower_service::Service<Request<Body>> for Hearing {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The client waits for its turn by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, progress) = (self.client.clone(), self.progress.clone());
        let kind = self.kind;
        Box::pin(async move {
            let response = client.send(request).await?;
            if response.status().is_success() && progress.works(kind) {
                tracing::info!(kind, "the watch works again");
            }
            Ok(response)
        })
    }
}
