//! The pool of connections to PostgreSQL: as many as the policy says, and somebody is told before it is full.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::programs::postgres::{Connection, PORT};

use super::servers::Servers;
use super::{DATA_FILE, POOL, USERS};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// Connections that a service opens which forgets to close them.
const OPENED: u64 = 30;
/// How long one of them may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Nobody holds a connection of the time before any more.
const QUIET: Duration = Duration::from_millis(300);
/// What the server counts.
const COUNT: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "The pool is full",
            "user-service opens 30 connections to PostgreSQL and closes none.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    if servers.is_none_or(|servers| servers.database.is_none()) {
        stage.say("Left out: it needs PostgreSQL.");
        return Ok(());
    }
    let mut held = Vec::new();
    let counts = stage
        .before_and_after(USERS, &[DATA_FILE], async |stage| {
            held.clear();
            stage.watch(QUIET).await;
            held = open(stage).await;
            count(stage).await
        })
        .await?;
    stage.check_both(
        "connections that PostgreSQL counts",
        counts,
        Unit::Count,
        BeforeAfter {
            // And the one that it uses.
            before: Expected::exactly((OPENED + 1) as f64),
            after: Expected::exactly(POOL as f64),
        },
    );
    // The acts before it were about them.
    let may = [
        "DatabaseConnectionFailures",
        "RedisConnectionFailures",
        "KafkaConnectionFailures",
    ];
    stage
        .check_alerts(&["DatabasePoolNearlyFull"], &may)
        .await?;
    drop(held);
    stage.check_no_failure();
    Ok(())
}

async fn open(stage: &mut Stage) -> Vec<Connection> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(USERS), world.mesh.addr("postgres", PORT));
    let mut held = Vec::new();
    for _ in 0..OPENED {
        held.extend(
            stage
                .during(Connection::connect(&pod, to, ANSWER))
                .await
                .ok(),
        );
    }
    held
}

async fn count(stage: &mut Stage) -> anyhow::Result<f64> {
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    let Some((database, _)) = servers.and_then(|servers| servers.database.as_ref()) else {
        return Ok(0.0);
    };
    let counted = stage.during(database.ask(COUNT)).await?;
    Ok(counted.trim().parse()?)
}
