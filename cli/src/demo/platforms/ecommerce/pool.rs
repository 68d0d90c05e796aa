//! The guide's pool of connections: 20 at most from each pod, however many its service opens, and 2 s until one of
//! them is there.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use weft_sandbox::Pod;
use weft_sandbox::programs::missing;
use weft_sandbox::programs::postgres::{Connection, NEEDS, PORT, Postgres};

use super::super::common::millis;
use super::servers::{Servers, say_missing};
use super::{CART, CONNECT, MOST_LATE, MOST_STEPS, OLD_PODS, POOL};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// The service that the pool is of.
pub(super) const SERVICE: &str = "postgres";
/// The guide's connections.
pub(super) const MOST: u64 = 20;
/// What a service opens that has forgotten to give them back.
const OPENED: u64 = 25;
/// How long a client waits for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// The least that the story gives a handshake, whatever its pace.
const LEAST_CONNECT: Duration = Duration::from_millis(250);
/// Sessions that are not whoever asks.
const SESSIONS: &str = "select count(*) from pg_stat_activity \
    where backend_type = 'client backend' and pid <> pg_backend_pid()";

/// What came of opening them.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Sessions that the database counts.
    counted: f64,
    refused: u64,
    /// The longest time until one was refused.
    longest: Duration,
    /// From one given back to the next one there.
    next: Option<Duration>,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A pool of connections",
            "A pod of user-service opens 25 connections to a real PostgreSQL and keeps them.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    let Some(database) = servers.and_then(|servers| servers.database.as_ref()) else {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    };
    let stranger = world.mesh.pod(CART);
    let to = world.mesh.addr(SERVICE, PORT);
    let refused = Connection::connect(&stranger, to, ANSWER);
    let refused = stage.during(refused).await.is_err();
    stage.check_count(
        "connections of cart-service refused",
        (1, "connection"),
        u64::from(refused),
        Expected::exactly(1),
    );
    let [pod, _] = OLD_PODS;
    let client = world.mesh.pod(pod);
    let saw = stage
        .before_and_after(pod, &[POOL], async |stage| {
            open(stage, database, &client).await
        })
        .await?;
    stage.check_both(
        "sessions that the database counts, of 25",
        saw.map(|it| it.counted),
        Unit::Count,
        BeforeAfter {
            before: Expected::exactly(OPENED as f64),
            after: Expected::exactly(MOST as f64),
        },
    );
    stage.check_count(
        "after: connections that got no place",
        (OPENED, "connections"),
        saw.after.refused,
        Expected::exactly((OPENED - MOST) as f64),
    );
    let limit = stage.time(CONNECT).max(LEAST_CONNECT);
    stage.check(
        "after: the longest that one of these waited",
        millis(saw.after.longest),
        Unit::Milliseconds,
        Expected::at_most(millis(limit + MOST_LATE)),
    );
    stage.check_time(
        "after: from one given back to the next one there",
        saw.after.next,
        MOST_STEPS,
    );
    stage.check_no_failure();
    Ok(())
}

/// Opens them all at once, and gives them back.
async fn open(stage: &mut Stage, database: &Postgres, client: &Pod) -> anyhow::Result<Seen> {
    let to = stage.world.mesh.addr(SERVICE, PORT);
    let tries = (0..OPENED).map(async |_| {
        let begun = Instant::now();
        let connection = Connection::connect(client, to, ANSWER).await;
        (connection.ok(), begun.elapsed())
    });
    let tries = stage.during(join_all(tries)).await;
    let lost = tries.iter().filter(|(connection, _)| connection.is_none());
    let longest = lost.clone().map(|(_, took)| *took).max();
    let refused = lost.count() as u64;
    let mut kept: Vec<Connection> = tries.into_iter().filter_map(|(it, _)| it).collect();
    let counted: u64 = stage.during(database.ask(SESSIONS)).await?.trim().parse()?;

    kept.pop();
    let mut last = None;
    let next = stage
        .until(MOST_STEPS, async |_| {
            last = Connection::connect(client, to, ANSWER).await.ok();
            last.is_some()
        })
        .await;
    drop((kept, last));
    stage
        .until(MOST_STEPS, async |_| {
            let sessions = database.ask(SESSIONS).await;
            sessions.is_ok_and(|sessions| sessions.trim() == "0")
        })
        .await;
    Ok(Seen {
        counted: counted as f64,
        refused,
        longest: longest.unwrap_or_default(),
        next,
    })
}
