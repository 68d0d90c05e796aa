//! Servers that are killed and started again over the same data, with the sandbox's own small clients:
//! what was confirmed is there afterwards, clients are told that their connection is gone, and those that
//! connect again do.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_sandbox::Mesh;
use weft_sandbox::programs::redis::{self, Redis, Reply};
use weft_sandbox::programs::steady::{At, Inserts, Queues, Sets, Steady, Subjects, Work};
use weft_sandbox::programs::{amqp, nats, postgres, rabbitmq};
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{CLIENT, Cx, SERVER, client_and_server};
use crate::programs::Needs;

/// What a client may wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before clients connect again, as client libraries do.
const PAUSE: Duration = Duration::from_millis(200);
/// What it may take until they have.
const RECOVERY: Duration = Duration::from_secs(20);
/// Messages before the end, and after it.
const MESSAGES: u32 = 20;
/// How often those do something that do it all the time.
const EVERY: Duration = Duration::from_millis(20);
/// How long a server is gone.
const OUTAGE: Duration = Duration::from_millis(500);

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&postgres::NEEDS);
    suite.add("restarts::postgres", needs, databases);
    let needs = Needs::programs(&redis::NEEDS);
    suite.add("restarts::redis", needs, caches);
    let needs = Needs::programs(&rabbitmq::NEEDS);
    suite.add("restarts::rabbitmq", needs, brokers);
    let needs = Needs::programs(&nats::NEEDS);
    suite.add("restarts::nats", needs, subjects);
}

/// Rows that were committed are there; a kept connection says that it is gone.
async fn databases(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_server("pg-restart", [postgres::PORT]),
        async |mesh| {
            let (pod, to) = (mesh.pod(CLIENT), mesh.addr(SERVER, postgres::PORT));
            let server = postgres::Postgres::start(&mesh.pod(SERVER), mesh.dir()).await?;
            let mut kept = postgres::Connection::connect(&pod, to, PATIENCE).await?;
            kept.ask("create table things (id int, name text)").await?;
            for id in 0..MESSAGES {
                let insert = format!("insert into things values ({id}, null)");
                kept.ask(&insert).await?;
            }
            let refused = kept.ask("select nothing").await;
            let refused = refused.expect_err("there is no such column").to_string();
            assert!(refused.contains("does not exist"), "{refused}");
            let rows = kept
                .ask("select id, name from things order by id limit 2")
                .await?;
            assert_eq!(rows, [["0", ""], ["1", ""]]);
            // Whoever is in the middle of something ends with everybody else.
            let mut busy = postgres::Connection::connect(&pod, to, PATIENCE).await?;
            let sleep = "select pg_sleep(60)";
            let (slept, killed) = tokio::join!(busy.ask_within(sleep, PATIENCE), async {
                tokio::time::sleep(PAUSE).await;
                server.kill().await
            });
            killed?;
            let gone = slept.expect_err("its server was killed").to_string();
            assert!(!gone.contains("within"), "{gone}");
            assert!(kept.ask("select 1").await.is_err());
            assert!(
                postgres::Connection::connect(&pod, to, PATIENCE)
                    .await
                    .is_err()
            );
            server.start_again().await?;
            let mut again = postgres::Connection::connect(&pod, to, PATIENCE).await?;
            let rows = again.ask("select count(*) from things").await?;
            assert_eq!(rows, [[MESSAGES.to_string()]]);
            let counted = server.ask("select count(*) from things").await?;
            assert_eq!(counted.trim(), MESSAGES.to_string());
            let log = server.server().log();
            assert!(log.contains("automatic recovery in progress"), "{log}");
            let inserts = Inserts(At::new(&pod, to, "steady"));
            let steady = through(&cx, inserts, async || {
                server.kill().await?;
                tokio::time::sleep(OUTAGE).await;
                server.start_again().await
            })
            .await?;
            let rows = server.ask("select id from steady").await?;
            assert_kept(&steady, rows.lines());
            Ok(())
        },
    )
    .await
}

/// What was set is there.
async fn caches(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_server("redis-restart", [redis::PORT]),
        async |mesh| {
            let (pod, to) = (mesh.pod(CLIENT), mesh.addr(SERVER, redis::PORT));
            let server = Redis::start(&mesh.pod(SERVER), mesh.dir()).await?;
            let mut kept = redis::Connection::connect(&pod, to, PATIENCE).await?;
            let set = kept.call(&["set", "cart", "two things"]).await?;
            assert_eq!(set, Reply::Word("OK".to_owned()));
            assert_eq!(kept.call(&["incr", "n"]).await?, Reply::Number(1));
            let both = kept.call(&["mget", "cart", "nothing"]).await?;
            let value = Reply::Value("two things".to_owned());
            assert_eq!(both, Reply::Array(vec![value.clone(), Reply::Nothing]));
            assert!(kept.call(&["incr", "cart"]).await.is_err());
            server.kill().await?;
            assert!(kept.call(&["ping"]).await.is_err());
            server.start_again().await?;
            let mut again = redis::Connection::connect(&pod, to, PATIENCE).await?;
            assert_eq!(again.call(&["get", "cart"]).await?, value);
            assert_eq!(server.ask(&["get", "n"]).await?, "1");
            let sets = Sets(At::new(&pod, to, "steady"));
            let steady = through(&cx, sets, async || {
                server.kill().await?;
                tokio::time::sleep(OUTAGE).await;
                server.start_again().await
            })
            .await?;
            assert_kept(&steady, server.ask(&["keys", "steady:*"]).await?.lines());
            Ok(())
        },
    )
    .await
}

/// Every message that was confirmed comes, those from before the end too, to a consumer that connects
/// again.
async fn brokers(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_server("amqp-restart", [rabbitmq::PORT]),
        async |mesh| {
            let (pod, to) = (mesh.pod(CLIENT), mesh.addr(SERVER, rabbitmq::PORT));
            let server = rabbitmq::RabbitMq::start(&mesh.pod(SERVER), mesh.dir()).await?;
            publish_all(mesh, "before").await?;
            server.kill().await?;
            let failed = amqp::Connection::connect(&pod, to).await;
            assert!(failed.is_err(), "nobody is there");
            let consumer = amqp::Consumer::start(&pod, to, "orders", PAUSE);
            server.start_again().await?;
            let restarted = std::time::Instant::now();
            publish_all(mesh, "after").await?;
            let counts = consumer.counts();
            let all = u64::from(2 * MESSAGES);
            wait_for("all messages", RECOVERY, async || {
                Ok((counts.done() >= all).then_some(()))
            })
            .await?;
            cx.measured(format!(
                "{all} messages {:?} after the broker",
                restarted.elapsed()
            ));
            assert!(counts.lost() > 0 && counts.is_connected());
            let wanted: BTreeSet<String> = ["before", "after"]
                .iter()
                .flat_map(|when| (0..MESSAGES).map(move |number| format!("{when} {number}")))
                .collect();
            let seen: BTreeSet<String> = counts.messages().into_keys().collect();
            assert_eq!(seen, wanted, "{:?}", counts.errors());
            // All were acknowledged: a queue without consumers is empty.
            drop(consumer);
            wait_for("an empty queue", RECOVERY, async || {
                let mut connection = amqp::Connection::connect(&pod, to).await?;
                Ok((connection.declare("orders").await? == 0).then_some(()))
            })
            .await?;
            assert!(server.connections_from(mesh.pod(SERVER).v4().into()) >= 3);
            let consumer = amqp::Consumer::start(&pod, to, "steady", PAUSE);
            let queues = Queues(At::new(&pod, to, "steady"));
            let steady = through(&cx, queues, async || {
                server.kill().await?;
                tokio::time::sleep(OUTAGE).await;
                server.start_again().await
            })
            .await?;
            let counts = consumer.counts();
            let wanted = steady.counts().messages();
            wait_for("all confirmed messages", RECOVERY, async || {
                let came = counts.messages();
                Ok(wanted
                    .keys()
                    .all(|one| came.contains_key(one))
                    .then_some(()))
            })
            .await?;
            assert_kept(&steady, counts.messages().keys().map(String::as_str));
            Ok(())
        },
    )
    .await
}

async fn publish_all(mesh: &Mesh, when: &str) -> anyhow::Result<()> {
    let to = mesh.addr(SERVER, rabbitmq::PORT);
    let mut connection = amqp::Connection::connect(&mesh.pod(CLIENT), to).await?;
    connection.declare("orders").await?;
    for number in 0..MESSAGES {
        connection
            .publish("orders", &format!("{when} {number}"))
            .await?;
    }
    Ok(())
}

/// Subscribers connect again, and each message goes to one of a group; what is published meanwhile is
/// refused to whoever publishes it.
async fn subjects(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_server("nats-restart", [nats::PORT]),
        async |mesh| {
            let (pod, to) = (mesh.pod(CLIENT), mesh.addr(SERVER, nats::PORT));
            let server = nats::Nats::start(&mesh.pod(SERVER), mesh.dir()).await?;
            let subscribers = [(); 2]
                .map(|()| nats::Subscriber::start(&pod, to, "places", Some("workers"), PAUSE));
            let connected = async |times: u64| {
                wait_for("subscribers", RECOVERY, async || {
                    let is_back = |one: &nats::Subscriber| {
                        one.counts().connected() == times && one.counts().is_connected()
                    };
                    Ok(subscribers.iter().all(is_back).then_some(()))
                })
                .await
            };
            let received = || -> u64 { subscribers.iter().map(|one| one.counts().done()).sum() };
            connected(1).await?;
            let mut kept = nats::Connection::connect(&pod, to).await?;
            for number in 0..MESSAGES {
                kept.publish("places", &format!("before {number}")).await?;
            }
            wait_for("messages", RECOVERY, async || {
                Ok((received() == u64::from(MESSAGES)).then_some(()))
            })
            .await?;
            assert_eq!(server.counts().await?["in_msgs"], MESSAGES);
            server.kill().await?;
            assert!(kept.publish("places", "lost").await.is_err());
            let restarted = std::time::Instant::now();
            server.start_again().await?;
            connected(2).await?;
            cx.measured(format!(
                "subscribers {:?} after the server",
                restarted.elapsed()
            ));
            let mut again = nats::Connection::connect(&pod, to).await?;
            for number in 0..MESSAGES {
                again.publish("places", &format!("after {number}")).await?;
            }
            wait_for("messages", RECOVERY, async || {
                Ok((received() == u64::from(2 * MESSAGES)).then_some(()))
            })
            .await?;
            for one in &subscribers {
                assert!(one.counts().messages().values().all(|times| *times == 1));
                assert!(!one.counts().messages().contains_key("lost"));
            }
            let subjects = Subjects(At::new(&pod, to, "steady"));
            let steady = through(&cx, subjects, async || {
                server.kill().await?;
                tokio::time::sleep(OUTAGE).await;
                server.start_again().await
            })
            .await?;
            assert!(steady.counts().messages().values().all(|times| *times == 1));
            Ok(())
        },
    )
    .await
}

/// A client that works all the time while its server is gone for a moment: it does before, and it does
/// afterwards, over a connection that it made anew.
async fn through(
    cx: &Cx,
    work: impl Work,
    outage: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Steady> {
    let steady = Steady::start(work, EVERY, PAUSE);
    let counts = steady.counts();
    let more = async |than: u64| {
        wait_for("a client that works", RECOVERY, async || {
            Ok((counts.done() >= than + u64::from(MESSAGES)).then_some(()))
        })
        .await
    };
    more(0).await?;
    outage().await?;
    more(counts.done()).await?;
    assert!(counts.lost() > 0 && counts.connected() > 1, "{counts:?}");
    assert!(counts.longest_gap() >= OUTAGE, "{counts:?}");
    cx.measured(format!(
        "gone for {OUTAGE:?}, nothing done for {:.1?}; {} done, {} errors",
        counts.longest_gap(),
        counts.done(),
        counts.lost()
    ));
    steady.stop().await;
    Ok(steady)
}

/// What was confirmed is there, and no more besides than what ended in an error, or was under way.
fn assert_kept<'a>(steady: &Steady, found: impl Iterator<Item = &'a str>) {
    let found: BTreeSet<String> = found.map(str::to_owned).collect();
    let lost = steady.counts().lost() as usize;
    let confirmed: BTreeSet<String> = steady.counts().messages().into_keys().collect();
    let missing: Vec<_> = confirmed.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let more = found.difference(&confirmed).count();
    assert!(more <= lost + 1, "{more} more than were confirmed");
}
