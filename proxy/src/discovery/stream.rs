//! Keeps one stream to the control plane.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::discovery::discovery_client::DiscoveryClient;

use super::session::{Broken, Session};
use super::table::Change;
use super::{FIRST_REPORT, REPORT_INTERVAL, Shared};
use crate::identity::control_plane::{Channel, ConnectError};
use crate::identity::{ControlPlane, Credentials, Identity};

/// Bounds of the delay before the next stream.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Longest wait for the control plane's answer to hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages on their way to the transport; what waits longer waits in the session's outbox.
const SEND_BUFFER: usize = 64;
/// The largest message that is read: ten thousand endpoints and as many again.
const MAX_MESSAGE: usize = 16 << 20;

/// The control thread's side of discovery.
pub struct Task {
    shared: Arc<Shared>,
    changes: mpsc::UnboundedReceiver<Change>,
    identity: Identity,
    control_plane: ControlPlane,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the control plane ended the stream")]
    Closed,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer to hello within {HELLO_TIMEOUT:?}")]
    HelloTimeout,
    #[error("control plane: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
}

impl From<tonic::Status> for StreamEnd {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        changes: mpsc::UnboundedReceiver<Change>,
        identity: Identity,
        control_plane: ControlPlane,
    ) -> Self {
        Self {
            shared,
            changes,
            identity,
            control_plane,
        }
    }

    /// Runs until it is dropped. Streams need a certificate, so the first one waits for it.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            let credentials = self.identity.wait_ready().await;
            let (greeted, end) = self.connect_and_listen(&credentials).await;
            self.shared.lost(Instant::now(), end.to_string());
            if greeted {
                failures = 0;
            }
            let delay = reconnect_delay(failures, fastrand::f64());
            failures += 1;
            tracing::warn!(error = %end, ?delay, "no stream from the control plane");
            sleep(delay).await;
        }
    }

    /// One stream; says whether the control plane answered to hello, and why it ended.
    async fn connect_and_listen(&mut self, credentials: &Credentials) -> (bool, StreamEnd) {
        let channel = match self.control_plane.connect_as(credentials).await {
            Ok(channel) => channel,
            Err(error) => return (false, error.into()),
        };
        let mut session = Session::open(&self.shared, &self.identity, &mut self.changes);
        let end = listen(channel, &mut session, &self.shared, &mut self.changes).await;
        (session.greeted(), end.err().unwrap_or(StreamEnd::Closed))
    }
}

async fn listen(
    channel: Channel,
    session: &mut Session<'_>,
    shared: &Shared,
    changes: &mut mpsc::UnboundedReceiver<Change>,
) -> Result<(), StreamEnd> {
    let mut client = DiscoveryClient::with_origin(channel, Channel::origin())
        .max_decoding_message_size(MAX_MESSAGE);
    let (sender, outgoing) = mpsc::channel(SEND_BUFFER);
    // The control plane may wait for the first message before it answers at all.
    if let Some(hello) = session.next_mail() {
        sender.try_send(hello).map_err(|_| StreamEnd::Closed)?;
    }
    let hello_deadline = Instant::now() + HELLO_TIMEOUT;
    let mut incoming = timeout(HELLO_TIMEOUT, client.stream(ReceiverStream::new(outgoing)))
        .await
        .map_err(|_| StreamEnd::HelloTimeout)??
        .into_inner();

    let mut report = interval_at(Instant::now() + FIRST_REPORT, REPORT_INTERVAL);
    report.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let patience_ends = session.patience_ends();
        tokio::select! {
            message = incoming.message() => {
                let message = message?.ok_or(StreamEnd::Closed)?;
                let now = Instant::now();
                session.on_message(message, now)?;
                shared.heard(now);
            }
            Some(change) = changes.recv() => session.on_change(change)?,
            permit = sender.reserve(), if session.has_mail() => {
                let permit = permit.map_err(|_| StreamEnd::Closed)?;
                if let Some(mail) = session.next_mail() {
                    permit.send(mail);
                }
            }
            _ = report.tick(), if session.greeted() => session.report()?,
            () = sleep_until(hello_deadline), if !session.greeted() => {
                return Err(StreamEnd::HelloTimeout);
            }
            () = sleep_until(patience_ends.unwrap_or(hello_deadline)), if patience_ends.is_some() => {
                session.follow(Instant::now())?;
            }
        }
    }
}

/// The delay after `failures` streams in a row that came to nothing: by chance up to a doubling
/// bound, so that sidecars that lost the same replica do not come back together.
fn reconnect_delay(failures: u32, random: f64) -> Duration {
    let (base, max) = RECONNECT;
    let bound = base.saturating_mul(1 << failures.min(16)).min(max);
    bound.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnecting_spreads_out() {
        assert_eq!(reconnect_delay(0, 1.0), Duration::from_millis(100));
        assert_eq!(reconnect_delay(3, 0.5), Duration::from_millis(400));
        assert_eq!(reconnect_delay(60, 1.0), Duration::from_secs(5));
        assert_eq!(reconnect_delay(60, 0.0), Duration::ZERO);
    }
}
