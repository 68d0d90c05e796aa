//! Kafka: clients that are told every broker's own address, and that a mesh has to bring to that broker and no
//! other. Brokers are the sandbox's stand-ins, three behind a headless service and behind one with an address;
//! clients are `kafka-python` and the sandbox's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use weft_sandbox::app::Stats;
use weft_sandbox::app::kafka::{Client, Message, PORT};
use weft_sandbox::mesh::Builder;
use weft_sandbox::programs::kafka::{Brokers, Consumer, Records};
use weft_sandbox::programs::steady::Steady;
use weft_sandbox::{AppSpec, Mesh, Service, Workload};
use weft_tests::counts::{add, wait_for};

use crate::Suite;
use crate::common::{CLIENT, COUNT_PATIENCE, Cx, empty, metrics, succeed};
use crate::programs::{Needs, script};

const BROKERS: [&str; 3] = ["kafka-0", "kafka-1", "kafka-2"];
/// What all clients begin with.
const BOOTSTRAP: &str = "kafka-bootstrap";
/// Two for each broker.
const PARTITIONS: i32 = 6;
const MESSAGES: u64 = 3000;
const SOAK_MESSAGES: u64 = 30_000;
/// What a call of the small client may take.
const PATIENCE: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(200);
/// Calls to find a broker that came back.
const RECOVERY: Duration = Duration::from_secs(20);

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::modules(&["kafka"]);
    suite.add("kafka::kafka_python_by_address", needs, by_address);
    suite.add("kafka::kafka_python_by_name", needs, by_name);
    suite.add("kafka::a_broker_is_killed", Needs::default(), killed);
    suite.add(
        "kafka::a_balanced_address_is_noticed",
        Needs::default(),
        misdirected,
    );
}

/// Three brokers, a headless service of them as a StatefulSet has it, and one with an address to begin at.
fn mesh() -> Builder {
    let client = Workload::new(CLIENT).service_account(CLIENT);
    let brokers = |name: &str| {
        Service::new(name)
            .port(PORT, PORT)
            .app_protocol("tcp")
            .endpoints(BROKERS)
    };
    let mesh = empty("kafka")
        .workload(client)
        .service(brokers("kafka").headless())
        .service(brokers(BOOTSTRAP));
    BROKERS.iter().fold(mesh, |mesh, name| {
        mesh.workload(
            Workload::new(name)
                .service_account("kafka")
                .port(PORT, AppSpec::kafka()),
        )
    })
}

/// Brokers advertise the addresses of their pods; the client begins at the service's own address, behind
/// which any broker answers.
async fn by_address(cx: Cx) -> anyhow::Result<()> {
    cx.on(mesh(), async |mesh| {
        let names = mesh
            .announce_kafka(&BROKERS, PORT, PARTITIONS, |_| None)
            .await?;
        let bootstrap = mesh.addr(BOOTSTRAP, PORT).to_string();
        python(&cx, mesh, &bootstrap, &names).await
    })
    .await
}

/// Brokers advertise names of the headless service; the client begins at one of them.
async fn by_name(cx: Cx) -> anyhow::Result<()> {
    cx.on(mesh(), async |mesh| {
        let name = |broker: &str| format!("{broker}.kafka.default.svc");
        let names = mesh
            .announce_kafka(&BROKERS, PORT, PARTITIONS, |broker| Some(name(broker)))
            .await?;
        let bootstrap = format!("{}:{PORT}", name(BROKERS[2]));
        python(&cx, mesh, &bootstrap, &names).await
    })
    .await
}

async fn python(
    cx: &Cx,
    mesh: &Mesh,
    bootstrap: &str,
    names: &BTreeMap<String, IpAddr>,
) -> anyhow::Result<()> {
    let messages = if cx.soak { SOAK_MESSAGES } else { MESSAGES };
    let mut command = script("kafka_client.py", mesh.dir());
    command.args([bootstrap, &PARTITIONS.to_string(), &messages.to_string()]);
    command.args(["orders", &serde_json::to_string(names)?]);
    let begin = Instant::now();
    let said = succeed(mesh, command).await?;
    let done: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
    cx.measured(format!("{} within {:.1?}", said.trim(), begin.elapsed()));
    assert_eq!(done["consumed"], messages);
    let seen = all_stats(mesh).await?;
    let produced = format!("produced orders/{}", 0);
    assert_eq!(
        seen.kafka.get(&produced),
        Some(&(messages / PARTITIONS as u64))
    );
    assert_eq!(
        sum(&seen, "produced "),
        messages,
        "records that brokers took"
    );
    assert!(sum(&seen, "fetched ") >= messages);
    assert_eq!(
        seen.bodies.len() as u64,
        messages,
        "different values that brokers took"
    );
    assert_eq!(seen.bodies.values().max(), Some(&1));
    assert_no_refusal(&seen);
    assert_relayed(mesh).await
}

/// A broker that is killed takes its partitions with it and no others; when it is back, so are they.
async fn killed(cx: Cx) -> anyhow::Result<()> {
    cx.on(mesh(), async |mesh| {
        let names = mesh
            .announce_kafka(&BROKERS, PORT, PARTITIONS, |_| None)
            .await?;
        let bootstrap = mesh.addr(BOOTSTRAP, PORT);
        let pod = mesh.pod(CLIENT);
        let mut client = Client::new(&pod, [bootstrap], names.clone(), PATIENCE);
        assert_eq!(client.partitions("orders").await?, PARTITIONS);
        assert_eq!(client.brokers().len(), BROKERS.len());
        for partition in 0..PARTITIONS {
            let values: [&[u8]; 2] = [b"one", b"two"];
            assert_eq!(client.produce("orders", partition, &values).await?, 0);
            assert_eq!(client.produce("orders", partition, &values).await?, 2);
            let from_the_third = client.fetch("orders", partition, 2, WAIT).await?;
            let wanted = [(2, "one"), (3, "two")].map(|(offset, value)| Message {
                offset,
                value: value.into(),
            });
            assert_eq!(from_the_third, wanted);
            assert_eq!(client.end_offset("orders", partition).await?, 4);
        }
        assert!(client.fetch("orders", 0, 4, WAIT).await?.is_empty());
        assert!(client.fetch("orders", 0, 5, WAIT).await.is_err());
        let before = all_stats(mesh).await?;
        assert_eq!(sum(&before, "produced "), 4 * PARTITIONS as u64);
        assert_eq!(before.kafka.get("misdirected"), None);
        assert_relayed(mesh).await?;

        mesh.kill_app(BROKERS[1]).await?;
        let failed = client.produce("orders", 1, &[b"three"]).await;
        assert!(failed.is_err(), "{failed:?}");
        let mut others = 0;
        wait_for("the others", RECOVERY, async || {
            // Metadata may be asked of the one that is gone: behind one address stand all.
            others += usize::from(client.produce("orders", 2, &[b"three"]).await.is_ok());
            Ok((others >= 3).then_some(()))
        })
        .await?;

        mesh.start_app(BROKERS[1]).await?;
        let back = Instant::now();
        mesh.announce_kafka(&BROKERS, PORT, PARTITIONS, |_| None)
            .await?;
        let offset = wait_for("the broker that is back", RECOVERY, async || {
            Ok(client.produce("orders", 1, &[b"three"]).await.ok())
        });
        // It kept everything in memory.
        assert_eq!(offset.await?, 0);
        cx.measured(format!(
            "the broker had records {:.1?} after its start",
            back.elapsed()
        ));
        assert_eq!(client.end_offset("orders", 2).await?, 4 + others as i64);
        assert_each_came(mesh, bootstrap, names).await
    })
    .await
}

/// Whoever consumes in the background gets each record once that was produced in the background.
async fn assert_each_came(
    mesh: &Mesh,
    bootstrap: SocketAddr,
    names: BTreeMap<String, IpAddr>,
) -> anyhow::Result<()> {
    let brokers = Brokers::new(&mesh.pod(CLIENT), [bootstrap], names);
    let consumer = Consumer::start(&brokers, "events", PARTITIONS, WAIT);
    let producer = Steady::start(Records::new(brokers, "events"), WAIT / 10, WAIT);
    let enough = 10 * PARTITIONS as u64;
    wait_for("records", RECOVERY, async || {
        Ok((producer.counts().done() >= enough).then_some(()))
    })
    .await?;
    producer.stop().await;
    let produced = producer.counts().messages();
    wait_for("what was produced", RECOVERY, async || {
        let came = consumer.counts().messages();
        Ok(produced
            .keys()
            .all(|one| came.contains_key(one))
            .then_some(()))
    })
    .await?;
    let came = consumer.counts().messages();
    assert!(came.values().all(|times| *times == 1), "{came:?}");
    assert_eq!(consumer.counts().lost(), 0, "{:?}", consumer.counts());
    Ok(())
}

/// The other tests would see it where a mesh took brokers for replicas: here each broker advertises the
/// address of the service behind which all three are.
async fn misdirected(cx: Cx) -> anyhow::Result<()> {
    cx.on(mesh(), async |mesh| {
        let all: SocketAddr = mesh.addr(BOOTSTRAP, PORT);
        mesh.announce_kafka(&BROKERS, PORT, PARTITIONS, |_| Some(all.ip().to_string()))
            .await?;
        let pod = mesh.pod(CLIENT);
        let mut refused = 0;
        for _ in 0..20 {
            let mut client = Client::new(&pod, [all], BTreeMap::new(), PATIENCE);
            for partition in 0..3 {
                let produced = client.produce("orders", partition, &[b"one"]).await;
                refused += u64::from(produced.is_err());
            }
        }
        let seen = all_stats(mesh).await?;
        cx.measured(format!("{refused} of 60 records were refused"));
        assert!(refused > 0);
        assert_eq!(seen.kafka.get("misdirected"), Some(&refused));
        assert_eq!(sum(&seen, "produced "), 60 - refused);
        Ok(())
    })
    .await
}

/// What all brokers have seen.
async fn all_stats(mesh: &Mesh) -> anyhow::Result<Stats> {
    let mut all = Stats::default();
    for broker in BROKERS {
        add(&mut all, &mesh.app(broker).stats().await?);
    }
    Ok(all)
}

fn sum(stats: &Stats, prefix: &str) -> u64 {
    let counts = stats.kafka.iter();
    counts
        .filter(|(what, _)| what.starts_with(prefix))
        .map(|(_, count)| count)
        .sum()
}

fn assert_no_refusal(seen: &Stats) {
    for what in ["misdirected", "refused", "malformed", "groups refused"] {
        assert_eq!(seen.kafka.get(what), None, "{what}: {:?}", seen.kafka);
    }
    assert_eq!(seen.not_listed, 0);
}

/// Every connection that a broker has seen came in mutual TLS from the client, and the client's sidecar made
/// as many to that broker.
async fn assert_relayed(mesh: &Mesh) -> anyhow::Result<()> {
    let family = "weft_tcp_connections_total";
    let mut wanted = 0.0;
    for broker in BROKERS {
        let seen = mesh.app(broker).stats().await?.connections as f64;
        assert!(seen > 0.0, "{broker} was never asked");
        wanted += seen;
        let labels = [
            ("direction", "inbound"),
            ("tls", "mutual"),
            ("peer", "default/client"),
        ];
        wait_for(broker, COUNT_PATIENCE, async || {
            let page = metrics(mesh, broker).await?;
            Ok((page.sum(family, &labels) >= seen).then_some(()))
        })
        .await?;
        let page = metrics(mesh, broker).await?;
        assert_eq!(page.sum(family, &labels), seen, "{broker}");
        assert_eq!(page.sum(family, &[("direction", "inbound")]), seen);
    }
    let page = metrics(mesh, CLIENT).await?;
    let labels = [
        ("direction", "outbound"),
        ("tls", "mutual"),
        ("peer", "default/kafka"),
    ];
    assert_eq!(page.sum(family, &labels), wanted);
    assert_eq!(page.sum(family, &[("direction", "outbound")]), wanted);
    Ok(())
}
