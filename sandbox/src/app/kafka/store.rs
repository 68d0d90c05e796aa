//! What a broker knows and keeps: its cluster, and the batches of the partitions that it leads.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batch::{self, Head};
use super::{Cluster, Error};

/// Topics that a broker knows.
const MAX_TOPICS: usize = 256;
/// Bytes of all batches together.
const MAX_BYTES: usize = 64 << 20;

/// Shared by all connections.
#[derive(Debug, Default)]
pub(crate) struct Store {
    state: Mutex<State>,
    /// Something was added.
    pub(super) added: Notify,
}

#[derive(Debug, Default)]
struct State {
    cluster: Cluster,
    topics: BTreeMap<String, BTreeMap<i32, Vec<Batch>>>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    base: i64,
    /// Offset behind its last record.
    end: i64,
    bytes: Bytes,
}

/// What is read of a partition.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Offset of the next record that will be added.
    pub(super) end: i64,
    pub(super) batches: Vec<Bytes>,
    pub(super) records: i64,
}

impl Store {
    pub(crate) fn set_cluster(&self, cluster: Cluster) {
        self.state.lock().cluster = cluster;
    }

    pub(super) fn cluster(&self) -> Cluster {
        self.state.lock().cluster.clone()
    }

    /// Names of all topics.
    pub(super) fn topics(&self) -> Vec<String> {
        self.state.lock().topics.keys().cloned().collect()
    }

    /// Knows a topic from now on.
    pub(super) fn know(&self, topic: &str) -> Result<(), Error> {
        let topics = &mut self.state.lock().topics;
        if topics.contains_key(topic) {
            return Ok(());
        }
        if topics.len() >= MAX_TOPICS || topic.is_empty() {
            return Err(Error::Unknown);
        }
        topics.insert(topic.to_owned(), BTreeMap::new());
        Ok(())
    }

    /// Adds a batch to a partition; the offset that its first record has.
    pub(super) fn add(
        &self,
        topic: &str,
        partition: i32,
        batch: &[u8],
    ) -> Result<(i64, Head), Error> {
        let head = batch::head(batch).map_err(|_| Error::Corrupt)?;
        if !head.is_whole {
            return Err(Error::Corrupt);
        }
        self.know(topic)?;
        let mut state = self.state.lock();
        state.check_led(partition)?;
        if state.bytes + batch.len() > MAX_BYTES {
            return Err(Error::Full);
        }
        state.bytes += batch.len();
        let partitions = state.topics.entry(topic.to_owned()).or_default();
        let log = partitions.entry(partition).or_default();
        let base = log.last().map_or(0, |last| last.end);
        let mut bytes = batch.to_vec();
        batch::set_base(&mut bytes, base);
        log.push(Batch {
            base,
            end: base + head.count,
            bytes: bytes.into(),
        });
        drop(state);
        self.added.notify_waiters();
        Ok((base, head))
    }

    /// Batches from the one with this offset on, until there are so many bytes; at least one, where there
    /// are any.
    pub(super) fn read(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        most: usize,
    ) -> Result<Found, Error> {
        let state = self.state.lock();
        state.check_led(partition)?;
        let log = state.topics.get(topic).and_then(|it| it.get(&partition));
        let log = log.map_or(&[][..], Vec::as_slice);
        let mut found = Found {
            end: log.last().map_or(0, |last| last.end),
            ..Found::default()
        };
        if !(0..=found.end).contains(&offset) {
            return Err(Error::OffsetOutOfRange);
        }
        let first = log.partition_point(|batch| batch.end <= offset);
        let mut bytes = 0;
        for batch in &log[first..] {
            if bytes > 0 && bytes + batch.bytes.len() > most {
                break;
            }
            bytes += batch.bytes.len();
            found.records += batch.end - batch.base;
            found.batches.push(batch.bytes.clone());
        }
        Ok(found)
    }
}

impl State {
    fn check_led(&self, partition: i32) -> Result<(), Error> {
        if self.cluster.brokers.is_empty() {
            return Err(Error::NoLeader);
        }
        match self.cluster.leader(partition) {
            None => Err(Error::Unknown),
            Some(leader) if leader == self.cluster.id => Ok(()),
            Some(_) => Err(Error::NotLeader),
        }
    }
}
