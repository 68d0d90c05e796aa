//! The database is killed and comes back: what it was asked for meanwhile fails at once, and nothing else
//! is touched, neither Redis nor Kafka nor requests.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::programs::kafka::{Consumer, Records};
use weft_sandbox::programs::missing;
use weft_sandbox::programs::postgres::{Connection, NEEDS, PORT};
use weft_sandbox::programs::redis;
use weft_sandbox::programs::steady::{At, Inserts, Sets, Steady};

use super::super::common::millis;
use super::pool::{ANSWER, SERVICE};
use super::servers::{PARTITIONS, Servers, say_missing};
use super::{CART, MOST_LATE, MOST_STEPS, ORDER};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

/// Before it is killed, and after it is there again.
const WELL: Duration = Duration::from_secs(1);
/// How long it is gone.
const GONE: Duration = Duration::from_secs(2);
/// How often each client does what it does, and when it connects again.
const EVERY: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);
/// Where orders are kept, in the database and as events.
const ORDERS: &str = "orders";
/// Keys of carts.
const CARTS: &str = "carts";
const CACHE: &str = "redis";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "The database is restarted",
            "A real PostgreSQL is killed under order-service; carts go on in Redis, events in Kafka.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let Some(servers) = world.props::<Servers>() else {
        return Ok(());
    };
    let Some(database) = &servers.database else {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    };
    let (order, cart) = (world.mesh.pod(ORDER), world.mesh.pod(CART));
    let to = world.mesh.addr(SERVICE, PORT);
    let rows = Steady::start(Inserts(At::new(&order, to, ORDERS)), EVERY, PAUSE);
    let events = Records::new(servers.brokers(&world.mesh, ORDER), ORDERS);
    let events = Steady::start(events, EVERY, PAUSE);
    let brokers = servers.brokers(&world.mesh, CART);
    let consumer = Consumer::start(&brokers, ORDERS, PARTITIONS, PAUSE);
    let carts = servers.cache.as_ref().map(|_| {
        let at = At::new(&cart, world.mesh.addr(CACHE, redis::PORT), CARTS);
        Steady::start(Sets(at), EVERY, PAUSE)
    });
    stage.watch(WELL).await;
    let well = rows.counts().lost();

    database.kill().await?;
    let killed = Instant::now();
    let (mut tries, mut longest) = (0, Duration::ZERO);
    let knocks = async {
        while killed.elapsed() < GONE {
            let begun = Instant::now();
            let connected = Connection::connect(&order, to, ANSWER).await;
            tries += u64::from(connected.is_err());
            longest = longest.max(begun.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
    };
    stage.during(knocks).await;
    stage.during(database.start_again()).await?;
    let took = stage
        .until(PATIENCE, async |_| rows.counts().is_connected())
        .await;
    let back = rows.counts().lost();
    stage.watch(WELL).await;
    let after = rows.counts().lost() - back;

    stage.check(
        "the longest try to connect while it is away",
        (tries > 0).then(|| millis(longest)),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    stage.check_time(
        "from running again to its client's connection",
        took,
        MOST_STEPS,
    );
    stage.check(
        "before: connections lost",
        well as f64,
        Unit::Count,
        Expected::exactly(0),
    );
    stage.check(
        "afterwards: connections lost",
        after as f64,
        Unit::Count,
        Expected::exactly(0),
    );
    rows.stop().await;
    let confirmed = rows.counts().messages();
    let there = stage.during(database.ask("select id from orders")).await?;
    let there: BTreeSet<&str> = there.lines().collect();
    let lost = confirmed.keys().filter(|id| !there.contains(id.as_str()));
    stage.check_count(
        "confirmed rows that are missing",
        (confirmed.len() as u64, "rows"),
        lost.count() as u64,
        Expected::exactly(0),
    );

    events.stop().await;
    let sent = events.counts().messages();
    let mut missed = sent.len();
    stage
        .until(PATIENCE, async |_| {
            let came = consumer.counts().messages();
            missed = sent.keys().filter(|it| came.get(*it) != Some(&1)).count();
            missed == 0
        })
        .await;
    stage.check_count(
        "events that did not come exactly once",
        (sent.len() as u64, "events"),
        missed as u64,
        Expected::exactly(0),
    );
    let lost = events.counts().lost() + consumer.counts().lost();
    let what = "to Kafka: connections lost";
    stage.check(what, lost as f64, Unit::Count, Expected::exactly(0));
    if let Some(carts) = carts {
        let what = "to Redis: connections lost";
        let lost = carts.counts().lost() as f64;
        stage.check(what, lost, Unit::Count, Expected::exactly(0));
        let what = "carts that were kept meanwhile";
        let least = WELL.as_secs_f64() / EVERY.as_secs_f64();
        let kept = carts.counts().done() as f64;
        stage.check(what, kept, Unit::Count, Expected::at_least(least));
    }
    stage.check_no_failure();
    Ok(())
}
