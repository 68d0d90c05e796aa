//! What the story has besides its mesh: PostgreSQL, Redis and NATS, each left out where the machine has
//! none, and the stand-ins that the sandbox's application is none of.

use std::any::Any;
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;
use weft_sandbox::Mesh;
use weft_sandbox::programs::nats::{self, Nats};
use weft_sandbox::programs::postgres::{self, Postgres};
use weft_sandbox::programs::redis::{self, Redis};
use weft_sandbox::programs::{Missing, missing};

use super::locations::{Crowd, Locations, Patience};
use super::sockets::{Client, Server};
use super::{GATEWAY, LOCATION_PODS, MAX_RETRY_TIME, PORT, REAL_TIME_PODS};
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;

pub(super) const DATABASE: &str = "db-0";
pub(super) const REDIS: &str = "redis-0";
pub(super) const NATS: &str = "nats-0";
/// Clients that keep a WebSocket open from the story's begin to its end.
pub(super) const SOCKETS: u64 = 6;
/// What a location's key has.
const PLACE: &str = "41.01 28.98";

/// They end when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) database: Option<Postgres>,
    pub(super) redis: Option<Redis>,
    pub(super) nats: Option<Nats>,
    /// In the order of [`LOCATION_PODS`].
    pub(super) locations: Vec<Locations>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) sockets: Vec<Client>,
    /// Those of pods that come later too.
    pub(super) real_time: Mutex<Vec<Server>>,
}

/// Starts them in their pods, the programs at once.
pub(super) async fn start(mesh: &Mesh, pace: Pace) -> anyhow::Result<Box<dyn Any>> {
    let database = async {
        if !missing(&postgres::NEEDS).is_empty() {
            return Ok(None);
        }
        let started = Postgres::start(&mesh.pod(DATABASE), mesh.dir()).await;
        started.map(Some)
    };
    let redis = async {
        if !missing(&redis::NEEDS).is_empty() {
            return Ok(None);
        }
        let redis = Redis::start(&mesh.pod(REDIS), mesh.dir()).await?;
        redis.ask(&["set", "location:42", PLACE]).await?;
        Ok(Some(redis))
    };
    let nats = async {
        if !missing(&nats::NEEDS).is_empty() {
            return Ok(None);
        }
        Nats::start(&mesh.pod(NATS), mesh.dir()).await.map(Some)
    };
    let (database, redis, nats) = tokio::try_join!(database, redis, nats)?;
    let to = redis.as_ref().map(|_| mesh.addr("redis", redis::PORT));
    let patience = Patience {
        most: pace.of(MAX_RETRY_TIME),
        factor: pace.factor(),
    };
    let crowd = Arc::<Crowd>::default();
    let mut locations = Vec::new();
    for pod in LOCATION_PODS {
        let started = Locations::start(&mesh.pod(pod), to, patience, &crowd);
        locations.push(started.with_context(|| format!("listening in {pod}"))?);
    }
    let mut real_time = Vec::new();
    for pod in REAL_TIME_PODS {
        let started = Server::start(&mesh.pod(pod));
        real_time.push(started.with_context(|| format!("listening in {pod}"))?);
    }
    let (pod, to) = (mesh.pod(GATEWAY), mesh.addr("real-time", PORT));
    let sockets = (0..SOCKETS).map(|_| Client::start(&pod, to)).collect();
    Ok(Box::new(Servers {
        database,
        redis,
        nats,
        locations,
        crowd,
        sockets,
        real_time: Mutex::new(real_time),
    }))
}

/// Says why an act has nothing to play with.
pub(super) fn say_missing(stage: &mut Stage, missing: &[Missing]) {
    for missing in missing.iter().take(1) {
        stage.say(&format!("Left out: {missing}."));
    }
}
