//! PostgreSQL and Redis are killed under the platform and come back: who uses them knows at once, and what
//! they had confirmed is there.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::programs::postgres::{self, Connection, Postgres};
use weft_sandbox::programs::redis::{self, Redis};
use weft_sandbox::programs::steady::{At, Inserts, Sets, Steady};

use super::super::common::millis;
use super::servers::{self, Servers};
use super::{INGRESS, MOST_LATE, MOST_STEPS, REPLICAS};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;
use crate::demo::world::World;

const DATABASE: &str = "postgres";
const CACHE: &str = "redis";
/// The table and the keys' prefix.
const NAME: &str = "events";
/// Between two things that a client does, and between its tries to connect.
const EVERY: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(100);
/// How long clients work before, and how long servers are gone.
const BEFORE: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_millis(1_500);
/// How long one try to connect may take.
const ANSWER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Database and cache are restarted",
            "A real PostgreSQL and a real Redis, which replicas write to. They are killed and come back.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    let (database, cache) = servers.map_or((None, None), |servers| {
        (servers.database.as_ref(), servers.cache.as_ref())
    });
    for needs in [&postgres::NEEDS[..], &redis::NEEDS] {
        if let Some(missing) = weft_sandbox::programs::missing(needs).first() {
            stage.say(&format!("Left out: {missing}."));
        }
    }
    let rows = database.map(|_| Steady::start(Inserts(at(&world, 0, DATABASE)), EVERY, PAUSE));
    let keys = cache.map(|_| Steady::start(Sets(at(&world, 1, CACHE)), EVERY, PAUSE));
    let clients: Vec<_> = [&rows, &keys].into_iter().flatten().collect();
    stage.watch(BEFORE).await;
    if let Some(database) = database {
        check_connections(stage, database).await?;
    }
    let servers = [database.map(Postgres::server), cache.map(Redis::server)];
    for server in servers.into_iter().flatten() {
        server.kill().await?;
    }
    if database.is_some() {
        knock(stage).await;
    }
    stage.watch(GONE).await;
    if let Some(database) = database {
        stage.during(database.start_again()).await?;
    }
    if let Some(cache) = cache {
        stage.during(cache.start_again()).await?;
    }
    let done: Vec<_> = clients.iter().map(|it| it.counts().done()).collect();
    let took = stage
        .until(PATIENCE, async |_| {
            let mut both = clients.iter().zip(&done);
            both.all(|(client, done)| client.counts().done() > *done)
        })
        .await;
    if !clients.is_empty() {
        let what = "from running again to writing again";
        stage.check_time(what, took, MOST_STEPS);
    }
    if let (Some(database), Some(client)) = (database, &rows) {
        client.stop().await;
        let there = database.ask(&format!("select id from {NAME}")).await?;
        check_kept(stage, "rows of PostgreSQL", client, there.lines());
    }
    if let (Some(cache), Some(client)) = (cache, &keys) {
        client.stop().await;
        let there = cache.ask(&["keys", &format!("{NAME}:*")]).await?;
        check_kept(stage, "keys of Redis", client, there.lines());
    }
    let mut alerts = Vec::new();
    alerts.extend(database.map(|_| "DatabaseConnectionFailures"));
    alerts.extend(cache.map(|_| "CacheConnectionFailures"));
    // What acts before it made, at their ends.
    let may = ["HighLatency", "HighErrorRate"];
    stage.check_alerts(&alerts, &may).await
}

/// Who works with a service, from which replica.
fn at(world: &World, replica: usize, service: &str) -> At {
    let port = if service == CACHE {
        redis::PORT
    } else {
        postgres::PORT
    };
    let pod = world.mesh.pod(REPLICAS[replica]);
    At::new(&pod, world.mesh.addr(service, port), NAME)
}

/// Connections are those that PostgreSQL has itself, and nobody else gets one.
async fn check_connections(stage: &mut Stage, database: &Postgres) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let to = world.mesh.addr(DATABASE, postgres::PORT);
    let mut open = Vec::new();
    for replica in REPLICAS {
        let pod = world.mesh.pod(replica);
        open.push(stage.during(Connection::connect(&pod, to, ANSWER)).await?);
    }
    let ingress = world.mesh.pod(INGRESS);
    let refused = stage
        .during(Connection::connect(&ingress, to, ANSWER))
        .await;
    stage.check_count(
        "connections of who is not the platform refused",
        (1, "connection"),
        u64::from(refused.is_err()),
        Expected::exactly(1),
    );
    // But for the one that asks.
    let statement = "select count(*) from pg_stat_activity \
                     where backend_type = 'client backend' and pid <> pg_backend_pid()";
    let has: u64 = database.ask(statement).await?.trim().parse()?;
    let labels = [("direction", "inbound")];
    let metrics = world.metrics(servers::DATABASE).await.unwrap_or_default();
    let counted = metrics.sum("weft_tcp_open_connections", &labels);
    stage.check_count(
        "connections in its sidecar's metrics",
        (has, "of PostgreSQL's own"),
        counted as u64,
        Expected::exactly(has as f64),
    );
    Ok(())
}

/// Nobody waits for what is not there.
async fn knock(stage: &mut Stage) {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (
        world.mesh.pod(REPLICAS[2]),
        world.mesh.addr(DATABASE, postgres::PORT),
    );
    let begun = Instant::now();
    let refused = stage.during(Connection::connect(&pod, to, ANSWER)).await;
    stage.check(
        "until a replica knows that nobody is there",
        refused.is_err().then(|| millis(begun.elapsed())),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
}

/// All that was confirmed is there.
fn check_kept<'a>(
    stage: &mut Stage,
    what: &str,
    client: &Steady,
    there: impl Iterator<Item = &'a str>,
) {
    let there: BTreeSet<&str> = there.map(str::trim).collect();
    let confirmed = client.counts().messages();
    let lost = confirmed.keys().filter(|it| !there.contains(it.as_str()));
    let lost = lost.count() as u64;
    let of = (confirmed.len() as u64, "confirmed");
    stage.check_count(
        format!("{what} that are lost"),
        of,
        lost,
        Expected::exactly(0),
    );
    stage.check(
        format!("{what}: times that the client lost its connection"),
        client.counts().lost() as f64,
        Unit::Count,
        Expected::at_least(1),
    );
}
