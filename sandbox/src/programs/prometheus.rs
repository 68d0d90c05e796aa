//! A real Prometheus in a pod, which scrapes what the chart's monitors would have it scrape, with their
//! labels, and evaluates rules.
//!
//! Sidecars are targets of a file that it watches: [`Prometheus::set_sidecars`] is how pods come and go.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use weft_proto::names::ports::ADMIN;

use super::{Server, command, until};
use crate::process::write_atomically;
use crate::{Mesh, Pod};

/// Where it listens, on its pod's loopback.
pub const PORT: u16 = 9090;
/// What it takes to start one.
pub const NEEDS: [&str; 1] = ["prometheus"];

/// The file that names the sidecars, in its directory.
const TARGETS: &str = "sidecars.json";
/// What the first scrape of every target may take.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(30);
/// How far back [`Prometheus::fired`] looks.
const HISTORY: &str = "1d";

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Settings {
    interval: Duration,
    rule_files: Vec<PathBuf>,
    rules: Vec<(String, String)>,
    sidecars: Vec<Value>,
    others: Vec<Value>,
}

impl Settings {
    /// Scrapes and evaluates once in an interval; has nothing to scrape yet.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            rule_files: Vec::new(),
            rules: Vec::new(),
            sidecars: Vec::new(),
            others: Vec::new(),
        }
    }

    /// One more file of rules, or files by a pattern such as `rules/*.yaml`.
    pub fn rule_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.rule_files.push(path.into());
        self
    }

    /// One more file of rules by its content, which [`super::rules::Scale`] may have made.
    pub fn rules(mut self, name: &str, content: impl Into<String>) -> Self {
        self.rules.push((name.to_owned(), content.into()));
        self
    }

    /// The sidecars of these workloads.
    pub fn sidecars<'a>(
        mut self,
        mesh: &Mesh,
        workloads: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        self.sidecars.extend(sidecars(mesh, workloads));
        self
    }

    /// The sidecars of all workloads that have one now.
    pub fn all_sidecars(self, mesh: &Mesh) -> Self {
        let workloads = with_sidecars(mesh);
        self.sidecars(mesh, workloads.iter().map(String::as_str))
    }

    /// The mesh's control plane.
    pub fn control_plane(self, mesh: &Mesh) -> Self {
        let address = format!("{}:{ADMIN}", mesh.control_plane_pod().v4());
        self.component("weft-control-plane", &address)
    }

    /// One more component of Weft, with its job and the address of its admin port.
    pub fn component(mut self, job: &str, address: &str) -> Self {
        self.others.push(json!({
            "job_name": job,
            "static_configs": [{
                "targets": [address],
                "labels": {"namespace": "weft", "pod": format!("{job}-0")},
            }],
        }));
        self
    }

    /// Starts it in the pod, with its data in the mesh's directory `dir`, and waits until every target was
    /// scraped.
    ///
    /// # Errors
    /// Where it refuses its rules or a target is not there: what it said.
    pub async fn start(self, pod: &Pod, dir: &Path) -> anyhow::Result<Prometheus> {
        let name = format!("prometheus-{}", pod.name());
        let home = dir.join(&name);
        fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let mut files = self.rule_files;
        for (name, content) in self.rules {
            let file = home.join(format!("{name}.rules.yaml"));
            fs::write(&file, content)?;
            files.push(file);
        }
        let targets = self.sidecars.len() + self.others.len();
        write_atomically(&home.join(TARGETS), Value::from(self.sidecars).to_string())?;
        let interval = format!("{}ms", self.interval.as_millis());
        let sidecars = json!({
            "job_name": "weft-sidecars",
            "file_sd_configs": [{"files": [home.join(TARGETS)]}],
            "metric_relabel_configs": [
                {"action": "labeldrop", "regex": "exported_namespace|exported_workload"}],
        });
        let scrapes: Vec<Value> = std::iter::once(sidecars).chain(self.others).collect();
        let config = home.join("prometheus.yml");
        // JSON is YAML.
        let content = json!({
            "global": {
                "scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval,
            },
            "rule_files": files,
            "scrape_configs": scrapes,
        });
        fs::write(&config, content.to_string())?;
        let listen = match pod.place() {
            None => format!("127.0.0.1:{PORT}"),
            Some(_) => format!("{}:{PORT}", pod.app_address()),
        };
        let place = home.clone();
        let make = move || {
            let mut prometheus = command("prometheus", &place);
            prometheus
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    place.join("data").display()
                ))
                .arg(format!("--web.listen-address={listen}"))
                .arg("--log.level=warn");
            prometheus
        };
        let server = Server::start(&name, pod, dir, PORT, make).await?;
        let this = Prometheus { server, home };
        this.scraped(targets).await?;
        Ok(this)
    }
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    server: Server,
    home: PathBuf,
}

/// An alert that is pending or fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// Whether it fires; otherwise it is pending.
    pub fires: bool,
    /// Its labels, those of its rule too.
    pub labels: Map<String, Value>,
    /// Its annotations, filled in.
    pub annotations: Map<String, Value>,
}

impl Prometheus {
    /// Its process, its log.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Scrapes the sidecars of these workloads from now on, and no others.
    pub fn set_sidecars<'a>(
        &self,
        mesh: &Mesh,
        workloads: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let targets = Value::from(sidecars(mesh, workloads));
        write_atomically(&self.home.join(TARGETS), targets.to_string())?;
        Ok(())
    }

    /// The series that an expression gives now; of a scalar its one value.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask("query", &[("query", expression)]).await?;
        let result = answer["result"].as_array();
        let is_scalar = answer["resultType"] == "scalar";
        match result {
            Some(_) if is_scalar => Ok(vec![answer["result"].clone()]),
            Some(series) => Ok(series.clone()),
            None => anyhow::bail!("{expression}: {answer}"),
        }
    }

    /// The sum of what an expression gives now; `None` where that is nothing. What is no number, such as
    /// 0/0, is not added.
    pub async fn value(&self, expression: &str) -> anyhow::Result<Option<f64>> {
        let series = self.query(expression).await?;
        let values: Vec<f64> = series
            .iter()
            .filter_map(|one| one.pointer("/value/1").or_else(|| one.get(1))?.as_str())
            .filter_map(|text| text.parse().ok())
            .filter(|value: &f64| !value.is_nan())
            .collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// The label sets of the series that a selector finds.
    pub async fn series(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask("series", &[("match[]", selector)]).await?;
        Ok(answer.as_array().cloned().unwrap_or_default())
    }

    /// Names of the labels that the series of a metric have.
    pub async fn labels(&self, metric: &str) -> anyhow::Result<BTreeSet<String>> {
        let series = self.series(metric).await?;
        let objects = series.iter().filter_map(Value::as_object);
        Ok(objects.flat_map(|it| it.keys().cloned()).collect())
    }

    /// Every rule that it has, as it says it.
    pub async fn rules(&self) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask("rules", &[]).await?;
        let groups = answer["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    /// The alerts that are pending or fire now.
    pub async fn alerts(&self) -> anyhow::Result<Vec<Alert>> {
        let answer = self.ask("alerts", &[]).await?;
        let alerts = answer["alerts"].as_array().cloned().unwrap_or_default();
        let map = |of: &Value, name: &str| of[name].as_object().cloned().unwrap_or_default();
        Ok(alerts
            .iter()
            .map(|alert| Alert {
                name: text(&alert["labels"]["alertname"]),
                fires: alert["state"] == "firing",
                labels: map(alert, "labels"),
                annotations: map(alert, "annotations"),
            })
            .collect())
    }

    /// Names of the alerts that fire now.
    pub async fn firing(&self) -> anyhow::Result<BTreeSet<String>> {
        let alerts = self.alerts().await?.into_iter();
        Ok(alerts
            .filter(|alert| alert.fires)
            .map(|alert| alert.name)
            .collect())
    }

    /// Names of the alerts that have fired since its start, whether they still do or not.
    pub async fn fired(&self) -> anyhow::Result<BTreeSet<String>> {
        let expression = format!(
            "count by (alertname) (count_over_time(ALERTS{{alertstate=\"firing\"}}[{HISTORY}]))"
        );
        let series = self.query(&expression).await?;
        Ok(series
            .iter()
            .map(|one| text(&one["metric"]["alertname"]))
            .collect())
    }

    /// Waits until all of these alerts fire at once.
    ///
    /// # Errors
    /// Where they do not in time: what does.
    pub async fn wait_firing(&self, names: &[&str], patience: Duration) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        let waited = until("alerts that fire", patience, async || {
            seen = self.alerts().await?;
            let fires = |name: &&str| seen.iter().any(|alert| alert.fires && alert.name == *name);
            Ok(names.iter().all(fires).then_some(()))
        });
        let waited = waited.await;
        waited.with_context(|| format!("{names:?} wanted, there are {seen:?}"))
    }

    /// Waits until no alert fires.
    ///
    /// # Errors
    /// Where one still does: which.
    pub async fn wait_silent(&self, patience: Duration) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        let waited = until("no alert that fires", patience, async || {
            seen = self.firing().await?;
            Ok(seen.is_empty().then_some(()))
        });
        let waited = waited.await;
        waited.with_context(|| format!("{seen:?} fire"))
    }

    /// Every rule was evaluated.
    ///
    /// # Errors
    /// Rules that it cannot evaluate, and why.
    pub async fn assert_rules_work(&self, patience: Duration) -> anyhow::Result<()> {
        let rules = until("evaluated rules", patience, async || {
            let rules = self.rules().await?;
            let is_done = rules.iter().all(|rule| rule["health"] != "unknown");
            Ok(is_done.then_some(rules))
        });
        for rule in rules.await? {
            anyhow::ensure!(
                rule["health"] == "ok",
                "{}: {}",
                text(&rule["name"]),
                text(&rule["lastError"])
            );
        }
        Ok(())
    }

    async fn scraped(&self, targets: usize) -> anyhow::Result<()> {
        let waited = until("scraped targets", SCRAPE_PATIENCE, async || {
            // It listens before it answers.
            let Ok(up) = self.query("up == 1").await else {
                return Ok(None);
            };
            Ok((up.len() == targets).then_some(()))
        });
        let waited = waited.await;
        waited.with_context(|| crate::process::log_tail(self.server.log_file(), 20))
    }

    async fn ask(&self, what: &str, arguments: &[(&str, &str)]) -> anyhow::Result<Value> {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        let target = format!("/api/v1/{what}?{}", arguments.join("&"));
        let answer = self.server.pod().get_local(PORT, &target).await?;
        let said = answer.text();
        let body: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        anyhow::ensure!(
            body["status"] == "success" && body["warnings"].is_null(),
            "{arguments:?}: {said}"
        );
        Ok(body["data"].clone())
    }
}

/// Targets with the labels that the chart's monitor of pods gives them.
fn sidecars<'a>(mesh: &Mesh, workloads: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let workloads = workloads.into_iter();
    workloads
        .map(|workload| {
            let (namespace, pod) = match workload.split_once('/') {
                Some((namespace, pod)) => (namespace, pod),
                None => (mesh.namespace(), workload),
            };
            json!({
                "targets": [format!("{}:{ADMIN}", mesh.pod(workload).v4())],
                "labels": {"namespace": namespace, "pod": pod, "workload": owner(pod)},
            })
        })
        .collect()
}

/// Those that have a sidecar now, as `namespace/name`.
fn with_sidecars(mesh: &Mesh) -> Vec<String> {
    let mut workloads = mesh.workloads();
    workloads.retain(|workload| mesh.sidecar(workload).is_ok());
    workloads
}

/// What owns a pod: its name without the number behind it, as in `app-1`.
fn owner(pod: &str) -> &str {
    match pod.rsplit_once('-') {
        Some((owner, number)) if number.chars().all(|c| c.is_ascii_digit()) => owner,
        _ => pod,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Percent-encoded, as a part of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
