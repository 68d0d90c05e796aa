//! Consistent hashing: which endpoint a key belongs to.
//!
//! Every endpoint has points on a ring of 64 bits, in proportion to its weight; a key belongs to the
//! endpoint whose point is the first at or after the key's own, and where that one cannot be used, to
//! the next one along the ring. Promises:
//!
//! * Where an endpoint's points lie depends on its address alone. So when one goes, only its keys move,
//!   and when one comes, keys move to it only. A changed weight moves keys to or from that endpoint.
//! * All sidecars agree, whatever order they know the endpoints in. Hashes and points are frozen by
//!   golden vectors: another version of this code must send every key to the same endpoint.
//! * Nothing is built while a request waits: a ring is made where the endpoint set changes, and a look-up
//!   is one binary search.
//! * Balance: with [`POINTS_PER_WEIGHT`] points each, an endpoint's share of the keys has a standard
//!   deviation of about 1/√256 = 6 % of what its weight deserves.
//! * Memory: [`MAX_POINTS`] of 12 bytes, or one point per endpoint where there are more endpoints. A set
//!   too large for it gets half as many points per weight, and half of that again, as often as need be:
//!   each time the sum of weights crosses such a boundary, about half of the keys move, once.
//!
//! The hash is SipHash-1-3 with fixed keys; a point's is over the address (16 bytes, IPv4 mapped into
//! IPv6), the port and the point's number (both big endian).

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

/// Points of an endpoint of weight 1.
pub const POINTS_PER_WEIGHT: u64 = 256;
/// Points of a whole ring, unless it has more endpoints than that.
pub const MAX_POINTS: u64 = 1 << 18;
/// How far a look-up goes on from point to point. Where so many in a row cannot be used, hardly any
/// endpoint can, and the rest is left to chance.
pub const MAX_STEPS: usize = 1024;

/// Fixed keys of the hash of points ("weft-bal", "ring-pt1").
const POINT_KEYS: (u64, u64) = (0x7765_6674_2d62_616c, 0x7269_6e67_2d70_7431);
/// Fixed keys of the hash of keys ("weft-bal", "ring-ky1").
const KEY_KEYS: (u64, u64) = (0x7765_6674_2d62_616c, 0x7269_6e67_2d6b_7931);
/// Fixed keys of the second hash of a key ("weft-bal", "ring-sp1").
const SPREAD_KEYS: (u64, u64) = (0x7765_6674_2d62_616c, 0x7269_6e67_2d73_7031);

/// One endpoint on its way onto a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What a look-up answers with.
    pub position: u32,
    /// What its points are made of.
    pub address: SocketAddr,
    /// How many points it has; at least 1.
    pub weight: u32,
}

/// The ring of one set of endpoints.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Ascending.
    points: Box<[u64]>,
    /// Whose they are: positions.
    owners: Box<[u32]>,
}

/// A key's own place on every ring.
pub fn point(key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEY_KEYS.0, KEY_KEYS.1);
    hasher.write(key);
    hasher.finish()
}

/// A second number of a key, which tells nothing of where on the ring it is.
pub fn spread(point: u64) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(SPREAD_KEYS.0, SPREAD_KEYS.1);
    hasher.write(&point.to_be_bytes());
    hasher.finish() as u32
}

impl Ring {
    /// The ring of `members`; of those with one address only one counts.
    pub fn new(mut members: Vec<Member>) -> Self {
        // From here on their order is one that everybody knows.
        members.sort_by_key(|member| (member.address, member.weight));
        members.dedup_by_key(|member| member.address);
        let halvings = halvings(&members);
        let mut points = Vec::new();
        for (rank, member) in (0_u32..).zip(&members) {
            let hasher = hasher_of(member.address);
            let own = 0..points_of(member.weight, halvings) as u32;
            points.extend(own.map(|number| {
                let mut hasher = hasher;
                hasher.write(&number.to_be_bytes());
                (hasher.finish(), rank)
            }));
        }
        points.sort_unstable();
        Self {
            points: points.iter().map(|(point, _)| *point).collect(),
            owners: points
                .iter()
                .map(|(_, rank)| members[*rank as usize].position)
                .collect(),
        }
    }

    /// The positions of the endpoints that `point` belongs to, most wanted first; each as often as it
    /// has points, up to [`MAX_STEPS`] altogether.
    pub fn owners(&self, point: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|own| *own < point);
        let (before, from) = self.owners.split_at(start);
        let around = from.iter().chain(before);
        around.take(MAX_STEPS).map(|owner| *owner as usize)
    }

    /// How many points it has.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether nobody is on it.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

/// How often the points per weight are halved, so that all of them fit.
fn halvings(members: &[Member]) -> u32 {
    let total = |halvings: &u32| -> u64 {
        let points = members.iter();
        points
            .map(|member| points_of(member.weight, *halvings))
            .sum()
    };
    let most = u64::BITS - 1;
    // With all halvings every member has one point, and there is nothing more to be had.
    (0..most)
        .find(|halvings| total(halvings) <= MAX_POINTS)
        .unwrap_or(most)
}

fn points_of(weight: u32, halvings: u32) -> u64 {
    ((POINTS_PER_WEIGHT * u64::from(weight)) >> halvings).max(1)
}

fn hasher_of(address: SocketAddr) -> SipHasher13 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut hasher = SipHasher13::new_with_keys(POINT_KEYS.0, POINT_KEYS.1);
    hasher.write(&ip.octets());
    hasher.write(&address.port().to_be_bytes());
    hasher
}
