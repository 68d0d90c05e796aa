//! What replicas say to each other, in words of this crate. What a peer says is bounded and never
//! believed to be more than a count.

use std::time::{Duration, UNIX_EPOCH};

use weft_proto::replica as wire;

use crate::identity::{Fingerprint, Stand};
use crate::index::Name;
use crate::serve::counts::{Count, Counted, Counts, MAX_LAGGING, MAX_REFUSED, Trust};

/// Longest answer that is taken: 10,000 sidecars or policies with their refusals.
pub(super) const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Policies that are told of; a cluster has far fewer.
const MAX_POLICIES: usize = 20_000;
/// Roots that a replica may trust.
const MAX_ROOTS: usize = 64;
/// A namespace, a slash and a workload.
const MAX_NAME: usize = 2 * 253 + 1;
/// Sidecars on one replica.
pub(super) const MAX_WORKLOADS: usize = 10_000;

/// A whole count for a peer.
pub(super) fn write(replica: &str, counted: &Counted) -> wire::CountsUpdate {
    let mut workloads: Vec<_> = counted.workloads.iter().collect();
    workloads.sort_unstable();
    wire::CountsUpdate {
        counted: Some(wire::Counted {
            replica: replica.to_owned(),
            model_revision: counted.revision,
            policies: counted
                .counts
                .iter()
                .take(MAX_POLICIES)
                .map(|(name, count)| write_count(name, count))
                .collect(),
            workloads: workloads.iter().map(|(id, _)| **id).collect(),
            since: workloads.iter().map(|(_, since)| **since).collect(),
            trust: counted.trust.as_ref().map(write_trust),
        }),
    }
}

/// A peer's count.
pub(super) fn read(counted: wire::Counted) -> Counted {
    let policies = counted.policies.into_iter().take(MAX_POLICIES);
    let workloads = counted.workloads.into_iter().take(MAX_WORKLOADS);
    Counted {
        revision: counted.model_revision,
        counts: policies.map(read_count).collect::<Counts>(),
        workloads: workloads.zip(counted.since).collect(),
        trust: counted.trust.and_then(read_trust),
    }
}

fn write_trust(trust: &Trust) -> wire::Trust {
    let until = trust.stand.former_until;
    let until = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok());
    wire::Trust {
        issuer: trust.stand.issuer.0.to_vec(),
        roots: trust
            .stand
            .roots
            .iter()
            .map(|root| root.0.to_vec())
            .collect(),
        // Never less than what it was.
        former_until: until.map_or(0, |until| {
            until.as_secs() + u64::from(until.subsec_nanos() > 0)
        }),
        leaf_lifetime: trust.stand.leaf_lifetime.as_secs(),
        lagging: trust.lagging,
        lagging_names: trust.names.clone(),
    }
}

/// `None` where it cannot be what a replica says: it has confirmed nothing then.
fn read_trust(trust: wire::Trust) -> Option<Trust> {
    let fingerprint = |bytes: Vec<u8>| bytes.try_into().ok().map(Fingerprint);
    let roots = trust.roots.into_iter().take(MAX_ROOTS).map(fingerprint);
    let until = Duration::from_secs(trust.former_until);
    let names = trust.lagging_names.into_iter().take(MAX_LAGGING);
    Some(Trust {
        stand: Stand {
            issuer: fingerprint(trust.issuer)?,
            roots: roots.collect::<Option<_>>()?,
            former_until: match trust.former_until {
                0 => None,
                _ => Some(UNIX_EPOCH.checked_add(until)?),
            },
            leaf_lifetime: Duration::from_secs(trust.leaf_lifetime),
        },
        lagging: trust.lagging,
        names: names.filter(|name| name.len() <= MAX_NAME).collect(),
    })
}

fn write_count(name: &Name, count: &Count) -> wire::PolicyCount {
    let refused = count.refused.iter().take(MAX_REFUSED);
    wire::PolicyCount {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        generation: count.generation,
        acknowledged: count.acknowledged,
        total: count.total,
        refused: refused
            .map(|(workload, reason)| wire::Refused {
                namespace: workload.namespace.clone(),
                workload: workload.name.clone(),
                reason: reason.clone(),
            })
            .collect(),
    }
}

fn read_count(count: wire::PolicyCount) -> (Name, Count) {
    let refused = count.refused.into_iter().take(MAX_REFUSED);
    let refused = refused.map(|it| (Name::new(it.namespace, it.workload), it.reason));
    let name = Name::new(count.namespace, count.name);
    let count = Count {
        generation: count.generation,
        acknowledged: count.acknowledged.min(count.total),
        total: count.total,
        refused: refused.collect(),
    };
    (name, count)
}
