//! A broker's pod is restarted: what it leads waits, and nothing else does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::Pod;
use weft_sandbox::programs::kafka::Brokers;

use super::super::common::millis;
use super::records::TOPIC;
use super::servers::{Received, Servers, announce, brokers, no_names};
use super::{
    BROKER_OPEN, BROKERS, KAFKA_FILE, KAFKA_PORT, MOST_LATE, MOST_STEPS, NOTIFICATIONS, PATIENCE,
    PAUSE, PRODUCER, TCP_CONNECTIONS, check_records,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// Which broker it is, and what it leads.
const GONE: usize = 1;
const PARTITION: i32 = GONE as i32;
/// How long it is away.
const TIME: Duration = Duration::from_secs(20);
/// Between two tries of a client that wants this broker and no other.
const KNOCK: Duration = Duration::from_millis(20);
/// Nothing is under way any more by then.
const QUIET: Duration = Duration::from_millis(200);
/// Share of its usual records that a producer must send meanwhile: what a busy machine leaves of it.
const LEAST_PERCENT: f64 = 60.0;
/// Connects that ended so went out and failed; and so did not go out.
const TRIED: [&str; 3] = ["connect_refused", "connect_timeout", "tls_failed"];
const SPARED: [&str; 1] = ["circuit_open"];

/// What was seen while it was away, and after.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Of connects to it, in percent.
    went_out: Option<f64>,
    /// Records of the other brokers, in percent of what is usual.
    others: f64,
    /// Losses of those who produce to the others.
    lost: u64,
    /// Errors of consumers that speak of other brokers' records.
    wrong: u64,
    /// The longest that one connect to it took to fail.
    longest: f64,
    /// From running again to a record that it took.
    back: Option<Duration>,
    /// The same to a record of it at a consumer that had been started before it.
    late: Option<Duration>,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A broker is restarted",
            "The pod of one of three is killed and comes back; a consumer starts before it is there.",
        )
        .await;
    let seen = stage
        .before_and_after(PRODUCER, &[KAFKA_FILE], async |stage| away(stage).await)
        .await?;
    stage.check_both(
        "connects that went out to it, in percent",
        seen.map(|it| it.went_out),
        Unit::Percent,
        BeforeAfter {
            before: Expected::exactly(100),
            after: Expected::at_most(40),
        },
    );
    let after = seen.after;
    stage.check(
        "the longest that a client waited to be told",
        after.longest,
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    stage.check(
        "records of the other brokers meanwhile, in percent",
        after.others,
        Unit::Percent,
        Expected::at_least(LEAST_PERCENT),
    );
    let clients = (BROKERS.len() - 1) as u64;
    stage.check_count(
        "connections lost by producers of the others",
        (clients, "producers"),
        seen.before.lost + after.lost,
        Expected::exactly(0),
    );
    stage.check_count(
        "errors of consumers that are about the others",
        (2, "consumers"),
        seen.before.wrong + after.wrong,
        Expected::exactly(0),
    );
    let most = stage.time(BROKER_OPEN) + MOST_STEPS;
    stage.check_time("from running again to a record", after.back, most);
    stage.check_time(
        "… to one at a consumer that started before it",
        after.late,
        most,
    );
    check_records(stage).await;
    stage.check_no_failure();
    stage.check_alerts(&["KafkaConnectionFailures"], &[]).await
}

/// It is killed, away for a while, and comes back.
async fn away(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    let servers = servers.ok_or_else(|| anyhow::anyhow!("the story has no servers"))?;
    let time = stage.time(TIME);
    // It keeps records in memory: those that it has been sent are taken out of it first.
    let turn = servers.producers[GONE].hold().await?;
    stage.watch(QUIET).await;
    let taken = servers.taken();
    stage
        .until(PATIENCE, async |_| {
            let mut consumers = servers.consumers.iter();
            consumers.all(|(_, it)| taken.iter().all(|one| it.came(one) > 0))
        })
        .await;
    let neighbour = brokers(&world.mesh, BROKERS[0]);
    let end = neighbour.client().end_offset(TOPIC, PARTITION).await?;
    let marks = Marks::new(servers);
    let before = connects(&world).await;
    world.mesh.kill_workload(BROKERS[GONE]).await?;
    drop(turn);
    let late = Received::start(&world.mesh, NOTIFICATIONS);
    let begun = Instant::now();
    let pod = world.mesh.pod(PRODUCER);
    let to = (world.mesh.pod(BROKERS[GONE]).v4(), KAFKA_PORT).into();
    let longest = stage.during(knock(&pod, to, time)).await;
    let (others, lost, wrong) = marks.since(servers, begun.elapsed());
    let after = connects(&world).await;

    // Nothing is sent to it before its log is as long as it was, or offsets of consumers would be beyond it.
    let turn = servers.producers[GONE].hold().await?;
    stage
        .during(world.mesh.start_workload(BROKERS[GONE]))
        .await?;
    announce(&world.mesh, None).await?;
    let kept = vec![&b"kept"[..]; usize::try_from(end)?];
    let refilled = async { neighbour.client().produce(TOPIC, PARTITION, &kept).await };
    stage.during(refilled).await?;
    drop(turn);
    let running = Instant::now();
    let producer = servers.producers[GONE].counts();
    let done = producer.done();
    let back = stage
        .until(PATIENCE, async |_| producer.done() > done)
        .await;
    let own = format!("{GONE}-");
    stage
        .until(PATIENCE, async |_| {
            let mut came = late.counts().messages().into_keys();
            came.any(|record| record.starts_with(&own))
        })
        .await;
    let late = Some(running.elapsed());
    let (tried, spared) = (after[0] - before[0], after[1] - before[1]);
    let all = tried + spared;
    Ok(Seen {
        went_out: (all > 0.0).then(|| tried * 100.0 / all),
        others,
        lost,
        wrong,
        longest: millis(longest),
        back,
        late,
    })
}

/// Where others stood before it went.
#[derive(Debug)]
struct Marks {
    done: u64,
    lost: u64,
    errors: [usize; 2],
}

impl Marks {
    fn new(servers: &Servers) -> Self {
        let (done, lost) = others(servers);
        let errors = |at: usize| servers.consumers[at].1.counts().errors().len();
        Self {
            done,
            lost,
            errors: [errors(0), errors(1)],
        }
    }

    /// Records in percent of what is usual, connections lost, errors about others than it.
    fn since(&self, servers: &Servers, time: Duration) -> (f64, u64, u64) {
        let (done, lost) = others(servers);
        let usual = time.as_secs_f64() / super::servers::EVERY.as_secs_f64();
        let usual = usual * (BROKERS.len() - 1) as f64;
        let own = format!("{TOPIC}/{GONE}");
        let wrong = servers.consumers.iter().zip(self.errors);
        let wrong = wrong.map(|((_, consumer), from)| {
            let errors = consumer.counts().errors();
            let new = errors.iter().skip(from);
            new.filter(|error| !error.contains(&own)).count() as u64
        });
        let percent = (done - self.done) as f64 * 100.0 / usual;
        (percent, lost - self.lost, wrong.sum())
    }
}

/// Records and losses of the producers to the other brokers.
fn others(servers: &Servers) -> (u64, u64) {
    let others = servers.producers.iter().enumerate();
    let counts = others.filter(|(at, _)| *at != GONE);
    counts.fold((0, 0), |(done, lost), (_, producer)| {
        let counts = producer.counts();
        (done + counts.done(), lost + counts.lost())
    })
}

/// Connects of the gateway's sidecar that went out and failed, and that it spared.
async fn connects(world: &World) -> [f64; 2] {
    let Some(metrics) = world.metrics(PRODUCER).await else {
        return [0.0; 2];
    };
    [&TRIED[..], &SPARED].map(|outcomes| {
        let sums = outcomes.iter().map(|outcome| {
            let labels = [("direction", "outbound"), ("outcome", *outcome)];
            metrics.sum(TCP_CONNECTIONS, &labels)
        });
        sums.sum()
    })
}

/// A client that knows only this broker tries again and again; the longest time that one try took.
async fn knock(pod: &Pod, to: SocketAddr, time: Duration) -> Duration {
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < time {
        let mut client = Brokers::new(pod, [to], no_names()).client();
        let try_begun = Instant::now();
        if client.partitions(TOPIC).await.is_err() {
            longest = longest.max(try_begun.elapsed());
        }
        tokio::time::sleep(KNOCK.min(PAUSE)).await;
    }
    longest
}
