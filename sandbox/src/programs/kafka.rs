//! Clients of Kafka in the background: one that produces ([`Records`], for [`super::steady::Steady`]), and a
//! [`Consumer`]. Brokers are [`crate::app::kafka`]'s stand-ins.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Counts;
use super::steady::Work;
use crate::Pod;
use crate::app::kafka::{Client, Error};

/// What one call may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a consumer waits for records before it asks again.
const WAIT: Duration = Duration::from_millis(500);

/// Where a client is, and how it finds a cluster.
#[derive(Clone, Debug)]
pub struct Brokers {
    pod: Pod,
    bootstrap: Vec<SocketAddr>,
    names: BTreeMap<String, IpAddr>,
}

impl Brokers {
    /// In this pod, beginning at one of these addresses, with the names that
    /// [`crate::Mesh::announce_kafka`] has given.
    pub fn new(
        pod: &Pod,
        bootstrap: impl IntoIterator<Item = SocketAddr>,
        names: BTreeMap<String, IpAddr>,
    ) -> Self {
        Self {
            pod: pod.clone(),
            bootstrap: bootstrap.into_iter().collect(),
            names,
        }
    }

    /// A client that has not connected yet.
    pub fn client(&self) -> Client {
        let bootstrap = self.bootstrap.iter().copied();
        Client::new(&self.pod, bootstrap, self.names.clone(), PATIENCE)
    }
}

/// Records `1`, `2` and so on that are produced to the partitions of a topic in turns, and that their
/// leaders have taken.
#[derive(Clone, Debug)]
pub struct Records {
    brokers: Brokers,
    topic: String,
}

impl Records {
    /// To this topic.
    pub fn new(brokers: Brokers, topic: &str) -> Self {
        Self {
            brokers,
            topic: topic.to_owned(),
        }
    }
}

impl Work for Records {
    type Connection = (Client, i32);

    async fn connect(&self) -> anyhow::Result<Self::Connection> {
        let mut client = self.brokers.client();
        let partitions = client.partitions(&self.topic).await?;
        anyhow::ensure!(partitions > 0, "{} has no partitions", self.topic);
        Ok((client, partitions))
    }

    async fn act(
        &self,
        (client, partitions): &mut Self::Connection,
        number: u64,
    ) -> anyhow::Result<String> {
        let partition = (number % u64::from(partitions.unsigned_abs())) as i32;
        let text = number.to_string();
        client
            .produce(&self.topic, partition, &[text.as_bytes()])
            .await?;
        Ok(text)
    }
}

/// A consumer of all partitions of a topic from their beginning, each for itself, which connects again after
/// a pause and goes on where it was; at the beginning where that is gone. Ends when dropped.
#[derive(Debug)]
pub struct Consumer {
    counts: Counts,
    _tasks: JoinSet<()>,
}

impl Consumer {
    /// Starts one of so many partitions.
    pub fn start(brokers: &Brokers, topic: &str, partitions: i32, pause: Duration) -> Self {
        let counts = Counts::default();
        let mut tasks = JoinSet::new();
        for partition in 0..partitions {
            let (seen, topic) = (counts.clone(), topic.to_owned());
            let mut client = brokers.client();
            tasks.spawn(async move {
                let mut offset = 0;
                loop {
                    let taken = take(&mut client, &topic, partition, &mut offset, &seen).await;
                    let error = match taken {
                        Ok(never) => match never {},
                        Err(error) => error,
                    };
                    if error.downcast_ref() == Some(&Error::OffsetOutOfRange) {
                        offset = 0;
                    }
                    seen.loses(&error);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Self {
            counts,
            _tasks: tasks,
        }
    }

    /// What it has lived through, and every record with how often it came. Each partition counts as a
    /// connection.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

async fn take(
    client: &mut Client,
    topic: &str,
    partition: i32,
    offset: &mut i64,
    counts: &Counts,
) -> anyhow::Result<std::convert::Infallible> {
    client.partitions(topic).await?;
    counts.connects();
    loop {
        for message in client.fetch(topic, partition, *offset, WAIT).await? {
            counts.does(&String::from_utf8_lossy(&message.value));
            *offset = message.offset + 1;
        }
    }
}
