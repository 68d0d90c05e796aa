//! One stream's conversation, without its I/O: what to say first, and what to answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use weft_proto::discovery as wire;
use weft_proto::discovery::client_message::Kind as Say;
use weft_proto::discovery::server_message::Kind as Hear;
use weft_proto::discovery::update::Resource;

use super::Shared;
use super::command::Command;
use super::key::Key;
use super::table::{AnyCell, Change, EndpointSet, Lagging, MAX_SUBSCRIPTIONS, Record, Slot};
use crate::identity::Identity;
use crate::policy::{InboundPolicy, OutboundTarget, decode};

/// Most messages that wait for a control plane which does not read: enough to answer an update of
/// everything and to change every subscription.
const MAX_OUTBOX: usize = 4 * MAX_SUBSCRIPTIONS;
/// Longest answer to a command; the control plane takes messages of up to 8 MiB.
pub(super) const MAX_PAYLOAD: usize = 4 << 20;

/// A decoded resource.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Endpoints(EndpointSet),
    Inbound(InboundPolicy),
    /// An own port that nobody declared: as the namespace's default.
    InboundByDefault,
    Outbound(OutboundTarget),
    TrustBundle(Vec<CertificateDer<'static>>),
}

/// Why a stream is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("the control plane does not read")]
    DoesNotRead,
    #[error("the control plane's first message is no answer to hello")]
    NoHelloReply,
}

/// Why an update is not taken.
enum Untaken {
    /// It breaks the wire's rules.
    Refused(String),
    /// A delta to something that is not here.
    OutOfStep,
}

/// The state of one stream.
pub(super) struct Session<'a> {
    shared: &'a Shared,
    identity: &'a Identity,
    greeted: bool,
    reported: bool,
    outbox: VecDeque<wire::ClientMessage>,
    /// Resources of which this replica has an older version, and since when.
    lagging: HashMap<Key, Instant>,
}

impl<'a> Session<'a> {
    /// A new stream. It says hello and subscribes to everything in the table.
    pub(super) fn open(
        shared: &'a Shared,
        identity: &'a Identity,
        changes: &mut UnboundedReceiver<Change>,
    ) -> Self {
        let mut session = Self {
            shared,
            identity,
            greeted: false,
            reported: false,
            outbox: VecDeque::new(),
            lagging: HashMap::new(),
        };
        let all = shared.table.all(Some(changes));
        let mut held = Vec::new();
        for (key, slot) in &all {
            let mut record = slot.record.lock();
            record.lagging = None;
            // Where a version is held, the control plane sends what differs from it.
            record.in_step = record.version.is_some();
            if record.version.is_some() {
                held.push(wire::Held {
                    key: Some(key.to_wire()),
                    version: record.version.clone(),
                });
            }
        }
        let introduction = shared.introduction.clone();
        session.say(Say::Hello(wire::Hello {
            workload: introduction.workload,
            zone: introduction.zone,
            proxy_version: introduction.version,
            held,
        }));
        for (key, _) in all {
            session.say(subscribe(&key));
        }
        session
    }

    /// Whether the control plane has answered to hello.
    pub(super) fn greeted(&self) -> bool {
        self.greeted
    }

    /// Whether there is something to send.
    pub(super) fn has_mail(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The next message to send.
    pub(super) fn next_mail(&mut self) -> Option<wire::ClientMessage> {
        self.outbox.pop_front()
    }

    /// Tells the control plane about a change of the table.
    pub(super) fn on_change(&mut self, change: Change) -> Result<(), Broken> {
        match change {
            Change::Subscribe(key) => self.say(subscribe(&key)),
            Change::Unsubscribe(key) => {
                self.lagging.remove(&key);
                self.say(unsubscribe(&key));
            }
        }
        self.check_outbox()
    }

    /// Reports, where somebody has something to say.
    pub(super) fn report(&mut self) -> Result<(), Broken> {
        let reporter = self.shared.hooks.lock().reporter.clone();
        if let Some(report) = reporter.and_then(|reporter| reporter(!self.reported)) {
            self.reported = true;
            // The newest wins: one that still waits is out of date.
            self.outbox
                .retain(|message| !matches!(message.kind, Some(Say::Report(_))));
            self.say(Say::Report(report));
        }
        self.check_outbox()
    }

    /// Takes a message of the control plane.
    pub(super) fn on_message(
        &mut self,
        message: wire::ServerMessage,
        now: Instant,
    ) -> Result<(), Broken> {
        match message.kind {
            Some(Hear::HelloReply(reply)) => {
                self.greeted = true;
                self.on_hello_reply(&reply);
            }
            _ if !self.greeted => return Err(Broken::NoHelloReply),
            Some(Hear::Update(update)) => self.on_update(update, now),
            Some(Hear::Command(command)) => self.on_command(command),
            // A kind that this version does not know.
            None => {}
        }
        self.check_outbox()
    }

    /// When [`Session::follow`] has something to do.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        let first = self.lagging.values().min()?;
        Some(*first + Lagging::PATIENCE)
    }

    /// Follows a replica that has stuck to older versions for long enough.
    pub(super) fn follow(&mut self, now: Instant) -> Result<(), Broken> {
        let due: Vec<_> = self
            .lagging
            .iter()
            .filter(|(_, since)| now >= **since + Lagging::PATIENCE)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.lagging.remove(&key);
            let Some(slot) = self.shared.table.get(&key) else {
                continue;
            };
            let lagging = slot.record.lock().lagging.take();
            if let Some(Lagging { version, value, .. }) = lagging {
                self.shared.followed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(resource = %key, "following a control plane that lags behind");
                self.apply(&key, &slot, version, value);
            }
        }
        self.check_outbox()
    }

    fn on_hello_reply(&mut self, reply: &wire::HelloReply) {
        match decode::mesh_info(reply) {
            Ok(info) => {
                let known = self.shared.mesh.load();
                if known.is_none_or(|known| *known != info) {
                    self.shared.mesh.store(info);
                }
            }
            // There is no nack for it; what was known before stays.
            Err(error) => tracing::error!(%error, "the control plane's hello is refused"),
        }
    }

    fn on_command(&mut self, command: wire::Command) {
        let id = command.id;
        let handler = self.shared.hooks.lock().handler.clone();
        let answer = Command::from_wire(command).and_then(|command| match handler {
            Some(handler) => handler.handle(command),
            None => Err("commands are not taken".to_owned()),
        });
        let (payload, error) = match answer {
            // A message that is too long would end the stream.
            Ok(payload) if payload.len() > MAX_PAYLOAD => {
                let limit = MAX_PAYLOAD >> 20;
                let why = format!("the answer is longer than {limit} MiB; ask the admin port");
                (String::new(), why)
            }
            Ok(payload) => (payload, String::new()),
            Err(error) => (String::new(), error),
        };
        self.say(Say::CommandReply(wire::CommandReply { id, error, payload }));
    }

    fn on_update(&mut self, update: wire::Update, now: Instant) {
        let wire::Update {
            key: wire_key,
            version,
            resource,
        } = update;
        let Some(key) = wire_key.as_ref().and_then(Key::from_wire) else {
            let reason = "a key that no sidecar asks for".to_owned();
            self.nack(wire_key, version, reason);
            return;
        };
        // Unsubscribed in the meantime.
        let Some(slot) = self.shared.table.get(&key) else {
            return;
        };
        let Some(version) = version else {
            self.refuse(&key, &slot, None, "no version".to_owned());
            return;
        };
        let taken = take(&key, resource, &slot.record.lock());
        let value = match taken {
            Ok(value) => value,
            Err(Untaken::Refused(reason)) => {
                self.refuse(&key, &slot, Some(version), reason);
                return;
            }
            Err(Untaken::OutOfStep) => {
                self.say(unsubscribe(&key));
                self.say(subscribe(&key));
                return;
            }
        };
        if self.is_behind(&key, &slot, &version, &value, now) {
            return;
        }
        self.apply(&key, &slot, version, value);
    }

    /// Whether a version is older than the one in force and not to be followed yet. It is kept for
    /// the time when it is.
    fn is_behind(
        &mut self,
        key: &Key,
        slot: &Slot,
        version: &wire::Version,
        value: &Value,
        now: Instant,
    ) -> bool {
        let mut record = slot.record.lock();
        let older = record.version.as_ref().is_some_and(|held| {
            version.source_revision < held.source_revision
                && version.content_hash != held.content_hash
        });
        let since = self.lagging.get(key).copied().unwrap_or(now);
        record.lagging = None;
        if !older {
            self.lagging.remove(key);
            return false;
        }
        self.lagging.insert(key.clone(), since);
        record.lagging = Some(Lagging {
            version: version.clone(),
            value: value.clone(),
        });
        true
    }

    fn apply(&mut self, key: &Key, slot: &Slot, version: wire::Version, value: Value) {
        if let Value::TrustBundle(roots) = &value
            && let Err(error) = self.identity.trust(roots.clone())
        {
            self.refuse(key, slot, Some(version), error.to_string());
            return;
        }
        let same = {
            let mut record = slot.record.lock();
            let held = record.version.as_ref();
            let same = held.is_some_and(|held| {
                !held.content_hash.is_empty() && held.content_hash == version.content_hash
            });
            // Equal content from a replica that lags behind does not make what is held any older.
            let newest = held.filter(|held| same && held.source_revision > version.source_revision);
            record.version = Some(newest.unwrap_or(&version).clone());
            record.in_step = true;
            record.refused = None;
            record.by_default = matches!(value, Value::InboundByDefault);
            if let Value::Endpoints(set) = &value {
                record.endpoints.clone_from(set);
            }
            same
        };
        // Outside of the record's lock: listeners may ask for anything.
        if !same {
            self.publish(key, slot, value);
        }
        self.say(Say::Ack(wire::Ack {
            key: Some(key.to_wire()),
            version: Some(version),
        }));
    }

    fn publish(&self, key: &Key, slot: &Slot, value: Value) {
        match (&slot.cell, value) {
            (AnyCell::Outbound(cell), Value::Outbound(target)) => cell.store(target),
            (AnyCell::Endpoints(cell), Value::Endpoints(set)) => {
                cell.store(set.into_values().collect::<Vec<_>>());
            }
            (AnyCell::Inbound(cell), Value::Inbound(policy)) => {
                let policy = Arc::new(policy);
                cell.store(Arc::clone(&policy));
                if *key == Key::Inbound(0) {
                    self.publish_default(&policy);
                }
            }
            (AnyCell::Inbound(cell), Value::InboundByDefault) => {
                if let Some(policy) = self.shared.default_inbound.load() {
                    cell.store(policy);
                }
            }
            // The trust bundle is in the identity; other pairs cannot be: `take` follows the key.
            _ => {}
        }
    }

    fn publish_default(&self, policy: &Arc<InboundPolicy>) {
        for (_, slot) in self.shared.table.all(None) {
            let by_default = slot.record.lock().by_default;
            if let (AnyCell::Inbound(cell), true) = (&slot.cell, by_default) {
                cell.store(Arc::clone(policy));
            }
        }
    }

    fn refuse(&mut self, key: &Key, slot: &Slot, version: Option<wire::Version>, reason: String) {
        {
            let mut record = slot.record.lock();
            record.in_step = false;
            record.lagging = None;
            record.refused = Some(reason.clone());
        }
        self.lagging.remove(key);
        self.nack(Some(key.to_wire()), version, reason);
    }

    fn nack(
        &mut self,
        key: Option<wire::ResourceKey>,
        version: Option<wire::Version>,
        reason: String,
    ) {
        tracing::warn!(?key, reason, "refused what the control plane sent");
        self.shared.nacks.fetch_add(1, Ordering::Relaxed);
        self.say(Say::Nack(wire::Nack {
            key,
            version,
            reason,
        }));
    }

    fn say(&mut self, kind: Say) {
        self.outbox
            .push_back(wire::ClientMessage { kind: Some(kind) });
    }

    fn check_outbox(&self) -> Result<(), Broken> {
        if self.outbox.len() > MAX_OUTBOX {
            return Err(Broken::DoesNotRead);
        }
        Ok(())
    }
}

/// Decodes a resource as the key wants it.
fn take(key: &Key, resource: Option<Resource>, record: &Record) -> Result<Value, Untaken> {
    let refused = |error: decode::DecodeError| Untaken::Refused(error.to_string());
    match (key, resource) {
        (_, None) => Err(Untaken::Refused("no resource that is known here".into())),
        (Key::Outbound(_) | Key::Authority(_), Some(Resource::Outbound(message))) => {
            decode::outbound(&message)
                .map(Value::Outbound)
                .map_err(refused)
        }
        (Key::Outbound(_) | Key::Authority(_), Some(Resource::NotFound(_))) => {
            Ok(Value::Outbound(OutboundTarget::NotFound))
        }
        (Key::Endpoints(_), Some(Resource::Endpoints(message))) => {
            let list = decode::endpoints(&message).map_err(refused)?;
            let set = list.into_iter().map(|it| (it.address, it)).collect();
            Ok(Value::Endpoints(set))
        }
        (Key::Endpoints(_), Some(Resource::EndpointsDelta(message))) => {
            let delta = decode::endpoints_delta(&message).map_err(refused)?;
            let mut set = match &record.lagging {
                Some(Lagging {
                    value: Value::Endpoints(set),
                    ..
                }) => set.clone(),
                _ if record.in_step => record.endpoints.clone(),
                _ => return Err(Untaken::OutOfStep),
            };
            for address in &delta.remove {
                set.remove(address);
            }
            set.extend(delta.upsert.into_iter().map(|it| (it.address, it)));
            Ok(Value::Endpoints(set))
        }
        (Key::Endpoints(_), Some(Resource::NotFound(_))) => {
            Ok(Value::Endpoints(EndpointSet::new()))
        }
        (Key::Inbound(_), Some(Resource::Inbound(message))) => decode::inbound(&message)
            .map(Value::Inbound)
            .map_err(refused),
        (Key::Inbound(1..), Some(Resource::NotFound(_))) => Ok(Value::InboundByDefault),
        (Key::TrustBundle, Some(Resource::TrustBundle(message))) => {
            let roots = message.roots.into_iter().map(CertificateDer::from);
            Ok(Value::TrustBundle(roots.collect()))
        }
        (_, Some(_)) => Err(Untaken::Refused(format!("not a resource for {key}"))),
    }
}

fn subscribe(key: &Key) -> Say {
    Say::Subscribe(wire::Subscribe {
        key: Some(key.to_wire()),
    })
}

fn unsubscribe(key: &Key) -> Say {
    Say::Unsubscribe(wire::Unsubscribe {
        key: Some(key.to_wire()),
    })
}
