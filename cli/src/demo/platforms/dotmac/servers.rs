//! The real servers of the story: PostgreSQL and Redis. Each is left out where the machine has none.

use std::any::Any;

use weft_sandbox::Mesh;
use weft_sandbox::programs::missing;
use weft_sandbox::programs::postgres::{self, Postgres};
use weft_sandbox::programs::redis::{self, Redis};

pub(super) const DATABASE: &str = "postgres-0";
pub(super) const CACHE: &str = "redis-0";

/// They end when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) database: Option<Postgres>,
    pub(super) cache: Option<Redis>,
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
        let pod = mesh.pod(CACHE);
        Redis::start(&pod, mesh.dir()).await.map(Some)
    };
    let (database, cache) = tokio::try_join!(database, cache)?;
    Ok(Box::new(Servers { database, cache }))
}
