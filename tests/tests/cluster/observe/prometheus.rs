//! A real Prometheus that scrapes what the chart's monitors would have it scrape, and has the chart's rules.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_sandbox::programs::prometheus::{Prometheus, Settings};
use weft_sandbox::{Mesh, Pod};

use super::scene::WORKLOADS;

/// Where the injector's admin port is, on the loopback of Prometheus.
pub(super) const INJECTOR_PORT: u16 = 15191;
/// How often it scrapes and evaluates.
const INTERVAL: Duration = Duration::from_secs(1);
/// Labels that whoever scrapes adds.
pub(super) const TARGET_LABELS: [&str; 5] = ["namespace", "pod", "workload", "job", "instance"];

/// The chart's folder.
pub(super) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft")
}

/// Starts it in `pod`, and waits until every target was scraped.
pub(super) async fn start(mesh: &Mesh, pod: &Pod) -> anyhow::Result<Prometheus> {
    Settings::new(INTERVAL)
        .rule_file(chart().join("rules/*.yaml"))
        .sidecars(mesh, WORKLOADS)
        .control_plane(mesh)
        .component("weft-injector", &format!("127.0.0.1:{INJECTOR_PORT}"))
        .start(pod, mesh.dir())
        .await
}
