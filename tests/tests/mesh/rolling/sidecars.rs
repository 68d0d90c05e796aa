//! Sidecars and the control plane restart, applications stay.

use std::time::Duration;

use weft_sandbox::Mesh;
use weft_sandbox::app::Stats;
use weft_tests::counts::last_stats;

use super::traffic::{Traffic, patient};
use crate::common::{Cx, add, client_and, http_app, stats, wait_for};

const APPS: [&str; 3] = ["api-1", "api-2", "api-3"];
/// Between one restart and the next.
const PAUSE: Duration = Duration::from_millis(500);
/// What a restart of one sidecar takes at most, and of the control plane with what changes meanwhile.
const ONE_RESTART: Duration = Duration::from_secs(4);
/// How long clients wait for a sidecar that is away. Its restart takes a second or two; the rest is the
/// machine's.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// How long the control plane stays away.
const AWAY: Duration = Duration::from_secs(2);
/// How soon a change must arrive where the control plane is back.
const ARRIVES: Duration = Duration::from_secs(15);

/// The sidecars of the servers restart one after the other, and each workload stays an endpoint.
pub(super) async fn of_servers(cx: Cx) -> anyhow::Result<()> {
    cx.on(patient(client_and("sidecars", APPS)), async |mesh| {
        let traffic = Traffic::start(&cx, mesh, &APPS, &[], Duration::ZERO).await?;
        let mut restarts = 0;
        while restarts < APPS.len() || traffic.has_time_for(ONE_RESTART) {
            mesh.restart_sidecar(APPS[restarts % APPS.len()]).await?;
            restarts += 1;
            tokio::time::sleep(PAUSE).await;
        }
        let outcome = traffic.end().await;
        let seen = stats(mesh, APPS).await?;
        outcome.say(&cx);
        cx.measured(format!("{restarts} restarts"));
        outcome.assert_nothing_lost(&seen);
        for app in APPS {
            let requests = mesh.app(app).stats().await?.requests;
            assert!(requests > 0, "{app} got nothing");
        }
        Ok(())
    })
    .await
}

/// The client's own sidecar restarts. Its connections are closed in order (`Connection: close`, GOAWAY,
/// or at rest); until the new one listens, new connections are refused and the client waits. No request
/// is lost or sent twice.
pub(super) async fn of_the_client(cx: Cx) -> anyhow::Result<()> {
    cx.on(patient(client_and("own-sidecar", APPS)), async |mesh| {
        let traffic = Traffic::start(&cx, mesh, &APPS, &[], CONNECT_PATIENCE).await?;
        let mut restarts = 0;
        tokio::time::sleep(PAUSE).await;
        while restarts < 2 || traffic.has_time_for(ONE_RESTART) {
            mesh.restart_sidecar("client").await?;
            restarts += 1;
            tokio::time::sleep(PAUSE).await;
        }
        let outcome = traffic.end().await;
        let seen = stats(mesh, APPS).await?;
        outcome.say(&cx);
        cx.measured(format!("{restarts} restarts"));
        outcome.assert_nothing_lost(&seen);
        assert!(outcome.refused() > 0, "the sidecar was never away");
        Ok(())
    })
    .await
}

/// The control plane ends, is killed, and stays away for a while each time. Servers change meanwhile
/// and afterwards; one goes without that anybody is told.
pub(super) async fn control_plane(cx: Cx) -> anyhow::Result<()> {
    // Two more stand by, and serve later.
    let builder = client_and("no-control", APPS)
        .workload(http_app("api-4"))
        .workload(http_app("api-5"));
    cx.on(patient(builder), async |mesh| {
        let traffic = Traffic::start(&cx, mesh, &APPS, &[], Duration::ZERO).await?;
        tokio::time::sleep(PAUSE).await;

        mesh.stop_control_plane().await?;
        tokio::time::sleep(AWAY).await;
        mesh.set_endpoints("api", ["api-2", "api-3", "api-4"])?;
        mesh.start_control_plane().await?;
        wait_for_answers_of(&traffic, "api-4").await?;

        mesh.kill_control_plane().await?;
        let app = mesh.app_process("api-2")?;
        // Ends while nobody tells: it is taken out of a file that nobody reads.
        mesh.remove_workload("api-2").await?;
        let mut seen: Stats = last_stats(&app)?;
        tokio::time::sleep(AWAY).await;
        mesh.start_control_plane().await?;

        mesh.set_endpoints("api", ["api-3", "api-4", "api-5"])?;
        wait_for_answers_of(&traffic, "api-5").await?;
        let unasked = requests(mesh, "api-1").await?;
        let outcome = traffic.end().await;
        outcome.say(&cx);
        add(
            &mut seen,
            &stats(mesh, ["api-1", "api-3", "api-4", "api-5"]).await?,
        );
        outcome.assert_nothing_lost(&seen);
        assert!(unasked > 0, "api-1 never served");
        assert_eq!(
            requests(mesh, "api-1").await?,
            unasked,
            "served on when it was out"
        );
        Ok(())
    })
    .await
}

async fn requests(mesh: &Mesh, app: &str) -> anyhow::Result<u64> {
    Ok(mesh.app(app).stats().await?.requests)
}

/// Waits until a server has answered every load.
async fn wait_for_answers_of(traffic: &Traffic, server: &str) -> anyhow::Result<()> {
    wait_for(server, ARRIVES, async || {
        let answered = traffic.look(|report| report.served_by.contains_key(server));
        Ok(answered.iter().all(|it| *it).then_some(()))
    })
    .await
}
