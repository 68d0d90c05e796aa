//! Messages between services go through both sidecars to a real RabbitMQ, as they are; who is no
//! service gets no connection.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::programs::amqp::{Connection, Consumer};
use weft_sandbox::programs::missing;
use weft_sandbox::programs::rabbitmq::{NEEDS, PORT};

use super::servers::{Servers, say_missing};
use super::{CREDIT_PODS, GATEWAY, MOST_STEPS};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

const SERVICE: &str = "rabbitmq";
const CONSUMER: &str = "user-service-1";
const QUEUE: &str = "credit-approved";
const MESSAGES: u64 = 200;
/// Between two of the consumer's tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Messages between services",
            "credit-service publishes to a real RabbitMQ, user-service consumes.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let servers = world.props::<Servers>();
    if servers.is_none_or(|servers| servers.broker.is_none()) {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    }
    let to = world.mesh.addr(SERVICE, PORT);
    let gateway = world.mesh.pod(GATEWAY);
    let refused = stage
        .during(Connection::connect(&gateway, to))
        .await
        .is_err();
    stage.check_count(
        "connections of the gateway refused",
        (1, "connection"),
        u64::from(refused),
        Expected::exactly(1),
    );
    let consumer = Consumer::start(&world.mesh.pod(CONSUMER), to, QUEUE, PAUSE);
    let publisher = world.mesh.pod(CREDIT_PODS[0]);
    let publish = async {
        let mut connection = Connection::connect(&publisher, to).await?;
        connection.declare(QUEUE).await?;
        for number in 0..MESSAGES {
            connection
                .publish(QUEUE, &format!("approved-{number}"))
                .await?;
        }
        anyhow::Ok(())
    };
    stage.during(publish).await?;
    let took = stage
        .until(PATIENCE, async |_| consumer.counts().done() >= MESSAGES)
        .await;
    stage.check_time(
        "from the last message sent to the last one come",
        took,
        MOST_STEPS,
    );
    let came: BTreeMap<String, u64> = consumer.counts().messages();
    let once = came.values().filter(|times| **times == 1).count() as u64;
    stage.check_count(
        "came exactly once",
        (MESSAGES, "messages"),
        once,
        Expected::exactly(MESSAGES as f64),
    );
    Ok(())
}
