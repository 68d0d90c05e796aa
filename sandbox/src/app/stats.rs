//! What the application has seen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Different keys that a table has room for; what comes after is counted in `not_listed`.
const MAX_ROUTES: usize = 1024;
const MAX_IDS: usize = 200_000;
const MAX_BODIES: usize = 100_000;
const MAX_AUTHORITIES: usize = 64;
/// Steps of `used_again`, in milliseconds, and the last of them.
const REST_STEP_MS: u64 = 100;
const MAX_REST_MS: u64 = 60_000;
/// FNV-1a, 64 bit: offset basis and prime.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// What the application has seen since its start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// The most connections that were open at once.
    pub most_connections: u64,
    /// Requests whose head came.
    pub requests: u64,
    /// Requests whose body came to its end.
    pub read: u64,
    /// Requests that are being worked on.
    pub in_flight: u64,
    /// Requests whose caller gave up before their answer was complete: closed the connection, or reset
    /// the stream.
    pub cancelled: u64,
    /// The most requests that were worked on at once.
    pub most_in_flight: u64,
    /// Requests by method and path, as `GET /orders`.
    pub routes: BTreeMap<String, u64>,
    /// Answers by status; requests that got none under 0.
    pub statuses: BTreeMap<u16, u64>,
    /// How often each unique id ([`super::ID`]) was seen.
    pub ids: BTreeMap<String, u64>,
    /// Requests by [`body_hash`], where a body was not empty.
    pub bodies: BTreeMap<String, u64>,
    /// Requests that a sidecar marked as copies of others, by the authority that they name.
    pub copies: BTreeMap<String, u64>,
    /// Bytes that came over connections of bytes and were sent back.
    pub echoed: u64,
    /// Connections that were closed because they rested for too long.
    pub closed_at_rest: u64,
    /// Of these, those of HTTP/1 over which a request had come that was never read.
    pub closed_over_requests: u64,
    /// Requests on connections that had been at rest, by how long, in milliseconds, rounded down to
    /// hundreds.
    pub used_again: BTreeMap<u64, u64>,
    /// What a broker of Kafka was asked for and did, such as `Metadata`, `produced orders/0` (records),
    /// `misdirected`.
    pub kafka: BTreeMap<String, u64>,
    /// Entries that the tables had no room for.
    pub not_listed: u64,
}

impl Stats {
    /// Ids that were seen more than once.
    pub fn repeated_ids(&self) -> usize {
        self.ids.values().filter(|seen| **seen > 1).count()
    }

    pub(super) fn connected(&mut self) {
        self.connections += 1;
        self.open_connections += 1;
        self.most_connections = self.most_connections.max(self.open_connections);
    }

    pub(super) fn disconnected(&mut self) {
        self.open_connections = self.open_connections.saturating_sub(1);
    }

    pub(super) fn began(&mut self, route: String, id: Option<String>) {
        self.requests += 1;
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        count(&mut self.routes, route, MAX_ROUTES, &mut self.not_listed);
        if let Some(id) = id {
            count(&mut self.ids, id, MAX_IDS, &mut self.not_listed);
        }
    }

    pub(super) fn used_again(&mut self, rested: Duration) {
        let rested = u64::try_from(rested.as_millis()).unwrap_or(MAX_REST_MS);
        let step = rested.min(MAX_REST_MS) / REST_STEP_MS * REST_STEP_MS;
        *self.used_again.entry(step).or_default() += 1;
    }

    pub(super) fn copied(&mut self, authority: String) {
        let room = MAX_AUTHORITIES;
        count(&mut self.copies, authority, room, &mut self.not_listed);
    }

    pub(super) fn kafka(&mut self, what: &str, more: u64) {
        if let Some(seen) = self.kafka.get_mut(what) {
            *seen += more;
        } else if self.kafka.len() < MAX_ROUTES {
            self.kafka.insert(what.to_owned(), more);
        } else {
            self.not_listed += more;
        }
    }

    pub(super) fn body_ended(&mut self, hash: Hasher) {
        self.read += 1;
        if hash.length > 0 {
            let text = hash.to_string();
            count(&mut self.bodies, text, MAX_BODIES, &mut self.not_listed);
        }
    }

    pub(super) fn ended(&mut self, status: u16, cancelled: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.cancelled += u64::from(cancelled);
        *self.statuses.entry(status).or_default() += 1;
    }
}

/// Hash of a body as [`Stats::bodies`] has it: 16 hexadecimal digits.
pub fn body_hash(body: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(body);
    hasher.to_string()
}

/// A hash that is taken piece by piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher {
    state: u64,
    pub(super) length: u64,
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            state: FNV_BASIS,
            length: 0,
        }
    }
}

impl std::fmt::Display for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.state)
    }
}

fn count(table: &mut BTreeMap<String, u64>, key: String, room: usize, not_listed: &mut u64) {
    if let Some(seen) = table.get_mut(&key) {
        *seen += 1;
    } else if table.len() < room {
        table.insert(key, 1);
    } else {
        *not_listed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_in_pieces_is_the_hash() {
        let mut hasher = Hasher::default();
        hasher.update(b"foo");
        hasher.update(b"bar");
        assert_eq!(hasher.to_string(), body_hash(b"foobar"));
        // A published vector of FNV-1a.
        assert_eq!(body_hash(b"foobar"), "85944171f73967e8");
    }
}
