//! The stream from the control plane; what this sidecar knows.
//!
//! [`Discovery`] answers from any thread, without asking anybody: every key has one [`Watched`]
//! value, and the first to ask for a key subscribes to it. [`Task`] is the other side: it runs on the
//! control thread, keeps one stream to the control plane, and puts what arrives into the values.
//!
//! What is known stays known: a value is replaced by a newer good one and by nothing else. While the
//! control plane is away everything is served from here; [`Discovery::config_age`] says how old that
//! is. What breaks the wire's rules is refused (nack) and changes nothing. A replica that lags behind
//! what is held is not believed for [`LAG_PATIENCE`], then followed, and counted.

mod command;
mod key;
mod session;
mod stream;
mod table;
mod watched;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use weft_proto::discovery as wire;

use crate::identity::{ControlPlane, Identity};
use crate::policy::{EndpointInfo, InboundPolicy, MeshInfo, OutboundTarget, ServiceRef};
use key::Key;
use table::Table;

pub use command::{BreakerAction, Command, CommandHandler};
pub use stream::Task;
pub use table::MAX_SUBSCRIPTIONS;
pub use watched::{Listener, Watched};

/// How long a replica that lags behind is not believed.
pub const LAG_PATIENCE: Duration = table::Lagging::PATIENCE;
/// How often the control plane is told what this sidecar saw.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// No name of a service is longer than this: a host name and a port.
const MAX_AUTHORITY: usize = 253 + ":65535".len();

/// So soon after a stream begins, for the first time.
pub const FIRST_REPORT: Duration = Duration::from_secs(1);
/// Makes reports; `None` when there is nothing new to say. The first of a stream (`true`) says everything
/// anew.
pub type Reporter = Arc<dyn Fn(bool) -> Option<wire::Report> + Send + Sync>;

/// What this sidecar knows. Cheap to clone; used from any thread.
#[derive(Clone)]
pub struct Discovery(Arc<Shared>);

/// How this sidecar introduces itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// The workload's name inside its namespace.
    pub workload: String,
    /// The zone; empty when unknown.
    pub zone: String,
    /// This build.
    pub version: String,
}

struct Shared {
    introduction: Introduction,
    table: Table,
    mesh: Watched<MeshInfo>,
    /// Held here, so that it is never evicted: ports that nobody declared fall back to it.
    default_inbound: Watched<InboundPolicy>,
    hooks: Mutex<Hooks>,
    status: Mutex<Status>,
    followed: AtomicU64,
    nacks: AtomicU64,
}

#[derive(Default)]
struct Hooks {
    handler: Option<Arc<dyn CommandHandler>>,
    reporter: Option<Reporter>,
}

struct Status {
    connected: bool,
    /// When that last changed.
    since: Instant,
    last_message_at: Option<Instant>,
    last_error: Option<String>,
}

/// How the stream stands, for `/ready` and `/config`.
#[derive(Clone, Debug, Serialize)]
pub struct StreamState {
    /// Whether the control plane answers.
    pub connected: bool,
    /// Seconds since that last changed.
    pub for_seconds: f64,
    /// Seconds since the control plane last said something; absent when it never did.
    pub last_message_seconds: Option<f64>,
    /// Why the last stream ended or could not be opened.
    pub last_error: Option<String>,
    /// Versions that were refused.
    pub nacks: u64,
    /// Times that an older version was followed because the replica stuck to it.
    pub followed_lagging: u64,
    /// Subscriptions that made place for others.
    pub evicted: u64,
    /// Subscriptions that were wanted while there was no place.
    pub refused: u64,
    /// What is subscribed, in order of the keys.
    pub subscriptions: Vec<SubscriptionState>,
}

/// How one subscription stands.
#[derive(Clone, Debug, Serialize)]
pub struct SubscriptionState {
    /// The resource's name.
    pub key: String,
    /// The content hash in force, in hexadecimal; absent before the first value.
    pub version: Option<String>,
    /// The source revision in force.
    pub source_revision: Option<u64>,
    /// Why a newer version is not in force.
    pub refused: Option<String>,
}

impl Discovery {
    /// The two sides: handles for everybody, and the task that the control runtime must run.
    pub fn new(
        introduction: Introduction,
        identity: Identity,
        control_plane: ControlPlane,
    ) -> (Self, Task) {
        let (shared, changes) = Shared::new(introduction, MAX_SUBSCRIPTIONS);
        let task = Task::new(Arc::clone(&shared), changes, identity, control_plane);
        (Self(shared), task)
    }

    /// What holds for the whole sidecar.
    pub fn mesh(&self) -> Watched<MeshInfo> {
        self.0.mesh.clone()
    }

    /// What an original destination means.
    pub fn outbound(&self, destination: SocketAddr) -> Watched<OutboundTarget> {
        let ip = destination.ip().to_canonical();
        let key = Key::Outbound(SocketAddr::new(ip, destination.port()));
        self.0.table.outbound(key, || self.0.connected())
    }

    /// What the authority of an HTTP request means: `host:port`, in any case of letters.
    pub fn authority(&self, authority: &str) -> Watched<OutboundTarget> {
        if authority.len() > MAX_AUTHORITY {
            return Watched::fixed(OutboundTarget::NotFound);
        }
        let key = Key::Authority(authority.to_ascii_lowercase().into());
        self.0.table.outbound(key, || self.0.connected())
    }

    /// The endpoints behind a service port. Empty means that there is none.
    pub fn endpoints(&self, service: &ServiceRef) -> Watched<Vec<EndpointInfo>> {
        let key = Key::Endpoints(service.clone());
        self.0.table.endpoints(key, || self.0.connected())
    }

    /// How the own workload is served on a port; 0 asks for the namespace's default, which is also
    /// what a port has that nobody declared.
    pub fn inbound(&self, port: u16) -> Watched<InboundPolicy> {
        let key = Key::Inbound(port);
        self.0.table.inbound(key, || self.0.connected())
    }

    /// Has commands of the control plane done by `handler`.
    pub fn set_handler(&self, handler: Arc<dyn CommandHandler>) {
        self.0.hooks.lock().handler = Some(handler);
    }

    /// Asks `reporter` [`FIRST_REPORT`] after a stream begins and every [`REPORT_INTERVAL`] what to tell the control plane.
    pub fn set_reporter(&self, reporter: Reporter) {
        self.0.hooks.lock().reporter = Some(reporter);
    }

    /// Seconds since the stream was last known to be good; 0 while it is.
    pub fn config_age(&self) -> f64 {
        let status = self.0.status.lock();
        if status.connected {
            0.0
        } else {
            status.since.elapsed().as_secs_f64()
        }
    }

    /// Whether the control plane answers.
    pub fn connected(&self) -> bool {
        self.0.connected()
    }

    /// How the stream stands.
    pub fn state(&self) -> StreamState {
        self.0.state()
    }
}

impl Shared {
    fn new(
        introduction: Introduction,
        capacity: usize,
    ) -> (
        Arc<Self>,
        tokio::sync::mpsc::UnboundedReceiver<table::Change>,
    ) {
        let (table, changes) = Table::new(capacity);
        table.trust_bundle();
        let default_inbound = table.inbound(Key::Inbound(0), || false);
        let shared = Self {
            introduction,
            table,
            mesh: Watched::empty(),
            default_inbound,
            hooks: Mutex::default(),
            status: Mutex::new(Status {
                connected: false,
                since: Instant::now(),
                last_message_at: None,
                last_error: None,
            }),
            followed: AtomicU64::new(0),
            nacks: AtomicU64::new(0),
        };
        (Arc::new(shared), changes)
    }

    fn connected(&self) -> bool {
        self.status.lock().connected
    }

    fn heard(&self, now: Instant) {
        let mut status = self.status.lock();
        status.last_message_at = Some(now);
        if !status.connected {
            status.connected = true;
            status.since = now;
        }
    }

    fn lost(&self, now: Instant, error: String) {
        let mut status = self.status.lock();
        status.last_error = Some(error);
        if status.connected {
            status.connected = false;
            status.since = now;
        }
    }

    fn state(&self) -> StreamState {
        let subscription = |(key, slot): (Key, Arc<table::Slot>)| {
            let record = slot.record.lock();
            SubscriptionState {
                key: key.to_string(),
                version: record.version.as_ref().map(|it| hex(&it.content_hash)),
                source_revision: record.version.as_ref().map(|it| it.source_revision),
                refused: record.refused.clone(),
            }
        };
        let subscriptions = self.table.all(None).into_iter().map(subscription).collect();
        let status = self.status.lock();
        StreamState {
            connected: status.connected,
            for_seconds: status.since.elapsed().as_secs_f64(),
            last_message_seconds: status.last_message_at.map(|at| at.elapsed().as_secs_f64()),
            last_error: status.last_error.clone(),
            nacks: self.nacks.load(Ordering::Relaxed),
            followed_lagging: self.followed.load(Ordering::Relaxed),
            evicted: self.table.evicted(),
            refused: self.table.refused(),
            subscriptions,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
