//! Message brokers: RabbitMQ with `pika`, whose clients speak first, and NATS with `nats-py`, whose servers
//! do on a port about which nobody has said so. What the clients do and check is in `tests/clients`.

use std::fs;

use anyhow::Context as _;
use serde_json::Value;
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{
    COUNT_PATIENCE, Cx, SERVER, assert_relayed, client_and_server, run_script, serve,
};
use crate::programs::{Needs, command, find};

const AMQP_PORT: u16 = 5672;
const NATS_PORT: u16 = 4222;
/// Where NATS tells of itself; not through the mesh.
const NATS_MONITOR: u16 = 8222;

pub(crate) fn register(suite: &mut Suite) {
    let rabbitmq = Needs {
        programs: &["rabbitmq-server"],
        modules: &["pika"],
    };
    suite.add("messages::rabbitmq_with_pika", rabbitmq, rabbitmq_with_pika);
    let nats = Needs {
        programs: &["nats-server"],
        modules: &["nats"],
    };
    suite.add("messages::nats_with_nats_py", nats, nats_with_nats_py);
}

/// Confirmed publishing, consuming, a message of 10 MB, a channel that is closed with its code, a
/// connection that is idle. The broker's log has as many connections as both sidecars have relayed.
async fn rabbitmq_with_pika(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("rabbitmq", [AMQP_PORT]), async |mesh| {
        let dir = mesh.dir();
        let settings = dir.join("rabbitmq.conf");
        // `guest` is otherwise for clients of the same machine, and log files are not what is read.
        fs::write(
            &settings,
            "loopback_users = none\nlog.console = true\nlog.console.level = info\n\
             log.file = false\nmemory_monitor_interval = 60000\n",
        )?;
        let plugins = dir.join("enabled_plugins");
        fs::write(&plugins, "[].\n")?;
        let file = find("rabbitmq-server").context("no rabbitmq-server")?;
        // Debian's own is a wrapper that becomes another user, which there may not be.
        let file = file.canonicalize()?;
        let real = file.parent().map(|dir| dir.join("rabbitmq-server"));
        let real = real.filter(|real| real.is_file()).unwrap_or(file);
        let mut server = command(&real.display().to_string(), dir);
        server
            .env("RABBITMQ_NODENAME", "weft@localhost")
            .env("RABBITMQ_CONFIG_FILE", &settings)
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
            .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", dir.join("logs"))
            .env("RABBITMQ_PID_FILE", dir.join("rabbitmq.pid"))
            .env("RABBITMQ_NODE_PORT", AMQP_PORT.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        let server = serve(mesh, "rabbitmq", server, AMQP_PORT).await?;
        let said = run_script(&cx, mesh, "amqp.py", AMQP_PORT).await?;
        cx.measured(said.trim());
        let log = fs::read_to_string(server.log_file())?;
        let from = format!("({}:", mesh.pod(SERVER).v4());
        let accepted = log
            .lines()
            .filter(|line| line.contains("accepting AMQP connection") && line.contains(&from));
        assert_relayed(mesh, accepted.count() as u64).await
    })
    .await
}

/// Publishing and subscribing, requests with replies, groups, messages of 1 MB, a connection that is idle.
/// The server has counted the messages, and the connections that both sidecars have relayed.
async fn nats_with_nats_py(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and_server("nats", [NATS_PORT]), async |mesh| {
        let mut server = command("nats-server", mesh.dir());
        server.args(["--port", &NATS_PORT.to_string(), "--addr", "0.0.0.0"]);
        server.args(["--http_port", &NATS_MONITOR.to_string()]);
        let _server = serve(mesh, "nats", server, NATS_PORT).await?;
        // Whoever asked whether it listens is counted by and by: before the client, not as one of its own.
        let before = wait_for(
            "the first connection is counted",
            COUNT_PATIENCE,
            async || {
                let before = varz(mesh).await?;
                Ok((count(&before, "total_connections") > 0).then_some(before))
            },
        );
        let before = before.await?;
        let said = run_script(&cx, mesh, "broker_nats.py", NATS_PORT).await?;
        let done: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
        cx.measured(said.trim());
        let after = varz(mesh).await?;
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

/// What the server says of itself.
async fn varz(mesh: &weft_sandbox::Mesh) -> anyhow::Result<Value> {
    let answer = mesh.pod(SERVER).get_local(NATS_MONITOR, "/varz").await?;
    Ok(serde_json::from_slice(&answer.body)?)
}

fn count(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_default()
}
