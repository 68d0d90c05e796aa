//! The real servers of the story: the credit service's PostgreSQL, and RabbitMQ. Each is left out where the
//! machine has none.

use std::any::Any;

use weft_sandbox::Mesh;
use weft_sandbox::programs::postgres::{self, Postgres};
use weft_sandbox::programs::rabbitmq::{self, RabbitMq};
use weft_sandbox::programs::{Missing, missing};

use crate::demo::stage::Stage;

/// The workload of the credit service's database.
pub(super) const DATABASE: &str = "credit-db-0";
/// The workload of the broker.
pub(super) const BROKER: &str = "rabbitmq-0";

/// They end when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) database: Option<Postgres>,
    pub(super) broker: Option<RabbitMq>,
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
    let broker = async {
        let pod = mesh.pod(BROKER);
        // It needs a network namespace of its own.
        if !missing(&rabbitmq::NEEDS).is_empty() || pod.place().is_some() {
            return Ok(None);
        }
        RabbitMq::start(&pod, mesh.dir()).await.map(Some)
    };
    let (database, broker) = tokio::try_join!(database, broker)?;
    Ok(Box::new(Servers { database, broker }))
}

/// Says why an act has nothing to play with.
pub(super) fn say_missing(stage: &mut Stage, missing: &[Missing]) {
    let why = missing.first().map_or_else(
        || "it needs network namespaces, which this machine does not give".to_owned(),
        ToString::to_string,
    );
    stage.say(&format!("Left out: {why}."));
}
