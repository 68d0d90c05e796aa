//! Prometheus in the sandbox: rules of production with shorter times, on a mesh that works and then does not.

use std::time::{Duration, Instant};

use weft_sandbox::AppSpec;
use weft_sandbox::app::Behavior;
use weft_sandbox::load::Load;
use weft_sandbox::programs::prometheus::{NEEDS, Settings};
use weft_sandbox::programs::rules::Scale;

use crate::Suite;
use crate::common::{CLIENT, Cx, SERVER, client_and_apps};
use crate::programs::Needs;

const PORT: u16 = 8080;
const INTERVAL: Duration = Duration::from_millis(500);
/// Minutes become seconds.
const FACTOR: u32 = 60;
/// What an alert may take: its minutes in seconds, some scrapes, a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const RULES: &str = r#"
groups:
  - name: recorded
    interval: 1m
    rules:
      - record: service:errors:share
        expr: >-
          sum by (workload) (rate(weft_requests_total{direction="inbound",status=~"5.."}[5m]))
          / sum by (workload) (rate(weft_requests_total{direction="inbound"}[5m]))
  - name: alerts
    rules:
      - alert: HighErrorRate
        expr: service:errors:share > 0.05
        for: 5m
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.workload }} fails"}
      - alert: SidecarGone
        expr: up{job="weft-sidecars"} == 0
        for: 1m
"#;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&NEEDS);
    suite.add("prometheus::alerts_within_seconds", needs, alerts);
}

/// No alert while everything is answered; the one of errors while a third is not, with its labels; none
/// afterwards, and another one once a sidecar is gone. A rule that is wrong is an error with its name.
async fn alerts(cx: Cx) -> anyhow::Result<()> {
    let mesh = client_and_apps("prometheus", [(PORT, AppSpec::http())]);
    cx.on(mesh, async |mesh| {
        let pod = mesh.stranger("prometheus")?;
        let rules = Scale::new(FACTOR, INTERVAL).rules(RULES)?;
        let prometheus = Settings::new(INTERVAL)
            .rules("guide", rules)
            .all_sidecars(mesh)
            .control_plane(mesh)
            .start(&pod, mesh.dir())
            .await?;
        let load = Load::new(mesh.addr(SERVER, PORT)).rate(40.0).clients(4);
        let load = load.start(&mesh.pod(CLIENT));
        prometheus.assert_rules_work(PATIENCE).await?;
        // Longer than the alert would take.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(prometheus.fired().await?.is_empty());
        let share = prometheus.value("sum(service:errors:share)").await?;
        assert_eq!(share.unwrap_or_default(), 0.0);

        let bad = Instant::now();
        let failing = Behavior {
            status_percent: 30.0,
            ..Behavior::status(500)
        };
        mesh.app(SERVER).behave(&failing).await?;
        prometheus.wait_firing(&["HighErrorRate"], PATIENCE).await?;
        let after = bad.elapsed();
        cx.measured(format!("the alert of 5 min fired after {after:.1?}"));
        assert!(after >= Duration::from_secs(5), "sooner than it may");
        let alert = prometheus.alerts().await?.remove(0);
        assert_eq!(alert.labels["workload"], "server");
        assert_eq!(alert.labels["severity"], "critical");
        assert_eq!(alert.annotations["summary"], "server fails");

        mesh.app(SERVER).behave(&Behavior::default()).await?;
        prometheus.wait_silent(PATIENCE).await?;
        let report = load.stop().await;
        assert!(report.answered > 0);
        mesh.kill_sidecar(SERVER).await?;
        prometheus.wait_firing(&["SidecarGone"], PATIENCE).await?;
        let fired: Vec<String> = prometheus.fired().await?.into_iter().collect();
        assert_eq!(fired, ["HighErrorRate", "SidecarGone"]);
        prometheus.set_sidecars(mesh, [CLIENT])?;
        prometheus.wait_silent(PATIENCE).await?;

        let pod = mesh.stranger("prometheus-of-nonsense")?;
        let wrong = RULES.replace("rate(", "great(");
        let refused = Settings::new(INTERVAL)
            .rules("guide", Scale::new(1, INTERVAL).rules(&wrong)?)
            .start(&pod, mesh.dir())
            .await;
        let why = format!("{:#}", refused.expect_err("it has no such function"));
        assert!(why.contains("great"), "{why}");
        Ok(())
    })
    .await
}
