//! PostgreSQL and Redis are killed under their clients and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::programs::postgres::{self, Connection};
use weft_sandbox::programs::{Counts, missing, redis};

use super::servers::{KEYS, Servers, TABLE};
use super::{DATA_OPEN, GATEWAY_PODS, MOST_LATE, MOST_STEPS, NOTIFICATIONS, PATIENCE, USERS};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// How long each is gone, so that its client tries some times.
const GONE: Duration = Duration::from_secs(10);
/// How long a client waits for one answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Databases are restarted",
            "A real PostgreSQL of user-service, and a real Redis of the gateway: each killed, one after the other.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let kafka = kafka_losses(stage);
    let mut fire = Vec::new();
    if let Some((database, client)) = world
        .props::<Servers>()
        .and_then(|servers| servers.database.as_ref())
    {
        refuse_others(stage, Store::Postgres).await;
        let (names, counts) = (Store::Postgres, client.counts());
        database.kill().await?;
        wait_for_loss(stage, names, counts).await;
        stage.during(database.start_again()).await?;
        wait_for_return(stage, names, counts).await;
        let done = counts.messages();
        let ids = database.ask(&format!("SELECT id FROM {TABLE}")).await?;
        let ids: BTreeSet<String> = ids.lines().map(str::to_owned).collect();
        check_kept(stage, names, &done, &ids);
        fire.push("DatabaseConnectionFailures");
    } else {
        say_missing(stage, &postgres::NEEDS);
    }
    if let Some((sessions, client)) = world
        .props::<Servers>()
        .and_then(|servers| servers.sessions.as_ref())
    {
        refuse_others(stage, Store::Redis).await;
        let (names, counts) = (Store::Redis, client.counts());
        sessions.kill().await?;
        wait_for_loss(stage, names, counts).await;
        stage.during(sessions.start_again()).await?;
        wait_for_return(stage, names, counts).await;
        let done = counts.messages();
        let keys = sessions.ask(&["keys", &format!("{KEYS}:*")]).await?;
        let keys: BTreeSet<String> = keys.lines().map(str::to_owned).collect();
        check_kept(stage, names, &done, &keys);
        fire.push("RedisConnectionFailures");
    } else {
        say_missing(stage, &redis::NEEDS);
    }
    let lost = kafka_losses(stage) - kafka;
    stage.check_count(
        "connections to brokers lost meanwhile",
        (5, "clients"),
        lost,
        Expected::exactly(0),
    );
    stage.check_no_failure();
    // The act before it was about brokers.
    stage
        .check_alerts(&fire, &["KafkaConnectionFailures"])
        .await
}

/// Which of the two.
#[derive(Clone, Copy, Debug)]
enum Store {
    Postgres,
    Redis,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
        }
    }

    /// Who is not to get to it.
    fn others(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => [GATEWAY_PODS[0], NOTIFICATIONS],
            Self::Redis => [USERS, NOTIFICATIONS],
        }
    }
}

async fn refuse_others(stage: &mut Stage, store: Store) {
    let world = Rc::clone(&stage.world);
    let mut refused = 0;
    for other in store.others() {
        let pod = world.mesh.pod(other);
        let answers = async {
            match store {
                Store::Postgres => {
                    let to = world.mesh.addr("postgres", postgres::PORT);
                    Connection::connect(&pod, to, ANSWER).await.is_ok()
                }
                Store::Redis => {
                    let to = world.mesh.addr("redis", redis::PORT);
                    match redis::Connection::connect(&pod, to, ANSWER).await {
                        Ok(mut connection) => connection.call(&["ping"]).await.is_ok(),
                        Err(_) => false,
                    }
                }
            }
        };
        refused += u64::from(!stage.during(answers).await);
    }
    stage.check_count(
        format!("{}: connections of others refused", store.name()),
        (2, "services"),
        refused,
        Expected::exactly(2),
    );
}

/// It has just been killed: its client knows, and tries for a while.
async fn wait_for_loss(stage: &mut Stage, store: Store, counts: &Counts) {
    let lost = counts.lost();
    let connected = counts.is_connected();
    let took = stage
        .until(PATIENCE, async |_| !connected || counts.lost() > lost)
        .await;
    let what = format!("{}: until its client knows", store.name());
    stage.check_time(what, took, MOST_LATE);
    let time = stage.time(GONE);
    stage.watch(time).await;
}

/// It has just been started again.
async fn wait_for_return(stage: &mut Stage, store: Store, counts: &Counts) {
    let done = counts.done();
    let took = stage.until(PATIENCE, async |_| counts.done() > done).await;
    let what = format!("{}: from running again to an answer", store.name());
    let most = stage.time(DATA_OPEN) + MOST_STEPS;
    stage.check_time(what, took, most);
}

/// What it has is everything that it had acknowledged before it was asked; it may have more, which its client
/// was not told of.
fn check_kept(
    stage: &mut Stage,
    store: Store,
    done: &BTreeMap<String, u64>,
    has: &BTreeSet<String>,
) {
    let lacks = done.keys().filter(|one| !has.contains(*one)).count() as u64;
    stage.check_count(
        format!("{}: acknowledged and not there", store.name()),
        (done.len() as u64, "writes"),
        lacks,
        Expected::exactly(0),
    );
}

fn kafka_losses(stage: &Stage) -> u64 {
    let servers = stage.world.props::<Servers>();
    servers.map_or(0, Servers::kafka_losses)
}

fn say_missing(stage: &mut Stage, needs: &[&str]) {
    for missing in missing(needs).iter().take(1) {
        stage.say(&format!("Left out: {missing}."));
    }
}
