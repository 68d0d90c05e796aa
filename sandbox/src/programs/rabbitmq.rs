//! RabbitMQ. Its clients are [`super::amqp`]'s.
//!
//! Its daemon of names (`epmd`) has one port on a machine's loopback: it needs network namespaces.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use super::{Server, command, find};
use crate::Pod;

/// Its port for AMQP.
pub const PORT: u16 = 5672;
/// What it takes to start one.
pub const NEEDS: [&str; 1] = ["rabbitmq-server"];

/// `guest` is otherwise for clients of the same machine, and log files are not what is read. Memory is counted
/// by its own allocators: in `/proc`, which is the machine's, its process has another number. It need not
/// keep a part of the disk free.
const CONFIGURATION: &str = "loopback_users = none\nlog.console = true\nlog.console.level = info\n\
    log.file = false\nmemory_monitor_interval = 60000\nvm_memory_calculation_strategy = allocated\n\
    disk_free_limit.absolute = 1MB\n";

/// A running broker. Durable queues have their persistent messages again when it is killed and started
/// again.
#[derive(Debug)]
pub struct RabbitMq {
    server: Server,
}

impl RabbitMq {
    /// Starts one in the pod, with its data in the mesh's directory `dir`.
    ///
    /// # Errors
    /// Where the pod has no network namespace, or it does not become ready: what it said.
    pub async fn start(pod: &Pod, dir: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            pod.place().is_none(),
            "RabbitMQ needs network namespaces, which this machine does not give"
        );
        let name = format!("rabbitmq-{}", pod.name());
        let home = dir.join(&name);
        fs::create_dir(&home).with_context(|| format!("making {}", home.display()))?;
        let settings = home.join("rabbitmq.conf");
        fs::write(&settings, CONFIGURATION)?;
        let plugins = home.join("enabled_plugins");
        fs::write(&plugins, "[].\n")?;
        let file = find("rabbitmq-server").context("there is no rabbitmq-server")?;
        // Debian's own is a wrapper that becomes another user, which there may not be.
        let file = file.canonicalize()?;
        let real = file.parent().map(|dir| dir.join("rabbitmq-server"));
        let real = real.filter(|real| real.is_file()).unwrap_or(file);
        let make = move || {
            let mut broker = command(&real.display().to_string(), &home);
            broker
                .env("RABBITMQ_NODENAME", "weft@localhost")
                .env("RABBITMQ_CONFIG_FILE", &settings)
                .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
                .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
                .env("RABBITMQ_LOG_BASE", home.join("logs"))
                .env("RABBITMQ_PID_FILE", home.join("rabbitmq.pid"))
                .env("RABBITMQ_NODE_PORT", PORT.to_string())
                .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                // The script then becomes the broker instead of watching it: who is killed is it.
                .env("RUNNING_UNDER_SYSTEMD", "true");
            broker
        };
        let server = Server::start(&name, pod, dir, PORT, make).await?;
        Ok(Self { server })
    }

    /// Its process, its log.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Ends it at once, SIGKILL.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts it again with what it had, and waits until it accepts connections.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.server.start_again().await
    }

    /// How many connections its log has from this address.
    pub fn connections_from(&self, address: IpAddr) -> u64 {
        let from = format!("({address}:");
        let log = self.server.log();
        let accepted = log
            .lines()
            .filter(|line| line.contains("accepting AMQP connection") && line.contains(&from));
        accepted.count() as u64
    }
}
