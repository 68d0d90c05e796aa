//! One discovery stream from hello to end. The decisions are in [`super::session`].
//!
//! Who the caller is was proved when its connection was made. A stream is not ended when that
//! certificate expires, but at the end of its own life: after 36 minutes at most.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::{BoxFuture, Service};
use tonic::{Request, Response, Status, Streaming};
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{
    Ack, ClientMessage, Command, Hello, HelloReply, Nack, ResourceKey, TrustBundleKey,
    client_message, server_message,
};
use weft_proto::spiffe::SpiffeId;

use super::connection::Peer;
use super::memo::{Memo, encode};
use super::metrics::Metrics;
use super::session::{Session, Step};
use super::streams::{Acknowledgement, Introduction, Membership, Streams};
use crate::compile::{self, Client};
use crate::identity;
use crate::index::{Model, Name};

/// How long a caller may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long a workload with a good certificate may be missing in the model.
const NEW_WORKLOAD_PATIENCE: Duration = Duration::from_secs(2);
/// How long a sidecar that has seen a newer model is left alone.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the last word may take to get into a full pipe.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(500);
/// Messages between the stream and its connection. Small: what waits here can no longer be replaced
/// by something newer.
const PIPE_DEPTH: usize = 4;
/// A zone is a key of shared state, and a refusal's reason is kept.
const MAX_TEXT_LEN: usize = 253;

/// Serves `weft.discovery.v1.Discovery/Stream`. Cheap to clone.
#[derive(Clone)]
pub(super) struct Discovery {
    pub(super) memo: Arc<Memo>,
    pub(super) models: watch::Receiver<Arc<Model>>,
    pub(super) bundle: watch::Receiver<identity::TrustBundle>,
    pub(super) streams: Arc<Streams>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    pub(super) stream_life: Duration,
}

type Outgoing = mpsc::Sender<Result<Bytes, Status>>;

/// A stream whose workload is known.
struct Stream {
    discovery: Discovery,
    client: Client,
    membership: Membership,
    session: Session,
    hello: HelloReply,
    /// The newest model's revision that this stream has heard of.
    revision: u64,
}

impl Service<Request<Streaming<ClientMessage>>> for Discovery {
    type Response = Response<ReceiverStream<Result<Bytes, Status>>>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<ClientMessage>>) -> Self::Future {
        let discovery = self.clone();
        let peer = request.extensions().get::<Peer>().cloned();
        Box::pin(async move {
            let peer = peer.ok_or_else(|| Status::internal("a stream without a connection"))?;
            let Some(id) = peer.identity else {
                discovery.metrics.streams_refused.increment(1);
                return Err(Status::unauthenticated(
                    "discovery needs a workload certificate",
                ));
            };
            let (outgoing, messages) = mpsc::channel(PIPE_DEPTH);
            let incoming = request.into_inner();
            let tasks = discovery.tasks.clone();
            tasks.spawn(async move {
                discovery.serve(id, incoming, outgoing, peer.retire).await;
            });
            Ok(Response::new(ReceiverStream::new(messages)))
        })
    }
}

impl Discovery {
    /// Runs one stream to its end, and tells the caller why it ended.
    async fn serve(
        self,
        id: SpiffeId,
        mut incoming: Streaming<ClientMessage>,
        outgoing: Outgoing,
        retire: CancellationToken,
    ) {
        let result = match self.open(&id, &mut incoming).await {
            Ok((stream, commands)) => stream.run(incoming, commands, &outgoing, &retire).await,
            Err(status) => {
                self.metrics.streams_refused.increment(1);
                tracing::warn!(%id, reason = status.message(), "discovery stream refused");
                Err(status)
            }
        };
        if let Err(status) = result {
            // A caller that takes nothing hears nothing; its connection's end will tell it.
            let _ = timeout(FAREWELL_PATIENCE, outgoing.send(Err(status))).await;
        }
    }

    /// Hears the hello, and checks that it fits the certificate.
    async fn open(
        &self,
        id: &SpiffeId,
        incoming: &mut Streaming<ClientMessage>,
    ) -> Result<(Stream, mpsc::Receiver<Command>), Status> {
        let first = tokio::select! {
            first = timeout(HELLO_PATIENCE, incoming.message()) => first,
            () = self.shutdown.cancelled() => return Err(stopping()),
        };
        let Ok(first) = first else {
            return Err(Status::deadline_exceeded("no hello within 10 s"));
        };
        let Some(client_message::Kind::Hello(hello)) = first?.and_then(|message| message.kind)
        else {
            return Err(Status::invalid_argument("the first message is no Hello"));
        };
        if hello.zone.len() > MAX_TEXT_LEN || hello.proxy_version.len() > MAX_TEXT_LEN {
            return Err(Status::invalid_argument(
                "zone or version longer than 253 bytes",
            ));
        }
        self.admit(id, &hello.workload).await?;

        let client = Client {
            namespace: id.namespace().to_owned(),
            service_account: id.service_account().to_owned(),
            workload: hello.workload.clone(),
            zone: hello.zone.clone(),
        };
        let Hello {
            held,
            zone,
            proxy_version,
            workload,
        } = hello;
        let patience = std::time::Instant::now() + CATCH_UP_PATIENCE;
        let session = Session::new(held, patience)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let (membership, commands) = self
            .streams
            .join(Introduction {
                workload: Name::new(id.namespace(), workload),
                service_account: id.service_account().to_owned(),
                zone,
                proxy_version,
            })
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let model = self.memo.model();
        let hello = compile::hello(&model, &client);
        let stream = Stream {
            discovery: self.clone(),
            client,
            membership,
            session,
            hello,
            revision: model.revision(),
        };
        Ok((stream, commands))
    }

    /// Waits a moment for the model to know the workload, and checks whose it is.
    async fn admit(&self, id: &SpiffeId, workload: &str) -> Result<(), Status> {
        let mut models = self.models.clone();
        let deadline = Instant::now() + NEW_WORKLOAD_PATIENCE;
        loop {
            let account = models
                .borrow_and_update()
                .workload(id.namespace(), workload)
                .map(|workload| workload.service_account.clone());
            if account.as_deref() == Some(id.service_account()) {
                return Ok(());
            }
            if !matches!(timeout_at(deadline, models.changed()).await, Ok(Ok(()))) {
                let namespace = id.namespace();
                return Err(Status::permission_denied(match account {
                    Some(_) => format!(
                        "workload {namespace}/{workload} does not run as service account {}",
                        id.service_account()
                    ),
                    None => format!("the mesh has no workload {namespace}/{workload}"),
                }));
            }
        }
    }
}

impl Stream {
    async fn run(
        mut self,
        mut incoming: Streaming<ClientMessage>,
        mut commands: mpsc::Receiver<Command>,
        outgoing: &Outgoing,
        retire: &CancellationToken,
    ) -> Result<(), Status> {
        tracing::info!(workload = %self.membership.workload(), "discovery stream open");
        let mut models = self.discovery.models.clone();
        let mut bundle = self.discovery.bundle.clone();
        let shutdown = self.discovery.shutdown.clone();
        let end = Instant::now() + with_jitter(self.discovery.stream_life);
        let mut age = Box::pin(sleep_until(end));

        let greeting = encode(server_message::Kind::HelloReply(self.hello.clone()));
        if outgoing.send(Ok(greeting)).await.is_err() {
            return Ok(());
        }
        loop {
            let patience = self.session.patience_ends().map(Instant::from_std);
            tokio::select! {
                () = shutdown.cancelled() => return Err(stopping()),
                () = &mut age => {
                    // The connection goes too, or the next stream would land here again.
                    retire.cancel();
                    return Err(Status::unavailable("stream at the end of its life: reconnect"));
                }
                message = incoming.message() => match message? {
                    Some(message) => self.hear(message)?,
                    None => return Ok(()),
                },
                changed = models.changed() => {
                    if changed.is_err() {
                        return Err(stopping());
                    }
                    self.model_changed(&mut models, outgoing).await?;
                }
                Ok(()) = bundle.changed() => {
                    let kind = Some(Kind::TrustBundle(TrustBundleKey {}));
                    self.session.touch(&ResourceKey { kind });
                }
                Some(command) = commands.recv() => {
                    let command = encode(server_message::Kind::Command(command));
                    if outgoing.send(Ok(command)).await.is_err() {
                        return Ok(());
                    }
                }
                () = sleep_until(patience.unwrap_or(end)), if patience.is_some() => {
                    let followed = self.session.lose_patience();
                    self.discovery.metrics.followed_behind.increment(followed as u64);
                    tracing::warn!(
                        workload = %self.membership.workload(), resources = followed,
                        "the sidecar holds newer versions than this replica; it follows us now",
                    );
                }
                permit = outgoing.reserve(), if self.session.has_pending() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(message) = self.next_message() {
                        permit.send(Ok(message));
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn hear(&mut self, message: ClientMessage) -> Result<(), Status> {
        match message.kind {
            Some(client_message::Kind::Hello(_)) => {
                return Err(Status::invalid_argument("a second Hello"));
            }
            Some(client_message::Kind::Subscribe(subscribe)) => {
                let key = subscribe.key.unwrap_or_default();
                let held = self.session.held(&key).cloned();
                let taken = self
                    .session
                    .subscribe(key.clone())
                    .map_err(|error| Status::resource_exhausted(error.to_string()))?;
                if taken {
                    self.membership.subscribed(key, held);
                } else {
                    self.discovery.metrics.keys_ignored.increment(1);
                }
            }
            Some(client_message::Kind::Unsubscribe(unsubscribe)) => {
                let key = unsubscribe.key.unwrap_or_default();
                self.session.unsubscribe(&key);
                self.membership.unsubscribed(&key);
            }
            Some(client_message::Kind::Ack(Ack { key, version })) => {
                self.discovery.metrics.acks.increment(1);
                self.answered(key, version, None);
            }
            Some(client_message::Kind::Nack(Nack {
                key,
                version,
                reason,
            })) => {
                self.discovery.metrics.nacks.increment(1);
                let reason: String = reason.chars().take(MAX_TEXT_LEN).collect();
                tracing::warn!(
                    workload = %self.membership.workload(), resource = ?key, reason,
                    "the sidecar refuses an update",
                );
                self.answered(key, version, Some(reason));
            }
            Some(client_message::Kind::Report(report)) => {
                let model = self.discovery.memo.model();
                self.membership.reported(report, &model);
            }
            Some(client_message::Kind::CommandReply(reply)) => self.membership.replied(reply),
            // A newer sidecar may say what this build does not know.
            None => {}
        }
        Ok(())
    }

    fn answered(
        &self,
        key: Option<ResourceKey>,
        version: Option<weft_proto::discovery::Version>,
        refused: Option<String>,
    ) {
        let (Some(key), Some(version)) = (key, version) else {
            return;
        };
        if self.session.has(&key) {
            self.membership
                .acknowledged(key, Acknowledgement { version, refused });
        }
    }

    async fn model_changed(
        &mut self,
        models: &mut watch::Receiver<Arc<Model>>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let model = models.borrow_and_update().clone();
        let since = model.since(self.revision);
        self.revision = model.revision();
        let client = &self.client;
        self.session
            .touch_changed(|key| compile::may_differ(&model, since, client, key));
        if !since.everything() && !since.workload(&client.namespace, &client.workload) {
            return Ok(());
        }
        // A workload that left the model keeps its stream: it may be draining, and who it is its
        // certificate says. One that became somebody else does not.
        let workload = model.workload(&self.client.namespace, &self.client.workload);
        if workload.is_some_and(|w| w.service_account != self.client.service_account) {
            return Err(Status::permission_denied(
                "the workload's service account has changed",
            ));
        }
        let mut hello = compile::hello(&model, &self.client);
        let Client {
            namespace,
            workload,
            ..
        } = &self.client;
        if model.workload(namespace, workload).is_none() {
            // Who drains is still where it was.
            hello.zone.clone_from(&self.hello.zone);
        }
        if hello != self.hello {
            self.hello = hello;
            let message = encode(server_message::Kind::HelloReply(self.hello.clone()));
            // Where this fails the caller is gone, which the loop notices next.
            let _ = outgoing.send(Ok(message)).await;
        }
        Ok(())
    }

    fn next_message(&mut self) -> Option<Bytes> {
        let (memo, client) = (&self.discovery.memo, &self.client);
        let now = std::time::Instant::now();
        let step = self.session.next(now, |key| memo.resource(client, key));
        match step {
            Step::Send(message) => {
                self.discovery.metrics.updates_sent.increment(1);
                Some(message)
            }
            Step::More | Step::Idle => None,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        tracing::info!(workload = %self.membership.workload(), "discovery stream closed");
    }
}

/// Within 20 % of a duration, so that streams that began together do not end together.
fn with_jitter(life: Duration) -> Duration {
    life.mul_f64(0.8 + 0.4 * fastrand::f64())
}

fn stopping() -> Status {
    Status::unavailable("this replica is stopping: reconnect")
}
