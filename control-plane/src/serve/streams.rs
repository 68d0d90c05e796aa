//! Who is connected, what they acknowledged and reported, and a way to command them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use weft_proto::discovery::{Command, CommandReply, Report, ResourceKey, Version};
use weft_proto::replica::EdgesResponse;

use super::edges::{Book, Reporter};
use super::metrics::Metrics;
use super::session::MAX_SUBSCRIPTIONS;
use crate::index::{Model, Name};

/// Workloads with an open stream.
const MAX_WORKLOADS: usize = 10_000;
/// Resources remembered over all workloads; beyond it the newest are counted and forgotten.
const MAX_HELD: usize = 1_000_000;
/// Commands without an answer yet.
const MAX_COMMANDS: usize = 1_024;
/// Commands on their way to one sidecar.
const MAX_COMMANDS_PER_STREAM: usize = 16;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// The open streams.
pub struct Streams {
    metrics: Arc<Metrics>,
    connected: Mutex<Connected>,
    /// Locked inside of `connected`, or alone.
    edges: Mutex<Book>,
    commands: Mutex<HashMap<u64, WaitingCommand>>,
    next_id: AtomicU64,
    changed: Notify,
}

/// A sidecar as it is connected at the moment.
#[derive(Clone, Debug)]
pub struct ConnectedWorkload {
    /// Which workload.
    pub workload: Name,
    /// Its service account.
    pub service_account: String,
    /// Its zone; empty when unknown.
    pub zone: String,
    /// Its sidecar's build.
    pub proxy_version: String,
    /// Since when the stream is open.
    pub since: SystemTime,
    /// Its last answer per resource, or what it had of it before this stream.
    pub acks: Vec<(ResourceKey, Acknowledgement)>,
}

/// A sidecar's answer to an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Acknowledgement {
    /// The version that the answer is about.
    pub version: Version,
    /// Why it was refused; `None` where it is in force.
    pub refused: Option<String>,
}

/// What a stream says of itself when it opens.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    pub(super) workload: Name,
    pub(super) service_account: String,
    pub(super) zone: String,
    pub(super) proxy_version: String,
}

/// The resources that a stream is subscribed to.
pub(super) type HeldResources = HashMap<ResourceKey, HeldResource>;

/// What a sidecar has of a resource.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeldResource {
    /// When it subscribed.
    pub(super) since: SystemTime,
    /// What it confirmed last, or had before.
    pub(super) in_force: Option<Version>,
    /// What it refused since, and why.
    pub(super) refused: Option<(Version, String)>,
}

/// A sidecar and what it has, as of one moment; shared with the table.
#[derive(Clone)]
pub(super) struct Standing {
    pub(super) introduction: Arc<Introduction>,
    pub(super) since: SystemTime,
    pub(super) held: Arc<HeldResources>,
}

/// Why a command has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The workload's sidecar is not connected to this replica.
    #[error("the workload's sidecar is not connected")]
    NotConnected,
    /// Too many commands wait for answers.
    #[error("too many commands at once")]
    Busy,
    /// It did not answer within 5 s.
    #[error("the sidecar did not answer in time")]
    TimedOut,
}

/// No room for another workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_WORKLOADS} sidecars on one replica")]
pub(super) struct Full;

/// A stream's place in the table; leaving it is dropping this.
pub(super) struct Membership {
    streams: Arc<Streams>,
    workload: Name,
    id: u64,
}

#[derive(Default)]
struct Connected {
    workloads: HashMap<Name, Entry>,
    held: usize,
}

struct Entry {
    id: u64,
    introduction: Arc<Introduction>,
    since: SystemTime,
    commands: mpsc::Sender<Command>,
    /// Copied before a change where somebody looks at it meanwhile.
    held: Arc<HeldResources>,
}

struct WaitingCommand {
    stream: u64,
    answer: oneshot::Sender<CommandReply>,
}

impl Streams {
    /// No stream yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            connected: Mutex::default(),
            edges: Mutex::default(),
            commands: Mutex::default(),
            next_id: AtomicU64::new(1),
            changed: Notify::new(),
        }
    }

    /// Waits until a stream came, went, or changed what it has since the last call. For one caller.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Everybody who is connected, by name, and what they have.
    pub(super) fn standing(&self) -> Vec<Standing> {
        let mut all: Vec<_> = {
            let connected = self.connected.lock();
            let entries = connected.workloads.values();
            entries
                .map(|entry| Standing {
                    introduction: entry.introduction.clone(),
                    since: entry.since,
                    held: entry.held.clone(),
                })
                .collect()
        };
        all.sort_by(|a, b| a.introduction.workload.cmp(&b.introduction.workload));
        all
    }

    /// What sidecars reported that are connected, or were a moment ago.
    pub(super) fn edges(&self, replica: &str) -> EdgesResponse {
        self.edges.lock().list(replica, Instant::now())
    }

    /// Everybody who is connected, by name.
    pub fn snapshot(&self) -> Vec<ConnectedWorkload> {
        let mut all: Vec<_> = {
            let connected = self.connected.lock();
            connected.workloads.values().map(Entry::to_public).collect()
        };
        all.sort_by(|a, b| a.workload.cmp(&b.workload));
        all
    }

    /// Sends a command to a workload's sidecar and waits for the answer, up to 5 s. The id is
    /// chosen here.
    pub async fn command(
        &self,
        workload: &Name,
        mut command: Command,
    ) -> Result<CommandReply, CommandError> {
        let (stream, sender) = {
            let connected = self.connected.lock();
            let entry = connected.workloads.get(workload);
            let entry = entry.ok_or(CommandError::NotConnected)?;
            (entry.id, entry.commands.clone())
        };
        command.id = self.next_id();
        let id = command.id;
        let (answer, answered) = oneshot::channel();
        {
            let mut commands = self.commands.lock();
            if commands.len() >= MAX_COMMANDS {
                return Err(CommandError::Busy);
            }
            commands.insert(id, WaitingCommand { stream, answer });
        }
        let _forget = Forget { streams: self, id };

        sender.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommandError::Busy,
            mpsc::error::TrySendError::Closed(_) => CommandError::NotConnected,
        })?;
        match tokio::time::timeout(COMMAND_TIMEOUT, answered).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(CommandError::NotConnected),
            Err(_) => Err(CommandError::TimedOut),
        }
    }

    /// Takes a place; the newest stream of a workload is the one that counts.
    pub(super) fn join(
        self: &Arc<Self>,
        introduction: Introduction,
    ) -> Result<(Membership, mpsc::Receiver<Command>), Full> {
        let id = self.next_id();
        let workload = introduction.workload.clone();
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS_PER_STREAM);
        let entry = Entry {
            id,
            introduction: Arc::new(introduction),
            since: SystemTime::now(),
            commands,
            held: Arc::default(),
        };

        let mut connected = self.connected.lock();
        if connected.workloads.len() >= MAX_WORKLOADS
            && !connected.workloads.contains_key(&workload)
        {
            return Err(Full);
        }
        if let Some(former) = connected.workloads.insert(workload.clone(), entry) {
            connected.held -= former.held.len();
        }
        self.changed.notify_one();
        self.metrics.streams.set(connected.workloads.len() as f64);
        drop(connected);

        let membership = Membership {
            streams: self.clone(),
            workload,
            id,
        };
        Ok((membership, receiver))
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl Membership {
    pub(super) fn workload(&self) -> &Name {
        &self.workload
    }

    /// Remembers a subscription, and what the sidecar had of it before. One that is there already stays
    /// as it is.
    pub(super) fn subscribed(&self, key: ResourceKey, in_force: Option<Version>) {
        self.update(key, |held, is_new| {
            if is_new {
                held.in_force = in_force;
            }
        });
    }

    /// Remembers an answer, which is about a resource that the stream has.
    pub(super) fn acknowledged(&self, key: ResourceKey, answer: Acknowledgement) {
        self.update(key, |held, _| {
            if let Some(reason) = answer.refused {
                held.refused = Some((answer.version, reason));
            } else {
                held.in_force = Some(answer.version);
                held.refused = None;
            }
        });
    }

    /// Changes what is known of a resource, whether or not (`true`) it was known.
    fn update(&self, key: ResourceKey, change: impl FnOnce(&mut HeldResource, bool)) {
        let mut connected = self.streams.connected.lock();
        let Connected { workloads, held } = &mut *connected;
        let Some(entry) = workloads
            .get_mut(&self.workload)
            .filter(|e| e.id == self.id)
        else {
            return;
        };
        let own = Arc::make_mut(&mut entry.held);
        if let Some(known) = own.get_mut(&key) {
            change(known, false);
        } else if *held < MAX_HELD && own.len() < MAX_SUBSCRIPTIONS {
            let mut new = HeldResource {
                since: SystemTime::now(),
                in_force: None,
                refused: None,
            };
            change(&mut new, true);
            own.insert(key, new);
            *held += 1;
        } else {
            self.streams.metrics.acks_dropped.increment(1);
        }
        drop(connected);
        self.streams.changed.notify_one();
    }

    /// Forgets a resource.
    pub(super) fn unsubscribed(&self, key: &ResourceKey) {
        let mut connected = self.streams.connected.lock();
        let Connected { workloads, held } = &mut *connected;
        let entry = workloads
            .get_mut(&self.workload)
            .filter(|e| e.id == self.id);
        if entry.is_some_and(|entry| Arc::make_mut(&mut entry.held).remove(key).is_some()) {
            *held -= 1;
        }
        drop(connected);
        self.streams.changed.notify_one();
    }

    /// Keeps a report in the place of the one before.
    pub(super) fn reported(&self, report: Report, model: &Model) {
        let connected = self.streams.connected.lock();
        let entry = connected.workloads.get(&self.workload);
        let Some(entry) = entry.filter(|entry| entry.id == self.id) else {
            return;
        };
        let reporter = Reporter {
            workload: &self.workload,
            service_account: &entry.introduction.service_account,
        };
        let mut edges = self.streams.edges.lock();
        if !edges.hear(reporter, report, model, Instant::now()) {
            self.streams.metrics.reports_cut.increment(1);
        }
    }

    /// Hands an answer to whoever waits for it; one to a command of another stream is nobody's.
    pub(super) fn replied(&self, reply: CommandReply) {
        let mut commands = self.streams.commands.lock();
        if commands.get(&reply.id).is_some_and(|c| c.stream == self.id)
            && let Some(waiting) = commands.remove(&reply.id)
        {
            // The one who asked may have gone.
            let _ = waiting.answer.send(reply);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        {
            let mut connected = self.streams.connected.lock();
            let current = connected.workloads.get(&self.workload);
            if current.is_some_and(|entry| entry.id == self.id)
                && let Some(entry) = connected.workloads.remove(&self.workload)
            {
                connected.held -= entry.held.len();
                self.streams
                    .edges
                    .lock()
                    .gone(&self.workload, Instant::now());
                self.streams.changed.notify_one();
            }
            let count = connected.workloads.len();
            self.streams.metrics.streams.set(count as f64);
        }
        let mut commands = self.streams.commands.lock();
        commands.retain(|_, waiting| waiting.stream != self.id);
    }
}

impl HeldResource {
    fn answer(&self) -> Option<Acknowledgement> {
        let (version, refused) = match &self.refused {
            Some((version, reason)) => (version, Some(reason.clone())),
            None => (self.in_force.as_ref()?, None),
        };
        let version = version.clone();
        Some(Acknowledgement { version, refused })
    }
}

impl Entry {
    fn to_public(&self) -> ConnectedWorkload {
        let introduction = &*self.introduction;
        ConnectedWorkload {
            workload: introduction.workload.clone(),
            service_account: introduction.service_account.clone(),
            zone: introduction.zone.clone(),
            proxy_version: introduction.proxy_version.clone(),
            since: self.since,
            acks: self
                .held
                .iter()
                .filter_map(|(key, held)| Some((key.clone(), held.answer()?)))
                .collect(),
        }
    }
}

/// Removes a waiting command however its caller goes.
struct Forget<'s> {
    streams: &'s Streams,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.streams.commands.lock().remove(&self.id);
    }
}
