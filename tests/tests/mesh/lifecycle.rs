//! Restarts and removals under load: no failed request.

use std::time::Duration;

use weft_sandbox::Mesh;
use weft_sandbox::app::Stats;
use weft_sandbox::load::{Load, Protocol, Report, Running, Shot};
use weft_tests::counts::last_stats;

use crate::Suite;
use crate::common::{Cx, PORT, add, assert_all_served_once, client_and, http_app, stats, wait_for};

/// Requests of each test; "2,000 mixed GET and POST".
const REQUESTS: u64 = 2_000;
/// The first is looked at, the others stay.
const APPS: [&str; 4] = ["api-1", "api-2", "api-3", "api-4"];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("lifecycle::the_app_ends_first_http1", |cx| {
        app_first(cx, Protocol::Http1)
    });
    suite.add("lifecycle::the_app_ends_first_http2", |cx| {
        app_first(cx, Protocol::Http2)
    });
    suite.add("lifecycle::the_sidecar_alone_restarts_http1", |cx| {
        sidecar_alone(cx, Protocol::Http1)
    });
    suite.add("lifecycle::the_sidecar_alone_restarts_http2", |cx| {
        sidecar_alone(cx, Protocol::Http2)
    });
    suite.add("lifecycle::the_app_stops_accepting_http1", |cx| {
        app_stops_accepting(cx, Protocol::Http1)
    });
    suite.add("lifecycle::the_app_stops_accepting_http2", |cx| {
        app_stops_accepting(cx, Protocol::Http2)
    });
    suite.add("lifecycle::nobody_announces_the_end_http1", |cx| {
        unannounced(cx, Protocol::Http1)
    });
    suite.add("lifecycle::nobody_announces_the_end_http2", |cx| {
        unannounced(cx, Protocol::Http2)
    });
    suite.add("lifecycle::a_rolling_update", rolling_update);
}

/// "2,000 mixed GET and POST in flight while (a) the app ends first and the sidecar after it (native
/// order)": a workload is removed as a rolling update does. No failed request, and the servers, the
/// one that ended too, saw each exactly once.
async fn app_first(cx: Cx, protocol: Protocol) -> anyhow::Result<()> {
    cx.on(client_and("native", APPS), async |mesh| {
        let load = start(mesh, &cx, protocol);
        in_flight(mesh, &cx).await?;
        let app = mesh.app_process("api-1")?;
        mesh.remove_workload("api-1").await?;
        let (report, reconnects) = finish(load).await;
        let mut seen = stats(mesh, ["api-2", "api-3", "api-4"]).await?;
        add(&mut seen, &last_stats(&app)?);
        assert_all_served_once(&report, &seen);
        say(&cx, &report, reconnects);
        Ok(())
    })
    .await
}

/// "(b) the sidecar alone restarts": SIGTERM, its end, and a new one, while the application stays and
/// the workload stays an endpoint throughout.
async fn sidecar_alone(cx: Cx, protocol: Protocol) -> anyhow::Result<()> {
    cx.on(client_and("restart", APPS), async |mesh| {
        let load = start(mesh, &cx, protocol);
        in_flight(mesh, &cx).await?;
        mesh.restart_sidecar("api-1").await?;
        let before = mesh.app("api-1").stats().await?.requests;
        let (report, reconnects) = finish(load).await;
        let seen = stats(mesh, APPS).await?;
        assert_all_served_once(&report, &seen);
        let after = mesh.app("api-1").stats().await?.requests;
        assert!(after > before, "the restarted sidecar gets nothing more");
        say(&cx, &report, reconnects);
        Ok(())
    })
    .await
}

/// "(c) the app alone stops accepting at once and finishes what is in flight": its sidecar refuses
/// what it cannot hand on, and the client's sidecar sends it elsewhere.
async fn app_stops_accepting(cx: Cx, protocol: Protocol) -> anyhow::Result<()> {
    cx.on(client_and("finish", APPS), async |mesh| {
        let load = start(mesh, &cx, protocol);
        in_flight(mesh, &cx).await?;
        mesh.app("api-1").finish().await?;
        let (report, reconnects) = finish(load).await;
        let seen = stats(mesh, APPS).await?;
        assert_all_served_once(&report, &seen);
        say(&cx, &report, reconnects);
        Ok(())
    })
    .await
}

/// (a) again, where the control plane says nothing, before or after: the workload stays an endpoint,
/// the application ends, and after it the sidecar.
async fn unannounced(cx: Cx, protocol: Protocol) -> anyhow::Result<()> {
    cx.on(client_and("silent-end", APPS), async |mesh| {
        let load = start(mesh, &cx, protocol);
        in_flight(mesh, &cx).await?;
        let app = mesh.app_process("api-1")?;
        mesh.stop_app("api-1").await?;
        mesh.stop_sidecar("api-1").await?;
        let (report, reconnects) = finish(load).await;
        let mut seen = stats(mesh, ["api-2", "api-3", "api-4"]).await?;
        add(&mut seen, &last_stats(&app)?);
        assert_all_served_once(&report, &seen);
        say(&cx, &report, reconnects);
        Ok(())
    })
    .await
}

/// Promise 5: "no failed request during a rolling update": workloads are replaced one after the other
/// (two of four; in the long form all), each new one before its old one goes.
async fn rolling_update(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("rolling", APPS), async |mesh| {
        let load = start(mesh, &cx, Protocol::Http1);
        in_flight(mesh, &cx).await?;
        let mut seen = Stats::default();
        let mut serving = APPS.map(str::to_owned);
        for number in 0..cx.pick(2, APPS.len()) {
            let new = format!("{}-new", APPS[number]);
            mesh.add_workload(http_app(&new)).await?;
            // The new one beside the old one, which then goes.
            let old = std::mem::replace(&mut serving[number], new);
            let both = serving.iter().chain([&old]).map(String::as_str);
            mesh.set_endpoints("api", both)?;
            let app = mesh.app_process(&old)?;
            mesh.remove_workload(&old).await?;
            add(&mut seen, &last_stats(&app)?);
        }
        let (report, reconnects) = finish(load).await;
        for app in &serving {
            add(&mut seen, &mesh.app(app).stats().await?);
        }
        assert_all_served_once(&report, &seen);
        say(&cx, &report, reconnects);
        Ok(())
    })
    .await
}

/// A mix of GETs and POSTs with bodies, each of which the application works on for a while. 2,000
/// requests, of which 200 are in flight at a time; in the long form 2,000 are in flight at a time.
fn start(mesh: &Mesh, cx: &Cx, protocol: Protocol) -> Running {
    let (work_ms, in_flight, requests) =
        cx.pick((400, 200, REQUESTS), (4_000, 2_000, 5 * REQUESTS));
    Load::new(mesh.addr("api", PORT))
        .protocol(protocol)
        .rate(f64::from(in_flight) * 1_000.0 / f64::from(work_ms))
        .clients(in_flight as usize)
        .requests(requests)
        .shot(Shot::get(&format!("/items?delay_ms={work_ms}")))
        .shot(Shot::post(&format!("/orders?delay_ms={work_ms}"), 300))
        .start(&mesh.pod("client"))
}

/// Waits until the load is well under way at both applications.
async fn in_flight(mesh: &Mesh, cx: &Cx) -> anyhow::Result<()> {
    let wanted = cx.pick(30, 400);
    wait_for("requests in flight", Duration::from_secs(20), async || {
        for app in APPS {
            let stats = mesh.app(app).stats().await?;
            if stats.in_flight < wanted {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn finish(load: Running) -> (Report, u64) {
    let report = load.ended().await;
    let reconnects = report.reconnects;
    (report, reconnects)
}

fn say(cx: &Cx, report: &Report, reconnects: u64) {
    cx.measured(format!(
        "{} requests, {} failed, {reconnects} reconnects, p99 {:.0?}",
        report.sent,
        report.not_ok(),
        report.latency(0.99)
    ));
}
