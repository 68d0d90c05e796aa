//! How many sidecars run which policy.
//!
//! A sidecar counts for every policy that a resource it is subscribed to is made from
//! ([`compile::sources`]); it has confirmed the policy when it confirmed the newest version of each of
//! these resources, and refuses it when its last word on such a version was no. Counting takes a
//! snapshot of the streams, which holds their lock for a moment only, and remembers per revision of the
//! model what each resource's newest version and sources are, so that a count after an answer is a look
//! into tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{ResourceKey, TrustBundleKey, Version};

use super::memo::{Compiled, Memo};
use super::streams::{HeldResource, Introduction, Standing};
use crate::compile::{self, Audience, Client};
use crate::identity;
use crate::index::{Model, Name};

/// Refusals that are kept of a policy, for its status.
pub const MAX_REFUSED: usize = 3;
/// Sidecars that are named of those that lag behind in a rotation.
pub const MAX_LAGGING: usize = 10;
/// Resources whose sources are remembered, over all who share them.
const MAX_REMEMBERED: usize = 200_000;
/// Sidecars that are counted before others have their turn on the thread.
const AT_ONCE: usize = 64;

/// By policy; those that no sidecar holds anything of are absent.
pub type Counts = BTreeMap<Name, Count>;

/// The sidecars that hold something compiled from a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The generation that is compiled here; `None` where the policy has none, as in files.
    pub generation: Option<i64>,
    /// Sidecars that confirmed the newest version of everything that they hold of it.
    pub acknowledged: u32,
    /// Sidecars that hold anything of it.
    pub total: u32,
    /// Sidecars that refused a version of it that is still the newest, and why; at most
    /// [`MAX_REFUSED`].
    pub refused: Vec<(Name, String)>,
}

/// What one replica counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) revision: u64,
    pub(super) counts: Counts,
    /// Who is connected, by [`workload_id`], and since when in microseconds of unix time.
    pub(super) workloads: HashMap<u64, u64>,
    /// Where it stands in a rotation; `None` where it does not say.
    pub(super) trust: Option<Trust>,
}

/// Where one replica stands in a rotation of the authority, with its sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Who signs and who is trusted there.
    pub stand: identity::Stand,
    /// Its sidecars that have not confirmed the bundle of these roots.
    pub lagging: u32,
    /// Some of them, at most [`MAX_LAGGING`], as NAMESPACE/WORKLOAD.
    pub names: Vec<String>,
}

impl Trust {
    /// Looks at the sidecars of `standing` but those that are elsewhere; see [`Counter::count`].
    pub(super) fn of(
        stand: identity::Stand,
        memo: &Memo,
        standing: &[Standing],
        elsewhere: impl Fn(u64, u64) -> bool,
    ) -> Self {
        let mut trust = Self {
            stand,
            lagging: 0,
            names: Vec::new(),
        };
        let key = ResourceKey {
            kind: Some(Kind::TrustBundle(TrustBundleKey {})),
        };
        let mut newest = None;
        for one in standing {
            let introduction = &one.introduction;
            let name = &introduction.workload;
            if elsewhere(workload_id(name), micros(one.since)) {
                continue;
            }
            // Everybody's is the same.
            let newest = newest.get_or_insert_with(|| memo.resource(&client(introduction), &key).0);
            let held = one.held.get(&key);
            if held.is_some_and(|held| is_confirmed(held, newest)) {
                continue;
            }
            trust.lagging += 1;
            if trust.names.len() < MAX_LAGGING {
                trust.names.push(name.to_string());
            }
        }
        trust
    }
}

/// Counts, and remembers what makes the next count cheap.
#[derive(Default)]
pub(super) struct Counter {
    revision: u64,
    policies: Policies,
    /// By who shares it.
    shared: HashMap<Audience, HashMap<ResourceKey, Newest>>,
    /// By workload.
    own: HashMap<Name, HashMap<ResourceKey, Newest>>,
    remembered: usize,
}

/// The policies of one revision, by number.
#[derive(Default)]
struct Policies {
    names: Vec<Name>,
    numbers: HashMap<Name, usize>,
}

/// The newest version of a resource.
#[derive(Clone)]
struct Newest {
    compiled: Arc<Compiled>,
    sources: Arc<[usize]>,
}

/// What a sidecar makes of a policy.
struct Stand<'s> {
    /// The policy's number.
    policy: usize,
    lags: bool,
    refused: Option<&'s str>,
}

impl Counter {
    /// Counts the sidecars of `standing` but those that `elsewhere` says of (by id and since when) that
    /// a newer stream of theirs is on another replica.
    pub(super) async fn count(
        &mut self,
        memo: &Memo,
        standing: &[Standing],
        elsewhere: impl Fn(u64, u64) -> bool,
    ) -> Counted {
        let model = memo.model();
        if self.revision != model.revision() {
            *self = Self {
                revision: model.revision(),
                ..Self::default()
            };
        }
        let mut workloads = HashMap::with_capacity(standing.len());
        let mut counts: Vec<Count> = Vec::new();
        for some in standing.chunks(AT_ONCE) {
            for one in some {
                let name = &one.introduction.workload;
                let (id, since) = (workload_id(name), micros(one.since));
                workloads.insert(id, since);
                if elsewhere(id, since) {
                    continue;
                }
                let stands = self.stands(memo, &model, one);
                counts.resize_with(self.policies.names.len(), Count::default);
                for stand in stands {
                    let count = &mut counts[stand.policy];
                    count.total += 1;
                    count.acknowledged += u32::from(!stand.lags);
                    if let Some(reason) = stand.refused
                        && count.refused.len() < MAX_REFUSED
                    {
                        count.refused.push((name.clone(), reason.to_owned()));
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        let named = self.policies.names.iter().zip(counts);
        let counts = named
            .filter(|(_, count)| count.total > 0)
            .map(|(name, count)| {
                let generation = model.generation(name);
                (
                    name.clone(),
                    Count {
                        generation,
                        ..count
                    },
                )
            })
            .collect();
        Counted {
            revision: self.revision,
            counts,
            workloads,
            trust: None,
        }
    }

    /// What one sidecar makes of each policy that it holds something of.
    fn stands<'s>(&mut self, memo: &Memo, model: &Model, one: &'s Standing) -> Vec<Stand<'s>> {
        let client = client(&one.introduction);
        let mut stands: Vec<Stand<'s>> = Vec::new();
        for (key, held) in one.held.iter() {
            let Some(newest) = self.newest(memo, model, &client, key) else {
                continue;
            };
            let lags = !is_confirmed(held, &newest.compiled);
            let refused = refusal(held, &newest.compiled);
            stands.extend(newest.sources.iter().map(|policy| Stand {
                policy: *policy,
                lags,
                refused,
            }));
        }
        // The reason too, so that the same state always has the same words.
        stands.sort_unstable_by_key(|stand| (stand.policy, stand.refused));
        stands.dedup_by(|next, first| {
            let is_same = next.policy == first.policy;
            if is_same {
                first.lags |= next.lags;
                first.refused = first.refused.or(next.refused);
            }
            is_same
        });
        stands
    }

    /// `None` for what no policy is in.
    fn newest(
        &mut self,
        memo: &Memo,
        model: &Model,
        client: &Client,
        key: &ResourceKey,
    ) -> Option<Newest> {
        let of_audience = match &key.kind {
            Some(Kind::Outbound(_) | Kind::Authority(_)) => {
                let audience = compile::audience(model, client, key);
                self.shared.entry(audience).or_default()
            }
            Some(Kind::Inbound(_)) => {
                let name = Name::new(&*client.namespace, &*client.workload);
                self.own.entry(name).or_default()
            }
            Some(Kind::Endpoints(_) | Kind::TrustBundle(_)) | None => return None,
        };
        if let Some(known) = of_audience.get(key) {
            return Some(known.clone());
        }
        // Where a newer model has come meanwhile, everything is counted again soon.
        let (compiled, _) = memo.resource(client, key);
        let sources = compile::sources(model, client, key);
        let policies = &mut self.policies;
        let newest = Newest {
            compiled,
            sources: sources
                .into_iter()
                .map(|name| policies.number(name))
                .collect(),
        };
        if self.remembered < MAX_REMEMBERED {
            self.remembered += 1;
            of_audience.insert(key.clone(), newest.clone());
        }
        Some(newest)
    }
}

impl Policies {
    fn number(&mut self, name: Name) -> usize {
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        let number = self.names.len();
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }
}

/// Whether the newest version is in force at the sidecar.
pub(super) fn is_confirmed(held: &HeldResource, newest: &Compiled) -> bool {
    held.in_force
        .as_ref()
        .is_some_and(|version| is(version, newest))
}

/// Why the sidecar does not take the newest version.
pub(super) fn refusal<'h>(held: &'h HeldResource, newest: &Compiled) -> Option<&'h str> {
    let (version, reason) = held.refused.as_ref()?;
    is(version, newest).then_some(&**reason)
}

/// Who asks, as the compiler wants it.
pub(super) fn client(introduction: &Introduction) -> Client {
    Client {
        namespace: introduction.workload.namespace.clone(),
        service_account: introduction.service_account.clone(),
        workload: introduction.workload.name.clone(),
        zone: introduction.zone.clone(),
    }
}

/// What tells workloads apart among replicas.
pub(super) fn workload_id(name: &Name) -> u64 {
    let digest = digest(&SHA256, name.to_string().as_bytes());
    let (first, _) = digest
        .as_ref()
        .split_first_chunk()
        .expect("SHA-256 is longer than 8 bytes");
    u64::from_be_bytes(*first)
}

fn is(version: &Version, newest: &Compiled) -> bool {
    version.content_hash == newest.hash
}

fn micros(time: std::time::SystemTime) -> u64 {
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_micros() as u64
}
