//! Questions to a container, and what is done in it before and after its life: from the node, as a
//! kubelet asks, and inside of the container.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1 as core;

use super::images::Images;
use super::plan::{Planned, seconds};
use crate::Pod;
use crate::enter::container::{self, Container};

/// How long a hook may take: a pod's longest grace period here.
const HOOK_PATIENCE: Duration = Duration::from_secs(600);
/// What the API fills in where a probe does not say.
const PERIOD: i32 = 10;
const TIMEOUT: i32 = 1;
const FAILURES: i32 = 3;

/// A container that runs.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) node: Pod,
    pub(super) pod: Pod,
    pub(super) planned: Planned,
    pub(super) process: Container,
    pub(super) images: Images,
    pub(super) log: PathBuf,
}

impl Target {
    /// Does what a hook says, to its end.
    pub(super) async fn hook(&self, hook: &core::LifecycleHandler) -> anyhow::Result<()> {
        let done = async {
            if let Some(sleep) = &hook.sleep {
                tokio::time::sleep(seconds(sleep.seconds)).await;
                return Ok(());
            }
            if let Some(exec) = &hook.exec {
                return self.exec(exec).await;
            }
            let http = hook.http_get.as_ref().context("no such hook here")?;
            self.get(http).await
        };
        tokio::time::timeout(HOOK_PATIENCE, done).await?
    }

    /// Asks until the answers have changed often enough in a row to believe it, and says so, again and
    /// again. `first`: what is believed at the beginning.
    pub(super) async fn follow(
        &self,
        probe: &core::Probe,
        first: Option<bool>,
        mut told: impl FnMut(bool),
    ) {
        tokio::time::sleep(seconds(probe.initial_delay_seconds.unwrap_or(0))).await;
        let period = seconds(probe.period_seconds.unwrap_or(PERIOD).max(1));
        let (mut believed, mut last, mut in_a_row) = (first, None, 0);
        loop {
            let answer = self.ask(probe).await.is_ok();
            in_a_row = if last == Some(answer) {
                in_a_row + 1
            } else {
                1
            };
            last = Some(answer);
            let enough = if answer {
                probe.success_threshold.unwrap_or(1)
            } else {
                probe.failure_threshold.unwrap_or(FAILURES)
            };
            if believed != Some(answer) && in_a_row >= enough {
                believed = Some(answer);
                told(answer);
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn ask(&self, probe: &core::Probe) -> anyhow::Result<()> {
        let asked = async {
            if let Some(http) = &probe.http_get {
                self.get(http).await
            } else if let Some(tcp) = &probe.tcp_socket {
                let to = self.address(self.planned.port(&tcp.port)?);
                drop(self.node.connect(to).await?);
                Ok(())
            } else {
                let exec = probe.exec.as_ref().context("no such probe here")?;
                self.exec(exec).await
            }
        };
        let timeout = seconds(probe.timeout_seconds.unwrap_or(TIMEOUT).max(1));
        tokio::time::timeout(timeout, asked).await?
    }

    async fn get(&self, http: &core::HTTPGetAction) -> anyhow::Result<()> {
        let to = self.address(self.planned.port(&http.port)?);
        let answer = self
            .node
            .get(to, http.path.as_deref().unwrap_or("/"))
            .await?;
        let status = answer.status.as_u16();
        ensure!(
            (200..400).contains(&status),
            "HTTP {status}: {}",
            answer.text()
        );
        Ok(())
    }

    async fn exec(&self, exec: &core::ExecAction) -> anyhow::Result<()> {
        let command = exec.command.as_deref().unwrap_or_default();
        let (name, program, args) = self.images.find("", command, &[])?;
        let process = Container {
            program,
            name,
            args,
            ..self.process.clone()
        };
        let process = self
            .pod
            .start("exec", container::command(&process)?, &self.log)?;
        let status = process.wait(HOOK_PATIENCE).await?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "{command:?}: {status:?}"
        );
        Ok(())
    }

    fn address(&self, port: u16) -> SocketAddr {
        (self.pod.v4(), port).into()
    }
}
