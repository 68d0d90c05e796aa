//! Real servers without namespaces: they listen where the sidecar looks for applications.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use weft_sandbox::app::kafka;
use weft_sandbox::programs::prometheus::{self, Settings};
use weft_sandbox::programs::{missing, nats, postgres, redis};
use weft_sandbox::{AppSpec, Mesh, Service, Workload};

/// The workload that has all of them, and its service.
pub(crate) const DATA: &str = "data";

const PORTS: [u16; 3] = [postgres::PORT, redis::PORT, nats::PORT];
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn workload() -> Workload {
    let data = Workload::new(DATA)
        .service_account(DATA)
        .port(kafka::PORT, AppSpec::kafka());
    PORTS.iter().fold(data, |data, port| {
        data.port(*port, AppSpec::none().protocol("tcp"))
    })
}

pub(crate) fn service() -> Service {
    let service = Service::new(DATA).endpoints([DATA]);
    PORTS
        .iter()
        .chain([&kafka::PORT])
        .fold(service, |service, port| {
            service
                .port(*port, *port)
                .port_name(&format!("tcp-{port}"))
                .app_protocol("tcp")
        })
}

/// Each is reached through both sidecars, again after it was killed.
pub(crate) async fn work(mesh: &Mesh) -> anyhow::Result<()> {
    let needed = [
        &postgres::NEEDS[..],
        &redis::NEEDS,
        &nats::NEEDS,
        &prometheus::NEEDS,
    ]
    .concat();
    if let Some(absent) = missing(&needed).first() {
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        ensure!(!is_ci, "cannot run here: {absent}");
        println!("real servers: {absent}");
        return Ok(());
    }
    let (client, pod) = (mesh.pod("client"), mesh.pod(DATA));
    let database = postgres::Postgres::start(&pod, mesh.dir()).await?;
    let cache = redis::Redis::start(&pod, mesh.dir()).await?;
    let messages = nats::Nats::start(&pod, mesh.dir()).await?;
    for round in ["first", "second"] {
        let to = mesh.addr(DATA, postgres::PORT);
        let told = postgres::psql(&client, mesh.dir(), to, "select 7").await?;
        ensure!(told == "7\n", "{round}: {told}");
        let to = mesh.addr(DATA, redis::PORT);
        let mut kept = redis::Connection::connect(&client, to, PATIENCE).await?;
        let first = redis::Reply::Number(if round == "first" { 1 } else { 2 });
        ensure!(kept.call(&["incr", "rounds"]).await? == first, "{round}");
        let to = mesh.addr(DATA, nats::PORT);
        let mut kept = nats::Connection::connect(&client, to).await?;
        kept.publish("places", round).await?;
        ensure!(messages.counts().await?["in_msgs"] == 1, "{round}");
        database.kill().await?;
        cache.kill().await?;
        messages.kill().await?;
        database.start_again().await?;
        cache.start_again().await?;
        messages.start_again().await?;
    }
    mesh.announce_kafka(&[DATA], kafka::PORT, 1, |_| None)
        .await?;
    let to = [mesh.addr(DATA, kafka::PORT)];
    let mut kept = kafka::Client::new(&client, to, BTreeMap::new(), PATIENCE);
    ensure!(kept.produce("orders", 0, &[b"one"]).await? == 0);
    let prometheus = Settings::new(Duration::from_millis(200))
        .all_sidecars(mesh)
        .control_plane(mesh)
        .start(&mesh.stranger("prometheus")?, mesh.dir())
        .await?;
    let connections = "weft_tcp_connections_total{workload=\"data\",direction=\"inbound\"}";
    let seen = prometheus.value(connections).await?;
    ensure!(seen.is_some_and(|seen| seen >= 7.0), "{seen:?}");
    Ok(())
}
