//! PostgreSQL: a pool that wants more connections than the guide gives it does not get them, and a database
//! that is killed is back as soon as it runs.

use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::Pod;
use weft_sandbox::programs::missing;
use weft_sandbox::programs::postgres::{Connection, NEEDS, PORT, Postgres};

use super::super::common::millis;
use super::servers::{Servers, say_missing};
use super::{MOST_LATE, MOST_STEPS, VENDOR_POD};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// The file of policies about data.
const DATA: &str = "data";
/// The guide's `DB_POOL_MAX`.
const POOL: u64 = 10;
/// What a client opens that was told something else.
const WANTED: u64 = 15;
const ROWS: u64 = 50;
/// How long it is gone.
const GONE: Duration = Duration::from_secs(5);
/// How long the client waits for one answer.
const ANSWER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections of clients, without the one that asks.
const COUNT: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A database, its pool and its restart",
            "A real PostgreSQL of vendor-management, whose pod opens 15 connections; 10 are the guide's.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    let Some(database) = servers.and_then(|servers| servers.database.as_ref()) else {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    };
    let opened = stage
        .before_and_after(VENDOR_POD, &[DATA], async |stage| {
            pool(stage, database).await
        })
        .await?;
    stage.check_both(
        "connections that it has, of 15 of one pod",
        opened,
        Unit::Count,
        BeforeAfter {
            before: Expected::exactly(WANTED as f64),
            after: Expected::exactly(POOL as f64),
        },
    );
    restart(stage, database).await?;
    stage.check_no_failure();
    let may = ["VersionFails", "HighErrorRate", "NatsConnectionFailures"];
    let alerts = ["DatabaseConnectionFailures"];
    stage.check_alerts(&alerts, &may).await
}

/// How many of a pool's connections the database has, as it says itself.
async fn pool(stage: &mut Stage, database: &Postgres) -> anyhow::Result<f64> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(VENDOR_POD), world.mesh.addr("db", PORT));
    let mut open = Vec::new();
    for _ in 0..WANTED {
        // Those that are refused are what is looked at.
        open.extend(stage.during(Connection::connect(&pod, to, ANSWER)).await);
    }
    let there: u64 = database.ask(COUNT).await?.trim().parse()?;
    drop(open);
    let closed = async |_: &_| {
        database
            .ask(COUNT)
            .await
            .is_ok_and(|count| count.trim() == "0")
    };
    stage.until(PATIENCE, closed).await;
    Ok(there as f64)
}

async fn restart(stage: &mut Stage, database: &Postgres) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (client, to) = (world.mesh.pod(VENDOR_POD), world.mesh.addr("db", PORT));
    let mut connection = stage
        .during(Connection::connect(&client, to, ANSWER))
        .await?;
    let fill = format!("CREATE TABLE vendors AS SELECT generate_series(1, {ROWS}) AS id");
    connection.ask(&fill).await?;
    database.kill().await?;
    let begun = Instant::now();
    let lost = stage.during(connection.ask("SELECT 1")).await.is_err();
    stage.check(
        "until its client knows that it is gone",
        lost.then(|| millis(begun.elapsed())),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    let gone = stage.time(GONE);
    stage.watch(gone).await;
    let begun = Instant::now();
    let refused = stage.during(Connection::connect(&client, to, ANSWER)).await;
    stage.check(
        "a try to connect meanwhile",
        refused.is_err().then(|| millis(begun.elapsed())),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    stage.during(database.start_again()).await?;
    let mut rows = None;
    let took = stage
        .until(PATIENCE, async |_| {
            rows = count(&client, to).await;
            rows.is_some()
        })
        .await;
    stage.check_time("from running again to an answer", took, MOST_STEPS);
    stage.check_count(
        "rows that are there",
        (ROWS, "rows"),
        rows.unwrap_or(0),
        Expected::exactly(ROWS as f64),
    );
    Ok(())
}

async fn count(client: &Pod, to: std::net::SocketAddr) -> Option<u64> {
    let mut connection = Connection::connect(client, to, ANSWER).await.ok()?;
    let answer = connection.ask("SELECT count(*) FROM vendors").await.ok()?;
    answer.first()?.first()?.parse().ok()
}
