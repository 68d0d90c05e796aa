//! Which backend a request goes to.
//!
//! A key's hash is a fixed point on the line from 0 to 1, and the backends lie on it in list order,
//! each as long as its share of the weights. A key is at position `i` or later exactly when its
//! point is not below the share of what comes before `i`; so as long as the share from any position
//! to the end does not shrink, no key moves to an earlier backend. The comparison is exact (integers
//! of 128 bit), so that this holds when the total changes too. Hash and mapping are frozen by golden
//! vectors: another version of this code must send every user to the same side.

use std::hash::Hasher;

use http::HeaderMap;
use siphasher::sip::SipHasher13;

use super::{cookie, route};
use crate::policy::{CookieMatch, ServiceRef, SplitMatch, Sticky, WeightedBackend};

/// Fixed keys of the hash ("weft-spl", "it-key-1"): all sidecars must agree, for ever.
const KEYS: (u64, u64) = (0x7765_6674_2d73_706c, 0x6974_2d6b_6579_2d31);
/// Between the parts of a hashed service; no name contains it.
const SEPARATOR: u8 = 0;

/// Hashes the keys of one service's clients.
#[derive(Clone, Debug)]
pub struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// For keys of `service`, the one that the client addressed.
    pub fn new(service: &ServiceRef) -> Self {
        let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
        hasher.write(service.namespace.as_bytes());
        hasher.write(&[SEPARATOR]);
        hasher.write(service.name.as_bytes());
        hasher.write(&[SEPARATOR]);
        hasher.write(&service.port.to_be_bytes());
        Self(hasher)
    }

    /// The key's fixed point.
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0;
        hasher.write(key);
        hasher.finish()
    }
}

/// The first side that a request is forced to, whatever the weights.
pub fn forced(backends: &[WeightedBackend], headers: &HeaderMap) -> Option<usize> {
    backends.iter().position(|side| {
        let mut entries = side.forced.iter();
        entries.any(|entry| matches(entry, headers))
    })
}

fn matches(entry: &SplitMatch, headers: &HeaderMap) -> bool {
    let has_header = |header| route::matches_header(header, headers);
    let has_cookie = |cookie: &CookieMatch| {
        let found = cookie::find(headers, &cookie.name);
        match &cookie.value {
            None => found.is_some(),
            Some(wanted) => found == Some(&**wanted),
        }
    };
    entry.headers.iter().all(has_header) && entry.cookies.iter().all(has_cookie)
}

/// The key whose hash chooses the side, for a request of `workload`'s; `None` where it carries none.
pub fn key<'r>(sticky: &Sticky, headers: &'r HeaderMap, workload: &'r str) -> Option<&'r [u8]> {
    Some(match sticky {
        Sticky::ClientIdentity => workload.as_bytes(),
        Sticky::Header(name) => headers.get(name)?.as_bytes(),
        Sticky::Cookie { name, .. } => cookie::find(headers, name)?.as_bytes(),
    })
}

/// The position in `backends` that `point` falls on; `None` when all weights are 0. Without a key
/// `point` is a random number.
pub fn choose(backends: &[WeightedBackend], point: u64) -> Option<usize> {
    let total: u128 = backends.iter().map(|side| u128::from(side.weight)).sum();
    // floor(point * total / 2^64) >= c is the same as point / 2^64 >= c / total for whole c. The
    // product fits: a list whose weights add up to 2^64 does not fit into memory.
    let position = (u128::from(point) * total) >> 64;
    let mut end = 0;
    backends.iter().position(|side| {
        end += u128::from(side.weight);
        position < end
    })
}

/// The next side after `from` in list order, around the end, that has endpoints and is not cleared
/// by weight 0; `None` when there is none.
pub fn next_when_empty(
    backends: &[WeightedBackend],
    from: usize,
    has_endpoints: impl Fn(&WeightedBackend) -> bool,
) -> Option<usize> {
    let count = backends.len();
    (1..count)
        .map(|step| (from + step) % count)
        .find(|&index| backends[index].weight > 0 && has_endpoints(&backends[index]))
}
