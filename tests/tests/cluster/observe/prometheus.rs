//! A real Prometheus in a pod of its own, which scrapes what the chart's monitors would have it scrape, with
//! their labels, and has the chart's rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use form_urlencoded::Serializer;
use serde_json::{Value, json};
use weft_proto::names::ports::ADMIN;
use weft_sandbox::process::Process;
use weft_sandbox::{Mesh, Pod};
use weft_tests::counts::wait_for;

use super::scene::{NAMESPACE, WORKLOADS};

/// Where it listens, on its pod's loopback.
const PORT: u16 = 9090;
/// Where the injector's admin port is, on the same loopback.
pub(super) const INJECTOR_PORT: u16 = 15191;
/// How often it scrapes and evaluates.
const INTERVAL: &str = "1s";
/// What it may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Labels that whoever scrapes adds.
pub(super) const TARGET_LABELS: [&str; 5] = ["namespace", "pod", "workload", "job", "instance"];

/// The chart's folder.
pub(super) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft")
}

/// A running Prometheus.
pub(super) struct Prometheus {
    pod: Pod,
    process: Process,
}

impl Prometheus {
    /// Starts it in `pod`, and waits until every target was scraped.
    pub(super) async fn start(mesh: &Mesh, pod: Pod) -> anyhow::Result<Self> {
        let home = mesh.dir().join("prometheus");
        fs::create_dir_all(&home)?;
        let config = home.join("prometheus.yml");
        fs::write(&config, configuration(mesh).to_string())?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                home.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .arg("--log.level=warn")
            .current_dir(&home);
        let log = mesh.dir().join("logs/prometheus.log");
        let process = pod.start("prometheus", command, &log)?;
        let this = Self { pod, process };
        let targets = WORKLOADS.len() + 2;
        wait_for("scraped targets", START_PATIENCE, async || {
            if let Some(status) = this.process.ended()? {
                anyhow::bail!(
                    "prometheus ended with {status}: {}",
                    this.process.log_tail(20)
                );
            }
            let Ok(up) = this.query("up == 1").await else {
                return Ok(None);
            };
            Ok((up.len() == targets).then_some(()))
        })
        .await?;
        Ok(this)
    }

    /// The series that an expression gives now.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub(super) async fn query(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask("query", &[("query", expression)]).await?;
        let result = answer["result"].as_array();
        // A scalar is one value.
        let scalar = answer["resultType"] == "scalar";
        match result {
            Some(_) if scalar => Ok(vec![answer["result"].clone()]),
            Some(series) => Ok(series.clone()),
            None => anyhow::bail!("{expression}: {answer}"),
        }
    }

    /// The label sets of the series that a selector finds.
    pub(super) async fn series(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask("series", &[("match[]", selector)]).await?;
        Ok(answer.as_array().cloned().unwrap_or_default())
    }

    /// Names of the labels that the series of a metric have.
    pub(super) async fn labels(&self, metric: &str) -> anyhow::Result<BTreeSet<String>> {
        let series = self.series(metric).await?;
        let objects = series.iter().filter_map(Value::as_object);
        Ok(objects.flat_map(|it| it.keys().cloned()).collect())
    }

    /// Every rule that it has, as it says it.
    pub(super) async fn rules(&self) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask("rules", &[]).await?;
        let groups = answer["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    async fn ask(&self, what: &str, arguments: &[(&str, &str)]) -> anyhow::Result<Value> {
        let query = Serializer::new(String::new())
            .extend_pairs(arguments)
            .finish();
        let answer = self
            .pod
            .get_local(PORT, &format!("/api/v1/{what}?{query}"))
            .await?;
        let text = answer.text();
        let body: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        anyhow::ensure!(
            body["status"] == "success" && body["warnings"].is_null(),
            "{arguments:?}: {text}"
        );
        Ok(body["data"].clone())
    }
}

/// JSON is YAML. Targets have the labels that the chart's monitors give them.
fn configuration(mesh: &Mesh) -> Value {
    let sidecars: Vec<Value> = WORKLOADS
        .iter()
        .map(|pod| {
            let workload = pod.rsplit_once('-').map_or(*pod, |(owner, _)| owner);
            json!({
                "targets": [format!("{}:{ADMIN}", mesh.pod(pod).v4())],
                "labels": {"namespace": NAMESPACE, "pod": pod, "workload": workload},
            })
        })
        .collect();
    let own = |address: String, pod: &str| {
        json!([{
            "targets": [address],
            "labels": {"namespace": "weft", "pod": pod},
        }])
    };
    let control_plane = format!("{}:{ADMIN}", mesh.control_plane_pod().v4());
    let injector = format!("127.0.0.1:{INJECTOR_PORT}");
    json!({
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [chart().join("rules/*.yaml")],
        "scrape_configs": [
            {"job_name": "weft-sidecars", "static_configs": sidecars, "metric_relabel_configs": [
                {"action": "labeldrop", "regex": "exported_namespace|exported_workload"}]},
            {"job_name": "weft-control-plane", "static_configs": own(control_plane, "weft-control-plane-0")},
            {"job_name": "weft-injector", "static_configs": own(injector, "weft-injector-0")},
        ],
    })
}
