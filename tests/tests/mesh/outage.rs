//! The control plane is away: what is known goes on, what is not known is not guessed.

use std::time::{Duration, Instant};

use weft_sandbox::Mesh;
use weft_sandbox::load::{Load, Shot};
use weft_sandbox::mesh::Builder;

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, assert_no_failure, client_and, http_app, metrics, policy,
    service, stats, wait_for,
};

/// "A cold destination gets `config_unavailable` after at most 5 s"; the rest is the machine's.
const COLD_BOUND: Duration = Duration::from_millis(5_500);
/// How soon after the control plane's return updates must flow.
const RECOVERY: Duration = Duration::from_secs(15);

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "outage::traffic_goes_on_and_updates_flow_afterwards",
        traffic,
    );
    suite.add("outage::a_cold_destination_is_refused_in_time", cold);
}

/// "Control plane killed for 30 s under load: no failed request, `weft_config_age_seconds` shows it,
/// updates flow when it is back." The 30 s are the long form's; the quick one's are 6.
async fn traffic(cx: Cx) -> anyhow::Result<()> {
    cx.on(two_services("outage"), async |mesh| {
        let load = Load::new(mesh.addr("api", PORT))
            .clients(8)
            .rate(cx.pick(300.0, 200.0))
            .shot(Shot::get("/"))
            .shot(Shot::post("/orders", 100))
            .start(&mesh.pod("client"));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(config_age(mesh).await? < 1.0);

        let outage = cx.pick(Duration::from_secs(6), Duration::from_secs(30));
        mesh.kill_control_plane().await?;
        tokio::time::sleep(outage).await;
        let age = config_age(mesh).await?;
        let bounds = outage.as_secs_f64() - 2.0..outage.as_secs_f64() + 3.0;
        assert!(bounds.contains(&age), "age {age} s after {outage:?}");
        // The rest of the mesh too: the inbound side and a new client connection.
        let answer = mesh.pod("client").get(mesh.addr("api", PORT), "/fresh").await?;
        assert_eq!(answer.status, 200);

        mesh.apply_policy("api", &policy("api", "api", MOVED))?;
        mesh.start_control_plane().await?;
        let begin = Instant::now();
        wait_for("the update", RECOVERY, async || {
            let moved = load.look(|report| report.served_by.contains_key("other-1"));
            Ok(moved.then_some(()))
        })
        .await?;
        let recovered = begin.elapsed();
        wait_for("a config age of 0", RECOVERY, async || {
            Ok((config_age(mesh).await? < 1.0).then_some(()))
        })
        .await?;
        let report = load.stop().await;
        cx.measured(format!(
            "{} requests, {} failed; age {age:.1} s after {outage:?}; updates {recovered:.1?} after \
             the return",
            report.sent,
            report.not_ok()
        ));
        let mut seen = stats(mesh, ["api-1", "other-1"]).await?;
        // The one request above was none of the load's.
        seen.requests -= 1;
        assert_all_served_once(&report, &seen);
        Ok(())
    })
    .await
}

/// "A cold destination during the outage gets `config_unavailable` after at most 5 s", and works when
/// the control plane is back.
async fn cold(cx: Cx) -> anyhow::Result<()> {
    cx.on(two_services("cold"), async |mesh| {
        let client = mesh.pod("client");
        let report = Load::new(mesh.addr("api", PORT))
            .requests(10)
            .run(&client)
            .await;
        assert_no_failure(&report);
        mesh.kill_control_plane().await?;

        let begin = Instant::now();
        let answer = client.get(mesh.addr("other", PORT), "/").await?;
        let took = begin.elapsed();
        cx.measured(format!("{:?} after {took:.2?}", answer.outcome()));
        assert_eq!(answer.status, 503);
        assert_eq!(answer.outcome(), Some("config_unavailable"));
        assert!(took <= COLD_BOUND, "the answer took {took:?}");
        assert_eq!(stats(mesh, ["other-1"]).await?.requests, 0);

        // What was warm stays so.
        assert_eq!(client.get(mesh.addr("api", PORT), "/").await?.status, 200);
        mesh.start_control_plane().await?;
        wait_for("the cold destination", RECOVERY, async || {
            let answer = client.get(mesh.addr("other", PORT), "/").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await
    })
    .await
}

const MOVED: &str = "split: {backends: [{name: api, weight: 0}, {name: other, weight: 1}]}";

/// A client and two services, of which only one will be called before the outage.
fn two_services(name: &str) -> Builder {
    client_and(name, ["api-1"])
        .workload(http_app("other-1"))
        .service(service("other", ["other-1"]))
}

async fn config_age(mesh: &Mesh) -> anyhow::Result<f64> {
    let metrics = metrics(mesh, "client").await?;
    anyhow::ensure!(
        metrics.value("weft_config_age_seconds", &[]).is_some(),
        "no weft_config_age_seconds"
    );
    Ok(metrics.sum("weft_config_age_seconds", &[]))
}
