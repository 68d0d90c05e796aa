//! What this replica tells the others. Only who has the control plane's own certificate is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use weft_proto::replica::replicas_server;
use weft_proto::replica::{
    CountsRequest, CountsUpdate, EdgesRequest, EdgesResponse, OrderRequest, OrderResponse,
    ProxiesRequest, ProxiesResponse,
};

use super::{Replicas, wire};
use crate::serve::connection::Peer;

/// After so long without a change, an empty message is sent.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Messages on their way to one replica: what waits can no longer be replaced by something newer.
const PIPE_DEPTH: usize = 1;

/// Serves `weft.replica.v1.Replicas`.
pub(in crate::serve) struct Exchange {
    pub(in crate::serve) replicas: Arc<Replicas>,
}

#[tonic::async_trait]
impl replicas_server::Replicas for Exchange {
    type CountsStream = ReceiverStream<Result<CountsUpdate, Status>>;

    async fn counts(
        &self,
        request: Request<CountsRequest>,
    ) -> Result<Response<Self::CountsStream>, Status> {
        self.admit(&request)?;
        let (outgoing, messages) = mpsc::channel(PIPE_DEPTH);
        let replicas = self.replicas.clone();
        self.replicas.tasks.spawn(async move {
            tell(&replicas, &outgoing).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn proxies(
        &self,
        request: Request<ProxiesRequest>,
    ) -> Result<Response<ProxiesResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.replicas.proxies()))
    }

    async fn edges(
        &self,
        request: Request<EdgesRequest>,
    ) -> Result<Response<EdgesResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.replicas.edges()))
    }

    async fn order(
        &self,
        request: Request<OrderRequest>,
    ) -> Result<Response<OrderResponse>, Status> {
        self.admit(&request)?;
        let done = self.replicas.order_own(request.get_ref()).await;
        Ok(Response::new(done.map_err(|_| {
            Status::invalid_argument("no command that this build knows")
        })?))
    }
}

impl Exchange {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.extensions().get::<Peer>();
        let id = peer.and_then(|peer| peer.identity.as_ref());
        if id.is_some() && id == self.replicas.own.as_ref() {
            return Ok(());
        }
        self.replicas.metrics.peers_refused.increment(1);
        Err(Status::permission_denied(
            "only the control plane's own replicas are told",
        ))
    }
}

/// Sends what is counted, now and when it changes, until the caller goes or this process ends.
async fn tell(replicas: &Replicas, outgoing: &mpsc::Sender<Result<CountsUpdate, Status>>) {
    let mut counted = replicas.counted.subscribe();
    loop {
        let update = wire::write(replicas.name(), &counted.borrow_and_update());
        if outgoing.send(Ok(update)).await.is_err() {
            return;
        }
        loop {
            let changed = tokio::select! {
                changed = timeout(HEARTBEAT, counted.changed()) => changed,
                () = outgoing.closed() => return,
                () = replicas.shutdown.cancelled() => {
                    // A caller that takes nothing notices the connection's end.
                    let _ = outgoing.try_send(Err(Status::unavailable("this replica is stopping")));
                    return;
                }
            };
            match changed {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return,
                Err(_) => {
                    if outgoing.send(Ok(CountsUpdate::default())).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
