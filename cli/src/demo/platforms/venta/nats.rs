//! NATS is killed and comes back: its clients, a group of two, connect again as the guide's do, every 2 s
//! and at most five times. An attempt ends before the next one is due.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::Pod;
use weft_sandbox::programs::missing;
use weft_sandbox::programs::nats::{Connection, NEEDS, PORT, Subscriber};

use super::servers::{Servers, say_missing};
use super::{LOCATION_PODS, MOST_STEPS, REAL_TIME_PODS, VENDOR_POD};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

const SUBJECT: &str = "vendor.moved";
const GROUP: &str = "location";
/// The guide's `reconnectTimeWait` and `maxReconnectAttempts`.
const RECONNECT: Duration = Duration::from_secs(2);
const MOST_ATTEMPTS: u64 = 5;
/// How long it is gone, so that its clients knock in vain.
const GONE: Duration = Duration::from_secs(3);
const MESSAGES: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "NATS is restarted",
            "vendor-management publishes, a group of two subscribes. NATS is killed and comes back.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let Some(nats) = world.props::<Servers>().and_then(|it| it.nats.as_ref()) else {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    };
    let to = world.mesh.addr("nats", PORT);
    let stranger = world.mesh.pod(super::INGRESS);
    let refused = stage.during(Connection::connect(&stranger, to)).await;
    stage.check_count(
        "connections of others refused",
        (1, "connection"),
        u64::from(refused.is_err()),
        Expected::exactly(1),
    );
    let pause = stage.time(RECONNECT);
    let group = [LOCATION_PODS[0], REAL_TIME_PODS[0]].map(|pod| {
        let pod = world.mesh.pod(pod);
        Subscriber::start(&pod, to, SUBJECT, Some(GROUP), pause)
    });
    let publisher = world.mesh.pod(VENDOR_POD);
    let all = async |stage: &mut Stage| {
        let connected = async |_: &_| group.iter().all(|it| it.counts().is_connected());
        stage.until(PATIENCE, connected).await
    };
    all(stage).await;
    publish(stage, &publisher, to, "before").await?;
    nats.kill().await?;
    let gone = stage.time(GONE);
    stage.watch(gone).await;
    stage.during(nats.start_again()).await?;
    let took = all(stage).await;
    stage.check_time(
        "from running again to clients that are connected",
        took,
        pause + MOST_STEPS,
    );
    // Each attempt but the last one failed; that the connection was lost is the first of what is counted.
    let attempts = group.iter().map(|it| it.counts().lost()).max();
    stage.check(
        "attempts to connect again, the most of a client",
        attempts.map(|it| it as f64),
        crate::demo::check::Unit::Count,
        Expected::between(2, MOST_ATTEMPTS as f64),
    );
    publish(stage, &publisher, to, "after").await?;
    let came = || {
        let messages = group.iter().flat_map(|it| it.counts().messages());
        let mut messages: Vec<_> = messages.collect();
        messages.sort_unstable();
        messages
    };
    let once = || {
        let messages = came();
        let once = messages.chunk_by(|a, b| a.0 == b.0);
        once.filter(|same| same.len() == 1 && same[0].1 == 1)
            .count() as u64
    };
    stage
        .until(PATIENCE, async |_| once() >= 2 * MESSAGES)
        .await;
    stage.check_count(
        "came exactly once, to one of the two",
        (2 * MESSAGES, "messages"),
        once(),
        Expected::exactly(2.0 * MESSAGES as f64),
    );
    stage.check_no_failure();
    // The one before it was about Redis, and made them at its end.
    let may = ["RedisConnectionFailures", "HighErrorRate", "HighLatency"];
    stage.check_alerts(&["NatsConnectionFailures"], &may).await
}

async fn publish(stage: &mut Stage, pod: &Pod, to: SocketAddr, name: &str) -> anyhow::Result<()> {
    let publish = async {
        let mut connection = Connection::connect(pod, to).await?;
        for number in 0..MESSAGES {
            let message = format!("{name}-{number}");
            connection.publish(SUBJECT, &message).await?;
        }
        anyhow::Ok(())
    };
    stage.during(publish).await
}
