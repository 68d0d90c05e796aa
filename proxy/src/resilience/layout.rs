//! A backend's endpoints, arranged for choosing.
//!
//! All that takes time is done here, where the endpoint set or the policy changes: endpoints of the own
//! zone are put before the others, and each side gets its ring where keys are hashed. A request finds
//! two ranges and a binary search.
//!
//! **Zones.** Requests stay in the own zone while enough of it is usable. What one endpoint cannot take,
//! its zone's others can up to a point: [`ROOM_PERCENT`] is what a zone is taken to bear, so that with the
//! share `h` of its endpoints usable, `min(1, 1.4 h)` of the requests stay and the rest goes to the other
//! zones. Where no endpoint is in the own zone, or all are, or the own zone is unknown, zones make no
//! difference.

use std::ops::Range;

use super::ring::{Member, Ring};
use crate::policy::{Balancer, EndpointInfo, HashKey};

/// What a zone is taken to bear, in percent of what its usable endpoints get while all are well: until
/// less than 5 in 7 are usable (1 / 1.4), nothing leaves it. A zone is rarely run with less headroom, and
/// the same figure is the default of Envoy's priority levels ("overprovisioning factor").
pub const ROOM_PERCENT: u64 = 140;

/// An arrangement. The default one knows neither zones nor keys.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// So many endpoints at the beginning are in the own zone; 0 where zones make no difference.
    near: usize,
    key: Option<HashKey>,
    /// Where there is a key: the own zone's, and that of the others (of all, where zones make no
    /// difference).
    rings: [Ring; 2],
}

/// A part of the endpoints among which one is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Their positions.
    pub range: Range<usize>,
    /// Which of the two rings and turns is theirs.
    pub(super) nth: usize,
}

impl Layout {
    /// Arranges `endpoints`: positions hold for their order from now on.
    pub fn arrange(balancer: &Balancer, zone: &str, endpoints: &mut [EndpointInfo]) -> Self {
        let is_far = |endpoint: &EndpointInfo| *endpoint.zone != *zone;
        let mut near = 0;
        if balancer.prefer_same_zone && !zone.is_empty() {
            endpoints.sort_by_key(is_far);
            near = endpoints.partition_point(|endpoint| !is_far(endpoint));
        }
        if near == endpoints.len() {
            near = 0;
        }
        let key = balancer.hash_key().cloned();
        let ring = |range: Range<usize>| {
            let members = range.map(|position| Member {
                position: position as u32,
                address: endpoints[position].address,
                weight: endpoints[position].weight,
            });
            Ring::new(members.collect())
        };
        let rings = match &key {
            Some(_) => [ring(0..near), ring(near..endpoints.len())],
            None => Default::default(),
        };
        Self { near, key, rings }
    }

    /// What is hashed.
    pub fn key(&self) -> Option<&HashKey> {
        self.key.as_ref()
    }

    /// The own zone's endpoints, of `count` altogether; `None` where zones make no difference.
    pub fn near(&self, count: usize) -> Option<Side> {
        let range = 0..self.near.min(count);
        (!range.is_empty()).then_some(Side { range, nth: 0 })
    }

    /// The other zones' endpoints, of `count` altogether; all, where zones make no difference.
    pub fn far(&self, count: usize) -> Side {
        let range = self.near.min(count)..count;
        Side { range, nth: 1 }
    }

    /// The endpoints of one side that `point` belongs to, most wanted first.
    pub fn owners(&self, side: &Side, point: u64) -> impl Iterator<Item = usize> {
        self.rings[side.nth].owners(point)
    }
}

/// Whether a request stays in a zone that has `usable` of its `count` endpoints left. `point` is the
/// request's own, anywhere in the range of its type: those with a high one leave first, and come back
/// last.
pub fn stays(count: usize, usable: usize, point: u32) -> bool {
    let bears = u128::from(ROOM_PERCENT) * usable as u128;
    let needed = 100 * count as u128;
    (u128::from(point) * needed) >> u32::BITS < bears
}
