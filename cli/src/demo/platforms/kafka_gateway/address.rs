//! All brokers behind one address: the setting that breaks Kafka, told by what brokers refuse.
//!
//! The service that has this address is there only while this plays: a pod that is behind two services gets the policy
//! of neither when it is dialled by its own address.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use weft_sandbox::app::kafka::Client;
use weft_sandbox::{Pod, Service};

use super::servers::{PARTITIONS, announce, no_names};
use super::{BROKERS, KAFKA_PORT, MOST_STEPS, PATIENCE, PRODUCER, check_unharmed, servers};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// Clients, of which each sends a record to every partition.
const CLIENTS: u64 = 20;
/// The service with one address for all brokers: what Kafka's clients can ask their first question, and no more.
const BALANCED: &str = "kafka-balanced";
const TOPIC: &str = "addressed";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "One address for all brokers",
            "Before: brokers advertise an address behind which any of them answers. After: each its own.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    if world.mesh.pod(PRODUCER).place().is_some() {
        stage.say("Left out: it needs network namespaces, which this machine does not give.");
        return Ok(());
    }
    let lost = servers::losses(&world);
    let balanced = Service::new(BALANCED)
        .port(KAFKA_PORT, KAFKA_PORT)
        .app_protocol("tcp")
        .endpoints(BROKERS);
    world.mesh.add_service(balanced)?;
    let all = world.mesh.addr(BALANCED, KAFKA_PORT).ip();
    let pod = world.mesh.pod(PRODUCER);
    let there = async |_: &World| client(&pod, all).partitions(TOPIC).await.is_ok();
    stage.until(PATIENCE, there).await;
    let before = produce(stage, Some(all)).await?;
    let after = produce(stage, None).await?;
    let numbers = BeforeAfter { before, after };
    stage.check_both(
        "refused, of 60 records of 20 clients",
        numbers.map(|it| it.refused as f64),
        Unit::Count,
        BeforeAfter {
            before: Expected::at_least(10),
            after: Expected::exactly(0),
        },
    );
    stage.check_both(
        "records that brokers saw and do not lead",
        numbers.map(|it| it.misdirected as f64),
        Unit::Count,
        BeforeAfter {
            before: Expected::at_least(10),
            after: Expected::exactly(0),
        },
    );
    check_unharmed(stage, lost);
    world.mesh.remove_service(BALANCED)
}

/// What clients were told, and what brokers saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    refused: u64,
    misdirected: u64,
}

/// Clients that begin at the balanced address are told of brokers at `advertised`.
async fn produce(stage: &mut Stage, advertised: Option<IpAddr>) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    announce(&world.mesh, advertised).await?;
    let misdirected = misdirections(stage).await?;
    let pod = world.mesh.pod(PRODUCER);
    let all = world.mesh.addr(BALANCED, KAFKA_PORT).ip();
    let work = async {
        let mut refused = 0;
        for _ in 0..CLIENTS {
            let mut client = client(&pod, all);
            for partition in 0..PARTITIONS {
                let produced = client.produce(TOPIC, partition, &[b"one"]).await;
                refused += u64::from(produced.is_err());
            }
        }
        refused
    };
    let refused = stage.during(work).await;
    Ok(Seen {
        refused,
        misdirected: misdirections(stage).await? - misdirected,
    })
}

/// One that begins at this address.
fn client(pod: &Pod, address: IpAddr) -> Client {
    let to = SocketAddr::new(address, KAFKA_PORT);
    Client::new(pod, [to], no_names(), MOST_STEPS)
}

/// Records that brokers refused because another one leads them.
async fn misdirections(stage: &Stage) -> anyhow::Result<u64> {
    let mut all = 0;
    for broker in BROKERS {
        let stats = stage.world.mesh.app(broker).stats().await?;
        all += stats.kafka.get("misdirected").copied().unwrap_or(0);
    }
    Ok(all)
}
