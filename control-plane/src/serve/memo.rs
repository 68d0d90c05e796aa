//! Compiles resources, each content once, and shares the encoded message among all streams.
//!
//! A content stays until it is looked up in a newer model that may have another: one that compiles to the
//! same keeps its version, and one that changed knows the delta from the content before. Nothing older is
//! kept here, and contents that no stream has are forgotten in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{
    Endpoint, Endpoints, EndpointsDelta, ResourceKey, ServerMessage, SocketAddress, TrustBundle,
    Update, Version, server_message,
};

use crate::compile::{self, Audience, Client};
use crate::identity;
use crate::index::Model;

/// Shared contents; beyond it a content is compiled for each stream on its own.
const MAX_ENTRIES: usize = 200_000;
/// Contents that no stream has are forgotten when so many are new since the last time, or as many as were
/// left then.
const MANY_NEW: usize = 1024;

/// The first half of a SHA-256.
pub(super) type ContentHash = [u8; 16];

/// The compiled state of the newest model.
pub(super) struct Memo {
    models: watch::Receiver<Arc<Model>>,
    bundle: watch::Receiver<identity::TrustBundle>,
    entries: Mutex<Entries>,
}

/// One version of one resource, encoded.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) hash: ContentHash,
    pub(super) created_at: SystemTime,
    /// The whole `ServerMessage`.
    pub(super) full: Bytes,
    /// The same as a change of the content before; only for endpoints.
    pub(super) delta: Option<Delta>,
    endpoints: Option<Endpoints>,
}

/// A `ServerMessage` that turns one content into another.
#[derive(Debug)]
pub(super) struct Delta {
    pub(super) from: ContentHash,
    pub(super) message: Bytes,
}

#[derive(Default)]
struct Entries {
    contents: HashMap<EntryKey, Entry>,
    /// How many there were when it was last looked for those that no stream has, and how many new ones
    /// there have been since.
    left: usize,
    new: usize,
}

struct Entry {
    compiled: Arc<Compiled>,
    /// The newest model's revision for which this is known to be the content.
    checked: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct EntryKey {
    resource: ResourceKey,
    audience: Audience,
}

impl Memo {
    pub(super) fn new(
        models: watch::Receiver<Arc<Model>>,
        bundle: watch::Receiver<identity::TrustBundle>,
    ) -> Self {
        Self {
            models,
            bundle,
            entries: Mutex::default(),
        }
    }

    /// The newest model, which [`Memo::resource`] compiles from.
    pub(super) fn model(&self) -> Arc<Model> {
        self.models.borrow().clone()
    }

    /// The newest version of a resource for a client, and the model's revision that it was looked
    /// up in.
    pub(super) fn resource(&self, client: &Client, key: &ResourceKey) -> (Arc<Compiled>, u64) {
        let model = self.model();
        let revision = model.revision();
        let entry = EntryKey {
            resource: key.clone(),
            audience: compile::audience(&model, client, key),
        };

        let previous = {
            let mut entries = self.entries.lock();
            match entries.contents.get_mut(&entry) {
                // The bundle is no part of the model, and may change without it.
                Some(known) if !is_trust_bundle(key) => {
                    if known.checked >= revision {
                        return (known.compiled.clone(), known.checked);
                    }
                    let since = model.since(known.checked);
                    if !compile::may_differ(&model, since, client, key) {
                        known.checked = revision;
                        return (known.compiled.clone(), revision);
                    }
                    Some(known.compiled.clone())
                }
                Some(known) => Some(known.compiled.clone()),
                None => None,
            }
        };

        // Unlocked: two streams may compile the same at once, to the same result.
        let resource = if is_trust_bundle(key) {
            self.trust_bundle()
        } else {
            compile::compile(&model, client, key)
        };
        let compiled = match Compiled::new(key, resource, revision, previous.as_deref()) {
            Some(changed) => Arc::new(changed),
            None => previous.expect("only compared with a previous content is a content unchanged"),
        };
        self.entries.lock().keep(entry, &compiled, revision);
        (compiled, revision)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.lock().contents.len()
    }

    fn trust_bundle(&self) -> Resource {
        let bundle = self.bundle.borrow();
        Resource::TrustBundle(TrustBundle {
            roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
        })
    }
}

impl Entries {
    /// Keeps a content, unless one of a newer model is there, or there is no place.
    fn keep(&mut self, key: EntryKey, compiled: &Arc<Compiled>, checked: u64) {
        let entry = Entry {
            compiled: compiled.clone(),
            checked,
        };
        if let Some(known) = self.contents.get_mut(&key) {
            if known.checked <= checked {
                *known = entry;
            }
            return;
        }
        self.new += 1;
        if self.new > self.left.max(MANY_NEW) {
            self.contents
                .retain(|_, entry| Arc::strong_count(&entry.compiled) > 1);
            self.left = self.contents.len();
            self.new = 0;
        }
        if self.contents.len() < MAX_ENTRIES {
            self.contents.insert(key, entry);
        }
    }
}

impl Compiled {
    /// Encodes a content; `None` where it is the previous one.
    pub(super) fn new(
        key: &ResourceKey,
        resource: Resource,
        revision: u64,
        previous: Option<&Compiled>,
    ) -> Option<Self> {
        let mut content = Vec::with_capacity(resource.encoded_len());
        resource.encode(&mut content);
        let hash = content_hash(&content);
        if previous.is_some_and(|previous| previous.hash == hash) {
            return None;
        }

        let created_at = SystemTime::now();
        let version = Version {
            content_hash: hash.to_vec(),
            source_revision: revision,
            created_at: Some(created_at.into()),
        };
        let endpoints = match &resource {
            Resource::Endpoints(endpoints) => Some(endpoints.clone()),
            _ => None,
        };
        let full = encode_update(key, &version, resource);
        let delta = previous
            .and_then(|previous| {
                let delta = endpoints_delta(previous.endpoints.as_ref()?, endpoints.as_ref()?)?;
                Some(Delta {
                    from: previous.hash,
                    message: encode_update(key, &version, Resource::EndpointsDelta(delta)),
                })
            })
            .filter(|delta| delta.message.len() < full.len());
        Some(Self {
            hash,
            created_at,
            full,
            delta,
            endpoints,
        })
    }
}

/// What turns one set into the other; `None` where addresses are missing or repeated, so that a set
/// cannot be told apart by them.
pub(super) fn endpoints_delta(before: &Endpoints, after: &Endpoints) -> Option<EndpointsDelta> {
    let before = by_address(before)?;
    let after = by_address(after)?;
    let mut upsert: Vec<Endpoint> = after
        .iter()
        .filter(|(address, endpoint)| before.get(*address) != Some(endpoint))
        .map(|(_, endpoint)| (*endpoint).clone())
        .collect();
    let mut remove: Vec<SocketAddress> = before
        .keys()
        .filter(|address| !after.contains_key(*address))
        .map(|address| (*address).clone())
        .collect();
    upsert.sort_by(|a, b| order(a.address.as_ref()).cmp(&order(b.address.as_ref())));
    remove.sort_by(|a, b| order(Some(a)).cmp(&order(Some(b))));
    Some(EndpointsDelta { upsert, remove })
}

fn by_address(set: &Endpoints) -> Option<HashMap<&SocketAddress, &Endpoint>> {
    let map: HashMap<_, _> = set
        .endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint.address.as_ref()?, endpoint)))
        .collect();
    (map.len() == set.endpoints.len()).then_some(map)
}

fn order(address: Option<&SocketAddress>) -> Option<(&[u8], u32)> {
    address.map(|address| (&address.ip[..], address.port))
}

fn is_trust_bundle(key: &ResourceKey) -> bool {
    matches!(key.kind, Some(Kind::TrustBundle(_)))
}

fn encode_update(key: &ResourceKey, version: &Version, resource: Resource) -> Bytes {
    let update = Update {
        key: Some(key.clone()),
        version: Some(version.clone()),
        resource: Some(resource),
    };
    encode(server_message::Kind::Update(update))
}

/// Encodes a message of the stream.
pub(super) fn encode(kind: server_message::Kind) -> Bytes {
    ServerMessage { kind: Some(kind) }.encode_to_vec().into()
}

fn content_hash(content: &[u8]) -> ContentHash {
    let digest = digest(&SHA256, content);
    let (hash, _) = digest
        .as_ref()
        .split_first_chunk()
        .expect("SHA-256 is longer than its half");
    *hash
}
