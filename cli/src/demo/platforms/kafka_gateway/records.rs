//! Clients that produce: one for each partition, so that it can be told what each broker's absence cost; and
//! one that connects anew for everything that it does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_sandbox::app::kafka::Client;
use weft_sandbox::programs::kafka::Brokers;
use weft_sandbox::programs::steady::{Steady, Work};
use weft_sandbox::programs::{Counts, missing, redis};
use weft_sandbox::{Mesh, Pod};

use super::PAUSE;
use super::servers::{EVERY, PARTITIONS, brokers};

/// What users' registrations are sent through.
pub(super) const TOPIC: &str = "users";
/// Where nobody consumes.
const OTHER_TOPIC: &str = "anew";
/// What one answer of Redis may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Produces to one partition all along.
#[derive(Debug)]
pub(super) struct Producer {
    steady: Steady,
    turn: Arc<Semaphore>,
}

impl Producer {
    pub(super) fn start(mesh: &Mesh, partition: i32) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        let work = Partition {
            brokers: brokers(mesh, super::PRODUCER),
            index: partition,
            turn: Arc::clone(&turn),
        };
        let steady = Steady::start(work, EVERY, PAUSE);
        Self { steady, turn }
    }

    /// What it has lived through.
    pub(super) fn counts(&self) -> &Counts {
        self.steady.counts()
    }

    /// It keeps its connection, and sends nothing while this is held: for less than the 5 s after which it
    /// would think that its record is lost.
    pub(super) async fn hold(&self) -> anyhow::Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        turn.context("the producer has ended")
    }
}

/// Records `PARTITION-1`, `PARTITION-2` and so on.
#[derive(Debug)]
struct Partition {
    brokers: Brokers,
    index: i32,
    turn: Arc<Semaphore>,
}

impl Work for Partition {
    type Connection = Client;

    async fn connect(&self) -> anyhow::Result<Client> {
        let mut client = self.brokers.client();
        client.partitions(TOPIC).await?;
        Ok(client)
    }

    async fn act(&self, client: &mut Client, number: u64) -> anyhow::Result<String> {
        let _turn = self.turn.acquire().await?;
        let record = format!("{}-{number}", self.index);
        let values = [record.as_bytes()];
        client.produce(TOPIC, self.index, &values).await?;
        Ok(record)
    }
}

/// Connects to a broker that its cluster names, and to Redis where there is one, each time anew.
#[derive(Debug)]
pub(super) struct Anew {
    brokers: Brokers,
    redis: Option<(Pod, SocketAddr)>,
}

impl Anew {
    pub(super) fn new(mesh: &Mesh, workload: &str) -> Self {
        let redis = missing(&redis::NEEDS).is_empty();
        Self {
            brokers: brokers(mesh, workload),
            redis: redis.then(|| (mesh.pod(workload), mesh.addr("redis", redis::PORT))),
        }
    }
}

impl Work for Anew {
    type Connection = ();

    async fn connect(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn act(&self, (): &mut (), number: u64) -> anyhow::Result<String> {
        let partition = (number % u64::from(PARTITIONS.unsigned_abs())) as i32;
        let mut client = self.brokers.client();
        let text = number.to_string();
        let values = [text.as_bytes()];
        client.produce(OTHER_TOPIC, partition, &values).await?;
        if let Some((pod, to)) = &self.redis {
            let mut connection = redis::Connection::connect(pod, *to, ANSWER).await?;
            connection.call(&["ping"]).await?;
        }
        Ok(text)
    }
}
