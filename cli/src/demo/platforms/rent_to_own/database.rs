//! Each service has a database of its own: nobody else gets to it, and what happens to it happens to
//! nobody else. It is killed and comes back.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::Pod;
use weft_sandbox::programs::missing;
use weft_sandbox::programs::postgres::{Connection, NEEDS, PORT};

use super::super::common::millis;
use super::servers::{Servers, say_missing};
use super::{CREDIT_PODS, MOST_LATE, MOST_STEPS, OTHERS};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

const SERVICE: &str = "credit-db";
/// Whose service has another one.
const NEIGHBOUR: &str = "user-service-1";
/// Rows that are written before it is killed.
const ROWS: u64 = 50;
/// How long it is gone, so that its client knocks some times.
const GONE: Duration = Duration::from_secs(2);
/// How long the client waits for one answer, and between two tries.
const ANSWER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A database is restarted",
            "A real PostgreSQL, of credit-service alone. It is killed under its client and comes back.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    let Some(database) = servers.and_then(|servers| servers.database.as_ref()) else {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    };
    let to = world.mesh.addr(SERVICE, PORT);
    let client = world.mesh.pod(CREDIT_PODS[0]);
    let mut connection = stage
        .during(Connection::connect(&client, to, ANSWER))
        .await?;
    stage
        .during(connection.ask("CREATE TABLE scores (id int)"))
        .await?;
    for id in 0..ROWS {
        connection
            .ask(&format!("INSERT INTO scores VALUES ({id})"))
            .await?;
    }
    let neighbour = world.mesh.pod(NEIGHBOUR);
    let refused = stage
        .during(Connection::connect(&neighbour, to, ANSWER))
        .await
        .is_err();
    stage.check_count(
        "connections of another service refused",
        (1, "connection"),
        u64::from(refused),
        Expected::exactly(1),
    );

    database.kill().await?;
    let begun = Instant::now();
    let lost = stage.during(connection.ask("SELECT 1")).await.is_err();
    let noticed = lost.then(|| millis(begun.elapsed()));
    stage.check(
        "until its client knows",
        noticed,
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    let knocks = knock(&client, to, GONE);
    let (knocks, longest) = stage.during(knocks).await;
    stage.check(
        "the longest of its tries to connect meanwhile",
        (knocks > 0).then(|| millis(longest)),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    stage.during(database.start_again()).await?;
    let mut rows = None;
    let took = stage
        .until(PATIENCE, async |_| {
            let Ok(mut again) = Connection::connect(&client, to, ANSWER).await else {
                return false;
            };
            let answer = again.ask("SELECT count(*) FROM scores").await;
            rows = answer.ok().and_then(|it| it.first()?.first()?.parse().ok());
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
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    // The two before it were about other services, and made them at their ends.
    let may = ["CircuitBreakerOpen", "HighErrorRate"];
    stage
        .check_alerts(&["DatabaseConnectionFailures"], &may)
        .await
}

/// Tries to connect again and again; how often, and the longest time that one try took.
async fn knock(client: &Pod, to: SocketAddr, time: Duration) -> (u64, Duration) {
    let (begun, mut knocks, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while begun.elapsed() < time {
        let try_begun = Instant::now();
        if Connection::connect(client, to, ANSWER).await.is_err() {
            knocks += 1;
        }
        longest = longest.max(try_begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    (knocks, longest)
}
