//! What the other replicas count, as heard last, and the sum over all: pure.
//!
//! Totals are everybody's. Confirmations and refusals count only from replicas that compile the same
//! generation of the policy as this one, so that a replica that lags behind confirms nothing new.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use crate::index::Name;
use crate::serve::counts::{Count, Counted, Counts, MAX_REFUSED, Trust};

/// The other replicas, by address.
#[derive(Default)]
pub(super) struct Table {
    heard: BTreeMap<SocketAddr, Heard>,
}

struct Heard {
    replica: String,
    counted: Counted,
}

impl Table {
    /// Takes the place of what the peer said before. Whether it said nothing before.
    pub(super) fn hear(&mut self, peer: SocketAddr, replica: String, counted: Counted) -> bool {
        let heard = Heard { replica, counted };
        self.heard.insert(peer, heard).is_none()
    }

    /// The peer is gone. Whether it counted until now.
    pub(super) fn forget(&mut self, peer: SocketAddr) -> bool {
        self.heard.remove(&peer).is_some()
    }

    /// Where the others stand in a rotation, as heard last.
    pub(super) fn trust(&self) -> impl Iterator<Item = (SocketAddr, &str, Option<&Trust>)> {
        self.heard.iter().map(|(peer, heard)| {
            let trust = heard.counted.trust.as_ref();
            (*peer, &*heard.replica, trust)
        })
    }

    /// How many are heard.
    pub(super) fn len(&self) -> usize {
        self.heard.len()
    }

    /// Who is connected to other replicas: by workload, since when, and to which at last.
    pub(super) fn elsewhere(&self) -> HashMap<u64, (u64, String)> {
        let mut all: HashMap<u64, (u64, String)> = HashMap::new();
        for heard in self.heard.values() {
            for (workload, since) in &heard.counted.workloads {
                let stream = (*since, heard.replica.clone());
                let newest = all.entry(*workload).or_default();
                if stream > *newest {
                    *newest = stream;
                }
            }
        }
        all
    }

    /// Everybody's counts. `generation` is what this replica's model says of a policy.
    pub(super) fn sum(&self, own: &Counts, generation: impl Fn(&Name) -> Option<i64>) -> Counts {
        let peers = self.heard.values().map(|heard| &heard.counted.counts);
        let all: Vec<&Counts> = std::iter::once(own).chain(peers).collect();
        let names: BTreeSet<&Name> = all.iter().flat_map(|counts| counts.keys()).collect();
        let mut sum = Counts::new();
        for name in names {
            let mut count = Count {
                generation: generation(name),
                ..Count::default()
            };
            for one in all.iter().filter_map(|counts| counts.get(name)) {
                count.total = count.total.saturating_add(one.total);
                if one.generation == count.generation {
                    count.acknowledged = count.acknowledged.saturating_add(one.acknowledged);
                    count.refused.extend(one.refused.iter().cloned());
                }
            }
            count.refused.sort();
            count.refused.truncate(MAX_REFUSED);
            sum.insert(name.clone(), count);
        }
        sum
    }
}
