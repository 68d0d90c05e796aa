//! What the story's services do all along: the gateway produces and keeps sessions, consumers consume, users
//! are written to a database. PostgreSQL and Redis are real, and left out where the machine has none.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_sandbox::Mesh;
use weft_sandbox::programs::kafka::{Brokers, Consumer};
use weft_sandbox::programs::postgres::{self, Postgres};
use weft_sandbox::programs::redis::{self, Redis};
use weft_sandbox::programs::steady::{At, Inserts, Sets, Steady};
use weft_sandbox::programs::{Counts, missing};

use super::records::{Producer, TOPIC};
use super::{BROKERS, KAFKA_PORT, NOTIFICATIONS, PAUSE, PRODUCER, USERS};
use crate::demo::world::World;

/// The workload of user-service's database.
pub(super) const DATABASE: &str = "postgres-0";
/// The workload of the gateway's sessions.
pub(super) const SESSIONS: &str = "redis-0";
/// The table of users, and how sessions are called.
pub(super) const TABLE: &str = "users";
pub(super) const KEYS: &str = "session";
/// One of each client's records, rows and keys.
pub(super) const EVERY: Duration = Duration::from_millis(50);
/// As many as there are brokers: each leads one.
pub(super) const PARTITIONS: i32 = BROKERS.len() as i32;

/// They end when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    /// By partition, which is the number of its broker.
    pub(super) producers: Vec<Producer>,
    /// By workload.
    pub(super) consumers: Vec<(&'static str, Received)>,
    pub(super) database: Option<(Postgres, Steady)>,
    pub(super) sessions: Option<(Redis, Steady)>,
}

/// A consumer of all partitions.
#[derive(Debug)]
pub(super) struct Received(Consumer);

impl Received {
    /// Starts one in a workload.
    pub(super) fn start(mesh: &Mesh, workload: &str) -> Self {
        let brokers = brokers(mesh, workload);
        Self(Consumer::start(&brokers, TOPIC, PARTITIONS, PAUSE))
    }

    /// How often this record came.
    pub(super) fn came(&self, record: &str) -> u64 {
        self.0.counts().times(record)
    }

    pub(super) fn counts(&self) -> &Counts {
        self.0.counts()
    }
}

impl Servers {
    /// Records that brokers have acknowledged.
    pub(super) fn taken(&self) -> Vec<String> {
        let counts = self.producers.iter().map(Producer::counts);
        counts.flat_map(|it| it.messages().into_keys()).collect()
    }

    /// How many clients there are.
    pub(super) fn clients(&self) -> u64 {
        self.counts().len() as u64
    }

    /// Connections to brokers that clients have lost or could not make.
    pub(super) fn kafka_losses(&self) -> u64 {
        self.of_kafka().map(Counts::lost).sum()
    }

    fn counts(&self) -> Vec<&Counts> {
        let database = self.database.iter().map(|(_, it)| it.counts());
        let sessions = self.sessions.iter().map(|(_, it)| it.counts());
        self.of_kafka().chain(database).chain(sessions).collect()
    }

    fn of_kafka(&self) -> impl Iterator<Item = &Counts> {
        let producers = self.producers.iter().map(Producer::counts);
        let consumers = self.consumers.iter().map(|(_, it)| it.counts());
        producers.chain(consumers)
    }
}

/// Starts the servers in their pods, at once, then who uses them. Consumers begin before their brokers
/// know that they are a cluster.
pub(super) async fn start(mesh: &Mesh) -> anyhow::Result<Box<dyn Any>> {
    let consumers = [USERS, NOTIFICATIONS].map(|it| (it, Received::start(mesh, it)));
    let database = async {
        if !missing(&postgres::NEEDS).is_empty() {
            return Ok(None);
        }
        Postgres::start(&mesh.pod(DATABASE), mesh.dir())
            .await
            .map(Some)
    };
    let sessions = async {
        if !missing(&redis::NEEDS).is_empty() {
            return Ok(None);
        }
        Redis::start(&mesh.pod(SESSIONS), mesh.dir())
            .await
            .map(Some)
    };
    let (database, sessions) = tokio::try_join!(database, sessions)?;
    announce(mesh, None).await?;
    let at = |client: &str, service: &str, port: u16, name: &str| {
        At::new(&mesh.pod(client), mesh.addr(service, port), name)
    };
    let inserts = Inserts(at(USERS, "postgres", postgres::PORT, TABLE));
    let sets = Sets(at(PRODUCER, "redis", redis::PORT, KEYS));
    let steady = |database| (database, Steady::start(inserts, EVERY, PAUSE));
    let database = database.map(steady);
    let sessions = sessions.map(|server| (server, Steady::start(sets, EVERY, PAUSE)));
    let producers = (0..PARTITIONS).map(|partition| Producer::start(mesh, partition));
    let servers = Servers {
        producers: producers.collect(),
        consumers: consumers.into(),
        database,
        sessions,
    };
    Ok(Box::new(servers))
}

/// Tells the brokers who they are: each by the address of its own pod, or all by this one.
pub(super) async fn announce(mesh: &Mesh, address: Option<IpAddr>) -> anyhow::Result<()> {
    let host = |_: &str| address.map(|it| it.to_string());
    mesh.announce_kafka(&BROKERS, KAFKA_PORT, PARTITIONS, host)
        .await?;
    Ok(())
}

/// The cluster as a workload's clients know it: what the headless service resolves to.
pub(super) fn brokers(mesh: &Mesh, workload: &str) -> Brokers {
    let addresses = BROKERS.map(|broker| SocketAddr::from((mesh.pod(broker).v4(), KAFKA_PORT)));
    Brokers::new(&mesh.pod(workload), addresses, no_names())
}

/// Brokers advertise addresses, which need no resolver.
pub(super) fn no_names() -> BTreeMap<String, IpAddr> {
    BTreeMap::new()
}

/// Connections that clients have lost or could not make.
pub(super) fn losses(world: &World) -> u64 {
    let servers = world.props::<Servers>();
    let counts = servers.map(Servers::counts).unwrap_or_default();
    counts.into_iter().map(Counts::lost).sum()
}

/// Records that brokers have acknowledged.
pub(super) fn taken(world: &World) -> usize {
    let servers = world.props::<Servers>();
    servers.map_or(0, |servers| servers.taken().len())
}
