//! One endpoint of three fails: the circuit breaker keeps it out, tries it again, and takes it back.

use std::time::{Duration, Instant};

use weft_sandbox::Mesh;
use weft_sandbox::app::Behavior;
use weft_sandbox::load::{Load, Report, Running, Shot};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_accounted, client_and, metrics, open_breakers, policy, stats, wait_for,
    wait_for_open,
};

const APPS: [&str; 3] = ["api-1", "api-2", "api-3"];
/// The one that fails.
const SICK: &str = "api-2";
const THRESHOLD: u64 = 5;
const CLIENTS: u64 = 4;
const OPEN: Duration = Duration::from_secs(2);
/// Requests per second: every open period sees many.
const RATE: f64 = 200.0;
/// Requests that were on their way when the last failure was counted.
const DRAIN: Duration = Duration::from_millis(300);

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "breaker::idempotent_requests_see_no_error_after_the_trip",
        idempotent,
    );
    suite.add(
        "breaker::others_see_one_error_per_open_period",
        not_idempotent,
    );
    suite.add("breaker::the_last_endpoint_is_never_ejected", last_endpoint);
    suite.add(
        "breaker::an_ejected_endpoint_that_is_left_alone_serves",
        left_alone,
    );
}

/// "One endpoint of three returning 500, `openDuration: 2s`: after the trip idempotent requests see
/// no error, probes included; the endpoint serves again within two open periods after it heals."
///
/// That probes were made, and failed, is counted at the endpoint. The policy retries nothing that an
/// application answered, so that no error is hidden by anything but the breaker.
async fn idempotent(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and("idempotent", APPS).policy(&breaker(50)),
        async |mesh| {
            let load = sick(mesh, Shot::get("/")).await?;
            let errors = load.look(errors_of);
            assert!(
                (THRESHOLD..THRESHOLD + CLIENTS).contains(&errors),
                "{errors} errors until the trip at {THRESHOLD}"
            );

            mesh.app(SICK).reset_stats().await?;
            let open_for = cx.pick(Duration::from_secs(9), Duration::from_secs(30));
            tokio::time::sleep(open_for).await;
            let probes = mesh.app(SICK).stats().await?.requests;
            let periods = open_for.as_secs_f64() / OPEN.as_secs_f64();
            assert!(
                probes >= 1 && probes as f64 <= periods + 1.0,
                "{probes} probes in {periods} open periods"
            );

            let healed = heal(mesh, &load).await?;
            let report = load.stop().await;
            assert_accounted(&report);
            assert_eq!(
                report.not_ok(),
                errors_of(&report),
                "only the endpoint's own errors"
            );
            assert_eq!(errors_of(&report), errors, "errors after the trip");
            cx.measured(format!(
            "{errors} errors until the trip, none in {} requests and {probes} failed probes after \
             it; serves {healed:.2?} after it healed",
            report.sent
        ));
            Ok(())
        },
    )
    .await
}

/// "Non-idempotent at most one per open period", and an endpoint that gets only such requests serves
/// again within two open periods after it heals.
async fn not_idempotent(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("posts", APPS).policy(&breaker(50)), async |mesh| {
        let load = sick(mesh, Shot::post("/orders", 100)).await?;
        let until_trip = load.look(errors_of);
        let begin = Instant::now();
        tokio::time::sleep(cx.pick(Duration::from_secs(10), Duration::from_secs(30))).await;
        let periods = begin.elapsed().as_secs_f64() / OPEN.as_secs_f64();
        let errors = load.look(errors_of) - until_trip;
        assert!(
            errors as f64 <= periods.ceil(),
            "{errors} errors in {periods:.1} open periods"
        );
        let healed = heal(mesh, &load).await?;
        let report = load.stop().await;
        assert_accounted(&report);
        assert_eq!(report.not_ok(), errors_of(&report), "only the endpoint's own errors");
        let seen = stats(mesh, APPS).await?;
        assert_eq!(seen.repeated_ids(), 0, "a POST was repeated");
        assert_eq!(seen.requests, report.sent, "seen by the servers");
        assert_eq!(seen.statuses[&500], errors_of(&report), "errors as the servers count");
        cx.measured(format!(
            "{until_trip} errors until the trip, then {errors} in {periods:.1} open periods; serves \
             {healed:.2?} after it healed; {} requests",
            report.sent
        ));
        Ok(())
    })
    .await
}

/// "With one endpoint left it is never ejected": all three fail, and policy would let all be
/// ejected, or one; still every request is answered by an application.
async fn last_endpoint(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("last", APPS).named_policy("breaker", &breaker(100));
    cx.on(builder, async |mesh| {
        for app in APPS {
            mesh.app(app).behave(&Behavior::status(500)).await?;
        }
        for (percent, wanted) in [(100, 2), (50, 1)] {
            mesh.apply_policy("breaker", &breaker(percent))?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = stats(mesh, APPS).await?.requests;
            let load = Load::new(mesh.addr("api", PORT))
                .clients(CLIENTS as usize)
                .requests(1_000);
            let report = load.run(&mesh.pod("client")).await;
            assert_accounted(&report);
            assert_eq!(report.status(500), report.sent, "{:?}", report.outcomes);
            assert!(report.outcomes.is_empty(), "{:?}", report.outcomes);
            let seen = stats(mesh, APPS).await?.requests - before;
            // A failed probe is answered by one free try.
            assert!(seen >= report.sent, "{seen} seen of {}", report.sent);
            let open = open_breakers(mesh, "client").await?;
            assert_eq!(
                open, wanted,
                "ejected at {percent} % of three that all fail"
            );
            cx.measured(format!(
                "{} requests, all answered; {open} of 3 ejected at {percent} %",
                report.sent
            ));
        }
        Ok(())
    })
    .await
}

/// The same where the endpoint was ejected first and the others went away: it serves, as badly as it
/// does, instead of nobody.
async fn left_alone(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and("alone", APPS).policy(&breaker(50)),
        async |mesh| {
            let load = sick(mesh, Shot::get("/")).await?;
            mesh.set_endpoints("api", [SICK])?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = load.snapshot();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let report = load.stop().await;
            assert_accounted(&report);
            assert!(report.outcomes.is_empty(), "{:?}", report.outcomes);
            let seen = stats(mesh, APPS).await?;
            assert_eq!(seen.ids.len() as u64, report.sent, "ids that servers saw");
            let alone = report.answered - before.answered;
            assert!(alone as f64 > RATE / 2.0, "{alone} answers in a second");
            assert_eq!(errors_of(&report) - errors_of(&before), alone);
            cx.measured(format!(
                "{alone} requests, all answered by the ejected endpoint"
            ));
            Ok(())
        },
    )
    .await
}

fn breaker(max_ejection_percent: u32) -> String {
    policy(
        "breaker",
        "api",
        &format!(
            "circuitBreaker: {{scope: Endpoint, consecutiveFailures: {{threshold: {THRESHOLD}}}, \
             openDuration: 2s, maxOpenDuration: 2s, halfOpen: {{maxRequests: 1, successThreshold: 1}}, \
             maxEjectionPercent: {max_ejection_percent}}}"
        ),
    )
}

/// Starts a load on three endpoints of which one fails, and waits for the trip.
async fn sick(mesh: &Mesh, shot: Shot) -> anyhow::Result<Running> {
    mesh.app(SICK).behave(&Behavior::status(500)).await?;
    let load = Load::new(mesh.addr("api", PORT))
        .clients(CLIENTS as usize)
        .rate(RATE)
        .shot(shot)
        .start(&mesh.pod("client"));
    wait_for_open(mesh, "client", 1).await?;
    tokio::time::sleep(DRAIN).await;
    Ok(load)
}

/// Heals the endpoint and says when it served again; at most two open periods later.
async fn heal(mesh: &Mesh, load: &Running) -> anyhow::Result<Duration> {
    let served = |report: &Report| report.served_by.get(SICK).copied().unwrap_or(0);
    let well = |report: &Report| served(report) - errors_of(report);
    let before = load.look(well);
    mesh.app(SICK).behave(&Behavior::default()).await?;
    let begin = Instant::now();
    wait_for("the healed endpoint", Duration::from_secs(20), async || {
        Ok((load.look(well) > before).then_some(()))
    })
    .await?;
    let healed = begin.elapsed();
    assert!(healed <= 2 * OPEN, "serves only {healed:?} after it healed");
    wait_for("the closed breaker", OPEN, async || {
        let metrics = metrics(mesh, "client").await?;
        let closed = metrics.sum("weft_circuit_breaker_state", &[("state", "closed")]);
        Ok((closed as usize == APPS.len()).then_some(()))
    })
    .await?;
    Ok(healed)
}

/// Answers with the status that the sick endpoint gives, and nobody else.
fn errors_of(report: &Report) -> u64 {
    report.status(500)
}
