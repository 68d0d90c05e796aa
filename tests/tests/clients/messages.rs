//! Message brokers: RabbitMQ with `pika`, whose clients speak first, and NATS with `nats-py`, whose servers
//! do on a port about which nobody has said so. What the clients do and check is in `tests/clients`.

use anyhow::Context as _;
use serde_json::Value;
use weft_sandbox::programs::nats::{self, Nats};
use weft_sandbox::programs::rabbitmq::{self, RabbitMq};
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{COUNT_PATIENCE, Cx, SERVER, assert_relayed, client_and_server, run_script};
use crate::programs::Needs;

pub(crate) fn register(suite: &mut Suite) {
    let broker = Needs {
        programs: &rabbitmq::NEEDS,
        modules: &["pika"],
    };
    suite.add("messages::rabbitmq_with_pika", broker, rabbitmq_with_pika);
    let server = Needs {
        programs: &nats::NEEDS,
        modules: &["nats"],
    };
    suite.add("messages::nats_with_nats_py", server, nats_with_nats_py);
}

/// Confirmed publishing, consuming, a message of 10 MB, a channel that is closed with its code, a
/// connection that is idle. The broker's log has as many connections as both sidecars have relayed.
async fn rabbitmq_with_pika(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_server("rabbitmq", [rabbitmq::PORT]),
        async |mesh| {
            let server = RabbitMq::start(&mesh.pod(SERVER), mesh.dir()).await?;
            let said = run_script(&cx, mesh, "amqp.py", rabbitmq::PORT).await?;
            cx.measured(said.trim());
            let accepted = server.connections_from(mesh.pod(SERVER).v4().into());
            assert_relayed(mesh, accepted).await
        },
    )
    .await
}

/// Publishing and subscribing, requests with replies, groups, messages of 1 MB, a connection that is idle.
/// The server has counted the messages, and the connections that both sidecars have relayed.
async fn nats_with_nats_py(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("nats", [nats::PORT]), async |mesh| {
        let server = Nats::start(&mesh.pod(SERVER), mesh.dir()).await?;
        // Whoever asked whether it listens is counted by and by: before the client, not as one of its own.
        let before = wait_for(
            "the first connection is counted",
            COUNT_PATIENCE,
            async || {
                let before = server.counts().await?;
                Ok((count(&before, "total_connections") > 0).then_some(before))
            },
        );
        let before = before.await?;
        let said = run_script(&cx, mesh, "broker_nats.py", nats::PORT).await?;
        let done: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
        cx.measured(said.trim());
        let after = server.counts().await?;
        let counted = |name: &str| count(&after, name) - count(&before, name);
        assert_eq!(counted("in_msgs"), count(&done, "published"));
        assert_eq!(counted("out_msgs"), count(&done, "received"));
        assert_eq!(counted("in_bytes"), count(&done, "published_bytes"));
        assert_eq!(counted("total_connections"), count(&done, "connections"));
        assert_eq!(counted("slow_consumers"), 0);
        assert_relayed(mesh, counted("total_connections")).await
    })
    .await
}

fn count(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_default()
}
