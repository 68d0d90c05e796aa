//! A gateway, and services that it reaches through Kafka alone; PostgreSQL and Redis. Its guide names who
//! depends on whom, and what to look at; limits and thresholds are the example's own. Kafka is a stand-in:
//! three brokers that tell clients each other's addresses and refuse what another one leads, which is the
//! part that a mesh can break.

mod address;
mod broker;
mod data;
mod gateway;
mod pool;
mod records;
mod servers;

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::load::Shot;
use weft_sandbox::mesh::Builder;
use weft_sandbox::programs::kafka::Brokers;
use weft_sandbox::programs::steady::Steady;
use weft_sandbox::{AppSpec, Pod};

use super::common::{DRAIN, MOST_LATE, MOST_STEPS};
use super::{cast, common, policy, target};
use crate::demo::alerts::Watched;
use crate::demo::check::{Expected, Unit};
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Story, Target};
use crate::demo::world::World;
use records::Anew;
use servers::Servers;

const NAME: &str = "kafka-gateway";
const NAMESPACE: &str = "microservices";
const MESH: &str = example!("kafka-gateway/mesh.yaml");
/// Policies that acts are played without and with, by the names of their files.
const GATEWAY_FILE: &str = "gateway";
const GATEWAY_POLICY: &str = example!("kafka-gateway/policies/gateway.yaml");
const KAFKA_FILE: &str = "kafka";
const KAFKA_POLICY: &str = example!("kafka-gateway/policies/kafka.yaml");
const DATA_FILE: &str = "data";
const DATA_POLICY: &str = example!("kafka-gateway/policies/data.yaml");

/// The longest that a call of the gateway may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that nobody tries a broker that was gone.
const BROKER_OPEN: Duration = Duration::from_secs(10);
/// The same of PostgreSQL and Redis.
const DATA_OPEN: Duration = Duration::from_secs(5);
/// Connections that user-service may have to PostgreSQL.
const POOL: u64 = 20;
/// How long is waited for what should have come long ago.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a client does that was refused: it waits so long, and connects again.
const PAUSE: Duration = Duration::from_millis(100);

const INGRESS: &str = "ingress-nginx/ingress-1";
const GATEWAY_PODS: [&str; 2] = ["gateway-1", "gateway-2"];
/// Which produces.
const PRODUCER: &str = GATEWAY_PODS[0];
const USERS: &str = "user-service-1";
const NOTIFICATIONS: &str = "notification-service-1";
const BROKERS: [&str; 3] = ["kafka-0", "kafka-1", "kafka-2"];
const KAFKA_PORT: u16 = 29092;
const ZOOKEEPER: &str = "zookeeper-0";
/// Index into [`TARGETS`].
const GATEWAY: usize = 0;
/// Opaque connections, by how they ended.
const TCP_CONNECTIONS: &str = "weft_tcp_connections_total";

/// The story.
pub(super) static STORY: Story = Story {
    name: Some(NAME),
    about: "a gateway, services behind Kafka: brokers by their own addresses, restarts, 20 connections, 10 s",
    cast: "a control plane, two gateways, two consumers, three brokers, PostgreSQL and Redis with their sidecars",
    namespace: NAMESPACE,
    targets: &TARGETS,
    mesh,
    policies: &[
        policy(GATEWAY_FILE, GATEWAY_POLICY),
        policy(KAFKA_FILE, KAFKA_POLICY),
        policy(DATA_FILE, DATA_POLICY),
        policy(
            "namespace",
            example!("kafka-gateway/policies/namespace.yaml"),
        ),
    ],
    watched: Some(Watched {
        rules: example!("kafka-gateway/prometheus/rules.yaml"),
        queries: example!("kafka-gateway/prometheus/queries.yaml"),
    }),
    props: Some(|mesh, _| Box::pin(servers::start(mesh))),
    acts: &[
        |stage| Box::pin(well(stage)),
        |stage| Box::pin(address::play(stage)),
        |stage| Box::pin(gateway::fails(stage)),
        |stage| Box::pin(gateway::slow(stage)),
        |stage| Box::pin(gateway::killed(stage)),
        |stage| Box::pin(broker::play(stage)),
        |stage| Box::pin(data::play(stage)),
        |stage| Box::pin(pool::play(stage)),
        |stage| Box::pin(gone(stage)),
    ],
    doors: &[Door {
        target: GATEWAY,
        paths: &[
            ("/users/42", "the ingress calls the gateway"),
            ("/users/42?delay_ms=3000", "… which is too slow"),
        ],
    }],
};

static TARGETS: [Target; 1] = [Target {
    rate: 40.0,
    // Callers that hang for 20 s each, at the rate above and in real time, are eight hundred.
    clients: 1000,
    ..target("gateway", 3000, &["gateway"], INGRESS, |_| {
        vec![Shot::get("/users/42")]
    })
}];

fn mesh(_: Pace) -> Builder {
    let mut workloads = vec![INGRESS, USERS, NOTIFICATIONS, ZOOKEEPER];
    workloads.extend(GATEWAY_PODS);
    workloads.extend(BROKERS);
    workloads.extend([servers::DATABASE, servers::SESSIONS]);
    cast(NAMESPACE, MESH, &workloads, |name, workload| {
        let workload = workload.drain_timeout(DRAIN);
        if BROKERS.contains(&name) {
            return workload.serve(KAFKA_PORT, AppSpec::kafka());
        }
        if name == ZOOKEEPER {
            return workload.serve(2181, AppSpec::tcp().protocol("tcp"));
        }
        workload
    })
}

async fn well(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "The ingress calls the gateway, which produces; users and notifications consume.";
    common::all_well(stage, words).await;
    let probed = GATEWAY_PODS.map(|pod| (pod, 3000));
    common::check_probes(stage, &probed).await?;
    check_records(stage).await;
    check_brokers(stage).await?;
    check_strangers(stage).await?;
    stage.check_alerts(&[], &[]).await
}

/// What brokers have taken came to both consumers, once.
async fn check_records(stage: &mut Stage) {
    let world = Rc::clone(&stage.world);
    let Some(servers) = world.props::<Servers>() else {
        return;
    };
    let taken = servers.taken();
    let sent = taken.len() as u64;
    for (workload, consumer) in &servers.consumers {
        let came = async |_: &World| taken.iter().all(|one| consumer.came(one) > 0);
        stage.until(PATIENCE, came).await;
        let once = taken.iter().filter(|one| consumer.came(one) == 1).count();
        let service = workload.trim_end_matches("-1");
        stage.check_count(
            format!("acknowledged records that came to {service} once"),
            (sent, "records"),
            once as u64,
            // No record at all is not well either.
            Expected::exactly(sent.max(1) as f64),
        );
    }
}

/// Each broker got what is its own, from who has an identity.
async fn check_brokers(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (mut ended, mut mutual, mut asked, mut misdirected) = (0.0, 0.0, 0, 0);
    for broker in BROKERS {
        let stats = world.mesh.app(broker).stats().await?;
        asked += u64::from(stats.connections > 0);
        misdirected += stats.kafka.get("misdirected").copied().unwrap_or(0);
        if let Some(metrics) = world.metrics(broker).await {
            let inbound = ("direction", "inbound");
            ended += metrics.sum(TCP_CONNECTIONS, &[inbound]);
            mutual += metrics.sum(TCP_CONNECTIONS, &[inbound, ("tls", "mutual")]);
        }
    }
    let of = (BROKERS.len() as u64, "brokers");
    let all = Expected::exactly(of.0 as f64);
    stage.check_count("brokers that clients connected to", of, asked, all);
    let records = servers::taken(&world) as u64;
    stage.check_count(
        "records that came to a broker that does not lead them",
        (records, "records"),
        misdirected,
        Expected::exactly(0),
    );
    stage.check(
        "ended connections of brokers that were mutual TLS",
        (ended > 0.0).then(|| mutual * 100.0 / ended),
        Unit::Percent,
        Expected::exactly(100),
    );
    Ok(())
}

/// Nobody gets to a broker without an identity, and to ZooKeeper only brokers do.
async fn check_strangers(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let stranger = world.mesh.stranger("stranger")?;
    let mut refused = 0;
    for broker in BROKERS {
        let to = (world.mesh.pod(broker).v4(), KAFKA_PORT).into();
        let mut client = Brokers::new(&stranger, [to], servers::no_names()).client();
        refused += u64::from(stage.during(client.partitions("users")).await.is_err());
    }
    let of = (BROKERS.len() as u64, "brokers");
    stage.check_count(
        "brokers that refuse plaintext",
        of,
        refused,
        Expected::exactly(of.0 as f64),
    );
    let keeper = world.mesh.addr("zookeeper", 2181);
    let mut let_in = Vec::new();
    for workload in [BROKERS[0], PRODUCER, USERS, NOTIFICATIONS] {
        let pod = world.mesh.pod(workload);
        if stage.during(echoes(&pod, keeper)).await {
            let_in.push(workload);
        }
    }
    let brokers = let_in.iter().filter(|name| **name == BROKERS[0]).count() as u64;
    let what = "connections of a broker to ZooKeeper let in";
    stage.check_count(what, (1, "connection"), brokers, Expected::exactly(1));
    stage.check_count(
        "connections of others to ZooKeeper refused",
        (3, "connections"),
        3 - (let_in.len() as u64 - brokers),
        Expected::exactly(3),
    );
    Ok(())
}

/// Whether what is sent comes back.
async fn echoes(pod: &Pod, to: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let word = b"ruok";
    let talk = async {
        let mut stream = pod.connect(to).await?;
        stream.write_all(word).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer == *word)
    };
    let answered = tokio::time::timeout(MOST_STEPS, talk).await;
    matches!(answered, Ok(Ok(true)))
}

/// Sidecars go on without it, also for whoever connects only now.
async fn gone(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let before = servers::losses(&world);
    let anew = Steady::start(Anew::new(&world.mesh, PRODUCER), PAUSE, PAUSE);
    let words = "It is killed; clients go on connecting to brokers and databases, anew each time.";
    common::control_plane_gone(stage, words).await?;
    anew.stop().await;
    let counts = anew.counts();
    stage.check(
        "clients that connected anew meanwhile",
        counts.done() as f64,
        Unit::Count,
        Expected::at_least(10),
    );
    stage.check_count(
        "… and were refused",
        (counts.done() + counts.lost(), "clients"),
        counts.lost(),
        Expected::exactly(0),
    );
    for error in counts.errors() {
        stage.say(&error);
    }
    check_unharmed(stage, before);
    check_records(stage).await;
    stage.check_silence().await;
    Ok(())
}

/// No connection of clients was lost in this act, of those of which these had been lost before.
fn check_unharmed(stage: &mut Stage, before: u64) {
    let world = Rc::clone(&stage.world);
    let clients = world.props::<Servers>().map_or(0, Servers::clients);
    let lost = servers::losses(&world) - before;
    stage.check_count(
        "connections of producers, consumers and databases lost",
        (clients, "clients"),
        lost,
        Expected::exactly(0),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_policies() {
        let has = |policy: &str, words: String| assert!(policy.contains(&words), "{words}");
        has(GATEWAY_POLICY, format!("request: {}s", TIMEOUT.as_secs()));
        has(
            KAFKA_POLICY,
            format!("maxOpenDuration: {}s\n", BROKER_OPEN.as_secs()),
        );
        has(
            DATA_POLICY,
            format!("maxOpenDuration: {}s\n", DATA_OPEN.as_secs()),
        );
        has(DATA_POLICY, format!("maxConnections: {POOL}}}"));
    }
}
