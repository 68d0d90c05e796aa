//! A stand-in for Kafka: the part of its brokers that a mesh can break, and a small client.
//!
//! A client asks any broker for the cluster's metadata, gets the address of every broker, and from then on
//! speaks with the one that leads a partition, at exactly that address. A mesh that brings such a
//! connection to another broker breaks it: brokers here refuse what they do not lead
//! ([`Error::NotLeader`]), and count it as `misdirected`.
//!
//! Brokers speak ApiVersions 0 to 3, Metadata 1 to 5, Produce 3 to 7, Fetch 4 to 6, ListOffsets 1 to 2,
//! FindCoordinator 0 to 1 and InitProducerId 0 to 1, which is enough for client libraries that assign
//! partitions by themselves; there are no groups, no transactions, no replication and no TLS or SASL of
//! its own, and repeated batches of an idempotent producer are kept twice. Layouts are those of the Kafka
//! protocol guide. Messages are in memory, with bounds: a broker that is full says so. What it got is in
//! [`super::Stats`]: `kafka` counts, and the values of records are in `bodies`.
//!
//! A broker knows nothing of others until it is told by [`super::Control::be_broker`]; until then its
//! metadata has no brokers, which clients take as a reason to ask again.

mod batch;
mod client;
mod requests;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use client::{Client, Message};
pub(super) use server::serve;
pub(super) use store::Store;

/// The port that brokers usually have.
pub const PORT: u16 = 9092;

/// What a broker is told of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// This broker's own number.
    pub id: i32,
    /// Every broker, this one too. Partition 0 is led by the first, and so on round and round.
    pub brokers: Vec<Broker>,
    /// How many partitions every topic has; topics are made when somebody speaks of them.
    pub partitions: i32,
}

/// A broker as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Broker {
    /// Its number.
    pub id: i32,
    /// The name or address that it advertises.
    pub host: String,
    /// The port that it advertises.
    pub port: u16,
}

impl Cluster {
    /// Who leads a partition; nobody where it does not exist.
    fn leader(&self, partition: i32) -> Option<i32> {
        let exists = (0..self.partitions).contains(&partition);
        let number = usize::try_from(partition).ok().filter(|_| exists)?;
        let broker = self.brokers.get(number.checked_rem(self.brokers.len())?)?;
        Some(broker.id)
    }
}

/// Error codes of the protocol that a broker answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The offset is not there.
    OffsetOutOfRange,
    /// The checksum of a batch is wrong.
    Corrupt,
    /// There is no such topic or partition.
    Unknown,
    /// Nobody leads the partition yet.
    NoLeader,
    /// Another broker leads the partition.
    NotLeader,
    /// There is no coordinator.
    NoCoordinator,
    /// The version of a request is not known here.
    Version,
    /// No room for more.
    Full,
    /// A code that brokers here do not send.
    Other(i16),
}

/// The codes; none of them is 0, which is no error.
const CODES: [(Error, i16); 8] = [
    (Error::OffsetOutOfRange, 1),
    (Error::Corrupt, 2),
    (Error::Unknown, 3),
    (Error::NoLeader, 5),
    (Error::NotLeader, 6),
    (Error::NoCoordinator, 15),
    (Error::Version, 35),
    (Error::Full, 56),
];

impl Error {
    fn code(self) -> i16 {
        match self {
            Self::Other(code) => code,
            known => CODES
                .iter()
                .find(|(error, _)| *error == known)
                .map_or(-1, |(_, code)| *code),
        }
    }

    /// What a code means.
    fn check(code: i16) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        let known = CODES.iter().find(|(_, known)| *known == code);
        Err(known.map_or(Self::Other(code), |(error, _)| *error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::OffsetOutOfRange => "no such offset",
            Self::Corrupt => "the batch is not what was sent",
            Self::Unknown => "no such topic or partition",
            Self::NoLeader => "nobody leads the partition",
            Self::NotLeader => "another broker leads the partition",
            Self::NoCoordinator => "no coordinator",
            Self::Version => "unknown version",
            Self::Full => "no room for more",
            Self::Other(code) => return write!(f, "error {code} of Kafka"),
        };
        f.write_str(text)
    }
}

impl std::error::Error for Error {}
