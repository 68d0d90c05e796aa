//! What the services keep their data in: a real PostgreSQL and a real Redis, each left out where the machine
//! has none, and a stand-in for Kafka.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_sandbox::programs::kafka::Brokers;
use weft_sandbox::programs::postgres::{self, Postgres};
use weft_sandbox::programs::redis::{self, Redis};
use weft_sandbox::programs::{Missing, missing};
use weft_sandbox::{Mesh, app};

use crate::demo::stage::Stage;

/// The workload of the database.
pub(super) const DATABASE: &str = "postgres-0";
/// The workload of the cache.
pub(super) const CACHE: &str = "redis-0";
/// The workload of the bus of events.
pub(super) const BROKER: &str = "kafka-0";
/// Its service.
const BUS: &str = "kafka";
/// Where it listens.
pub(super) const BROKER_PORT: u16 = app::kafka::PORT;
/// Partitions of each topic.
pub(super) const PARTITIONS: i32 = 3;

/// They end when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) database: Option<Postgres>,
    pub(super) cache: Option<Redis>,
    /// Names by which brokers call themselves.
    names: BTreeMap<String, IpAddr>,
}

/// Starts them in their pods, at once.
pub(super) async fn start(mesh: &Mesh) -> anyhow::Result<Box<dyn Any>> {
    let database = async {
        if !missing(&postgres::NEEDS).is_empty() {
            return Ok(None);
        }
        let pod = mesh.pod(DATABASE);
        Postgres::start(&pod, mesh.dir()).await.map(Some)
    };
    let cache = async {
        if !missing(&redis::NEEDS).is_empty() {
            return Ok(None);
        }
        Redis::start(&mesh.pod(CACHE), mesh.dir()).await.map(Some)
    };
    // A broker sends its clients to its pod. Where pods have no network of their own only services have
    // addresses.
    let service = mesh.addr(BUS, BROKER_PORT).ip();
    let advertised = mesh.pod(BROKER).place().map(|_| service.to_string());
    let names = mesh.announce_kafka(&[BROKER], BROKER_PORT, PARTITIONS, |_| advertised.clone());
    let (database, cache, names) = tokio::try_join!(database, cache, names)?;
    Ok(Box::new(Servers {
        database,
        cache,
        names,
    }))
}

impl Servers {
    /// The bus of events as a service's clients find it.
    pub(super) fn brokers(&self, mesh: &Mesh, workload: &str) -> Brokers {
        let bootstrap = mesh.addr(BUS, BROKER_PORT);
        Brokers::new(&mesh.pod(workload), [bootstrap], self.names.clone())
    }
}

/// Says why an act has nothing to play with.
pub(super) fn say_missing(stage: &mut Stage, missing: &[Missing]) {
    for missing in missing.iter().take(1) {
        stage.say(&format!("Left out: {missing}."));
    }
}
