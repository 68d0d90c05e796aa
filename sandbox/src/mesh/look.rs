//! Looking into a running mesh: metrics, admin pages, logs.

use std::path::PathBuf;

use weft_proto::names;

use super::{Mesh, TAIL_LINES};
use crate::client::Answer;

/// Looking.
impl Mesh {
    /// The sidecar's metrics, as Prometheus would get them.
    #[track_caller]
    pub fn metrics(&self, workload: &str) -> impl Future<Output = anyhow::Result<String>> {
        let pod = self.pod(workload);
        async move {
            let answer = pod.get_local(names::ports::ADMIN, "/metrics").await?;
            anyhow::ensure!(answer.status.is_success(), "/metrics: {}", answer.status);
            Ok(answer.text())
        }
    }

    /// GETs from the sidecar's admin port, from inside the pod.
    #[track_caller]
    pub fn admin_get(
        &self,
        workload: &str,
        target: &str,
    ) -> impl Future<Output = anyhow::Result<Answer>> {
        let (pod, target) = (self.pod(workload), target.to_owned());
        async move { pod.get_local(names::ports::ADMIN, &target).await }
    }

    /// GETs from the control plane's admin port, as somebody who may look.
    pub async fn control_plane_get(&self, target: &str) -> anyhow::Result<Answer> {
        let token = self.shown_token()?;
        let pod = &self.control_plane_pod;
        pod.get_admin(target, token.as_deref()).await
    }

    /// All that a workload's sidecar wrote.
    #[track_caller]
    pub fn sidecar_log(&self, workload: &str) -> String {
        self.member(workload).logs("sidecar")
    }

    /// All that a workload's application wrote.
    #[track_caller]
    pub fn app_log(&self, workload: &str) -> String {
        self.member(workload).logs("app")
    }

    /// The ends of all logs.
    pub fn log_tails(&self) -> String {
        let tail = crate::process::log_tail(&self.control_plane_log(), TAIL_LINES);
        let mut text = format!("--- control plane\n{tail}\n");
        text.push_str(&self.replica_log_tails());
        for member in self.state.lock().members.values() {
            text.push_str(&member.log_tails());
        }
        text
    }

    pub(super) fn control_plane_log(&self) -> PathBuf {
        self.common.dir.join("logs").join("control-plane.log")
    }
}
