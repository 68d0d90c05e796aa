//! What replicas say to each other, in words of this crate. What a peer says is bounded and never
//! believed to be more than a count.

use weft_proto::replica as wire;

use crate::index::Name;
use crate::serve::counts::{Count, Counted, Counts, MAX_REFUSED};

/// Longest answer that is taken: 10,000 sidecars or policies with their refusals.
pub(super) const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Policies that are told of; a cluster has far fewer.
const MAX_POLICIES: usize = 20_000;
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
    }
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
